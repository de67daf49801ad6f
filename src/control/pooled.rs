//! The control session of outbox mode, through whatever stands between: no setting of a session, no prepared statement.
//!
//! Each question is a transaction of its own in one flight, and one flight is out at a time: a pooler that gives each
//! transaction another session keeps the session until the last answer. The gate asks nobody: rows come from a snapshot,
//! so their transactions are visible already.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{TryFutureExt, join3, try_join3};
use futures_util::pin_mut;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::backoff::Backoff;
use crate::change::Oid;
use crate::control::lookups::{AnswerShape, Collected, RefusedStatement, Text, Types, refusal};
use crate::control::replicas::ReplicaSessions;
use crate::control::session::{nameless, same_server};
use crate::control::{CURRENT, Catalogue, Gate, Lookups, Named, Sighting, parsed};
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::postgres::dsn::Dsn;
use crate::postgres::link::answered;
use crate::postgres::quote;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::session_error;
use crate::question::{Answer, AnswerRow, LookupId, Question};
use crate::rules::read::sql;
use crate::rules::{Lookup, Rules};
use crate::source::outbox::{BEGIN_WRITE, Known, OutboxFacts, query, transact};
use crate::start::Start;

const WATCH: &str = include_str!("../../sql/outbox/watch.sql");
const ROOT: &str = include_str!("../../sql/outbox/root.sql");

/// A session, and the server that it was on when it began.
struct Live {
    session: Session,
    identity: (String, u32),
    lookups: RefCell<HashMap<LookupId, Rc<Described>>>,
    /// One exchange at a time.
    free: Mutex<()>,
}

/// The loop's ordinary session in outbox mode: connects when first needed, anew after an error.
pub struct PooledControl {
    dsn: Dsn,
    connect_timeout: Duration,
    statement_timeout: Duration,
    lookups: Vec<Lookup>,
    replicas: ReplicaSessions,
    live: RefCell<Option<Rc<Live>>>,
    /// The server that the outbox is on.
    expected: RefCell<Option<(String, u32)>>,
    /// What is watched there, as the source found it.
    watched: RefCell<String>,
    /// The same, as the last look found it.
    known: RefCell<Option<Known>>,
    /// `watch.sql` for the tables of the rules.
    watch: String,
    /// The tables of the rules, by schema and name.
    tables: Vec<(String, String)>,
    mending: RefCell<Mending>,
}

/// When triggers that do not fit their tables may be made anew. Each try takes locks behind which writers queue, so what
/// does not help is tried less and less often.
struct Mending {
    backoff: Backoff,
    due: Instant,
}

impl Mending {
    fn new() -> Self {
        let (first, max) = (Duration::from_secs(4), Duration::from_secs(120));
        Mending { backoff: Backoff::new(first, max), due: Instant::now() }
    }

    /// The last try left triggers as they were, or not.
    fn tried(&mut self, still_stale: bool) {
        if still_stale {
            self.due = Instant::now() + self.backoff.next(0.5);
        } else {
            self.backoff.reset();
        }
    }
}

impl PooledControl {
    /// Connects at the first call. Readers may read from `replicas`.
    pub fn new(
        dsn: Dsn,
        connect_timeout: Duration,
        statement_timeout: Duration,
        rules: &Rules,
        replicas: Vec<Dsn>,
    ) -> Self {
        PooledControl {
            dsn,
            connect_timeout,
            statement_timeout,
            lookups: rules.lookups().to_vec(),
            replicas: ReplicaSessions::new(replicas, connect_timeout),
            live: RefCell::new(None),
            expected: RefCell::new(None),
            watched: RefCell::default(),
            known: RefCell::default(),
            watch: quote::fill(WATCH, &[("tables", wanted(rules).as_str())]),
            tables: rules.tables().into_iter().map(|need| (need.schema, need.table)).collect(),
            mending: RefCell::new(Mending::new()),
        }
    }

