//! The one table of configuration keys: parsing, defaults, "allowed here", and the documentation's reference read it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use crate::amount::{RateLimit, bytes, commands, duration, rate, shown};
use crate::place::NodeMap;
use crate::tag::SinkKind;

/// Levels of the log, from the fewest lines to the most; a number from 0 means the same.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What a key holds, and its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigKind {
    /// A connection string; never shown.
    Url,
    /// A list of connection strings; never shown.
    Urls,
    /// Any text that is not empty.
    Name,
    /// `[a-z0-9_]{1,63}`: `ReplicationSlotValidateName` (src/backend/replication/slot.c), NAMEDATALEN - 1.
    Slot,
    /// A file.
    Path,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `"250ms"`, `"2s"`, `"1m"`, `"1h"`; at least, at most.
    Duration(Duration, Duration),
    /// A list of durations, ascending, above zero, at most an hour.
    Ascending,
    /// `"64MiB"`, `"64MB"` or an integer of bytes; at least.
    Bytes(u64),
    /// An integer; at least, at most.
    Count(u64, u64),
    /// A list of texts.
    Texts,
    /// Names of hosts, without scheme and port.
    Hosts,
    /// A list of texts, each with its only `*` at the end.
    Prefixes,
    /// A text that is never shown.
    Secret,
    /// `true` or `false`.
    Flag,
    /// Commands a month: `"200k"`, `"1.5M"`, a whole number, or `"none"`.
    Budget,
    /// `"10/s"`, `"5/min"`, `"1000/h"`.
    Rate,
    /// `127.0.0.1:9186`, `[::1]:9186`: an address and a port, no name that somebody else resolves.
    Socket,
    /// A table of hosts and ports by hosts and ports; in the environment `told=reached`, parted by commas.
    Nodes,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    /// `section.name`.
    pub name: &'static str,
    /// What it holds.
    pub kind: ConfigKind,
    /// As it would be written in the file; lists in the environment's form. `None`: there is no default.
    pub default: Option<&'static str>,
    /// Effect and consequence.
    pub doc: &'static str,
    /// The name that the application may already have for it.
    pub also: Option<&'static str>,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

const fn key(name: &'static str, kind: ConfigKind, default: Option<&'static str>, doc: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default, doc, also: None }
}

