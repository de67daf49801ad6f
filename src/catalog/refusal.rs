//! Whether the server refuses updates and deletes of a relation under a replica identity, and because of what. Pure.
//!
//! The conditions are those of `CheckCmdReplicaIdentity` (src/backend/executor/execReplication.c) with
//! `pub_rf_contains_invalid_column` and `pub_contains_invalid_column` (src/backend/commands/publicationcmds.c), over every
//! publication that carries the relation: one that asks too much is enough.

use std::collections::BTreeSet;

use crate::catalog::{Carrier, Index, Sender};
use crate::postgres::quote;

/// The first version whose FULL identity has to do with generated columns.
const VERSION_GENERATED: u32 = 180_000;

/// What the old row holds under an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowIdentity<'a> {
    /// Every column.
    Full,
    /// These; none at all is no identity.
    Columns(BTreeSet<&'a str>),
}

impl<'a> RowIdentity<'a> {
    /// The one that the relation has.
    pub fn of(carrier: &'a Carrier) -> Self {
        match carrier.identity.as_str() {
            "f" => RowIdentity::Full,
            _ => RowIdentity::Columns(carried(carrier)),
        }
    }
}

/// Why the server refuses updates, deletes or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// There is no identity, and a publication sends the relation.
    Missing,
    /// A publication's column list lacks columns of the identity; FULL allows no list.
    List(String, (String, String)),
    /// A publication's row filter reads columns that the identity lacks.
    Filter(String, (String, String)),
    /// The identity is FULL, or holds the column, and a publication does not send generated columns.
    Unsent(String, String),
    /// The identity is FULL, and no publication can send the virtual column.
    Virtual(String),
}

impl Refusal {
    /// A fragment for people.
    pub fn because(&self) -> String {
        match self {
            Refusal::Missing => "it has no replica identity".to_owned(),
            Refusal::List(publication, _) => {
                format!("the column list of publication \"{publication}\" does not hold its replica identity")
            }
            Refusal::Filter(publication, _) => {
                format!("the row filter of publication \"{publication}\" reads columns that its replica identity lacks")
            }
            Refusal::Unsent(publication, column) => format!(
                "publication \"{publication}\" does not send the generated column \"{column}\" of its replica identity"
            ),
            Refusal::Virtual(column) => {
                format!("its replica identity is FULL, and no publication can send the virtual column \"{column}\"")
            }
        }
    }

    /// What takes the reason away without touching the replica identity.
    pub fn mend(&self) -> Vec<String> {
        match self {
            Refusal::Missing | Refusal::Virtual(_) => Vec::new(),
            Refusal::List(publication, (schema, table)) | Refusal::Filter(publication, (schema, table)) => {
                let (publication, table) = (quote::identifier(publication), quote::qualified(schema, table));
                vec![
                    format!("ALTER PUBLICATION {publication} DROP TABLE {table};"),
                    format!("ALTER PUBLICATION {publication} ADD TABLE {table};"),
                ]
            }
            Refusal::Unsent(publication, _) => vec![send_generated(publication)],
        }
    }
}

/// The statement with which a publication sends stored generated columns.
pub fn send_generated(publication: &str) -> String {
    format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored);", quote::identifier(publication))
}

/// Why the server would refuse updates or deletes of the relation under an identity, with these publications.
pub fn refusal(carrier: &Carrier, senders: &[Sender], identity: &RowIdentity<'_>, version: u32) -> Option<Refusal> {
    let lacks = RowIdentity::Columns(BTreeSet::new());
    if *identity == lacks && !senders.is_empty() {
        return Some(Refusal::Missing);
    }
    senders.iter().find_map(|sender| refused_by(carrier, sender, identity, version))
}

