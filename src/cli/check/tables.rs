//! The publication and the tables of the rules: findings from the catalog. Pure.

use std::collections::BTreeSet;

use crate::catalog::identity::{self, Choice, Ground, Indexes, PRIMARY_KEY, wanted, wanted_by_all};
use crate::catalog::refusal::{RowIdentity, carried, with_ours};
use crate::catalog::{Carrier, Catalog, Table};
use crate::cli::finding::Finding;
use crate::mistake::nearest;
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// What the publication must publish.
pub const PUBLISH: &str = "insert, update, delete, truncate";

/// Findings on the publication as a whole.
pub fn publication(catalog: &Catalog, name: &str, needs: &[TableNeeds]) -> Vec<Finding> {
    let quoted = quote::identifier(name);
    let Some(publication) = &catalog.publication else {
        let tables: Vec<String> = needs.iter().map(|need| quote::qualified(&need.schema, &need.table)).collect();
        let create =
            format!("CREATE PUBLICATION {quoted} FOR TABLE {} WITH (publish = '{PUBLISH}');", tables.join(", "));
        return vec![Finding::wrong("publication", format!("\"{name}\" does not exist")).mend(create)];
    };
    let mut out = Vec::new();
    let published = [
        ("insert", publication.insert),
        ("update", publication.update),
        ("delete", publication.delete),
        ("truncate", publication.truncate),
    ];
    let missing: Vec<&str> = published.iter().filter(|(_, on)| !on).map(|(what, _)| *what).collect();
    if !missing.is_empty() {
        out.push(
            Finding::wrong("publication", format!("\"{name}\" does not publish {}", missing.join(", ")))
                .mend(format!("ALTER PUBLICATION {quoted} SET (publish = '{PUBLISH}');")),
        );
    }
    if publication.via_root {
        out.push(
            Finding::wrong(
                "publication",
                "publish_via_partition_root is on: TRUNCATE of one partition is not published",
            )
            .mend(format!("ALTER PUBLICATION {quoted} SET (publish_via_partition_root = false);")),
        );
    }
    if publication.all_tables {
        out.push(Finding::note(
            "publication",
            format!(
                "\"{name}\" is FOR ALL TABLES: every table's changes are sent, also those no rule reads, and changes of a \
                 partition that is detached before crieur has read them pass for those of a table without rules"
            ),
        ));
    }
    if out.is_empty() {
        out.push(Finding::ready("publication", format!("\"{name}\" publishes {PUBLISH}")));
    }
    out
}

/// Findings on one table of the rules.
pub fn table(catalog: &Catalog, needs: &[TableNeeds], need: &TableNeeds, publication: &str) -> Vec<Finding> {
    let subject = format!("table {}.{}", need.schema, need.table);
    let Some(table) = catalog.table(need) else {
        return vec![missing(catalog, need)];
    };
    if !table.is_replicable() {
        let seen = format!("{}: its changes are not in the stream ({})", kind(table), need.rule);
        return vec![Finding::wrong(subject, seen).mend("name the permanent tables that hold the rows")];
    }
    let mut out = Vec::new();
    if catalog.publication.is_some() && !table.is_published() {
        let lacking: Vec<String> = unpublished(table).into_iter().collect();
        let seen = match table.kind == "p" || table.carriers.iter().any(|carrier| carrier.published) {
            true if table.kind != "p" => format!("does not publish {}, which carries its rows", lacking.join(", ")),
            _ => "is not published".to_owned(),
        };
        let add = format!("ALTER PUBLICATION {} ADD TABLE {};", quote::identifier(publication), lacking.join(", "));
        out.push(Finding::wrong(subject.clone(), seen).mend(add));
    }
    if table.is_partition {
        out.push(
            Finding::wrong(subject.clone(), "is a partition; rules name the partitioned table")
                .mend("name the topmost partitioned table in the rules file"),
        );
    }
    for carrier in &table.carriers {
        out.extend(rows_of(catalog, table, carrier, needs, need, publication));
    }
    if out.is_empty() {
        let seen = match catalog.publication {
            Some(_) => "published, and every column that the rules read is carried",
            None => "has every column that the rules read",
        };
        out.push(Finding::ready(subject, seen));
    }
    out
}

/// What a publication must name for all rows of a table to come: a partitioned table stands for its partitions, one that
/// others inherit from does not stand for them.
pub fn unpublished(table: &Table) -> BTreeSet<String> {
    if table.kind == "p" {
        return BTreeSet::from([table.quoted()]);
    }
    let only = if table.carriers.len() > 1 { "ONLY " } else { "" };
    table.carriers.iter().filter(|it| !it.published).map(|it| format!("{only}{}", it.quoted())).collect()
}

