//! Lookups: whether the server understands each, whether the role may run it, and whether `tables` names all it reads.
//!
//! Each runs once as the daemon asks it, in a subquery, with every parameter NULL inside a transaction that may only read:
//! preparing alone does not check the permissions of the tables.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::catalog::Catalog;
use crate::cli::check::arguments;
use crate::cli::finding::Finding;
use crate::cli::origin::Origin;
use crate::control::definitions::{ReadTables, reads};
use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::question::LookupId;
use crate::rules::read::sql;
use crate::rules::{Lookup, Rules};

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
pub async fn findings(client: &Client, origin: &Origin<'_>, catalog: &Catalog) -> Result<Vec<Finding>> {
    let config = origin.config;
    let (rules, limit) = (&config.rules, config.postgres.lookup_timeout.as_millis().max(1));
    if rules.lookups().is_empty() {
        return Ok(Vec::new());
    }
    let row = client.query_one("SELECT current_user::text", &[]).await.map_err(ended)?;
    let role: String = row.try_get(0).map_err(ended)?;
    let mut out = Vec::new();
    for (id, lookup) in (0..).map(LookupId).zip(rules.lookups()) {
        // As the daemon's sessions are: rows that a policy hides are no answer.
        let begin = format!("BEGIN READ ONLY; SET LOCAL row_security = off; SET LOCAL statement_timeout = {limit}");
        client.batch_execute(&begin).await.map_err(ended)?;
        let seen = tried(client, lookup).await;
        client.batch_execute("ROLLBACK").await.map_err(ended)?;
        let keeps = origin.keeps(id);
        let unfit = seen.as_ref().ok().and_then(|seen| arguments::unfit(rules, catalog, id, lookup, &seen.parameters));
        if let Some(unfit) = unfit {
            out.push(unfit);
            continue;
        }
        out.push(match seen {
            Ok(prepared) if keeps => match reads(client, lookup).await? {
                Ok(read) => unnamed(rules, id, lookup, &read).unwrap_or_else(|| finding(lookup, &prepared)),
                Err(refused) => {
                    let seen = format!("its plan cannot be read: {}", refused.text);
                    Finding::wrong(format!("lookup {}", lookup.name), seen).mend("correct its SQL in the rules file")
                }
            },
            Ok(prepared) => finding(lookup, &prepared),
            Err(refusal) => refused(lookup, &refusal, &role),
        });
    }
    Ok(out)
}

/// A table that the SQL reads and `tables` does not name, or something whose changes never come.
fn unnamed(rules: &Rules, id: LookupId, lookup: &Lookup, read: &ReadTables) -> Option<Finding> {
    let named: BTreeSet<(&str, &str)> = rules.sources_named(id).collect();
    if let Some((schema, name)) = read.others.first() {
        let seen =
            format!("its SQL reads \"{schema}.{name}\", whose rows are not in the stream: no answer can be kept");
        let mend = "remove tables from the lookup, or let it read the tables beneath";
        return Some(Finding::wrong(format!("lookup {}", lookup.name), seen).mend(mend));
    }
    let missing = read.tables.iter().find(|(schema, name)| !named.contains(&(schema.as_str(), name.as_str())))?;
    let table = format!("{}.{}", missing.0, missing.1);
    let seen =
        format!("its SQL reads table \"{table}\", which its tables do not name: a change there leaves old answers");
    Some(Finding::wrong(format!("lookup {}", lookup.name), seen).mend(format!("add \"{table}\" to its tables")))
}

fn ended(error: tokio_postgres::Error) -> Error {
    Error::definite(Exit::Unavailable, "try the lookups").because(error)
}

/// The names of the result's columns, and how many parameters the statement takes.
struct Prepared {
    columns: Vec<String>,
    args: usize,
    /// The types of the parameters, by name.
    parameters: Vec<String>,
}

impl Prepared {
    /// The first column that the rules read and the result does not have.
    fn missing<'l>(&self, lookup: &'l Lookup) -> Option<&'l str> {
        let read = lookup.columns.iter().map(|column| column.name.as_str());
        read.into_iter().find(|name| !self.columns.iter().any(|column| column == name))
    }
}

/// Which form of a statement the server refuses.
enum Refusal {
    AsWritten(tokio_postgres::Error),
    /// In the daemon's subquery: two columns of one name, or something behind the statement's end.
    AsAsked(tokio_postgres::Error),
}

