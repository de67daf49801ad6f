//! Which replica identity a relation needs, and the statements that give it. Pure.
//!
//! FULL always carries the old row and costs WAL on every update. A unique index over exactly the columns that the
//! rules read costs almost nothing in WAL. Two things must never happen: an identity that already suffices becoming
//! weaker, and a writer being refused because of us (`CheckCmdReplicaIdentity` in
//! `src/backend/executor/execReplication.c`, an index row above the b-tree's 2704 bytes).

use std::collections::BTreeSet;

use crate::cli::catalog::{Carrier, Index};
use crate::quote;

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
    /// FULL would be needed and is not possible: the server would refuse updates.
    Impossible(String),
}

/// The columns that the stream carries of an old row, under the identity the relation has.
pub fn carried(carrier: &Carrier) -> BTreeSet<&str> {
    match carrier.identity.as_str() {
        "f" => carrier.columns.iter().map(|column| column.name.as_str()).collect(),
        "i" => key_columns(carrier.indexes.iter().find(|index| index.identity && index.valid)),
        "d" => key_columns(primary(carrier)),
        _ => BTreeSet::new(),
    }
}

fn key_columns(index: Option<&Index>) -> BTreeSet<&str> {
    index.into_iter().flat_map(|index| index.columns.iter().map(String::as_str)).collect()
}

/// Whether the server would refuse updates and deletes of the relation once it is published.
pub fn refuses_writers(carrier: &Carrier) -> bool {
    carrier.identity != "f" && carried(carrier).is_empty()
}

/// The cheapest identity that carries `columns` of the old row.
pub fn choose(carrier: &Carrier, columns: &BTreeSet<&str>, server_version: u32) -> Choice {
    let covered = |index: &Index| columns.iter().all(|name| index.columns.iter().any(|column| column == name));
    if carrier.identity == "f" || (!refuses_writers(carrier) && columns.is_subset(&carried(carrier))) {
        return Choice::Keep;
    }
    if primary(carrier).is_some_and(covered) {
        return Choice::Default;
    }
    if let Some(index) =
        carrier.indexes.iter().find(|index| index.valid && covered(index) && is_eligible(carrier, index))
    {
        return Choice::Existing(index.name.clone());
    }
    build(carrier, columns).unwrap_or_else(|| full(carrier, server_version))
}

/// The primary key, where it can be an identity.
fn primary(carrier: &Carrier) -> Option<&Index> {
    carrier.indexes.iter().find(|index| index.primary && index.valid)
}

/// Whether the index can be named in `REPLICA IDENTITY USING INDEX`: the server wants every column NOT NULL.
fn is_eligible(carrier: &Carrier, index: &Index) -> bool {
    let stored =
        |name: &String| carrier.column(name).is_some_and(|column| column.not_null && column.generated.is_empty());
    index.columns.iter().all(stored)
}

/// A new index: a unique key of the relation, then the columns that the rules read besides.
fn build(carrier: &Carrier, columns: &BTreeSet<&str>) -> Option<Choice> {
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
    if bytes > INDEX_BYTES_MAX {
        return None;
    }
    let columns: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    let (name, unfinished) = free_name(carrier, &columns);
    let replaces = carrier.indexes.iter().find(|index| index.identity && is_ours(index) && index.name != name);
    let replaces = replaces.map(|index| index.name.clone());
    Some(Choice::Build { name, columns, unfinished, replaces })
}

/// FULL, unless the server would then refuse updates (`pub_contains_invalid_column`, PostgreSQL 18).
fn full(carrier: &Carrier, server_version: u32) -> Choice {
    let unsent = carrier.columns.iter().find(|column| column.generated == "v");
    match unsent {
        Some(column) if server_version >= 180_000 => Choice::Impossible(column.name.clone()),
        Some(_) | None => Choice::Full,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example::{carrier, index};

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
        assert!(refuses_writers(&table));
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
        assert_eq!(choose(&table, &["note"].into(), 180_000), Choice::Impossible("owner".into()));
        assert_eq!(choose(&table, &["note"].into(), 170_000), Choice::Full);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character_and_keeps_its_number() {
        let name = index_name(&"é".repeat(40), 12);
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("é_12"), "{name}");
    }
}
