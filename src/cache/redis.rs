//! The cache over RESP: which connection a call runs on, and what each call sends.
//!
//! It decides nothing: keys come from the rules, retries and their delays from the loop, patterns are `sweep.rs`.
//! The invariant: a connection is taken out of its place for a call and put back after success, so that an error, and
//! a call dropped half way, leave none behind whose replies could be taken for those of the next call.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Value};
use tokio::time::timeout;

use tracing::warn;

use super::address::Address;
use super::health::Health;
use super::link::{Identity, Link, count};
use super::{Cache, Deleted, Swap, Swept, reply, sweep};
use crate::config::reference::shown;
use crate::config::{self, Leases};
use crate::error::{Error, Result};
use crate::keys::KeySet;

/// Connections that a long key may break before it is left out.
const LONG_KEY_TRIES: usize = 3;

/// Writes the mark `ARGV[1]` if the one that is there stands in `ARGV[5..]`, or if there is none and `ARGV[2]` allows it.
/// `ARGV[3]` and `ARGV[4]` are the server's identity: a proxy may lead to another server than the one that had the deletes
/// without closing a connection, and a promoted replica can hold the last mark and lack what was deleted since.
/// Before version 7 a script's error has its place before its code; the code is what counts.
const SWAP: &str = "if ARGV[3] ~= '' then
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  if not (string.find(info, ARGV[3], 1, true) and string.find(info, ARGV[4], 1, true)) then return -1 end
end
local found = redis.call('GET', KEYS[1])
local expected = not found and ARGV[2] ~= ''
for i = 5, #ARGV do expected = expected or found == ARGV[i] end
if not expected then return 0 end
local written = redis.pcall('SET', KEYS[1], ARGV[1])
if written.err then return redis.error_reply(string.match(written.err, '%u+ .*') or written.err) end
return 1";

/// How far the current sweep is, for a terminal.
#[derive(Debug, Default)]
pub struct Progress {
    /// Keys that the scan returned.
    pub scanned: Cell<u64>,
    /// Keys deleted.
    pub deleted: Cell<u64>,
    /// Keys in the database when the scan began; 0 where the server does not tell.
    pub total: Cell<u64>,
}

/// Where a connection waits that answered everything so far.
type Place = RefCell<Vec<Link>>;

/// A Redis or Valkey server.
pub struct RedisCache {
    address: Address,
    protect: Vec<Vec<u8>>,
    leases: Leases,
    timeout: Duration,
    /// The connection for deletes, while it is idle.
    idle: Place,
    /// The connection for the mark, while it is idle.
    marking: Place,
    /// Counts failures of any connection.
    generation: Cell<u64>,
    /// The server of the last connection, and how often it was another than before, or perhaps another.
    identity: RefCell<Option<Option<Identity>>>,
    changes: Cell<u64>,
    progress: Progress,
    health: Arc<Health>,
}

impl RedisCache {
    /// Checks URL and certificate authority; connects on the first call.
    pub fn new(config: &config::Cache) -> Result<Self> {
        Ok(RedisCache {
            address: Address::new(&config.url, &config.tls)?,
            protect: config.protect.clone(),
            leases: config.leases,
            timeout: config.timeout,
            idle: Place::default(),
            marking: Place::default(),
            generation: Cell::default(),
            identity: RefCell::default(),
            changes: Cell::default(),
            progress: Progress::default(),
            health: Arc::default(),
        })
    }

