//! `crieur record`: the live stream to a file, with what is needed to replay it without the server.
//!
//! It streams from a temporary slot of its own, which ends with the session: it moves nobody's position, disturbs no
//! daemon and leaves nothing behind. Lookups run on the loop's own road, once their transaction is visible.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::amount::duration;
use crate::cli::output::cannot_write;
use crate::cli::process::end_signal;
use crate::config::{Config, Mode};
use crate::control::Control;
use crate::control::pooled::PooledControl;
use crate::control::session::ControlSession;
use crate::decode::Frame;
use crate::decode::frame::{Reply, StandbyStatus};
use crate::error::{Error, Exit, Result};
use crate::lsn::{Lsn, Xid};
use crate::postgres::dsn::Dsn;
use crate::postgres::facts::Facts;
use crate::postgres::link::answered;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::session_error;
use crate::postgres::wire::{Wire, error_response};
use crate::question::{Answer, Question};
use crate::source::outbox::{self, Follower};
use crate::source::recording::{Header, LookupAnswer, PartitionRoot, RecordingWriter};
use crate::source::replication::connect::{protocol_version, start_stream};
use crate::source::replication::now;
use crate::tap::{FrameTap, Tapped};

/// While lookups wait for their transaction to become visible, a snapshot is taken this often.
const VISIBLE_INTERVAL: Duration = Duration::from_millis(5);

/// The longest wait for what committed before the stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// While waiting for it, the server is asked this often how far it is.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// Arguments of `crieur record`.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The configuration file; its rules decide which lookups are recorded.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// The recording; must not exist. It will hold row values: keep it like the database.
    #[arg(long, value_name = "RECORDING")]
    pub out: PathBuf,
    /// Stop after this long (30s, 5m, 1h); otherwise at SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// What a recording says while it grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone {
    /// Changes that commit from now on are recorded; the stream begins here.
    Ready(Lsn),
    /// Everything up to here was received, and its lookups are answered.
    Settled(Lsn),
}

/// What became of a recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recorded {
    /// Frames of the stream.
    pub frames: u64,
    /// Lookups with their answers.
    pub lookups: u64,
    /// Lookups whose transaction was not visible at the end: a replay widens their keys.
    pub unanswered: u64,
}

/// Records until told to stop.
pub async fn run(config: &Config, arguments: &RecordArgs, say: &mut impl Write) -> Result<Exit> {
    let signal = end_signal()?;
    let stop = async {
        match arguments.duration {
            Some(limit) => drop(tokio::time::timeout(limit, signal).await),
            None => signal.await,
        }
    };
    let file = create(&arguments.out)?;
    let (mut said, mut ready) = (Ok(()), false);
    let recorded = record(config, std::io::BufWriter::new(file), stop, |news| match news {
        Milestone::Ready(lsn) => {
            ready = true;
            said = writeln!(say, "recording from {lsn}").and_then(|()| say.flush());
        }
        Milestone::Settled(_) => {}
    })
    .await;
    if !ready {
        // Nothing is in it, and it would stand in the way of the next attempt; the error matters more than its remains.
        let _ = std::fs::remove_file(&arguments.out);
    }
    let recorded = recorded.map_err(|error| match error.exit() {
        Exit::CantCreate => error
            .while_doing(&format!("write \"{}\"", arguments.out.display()))
            .hint("`crieur replay` reads what was written before. Make room there, or name another file with --out."),
        _ => error,
    })?;
    let Recorded { frames, lookups, unanswered } = recorded;
    said.and_then(|()| writeln!(say, "{frames} frames, {lookups} lookups answered, {unanswered} not"))
        .map_err(cannot_write)?;
    Ok(Exit::Ok)
}

fn parse_duration(text: &str) -> std::result::Result<Duration, &'static str> {
    duration(text).ok_or("a duration is a whole number and a unit: 30s, 5m, 1h")
}

