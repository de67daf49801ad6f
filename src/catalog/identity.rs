//! Which replica identity a relation needs, and the statements that give it. Pure.
//!
//! FULL always carries the old row and costs WAL on every update. A unique index over exactly the columns that the
//! rules read costs almost nothing in WAL. Two things must never happen: an identity that already suffices becoming
//! weaker, and a writer being refused because of us (`CheckCmdReplicaIdentity` in
//! `src/backend/executor/execReplication.c`, an index row above the b-tree's 2704 bytes). `refusal.rs` knows when it is.

use std::collections::BTreeSet;

use crate::catalog::refusal::{Refusal, RowIdentity, carried, key_columns, primary, refusal};
use crate::catalog::{Carrier, Catalog, Index, Sender};
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// Bytes that the columns of an index of ours may take: a b-tree row holds 2704 (`BTMaxItemSize`), less its headers.
pub const INDEX_BYTES_MAX: u32 = 2000;

/// Names of indexes that `setup` makes begin so.
pub const INDEX_PREFIX: &str = "crieur_identity_";

/// An identifier's longest length in bytes (`NAMEDATALEN` - 1).
const NAME_BYTES_MAX: usize = 63;

/// What a relation needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The one it has carries every column.
    Keep,
    /// The primary key carries every column.
    Default,
    /// An index that exists carries every column.
    Existing(String),
    /// A new index over these columns would; `replaces` names an index of ours that is then of no more use.
    Build {
        /// Its name.
        name: String,
        /// Its columns.
        columns: Vec<String>,
        /// The unfinished index of that name must go first.
        unfinished: bool,
        /// An index of ours that served before.
        replaces: Option<String>,
    },
    /// Everything else falls short.
    Full,
    /// None that the server accepts carries every column; the one that it has stays.
    Impossible(Refusal),
}

/// What an identity must please besides the rules.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The publications that will send the relation.
    pub senders: &'a [Sender],
    /// `server_version_num`.
    pub version: u32,
}

impl Ground<'_> {
    /// Why the server would refuse updates or deletes under an identity.
    pub fn refusal(&self, carrier: &Carrier, identity: &RowIdentity<'_>) -> Option<Refusal> {
        refusal(carrier, self.senders, identity, self.version)
    }

    fn takes(&self, carrier: &Carrier, index: &Index) -> bool {
        self.refusal(carrier, &RowIdentity::Columns(key_columns(Some(index)))).is_none()
    }
}

/// Whether a choice may come to an index that has to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Indexes {
    /// It may: there is time.
    Built,
    /// Writers are refused now.
    AsTheyAre,
}

/// The cheapest identity that carries `columns` of the old row, and under which the server takes updates. Where none does
/// both and the present one is refused, one that is accepted: a key too wide is better than a write that fails.
pub fn choose(carrier: &Carrier, columns: &BTreeSet<&str>, ground: Ground<'_>, indexes: Indexes) -> Choice {
    let standing = RowIdentity::of(carrier);
    let stands = ground.refusal(carrier, &standing).is_none();
    let carries = carrier.identity == "f" || columns.is_subset(&carried(carrier));
    if stands && carries {
        return Choice::Keep;
    }
    // What row filters read of the old row must be in it, too.
    let filters = ground.senders.iter().flat_map(|sender| &sender.filter).map(String::as_str);
    let columns: BTreeSet<&str> = columns.iter().copied().chain(filters).collect();
    let covered = |index: &Index| columns.iter().all(|name| index.columns.iter().any(|column| column == name));
    if let Some(choice) = as_it_is(carrier, ground, covered) {
        return choice;
    }
    if indexes == Indexes::Built
        && let Some(choice) = build(carrier, &columns, ground)
    {
        return choice;
    }
    match ground.refusal(carrier, &RowIdentity::Full) {
        None => Choice::Full,
        Some(refusal) if stands => Choice::Impossible(refusal),
        Some(refusal) => as_it_is(carrier, ground, |_| true).unwrap_or(Choice::Impossible(refusal)),
    }
}

/// An index that is there already, the primary key first.
fn as_it_is(carrier: &Carrier, ground: Ground<'_>, suits: impl Fn(&Index) -> bool) -> Option<Choice> {
    if primary(carrier).is_some_and(|index| suits(index) && ground.takes(carrier, index)) {
        return Some(Choice::Default);
    }
    let usable =
        |index: &&Index| index.valid && suits(index) && is_eligible(carrier, index) && ground.takes(carrier, index);
    carrier.indexes.iter().find(usable).map(|index| Choice::Existing(index.name.clone()))
}

