//! Ordinary sessions: `tokio-postgres` over the same links as the replication session, and what each may be asked.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::error::{Error, Exit, Result};
use crate::postgres::dsn::{Dsn, SessionTarget};
use crate::postgres::facts::in_recovery;
use crate::postgres::link::{Link, answered, each_host};
use crate::postgres::socket::ReceiveWindow;
use crate::postgres::sqlstate::{session_error, wrong_target};
use crate::postgres::wire::{OUTPUT, UNCONVERTED};

/// A link that is negotiated already, as tokio-postgres wants to receive one.
struct Ready(Link);

impl AsyncRead for Ready {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ready {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl TlsStream for Ready {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.end_point().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// The TLS step of tokio-postgres, for links that have it behind them.
struct AlreadyDone;

impl TlsConnect<Ready> for AlreadyDone {
    type Stream = Ready;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<std::result::Result<Ready, Self::Error>>;

    fn connect(self, link: Ready) -> Self::Future {
        std::future::ready(Ok(link))
    }
}

/// What a role or a database may have set otherwise: a serializable deferrable snapshot waits for every transaction that
/// writes (`GetSafeSnapshot` in src/backend/storage/lmgr/predicate.c), and an idle session is no forgotten one. A policy
/// of row level security hides rows in silence, which passes for "no rows": with `row_security = off` the server refuses
/// the statement instead (`check_enable_rls` in src/backend/utils/misc/rls.c).
const DEFAULTS: &str = "-c default_transaction_isolation=read\\ committed -c default_transaction_deferrable=off \
                        -c idle_session_timeout=0 -c row_security=off";

/// Before a statement of ours, in the same message and so in its transaction only: names in it are the server's own,
/// whatever role or database put into the path. Lookups keep the role's.
pub(crate) const NO_PATH: &str = "SET LOCAL search_path TO ''; ";

/// An ordinary session; its connection ends with it.
#[derive(Debug)]
pub struct Session {
    /// The session's statements.
    pub client: Client,
    connection: JoinHandle<()>,
    /// The connection ended by itself.
    pub(crate) ended: Arc<Notify>,
    /// A notification came (`LISTEN`).
    pub(crate) notified: Arc<Notify>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    /// Connects to the first host that will do; `limit` is for each. `settings` are added to the session's options
    /// (`-c name=value`).
    pub async fn connect(dsn: &Dsn, limit: Duration, settings: &str) -> Result<Self> {
        let mut config = dsn.config.clone();
        let options = format!("{OUTPUT} {} {DEFAULTS} {settings}", config.get_options().unwrap_or_default());
        config.options(options.trim());
        Session::with(dsn, limit, config).await
    }

    /// The same through whatever stands between: a pooler refuses settings of the session (`options`), and one that gives
    /// each transaction another session forgets what was set or prepared.
    pub async fn through_pooler(dsn: &Dsn, limit: Duration) -> Result<Self> {
        let session = Session::with(dsn, limit, dsn.config.clone()).await?;
        answered(limit, refuse_strangers(&session.client)).await?;
        Ok(session)
    }

    async fn with(dsn: &Dsn, limit: Duration, mut config: Config) -> Result<Self> {
        if config.get_application_name().is_none() {
            config.application_name("crieur");
        }
        config.user(dsn.user()?);
        each_host(dsn, limit, ReceiveWindow::Default, async |link| Session::log_in(link, config.clone(), dsn).await)
            .await
    }

    /// Over a byte stream that somebody else opened, whatever answers there.
    pub async fn over<S>(stream: S, config: &Config) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connected = config.connect_raw(stream, NoTls).await;
        connected.map(|(client, connection)| Session::of(client, connection)).map_err(|error| session_error(&error))
    }

