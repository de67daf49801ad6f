//! That the loop turns: whoever watches the process hears it from the loop itself.
//!
//! A timer beside the loop would go on while the loop stands still. The loop turns while a server is away as well, so a
//! watchdog that is fed so never ends a daemon for what it waits for.

use std::time::Duration;

use tokio::time::Instant;

/// Who hears it, and how often.
pub(super) struct Turning {
    every: Duration,
    due: Instant,
    listener: Box<dyn FnMut()>,
}

impl Turning {
    /// Tells `listener`, each `every`.
    pub(super) fn new(every: Duration, listener: impl FnMut() + 'static) -> Self {
        Turning { every, due: Instant::now(), listener: Box::new(listener) }
    }

    /// The loop turns then at the latest.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The loop is at the beginning of a turn.
    pub(super) fn turned(&mut self) {
        let now = Instant::now();
        if self.due <= now {
            (self.listener)();
            self.due = now + self.every;
        }
    }
}
