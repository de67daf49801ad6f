//! What `crieur setup` would do: every statement that is missing, and why. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::identity::{self, Choice, Ground, Indexes, probes, wanted_by_all};
use crate::catalog::refusal::{send_generated, with_ours};
use crate::catalog::{Carrier, Catalog, FUNCTIONS, FUNCTIONS_SQL, Publication, TRIGGERS, TRIGGERS_SQL, Table};
use crate::cli::check::server::{self, ServerNames};
use crate::cli::check::tables::{PUBLISH, unpublished};
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// `publish_generated_columns` exists since then.
const VERSION_GENERATED: u32 = 180_000;

/// Who makes the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slotting {
    /// The plan.
    Ours,
    /// The daemon, at its start.
    Left,
}

/// One statement, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// A fragment: what it does and what it costs.
    pub why: String,
    /// SQL with its semicolon.
    pub sql: String,
    /// Statements that the server must take behind it: with one refused, it is rolled back.
    pub probes: Vec<String>,
}

impl Statement {
    pub(crate) fn new(why: impl Into<String>, sql: impl Into<String>) -> Self {
        Statement { why: why.into(), sql: sql.into(), probes: Vec::new() }
    }
}

/// The tables that the server can stream, each with what the rules need of it.
pub(super) fn ready<'c>(catalog: &'c Catalog, needs: &[TableNeeds]) -> Vec<&'c Table> {
    let found = needs.iter().filter_map(|need| catalog.table(need));
    found.filter(|table| table.is_replicable() && !table.is_partition).collect()
}

/// What each relation that carries rows needs; one that carries rows of two tables of the rules has one answer.
pub(super) fn choices<'c>(
    catalog: &'c Catalog,
    needs: &[TableNeeds],
    publication: &str,
) -> BTreeMap<String, (&'c Carrier, Choice)> {
    let carriers = ready(catalog, needs).into_iter().flat_map(Table::stored);
    let chosen = carriers.map(|carrier| {
        let senders = with_ours(carrier, publication);
        let ground = Ground { senders: &senders, version: catalog.server.version };
        let wanted = wanted_by_all(catalog, carrier, needs);
        (carrier.quoted(), (carrier, identity::choose(carrier, &wanted, ground, Indexes::Built)))
    });
    chosen.collect()
}

/// Every statement that is missing on a primary, in order. Pure; tables that the server cannot stream are left to `check`.
pub fn plan(catalog: &Catalog, needs: &[TableNeeds], names: ServerNames<'_>, slotting: Slotting) -> Vec<Statement> {
    let tables = ready(catalog, needs);
    let chosen = choices(catalog, needs, names.publication);
    let mut out: Vec<Statement> = chosen.values().flat_map(|(carrier, choice)| identities(carrier, choice)).collect();
    out.extend(publishing(catalog, &tables, names.publication));
    if catalog.server.functions < FUNCTIONS {
        let why = "functions with which a transaction names keys that its commit deletes";
        out.push(Statement::new(why, FUNCTIONS_SQL));
    }
    if catalog.slot.is_none() && slotting == Slotting::Ours {
        let why = "the slot: from here on the server keeps WAL until crieur confirms it; waits for open transactions";
        out.push(Statement::new(why, server::create_slot(names.slot, &catalog.server)));
    }
    if catalog.server.triggers < TRIGGERS {
        let why = "event triggers: DDL that changes values without changing rows is announced in the stream";
        out.push(Statement::new(why, TRIGGERS_SQL));
    }
    out
}