/// A new file that only its owner can read.
fn create(path: &Path) -> Result<std::fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|cause| {
        Error::definite(Exit::CantCreate, format!("recording \"{}\" cannot be made", path.display())).because(cause)
    })
}

/// Writes the stream to `out` until `stop`.
pub async fn record(
    config: &Config,
    out: impl Write,
    stop: impl Future<Output = ()>,
    mut news: impl FnMut(Milestone),
) -> Result<Recorded> {
    let dsn = Dsn::read(&config.postgres.url)?;
    if config.postgres.mode == Mode::Outbox {
        return follow(config, dsn, out, stop, news).await;
    }
    let Config { postgres, rules, .. } = config;
    let mut wire = Wire::connect(&dsn, postgres.connect_timeout).await?;
    let mut stop = pin!(stop);
    let opened = tokio::select! {
        // Making a slot waits for transactions that are open, for as long as they are.
        () = &mut stop => return Err(Error::transient("stopped before the recording began")),
        opened = open(&mut wire, &postgres.publication, postgres.liveness_timeout) => opened,
    };
    let (header, facts, begin) = opened?;
    let mut silence = Silence::new(postgres.liveness_timeout);
    let control = ControlSession::new(dsn.clone(), postgres.connect_timeout, postgres.lookup_timeout, rules.lookups());
    let mut recorder = Recorder::new(config, control, RecordingWriter::new(out, &header)?, begin);
    news(Milestone::Ready(begin));
    let mut status_due = Instant::now();
    loop {
        let wake = recorder.wake(status_due).min(silence.due());
        tokio::select! {
            () = &mut stop => break,
            () = sleep_until(wake) => {}
            filled = wire.fill() => {
                filled?;
                silence = Silence::new(postgres.liveness_timeout);
            }
        }
        recorder.take_in(&mut wire).await?;
        if recorder.waiting.is_empty() {
            news(Milestone::Settled(recorder.received));
        }
        let reply = silence.ask(Instant::now())?;
        if recorder.status_wanted || reply == Reply::Requested || Instant::now() >= status_due {
            let status = recorder.status(reply);
            answered(postgres.liveness_timeout, wire.send_copy_data(&status)).await?;
            status_due = Instant::now() + facts.status_interval;
        }
    }
    recorder.drain(&mut wire, end_of_wal(config, &dsn).await?).await?;
    wire.copy_done().await?;
    recorder.finish()
}

/// [`record`] in outbox mode: rows are read beside the daemon, which removes none meanwhile.
async fn follow(
    config: &Config,
    dsn: Dsn,
    out: impl Write,
    stop: impl Future<Output = ()>,
    mut news: impl FnMut(Milestone),
) -> Result<Recorded> {
    let postgres = &config.postgres;
    let session = Session::through_pooler(&dsn, postgres.connect_timeout).await?;
    let facts = outbox::OutboxFacts::read(&session.client).await?;
    let version = outbox::query(&session.client, "SELECT pg_catalog.current_setting('server_version')", &[]).await?;
    let version: String =
        version.first().map_or(Ok(String::new()), |row| row.try_get(0)).map_err(|error| session_error(&error))?;
    let header = Header {
        server_version: version,
        protocol_version: 1,
        slot: postgres.slot.clone(),
        publication: "crieur.outbox".to_owned(),
        system_identifier: facts.system,
    };
    let control = PooledControl::new(dsn, postgres.connect_timeout, postgres.lookup_timeout, &config.rules, Vec::new());
    let mut follower = Follower::begin(session, postgres.liveness_timeout).await?;
    let mut recorder = Recorder::new(config, control, RecordingWriter::new(out, &header)?, follower.position());
    news(Milestone::Ready(follower.position()));
    let mut stop = pin!(stop);
    let mut over = false;
    // What committed before the stop is visible to the look behind it.
    while !over {
        over = tokio::select! {
            () = &mut stop => true,
            () = tokio::time::sleep(VISIBLE_INTERVAL) => false,
        };
        for frame in follower.frames().await? {
            recorder.message(b'd', &frame).await?;
        }
        recorder.lookups().await?;
        news(Milestone::Settled(follower.position()));
    }
    follower.end().await?;
    recorder.finish()
}

