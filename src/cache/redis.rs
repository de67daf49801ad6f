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
use super::{Cache, Deleted, Swap, Swept, reply, sweep};
use crate::config;
use crate::error::Result;
use crate::failpoints::{Guard, Step, reached, without};
use crate::keys::KeySet;

/// Keys in one UNLINK: the server runs one command without looking at its other clients.
const COMMAND_KEYS_MAX: usize = 500;
/// Bytes of keys in one UNLINK, unless a single key is longer.
const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Bytes of keys sent before the replies are awaited: bounds the packed copies of a call.
const PIPELINE_BYTES_MAX: usize = 1024 * 1024;
/// Commands sent before the replies are awaited.
const PIPELINE_COMMANDS_MAX: usize = 20;
/// A key beyond `proto-max-bulk-len` cannot be sent, and so was never written.
const KEY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The slowest link that is not taken for a hung one: a pipeline gets `timeout` and a second for each of these.
const BYTES_PER_SECOND_MIN: usize = 1024 * 1024;

/// Writes the mark `ARGV[1]` if the one that is there stands in `ARGV[3..]`, or if there is none and `ARGV[2]` allows it.
/// With `pcall` an error keeps its code in every version.
const SWAP: &str = "local found = redis.call('GET', KEYS[1])
local expected = not found and ARGV[2] ~= ''
for i = 3, #ARGV do expected = expected or found == ARGV[i] end
if not expected then return 0 end
local written = redis.pcall('SET', KEYS[1], ARGV[1])
if written.err then return written end
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

/// A Redis or Valkey server.
pub struct RedisCache {
    address: Address,
    protect: Vec<Vec<u8>>,
    timeout: Duration,
    /// Connections that answered everything so far: one, and another when a mark is written during a delete.
    idle: RefCell<Vec<Link>>,
    /// Connections made for deletes and marks.
    connections: Cell<u64>,
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
            timeout: config.timeout,
            idle: RefCell::default(),
            connections: Cell::default(),
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
            None => {
                self.connections.set(self.connections.get() + 1);
                self.connect().await
            }
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

    /// UNLINKs the keys and checks every reply.
    pub(super) async fn unlink<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Deleted> {
        let mut done = Deleted::default();
        let mut unlinks = Unlinks::default();
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
        let bytes = unlinks.bytes;
        let pipeline = std::mem::take(unlinks).into_pipeline();
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
        Ok(existed)
    }
}

/// UNLINK commands that go out together.
#[derive(Default)]
struct Unlinks {
    full: Vec<Cmd>,
    last: Option<Cmd>,
    last_keys: usize,
    last_bytes: usize,
    bytes: usize,
}

impl Unlinks {
    /// Whether a key of `length` bytes must wait for the next pipeline.
    fn is_full(&self, length: usize) -> bool {
        let commands = self.full.len() + usize::from(self.last.is_some());
        let opens = self.last.is_some() && self.ends_command(length);
        commands > 0 && (self.bytes + length > PIPELINE_BYTES_MAX || (opens && commands >= PIPELINE_COMMANDS_MAX))
    }

    fn ends_command(&self, length: usize) -> bool {
        self.last_keys >= COMMAND_KEYS_MAX || self.last_bytes + length > COMMAND_BYTES_MAX
    }

    fn push(&mut self, key: &[u8]) {
        if self.ends_command(key.len()) {
            self.full.extend(self.last.take());
        }
        let command = self.last.get_or_insert_with(|| {
            (self.last_keys, self.last_bytes) = (0, 0);
            let mut command = Cmd::with_capacity(COMMAND_KEYS_MAX + 1, 16 * 1024);
            command.arg("UNLINK");
            command
        });
        command.arg(key);
        self.last_keys += 1;
        self.last_bytes += key.len();
        self.bytes += key.len();
    }

    fn into_pipeline(self) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(self.full.len() + 1);
        for command in self.full.into_iter().chain(self.last) {
            pipeline.add_command(command);
        }
        pipeline
    }
}

fn sendable(length: usize) -> bool {
    length <= KEY_BYTES_MAX
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
        let deleted = link.unlink(keys.iter().flat_map(|set| set.iter().map(|key| key.bytes))).await?;
        self.put_back(link);
        Ok(deleted)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        let plan = sweep::Plan::new(patterns, &self.protect);
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

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8]) -> Result<Swap> {
        let mut link = self.link().await?;
        let mut command = Cmd::new();
        command.arg("EVAL").arg(SWAP).arg(1).arg(mark_key(name)).arg(mark);
        command.arg(if expected.contains(&None) { "or nothing" } else { "" });
        for text in expected.iter().flatten() {
            command.arg(text);
        }
        let swap = match link.ask(command).await? {
            Value::Int(1) => Swap::Written,
            Value::Int(0) => Swap::Other,
            Value::ServerError(error) if error.code() == "OOM" => Swap::Full,
            Value::ServerError(error) => return Err(reply::refused("EVAL", &error)),
            _ => return Err(reply::unexpected("EVAL")), // Value is foreign and non-exhaustive.
        };
        self.put_back(link);
        Ok(swap)
    }

    fn connections(&self) -> u64 {
        self.connections.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of each command of each pipeline that `lengths` are sent in.
    fn shape(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut pipelines = Vec::new();
        let mut unlinks = Unlinks::default();
        let mut close = |unlinks: &mut Unlinks| {
            let pipeline = std::mem::take(unlinks).into_pipeline();
            pipelines.push(pipeline.cmd_iter().map(|command| command.args_iter().len() - 1).collect());
        };
        for length in lengths {
            if unlinks.is_full(length) {
                close(&mut unlinks);
            }
            unlinks.push(&vec![b'k'; length]);
        }
        close(&mut unlinks);
        pipelines
    }

    #[test]
    fn commands_and_pipelines_are_bounded_in_keys_and_bytes() {
        let mib = 1024 * 1024;
        assert_eq!(shape(vec![8; 1]), [[1]]);
        assert_eq!(shape(vec![8; 1001]), [[500, 500, 1]]);
        assert_eq!(shape(vec![0; 10_001]), [vec![500; 20], vec![1]]);
        assert_eq!(shape(vec![200 * 1024; 6]), [vec![1; 5], vec![1]]);
        assert_eq!(shape([8, 2 * mib, 8]), [[1], [1], [1]]);
    }

    #[test]
    fn a_key_that_no_server_accepts_is_not_sent() {
        assert!(sendable(0) && sendable(512 << 20) && !sendable((512 << 20) + 1));
    }

    #[test]
    fn only_a_count_is_success() {
        assert_eq!(count("UNLINK", &Value::Int(0)).ok(), Some(0));
        for value in [Value::Int(-1), Value::Nil, Value::Okay, Value::Array(vec![]), Value::BulkString(b"1".to_vec())] {
            assert!(count("UNLINK", &value).is_err(), "{value:?}");
        }
    }
}
