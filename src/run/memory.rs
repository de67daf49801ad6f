//! The memory bound: what all key sets of the loop hold together, and who gives way when that is too much.
//!
//! Only intake adds keys; everything behind it moves them: from open transactions to the batch, to a target's inbox, to a
//! flight, to a sweep, to the echoes. So one sum over all of them is the bound. Two ways keep it: the sets that are still
//! to be sent (open transactions, inboxes, echoes) collapse into their families, largest first; the sets on their way
//! cannot, so when those of every target come near the bound no more events are taken, and WAL waits in the slot. A
//! target that is away while another works holds an inbox, which collapses: it stops nobody.

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::feed::Room;
use crate::insist::Company;
use crate::source::Source;
use crate::target::Target;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Gives each target its share of the memory, and the batch what fits into each of them: at the start, when caches
    /// change, and when a part of one comes.
    pub(super) fn share_out(&mut self) {
        let share = self.settings.memory_bytes_max / self.targets.len().max(1);
        let mut caches = self.targets.iter().filter(|target| !target.is_sink()).map(Target::label);
        let first = caches.next();
        // The parts of one cache have its name. What a sink refuses stops no cache.
        let company = match caches.all(|name| Some(name) == first) {
            true => Company::Alone,
            false => Company::AmongOthers,
        };
        for target in &mut self.targets {
            target.share(share, if target.is_sink() { Company::AmongOthers } else { company });
        }
        self.feed.bound_batch(share / 8);
    }

    /// What keys may take. The rest of the bound is for the program itself, its buffers, packed commands, and what a
    /// set needs for a moment while its table grows.
    fn keys_bytes_max(&self) -> usize {
        self.settings.memory_bytes_max / 8 * 5
    }

    /// All keys.
    pub(super) fn bytes_used(&self) -> usize {
        self.feed.intake_bytes() + self.bytes_behind_intake()
    }

    fn bytes_behind_intake(&self) -> usize {
        let targets = self.targets.iter().map(|target| target.bytes_leaving() + target.bytes_waiting());
        self.feed.bytes_leaving() + targets.sum::<usize>()
    }

    /// What is on its way behind the feed.
    pub(super) fn room(&self) -> Room {
        let keys_bytes_max = self.keys_bytes_max();
        let leaving = self.targets.iter().map(Target::bytes_leaving);
        let (leaving_least, leaving) = (leaving.clone().min().unwrap_or(0), leaving.sum());
        Room { keys_bytes_max, leaving_least, leaving }
    }

    /// What intake may hold, now that everything else holds what it does.
    pub(super) fn intake_bytes_max(&self) -> usize {
        self.keys_bytes_max().saturating_sub(self.bytes_behind_intake())
    }

    /// Collapses what can collapse, largest first, until all keys together are within the bound.
    pub(super) fn give_way(&mut self) {
        while self.feed.intake_bytes() > self.intake_bytes_max() {
            let intake = self.feed.largest();
            let freed = match self.targets.iter_mut().max_by_key(|target| target.largest()) {
                Some(target) if target.largest() > intake => target.collapse_largest(),
                Some(_) | None => self.feed.collapse_largest(),
            };
            if freed == 0 {
                return; // One pattern for each family is the least there can be.
            }
        }
    }
}
