//! The source without replication: rows that triggers wrote, over any ordinary connection.
//!
//! ```text
//!  writers ──triggers──> crieur.outbox ──page──> messages ──assembler──> events
//!                              ^       (snapshots)                         │
//!                              └── removal <── confirmed <── loop <────────┘
//! ```
//!
//! A row is in the table until the cache has answered for it: a crash anywhere delivers it again. A row that was found
//! was seen by a snapshot, so its transaction is visible to every later one, and keys need no gate. Positions count
//! bytes of rows in the order in which they were found, anew for each acquisition of the lease (`begin.rs`).

mod begin;
mod follow;
mod lease;
mod options;
mod overflow;
mod page;
mod taken;
mod worker;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::change::Event;
use crate::decode::Assembler;
use crate::decode::outbox::{Encoder, Messages, OutboxRow, Shapes, Unreadable};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::session::Session;
use crate::reminder::Reminder;
use crate::source::Source;
use crate::source::outbox::begin::{OutboxBegun, OutboxOutcome, OutboxPast, busy, first_of};
use crate::source::outbox::lease::Lasting;
use crate::source::outbox::overflow::NAMED;
use crate::source::outbox::page::UNREADABLE;
use crate::source::outbox::worker::{Orders, RowBatch, Worker};
use crate::start::Start;
use crate::words::Words;

pub(crate) use begin::{Known, OutboxFacts};
pub(crate) use follow::Follower;
pub(crate) use lease::{BEGIN_WRITE, transact};
pub use options::OutboxOptions;
pub(crate) use page::query;

/// How often the loop shows whoever watches it that it turns: there is no status to send, and nothing else is sure to
/// happen while the cache is away or a sweep runs.
const SHOW_INTERVAL: Duration = Duration::from_secs(5);

/// A position of the outbox. Made here and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OutboxAck {
    /// Counts how often this daemon took the lease. The era does not tell as much: an outbox that was made anew, or a
    /// standby that took over, may give out one again.
    acquisition: u64,
    lsn: Lsn,
}

/// The lease is ours.
struct Running {
    start: Start,
    worker: JoinHandle<()>,
    orders: watch::Sender<Orders>,
    batches: mpsc::Receiver<Result<RowBatch>>,
    batch: RowBatch,
    /// Rows of the batch that were taken.
    taken: usize,
    shapes: Shapes,
    encoder: Encoder,
    messages: Messages,
    assembler: Assembler,
    /// The position of the last row that was taken.
    received: Lsn,
    /// How late the rows of a backlog are.
    late: Duration,
    /// Shapes whose changes are not captured, and rows that are not understood.
    said: Reminder<(Id, i32), Instant>,
    /// When the loop shows next that it turns.
    show_due: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

enum State {
    Away,
    Connecting(LocalBoxFuture<'static, Result<OutboxOutcome>>),
    /// Logged in, and another daemon was at work at the last look. Survives [`Source::disconnect`].
    Waiting(Box<Session>, u32),
    Running(Box<Running>),
}

/// Opens a session with the server, or with what stands for it in a test.
pub type Connect = Box<dyn Fn() -> LocalBoxFuture<'static, Result<Session>>>;

/// The outbox as a [`Source`].
pub struct Outbox {
    options: Arc<OutboxOptions>,
    open: Connect,
    owner: String,
    lasting: Arc<Lasting>,
    state: State,
    past: OutboxPast,
    era: u32,
    /// As in [`OutboxAck`].
    acquisition: u64,
    /// Everything up to here is confirmed.
    confirmed: Lsn,
}

impl Outbox {
    /// Connects at the first [`Source::ready`].
    pub fn new(options: OutboxOptions) -> Self {
        let (dsn, limit) = (options.dsn.clone(), options.connect_timeout);
        let open: Connect = Box::new(move || {
            let dsn = dsn.clone();
            Box::pin(async move { Session::through_pooler(&dsn, limit).await })
        });
        Outbox::over(options, open)
    }