    async fn live(&self) -> Result<Rc<Live>> {
        if let Some(live) = &*self.live.borrow() {
            return Ok(Rc::clone(live));
        }
        let session = Session::through_pooler(&self.dsn, self.connect_timeout).await?;
        let OutboxFacts { system, timeline, .. } = answered(self.limit(2), OutboxFacts::read(&session.client))
            .await
            .map_err(|error| error.at(&self.dsn.servers()))?;
        let identity = (system, timeline);
        let live = Rc::new(Live { session, identity, lookups: RefCell::default(), free: Mutex::new(()) });
        *self.live.borrow_mut() = Some(Rc::clone(&live));
        Ok(live)
    }

    /// One attempt of a step; an error ends the connection, and a server that does not answer is an error.
    async fn attempt<T>(&self, statements: usize, step: impl AsyncFnOnce(&Live) -> Result<T>) -> Result<T> {
        let live = self.live().await?;
        let asked = async {
            same_server(self.expected.borrow().as_ref(), Some(&live.identity))?;
            let _alone = live.free.lock().await;
            step(&live).await
        };
        let result = answered(self.limit(statements), asked).await.map_err(|error| error.at(&self.dsn.servers()));
        if result.is_err() {
            *self.live.borrow_mut() = None;
        }
        result
    }

    /// For statements that run one after the other, each within the statement timeout and [`GRACE`].
    fn limit(&self, statements: usize) -> Duration {
        let statements = u32::try_from(statements).unwrap_or(u32::MAX);
        (self.statement_timeout + GRACE).saturating_mul(statements) + Duration::from_secs(5)
    }

    /// The first column of the first row.
    async fn text(&self, sql: &str) -> Result<String> {
        self.attempt(1, async |live| {
            let rows = query(&live.session.client, sql, &[]).await?;
            let first = rows.first().ok_or_else(|| Error::definite(Exit::Protocol, "the server's answer is empty"))?;
            first.try_get(0).map_err(|error| session_error(&error))
        })
        .await
    }

