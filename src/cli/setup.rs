//! `crieur setup`: publication, replica identities and slot, so that `check` has nothing left to say about them.
//!
//! A plan first, then its statements one by one. Order is a promise to writers: a table gets an identity before it is
//! published, because the server refuses updates of a published table without one. The slot comes in no transaction: it
//! cannot be made in one that wrote. Event triggers are last, because not every role may make them and all else works
//! without. The same plan made twice is empty the second time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::cli::catalog::{Catalog, Publication, Table};
use crate::cli::check::server::{self, Names};
use crate::cli::check::tables::{PUBLISH, wanted};
use crate::cli::check::{self, Finding, Verdict};
use crate::cli::identity::{self, Choice};
use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::quote;
use crate::rules::needs::TableNeeds;

/// `publish_generated_columns` exists since then.
const VERSION_GENERATED: u32 = 180_000;

/// Writers queue behind a waiting ALTER TABLE: after this long it gives up and may be run again.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '5s';";

/// The event triggers that announce DDL; this many are made.
pub const TRIGGERS: u32 = 3;
pub(crate) const TRIGGERS_SQL: &str = include_str!("../../sql/triggers.sql");

/// The functions that transactions call, and the one behind them; this many are made.
pub const FUNCTIONS: u32 = 3;
pub(crate) const FUNCTIONS_SQL: &str = include_str!("../../sql/invalidate.sql");

/// Creates what the daemon needs on the PostgreSQL server. Safe to run twice.
#[derive(Debug, clap::Args)]
pub struct SetupArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the SQL instead of running it; psql can run it.
    #[arg(long)]
    pub print: bool,
}

/// What to do with the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Run it.
    Execute,
    /// Print it.
    Print,
}

impl SetupArgs {
    /// The mode that the command line asks for.
    pub fn mode(&self) -> Mode {
        if self.print { Mode::Print } else { Mode::Execute }
    }
}

/// One statement, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// A fragment: what it does and what it costs.
    pub why: String,
    /// SQL with its semicolon.
    pub sql: String,
}

/// Every statement that is missing, in order. Pure; tables that the server cannot stream are left to `check`.
pub fn plan(catalog: &Catalog, needs: &[TableNeeds], names: Names<'_>) -> Vec<Statement> {
    let ready: Vec<(&TableNeeds, &Table)> = needs
        .iter()
        .filter_map(|need| Some((need, catalog.table(need)?)))
        .filter(|(_, table)| table.is_replicable() && !table.is_partition)
        .collect();
    let mut out: Vec<Statement> = ready.iter().flat_map(|(need, table)| identities(catalog, need, table)).collect();
    let tables: Vec<&Table> = ready.into_iter().map(|(_, table)| table).collect();
    out.extend(match &catalog.publication {
        None => create_publication(catalog, &tables, names.publication).into_iter().collect(),
        Some(publication) => alter_publication(catalog, publication, &tables, names.publication),
    });
    if catalog.server.functions < FUNCTIONS {
        let why = "functions with which a transaction names keys that its commit deletes";
        out.push(Statement { why: why.into(), sql: FUNCTIONS_SQL.into() });
    }
    if catalog.slot.is_none() {
        let why = "the slot: from here on the server keeps WAL until crieur confirms it; waits for open transactions";
        out.push(Statement { why: why.into(), sql: server::create_slot(names.slot, &catalog.server) });
    }
    if catalog.server.triggers < TRIGGERS {
        let why = "event triggers: DDL that changes values without changing rows is announced in the stream";
        out.push(Statement { why: why.into(), sql: TRIGGERS_SQL.into() });
    }
    out
}