    /// The same over sessions that somebody else opens.
    pub fn over(options: OutboxOptions, open: Connect) -> Self {
        Outbox {
            options: Arc::new(options),
            open,
            owner: lease::owner(),
            lasting: Arc::default(),
            state: State::Away,
            past: OutboxPast::None,
            era: 0,
            acquisition: 0,
            confirmed: Lsn(0),
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let session = match std::mem::replace(&mut self.state, State::Away) {
            State::Away => Some((self.open)()),
            State::Waiting(session, _) => Some(ready(Ok(*session)).boxed_local()),
            other @ (State::Connecting(_) | State::Running(_)) => {
                self.state = other;
                None
            }
        };
        if let Some(session) = session {
            let owner = (self.owner.clone(), Arc::clone(&self.lasting));
            let began = begin::begin(Arc::clone(&self.options), owner, session, self.past);
            self.state = State::Connecting(Box::pin(began));
        }
        let State::Connecting(connecting) = &mut self.state else { return Ok(()) };
        let outcome = connecting.await;
        self.state = State::Away;
        match outcome? {
            OutboxOutcome::Running(begun) => self.run(*begun),
            OutboxOutcome::Busy(session, pid) => {
                self.state = State::Waiting(session, pid);
                return Err(busy(&self.options.slot, pid));
            }
        }
        Ok(())
    }

    /// Waits for the next batch, taking the lease first where it is not ours.
    async fn receive(&mut self) -> Result<()> {
        self.connect().await?;
        let State::Running(running) = &mut self.state else { return Ok(()) };
        if running.has_more() {
            return Ok(());
        }
        let error = match running.batches.recv().await {
            Some(Ok(batch)) => {
                running.receive(batch);
                return Ok(());
            }
            Some(Err(error)) => error,
            None => Error::transient("the session with the outbox ended"),
        };
        self.state = State::Away;
        Err(error)
    }

    fn run(&mut self, begun: OutboxBegun) {
        let OutboxBegun { session, start, era, taken_at } = begun;
        let (orders, obeyed) = watch::channel(Orders::default());
        let (found, batches) = mpsc::channel(1);
        let who = (Arc::clone(&self.options), self.owner.clone(), Arc::clone(&self.lasting));
        let worker = Worker::new(session, who, (first_of(era).0, taken_at), obeyed, found);
        (self.era, self.confirmed, self.past) = (era, start.confirmed, OutboxPast::Worked);
        self.acquisition += 1;
        self.state = State::Running(Box::new(Running {
            start,
            worker: tokio::spawn(worker.run()),
            orders,
            batches,
            batch: RowBatch::default(),
            taken: 0,
            shapes: Shapes::default(),
            encoder: Encoder::default(),
            messages: Messages::default(),
            assembler: Assembler::default(),
            received: first_of(era),
            late: Duration::ZERO,
            said: Reminder::default(),
            show_due: Instant::now(),
        }));
    }
}

impl Running {
    fn has_more(&self) -> bool {
        self.assembler.has_queued() || !self.messages.is_empty() || self.taken <= self.batch.page.len()
    }

    /// Takes the next batch that was found; `None` when the worker is gone.
    fn receive(&mut self, batch: RowBatch) {
        self.shapes.extend(batch.shapes.iter().cloned());
        (self.batch, self.taken) = (batch, 0);
    }

