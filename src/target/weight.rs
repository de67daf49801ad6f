//! What a target holds in memory, and how that becomes less.

use super::Target;
use crate::cache::Cache;
use crate::control::Control;
use crate::target::echo::bytes_of;

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// What is on its way and cannot collapse, in bytes.
    pub fn bytes_leaving(&self) -> usize {
        self.flight.bytes_used()
            + self.marking.bytes_riding()
            + self.sweeping.bytes_used()
            + bytes_of(&self.again)
            + self.repairs.owed.bytes_used()
    }

    /// What may yet be deleted and can collapse, in bytes.
    pub fn bytes_waiting(&self) -> usize {
        let memory = self.ring.bytes_used() + self.unmarked.bytes_used();
        let waiting = bytes_of(&self.inbox) + self.behind.bytes_used();
        waiting + self.echoes.bytes_used() + self.lagging.bytes_used() + memory
    }

    /// The largest of what can collapse, in bytes.
    pub fn largest(&self) -> usize {
        bytes_of(&self.inbox).max(self.behind.largest()).max(self.lagging.largest()).max(self.echoes.largest())
    }

    /// Collapses the largest family of the largest set; says how many bytes that freed.
    pub fn collapse_largest(&mut self) -> usize {
        let (inbox, lagging, echoes) = (bytes_of(&self.inbox), self.lagging.largest(), self.echoes.largest());
        let freed = match &mut self.inbox {
            _ if self.behind.largest() > inbox.max(lagging).max(echoes) => {
                self.behind.collapse_largest(&self.around.rules)
            }
            Some(waiting) if inbox >= lagging.max(echoes) => waiting.load.collapse_largest(&self.around.rules),
            _ if lagging > echoes => self.lagging.collapse_largest(&self.around.rules),
            _ => self.echoes.collapse_largest(&self.around.rules),
        };
        self.done.collapsed += u64::from(freed > 0);
        freed
    }
}
