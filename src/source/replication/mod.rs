//! The real source: pgoutput over START_REPLICATION.
//!
//! One task owns the connection and is its only writer. Positions: received >= answered >= confirmed; the server frees
//! WAL up to `confirmed`, so only [`Source::acknowledge`] moves it, and never back. Status goes out at a third of
//! `wal_sender_timeout`, at once when asked, and whether or not anybody takes events: the loop calls
//! [`Source::status`] also while the cache is away.

pub(crate) mod connect;
mod lazy;
mod options;
pub(crate) mod slot;
mod standby;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::change::Event;
use crate::decode::frame::{Reply, StandbyStatus};
use crate::decode::{Assembler, Frame};
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::postgres::wire::{Wire, error_response};
use crate::source::Source;
use crate::source::replication::connect::{Begun, Outcome, Past, busy, start, stream_error};
use crate::source::replication::lazy::Lazy;
use crate::start::{SlotOrigin, Start};
pub use options::SlotOptions;

/// Seconds from 1970 to 2000, where PostgreSQL's clock starts.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// The least time between two statuses that only report progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// A position that the server may forget everything before. Made here and nowhere else, from the end of a commit or
/// from a keepalive between transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotAck {
    /// Counts servers, their runs and slots: positions of one mean nothing to the next.
    era: u32,
    lsn: Lsn,
}

/// A running stream.
struct Stream {
    wire: Wire,
    assembler: Assembler,
    lazy: Lazy,
    start: Start,
    /// Microseconds since 2000, the server's clock: when the last frame was sent.
    sent_at: i64,
    /// The last frame was a keepalive between transactions.
    caught_up: bool,
    /// How late it was when that was last known.
    late: Duration,
    status_interval: Duration,
    status_sent: Instant,
    /// Since when the loop waits for bytes in vain. `None` while it does not wait: with a full batch nobody reads, and
    /// silence that nobody listens to proves nothing.
    quiet_since: Option<Instant>,
    /// A reply was asked for in this silence.
    asked: bool,
    /// The server wants a status now.
    wanted: bool,
    /// We want to hear from the server now.
    asking: bool,
    /// The confirmed position of the last status.
    reported: Lsn,
}

enum State {
    Away,
    Connecting(LocalBoxFuture<'static, Result<Outcome>>),
    /// Logged in, and the slot was another session's at the last look. Survives [`Source::disconnect`].
    Waiting(Box<Wire>, u32),
    Running(Box<Stream>),
}

/// A replication slot as a [`Source`].
pub struct Replication {
    options: Rc<SlotOptions>,
    state: State,
    past: Past,
    /// Where the last stream began; `None` where another session had the slot since.
    last: Option<Start>,
    era: u32,
    received: Lsn,
    confirmed: Lsn,
}

impl Replication {
    /// Connects at the first [`Source::ready`].
    pub fn new(options: SlotOptions) -> Self {
        let (state, past) = (State::Away, Past::None);
        Replication { options: Rc::new(options), state, past, last: None, era: 0, received: Lsn(0), confirmed: Lsn(0) }
    }

    async fn connect(&mut self) -> Result<()> {
        let waiting = match std::mem::replace(&mut self.state, State::Away) {
            State::Away => Some(None),
            State::Waiting(wire, _) => Some(Some(wire)),
            other @ (State::Connecting(_) | State::Running(_)) => {
                self.state = other;
                None
            }
        };
        if let Some(waiting) = waiting {
            self.state = State::Connecting(Box::pin(start(Rc::clone(&self.options), waiting, self.past)));
        }
        let State::Connecting(connecting) = &mut self.state else { return Ok(()) };
        let outcome = connecting.await;
        self.state = State::Away;
        match outcome? {
            Outcome::Running(begun) => self.run(Box::new(Stream::new(*begun))),
            Outcome::Busy(wire, pid) => {
                // Whoever has the slot may write marks that say less than ours did. On the next stream ours count for
                // nothing.
                self.last = None;
                self.state = State::Waiting(wire, pid);
                return Err(busy(&self.options.slot, pid));
            }
        }
        Ok(())
    }

    /// Goes on with a stream; what was confirmed on another server, run or slot, or before another session had the slot, is
    /// not confirmed on this one.
    fn run(&mut self, stream: Box<Stream>) {
        let begun = &stream.start;
        let same = self.last.as_ref().is_some_and(|last| {
            let who = |start: &Start| (start.system.clone(), start.timeline, start.run.clone());
            who(last) == who(begun) && begun.slot == SlotOrigin::Found
        });
        if !same {
            self.era += 1;
            (self.confirmed, self.received) = (begun.confirmed, begun.confirmed);
        }
        self.confirmed = self.confirmed.max(begun.confirmed);
        self.received = self.received.max(begun.confirmed);
        self.last = Some(begun.clone());
        self.past = Past::Streamed;
        self.state = State::Running(stream);
    }

