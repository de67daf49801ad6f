//! Gaps: what the mark in the cache proves, and what is deleted again when it does not.
//!
//! A cache that holds a mark has had every delete up to it, and perhaps none after it. So behind every new connection
//! the mark is read: what was deleted since that mark is deleted again from the ring, and where the ring does not reach
//! back so far, every family of the rules is swept. Nothing is confirmed before that is done.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{News, Pipeline};
use crate::ack::SpanId;
use crate::cache::Cache;
use crate::config::OnGap;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::failpoints::{Guard, Step, reached, without};
use crate::gate::Snapshot;
use crate::keys::FamilyId;
use crate::mark::{Gap, SlotOrigin, gap, gap_at_first, nonce, rules};
use crate::pipeline::deliver::{REMIND, insist};
use crate::rules::Invalidations;
use crate::source::Source;

/// How often the transactions that a sweep waits for are looked at.
const ELDERS_INTERVAL: Duration = Duration::from_millis(100);

/// Marks whose answers were lost and that are still taken for ours; each attempt sends all of them.
const LOST_MAX: usize = 16;

/// What is known of the cache's mark.
#[derive(Debug)]
pub(super) enum Held {
    /// Not looked at yet.
    Nothing,
    /// It is one of these: the last that was written, and those whose answer was lost.
    Trusted(Vec<Vec<u8>>),
    /// What is there proves nothing; a sweep is on its way, and the next mark goes over it.
    Gap {
        /// What is there.
        was: Option<Vec<u8>>,
        /// A mark whose answer was lost.
        maybe: Option<Vec<u8>>,
    },
}

impl Held {
    /// What the next mark may replace.
    pub(super) fn expected(&self) -> Vec<Option<Vec<u8>>> {
        match self {
            Held::Nothing => vec![None],
            Held::Trusted(known) if known.is_empty() => vec![None],
            Held::Trusted(known) => known.iter().cloned().map(Some).collect(),
            Held::Gap { was, maybe } => std::iter::once(was.clone()).chain(maybe.clone().map(Some)).collect(),
        }
    }

    /// The mark may be there: the answer was lost. The oldest are forgotten: should one of them be there after all, it
    /// is another's, and what was deleted since is deleted again.
    pub(super) fn lost(&mut self, mark: Vec<u8>) {
        match self {
            Held::Nothing => {}
            Held::Trusted(known) => {
                if known.len() >= LOST_MAX {
                    known.remove(0);
                }
                known.push(mark);
            }
            Held::Gap { maybe, .. } => *maybe = Some(mark),
        }
    }
}