/// How far the server's WAL goes now.
async fn end_of_wal(config: &Config, dsn: &Dsn) -> Result<Lsn> {
    const SQL: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                       ELSE pg_catalog.pg_current_wal_flush_lsn() END::text";
    let session = Session::connect(dsn, config.postgres.connect_timeout, "").await?;
    let row = session.client.query_one(SQL, &[]).await;
    let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
    text.parse().map_err(|cause| Error::definite(Exit::Protocol, "read the end of WAL").because(cause))
}

/// Makes the temporary slot and starts the stream. Each answer but that about the slot comes within `limit`.
async fn open(wire: &mut Wire, publication: &str, limit: Duration) -> Result<(Header, Facts, Lsn)> {
    let slot = format!("crieur_record_{}", std::process::id());
    // NOEXPORT_SNAPSHOT: the session runs statements after this one.
    let sql = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
    let made = wire.simple_query(&sql).await.map_err(|error| error.while_doing("create a temporary slot"))?;
    let begin = made.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
    let begin =
        begin.ok_or_else(|| Error::definite(Exit::Protocol, "the server does not say where the slot begins"))?;
    let version = "SELECT pg_catalog.current_setting('server_version')";
    let version = answered(limit, wire.simple_query(version)).await?;
    let facts = answered(limit, Facts::read(wire, publication)).await?;
    answered(limit, start_stream(wire, &slot, publication, facts.version)).await?;
    let header = Header {
        server_version: version.into_iter().flatten().flatten().next().unwrap_or_default(),
        protocol_version: protocol_version(facts.version),
        slot,
        publication: publication.to_owned(),
        system_identifier: facts.system.clone(),
    };
    Ok((header, facts, begin))
}

/// Since when nothing was received, as in the daemon's own stream: half of the limit on, a reply is asked for once, and
/// behind all of it the link is dead.
struct Silence {
    since: Instant,
    limit: Duration,
    asked: bool,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Silence { since: Instant::now(), limit, asked: false }
    }

    /// When there is something to do about it.
    fn due(&self) -> Instant {
        self.since + if self.asked { self.limit } else { self.limit / 2 }
    }

    /// Whether a reply is to be asked for now.
    fn ask(&mut self, now: Instant) -> Result<Reply> {
        if now >= self.since + self.limit {
            let limit = self.limit;
            return Err(Error::transient(format!("nothing received for {limit:?}: the link is dead")));
        }
        if self.asked || now < self.due() {
            return Ok(Reply::NotRequested);
        }
        self.asked = true;
        Ok(Reply::Requested)
    }
}

/// Everything but the connection.
struct Recorder<'a, W: Write, C: Control> {
    config: &'a Config,
    writer: RecordingWriter<W>,
    control: C,
    tap: FrameTap<'a>,
    /// Questions of transactions that are not yet visible, in commit order.
    waiting: VecDeque<(Xid, Vec<Question>)>,
    /// The slot's position: the only one that is ever reported as flushed.
    confirmed: Lsn,
    received: Lsn,
    status_wanted: bool,
    recorded: Recorded,
}

impl<'a, W: Write, C: Control> Recorder<'a, W, C> {
    fn new(config: &'a Config, control: C, writer: RecordingWriter<W>, confirmed: Lsn) -> Self {
        let limits = &config.limits;
        Recorder {
            config,
            writer,
            control,
            tap: FrameTap::new(&config.rules, limits.memory_bytes_max.try_into().unwrap_or(usize::MAX)),
            waiting: VecDeque::new(),
            confirmed,
            received: confirmed,
            status_wanted: false,
            recorded: Recorded::default(),
        }
    }

