//! The loop: source -> rules -> batcher -> gate -> cache -> acknowledge. It knows only traits.
//!
//! One task, one `biased` select. Every future in it is either cancel-safe (`ready`) or kept over turns until it ends;
//! writes happen in handlers. The position moves in one place, `position.rs`, and only after every key, sweep
//! and echo before it was answered and the cache's mark was written.

pub mod deliver;
pub mod intake;
mod position;

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::ack::Window;
use crate::backoff::Backoff;
use crate::cache::{Cache, Swept};
use crate::change::Relation;
use crate::config::OnGap;
use crate::control::Control;
use crate::echo::{Delivery, Echoes, Stage};
use crate::error::{Class, Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::gate::Snapshot;
use crate::mark::Start;
use crate::pipeline::deliver::{Insisted, Landed, REMIND, at_most, fly, insist, pause, sweep};
use crate::pipeline::intake::{Intake, Need};
use crate::pipeline::position::Written;
use crate::rules::{Invalidations, Rules};
use crate::source::{BACKLOG, Source};

/// How often the mark and, behind it, the confirmed position move at most. A status costs the server a slot update;
/// PostgreSQL recycles WAL at checkpoints, so a twentieth of a second loses nothing.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(50);

/// The first pause before a batch asks the gate again, when nothing of it was visible.
const GATE_PAUSE_MIN: Duration = Duration::from_micros(200);

/// The longest such pause: with a synchronous standby a commit may stay invisible for seconds.
const GATE_PAUSE_MAX: Duration = Duration::from_millis(10);

/// More patterns than this in one sweep collapse into their families: each is compared with every key of the cache.
const PATTERNS_MAX: usize = 1_000;

/// A batch of at most so many keys is also deleted at once, ahead of the gate: at low load a commit is nearly always
/// visible when it arrives, and waiting for the snapshot doubles the time that an old value is served. Larger batches
/// are a sign of load, where the cache's time is better spent once.
const EARLY_KEYS_MAX: usize = 64;

/// What the loop needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the mark: the slot.
    pub slot: String,
    /// Delays of the echoes.
    pub echo: Vec<Duration>,
    /// WAL that waiting echoes may hold back, in bytes.
    pub echo_wal_bytes_max: u64,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// Keys in one pipeline.
    pub batch_keys_max: usize,
    /// Bound of all key sets together, in bytes.
    pub memory_bytes_max: usize,
    /// What is in flight may take this long after a stop was asked for.
    pub stop_timeout: Duration,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exact keys sent to the cache, echoes included.
    pub keys: u64,
    /// Of these, keys that existed.
    pub existed: u64,
    /// Keys widened to a pattern because a value was unknown.
    pub widened: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Keys deleted by sweeps.
    pub swept: u64,
    /// Lookups that the server refused.
    pub refused: u64,
    /// Families collapsed into their pattern by a memory bound.
    pub collapsed: u64,
}

/// What the loop tells whoever watches it: the terminal, systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The stream runs, and the cache answered.
    Ready,
    /// A sweep began.
    SweepBegan,
    /// A sweep ended.
    SweepEnded(Swept),
    /// Now and then, while changes come.
    Totals(Totals, Duration),
}

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

/// The daemon's loop over a source, a cache and a control session.
pub struct Pipeline<S: Source, C, D> {
    source: S,
    cache: Rc<C>,
    control: Rc<D>,
    rules: Rc<Rules>,
    settings: Settings,
    news: Box<dyn FnMut(News)>,

    intake: Intake<S::Ack>,
    window: Window<S::Ack>,
    echoes: Echoes<Instant>,
    totals: Totals,

    /// Keys of the open batch that were already deleted ahead of the gate.
    early: usize,
    /// The batch's first key arrived then.
    filling_since: Option<Instant>,
    /// The snapshot that was asked for.
    gate: Kept<Insisted<Snapshot>>,
    gate_pause: Duration,
    gate_again: Option<Instant>,
    /// The pipeline of UNLINKs that is out.
    flight: Kept<Landed>,
    /// Deliveries whose patterns wait for the next pass; one per stage.
    sweeps: Vec<Delivery>,
    sweep: Kept<(Vec<Delivery>, Swept)>,
    /// The catalog's answer about a relation.
    resolving: Kept<(Relation, Option<(String, String)>)>,