/// Says each minute that old transactions are still waited for; answers when that was last said.
fn remind(said: Instant) -> Instant {
    if said.elapsed() < REMIND {
        return said;
    }
    let hint =
        "pg_stat_activity and pg_prepared_xacts name them. Deletes go on; until they end no position is confirmed.";
    warn!(hint, "transactions from before the gap are still open: its sweep waits for their end");
    Instant::now()
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Asks for the mark. Until it is compared no flight begins, so that it says what the flights before it reached.
    pub(super) fn read_mark(&mut self) {
        self.changes = self.cache.changes();
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        self.reading_mark =
            Some(Box::pin(async move { insist("read the mark", async || cache.mark(&slot).await).await }));
    }

    /// Behind a new connection the cache may be another than it was.
    pub(super) fn look_for_another_cache(&mut self) {
        if self.cache.changes() != self.changes && self.reading_mark.is_none() {
            self.read_mark();
        }
    }

    /// The mark was read: whatever it does not cover is deleted again.
    pub(super) fn compare(&mut self, found: Option<Vec<u8>>) {
        reached(Step::MarkRead);
        let Some(start) = &self.compared else { return };
        let anew = std::mem::take(&mut self.connected_anew);
        let changed = std::mem::replace(&mut self.changes_compared, self.changes) != self.changes;
        let judge = if anew { gap_at_first } else { gap };
        let gap = judge(found.as_deref(), start, self.rules.digest());
        // A slot that moved on without us lost changes that no memory of ours has.
        let moved = |ack| self.source.lsn(ack) < start.confirmed;
        let altered = std::mem::take(&mut self.altered);
        let moved = altered || start.slot == SlotOrigin::Created || self.marked.is_none_or(moved);
        match (&self.held, gap) {
            _ if without(Guard::Mark) => self.held = Held::Trusted(found.into_iter().collect()),
            (_, Some(gap)) if anew && (moved || !matches!(gap, Gap::Behind { .. })) => self.gap(&gap, found),
            (Held::Nothing, None) => self.trust_first(found),
            (Held::Nothing, Some(gap)) => self.gap(&gap, found),
            (Held::Trusted(known), gap) if !found.as_ref().is_some_and(|found| known.contains(found)) => {
                self.go_on_from(found, gap);
            }
            (Held::Trusted(_), gap) if changed => self.go_on_from(found, gap),
            (Held::Trusted(_), _) => {}
            // The sweep of this gap is on its way, in this very cache.
            (Held::Gap { was, .. }, _) if *was == found && !changed => {}
            // Written behind the sweep, and only the answer was lost.
            (Held::Gap { maybe: Some(mark), .. }, _) if Some(mark) == found.as_ref() && !changed => {
                self.held = Held::Trusted(found.into_iter().collect());
            }
            (Held::Gap { .. }, gap) => self.gap(&gap.unwrap_or(Gap::WentBack), found),
        }
        if !self.ready {
            self.ready = true;
            (self.news)(News::Ready);
        }
        self.look_for_another_cache();
    }

    /// The mark of the process before covers everything before this connection's start.
    fn trust_first(&mut self, found: Option<Vec<u8>>) {
        if let Some(nonce) = found.as_deref().and_then(nonce) {
            self.ring.marked(&nonce, self.window.first_open());
        }
        self.held = Held::Trusted(found.into_iter().collect());
    }

    /// The cache is another than before: what was deleted since its mark is deleted again, or everything is swept.
    fn go_on_from(&mut self, found: Option<Vec<u8>>, gap: Option<Gap>) {
        self.sweep_again = self.sweep.is_some();
        match gap {
            None | Some(Gap::Missing | Gap::Behind { .. } | Gap::WentBack) => {}
            // Not of this run, so not of ours: its position means nothing here, even if it looks like one of ours.
            Some(gap) => {
                if matches!(gap, Gap::OtherServer | Gap::OtherDatabase) {
                    let hint = "If a crieur of another database uses this cache, give it another postgres.slot.";
                    warn!(hint, "somebody wrote a mark of another server or database under the name of this slot");
                }
                return self.gap(&gap, found);
            }
        }
        match found.as_deref().and_then(nonce).and_then(|nonce| self.ring.take_since(&nonce)) {
            Some(lacking) => {
                self.held = Held::Trusted(found.into_iter().collect());
                self.replay(lacking);
            }
            None => self.gap(&Gap::WentBack, found),
        }
    }

    /// Deletes again what the cache may lack since its mark.
    fn replay(&mut self, lacking: Vec<Invalidations>) {
        if lacking.is_empty() || without(Guard::Ring) {
            return;
        }
        let keys: usize = lacking.iter().map(|load| load.len()).sum();
        info!(keys, "the cache may lack what was deleted since its mark: deleting it again");
        let span = self.window.open_barrier(self.answered.take());
        for load in lacking {
            self.window.add_part(span);
            self.again.push_back(Delivery { load, spans: vec![span], stage: Stage::Fresh });
        }
        self.window.part_done(span);
    }

    /// The cache may hold stale keys, nobody knows which. `found` stands where the mark should be.
    pub(super) fn gap(&mut self, gap: &Gap, found: Option<Vec<u8>>) {
        // Under the rules that the mark tells every delete before it was made; nothing was deleted under others yet.
        let told =
            found.as_deref().filter(|_| *gap == Gap::OtherRules && matches!(self.held, Held::Nothing)).map(rules);
        self.held = Held::Gap { was: found, maybe: None };
        (self.news)(News::Gap(gap.kind()));
        match self.settings.on_gap {
            OnGap::Sweep => match told {
                Some(told) => {
                    let new = self.rules.not_in(&told);
                    info!(families = new.len(), "{gap}: sweeping the keys of rules that are new");
                    self.sweep_families(gap, new);
                }
                None => {
                    info!("{gap}: sweeping every key that the rules own");
                    self.sweep_families(gap, self.rules.families().map(|(family, _)| family).collect());
                }
            },
            OnGap::Warn => {
                warn!("{gap}: it may hold stale keys until they expire (cache.on_gap is \"warn\")");
            }
        }
    }

    /// Nothing is confirmed until the sweep, and its echoes, are done.
    fn sweep_families(&mut self, gap: &Gap, families: BTreeSet<FamilyId>) {
        self.unsure.extend(families);
        self.unswept.push(self.window.open_barrier(self.answered.take()));
        // What was open when a slot was made, or a table published, may be committed in WAL that the stream does not
        // have, and becomes visible after a sweep that does not wait for it.
        self.await_elders = match gap {
            Gap::WentBack | Gap::Restarted | Gap::OtherRules => self.await_elders,
            Gap::Missing
            | Gap::Unreadable
            | Gap::OtherServer
            | Gap::OtherDatabase
            | Gap::NewSlot
            | Gap::Behind { .. }
            | Gap::OtherPublication => true,
        };
        self.elders = None;
        self.look_for_elders(Duration::ZERO);
    }

    fn look_for_elders(&mut self, after: Duration) {
        let control = Rc::clone(&self.control);
        let first = self.await_elders && self.elders.is_none();
        self.looking = Some(Box::pin(async move {
            sleep(after).await;
            let look = async || if first { control.elders().await } else { control.snapshot().await };
            insist("take a snapshot before a sweep", look).await
        }));
    }

    /// A snapshot for the sweep of a gap: sweeps at once, and once more when everything older has ended.
    pub(super) fn looked(&mut self, snapshot: Snapshot) {
        match self.elders.take() {
            None => {
                let over = !self.await_elders || snapshot.ended_by(&snapshot);
                let spans = if over { std::mem::take(&mut self.unswept) } else { self.unswept.clone() };
                if !over {
                    info!("transactions are open that the stream may not have: sweeping again when they have ended");
                    spans.iter().for_each(|span| self.window.add_part(*span));
                    self.elders = Some((snapshot, Instant::now()));
                    self.look_for_elders(ELDERS_INTERVAL);
                }
                self.sweep_for(spans);
            }
            Some((elders, _)) if elders.ended_by(&snapshot) => {
                let spans = std::mem::take(&mut self.unswept);
                self.sweep_for(spans);
            }
            Some((elders, said)) => {
                self.elders = Some((elders, remind(said)));
                self.look_for_elders(ELDERS_INTERVAL);
            }
        }
        if self.elders.is_none() {
            self.await_elders = false;
        }
    }

    fn sweep_for(&mut self, spans: Vec<SpanId>) {
        let mut load = Invalidations::default();
        for family in &self.unsure {
            load.patterns.insert(self.rules.family(*family), *family, 0);
        }
        if self.unswept.is_empty() {
            self.unsure.clear();
        }
        self.queue_sweep(Delivery { load, spans, stage: Stage::Fresh });
    }
}
