//! One Sentinel: a connection for questions, and one for its hints.

use std::cell::RefCell;
use std::time::Duration;

use ::redis::aio::PubSub;
use ::redis::{Pipeline, RedisConnectionInfo, Value};
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use super::verdict::{SentinelSaid, names, switched, word};
use crate::cache::address::Address;
use crate::cache::link::CacheLink;
use crate::cache::reply;
use crate::cache::speak::Speaks;
use crate::error::{Error, Result};

/// The pause before a channel that broke is heard again.
const HEAR_AGAIN: Duration = Duration::from_secs(1);

const LOGIN: &str = "The Sentinels have a log-in of their own: set sentinel_password, and sentinel_user where it is not the user \
    \"default\". User and password in the address are those of the cache.";
const NO_SENTINEL: &str = "Name the Sentinels (26379 unless told otherwise); for one server without Sentinels write \
    redis://host:port.";

/// One Sentinel.
pub(super) struct SentinelSeat {
    address: Address,
    timeout: Duration,
    idle: RefCell<Option<CacheLink>>,
}

impl SentinelSeat {
    pub(super) fn new(address: Address, timeout: Duration) -> Self {
        SentinelSeat { address, timeout, idle: RefCell::default() }
    }

    /// For messages.
    pub(super) fn server(&self) -> &str {
        &self.address.server
    }

    /// Asks where the primary `name` is.
    pub(super) async fn ask(&self, name: &str, limit: Duration) -> SentinelSaid {
        match timeout(limit, self.asked(name)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => SentinelSaid::Failed(of_sentinel(error).at(self.server())),
            Err(_) => SentinelSaid::Failed(Error::transient("no answer in time").at(self.server())),
        }
    }

    async fn asked(&self, name: &str) -> Result<SentinelSaid> {
        let idle = self.idle.borrow_mut().take();
        if let Some(mut link) = idle
            && let Ok(said) = questions(link.again(), name).await
        {
            self.idle.replace(Some(link));
            return Ok(said);
        }
        let mut link = self.open().await?;
        let said = questions(&mut link, name).await?;
        self.idle.replace(Some(link));
        Ok(said)
    }

    /// A connection, logged in, to a server that is a Sentinel.
    async fn open(&self) -> Result<CacheLink> {
        let (stream, heard) = self.address.open().await?;
        let mut link = CacheLink::over(stream, heard, self.timeout, 0).await?;
        if let Err(error) = link.log_in(&self.address).await {
            return Err(link.why(error, &self.address).await);
        }
        match link.info.field("redis_mode") {
            Some("sentinel") | None => Ok(link),
            Some(_) => Err(Error::transient("this server holds keys and is no Sentinel").hint(NO_SENTINEL)),
        }
    }

    /// Resolves when it says that another server is the primary `name` now. A channel that breaks is heard again.
    pub(super) async fn hint(&self, name: &str) -> &Self {
        loop {
            if self.heard(name).await.is_some() {
                return self;
            }
            sleep(HEAR_AGAIN).await;
        }
    }

    async fn heard(&self, name: &str) -> Option<()> {
        let (stream, _) = self.address.open().await.ok()?;
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &self.address.password {
            login = login.set_password(password);
        }
        if let Some(user) = &self.address.user {
            login = login.set_username(user);
        }
        let mut channel = PubSub::new(&login, stream).await.ok()?;
        channel.subscribe("+switch-master").await.ok()?;
        let mut messages = channel.on_message();
        while let Some(message) = messages.next().await {
            if switched(message.get_payload_bytes(), name).is_some() {
                return Some(());
            }
        }
        None
    }
}

/// The three questions, in one round trip; the names that it knows where it does not know this one.
async fn questions(link: &mut CacheLink, name: &str) -> Result<SentinelSaid> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    pipeline.cmd("SENTINEL").arg("MASTER").arg(name);
    pipeline.cmd("INFO").arg("sentinel");
    let replies = link.exchange(&pipeline, 0).await?;
    let [place, details, info] = replies.as_slice() else { return Err(reply::unexpected("SENTINEL")) };
    if let Value::ServerError(error) = place {
        return Err(reply::refused("SENTINEL GET-MASTER-ADDR-BY-NAME", error));
    }
    if *place != Value::Nil {
        return word(place, details, info).map(SentinelSaid::Word).ok_or_else(|| match details {
            Value::ServerError(error) => reply::refused("SENTINEL MASTER", error),
            _ => reply::unexpected("SENTINEL MASTER"), // Value is foreign and non-exhaustive.
        });
    }
    let mut masters = ::redis::Cmd::new();
    masters.arg("SENTINEL").arg("MASTERS");
    Ok(SentinelSaid::NoSuchName(names(&link.ask(masters).await?)))
}

/// The way out is another one than with a cache.
fn of_sentinel(mut error: Error) -> Error {
    let is_login = ["NOAUTH", "WRONGPASS", "invalid password"].iter().any(|code| error.message.contains(code))
        || (error.message.starts_with("the cache answered the log-in") && error.hint.is_some());
    error.message = error.message.replace("the cache", "the Sentinel");
    error.hint = error.hint.map(|hint| hint.replace("the cache", "the Sentinel"));
    if is_login { error.hint(LOGIN) } else { error }
}
