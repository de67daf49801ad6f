//! What each table of the stream means to the rules, and whether it is still what it was. Pure.
//!
//! A plan lives as long as the connection, on which the server describes each table before its first change. What a
//! table looked like and whose families it feeds is kept over connections: DDL that changes values without a row
//! change shows in the next description, and a partition that was detached meanwhile still counts as one. Memory is
//! bounded: a table without rules costs its number, one with rules a plan that partitions of the same columns share
//! and a fingerprint; past [`KNOWN_MAX`] of these all are forgotten, and every table counts as changed once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::RandomState;

use crate::change::{Oid, Relation};
use crate::lsn::Xid;
use crate::rules::{Plan, Rules, TableId};

/// Tables, partitions included, of which the last description is remembered.
const KNOWN_MAX: usize = 100_000;

/// A description's hash, by a seed of this process.
type Fingerprint = u64;

/// What a relation's changes invalidate.
#[derive(Clone, Debug)]
pub enum TableMeaning {
    /// What its rules say.
    Rules(Rc<Plan>),
    /// The same, but it was described otherwise before, or never: its families go first, see [`Tables::swept`].
    Changed(Rc<Changed>),
    /// The catalog no longer knows the table, and it may have been a partition of one that has rules.
    Everything,
}

/// A table that is no longer what it was.
#[derive(Debug)]
pub struct Changed {
    /// What its rules say now.
    pub plan: Rc<Plan>,
    /// The tables that it fed and feeds; none when it was never described before.
    sweeps: BTreeSet<TableId>,
    now: Known,
}

impl Changed {
    /// The tables of the rules that its rows belong to, in order.
    pub fn feeds(&self) -> &[TableId] {
        &self.now.feeds
    }

    /// Plans whose TRUNCATE is every family that the table fed or feeds.
    pub fn families(&self, rules: &Rules) -> impl Iterator<Item = Plan> {
        self.sweeps.iter().map(|table| rules.families_of(*table))
    }
}

/// A table as it was last taken into account.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    /// The tables of the rules that its rows belong to, in order.
    feeds: Rc<[TableId]>,
    /// `None`: its next description is no news, see [`Tables::settle`].
    shape: Option<Fingerprint>,
}

/// All tables of the stream.
#[derive(Debug, Default)]
pub struct Tables {
    meanings: HashMap<Oid, TableMeaning, RandomState>,
    /// Tables of the connection that no rule concerns.
    strangers: HashSet<Oid, RandomState>,
    /// One plan for all partitions that look the same.
    plans: HashMap<Fingerprint, Rc<Plan>, RandomState>,
    known: HashMap<Oid, Known, RandomState>,
    /// What relations feed: most feed the same few.
    feeds: Vec<Rc<[TableId]>>,
    /// Descriptions that an open transaction brought: they count when it commits.
    open: HashMap<Oid, (Xid, Known), RandomState>,
    /// Whether `known` was cleared: what it lacks may have changed.
    forgot: bool,
    hasher: RandomState,
}

impl Tables {
    /// What changes of the table mean; `None` when no rule concerns it, [`TableMeaning::Everything`] when nobody knows.
    #[inline]
    pub fn meaning(&self, oid: Oid) -> Option<&TableMeaning> {
        match self.meanings.get(&oid) {
            Some(meaning) => Some(meaning),
            None if self.strangers.contains(&oid) => None,
            // The source refuses changes of relations that it did not announce; should one come, it may be anybody's.
            None => Some(&TableMeaning::Everything),
        }
    }

    /// The tables that a number was last known to feed.
    pub fn known(&self, oid: Oid) -> &[TableId] {
        self.known.get(&oid).map_or(&[], |known| &known.feeds)
    }

    /// Whether tables were forgotten: what they fed is no longer known.
    pub fn has_forgotten(&self) -> bool {
        self.forgot
    }

    /// DDL of the table was announced and judged: that its next description is another one is no news.
    pub fn settle(&mut self, oid: Oid) {
        if let Some(known) = self.known.get_mut(&oid) {
            known.shape = None;
        }
    }

