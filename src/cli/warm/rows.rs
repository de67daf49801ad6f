//! The pages of a family: each row's, as the daemon would make them of a change of the row.

use std::collections::BTreeSet;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::change::{Column, Oid, Relation, ReplicaIdentity, Row, Tuple, Value, push_column};
use crate::cli::bar::Bar;
use crate::cli::origin::Origin;
use crate::error::{Error, Exit, Result};
use crate::keys::FamilyId;
use crate::postgres::quote::{identifiers, literal, qualified};
use crate::postgres::sqlstate::session_error;
use crate::rules::about::warm::PageTable;
use crate::rules::{Invalidations, Plan, Rules};
use crate::shown::quoted;
use crate::warm::entry;

/// Rows that are read together.
const TOGETHER: usize = 1_000;

/// A type whose values nobody can compare has no DISTINCT: `json`, `xml`, `point`.
const INCOMPARABLE: &str = "42883";

/// Pages of a family.
#[derive(Debug, Default)]
pub(super) struct PageList {
    pub(super) urls: Vec<String>,
    /// There are more.
    pub(super) is_cut: bool,
}

/// The families that somebody names and that have pages.
///
/// # Errors
///
/// There is no such family, or it has none.
fn families(rules: &Rules, what: &str) -> Result<BTreeSet<FamilyId>> {
    let usage = |why: String, hint: &str| Error::definite(Exit::Usage, why).hint(hint.to_owned());
    let named = rules.named(what).map_err(|_| {
        let why = format!("{} is no file, and no template of the rules", quoted(what.as_bytes()));
        usage(why, "Name a file of addresses, one a line; or a template as the rules write it, such as detail:{id}.")
    })?;
    let named: BTreeSet<FamilyId> = named.patterns.iter().map(|pattern| pattern.family).collect();
    let paged: BTreeSet<FamilyId> = named.iter().copied().filter(|family| rules.page_of(*family).is_some()).collect();
    if !paged.is_empty() {
        return Ok(paged);
    }
    Err(if named.iter().any(|family| rules.lookup_of(*family).is_some()) {
        let why =
            format!("keys of {} are made by a lookup: which pages they have no table tells", quoted(what.as_bytes()));
        usage(why, "Write their addresses into a file, one a line: crieur warm FILE")
    } else {
        let why = format!("no rule says which pages keys of {} have", quoted(what.as_bytes()));
        usage(why, "Write warm = \"https://…\" into the rule, or into the sink of its tags.")
    })
}

/// The pages of all rows of a family, each once, at most so many.
///
/// # Errors
///
/// There is no such family, or PostgreSQL refuses.
pub(super) async fn listed(origin: &Origin<'_>, what: &str, limit: usize, bar: &mut Bar) -> anyhow::Result<PageList> {
    let rules = &origin.config.rules;
    let families = families(rules, what)?;
    let session = origin.session().await?;
    let (mut listed, mut known) = (PageList::default(), BTreeSet::new());
    for table in rules.page_tables(&families) {
        let mut take = |url: &str| {
            if listed.urls.len() >= limit && !known.contains(url) {
                listed.is_cut = true;
            } else if known.insert(url.to_owned()) {
                listed.urls.push(url.to_owned());
                bar.draw(&format!("{} pages found so far", listed.urls.len()));
            }
            !listed.is_cut
        };
        of_table(&session.client, rules, (&table, &families), &mut take)
            .await
            .map_err(|error| origin.blamed(error.into()))?;
        if listed.is_cut {
            break;
        }
    }
    Ok(listed)
}