    /// What settings a lookup runs under: a role, a database, or whoever had the pooler's session before may have set
    /// others.
    fn begin(&self) -> String {
        let limit = self.statement_timeout.as_millis();
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE; SET LOCAL statement_timeout TO {limit}; \
             SET LOCAL DateStyle TO ISO; SET LOCAL IntervalStyle TO postgres; SET LOCAL TimeZone TO 'UTC'; \
             SET LOCAL extra_float_digits TO 1; SET LOCAL bytea_output TO hex; SET LOCAL row_security TO off; \
             SET LOCAL search_path TO DEFAULT; SET LOCAL lc_monetary TO DEFAULT; \
             SET LOCAL quote_all_identifiers TO DEFAULT"
        )
    }

    /// All questions in one transaction and one round trip. The first that is refused takes those behind it along.
    /// Answers come in order; fewer than questions: the lookup of the first without one has taken too long.
    async fn ask_together(
        &self,
        session: &Session,
        questions: &[(&Question, Rc<Described>)],
        clock: &mut Clock,
    ) -> Result<Vec<Given>> {
        let mut asked: FuturesOrdered<_> =
            questions.iter().map(|(question, lookup)| self.ask_one(session, lookup, question)).collect();
        let mut given = Vec::with_capacity(questions.len());
        let answers = async {
            for (question, _) in questions {
                let late = clock.start(question.lookup, self.statement_timeout) + GRACE;
                match timeout_at(late, asked.next()).await {
                    Ok(Some(answer)) => given.push(answer.map_err(Some)?),
                    Ok(None) | Err(_) => return Err(None),
                }
            }
            Ok(())
        };
        let begin = self.begin();
        let said = |sql| session.client.batch_execute(sql).map_err(|error| Some(session_error(&error)));
        match try_join3(said(&begin), answers, said("COMMIT")).await {
            Ok(_) | Err(None) => Ok(given),
            Err(Some(error)) => Err(error),
        }
    }

    async fn ask_one(&self, session: &Session, lookup: &Described, question: &Question) -> Result<Given> {
        let args: Vec<Text<'_>> = question.args.iter().map(|arg| Text(arg.as_deref())).collect();
        let args = args.iter().map(|arg| (arg, Type::UNKNOWN));
        let rows = match session.client.query_typed_raw(&lookup.sql, args).await {
            Ok(rows) => rows,
            Err(error) => return refused(&error).map(Err),
        };
        pin_mut!(rows);
        let mut answer = Collected::new(1);
        while let Some(row) = rows.next().await {
            match row {
                Ok(row) => answer.add(0, lookup.shape.texts(&row, 0).map_err(|error| session_error(&error))?),
                Err(error) => return refused(&error).map(Err),
            }
        }
        Ok(match answer.only() {
            Answer::Rows(rows) => Ok(rows),
            Answer::Refused(text) | Answer::Late(text) => {
                Err(RefusedStatement { text, code: SqlState::PROGRAM_LIMIT_EXCEEDED })
            }
        })
    }

    /// The statement of a lookup, once per session: how its columns are written depends on their types.
    async fn described(
        &self,
        live: &Live,
        id: LookupId,
    ) -> Result<std::result::Result<Rc<Described>, RefusedStatement>> {
        if let Some(known) = live.lookups.borrow().get(&id) {
            return Ok(Ok(Rc::clone(known)));
        }
        let lookup = self.lookups.get(id.0 as usize);
        let lookup = lookup.ok_or_else(|| Error::definite(Exit::Software, "a lookup that the rules do not have"))?;
        let nulls = vec![Text(None); lookup.args];
        let nulls: Vec<(&(dyn ToSql + Sync), Type)> = nulls.iter().map(|null| (null as _, Type::UNKNOWN)).collect();
        let (client, begin) = (&live.session.client, self.begin());
        let types_sql = sql::types(&lookup.sql, &lookup.columns);
        let answers =
            join3(client.batch_execute(&begin), client.query_typed(&types_sql, &nulls), client.batch_execute("COMMIT"));
        let (began, rows, ended) = answers.await;
        began.and(ended).map_err(|error| session_error(&error))?;
        let types = match rows {
            Ok(rows) => Types::read(&rows, lookup)?,
            Err(error) => return refused(&error).map(Err),
        };
        let sql = sql::for_one(&lookup.sql, &types.of(lookup));
        let described = Rc::new(Described { sql, shape: AnswerShape::new(lookup, types) });
        live.lookups.borrow_mut().insert(id, Rc::clone(&described));
        Ok(Ok(described))
    }

    /// Answers the questions in `left`, which are in the order of their lookups; ends early, with some of them left, when
    /// one lookup takes too long: its statements may still run, so the session is of no more use.
    async fn ask_all(
        &self,
        live: &Live,
        questions: &[Question],
        left: &mut Vec<usize>,
        answers: &mut [Answer],
    ) -> Result<()> {
        let mut lookups = HashMap::new();
        let ids: BTreeSet<LookupId> = left.iter().map(|index| questions[*index].lookup).collect();
        for id in ids {
            match self.described(live, id).await? {
                Ok(lookup) => drop(lookups.insert(id, lookup)),
                Err(refused) => refuse(questions, left, id, &refused, answers),
            }
        }
        let (mut rounds, mut clock) = (0, Clock::default());
        while !left.is_empty() {
            let asked = left.iter().map(|index| &questions[*index]);
            let asked: Vec<_> = asked.map(|question| (question, Rc::clone(&lookups[&question.lookup]))).collect();
            let given = self.ask_together(&live.session, &asked, &mut clock).await?;
            asked.iter().try_for_each(|(_, lookup)| lookup.shape.confirmed())?;
            let late = asked.get(given.len()).map(|(question, _)| question.lookup);
            // Behind a refused one nothing was asked.
            let first = given.iter().position(std::result::Result::is_err);
            let done: Vec<usize> = left.drain(..first.map_or(given.len(), |index| index + 1)).collect();
            for (index, given) in done.into_iter().zip(given) {
                answers[index] = match given {
                    Ok(rows) => Answer::Rows(rows),
                    Err(refused) => {
                        rounds += 1;
                        if rounds > ROUNDS_MAX || concerns_all(&refused.code) {
                            refuse(questions, left, questions[index].lookup, &refused, answers);
                        }
                        refused.answer()
                    }
                }
            }
            if let Some(lookup) = late {
                let count = questions.iter().filter(|question| question.lookup == lookup).count();
                let text = format!("its {count} questions took longer than {:?}", self.statement_timeout);
                let refused = RefusedStatement { text, code: SqlState::QUERY_CANCELED };
                refuse(questions, left, lookup, &refused, answers);
                *self.live.borrow_mut() = None;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What the server says to one question.
type Given = std::result::Result<Vec<AnswerRow>, RefusedStatement>;

/// Takes all questions to a lookup out of `left`.
fn refuse(
    questions: &[Question],
    left: &mut Vec<usize>,
    lookup: LookupId,
    refused: &RefusedStatement,
    answers: &mut [Answer],
) {
    for index in left.extract_if(.., |index| questions[*index].lookup == lookup) {
        answers[index] = refused.clone().answer();
    }
}

/// Since when the lookup whose answers come now is waited for. Together its questions get the time of one statement.
#[derive(Default)]
struct Clock(Option<(LookupId, Instant)>);

impl Clock {
    /// When the time of this lookup is over.
    fn start(&mut self, lookup: LookupId, limit: Duration) -> Instant {
        match self.0 {
            Some((running, until)) if running == lookup => until,
            Some(_) | None => self.0.insert((lookup, Instant::now() + limit)).1,
        }
    }
}

/// The way there and back: the server's own limit comes before ours.
const GRACE: Duration = Duration::from_millis(500);

/// A lookup, and how the columns of its answer are written in keys.
#[derive(Debug)]
struct Described {
    sql: String,
    shape: AnswerShape,
}

/// The server's refusal of a lookup. Of a statement that is not prepared ahead, the number of parameters shows only now.
fn refused(error: &tokio_postgres::Error) -> Result<RefusedStatement> {
    if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) {
        let text = "it takes another number of parameters than the rule gives".to_owned();
        return Ok(RefusedStatement { text, code: SqlState::PROTOCOL_VIOLATION });
    }
    refusal(error)
}

/// Refusals of single questions in one batch; past it the others to the same lookup widen unasked.
const ROUNDS_MAX: u32 = 10;

/// Whether each other question to the lookup would be refused as well, or take as long again.
fn concerns_all(code: &SqlState) -> bool {
    code == &SqlState::QUERY_CANCELED || code.code().starts_with("42") || code == &SqlState::PROTOCOL_VIOLATION
}

/// The tables of the rules as JSON: schema, name, columns that the rules read, columns that every update rule ignores.
fn wanted(rules: &Rules) -> String {
    let tables: Vec<_> = rules
        .tables()
        .into_iter()
        .map(|need| {
            let ignored: Vec<&String> = need.ignorable().collect();
            let columns: Vec<&String> = need.columns.keys().collect();
            serde_json::json!([need.schema, need.table, columns, ignored])
        })
        .collect();
    serde_json::Value::from(tables).to_string()
}

/// Tables of the rules whose triggers do not tell everything, by schema and name.
pub(crate) async fn uncovered(client: &Client, rules: &Rules) -> Result<Vec<(String, String)>> {
    let seen = look(client, &quote::fill(WATCH, &[("tables", wanted(rules).as_str())])).await;
    seen.map(|seen| seen.sighting.uncovered)
}

/// Whether the server refused a statement because schema crieur, or something in it, is not there or is not ours.
fn is_missing(code: &str) -> bool {
    matches!(code, "3F000" | "42501" | "42703" | "42704" | "42883" | "42P01")
}

/// What `watch.sql` saw.
struct Seen {
    sighting: Sighting,
    /// Triggers no longer fit their tables.
    stale: bool,
    /// `crieur.refuses()` is there, and this role may call it.
    may_ask: bool,
}

async fn look(client: &Client, sql: &str) -> Result<Seen> {
    let unexpected = || Error::definite(Exit::Protocol, "the answer about the triggers cannot be read");
    let rows = query(client, sql, &[]).await?;
    let row = rows.first().ok_or_else(unexpected)?;
    let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (text, stale, may_ask): (&str, bool, bool) = read().map_err(|error| session_error(&error))?;
    let sighting = serde_json::from_str(text).map_err(|cause| unexpected().because(cause))?;
    Ok(Seen { sighting, stale, may_ask })
}

/// Why the outbox refuses a row; `None` when it takes one.
pub(crate) async fn refuses(client: &Client) -> Result<Option<String>> {
    let said = transact(client, BEGIN_WRITE, "SELECT crieur.refuses()").await?;
    Ok(said.and_then(|row| row.get(0).map(str::to_owned)))
}

impl Gate for PooledControl {
    async fn gate(&self, _upto: Lsn) -> Result<Snapshot> {
        Ok(Snapshot::Everything)
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        parsed(&self.text(CURRENT).await?)
    }

    /// See [`ControlSession`](crate::control::session::ControlSession).
    async fn elders(&self) -> Result<Snapshot> {
        self.text("SELECT pg_catalog.pg_current_xact_id()::text").await?;
        self.snapshot().await
    }

    /// With `synchronous_commit = off` rows are seen here before their WAL is flushed, so what counts is what was
    /// inserted. It is flushed within `wal_writer_delay`: each renewal of the lease is such a commit as well.
    async fn replicas_replayed(&self) -> Result<()> {
        let text = self.text("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").await?;
        let inserted = text.parse::<Lsn>();
        let inserted = inserted.map_err(|cause| Error::definite(Exit::Protocol, "read a position").because(cause))?;
        self.replicas.reach(inserted).await
    }

    fn follow(&self, start: &Start) {
        *self.expected.borrow_mut() = Some((start.system.clone(), start.timeline));
        *self.watched.borrow_mut() = start.publication.clone();
        *self.live.borrow_mut() = None;
    }
}

impl Lookups for PooledControl {
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        let mut answers = vec![Answer::Rows(Vec::new()); questions.len()];
        let mut left: Vec<usize> = (0..questions.len()).collect();
        left.sort_by_key(|index| questions[*index].lookup);
        while !left.is_empty() {
            // Each lookup is described at its first use, and has the time of one statement for its answers.
            let step = async |live: &Live| self.ask_all(live, questions, &mut left, &mut answers).await;
            self.attempt(2 * self.lookups.len(), step).await?;
        }
        Ok(answers)
    }

    fn altered(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.lookups.borrow_mut().clear();
        }
    }
}