    /// A description of what feeds tables of the rules; `root` is the topmost table above it, or itself.
    pub fn described(&mut self, relation: &Relation, root: (&str, &str), feeds: &[TableId], rules: &Rules) {
        self.strangers.remove(&relation.oid);
        let feeds = self.shared(feeds);
        let layout = self.hasher.hash_one((&feeds, relation.identity, &relation.columns));
        let plan = self.plans.entry(layout).or_insert_with(|| Rc::new(rules.plan_of(relation, &feeds)));
        let plan = Rc::clone(plan);
        let now = Known { feeds, shape: Some(self.hasher.hash_one((relation, root))) };
        let before = self.open.get(&relation.oid).map(|(_, known)| known).or_else(|| self.known.get(&relation.oid));
        let sweeps = match before {
            Some(before) if *before == now => None,
            Some(before) if before.shape.is_none() && before.feeds == now.feeds => Some(BTreeSet::new()),
            Some(before) => Some(now.feeds.iter().chain(before.feeds.iter()).copied().collect::<BTreeSet<_>>()),
            None if self.forgot => Some(now.feeds.iter().copied().collect()),
            // The first description is what later ones are compared with.
            None => Some(BTreeSet::new()),
        };
        let meaning = match sweeps {
            None => TableMeaning::Rules(plan),
            Some(sweeps) => TableMeaning::Changed(Rc::new(Changed { plan, sweeps, now })),
        };
        self.meanings.insert(relation.oid, meaning);
    }

    /// One value for all relations that feed the same.
    fn shared(&mut self, feeds: &[TableId]) -> Rc<[TableId]> {
        let mut feeds = feeds.to_vec();
        feeds.sort_unstable();
        feeds.dedup();
        if let Some(known) = self.feeds.iter().find(|known| ***known == *feeds) {
            return Rc::clone(known);
        }
        let feeds: Rc<[TableId]> = feeds.into();
        self.feeds.push(Rc::clone(&feeds));
        feeds
    }

    /// A description of a table that no rule concerns.
    pub fn stranger(&mut self, oid: Oid) {
        self.meanings.remove(&oid);
        self.strangers.insert(oid);
    }

    /// A description of a table that the catalog does not know.
    pub fn nobody_knows(&mut self, oid: Oid) {
        self.strangers.remove(&oid);
        self.meanings.insert(oid, TableMeaning::Everything);
    }

    /// The families of a changed table were taken in, under the transaction `open` if it is still open.
    pub fn swept(&mut self, oid: Oid, changed: &Changed, open: Option<Xid>) {
        match open {
            Some(xid) => drop(self.open.insert(oid, (xid, changed.now.clone()))),
            None => self.remember(oid, changed.now.clone()),
        }
        self.meanings.insert(oid, TableMeaning::Rules(Rc::clone(&changed.plan)));
    }

    /// An open transaction committed: the tables are now as it described them.
    pub fn committed(&mut self, xid: Xid) {
        if self.open.is_empty() {
            return;
        }
        let settled: Vec<_> = self.open.extract_if(|_, (open, _)| *open == xid).collect();
        for (oid, (_, known)) in settled {
            self.remember(oid, known);
        }
    }

    /// An open transaction was aborted: the tables are as they were.
    pub fn aborted(&mut self, xid: Xid) {
        self.open.retain(|_, (open, _)| *open != xid);
    }

    /// The connection ended: tables are described again, and open transactions come again.
    pub fn interrupted(&mut self) {
        self.meanings.clear();
        self.strangers.clear();
        self.plans.clear();
        self.open.clear();
    }

