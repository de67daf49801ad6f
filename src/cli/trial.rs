//! Whether the server takes updates and deletes of a table, asked of the server itself, in a transaction that is rolled
//! back.
//!
//! EXPLAIN of an UPDATE plans it and starts it without running it: `CheckValidResultRel` in
//! src/backend/executor/execMain.c refuses what the UPDATE would be refused for, no trigger fires, no row is read. The
//! decisions are those of `catalog/refusal.rs`; this is the proof, for what a later server may ask besides.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::catalog::identity::probes;
use crate::catalog::{Carrier, Catalog, Table};
use crate::cli::finding::Finding;
use crate::error::{Error, Exit, Result};

/// Readers and writers queue behind a waiting ALTER TABLE. A trial that does not get its lock in this time has shown
/// nothing.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '300ms'";

/// How often a trial is begun whose lock is not free, and what is left to the others between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// A lock was not free in time.
const NOT_FREE: &str = "55P03";

/// The server refuses the statement for the replica identity: there is none, or a publication asks for another.
const REFUSED: [&str; 2] = ["55000", "42P10"];

/// What the server says to updates and deletes of one relation once the statements have run, which lock no other one. They
/// are taken back.
pub async fn changed(client: &Client, statements: &[String], carrier: &Carrier) -> Result<Vec<Finding>> {
    for _ in 1..TRIES {
        match tried(client, statements, &[carrier]).await {
            Err(error) if error.sqlstate.as_deref() == Some(NOT_FREE) => tokio::time::sleep(PAUSE).await,
            ended => return ended,
        }
    }
    tried(client, statements, &[carrier]).await
}

/// What the server says to updates and deletes of these relations once the statements have run. They are taken back.
async fn tried(client: &Client, statements: &[String], carriers: &[&Carrier]) -> Result<Vec<Finding>> {
    let begin = format!("BEGIN; {LOCK_TIMEOUT}; {}", statements.join(" "));
    let refused = match client.batch_execute(&begin).await {
        Ok(()) => asked(client, carriers).await,
        Err(error) => Err(failed(&error)),
    };
    let ended = client.batch_execute("ROLLBACK").await;
    let refused = refused?;
    ended.map_err(|error| failed(&error))?;
    Ok(refused)
}

/// Runs probes in the transaction that is open. A role that may not update, or a lock that is not free, shows nothing.
pub async fn taken(client: &Client, probes: &[String]) -> std::result::Result<(), tokio_postgres::Error> {
    for probe in probes {
        let Err(error) = client.batch_execute(&format!("SAVEPOINT crieur; {probe}")).await else { continue };
        if error.code().is_none_or(|code| REFUSED.contains(&code.code())) {
            return Err(error);
        }
        client.batch_execute("ROLLBACK TO SAVEPOINT crieur").await?;
    }
    Ok(())
}

async fn asked(client: &Client, carriers: &[&Carrier]) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    for carrier in carriers {
        let ask = format!("SAVEPOINT crieur; {}", probes(carrier).concat());
        let Err(error) = client.batch_execute(&ask).await else { continue };
        let Some(said) = error.as_db_error() else { return Err(failed(&error)) };
        if REFUSED.contains(&said.code().code()) {
            let detail = said.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
            let seen = format!("the server refuses its updates and deletes: {}{detail}", said.message());
            out.push(Finding::wrong(format!("table {}.{}", carrier.schema, carrier.table), seen));
        }
        // A role that may not update, or a lock that is not free, shows nothing.
        client.batch_execute("ROLLBACK TO SAVEPOINT crieur").await.map_err(|error| failed(&error))?;
    }
    Ok(out)
}

/// What the server says to updates and deletes of the tables of the rules as they are, where nothing is known to be wrong.
pub async fn standing(client: &Client, catalog: &Catalog, known: &[Finding]) -> Result<Vec<Finding>> {
    let is_known = |carrier: &Carrier| {
        let name = format!("{}.{}", carrier.schema, carrier.table);
        known.iter().any(|finding| finding.subject.ends_with(&name) && finding.seen.contains("updates and deletes"))
    };
    let mut seen = BTreeSet::new();
    let tables = catalog.tables.iter().filter(|table| table.is_replicable());
    let carriers = tables.flat_map(Table::stored).filter(|carrier| seen.insert(carrier.quoted()) && !is_known(carrier));
    tried(client, &[], &carriers.collect::<Vec<_>>()).await
}

fn failed(error: &tokio_postgres::Error) -> Error {
    let doing = "try whether the server takes updates";
    let Some(said) = error.as_db_error() else {
        return Error::definite(Exit::Unavailable, doing).because(error.to_string());
    };
    let text = format!("{doing}: {} ({})", said.message(), said.code().code());
    let mut out = match said.code().code() {
        NOT_FREE => Error::definite(Exit::Unavailable, text).hint(
            "A long transaction holds the table; nothing was changed. Run `crieur setup` again when it has ended.",
        ),
        "42501" => Error::definite(Exit::NoPermission, text)
            .hint("Nothing was changed. Run `crieur setup --print` and have the owner of the tables run its output."),
        _ => Error::definite(Exit::Unavailable, text).hint("Nothing was changed."),
    };
    out.sqlstate = Some(said.code().code().to_owned());
    out
}
