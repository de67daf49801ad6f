//! The real source: pgoutput over START_REPLICATION.
//!
//! One task owns the connection and is its only writer. Positions: received >= answered >= confirmed; the server frees
//! WAL up to `confirmed`, so only [`Source::acknowledge`] moves it, and never back. Status goes out at a third of
//! `wal_sender_timeout`, at once when asked, and whether or not anybody takes events: the loop calls
//! [`Source::status`] also while the cache is away.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::change::Event;
use crate::decode::frame::{Reply, StandbyStatus};
use crate::decode::stream::two_phase;
use crate::decode::{Assembler, Frame};
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::mark::Start;
use crate::quote;
use crate::source::Source;
use crate::source::dsn::Dsn;
use crate::source::lazy::Lazy;
use crate::source::wire::{Wire, error_response};

/// Seconds from 1970 to 2000, where PostgreSQL's clock starts.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// The least time between two statuses that only report progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// A position that the server may forget everything before. Made here and nowhere else, from the end of a commit or
/// from a keepalive between transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ack(Lsn);

/// Where and how to stream.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server.
    pub dsn: Dsn,
    /// The replication slot; it must exist.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Limit for TCP, TLS and log-in together, for each host.
    pub connect_timeout: Duration,
    /// With nothing received for half of it a reply is asked for, after all of it the link is dropped.
    pub liveness_timeout: Duration,
}

/// A running stream.
struct Stream {
    wire: Wire,
    assembler: Assembler,
    lazy: Lazy,
    start: Start,
    /// Microseconds since 2000, the server's clock: when the last frame was sent.
    sent_at: i64,
    status_interval: Duration,
    status_sent: Instant,
    /// Since when the loop waits for bytes in vain. `None` while it does not wait: with a full batch nobody reads, and
    /// silence that nobody listens to proves nothing.
    quiet_since: Option<Instant>,
    /// A reply was asked for in this silence.
    asked: bool,
    /// The server wants a status now.
    wanted: bool,
    /// The confirmed position of the last status.
    reported: Lsn,
}

enum State {
    Away,
    Connecting(LocalBoxFuture<'static, Result<Box<Stream>>>),
    Running(Box<Stream>),
}

/// A replication slot as a [`Source`].
pub struct Replication {
    options: Rc<Options>,
    state: State,
    received: Lsn,
    confirmed: Lsn,
}

impl Replication {
    /// Connects at the first [`Source::ready`].
    pub fn new(options: Options) -> Self {
        Replication { options: Rc::new(options), state: State::Away, received: Lsn(0), confirmed: Lsn(0) }
    }

    async fn connect(&mut self) -> Result<()> {
        if let State::Away = self.state {
            self.state = State::Connecting(Box::pin(start(Rc::clone(&self.options))));
        }
        if let State::Connecting(connecting) = &mut self.state {
            let stream = connecting.await;
            self.state = State::Away;
            let stream = stream?;
            self.confirmed = self.confirmed.max(stream.start.confirmed);
            self.received = self.received.max(stream.start.confirmed);
            self.state = State::Running(stream);
        }
        Ok(())
    }

    /// An error ends the connection, whichever call met it.
    fn drop_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.state = State::Away;
        }
        result
    }

    async fn send_status(&mut self) -> Result<()> {
        let State::Running(stream) = &mut self.state else { return Ok(()) };
        let half = self.options.liveness_timeout / 2;
        let ask = !stream.asked && stream.quiet_since.is_some_and(|since| since.elapsed() >= half);
        let status = StandbyStatus {
            written: self.received,
            flushed: self.confirmed,
            applied: self.confirmed,
            sent_at: now(),
            reply: if ask { Reply::Requested } else { Reply::NotRequested },
        };
        stream.asked |= ask;
        stream.wanted = false;
        stream.reported = self.confirmed;
        stream.status_sent = Instant::now();
        let limit = stream.status_sent + self.options.liveness_timeout;
        match timeout_at(limit, stream.wire.send_copy_data(&status.encode())).await {
            Ok(sent) => sent,
            Err(_) => Err(Error::transient("the server takes no status: the link is dead")),
        }
    }
}

impl Source for Replication {
    type Ack = Ack;