    /// When to look again without new bytes.
    fn wake(&self, status_due: Instant) -> Instant {
        if self.waiting.is_empty() { status_due } else { status_due.min(Instant::now() + VISIBLE_INTERVAL) }
    }

    /// The frame is written before it is understood: what cannot be decoded is what one wants to have recorded.
    async fn message(&mut self, tag: u8, body: &[u8]) -> Result<()> {
        match tag {
            b'd' => {}
            b'N' | b'S' => return Ok(()),
            b'E' => return Err(error_response(body)),
            _ => return Err(Error::transient("the server ended the stream")),
        }
        self.writer.frame(body)?;
        self.recorded.frames += 1;
        let (start, payload) = match Frame::parse(body)? {
            Frame::XLogData { start, payload, .. } => (start, payload),
            Frame::Keepalive { end, reply, .. } => {
                self.status_wanted |= reply == Reply::Requested;
                self.received = self.received.max(end);
                return Ok(());
            }
        };
        self.received = self.received.max(start);
        for Tapped { tables, transaction } in self.tap.payload(payload, &self.control).await? {
            if let Some((oid, named)) = tables {
                let mut named = named.unwrap_or_default().into_iter();
                let root = PartitionRoot { oid: oid.0, root: named.next(), inherits: named.collect() };
                self.writer.partition_root(&root)?;
            }
            if let Some(transaction) = transaction.filter(|transaction| !transaction.load.lookups.is_empty()) {
                let questions = self.config.rules.questions(&transaction.load.lookups);
                self.waiting.push_back((transaction.xid, questions));
            }
        }
        Ok(())
    }

    /// Writes what is in the buffer, and asks what it wants to know.
    async fn take_in(&mut self, wire: &mut Wire) -> Result<()> {
        while let Some((tag, body)) = wire.message()? {
            self.message(tag, body).await?;
        }
        self.lookups().await
    }

    /// What committed before the stop belongs to the recording, as far as it comes within a bounded time.
    async fn drain(&mut self, wire: &mut Wire, end: Lsn) -> Result<()> {
        let limit = Instant::now() + DRAIN_MAX;
        while Instant::now() < limit && (self.received < end || !self.waiting.is_empty()) {
            wire.send_copy_data(&self.status(Reply::Requested)).await?;
            if let Ok(filled) = timeout_at(Instant::now() + DRAIN_INTERVAL, wire.fill()).await {
                filled?;
            }
            self.take_in(wire).await?;
        }
        Ok(())
    }

    /// Asks and writes what visible transactions want to know, in commit order.
    async fn lookups(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let snapshot = self.control.snapshot().await?;
        while self.waiting.front().is_some_and(|(xid, _)| snapshot.contains(*xid)) {
            let (_, questions) = self.waiting.pop_front().unwrap_or((Xid(0), Vec::new()));
            let answers = self.control.ask(&questions).await?;
            for (question, answer) in questions.into_iter().zip(answers) {
                self.answered(question, answer)?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, question: Question, answer: Answer) -> Result<()> {
        let lookup = self.config.rules.lookups().get(question.lookup.0 as usize);
        let sql = lookup.map(|lookup| lookup.sql.clone()).unwrap_or_default();
        let rows = match answer {
            Answer::Rows(rows) => Ok(rows),
            Answer::Refused(why) | Answer::Late(why) => Err(why),
        };
        self.recorded.lookups += 1;
        self.writer.lookup(&LookupAnswer { sql, args: question.args, rows })
    }

    /// Received as far as it came, flushed no further than the slot was.
    fn status(&mut self, reply: Reply) -> [u8; 34] {
        self.status_wanted = false;
        let (written, flushed) = (self.received, self.confirmed);
        StandbyStatus { written, flushed, applied: flushed, sent_at: now(), reply }.encode()
    }

    fn finish(mut self) -> Result<Recorded> {
        self.recorded.unanswered = self.waiting.iter().map(|(_, questions)| questions.len() as u64).sum();
        self.writer.finish()?;
        Ok(self.recorded)
    }
}