/// Whether the index can be named in `REPLICA IDENTITY USING INDEX`: the server wants every column NOT NULL.
fn is_eligible(carrier: &Carrier, index: &Index) -> bool {
    let stored =
        |name: &String| carrier.column(name).is_some_and(|column| column.not_null && column.generated.is_empty());
    index.columns.iter().all(stored)
}

/// A new index: a unique key of the relation, then the columns that the rules read besides.
fn build(carrier: &Carrier, columns: &BTreeSet<&str>, ground: Ground<'_>) -> Option<Choice> {
    let eligible = |index: &&Index| index.valid && !is_ours(index) && is_eligible(carrier, index);
    let key = primary(carrier).or_else(|| carrier.indexes.iter().find(eligible))?;
    let mut wanted: Vec<&str> = key.columns.iter().map(String::as_str).collect();
    wanted.extend(columns.iter().filter(|name| !key.columns.iter().any(|column| column == *name)));
    let mut bytes = 0;
    for name in &wanted {
        let column = carrier.column(name)?;
        // Without a bound one long value would make the writer's INSERT fail.
        bytes += column.bytes_max.filter(|_| column.not_null && column.generated.is_empty())?;
    }
    let identity = RowIdentity::Columns(wanted.iter().copied().collect());
    if bytes > INDEX_BYTES_MAX || ground.refusal(carrier, &identity).is_some() {
        return None;
    }
    let columns: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    let (name, unfinished) = free_name(carrier, &columns);
    let replaces = carrier.indexes.iter().find(|index| index.identity && is_ours(index) && index.name != name);
    let replaces = replaces.map(|index| index.name.clone());
    Some(Choice::Build { name, columns, unfinished, replaces })
}

fn is_ours(index: &Index) -> bool {
    index.name.starts_with(INDEX_PREFIX)
}

/// The first name of ours that is free, or that an unfinished index over the same columns holds.
fn free_name(carrier: &Carrier, columns: &[String]) -> (String, bool) {
    for number in 1_u32.. {
        let name = index_name(&carrier.table, number);
        match carrier.indexes.iter().find(|index| index.name == name) {
            None => return (name, false),
            Some(index) if !index.valid && index.columns == columns => return (name, true),
            Some(_) => {}
        }
    }
    unreachable!("a relation has fewer than 2^32 indexes")
}

/// `crieur_identity_<table>`, cut at a character so that the number always fits.
fn index_name(table: &str, number: u32) -> String {
    let suffix = if number == 1 { String::new() } else { format!("_{number}") };
    let room = NAME_BYTES_MAX - INDEX_PREFIX.len() - suffix.len();
    let cut = (0..=table.len().min(room)).rev().find(|at| table.is_char_boundary(*at)).unwrap_or(0);
    format!("{INDEX_PREFIX}{}{suffix}", &table[..cut])
}

/// The relation as the choice leaves it.
pub fn apply(carrier: &mut Carrier, choice: &Choice) {
    let uses = |carrier: &mut Carrier, name: &str| {
        carrier.identity = "i".to_owned();
        carrier.indexes.iter_mut().for_each(|index| index.identity = index.name == name);
    };
    match choice {
        Choice::Keep | Choice::Impossible(_) => {}
        Choice::Default => carrier.identity = "d".to_owned(),
        Choice::Full => carrier.identity = "f".to_owned(),
        Choice::Existing(name) => uses(carrier, name),
        Choice::Build { name, columns, .. } => {
            let columns = columns.clone();
            carrier.indexes.retain(|index| index.name != *name);
            carrier.indexes.push(Index { name: name.clone(), primary: false, identity: false, valid: true, columns });
            uses(carrier, name);
        }
    }
}

