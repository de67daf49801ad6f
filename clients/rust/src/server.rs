//! A store over the `redis` crate: over an address, with a connection of its own, or over a connection of the user's.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};

use crate::store::{Reply, Sending, Store, StoreError, TIMEOUT};

/// A connection attempt may take longer than one command, so that a slow handshake succeeds for those who come later.
const CONNECT_LEAST: Duration = Duration::from_secs(2);

/// A connection that is being made, or has been.
type Connecting = Shared<BoxFuture<'static, Result<MultiplexedConnection, StoreError>>>;

/// A store with one connection of its own to an address, made when it is needed, and made anew behind a loss.
///
/// No command is ever sent twice. A connection that broke, or stayed silent, fails what was under way.
pub struct Redis {
    client: Client,
    timeout: Duration,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Counts connections, so that a failure of an old one does not end the new one.
    number: u64,
    current: Option<Connecting>,
}

impl Redis {
    /// A store at an address like `redis://127.0.0.1:6379`; `rediss://` with the feature `tls`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn open(url: &str) -> Result<Redis, StoreError> {
        Client::open(url).map(Redis::over).map_err(|error| failure(&error))
    }

    /// The same over a client that was made elsewhere.
    pub fn over(client: Client) -> Redis {
        Redis { client, timeout: TIMEOUT, place: Mutex::default() }
    }

    /// How long one command may take, 500 ms unless said.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Redis {
        Redis { timeout, ..self }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The connection that is there or on its way, with its number.
    fn connecting(&self) -> (u64, Connecting) {
        let mut place = self.place();
        // One that failed while nobody waited for it says nothing about now.
        let has_failed = |current: &Connecting| matches!(current.clone().now_or_never(), Some(Err(_)));
        if let Some(current) = place.current.as_ref().filter(|current| !has_failed(current)) {
            return (place.number, current.clone());
        }
        let client = self.client.clone();
        let limit = (self.timeout * 4).max(CONNECT_LEAST);
        // The limit of a command is the store's own: it holds for waiting, too.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(None);
        let task = tokio::spawn(async move { client.get_multiplexed_async_connection_with_config(&config).await });
        let connecting = async move {
            let made = task.await.map_err(|_| StoreError::new("the runtime of the connection ended"))?;
            made.map_err(|error| failure(&error))
        };
        let connecting = connecting.boxed().shared();
        place.number += 1;
        place.current = Some(connecting.clone());
        (place.number, connecting)
    }

    /// The next command makes a new connection.
    fn forget(&self, number: u64) {
        let mut place = self.place();
        if place.number == number {
            place.current = None;
        }
    }
}

impl Store for Redis {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            let (number, connecting) = self.connecting();
            let asked = async {
                let mut connection = connecting.await.map_err(|error| (error, true))?;
                let answer = connection.send_packed_command(&packed(command)).await;
                answer.map_err(|error| (failure(&error), is_broken(&error)))
            };
            match tokio::time::timeout(self.timeout, asked).await {
                Ok(Ok(value)) => reply(value),
                Ok(Err((error, is_broken))) => {
                    if is_broken {
                        self.forget(number);
                    }
                    Err(error)
                }
                Err(_) => {
                    // Connecting goes on for those who come later, and a line that is silent is given up.
                    if self.is_connected(number) {
                        self.forget(number);
                    }
                    Err(silence(self.timeout))
                }
            }
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Redis {
    fn is_connected(&self, number: u64) -> bool {
        let place = self.place();
        place.number == number && place.current.as_ref().is_some_and(|current| current.peek().is_some())
    }
}

/// A store over a connection of the user's that can be cloned: `MultiplexedConnection`, `ConnectionManager`.
///
/// A `MultiplexedConnection` that broke stays broken: [`Redis`] makes a new one, a `ConnectionManager` does, too. A
/// connection that sends again by itself, like that of a cluster, needs [`Connection::that_resends`].
pub struct Connection<C> {
    connection: C,
    timeout: Duration,
    resends: bool,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection<C> {
    /// A store over this connection, which never sends a command twice.
    pub fn new(connection: C) -> Connection<C> {
        Connection { connection, timeout: TIMEOUT, resends: false }
    }

    /// A store over this connection, which may send a command again by itself.
    pub fn that_resends(connection: C) -> Connection<C> {
        Connection { resends: true, ..Connection::new(connection) }
    }

    /// How long one command may take, 500 ms unless said.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Connection<C> {
        Connection { timeout, ..self }
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Store for Connection<C> {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            let (mut connection, packed) = (self.connection.clone(), packed(command));
            let asked = tokio::time::timeout(self.timeout, connection.req_packed_command(&packed)).await;
            reply(asked.map_err(|_| silence(self.timeout))?.map_err(|error| failure(&error))?)
        })
    }

    fn resends(&self) -> bool {
        self.resends
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn packed(command: &[&[u8]]) -> Cmd {
    let mut packed = Cmd::new();
    command.iter().for_each(|word| _ = packed.arg(*word));
    packed
}

fn silence(limit: Duration) -> StoreError {
    StoreError::new(format!("no answer in {} ms", limit.as_millis()))
}

fn failure(error: &RedisError) -> StoreError {
    StoreError::new(error.to_string())
}

fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

fn reply(value: Value) -> Result<Reply, StoreError> {
    Ok(match value {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Int(number),
        Value::BulkString(bytes) => Reply::Bytes(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Reply::Bytes(text.into_bytes()),
        Value::Okay => Reply::Bytes(b"OK".to_vec()),
        Value::Boolean(is) => Reply::Int(i64::from(is)),
        Value::Array(all) | Value::Set(all) => Reply::Many(all.into_iter().map(reply).collect::<Result<_, _>>()?),
        Value::ServerError(error) => return Err(failure(&error.into())),
        other => {
            return Err(StoreError::new(format!("an answer of a type that no command here has: {}", kind(&other))));
        }
    })
}

/// The type alone: an answer may hold a row.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Map(_) => "map",
        Value::Double(_) => "double",
        Value::Push { .. } => "push",
        Value::Attribute { .. } => "attribute",
        _ => "other",
    }
}

/// A store that others share.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        (**self).send(command)
    }

    fn resends(&self) -> bool {
        (**self).resends()
    }

    fn timeout(&self) -> Duration {
        (**self).timeout()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The server ends each connection behind the time of a command: that attempt failed, and says nothing about now.
    #[tokio::test]
    async fn an_attempt_that_failed_while_nobody_waited_is_not_the_answer_to_the_next_command() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, accepted) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(200));
                drop(connection);
            }
        });
        let redis = Redis::open(&format!("redis://127.0.0.1:{port}")).unwrap().timeout(Duration::from_millis(20));
        assert!(redis.send(&[b"PING"]).await.is_err());
        let current = redis.place().current.clone().unwrap();
        // The attempt goes on, and is over.
        assert!(tokio::time::timeout(Duration::from_secs(30), current).await.unwrap().is_err());
        assert!(redis.send(&[b"PING"]).await.is_err());
        let patience = tokio::time::Instant::now() + Duration::from_secs(30);
        while accepted.load(Ordering::SeqCst) < 2 {
            assert!(tokio::time::Instant::now() < patience, "no second attempt");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
