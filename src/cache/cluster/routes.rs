//! To which node a shard sends a key first. Pure.

use super::slot::{SlotSet, slot_of};
use crate::cache::place::HostPort;

/// Where a shard deletes keys first.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Slots of each node, by the index of its place.
    pub(super) owned: Vec<SlotSet>,
    /// Slots that come to the shard's own node.
    pub(super) coming: Option<(SlotSet, usize)>,
    pub(super) endpoints: Vec<HostPort>,
}

impl Routes {
    /// At the shard's own node, with ASKING, when the slot comes to it; else at the owner. `None` while the slot has none.
    pub(super) fn of(&self, key: &[u8]) -> Option<(usize, bool)> {
        let slot = slot_of(key);
        match &self.coming {
            Some((coming, own)) if coming.has(slot) => Some((*own, true)),
            _ => self.owned.iter().position(|owned| owned.has(slot)).map(|owner| (owner, false)),
        }
    }
}
