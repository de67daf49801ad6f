//! What the daemon shows of itself to people, as one value: the page renders it, and `crieur status` prints it. Plain
//! values.
//!
//! Times are in seconds, and counts are since the daemon started, unless a name says otherwise.

use serde::Serialize;

/// Where the daemon's servers are, without passwords.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// PostgreSQL.
    pub postgres: String,
    /// The slot, or the outbox's reader.
    pub slot: String,
}

/// How the daemon stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DaemonShown {
    /// The daemon's version.
    pub version: &'static str,
    /// When this was taken, in seconds since 1970.
    pub at: f64,
    /// `starting`, `streaming`, `interrupted` or `standby`.
    pub role: &'static str,
    /// Keys are deleted at once by this daemon, in every cache that is required.
    pub is_ready: bool,
    /// What is wrong, the gravest first; also in a cache that is not required, and in a sink.
    pub problems: Vec<ProblemShown>,
    /// Age of the oldest change that is not deleted yet.
    pub oldest_undeleted_seconds: f64,
    /// PostgreSQL.
    pub postgres: PostgresShown,
    /// The caches, and behind them the sinks, in the order of the configuration.
    pub caches: Vec<CacheShown>,
    /// The tables of the rules.
    pub tables: Vec<TableShown>,
    /// The rules, by their places, and how many keys each named.
    pub rules: Vec<RuleShown>,
    /// Digest of the rules in force.
    pub rules_digest: String,
    /// Whether the last reload succeeded.
    pub is_last_reload_good: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProblemShown {
    /// What it is.
    pub what: String,
    /// For how long that has been so, where that is known.
    pub seconds: Option<f64>,
}

/// What is known of PostgreSQL.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PostgresShown {
    /// Where it is, without its password.
    pub place: String,
    /// Whether it answers.
    pub is_up: bool,
    /// The name of the replication slot, or of the outbox's reader.
    pub slot: String,
    /// The position that was confirmed last.
    pub confirmed: String,
    /// WAL that the server keeps for the slot, in bytes.
    pub held_bytes: Option<u64>,
    /// WAL that may be written until the slot can be lost, in bytes.
    pub safe_bytes: Option<u64>,
    /// How long that lasts at the rate of the last minute, should the position stand still.
    pub seconds_to_loss: Option<f64>,
    /// Rows in the outbox, about.
    pub outbox_rows: Option<u64>,
    /// What the outbox takes on disk, in bytes.
    pub outbox_bytes: Option<u64>,
}

/// What is known of a cache or a sink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheShown {
    /// What the configuration calls it.
    pub name: String,
    /// Where it is, without its password.
    pub place: String,
    /// `cache` or `sink`.
    pub kind: &'static str,
    /// Whether the daemon is ready only with it.
    pub is_required: bool,
    /// Unless the last attempt failed.
    pub is_up: bool,
    /// The last attempt failed because it was refused: somebody answers.
    pub refuses: bool,
    /// The position goes on without it.
    pub is_released: bool,
    /// Age of the oldest change that is not deleted there yet.
    pub oldest_undeleted_seconds: f64,
    /// Time since this daemon wrote its mark.
    pub mark_age_seconds: Option<f64>,
    /// The position of that mark.
    pub mark: Option<String>,
    /// Keys sent, echoes included.
    pub keys_sent: u64,
    /// Those of them that were there.
    pub keys_existed: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Reads since the cache's server started.
    pub reads: Option<u64>,
    /// Hits by all reads, since the cache's server started.
    pub hit_ratio: Option<f64>,
    /// The same of the last minutes, without crieur's own reads.
    pub recent_hit_ratio: Option<f64>,
    /// Of so many reads.
    pub recent_reads: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Keys that the server dropped for want of memory.
    pub evicted: Option<u64>,
    /// Commands that were billed, where commands are billed.
    pub billed: Option<u64>,
    /// How late a change may be deleted, by the budget.
    pub age_bound_seconds: Option<f64>,
}

/// Changes of one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableShown {
    /// Schema and name.
    pub table: String,
    /// Rows that were inserted, updated, deleted, and how often the table was emptied.
    pub changes: [u64; 4],
    /// Keys that its rules named; those of a rule of several tables count for each.
    pub keys: u64,
}

/// Keys of one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleShown {
    /// Where it stands.
    pub rule: String,
    /// Keys and patterns that it named.
    pub keys: u64,
}