fn identities(carrier: &Carrier, choice: &Choice) -> Vec<Statement> {
    let why = match choice {
        Choice::Keep | Choice::Impossible(_) => return Vec::new(),
        Choice::Default => "the primary key is what old rows are known by".to_owned(),
        Choice::Existing(name) => format!("index \"{name}\" is what old rows are known by"),
        Choice::Build { .. } => "a unique index over the columns that the rules read: cheaper in WAL than FULL".into(),
        Choice::Full => "the rules read a column that may be NULL, has no length limit or no unique key beside it: \
                         every update and delete writes the whole old row to WAL"
            .into(),
    };
    let why = format!("{}.{}: {why}", carrier.schema, carrier.table);
    let changes = |sql: &String| sql.starts_with("ALTER TABLE");
    let of = |sql: String| {
        let probes = if changes(&sql) { probes(carrier) } else { Vec::new() };
        Statement { probes, ..Statement::new(why.clone(), sql) }
    };
    identity::statements(carrier, choice).into_iter().map(of).collect()
}

/// The statements that bring the publication to these tables.
pub(super) fn publishing(catalog: &Catalog, tables: &[&Table], name: &str) -> Vec<Statement> {
    let mut out = match &catalog.publication {
        None => create_publication(catalog, tables, name).into_iter().collect(),
        Some(publication) => alter_publication(catalog, publication, tables, name),
    };
    let carriers: BTreeMap<String, &Carrier> =
        tables.iter().flat_map(|table| table.stored()).map(|carrier| (carrier.quoted(), carrier)).collect();
    for statement in &mut out {
        statement.probes = carriers.values().flat_map(|carrier| probes(carrier)).collect();
    }
    out
}

/// Since PostgreSQL 18 a FULL identity with stored generated columns needs them published, or updates are refused.
pub(super) fn publishes_generated(catalog: &Catalog, tables: &[&Table]) -> bool {
    let mut columns = tables.iter().flat_map(|table| &table.carriers).flat_map(|carrier| &carrier.columns);
    catalog.server.version >= VERSION_GENERATED && columns.any(|column| column.generated == "s")
}

fn create_publication(catalog: &Catalog, tables: &[&Table], name: &str) -> Option<Statement> {
    if tables.is_empty() {
        return None;
    }
    let generated = if publishes_generated(catalog, tables) { ", publish_generated_columns = stored" } else { "" };
    let listed = tables.iter().map(|table| table.quoted()).collect::<Vec<_>>().join(", ");
    let name = quote::identifier(name);
    Some(Statement::new(
        "exactly the tables of the rules; partitions stand for themselves, so that TRUNCATE of one is sent",
        format!("CREATE PUBLICATION {name} FOR TABLE {listed} WITH (publish = '{PUBLISH}'{generated});"),
    ))
}

fn alter_publication(catalog: &Catalog, found: &Publication, tables: &[&Table], name: &str) -> Vec<Statement> {
    let quoted = quote::identifier(name);
    let mut out = Vec::new();
    let set = |option: &str| format!("ALTER PUBLICATION {quoted} SET ({option});");
    if publishes_generated(catalog, tables) && found.generated != "s" {
        let why = "without it the server refuses updates of a table that is FULL";
        out.push(Statement::new(why, send_generated(name)));
    }
    if !(found.insert && found.update && found.delete && found.truncate) {
        let publish = set(&format!("publish = '{PUBLISH}'"));
        out.push(Statement::new("every kind of change can make a key stale", publish));
    }
    if found.via_root {
        let why = "with it, TRUNCATE of one partition is not sent";
        out.push(Statement::new(why, set("publish_via_partition_root = false")));
    }
    let lacking = tables.iter().filter(|table| !table.is_published()).flat_map(|table| unpublished(table));
    let missing: BTreeSet<String> = lacking.collect();
    // A table of the rules that inherits from another one is named once.
    let once = |item: &&String| !missing.contains(&format!("ONLY {item}"));
    let listed = missing.iter().filter(once).map(String::as_str).collect::<Vec<_>>().join(", ");
    if !listed.is_empty() && !found.all_tables {
        let why = "tables of the rules that it lacks; their earlier changes are not in the stream";
        out.push(Statement::new(why, format!("ALTER PUBLICATION {quoted} ADD TABLE {listed};")));
    }
    out
}