/// A table that the catalog does not have.
pub fn missing(catalog: &Catalog, need: &TableNeeds) -> Finding {
    let name = format!("{}.{}", need.schema, need.table);
    let seen = format!("does not exist, or the role may not see it ({})", need.rule);
    // The same name in another schema is nearer than any other.
    let elsewhere =
        catalog.others.iter().find(|other| other.split_once('.').is_some_and(|(_, table)| table == need.table));
    let meant = elsewhere.map(String::as_str).or_else(|| nearest(&name, catalog.others.iter().map(String::as_str)));
    Finding::wrong(format!("table {name}"), seen).mend(match meant {
        Some(meant) => format!("correct the name in the rules file: did you mean \"{meant}\"?"),
        None => "correct the name in the rules file".to_owned(),
    })
}

/// What to do about a column that is not there.
fn meant(carrier: &Carrier, name: &str) -> String {
    match nearest(name, carrier.columns.iter().map(|column| column.name.as_str())) {
        Some(meant) => format!("correct the name in the rules file: did you mean \"{meant}\"?"),
        None => "correct the name in the rules file".to_owned(),
    }
}

fn kind(table: &Table) -> &'static str {
    match (table.kind.as_str(), table.persistence.as_str()) {
        ("v", _) => "a view",
        ("m", _) => "a materialized view",
        ("f", _) => "a foreign table",
        (_, "u") => "an unlogged table",
        (_, "t") => "a temporary table",
        _ => "not a table",
    }
}

/// Findings on one relation that carries rows.
fn rows_of(
    catalog: &Catalog,
    table: &Table,
    carrier: &Carrier,
    needs: &[TableNeeds],
    need: &TableNeeds,
    publication: &str,
) -> Vec<Finding> {
    let subject = match (table.is(carrier), carrier.partition) {
        (true, _) => format!("table {}", table.name()),
        (false, true) => format!("table {}, partition {}.{}", table.name(), carrier.schema, carrier.table),
        (false, false) => format!("table {}, inherited by {}.{}", table.name(), carrier.schema, carrier.table),
    };
    if carrier.kind != "r" || carrier.persistence != "p" {
        return vec![Finding::wrong(subject, "is foreign, unlogged or temporary: its changes are not in the stream")];
    }
    let sent = catalog.publication.as_ref().is_some_and(|publication| publication.generated == "s");
    let stored = if sent { Stored::Sent } else { Stored::LeftOut };
    let mut out = columns(carrier, need, stored, &subject);
    let again = || {
        let (publication, table) = (quote::identifier(publication), table.quoted());
        [
            format!("ALTER PUBLICATION {publication} DROP TABLE {table};"),
            format!("ALTER PUBLICATION {publication} ADD TABLE {table};"),
        ]
    };
    if carrier.row_filter {
        let seen = "is published with a row filter: some changes are not sent";
        out.push(Finding::wrong(subject.clone(), seen).mend_all(again()));
    }
    let unpublished = |name: &&str| carrier.column(name).is_some_and(|column| !column.published);
    if carrier.published {
        let read = need.columns.keys().map(String::as_str).chain(carried(carrier));
        // Generated columns have findings of their own.
        let plain = |name: &&str| carrier.column(name).is_some_and(|column| column.generated.is_empty());
        let hidden: BTreeSet<&str> = read.filter(unpublished).filter(plain).collect();
        if !hidden.is_empty() {
            let seen = format!("the publication's column list leaves out {}", names(&hidden));
            out.push(Finding::wrong(subject.clone(), seen).mend_all(again()));
        }
    }
    out.extend(old_row(catalog, carrier, needs, (need, publication), subject));
    out
}

/// What becomes of generated columns that are stored; virtual ones never come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// They come with the others.
    Sent,
    /// They do not.
    LeftOut,
}

/// Columns that rules name and that do not exist or do not come with a change.
pub fn columns(carrier: &Carrier, need: &TableNeeds, stored: Stored, subject: &str) -> Vec<Finding> {
    let left_out = |generated: &str| generated == "v" || (generated == "s" && stored == Stored::LeftOut);
    let mut out = Vec::new();
    for (name, column) in &need.columns {
        match carrier.column(name) {
            None => out.push(
                Finding::wrong(subject, format!("has no column \"{name}\" ({})", column.rule))
                    .mend(meant(carrier, name)),
            ),
            Some(found) if left_out(&found.generated) => out.push(
                Finding::wrong(
                    subject,
                    format!("column \"{name}\" is generated and does not come with a change ({})", column.rule),
                )
                .mend("compute it in a lookup"),
            ),
            Some(_) => {}
        }
    }
    for name in need.ignored.iter().flatten().filter(|name| carrier.column(name).is_none()) {
        let seen = format!("has no column \"{name}\", which rules ignore");
        out.push(Finding::wrong(subject, seen).mend(meant(carrier, name)));
    }
    out
}

