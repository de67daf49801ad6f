//! What the operator wrote, parsed and proved: after this nothing about it can be wrong.

pub mod mistake;
pub mod credentials;

use std::time::Duration;

use crate::rules::Rules;

/// A text that must not be shown: URLs with passwords. `Debug` prints `[redacted]`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the library that needs it; never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Everything that a command needs.
#[derive(Debug)]
pub struct Config {
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[cache]`
    pub cache: Cache,
    /// `[limits]`
    pub limits: Limits,
    /// `[[rules]]`, compiled.
    pub rules: Rules,
}

/// `[postgres]`
#[derive(Debug)]
pub struct Postgres {
    /// `url` or `DATABASE_URL`: libpq URL or key/value string.
    pub url: Secret,
    /// `slot`, default `crieur`.
    pub slot: String,
    /// `publication`, default `crieur`.
    pub publication: String,
    /// `connect_timeout`, default 10 s: TCP, TLS and log-in together, for each host.
    pub connect_timeout: Duration,
    /// `liveness_timeout`, default 30 s: with nothing received for half of it a reply is asked for, then the link is dropped.
    pub liveness_timeout: Duration,
    /// `lookup_timeout`, default 5 s: `statement_timeout` of the control session.
    pub lookup_timeout: Duration,
}

/// What to do when the cache may hold keys whose invalidation it never saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnGap {
    /// Delete every key that the rules own.
    Sweep,
    /// Say so and go on.
    Warn,
}

/// `[cache]`
#[derive(Debug)]
pub struct Cache {
    /// `url` or `REDIS_URL`: `redis://`, `rediss://`, `unix://`, with user, password and database number.
    pub url: Secret,
    /// `tls_ca`: PEM file of the cache's certificate authority; default: the system's.
    pub tls_ca: Option<std::path::PathBuf>,
    /// `echo`, default `["250ms", "2s", "30s"]`: delays of the second deletes, ascending.
    pub echo: Vec<Duration>,
    /// `echo_wal_bytes_max`, default 64 MiB: WAL that waiting echoes may hold back.
    pub echo_wal_bytes_max: u64,
    /// `protect`, default `["lock:*"]`: glob patterns that are never deleted.
    pub protect: Vec<Vec<u8>>,
    /// `on_gap`, default `sweep`.
    pub on_gap: OnGap,
    /// `timeout`, default 5 s: without an answer for this long the connection is dropped and the keys go again.
    pub timeout: Duration,
}

/// `[limits]`
#[derive(Debug)]
pub struct Limits {
    /// `memory_bytes_max`, default 64 MiB.
    pub memory_bytes_max: u64,
    /// `batch_keys_max`, default 10 000: keys in one pipeline.
    pub batch_keys_max: usize,
    /// `stop_timeout`, default 10 s: what is in flight may take this long after SIGTERM.
    pub stop_timeout: Duration,
}
