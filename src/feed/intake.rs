//! From events to the open batch: which plan a change goes through, and the keys of transactions that are still open.
//! Pure.
//!
//! Keys of a streamed transaction wait here under its xid, never its rows; its abort drops them, its commit moves them
//! into the batch. When memory is short the largest set collapses into its families.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use crate::change::{Change, Event, MessagePlace, Relation};
use crate::control::CatalogView;
use crate::feed::batch::Batch;
use crate::feed::ddl::{Ddl, Verdict};
use crate::feed::tables::{TableMeaning, Tables};
use crate::feed::trail::Trail;
use crate::keys::TxOrdinal;
use crate::ledger::Ledger;
use crate::lsn::Xid;
use crate::notice::DdlNotice;
use crate::rules::plan::cause::Cause;
use crate::rules::plan::custom::{Allowed, Asked};
use crate::rules::{Invalidations, Plan, Rules, TableId};

/// What the loop must do before it takes the next event.
#[derive(Debug)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Ask the catalog which tables the rows of this relation belong to, then call [`Intake::resolved`].
    Tables(Relation),
    /// Say that a message with our prefix was not understood and sweeps everything; asked for once.
    Warning,
    /// Say that DDL was not announced and sweeps everything.
    Untold,
    /// Say that so many keys which a transaction named are not allowed, and stay.
    Refusal(u64),
}

/// Adds the change to the trail.
#[cold]
fn trace<A: Copy>(trail: &mut Trail<A>, feeds: &[TableId], plan: &Plan, change: &Change<'_>, xid: Option<Xid>) {
    if let Some(table) = feeds.first() {
        trail.take(*table, plan, &change.row, xid);
    }
}

/// The open batch and what is known about tables and open transactions.
#[derive(Debug)]
pub struct Intake<A> {
    /// The open batch.
    pub batch: Batch<A>,
    tables: Tables,
    ddl: Ddl,
    open: HashMap<Xid, Invalidations, RandomState>,
    open_bytes: usize,
    /// Whether a message was not understood.
    misunderstood: bool,
    /// Whether a table was altered since that was last asked.
    altered: bool,
    /// The plan that is every family of the rules, made when it is first needed: a relation that nobody knows needs it for
    /// each row. An intake lives with one set of rules.
    everything: OnceCell<Rc<Plan>>,
    /// What single changes ask for, for people who watch.
    pub(super) trail: Trail<A>,
}

impl<A: Copy + Ord> Default for Intake<A> {
    fn default() -> Self {
        Intake {
            batch: Batch::default(),
            tables: Tables::default(),
            ddl: Ddl::default(),
            open: HashMap::default(),
            open_bytes: 0,
            misunderstood: false,
            altered: false,
            everything: OnceCell::new(),
            trail: Trail::default(),
        }
    }
}

impl<A: Copy + Ord> Intake<A> {
    /// One of which single changes are followed.
    pub fn followed() -> Self {
        Intake { trail: Trail::followed(), ..Intake::default() }
    }

    /// Takes one event in.
    #[inline]
    pub fn event(&mut self, event: Event<'_, A>, rules: &Rules, ledger: &mut Ledger<A>) -> Need {
        match event {
            Event::Begin(xid) => {
                self.ddl.begin();
                self.batch.begin(xid);
                self.trail.begin();
            }
            Event::Change(change) => self.change(change, rules),
            Event::Open(xid, change) => self.open_change(xid, change, rules),
            Event::Skipped => {}
            Event::Abort(xid) => {
                self.tables.aborted(xid);
                self.ddl.aborted(xid);
                self.trail.abort(xid);
                drop(self.close(xid));
            }
            Event::Commit(xid, ack) => {
                self.tables.committed(xid);
                self.ddl.committed_open(xid);
                self.trail.commit(xid, ack);
                let verdict = self.ddl.commit(xid, rules);
                self.judged(MessagePlace::Committed, verdict, rules);
                match self.close(xid) {
                    Some(load) => self.batch.commit_streamed(xid, load, ack, ledger),
                    None => self.batch.commit(xid, ack, ledger),
                }
            }
            Event::Idle(ack) => self.batch.idle(ack, ledger),
            Event::Relation(relation) => return Need::Tables(relation.clone()),
            Event::Message(place, content) => return self.message(place, content, rules),
        }
        Need::Nothing
    }

