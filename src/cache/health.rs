//! Whether the cache answers, for those who watch from outside of the loop. It decides nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the attempts of late came to.
#[derive(Debug, Default)]
pub struct Health {
    away: AtomicBool,
    outages: AtomicU64,
    deleted: AtomicBool,
    billed: AtomicU64,
    sentinels_away: AtomicBool,
}

impl Health {
    /// An attempt ended.
    pub fn note(&self, answered: bool) {
        if !self.away.swap(!answered, Ordering::Relaxed) && !answered {
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the last attempt failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Whether a majority of the Sentinels answered, where there are some.
    pub fn note_sentinels(&self, answered: bool) {
        self.sentinels_away.store(!answered, Ordering::Relaxed);
    }

    /// Whether fewer than a majority of the Sentinels answer.
    pub fn are_sentinels_away(&self) -> bool {
        self.sentinels_away.load(Ordering::Relaxed)
    }

    /// Keys were deleted.
    pub fn note_deleted(&self) {
        self.deleted.store(true, Ordering::Relaxed);
    }

    /// Whether keys were ever deleted: a cache that did is one that can.
    pub fn has_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Commands were sent that are billed.
    pub fn bill(&self, commands: u64) {
        self.billed.fetch_add(commands, Ordering::Relaxed);
    }

    /// Commands that were sent and are billed.
    pub fn billed(&self) -> u64 {
        self.billed.load(Ordering::Relaxed)
    }

    /// Times that it went away.
    pub fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_one_outage() {
        let health = Health::default();
        let seen = [true, false, false, true, false].map(|answered| {
            health.note(answered);
            (health.is_away(), health.outages())
        });
        assert_eq!(seen, [(false, 0), (true, 1), (true, 1), (false, 1), (true, 2)]);
    }
}
