//! What `check`, `setup` and the watch know of the server: plain values, and the queries in `sql/` that fill them.
//!
//! Not a decision: those are pure functions over a [`Catalog`]. Each query returns JSON text, so that one statement
//! serves every supported version and psql shows the same thing that the daemon reads. Reading writes nothing.

pub mod identity;
pub mod refusal;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::postgres::session::NO_PATH;
use crate::rules::about::needs::TableNeeds;

/// The event triggers that announce DDL; this many are made.
pub const TRIGGERS: u32 = 3;
pub(crate) const TRIGGERS_SQL: &str = include_str!("../../sql/triggers.sql");

/// The functions that transactions call, and the one behind them; this many are made.
pub const FUNCTIONS: u32 = 3;
pub(crate) const FUNCTIONS_SQL: &str = include_str!("../../sql/invalidate.sql");

/// Tables that somebody may have meant. Bounded: some databases have a table for each customer.
const OTHERS: &str = "SELECT pg_catalog.to_json(n.nspname || '.' || c.relname)::text FROM pg_catalog.pg_class AS c \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid >= 16384 \
    AND n.nspname <> 'crieur' ORDER BY c.oid LIMIT 5000";

/// `sql/server.sql`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Server {
    /// `server_version_num`: 150004 is 15.4.
    pub version: u32,
    /// The same, for people.
    pub version_text: String,
    /// The database of this connection.
    pub database: String,
    /// A standby: slots and publications are made on its primary.
    pub in_recovery: bool,
    /// `synchronous_standby_names`
    pub standby_names: String,
    /// `synchronized_standby_slots`: the stream of a failover slot waits for each of them. Empty before version 17.
    pub waited_for: Vec<WaitedFor>,
    /// `wal_level`
    pub wal_level: String,
    /// `max_replication_slots`
    pub slots_max: u32,
    /// Slots that exist.
    pub slots_used: u32,
    /// `max_wal_senders`
    pub senders_max: u32,
    /// WAL senders at work.
    pub senders_used: u32,
    /// Event triggers that announce DDL and are as this version makes them, of [`TRIGGERS`].
    pub triggers: u32,
    /// Event triggers with these names, however they are.
    pub triggers_found: u32,
    /// Functions for transactions that are as this version makes them, of [`FUNCTIONS`].
    pub functions: u32,
    /// `hot_standby_feedback`
    pub feedback: bool,
    /// `primary_slot_name`: the slot of its primary from which a standby streams.
    pub upstream_slot: String,
    /// Physical slots, from which standbys stream.
    pub standby_slots: u32,
    /// `max_slot_wal_keep_size` in MB; -1 is no limit.
    pub slot_keep_mb: i64,
    /// `wal_sender_timeout` in ms; 0 is never.
    pub sender_timeout_ms: u64,
}

/// A slot that `synchronized_standby_slots` names.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct WaitedFor {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`; `None` where there is no such slot.
    pub kind: Option<String>,
    /// A standby streams from it.
    pub active: bool,
    /// Its WAL was removed; `None` where that is not known.
    pub lost: Option<bool>,
}

/// `sql/role.sql`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Role {
    /// The role of this connection.
    pub name: String,
    /// Superuser.
    pub superuser: bool,
    /// Has the attribute REPLICATION.
    pub replication: bool,
    /// Is a member of a hosted server's role that stands for it.
    pub hosted_replication: bool,
    /// May create a publication in this database.
    pub may_create: bool,
}

/// `sql/publication.sql`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Publication {
    /// The role that owns it.
    pub owner: String,
    /// Whether our role may alter it.
    pub owned: bool,
    /// `FOR ALL TABLES`
    pub all_tables: bool,
    /// `publish` has insert.
    pub insert: bool,
    /// `publish` has update.
    pub update: bool,
    /// `publish` has delete.
    pub delete: bool,
    /// `publish` has truncate.
    pub truncate: bool,
    /// `publish_via_partition_root`
    pub via_root: bool,
    /// `publish_generated_columns`: `n` none, `s` stored.
    pub generated: String,
}