    #[inline]
    fn change(&mut self, change: Change<'_>, rules: &Rules) {
        match self.tables.meaning(change.relation) {
            Some(TableMeaning::Rules(plan)) => {
                if self.trail.takes() {
                    trace(&mut self.trail, self.tables.known(change.relation), plan, &change, None);
                }
                self.batch.change(plan, &change.row);
            }
            Some(TableMeaning::Everything) => {
                let everything = self.everything(rules);
                self.batch.whole(&everything, Cause::Unknown);
            }
            Some(TableMeaning::Changed(changed)) => {
                self.altered = true;
                let changed = Rc::clone(changed);
                if self.trail.takes() {
                    trace(&mut self.trail, changed.feeds(), &changed.plan, &change, None);
                }
                changed.families(rules).for_each(|plan| self.batch.whole(&plan, Cause::Ddl));
                self.batch.change(&changed.plan, &change.row);
                self.tables.swept(change.relation, &changed, None);
            }
            None => {}
        }
    }

    fn open_change(&mut self, xid: Xid, change: Change<'_>, rules: &Rules) {
        let Some(meaning) = self.tables.meaning(change.relation).cloned() else { return };
        let plan = match &meaning {
            TableMeaning::Rules(plan) => Some((plan, self.tables.known(change.relation))),
            TableMeaning::Changed(changed) => Some((&changed.plan, changed.feeds())),
            TableMeaning::Everything => None,
        };
        if let Some((plan, feeds)) = plan
            && self.trail.takes()
        {
            trace(&mut self.trail, feeds, plan, &change, Some(xid));
        }
        let everything = matches!(meaning, TableMeaning::Everything).then(|| self.everything(rules));
        self.open_load(xid, |load| match &meaning {
            TableMeaning::Rules(plan) => plan.apply(&change.row, 0, load),
            TableMeaning::Everything => everything.iter().for_each(|plan| plan.whole(Cause::Unknown, 0, load)),
            TableMeaning::Changed(changed) => {
                changed.families(rules).for_each(|plan| plan.whole(Cause::Ddl, 0, load));
                changed.plan.apply(&change.row, 0, load);
            }
        });
        if let TableMeaning::Changed(changed) = &meaning {
            self.altered = true;
            self.tables.swept(change.relation, changed, Some(xid));
        }
    }

    fn everything(&self, rules: &Rules) -> Rc<Plan> {
        Rc::clone(self.everything.get_or_init(|| Rc::new(rules.everything())))
    }

    /// Adds to the keys of an open transaction.
    #[inline]
    fn open_load(&mut self, xid: Xid, add: impl FnOnce(&mut Invalidations)) {
        let load = self.open.entry(xid).or_default();
        let before = load.bytes_used();
        add(load);
        self.open_bytes = self.open_bytes + load.bytes_used() - before;
    }

    /// A message with our prefix; one that is not understood may concern anybody.
    fn message(&mut self, place: MessagePlace, content: &[u8], rules: &Rules) -> Need {
        let asked = match DdlNotice::parse(content) {
            Some(DdlNotice::Ddl { tables, snapshot }) => {
                self.altered = true;
                match place {
                    MessagePlace::Committed => self.ddl.altered(tables, snapshot.as_deref()),
                    MessagePlace::Open(xid) => {
                        let verdict = self.ddl.altered_at_once(&tables, snapshot.as_deref(), xid, rules);
                        self.judged(place, verdict, rules);
                    }
                    MessagePlace::Outside => {
                        let verdict = self.ddl.altered_at_once(&tables, None, Xid::NONE, rules);
                        self.judged(place, verdict, rules);
                    }
                }
                return Need::Nothing;
            }
            Some(DdlNotice::Dropped { tables }) => {
                self.altered = true;
                match place {
                    MessagePlace::Committed => self.ddl.dropped(tables),
                    MessagePlace::Open(xid) => {
                        let verdict = self.ddl.dropped_at_once(&tables, xid, rules);
                        self.judged(place, verdict, rules);
                    }
                    MessagePlace::Outside => {
                        let verdict = self.ddl.dropped_at_once(&tables, Xid::NONE, rules);
                        self.judged(place, verdict, rules);
                    }
                }
                return Need::Nothing;
            }
            Some(DdlNotice::DdlUntold {}) => {
                self.altered = true;
                let everything = self.everything(rules);
                self.named(place, |tx, load| everything.whole(Cause::Ddl, tx, load));
                self.ddl.untold(place);
                return Need::Untold;
            }
            None => {
                let everything = self.everything(rules);
                self.named(place, |tx, load| everything.whole(Cause::Unreadable, tx, load));
                // It may be about DDL.
                self.ddl.untold(place);
                let said = std::mem::replace(&mut self.misunderstood, true);
                return if said { Need::Nothing } else { Need::Warning };
            }
            Some(DdlNotice::Invalidate { patterns }) => (patterns, Asked::Glob as fn(_) -> _),
            Some(DdlNotice::InvalidateExact { keys }) => (keys, Asked::Key as fn(_) -> _),
            Some(DdlNotice::InvalidateAll {}) => (vec![String::new()], (|_| Asked::Everything) as fn(_) -> _),
        };
        let (texts, kind) = asked;
        let mut refused = 0;
        self.named(place, |tx, load| {
            load.causes.add(Cause::Asked);
            let allowed = texts.iter().map(|text| rules.custom(kind(text.as_bytes()), tx, load));
            refused = allowed.filter(|allowed| *allowed == Allowed::No).count() as u64;
        });
        if refused > 0 { Need::Refusal(refused) } else { Need::Nothing }
    }

