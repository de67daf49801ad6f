//! Which DDL may have changed a value that readers see. Pure.
//!
//! The event triggers say behind each DDL statement what readers see of its tables now (their look), in the stream and
//! so in the order of commits. What they saw before is known from the catalog, read once for each connection, and from
//! the announcements since. A transaction is judged at its commit, by the last look of each table: a column that came
//! and went again changes nothing. While a transaction is open, parts of it may yet be undone, so each statement of a
//! streamed one counts.
//!
//! Invariant: a look is compared only with one whose transaction its own snapshot contains. Otherwise one of the two
//! lacks what the other did, and two that are equal by chance would hide a change. In doubt the keys go, and the next
//! DDL of the table is in doubt as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::change::{MessagePlace, Oid};
use crate::control::CatalogView;
use crate::gate::Snapshot;
use crate::lsn::Xid;
use crate::notice::{Look, Touched};
use crate::rules::{Rules, TableId};

/// Tables that one transaction may touch before all of them are in doubt.
const TOUCHED_MAX: usize = 10_000;

/// Stands for every table; no table has this number (`InvalidOid`).
const ALL: Oid = Oid(0);

/// A table as it was announced last.
#[derive(Debug)]
struct Known {
    look: Look,
    /// Whether the look is what readers see now. Its parts count all the same.
    is_sure: bool,
    /// Its table of the rules, if a rule names it.
    table: Option<TableId>,
    /// Who announced it; `None`: it was there when the catalog was read.
    by: Option<Xid>,
}

/// What a transaction said of one table, last.
#[derive(Debug)]
struct Said {
    touched: Touched,
    /// Every value may be another one, whatever the look says.
    surely: bool,
    snapshot: Option<Snapshot>,
}

/// The looks of all tables that matter to the rules.
#[derive(Debug, Default)]
pub struct Ddl {
    /// When the catalog was read; `None`: never, and every announcement is in doubt.
    read: Option<Snapshot>,
    known: HashMap<Oid, Known, RandomState>,
    /// The transaction of the last Begin, and what it said.
    current: BTreeMap<Oid, Said>,
    dropped: Vec<Touched>,
    /// It did what nobody knows.
    is_untold: bool,
    /// Tables that open transactions touched: nothing is sure of them when these commit.
    open: HashMap<Xid, BTreeSet<Oid>, RandomState>,
}

/// What a commit comes to.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Tables whose keys go.
    pub sweeps: BTreeSet<TableId>,
    /// Relations in which values may have changed; so may those of the tables that they once fed.
    pub changed: Vec<Oid>,
    /// Relations whose next description is no news: this was the judgement of it.
    pub settled: Vec<Oid>,
}

impl Ddl {
    /// The catalog was read behind a new connection.
    pub fn read(&mut self, view: Option<CatalogView>, rules: &Rules) {
        *self = Ddl::default();
        let Some(view) = view else { return };
        self.read = Some(view.snapshot);
        self.known.extend(view.tables.into_iter().filter_map(|touched| {
            let table = rules.table(&touched.schema, &touched.name);
            // One without a look stays unknown.
            Some((touched.oid(), Known { table, is_sure: true, by: None, look: touched.look? }))
        }));
    }

    /// A committed transaction follows.
    pub fn begin(&mut self) {
        self.current.clear();
        self.dropped.clear();
        self.is_untold = false;
    }

    /// DDL was not announced, and every key goes: what is known of the tables is no more sure behind it.
    pub fn untold(&mut self, place: MessagePlace) {
        match place {
            MessagePlace::Committed => self.is_untold = true,
            MessagePlace::Open(xid) => self.unsure_behind(xid, ALL),
            MessagePlace::Outside => self.known.values_mut().for_each(|known| known.is_sure = false),
        }
    }

    /// The committed transaction altered these tables.
    pub fn altered(&mut self, tables: Vec<Touched>, snapshot: Option<&str>) {
        let snapshot = snapshot.and_then(|text| Snapshot::parse(text).ok());
        for touched in tables {
            let said = self.current.get(&touched.oid());
            let before = said.map_or_else(
                || self.known.get(&touched.oid()).map(|known| &known.look),
                |said| said.touched.look.as_ref(),
            );
            // Rows of a partition that is elsewhere for a while are not in the stream, even if it is back at the commit.
            let moved = before.zip(touched.look.as_ref()).is_some_and(|(before, look)| before.parts != look.parts);
            let surely = moved || touched.look.is_none() || said.is_some_and(|said| said.surely);
            self.current.insert(touched.oid(), Said { touched, surely, snapshot: snapshot.clone() });
        }
    }

