//! The loop: one feed, a list of targets, and the position that all of them have reached. It knows only traits.
//!
//! One task, one `biased` select. Every future in it is either cancel-safe or kept over turns until it ends; what is
//! written is written in handlers. A position is confirmed in one place, [`Pipeline::confirm`], when each target's mark
//! says it.

mod behind;
mod followed;
mod hold;
mod memory;
mod order;
mod ordered;
mod reload;
mod renew;
mod tally;
mod trail;
mod turning;

pub use order::{SweepOrder, SweepTold};
pub use reload::{Onward, Reload};

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::failpoints::{Step, reached};
use crate::feed::{Bounds, Ended, Feed, FeedHappened, Handed};
use crate::insist::{Company, at_most};
use crate::kept::at;
use crate::ledger::{Confirmed, Positions};
use crate::lsn::Lsn;
use crate::observe::news::{CacheTotals, News, Totals};
use crate::observe::speaker::CacheName;
use crate::observe::teller::Teller;
use crate::observe::{Id, log};
use crate::rules::Rules;
use crate::run::followed::Followed;
use crate::run::turning::Turning;
use crate::source::Source;
use crate::target::twins::Twins;
use crate::target::{Policy, Replicas, Target, TargetHappened, TargetSettings, Turn};
use crate::warm::Warming;

/// What the loop needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the mark: the slot.
    pub slot: String,
    /// The publication's name, for hints.
    pub publication: String,
    /// Whether readers also read from standbys.
    pub replicas: Replicas,
    /// Keys in one pipeline.
    pub batch_keys_max: usize,
    /// Bound of all key sets together, in bytes.
    pub memory_bytes_max: usize,
    /// What is in flight may take this long after a stop was asked for.
    pub stop_timeout: Duration,
    /// The pages that are fetched behind deletes.
    pub warming: Warming,
}

/// How often it is looked, before an end, who is still waited for.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// What the loop is about.
#[derive(Debug)]
enum Phase<C, D> {
    /// It streams.
    Running,
    /// It finishes what is in flight, until `by`; then it ends, or begins anew under other rules.
    Draining { by: Instant, reload: Option<Box<Reload<C, D>>> },
}

impl<C, D> Phase<C, D> {
    fn is_draining(&self) -> bool {
        matches!(self, Phase::Draining { .. })
    }

    fn ends(&self) -> Option<Instant> {
        match self {
            Phase::Running => None,
            Phase::Draining { by, .. } => Some(*by),
        }
    }

    /// Whether a stop says anything new.
    fn hears_a_stop(&self) -> bool {
        !matches!(self, Phase::Draining { reload: None, .. })
    }
}

impl<S: Source> Positions<S::Ack> for S {
    fn lsn(&self, ack: S::Ack) -> Lsn {
        Source::lsn(self, ack)
    }

    fn is_current(&self, ack: S::Ack) -> bool {
        Source::is_current(self, ack)
    }

    fn received(&self) -> Lsn {
        Source::received(self)
    }
}

/// The daemon's loop over a source, caches and a control session.
pub struct Pipeline<S: Source, C, D> {
    feed: Feed<S, D>,
    targets: Vec<Target<S::Ack, C, D>>,
    confirmed: Confirmed<S::Ack>,
    /// The position confirmed last, and how often one was.
    reached: (Lsn, u64),
    settings: Settings,
    teller: Teller,
    phase: Phase<C, D>,
    /// The mark of every required target was judged since this daemon has the slot.
    is_ready: bool,
    /// Something happened since the totals were told.
    is_news: bool,
    /// When it was told what passed through the rules.
    tallied: Option<Instant>,
    /// The target that is asked first.
    first: usize,
    followed: Followed<S::Ack>,
    /// Other rules, or caches, to go on with.
    reloads: Option<Receiver<Reload<C, D>>>,
    /// Who hears that the loop turns.
    turning: Option<Turning>,
    /// Sweeps that people order.
    orders: Option<Receiver<SweepOrder>>,
}