    /// Adds the families of tables that DDL may have changed.
    fn judged(&mut self, place: MessagePlace, Verdict { mut sweeps, changed, settled }: Verdict, rules: &Rules) {
        let unknown = changed.iter().filter(|oid| self.tables.known(**oid).is_empty()).count();
        sweeps.extend(changed.iter().flat_map(|oid| self.tables.known(*oid)).copied());
        if unknown > 0 && self.tables.has_forgotten() {
            sweeps.extend(rules.table_ids());
        }
        for table in sweeps {
            let families = rules.families_of(table);
            self.named(place, |tx, load| families.whole(Cause::Ddl, tx, load));
        }
        settled.into_iter().for_each(|oid| self.tables.settle(oid));
    }

    /// What readers saw of the tables when the connection was new.
    pub fn catalog(&mut self, view: Option<CatalogView>, rules: &Rules) {
        self.ddl.read(view, rules);
    }

    /// Adds what a message names.
    fn named(&mut self, place: MessagePlace, add: impl FnOnce(TxOrdinal, &mut Invalidations)) {
        match place {
            MessagePlace::Committed => self.batch.named(add),
            MessagePlace::Open(xid) => self.open_load(xid, |load| add(0, load)),
            MessagePlace::Outside => self.batch.outside(add),
        }
    }

    /// Whether a table was altered since this was last asked. Whoever prepares a statement on it from now on waits for
    /// that transaction's lock, and sees what it did.
    pub fn take_altered(&mut self) -> bool {
        std::mem::take(&mut self.altered)
    }

    /// What the largest open transaction holds, in bytes.
    pub fn largest(&self) -> usize {
        self.open.values().map(Invalidations::bytes_used).max().unwrap_or(0)
    }

    /// Collapses the largest family of the largest open transaction; says how many bytes that freed.
    pub fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let Some(load) = self.open.values_mut().max_by_key(|load| load.bytes_used()) else { return 0 };
        let freed = load.collapse_largest(rules);
        self.open_bytes -= freed;
        freed
    }

    fn close(&mut self, xid: Xid) -> Option<Invalidations> {
        let load = self.open.remove(&xid)?;
        self.open_bytes -= load.bytes_used();
        Some(load)
    }

    /// The answer to [`Need::Tables`]: the topmost table of its partition tree, or itself, then the tables that it inherits
    /// from; `None` when the catalog does not know the relation.
    ///
    /// The catalog is ahead of the stream: a table that was a partition, or inherited, keeps feeding its families when
    /// that ends.
    pub fn resolved(&mut self, relation: &Relation, tables: Option<Vec<(String, String)>>, rules: &Rules) {
        let itself = (relation.schema.clone(), relation.name.clone());
        let is_known = tables.is_some();
        let tables = tables.unwrap_or_else(|| vec![itself.clone()]);
        let named = tables.iter().chain([&itself]).filter_map(|(schema, table)| rules.table(schema, table));
        let feeds: Vec<TableId> = named.chain(self.tables.known(relation.oid).iter().copied()).collect();
        let (schema, name) = tables.first().unwrap_or(&itself);
        match feeds.is_empty() {
            // A table that is gone from the catalog feeds what its name and what was known of it say.
            false if is_known || rules.concerns(&itself.0, &itself.1) => {
                self.tables.described(relation, (schema, name), &feeds, rules);
            }
            true if is_known => self.tables.stranger(relation.oid),
            true | false => self.tables.nobody_knows(relation.oid),
        }
    }

    /// The connection ended: open transactions and relations come again.
    pub fn interrupted(&mut self) {
        self.batch.interrupted();
        self.trail.interrupted();
        self.open.clear();
        self.open_bytes = 0;
        self.tables.interrupted();
        self.ddl.interrupted();
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.batch.bytes_used() + self.open_bytes
    }
}
