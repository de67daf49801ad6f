//! Repairs of the cache that come again and again for one cause: ever more seldom, and said.
//!
//! The pauses are `pace.rs`'s business. What waits holds the position, so that nothing is proved meanwhile.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::pace::{Pace, Turn};
use crate::pipeline::outage::REMIND;

/// The way out, which is the same for every cause: something outside makes the cache another again and again.
const HINT: &str = "cache.url must lead to one primary at each connection (not to a load balancer over several servers), and no other \
     daemon may use this postgres.slot on the same cache; `crieur check` tries the cache's answers.";

/// Marks that are not written, because the server behind the connection is another or not proved.
pub(super) const UNPROVEN: &str = "unproven";

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
    said: Option<Instant>,
    /// How many waited.
    pub(super) delayed: u64,
    /// One waited, and no mark was written since.
    pub(super) is_slow: bool,
}

impl Repairs {
    /// A repair is wanted now; `what` says what is wrong.
    pub(super) fn when(&mut self, cause: &'static str, what: &str) -> When {
        let now = Instant::now();
        match self.pace.turn(cause, now) {
            Turn::Now => When::Now,
            Turn::Joined(due) => When::With(due - now),
            Turn::Later(due, times) => {
                self.delayed += 1;
                self.is_slow = true;
                let pause = due - now;
                if self.said.is_none_or(|said| now.duration_since(said) >= REMIND) {
                    self.said = Some(now);
                    let seconds = pause.as_secs();
                    warn!(hint = HINT, times, "{what}, again and again: the next repair waits {seconds} s");
                }
                When::After(pause)
            }
        }
    }

    /// A mark was written: the cache is proved.
    pub(super) fn proved(&mut self) {
        self.is_slow = false;
        self.pace.healed(UNPROVEN);
    }
}