/// Whether the stream carries what the rules read of the row as it was, and whether the server takes updates at all.
fn old_row(
    catalog: &Catalog,
    carrier: &Carrier,
    needs: &[TableNeeds],
    (need, publication): (&TableNeeds, &str),
    subject: String,
) -> Option<Finding> {
    let missing: BTreeSet<&str> = &wanted(carrier, need) - &carried(carrier);
    let senders = match carrier.publications.iter().any(|sender| sender.name == publication) {
        true => carrier.publications.clone(),
        false => with_ours(carrier, publication),
    };
    let version = catalog.server.version;
    let refusal = Ground { senders: &senders, version }.refusal(carrier, &RowIdentity::of(carrier));
    let senders = with_ours(carrier, publication);
    let ground = Ground { senders: &senders, version };
    let choice = identity::choose(carrier, &wanted_by_all(catalog, carrier, needs), ground, Indexes::Built);
    let steps = identity::statements(carrier, &choice);
    if let Some(refusal) = refusal {
        let published = !carrier.publications.is_empty();
        let server = if published { "the server refuses" } else { "once published, the server would refuse" };
        let seen = format!("{server} its updates and deletes: {}", refusal.because());
        let steps = if steps.is_empty() { refusal.mend() } else { steps };
        let steps = if steps.is_empty() { vec![PRIMARY_KEY.to_owned()] } else { steps };
        return Some(Finding::wrong(subject, seen).mend_all(steps));
    }
    if missing.is_empty() {
        return None;
    }
    let costs = match need.ignored {
        Some(_) => "keys with it widen to a sweep, and updates of ignored columns count",
        None => "keys with it widen to a sweep",
    };
    let seen = format!("its replica identity does not carry the old {}: {costs}", names(&missing));
    Some(match choice {
        Choice::Impossible(refusal) => {
            let seen = format!("{seen}; with FULL the server would refuse its updates: {}", refusal.because());
            Finding::note(subject, seen).mend_all(refusal.mend())
        }
        Choice::Keep | Choice::Default | Choice::Existing(_) | Choice::Build { .. } | Choice::Full => {
            Finding::wrong(subject, seen).mend_all(steps)
        }
    })
}

