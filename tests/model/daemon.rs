//! The daemon as `src/feed` and `src/target` have it, step by step, with one target. Real code in here:
//! `ledger::window::Window` keeps the order of positions, `gate::Snapshot` says what may leave, `mark::gap` and
//! `target::proof::meaning` judge the mark. One window stands for the ledgers of the feed and of the target: what is handed
//! over is known to the target at once.
//!
//! What only the daemon can see belongs to the step before it: a reply and what is done about it cannot be told apart
//! from outside. What others see is a step of its own: each command to the cache, each status.

mod steps;

use crieur::cache::continuity::Continuity;
use crieur::gate::Snapshot;
use crieur::ledger::window::{SpanId, Window};
use crieur::lsn::{Lsn, Xid};
use crieur::mark;
use crieur::target::proof::{Fit, Meaning, Slot, meaning};

use super::held::{Held, Ring};
use super::world::{Mark, Set, State, Swapping, Tx, bit};
use super::{Config, Guard, Protocol};

/// The smallest number of a transaction (`FirstNormalTransactionId` in `src/include/access/transam.h`); 0 means none.
const FIRST_NORMAL_XID: u32 = 3;

/// A transaction of the open batch.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Waiting {
    tx: u8,
    ack: u64,
    span: Option<SpanId>,
}