fn identities(catalog: &Catalog, need: &TableNeeds, table: &Table) -> Vec<Statement> {
    let mut out = Vec::new();
    for carrier in &table.carriers {
        let choice = identity::choose(carrier, &wanted(carrier, need), catalog.server.version);
        let why = match &choice {
            Choice::Keep | Choice::Impossible(_) => continue,
            Choice::Default => "the primary key carries every column that the rules read of an old row".to_owned(),
            Choice::Existing(name) => {
                format!("index \"{name}\" carries every column that the rules read of an old row")
            }
            Choice::Build { .. } => {
                "a unique index over the columns that the rules read: cheaper in WAL than FULL".into()
            }
            Choice::Full => {
                "the rules read a column that may be NULL, has no length limit or no unique key beside it: \
                             every update and delete writes the whole old row to WAL"
                    .into()
            }
        };
        let why = format!("{}: {why}", format_args!("{}.{}", carrier.schema, carrier.table));
        let sqls = identity::statements(carrier, &choice);
        out.extend(sqls.into_iter().map(|sql| Statement { why: why.clone(), sql }));
    }
    out
}

/// Since PostgreSQL 18 a FULL identity with stored generated columns needs them published, or updates are refused.
fn publishes_generated(catalog: &Catalog, tables: &[&Table]) -> bool {
    let mut columns = tables.iter().flat_map(|table| &table.carriers).flat_map(|carrier| &carrier.columns);
    catalog.server.version >= VERSION_GENERATED && columns.any(|column| column.generated == "s")
}

fn create_publication(catalog: &Catalog, tables: &[&Table], name: &str) -> Option<Statement> {
    if tables.is_empty() {
        return None;
    }
    let generated = if publishes_generated(catalog, tables) { ", publish_generated_columns = stored" } else { "" };
    let listed = tables.iter().map(|table| table.quoted()).collect::<Vec<_>>().join(", ");
    Some(Statement {
        why: "exactly the tables of the rules; partitions stand for themselves, so that TRUNCATE of one is sent".into(),
        sql: format!(
            "CREATE PUBLICATION {} FOR TABLE {listed} WITH (publish = '{PUBLISH}'{generated});",
            quote::identifier(name)
        ),
    })
}

fn alter_publication(catalog: &Catalog, found: &Publication, tables: &[&Table], name: &str) -> Vec<Statement> {
    let name = quote::identifier(name);
    let mut out = Vec::new();
    let mut set = |why: &str, option: String| {
        out.push(Statement { why: why.into(), sql: format!("ALTER PUBLICATION {name} SET ({option});") });
    };
    if publishes_generated(catalog, tables) && found.generated != "s" {
        set(
            "without it the server refuses updates of a table that is FULL",
            "publish_generated_columns = stored".into(),
        );
    }
    if !(found.insert && found.update && found.delete && found.truncate) {
        set("every kind of change can make a key stale", format!("publish = '{PUBLISH}'"));
    }
    if found.via_root {
        set("with it, TRUNCATE of one partition is not sent", "publish_via_partition_root = false".into());
    }
    let missing: BTreeSet<String> =
        tables.iter().filter(|table| !table.is_published()).map(|table| table.quoted()).collect();
    if !missing.is_empty() && !found.all_tables {
        let listed = missing.into_iter().collect::<Vec<_>>().join(", ");
        let why = "tables of the rules that it lacks; their earlier changes are not in the stream";
        out.push(Statement { why: why.into(), sql: format!("ALTER PUBLICATION {name} ADD TABLE {listed};") });
    }
    out
}

/// The plan as a script for psql. Without ON_ERROR_STOP a failed identity would be published all the same.
pub fn script(plan: &[Statement]) -> String {
    let mut out =
        String::from("-- Not in one transaction: CONCURRENTLY and the slot refuse one.\n\\set ON_ERROR_STOP on\n");
    out.push_str(LOCK_TIMEOUT);
    out.push('\n');
    for Statement { why, sql } in plan {
        // A name with a line end would end the comment.
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        out.push_str(&format!("\n-- {why}\n{sql}\n"));
    }
    out
}

/// When the result is looked at: a daemon that waited for the publication may be making its slot anew.
const SECOND_LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// Brings the server to where `check` finds it ready, says what it did, and how to exit.
pub async fn run(
    config: &Config,
    postgres: &Client,
    needs: &[TableNeeds],
    mode: Mode,
    out: &mut dyn Write,
) -> Result<Exit> {
    let names = Names { publication: &config.postgres.publication, slot: &config.postgres.slot };
    apply(postgres, needs, names, mode, out).await
}

