//! The open batch: keys of many transactions coalesced, split by visibility when they leave. Pure.
//!
//! Batching comes from load, not from a timer: with an idle cache the batch leaves at the next commit, with a busy one
//! it fills until the cache answers. A transaction larger than a batch leaves in pieces. Invariant: every transaction
//! of the batch that named a key has that key leave after a snapshot contained it; a transaction that is not visible
//! keeps its keys here and holds nobody else back.

use std::collections::HashMap;
use std::time::Instant;

use crate::ack::{SpanId, Window};
use crate::change::Row;
use crate::gate::Snapshot;
use crate::keys::{FamilyId, Key, KeySet, TxOrdinal};
use crate::lsn::Xid;
use crate::rules::plan::cause::{Cause, Causes};
use crate::rules::{Invalidations, Plan, Rules};

/// One transaction of the batch; its ordinal is its place.
#[derive(Debug)]
struct Transaction<A> {
    xid: Xid,
    /// What to confirm with it; `None` for a piece of a transaction whose commit is still to come.
    ack: Option<A>,
    /// Its span of the window, once a split let others go ahead.
    span: Option<SpanId>,
    /// When it committed, by our clock; `None` until that is said.
    born: Option<Instant>,
}

impl<A> Transaction<A> {
    fn new(xid: Xid, ack: Option<A>) -> Self {
        Transaction { xid, ack, span: None, born: None }
    }
}

/// What leaves: keys of visible transactions, and the spans that wait for them.
#[derive(Debug)]
pub struct Cut {
    /// The keys, patterns and lookups.
    pub load: Invalidations,
    /// One part of each span is out with this cut.
    pub spans: Vec<SpanId>,
}

/// The open batch.
#[derive(Debug)]
pub struct Batch<A> {
    load: Invalidations,
    transactions: Vec<Transaction<A>>,
    /// The transaction whose changes arrive now.
    current: Option<Xid>,
    /// Whether it has named a key since the last cut.
    touched: bool,
}

impl<A> Default for Batch<A> {
    fn default() -> Self {
        Batch { load: Invalidations::default(), transactions: Vec::new(), current: None, touched: false }
    }
}

impl<A: Copy + Ord> Batch<A> {
    /// A committed transaction's changes follow.
    pub fn begin(&mut self, xid: Xid) {
        self.current = Some(xid);
        self.touched = false;
    }

    fn ordinal(&self) -> TxOrdinal {
        self.transactions.len() as TxOrdinal
    }

    /// Adds what one change of the current transaction invalidates.
    #[inline]
    pub fn change(&mut self, plan: &Plan, row: &Row<'_>) {
        if !plan.is_empty() {
            let ordinal = self.ordinal();
            plan.apply(row, ordinal, &mut self.load);
            self.touched = true;
        }
    }

    /// Adds every key of a plan's rules, because of `cause`.
    pub fn whole(&mut self, plan: &Plan, cause: Cause) {
        if !plan.is_empty() {
            plan.whole(cause, self.ordinal(), &mut self.load);
            self.touched = true;
        }
    }

    /// Adds what a message of the current transaction invalidates.
    pub fn named(&mut self, add: impl FnOnce(TxOrdinal, &mut Invalidations)) {
        add(self.ordinal(), &mut self.load);
        self.touched = true;
    }

    /// Adds what something outside of any transaction invalidates.
    pub fn outside(&mut self, add: impl FnOnce(TxOrdinal, &mut Invalidations)) {
        self.begin(Xid::NONE);
        self.named(add);
        self.interrupted();
    }

    /// The current transaction committed.
    pub fn commit(&mut self, xid: Xid, ack: A, window: &mut Window<A>) {
        let touched = std::mem::take(&mut self.touched);
        self.current = None;
        if touched {
            self.transactions.push(Transaction::new(xid, Some(ack)));
        } else {
            self.idle(ack, window);
        }
    }

    /// A streamed transaction committed; `load` was collected while it was open.
    pub fn commit_streamed(&mut self, xid: Xid, mut load: Invalidations, ack: A, window: &mut Window<A>) {
        if load.is_empty() {
            return self.idle(ack, window);
        }
        let ordinal = self.ordinal();
        load.each_set(|set| set.renumber(|_, _| (ordinal, ordinal)));
        self.load.merge(load);
        self.transactions.push(Transaction::new(xid, Some(ack)));
    }

