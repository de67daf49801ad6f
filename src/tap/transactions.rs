//! Events to transactions that delete something.

use std::time::Duration;

use crate::change::Event;
use crate::feed::intake::{Intake, Need};
use crate::gate::Snapshot;
use crate::ledger::Ledger;
use crate::lsn::Xid;
use crate::rules::{Invalidations, Rules};

/// The pause before a transaction with lookups is looked for again.
pub(super) const GATE_PAUSE: Duration = Duration::from_millis(1);

/// One committed transaction, or a piece of it, that deletes something.
#[derive(Debug)]
pub struct Transaction {
    /// Its number in the stream.
    pub xid: Xid,
    /// Place of its commit among all, from 1.
    pub commit: u64,
    /// Place among the transactions, and pieces of them, that delete something, from 1.
    pub ordinal: u64,
    /// What its rows name directly.
    pub load: Invalidations,
}

/// Events to transactions, one by one, on the loop's own road. A transaction past the bound comes in pieces.
#[derive(Debug)]
pub(super) struct Transactions<A> {
    intake: Intake<A>,
    ledger: Ledger<A>,
    /// The transaction whose changes arrive now.
    current: Option<Xid>,
    bytes_max: usize,
    commits: u64,
    ordinal: u64,
}

impl<A: Copy + Ord> Transactions<A> {
    /// `bytes_max` bounds the keys of the transactions that are still open, and those of the one that arrives.
    pub(super) fn new(bytes_max: usize) -> Self {
        Transactions {
            intake: Intake::default(),
            ledger: Ledger::default(),
            current: None,
            bytes_max,
            commits: 0,
            ordinal: 0,
        }
    }

    /// Takes one event in; a commit, or a piece that is large enough, gives what to delete.
    pub(super) fn event(&mut self, event: Event<'_, A>, rules: &Rules) -> (Need, Option<Transaction>) {
        let committed = match &event {
            Event::Commit(xid, _) => Some(*xid),
            Event::Begin(xid) => {
                self.current = Some(*xid);
                None
            }
            Event::Relation(_)
            | Event::Change(_)
            | Event::Open(..)
            | Event::Message(..)
            | Event::Abort(_)
            | Event::Skipped
            | Event::Idle(_) => None,
        };
        let need = self.intake.event(event, rules, &mut self.ledger);
        let full = self.intake.batch.bytes_used() > self.bytes_max;
        while self.intake.bytes_used() > 2 * self.bytes_max && self.intake.collapse_largest(rules) > 0 {}
        let leaving = committed.or(self.current.filter(|_| full));
        let cut = leaving.and_then(|xid| self.cut(xid));
        self.commits += u64::from(committed.is_some());
        (need, cut)
    }

    /// See [`Intake::resolved`].
    pub(super) fn resolved(&mut self, need: Need, tables: Option<Vec<(String, String)>>, rules: &Rules) {
        match need {
            Need::Nothing | Need::Warning | Need::Untold | Need::Refusal(_) => {}
            Need::Tables(relation) => self.intake.resolved(&relation, tables, rules),
        }
    }

    /// Commits that were taken in.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    fn cut(&mut self, xid: Xid) -> Option<Transaction> {
        // Nothing is confirmed here: the window only takes what the batch hands it.
        let cut = self.intake.batch.cut(&Snapshot::Everything, &mut self.ledger);
        self.ledger = Ledger::default();
        let load = cut?.load;
        if load.is_empty() {
            return None;
        }
        self.ordinal += 1;
        Some(Transaction { xid, commit: self.commits + 1, ordinal: self.ordinal, load })
    }
}
