//! A target is one cache: everything that belongs to it, and nothing that belongs to the stream.
//!
//! The loop hands a target loads, in the order in which they left the gate, and positions. The target deletes
//! (`delete.rs`), sweeps (`sweep.rs`), deletes again (`echo.rs`, `replicas.rs`), and writes the mark that says up to
//! where all of that was answered (`confirm.rs`). Behind each new connection the target reads the mark and judges what it
//! proves (`proof.rs`, `gap.rs`). What a target owes stands in its own ledger, so no target waits for another.
//!
//! Three states, each of its own part: the flight is idle or flying; the sweep is idle or sweeping; what the mark proves
//! is nothing, trusted, or a gap ([`proof::Held`]). What each part holds stands in a file that does not know the target
//! (`flight.rs`, `sweeping.rs`, `lagging.rs`, `marking.rs`, `gaps.rs`, `look.rs`); the target ties them together here.

pub mod behind;
mod carried;
mod confirm;
mod delete;
pub mod echo;
mod flight;
mod flush;
mod follow;
mod gap;
mod gaps;
mod hold;
mod holding;
mod lagging;
mod look;
mod marking;
mod measuring;
pub mod meter;
mod owed;
pub mod pace;
mod parts;
pub mod proof;
mod repairs;
mod replicas;
pub mod ring;
mod sweep;
mod sweeping;
mod told;
pub mod twins;
mod warm;
mod weight;

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;
use crate::cache::Cache;
use crate::cache::statistics::CacheSaid;
use crate::config::{Metering, OnGap};
use crate::control::Control;
use crate::error::Result;
use crate::gate::Snapshot;
use crate::insist::{Company, Part};
use crate::kept::Kept;
use crate::ledger::{Ledger, Positions};
use crate::load::Untold;
use crate::lsn::Lsn;
use crate::observe::delays::Delays;
use crate::observe::speaker::{CacheName, speaks};
use crate::observe::teller::Teller;
use crate::rules::plan::cause::CauseCounts;
use crate::rules::{Invalidations, Rules};
use crate::start::{ServerStore, Start};
use crate::target::behind::Behind;
use crate::target::carried::Unmarked;
use crate::target::echo::{Delivery, Echoes, bytes_of};
use crate::target::flight::{Flight, Landed};
use crate::target::gaps::Gaps;
use crate::target::holding::Holding;
use crate::target::lagging::Lagging;
use crate::target::look::{Found, Looking};
use crate::target::marking::{MarkOutcome, Marking};
use crate::target::measuring::Measuring;
use crate::target::meter::Metered;
use crate::target::repairs::Repairs;
use crate::target::ring::Ring;
use crate::target::sweeping::{Scanned, Sweeping};
use crate::target::twins::Twins;
use crate::warm::Warming;
use crate::words::{Member, Words};

pub use crate::ledger::hold::HOLDS_FOR_EVER;

/// The part of a target's memory that its ring may take.
const RING_PART: usize = 16;

/// Whether readers also read from standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// From the primary only.
    None,
    /// Keys wait for the replicas, too.
    Some,
}

/// What the configuration says of a target that is a sink.
#[derive(Debug, Clone)]
pub struct SinkPolicy {
    /// The caches that its pages read.
    pub after: Rc<[String]>,
}

/// What the configuration says of one cache, or of one sink.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the configuration calls the cache.
    pub name: String,
    /// Patterns of keys that are never deleted in it.
    pub protect: Vec<Vec<u8>>,
    /// Delays of the echoes.
    pub echo: Vec<Duration>,
    /// WAL that waiting echoes may hold back, in bytes.
    pub echo_wal_bytes_max: u64,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// How often the mark is written when nothing moves.
    pub heartbeat: Duration,
    /// Whether each command costs money.
    pub metering: Metering,
    /// How many commands a month may cost; `None`: as many as there are.
    pub budget: Option<Budget>,
    /// Whether the daemon is ready only when it has judged this cache's mark.
    pub required: bool,
    /// WAL that the cache may hold back while its mark does not move, in bytes; then the position goes on without it, and
    /// its mark tells what it lacks. 0: it never holds any; [`HOLDS_FOR_EVER`]: there is no limit.
    pub hold_wal_bytes_max: u64,
    /// Of a sink, which takes tags and no keys.
    pub sink: Option<SinkPolicy>,
}

