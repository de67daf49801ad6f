//! `crieur setup`: publication, replica identities and slot, so that `check` has nothing left to say about them.
//!
//! A plan first, then what it would leave wrong: with anything left, nothing is begun. Then each table's part is tried in
//! a transaction that is rolled back, because a publication of somebody else may make the server refuse updates under
//! another identity. Only then the statements run, one by one. Order is a promise to writers: a table gets an identity
//! before it is published, because the server refuses updates of a published table without one. The slot comes in no
//! transaction: it cannot be made in one that wrote. Event triggers are last, because not every role may make them and
//! all else works without. The same plan made twice is empty the second time.

mod obstacles;
pub(crate) mod outbox;
pub mod plan;
mod said;
mod standby;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::identity::{self, Choice};
use crate::catalog::{Carrier, Catalog, FUNCTIONS_SQL, TRIGGERS_SQL};
use crate::cli::check;
use crate::cli::check::server::ServerNames;
use crate::cli::finding::{Finding, Grade, report, wrong};
use crate::cli::setup::obstacles::obstacles;
use crate::cli::setup::plan::{Slotting, Statement, choices, plan, publishing, ready};
pub use crate::cli::setup::said::{Doing, script};
use crate::cli::setup::said::{LOCK_TIMEOUT, print, refuse, refused_by_server};
use crate::cli::trial;
use crate::config::Config;
use crate::error::{Exit, Result};
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// Creates what the daemon needs on the PostgreSQL server. Safe to run twice.
#[derive(Debug, clap::Args)]
pub struct SetupArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the SQL instead of running it, to read it or to run it with psql.
    #[arg(long)]
    pub print: bool,
    /// Do not create the replication slot; `crieur run` creates it when it starts. For a role that may not replicate.
    #[arg(long)]
    pub without_slot: bool,
}

impl SetupArgs {
    /// The mode that the command line asks for.
    pub fn mode(&self) -> Doing {
        if self.print { Doing::Print } else { Doing::Execute }
    }

    /// Whether the command line leaves the slot out.
    pub fn slotting(&self) -> Slotting {
        if self.without_slot { Slotting::Left } else { Slotting::Ours }
    }
}

/// Tries the plan where it changes something, one carrier after the other: a trial locks what it alters. An index that is
/// still to be built cannot be tried.
async fn trial(
    postgres: &Client,
    catalog: &Catalog,
    needs: &[TableNeeds],
    names: ServerNames<'_>,
) -> Result<Vec<Finding>> {
    let chosen = choices(catalog, needs, names.publication);
    let mut out = Vec::new();
    for table in ready(catalog, needs) {
        let choice = |carrier: &Carrier| chosen.get(&carrier.quoted());
        let is_built = |carrier| choice(carrier).is_some_and(|(_, choice)| matches!(choice, Choice::Build { .. }));
        if table.stored().any(is_built) {
            continue;
        }
        let publishing = publishing(catalog, &[table], names.publication).into_iter().map(|statement| statement.sql);
        let publishing: Vec<String> = publishing.collect();
        for carrier in table.stored() {
            let identity = choice(carrier).map(|(carrier, choice)| identity::statements(carrier, choice));
            let statements: Vec<String> = identity.into_iter().flatten().chain(publishing.iter().cloned()).collect();
            if !statements.is_empty() {
                out.extend(trial::changed(postgres, &statements, carrier).await?);
            }
        }
    }
    Ok(out)
}

