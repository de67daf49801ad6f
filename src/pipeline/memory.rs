//! The memory bound: what all key sets of the loop hold together, and who gives way when that is too much.
//!
//! Only intake adds keys; everything behind it moves them: from open transactions to the batch, to a flight, to a
//! sweep, to the echoes. So one sum over all of them is the bound, and no state needs a share of its own. Two ways keep
//! it: the sets that are still to be sent (open transactions, echoes) collapse into their families, largest first; the
//! sets on their way cannot, so when those alone come near the bound no more events are taken, and WAL waits in the slot.

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::echo::Delivery;
use crate::source::Source;

/// Bytes of all deliveries.
pub(super) fn bytes_of<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> usize {
    deliveries.into_iter().map(|delivery| delivery.load.bytes_used()).sum()
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// What keys may take. The rest of the bound is for the program itself, its buffers, packed commands, and what a
    /// set needs for a moment while its table grows.
    pub(super) fn keys_bytes_max(&self) -> usize {
        self.settings.memory_bytes_max / 8 * 5
    }

    /// What is on its way and cannot collapse.
    fn bytes_leaving(&self) -> usize {
        let owed = self.repairs.owed.bytes_used();
        self.flight_bytes + self.sweep_bytes + bytes_of(&self.sweeps) + bytes_of(&self.again) + owed
    }

    /// Whether so much is on its way that no more events may be taken.
    pub(super) fn is_congested(&self) -> bool {
        let batch = self.intake.batch.bytes_used();
        batch + self.bytes_leaving() >= self.keys_bytes_max() / 4 * 3
    }

    /// All keys.
    pub(super) fn bytes_used(&self) -> usize {
        self.intake.bytes_used() + self.bytes_leaving() + self.bytes_waiting()
    }

    /// What may be deleted again.
    fn bytes_waiting(&self) -> usize {
        let lagging = self.lagging.load.bytes_used() + self.asked.load.bytes_used();
        self.echoes.bytes_used() + lagging + self.ring.bytes_used()
    }

    /// What intake may hold, now that everything else holds what it does.
    pub(super) fn intake_bytes_max(&self) -> usize {
        self.keys_bytes_max().saturating_sub(self.bytes_leaving() + self.bytes_waiting())
    }

    /// Collapses what can collapse, largest first, until all keys together are within the bound.
    pub(super) fn give_way(&mut self) {
        while self.intake.bytes_used() > self.intake_bytes_max() {
            let waiting = [&mut self.lagging.load, &mut self.asked.load];
            let lagging = waiting.into_iter().max_by_key(|load| load.bytes_used()).expect("there are two");
            let before = lagging.bytes_used();
            let freed = if before > self.intake.largest().max(self.echoes.largest()) {
                lagging.collapse_largest(&self.rules);
                before.saturating_sub(lagging.bytes_used())
            } else if self.intake.largest() >= self.echoes.largest() {
                self.intake.collapse_largest(&self.rules)
            } else {
                self.echoes.collapse_largest(&self.rules)
            };
            if freed == 0 {
                return; // One pattern for each family is the least there can be.
            }
            self.totals.collapsed += 1;
        }
    }
}