/// Hands out the addresses of a table's rows, until `take` wants no more.
async fn of_table(
    client: &Client,
    rules: &Rules,
    (table, families): (&PageTable, &BTreeSet<FamilyId>),
    take: &mut dyn FnMut(&str) -> bool,
) -> Result<()> {
    let relation = described(client, table).await?;
    let names: Vec<String> = relation.columns.iter().map(|column| column.name.clone()).collect();
    let (columns, from) = (identifiers(&names), qualified(&table.schema, &table.table));
    let plan = rules.plan(&relation, (&table.schema, &table.table));
    let begin = |distinct: &str| {
        // Where neither key nor address has a placeholder, all rows have one page, and no column can be DISTINCT.
        let rows = match names.is_empty() {
            true => format!("SELECT FROM {from} LIMIT 1"),
            false => format!("SELECT {distinct} {columns} FROM {from}"),
        };
        format!("BEGIN READ ONLY; DECLARE crieur_pages NO SCROLL CURSOR FOR {rows}")
    };
    let mut begun = client.batch_execute(&begin("DISTINCT")).await;
    if begun.as_ref().is_err_and(|error| error.code().is_some_and(|code| code.code() == INCOMPARABLE)) {
        client.batch_execute("ROLLBACK").await.map_err(|error| session_error(&error))?;
        begun = client.batch_execute(&begin("")).await;
    }
    begun.map_err(|error| session_error(&error))?;
    let fetch = format!("FETCH {TOGETHER} FROM crieur_pages");
    loop {
        let answers = client.simple_query(&fetch).await.map_err(|error| session_error(&error))?;
        let (mut rows, mut goes_on) = (0, true);
        for answer in &answers {
            let SimpleQueryMessage::Row(row) = answer else { continue };
            rows += 1;
            let mut body = Vec::new();
            (0..names.len()).for_each(|column| push_column(&mut body, value(row.get(column))));
            goes_on = goes_on && pages(&plan, Tuple::checked(names.len() as u16, &body), families, take);
        }
        if rows < TOGETHER || !goes_on {
            return client.batch_execute("ROLLBACK").await.map_err(|error| session_error(&error));
        }
    }
}

fn value(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, |text| Value::Text(text.as_bytes()))
}

/// The table, with the columns that are read.
async fn described(client: &Client, table: &PageTable) -> Result<Relation> {
    let name = literal(&qualified(&table.schema, &table.table));
    let sql = format!(
        "SELECT attname, atttypid FROM pg_catalog.pg_attribute \
         WHERE attrelid = {name}::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    );
    let answers = client.simple_query(&sql).await.map_err(|error| session_error(&error))?;
    let mut columns = Vec::new();
    for answer in &answers {
        let SimpleQueryMessage::Row(row) = answer else { continue };
        let (name, oid) =
            (row.get(0).unwrap_or_default(), row.get(1).and_then(|oid| oid.parse().ok()).unwrap_or_default());
        if table.columns.contains(name) {
            columns.push(Column { name: name.to_owned(), type_oid: Oid(oid), in_identity: true });
        }
    }
    let missing: Vec<&str> = table
        .columns
        .iter()
        .map(String::as_str)
        .filter(|name| !columns.iter().any(|column| column.name == **name))
        .collect();
    if !missing.is_empty() {
        let why = format!("the table {}.{} has no column {}", table.schema, table.table, missing.join(", "));
        return Err(Error::definite(Exit::Config, why).hint("Run: crieur check"));
    }
    let (schema, name) = (table.schema.clone(), table.table.clone());
    Ok(Relation { oid: Oid(1), schema, name, identity: ReplicaIdentity::Full, columns })
}

/// Hands out the pages of a row, as an insert or an update of the row makes them; whether more are wanted.
fn pages(plan: &Plan, row: Tuple<'_>, families: &BTreeSet<FamilyId>, take: &mut dyn FnMut(&str) -> bool) -> bool {
    let mut out = Invalidations::default();
    plan.apply(&Row::Insert { new: row }, 0, &mut out);
    plan.updated(row, 0, &mut out);
    let wanted = out.warms.iter().filter(|page| families.contains(&page.family));
    let urls: Vec<String> =
        wanted.filter_map(|page| Some(std::str::from_utf8(entry::parts(page.bytes)?.1).ok()?.to_owned())).collect();
    urls.iter().all(|url| take(url))
}