/// When the result is looked at: a daemon that waited for the publication may be making its slot anew.
const SECOND_LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// Brings the server to where `check` finds it ready, says what it did, and how to exit.
pub async fn run(
    config: &Config,
    postgres: &Client,
    needs: &[TableNeeds],
    (mode, slotting): (Doing, Slotting),
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let names = ServerNames::of(&config.postgres);
    let catalog = Catalog::read(postgres, names.publication, names.slot, needs).await?;
    if names.standby && catalog.server.in_recovery {
        return standby::slot(postgres, &catalog, needs, (names, mode, slotting), out).await;
    }
    // Where the stream is to come from a standby, its slot is made there.
    let slotting = if names.standby { Slotting::Left } else { slotting };
    let plan = plan(&catalog, needs, names, slotting);
    let obstacles = obstacles(&catalog, needs, names, slotting);
    if mode == Doing::Print {
        return print(out, &obstacles, &plan);
    }
    if !obstacles.is_empty() {
        return refuse(out, &obstacles);
    }
    let refused = trial(postgres, &catalog, needs, names).await?;
    if !refused.is_empty() {
        return refuse(out, &refused);
    }
    if plan.is_empty() {
        writeln!(out, "nothing to do")?;
    } else {
        postgres.batch_execute(LOCK_TIMEOUT).await.map_err(|error| refused_by_server(LOCK_TIMEOUT, &error))?;
    }
    for (number, statement) in plan.iter().enumerate() {
        let done = execute(postgres, statement).await.map_err(|error| match (number, &error.hint) {
            (0, _) | (_, Some(_)) => error,
            (_, None) => error.hint("What is printed above is done. Run `crieur setup` again: it goes on from there."),
        })?;
        writeln!(out, "{done}")?;
    }
    if names.standby {
        standby::what_comes_next(names.slot, &catalog, out)?;
    } else if slotting == Slotting::Left && catalog.slot.is_none() {
        let slot = quote::identifier(names.slot);
        writeln!(out, "slot {slot}\n    left to crieur: it makes the slot at its start")?;
    }
    looked_at(postgres, needs, (names, slotting), out).await
}

/// What no statement of ours mends, a lost slot, or what came in the meantime.
async fn looked_at(
    postgres: &Client,
    needs: &[TableNeeds],
    (names, slotting): (ServerNames<'_>, Slotting),
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut left = Vec::new();
    for pause in SECOND_LOOKS {
        tokio::time::sleep(pause).await;
        let catalog = Catalog::read(postgres, names.publication, names.slot, needs).await?;
        let found = check::of_catalog(&catalog, needs, names);
        let costs = found.iter().filter(|finding| finding.verdict == Grade::Note && !finding.mend.is_empty());
        let costs: Vec<Finding> = costs.filter(|finding| finding.subject.starts_with("table ")).cloned().collect();
        // The role of the daemon may be another, and make the slot.
        let makes_it = slotting == Slotting::Left && catalog.slot.is_none();
        left = wrong(found);
        left.retain(|finding| finding.subject != "role" && !(finding.subject == "slot" && makes_it));
        left.extend(trial::standing(postgres, &catalog, &left).await?);
        if left.is_empty() {
            costs.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
            return Ok(Exit::Ok);
        }
    }
    report(out, &left)
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

/// Runs one statement, and gives back what to say of it. Without the event triggers changed columns are still noticed;
/// without the functions rules work.
async fn execute(postgres: &Client, statement: &Statement) -> Result<String> {
    let Statement { why, sql, .. } = statement;
    let optional = optional(sql);
    let shown = optional.map_or(sql.as_str(), |(shown, _)| shown);
    match (run_probed(postgres, statement).await, optional) {
        (Err(error), Some((_, without))) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let said = error.as_db_error().map_or("", |error| error.message());
            Ok(format!("{shown}\n    {why}\n    NOT DONE: {without} ({said})\n\n{sql}"))
        }
        (Ok(()), _) => Ok(format!("{shown}\n    {why}")),
        (Err(error), _) => Err(refused_by_server(shown, &error)),
    }
}

/// The statement and its probes in one transaction; without probes it may be one that no transaction takes.
async fn run_probed(postgres: &Client, statement: &Statement) -> std::result::Result<(), tokio_postgres::Error> {
    if statement.probes.is_empty() {
        return postgres.batch_execute(&statement.sql).await;
    }
    let ran = postgres.batch_execute(&format!("BEGIN; {}", statement.sql)).await;
    let ran = match ran {
        Ok(()) => trial::taken(postgres, &statement.probes).await,
        Err(error) => Err(error),
    };
    let end = if ran.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = postgres.batch_execute(end).await;
    ran.and(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;

    const NAMES: ServerNames<'static> = ServerNames { publication: "crieur", slot: "crieur", standby: false };

    fn sqls(spoil: impl FnOnce(&mut Catalog), columns: &[&str]) -> Vec<String> {
        let mut catalog = example::catalog();
        spoil(&mut catalog);
        plan(&catalog, &[example::needs(columns)], NAMES, Slotting::Ours)
            .into_iter()
            .map(|statement| statement.sql)
            .collect()
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
        let statement = Statement::new("odd\nDROP TABLE t;", "SELECT 1;");
        let script = script(&[statement]);
        assert!(script.contains("\n-- odd DROP TABLE t;\nSELECT 1;\n"), "{script}");
    }
}