    /// Nothing of interest lies before `ack`: it is confirmed together with what stands before it.
    pub fn idle(&mut self, ack: A, window: &mut Window<A>) {
        match self.transactions.last_mut() {
            Some(last) if last.span.is_none() => last.ack = last.ack.max(Some(ack)),
            _ => window.idle(ack),
        }
    }

    /// The stream broke inside of a transaction: what it named so far stays and is deleted behind the gate; the
    /// transaction comes again.
    pub fn interrupted(&mut self) {
        self.close_piece();
        self.current = None;
    }

    /// What was taken since this was last called committed then, by our clock.
    pub fn date(&mut self, born: Instant) {
        for transaction in self.transactions.iter_mut().rev().take_while(|transaction| transaction.born.is_none()) {
            transaction.born = Some(born);
        }
    }

    /// When the oldest transaction of the batch committed.
    pub fn oldest(&self) -> Option<Instant> {
        self.transactions.iter().find_map(|transaction| transaction.born)
    }

    /// Whether there is something to send once it is visible.
    pub fn has_work(&self) -> bool {
        !self.transactions.is_empty()
    }

    /// Whether a lookup waits for its answer.
    pub fn asks(&self) -> bool {
        !self.load.lookups.is_empty()
    }

    /// Keys, patterns and lookups collected so far.
    pub fn len(&self) -> usize {
        self.load.len()
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.load.is_empty() && self.transactions.is_empty()
    }

    /// The exact keys collected so far, of visible and of invisible transactions.
    pub fn keys(&self) -> &KeySet {
        &self.load.keys
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.load.bytes_used() + self.transactions.len() * size_of::<Transaction<A>>()
    }

    /// Closes a piece of the transaction that is still arriving, so that what it named so far can leave.
    pub fn close_piece(&mut self) {
        if let (Some(xid), true) = (self.current, std::mem::take(&mut self.touched)) {
            self.transactions.push(Transaction::new(xid, None));
        }
    }

    /// Takes what `snapshot` contains out of the batch; `None` when it contains none of it.
    ///
    /// A key that both a visible and an invisible transaction named leaves *and* stays: deleting it once more is
    /// harmless, deleting it too early only is not.
    pub fn cut(&mut self, snapshot: &Snapshot, window: &mut Window<A>) -> Option<Cut> {
        self.close_piece();
        let stays: Vec<bool> = self.transactions.iter().map(|tx| !snapshot.contains(tx.xid)).collect();
        if stays.iter().all(|stays| *stays) {
            return None;
        }
        let spans = self.part_spans(&stays, window);
        if !stays.contains(&true) {
            self.transactions.clear();
            return Some(Cut { load: std::mem::take(&mut self.load), spans });
        }
        let ranks = ranks(&stays);
        let staying = |first: TxOrdinal, last: TxOrdinal| ranks[last as usize + 1] - ranks[first as usize];
        let goes = |key: &Key<'_>| staying(key.first, key.last) < key.last - key.first + 1;
        let remains = |key: &Key<'_>| {
            let range = || (ranks[key.first as usize], ranks[key.last as usize + 1] - 1);
            (staying(key.first, key.last) > 0).then(range)
        };
        let leaving = self.load.split(goes, remains);
        let mut stays = stays.into_iter();
        self.transactions.retain(|_| stays.next().unwrap_or(true));
        Some(Cut { load: leaving, spans })
    }

    /// Says in commit order which parts of which spans leave.
    ///
    /// Transactions without a span get one for each run with the same fate. Those that share a span hold one part of
    /// it together, however many they are: when only some of them leave, the leaving ones get a part of their own.
    fn part_spans(&mut self, stays: &[bool], window: &mut Window<A>) -> Vec<SpanId> {
        let mut leaving = Vec::new();
        let mut start = 0;
        while start < stays.len() {
            let span = self.transactions[start].span;
            let alike = |index: usize| {
                self.transactions[index].span == span && (span.is_some() || stays[index] == stays[start])
            };
            let end = (start + 1..stays.len()).find(|index| !alike(*index)).unwrap_or(stays.len());
            let fates = &stays[start..end];
            let run = &mut self.transactions[start..end];
            let ack = run.iter().filter_map(|tx| tx.ack).max();
            let id = match span {
                Some(span) => span,
                // Those that stay are told apart by their spans.
                None if fates.contains(&true) => window.open(ack),
                None => window.open_or_join(ack),
            };
            if let Some(born) = run[0].born {
                window.date(id, born);
            }
            if fates.contains(&false) {
                if fates.contains(&true) {
                    window.add_part(id);
                }
                leaving.push(id);
            }
            run.iter_mut().for_each(|tx| tx.span = Some(id));
            start = end;
        }
        leaving
    }
}

