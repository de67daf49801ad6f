//! The loop's ordinary session: snapshots for the gate, lookups behind it, partitions. Its transactions are
//! read-only and its statements have a time limit, so a rule cannot write or hang.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, Statement};

use crate::change::Oid;
use crate::control::definitions::{DefinitionsLook, KeptLookups, Looks};
use crate::control::lookups::{Answered, PreparedLookups};
use crate::control::mending::Mending;
use crate::control::replicas::ReplicaSessions;
use crate::control::standby::{self, BesideStandby};
use crate::control::{CURRENT, CatalogView, Catalogue, Definitions, Gate, Lookups, Named, Sighting};
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::dsn::Dsn;
use crate::postgres::facts::{REPLAY_HINT, RUN, in_recovery, refuse_as_standby};
use crate::postgres::link::answered;
use crate::postgres::quote;
use crate::postgres::session::{NO_PATH, ServerPlace, Session, first_row, place};
use crate::postgres::sqlstate::{CANNOT_CONNECT_NOW, is_connection, is_of_encoding, session_error};
use crate::question::{Answer, LookupId, Question};
use crate::reminder::Reminder;
use crate::rules::{Lookup, Rules};
use crate::start::Start;

/// What is prepared on one connection.
struct Live {
    session: Session,
    /// What the gate asks: a snapshot, or what was replayed.
    snapshot: Statement,
    place: ServerPlace,
    lookups: PreparedLookups,
    looks: Looks,
}

/// The loop's ordinary session: connects when first needed, anew after an error.
pub struct ControlSession {
    dsn: Dsn,
    connect_timeout: Duration,
    statement_timeout: Duration,
    lookups: Vec<Lookup>,
    replicas: ReplicaSessions,
    /// The stream comes from a standby.
    beside: Option<BesideStandby>,
    live: RefCell<Option<Rc<Live>>>,
    /// The server that the stream comes from.
    expected: RefCell<Option<(String, u32)>>,
    /// The statements of a look at the server: `run.sql`, `watch.sql`; and of one at its tables: `catalog.sql`.
    watch: Option<[String; 3]>,
    /// What the server may refuse writes for.
    mending: Option<Mending>,
    /// Lookups whose answers are kept.
    kept: Option<KeptLookups>,
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
            replicas: ReplicaSessions::default(),
            beside: None,
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
        self.replicas = ReplicaSessions::new(replicas, self.connect_timeout);
        self
    }

    /// The stream may come from a standby, and readers read there.
    #[must_use]
    pub fn beside_standby(mut self, is_beside: bool) -> Self {
        self.beside = is_beside.then(BesideStandby::default);
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
        self.kept = KeptLookups::of(rules, publication);
        self.watch = Some([RUN, include_str!("../../sql/watch.sql"), include_str!("../../sql/catalog.sql")].map(fill));
        let mending = Mending::new(self.dsn.clone(), self.connect_timeout, publication, needs);
        self.mending = Some(if self.beside.is_some() { mending.only_told() } else { mending });
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
            let place = place(&session.client).await?;
            let sql = match place.in_recovery {
                true if self.beside.is_none() => return Err(in_recovery()),
                true => standby::REPLAYED,
                false => CURRENT,
            };
            let snapshot = session.client.prepare(sql).await;
            Ok((place, snapshot.map_err(|error| session_error(&error))?))
        });
        let (place, snapshot) = asked.await.map_err(|error| error.at(&self.dsn.servers()))?;
        let live =
            Rc::new(Live { session, snapshot, place, lookups: PreparedLookups::default(), looks: Looks::default() });
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
        let same = match &self.beside {
            Some(beside) => beside.same_server(live.place.started.as_ref()),
            None => same_server(self.expected.borrow().as_ref(), server_of(&live.place).as_ref()),
        };
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

