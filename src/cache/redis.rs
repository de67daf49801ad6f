//! The cache over RESP: pipelines of UNLINKs, every reply checked.
//!
//! It decides nothing: keys come from the rules, retries and their delays from the loop, patterns are `sweep.rs`.
//! The invariant: a call succeeds only when the server answered every command of it with the reply that the command
//! has. A connection is taken out of its place for a call and put back after success, so that an error, and a call
//! dropped half way, leave none behind whose replies could be taken for those of the next call.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, Value};

use super::address::Address;
use super::unlink::{Unlinks, sendable};
use super::{Cache, Deleted, Swept, reply, sweep};
use crate::config::{self, Leases};
use crate::error::Result;
use crate::failpoints::{Guard, Step, reached, without};
use crate::keys::KeySet;

/// The slowest link that is not taken for a hung one: a pipeline gets `timeout` and a second for each of these.
const BYTES_PER_SECOND_MIN: usize = 1024 * 1024;

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

/// A Redis or Valkey server.
pub struct RedisCache {
    address: Address,
    protect: Vec<Vec<u8>>,
    leases: Leases,
    timeout: Duration,
    /// Connections that answered everything so far: one, and another when a mark is written during a delete.
    idle: RefCell<Vec<Link>>,
    progress: Progress,
}

/// One connection, logged in.
pub(super) struct Link {
    connection: MultiplexedConnection,
    timeout: Duration,
}

impl RedisCache {
    /// Checks URL and certificate authority; connects on the first call.
    pub fn new(config: &config::Cache) -> Result<Self> {
        Ok(RedisCache {
            address: Address::new(&config.url, config.tls_ca.as_deref())?,
            protect: config.protect.clone(),
            leases: config.leases,
            timeout: config.timeout,
            idle: RefCell::default(),
            progress: Progress::default(),
        })
    }

    /// How far the current or last sweep is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A connection of its own, logged in, for a command that asks the cache about itself.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        Ok(self.connect().await?.connection)
    }

    async fn connect(&self) -> Result<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let connection = self.address.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|error| reply::broken(error).while_doing("connect to the cache"))?;
        let mut link = Link { connection, timeout: self.timeout };
        link.log_in(&self.address).await?;
        Ok(link)
    }

    async fn link(&self) -> Result<Link> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(link) => Ok(link),
            None => self.connect().await,
        }
    }

    fn put_back(&self, link: Link) {
        self.idle.borrow_mut().push(link);
    }
}

impl Link {
    /// AUTH, SELECT and the client's name in one round trip.
    async fn log_in(&mut self, address: &Address) -> Result<()> {
        let mut pipeline = Pipeline::new();
        if let Some(password) = &address.password {
            pipeline.cmd("AUTH");
            if let Some(user) = &address.user {
                pipeline.arg(user);
            }
            pipeline.arg(password);
        }
        if address.database != 0 {
            pipeline.cmd("SELECT").arg(address.database);
        }
        let required = pipeline.len();
        pipeline.cmd("CLIENT").arg("SETNAME").arg("crieur");
        let replies = self.exchange(&pipeline, 0).await?;
        // The name is for CLIENT LIST; a user without the right to set it works all the same.
        for value in &replies[..required] {
            okay("the log-in", value)?;
        }
        Ok(())
    }

    /// Sends the pipeline, which holds about `bytes` of data, and reads as many replies as it has commands.
    pub(super) async fn exchange(&mut self, pipeline: &Pipeline, bytes: usize) -> Result<Vec<Value>> {
        let transfer = Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64);
        self.connection.set_response_timeout(self.timeout + transfer);
        let replies = self.connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let replies = replies.map_err(reply::broken)?;
        if replies.len() == pipeline.len() { Ok(replies) } else { Err(reply::unexpected("a pipeline")) }
    }

    /// Sends one command and reads its reply.
    pub(super) async fn ask(&mut self, command: Cmd) -> Result<Value> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let reply = self.exchange(&pipeline, 0).await?.pop();
        reply.ok_or_else(|| reply::unexpected("a command"))
    }

    /// UNLINKs the keys, each with its lease, and checks every reply.
    pub(super) async fn unlink<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, leases: Leases) -> Result<Deleted> {
        let mut done = Deleted::default();
        let mut unlinks = Unlinks::new(leases);
        for key in keys {
            done.sent += 1;
            if !sendable(key.len()) {
                continue;
            }
            if unlinks.is_full(key.len()) {
                done.existed += self.flush(&mut unlinks).await?;
            }
            unlinks.push(key);
        }
        done.existed += self.flush(&mut unlinks).await?;
        Ok(done)
    }

    async fn flush(&mut self, unlinks: &mut Unlinks) -> Result<u64> {
        let (pipeline, keys, bytes) = unlinks.take();
        if pipeline.is_empty() {
            return Ok(0);
        }
        let replies = self.exchange(&pipeline, bytes).await?;
        reached(Step::Answered);
        let mut existed = 0;
        for value in &replies {
            if without(Guard::Replies) {
                continue;
            }
            existed += count("UNLINK", value)?;
        }
        // A reply counts keys and leases alike, and cannot tell them apart: of a key with its lease, one is counted.
        Ok(existed.min(keys))
    }
}

/// The reply of a command that counts.
pub(super) fn count(command: &str, value: &Value) -> Result<u64> {
    match value {
        Value::Int(count) => u64::try_from(*count).map_err(|_| reply::unexpected(command)),
        Value::ServerError(error) => Err(reply::refused(command, error)),
        _ => Err(reply::unexpected(command)), // Value is foreign and non-exhaustive.
    }
}

fn okay(command: &str, value: &Value) -> Result<()> {
    match value {
        Value::Okay => Ok(()),
        Value::ServerError(error) => Err(reply::refused(command, error)),
        _ => Err(reply::unexpected(command)), // Value is foreign and non-exhaustive.
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
        let mut link = self.link().await?;
        let deleted = link.unlink(keys.iter().flat_map(|set| set.iter().map(|key| key.bytes)), self.leases).await?;
        self.put_back(link);
        Ok(deleted)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        let plan = sweep::Plan::new(patterns, &self.protect, self.leases);
        sweep::run(self.connect().await?, &plan, &self.progress).await
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut link = self.link().await?;
        let mut command = Cmd::new();
        command.arg("GET").arg(mark_key(name));
        let mark = match link.ask(command).await? {
            Value::Nil => None,
            Value::BulkString(mark) => Some(mark),
            Value::ServerError(error) => return Err(reply::refused("GET", &error)),
            _ => return Err(reply::unexpected("GET")), // Value is foreign and non-exhaustive.
        };
        self.put_back(link);
        Ok(mark)
    }

    async fn set_mark(&self, name: &str, mark: &[u8]) -> Result<()> {
        let mut link = self.link().await?;
        let mut command = Cmd::new();
        command.arg("SET").arg(mark_key(name)).arg(mark);
        okay("SET", &link.ask(command).await?)?;
        self.put_back(link);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_is_success() {
        assert_eq!(count("UNLINK", &Value::Int(0)).ok(), Some(0));
        for value in [Value::Int(-1), Value::Nil, Value::Okay, Value::Array(vec![]), Value::BulkString(b"1".to_vec())] {
            assert!(count("UNLINK", &value).is_err(), "{value:?}");
        }
    }
}
