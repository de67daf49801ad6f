//! The gate as the loop asks it: one snapshot at a time, kept until a flight may carry what the snapshot contains.
//!
//! A snapshot stays true however long it waits: what it contains was visible, and what is younger waits for the next one.
//! So a snapshot that came while a flight was out is used before echoes that became due meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::gate::Snapshot;
use crate::kept::Kept;
use crate::keys::KeySet;

/// The first pause before a batch asks the gate again, when nothing of it was visible.
const PAUSE_MIN: Duration = Duration::from_micros(200);

/// The longest pause: with a synchronous standby a commit may stay invisible for seconds.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// A batch of at most so many keys is also deleted at once, ahead of the gate: at low load a commit is nearly always
/// visible when it arrives, and waiting for the snapshot doubles the time that an old value is served. Larger batches
/// are a sign of load, where the cache's time is better spent once.
const EARLY_KEYS_MAX: usize = 64;

/// A gate that takes longer is that of a far-away server: every fresh batch is then also deleted at once.
const SLOW: Duration = Duration::from_millis(3);

/// What was asked, what came, and what the open batch did meanwhile.
#[derive(Debug)]
pub(super) struct Gating {
    asking: Kept<Result<Snapshot>>,
    asked: Option<Instant>,
    came: Option<Snapshot>,
    /// How long the last snapshot took.
    took: Duration,
    pause: Duration,
    again: Option<Instant>,
    /// Keys of the open batch, in order of first mention, that were already deleted ahead of the gate.
    early: usize,
    /// The same of its pages.
    early_pages: usize,
}

impl Default for Gating {
    fn default() -> Self {
        Gating {
            asking: Kept::default(),
            asked: None,
            came: None,
            took: Duration::ZERO,
            pause: PAUSE_MIN,
            again: None,
            early: 0,
            early_pages: 0,
        }
    }
}

impl Gating {
    /// Whether a snapshot is on its way, or waits for a flight.
    pub(super) fn is_busy(&self) -> bool {
        self.asking.is_out() || self.came.is_some()
    }

    /// When a batch of which nothing was visible asks again.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    pub(super) fn ask(&mut self, now: Instant, asking: impl Future<Output = Result<Snapshot>> + 'static) {
        self.again = None;
        self.asked = Some(now);
        self.asking.start(asking);
    }

    /// No snapshot of the connection before is wanted any more.
    pub(super) fn forget(&mut self) {
        self.asking.forget();
        self.came = None;
    }

    /// Waits for the snapshot that was asked for, for ever when there is none. Cancel-safe.
    pub(super) async fn came(&mut self) -> Result<()> {
        let snapshot = self.asking.ended().await?;
        self.took = self.asked.take().map_or(self.took, |asked| asked.elapsed());
        self.came = Some(snapshot);
        Ok(())
    }

    /// The snapshot that came.
    pub(super) fn take(&mut self) -> Option<Snapshot> {
        self.came.take()
    }

    /// Nothing of the batch was visible.
    pub(super) fn saw_nothing(&mut self, now: Instant) {
        self.again = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Some of the batch was visible; these keys and pages stay.
    pub(super) fn saw_some(&mut self, staying: &KeySet, pages: &KeySet) {
        self.pause = PAUSE_MIN;
        (self.early, self.early_pages) = (staying.len(), pages.len());
    }

    /// The keys of the batch that go ahead of a snapshot that is on its way, and their pages; each once, however long that
    /// takes.
    pub(super) fn early(&mut self, batch: &KeySet, pages: &KeySet) -> Option<(KeySet, KeySet)> {
        let most = if self.took < SLOW { EARLY_KEYS_MAX } else { usize::MAX };
        if !self.asking.is_out() || batch.len() <= self.early || batch.len() > most {
            return None;
        }
        // Where memory is short pages are let go, and what came since is fresh.
        let went = if pages.len() < self.early_pages { 0 } else { self.early_pages };
        let fresh = (batch.behind(self.early), pages.behind(went));
        (self.early, self.early_pages) = (batch.len(), pages.len());
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;

    fn batch(keys: usize) -> KeySet {
        let mut set = KeySet::default();
        (0..keys).for_each(|key| _ = set.insert(key.to_string().as_bytes(), FamilyId(0), 0));
        set
    }

    fn asked(took: Duration) -> Gating {
        let mut gating = Gating { took, ..Gating::default() };
        gating.asking.start(std::future::pending());
        gating
    }

    #[test]
    fn behind_a_slow_gate_each_key_goes_early_once_however_many_commits_come() {
        let mut gating = asked(Duration::from_millis(100));
        let none = KeySet::default();
        let sent: Vec<usize> =
            [1, 2, 3, 500, 500, 501].map(|keys| gating.early(&batch(keys), &none).map_or(0, |(k, _)| k.len())).into();
        assert_eq!(sent, [1, 1, 1, 497, 0, 1]);
        gating.saw_some(&batch(3), &none);
        let fresh = gating.early(&batch(4), &none);
        assert_eq!(fresh.map(|(keys, _)| keys.contains(b"3")), Some(true), "the three that stayed went");
    }

    #[test]
    fn each_page_goes_with_its_key_and_is_counted_once() {
        let mut gating = asked(Duration::from_millis(100));
        // Of every second key there is a page.
        let mut went = |keys: usize| gating.early(&batch(keys), &batch(keys / 2)).map_or(0, |(_, pages)| pages.len());
        assert_eq!([1, 2, 2, 1_200, 1_202].map(&mut went), [0, 1, 0, 599, 1]);
        gating.saw_some(&batch(4), &batch(2));
        let (_, pages) = gating.early(&batch(6), &batch(3)).expect("keys that did not go");
        assert!(pages.len() == 1 && pages.contains(b"2"), "those of the keys that stayed went");
        let (_, pages) = gating.early(&batch(7), &batch(2)).expect("one more key");
        assert_eq!(pages.len(), 2, "three were let go, and two came since");
    }

    #[test]
    fn a_fast_gate_sends_only_small_batches_early_and_no_gate_none() {
        let mut gating = asked(Duration::from_millis(1));
        let none = KeySet::default();
        assert_eq!(gating.early(&batch(64), &none).map(|(keys, _)| keys.len()), Some(64));
        assert!(gating.early(&batch(65), &none).is_none());
        assert!(Gating::default().early(&batch(1), &none).is_none());
    }
}
