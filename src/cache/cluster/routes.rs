//! To which node a shard sends a key first. Pure.

use super::slot::{SlotSet, slot_of};
use super::view::{Map, NodeId};
use crate::cache::place::HostPort;

/// Where a shard deletes keys first.
#[derive(Debug, Default)]
pub struct Routes {
    /// Slots of each node, by the index of its place.
    owned: Vec<SlotSet>,
    /// Slots that come to the shard's own node.
    coming: Option<(SlotSet, usize)>,
    /// The places.
    pub endpoints: Vec<HostPort>,
}

impl Routes {
    /// By this map, for the shard of the node `own`.
    pub fn new(map: &Map, own: Option<&NodeId>) -> Self {
        let mut routes = Routes::default();
        for (id, primary) in &map.primaries {
            let Some(endpoint) = &primary.endpoint else { continue };
            if own == Some(id) && !primary.coming.is_empty() {
                routes.coming = Some((primary.coming.clone(), routes.endpoints.len()));
            }
            routes.owned.push(primary.owned.clone());
            routes.endpoints.push(endpoint.clone());
        }
        routes
    }

    /// At the shard's own node, with ASKING, when the slot comes to it; else at the owner. `None` while the slot has none.
    pub fn of(&self, key: &[u8]) -> Option<(usize, bool)> {
        let slot = slot_of(key);
        match &self.coming {
            Some((coming, own)) if coming.has(slot) => Some((*own, true)),
            _ => self.owned.iter().position(|owned| owned.has(slot)).map(|owner| (owner, false)),
        }
    }
}