    fn remember(&mut self, oid: Oid, known: Known) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&oid) {
            self.known.clear();
            self.forgot = true;
        }
        self.known.insert(oid, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ReplicaIdentity};
    use crate::config::Config;

    const NAME: (&str, &str) = ("public", "t");

    fn rules() -> Rules {
        let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
        let file = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
        std::fs::write(file.path(), "[[rules]]\ntable = \"t\"\nkeys = [\"t:{a}\"]\n").expect("the file is ours");
        let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::load(file.path(), urls.into_iter()).expect("valid rules").rules
    }

    fn relation(oid: u32, columns: &[&str]) -> Relation {
        let column = |name: &&str| Column { name: name.to_string(), type_oid: Oid(25), in_identity: true };
        Relation {
            oid: Oid(oid),
            schema: NAME.0.into(),
            name: NAME.1.into(),
            identity: ReplicaIdentity::Full,
            columns: columns.iter().map(column).collect(),
        }
    }

    /// Describes the table, takes a change of it in, and says whether it counted as changed.
    fn changed(tables: &mut Tables, rules: &Rules, columns: &[&str], open: Option<Xid>) -> bool {
        let relation = relation(1, columns);
        let table = rules.table(NAME.0, NAME.1).expect("a rule names it");
        tables.described(&relation, NAME, &[table], rules);
        let Some(TableMeaning::Changed(changed)) = tables.meaning(relation.oid).cloned() else { return false };
        tables.swept(relation.oid, &changed, open);
        assert!(matches!(tables.meaning(relation.oid), Some(TableMeaning::Rules(_))), "its families go once");
        changed.families(rules).count() > 0
    }

    #[test]
    fn a_table_counts_as_changed_until_a_transaction_that_committed_swept_it() {
        let (rules, mut tables, xid) = (rules(), Tables::default(), Xid(7));
        assert!(!changed(&mut tables, &rules, &["z"], Some(xid)));
        assert!(changed(&mut tables, &rules, &["y"], Some(xid)), "altered in the transaction that described it first");
        tables.aborted(xid);
        assert!(!changed(&mut tables, &rules, &["a"], None), "the first description is the baseline");
        assert!(!changed(&mut tables, &rules, &["a"], None));
        assert!(changed(&mut tables, &rules, &["a", "b"], Some(xid)));
        tables.aborted(xid);
        assert!(!changed(&mut tables, &rules, &["a"], None), "nothing of it happened");
        assert!(changed(&mut tables, &rules, &["a", "b"], Some(xid)));
        tables.interrupted();
        assert!(changed(&mut tables, &rules, &["a", "b"], Some(xid)), "its keys were dropped with the connection");
        tables.committed(xid);
        tables.interrupted();
        assert!(!changed(&mut tables, &rules, &["a", "b"], None));
        assert!(changed(&mut tables, &rules, &["b", "a"], None));
    }

    #[test]
    fn a_description_that_was_announced_is_no_news_once() {
        let (rules, mut tables) = (rules(), Tables::default());
        assert!(!changed(&mut tables, &rules, &["a"], None));
        tables.settle(Oid(1));
        tables.settle(Oid(2));
        assert!(!changed(&mut tables, &rules, &["a", "b"], None), "the announcement was judged");
        assert!(!changed(&mut tables, &rules, &["a", "b"], None));
        assert!(changed(&mut tables, &rules, &["a"], None), "this one nobody announced");
    }

    #[test]
    fn what_was_forgotten_counts_as_changed_once_and_partitions_share_a_plan() {
        let (rules, mut tables) = (rules(), Tables::default());
        let table = rules.table(NAME.0, NAME.1).expect("a rule names it");
        for oid in 1..=KNOWN_MAX as u32 + 1 {
            tables.described(&relation(oid, &["a"]), NAME, &[table], &rules);
            let Some(TableMeaning::Changed(first)) = tables.meaning(Oid(oid)).cloned() else { panic!("{oid} is new") };
            tables.swept(Oid(oid), &first, None);
        }
        assert_eq!((tables.plans.len(), tables.known.len(), tables.forgot), (1, 1, true));
        assert!(changed(&mut tables, &rules, &["a"], None));
        assert!(!changed(&mut tables, &rules, &["a"], None));
    }

    #[test]
    fn a_number_that_was_never_described_may_be_anybodys() {
        let mut tables = Tables::default();
        assert!(matches!(tables.meaning(Oid(1)), Some(TableMeaning::Everything)));
        tables.stranger(Oid(1));
        assert!(tables.meaning(Oid(1)).is_none());
    }
}