impl<S: Source, C, D> std::fmt::Debug for Pipeline<S, C, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Ties the parts together; nothing is connected yet.
    pub fn new(
        source: S,
        caches: Vec<(C, Policy)>,
        control: D,
        rules: Rules,
        settings: Settings,
        listener: impl FnMut(News) + 'static,
    ) -> Self {
        let (control, rules, teller) = (Rc::new(control), Rc::new(rules), Teller::new(listener));
        let words = source.words();
        let memory_bytes_max = settings.memory_bytes_max;
        // Shares follow when all targets are there.
        let (company, batch_bytes_max) = (Company::Alone, memory_bytes_max);
        let bounds = Bounds { batch_keys_max: settings.batch_keys_max, batch_bytes_max, memory_bytes_max };
        let twins = Rc::<Twins<C>>::default();
        let targets = caches.into_iter().map(|(cache, policy)| {
            let (slot, replicas, warming) = (settings.slot.clone(), settings.replicas, settings.warming.clone());
            let settings = TargetSettings { policy, slot, replicas, memory_bytes_max, company, warming };
            let (control, rules) = (Rc::clone(&control), Rc::clone(&rules));
            Target::new(Rc::new(cache), control, rules, settings, words, (teller.clone(), Rc::clone(&twins)))
        });
        let mut pipeline = Pipeline {
            targets: targets.collect(),
            feed: Feed::new(source, control, rules, bounds, &settings.publication, teller.clone()),
            confirmed: Confirmed::default(),
            reached: (Lsn::default(), 0),
            settings,
            teller,
            phase: Phase::Running,
            is_ready: false,
            is_news: false,
            tallied: None,
            first: 0,
            followed: Followed::default(),
            reloads: None,
            turning: None,
            orders: None,
        };
        pipeline.share_out();
        pipeline
    }

    /// Tells `listener` that the loop turns, each `every`.
    #[must_use]
    pub fn turning(mut self, every: Duration, listener: impl FnMut() + 'static) -> Self {
        self.turning = Some(Turning::new(every, listener));
        self
    }

    /// Runs until `stop` resolves (then finishes what is in flight, within its limit) or an error is definite.
    ///
    /// # Errors
    ///
    /// The definite one.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Totals> {
        tokio::pin!(stop);
        loop {
            self.tell_holds();
            self.tell_rules();
            self.stream(stop.as_mut()).await?;
            let phase = std::mem::replace(&mut self.phase, Phase::Running);
            let reload = match phase {
                Phase::Draining { reload, .. } => reload,
                Phase::Running => None,
            };
            self.tell_tally(Instant::now());
            self.last_words(reload.is_some()).await;
            match reload {
                Some(reload) => self = self.renewed(*reload),
                None => return Ok(self.totals()),
            }
        }
    }

    /// Streams until a stop or a reload, and until what was in flight then is done.
    async fn stream(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<()> {
        loop {
            if let Some(turning) = &mut self.turning {
                turning.turned();
            }
            self.start()?;
            if self.is_finished() {
                break;
            }
            let draining = self.phase.is_draining();
            let listens = self.feed.may_listen(&self.room(), draining);
            let (gate_due, targets_due) = (self.gate_due(), self.targets_due());
            tokio::select! {
                biased;
                // 1. A stop is heard even under full load.
                () = &mut stop, if self.phase.hears_a_stop() => self.begin_stop(),
                reload = reload::next(&mut self.reloads), if !draining => self.begin_reload(reload),
                order = reload::next(&mut self.orders), if !draining => self.order(order),
                () = at(self.phase.ends()) => break,
                // 2. The server ends sessions that stay silent, so status goes before all work.
                () = at(self.feed.status_due()) => {
                    let sent = self.feed.status().await;
                    reached(Step::Status);
                    self.tell();
                    self.source_result(sent)?;
                }
                // 3. Answers free the way for the next batch.
                (index, happened) = any(&mut self.targets, self.first) => {
                    self.first = index + 1;
                    self.targets[index].on(happened?, self.feed.source());
                    self.is_news = true;
                }
                // 4. Times: each only ends the wait, the work is in `start`.
                () = at(targets_due) => {}
                () = at(self.turning.as_ref().map(Turning::due)) => {}
                // 5. More changes, when there is room for them.
                happened = self.feed.next(listens, gate_due, draining) => self.happened(happened)?,
            }
        }
        Ok(())
    }

    /// Does what follows from what the feed waited for.
    fn happened(&mut self, happened: FeedHappened) -> Result<()> {
        match happened {
            FeedHappened::Due => {}
            FeedHappened::Snapshot(came) => came?,
            FeedHappened::LookedUp(resolved) => {
                self.feed.looked_up(*resolved?)?;
                self.tell_changes();
            }
            FeedHappened::Sighted(seen) => {
                let room = self.room();
                self.feed.sighted(*seen, &room)?;
            }
            FeedHappened::Described(described) => {
                self.feed.described(described?);
                let taken = self.take();
                self.source_result(taken)?;
            }
            FeedHappened::Ready(ready) => {
                let taken = ready.and_then(|()| self.take());
                self.source_result(taken)?;
            }
            // The server may be shutting down, and its walsender would wait until everything is confirmed: for echoes,
            // for a cache that is away, for a snapshot that nobody can take any more. The stream goes on from the
            // confirmed position.
            FeedHappened::ControlLost if self.feed.is_connected() => {
                let lost = "the control session ended: the server may be shutting down";
                self.source_result(Err(Error::transient(lost)))?;
            }
            FeedHappened::ControlLost => {}
        }
        Ok(())
    }

    /// Takes every event that is in the source's buffer, as long as there is room.
    fn take(&mut self) -> Result<()> {
        self.connected()?;
        let (room, mut intake_bytes_max) = (self.room(), self.intake_bytes_max());
        while !self.phase.is_draining() && self.feed.has_room(&room) {
            if self.feed.intake_bytes() > intake_bytes_max {
                self.give_way();
                intake_bytes_max = self.intake_bytes_max();
            }
            if !self.feed.take_one()? {
                break;
            }
        }
        self.feed.taken();
        self.tell_changes();
        Ok(())
    }

    /// Behind a new connection each target compares its mark, before anything is confirmed on it.
    fn connected(&mut self) -> Result<()> {
        let Some(connected) = self.feed.connected()? else { return Ok(()) };
        if connected.is_other_server {
            self.followed.forget();
        }
        for target in &mut self.targets {
            if connected.is_other_server {
                target.leave_server();
            }
            target.connected(&connected.start, connected.altered, self.feed.source());
        }
        Ok(())
    }

    /// A definite error stops the daemon; any other ends the connection, and the source connects anew after a pause.
    fn source_result(&mut self, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if let Ended::StandingBy(is_news) = self.feed.ended(error)? {
            self.targets.iter_mut().for_each(Target::stand_by);
            self.is_ready &= !is_news;
        }
        Ok(())
    }

    /// Begins whatever can begin now.
    fn start(&mut self) -> Result<()> {
        let now = Instant::now();
        // Before anything is handed over: what a cache owes is shared out among all of its parts.
        let newcomers: Vec<_> = self.targets.iter_mut().flat_map(Target::newcomers).collect();
        if !newcomers.is_empty() {
            self.targets.extend(newcomers);
            self.share_out();
        }
        if self.gate_due().is_some_and(|due| due <= now) {
            self.feed.ask_gate(now);
        }
        if self.targets.iter().any(Target::is_free) || self.takes_besides() {
            self.feed.cut(now)?;
        }
        self.hand_over()?;
        self.follow(now);
        self.tell_gone();
        if !self.phase.is_draining()
            && self.targets.iter().any(Target::wants_early)
            && let Some((keys, pages, left_out)) = self.feed.early()
        {
            self.settings.warming.dropped(left_out);
            let mut wanting = self.targets.iter_mut().filter(|target| target.wants_early());
            let first = wanting.next();
            wanting.for_each(|target| target.take_early(keys.clone(), pages.clone(), now));
            if let Some(first) = first {
                first.take_early(keys, pages, now);
            }
        }
        let (turn, connected) = (turn(&self.feed, &self.phase, now), self.feed.is_connected());
        for target in &mut self.targets {
            if !connected {
                target.disconnected();
            }
            target.start(&turn)?;
        }
        if connected {
            self.judge_holds(now);
        }
        self.confirm();
        let needed = self.targets.iter().filter(|target| target.is_required()).all(Target::is_known);
        if !self.is_ready && connected && needed {
            self.is_ready = true;
            self.teller.tell(News::Ready);
        }
        if std::mem::take(&mut self.is_news) {
            self.tell();
        }
        if self.tally_due(now).is_some_and(|due| due <= now) {
            self.tell_tally(now);
        }
        Ok(())
    }

    /// Hands over what left the gate, to all targets.
    fn hand_over(&mut self) -> Result<()> {
        while let Some(handed) = self.feed.handed()? {
            let Some((last, others)) = self.targets.split_last_mut() else { continue };
            match handed {
                Handed::Load(mut load, upto, born) => {
                    self.settings.warming.dropped(std::mem::take(&mut load.unwarmed));
                    others.iter_mut().for_each(|target| target.take_in((*load).clone(), upto, born));
                    last.take_in(*load, upto, born);
                }
                Handed::Sweep(untold) => {
                    others.iter_mut().for_each(|target| target.take_untold((*untold).clone()));
                    last.take_untold(*untold);
                }
                Handed::Position(upto) => self.targets.iter_mut().for_each(|target| target.take_position(upto)),
            }
        }
        Ok(())
    }

    /// Confirms what the marks of all targets say.
    fn confirm(&mut self) {
        let Some(ack) = self.confirmed.upto(self.given_on()) else { return };
        self.reached = (self.feed.acknowledge(ack), self.reached.1 + 1);
        reached(Step::Acknowledged);
        self.is_news = true;
    }

    /// When the open batch should ask the gate; `None` while nobody could take what leaves.
    fn gate_due(&self) -> Option<Instant> {
        let is_wanted = self.targets.iter().any(Target::takes) || self.takes_besides();
        if is_wanted { self.feed.gate_due(self.phase.is_draining()) } else { None }
    }

    /// Whether what leaves now waits with a target that is busy or away, and nothing more of it fits into the batch. Events
    /// wait in the server only when no target takes more without a collapse; one that is released always does.
    fn takes_besides(&self) -> bool {
        let bytes = self.feed.batch_bytes_when_full();
        let mut pacing = self.targets.iter().filter(|target| target.sets_the_pace());
        pacing.any(|target| target.is_released() || bytes.is_some_and(|bytes| target.has_room_for(bytes)))
    }

    fn targets_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let turn = turn(&self.feed, &self.phase, now);
        // That a cache is away by now tells nobody.
        let look = self.phase.is_draining().then(|| now + DRAIN_LOOK);
        self.targets.iter().filter_map(|target| target.due(&turn)).chain(look).chain(self.tally_due(now)).min()
    }

    /// What was done so far.
    fn totals(&mut self) -> Totals {
        let oldest = self.targets.iter_mut().map(Target::oldest).chain([self.feed.oldest()]).flatten().min();
        let is_settled = self.feed.is_settled() && self.targets.iter().all(Target::is_settled);
        let feed = self.feed.done();
        // Before the first confirmation of this daemon the position is where its stream began.
        let begun = self.feed.source().start().filter(|_| self.reached.1 == 0);
        let mut totals = Totals {
            widened: feed.widened,
            refused: feed.refused,
            not_allowed: feed.not_allowed,
            collapsed: feed.collapsed,
            memory_bytes: self.bytes_used() as u64,
            confirmed: begun.map_or(self.reached.0, |start| start.confirmed),
            confirmations: self.reached.1,
            oldest,
            settled: self.feed.is_connected() && is_settled,
            ..Totals::default()
        };
        for target in &self.targets {
            let done = target.done();
            totals.keys += done.keys;
            totals.existed += done.existed;
            totals.sweeps += done.sweeps;
            totals.collapsed += done.collapsed;
        }
        totals
    }

    /// Says what was done so far.
    fn tell(&mut self) {
        let totals = self.totals();
        self.teller.tell(News::Totals(totals, self.feed.source().lateness()));
        // What waits in the feed, because no target takes more, is deleted nowhere.
        let waits = self.feed.oldest();
        // Parts of one cache are one to whoever watches.
        let mut caches: Vec<(CacheName, CacheTotals)> = Vec::new();
        for (name, mut totals) in self.targets.iter_mut().map(Target::told) {
            totals.oldest = totals.oldest.into_iter().chain(waits).min();
            match caches.iter_mut().find(|(known, _)| *known == name) {
                Some((_, whole)) => *whole = whole.and(totals),
                None => caches.push((name, totals)),
            }
        }
        for (name, totals) in caches {
            self.teller.tell(News::CacheTotals(name, Box::new(totals)));
        }
    }

    fn begin_stop(&mut self) {
        log!(Id::Stopping, "stopping");
        self.drain(None);
    }

    /// What is in flight is finished first, within the limit of a stop.
    fn drain(&mut self, reload: Option<Box<Reload<C, D>>>) {
        self.phase = Phase::Draining { by: Instant::now() + self.settings.stop_timeout, reload };
        self.targets.iter_mut().for_each(Target::confirm_at_once);
    }

    /// Whether a stop was asked for and nothing is in flight.
    fn is_finished(&self) -> bool {
        self.phase.is_draining() && self.feed.is_finished() && self.targets.iter().all(Target::is_finished)
    }

    async fn last_words(&mut self, anew: bool) {
        let closed = at_most(Duration::from_secs(2), "the last status", self.feed.close(anew)).await;
        if let Err(error) = closed {
            log!(Id::LastStatus, "the last status was not heard: {}", error.chain());
        }
    }
}

/// What the targets are told at a turn of the loop.
fn turn<'a, S, C, D>(feed: &'a Feed<S, D>, phase: &Phase<C, D>, now: Instant) -> Turn<'a, S>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    let draining = phase.is_draining();
    let beats = !draining && !feed.is_held_back();
    Turn { now, stream: feed.source(), draining, beats, store: feed.store() }
}

/// Waits for what happens first at any of the targets, and says at which. None is starved: the one behind the last is
/// asked first.
async fn any<A, C, D>(targets: &mut [Target<A, C, D>], first: usize) -> (usize, Result<TargetHappened>)
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    poll_fn(|cx| {
        let count = targets.len();
        let turn = (0..count).map(|index| (first + index) % count);
        for index in turn {
            if let Poll::Ready(happened) = targets[index].poll(cx) {
                return Poll::Ready((index, happened));
            }
        }
        Poll::Pending
    })
    .await
}
