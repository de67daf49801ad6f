//! Ordinary sessions: `tokio-postgres` over the same links as the replication session.
//!
//! [`ControlSession`] is the loop's: snapshots for the gate, lookups behind it, partitions. Its transactions are
//! read-only and its statements have a time limit, so a rule cannot write or hang.

use std::cell::RefCell;
use std::collections::HashSet;
use std::pin::Pin;
use std::rc::Rc;
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
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow, Statement};
use tracing::warn;

use crate::change::Oid;
use crate::control::definitions::{Kept, Look, Looks};
use crate::control::lookups::{Answered, Lookups};
use crate::control::mending::Mending;
use crate::control::replicas::Replicas;
use crate::control::{Answer, CatalogView, Control, Definitions, LookupId, Named, Question, Sighting};
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::mark::Start;
use crate::postgres::dsn::{Dsn, Target};
use crate::postgres::facts::{RUN, in_recovery, refuse_as_standby};
use crate::postgres::link::{Link, each_host};
use crate::postgres::quote;
use crate::postgres::socket::ReceiveWindow;
use crate::postgres::sqlstate::{CANNOT_CONNECT_NOW, is_connection, session_error, wrong_target};
use crate::postgres::wire::{OUTPUT, UNCONVERTED};
use crate::rules::{Lookup, Rules};
use crate::source::replication::connect::answered;

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
            Target::Any => return Ok(session),
            Target::Primary => false,
            Target::Standby => true,
        };
        let row = session.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
        let found: bool = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
        if found == wanted {
            return Ok(session);
        }
        Err(wrong_target(dsn.target))
    }
}

/// What is prepared on one connection.
struct Live {
    session: Session,
    snapshot: Statement,
    /// As in [`Start::system`](crate::mark::Start::system), and the timeline; `None` where the role may not ask.
    identity: Option<(String, u32)>,
    lookups: Lookups,
    looks: Looks,
}

/// The loop's ordinary session: connects when first needed, anew after an error.
pub struct ControlSession {
    dsn: Dsn,
    connect_timeout: Duration,
    statement_timeout: Duration,
    lookups: Vec<Lookup>,
    replicas: Replicas,
    live: RefCell<Option<Rc<Live>>>,
    /// The server that the stream comes from.
    expected: RefCell<Option<(String, u32)>>,
    /// The statements of a look at the server: `run.sql`, `watch.sql`; and of one at its tables: `catalog.sql`.
    watch: Option<[String; 3]>,
    /// What the server may refuse writes for.
    mending: Option<Mending>,
    /// Lookups whose answers are kept.
    kept: Option<Kept>,
    /// A statement failed because its connection had ended, or the server takes no new ones.
    failed: Notify,
}

impl ControlSession {
    /// Connects at the first call.
    pub fn new(dsn: Dsn, connect_timeout: Duration, statement_timeout: Duration, lookups: &[Lookup]) -> Self {
        ControlSession {
            dsn,
            connect_timeout,
            statement_timeout,
            lookups: lookups.to_vec(),
            replicas: Replicas::default(),
            live: RefCell::new(None),
            failed: Notify::new(),
            expected: RefCell::new(None),
            watch: None,
            mending: None,
            kept: None,
        }
    }

    /// Readers may read from these standbys.
    #[must_use]
    pub fn with_replicas(mut self, replicas: Vec<Dsn>) -> Self {
        self.replicas = Replicas::new(replicas, self.connect_timeout);
        self
    }

    /// Lets it watch a slot, a publication and the tables of the rules.
    #[must_use]
    pub fn watching(mut self, slot: &str, publication: &str, rules: &Rules) -> Self {
        let needs = rules.streamed();
        let tables = needs.iter().map(|table| (&table.schema, &table.table, table.columns.keys().collect::<Vec<_>>()));
        let tables = tables.collect::<Vec<_>>();
        let tables = serde_json::to_string(&tables).expect("a list of texts is plain data");
        let variables = [("slot", slot), ("publication", publication), ("tables", tables.as_str())];
        let fill = |sql| format!("{NO_PATH}{}", quote::fill(sql, &variables));
        self.kept = Kept::of(rules, publication);
        self.watch = Some([RUN, include_str!("../../sql/watch.sql"), include_str!("../../sql/catalog.sql")].map(fill));
        self.mending = Some(Mending::new(self.dsn.clone(), self.connect_timeout, publication, needs));
        self
    }