    fn of<S, T>(client: Client, mut connection: Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ended, notified) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (at_end, at_message) = (Arc::clone(&ended), Arc::clone(&notified));
        let connection = tokio::spawn(async move {
            // Its error reaches whoever waits for an answer on this session.
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(_) = message {
                    at_message.notify_one();
                }
            }
            at_end.notify_one();
        });
        Session { client, connection, ended, notified }
    }

    async fn log_in(link: Link, mut config: Config, dsn: &Dsn) -> Result<Self> {
        if link.is_tls() {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
        let connected = config.connect_raw(Ready(link), AlreadyDone).await;
        let (client, connection) = connected.map_err(|error| session_error(&error))?;
        let bytes_of_any_kind = connection.parameter("server_encoding") == Some("SQL_ASCII");
        let session = Session::of(client, connection);
        if bytes_of_any_kind {
            session.client.batch_execute(UNCONVERTED).await.map_err(|error| session_error(&error))?;
        }
        let wanted = match dsn.target {
            SessionTarget::Any => return Ok(session),
            SessionTarget::Primary => false,
            SessionTarget::Standby => true,
        };
        let row = session.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
        let found: bool = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
        if found == wanted {
            return Ok(session);
        }
        Err(wrong_target(dsn.target))
    }
}

/// Who a primary says that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerIdentity {
    /// The server's system identifier.
    pub(crate) system: String,
    pub(crate) timeline: u32,
    /// The number of the database, which no copy of it has.
    pub(crate) database: String,
}

impl ServerIdentity {
    /// As in [`Start::system`].
    pub(crate) fn system_and_database(&self) -> String {
        format!("{}/{}", self.system, self.database)
    }
}

/// Where a session is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerPlace {
    /// On a standby.
    pub(crate) in_recovery: bool,
    /// When the postmaster started, as in [`Start::run`](crate::start::Start::run): what tells servers of one cluster from
    /// each other.
    pub(crate) started: Option<String>,
    /// Of a primary; `None` where the role may not ask.
    pub(crate) identity: Option<ServerIdentity>,
}

/// Asks a primary who it is; `None` where the role may not. A standby sees commits later than its primary and cannot be the
/// gate of a stream from there, whether or not it may be asked for more.
pub(crate) async fn identity(client: &Client) -> Result<Option<ServerIdentity>> {
    let place = place(client).await?;
    if place.in_recovery { Err(in_recovery()) } else { Ok(place.identity) }
}

/// Asks any server where this is.
pub(crate) async fn place(client: &Client) -> Result<ServerPlace> {
    let rows = match client.simple_query(include_str!("../../sql/identity.sql")).await {
        // The functions are everybody's by default; a server may have taken some of them away.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            client.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await
        }
        rows => rows,
    };
    let rows = rows.map_err(|error| session_error(&error))?;
    let row = first_row(&rows);
    let text = |column| row.filter(|row| column < row.len()).and_then(|row| row.get(column));
    let timeline = text(3).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let identity = text(2).zip(timeline).zip(text(1)).map(|((system, timeline), database)| ServerIdentity {
        system: system.to_owned(),
        timeline,
        database: database.to_owned(),
    });
    Ok(ServerPlace { in_recovery: text(0) != Some("f"), started: text(4).map(str::to_owned), identity })
}

/// Functions, triggers and defaults of schema crieur run as whoever reads and writes there.
async fn refuse_strangers(client: &Client) -> Result<()> {
    let sql = format!("{NO_PATH}{}", include_str!("../../sql/outbox/owner.sql"));
    let rows = client.simple_query(&sql).await.map_err(|error| session_error(&error))?;
    let Some(owner) = first_row(&rows).and_then(|row| row.get(0)) else { return Ok(()) };
    let seen = format!("schema crieur belongs to \"{owner}\", whose code would run as a superuser");
    Err(Error::definite(Exit::NoPermission, seen).hint("Log in as its owner, or as the role of crieur.grant_worker()."))
}

/// The first row of the answer to a simple query.
pub(crate) fn first_row(rows: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    rows.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
}
