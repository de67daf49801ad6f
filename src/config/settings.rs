//! What the operator chose, as values: one type for each section, and the words that stand in them.

use std::path::PathBuf;
use std::time::Duration;

use crate::budget::{Budget, MarkCost, TooSmall};
use crate::config::metered::Metering;
use crate::error;
use crate::place::NodeMap;
use crate::postgres::dsn::Dsn;
use crate::secret::Secret;

/// How changes are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// From the WAL, through a replication slot.
    Replication,
    /// From a table that triggers write into, over ordinary connections.
    Outbox,
}

/// `[postgres]`
#[derive(Debug)]
pub struct Postgres {
    /// `url` or `DATABASE_URL`: libpq URL or key/value string.
    pub url: Secret,
    /// `mode`, default `replication`.
    pub mode: Mode,
    /// `slot`, default `crieur`.
    pub slot: String,
    /// `publication`, default `crieur`.
    pub publication: String,
    /// `replicas`, default none: standbys that readers read from.
    pub replicas: Vec<Secret>,
    /// `standby`, default false: the server is one, and its readers are those of the caches.
    pub standby: bool,
    /// `connect_timeout`, default 10 s: TCP, TLS and log-in together, for each host.
    pub connect_timeout: Duration,
    /// `liveness_timeout`, default 30 s: with nothing received for half of it a reply is asked for,
    /// then the link is dropped.
    pub liveness_timeout: Duration,
    /// `lookup_timeout`, default 5 s: `statement_timeout` of the control session.
    pub lookup_timeout: Duration,
}

impl Postgres {
    /// The server. Of several hosts a standby will do where one is read from.
    pub fn dsn(&self) -> error::Result<Dsn> {
        let dsn = Dsn::read(&self.url)?;
        Ok(if self.standby { dsn.of_any_server() } else { dsn })
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// `[log]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// `level`, default `info`: one of [`LEVELS`](crate::config::reference::LEVELS).
    pub level: String,
    /// `format`, default `text`.
    pub format: LogFormat,
}

/// What to do when the cache may hold keys whose invalidation it never saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnGap {
    /// Delete every key that the rules own.
    Sweep,
    /// Say so and go on.
    Warn,
}

/// Whether readers keep their leases in keys of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leases {
    /// There are none, or they are in the key itself.
    None,
    /// The lease of K is the key `lease:{K}`: it goes in the same command as K.
    Companion,
}

/// The files of a cache that TLS needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFiles {
    /// The authority; without it: the system's.
    pub authority: Option<PathBuf>,
    /// Our own certificate, for a server that asks for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How an `https://` address is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Over the Redis protocol, at the same host.
    Tcp,
    /// Over HTTPS.
    Rest,
}

impl Transport {
    /// As it is written.
    pub(super) fn read(text: &str) -> Self {
        if text == "rest" { Transport::Rest } else { Transport::Tcp }
    }

    /// What a mark costs over it.
    pub fn mark_cost(self) -> MarkCost {
        match self {
            Transport::Rest => MarkCost::REST,
            Transport::Tcp => MarkCost::TCP,
        }
    }
}

/// What is said of servers whose addresses other servers name: Sentinels, nodes of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServersConfig {
    /// `nodes`, default none: other addresses of the same servers.
    pub nodes: NodeMap,
    /// `sentinel_user`, default none.
    pub sentinel_user: Option<String>,
    /// `sentinel_password`, default none.
    pub sentinel_password: Option<Secret>,
    /// `sentinel_tls`, default as the cache.
    pub sentinel_tls: Option<bool>,
    /// `sentinel_tls_ca`, default `tls_ca`.
    pub sentinel_authority: Option<PathBuf>,
}

/// Where readers with a memory tier hear what was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishConfig {
    /// `publish`: the channel.
    pub channel: String,
    /// Who speaks there.
    pub slot: String,
}