    /// Writes the messages of the next row, or the end of the batch. Says whether there was one.
    fn advance(&mut self) -> Result<bool> {
        let index = self.taken;
        let page = &self.batch.page;
        if index > page.len() {
            return Ok(false);
        }
        self.taken += 1;
        if let Some((xid, shapes)) = self.batch.sweeps.take() {
            let position = Lsn(self.batch.positions.first().copied().unwrap_or(self.received.0));
            self.received = position;
            for shape in shapes {
                let (op, shape, note) = match shape {
                    NAMED => (b'M', None, Some(r#"{"kind": "invalidate_all"}"#)),
                    _ => (b'S', Some(shape), None),
                };
                let row = OutboxRow { xid, op, shape, old: None, new: None, note, at: 0 };
                let written = self.encoder.row(&row, position, &self.shapes, &mut self.messages);
                say_not_understood(written, &mut self.said);
            }
            self.encoder.end(&mut self.messages);
            return Ok(true);
        }
        let Some(row) = page.row(index) else {
            if page.is_last {
                self.encoder.end(&mut self.messages);
            }
            return Ok(true);
        };
        let row = row?;
        let position = Lsn(self.batch.positions.get(index).copied().unwrap_or(self.received.0));
        self.received = position;
        // A batch that is not the end of what is visible is a backlog; else rows are as fresh as the pauses allow.
        let late = if page.is_last { 0 } else { page.at.saturating_sub(row.at) };
        self.late = Duration::from_micros(late.try_into().unwrap_or(0));
        if let (b'S', Some(id), Some(why)) = (row.op, row.shape, row.note)
            && let Some(shape) = self.shapes.get(&id)
            && self.said.is_due(&(Id::NotCaptured, id), Instant::now())
        {
            let hint = match why {
                UNREADABLE => "No reader can read that value in UTF-8. Mend the row.",
                _ => "Run `crieur setup`, or crieur.watch, to capture the table as it is now.",
            };
            log!(
                Id::NotCaptured,
                hint,
                "table \"{}.{}\" is swept: its change was not captured: {why}",
                shape.schema,
                shape.name
            );
        }
        let written = self.encoder.row(&row, position, &self.shapes, &mut self.messages);
        say_not_understood(written, &mut self.said);
        Ok(true)
    }
}

/// Of a row that is not understood the encoder writes a message that sweeps everything.
fn say_not_understood(written: std::result::Result<(), Unreadable>, said: &mut Reminder<(Id, i32), Instant>) {
    if let Err(Unreadable(why)) = written
        && said.is_due(&(Id::RowNotUnderstood, 0), Instant::now())
    {
        log!(
            Id::RowNotUnderstood,
            "a row of crieur.outbox is not understood ({why}): every key of the rules is swept, as for each such row"
        );
    }
}

impl Source for Outbox {
    type Ack = OutboxAck;

    async fn ready(&mut self) -> Result<()> {
        self.receive().await.map_err(|error| error.at(&self.options.dsn.servers()))
    }

    fn take(&mut self) -> Result<Option<Event<'_, OutboxAck>>> {
        let State::Running(running) = &mut self.state else { return Ok(None) };
        let running = &mut **running;
        let acquisition = self.acquisition;
        let ack = |lsn| OutboxAck { acquisition, lsn };
        while !running.assembler.has_queued() && running.messages.is_empty() {
            if !running.advance()? {
                return Ok(None);
            }
        }
        let Running { assembler, messages, .. } = running;
        if let Some(step) = assembler.queued()? {
            return Ok(Some(assembler.event(step, ack)));
        }
        let Some(message) = messages.pop() else { return Ok(None) };
        let step = assembler.step(message)?;
        Ok(Some(step.map_or(Event::Skipped, |step| assembler.event(step, ack))))
    }

    fn acknowledge(&mut self, upto: OutboxAck) {
        if self.is_current(upto) {
            self.confirmed = self.confirmed.max(upto.lsn);
            if let State::Running(running) = &self.state {
                running.orders.send_modify(|orders| orders.confirmed = self.confirmed.0);
            }
        }
    }

    fn status_due(&self) -> Option<Instant> {
        match &self.state {
            State::Running(running) => Some(running.show_due),
            State::Away | State::Waiting(..) | State::Connecting(_) => None,
        }
    }

    /// The worker renews the lease by itself.
    async fn status(&mut self) -> Result<()> {
        if let State::Running(running) = &mut self.state {
            running.show_due = Instant::now() + SHOW_INTERVAL;
        }
        Ok(())
    }

    fn lateness(&self) -> Duration {
        match &self.state {
            State::Running(running) => running.late,
            State::Away | State::Waiting(..) | State::Connecting(_) => Duration::ZERO,
        }
    }

    fn start(&self) -> Option<&Start> {
        match &self.state {
            State::Running(running) => Some(&running.start),
            State::Away | State::Waiting(..) | State::Connecting(_) => None,
        }
    }

    fn lsn(&self, ack: OutboxAck) -> Lsn {
        ack.lsn
    }

    /// What is not removed when the lease is taken again comes again with new positions.
    fn is_current(&self, ack: OutboxAck) -> bool {
        ack.acquisition == self.acquisition
    }

    /// Before anything of this era is confirmed, its bytes count from the position of the era before.
    fn received(&self) -> Lsn {
        let State::Running(running) = &self.state else { return self.confirmed };
        let first = first_of(self.era);
        match self.confirmed < first {
            true => Lsn(self.confirmed.0 + (running.received.0 - first.0)),
            false => running.received,
        }
    }

    /// Within one look at the outbox, transactions come in the order of their numbers.
    fn is_in_commit_order(&self) -> bool {
        false
    }

    fn words(&self) -> Words {
        Words::OUTBOX
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

    /// Removes what is confirmed and gives the lease back, so that whoever stands by works at once.
    async fn close(&mut self) -> Result<()> {
        self.end(Orders { confirmed: self.confirmed.0, close: true, keep: false }).await
    }

    async fn pause(&mut self) -> Result<()> {
        self.end(Orders { confirmed: self.confirmed.0, close: true, keep: true }).await
    }
}

impl Outbox {
    async fn end(&mut self, last: Orders) -> Result<()> {
        let State::Running(mut running) = std::mem::replace(&mut self.state, State::Away) else { return Ok(()) };
        running.orders.send_modify(|orders| *orders = last);
        loop {
            match running.batches.recv().await {
                None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    }
}