/// `sql/slot.sql`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct CatalogSlot {
    /// Output plugin; a physical slot has none.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub kind: String,
    /// The database it decodes.
    pub database: Option<String>,
    /// Goes away with its session.
    pub temporary: bool,
    /// The walsender that streams from it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// WAL that may still be written before the slot can be lost.
    pub safe_wal_bytes: Option<i64>,
    /// WAL that it holds back.
    pub held_bytes: Option<i64>,
    /// `confirmed_flush_lsn`
    pub confirmed: Option<String>,
    /// Synchronized to standbys (PostgreSQL 17 and later).
    pub failover: bool,
    /// Why it was invalidated (PostgreSQL 17 and later).
    pub invalidation: Option<String>,
}

/// One column.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct CatalogColumn {
    /// Its name.
    pub name: String,
    /// Its type, of a domain the type beneath: `text`, `timestamp with time zone`.
    pub kind: String,
    /// The labels of an enum, in order.
    pub labels: Vec<String>,
    /// `NOT NULL`
    pub not_null: bool,
    /// Empty, `s` stored, `v` virtual.
    pub generated: String,
    /// The longest it can be in an index, where its type says so.
    pub bytes_max: Option<u32>,
    /// In the publication's column list, or there is none.
    pub published: bool,
}

/// An index that can be a replica identity.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Index {
    /// Its name; its schema is the table's.
    pub name: String,
    /// The primary key.
    pub primary: bool,
    /// Chosen by `REPLICA IDENTITY USING INDEX`.
    pub identity: bool,
    /// False after a failed `CREATE INDEX CONCURRENTLY`.
    pub valid: bool,
    /// Key columns in order.
    pub columns: Vec<String>,
}

/// A publication that sends updates or deletes of a relation, and what it asks of the replica identity.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Sender {
    /// Its name.
    pub name: String,
    /// The table that it names: the relation itself, or one above it.
    pub entry: (String, String),
    /// Its column list; `None` without one.
    pub columns: Option<Vec<String>>,
    /// The columns that its row filter reads.
    pub filter: Vec<String>,
    /// `publish_generated_columns`: `n` none, `s` stored.
    pub generated: String,
}

/// A relation that carries rows: a plain table, a table that inherits from it, or a leaf partition.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Carrier {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// `relkind`
    pub kind: String,
    /// `relpersistence`: `p` permanent, `u` unlogged, `t` temporary.
    pub persistence: String,
    /// `relreplident`: `d`, `n`, `f`, `i`.
    pub identity: String,
    /// In the publication, by itself or through its root.
    pub published: bool,
    /// Published with a row filter.
    pub row_filter: bool,
    /// A partition; otherwise the table itself, or one that inherits from it.
    #[serde(default)]
    pub partition: bool,
    /// The role that owns it.
    #[serde(default)]
    pub owner: String,
    /// Whether our role may alter it.
    #[serde(default)]
    pub owned: bool,
    /// A column that an UPDATE may set, whatever it is set to.
    #[serde(default)]
    pub settable: Option<String>,
    /// The publications that send its updates or deletes, ours included.
    #[serde(default)]
    pub publications: Vec<Sender>,
    /// Its columns in order.
    #[serde(default)]
    pub columns: Vec<CatalogColumn>,
    /// Indexes that can be a replica identity.
    pub indexes: Vec<Index>,
}

/// A table of the rules, as the server has it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// `relkind`: `r` table, `p` partitioned, `v` view, `m` materialized view, `f` foreign.
    pub kind: String,
    /// `relpersistence`
    pub persistence: String,
    /// A partition of another table.
    pub is_partition: bool,
    /// Whether our role may alter it.
    pub owned: bool,
    /// The publication names it itself.
    pub root_published: bool,
    /// The relations that carry its rows.
    pub carriers: Vec<Carrier>,
}

/// Everything that decisions look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    /// The server.
    pub server: Server,
    /// Our role.
    pub role: Role,
    /// The publication, if there is one of the configured name.
    pub publication: Option<Publication>,
    /// The slot, if there is one of the configured name.
    pub slot: Option<CatalogSlot>,
    /// The tables of the rules that exist.
    pub tables: Vec<Table>,
    /// Where some do not exist: tables that do, as `schema.table`.
    pub others: Vec<String>,
}

