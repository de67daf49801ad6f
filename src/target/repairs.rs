//! Repairs of the cache that come again and again for one cause: ever more seldom, and said.
//!
//! The pauses are `pace.rs`'s business. What waits is in `owed.rs`, and holds the position: nothing is proved meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use crate::observe::{Id, log};
use crate::reminder::Reminder;
use crate::target::owed::Owed;
use crate::target::pace::{Pace, PaceTurn};

/// The way out, which is the same for every cause: something outside makes the cache another again and again.
const HINT: &str = "The url of this cache must lead to one primary at each connection (not to a load balancer over several servers), and no other \
     daemon may use this postgres.slot on the same cache; `crieur check` tries the cache's answers. While slots of a \
     cluster move, nothing is to be done: this ends with the moves.";

/// Marks that are not written, because the server behind the connection is another or not proved.
pub(super) const UNPROVEN: &str = "unproven";

/// Deletes again behind a new connection to a cache that does not say who it is.
pub(super) const NAMELESS: &str = "nameless";

/// Sweeps during which the cache became another.
pub(super) const SWEPT_BY_TWO: &str = "swept by two";

/// When a repair goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// At once.
    Now,
    /// After a pause: the cause is back too soon.
    After(Duration),
    /// With another that waits: nothing new is to be said.
    With(Duration),
}

impl When {
    /// How long it waits.
    pub(super) fn pause(self) -> Duration {
        match self {
            When::Now => Duration::ZERO,
            When::After(pause) | When::With(pause) => pause,
        }
    }
}

/// Those of late.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    pace: Pace<Instant>,
    said: Reminder<Id, Instant>,
    /// How many waited.
    delayed: u64,
    /// One waited, and no mark was written since.
    is_slow: bool,
    /// Those that wait.
    pub(super) owed: Owed,
}

impl Repairs {
    /// How many waited.
    pub(super) fn delayed(&self) -> u64 {
        self.delayed
    }

    /// Whether one waited, and no mark was written since.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// A repair is wanted now; `what` says what is wrong.
    pub(super) fn when(&mut self, cause: &'static str, what: &str) -> When {
        let now = Instant::now();
        match self.pace.turn(cause, now) {
            PaceTurn::Now => When::Now,
            PaceTurn::Joined(due) => When::With(due - now),
            PaceTurn::Later(due, times) => {
                self.delayed += 1;
                self.is_slow = true;
                let pause = due - now;
                if self.said.is_due(&Id::RepairSlowed, now) {
                    let seconds = pause.as_secs();
                    log!(
                        Id::RepairSlowed,
                        hint = HINT,
                        times,
                        "{what}, again and again: the next repair waits {seconds} s"
                    );
                }
                When::After(pause)
            }
        }
    }

    /// A mark was written: the cache is proved, but for what waits. Its connection lived from one mark to the next, so
    /// what was deleted again does not bring the next repair.
    pub(super) fn proved(&mut self) {
        self.is_slow = !self.owed.is_empty();
        self.pace.healed(UNPROVEN);
        self.pace.healed(NAMELESS);
    }

    /// The repair for this cause is a sweep, which takes its time.
    pub(super) fn sweeps(&mut self, cause: &'static str) {
        self.pace.lasts(cause);
    }

    /// Every sweep that was begun is over.
    pub(super) fn swept(&mut self) {
        self.pace.over(Instant::now());
    }

    /// A sweep was answered by one server.
    pub(super) fn swept_by_one(&mut self) {
        self.pace.healed(SWEPT_BY_TWO);
    }

    /// For a loop that begins anew: what waited held a position that comes again, and is compared again.
    pub(super) fn carried(self) -> Self {
        Repairs { owed: Owed::default(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::owed::Repair;

    #[test]
    fn a_mark_heals_what_breaks_between_marks_and_ends_no_slowness_while_something_waits() {
        let mut repairs = Repairs::default();
        for _ in 0..20 {
            assert_eq!(repairs.when(NAMELESS, "x"), When::Now, "a mark came in between");
            repairs.proved();
        }
        for _ in 0..3 {
            assert_eq!(repairs.when(NAMELESS, "x"), When::Now);
        }
        let due = Instant::now() + repairs.when(NAMELESS, "x").pause();
        assert!(repairs.is_slow);
        repairs.owed.push(due, Repair::Again(Vec::new()));
        repairs.proved();
        assert!(repairs.is_slow, "it waits");
        assert_eq!(repairs.owed.take_due(due).len(), 1);
        repairs.proved();
        assert!(!repairs.is_slow);
        assert_eq!(repairs.when(NAMELESS, "x"), When::Now);
    }
}