/// A snapshot, as `pg_current_snapshot()` says it, and the replica's position at that time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Seen {
    xmax: u32,
    in_progress: Vec<u32>,
    replayed: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Echo {
    span: SpanId,
    /// Readers that selected before the delete: the last echo comes after they have stored.
    after: Set,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Sweep {
    spans: Vec<SpanId>,
    lease_visited: bool,
    key_visited: bool,
    /// The cache became another meanwhile: it runs once more.
    again: bool,
    /// It ran before, and its echoes came or come.
    repeated: bool,
}

impl Sweep {
    fn is_through(&self) -> bool {
        self.lease_visited && self.key_visited
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Writing {
    /// `None` for a heartbeat that moves nothing.
    ack: Option<u64>,
    swapping: Swapping,
    /// The first span that it does not cover.
    first: SpanId,
}

/// Where a connection to PostgreSQL started.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Start {
    run: u8,
    confirmed: u64,
    created: bool,
}

impl Start {
    /// A slot that was found at this position.
    pub fn of_run(run: u8, confirmed: u64) -> Start {
        Start { run, confirmed, created: false }
    }
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Daemon {
    start: Option<Start>,
    /// The run of the server that was connected last.
    run: u8,
    next: u64,
    batch: Vec<Waiting>,
    early: bool,
    snapshot: Option<Seen>,
    window: Window<u64>,
    echoes: Vec<Echo>,
    /// What goes again as exact keys.
    again: Vec<SpanId>,
    /// The first one runs.
    sweeps: Vec<Sweep>,
    /// Gaps whose sweep comes once more, when these have ended.
    elders: Set,
    unswept: Vec<SpanId>,
    await_elders: bool,
    reading: bool,
    held: Held,
    anew: bool,
    answered: Option<u64>,
    marked: Option<u64>,
    writing: Option<Writing>,
    /// Told to the source, not yet to the server.
    acknowledged: Option<u64>,
    /// The connections to the cache are broken, and nobody has used one since.
    broken: bool,
    /// Where a new connection led since the mark was compared.
    changed: Continuity,
    /// Which cache the connections lead to, as it said itself when they were made.
    server: u8,
    ring: Ring,
    /// The key was deleted since the last mark, by a cache that does not say who it is; and it was swept.
    unmarked: bool,
    unmarked_sweep: bool,
}

/// A position names the run of the server that it belongs to: `era` of the source.
fn ack(run: u8, lsn: u64) -> u64 {
    u64::from(run) << 8 | lsn
}

fn lsn(ack: u64) -> u64 {
    ack & 0xFF
}

fn is_current(ack: u64, run: u8) -> bool {
    ack >> 8 == u64::from(run)
}

fn snapshot(state: &State) -> Seen {
    let ended = |tx: &usize| matches!(state.tx[*tx], Tx::Visible | Tx::Gone);
    // xmax is one past the last transaction that ended; those that run and come after it are not listed.
    let xmax = (0..state.tx.len()).filter(ended).map(|tx| tx as u32 + 1).max().unwrap_or(0);
    let in_progress = (0..xmax).filter(|tx| !ended(&(*tx as usize))).collect();
    Seen { xmax, in_progress, replayed: state.replayed }
}

impl Seen {
    /// The real gate's word.
    fn contains(&self, tx: u8) -> bool {
        let xid = |tx: u32| FIRST_NORMAL_XID + tx;
        let in_progress = self.in_progress.iter().copied().map(xid).collect();
        Snapshot::Taken { xmax: xid(self.xmax), in_progress }.contains(Xid(xid(tx.into())))
    }
}

/// The real comparison's word on a mark.
pub fn gap(found: Option<Mark>, start: Start) -> Option<mark::Gap> {
    let text = found.map(|found| {
        let mark = mark::Mark {
            nonce: String::new(),
            system: "1".into(),
            timeline: 1,
            slot: "model".into(),
            lsn: Lsn(found.lsn).to_string(),
            deleted: String::new(),
            late_ms: 0,
            at: 0,
            rules: String::new(),
            run: found.run.to_string(),
            publication: String::new(),
            published: None,
        };
        serde_json::to_vec(&mark).expect("a mark is plain data")
    });
    let start = crieur::start::Start {
        slot: if start.created { crieur::start::SlotOrigin::Created } else { crieur::start::SlotOrigin::Found },
        system: "1".into(),
        timeline: 1,
        confirmed: Lsn(start.confirmed),
        run: start.run.to_string(),
        publication: String::new(),
    };
    mark::gap(text.as_deref(), &start, "")
}

impl Daemon {
    /// A daemon that runs, connected, nothing done yet.
    pub fn running() -> Daemon {
        let window = Window::default();
        let mut ring = Ring::default();
        ring.marked(Mark::FIRST, window.first_open());
        let start = Some(Start::of_run(0, 0));
        Daemon { start, held: Held::Trusted(vec![Mark::FIRST]), window, ring, ..Daemon::default() }
    }

    /// A daemon that was just started.
    pub fn started(server: u8) -> Daemon {
        Daemon { server, ..Daemon::default() }
    }

    pub fn nobody_waits_for(&mut self, reader: usize) {
        self.echoes.iter_mut().for_each(|echo| echo.after &= !bit(reader));
    }

    pub fn mark_on_its_way(&self) -> Option<Swapping> {
        self.writing.as_ref().map(|writing| writing.swapping.clone())
    }

    /// A sweep begins anew; the last answer of one that was through may be on its way.
    pub fn cache_broke(&mut self) {
        self.broken = true;
        let cut = self.sweeps.iter_mut().filter(|sweep| !sweep.is_through());
        cut.for_each(|sweep| (sweep.lease_visited, sweep.key_visited) = (false, false));
    }

    /// `source_result` of the loop: what is in the batch stays and is deleted; it comes again.
    pub fn disconnected(&mut self) {
        self.start = None;
    }

    /// Everything that needs no answer from outside: `confirm` in `position.rs`.
    fn settle(&mut self, nonces: &mut u8, config: &Config) {
        if self.reading {
            return;
        }
        if let Some(ack) = self.window.confirm(|_| true).filter(|ack| is_current(*ack, self.run)) {
            self.answered = Some(ack);
        }
        let (None, Some(start)) = (&self.writing, self.start) else { return };
        // Behind a gap the heartbeat brings the first mark; any other is no step, see `heartbeat`.
        let first = matches!(self.held, Held::Gap { .. }) && self.window.is_empty() && self.unswept.is_empty();
        // What the next one carries is gone for certain then.
        let carries = matches!(self.held, Held::Trusted(_)) && !self.window.is_mending() && self.unmarked;
        let beat = first || carries;
        let ack = self.answered.take();
        if ack.is_none() && (!beat || config.lacks(Guard::Beat)) {
            return;
        }
        let run = if config.lacks(Guard::Run) { 0 } else { start.run };
        *nonces += 1;
        let upto = ack.or(self.marked).map_or(start.confirmed, |ack| lsn(ack).max(start.confirmed));
        let mark = Mark { lsn: upto, run, nonce: *nonces };
        let carries = std::mem::take(&mut self.unmarked);
        let swapping = Swapping { expected: self.held.expected(), mark, server: self.server, carries };
        self.writing = Some(Writing { ack, swapping, first: self.window.first_open() });
    }

    /// `compare` in `gap.rs`, by the same table.
    fn compare(&mut self, found: Option<Mark>, state: &State, config: &Config) {
        let Some(start) = self.start else { return };
        let (anew, changed) = (std::mem::take(&mut self.anew), std::mem::take(&mut self.changed));
        let judged = Start { run: if config.lacks(Guard::Run) { 0 } else { start.run }, ..start };
        let gap = gap(found, judged);
        let moved = start.created || self.marked.is_none_or(|marked| lsn(marked) < start.confirmed);
        let alike = |mark: &Mark| found == Some(*mark);
        let fit = match &self.held {
            Held::Nothing => Fit::First,
            Held::Trusted(known) if known.iter().any(alike) => Fit::Ours,
            Held::Trusted(_) => Fit::NotOurs,
            Held::Gap { was, .. } if *was == found => Fit::Unmoved,
            Held::Gap { maybe: Some(mark), .. } if alike(mark) => Fit::Arrived,
            Held::Gap { .. } => Fit::Moved,
        };
        let slot = match (anew, moved) {
            (false, _) => Slot::Compared,
            (true, false) => Slot::Continued,
            (true, true) => Slot::MovedOn,
        };
        match meaning(fit, changed, slot, gap) {
            _ if config.lacks(Guard::Mark) => self.held = Held::Trusted(found.into_iter().collect()),
            Meaning::Holds => {}
            Meaning::Covered => {
                found.into_iter().for_each(|found| self.ring.marked(found, self.window.first_open()));
                self.held = Held::Trusted(found.into_iter().collect());
            }
            Meaning::Arrived => self.held = Held::Trusted(found.into_iter().collect()),
            Meaning::Carried => self.carry_on(config),
            Meaning::Replay => self.go_on_from(found, state, config),
            Meaning::Sweep(gap) => self.gap(&gap, found, state, config),
        }
    }

    /// The next mark carries what was deleted since the last one; a sweep runs once more.
    fn carry_on(&mut self, config: &Config) {
        if std::mem::take(&mut self.unmarked_sweep) {
            let span = self.window.open_barrier(self.answered.take());
            self.sweep_for(vec![span], config);
            if let [only] = &mut self.sweeps[..] {
                only.repeated = true;
            }
        }
    }

    /// The cache is another than before: the ring, or a sweep.
    fn go_on_from(&mut self, found: Option<Mark>, state: &State, config: &Config) {
        if let Some(running) = self.sweeps.first_mut() {
            running.again = true;
        }
        let lacking = found.filter(|_| config.ring).and_then(|found| self.ring.take_since(found));
        let Some(lacking) = lacking else { return self.gap(&mark::Gap::WentBack, found, state, config) };
        self.held = Held::Trusted(found.into_iter().collect());
        if lacking.is_empty() || config.lacks(Guard::Ring) {
            return;
        }
        let span = self.window.open_barrier(self.answered.take());
        if lacking.contains(&true) {
            self.window.add_part(span);
            self.sweep_for(vec![span], config);
        }
        if lacking.contains(&false) {
            self.window.add_part(span);
            self.again.push(span);
        }
        self.window.part_done(span);
    }

    /// The cache may hold stale keys: `gap`, `sweep_everything` and `looked` in `gap.rs`.
    fn gap(&mut self, gap: &mark::Gap, found: Option<Mark>, state: &State, config: &Config) {
        self.held = Held::Gap { was: found, maybe: None };
        self.unswept.push(self.window.open_barrier(self.answered.take()));
        let waits = !matches!(gap, mark::Gap::WentBack | mark::Gap::Restarted | mark::Gap::OtherRules);
        self.await_elders |= waits && !config.lacks(Guard::WaitForOld);
        let runs = |tx: &usize| matches!(state.tx[*tx], Tx::Running | Tx::Logged);
        self.elders = (0..state.tx.len()).filter(runs).map(bit).sum();
        if self.await_elders && self.elders != 0 {
            self.unswept.iter().for_each(|span| self.window.add_part(*span));
            return self.sweep_for(self.unswept.clone(), config);
        }
        self.await_elders = false;
        let spans = std::mem::take(&mut self.unswept);
        self.sweep_for(spans, config);
    }

    fn sweep_for(&mut self, spans: Vec<SpanId>, config: &Config) {
        // What waits goes with the next pass.
        if let [_, waiting, ..] = &mut self.sweeps[..] {
            return waiting.spans.extend(spans);
        }
        let lease_visited = config.protocol != Protocol::Companion;
        self.sweeps.push(Sweep { spans, lease_visited, key_visited: false, again: false, repeated: false });
    }

    /// The answer to a mark was lost, or it was refused: `written` in `position.rs`.
    fn mark_is_unknown(&mut self, perhaps: bool) {
        let Some(writing) = self.writing.take() else { return };
        self.unmarked |= writing.swapping.carries;
        self.answered = self.answered.max(writing.ack.filter(|ack| is_current(*ack, self.run)));
        if perhaps {
            self.ring.marked(writing.swapping.mark, writing.first);
            self.held.lost(writing.swapping.mark);
        }
        self.reading = true;
    }

    /// The keys of these spans were deleted.
    fn delivered(&mut self, spans: Vec<SpanId>, held: Set, swept: bool, config: &Config) {
        self.unmarked |= config.nameless && !swept;
        self.unmarked_sweep |= config.nameless && swept;
        if let Some(last) = spans.iter().max().filter(|_| config.ring) {
            self.ring.push(*last, swept);
        }
        for span in spans {
            if config.echoes() {
                self.window.add_echo(span);
                self.echoes.push(Echo { span, after: held });
            }
            self.window.part_done(span);
        }
    }

    /// Deletes went through, perhaps on a new connection: `look_for_another_cache`.
    fn used(&mut self, server: u8, config: &Config) {
        if std::mem::take(&mut self.broken) {
            self.server = server;
            if config.lacks(Guard::Identity) {
                return;
            }
            let led = if config.nameless { Continuity::Unknown } else { Continuity::Another };
            (self.reading, self.changed) = (true, self.changed.max(led));
        }
    }
}