    async fn live(&self) -> Result<Rc<Live>> {
        if let Some(live) = &*self.live.borrow() {
            return Ok(Rc::clone(live));
        }
        let limit = self.statement_timeout.as_millis();
        let settings = format!("-c default_transaction_read_only=on -c jit=off -c statement_timeout={limit}");
        let connected = Session::connect(&self.dsn, self.connect_timeout, &settings).await;
        let session = connected.inspect_err(|error| {
            // There may be no session yet whose end could tell, or its last statement failed before its connection.
            if error.sqlstate.as_deref() == Some(CANNOT_CONNECT_NOW) {
                self.failed.notify_one();
            }
        })?;
        // Something between may have let us in and keep the line open while the server is gone.
        let asked = answered(self.limit(2), async {
            let identity = identity(&session.client).await?.map(|of| (of.system_and_database(), of.timeline));
            let snapshot = session.client.prepare("SELECT pg_catalog.pg_current_snapshot()::text").await;
            Ok((identity, snapshot.map_err(|error| session_error(&error))?))
        });
        let (identity, snapshot) = asked.await.map_err(|error| error.at(&self.dsn.servers()))?;
        let live = Rc::new(Live { session, snapshot, identity, lookups: Lookups::default(), looks: Looks::default() });
        *self.live.borrow_mut() = Some(Rc::clone(&live));
        Ok(live)
    }

    /// For statements that run one after the other on the server, each within the statement timeout.
    fn limit(&self, statements: usize) -> Duration {
        let statements = u32::try_from(statements).unwrap_or(u32::MAX);
        self.statement_timeout.saturating_mul(statements) + Duration::from_secs(5)
    }

    /// One attempt of a step; an error ends the connection, and a server that does not answer is an error.
    async fn attempt<T>(&self, statements: usize, step: impl AsyncFnOnce(Rc<Live>) -> Result<T>) -> Result<T> {
        let live = self.live().await?;
        let same = same_server(self.expected.borrow().as_ref(), live.identity.as_ref());
        same.inspect_err(|_| *self.live.borrow_mut() = None).map_err(|error| error.at(&self.dsn.servers()))?;
        self.attempt_on(live, statements, step).await
    }

    /// The same on a session of any server.
    async fn attempt_on<T>(
        &self,
        live: Rc<Live>,
        statements: usize,
        step: impl AsyncFnOnce(Rc<Live>) -> Result<T>,
    ) -> Result<T> {
        let result = answered(self.limit(statements), step(live)).await.map_err(|error| error.at(&self.dsn.servers()));
        if result.is_err()
            && let Some(live) = self.live.take()
            && live.session.client.is_closed()
        {
            self.failed.notify_one();
        }
        result
    }
}

