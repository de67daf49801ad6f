//! Conditions against the CHECK constraints of their columns: a value that no row can have.
//!
//! The server judges, in a transaction that may only read and is rolled back. It is asked of constraints alone that call
//! nothing but its own immutable functions (`sql/constraints.sql`); where anything is in doubt, nothing is said.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cli::finding::Finding;
use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::postgres::session::NO_PATH;
use crate::rules::Rules;
use crate::rules::about::equated::{Equated, Sense};

const CONSTRAINTS_SQL: &str = include_str!("../../../sql/constraints.sql");

/// One constraint: what it says of one column.
#[derive(Clone, Debug, Deserialize)]
struct Constraint {
    name: String,
    definition: String,
    /// Its expression.
    test: String,
    /// The column, as the expression names it.
    column: String,
    kind: String,
    collation: Option<String>,
}

/// What the constraints say of the constants in conditions.
pub async fn findings(client: &Client, rules: &Rules, timeout: Duration) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    let mut known: BTreeMap<(String, String, String), Vec<Constraint>> = BTreeMap::new();
    for equated in rules.equated() {
        let (schema, table) = &equated.table;
        let key = (schema.clone(), table.clone(), equated.column.clone());
        if !known.contains_key(&key) {
            let names = [("schema", schema.as_str()), ("table", table.as_str()), ("column", equated.column.as_str())];
            let texts = asked(client, &quote::fill(CONSTRAINTS_SQL, &names), timeout).await?.map_err(unread)?;
            let read = texts.iter().map(|text| serde_json::from_str(text)).collect::<std::result::Result<_, _>>();
            known.insert(key.clone(), read.map_err(unread)?);
        }
        for constraint in known.get(&key).into_iter().flatten() {
            // A text that is compared with a number may be written in other ways, too: 1, 1.0.
            if equated.number && !matches!(constraint.kind.as_str(), "smallint" | "integer" | "bigint") {
                continue;
            }
            // What the server does not answer (a text that is none of the type, a right that is missing) is in doubt.
            let answer = asked(client, &trial(constraint, &equated.text), timeout).await?;
            if answer.is_ok_and(|texts| texts.iter().any(|text| text == "f")) {
                out.push(of_forbidden(&equated, constraint));
                break;
            }
        }
    }
    Ok(out)
}

/// The constraint's expression over the constant alone.
fn trial(constraint: &Constraint, text: &str) -> String {
    let Constraint { test, column, kind, collation, .. } = constraint;
    let collate = collation.as_ref().map_or(String::new(), |name| format!(" COLLATE {name}"));
    let (value, column) = (quote::literal(text), quote::identifier(column));
    format!("SELECT ({test}) FROM (SELECT {value}::{kind}{collate} AS {column}) AS tried")
}

fn of_forbidden(equated: &Equated, constraint: &Constraint) -> Finding {
    let Equated { column, text, place, .. } = equated;
    let (subject, name) = (format!("rule {place}"), &constraint.name);
    let seen =
        format!("\"{column}\" is never '{text}': the constraint \"{name}\" forbids it, {}", constraint.definition);
    match equated.sense {
        Sense::Is => Finding::wrong(subject, seen),
        Sense::IsNot => Finding::note(subject, format!("{seen}: every value but NULL differs from it")),
    }
    .mend("compare it with a value that the constraint allows")
}

/// The texts of the first column, or what the server says against the statement.
async fn asked(
    client: &Client,
    sql: &str,
    timeout: Duration,
) -> Result<std::result::Result<Vec<String>, tokio_postgres::Error>> {
    let limit = timeout.as_millis().max(1);
    let begin = format!("BEGIN READ ONLY; {NO_PATH}SET LOCAL statement_timeout = {limit}");
    client.batch_execute(&begin).await.map_err(unread)?;
    let answer = client.simple_query(sql).await;
    client.batch_execute("ROLLBACK").await.map_err(unread)?;
    Ok(answer.map(|messages| {
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }))
}

fn unread(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::definite(Exit::Unavailable, "read the CHECK constraints").because(error)
}
