//! Flushes where each command costs money: when one may leave, and what rides with the mark.
//!
//! The pace is that of [`Meter`]. What waits for its turn is one load, however much that is, and echoes that fall due
//! meanwhile go along. With the mark, which is due with each heartbeat, goes what is to be deleted at that moment: in its
//! own transaction, which deletes once more what was deleted since the last mark, in the same command.

use tokio::time::Instant;

use super::{Target, Turn};
use crate::cache::{Cache, Deleted};
use crate::control::Control;
use crate::keys::KeySet;
use crate::target::echo::{Delivery, bytes_of};
use crate::target::flight::Landed;
use crate::target::meter::Metered;

/// What may ride with a mark, in bytes: more flies by itself.
const RIDING_BYTES_MAX: usize = 256 * 1024;

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Reads the bill.
    pub(super) fn read_bill(&mut self, now: Instant) {
        if let Some(metered) = &mut self.metered {
            metered.read(self.cache.billed(), now);
        }
    }

    /// When a flush may leave; at once where there is no answer.
    pub(super) fn pace_due(&self) -> Option<Instant> {
        self.metered.as_ref().and_then(Metered::due)
    }

    /// Whether a flush may leave now. A daemon that stops waits for nothing.
    pub(super) fn may_leave<P>(&self, turn: &Turn<'_, P>) -> bool {
        turn.draining || self.pace_due().is_none_or(|due| due <= turn.now)
    }

    /// A flush leaves.
    pub(super) fn leaves(&mut self, now: Instant) {
        if let Some(metered) = &mut self.metered {
            metered.leaves(now);
        }
    }

    /// When something is to be deleted, as far as is known.
    pub(super) fn flight_due<P>(&self, turn: &Turn<'_, P>) -> Option<Instant> {
        if !self.may_fly() || turn.draining {
            return None;
        }
        let waits = self.metered.is_some() && (self.inbox.is_some() || !self.again.is_empty());
        let echo = self.echoes.due().filter(|_| !self.behind.holds_echoes);
        let due = if waits { Some(turn.now) } else { echo };
        due.map(|due| self.pace_due().map_or(due, |pace| pace.max(due)))
    }

    /// What goes with the mark that is written now.
    pub(super) fn take_riders(&mut self, now: Instant) -> Vec<Delivery> {
        let is_small = bytes_of(&self.inbox) + bytes_of(&self.again) <= RIDING_BYTES_MAX;
        // Whether a key existed is told by a flight alone.
        let has_pages = self.inbox.as_ref().is_some_and(|waiting| !waiting.load.warms.is_empty());
        if self.metered.is_none() || !self.may_fly() || !is_small || has_pages {
            return Vec::new();
        }
        let riders = self.take_deliveries(now, RIDING_BYTES_MAX);
        if !riders.is_empty() {
            self.leaves(now);
        }
        riders
    }

    /// The mark is there, and its transaction deleted the keys of these: the next one need not carry them.
    fn rode(&mut self, riders: Vec<Delivery>) {
        if riders.is_empty() {
            return;
        }
        // How many of them existed is not told apart from what the mark carried.
        let sent = riders.iter().map(|rider| rider.load.keys.len() as u64).sum();
        let deleted = Deleted { sent, existed: 0 };
        self.arrived(Landed { deliveries: riders, deleted, existed: KeySet::default() });
    }

    /// What became of what rode with a mark, and of what that carried.
    pub(super) fn carried(&mut self, is_written: bool, riders: Vec<Delivery>) {
        if is_written {
            self.unmarked.marked();
            self.rode(riders);
        } else {
            self.unmarked.not_marked();
            if let Some(metered) = self.metered.as_mut().filter(|_| !riders.is_empty()) {
                metered.takes_back();
            }
            self.again.extend(riders);
        }
    }
}