    /// The committed transaction dropped these tables.
    pub fn dropped(&mut self, tables: Vec<Touched>) {
        self.dropped.extend(tables);
    }

    /// The committed transaction ends here: which tables it changed.
    pub fn commit(&mut self, xid: Xid, rules: &Rules) -> Verdict {
        let verdict = self.judge(xid, rules);
        if std::mem::take(&mut self.is_untold) {
            self.untold(MessagePlace::Outside);
        }
        verdict
    }

    fn judge(&mut self, xid: Xid, rules: &Rules) -> Verdict {
        if self.current.is_empty() && self.dropped.is_empty() {
            return Verdict::default();
        }
        let mut verdict = Verdict::default();
        let said = std::mem::take(&mut self.current);
        for (oid, said) in &said {
            if said.surely || self.in_doubt(&said.touched, said.snapshot.as_ref(), xid) {
                verdict.sweeps.extend(self.fed_by(&said.touched, rules));
                verdict.changed.push(*oid);
            }
        }
        for touched in std::mem::take(&mut self.dropped) {
            verdict.sweeps.extend(self.lost_with(&touched, xid, rules));
            verdict.changed.push(touched.oid());
            self.forget(touched.oid());
        }
        for (oid, said) in said {
            if self.remember(oid, said, xid, rules) {
                verdict.settled.push(oid);
            }
        }
        verdict
    }

    /// A transaction that is open, or none, altered these tables: which of them it may have changed.
    pub fn altered_at_once(&mut self, tables: &[Touched], snapshot: Option<&str>, xid: Xid, rules: &Rules) -> Verdict {
        let snapshot = snapshot.and_then(|text| Snapshot::parse(text).ok());
        let mut verdict = Verdict::default();
        for touched in tables {
            if self.in_doubt(touched, snapshot.as_ref(), xid) {
                verdict.sweeps.extend(self.fed_by(touched, rules));
                verdict.changed.push(touched.oid());
            }
            self.unsure_behind(xid, touched.oid());
        }
        verdict
    }

    /// A transaction that is open, or none, dropped these tables.
    pub fn dropped_at_once(&mut self, tables: &[Touched], xid: Xid, rules: &Rules) -> Verdict {
        let sweeps = tables.iter().flat_map(|touched| self.lost_with(touched, xid, rules)).collect();
        tables.iter().for_each(|touched| self.unsure_behind(xid, touched.oid()));
        Verdict { sweeps, changed: tables.iter().map(Touched::oid).collect(), settled: Vec::new() }
    }

    /// An open transaction committed: parts of what it said may have been undone.
    pub fn committed_open(&mut self, xid: Xid) {
        if self.open.is_empty() {
            return;
        }
        let touched = self.open.remove(&xid).unwrap_or_default();
        let all = touched.contains(&ALL);
        let known = self.known.iter_mut().filter(|(oid, _)| all || touched.contains(oid));
        known.for_each(|(_, known)| known.is_sure = false);
    }

    /// An open transaction was aborted.
    pub fn aborted(&mut self, xid: Xid) {
        self.open.remove(&xid);
    }

    /// The connection ended: open transactions come again, and the catalog is read anew.
    pub fn interrupted(&mut self) {
        *self = Ddl::default();
    }

    /// Whether values of a table may be others than they were. What the catalog showed already when it was read cannot
    /// be told from what was there before.
    fn in_doubt(&self, touched: &Touched, snapshot: Option<&Snapshot>, xid: Xid) -> bool {
        let (Some(look), Some(known)) = (&touched.look, self.known.get(&touched.oid())) else { return true };
        let Some(read) = self.read.as_ref().filter(|read| !read.contains(xid)) else { return true };
        !known.is_sure || !is_based_on(snapshot, known, read) || known.look.differs(look)
    }