/// `[cache]`, `[caches.NAME]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheConfig {
    /// `main`, or the NAME of its section: stands in metrics and in the log.
    pub name: String,
    /// The section as it is written: `cache`, `caches.dakar`.
    pub section: String,
    /// `url` or `REDIS_URL`, with user, password and database number. Of an `https://` address over the Redis protocol:
    /// what follows from address and token.
    pub url: Secret,
    /// `token`, default none: of an `https://` address.
    pub token: Option<Secret>,
    /// `transport`, default `tcp`.
    pub transport: Transport,
    /// `required`, default true: whether the daemon is ready only with this cache.
    pub required: bool,
    /// `hold_wal_bytes_max`, default 1 GiB: WAL that waits for the cache while it is away.
    pub hold_wal_bytes_max: u64,
    /// Commands a minute that the verifier may spend, where commands are billed.
    pub verifier: u32,
    /// `budget`, default none (200 000 on a host of Upstash): commands that may be billed in a month.
    pub budget: Option<u64>,
    /// `tls_ca`, default the system's; `tls_cert` and `tls_key`, default none: PEM files.
    pub tls: TlsFiles,
    /// `nodes`, `sentinel_…`
    pub servers: ServersConfig,
    /// `echo`, default `["250ms", "2s", "30s"]`: delays of the second deletes, ascending.
    pub echo: Vec<Duration>,
    /// `echo_wal_bytes_max`, default 64 MiB: WAL that waiting echoes may hold back.
    pub echo_wal_bytes_max: u64,
    /// `protect`, default `["lock:*"]`: glob patterns that are never deleted.
    pub protect: Vec<Vec<u8>>,
    /// `invalidate`, default none: keys that transactions may name themselves, as texts that end in `*`.
    pub invalidate: Vec<String>,
    /// `leases`, default `none`.
    pub leases: Leases,
    /// `publish`, default none.
    pub publish: Option<PublishConfig>,
    /// `on_gap`, default `sweep`.
    pub on_gap: OnGap,
    /// `metered`, default by the host in the URL: whether each command is billed.
    pub metering: Metering,
    /// `heartbeat`, default 2 s (1 min where commands are billed): the mark is looked at and written at least so often.
    pub heartbeat: Duration,
    /// `connection_age_max`, default 15 s (5 min where commands are billed): how old the mark's connection becomes.
    pub connection_age_max: Duration,
    /// `timeout`, default 5 s: without an answer for this long the connection is dropped and the keys go again.
    pub timeout: Duration,
}

/// What a mark and a flush cost over `transport`, with the messages to readers where there are any.
pub(super) fn mark_cost(transport: Transport, publish: Option<&PublishConfig>) -> MarkCost {
    let mark = transport.mark_cost();
    if publish.is_some() { mark.with_messages() } else { mark }
}

impl CacheConfig {
    /// What a mark and a flush cost there.
    pub fn mark_cost(&self) -> MarkCost {
        mark_cost(self.transport, self.publish.as_ref())
    }

    /// What the budget buys; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where the heartbeat leaves nothing of it.
    pub fn budget(&self) -> Result<Option<Budget>, TooSmall> {
        let mark = self.mark_cost();
        let of = |commands| Budget::beside_verifier(commands, self.heartbeat, mark, self.verifier);
        self.budget.map(of).transpose()
    }

    /// Whether each command costs something.
    pub fn is_billed(&self) -> bool {
        self.metering != Metering::None || self.budget.is_some()
    }

    /// What it is called where there are others: `cache` alone would be any of them.
    pub fn called(&self) -> String {
        if self.section == "cache" { self.section.clone() } else { format!("cache {}", self.name) }
    }
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
    /// `warm_rate`, default 60: pages that are fetched again in a minute; 0: none.
    pub warm_rate: u64,
    /// `warm_timeout`, default 10 s: a page that takes longer is given up.
    pub warm_timeout: Duration,
}

impl Limits {
    /// `memory_bytes_max`, as far as this machine can count.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes_max.try_into().unwrap_or(usize::MAX)
    }
}