fn names(columns: &BTreeSet<&str>) -> String {
    columns.iter().map(|name| quote::identifier(name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;
    use crate::cli::finding::Grade;

    /// Spoils one thing and expects exactly one wrong line on the table or the publication, with these words and steps.
    fn check(columns: &[&str], spoil: impl FnOnce(&mut Catalog), words: &str, steps: &[&str]) {
        let mut catalog = example::catalog();
        spoil(&mut catalog);
        let need = example::needs(columns);
        let mut found = publication(&catalog, "crieur", std::slice::from_ref(&need));
        found.extend(table(&catalog, std::slice::from_ref(&need), &need, "crieur"));
        let wrong: Vec<_> = found.iter().filter(|finding| finding.verdict == Grade::Wrong).collect();
        assert_eq!(wrong.len(), 1, "{words}: {found:?}");
        assert!(wrong[0].seen.contains(words), "{words}: {:?}", wrong[0]);
        assert_eq!(wrong[0].mend, steps, "{words}");
    }

    fn publication_of(catalog: &mut Catalog) -> &mut crate::catalog::Publication {
        catalog.publication.as_mut().expect("the example has a publication")
    }

    const AGAIN: [&str; 2] = [
        "ALTER PUBLICATION \"crieur\" DROP TABLE \"public\".\"t\";",
        "ALTER PUBLICATION \"crieur\" ADD TABLE \"public\".\"t\";",
    ];
    const FULL: &str = "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;";

    #[test]
    fn each_thing_that_is_wrong_with_the_publication_makes_one_line() {
        let create = "CREATE PUBLICATION \"crieur\" FOR TABLE \"public\".\"t\" WITH (publish = 'insert, update, delete, truncate');";
        check(&["id"], |c| c.publication = None, "does not exist", &[create]);
        let set = "ALTER PUBLICATION \"crieur\" SET (publish = 'insert, update, delete, truncate');";
        check(&["id"], |c| publication_of(c).truncate = false, "does not publish truncate", &[set]);
        let root = "ALTER PUBLICATION \"crieur\" SET (publish_via_partition_root = false);";
        check(&["id"], |c| publication_of(c).via_root = true, "TRUNCATE of one partition", &[root]);
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_table_makes_one_line() {
        let correct = "correct the name in the rules file";
        check(&["id"], |c| c.tables.clear(), "does not exist", &[correct]);
        check(&["colour"], |_| (), "has no column \"colour\" (rule 1)", &[correct]);
        let permanent = "name the permanent tables that hold the rows";
        check(&["id"], |c| c.tables[0].kind = "v".into(), "a view", &[permanent]);
        check(&["id"], |c| c.tables[0].persistence = "u".into(), "an unlogged table", &[permanent]);
        let unpublish = |c: &mut Catalog| {
            c.tables[0].root_published = false;
            c.tables[0].carriers[0].published = false;
        };
        check(&["id"], unpublish, "is not published", &AGAIN[1..]);
        check(&["id"], |c| c.tables[0].carriers[0].row_filter = true, "row filter", &AGAIN);
        check(&["id"], |c| c.tables[0].carriers[0].columns[0].published = false, "column list leaves out", &AGAIN);
        check(
            &["id", "rank"],
            |c| {
                c.tables[0].carriers[0].identity = "f".into();
                c.tables[0].carriers[0].columns[2].generated = "s".into();
            },
            "\"rank\" is generated",
            &["compute it in a lookup"],
        );
    }

    #[test]
    fn a_column_of_the_old_row_that_is_not_carried_is_wrong_with_the_cheapest_way_out() {
        check(&["city"], |_| (), "does not carry the old \"city\"", &[FULL]);
        check(&["id"], |c| c.tables[0].carriers[0].indexes.clear(), "refuse its updates", &[FULL]);
    }

    #[test]
    fn ignored_columns_need_the_old_values_of_all_others() {
        let catalog = example::catalog();
        let mut need = example::needs(&["id"]);
        assert_eq!(wanted(&catalog.tables[0].carriers[0], &need), BTreeSet::from(["id"]));
        let ignored = ["rank".to_owned(), "gone".to_owned()];
        need.ignores(ignored.iter());
        assert_eq!(wanted(&catalog.tables[0].carriers[0], &need), BTreeSet::from(["city", "id", "note", "owner"]));
        let found = table(&catalog, std::slice::from_ref(&need), &need, "crieur");
        let said: Vec<bool> = ["column \"gone\", which rules ignore", "updates of ignored columns count"]
            .map(|words| found.iter().any(|finding| finding.seen.contains(words)))
            .to_vec();
        assert_eq!(said, [true, true], "{found:?}");
    }

    #[test]
    fn a_table_that_inherits_carries_rows_too_and_is_published_by_its_own_name() {
        let mut catalog = example::catalog();
        let mut heir = example::carrier("special");
        heir.published = false;
        catalog.tables[0].carriers.push(heir);
        let need = example::needs(&["id"]);
        let found = table(&catalog, std::slice::from_ref(&need), &need, "crieur");
        let add = "ALTER PUBLICATION \"crieur\" ADD TABLE ONLY \"public\".\"special\";";
        assert_eq!((found.len(), found[0].verdict, found[0].mend[0].as_str()), (1, Grade::Wrong, add), "{found:?}");
    }

    #[test]
    fn a_publication_of_others_that_makes_the_server_refuse_writes_is_wrong_with_the_way_out() {
        let mut catalog = example::catalog();
        let carrier = &mut catalog.tables[0].carriers[0];
        let columns = Some(vec!["id".to_owned(), "note".to_owned()]);
        let entry = ("public".to_owned(), "t".to_owned());
        let (name, generated) = ("warehouse".to_owned(), "n".to_owned());
        carrier.publications = vec![crate::catalog::Sender { name, entry, columns, filter: Vec::new(), generated }];
        let need = example::needs(&["city"]);
        let said = |catalog: &Catalog| table(catalog, std::slice::from_ref(&need), &need, "crieur").remove(0);
        let note = said(&catalog);
        assert_eq!(note.verdict, Grade::Note, "keys widen, writes do not fail: {note:?}");
        assert!(note.seen.contains("with FULL the server would refuse its updates"), "{note:?}");
        catalog.tables[0].carriers[0].identity = "f".into();
        let wrong = said(&catalog);
        assert_eq!(wrong.verdict, Grade::Wrong);
        assert!(wrong.seen.contains("column list of publication \"warehouse\""), "{wrong:?}");
        assert_eq!(wrong.mend, ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;"]);
    }
}
