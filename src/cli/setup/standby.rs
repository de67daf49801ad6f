//! The two parts of `crieur setup` for a stream from a standby: all but the slot is made on the primary, and comes to the
//! standby with the replay; the slot is the standby's own.

use std::io::Write;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::Catalog;
use crate::cli::check;
use crate::cli::check::server::{ServerNames, create_slot};
use crate::cli::finding::{Finding, wrong};
use crate::cli::setup::plan::{Slotting, Statement};
use crate::cli::setup::said::{Doing, print, refuse, refused_by_server};
use crate::error::{Error, Exit, Result};
use crate::postgres::facts::LEVEL_HINT;
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// An idle primary writes no record of its open transactions by itself, so nobody waits for it without end.
const SLOT_WAITS: Duration = Duration::from_secs(120);

/// What ends the wait.
const RECORD: &str = "SELECT pg_log_standby_snapshot();";

/// Behind the first part: what this server is to the standby, and where the second part is done.
pub(super) fn what_comes_next(slot: &str, catalog: &Catalog, out: &mut dyn Write) -> std::io::Result<()> {
    let slot_name = quote::identifier(slot);
    writeln!(out, "slot {slot_name}\n    left to the standby: this is the primary")?;
    writeln!(out, "next\n    run crieur setup with the standby's address in postgres.url: it makes the slot there")?;
    if catalog.server.standby_slots == 0 {
        let seen = "no physical slot here: without one the standby's slot is lost when the two are apart for long";
        writeln!(out, "    {seen}: SELECT pg_create_physical_replication_slot('standby', true);")?;
    }
    Ok(())
}

/// What is wrong at the standby besides the slot that is to be made.
fn obstacles(catalog: &Catalog, needs: &[TableNeeds], names: ServerNames<'_>) -> Vec<Finding> {
    let mut out = wrong(check::of_catalog(catalog, needs, names));
    out.retain(|finding| finding.subject != "slot" || catalog.slot.is_some());
    out
}

/// The second part, on the standby.
pub(super) async fn slot(
    postgres: &Client,
    catalog: &Catalog,
    needs: &[TableNeeds],
    (names, mode, slotting): (ServerNames<'_>, Doing, Slotting),
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let obstacles = obstacles(catalog, needs, names);
    let mut plan = Vec::new();
    if catalog.slot.is_none() && slotting == Slotting::Ours {
        let why = format!(
            "the slot: from here on the standby keeps WAL until crieur confirms it. It waits for a word of the primary, which an idle one says only when somebody runs there: {RECORD}"
        );
        plan.push(Statement::new(why, create_slot(names.slot, &catalog.server)));
    }
    if mode == Doing::Print {
        return print(out, &obstacles, &plan);
    }
    if !obstacles.is_empty() {
        return refuse(out, &obstacles);
    }
    match plan.first() {
        None if catalog.slot.is_some() => writeln!(out, "nothing to do")?,
        None => {
            let slot = quote::identifier(names.slot);
            writeln!(out, "slot {slot}\n    left to crieur: it makes the slot at its start")?;
        }
        Some(statement) => {
            writeln!(out, "{}\n    {}", statement.sql, statement.why)?;
            out.flush()?;
            made(postgres, &statement.sql).await?;
        }
    }
    Ok(Exit::Ok)
}

/// Makes the slot, and does not wait without end.
async fn made(postgres: &Client, sql: &str) -> Result<()> {
    let limit = format!("SET statement_timeout = {}", SLOT_WAITS.as_millis());
    postgres.batch_execute(&limit).await.map_err(|error| refused_by_server(&limit, &error))?;
    postgres.batch_execute(sql).await.map_err(|error| match error.code() {
        Some(&SqlState::QUERY_CANCELED) => {
            let seen = format!("the slot was not made: the primary said nothing of its open transactions for {} s", SLOT_WAITS.as_secs());
            Error::definite(Exit::Unavailable, seen)
                .hint(format!("Run crieur setup again, and on the primary meanwhile: {RECORD} Transactions that are open there for long keep the slot waiting too."))
        }
        Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => refused_by_server(sql, &error).hint(LEVEL_HINT),
        _ => refused_by_server(sql, &error),
    })
}
