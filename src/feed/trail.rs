//! What single changes ask for, gathered for people who watch: see [`Traced`].
//!
//! A change is put to its plan once more, by itself, as the batch does not keep which change named a key. That is done for
//! so many changes a second and for no more, so a flood costs nothing but a count. Keys behind a lookup follow when it
//! is answered for the batch; nothing is asked for the trail.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use foldhash::fast::RandomState;

use crate::change::Row;
use crate::keys::KeySet;
use crate::lsn::Xid;
use crate::observe::trail::{KEY_BYTES_MAX, KEYS_MAX, NamedKey, Traced};
use crate::question::{Answer, Question};
use crate::rules::{Invalidations, Plan, Rules, TableId};
use crate::tag::told;

/// Changes of a second that are put to their plan once more.
const A_SECOND: u32 = 200;

/// Changes that wait for their commit, or for a lookup.
const WAITING_MAX: usize = 1_000;

#[derive(Debug)]
struct Taken {
    table: TableId,
    operation: &'static str,
    load: Invalidations,
    left_out: u64,
}

/// A taken change whose transaction committed.
#[derive(Debug)]
struct Committed<A> {
    taken: Taken,
    ack: A,
    at: SystemTime,
}

/// What is gathered; nothing by default.
#[derive(Debug)]
pub struct Trail<A> {
    /// Changes that may still be taken before the next filling.
    left: u32,
    filled: Option<Instant>,
    left_out: u64,
    /// Of the transaction whose changes arrive now.
    begun: Vec<Taken>,
    /// Of transactions that are still open.
    open: HashMap<Xid, Vec<Taken>, RandomState>,
    /// Committed, and nobody said when.
    undated: Vec<(Taken, A)>,
    /// Waits for lookups.
    asking: VecDeque<Committed<A>>,
    ready: Vec<(A, Traced)>,
}

impl<A> Default for Trail<A> {
    fn default() -> Self {
        Trail {
            left: 0,
            filled: None,
            left_out: 0,
            begun: Vec::new(),
            open: HashMap::default(),
            undated: Vec::new(),
            asking: VecDeque::new(),
            ready: Vec::new(),
        }
    }
}

impl<A: Copy> Trail<A> {
    /// One that gathers.
    pub(super) fn followed() -> Self {
        Trail { left: A_SECOND, ..Trail::default() }
    }

    /// Whether the next change is to be taken; one that is not is counted.
    #[inline]
    pub(super) fn takes(&mut self) -> bool {
        let takes = self.left > 0;
        self.left_out += u64::from(!takes);
        takes
    }

    /// Puts a change of the table to its plan; of the open transaction `xid`, or of the one that arrives now.
    #[cold]
    pub(super) fn take(&mut self, table: TableId, plan: &Plan, row: &Row<'_>, xid: Option<Xid>) {
        self.left -= 1;
        let mut load = Invalidations::default();
        plan.sketch(row, 0, &mut load);
        if load.keys.is_empty() && load.patterns.is_empty() && load.lookups.is_empty() {
            return;
        }
        let operation = match row {
            Row::Insert { .. } => "insert",
            Row::Update { .. } => "update",
            Row::Delete { .. } => "delete",
            Row::Truncate => "truncate",
        };
        let taken = Taken { table, operation, load, left_out: std::mem::take(&mut self.left_out) };
        let waiting = self.open.values().map(Vec::len).sum::<usize>() + self.begun.len();
        match xid {
            _ if waiting >= WAITING_MAX => self.left_out += 1 + taken.left_out,
            Some(xid) => self.open.entry(xid).or_default().push(taken),
            None => self.begun.push(taken),
        }
    }

    /// A committed transaction's changes follow.
    pub(super) fn begin(&mut self) {
        self.begun.clear();
    }

    /// The transaction committed.
    pub(super) fn commit(&mut self, xid: Xid, ack: A) {
        let open = self.open.remove(&xid).unwrap_or_default();
        self.undated.extend(open.into_iter().chain(self.begun.drain(..)).map(|taken| (taken, ack)));
    }

    /// The open transaction is undone.
    pub(super) fn abort(&mut self, xid: Xid) {
        self.open.remove(&xid);
    }

    /// What was not handed over comes again.
    pub(super) fn interrupted(&mut self) {
        self.begun.clear();
        self.open.clear();
        self.undated.clear();
        self.asking.clear();
    }

    /// What could be taken was; it committed so long ago.
    pub(super) fn taken(&mut self, late: Duration, rules: &Rules) {
        let now = Instant::now();
        if self.filled.is_none_or(|filled| now.saturating_duration_since(filled) >= Duration::from_secs(1)) {
            (self.filled, self.left) = (Some(now), A_SECOND);
        }
        if self.undated.is_empty() {
            return;
        }
        let at = SystemTime::now().checked_sub(late).unwrap_or(SystemTime::UNIX_EPOCH);
        for (taken, ack) in std::mem::take(&mut self.undated) {
            let committed = Committed { taken, ack, at };
            match committed.taken.load.lookups.is_empty() {
                true => self.ready.push((ack, committed.changed(rules))),
                false if self.asking.len() < WAITING_MAX => self.asking.push_back(committed),
                false => self.left_out += 1,
            }
        }
    }

    /// Whether a change waits for lookups.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Lookups were answered.
    pub(super) fn answered(&mut self, rules: &Rules, questions: &[Question], answers: &[Answer]) {
        let answered: HashSet<&Question> = questions.iter().collect();
        for mut committed in std::mem::take(&mut self.asking) {
            let load = &mut committed.taken.load;
            let asked = rules.questions(&load.lookups);
            if asked.iter().all(|question| answered.contains(question)) {
                let lookups = std::mem::take(&mut load.lookups);
                rules.resolve(&lookups, questions, answers, load);
                self.ready.push((committed.ack, committed.changed(rules)));
            } else {
                self.asking.push_back(committed);
            }
        }
    }

    /// What is complete, with the position of its commit.
    pub(super) fn ready(&mut self) -> Vec<(A, Traced)> {
        std::mem::take(&mut self.ready)
    }
}

impl<A> Committed<A> {
    fn changed(self, rules: &Rules) -> Traced {
        let Committed { taken: Taken { table, operation, load, left_out }, at, .. } = self;
        let (schema, name) = rules.name_of(table);
        let count = load.keys.len() + load.patterns.len();
        let keys = named(&load.keys, false, rules).chain(named(&load.patterns, true, rules)).take(KEYS_MAX);
        let keys: Vec<NamedKey> = keys.collect();
        let more = count - keys.len();
        let table = Arc::from(format!("{schema}.{name}"));
        Traced { number: 0, table, operation, keys, more, left_out, committed: at }
    }
}

fn named<'a>(keys: &'a KeySet, is_pattern: bool, rules: &'a Rules) -> impl Iterator<Item = NamedKey> + 'a {
    keys.iter().map(move |key| NamedKey {
        rule: rules.origin(key.family).map_or("", |(place, _)| place).into(),
        key: told(&key.bytes[..key.bytes.len().min(KEY_BYTES_MAX)]),
        is_pattern,
    })
}