    /// Where the present connection started; `None` while it is not compared with the mark.
    compared: Option<Start>,
    reading_mark: Kept<Option<Vec<u8>>>,
    answered: Option<S::Ack>,
    writing_mark: Kept<Written<S::Ack>>,
    /// What the cache's mark may be, once one was written: the last that was answered, and one whose answer was lost.
    marks: Vec<Vec<u8>>,
    confirm_due: Option<Instant>,
    /// When a mark that cannot be written was last logged.
    mark_said: Option<Instant>,
    ready: bool,

    source_backoff: Backoff,
    source_again: Option<Instant>,
    /// When the present outage of the source was last logged.
    source_said: Option<Instant>,
    stop_by: Option<Instant>,
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
        Pipeline {
            source,
            cache: Rc::new(cache),
            control: Rc::new(control),
            rules: Rc::new(rules),
            news,
            intake: Intake::new(settings.memory_bytes_max / 4),
            window: Window::default(),
            echoes: Echoes::new(&settings.echo),
            settings,
            totals: Totals::default(),
            early: 0,
            filling_since: None,
            gate: None,
            gate_pause: GATE_PAUSE_MIN,
            gate_again: None,
            flight: None,
            sweeps: Vec::new(),
            sweep: None,
            resolving: None,
            compared: None,
            reading_mark: None,
            answered: None,
            writing_mark: None,
            marks: Vec::new(),
            confirm_due: None,
            mark_said: None,
            ready: false,
            source_backoff: Backoff::default(),
            source_again: None,
            source_said: None,
            stop_by: None,
        }
    }

    /// Runs until `stop` resolves (then finishes what is in flight, within its limit) or an error is definite.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Totals> {
        tokio::pin!(stop);
        loop {
            self.start_what_can_start();
            if self.is_finished() {
                break;
            }
            let room = self.has_room();
            let gate_due = self.gate_due();
            let echo_due = if self.flight.is_none() && self.stop_by.is_none() { self.echoes.due() } else { None };
            tokio::select! {
                biased;
                // 1. A stop is heard even under full load.
                () = &mut stop, if self.stop_by.is_none() => self.begin_stop(),
                () = at(self.stop_by) => break,
                // 2. The server ends sessions that stay silent, so status goes before all work.
                () = at(self.source.status_due()) => {
                    let sent = self.source.status().await;
                    reached(Step::Status);
                    self.source_result(sent)?;
                }
                // 3. Answers free the way for the next batch.
                landed = kept(&mut self.flight) => self.landed(landed?),
                // An echo may have left since the snapshot was asked for; its answer keeps, the snapshot stays true.
                snapshot = kept(&mut self.gate), if self.flight.is_none() => self.cut(&snapshot?.value),
                swept = kept(&mut self.sweep) => self.swept(swept?),
                resolved = kept(&mut self.resolving) => self.resolved(resolved?)?,
                mark = kept(&mut self.reading_mark) => self.compare(mark?),
                written = kept(&mut self.writing_mark) => self.written(written?),
                () = self.control.lost() => self.control_lost()?,
                // 4. Times: each only ends the wait, the work is in `start_what_can_start`.
                () = at(gate_due) => {}
                () = at(echo_due) => {}
                () = at(self.confirm_due) => self.confirm_due = None,
                () = at(self.source_again), if room => self.source_again = None,
                // 5. More changes, when there is room for them. Last: a flood must not starve the rest.
                ready = self.source.ready(), if room && self.source_again.is_none() => {
                    let taken = ready.and_then(|()| self.take());
                    self.source_result(taken)?;
                }
            }
        }
        self.last_words().await;
        Ok(self.totals)
    }

    /// Takes every event that is in the source's buffer, as long as there is room.
    fn take(&mut self) -> Result<()> {
        self.connected();
        while self.has_room() {
            let Some(event) = self.source.take()? else { break };
            reached(Step::Taken);
            if let Need::PartitionRoot(relation) = self.intake.event(event, &self.rules, &mut self.window) {
                let control = Rc::clone(&self.control);
                self.resolving = Some(Box::pin(async move {
                    let root = insist("find a partition's table", async || control.partition_root(relation.oid).await);
                    let root = root.await?.value;
                    Ok((relation, root))
                }));
            }
        }
        if self.filling_since.is_none() && !self.intake.batch.is_empty() {
            self.filling_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Compares the mark in the cache with where a new connection starts, before anything is confirmed on it.
    fn connected(&mut self) {
        if self.source.start() != self.compared.as_ref() {
            self.source_backoff.reset();
            self.source_said = None;
            self.compared = self.source.start().cloned();
            self.read_mark();
        }
    }

    /// A definite error stops the daemon; any other ends the connection, and the source connects anew after a pause.
    fn source_result(&mut self, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if let Class::Definite(_) = error.class {
            return Err(error);
        }
        self.source.disconnect();
        self.intake.interrupted();
        self.compared = None;
        let wait = pause(&mut self.source_backoff, &error);
        let now = Instant::now();
        if self.source_said.is_none_or(|said| now.duration_since(said) >= REMIND) {
            self.source_said = Some(now);
            let hint = error.hint.as_deref().unwrap_or("the stream goes on from the confirmed position");
            warn!(hint, again_in = ?wait, "replication interrupted: {}", error.chain());
        }
        self.source_again = Some(Instant::now() + wait);
        Ok(())
    }

    /// The server may be shutting down, and its walsender would wait until everything is confirmed: for echoes, for a
    /// cache that is away, for a snapshot that nobody can take any more. The stream goes on from the confirmed position.
    fn control_lost(&mut self) -> Result<()> {
        if self.compared.is_none() {
            return Ok(()); // There is no stream.
        }
        self.source_result(Err(Error::transient("the control session ended: the server may be shutting down")))
    }

    /// Whether another event may be taken.
    fn has_room(&self) -> bool {
        let batch = &self.intake.batch;
        self.stop_by.is_none()
            && self.resolving.is_none()
            && batch.len() < self.settings.batch_keys_max
            && batch.bytes_used() < self.settings.memory_bytes_max / 8
            && self.sweeps.iter().map(|delivery| delivery.load.bytes_used()).sum::<usize>()
                < self.settings.memory_bytes_max / 8
    }

    fn is_full(&self) -> bool {
        let batch = &self.intake.batch;
        batch.len() >= self.settings.batch_keys_max || batch.bytes_used() >= self.settings.memory_bytes_max / 8
    }

    /// When the open batch should ask the gate; `None` while it cannot leave anyway.
    fn gate_due(&self) -> Option<Instant> {
        let batch = &self.intake.batch;
        if self.gate.is_some() || self.flight.is_some() || !(batch.has_work() || self.is_full()) {
            return None;
        }
        if let Some(again) = self.gate_again {
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
            self.gate_again = None;
            let control = Rc::clone(&self.control);
            self.gate = Some(Box::pin(async move {
                if without(Guard::Gate) {
                    return Ok(Insisted { value: Snapshot::Everything, after_outage: false });
                }
                insist("take a snapshot", async || control.snapshot().await).await
            }));
        }
        if self.flight.is_none() && self.stop_by.is_none() {
            let early = self.early_delivery();
            self.start_flight(early, now);
        }
        if self.sweep.is_none() && !self.sweeps.is_empty() {
            (self.news)(News::SweepBegan);
            let deliveries = std::mem::take(&mut self.sweeps);
            self.sweep = Some(Box::pin(sweep(Rc::clone(&self.cache), deliveries)));
        }
        self.confirm(now);
    }

    /// The keys of a small, fresh batch, once: ahead of the gate, and then again behind it.
    fn early_delivery(&mut self) -> Option<Delivery> {
        let batch = &self.intake.batch;
        let keys = batch.keys().len();
        let fresh = self.gate.is_some() && keys > self.early && keys <= EARLY_KEYS_MAX;
        if !fresh || self.patience() > Duration::ZERO {
            return None;
        }
        self.early = keys;
        let load = Invalidations { keys: batch.keys().clone(), ..Invalidations::default() };
        Some(Delivery { load, spans: Vec::new(), stage: Stage::Early })
    }

    /// The snapshot came: what it contains leaves.
    fn cut(&mut self, snapshot: &Snapshot) {
        reached(Step::Snapshot);
        let now = Instant::now();
        let Some(cut) = self.intake.batch.cut(snapshot, &mut self.window) else {
            self.gate_again = Some(now + self.gate_pause);
            self.gate_pause = (self.gate_pause * 2).min(GATE_PAUSE_MAX);
            return;
        };
        self.gate_pause = GATE_PAUSE_MIN;
        self.early = self.intake.batch.keys().len();
        self.filling_since = (!self.intake.batch.is_empty()).then_some(now);
        self.totals.widened += cut.load.widened;
        let fresh = Delivery { load: cut.load, spans: cut.spans, stage: Stage::Fresh };
        self.start_flight(Some(fresh), now);
    }

    /// Sends the fresh delivery, if there is one, together with the echoes that are due.
    fn start_flight(&mut self, fresh: Option<Delivery>, now: Instant) {
        assert!(self.flight.is_none(), "a flight that is out holds keys that nobody else holds");
        let mut deliveries: Vec<Delivery> = fresh.into_iter().collect();
        let mut bytes: usize = deliveries.iter().map(|delivery| delivery.load.bytes_used()).sum();
        while bytes < self.settings.memory_bytes_max / 8
            && let Some(echo) = self.echoes.take_due(now)
        {
            bytes += echo.load.bytes_used();
            deliveries.push(echo);
        }
        if !deliveries.is_empty() {
            let (cache, control) = (Rc::clone(&self.cache), Rc::clone(&self.control));
            self.flight = Some(Box::pin(fly(cache, control, Rc::clone(&self.rules), deliveries)));
        }
    }

    /// Every reply of a flight was read.
    fn landed(&mut self, landed: Landed) {
        reached(Step::Deleted);
        self.totals.keys += landed.deleted.sent;
        self.totals.existed += landed.deleted.existed;
        self.totals.refused += landed.refused;
        for delivery in landed.deliveries {
            if delivery.load.patterns.is_empty() {
                self.delivered(delivery);
            } else {
                self.queue_sweep(delivery);
            }
        }
        if landed.after_outage {
            // It may have come back another than it was: empty, older, or a promoted replica.
            self.read_mark();
        }
        let lateness = self.source.lateness();
        (self.news)(News::Totals(self.totals, lateness));
    }

    fn queue_sweep(&mut self, mut delivery: Delivery) {
        self.totals.collapsed += delivery.load.collapse_patterns(PATTERNS_MAX, &self.rules);
        match self.sweeps.iter_mut().find(|queued| queued.stage == delivery.stage) {
            Some(queued) => {
                queued.load.merge(&delivery.load, 0);
                self.totals.collapsed += queued.load.collapse_patterns(PATTERNS_MAX, &self.rules);
                queued.spans.extend(delivery.spans);
            }
            None => self.sweeps.push(delivery),
        }
    }

    fn swept(&mut self, (deliveries, swept): (Vec<Delivery>, Swept)) {
        reached(Step::Swept);
        self.totals.sweeps += 1;
        self.totals.swept += swept.deleted;
        (self.news)(News::SweepEnded(swept));
        for delivery in deliveries {
            self.delivered(delivery);
        }
    }

    /// Everything of a delivery was answered: its spans have one part less out, and its echo is queued.
    fn delivered(&mut self, delivery: Delivery) {
        let next = self.echoes.next(delivery.stage);
        if let Some(stage) = next {
            self.echoes.add(stage, Instant::now(), &delivery.load, &delivery.spans);
            self.totals.collapsed += self.echoes.shrink(self.settings.memory_bytes_max / 4, &self.rules) as u64;
        }
        match delivery.stage {
            Stage::Early => reached(Step::Early),
            Stage::Fresh => {}
            Stage::Echo(_) => reached(Step::Echoed),
        }
        for span in delivery.spans {
            match (delivery.stage, next) {
                (Stage::Early, _) => {}
                (Stage::Fresh, Some(_)) => {
                    self.window.add_echo(span);
                    self.window.part_done(span);
                }
                (Stage::Fresh, None) => self.window.part_done(span),
                (Stage::Echo(_), Some(_)) => {}
                (Stage::Echo(_), None) => self.window.echo_done(span),
            }
        }
    }

    fn resolved(&mut self, (relation, root): (Relation, Option<(String, String)>)) -> Result<()> {
        self.intake.resolved(&relation, root, &self.rules);
        // Events that were read together with the relation wait in the source's buffer.
        let taken = self.take();
        self.source_result(taken)
    }

    fn begin_stop(&mut self) {
        info!("stopping");
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
            && self.writing_mark.is_none()
            && (self.answered.is_none() || self.compared.is_none())
    }

    async fn last_words(&mut self) {
        let closed = at_most(Duration::from_secs(2), "the last status", self.source.close()).await;
        if let Err(error) = closed {
            warn!("failed to say the last status: {}", error.chain());
        }
    }
}
