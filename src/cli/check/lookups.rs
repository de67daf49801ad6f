//! Lookups: whether the server understands each, and whether the role may run it.
//!
//! Each runs once with every parameter NULL inside a transaction that may only read: preparing alone does not check
//! the permissions of the tables.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::cli::check::Finding;
use crate::error::{Error, Exit, Result};
use crate::rules::Lookup;

/// NULL of any type.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(
        &self,
        _: &Type,
        _: &mut bytes::BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// One finding for each lookup.
pub async fn findings(client: &Client, lookups: &[Lookup], timeout: Duration) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    for lookup in lookups {
        let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {}", timeout.as_millis().max(1));
        client.batch_execute(&begin).await.map_err(ended)?;
        let seen = tried(client, lookup).await;
        client.batch_execute("ROLLBACK").await.map_err(ended)?;
        out.push(match seen {
            Ok(columns) => finding(lookup, &columns),
            Err(error) => refused(lookup, &error),
        });
    }
    Ok(out)
}

fn ended(error: tokio_postgres::Error) -> Error {
    Error::definite(Exit::Unavailable, "try the lookups").because(error)
}

/// The names of the result's columns, and how many parameters the statement takes.
struct Prepared {
    columns: Vec<String>,
    args: usize,
}

async fn tried(client: &Client, lookup: &Lookup) -> std::result::Result<Prepared, tokio_postgres::Error> {
    let statement = client.prepare(&lookup.sql).await?;
    let args: Vec<&(dyn ToSql + Sync)> = statement.params().iter().map(|_| &Null as _).collect();
    let prepared = Prepared {
        columns: statement.columns().iter().map(|column| column.name().to_owned()).collect(),
        args: args.len(),
    };
    if prepared.args == lookup.args {
        client.query(&statement, &args).await?;
    }
    Ok(prepared)
}

/// What the server's own description of the statement says. Pure.
fn finding(lookup: &Lookup, prepared: &Prepared) -> Finding {
    let subject = format!("lookup {}", lookup.name);
    if prepared.args != lookup.args {
        let seen = format!("its SQL takes {} parameters, args gives {}", prepared.args, lookup.args);
        return Finding::wrong(subject, seen).mend("make $1, $2, … and args agree in the rules file");
    }
    match lookup.columns.iter().map(|column| &column.name).find(|name| !prepared.columns.contains(name)) {
        Some(missing) => {
            let seen = format!("its SQL returns no column \"{missing}\"; it returns {}", prepared.columns.join(", "));
            Finding::wrong(subject, seen).mend("name the column in the lookup's SELECT")
        }
        None => Finding::ready(subject, "runs, and returns every column that the rules read"),
    }
}

/// The server's words; they hold names of the catalog, and no row value since every parameter was NULL.
fn refused(lookup: &Lookup, error: &tokio_postgres::Error) -> Finding {
    let seen = match error.as_db_error() {
        Some(server) => format!("the server refuses its SQL: {} ({})", server.message(), server.code().code()),
        None => format!("cannot be tried: {error}"),
    };
    Finding::wrong(format!("lookup {}", lookup.name), seen).mend("correct its SQL, or grant what it reads to the role")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;
    use crate::rules::AnswerColumn;
    use crate::rules::reading::Writing;

    #[test]
    fn parameters_and_columns_must_agree_with_the_rules() {
        let lookup = Lookup {
            name: "rule 2, owner".into(),
            sql: "SELECT 1".into(),
            columns: vec![AnswerColumn { name: "owner_id".into(), writing: Writing::JavaScript }],
            args: 1,
        };
        for (columns, args, verdict, words) in [
            (&["id", "owner_id"][..], 1, Verdict::Ready, "runs"),
            (&["id"], 1, Verdict::Wrong, "no column \"owner_id\"; it returns id"),
            (&["owner_id"], 2, Verdict::Wrong, "takes 2 parameters, args gives 1"),
        ] {
            let columns = columns.iter().map(|column| column.to_string()).collect();
            let found = finding(&lookup, &Prepared { columns, args });
            assert_eq!(found.verdict, verdict);
            assert!(found.seen.contains(words), "{found:?}");
        }
    }
}