/// What a target needs to know besides.
#[derive(Debug, Clone)]
pub struct TargetSettings {
    /// What the configuration says of its cache.
    pub policy: Policy,
    /// Name of the mark: the slot.
    pub slot: String,
    /// Whether readers also read from standbys.
    pub replicas: Replicas,
    /// The share of memory that the target may use, in bytes.
    pub memory_bytes_max: usize,
    /// Whether there are other targets.
    pub company: Company,
    /// The pages that are fetched behind deletes.
    pub warming: Warming,
}

/// What a target did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetTotals {
    /// Exact keys sent to the cache, echoes included.
    pub keys: u64,
    /// Of these, keys that existed.
    pub existed: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Keys deleted by sweeps.
    pub swept: u64,
    /// Families collapsed into their pattern.
    pub collapsed: u64,
    /// From the commit of a load's oldest change until its first deletes were proved.
    pub delays: Delays,
    /// The sweeps by their causes.
    pub causes: CauseCounts,
    /// The mark written last, and when.
    pub marked: Option<(Lsn, Instant)>,
}

/// What the loop says at each of its turns.
#[derive(Debug)]
pub struct Turn<'a, P> {
    /// The loop's clock.
    pub now: Instant,
    /// What positions mean.
    pub stream: &'a P,
    /// The daemon stops, or begins anew: what is in flight is finished, echoes are not sent.
    pub draining: bool,
    /// Whether how far the cache is behind is known, so that a heartbeat says something true.
    pub beats: bool,
    /// What the server keeps for us, where that has a bound.
    pub store: Option<ServerStore>,
}

/// What a target waited for.
#[derive(Debug)]
pub enum TargetHappened {
    /// Every reply of a flight was read.
    Landed(Landed),
    /// A sweep ended.
    Swept(Scanned),
    /// The mark was read.
    MarkRead(Found),
    /// The mark was written, or not.
    MarkWritten(MarkOutcome),
    /// Every replica has replayed what was asked.
    CaughtUp,
    /// A snapshot for the sweep of a gap.
    Looked(Snapshot),
    /// The cache is another one now, or has more parts, as far as it is told without being asked.
    Turned,
    /// The cache said how it fares, or not.
    Measured(Result<Option<CacheSaid>>),
}

/// What a target shares with the others, and what it is called among them.
struct Around<C, D> {
    name: CacheName,
    part: Part,
    control: Rc<D>,
    /// Those that are for its cache.
    rules: Rc<Rules>,
    words: Words,
    teller: Teller,
    twins: Rc<Twins<C>>,
}

/// One cache.
pub struct Target<A, C, D> {
    cache: Rc<C>,
    settings: TargetSettings,
    around: Around<C, D>,
    done: TargetTotals,
    ledger: Ledger<A>,
    /// What came since the last flight left: one load, however much that is.
    inbox: Option<Delivery>,
    /// Of a sink: what waits for the answers of caches.
    behind: Behind,
    /// How often the cache was found to lack deletes.
    doubts: u64,
    /// What goes again: the cache may lack it.
    again: VecDeque<Delivery>,
    flight: Flight,
    sweeping: Sweeping,
    echoes: Echoes<Instant>,
    lagging: Lagging,
    ring: Ring,
    unmarked: Unmarked,
    look: Looking,
    marking: Marking<A>,
    gaps: Gaps,
    repairs: Repairs,
    /// Waits for what the cache is told without being asked.
    turning: Kept<()>,
    measuring: Measuring,
    holding: Holding<A>,
    metered: Option<Metered>,
}