impl Publication {
    /// One that this role makes, and that sends everything.
    pub fn of(role: &str) -> Self {
        Publication {
            owner: role.to_owned(),
            owned: true,
            all_tables: false,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            via_root: false,
            generated: "s".to_owned(),
        }
    }
}

impl Carrier {
    /// Schema and name, quoted for SQL.
    pub fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.table)
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&CatalogColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl Table {
    /// Schema and name, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// Schema and name, quoted for SQL.
    pub fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.table)
    }

    /// Whether logical decoding can carry its rows: a permanent table, plain or partitioned.
    pub fn is_replicable(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p") && self.persistence == "p"
    }

    /// The relations among its carriers that hold rows the server logs.
    pub fn stored(&self) -> impl Iterator<Item = &Carrier> {
        self.carriers.iter().filter(|carrier| carrier.kind == "r" && carrier.persistence == "p")
    }

    /// Whether the relation is the table itself.
    pub fn is(&self, carrier: &Carrier) -> bool {
        (&carrier.schema, &carrier.table) == (&self.schema, &self.table)
    }

    /// Whether every relation that carries its rows is published. The entry of a partitioned table is one for its
    /// partitions, those that will come included; that of a plain table is none for tables that inherit from it later.
    pub fn is_published(&self) -> bool {
        let carried = !self.carriers.is_empty() && self.carriers.iter().all(|carrier| carrier.published);
        carried || (self.kind == "p" && self.root_published)
    }
}

impl Catalog {
    /// Reads everything over an ordinary session.
    pub async fn read(client: &Client, publication: &str, slot: &str, needs: &[TableNeeds]) -> Result<Self> {
        let tables: Vec<(&str, &str)> = needs.iter().map(|need| (need.schema.as_str(), need.table.as_str())).collect();
        let tables = serde_json::to_string(&tables)
            .map_err(|error| Error::definite(Exit::Software, "name the tables as JSON").because(error))?;
        let scripts = [("triggers", TRIGGERS_SQL), ("functions", FUNCTIONS_SQL)];
        let variables = [("publication", publication), ("slot", slot), ("tables", tables.as_str())];
        let found: Vec<Table> = rows(client, include_str!("../../sql/tables.sql"), &variables).await?;
        let others = match found.len() < needs.len() {
            true => rows(client, OTHERS, &[]).await?,
            false => Vec::new(),
        };
        Ok(Catalog {
            server: one(rows(client, include_str!("../../sql/server.sql"), &scripts).await?)?,
            role: one(rows(client, include_str!("../../sql/role.sql"), &variables).await?)?,
            publication: rows(client, include_str!("../../sql/publication.sql"), &variables).await?.pop(),
            slot: rows(client, include_str!("../../sql/slot.sql"), &variables).await?.pop(),
            tables: found,
            others,
        })
    }

    /// The table that the rules need, if it exists.
    pub fn table(&self, need: &TableNeeds) -> Option<&Table> {
        self.tables.iter().find(|table| table.schema == need.schema && table.table == need.table)
    }
}

/// A statement that reads the catalog looks dear to the planner, and compiling it takes longer than running it: seconds.
pub(crate) const UNCOMPILED: &str = "SET LOCAL jit = off; ";

/// Runs one file of `sql/` and parses the JSON object of each row.
pub(crate) async fn rows<T: DeserializeOwned>(
    client: &Client,
    sql: &str,
    variables: &[(&str, &str)],
) -> Result<Vec<T>> {
    let sql = format!("{NO_PATH}{UNCOMPILED}{}", quote::fill(sql, variables));
    let answer = client.simple_query(&sql).await;
    let answer = answer.map_err(|error| Error::definite(Exit::Unavailable, "read the catalog").because(error))?;
    let mut out = Vec::new();
    for message in answer {
        if let SimpleQueryMessage::Row(row) = message {
            let parsed = serde_json::from_str(row.get(0).unwrap_or("null"));
            out.push(parsed.map_err(|error| Error::definite(Exit::Protocol, "read the catalog").because(error))?);
        }
    }
    Ok(out)
}

/// The one row of a query that always has one.
fn one<T>(mut rows: Vec<T>) -> Result<T> {
    rows.pop().ok_or_else(|| Error::definite(Exit::Protocol, "read the catalog: the server returned no row"))
}