async fn tried(client: &Client, lookup: &Lookup) -> std::result::Result<Prepared, Refusal> {
    let written = client.prepare(&lookup.sql).await.map_err(Refusal::AsWritten)?;
    let columns = written.columns().iter().map(|column| column.name().to_owned()).collect();
    let parameters = written.params().iter().map(|kind| kind.name().to_owned()).collect();
    let prepared = Prepared { columns, args: written.params().len(), parameters };
    if prepared.args == lookup.args && prepared.missing(lookup).is_none() {
        let oid = |name: &str| written.columns().iter().find(|column| column.name() == name).map(|c| c.type_().oid());
        let typed = lookup.columns.iter().map(|column| (column.name.as_str(), oid(&column.name).unwrap_or_default()));
        let asked = sql::for_one(&lookup.sql, &typed.collect::<Vec<_>>());
        let asked = client.prepare(&asked).await.map_err(Refusal::AsAsked)?;
        let nulls: Vec<&(dyn ToSql + Sync)> = asked.params().iter().map(|_| &Null as _).collect();
        client.query(&asked, &nulls).await.map_err(Refusal::AsWritten)?;
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
    match prepared.missing(lookup) {
        Some(missing) => {
            let seen = format!("its SQL returns no column \"{missing}\"; it returns {}", prepared.columns.join(", "));
            Finding::wrong(subject, seen).mend("name the column in the lookup's SELECT")
        }
        None => Finding::ready(subject, "runs, and returns every column that the rules read"),
    }
}

/// The server's words; they hold names of the catalog, and no row value since every parameter was NULL.
fn refused(lookup: &Lookup, refusal: &Refusal, role: &str) -> Finding {
    let (error, what) = match refusal {
        Refusal::AsWritten(error) => (error, "its SQL"),
        Refusal::AsAsked(error) => (error, "it as crieur asks it, SELECT … FROM (its SQL) AS q"),
    };
    let Some(server) = error.as_db_error() else {
        return Finding::wrong(format!("lookup {}", lookup.name), format!("cannot be tried: {error}"));
    };
    let seen = format!("the server refuses {what}: {} ({})", server.message(), server.code().code());
    let way_out = WayOut::of(refusal, server.code().code(), server.routine());
    Finding::wrong(format!("lookup {}", lookup.name), seen).mend_all(way_out.steps(role))
}

/// What mends a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WayOut {
    /// Policies would hide rows, and hidden rows are no answer.
    RowSecurity,
    /// A table, a column, a schema or a function that the role may not use.
    Privilege,
    /// It would write.
    ReadOnly,
    /// A column by two names, or something behind the end.
    Form,
    /// Anything else is between the author and the server.
    Sql,
}

impl WayOut {
    /// Messages may be translated, and one code stands for two causes: the server's function tells them apart.
    fn of(refusal: &Refusal, code: &str, routine: Option<&str>) -> WayOut {
        match (refusal, code) {
            (_, "42501") if routine == Some("check_enable_rls") => WayOut::RowSecurity,
            (_, "42501") => WayOut::Privilege,
            (_, "25006") => WayOut::ReadOnly,
            // A part of WITH that writes.
            (_, "0A000") if routine == Some("transformWithClause") => WayOut::ReadOnly,
            (Refusal::AsAsked(_), _) => WayOut::Form,
            (Refusal::AsWritten(_), _) => WayOut::Sql,
        }
    }

    fn steps(self, role: &str) -> Vec<String> {
        let role = quote::identifier(role);
        match self {
            WayOut::RowSecurity => vec![
                format!("ALTER ROLE {role} BYPASSRLS;"),
                "or let the lookup read a view that the table's owner owns: policies do not hide rows from an owner"
                    .to_owned(),
            ],
            WayOut::Privilege => vec![format!("GRANT SELECT ON the table that the server names TO {role};")],
            WayOut::ReadOnly => {
                vec!["write a query that only reads: crieur asks it in a read-only transaction".to_owned()]
            }
            WayOut::Form => vec![
                "give each column that the rules read a name of its own, and write nothing behind the end of its SQL"
                    .to_owned(),
            ],
            WayOut::Sql => vec!["correct its SQL in the rules file".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Grade;
    use crate::rules::AnswerColumn;
    use crate::rules::read::parse::rules_of;
    use crate::rules::value::reading::TextOf;

    #[test]
    fn every_table_of_a_plan_must_be_named() {
        let tables = ["leases", "properties"].map(|name| ("public".to_owned(), name.to_owned()));
        let read = ReadTables { tables: tables.into(), others: BTreeSet::new() };
        for (tables, mend) in [
            ("'leases', 'properties', 'more'", None),
            ("'leases'", Some(vec!["add \"public.properties\" to its tables".to_owned()])),
        ] {
            let rules = rules_of(&format!(
                "[[rules]]\ntable = 't'\nkeys = ['k:{{o.x}}']\nlookup.o = {{ sql = 'select x', tables = [{tables}] }}\n"
            ));
            let found = unnamed(&rules, LookupId(0), &rules.lookups()[0], &read);
            assert_eq!(found.map(|found| found.mend), mend);
        }
    }

    #[test]
    fn parameters_and_columns_must_agree_with_the_rules() {
        let lookup = Lookup {
            name: "rule 2, owner".into(),
            sql: "SELECT 1".into(),
            columns: vec![AnswerColumn { name: "owner_id".into(), writing: TextOf::JavaScript }],
            args: 1,
        };
        for (columns, args, verdict, words) in [
            (&["id", "owner_id"][..], 1, Grade::Ready, "runs"),
            (&["id"], 1, Grade::Wrong, "no column \"owner_id\"; it returns id"),
            (&["owner_id"], 2, Grade::Wrong, "takes 2 parameters, args gives 1"),
        ] {
            let columns = columns.iter().map(|column| column.to_string()).collect();
            let found = finding(&lookup, &Prepared { columns, args, parameters: Vec::new() });
            assert_eq!(found.verdict, verdict);
            assert!(found.seen.contains(words), "{found:?}");
        }
    }
}
