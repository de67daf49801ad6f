//! One connection to the cache: pipelines out, as many replies back, every one looked at.
//!
//! The invariant: a call succeeds only when the server answered every command of it with the reply that the command
//! has. After an error the connection is dropped: replies that still come could be taken for those of the next call.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::address::Address;
use super::health::Health;
use super::identity::{Identity, Info};
use super::publish::{BYTES_MAX, KEYS_MAX, Telling};
use super::socket::{End, HeardBytes, Stream};
use super::speak::{Speaks, count};
use super::unlink::{Packing, Unlinks};
use super::watch::KeyWatch;
use super::{Deleted, bill, reply};
use crate::config::Leases;
use crate::error::{Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::stranger::{self, Stranger};

/// The slowest link that is not taken for a hung one: a pipeline gets `timeout` and a second for each of these.
const BYTES_PER_SECOND_MIN: usize = 1024 * 1024;

/// One connection, logged in.
pub(super) struct CacheLink {
    pub(super) connection: MultiplexedConnection,
    /// Moves bytes between the stream and the connection.
    driver: Rc<Driver>,
    /// What the server said on it.
    heard: HeardBytes,
    timeout: Duration,
    /// Where commands are billed: who counts them.
    bill: Option<Arc<Health>>,
    state: State,
    /// When it was made, counted in failures of any connection.
    pub(super) generation: u64,
    pub(super) born: Instant,
    /// The server behind it when it was made; `None` where the server does not tell.
    pub(super) identity: Option<Identity>,
    /// What the server said of itself then.
    pub(super) info: Info,
    /// The number of the database that was selected.
    pub(super) database: i64,
}

/// The task behind a connection; it ends with this value.
struct Driver(Cell<Option<JoinHandle<()>>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// What became of the connection since the present call took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing was answered yet.
    Untried,
    /// Something was answered.
    Answered,
    /// It was closed before anything was answered, most likely while it was idle, or with the answer that the request
    /// cannot be read.
    Closed,
    /// It failed in any other way.
    Broken,
}

impl CacheLink {
    /// Over a stream that was opened; sends nothing.
    pub(super) async fn over(stream: Stream, heard: HeardBytes, timeout: Duration, generation: u64) -> Result<Self> {
        // AUTH and SELECT are ours: the crate folds every error of the log-in into one kind and loses its code.
        let anonymous = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(timeout));
        let made = MultiplexedConnection::new_with_config(&anonymous, stream, config).await;
        let (connection, driver) = made.map_err(reply::broken)?;
        let driver = Rc::new(Driver(Cell::new(Some(tokio::spawn(driver)))));
        let (born, state, identity, info) = (Instant::now(), State::Untried, None, Info::default());
        let bill = None;
        Ok(CacheLink { connection, driver, heard, timeout, bill, state, generation, born, identity, info, database: 0 })
    }

    /// Why a log-in failed with `error`: what was heard may say more, and so may whoever answers at this address.
    pub(super) async fn why(self, error: Error, address: &Address) -> Error {
        let first = self.heard.first();
        if self.heard.last_words().is_some() {
            return error;
        }
        // What was heard was decrypted where there is TLS: a cache that answered with an error is no stranger.
        let stranger = stranger::of(&first).filter(|stranger| *stranger != Stranger::Cache);
        if let Some(other) = stranger.and_then(|stranger| address.unlike(stranger)) {
            return other;
        }
        match self.heard.take_end() {
            Some(End::Failed(cause)) => address.failed(cause, first.is_empty()).await,
            Some(End::Closed) if first.is_empty() => {
                let closed = Error::transient("the server closed the connection and said nothing");
                address.stranger().await.unwrap_or(closed)
            }
            None if first.is_empty() => address.stranger().await.unwrap_or(error),
            Some(End::Closed) | None => error,
        }
    }

    /// Each command costs money; whoever watches `health` counts them.
    pub(super) fn is_billed_to(&mut self, health: &Arc<Health>) {
        self.bill = Some(Arc::clone(health));
    }

    fn packing(&self) -> Packing {
        if self.bill.is_some() { Packing::Billed } else { Packing::Free }
    }

    /// Another user of the same connection: commands of both go over it, and each gets its own replies.
    pub(super) fn shared(&self) -> Self {
        CacheLink {
            connection: self.connection.clone(),
            driver: Rc::clone(&self.driver),
            heard: self.heard.clone(),
            bill: self.bill.clone(),
            identity: self.identity.clone(),
            info: self.info.clone(),
            state: State::Untried,
            ..*self
        }
    }

    /// The same connection for another call.
    pub(super) fn again(&mut self) -> &mut Self {
        self.state = State::Untried;
        self
    }

    /// Whether every command of this call had an answer, be it an error.
    pub(super) fn was_answered(&self) -> bool {
        self.state == State::Answered
    }

    /// Whether the other end closed it before this call had an answer.
    pub(super) fn was_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// AUTH, SELECT, the client's name, and who the server is, in one round trip.
    pub(super) async fn log_in(&mut self, address: &Address) -> Result<()> {
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
        pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        let replies = self.exchange(&pipeline, 0).await?;
        // The name is for CLIENT LIST; a user without the right to set it, or to ask who the server is, works all the same.
        for value in &replies[..required] {
            okay("the log-in", value)?;
        }
        // Where no password was given, this is the first to be refused for the want of one.
        for value in &replies[required..] {
            if let Value::ServerError(error) = value
                && error.code() == "NOAUTH"
            {
                return Err(reply::refused("the log-in", error));
            }
        }
        self.info = Info::read(&replies[required + 1..]);
        self.identity = self.info.identity();
        self.database = address.database;
        Ok(())
    }

    /// Whether the server says that it is a primary: what ROLE says, or INFO to a user who may not ask that.
    pub(super) async fn is_primary(&mut self) -> Result<bool> {
        let mut command = Cmd::new();
        command.arg("ROLE");
        match self.ask(command).await? {
            Value::Array(parts) => Ok(matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")),
            Value::ServerError(_) => Ok(!self.info.is_replica()),
            _ => Err(reply::unexpected("ROLE")), // Value is foreign and non-exhaustive.
        }
    }

    /// UNLINKs one long key, on a connection that no other key needs; `None` when the server closed it unanswered, or
    /// said that it does not read so much.
    pub(super) async fn unlink_alone(&mut self, key: &[u8], leases: Leases) -> Result<Option<Deleted>> {
        let mut unlinks = Unlinks::new(leases, self.packing());
        unlinks.push(key);
        let watch = KeyWatch::default();
        match self.again().flush(&mut unlinks, &mut Asked::of(&watch), (None, &mut Vec::new())).await {
            Ok(existed) => Ok(Some(Deleted { sent: 1, existed })),
            Err(_) if self.state == State::Closed => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The keys that were packed, and behind them the message that names them, where somebody is told.
    async fn flush(
        &mut self,
        unlinks: &mut Unlinks,
        asked: &mut Asked<'_, '_>,
        (telling, named): (Option<&Telling<'_>>, &mut Vec<&[u8]>),
    ) -> Result<u64> {
        let (mut pipeline, keys, bytes) = unlinks.take();
        if pipeline.is_empty() {
            return Ok(0);
        }
        if let Some(telling) = telling {
            pipeline.add_command(telling.message(self.generation, named));
            named.clear();
        }
        let mut replies = self.exchange(&pipeline, bytes).await?;
        reached(Step::Answered);
        if let (Some(telling), Some(reply)) = (telling, telling.and_then(|_| replies.pop())) {
            telling.answered(&reply);
        }
        let (mut existed, alone) = (0, replies.len().saturating_sub(asked.keys.len()));
        for (place, value) in replies.iter().enumerate() {
            if without(Guard::Replies) {
                continue;
            }
            let count = count("UNLINK", value)?;
            existed += count;
            if let Some(key) = place.checked_sub(alone).and_then(|key| asked.keys.get(key)) {
                asked.watch.answered(key, count);
            }
        }
        asked.keys.clear();
        // A reply counts keys and leases alike, and cannot tell them apart: of a key with its lease, one is counted.
        Ok(existed.min(keys))
    }
}

/// Keys that went alone, in their order, for whoever asks whether they existed.
struct Asked<'w, 'a> {
    watch: &'w KeyWatch,
    keys: Vec<&'a [u8]>,
}

impl<'w, 'a> Asked<'w, 'a> {
    fn of(watch: &'w KeyWatch) -> Self {
        Asked { watch, keys: Vec::new() }
    }

    fn push(&mut self, unlinks: &mut Unlinks, key: &'a [u8]) {
        if self.watch.asks(key) {
            unlinks.push_alone(key);
            self.keys.push(key);
        } else {
            unlinks.push(key);
        }
    }
}

impl CacheLink {
    /// UNLINKs like [`unlink`](Speaks::unlink); behind each pipeline it tells which keys those were, if somebody is told,
    /// and it notes of the keys that are watched which existed.
    pub(super) async fn unlink_and_tell<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        leases: Leases,
        watch: &KeyWatch,
        telling: Option<&Telling<'_>>,
    ) -> Result<(Deleted, Vec<&'a [u8]>)> {
        let (mut done, mut long, mut asked) = (Deleted::default(), Vec::new(), Asked::of(watch));
        let packing = self.packing();
        let mut unlinks = Unlinks::new(leases, packing);
        // Where each command is billed, many keys are one command, and one message that names none of them.
        let is_bounded = telling.is_some() && packing == Packing::Free;
        let (mut named, mut bytes) = (Vec::new(), 0);
        for key in keys {
            if packing.is_long(key.len(), leases) {
                long.push(key);
                continue;
            }
            done.sent += 1;
            let is_told = is_bounded && (named.len() >= KEYS_MAX || bytes + key.len() > BYTES_MAX);
            if unlinks.is_full(key.len()) || (is_told && !named.is_empty()) {
                done.existed += self.flush(&mut unlinks, &mut asked, (telling, &mut named)).await?;
                bytes = 0;
            }
            asked.push(&mut unlinks, key);
            if telling.is_some() {
                named.push(key);
                bytes += key.len();
            }
        }
        done.existed += self.flush(&mut unlinks, &mut asked, (telling, &mut named)).await?;
        Ok((done, long))
    }

    /// Tells it, alone.
    pub(super) async fn tell(&mut self, telling: &Telling<'_>, message: Cmd) -> Result<()> {
        telling.answered(&self.ask(message).await?);
        Ok(())
    }
}

impl Speaks for CacheLink {
    async fn exchange(&mut self, pipeline: &Pipeline, bytes: usize) -> Result<Vec<Value>> {
        let transfer = Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64);
        self.connection.set_response_timeout(self.timeout + transfer);
        let replies = self.connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        self.state = match (&replies, self.state) {
            (Ok(replies), _) if replies.iter().any(reply::closes) => State::Closed,
            (Ok(_), _) => State::Answered,
            (Err(error), State::Untried) if error.is_io_error() && !error.is_timeout() => State::Closed,
            (Err(_), _) => State::Broken,
        };
        if let Some(health) = &self.bill {
            let reply = |index: usize| replies.as_ref().ok().and_then(|replies| replies.get(index));
            let billed = pipeline.cmd_iter().enumerate().map(|(index, command)| bill::of(command, reply(index)));
            health.bill(billed.sum());
        }
        let replies = replies.map_err(|error| match self.heard.last_words() {
            Some((code, detail)) => reply::last_words(&code, &detail),
            None => reply::broken(error),
        })?;
        if replies.len() == pipeline.len() { Ok(replies) } else { Err(reply::unexpected("a pipeline")) }
    }

    /// Keys that may be too long for the server are left to [`unlink_alone`](CacheLink::unlink_alone).
    async fn unlink<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        leases: Leases,
    ) -> Result<(Deleted, Vec<&'a [u8]>)> {
        self.unlink_and_tell(keys, leases, &KeyWatch::default(), None).await
    }

    fn info(&self) -> &Info {
        &self.info
    }
}

pub(super) fn okay(command: &str, value: &Value) -> Result<()> {
    match value {
        Value::Okay => Ok(()),
        Value::ServerError(error) => Err(reply::refused(command, error)),
        _ => Err(reply::unexpected(command)), // Value is foreign and non-exhaustive.
    }
}