    /// The tables of the rules to which a table's rows belong, or belonged.
    fn fed_by(&self, touched: &Touched, rules: &Rules) -> BTreeSet<TableId> {
        let oid = touched.oid();
        let above =
            self.known.values().filter(|known| known.look.parts.contains(&oid.0)).filter_map(|known| known.table);
        let own = self.known.get(&oid).and_then(|known| known.table);
        above.chain(own).chain(rules.table(&touched.schema, &touched.name)).collect()
    }

    /// The tables of the rules that a dropped table may have fed. Where the catalog was read behind the drop, or never,
    /// that is every table that had partitions, or all.
    fn lost_with(&self, touched: &Touched, xid: Xid, rules: &Rules) -> BTreeSet<TableId> {
        let mut out = self.fed_by(touched, rules);
        let Some(read) = &self.read else {
            out.extend(rules.table_ids());
            return out;
        };
        if read.contains(xid) {
            let whole: BTreeSet<TableId> =
                self.known.values().filter(|known| !known.look.splits).filter_map(|known| known.table).collect();
            out.extend(rules.table_ids().filter(|table| !whole.contains(table)));
        }
        out
    }

    /// Takes in what is true behind a commit; says whether it is known now.
    fn remember(&mut self, oid: Oid, said: Said, xid: Xid, rules: &Rules) -> bool {
        let Said { touched, snapshot, .. } = said;
        let Some(read) = self.read.as_ref().filter(|read| !read.contains(xid)) else {
            // The catalog showed it already.
            return false;
        };
        let known = self.known.get(&oid);
        let is_based = match known {
            Some(known) => is_based_on(snapshot.as_ref(), known, read),
            None => snapshot.is_some_and(|snapshot| read.is_within(&snapshot)),
        };
        let is_sure = is_based && touched.look.is_some();
        let feeds = !self.fed_by(&touched, rules).is_empty();
        let table = rules.table(&touched.schema, &touched.name);
        match (touched.look, self.known.get_mut(&oid)) {
            (Some(look), None) if feeds => drop(self.known.insert(oid, Known { look, is_sure, table, by: Some(xid) })),
            (_, None) => {}
            (look, Some(known)) => {
                let before = std::mem::take(&mut known.look.parts);
                known.look = look.unwrap_or_else(|| known.look.clone());
                if !is_sure {
                    // Either may lack what the other one has.
                    known.look.parts.extend(before);
                }
                (known.is_sure, known.table, known.by) = (is_sure, table, Some(xid));
            }
        }
        is_sure
    }

    /// A table is gone.
    fn forget(&mut self, oid: Oid) {
        self.known.remove(&oid);
        for known in self.known.values_mut() {
            known.look.parts.remove(&oid.0);
        }
    }

    fn unsure_behind(&mut self, xid: Xid, oid: Oid) {
        if xid != Xid::NONE {
            let touched = self.open.entry(xid).or_default();
            touched.insert(if touched.len() < TOUCHED_MAX { oid } else { ALL });
        }
    }
}