impl Catalogue for PooledControl {
    async fn tables_of(&self, oid: Oid) -> Result<Option<Named>> {
        self.attempt(1, async |live| {
            let rows = match query(&live.session.client, ROOT, &[(&oid.0, Type::OID)]).await {
                Err(error) if matches!(error.sqlstate.as_deref(), Some("22P05" | "22021")) => {
                    return Ok(Some(vec![nameless()]));
                }
                rows => rows?,
            };
            // SQL_ASCII gives the name's bytes as they are: they are text by their type, if not by their form.
            let names = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
            Ok(rows.first().map(|row| vec![names(row).unwrap_or_else(|_: tokio_postgres::Error| nameless())]))
        })
        .await
    }

    async fn watch(&self) -> Result<Option<Sighting>> {
        let seen = self.attempt(3, async |live| {
            let client = &live.session.client;
            let mut seen = look(client, &self.watch).await?;
            if seen.stale && self.mending.borrow().due <= Instant::now() {
                // New partitions, renamed columns: the triggers follow. What cannot be mended is told.
                transact(client, BEGIN_WRITE, "SELECT crieur.refresh()").await?;
                seen = look(client, &self.watch).await?;
                self.mending.borrow_mut().tried(seen.stale);
            }
            let refuses = if seen.may_ask { refuses(client).await? } else { None };
            let unheard = if refuses.is_some() { self.tables.clone() } else { Vec::new() };
            let last = self.known.borrow().clone();
            let known = Known::read(client, last).await?;
            *self.known.borrow_mut() = Some(known.clone());
            let OutboxFacts { system, timeline, watched, .. } = known.facts;
            Ok(Sighting { system, timeline, publication: watched, refuses, unheard, ..seen.sighting })
        });
        match seen.await {
            // Of what is gone, or may not be looked at, nobody knows whether it hears of changes.
            Err(error) if error.sqlstate.as_deref().is_some_and(is_missing) => Ok(Some(Sighting {
                publication: self.watched.borrow().clone(),
                refuses: Some(error.chain()),
                unheard: self.tables.clone(),
                ..Sighting::default()
            })),
            seen => seen.map(Some),
        }
    }
}