const KEYS: &[ConfigKey] = &[
    ConfigKey {
        also: Some("DATABASE_URL"),
        ..key(
            "postgres.url",
            ConfigKind::Url,
            None,
            "where the changes come from: a libpq URL or key/value string; the direct host, or in outbox mode any pooler",
        )
    },
    key(
        "postgres.mode",
        ConfigKind::Choice(&["replication", "outbox"]),
        Some("replication"),
        "how changes are read: from the WAL, or from a table that triggers write into, over any ordinary connection",
    ),
    key(
        "postgres.slot",
        ConfigKind::Slot,
        Some("crieur"),
        "replication slot, or the name of the outbox's position; one daemon on it works, others stand by",
    ),
    key("postgres.publication", ConfigKind::Name, Some("crieur"), "publication that holds the tables of the rules"),
    key(
        "postgres.replicas",
        ConfigKind::Urls,
        Some(""),
        "standbys that readers read from: a key is deleted once more when each has replayed its commit",
    ),
    key(
        "postgres.standby",
        ConfigKind::Flag,
        Some("false"),
        "the server is a standby (PostgreSQL 16 or later): changes are those that it has replayed, its readers are the cache's",
    ),
    key(
        "postgres.connect_timeout",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("10s"),
        "TCP, TLS and log-in together, for each host",
    ),
    key(
        "postgres.liveness_timeout",
        ConfigKind::Duration(SECOND, HOUR),
        Some("30s"),
        "with nothing received for half of it a reply is asked for, at its end the link is dropped",
    ),
    key(
        "postgres.lookup_timeout",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("5s"),
        "statement_timeout of the control session; a lookup that takes longer widens its keys",
    ),
    ConfigKey {
        also: Some("REDIS_URL"),
        ..key(
            "cache.url",
            ConfigKind::Url,
            None,
            "the cache: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, with user and password; or https:// of Upstash, with token",
        )
    },
    key("cache.token", ConfigKind::Secret, None, "the token of an https:// address"),
    key(
        "cache.transport",
        ConfigKind::Choice(&["tcp", "rest"]),
        Some("tcp"),
        "how an https:// address is reached: over the Redis protocol, or over HTTPS where nothing else is open",
    ),
    key(
        "cache.tls_ca",
        ConfigKind::Path,
        None,
        "PEM file of the cache's certificate authority; without it: the system's; read again when it changes",
    ),
    key(
        "cache.tls_cert",
        ConfigKind::Path,
        None,
        "PEM file of the certificate that crieur shows to a cache that asks for one; read again when it changes",
    ),
    key("cache.tls_key", ConfigKind::Path, None, "PEM file of the key of cache.tls_cert"),
    key("cache.sentinel_user", ConfigKind::Name, None, "user at the Sentinels of a redis+sentinel:// address"),
    key(
        "cache.sentinel_password",
        ConfigKind::Secret,
        None,
        "password at the Sentinels; that of the address is the cache's",
    ),
    key(
        "cache.sentinel_tls",
        ConfigKind::Choice(&["auto", "yes", "no"]),
        Some("auto"),
        "whether the Sentinels are spoken to with TLS (auto: as the cache, with rediss+sentinel://)",
    ),
    key(
        "cache.sentinel_tls_ca",
        ConfigKind::Path,
        None,
        "PEM file of the Sentinels' certificate authority; without it: that of tls_ca",
    ),
    key(
        "cache.nodes",
        ConfigKind::Nodes,
        Some(""),
        "where servers are reached that Sentinels or a cluster name otherwise: { \"172.17.0.2:6379\" = \"host:port\" }",
    ),
    key("cache.required", ConfigKind::Flag, Some("true"), "whether /readyz and systemd wait for this cache"),
    key(
        "cache.hold_wal_bytes_max",
        ConfigKind::Bytes(0),
        Some("1GiB"),
        "WAL that PostgreSQL keeps for this cache while the cache is away; 0 never waits for the cache",
    ),
    key(
        "cache.echo",
        ConfigKind::Ascending,
        Some("250ms,2s,30s"),
        "delays of the second deletes, for readers that store an old value late; [] when all of them use a lease",
    ),
    key(
        "cache.echo_wal_bytes_max",
        ConfigKind::Bytes(0),
        Some("64MiB"),
        "WAL that waiting echoes may hold back; past it the position moves on without them",
    ),
    key(
        "cache.protect",
        ConfigKind::Texts,
        Some("lock:*"),
        "glob patterns that are never deleted, whatever a rule says",
    ),
    key(
        "cache.invalidate",
        ConfigKind::Prefixes,
        Some(""),
        "keys that transactions may name with crieur.invalidate: texts that end in *",
    ),
    key(
        "cache.leases",
        ConfigKind::Choice(&["none", "companion"]),
        Some("none"),
        "companion: the key lease:{K} of readers goes in the same command as K",
    ),
    key(
        "cache.on_gap",
        ConfigKind::Choice(&["sweep", "warn"]),
        Some("sweep"),
        "when invalidations may have been missed: delete every key that the rules own, or only say so",
    ),
    key(
        "cache.heartbeat",
        ConfigKind::Duration(MILLISECOND, Duration::from_secs(600)),
        Some("2s"),
        "the mark is looked at and written at least so often: how long a cache that went back in time stays unnoticed; 1m where commands are billed",
    ),
    key(
        "cache.publish",
        ConfigKind::Name,
        None,
        "channel on which readers with a memory tier hear the name of each key that was deleted; not for a cluster",
    ),
    key(
        "cache.connection_age_max",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("15s"),
        "the address is connected anew so often: how long an old primary is used whose address leads to another one; 5m where commands are billed",
    ),
    key(
        "cache.metered",
        ConfigKind::Choice(&["auto", "yes", "no"]),
        Some("auto"),
        "whether each command is billed (auto: by the host, Upstash): no early delete, the mark at most once a second, longer defaults",
    ),
    key(
        "cache.budget",
        ConfigKind::Budget,
        Some("none"),
        "commands that the service may bill in a month; 200k on a host of Upstash",
    ),
    key(
        "cache.timeout",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("5s"),
        "without an answer for this long the connection is dropped and the keys go again",
    ),
    key("sink.kind", ConfigKind::Choice(SinkKind::WORDS), None, "who takes the tags of the rules"),
    key(
        "sink.url",
        ConfigKind::Url,
        None,
        "where the requests go: https://, or http:// on this machine; without it the address of the service",
    ),
    key("sink.secret", ConfigKind::Secret, None, "what a webhook is signed with: whsec_…, several parted by spaces"),
    key("sink.token", ConfigKind::Secret, None, "the token of Vercel, Cloudflare or Fastly"),
    key("sink.project", ConfigKind::Name, None, "the project at Vercel, by its id or name"),
    key("sink.team", ConfigKind::Name, None, "the team of the project at Vercel, by its id"),
    key("sink.zone", ConfigKind::Name, None, "the zone at Cloudflare, by its id"),
    key("sink.service", ConfigKind::Name, None, "the service at Fastly, by its id"),
    key(
        "sink.soft",
        ConfigKind::Flag,
        Some("false"),
        "whether Vercel and Fastly may serve the old page once more while they fetch the new one",
    ),
    key(
        "sink.after",
        ConfigKind::Texts,
        None,
        "the caches that the pages read: tags go behind their answers; without it every required cache, [] none",
    ),
    key(
        "sink.echo",
        ConfigKind::Ascending,
        None,
        "delays of the repeated purges, for a page whose making began before the change and ended behind the purge",
    ),
    key(
        "sink.echo_wal_bytes_max",
        ConfigKind::Bytes(0),
        Some("64MiB"),
        "WAL that waiting echoes may hold back; past it the position moves on without them",
    ),
    key(
        "sink.hold_wal_bytes_max",
        ConfigKind::Bytes(0),
        Some("1GiB"),
        "WAL that PostgreSQL keeps for this sink while it does not answer; 0 never waits for it",
    ),
    key(
        "sink.rate",
        ConfigKind::Rate,
        None,
        "requests in a time: what the plan allows; without it 10/s for a webhook, 5/s for Vercel, 5/min for Cloudflare, 20/s for Fastly",
    ),
    key(
        "sink.timeout",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("10s"),
        "without an answer for this long the connection is dropped and the request goes again",
    ),
    key(
        "sink.warm",
        ConfigKind::Name,
        None,
        "address of the pages of rules that have keys, and tags for this sink, and no warm of their own",
    ),
    key("sink.tls_ca", ConfigKind::Path, None, "PEM file of the certificate authority; without it: the system's"),
    key(
        "limits.memory_bytes_max",
        ConfigKind::Bytes(1 << 20),
        Some("64MiB"),
        "keys in memory; past it a set becomes a sweep of its template",
    ),
    key("limits.batch_keys_max", ConfigKind::Count(1, 1_000_000), Some("10000"), "keys in one pipeline"),
    key(
        "limits.stop_timeout",
        ConfigKind::Duration(Duration::ZERO, HOUR),
        Some("10s"),
        "what is in flight may take this long after SIGTERM",
    ),
    key(
        "limits.warm_rate",
        ConfigKind::Count(0, 6_000),
        Some("60"),
        "pages that are fetched again in a minute; 0: none",
    ),
    key(
        "limits.warm_timeout",
        ConfigKind::Duration(MILLISECOND, HOUR),
        Some("10s"),
        "a page that takes longer is given up",
    ),
    key(
        "admin.listen",
        ConfigKind::Socket,
        None,
        "address and port of the page, /metrics, /healthz and /readyz; without it there is no such page",
    ),
    key("admin.changes", ConfigKind::Flag, Some("true"), "whether the page shows the last changes with their keys"),
    key("admin.hosts", ConfigKind::Hosts, Some(""), "names by which the page may be called, besides addresses"),
    key("log.level", ConfigKind::Choice(&LEVELS), Some("info"), "the least grave lines that the log shows"),
    key(
        "log.format",
        ConfigKind::Choice(&["text", "json"]),
        Some("text"),
        "text for people; json: one object for each line, with its fields",
    ),
    key(
        "control.socket",
        ConfigKind::Path,
        None,
        "unix socket of crieur tail, sweep and status; without it: control.sock in systemd's runtime directory, if there is one",
    ),
];

