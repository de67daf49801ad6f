//! What `crieur init` sees: the tables of the database with their keys, and the names of cached keys.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::Deserialize;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cache::any::AnyCache;
use crate::cache::inspect::Inspect;
use crate::cache::lease;
use crate::config::CacheConfig;
use crate::error::{Error, Exit, Result};
use crate::glob;
use crate::postgres::quote;
use crate::postgres::session::NO_PATH;
use crate::postgres::sqlstate::session_error;

/// Cached keys that are looked at.
pub const KEYS_MAX: usize = 20_000;

/// Values of a place in keys that are looked for in the database.
const VALUES_MAX: usize = 50;

/// A table with its keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct SeenTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `relreplident`: `d`, `n`, `f`, `i`.
    pub identity: String,
    /// Its columns in order, with their types.
    pub columns: Vec<(String, String)>,
    /// The columns of its primary key.
    pub primary: Vec<String>,
    /// Columns that refer to another table, and that table's name.
    pub foreign: Vec<(String, String)>,
}

/// Tables of applications: none of the server's, of crieur's or of an extension. Bounded: some databases have a table for
/// each customer.
const TABLES: &str = "SELECT pg_catalog.jsonb_build_object('schema', n.nspname, 'name', c.relname, \
    'identity', c.relreplident, \
    'columns', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attname, \
        pg_catalog.format_type(a.atttypid, NULL)) ORDER BY a.attnum), '[]') FROM pg_catalog.pg_attribute AS a \
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
    'primary', (SELECT coalesce(pg_catalog.jsonb_agg(a.attname ORDER BY k.place), '[]') \
        FROM pg_catalog.pg_constraint AS p \
        CROSS JOIN LATERAL pg_catalog.unnest(p.conkey) WITH ORDINALITY AS k (number, place) \
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.conrelid AND a.attnum = k.number \
        WHERE p.conrelid = c.oid AND p.contype = 'p'), \
    'foreign', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_array(a.attname, t.relname)), '[]') \
        FROM pg_catalog.pg_constraint AS f JOIN pg_catalog.pg_class AS t ON t.oid = f.confrelid \
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1] \
        WHERE f.conrelid = c.oid AND f.contype = 'f' AND pg_catalog.cardinality(f.conkey) = 1))::text \
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' AND c.oid >= 16384 \
    AND n.nspname NOT IN ('crieur', 'information_schema') AND n.nspname !~ '^pg_' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY n.nspname <> 'public', n.nspname, c.relname LIMIT 500";

/// The tables.
pub async fn tables(client: &Client) -> Result<Vec<SeenTable>> {
    let unexpected = |_| Error::definite(Exit::Protocol, "what the server says of its tables cannot be read");
    let texts = texts(client, TABLES).await?;
    texts.iter().map(|text| serde_json::from_str(text).map_err(unexpected)).collect()
}

/// The first column of each row.
async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.simple_query(&format!("{NO_PATH}{sql}")).await.map_err(|error| session_error(&error))?;
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None, // SimpleQueryMessage is foreign and non-exhaustive.
    };
    Ok(rows.iter().filter_map(text).collect())
}

/// How many of these values, of at most [`VALUES_MAX`], stand in the column; `None` where the role may not read it or the
/// look takes too long.
pub async fn hits(client: &Client, table: &SeenTable, column: &str, values: &[&str]) -> Result<Option<usize>> {
    let list: Vec<String> = values.iter().take(VALUES_MAX).map(|value| quote::literal(value)).collect();
    let (table, column) = (quote::qualified(&table.schema, &table.name), quote::identifier(column));
    // The first rows must do: a table may be large, and the column without an index.
    let sql = format!(
        "SET LOCAL statement_timeout = 2000; SELECT pg_catalog.count(DISTINCT s.v)::text FROM \
         (SELECT t.{column}::text AS v FROM {table} AS t LIMIT 100000) AS s WHERE s.v IN ({})",
        list.join(", ")
    );
    if list.is_empty() {
        return Ok(None);
    }
    match texts(client, &sql).await {
        Ok(found) => Ok(found.first().and_then(|count| count.parse().ok())),
        Err(_) if client.is_closed() => Err(Error::transient("PostgreSQL closed the connection")),
        Err(_) => Ok(None),
    }
}

/// Names of cached keys, and whether these were all; locks, leases and crieur's own are left out.
pub async fn keys(settings: &CacheConfig, cache: &AnyCache) -> Result<(Vec<Vec<u8>>, bool)> {
    let mut keys = BTreeSet::new();
    let mut each = |key: &[u8]| {
        let is_protected = settings.protect.iter().any(|pattern| glob::matches(pattern, key));
        if !is_protected && !key.starts_with(b"crieur:") && lease::key_of(key).is_none() {
            keys.insert(key.to_vec());
        }
        if keys.len() < KEYS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let whole = cache.keys(b"*", &mut each).await?;
    Ok((keys.into_iter().collect(), whole))
}
