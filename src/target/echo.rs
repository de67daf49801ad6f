//! Echoes: a key is deleted again after each delay, for readers that SET an old value after our delete. Pure.
//!
//! A plain reader may SELECT before a commit and SET after our UNLINK. Whoever keeps a value less than the last delay
//! between its SELECT and its SET is corrected by an echo. Deliveries that were answered within a tenth of their delay
//! share a bucket, so a key that changes all the time is echoed a few times a second, not once per change. A bucket is
//! due when its *youngest* delivery is due: an echo may come late, never early.

use std::collections::VecDeque;
use std::time::Duration;

use crate::keys::Key;
use crate::ledger::Ticket;
use crate::rules::{Invalidations, Rules};

/// Which delete of the same keys this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Ahead of the gate: it shortens the time that an old value is served, and proves nothing.
    Early,
    /// The first that counts, behind the gate.
    Fresh,
    /// Once more, when every read replica has replayed the commit.
    Replica,
    /// The echo with this index in `cache.echo`.
    Echo(usize),
    /// What was swept, once more: its echoes came or come all the same.
    Repeated,
}

/// Keys on their way to the cache, and what is owed for them.
#[derive(Debug)]
pub struct Delivery {
    /// Exact keys and patterns.
    pub load: Invalidations,
    /// One part (fresh) or one echo of each span is out with it.
    pub tickets: Vec<Ticket>,
    /// Which delete this is.
    pub stage: Stage,
}

/// Bytes of all deliveries.
pub(super) fn bytes_of<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> usize {
    deliveries.into_iter().map(|delivery| delivery.load.bytes_used()).sum()
}

/// `I` is the caller's clock: anything that a duration can be added to.
#[derive(Debug)]
struct Bucket<I> {
    /// Deliveries answered before this share the bucket.
    closes: I,
    due: I,
    load: Invalidations,
    tickets: Vec<Ticket>,
}

/// One queue of buckets for each delay.
#[derive(Debug)]
pub struct Echoes<I> {
    /// Time from the answer of the stage before to this echo.
    gaps: Vec<Duration>,
    stages: Vec<VecDeque<Bucket<I>>>,
}

impl<I: Copy + Ord + std::ops::Add<Duration, Output = I>> Echoes<I> {
    /// `delays` ascend, each counted from the first delete.
    pub fn new(delays: &[Duration]) -> Self {
        let before = std::iter::once(Duration::ZERO).chain(delays.iter().copied());
        let gaps = delays.iter().zip(before).map(|(delay, before)| delay.saturating_sub(before)).collect::<Vec<_>>();
        Echoes { stages: gaps.iter().map(|_| VecDeque::new()).collect(), gaps }
    }

    /// The stage that follows `stage`, if there is one.
    pub fn next(&self, stage: Stage) -> Option<usize> {
        let next = match stage {
            Stage::Early | Stage::Repeated => return None,
            Stage::Fresh | Stage::Replica => 0,
            Stage::Echo(index) => index + 1,
        };
        (next < self.gaps.len()).then_some(next)
    }

    /// Queues the keys of an answered delivery for the echo `stage`.
    pub fn add(&mut self, stage: usize, now: I, load: Invalidations, tickets: Vec<Ticket>) {
        let gap = self.gaps[stage];
        let width = (gap / 10).min(Duration::from_secs(1));
        let buckets = &mut self.stages[stage];
        if buckets.back().is_none_or(|bucket| bucket.closes < now) {
            let closes = now + width;
            let due = closes + gap;
            buckets.push_back(Bucket { closes, due, load: Invalidations::default(), tickets: Vec::new() });
        }
        let bucket = buckets.back_mut().expect("pushed above when there was none");
        bucket.load.merge(load);
        bucket.tickets.extend(tickets);
    }

    /// The delay of the last echo; none without echoes.
    pub fn last(&self) -> Duration {
        self.gaps.iter().sum()
    }

    /// No last echo is due before `then`.
    pub fn postpone_last(&mut self, then: I) {
        let last = self.stages.last_mut().into_iter().flatten();
        last.for_each(|bucket| bucket.due = bucket.due.max(then));
    }

    /// When the next bucket is due.
    pub fn due(&self) -> Option<I> {
        self.stages.iter().filter_map(|buckets| buckets.front()).map(|bucket| bucket.due).min()
    }

    /// Takes a bucket that is due.
    pub fn take_due(&mut self, now: I) -> Option<Delivery> {
        let stage = (0..self.stages.len()).find(|stage| self.stages[*stage].front().is_some_and(|b| b.due <= now))?;
        let bucket = self.stages[stage].pop_front()?;
        Some(Delivery { load: bucket.load, tickets: bucket.tickets, stage: Stage::Echo(stage) })
    }

    /// The same under other rules and in another ledger: what waits is deleted when it is due, and nobody owes it. What no
    /// family of these rules covers is none of theirs.
    #[must_use]
    pub fn carried(mut self, before: &Rules, rules: &Rules) -> Self {
        for bucket in self.stages.iter_mut().flatten() {
            bucket.tickets.clear();
            let load = std::mem::take(&mut bucket.load);
            bucket.load.pages = load.pages;
            for (set, into) in [(load.keys, &mut bucket.load.keys), (load.patterns, &mut bucket.load.patterns)] {
                set.drain(|key| {
                    if let Some(family) = rules.family_of(before.family(key.family)) {
                        into.add(&Key { family, ..key });
                    }
                });
            }
        }
        self
    }

    /// Everything that waits.
    pub fn each_load(&mut self, apply: impl Fn(&mut Invalidations)) {
        self.stages.iter_mut().flatten().for_each(|bucket| apply(&mut bucket.load));
    }

    /// Keys and patterns that wait.
    pub fn keys(&self) -> usize {
        let buckets = self.stages.iter().flatten();
        buckets.map(|bucket| bucket.load.keys.len() + bucket.load.patterns.len()).sum()
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        let buckets = self.stages.iter().flatten();
        buckets.map(|bucket| bucket.load.bytes_used() + bucket.tickets.len() * size_of::<Ticket>()).sum()
    }

    /// What the largest bucket holds, in bytes.
    pub fn largest(&self) -> usize {
        self.stages.iter().flatten().map(|bucket| bucket.load.bytes_used()).max().unwrap_or(0)
    }

    /// Collapses the largest family of the largest bucket; says how many bytes that freed.
    pub fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let largest = self.stages.iter_mut().flatten().max_by_key(|bucket| bucket.load.bytes_used());
        largest.map_or(0, |bucket| bucket.load.collapse_largest(rules))
    }
}