/// Every key, in the order of the documentation.
pub fn reference() -> &'static [ConfigKey] {
    KEYS
}

impl ConfigKey {
    /// Whether each cache has this key.
    pub fn is_of_a_cache(&self) -> bool {
        self.split().0 == "cache"
    }

    /// Whether each sink has this key.
    pub fn is_of_a_sink(&self) -> bool {
        self.split().0 == "sink"
    }

    /// `CRIEUR__POSTGRES__SLOT`, `CRIEUR__SINKS__NAME__URL`
    pub fn variable(&self) -> String {
        format!("CRIEUR__{}", self.written().to_ascii_uppercase().replace('.', "__"))
    }

    /// As people write it: no section is called `sink`.
    pub fn written(&self) -> String {
        match self.name.strip_prefix("sink.") {
            Some(name) => format!("sinks.NAME.{name}"),
            None => self.name.to_owned(),
        }
    }

    /// The section and the name inside of it.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// A checked value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checked {
    /// Text of any kind.
    Text(String),
    /// A file.
    Path(PathBuf),
    /// One duration.
    Duration(Duration),
    /// Durations in ascending order.
    Durations(Vec<Duration>),
    /// Bytes or a count.
    Number(u64),
    /// Texts in order.
    Texts(Vec<String>),
    /// An address and a port.
    Socket(SocketAddr),
    /// Yes or no.
    Flag(bool),
    /// Commands a month; `None` is no bound.
    Budget(Option<u64>),
    /// Other addresses of servers.
    Nodes(NodeMap),
    /// So many in so long.
    Rate(RateLimit),
}