impl<A, C, D> std::fmt::Debug for Target<A, C, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// A target that knows nothing of its cache yet. `words` are the source's. Of the rules it keeps those that are for its
    /// cache.
    pub fn new(
        cache: Rc<C>,
        control: Rc<D>,
        rules: Rc<Rules>,
        settings: TargetSettings,
        words: Words,
        (teller, twins): (Teller, Rc<Twins<C>>),
    ) -> Self {
        let rules = match settings.policy.sink {
            Some(_) => Rc::new(rules.seen_by_sink(&settings.policy.name)),
            None => rules.seen_by(&settings.policy.name, &settings.policy.protect).map_or(rules, Rc::new),
        };
        cache.learn(rules.coarse_tags());
        let metered = settings.policy.budget.map(|budget| Metered::new(budget, cache.billed()));
        let name = CacheName::from(settings.policy.name.as_str());
        let part = Part::cache(cache.member(), &name);
        Target {
            echoes: Echoes::new(&settings.policy.echo),
            ring: Ring::new(settings.memory_bytes_max / RING_PART),
            cache,
            settings,
            around: Around { name, part, control, rules, words, teller, twins },
            done: TargetTotals::default(),
            ledger: Ledger::dating(),
            inbox: None,
            behind: Behind::default(),
            doubts: 0,
            again: VecDeque::new(),
            flight: Flight::default(),
            sweeping: Sweeping::default(),
            lagging: Lagging::default(),
            unmarked: Unmarked::default(),
            look: Looking::default(),
            marking: Marking::default(),
            gaps: Gaps::default(),
            repairs: Repairs::default(),
            turning: Kept::default(),
            measuring: Measuring::default(),
            holding: Holding::default(),
            metered,
        }
    }

    /// The same cache under other rules, whose lookups `control` asks: counters, pace and echoes go on, and what was not
    /// confirmed comes again.
    #[must_use]
    pub fn renewed(self, rules: &Rc<Rules>, control: &Rc<D>, twins: &Rc<Twins<C>>) -> Self {
        let Target { cache, settings, around, done, repairs, echoes, holding, metered, measuring, .. } = self;
        let Around { rules: before, words, teller, part, .. } = around;
        let echoes = echoes.carried(&before, rules);
        let renewed =
            Target::new(cache, Rc::clone(control), Rc::clone(rules), settings, words, (teller, Rc::clone(twins)));
        let around = Around { part, ..renewed.around };
        let (repairs, holding) = (repairs.carried(), holding.carried());
        Target { around, done, repairs, echoes, holding, metered, measuring, ..renewed }
    }

    /// A load left the gate; `upto` is the position up to which everything was handed over with it, and `born` says when
    /// its oldest change committed.
    pub fn take_in(&mut self, mut load: Invalidations, upto: Option<A>, born: Option<std::time::Instant>) {
        self.around.rules.leave_out(&mut load);
        let mut load = self.share_of(load);
        if load.is_empty() {
            return upto.into_iter().for_each(|upto| self.take_position(upto));
        }
        self.hold_pages(&mut load);
        self.holding.hand(upto);
        let ticket = self.ledger.open_or_join(upto);
        if let Some(born) = born {
            self.ledger.date(&ticket, born);
        }
        self.wait(load, ticket);
    }

    /// Keys of tables whose changes do not come. Where keys that only may be stale stay, those that are stale go.
    pub fn take_untold(&mut self, Untold { all, altered }: Untold) {
        let mut load = if self.settings.policy.on_gap == OnGap::Warn { altered } else { all };
        self.around.rules.leave_out(&mut load);
        if load.is_empty() {
            return;
        }
        let ticket = self.ledger.open_or_join(None);
        self.wait(load, ticket);
    }

    /// Everything up to this position was handed over.
    pub fn take_position(&mut self, upto: A) {
        self.holding.hand(Some(upto));
        self.ledger.idle(upto);
    }

    /// A new connection of the stream starts here: the mark is compared with it. `altered`: what is watched is another
    /// than at the connection before.
    pub fn connected(&mut self, start: &Start, altered: bool, stream: &impl Positions<A>) {
        // Asked now, since what this very connection brings says nothing of what came before it. What was handed over is in
        // memory until it is answered, also where the position went on without this cache.
        let is_behind = self.reached().is_none_or(|ack| stream.lsn(ack) < start.confirmed);
        self.begins(start, altered || is_behind);
    }

    /// The same, and whether no memory of this process leads up to there.
    fn begins(&mut self, start: &Start, moved_on: bool) {
        let _speaking = speaks(&self.around.name);
        self.look.connected(start, moved_on);
        self.measuring.connected();
        self.holding.connected();
        self.read_mark();
    }

    /// The connection ended: nothing is given on until the next one was compared.
    pub fn disconnected(&mut self) {
        self.look.disconnected();
    }

    /// Another server, or another run of it: its positions say nothing about what was deleted before.
    pub fn leave_server(&mut self) {
        self.marking.leave_server();
        self.holding.leave_server();
        self.ring.clear();
        self.ask_replicas_anew();
    }

    /// Another daemon has the slot: the marks are its own from now on, and so are deletes behind ours.
    pub fn stand_by(&mut self) {
        self.look.stand_by();
        self.ring.clear();
        self.unmarked.clear();
    }

    /// Waits for whatever the target waits for.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<TargetHappened>> {
        let _speaking = speaks(&self.around.name);
        if self.poll_turn(cx).is_ready() {
            return Poll::Ready(Ok(TargetHappened::Turned));
        }
        if let Poll::Ready(landed) = self.flight.poll(cx) {
            return Poll::Ready(landed.map(TargetHappened::Landed));
        }
        if let Poll::Ready(swept) = self.sweeping.poll(cx) {
            return Poll::Ready(swept.map(TargetHappened::Swept));
        }
        // What is on its way to the cache may stand behind the mark that was read, or before it.
        if !self.flight.is_out()
            && !self.marking.is_writing()
            && let Poll::Ready(found) = self.look.poll(cx)
        {
            return Poll::Ready(found.map(TargetHappened::MarkRead));
        }
        if let Poll::Ready(round) = self.lagging.poll(cx) {
            return Poll::Ready(round.map(|()| TargetHappened::CaughtUp));
        }
        if let Poll::Ready(snapshot) = self.gaps.poll(cx) {
            return Poll::Ready(snapshot.map(TargetHappened::Looked));
        }
        if let Poll::Ready(measured) = self.measuring.poll(cx) {
            return Poll::Ready(Ok(TargetHappened::Measured(measured)));
        }
        let written = ready!(self.marking.poll(cx));
        Poll::Ready(written.map(TargetHappened::MarkWritten))
    }

    /// Whatever tells that another cache is the right one now is followed all the time.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.turning.is_out() {
            let (cache, since) = (Rc::clone(&self.cache), self.cache.lineage());
            self.turning.start(async move { cache.turned(since).await });
        }
        self.turning.poll(cx)
    }

    /// Does what follows.
    pub fn on(&mut self, happened: TargetHappened, stream: &impl Positions<A>) {
        let _speaking = speaks(&self.around.name);
        match happened {
            TargetHappened::Landed(landed) => self.landed(landed),
            TargetHappened::Swept(scanned) => self.swept(scanned),
            TargetHappened::MarkRead(found) => self.compare(found),
            TargetHappened::MarkWritten(written) => self.written(written, stream),
            TargetHappened::CaughtUp => self.caught_up(),
            TargetHappened::Looked(snapshot) => self.looked(snapshot),
            // Behind a stream's connection the mark is read anyway.
            TargetHappened::Turned if self.look.is_connected() => self.look_for_another_cache(),
            TargetHappened::Turned => {}
            TargetHappened::Measured(measured) => self.measuring.came(measured, Instant::now()),
        }
        self.date_what_is_proved();
    }

    /// Begins whatever can begin now.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::settled`].
    pub fn start(&mut self, turn: &Turn<'_, impl Positions<A>>) -> Result<()> {
        let _speaking = speaks(&self.around.name);
        self.let_go_when_absent();
        self.repair_what_is_owed(turn.now);
        self.read_bill(turn.now);
        // What is to be deleted rides with the mark where one is due.
        if self.metered.is_some() {
            self.confirm(turn)?;
        }
        if self.may_fly() && self.may_leave(turn) && (!turn.draining || self.inbox.is_some() || !self.again.is_empty())
        {
            let fresh = self.inbox.take();
            self.start_flight(fresh, turn.now);
        }
        self.start_sweep();
        self.start_measuring(turn);
        self.confirm(turn)
    }

    /// When the target has something to do, if nothing happens before.
    pub fn due(&self, turn: &Turn<'_, impl Positions<A>>) -> Option<Instant> {
        let (mark, measure) = (self.marking.due(self.may_beat(turn)), self.measure_due(turn));
        [self.flight_due(turn), mark, self.repairs.owed.due(), measure].into_iter().flatten().min()
    }

    /// Whether the cache may be asked to delete: one flight at a time, and none while the mark is read.
    fn may_fly(&self) -> bool {
        !self.flight.is_out() && !self.look.is_reading()
    }

    /// Whether the stream goes at its pace: at that of each cache, and not at that of a sink which waits for caches anyway.
    pub fn sets_the_pace(&self) -> bool {
        self.comes_after().is_none_or(|caches| caches.is_empty())
    }

    /// Whether a load that is made ready now may leave soon.
    pub fn takes(&self) -> bool {
        self.sets_the_pace() && (self.is_released() || (!self.flight.is_out() && self.has_room()))
    }

    /// Whether as much as this fits besides what waits: nothing of it would collapse.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.sets_the_pace() && bytes_of(&self.inbox) + bytes <= self.settings.memory_bytes_max / 8
    }

    /// The daemon stops: what was answered is marked without a pause.
    pub fn confirm_at_once(&mut self) {
        self.marking.confirm_at_once();
    }

    /// Whether nothing keeps a load from leaving at once.
    pub fn is_free(&self) -> bool {
        self.sets_the_pace() && self.may_fly() && self.has_room()
    }

    /// Whether a load need not wait for the one before; where flushes are paced, all that come share one.
    fn has_room(&self) -> bool {
        self.inbox.is_none() || self.metered.is_some()
    }

    /// Whether keys are wanted ahead of the gate.
    pub fn wants_early(&self) -> bool {
        self.is_free() && self.settings.policy.metering == Metering::None
    }

    /// Whether nothing is in flight that a stop waits for. Echoes are not awaited: they hold the position back, so the
    /// next start sends their keys again.
    pub fn is_finished(&self) -> bool {
        let nothing_waits = self.inbox.is_none() && self.behind.is_finished();
        let nothing_flies = nothing_waits && self.again.is_empty() && !self.flight.is_out();
        let nothing_moves = !self.marking.is_writing() && (!self.marking.is_owed() || !self.look.is_connected());
        (nothing_flies && nothing_moves && !self.sweeping.is_busy()) || self.is_absent()
    }

    /// Whether it takes tags and no keys.
    pub fn is_sink(&self) -> bool {
        self.settings.policy.sink.is_some()
    }

    /// What it is to a person.
    pub fn member(&self) -> Member {
        self.cache.member()
    }

    /// Whether nobody waits for it at a stop or before other rules: it is away, and the others go on. What it lacks its mark
    /// tells.
    fn is_absent(&self) -> bool {
        self.is_released() || (self.settings.company == Company::AmongOthers && self.cache.is_away())
    }

    /// Whether everything that came was answered and marked.
    pub fn is_settled(&self) -> bool {
        self.ledger.is_empty() && self.marking.is_settled()
    }

    /// Whether the mark was judged since the daemon started, or took over.
    pub fn is_known(&self) -> bool {
        self.look.is_known()
    }

    /// What the configuration calls the cache.
    pub fn is_named(&self, name: &str) -> bool {
        &*self.around.name == name
    }

    /// May use so much memory from now on, in bytes, and has this company.
    pub fn share(&mut self, memory_bytes_max: usize, company: Company) {
        self.settings.company = company;
        self.settings.memory_bytes_max = memory_bytes_max;
        self.ring.bound(memory_bytes_max / RING_PART);
    }

    /// Whether the daemon is ready only with this cache.
    pub fn is_required(&self) -> bool {
        self.settings.policy.required
    }

    /// The last position that the mark says of this server.
    pub fn marked(&self) -> Option<A> {
        self.marking.marked()
    }

    /// When the oldest change committed that was handed over and is not deleted.
    pub fn oldest(&mut self) -> Option<std::time::Instant> {
        self.ledger.oldest()
    }

    /// The position up to which the first delete of everything was answered once, for people who watch.
    pub fn answered_to(&mut self) -> Option<A> {
        self.ledger.answered_to()
    }
}