fn refused_by(carrier: &Carrier, sender: &Sender, identity: &RowIdentity<'_>, version: u32) -> Option<Refusal> {
    let name = || sender.name.clone();
    let generated = |kind: &str| carrier.columns.iter().find(|column| column.generated == kind);
    let is_sent = sender.generated == "s" || version < VERSION_GENERATED;
    match identity {
        RowIdentity::Full => {
            if sender.columns.is_some() {
                return Some(Refusal::List(name(), sender.entry.clone()));
            }
            if let Some(column) = generated("v").filter(|_| version >= VERSION_GENERATED) {
                return Some(Refusal::Virtual(column.name.clone()));
            }
            generated("s").filter(|_| !is_sent).map(|column| Refusal::Unsent(name(), column.name.clone()))
        }
        RowIdentity::Columns(columns) => {
            let has = |column: &String| columns.contains(column.as_str());
            if !sender.filter.iter().all(has) {
                return Some(Refusal::Filter(name(), sender.entry.clone()));
            }
            if let Some(list) = &sender.columns {
                let held = columns.iter().all(|column| list.iter().any(|listed| listed == column));
                return (!held).then(|| Refusal::List(name(), sender.entry.clone()));
            }
            let unsent = |column: &&&str| carrier.column(column).is_some_and(|column| column.generated == "s");
            let column = columns.iter().find(unsent).filter(|_| !is_sent)?;
            Some(Refusal::Unsent(name(), (*column).to_owned()))
        }
    }
}

/// The publications of a relation as they are once `setup` is done: ours sends it whole, with its generated columns.
pub fn with_ours(carrier: &Carrier, ours: &str) -> Vec<Sender> {
    let others = carrier.publications.iter().filter(|sender| sender.name != ours).cloned();
    let entry = (carrier.schema.clone(), carrier.table.clone());
    let clean = Sender { name: ours.to_owned(), entry, columns: None, filter: Vec::new(), generated: "s".to_owned() };
    others.chain([clean]).collect()
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

/// The columns of an index.
pub(super) fn key_columns(index: Option<&Index>) -> BTreeSet<&str> {
    index.into_iter().flat_map(|index| index.columns.iter().map(String::as_str)).collect()
}

/// The primary key, where it can be an identity.
pub(super) fn primary(carrier: &Carrier) -> Option<&Index> {
    carrier.indexes.iter().find(|index| index.primary && index.valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example::carrier;

    fn sender(columns: Option<&[&str]>, filter: &[&str], generated: &str) -> Sender {
        let texts = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        Sender {
            name: "other".into(),
            entry: ("public".into(), "t".into()),
            columns: columns.map(texts),
            filter: texts(filter),
            generated: generated.into(),
        }
    }

    #[test]
    fn each_condition_of_the_server_is_one_of_ours() {
        let entry = || ("public".to_owned(), "t".to_owned());
        let (list, filter) = (Refusal::List("other".into(), entry()), Refusal::Filter("other".into(), entry()));
        let unsent = Refusal::Unsent("other".into(), "rank".into());
        let (full, key) = (RowIdentity::Full, RowIdentity::Columns(BTreeSet::from(["id"])));
        let none = RowIdentity::Columns(BTreeSet::new());
        let ranked = RowIdentity::Columns(BTreeSet::from(["id", "rank"]));
        for (senders, identity, generated, version, expected) in [
            (vec![], &none, "", 150_000, None),
            (vec![sender(None, &[], "n")], &none, "", 150_000, Some(Refusal::Missing)),
            (vec![sender(None, &[], "n")], &key, "", 150_000, None),
            (vec![sender(None, &[], "n")], &full, "", 180_000, None),
            (vec![sender(Some(&["id", "note"]), &[], "n")], &key, "", 150_000, None),
            (vec![sender(Some(&["note"]), &[], "n")], &key, "", 150_000, Some(list.clone())),
            (vec![sender(Some(&["id", "note"]), &[], "n")], &full, "", 150_000, Some(list)),
            (vec![sender(None, &["id"], "n")], &key, "", 150_000, None),
            (vec![sender(None, &["city"], "n")], &key, "", 150_000, Some(filter)),
            (vec![sender(None, &["city"], "n")], &full, "", 150_000, None),
            (vec![sender(None, &[], "n")], &full, "s", 170_000, None),
            (vec![sender(None, &[], "n")], &full, "s", 180_000, Some(unsent.clone())),
            (vec![sender(None, &[], "s")], &full, "s", 180_000, None),
            (vec![sender(None, &[], "n")], &ranked, "s", 180_000, Some(unsent)),
            (vec![sender(None, &[], "n")], &key, "s", 180_000, None),
            (vec![sender(None, &[], "s")], &full, "v", 180_000, Some(Refusal::Virtual("rank".into()))),
            (vec![sender(None, &[], "s")], &key, "v", 180_000, None),
        ] {
            let mut table = carrier("t");
            table.columns[2].generated = generated.into();
            let found = refusal(&table, &senders, identity, version);
            assert_eq!(found, expected, "{senders:?} {identity:?} {generated:?} {version}");
        }
    }
}