/// Whether a look was taken in a snapshot that contains what the known one is of.
fn is_based_on(snapshot: Option<&Snapshot>, known: &Known, read: &Snapshot) -> bool {
    snapshot.is_some_and(|snapshot| match known.by {
        Some(by) => snapshot.contains(by) && read.is_within(snapshot),
        None => read.is_within(snapshot),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['t:{id}']\n[[rules]]\ntable = 'parted'\nkeys = ['p:{id}']\n";

    /// A table as an announcement names it: number, name, shape, parts.
    fn touched(oid: u32, name: &str, shape: &str, parts: &[u32]) -> Touched {
        let look = serde_json::json!({"shape": shape, "labels": [], "splits": name == "parted", "parts": parts});
        let all = serde_json::json!({"oid": oid, "schema": "public", "name": name, "look": look});
        serde_json::from_value(all).expect("as the triggers write it")
    }

    fn bare(oid: u32, name: &str) -> Touched {
        let mut touched = touched(oid, name, "", &[]);
        touched.look = None;
        touched
    }

    /// The tables `t` (1) and `parted` (2) with one partition (3), read when 10 had not ended.
    fn ddl(rules: &Rules) -> Ddl {
        let mut ddl = Ddl::default();
        let tables = vec![touched(1, "t", "a", &[]), touched(2, "parted", "a", &[3]), touched(3, "part", "a", &[])];
        let snapshot = Snapshot::parse("10:20:10").expect("valid");
        ddl.read(Some(CatalogView { snapshot, tables }), rules);
        ddl
    }

    /// Names of the tables whose keys go behind a transaction that says these things.
    fn commit(ddl: &mut Ddl, rules: &Rules, xid: u32, said: &[Touched], snapshot: &str) -> String {
        ddl.begin();
        said.iter().for_each(|said| ddl.altered(vec![said.clone()], Some(snapshot)));
        let verdict = ddl.commit(Xid(xid), rules);
        names(&verdict, rules)
    }

    fn names(verdict: &Verdict, rules: &Rules) -> String {
        verdict.sweeps.iter().map(|table| rules.name_of(*table).1).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_last_look_of_a_transaction_counts_and_only_where_it_differs() {
        let rules = rules_of(RULES);
        let cases: &[(&[Touched], &str)] = &[
            (&[touched(1, "t", "a", &[])], ""),
            (&[touched(1, "t", "b", &[])], "t"),
            (&[touched(1, "t", "b", &[]), touched(1, "t", "a", &[])], ""),
            (&[bare(1, "t"), touched(1, "t", "a", &[])], "t"),
            (&[bare(1, "t")], "t"),
            (&[touched(1, "elsewhere", "b", &[])], "t"),
            (&[touched(9, "t", "a", &[])], "t"),
            (&[touched(9, "stranger", "a", &[])], ""),
            (&[touched(3, "part", "a", &[]), touched(2, "parted", "a", &[3])], ""),
            (&[touched(3, "part", "b", &[]), touched(2, "parted", "a", &[3])], "parted"),
            (&[touched(2, "parted", "a", &[])], "parted"),
            (&[touched(2, "parted", "a", &[3, 4])], "parted"),
        ];
        for (said, sweeps) in cases {
            assert_eq!(commit(&mut ddl(&rules), &rules, 20, said, "20:20:"), *sweeps, "{said:?}");
        }
    }

    #[test]
    fn what_the_catalog_may_have_shown_already_is_in_doubt_and_so_is_a_look_that_lacks_another() {
        let rules = rules_of(RULES);
        let same = [touched(1, "t", "a", &[])];
        for (xid, snapshot, sweeps) in [
            (19, "20:20:", "t"),
            (10, "20:20:", ""),
            (20, "20:20:", ""),
            // An old snapshot (repeatable read): it does not contain all that the catalog showed.
            (20, "12:20:12", "t"),
            (20, "19:19:", "t"),
            (20, "no snapshot", "t"),
        ] {
            assert_eq!(commit(&mut ddl(&rules), &rules, xid, &same, snapshot), sweeps, "{xid} {snapshot}");
        }
        // Two transactions, neither of which saw the other: what is true behind both nobody says.
        let mut ddl = ddl(&rules);
        assert_eq!(commit(&mut ddl, &rules, 20, &[touched(1, "t", "b", &[])], "22:22:"), "t");
        assert_eq!(commit(&mut ddl, &rules, 21, &[touched(1, "t", "c", &[])], "20:22:20"), "t");
        assert_eq!(commit(&mut ddl, &rules, 23, &[touched(1, "t", "c", &[])], "23:23:"), "t");
        assert_eq!(commit(&mut ddl, &rules, 24, &[touched(1, "t", "c", &[])], "24:24:"), "");
    }

    #[test]
    fn a_dropped_table_sweeps_what_it_fed_and_nothing_else() {
        let rules = rules_of(RULES);
        let drops = |ddl: &mut Ddl, xid: u32, gone: Touched| {
            ddl.begin();
            ddl.dropped(vec![gone]);
            names(&ddl.commit(Xid(xid), &rules), &rules)
        };
        assert_eq!(drops(&mut ddl(&rules), 20, bare(1, "t")), "t");
        assert_eq!(drops(&mut ddl(&rules), 20, bare(3, "part")), "parted");
        assert_eq!(drops(&mut ddl(&rules), 20, bare(7, "staging")), "");
        assert_eq!(drops(&mut ddl(&rules), 19, bare(7, "staging")), "parted", "it may have been a partition");
        assert_eq!(drops(&mut Ddl::default(), 20, bare(7, "staging")), "t parted", "the catalog was never read");
        let mut ddl = ddl(&rules);
        assert_eq!(drops(&mut ddl, 20, bare(3, "part")), "parted");
        assert_eq!(commit(&mut ddl, &rules, 21, &[touched(2, "parted", "a", &[])], "21:21:"), "", "it is told of");
        assert_eq!(commit(&mut ddl, &rules, 22, &[touched(2, "parted", "a", &[5])], "22:22:"), "parted");
        assert_eq!(drops(&mut ddl, 23, bare(5, "attached")), "parted");
    }

    #[test]
    fn every_statement_of_an_open_transaction_counts_and_nothing_is_sure_behind_it() {
        let rules = rules_of(RULES);
        let mut ddl = ddl(&rules);
        let open = |ddl: &mut Ddl, said: Touched| {
            names(&ddl.altered_at_once(&[said], Some("20:20:"), Xid(20), &rules), &rules)
        };
        assert_eq!(open(&mut ddl, touched(1, "t", "a", &[])), "");
        assert_eq!(open(&mut ddl, touched(1, "t", "b", &[])), "t");
        ddl.aborted(Xid(20));
        assert_eq!(commit(&mut ddl, &rules, 21, &[touched(1, "t", "a", &[])], "21:21:"), "");
        assert_eq!(open(&mut ddl, touched(1, "t", "b", &[])), "t");
        ddl.committed_open(Xid(20));
        assert_eq!(commit(&mut ddl, &rules, 22, &[touched(1, "t", "b", &[])], "22:22:"), "t");
        assert_eq!(commit(&mut ddl, &rules, 23, &[touched(1, "t", "b", &[])], "23:23:"), "");
        let dropped = ddl.dropped_at_once(&[bare(3, "part")], Xid(24), &rules);
        assert_eq!(names(&dropped, &rules), "parted");
    }

    #[test]
    fn behind_ddl_that_nobody_announced_nothing_is_sure() {
        let rules = rules_of(RULES);
        let same = |xid: u32| (touched(1, "t", "a", &[]), xid, format!("{xid}:{xid}:"));
        let judged = |ddl: &mut Ddl, xid: u32| {
            let (said, xid, snapshot) = same(xid);
            commit(ddl, &rules, xid, &[said], &snapshot)
        };
        let mut ddl = ddl(&rules);
        assert_eq!(judged(&mut ddl, 20), "");
        ddl.begin();
        ddl.untold(MessagePlace::Committed);
        ddl.commit(Xid(21), &rules);
        assert_eq!(judged(&mut ddl, 22), "t", "it may be as it was again");
        assert_eq!(judged(&mut ddl, 23), "");
        ddl.untold(MessagePlace::Open(Xid(24)));
        ddl.aborted(Xid(24));
        assert_eq!(judged(&mut ddl, 25), "");
        ddl.untold(MessagePlace::Open(Xid(26)));
        ddl.committed_open(Xid(26));
        assert_eq!(judged(&mut ddl, 27), "t");
    }

    #[test]
    fn the_triggers_and_the_catalog_describe_a_table_in_the_same_words() {
        let words = |text: &str| {
            let begin = text.find("made_of (relation, type) AS (").expect("what values are made of");
            let end = text.find("AND n.nspname <> 'pg_catalog'").expect("the end of the look");
            text[begin..end].split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let catalog = words(include_str!("../../sql/catalog.sql"));
        assert!(catalog.contains("'shape'") && catalog.contains("'parts'"), "{catalog}");
        assert_eq!(words(include_str!("../../sql/triggers.sql")), catalog);
        assert_eq!(words(include_str!("../../sql/outbox/facts.sql")), catalog);
        // What a type is made of, in what tells that another look is needed.
        let inside = |text: &str| {
            let begin = text.find("CROSS JOIN LATERAL (").expect("what a type is made of");
            let end = text.find("WHERE inside.oid >= 16384").expect("its end");
            text[begin..end].split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let digest = inside(include_str!("../../sql/outbox/digest.sql"));
        assert_eq!(digest, inside(include_str!("../../sql/outbox/facts.sql")));
    }
}
