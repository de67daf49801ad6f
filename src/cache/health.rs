//! Whether the cache answers, for those who watch from outside of the loop. It decides nothing.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::statistics::ReadCounts;

/// How far the current or last sweep is, for whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    visited: AtomicU64,
    deleted: AtomicU64,
    keys: AtomicU64,
}

impl Progress {
    /// A sweep begins over a database that holds so many keys; 0 where the server does not tell.
    pub(super) fn begin(&self, keys: u64) {
        self.visited.store(0, Ordering::Relaxed);
        self.deleted.store(0, Ordering::Relaxed);
        self.keys.store(keys, Ordering::Relaxed);
    }

    /// A SCAN visited so many buckets more.
    pub(super) fn visited(&self, buckets: u32) {
        self.visited.fetch_add(buckets.into(), Ordering::Relaxed);
    }

    /// So many keys are deleted.
    pub(super) fn deleted(&self, keys: u64) {
        self.deleted.store(keys, Ordering::Relaxed);
    }

    /// Parts of a hundred that are seen, and keys deleted. The server's table has about as many buckets as the next power
    /// of two above its keys, so this is an estimate, which ends before the end.
    pub fn seen(&self) -> (u64, u64) {
        let buckets = self.keys.load(Ordering::Relaxed).max(1).next_power_of_two();
        let percent = self.visited.load(Ordering::Relaxed).saturating_mul(100) / buckets;
        (percent.min(99), self.deleted.load(Ordering::Relaxed))
    }
}

/// What the attempts of late came to.
#[derive(Debug, Default)]
pub struct Health {
    away: AtomicBool,
    /// It answers, and refuses.
    refuses: AtomicBool,
    /// Since when.
    away_since: Mutex<Option<Instant>>,
    outages: AtomicU64,
    returns: AtomicU64,
    deleted: AtomicBool,
    billed: AtomicU64,
    /// Reads of our own, and those of them that found their key.
    own_reads: AtomicU64,
    own_hits: AtomicU64,
    /// Who counts these commands, too.
    payer: OnceLock<Arc<Health>>,
    /// 0 where there are none, 1 when a majority of them answered, 2 when it did not.
    sentinels: AtomicU8,
    progress: Progress,
}

impl Health {
    /// How far the current or last sweep is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// An attempt ended.
    pub fn note(&self, answered: bool) {
        match (self.away.swap(!answered, Ordering::Relaxed), answered) {
            (false, false) => {
                self.outages.fetch_add(1, Ordering::Relaxed);
                self.turned(Some(Instant::now()));
            }
            (true, true) => {
                self.returns.fetch_add(1, Ordering::Relaxed);
                self.turned(None);
            }
            (false, true) | (true, false) => {}
        }
    }

    fn turned(&self, away_since: Option<Instant>) {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner) = away_since;
    }

    /// Since when the attempts fail.
    pub fn away_since(&self) -> Option<Instant> {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what answers refuses what it is asked.
    pub fn note_refused(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Whether the last attempt failed because it was refused: somebody is there.
    pub fn refuses(&self) -> bool {
        self.is_away() && self.refuses.load(Ordering::Relaxed)
    }

    /// Whether the last attempt failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Whether a majority of the Sentinels answered, where there are some.
    pub fn note_sentinels(&self, answered: bool) {
        self.sentinels.store(if answered { 1 } else { 2 }, Ordering::Relaxed);
    }

    /// Whether a majority of the Sentinels answers; `None` where there are none, or before they were asked.
    pub fn sentinels(&self) -> Option<bool> {
        match self.sentinels.load(Ordering::Relaxed) {
            0 => None,
            answered => Some(answered == 1),
        }
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
        if let Some(payer) = self.payer.get() {
            payer.bill(commands);
        }
    }

    /// We read keys ourselves, so many of which were there: the server counts that like reads of anybody else.
    pub fn note_reads(&self, hits: u64, all: u64) {
        self.own_reads.fetch_add(all, Ordering::Relaxed);
        self.own_hits.fetch_add(hits, Ordering::Relaxed);
        if let Some(payer) = self.payer.get() {
            payer.note_reads(hits, all);
        }
    }

    /// Those reads.
    pub fn own_reads(&self) -> ReadCounts {
        ReadCounts { hits: self.own_hits.load(Ordering::Relaxed), all: self.own_reads.load(Ordering::Relaxed) }
    }

    /// The commands sent here are on the bill of that cache, too: other connections to the same one.
    pub fn charge(&self, payer: &Arc<Health>) {
        let _ = self.payer.set(Arc::clone(payer)); // Whoever pays, pays for good.
    }

    /// Commands that were sent and are billed.
    pub fn billed(&self) -> u64 {
        self.billed.load(Ordering::Relaxed)
    }

    /// Times that it answered again.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::Relaxed)
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
    fn what_other_connections_send_is_on_the_same_bill() {
        let (here, payer) = (Health::default(), Arc::<Health>::default());
        here.bill(2);
        here.charge(&payer);
        here.bill(3);
        payer.bill(4);
        assert_eq!((here.billed(), payer.billed()), (5, 7));
        here.note_reads(1, 2);
        assert_eq!(
            (here.own_reads(), payer.own_reads()),
            (ReadCounts { hits: 1, all: 2 }, ReadCounts { hits: 1, all: 2 })
        );
    }

    #[test]
    fn failures_in_a_row_are_one_outage() {
        let health = Health::default();
        let seen = [true, false, false, true, false].map(|answered| {
            health.note(answered);
            assert_eq!(health.away_since().is_some(), health.is_away());
            (health.is_away(), health.outages())
        });
        assert_eq!(health.returns(), 1);
        assert_eq!(seen, [(false, 0), (true, 1), (true, 1), (false, 1), (true, 2)]);
    }
}
