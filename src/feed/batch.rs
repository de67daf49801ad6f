//! The open batch: keys of many transactions coalesced, split by visibility when they leave. Pure.
//!
//! Batching comes from load, not from a timer: with an idle cache the batch leaves at the next commit, with a busy one
//! it fills until the cache answers. A transaction larger than a batch leaves in pieces. Invariant: every transaction
//! of the batch that named a key has that key leave after a snapshot contained it; a transaction that is not visible
//! keeps its keys here and holds nobody else back.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::change::Row;
use crate::gate::Snapshot;
use crate::keys::{Key, KeySet, TxOrdinal};
use crate::ledger::window::SpanId;
use crate::ledger::{Ledger, Ticket};
use crate::lsn::Xid;
use crate::rules::plan::cause::Cause;
use crate::rules::{Invalidations, Plan};

/// One transaction of the batch; its ordinal is its place.
#[derive(Debug)]
struct Transaction<A> {
    xid: Xid,
    /// What to confirm with it; `None` for a piece of a transaction whose commit is still to come.
    ack: Option<A>,
    /// Its span of the ledger, once a split let others go ahead.
    span: Option<SpanId>,
    /// When it committed, by our clock; `None` until that is said.
    born: Option<Instant>,
}

impl<A> Transaction<A> {
    fn new(xid: Xid, ack: Option<A>) -> Self {
        Transaction { xid, ack, span: None, born: None }
    }
}

/// What leaves: keys of visible transactions, and what is owed for them.
#[derive(Debug)]
pub struct Cut {
    /// The keys, patterns and lookups.
    pub load: Invalidations,
    /// One part of each span leaves with this cut.
    pub tickets: Vec<Ticket>,
    /// When the oldest of these transactions committed, by our clock.
    pub born: Option<Instant>,
}

/// The open batch.
#[derive(Debug)]
pub struct Batch<A> {
    load: Invalidations,
    transactions: Vec<Transaction<A>>,
    /// What is owed for those that have a span: one part of each.
    tickets: BTreeMap<SpanId, Ticket>,
    /// The transaction whose changes arrive now.
    current: Option<Xid>,
    /// Whether it has named a key since the last cut.
    touched: bool,
    /// So many transactions were here when the gate was asked.
    asked: usize,
}

impl<A> Default for Batch<A> {
    fn default() -> Self {
        Batch {
            load: Invalidations::default(),
            transactions: Vec::new(),
            tickets: BTreeMap::new(),
            current: None,
            touched: false,
            asked: 0,
        }
    }
}

impl<A: Copy + Ord> Batch<A> {
    /// A committed transaction's changes follow.
    pub fn begin(&mut self, xid: Xid) {
        self.current = Some(xid);
        self.touched = false;
    }

    #[inline]
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
    pub fn commit(&mut self, xid: Xid, ack: A, ledger: &mut Ledger<A>) {
        let touched = std::mem::take(&mut self.touched);
        self.current = None;
        if touched {
            self.transactions.push(Transaction::new(xid, Some(ack)));
        } else {
            self.idle(ack, ledger);
        }
    }

    /// A streamed transaction committed; `load` was collected while it was open.
    pub fn commit_streamed(&mut self, xid: Xid, mut load: Invalidations, ack: A, ledger: &mut Ledger<A>) {
        if load.is_empty() {
            return self.idle(ack, ledger);
        }
        let ordinal = self.ordinal();
        load.each_set(|set| set.renumber(|_, _| (ordinal, ordinal)));
        self.load.merge(load);
        self.transactions.push(Transaction::new(xid, Some(ack)));
    }

    /// Nothing of interest lies before `ack`: it is confirmed together with what stands before it.
    pub fn idle(&mut self, ack: A, ledger: &mut Ledger<A>) {
        match self.transactions.last_mut() {
            Some(last) if last.span.is_none() => last.ack = last.ack.max(Some(ack)),
            _ => ledger.idle(ack),
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

    /// The keys collected so far that have a page.
    pub fn warms(&self) -> &KeySet {
        &self.load.warms
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

    /// The gate is asked now: a standby has replayed what came from it until then, or will say that it has not. Of a
    /// transaction that is still arriving the commit did not come.
    pub fn asks_gate(&mut self) {
        let is_open = |transaction: &&Transaction<A>| Some(transaction.xid) == self.current;
        self.asked = self.transactions.len() - self.transactions.iter().rev().take_while(is_open).count();
    }

    /// Takes what `snapshot` contains out of the batch; `None` when it contains none of it.
    ///
    /// A key that both a visible and an invisible transaction named leaves *and* stays: deleting it once more is
    /// harmless, deleting it too early only is not.
    pub fn cut(&mut self, snapshot: &Snapshot, ledger: &mut Ledger<A>) -> Option<Cut> {
        self.close_piece();
        let asked = std::mem::take(&mut self.asked);
        let replayed = if matches!(snapshot, Snapshot::Replayed { .. }) { asked } else { 0 };
        let numbered = self.transactions.iter().enumerate();
        let stays: Vec<bool> = numbered.map(|(at, tx)| at >= replayed && !snapshot.contains(tx.xid)).collect();
        if stays.iter().all(|stays| *stays) {
            return None;
        }
        let born =
            self.transactions.iter().zip(&stays).filter(|(_, stays)| !**stays).filter_map(|(tx, _)| tx.born).min();
        let tickets = self.part_spans(&stays, ledger);
        if !stays.contains(&true) {
            self.transactions.clear();
            return Some(Cut { load: std::mem::take(&mut self.load), tickets, born });
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
        Some(Cut { load: leaving, tickets, born })
    }

    /// Says in commit order which parts of which spans leave.
    ///
    /// Transactions without a span get one for each run with the same fate. Those that share a span hold one part of
    /// it together, however many they are: when only some of them leave, the leaving ones get a part of their own.
    fn part_spans(&mut self, stays: &[bool], ledger: &mut Ledger<A>) -> Vec<Ticket> {
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
            let ticket = match span.and_then(|span| self.tickets.remove(&span)) {
                Some(ticket) => ticket,
                // Those that stay are told apart by their spans.
                None if fates.contains(&true) => ledger.open(ack),
                None => ledger.open_or_join(ack),
            };
            let id = ticket.span();
            if let Some(born) = run[0].born {
                ledger.date(&ticket, born);
            }
            match (fates.contains(&false), fates.contains(&true)) {
                (true, true) => {
                    leaving.push(ledger.split(&ticket));
                    self.tickets.insert(id, ticket);
                }
                (true, false) => leaving.push(ticket),
                (false, _) => drop(self.tickets.insert(id, ticket)),
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
