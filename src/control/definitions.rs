//! What kept answers of lookups stand for besides rows: how everything is defined that they were read from.
//!
//! The stream brings changes of rows. A table that took another's name, a view or a function that was replaced, a schema
//! that was swapped change answers without one. So each snapshot of the gate comes with a digest of these definitions
//! (`sql/definitions.sql`), taken behind it on the same connection: DDL that committed before a transaction is in the
//! digest that the transaction's lookups are resolved with. Behind another digest each lookup is looked at again:
//! answers are kept only where the stream brings the changes of every table that the plan reads.
//!
//! Invariant: nothing here waits between statements that belong together, since others use the connection meanwhile.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::future::join3;
use serde::Deserialize;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use crate::control::lookups::{Refusable, refusal};
use crate::control::{Definitions, Sighting};
use crate::error::{Error, Exit, Result};
use crate::observe::{Id, log};
use crate::postgres::quote;
use crate::postgres::session::NO_PATH;
use crate::postgres::sqlstate::session_error;
use crate::question::LookupId;
use crate::rules::read::sql;
use crate::rules::{Lookup, Rules};

const SQL: &str = include_str!("../../sql/definitions.sql");

/// Like `NO_PATH`, for statements that are prepared. The statement is cheap, and its planner does not know that.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL jit TO off; SET LOCAL search_path TO ''";

/// Tables by schema and name.
type Tables = BTreeSet<(String, String)>;

/// The lookups that keep their answers.
#[derive(Debug)]
pub(crate) struct KeptLookups {
    /// Each with the tables that it names.
    lookups: Vec<(LookupId, Lookup, Tables)>,
    sql: String,
}

impl KeptLookups {
    /// `None` where no lookup keeps its answers.
    pub(crate) fn of(rules: &Rules, publication: &str) -> Option<KeptLookups> {
        let kept = (0..).map(LookupId).zip(rules.lookups()).filter(|(id, _)| rules.keeps(*id));
        let named = |id| rules.sources_named(id).map(|(schema, name)| (schema.to_owned(), name.to_owned())).collect();
        let lookups: Vec<_> = kept.map(|(id, lookup)| (id, lookup.clone(), named(id))).collect();
        let words: BTreeSet<String> = lookups.iter().flat_map(|(_, lookup, _)| sql::words(&lookup.sql)).collect();
        let words = sql::array(words.iter().map(|word| Some(word.as_bytes())));
        let words = String::from_utf8_lossy(&words).into_owned();
        let sql = quote::fill(SQL, &[("words", words.as_str()), ("publication", publication)]);
        (!lookups.is_empty()).then_some(KeptLookups { lookups, sql })
    }

    /// How many statements a look may take that finds everything changed.
    pub(crate) fn statements(&self) -> usize {
        8 + 4 * self.lookups.len()
    }
}

/// What one connection knows of them.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// The statement, and the search path that lookups have on this connection.
    prepared: RefCell<Option<(Statement, String)>>,
    last: RefCell<Option<Definitions>>,
}

/// What a look came to.
#[derive(Debug)]
pub(crate) enum DefinitionsLook {
    Same(Definitions),
    /// Something is another now, or this is the connection's first look: [`Looks::settle`] comes next.
    Changed(String),
}

impl Looks {
    /// Prepares what a look needs, once for a connection.
    pub(crate) async fn prepare(&self, client: &Client, kept: &KeptLookups) -> Result<()> {
        if self.prepared.borrow().is_some() {
            return Ok(());
        }
        let path = client.query_one("SELECT pg_catalog.current_setting('search_path')", &[]).await;
        let path: String = path.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
        let (began, statement, ended) =
            join3(client.batch_execute(BEGIN), client.prepare(&kept.sql), client.batch_execute("COMMIT")).await;
        began.and(ended).map_err(|error| session_error(&error))?;
        let statement = statement.map_err(|error| session_error(&error))?;
        *self.prepared.borrow_mut() = Some((statement, path));
        Ok(())
    }

    /// Looks; to be polled behind the snapshot that it belongs to, on the same connection.
    pub(crate) async fn look(&self, client: &Client) -> Result<DefinitionsLook> {
        let prepared = self.prepared.borrow().clone();
        let (statement, path) =
            prepared.ok_or_else(|| Error::definite(Exit::Software, "a look that is not prepared"))?;
        let (began, row, ended) =
            join3(client.batch_execute(BEGIN), client.query_one(&statement, &[]), client.batch_execute("COMMIT")).await;
        began.and(ended).map_err(|error| session_error(&error))?;
        let digest: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
        let digest = format!("{digest} {path}");
        Ok(match &*self.last.borrow() {
            Some(last) if last.digest == digest => DefinitionsLook::Same(last.clone()),
            Some(_) | None => DefinitionsLook::Changed(digest),
        })
    }