/// The statements that bring a choice about, in order. None of them runs inside a transaction block.
pub fn statements(carrier: &Carrier, choice: &Choice) -> Vec<String> {
    let table = carrier.quoted();
    let using = |name: &str| format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {};", quote::identifier(name));
    let drop = |name: &str| format!("DROP INDEX CONCURRENTLY IF EXISTS {};", quote::qualified(&carrier.schema, name));
    match choice {
        Choice::Keep | Choice::Impossible(_) => Vec::new(),
        Choice::Default => vec![format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;")],
        Choice::Existing(name) => vec![using(name)],
        Choice::Full => vec![format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")],
        Choice::Build { name, columns, unfinished, replaces } => {
            let mut out: Vec<String> = unfinished.then(|| drop(name)).into_iter().collect();
            let (index, columns) = (quote::identifier(name), quote::identifiers(columns));
            out.push(format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} ({columns});"));
            out.push(using(name));
            out.extend(replaces.as_deref().map(drop));
            out
        }
    }
}

/// Statements that the server refuses when it would refuse an update or a delete of the relation. They change nothing.
pub fn probes(carrier: &Carrier) -> Vec<String> {
    let table = carrier.quoted();
    let update = carrier.settable.as_ref().map(|column| {
        let column = quote::identifier(column);
        format!("EXPLAIN UPDATE ONLY {table} SET {column} = {column} WHERE false;")
    });
    update.into_iter().chain([format!("EXPLAIN DELETE FROM ONLY {table} WHERE false;")]).collect()
}

/// The way out where no statement of ours is one.
pub const PRIMARY_KEY: &str = "give the table a primary key, then run crieur setup again";

/// Columns of the old row that the rules read or compare and that the stream can carry at all.
pub fn wanted<'a>(carrier: &'a Carrier, need: &'a TableNeeds) -> BTreeSet<&'a str> {
    let stored = |name: &&str| carrier.column(name).is_some_and(|column| column.generated.is_empty());
    let counting = carrier.columns.iter().map(|column| column.name.as_str()).filter(|name| need.counts(name));
    need.columns_on_old().chain(counting).filter(stored).collect()
}

/// The same for the rules of every table whose rows the relation carries: a table and one that it inherits from.
pub fn wanted_by_all<'a>(catalog: &Catalog, carrier: &'a Carrier, needs: &'a [TableNeeds]) -> BTreeSet<&'a str> {
    let carries = |need: &&TableNeeds| {
        let table = catalog.table(need);
        table.is_some_and(|table| table.carriers.iter().any(|other| other.quoted() == carrier.quoted()))
    };
    needs.iter().filter(carries).flat_map(|need| wanted(carrier, need)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::refusal::with_ours;
    use crate::cli::check::example::{carrier, index};

    fn choose(carrier: &Carrier, columns: &BTreeSet<&str>, version: u32) -> Choice {
        let senders = with_ours(carrier, "crieur");
        super::choose(carrier, columns, Ground { senders: &senders, version }, Indexes::Built)
    }

    fn chosen(carrier: &Carrier, columns: &[&str]) -> Vec<String> {
        statements(carrier, &choose(carrier, &columns.iter().copied().collect(), 150_000))
    }

    #[test]
    fn an_identity_that_suffices_is_never_touched() {
        let mut table = carrier("t");
        assert_eq!(choose(&table, &["id"].into(), 150_000), Choice::Keep);
        assert_eq!(choose(&table, &[].into(), 150_000), Choice::Keep);
        table.identity = "f".into();
        assert_eq!(choose(&table, &["id", "city", "note"].into(), 150_000), Choice::Keep);
    }

    #[test]
    fn the_cheapest_identity_that_suffices_is_chosen() {
        let table = carrier("t");
        // Bounded and NOT NULL: an index. Nullable, or of unbounded length: FULL.
        let indexed = [
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"crieur_identity_t\" ON \"public\".\"t\" (\"id\", \"owner\");",
            "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY USING INDEX \"crieur_identity_t\";",
        ];
        assert_eq!(chosen(&table, &["owner"]), indexed);
        let full = ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;"];
        assert_eq!(chosen(&table, &["city"]), full, "text has no bound");
        assert_eq!(chosen(&table, &["note"]), full, "nullable");
        assert_eq!(chosen(&table, &["owner", "note"]), full);
        let mut none = carrier("t");
        none.identity = "n".into();
        assert_eq!(chosen(&none, &["id"]), ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;"]);
    }

    #[test]
    fn a_table_without_a_key_is_full_even_when_no_column_is_read() {
        let mut table = carrier("t");
        table.indexes.clear();
        assert_eq!(choose(&table, &[].into(), 150_000), Choice::Full);
    }

    #[test]
    fn an_index_that_exists_is_used_before_one_is_built() {
        let mut table = carrier("t");
        table.indexes.push(index("by_owner", &["owner"]));
        assert_eq!(choose(&table, &["owner"].into(), 150_000), Choice::Existing("by_owner".into()));
        table.indexes[1].columns.push("note".into());
        assert!(matches!(choose(&table, &["owner"].into(), 150_000), Choice::Build { .. }), "a column may be NULL");
    }

    #[test]
    fn an_unfinished_index_of_ours_is_built_again() {
        let mut table = carrier("t");
        let mut broken = index("crieur_identity_t", &["id", "owner"]);
        broken.valid = false;
        table.indexes.push(broken);
        let statements = chosen(&table, &["owner"]);
        assert_eq!(statements[0], "DROP INDEX CONCURRENTLY IF EXISTS \"public\".\"crieur_identity_t\";");
        assert_eq!(statements.len(), 3);
    }

    #[test]
    fn an_index_of_ours_that_no_longer_suffices_is_replaced_after_its_successor_serves() {
        let mut table = carrier("t");
        let mut old = index("crieur_identity_t", &["id", "owner"]);
        old.identity = true;
        table.identity = "i".into();
        table.indexes.push(old);
        let statements = chosen(&table, &["owner", "rank"]);
        assert!(statements[0].contains("\"crieur_identity_t_2\" ON"), "{statements:?}");
        assert_eq!(statements[2], "DROP INDEX CONCURRENTLY IF EXISTS \"public\".\"crieur_identity_t\";");
    }

    #[test]
    fn full_is_refused_where_the_server_would_then_refuse_updates() {
        let mut table = carrier("t");
        table.columns[1].generated = "v".into();
        assert_eq!(choose(&table, &["note"].into(), 180_000), Choice::Impossible(Refusal::Virtual("owner".into())));
        assert_eq!(choose(&table, &["note"].into(), 170_000), Choice::Full);
    }

    fn other(columns: Option<&[&str]>, filter: &[&str]) -> Sender {
        let texts = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let entry = ("public".into(), "t".into());
        Sender {
            name: "other".into(),
            entry,
            columns: columns.map(texts),
            filter: texts(filter),
            generated: "n".into(),
        }
    }

    #[test]
    fn another_publication_is_asked_before_an_identity_changes() {
        let mut table = carrier("t");
        table.publications = vec![other(Some(&["id", "city"]), &[])];
        let list = Refusal::List("other".into(), ("public".into(), "t".into()));
        // FULL allows no list, and an index may only hold columns of the list.
        assert_eq!(choose(&table, &["city"].into(), 150_000), Choice::Impossible(list.clone()));
        assert_eq!(choose(&table, &["owner"].into(), 150_000), Choice::Impossible(list));
        table.publications = vec![other(Some(&["id", "owner"]), &[])];
        assert!(chosen(&table, &["owner"])[0].contains("(\"id\", \"owner\")"));
        // A filter's columns come into the index.
        table.publications = vec![other(None, &["rank"])];
        assert!(chosen(&table, &["owner"])[0].contains("(\"id\", \"owner\", \"rank\")"));
        assert!(chosen(&table, &["id"])[0].contains("(\"id\", \"rank\")"), "it is refused as it is");
    }

    #[test]
    fn writers_that_are_refused_now_get_an_identity_that_needs_no_index() {
        let mut table = carrier("t");
        table.identity = "i".into();
        let now = |table: &Carrier, columns: &[&str], version| {
            let senders = with_ours(table, "crieur");
            let columns = columns.iter().copied().collect();
            super::choose(table, &columns, Ground { senders: &senders, version }, Indexes::AsTheyAre)
        };
        assert_eq!(now(&table, &["owner"], 150_000), Choice::Full, "its index was dropped");
        assert_eq!(now(&table, &["id"], 150_000), Choice::Default);
        table.columns[4].generated = "v".into();
        assert_eq!(now(&table, &["owner"], 180_000), Choice::Default, "an old value less, and no write refused");
        table.identity = "f".into();
        assert_eq!(now(&table, &["owner"], 180_000), Choice::Default);
        table.indexes.clear();
        assert_eq!(now(&table, &["owner"], 180_000), Choice::Impossible(Refusal::Virtual("note".into())));
    }

    #[test]
    fn a_long_name_is_cut_at_a_character_and_keeps_its_number() {
        let name = index_name(&"é".repeat(40), 12);
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("é_12"), "{name}");
    }
}