    /// How far the current or last sweep is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the cache answers.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// A connection of its own, logged in, for a command that asks the cache about itself.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        Ok(self.connect().await?.into_connection())
    }

    pub(super) async fn connect(&self) -> Result<Link> {
        let link = self.open().await.map_err(|error| error.at(&self.address.server))?;
        let before = self.identity.replace(Some(link.identity.clone()));
        if before.is_some_and(|before| before.is_none() || before != link.identity) {
            self.changes.set(self.changes.get() + 1);
        }
        Ok(link)
    }

    /// A connection, logged in.
    async fn open(&self) -> Result<Link> {
        let (stream, heard) = match timeout(self.timeout, self.address.open()).await {
            Ok(opened) => opened?,
            Err(_) => {
                let silent = || Error::transient(format!("no answer within {}", shown(self.timeout)));
                return Err(self.address.stranger().await.unwrap_or_else(silent));
            }
        };
        let mut link = Link::over(stream, heard, self.timeout, self.generation.get()).await?;
        match link.log_in(&self.address).await {
            Ok(()) => Ok(link),
            Err(error) => Err(link.why(error, &self.address).await),
        }
    }

    /// Runs `step` on a connection of `place` or a new one, which is there again after success.
    ///
    /// A server closes connections that were idle for its `timeout`. The first call after that finds out, and nothing
    /// was lost: it goes on a new connection at once.
    async fn on_link<T>(&self, place: &Place, step: impl AsyncFn(&mut Link) -> Result<T>) -> Result<T> {
        let idle = place.borrow_mut().pop();
        if let Some(mut link) = idle {
            match step(link.again()).await {
                Err(_) if link.was_closed() => self.broken(),
                result => return self.ended(place, link, result),
            }
        }
        let mut link = self.connect().await.inspect_err(|_| self.broken())?;
        let result = step(&mut link).await;
        self.ended(place, link, result)
    }

    fn ended<T>(&self, place: &Place, link: Link, result: Result<T>) -> Result<T> {
        match result {
            Ok(_) if link.generation == self.generation.get() => place.borrow_mut().push(link),
            Ok(_) => {}
            Err(_) if link.was_answered() => {} // Refused: a demoted primary, say. A new connection may lead elsewhere.
            Err(_) => self.broken(),
        }
        result
    }

    /// One connection broke: behind the address may be another server from now on, so none of the others is used again.
    fn broken(&self) {
        self.generation.set(self.generation.get() + 1);
        self.idle.borrow_mut().clear();
        self.marking.borrow_mut().clear();
    }

    /// Deletes keys so long that the server may refuse to read them, each alone: whatever they do to their connection,
    /// the others are through.
    pub(super) async fn unlink_long(&self, keys: &[&[u8]]) -> Result<Deleted> {
        let mut done = Deleted::default();
        for key in keys {
            let mut unlinked = None;
            for _ in 0..LONG_KEY_TRIES {
                // A connection that was made and logged in proves that nothing but the key is wrong.
                unlinked = self.connect().await?.unlink_alone(key, self.leases).await?;
                if unlinked.is_some() {
                    break;
                }
            }
            if unlinked.is_none() {
                warn!(
                    hint =
                        "With proto-max-bulk-len or client-query-buffer-limit below this no client can have stored it.",
                    "the cache does not read a key of {} bytes: it is left out",
                    key.len()
                );
            }
            let unlinked = unlinked.unwrap_or(Deleted { sent: 1, existed: 0 });
            done = Deleted { sent: done.sent + unlinked.sent, existed: done.existed + unlinked.existed };
        }
        Ok(done)
    }

    /// Notes whether the cache answered, for whoever watches.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.health.note(result.is_ok());
        result.map_err(|error| error.at(&self.address.server))
    }
}

fn mark_key(name: &str) -> String {
    format!("crieur:mark:{name}")
}

impl Cache for RedisCache {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        if keys.iter().all(|set| set.is_empty()) {
            return Ok(Deleted::default());
        }
        let all = || keys.iter().flat_map(|set| set.iter().map(|key| key.bytes));
        let deleted = async {
            let (done, long) = self.on_link(&self.idle, async |link| link.unlink(all(), self.leases).await).await?;
            let alone = self.unlink_long(&long).await?;
            Ok(Deleted { sent: done.sent + alone.sent, existed: done.existed + alone.existed })
        };
        self.noted(deleted.await)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        let plan = sweep::Plan::new(patterns, &self.protect, self.leases);
        self.noted(sweep::run(self, &plan, &self.progress).await)
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = async |link: &mut Link| {
            let mut command = Cmd::new();
            command.arg("GET").arg(mark_key(name));
            match link.ask(command).await? {
                Value::Nil => Ok(None),
                Value::BulkString(mark) => Ok(Some(mark)),
                // Not a text: somebody else wrote under our name. Kept, it could never be compared nor replaced.
                Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                    let mut command = Cmd::new();
                    command.arg("UNLINK").arg(mark_key(name));
                    count("UNLINK", &link.ask(command).await?).map(|_| None)
                }
                Value::ServerError(error) => Err(reply::refused("GET", &error)),
                _ => Err(reply::unexpected("GET")), // Value is foreign and non-exhaustive.
            }
        };
        self.noted(self.on_link(&self.marking, read).await)
    }

    /// Only where the mark was read: on another connection may be another server, whose mark nobody has looked at. A
    /// refusal is no outage: a full cache deletes keys and takes no mark.
    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8]) -> Result<Swap> {
        let read_on = self.marking.borrow_mut().pop();
        let Some(mut link) = read_on else { return Ok(Swap::Unproven) };
        let mut command = Cmd::new();
        command.arg("EVAL").arg(SWAP).arg(1).arg(mark_key(name)).arg(mark);
        command.arg(if expected.contains(&None) { "or nothing" } else { "" });
        let [run, history] = link.identity.as_ref().map_or(["", ""], Identity::fields);
        command.arg(run).arg(history);
        for text in expected.iter().flatten() {
            command.arg(text);
        }
        let swap = match link.again().ask(command).await {
            Ok(Value::Int(1)) => Ok(Swap::Written),
            Ok(Value::Int(0)) => Ok(Swap::Other),
            Ok(Value::Int(-1)) => {
                self.broken();
                return Ok(Swap::Unproven);
            }
            Ok(Value::ServerError(error)) if error.code() == "OOM" => Ok(Swap::Full),
            // Not on this connection again: a new one may lead to the primary that took over.
            Ok(Value::ServerError(error)) => {
                let refused = reply::refused("EVAL", &error).at(&self.address.server);
                return if refused.is_transient() { Ok(Swap::Refused(refused)) } else { Err(refused) };
            }
            Ok(_) => Err(reply::unexpected("EVAL")), // Value is foreign and non-exhaustive.
            Err(_) if link.was_closed() => {
                self.broken();
                return Ok(Swap::Lost);
            }
            Err(error) => Err(error),
        };
        self.ended(&self.marking, link, swap)
    }

    fn changes(&self) -> u64 {
        self.changes.get()
    }
}
