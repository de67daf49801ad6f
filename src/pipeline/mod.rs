//! The loop: source -> rules -> batcher -> gate -> cache -> acknowledge. It knows only traits.
//!
//! One task, one `biased` select. Every future in it is either cancel-safe (`ready`) or kept over turns until it ends;
//! writes happen in handlers. The position moves in one place, `position.rs`, and only after every key, sweep
//! and echo before it was answered and the cache's mark was written.

pub mod answers;
mod connection;
mod ddl;
pub mod deliver;
mod flight;
mod gap;
mod gating;
pub mod intake;
mod lagging;
mod memory;
pub(crate) mod outage;
mod owed;
mod position;
mod refusals;
mod reload;
mod repairs;
pub mod stall;
pub mod tables;
pub mod watch;
mod watching;
pub mod words;

pub use reload::Reload;
pub use words::{Replicas, Settings};

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::ack::{SpanId, Window};
use crate::backoff::Backoff;
use crate::cache::{Cache, Swept};
use crate::change::Relation;
use crate::control::{CatalogView, Control, Named, Sighting};
use crate::echo::{Delivery, Echoes};
use crate::error::{Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::gate::Snapshot;
use crate::observe::news::{News, Totals};
use crate::observe::{Id, log};
use crate::pipeline::answers::Answers;
use crate::pipeline::deliver::{Landed, Part, at_most, insist, sweep};
use crate::pipeline::gap::Unsure;
use crate::pipeline::gating::Gating;
use crate::pipeline::intake::{Intake, Need};
use crate::pipeline::lagging::Lagging;
use crate::pipeline::memory::bytes_of;
use crate::pipeline::outage::Outage;
use crate::pipeline::position::{Writing, Written};
use crate::pipeline::refusals::Refusals;
use crate::pipeline::repairs::Repairs;
use crate::pipeline::watching::Watching;
use crate::proof::{Held, Turns};
use crate::question::LookupId;
use crate::reminder::Reminder;
use crate::ring::Ring;
use crate::rules::Rules;
use crate::source::{BACKLOG, Source};
use crate::start::Start;

/// The catalog's answer.
enum Resolved {
    /// The tables that a relation's rows belong to.
    Tables(Relation, Option<Named>),
    /// What readers see of the tables.
    Catalog(Option<CatalogView>),
}

/// Who hears the news.
type Tell = Box<dyn FnMut(News)>;

type Kept<T> = Option<LocalBoxFuture<'static, Result<T>>>;

/// Waits for a kept future, for ever when there is none.
async fn kept<T>(slot: &mut Kept<T>) -> Result<T> {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// How long a batch may wait to become larger: nothing for a fresh stream, a fraction of its lateness in a backlog.
pub fn patience(lateness: Duration) -> Duration {
    if lateness < BACKLOG { Duration::ZERO } else { (lateness / 8).min(Duration::from_millis(10)) }
}

/// Answers of lookups, none yet. Where transactions come in another order than they were committed, one may come ahead
/// of a change that it saw, and only asking is fresh enough: none are kept.
fn answers_of(source: &impl Source, rules: &Rules, settings: &Settings) -> Rc<RefCell<Answers>> {
    let keeps = (0..).map(LookupId).zip(rules.lookups()).any(|(id, _)| rules.keeps(id));
    let bytes_max = if keeps && source.is_in_commit_order() { settings.memory_bytes_max / 64 } else { 0 };
    Rc::new(RefCell::new(Answers::new(bytes_max)))
}

/// The daemon's loop over a source, a cache and a control session.
pub struct Pipeline<S: Source, C, D> {
    source: S,
    cache: Rc<C>,
    control: Rc<D>,
    rules: Rc<Rules>,
    settings: Settings,
    news: Tell,

    intake: Intake<S::Ack>,
    window: Window<S::Ack>,
    echoes: Echoes<Instant>,
    answers: Rc<RefCell<Answers>>,
    totals: Totals,

    /// The batch's first key arrived then.
    filling_since: Option<Instant>,
    gating: Gating,
    /// The pipeline of UNLINKs that is out.
    flight: Kept<Landed>,
    /// What the flight holds, in bytes.
    flight_bytes: usize,
    /// Deliveries whose patterns wait for the next pass; one per stage.
    sweeps: Vec<Delivery>,
    sweep: Kept<(Vec<Delivery>, Swept)>,
    /// The cache became another while the sweep ran: parts of it may have been answered by the one before.
    sweep_again: bool,
    /// What the running sweep holds, in bytes.
    sweep_bytes: usize,
    /// What the catalog is asked for, and what the stream waits for.
    resolving: Kept<Resolved>,

    /// System, timeline and run of the server that was connected last.
    server: Option<(String, u32, String)>,
    /// Digest of the publication at the last connection.
    publication: Option<String>,
    /// It is another than before, and the mark was not compared since.
    altered: bool,
    /// Where the present connection started; `None` while it is not compared with the mark.
    compared: Option<Start>,
    reading_mark: Kept<(Option<Vec<u8>>, Turns)>,
    /// Everything up to here was answered, and no mark says so yet.
    answered: Option<S::Ack>,
    writing: Option<Writing<S::Ack>>,
    writing_mark: Kept<Written>,
    /// What the last mark of this connection's server says.
    marked: Option<S::Ack>,
    held: Held,
    /// Nothing was compared since the last connection to the server began.
    connected_anew: bool,
    confirm_due: Option<Instant>,
    beat_due: Option<Instant>,
    /// Where the connections to the cache led when its mark was compared last.
    turns: Turns,
    repairs: Repairs,
    /// What was deleted lately.
    ring: Ring,
    /// What waits for the read replicas, and what they are asked about now.
    lagging: Lagging,
    asked: Lagging,
    round: Kept<()>,
    /// What goes again: the cache may lack it.
    again: VecDeque<Delivery>,
    /// Spans of gaps whose sweep has not begun, or waits for the transactions that were open.
    unswept: Vec<SpanId>,
    /// What their sweep goes over.
    unsure: Unsure,
    await_elders: bool,
    /// Those that a sweep waits for, and when that was last said.
    elders: Option<(Snapshot, Reminder<Id, Instant>)>,
    looking: Kept<Snapshot>,
    /// Of writing the mark.
    mark_outage: Outage,
    ready: bool,

    source_backoff: Backoff,
    source_again: Option<Instant>,
    streaming_since: Option<Instant>,
    /// The session that has the slot instead of us.
    standing_by: Option<u32>,
    watch: Watching,
    watch_due: Option<Instant>,
    watching: Kept<Result<Option<Sighting>>>,
    /// Of the look at the server.
    blind: Outage,
    refusals: Refusals,
    /// Of the source.
    outage: Outage,
    stop_by: Option<Instant>,
    /// Other rules to go on with.
    reloads: Option<Receiver<Reload<D>>>,
    reload: Option<Reload<D>>,
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Ties the parts together; nothing is connected yet.
    pub fn new(source: S, cache: C, control: D, rules: Rules, settings: Settings, news: Box<dyn FnMut(News)>) -> Self {
        Pipeline::assembled(source, Rc::new(cache), Rc::new(control), rules, settings, news)
    }

    fn assembled(source: S, cache: Rc<C>, control: Rc<D>, rules: Rules, settings: Settings, news: Tell) -> Self {
        Pipeline {
            answers: answers_of(&source, &rules, &settings),
            source,
            cache,
            control,
            rules: Rc::new(rules),
            news,
            intake: Intake::default(),
            window: Window::default(),
            echoes: Echoes::new(&settings.echo),
            watch: Watching::new(&settings.publication),
            ring: Ring::new(settings.memory_bytes_max / 16),
            settings,
            totals: Totals::default(),
            filling_since: None,
            gating: Gating::default(),
            flight: None,
            flight_bytes: 0,
            sweeps: Vec::new(),
            sweep: None,
            sweep_again: false,
            sweep_bytes: 0,
            resolving: None,
            server: None,
            publication: None,
            altered: false,
            compared: None,
            reading_mark: None,
            answered: None,
            writing: None,
            writing_mark: None,
            marked: None,
            held: Held::Nothing,
            connected_anew: false,
            confirm_due: None,
            beat_due: None,
            turns: Turns::default(),
            repairs: Repairs::default(),
            lagging: Lagging::default(),
            asked: Lagging::default(),
            round: None,
            again: VecDeque::new(),
            unswept: Vec::new(),
            unsure: Unsure::default(),
            await_elders: false,
            elders: None,
            looking: None,
            mark_outage: Outage::default(),
            ready: false,
            source_backoff: Backoff::default(),
            source_again: None,
            streaming_since: None,
            standing_by: None,
            watch_due: None,
            watching: None,
            blind: Outage::default(),
            refusals: Refusals::default(),
            outage: Outage::default(),
            stop_by: None,
            reloads: None,
            reload: None,
        }
    }

    /// Runs until `stop` resolves (then finishes what is in flight, within its limit) or an error is definite.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Totals> {
        tokio::pin!(stop);
        loop {
            self.stream(stop.as_mut()).await?;
            self.last_words().await;
            match self.reload.take() {
                Some(reload) => self = self.renewed(reload),
                None => return Ok(self.totals),
            }
        }
    }

    /// Streams until a stop or a reload, and until what was in flight then is done.
    async fn stream(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<()> {
        loop {
            self.start_what_can_start();
            if self.is_finished() {
                break;
            }
            let listens = self.may_listen();
            let gate_due = self.gate_due();
            let echo_due = if self.may_fly() && self.stop_by.is_none() { self.echoes.due() } else { None };
            tokio::select! {
                biased;
                // 1. A stop is heard even under full load.
                () = &mut stop, if self.stop_by.is_none() || self.reload.is_some() => self.begin_stop(),
                reload = reload::next(&mut self.reloads), if self.stop_by.is_none() => self.begin_reload(reload),
                () = at(self.stop_by) => break,
                // 2. The server ends sessions that stay silent, so status goes before all work.
                () = at(self.source.status_due()) => {
                    let sent = self.source.status().await;
                    reached(Step::Status);
                    self.tell();
                    self.source_result(sent)?;
                }
                // 3. Answers free the way for the next batch.
                landed = kept(&mut self.flight) => self.landed(landed?),
                came = self.gating.came() => came?,
                swept = kept(&mut self.sweep) => self.swept(swept?),
                resolved = kept(&mut self.resolving) => self.resolved(resolved?)?,
                mark = kept(&mut self.reading_mark), if self.may_compare() => self.compare(mark?),
                asked = kept(&mut self.round) => asked.map(|()| self.caught_up())?,
                snapshot = kept(&mut self.looking) => self.looked(snapshot?),
                written = kept(&mut self.writing_mark) => self.written(written?),
                seen = kept(&mut self.watching) => self.sighted(seen?)?,
                () = self.control.lost() => self.control_lost()?,
                // 4. Times: each only ends the wait, the work is in `start_what_can_start`.
                () = at(gate_due) => {}
                () = at(echo_due) => {}
                () = at(self.repairs.owed.due()) => self.repair_what_is_owed(),
                () = at(self.watch_due), if self.stop_by.is_none() => self.begin_watch(),
                () = at(self.confirm_due) => self.confirm_due = None,
                () = at(self.beat_due), if self.may_beat() => self.beat_due = None,
                () = at(self.source_again), if listens => self.source_again = None,
                // 5. More changes, when there is room for them. Last: a flood must not starve the rest.
                ready = self.source.ready(), if listens && self.source_again.is_none() => {
                    let taken = ready.and_then(|()| self.take());
                    self.source_result(taken)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the cache may be asked to delete: one flight at a time, and none while the mark is read.
    fn may_fly(&self) -> bool {
        self.flight.is_none() && self.reading_mark.is_none()
    }

    /// Whether the mark that was read can be judged: what is on its way to the cache may stand behind it or before.
    fn may_compare(&self) -> bool {
        self.flight.is_none() && self.writing.is_none()
    }

    /// Whether a heartbeat may be written: what the cache holds is known, and it lacks nothing. Behind a gap that is so
    /// when everything was answered; on a server that writes nothing no position would ever bring the first mark.
    fn may_beat(&self) -> bool {
        let free = self.writing.is_none() && self.reading_mark.is_none() && self.stop_by.is_none();
        let proven = match self.held {
            Held::Nothing => false,
            Held::Trusted(_) => !self.window.is_barred(),
            Held::Gap { .. } => self.window.is_empty() && self.unswept.is_empty(),
        };
        free && proven && self.compared.is_some() && !self.watch.is_held_back()
    }

    /// Takes every event that is in the source's buffer, as long as there is room.
    fn take(&mut self) -> Result<()> {
        self.connected();
        let mut bytes_max = self.intake_bytes_max();
        while self.has_room() {
            if self.intake.bytes_used() > bytes_max {
                self.give_way();
                bytes_max = self.intake_bytes_max();
            }
            let Some(event) = self.source.take()? else { break };
            reached(Step::Taken);
            self.watch.hears(&event);
            match self.intake.event(event, &self.rules, &mut self.window) {
                Need::Nothing => {}
                Need::Tables(relation) => self.resolve(relation),
                Need::Warning => refusals::misunderstood(),
                Need::Untold => self.refusals.untold(),
                Need::Refusal(count) => self.refused(count),
            }
        }
        self.intake.batch.date(self.committed_at());
        if self.intake.take_altered() {
            self.control.altered();
        }
        if self.filling_since.is_none() && !self.intake.batch.is_empty() {
            self.filling_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Asks the catalog what readers see of the tables; nothing is taken until it answered.
    fn read_catalog(&mut self) {
        let control = Rc::clone(&self.control);
        self.resolving = Some(Box::pin(async move {
            let ask = async || control.catalog().await.map_err(Error::having_worked);
            insist(Part::Session, "read the catalog", ask).await.map(Resolved::Catalog)
        }));
    }

    /// Asks the catalog which tables the rows of a relation belong to; nothing is taken until it answered.
    fn resolve(&mut self, relation: Relation) {
        let control = Rc::clone(&self.control);
        self.resolving = Some(Box::pin(async move {
            let ask = async || control.tables_of(relation.oid).await.map_err(Error::having_worked);
            let tables = insist(Part::Session, "find the tables of a relation", ask).await?;
            Ok(Resolved::Tables(relation, tables))
        }));
    }

    /// The server may be shutting down, and its walsender would wait until everything is confirmed: for echoes, for a
    /// cache that is away, for a snapshot that nobody can take any more. The stream goes on from the confirmed position.
    fn control_lost(&mut self) -> Result<()> {
        if self.compared.is_none() {
            return Ok(()); // There is no stream.
        }
        self.source_result(Err(Error::transient("the control session ended: the server may be shutting down")))
    }

    /// Whether the source is asked for events, or for a connection. A full batch may wait for transactions that the next
    /// server never had; nobody learns of that but by connecting.
    fn may_listen(&self) -> bool {
        self.has_room() || (self.compared.is_none() && self.stop_by.is_none())
    }

    /// Whether another event may be taken.
    fn has_room(&self) -> bool {
        let batch = &self.intake.batch;
        self.stop_by.is_none()
            && self.resolving.is_none()
            && batch.len() < self.settings.batch_keys_max
            && batch.bytes_used() < self.settings.memory_bytes_max / 8
            && !self.is_congested()
    }

    fn is_full(&self) -> bool {
        let batch = &self.intake.batch;
        batch.len() >= self.settings.batch_keys_max || batch.bytes_used() >= self.settings.memory_bytes_max / 8
    }

    /// When the open batch should ask the gate; `None` while it cannot leave anyway.
    fn gate_due(&self) -> Option<Instant> {
        let batch = &self.intake.batch;
        if self.gating.is_busy() || self.flight.is_some() || !(batch.has_work() || self.is_full()) {
            return None;
        }
        if let Some(again) = self.gating.again() {
            return Some(again);
        }
        let since = self.filling_since.unwrap_or_else(Instant::now);
        let patience = if self.is_full() || self.stop_by.is_some() { Duration::ZERO } else { self.patience() };
        Some(since + patience)
    }

    fn patience(&self) -> Duration {
        patience(self.source.lateness())
    }

    fn start_what_can_start(&mut self) {
        let now = Instant::now();
        if self.gate_due().is_some_and(|due| due <= now) {
            let (control, answers) = (Rc::clone(&self.control), Rc::clone(&self.answers));
            let looks = self.intake.batch.asks() && answers.borrow().keeps();
            answers.borrow_mut().unsure();
            let asking = Box::pin(async move {
                if without(Guard::Gate) {
                    return Ok(Snapshot::Everything);
                }
                let gate = async || match looks {
                    true => {
                        let (snapshot, definitions) = control.gate_and_definitions().await?;
                        answers.borrow_mut().defined(definitions);
                        Ok(snapshot)
                    }
                    false => control.gate().await,
                };
                insist(Part::Session, "take a snapshot", async || gate().await.map_err(Error::having_worked)).await
            });
            self.gating.ask(now, asking);
        }
        // What a snapshot contains goes ahead of echoes that are due as well.
        if self.may_fly()
            && let Some(snapshot) = self.gating.take()
        {
            self.cut(&snapshot, now);
        }
        if self.may_fly() && (self.stop_by.is_none() || !self.again.is_empty()) {
            let early = self.early_delivery();
            self.start_flight(early, now);
        }
        if self.sweep.is_none() && !self.sweeps.is_empty() {
            (self.news)(News::SweepBegan);
            let deliveries = std::mem::take(&mut self.sweeps);
            self.say_sweeping(&deliveries);
            self.sweep_bytes = bytes_of(&deliveries);
            self.sweep = Some(Box::pin(sweep(Rc::clone(&self.cache), deliveries)));
        }
        self.confirm(now);
    }

    /// When what was taken last committed, by our clock: both ends of lateness are the server's.
    fn committed_at(&self) -> std::time::Instant {
        let now = Instant::now();
        now.checked_sub(self.source.lateness()).unwrap_or(now).into_std()
    }

    /// Whether everything that came is answered and confirmed.
    fn is_settled(&self) -> bool {
        let nothing_on_its_way = self.window.is_empty() && !self.intake.batch.has_work();
        nothing_on_its_way && self.answered.is_none() && self.writing.as_ref().is_none_or(Writing::moves_nothing)
    }

    /// Says what was done so far.
    fn tell(&mut self) {
        let oldest = [self.window.oldest(), self.intake.batch.oldest()].into_iter().flatten().min();
        let settled = self.compared.is_some() && self.is_settled();
        let memory_bytes = self.bytes_used() as u64;
        let echoes_waiting = self.echoes.keys() as u64;
        let (repairs_delayed, cache_turns) = (self.repairs.delayed, self.cache.turns().another);
        let totals = Totals {
            memory_bytes,
            echoes_waiting,
            repairs_delayed,
            repairs_slow: self.repairs.is_slow,
            cache_turns,
            oldest,
            settled,
            ..self.totals
        };
        (self.news)(News::Totals(totals, self.source.lateness()));
    }

    fn resolved(&mut self, resolved: Resolved) -> Result<()> {
        match resolved {
            Resolved::Tables(relation, tables) => self.intake.resolved(&relation, tables, &self.rules),
            Resolved::Catalog(view) => self.intake.catalog(view, &self.rules),
        }
        // Events that were read together with the relation wait in the source's buffer.
        let taken = self.take();
        self.source_result(taken)
    }

    fn begin_stop(&mut self) {
        log!(Id::Stopping, "stopping");
        self.reload = None;
        self.stop_by = Some(Instant::now() + self.settings.stop_timeout);
        self.confirm_due = None;
    }

    /// Whether a stop was asked for and nothing is in flight. Echoes are not awaited: they hold the position back, so
    /// the next start sends their keys again.
    fn is_finished(&self) -> bool {
        self.stop_by.is_some()
            && !self.intake.batch.has_work()
            && self.flight.is_none()
            && self.sweep.is_none()
            && self.sweeps.is_empty()
            && self.writing.is_none()
            && self.again.is_empty()
            && (self.answered.is_none() || self.compared.is_none())
    }

    async fn last_words(&mut self) {
        let closed = match self.reload {
            Some(_) => at_most(Duration::from_secs(2), "the last status", self.source.pause()).await,
            None => at_most(Duration::from_secs(2), "the last status", self.source.close()).await,
        };
        if let Err(error) = closed {
            log!(Id::LastStatus, "failed to say the last status: {}", error.chain());
        }
    }
}
