//! From events to the open batch: which plan a change goes through, and the keys of transactions that are still open.
//! Pure.
//!
//! Keys of a streamed transaction wait here under its xid, never its rows; its abort drops them, its commit moves them
//! into the batch. When memory is short the largest set collapses into its families.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::ack::Window;
use crate::batcher::Batch;
use crate::cache::glob;
use crate::change::{Change, Event, Oid, Relation, Row};
use crate::lsn::Xid;
use crate::rules::{Invalidations, Plan, Rules};

/// What a relation's changes invalidate.
#[derive(Debug)]
enum TablePlan {
    /// What its rules say.
    Rules(Plan),
    /// The catalog no longer knows the table, and it may have been a partition of one that has rules.
    Everything,
}

/// What the loop must do before it takes the next event.
#[derive(Debug)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Ask the catalog which table this relation is a partition of, then call [`Intake::resolved`].
    PartitionRoot(Relation),
}

/// The open batch and what is known about tables and open transactions.
#[derive(Debug)]
pub struct Intake<A> {
    /// The open batch.
    pub batch: Batch<A>,
    plans: HashMap<Oid, TablePlan, RandomState>,
    open: HashMap<Xid, Invalidations, RandomState>,
    open_bytes: usize,
}

impl<A: Copy + Ord> Default for Intake<A> {
    fn default() -> Self {
        Intake { batch: Batch::default(), plans: HashMap::default(), open: HashMap::default(), open_bytes: 0 }
    }
}

impl<A: Copy + Ord> Intake<A> {
    /// Takes one event in.
    #[inline]
    pub fn event(&mut self, event: Event<'_, A>, rules: &Rules, window: &mut Window<A>) -> Need {
        match event {
            Event::Begin(xid) => self.batch.begin(xid),
            Event::Change(change) => self.change(change, rules),
            Event::Open(xid, change) => self.open_change(xid, change, rules),
            Event::Skipped => {}
            Event::Abort(xid) => drop(self.close(xid)),
            Event::Commit(xid, ack) => match self.close(xid) {
                Some(load) => self.batch.commit_streamed(xid, load, ack, window),
                None => self.batch.commit(xid, ack, window),
            },
            Event::Idle(ack) => self.batch.idle(ack, window),
            Event::Relation(relation) => return self.relation(relation, rules),
        }
        Need::Nothing
    }

    #[inline]
    fn change(&mut self, change: Change<'_>, rules: &Rules) {
        match self.plans.get(&change.relation) {
            Some(TablePlan::Rules(plan)) => self.batch.change(plan, &change.row),
            Some(TablePlan::Everything) => self.batch.everything(rules),
            // The source refuses changes of relations that it did not announce; should one come, it may be anybody's.
            None => self.batch.everything(rules),
        }
    }

    fn open_change(&mut self, xid: Xid, change: Change<'_>, rules: &Rules) {
        let load = self.open.entry(xid).or_default();
        let before = load.bytes_used();
        match self.plans.get(&change.relation) {
            Some(TablePlan::Rules(plan)) => plan.apply(&change.row, 0, load),
            Some(TablePlan::Everything) | None => load.everything(rules, 0),
        }
        self.open_bytes = self.open_bytes + load.bytes_used() - before;
    }

    /// What the largest open transaction holds, in bytes.
    pub fn largest(&self) -> usize {
        self.open.values().map(Invalidations::bytes_used).max().unwrap_or(0)
    }

    /// Collapses the largest family of the largest open transaction; says how many bytes that freed.
    pub fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let Some(load) = self.open.values_mut().max_by_key(|load| load.bytes_used()) else { return 0 };
        let before = load.bytes_used();
        load.collapse_largest(rules);
        let freed = before.saturating_sub(load.bytes_used());
        self.open_bytes -= freed;
        freed
    }

    fn close(&mut self, xid: Xid) -> Option<Invalidations> {
        let load = self.open.remove(&xid)?;
        self.open_bytes -= load.bytes_used();
        Some(load)
    }

    fn relation(&mut self, relation: &Relation, rules: &Rules) -> Need {
        if rules.concerns(&relation.schema, &relation.name) {
            let plan = rules.plan(relation, (&relation.schema, &relation.name));
            self.plans.insert(relation.oid, TablePlan::Rules(plan));
            return Need::Nothing;
        }
        Need::PartitionRoot(relation.clone())
    }

    /// The answer to [`Need::PartitionRoot`]: the topmost table, or `None` when the catalog does not know the relation.
    pub fn resolved(&mut self, relation: &Relation, root: Option<(String, String)>, rules: &Rules) {
        let plan = match root {
            Some((schema, table)) => TablePlan::Rules(rules.plan(relation, (&schema, &table))),
            None => TablePlan::Everything,
        };
        self.plans.insert(relation.oid, plan);
    }

    /// The connection ended: open transactions and relations come again.
    pub fn interrupted(&mut self) {
        self.batch.interrupted();
        self.open.clear();
        self.open_bytes = 0;
        self.plans.clear();
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.batch.bytes_used() + self.open_bytes
    }
}

impl<A: Copy + Ord> Batch<A> {
    /// Adds every family of the rules under the current transaction.
    fn everything(&mut self, rules: &Rules) {
        let all = rules.everything();
        self.change(&all, &Row::Truncate);
    }
}

impl Invalidations {
    /// Adds every family of the rules.
    pub fn everything(&mut self, rules: &Rules, tx: u32) {
        rules.everything().apply(&Row::Truncate, tx, self);
    }

    /// Makes the exact keys patterns, for a load that goes to the sweep and not through a flight.
    pub fn widen_keys(&mut self) {
        for key in std::mem::take(&mut self.keys).iter() {
            let mut pattern = Vec::with_capacity(key.bytes.len());
            glob::escape_into(&mut pattern, key.bytes);
            self.patterns.insert(&pattern, key.family, key.first);
        }
    }
}