/// Why a value does not fit: what it must be. It never repeats the value.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl ConfigKind {
    /// Checks a value of the file or of the environment, where everything is text and lists are comma separated.
    pub fn check(self, value: &Value) -> Result<Checked, Unfit> {
        match self {
            ConfigKind::Url | ConfigKind::Name | ConfigKind::Secret => text(value)
                .filter(|text| !text.is_empty())
                .map(Checked::Text)
                .ok_or(unfit("must be a text that is not empty")),
            ConfigKind::Path => text(value)
                .filter(|text| !text.is_empty())
                .map(|text| Checked::Path(text.into()))
                .ok_or(unfit("must be the name of a file")),
            ConfigKind::Slot => text(value)
                .filter(|text| is_slot_name(text))
                .map(Checked::Text)
                .ok_or(unfit("must be 1 to 63 of a-z, 0-9 and _")),
            ConfigKind::Choice(words) => {
                let chosen = text(value).filter(|text| words.contains(&text.as_str()));
                chosen.map(Checked::Text).ok_or_else(|| unfit(format!("must be one of: {}", words.join(", "))))
            }
            ConfigKind::Duration(least, most) => within(value, least, most),
            ConfigKind::Ascending => ascending(value)
                .map(Checked::Durations)
                .ok_or(unfit("must be a list of durations above zero, ascending, at most 1h: [\"250ms\", \"2s\"]")),
            ConfigKind::Bytes(least) => {
                let bytes =
                    number(value).or_else(|| text(value).and_then(|text| bytes(&text))).filter(|bytes| *bytes >= least);
                bytes
                    .map(Checked::Number)
                    .ok_or_else(|| unfit(format!("must be a size of at least {least} bytes, for example \"64MiB\"")))
            }
            ConfigKind::Count(least, most) => {
                let count = number(value).filter(|count| (least..=most).contains(count));
                count.map(Checked::Number).ok_or_else(|| unfit(format!("must be an integer from {least} to {most}")))
            }
            ConfigKind::Urls => texts(value).map(Checked::Texts).ok_or(unfit("must be an array of connection strings")),
            ConfigKind::Texts => {
                texts(value).map(Checked::Texts).ok_or(unfit("must be an array of strings, none empty"))
            }
            ConfigKind::Hosts => texts(value)
                .filter(|list| list.iter().all(|item| is_host(item)))
                .map(Checked::Texts)
                .ok_or(unfit("must be an array of names without scheme and port: [\"crieur.example\"]")),
            ConfigKind::Prefixes => texts(value)
                .filter(|list| list.iter().all(|item| is_prefix(item)))
                .map(Checked::Texts)
                .ok_or(unfit("must be an array of texts that end in *, their only special character: [\"search:*\"]")),
            ConfigKind::Flag => flag(value).map(Checked::Flag).ok_or(unfit("must be true or false")),
            ConfigKind::Budget => budget(value)
                .map(Checked::Budget)
                .ok_or(unfit("must be commands a month, for example \"200k\" or \"1.5M\", or \"none\" for no bound")),
            ConfigKind::Nodes => nodes(value).map(Checked::Nodes).ok_or(unfit(
                "must be a table of hosts and ports: nodes = { \"172.17.0.2:6379\" = \"cache.example:6379\" }",
            )),
            ConfigKind::Rate => text(value)
                .and_then(|text| rate(&text))
                .map(Checked::Rate)
                .ok_or(unfit("must be a number and a time, for example \"10/s\", \"5/min\" or \"1000/h\"")),
            ConfigKind::Socket => text(value)
                .and_then(|text| text.parse().ok())
                .map(Checked::Socket)
                .ok_or(unfit("must be an address and a port, for example \"127.0.0.1:9186\"")),
        }
    }
}

