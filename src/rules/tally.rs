//! How much passed through the rules: changes by table and operation, keys by rule, questions by lookup. Plain counters,
//! made once with the rules, so that counting costs a change nothing but an addition. Whoever watches takes them now and
//! then; labels are names of the configuration, so there are no more of them than it has tables, rules and lookups.

use std::cell::Cell;

use crate::change::Row;
use crate::question::LookupId;

/// What a change does, in the order of [`Tallied::changes`].
pub const OPERATIONS: [&str; 4] = ["insert", "update", "delete", "truncate"];

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Tally {
    changes: Vec<[Cell<u64>; OPERATIONS.len()]>,
    keys: Vec<Cell<u64>>,
    questions: Vec<[Cell<u64>; 2]>,
    /// Something was counted since they were taken.
    is_news: Cell<bool>,
    /// Nothing is counted now.
    is_deaf: Cell<bool>,
}

/// What was counted since the last time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tallied {
    /// By table, then by [`OPERATIONS`].
    pub changes: Vec<[u64; OPERATIONS.len()]>,
    /// By rule.
    pub keys: Vec<u64>,
    /// By lookup: questions, and those of them that the server refused.
    pub questions: Vec<[u64; 2]>,
}

/// What the counters are of, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Labels {
    /// What the mark says of the rules.
    pub digest: String,
    /// Tables, with their schemas.
    pub tables: Vec<String>,
    /// Rules, by their places.
    pub rules: Vec<String>,
    /// The tables of each rule, by their place in `tables`.
    pub tables_of: Vec<Vec<usize>>,
    /// Lookups, by their names.
    pub lookups: Vec<String>,
}

impl Tally {
    /// For so many tables, rules and lookups.
    pub(super) fn of(tables: usize, rules: usize, lookups: usize) -> Self {
        Tally {
            changes: (0..tables).map(|_| Default::default()).collect(),
            keys: vec![Cell::default(); rules],
            questions: (0..lookups).map(|_| Default::default()).collect(),
            is_news: Cell::default(),
            is_deaf: Cell::default(),
        }
    }

    /// Does something of which nothing is counted.
    pub(super) fn uncounted(&self, it: impl FnOnce()) {
        self.is_deaf.set(true);
        it();
        self.is_deaf.set(false);
    }

    /// A row of the tables with these indexes changed.
    #[inline]
    pub(super) fn changed(&self, tables: &[usize], row: &Row<'_>) {
        if self.is_deaf.get() {
            return;
        }
        let operation = match row {
            Row::Insert { .. } => 0,
            Row::Update { .. } => 1,
            Row::Delete { .. } => 2,
            Row::Truncate => 3,
        };
        for counts in tables.iter().filter_map(|table| self.changes.get(*table)) {
            more(&counts[operation], 1);
        }
        self.is_news.set(true);
    }

    /// The rule with this index named a key.
    #[inline]
    pub(super) fn named(&self, rule: usize) {
        if let Some(count) = self.keys.get(rule)
            && !self.is_deaf.get()
        {
            more(count, 1);
        }
    }

    /// A lookup was asked so many questions, and the server refused so many.
    pub(super) fn asked(&self, lookup: LookupId, questions: u64, refused: u64) {
        if let Some([all, bad]) = self.questions.get(lookup.0 as usize) {
            more(all, questions);
            more(bad, refused);
        }
        self.is_news.set(true);
    }

    /// Whether something was counted since [`take`](Tally::take).
    pub(super) fn is_news(&self) -> bool {
        self.is_news.get()
    }

    /// What was counted since the last time.
    pub(super) fn take(&self) -> Tallied {
        self.is_news.set(false);
        Tallied {
            changes: self.changes.iter().map(|counts| counts.each_ref().map(Cell::take)).collect(),
            keys: self.keys.iter().map(Cell::take).collect(),
            questions: self.questions.iter().map(|counts| counts.each_ref().map(Cell::take)).collect(),
        }
    }
}

fn more(count: &Cell<u64>, by: u64) {
    count.set(count.get() + by);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Old;

    #[test]
    fn what_was_taken_is_not_counted_again() {
        let tally = Tally::of(2, 1, 1);
        assert!(!tally.is_news());
        tally.changed(&[1], &Row::Truncate);
        tally.changed(&[0, 1], &Row::Delete { old: Old::Absent });
        tally.named(0);
        tally.asked(LookupId(0), 3, 2);
        // None of these exists.
        tally.changed(&[7], &Row::Truncate);
        tally.named(7);
        tally.asked(LookupId(7), 1, 1);
        assert!(tally.is_news());
        let taken = tally.take();
        assert_eq!(taken.changes, [[0, 0, 1, 0], [0, 0, 1, 1]]);
        assert_eq!((taken.keys, taken.questions), (vec![1], vec![[3, 2]]));
        assert!(!tally.is_news());
        tally.uncounted(|| {
            tally.changed(&[1], &Row::Truncate);
            tally.named(0);
        });
        assert!(!tally.is_news());
        assert_eq!((tally.take().changes, tally.take().keys), (vec![[0; 4]; 2], vec![0]));
    }
}