/// `ranks[i]` is how many of the first `i` transactions stay.
fn ranks(stays: &[bool]) -> Vec<TxOrdinal> {
    let mut ranks = Vec::with_capacity(stays.len() + 1);
    let mut count = 0;
    ranks.push(0);
    for stays in stays {
        count += TxOrdinal::from(*stays);
        ranks.push(count);
    }
    ranks
}

impl Invalidations {
    /// Keys, patterns, lookups and what is to be forgotten, together.
    pub fn len(&self) -> usize {
        self.keys.len() + self.patterns.len() + self.lookups.len() + self.forgets.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.keys.bytes_used() + self.patterns.bytes_used() + self.lookups.bytes_used() + self.forgets.bytes_used()
    }

    /// Adds all of `other`, each key with its transactions.
    pub fn merge(&mut self, other: Invalidations) {
        self.keys.merge(other.keys);
        self.patterns.merge(other.patterns);
        self.lookups.merge(other.lookups);
        self.forgets.merge(other.forgets);
        self.widened += other.widened;
        self.protected += other.protected;
        self.causes.merge(other.causes);
    }

    /// See [`KeySet::split`]. What was counted leaves.
    fn split(
        &mut self,
        leaves: impl Fn(&Key<'_>) -> bool,
        stays: impl Fn(&Key<'_>) -> Option<(TxOrdinal, TxOrdinal)>,
    ) -> Invalidations {
        let causes = self.causes;
        let leaving = Invalidations {
            keys: self.keys.split(&leaves, &stays),
            patterns: self.patterns.split(&leaves, &stays),
            lookups: self.lookups.split(&leaves, &stays),
            forgets: self.forgets.split(&leaves, &stays),
            widened: std::mem::take(&mut self.widened),
            protected: std::mem::take(&mut self.protected),
            causes,
        };
        // Which pattern has which cause is not known: both sides keep them all.
        if self.patterns.is_empty() && self.lookups.is_empty() {
            self.causes = Causes::default();
        }
        leaving
    }

    fn each_set(&mut self, mut apply: impl FnMut(&mut KeySet)) {
        apply(&mut self.keys);
        apply(&mut self.patterns);
        apply(&mut self.lookups);
        apply(&mut self.forgets);
    }

    /// Replaces the family that takes most memory by its pattern. Over-deleting is safe, running out of memory is not.
    pub fn collapse_largest(&mut self, rules: &Rules) -> Option<FamilyId> {
        let mut bytes: HashMap<FamilyId, usize> = HashMap::new();
        for set in [&self.keys, &self.patterns, &self.lookups] {
            for key in set.iter() {
                *bytes.entry(key.family).or_default() += key.bytes.len() + 32;
            }
        }
        let largest = bytes.into_iter().max_by_key(|(family, bytes)| (*bytes, family.0))?.0;
        self.collapse(largest, rules);
        Some(largest)
    }

    /// Collapses the families with most patterns until at most `most` are left: a sweep compares every key of the cache
    /// with every pattern. Says how many were collapsed.
    pub fn collapse_patterns(&mut self, most: usize, rules: &Rules) -> u64 {
        let mut collapsed = 0;
        while self.patterns.len() > most {
            let mut counts: HashMap<FamilyId, usize> = HashMap::new();
            self.patterns.iter().for_each(|pattern| *counts.entry(pattern.family).or_default() += 1);
            match counts.into_iter().max_by_key(|(family, count)| (*count, family.0)) {
                Some((family, count)) if count > 1 => self.collapse(family, rules),
                Some(_) | None => break, // One pattern for each family is the least there can be.
            }
            collapsed += 1;
        }
        collapsed
    }

    fn collapse(&mut self, family: FamilyId, rules: &Rules) {
        let range = [&self.keys, &self.patterns, &self.lookups]
            .into_iter()
            .flat_map(|set| set.iter())
            .filter(|key| key.family == family)
            .fold(None, |range: Option<(TxOrdinal, TxOrdinal)>, key| {
                let (first, last) = range.unwrap_or((key.first, key.last));
                Some((first.min(key.first), last.max(key.last)))
            });
        let Some((first, last)) = range else { return };
        self.causes.add(Cause::Collapsed);
        for set in [&mut self.keys, &mut self.patterns, &mut self.lookups] {
            set.retain(|key| key.family != family);
        }
        self.patterns.insert(rules.family(family), family, first);
        self.patterns.insert(rules.family(family), family, last);
    }
}