/// A duration with bounds.
fn within(value: &Value, least: Duration, most: Duration) -> Result<Checked, Unfit> {
    let duration = text(value).and_then(|text| duration(&text)).filter(|duration| (least..=most).contains(duration));
    let bounds = || {
        unfit(format!(
            "must be a duration from {} to {}, for example \"250ms\", \"2s\" or \"1m\"",
            shown(least),
            shown(most)
        ))
    };
    duration.map(Checked::Duration).ok_or_else(bounds)
}

fn unfit(what: impl Into<String>) -> Unfit {
    Unfit(what.into())
}

fn text(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match &value.kind {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::String(text) => text.replace('_', "").parse().ok(),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    match &value.kind {
        ValueKind::Boolean(flag) => Some(*flag),
        ValueKind::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

/// Commands a month, at least one; `Some(None)` is no bound.
fn budget(value: &Value) -> Option<Option<u64>> {
    let written = number(value).or_else(|| commands(&text(value)?)).filter(|commands| *commands > 0);
    match text(value) {
        Some(text) if text.trim() == "none" => Some(None),
        Some(_) | None => written.map(Some),
    }
}

/// An array of strings; in the environment a comma separated text, and the empty text is the empty list.
fn texts(value: &Value) -> Option<Vec<String>> {
    let list: Vec<String> = match &value.kind {
        ValueKind::Array(items) => items.iter().map(text).collect::<Option<_>>()?,
        ValueKind::String(list) if list.trim().is_empty() => Vec::new(),
        ValueKind::String(list) => list.split(',').map(|item| item.trim().to_owned()).collect(),
        _ => return None,
    };
    list.iter().all(|item| !item.is_empty()).then_some(list)
}

fn nodes(value: &Value) -> Option<NodeMap> {
    let list = texts(value)?;
    let pairs: Vec<(&str, &str)> = list.iter().map(|pair| pair.split_once('=')).collect::<Option<_>>()?;
    NodeMap::new(pairs.into_iter().map(|(told, reached)| (told.trim(), reached.trim()))).ok()
}

fn ascending(value: &Value) -> Option<Vec<Duration>> {
    let list: Vec<Duration> = texts(value)?.iter().map(|item| duration(item)).collect::<Option<_>>()?;
    let in_order = list.is_sorted_by(|a, b| a < b);
    (in_order && list.iter().all(|delay| (MILLISECOND..=HOUR).contains(delay))).then_some(list)
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn is_prefix(text: &str) -> bool {
    let literal = text.strip_suffix('*').unwrap_or_default();
    !literal.is_empty() && !literal.contains(['*', '?', '[', ']', '\\'])
}

fn is_slot_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests;