/// [`run`], for names instead of a configuration.
pub async fn apply(
    postgres: &Client,
    needs: &[TableNeeds],
    names: Names<'_>,
    mode: Mode,
    out: &mut dyn Write,
) -> Result<Exit> {
    let catalog = Catalog::read(postgres, names.publication, names.slot, needs).await?;
    let plan = plan(&catalog, needs, names);
    if mode == Mode::Print {
        return print(out, &catalog, &plan);
    }
    let blocked = wrong(server::prerequisites(&catalog));
    if !blocked.is_empty() {
        return check::report(out, &blocked);
    }
    if plan.is_empty() {
        writeln!(out, "nothing to do").map_err(unwritten)?;
    } else {
        postgres.batch_execute(LOCK_TIMEOUT).await.map_err(|error| refused(LOCK_TIMEOUT, &error))?;
    }
    for statement in &plan {
        execute(postgres, statement, out).await?;
    }
    // What no statement of ours mends: a lost slot, a row filter, a table that is a view.
    let mut left = Vec::new();
    for pause in SECOND_LOOKS {
        tokio::time::sleep(pause).await;
        let catalog = Catalog::read(postgres, names.publication, names.slot, needs).await?;
        left = wrong(check::of_catalog(&catalog, needs, names));
        if left.is_empty() {
            return Ok(Exit::Ok);
        }
    }
    check::report(out, &left)
}

/// What is not worth stopping for where the role may not: its name, and what is missing without it.
fn optional(sql: &str) -> Option<(&'static str, &'static str)> {
    const WITHOUT_TRIGGERS: &str = "only a superuser may. Until one runs the following with psql, DDL that changes \
        values counts only when it also changes the columns, and only from the next row change on.";
    const WITHOUT_FUNCTIONS: &str = "the role must have CREATE on the database. Until one that has runs the following \
        with psql, transactions cannot call crieur.invalidate.";
    match sql {
        TRIGGERS_SQL => Some(("CREATE EVENT TRIGGER crieur_ddl, crieur_drop, crieur_rewrite;", WITHOUT_TRIGGERS)),
        FUNCTIONS_SQL => Some(("CREATE FUNCTION crieur.invalidate, crieur.invalidate_exact;", WITHOUT_FUNCTIONS)),
        _ => None,
    }
}

/// Runs one statement. Without the event triggers changed columns are still noticed; without the functions rules work.
async fn execute(postgres: &Client, Statement { why, sql }: &Statement, out: &mut dyn Write) -> Result<()> {
    let optional = optional(sql);
    let shown = optional.map_or(sql.as_str(), |(shown, _)| shown);
    writeln!(out, "{shown}\n    {why}").map_err(unwritten)?;
    match (postgres.batch_execute(sql).await, optional) {
        (Err(error), Some((_, without))) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let said = error.as_db_error().map_or("", |error| error.message());
            writeln!(out, "    NOT DONE: {without} ({said})\n\n{sql}").map_err(unwritten)
        }
        (done, _) => done.map_err(|error| refused(shown, &error)),
    }
}

/// The script on standard output; what it cannot mend as comments, so that psql can run the whole.
fn print(out: &mut dyn Write, catalog: &Catalog, plan: &[Statement]) -> Result<Exit> {
    let blocked = wrong(server::prerequisites(catalog));
    for finding in &blocked {
        for line in finding.to_string().lines() {
            writeln!(out, "-- {line}").map_err(unwritten)?;
        }
    }
    let text = if plan.is_empty() { "-- Nothing to do.\n".to_owned() } else { script(plan) };
    out.write_all(text.as_bytes()).map_err(unwritten)?;
    Ok(if blocked.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.verdict == Verdict::Wrong).collect()
}

fn unwritten(error: std::io::Error) -> Error {
    Error::definite(Exit::CantCreate, "write the report").because(error)
}