    async fn ready(&mut self) -> Result<()> {
        self.connect().await?;
        let limit = self.options.liveness_timeout;
        let State::Running(stream) = &mut self.state else { return Ok(()) };
        if stream.wire.has_message() {
            return Ok(());
        }
        let lateness = stream.lateness();
        let since = *stream.quiet_since.get_or_insert_with(Instant::now);
        let filled = match timeout_at(since + limit, stream.lazy.fill(&mut stream.wire, lateness)).await {
            Ok(filled) => filled,
            Err(_) => Err(Error::transient(format!("nothing received for {limit:?}: the link is dead"))),
        };
        stream.quiet_since = None;
        stream.asked = false;
        self.drop_on_error(filled)
    }

    fn take(&mut self) -> Result<Option<Event<'_, Ack>>> {
        let State::Running(stream) = &mut self.state else { return Ok(None) };
        let Stream { wire, assembler, sent_at, wanted, .. } = &mut **stream;
        if let Some(step) = assembler.queued()? {
            return Ok(Some(assembler.event(step, Ack)));
        }
        let Some((tag, body)) = wire.message()? else { return Ok(None) };
        match tag {
            b'd' => {}
            b'N' | b'S' => return Ok(Some(Event::Skipped)),
            b'E' => return Err(error_response(body)),
            // CommandComplete is the last word of a server that shuts down (`WalSndDone` in walsender.c).
            b'c' | b'C' => return Err(Error::transient("the server ended the stream: it shuts down")),
            _ => {
                let tag = tag.escape_ascii();
                return Err(Error::definite(Exit::Protocol, format!("unexpected message \"{tag}\" in the stream")));
            }
        }
        match Frame::parse(body)? {
            Frame::XLogData { start, sent_at: at, payload, .. } => {
                *sent_at = at;
                self.received = self.received.max(start);
                let step = assembler.step(payload)?;
                Ok(Some(step.map_or(Event::Skipped, |step| assembler.event(step, Ack))))
            }
            Frame::Keepalive { end, reply, .. } => {
                *wanted |= reply == Reply::Requested;
                self.received = self.received.max(end);
                // Inside of a transaction `end` lies past changes that are not here yet.
                Ok(Some(if assembler.is_between() { Event::Idle(Ack(end)) } else { Event::Skipped }))
            }
        }
    }

    fn acknowledge(&mut self, upto: Ack) {
        self.confirmed = self.confirmed.max(upto.0);
    }

    fn status_due(&self) -> Option<Instant> {
        let State::Running(stream) = &self.state else { return None };
        if stream.wanted {
            return Some(stream.status_sent);
        }
        let mut due = stream.status_sent + stream.status_interval;
        if self.confirmed > stream.reported {
            due = due.min(stream.status_sent + PROGRESS_INTERVAL);
        }
        if let (Some(since), false) = (stream.quiet_since, stream.asked) {
            due = due.min(since + self.options.liveness_timeout / 2);
        }
        Some(due)
    }

    async fn status(&mut self) -> Result<()> {
        let sent = self.send_status().await;
        self.drop_on_error(sent)
    }

    fn lateness(&self) -> Duration {
        match &self.state {
            State::Running(stream) => stream.lateness().unwrap_or_default(),
            State::Away | State::Connecting(_) => Duration::ZERO,
        }
    }

    fn start(&self) -> Option<&Start> {
        match &self.state {
            State::Running(stream) => Some(&stream.start),
            State::Away | State::Connecting(_) => None,
        }
    }

    fn lsn(&self, ack: Ack) -> Lsn {
        ack.0
    }

    fn bytes_behind(&self, ack: Ack) -> u64 {
        self.received.0.saturating_sub(ack.0.0)
    }

    fn disconnect(&mut self) {
        self.state = State::Away;
    }

    async fn close(&mut self) -> Result<()> {
        self.send_status().await?;
        if let State::Running(stream) = &mut self.state {
            stream.lazy.end(&stream.wire);
            stream.wire.copy_done().await?;
        }
        self.state = State::Away;
        Ok(())
    }
}

impl Stream {
    /// Server time of sending less server time of commit; `None` while a transaction that is still open is streamed.
    fn lateness(&self) -> Option<Duration> {
        if self.assembler.is_streaming() {
            return None;
        }
        let late = self.assembler.commit_time().map_or(0, |commit| self.sent_at.saturating_sub(commit));
        Some(Duration::from_micros(late.try_into().unwrap_or(0)))
    }
}