    /// An error ends the connection, whichever call met it.
    fn drop_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.state = State::Away;
        }
        result
    }

    /// Waits for something to take, connecting first where there is no connection. Cancel-safe.
    async fn receive(&mut self) -> Result<()> {
        self.connect().await?;
        let limit = self.options.liveness_timeout;
        let State::Running(stream) = &mut self.state else { return Ok(()) };
        if stream.wire.has_message() {
            return Ok(());
        }
        let lateness = stream.lateness();
        stream.late = lateness.unwrap_or(stream.late);
        let since = *stream.quiet_since.get_or_insert_with(Instant::now);
        let filled = match timeout_at(since + limit, stream.lazy.fill(&mut stream.wire, lateness)).await {
            Ok(filled) => filled,
            Err(_) => Err(Error::transient(format!("nothing received for {limit:?}: the link is dead"))),
        };
        stream.quiet_since = None;
        stream.asked = false;
        self.drop_on_error(filled)
    }

    async fn send_status(&mut self) -> Result<()> {
        let State::Running(stream) = &mut self.state else { return Ok(()) };
        let half = self.options.liveness_timeout / 2;
        let silent = !stream.asked && stream.quiet_since.is_some_and(|since| since.elapsed() >= half);
        let ask = std::mem::take(&mut stream.asking) || silent;
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
    type Ack = SlotAck;

    async fn ready(&mut self) -> Result<()> {
        self.receive().await.map_err(|error| error.at(&self.options.dsn.servers()))
    }

    fn take(&mut self) -> Result<Option<Event<'_, SlotAck>>> {
        let State::Running(stream) = &mut self.state else { return Ok(None) };
        let Stream { wire, assembler, sent_at, wanted, caught_up, .. } = &mut **stream;
        let era = self.era;
        let ack = |lsn| SlotAck { era, lsn };
        if let Some(step) = assembler.queued()? {
            return Ok(Some(assembler.event(step, ack)));
        }
        let Some((tag, body)) = wire.message()? else { return Ok(None) };
        match tag {
            b'd' => {}
            b'N' | b'S' => return Ok(Some(Event::Skipped)),
            b'E' => {
                return Err(stream_error(error_response(body), &mut self.past).at(&self.options.dsn.servers()));
            }
            // CommandComplete is the last word of a server that shuts down (`WalSndDone` in walsender.c).
            b'c' | b'C' => {
                let over = Error::transient("the server ended the stream: it shuts down");
                return Err(over.at(&self.options.dsn.servers()));
            }
            _ => {
                let tag = tag.escape_ascii();
                return Err(Error::definite(Exit::Protocol, format!("unexpected message \"{tag}\" in the stream")));
            }
        }
        match Frame::parse(body)? {
            Frame::XLogData { start, sent_at: at, payload, .. } => {
                (*sent_at, *caught_up) = (at, false);
                self.received = self.received.max(start);
                let step = assembler.step(payload)?;
                Ok(Some(step.map_or(Event::Skipped, |step| assembler.event(step, ack))))
            }
            Frame::Keepalive { end, reply, .. } => {
                *wanted |= reply == Reply::Requested;
                self.received = self.received.max(end);
                // Everything before it was sent: nothing is late, whatever the last transaction was.
                *caught_up = assembler.is_between();
                // Inside of a transaction `end` lies past changes that are not here yet.
                Ok(Some(if assembler.is_between() { Event::Idle(ack(end)) } else { Event::Skipped }))
            }
        }
    }

    fn acknowledge(&mut self, upto: SlotAck) {
        if self.is_current(upto) {
            self.confirmed = self.confirmed.max(upto.lsn);
        }
    }

    fn status_due(&self) -> Option<Instant> {
        let State::Running(stream) = &self.state else { return None };
        if stream.wanted || stream.asking {
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
        let sent = self.send_status().await.map_err(|error| error.at(&self.options.dsn.servers()));
        self.drop_on_error(sent)
    }

    fn ask(&mut self) {
        if let State::Running(stream) = &mut self.state {
            stream.asking = true;
        }
    }

    fn lateness(&self) -> Duration {
        match &self.state {
            State::Running(stream) => stream.lateness().unwrap_or(stream.late),
            State::Away | State::Waiting(..) | State::Connecting(_) => Duration::ZERO,
        }
    }

    fn start(&self) -> Option<&Start> {
        match &self.state {
            State::Running(stream) => Some(&stream.start),
            State::Away | State::Waiting(..) | State::Connecting(_) => None,
        }
    }

    fn lsn(&self, ack: SlotAck) -> Lsn {
        ack.lsn
    }

    fn is_current(&self, ack: SlotAck) -> bool {
        ack.era == self.era
    }

    fn received(&self) -> Lsn {
        self.received
    }

    fn standing_by(&self) -> Option<u32> {
        match self.state {
            State::Waiting(_, pid) => Some(pid),
            State::Away | State::Connecting(_) | State::Running(_) => None,
        }
    }

    fn disconnect(&mut self) {
        if self.standing_by().is_none() {
            self.state = State::Away;
        }
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
    fn new(begun: Begun) -> Self {
        let Begun { wire, start, status_interval } = begun;
        Stream {
            lazy: Lazy::default(),
            wire,
            assembler: Assembler::default(),
            reported: start.confirmed,
            start,
            sent_at: 0,
            caught_up: false,
            late: Duration::ZERO,
            status_interval,
            status_sent: Instant::now(),
            quiet_since: None,
            asked: false,
            wanted: false,
            asking: false,
        }
    }

    /// Server time of sending less server time of commit; `None` while a transaction that is still open is streamed.
    fn lateness(&self) -> Option<Duration> {
        if self.assembler.is_streaming() {
            return None;
        }
        if self.caught_up {
            return Some(Duration::ZERO);
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