    /// Says which lookups read more than the stream brings. DDL that comes in between makes the next digest another one.
    pub(crate) async fn settle(
        &self,
        client: &Client,
        kept: &KeptLookups,
        digest: String,
        seen: Option<&Sighting>,
    ) -> Result<Definitions> {
        let mut unkept = BTreeSet::new();
        for (id, lookup, named) in &kept.lookups {
            let unpublished =
                |table| seen.is_some_and(|seen| !seen.withheld.is_empty() || seen.unpublished.contains(table));
            let brought = match reads(client, lookup).await? {
                Ok(read) => {
                    let more = read.tables.iter().find(|table| !named.contains(*table)).or_else(|| read.others.first());
                    more.iter().for_each(|more| not_kept(lookup, more));
                    more.is_none() && !read.tables.iter().any(unpublished)
                }
                // It is said when the lookup is asked.
                Err(_) => false,
            };
            if !brought {
                unkept.insert(*id);
            }
        }
        let definitions = Definitions { digest, unkept };
        *self.last.borrow_mut() = Some(definitions.clone());
        Ok(definitions)
    }
}

fn not_kept(lookup: &Lookup, (schema, table): &(String, String)) {
    log!(
        Id::LookupNotKept,
        hint = "Run `crieur check`: it compares the tables of each lookup with what its SQL reads.",
        "lookup {} reads \"{schema}.{table}\", whose changes are not those of its tables: each batch asks anew",
        lookup.name
    );
}

/// What the plan of a lookup scans, by schema and name; of partitions, their topmost table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReadTables {
    /// Tables.
    pub(crate) tables: Tables,
    /// What has no changes of rows in the stream: a materialized view, a foreign table.
    pub(crate) others: Tables,
}

/// Reads the plan that holds for any parameters. What a function reads is not in it.
pub(crate) async fn reads(client: &Client, lookup: &Lookup) -> Result<Refusable<ReadTables>> {
    let plan = match planned(client, lookup).await {
        Ok(plan) => plan,
        Err(error) => return refusal(&error).map(Err),
    };
    let unread = || Error::definite(Exit::Protocol, "the plan of a lookup cannot be read");
    let plan = serde_json::from_str(&plan).map_err(|cause| unread().because(cause))?;
    let mut scanned = BTreeSet::new();
    relations(&plan, &mut scanned);
    let names: Vec<String> = scanned.iter().map(|(schema, name)| quote::qualified(schema, name)).collect();
    let names = serde_json::Value::from(names).to_string();
    let sql = format!("{NO_PATH}{}", quote::fill(include_str!("../../sql/roots.sql"), &[("tables", names.as_str())]));
    let rows = client.simple_query(&sql).await.map_err(|error| session_error(&error))?;
    let mut read = ReadTables::default();
    for root in rows.iter().filter_map(first_text) {
        let root: Root = serde_json::from_str(root).map_err(|cause| unread().because(cause))?;
        let kind = if root.streamed { &mut read.tables } else { &mut read.others };
        kind.insert((root.schema, root.name));
    }
    Ok(Ok(read))
}

/// A row of `roots.sql`.
#[derive(Deserialize)]
struct Root {
    schema: String,
    name: String,
    streamed: bool,
}

/// In one message, so that nothing else comes between. Partitions that the NULLs rule out would be missing, with all of
/// them their table.
async fn planned(client: &Client, lookup: &Lookup) -> std::result::Result<String, tokio_postgres::Error> {
    let nulls = vec!["NULL"; lookup.args].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let plan = format!(
        "BEGIN READ ONLY; SET LOCAL row_security = off; SET LOCAL plan_cache_mode = force_generic_plan; \
         SET LOCAL enable_partition_pruning = off; PREPARE crieur_lookup AS\n{}\n; \
         EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE crieur_lookup{arguments}",
        sql::subselect(&lookup.sql)
    );
    let (plan, ended, forgotten) = join3(
        client.simple_query(&plan),
        client.simple_query("ROLLBACK"),
        // What is prepared outlives its transaction; there is nothing where preparing was refused.
        client.simple_query("DEALLOCATE crieur_lookup"),
    )
    .await;
    let plan = plan?;
    ended?;
    forgotten?;
    Ok(plan.iter().filter_map(first_text).collect())
}

fn first_text(message: &SimpleQueryMessage) -> Option<&str> {
    if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None }
}

/// The relations that the nodes of a plan scan.
fn relations(plan: &serde_json::Value, found: &mut Tables) {
    match plan {
        serde_json::Value::Array(items) => items.iter().for_each(|item| relations(item, found)),
        serde_json::Value::Object(node) => {
            let text = |key| node.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
            found.extend(text("Schema").zip(text("Relation Name")));
            node.values().for_each(|value| relations(value, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relation_of_a_plan_is_found() {
        let plan = serde_json::json!([{ "Plan": { "Node Type": "Nested Loop", "Plans": [
            { "Node Type": "Index Scan", "Relation Name": "leases", "Schema": "public", "Alias": "l" },
            { "Node Type": "Hash", "Plans": [{ "Relation Name": "properties", "Schema": "public" }] },
        ] } }]);
        let mut read = BTreeSet::new();
        relations(&plan, &mut read);
        let public = |name: &str| ("public".to_owned(), name.to_owned());
        assert_eq!(read, BTreeSet::from([public("leases"), public("properties")]));
    }
}