/// Microseconds since 2000-01-01 UTC by our own clock; the server only shows it.
pub(crate) fn now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(POSTGRES_EPOCH);
    i64::try_from(since.as_micros()).unwrap_or(0)
}

/// Connects and starts the stream.
async fn start(options: Rc<Options>) -> Result<Box<Stream>> {
    let mut wire = Wire::connect(&options.dsn, options.connect_timeout).await?;
    let Facts { start, status_interval, .. } = stream(&mut wire, &options.slot, &options.publication).await?;
    let now = Instant::now();
    Ok(Box::new(Stream {
        lazy: Lazy::default(),
        wire,
        assembler: Assembler::default(),
        reported: start.confirmed,
        start,
        sent_at: 0,
        status_interval,
        status_sent: now,
        quiet_since: None,
        asked: false,
        wanted: false,
    }))
}

/// The server keeps `logical_decoding_work_mem` of an open transaction before it streams it, 64 MB unless told otherwise;
/// all of that is still to come at COMMIT. So this session asks for less, unless the URL's `options` say how much.
const STREAM_EARLY: &str = "SELECT set_config(name, '1MB', false) FROM pg_catalog.pg_settings \
     WHERE name = 'logical_decoding_work_mem' AND setting::int > 1024 AND source <> 'client'";

/// Reads what the stream must know of the server, and starts it.
pub(crate) async fn stream(wire: &mut Wire, slot: &str, publication: &str) -> Result<Facts> {
    let facts = Facts::read(wire, slot, publication).await?;
    let protocol = protocol_options(facts.version, publication);
    wire.simple_query(STREAM_EARLY).await.map_err(|error| error.while_doing("set how early transactions stream"))?;
    // 0/0: the server starts at the slot's confirmed position, and so do we.
    let sql = format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({protocol})");
    wire.start_copy_both(&sql).await.map_err(|error| error.while_doing("start replication"))?;
    let Facts { start, version, status_interval } = &facts;
    info!(%slot, lsn = %start.confirmed, timeline = start.timeline, server = version, "replication started");
    debug!(?status_interval, protocol);
    Ok(facts)
}

/// The newest protocol that is of use: 2 streams large transactions while they are open, from version 14 on.
pub(crate) fn protocol_version(version: u32) -> u32 {
    if version < 140_000 { 1 } else { 2 }
}

/// Options of pgoutput (`src/backend/replication/pgoutput/pgoutput.c`, `parse_output_parameters`) by server version.
fn protocol_options(version: u32, publication: &str) -> String {
    // A replication command knows no E'' literal, so a backslash stays as it is.
    let names = format!("publication_names '{}'", quote::identifier(publication).replace('\'', "''"));
    if version < 140_000 {
        return format!("proto_version '1', {names}");
    }
    // Protocol 2 streams large transactions while they are open: only their keys are kept, and COMMIT finds them ready.
    format!("proto_version '2', streaming 'on', messages 'true', {names}")
}

/// What the server says before the stream starts.
pub(crate) struct Facts {
    /// `server_version_num`.
    pub(crate) version: u32,
    /// Where the stream begins.
    pub(crate) start: Start,
    /// How often the server wants a status.
    pub(crate) status_interval: Duration,
}