/// Sessions must be on the server that changes come from, where both say who they are.
pub(crate) fn same_server(expected: Option<&(String, u32)>, found: Option<&(String, u32)>) -> Result<()> {
    match (expected, found) {
        (Some(expected), Some(found)) if expected != found => {
            Err(Error::transient("ordinary sessions reach another server or database than the stream")
                .hint("Let the connection string name the hosts themselves, not an address that moves."))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

/// Who a primary says that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The server's system identifier.
    pub(crate) system: String,
    pub(crate) timeline: u32,
    /// The number of the database, which no copy of it has.
    pub(crate) database: String,
}

impl Identity {
    /// As in [`Start::system`].
    pub(crate) fn system_and_database(&self) -> String {
        format!("{}/{}", self.system, self.database)
    }
}

/// Asks a primary who it is; `None` where the role may not. A standby sees commits later than its primary and cannot be the
/// gate, whether or not it may be asked for more.
pub(crate) async fn identity(client: &Client) -> Result<Option<Identity>> {
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
    match text(0) {
        Some("f") => {}
        Some(_) | None => return Err(in_recovery()),
    }
    let timeline = text(3).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    Ok(text(2).zip(timeline).zip(text(1)).map(|((system, timeline), database)| Identity {
        system: system.to_owned(),
        timeline,
        database: database.to_owned(),
    }))
}

/// What a server answers where a text has no form in UTF-8, or is none of its own encoding.
pub(crate) fn is_of_encoding(code: &SqlState) -> bool {
    *code == SqlState::UNTRANSLATABLE_CHARACTER || *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE
}

/// A table whose name has no form in UTF-8: rules are UTF-8 and cannot name it.
pub(crate) fn nameless() -> (String, String) {
    ("\0".to_owned(), "\0".to_owned())
}

/// Functions, triggers and defaults of schema crieur run as whoever reads and writes there.
async fn refuse_strangers(client: &Client) -> Result<()> {
    let sql = format!("{NO_PATH}{}", include_str!("../../sql/outbox/owner.sql"));
    let rows = client.simple_query(&sql).await.map_err(|error| session_error(&error))?;
    let Some(owner) = first_row(&rows).and_then(|row| row.get(0)) else { return Ok(()) };
    let seen = format!("schema crieur belongs to \"{owner}\", whose code would run as a superuser");
    Err(Error::definite(Exit::NoPermission, seen).hint("Log in as its owner, or as the role of crieur.grant_worker()."))
}

fn first_row(rows: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    rows.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
}

fn unexpected() -> Error {
    Error::definite(Exit::Protocol, "the answer about slot and publication cannot be read")
}

/// What `watch.sql` saw.
async fn sighting(client: &Client, watch: &str) -> Result<Sighting> {
    let rows = client.simple_query(watch).await.map_err(|error| session_error(&error))?;
    let text = first_row(&rows).and_then(|row| row.get(0)).ok_or_else(unexpected)?;
    serde_json::from_str(text).map_err(|cause| unexpected().because(cause))
}

async fn snapshot(live: &Live) -> Result<Snapshot> {
    let row = live.session.client.query_one(&live.snapshot, &[]).await;
    let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
    Snapshot::parse(&text).map_err(|cause| Error::definite(Exit::Protocol, "read a snapshot").because(cause))
}

impl Control for ControlSession {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.attempt(1, async |live| snapshot(&live).await).await
    }

    async fn gate_and_definitions(&self) -> Result<(Snapshot, Definitions)> {
        let Some(kept) = &self.kept else { return Ok((self.snapshot().await?, Definitions::default())) };
        self.attempt(kept.statements(), async |live| {
            let client = &live.session.client;
            live.looks.prepare(client, kept).await?;
            // Polled in this order, so that the definitions are those behind the snapshot.
            let (snapshot, look) = tokio::try_join!(biased; snapshot(&live), live.looks.look(client))?;
            let definitions = match look {
                Look::Same(definitions) => definitions,
                Look::Changed(digest) => {
                    // A name may mean another table now, of which nothing tells a statement that is prepared.
                    live.lookups.forget();
                    let seen = match &self.watch {
                        Some([_, watch, _]) => Some(sighting(client, watch).await?),
                        None => None,
                    };
                    live.looks.settle(client, kept, digest, seen.as_ref()).await?
                }
            };
            Ok((snapshot, definitions))
        })
        .await
    }

    /// A transaction number of our own, which ends at once: all that were given out before are below it, and so below
    /// `xmax` of the snapshot (`GetSnapshotData` in src/backend/storage/ipc/procarray.c). It wrote nothing, so its end
    /// waits neither for the disk nor for a standby (`RecordTransactionCommit` in src/backend/access/transam/xact.c).
    async fn elders(&self) -> Result<Snapshot> {
        self.attempt(1, async |live| {
            let numbered = live.session.client.simple_query("SELECT pg_catalog.pg_current_xact_id()").await;
            numbered.map(drop).map_err(|error| session_error(&error))
        })
        .await?;
        self.snapshot().await
    }

    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        let lookups: HashSet<LookupId> = questions.iter().map(|question| question.lookup).collect();
        let limit = self.statement_timeout;
        // For each lookup two statements are prepared, and it has twice the time of one to answer.
        let answered = self.attempt(4 * lookups.len(), async |live| {
            live.lookups.ask(&live.session.client, &self.lookups, questions, limit).await
        });
        let Answered { answers, given_up } = answered.await?;
        if given_up {
            *self.live.borrow_mut() = None;
        }
        Ok(answers)
    }

    async fn replicas_replayed(&self) -> Result<()> {
        let flushed = self
            .attempt(1, async |live| {
                let row =
                    live.session.client.query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[]).await;
                let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
                text.parse::<Lsn>().map_err(|cause| Error::definite(Exit::Protocol, "read a position").because(cause))
            })
            .await?;
        self.replicas.reach(flushed).await
    }

    async fn tables_of(&self, oid: Oid) -> Result<Option<Named>> {
        const SQL: &str = include_str!("../../sql/tables_of.sql");
        self.attempt(1, async |live| {
            let sql = format!("{NO_PATH}{}", quote::fill(SQL, &[("oid", &oid.0.to_string())]));
            let rows = match live.session.client.simple_query(&sql).await {
                Err(error) if error.code().is_some_and(is_of_encoding) => return Ok(Some(vec![nameless()])),
                rows => rows.map_err(|error| session_error(&error))?,
            };
            // SQL_ASCII gives the name's bytes as they are.
            let text = |row: &SimpleQueryRow, column| row.try_get(column).ok().flatten().map(str::to_owned);
            let named = rows.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(text(row, 0).zip(text(row, 1)).unwrap_or_else(nameless)),
                _ => None,
            });
            let named: Vec<(String, String)> = named.collect();
            Ok((!named.is_empty()).then_some(named))
        })
        .await
    }

    /// A server that refuses the statement, or takes too long, tells nothing: then every DDL is in doubt.
    async fn catalog(&self) -> Result<Option<CatalogView>> {
        let Some([_, _, catalog]) = &self.watch else { return Ok(None) };
        self.attempt(1, async |live| {
            // Compiling the statement would take longer than it does.
            let rows = match live.session.client.simple_query(&format!("SET LOCAL jit TO off; {catalog}")).await {
                Err(error) if error.code().is_some_and(|code| !is_connection(code.code())) => {
                    let hint = "Let the role read the system catalogs, and raise postgres.lookup_timeout.";
                    let error = session_error(&error);
                    warn!(
                        hint,
                        "DDL of any kind sweeps its table, because the catalog cannot be read: {}",
                        error.chain()
                    );
                    return Ok(None);
                }
                rows => rows.map_err(|error| session_error(&error))?,
            };
            let unexpected = || Error::definite(Exit::Protocol, "the answer about the tables cannot be read");
            // Names that are not UTF-8, in a database that has whatever bytes were written.
            let Some(text) = first_row(&rows).map(|row| row.try_get(0)) else { return Err(unexpected()) };
            let Some(text) = text.ok().flatten() else { return Ok(None) };
            CatalogView::parse(text).ok_or_else(unexpected).map(Some)
        })
        .await
    }

    fn altered(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.lookups.forget();
        }
    }

    fn follow(&self, start: &Start) {
        *self.expected.borrow_mut() = Some((start.system.clone(), start.timeline));
        *self.live.borrow_mut() = None;
    }

    async fn watch(&self) -> Result<Option<Sighting>> {
        let Some([run, watch, _]) = &self.watch else { return Ok(None) };
        let live = self.live().await?;
        let (system, timeline) = live.identity.clone().unwrap_or_default();
        let step = async |live: Rc<Live>| {
            let client = &live.session.client;
            let run = async { client.simple_query(run).await.map_err(|error| session_error(&error)) };
            let (run, seen) = tokio::try_join!(run, sighting(client, watch))?;
            let publication = first_row(&run).and_then(|row| row.get(1)).ok_or_else(unexpected)?.to_owned();
            refuse_as_standby(&seen.standby_names, &seen.application_name)?;
            Ok(Some(Sighting { system, timeline, publication, ..seen }))
        };
        let seen = self.attempt_on(live, 2, step).await?;
        let (Some(mut seen), Some(mending)) = (seen, &self.mending) else { return Ok(None) };
        seen.refused = mending.look(&seen.suspects, seen.suspicion.as_ref()).await?;
        Ok(Some(seen))
    }

    async fn lost(&self) {
        let live = self.live.borrow().clone();
        match live {
            Some(live) => tokio::select! {
                () = self.failed.notified() => {}
                () = live.session.ended.notified() => {}
            },
            None => self.failed.notified().await,
        }
    }
}