/// The server's refusal, with what the role lacks.
fn refused(sql: &str, error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else {
        return Error::definite(Exit::Unavailable, format!("run \"{sql}\": {error}"));
    };
    let said = format!("run \"{sql}\": {} ({})", server.message(), server.code().code());
    match server.code().code() {
        "42501" => Error::definite(Exit::NoPermission, said)
            .hint("Run `crieur setup --print` and have the owner of the tables run its output."),
        "55P03" => Error::definite(Exit::Unavailable, said)
            .hint("A long transaction holds the table; run `crieur setup` again when it has ended."),
        "57014" => Error::definite(Exit::Unavailable, said)
            .hint("A slot waits for every open transaction to end; raise statement_timeout or run it again later."),
        _ => Error::definite(Exit::Unavailable, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;

    const NAMES: Names<'static> = Names { publication: "crieur", slot: "crieur" };

    fn sqls(spoil: impl FnOnce(&mut Catalog), columns: &[&str]) -> Vec<String> {
        let mut catalog = example::catalog();
        spoil(&mut catalog);
        plan(&catalog, &[example::needs(columns)], NAMES).into_iter().map(|statement| statement.sql).collect()
    }

    #[test]
    fn a_server_that_is_ready_is_left_alone() {
        assert!(sqls(|_| (), &["id"]).is_empty());
    }

    #[test]
    fn an_identity_comes_before_the_publication_and_the_slot_comes_last() {
        let bare = |catalog: &mut Catalog| {
            catalog.publication = None;
            catalog.slot = None;
        };
        assert_eq!(
            sqls(bare, &["city"]),
            [
                "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;",
                "CREATE PUBLICATION \"crieur\" FOR TABLE \"public\".\"t\" WITH (publish = 'insert, update, delete, truncate');",
                "SELECT pg_catalog.pg_create_logical_replication_slot('crieur', 'pgoutput');",
            ]
        );
    }

    #[test]
    fn a_publication_that_exists_is_completed() {
        let spoil = |catalog: &mut Catalog| {
            let publication = catalog.publication.as_mut().expect("the example has a publication");
            publication.truncate = false;
            publication.via_root = true;
            catalog.tables[0].root_published = false;
            catalog.tables[0].carriers[0].published = false;
        };
        assert_eq!(
            sqls(spoil, &["id"]),
            [
                "ALTER PUBLICATION \"crieur\" SET (publish = 'insert, update, delete, truncate');",
                "ALTER PUBLICATION \"crieur\" SET (publish_via_partition_root = false);",
                "ALTER PUBLICATION \"crieur\" ADD TABLE \"public\".\"t\";",
            ]
        );
    }

    #[test]
    fn event_triggers_that_are_missing_come_at_the_end() {
        let spoil = |catalog: &mut Catalog| {
            catalog.server.triggers = 1;
            catalog.slot = None;
        };
        assert!(sqls(spoil, &["id"]).last().is_some_and(|sql| sql.contains("'crieur_rewrite', 'table_rewrite'")));
    }

    #[test]
    fn stored_generated_columns_are_published_where_updates_would_be_refused_without() {
        let spoil = |catalog: &mut Catalog| {
            catalog.server.version = 180_000;
            catalog.tables[0].carriers[0].columns[2].generated = "s".into();
        };
        assert_eq!(sqls(spoil, &["id"]), ["ALTER PUBLICATION \"crieur\" SET (publish_generated_columns = stored);"]);
    }

    #[test]
    fn a_table_that_cannot_be_streamed_is_never_published() {
        for kind in ["v", "m", "f"] {
            let spoil = |catalog: &mut Catalog| {
                catalog.publication = None;
                catalog.tables[0].kind = kind.into();
            };
            assert!(sqls(spoil, &["id"]).is_empty(), "{kind}");
        }
    }

    #[test]
    fn the_script_holds_every_statement_and_no_name_ends_a_comment() {
        let statement = Statement { why: "odd\nDROP TABLE t;".into(), sql: "SELECT 1;".into() };
        let script = script(&[statement]);
        assert!(script.contains("\n-- odd DROP TABLE t;\nSELECT 1;\n"), "{script}");
    }
}