impl Facts {
    async fn read(wire: &mut Wire, slot: &str, publication: &str) -> Result<Self> {
        let system = row(wire, "IDENTIFY_SYSTEM").await?;
        let version = row(wire, "SELECT pg_catalog.current_setting('server_version_num')").await?;
        refuse_as_standby(wire).await?;
        let timeout = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let timeout = row(wire, timeout).await?;
        let literal = quote::literal(slot);
        let sql = format!(
            "SELECT confirmed_flush_lsn, wal_status, to_jsonb(s) ->> 'two_phase' FROM pg_catalog.pg_replication_slots AS s \
             WHERE slot_name = {literal} AND database = pg_catalog.current_database()"
        );
        let found = wire.simple_query(&sql).await?.into_iter().next();
        let found = found.ok_or_else(|| {
            Error::definite(Exit::Unavailable, format!("replication slot \"{slot}\" does not exist in this database"))
                .hint("Run `crieur setup`; the next start sweeps every key that the rules own.")
        })?;
        if text(&found, 1) == Some("lost") {
            return Err(Error::definite(Exit::Unavailable, format!("replication slot \"{slot}\" lost its WAL")).hint(
                format!("Run SELECT pg_drop_replication_slot({literal}), then `crieur setup`; the next start sweeps."),
            ));
        }
        if text(&found, 2) == Some("true") {
            return Err(two_phase());
        }
        let run = quote::fill(include_str!("../../sql/run.sql"), &[("publication", publication)]);
        let run = row(wire, &run).await?;
        let unexpected = || Error::definite(Exit::Protocol, "the server's answers about itself cannot be read");
        let milliseconds: u64 = text(&timeout, 0).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
        Ok(Facts {
            version: text(&version, 0).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
            start: Start {
                system: text(&system, 0).ok_or_else(unexpected)?.to_owned(),
                timeline: text(&system, 1).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
                confirmed: text(&found, 0).and_then(|text| text.parse().ok()).unwrap_or(Lsn(0)),
                run: text(&run, 0).ok_or_else(unexpected)?.to_owned(),
                publication: text(&run, 1).ok_or_else(unexpected)?.to_owned(),
            },
            status_interval: status_interval(milliseconds),
        })
    }
}

/// `synchronous_standby_names = '*'` counts every walsender's client as a standby. COMMIT would wait for our flush
/// position, and we confirm nothing before the commit is visible: the primary would stand still.
async fn refuse_as_standby(wire: &mut Wire) -> Result<()> {
    let sql = "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
               pg_catalog.current_setting('application_name')";
    let row = row(wire, sql).await?;
    if counts_as_standby(text(&row, 0).unwrap_or_default(), text(&row, 1).unwrap_or_default()) {
        return Err(Error::definite(Exit::Config, "synchronous_standby_names counts crieur as a standby").hint(
            "Every COMMIT would wait for crieur, and crieur for the commit. Name the standbys there instead of *.",
        ));
    }
    Ok(())
}

/// Whether the list (`src/backend/replication/syncrep_gram.y`) holds `*` or the name; names compare without case.
fn counts_as_standby(list: &str, name: &str) -> bool {
    let words = list.split([',', '(', ')', ' ', '\t', '\n']);
    words
        .map(|word| word.trim_matches('"'))
        .any(|word| word == "*" || (!word.is_empty() && word.eq_ignore_ascii_case(name)))
}

/// A third of `wal_sender_timeout`; with none (0), and at most, ten seconds as in `wal_receiver_status_interval`.
fn status_interval(wal_sender_timeout_ms: u64) -> Duration {
    let longest = Duration::from_secs(10);
    match wal_sender_timeout_ms {
        0 => longest,
        milliseconds => Duration::from_millis(milliseconds / 3).clamp(Duration::from_millis(10), longest),
    }
}

fn text(row: &[Option<String>], column: usize) -> Option<&str> {
    row.get(column)?.as_deref()
}

async fn row(wire: &mut Wire, sql: &str) -> Result<Vec<Option<String>>> {
    Ok(wire.simple_query(sql).await?.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_standbys_that_counts_us_is_noticed() {
        for (list, counts) in [
            ("", false),
            ("*", true),
            ("ANY 1 (s1, s2)", false),
            ("FIRST 2 (\"s1\", *)", true),
            ("s1,Crieur", true),
            ("crieur2", false),
        ] {
            assert_eq!(counts_as_standby(list, "crieur"), counts, "{list}");
        }
    }

    #[test]
    fn status_goes_out_three_times_within_the_servers_patience() {
        for (timeout_ms, interval_ms) in [(60_000, 10_000), (3_000, 1_000), (1, 10), (0, 10_000), (9_000, 3_000)] {
            assert_eq!(status_interval(timeout_ms), Duration::from_millis(interval_ms));
        }
    }

    #[test]
    fn quotes_the_publication_for_the_option_and_for_the_list_in_it() {
        let text = protocol_options(170_000, "a'b\"c");
        assert!(text.ends_with(r#"publication_names '"a''b""c"'"#), "{text}");
        assert!(protocol_options(130_020, "p").starts_with("proto_version '1', "));
    }
}