/// A table whose name has no form in UTF-8: rules are UTF-8 and cannot name it.
pub(crate) fn nameless() -> (String, String) {
    ("\0".to_owned(), "\0".to_owned())
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

/// As in [`Start::system`](crate::start::Start::system), and the timeline; `None` where the role may not ask.
fn server_of(place: &ServerPlace) -> Option<(String, u32)> {
    place.identity.as_ref().map(|of| (of.system_and_database(), of.timeline))
}

/// What is visible; `None` on a standby that has not replayed `upto`.
async fn snapshot(live: &Live, upto: Lsn) -> Result<Option<Snapshot>> {
    if live.place.in_recovery {
        return standby::shown(&live.session.client, &live.snapshot, upto).await;
    }
    standby::current(&live.session.client, &live.snapshot).await.map(Some)
}

impl ControlSession {
    /// Asks again and again, as long as the standby has not replayed what the stream brought.
    async fn replayed<T>(&self, upto: Lsn, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        let mut said = Reminder::begun(Id::StandbyBehind, Instant::now());
        loop {
            sleep(standby::INTERVAL).await;
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            if said.is_due(&Id::StandbyBehind, Instant::now()) {
                let server = self.dsn.servers();
                log!(
                    Id::StandbyBehind,
                    hint = REPLAY_HINT,
                    "the standby {server} has not replayed {upto}, which the stream brought"
                );
            }
        }
    }

    async fn snapshot_and_definitions(&self, kept: &KeptLookups, upto: Lsn) -> Result<Option<(Snapshot, Definitions)>> {
        self.attempt(kept.statements(), async |live| {
            let client = &live.session.client;
            live.looks.prepare(client, kept).await?;
            // Polled in this order, so that the definitions are those behind the snapshot.
            let (snapshot, look) = tokio::try_join!(biased; snapshot(&live, upto), live.looks.look(client))?;
            let Some(snapshot) = snapshot else { return Ok(None) };
            let definitions = match look {
                DefinitionsLook::Same(definitions) => definitions,
                DefinitionsLook::Changed(digest) => {
                    // A name may mean another table now, of which nothing tells a statement that is prepared.
                    live.lookups.forget();
                    let seen = match &self.watch {
                        Some([_, watch, _]) => Some(sighting(client, watch).await?),
                        None => None,
                    };
                    live.looks.settle(client, kept, digest, seen.as_ref()).await?
                }
            };
            Ok(Some((snapshot, definitions)))
        })
        .await
    }
}

impl Gate for ControlSession {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.gate(Lsn(0)).await
    }

    async fn gate(&self, upto: Lsn) -> Result<Snapshot> {
        self.replayed(upto, async || self.attempt(1, async |live| snapshot(&live, upto).await).await).await
    }

    async fn gate_and_definitions(&self, upto: Lsn) -> Result<(Snapshot, Definitions)> {
        let Some(kept) = &self.kept else { return Ok((self.gate(upto).await?, Definitions::default())) };
        self.replayed(upto, async || self.snapshot_and_definitions(kept, upto).await).await
    }

    /// A transaction number of our own, which ends at once: all that were given out before are below it, and so below
    /// `xmax` of the snapshot (`GetSnapshotData` in src/backend/storage/ipc/procarray.c). It wrote nothing, so its end
    /// waits neither for the disk nor for a standby (`RecordTransactionCommit` in src/backend/access/transam/xact.c).
    async fn elders(&self) -> Result<Snapshot> {
        let open = async |live: Rc<Live>| match live.place.in_recovery {
            true => standby::open(&live.session.client).await,
            false => Ok(None),
        };
        if let Some(open) = self.attempt(1, open).await? {
            return Ok(open);
        }
        self.attempt(1, async |live| {
            let numbered = live.session.client.simple_query("SELECT pg_catalog.pg_current_xact_id()").await;
            numbered.map(drop).map_err(|error| session_error(&error))
        })
        .await?;
        self.snapshot().await
    }

    async fn replicas_replayed(&self) -> Result<()> {
        let flushed = self
            .attempt(1, async |live| {
                let row = live.session.client.query_one(standby::END, &[]).await;
                let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
                text.parse::<Lsn>().map_err(|cause| Error::definite(Exit::Protocol, "read a position").because(cause))
            })
            .await?;
        self.replicas.reach(flushed).await
    }

    fn follow(&self, start: &Start) {
        *self.expected.borrow_mut() = Some((start.system.clone(), start.timeline));
        self.beside.iter().for_each(|beside| beside.follow(start));
        *self.live.borrow_mut() = None;
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

impl Lookups for ControlSession {
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

    fn altered(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.lookups.forget();
        }
    }
}

impl Catalogue for ControlSession {
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
                    log!(
                        Id::CatalogUnreadable,
                        hint,
                        "the catalog cannot be read, so that DDL of any kind sweeps its table: {}",
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

    async fn watch(&self) -> Result<Option<Sighting>> {
        let Some([run, watch, _]) = &self.watch else { return Ok(None) };
        let live = self.live().await?;
        let step = async |live: Rc<Live>| {
            let client = &live.session.client;
            let was_standby = live.place.in_recovery;
            let now = if was_standby { Some(place(client).await?) } else { None };
            let promoted = now.as_ref().is_some_and(|now| !now.in_recovery);
            let (system, timeline) = server_of(now.as_ref().unwrap_or(&live.place)).unwrap_or_default();
            let run = async { client.simple_query(run).await.map_err(|error| session_error(&error)) };
            let (run, seen) = tokio::try_join!(run, sighting(client, watch))?;
            let publication = first_row(&run).and_then(|row| row.get(1)).ok_or_else(unexpected)?.to_owned();
            refuse_as_standby(&seen.standby_names, &seen.application_name)?;
            Ok(Some(Sighting { system, timeline, publication, promoted, ..seen }))
        };
        let seen = self.attempt_on(live, 3, step).await?;
        let (Some(mut seen), Some(mending)) = (seen, &self.mending) else { return Ok(None) };
        seen.refused = mending.look(&seen.suspects, seen.suspicion.as_ref()).await?;
        Ok(Some(seen))
    }
}
