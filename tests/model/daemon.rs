//! The daemon as `src/pipeline` has it, step by step. Real code in here: `ack::Window` keeps the order of positions,
//! `gate::Snapshot` says what may leave, `mark::gap` judges the mark.
//!
//! What only the daemon can see belongs to the step before it: a reply and what is done about it cannot be told apart
//! from outside. What others see is a step of its own: each command to the cache, each status.

use crieur::ack::{SpanId, Window};
use crieur::gate::Snapshot;
use crieur::lsn::{Lsn, Xid};
use crieur::mark;

use super::held::{Held, Ring};
use super::world::{Mark, Set, State, Swapping, Tx, bit};
use super::{Config, Fault, Guard, Protocol, Step, Writer};

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
struct Start {
    run: u8,
    confirmed: u64,
    created: bool,
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
    /// A new connection led to another cache since the mark was compared.
    changed: bool,
    ring: Ring,
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
fn gap(found: Option<Mark>, start: Start) -> Option<mark::Gap> {
    let text = found.map(|found| {
        let mark = mark::Mark {
            nonce: String::new(),
            system: "1".into(),
            timeline: 1,
            slot: "model".into(),
            lsn: Lsn(found.lsn).to_string(),
            at: 0,
            rules: String::new(),
            run: found.run.to_string(),
            publication: String::new(),
        };
        serde_json::to_vec(&mark).expect("a mark is plain data")
    });
    let start = mark::Start {
        slot: if start.created { mark::SlotOrigin::Created } else { mark::SlotOrigin::Found },
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
        let start = Some(Start { run: 0, confirmed: 0, created: false });
        Daemon { start, held: Held::Trusted(vec![Mark::FIRST]), window, ring, ..Daemon::default() }
    }

    pub fn nobody_waits_for(&mut self, reader: usize) {
        self.echoes.iter_mut().for_each(|echo| echo.after &= !bit(reader));
    }

    pub fn mark_on_its_way(&self) -> Option<Swapping> {
        self.writing.as_ref().map(|writing| writing.swapping.clone())
    }

    pub fn cache_broke(&mut self) {
        self.broken = true;
        self.sweeps.iter_mut().for_each(|sweep| (sweep.lease_visited, sweep.key_visited) = (false, false));
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
        let beat = matches!(self.held, Held::Gap { .. }) && self.window.is_empty() && self.unswept.is_empty();
        let ack = self.answered.take();
        if ack.is_none() && (!beat || config.lacks(Guard::Beat)) {
            return;
        }
        let run = if config.lacks(Guard::Run) { 0 } else { start.run };
        *nonces += 1;
        let mark = Mark { lsn: ack.or(self.marked).map_or(start.confirmed, lsn), run, nonce: *nonces };
        let swapping = Swapping { expected: self.held.expected(), mark };
        self.writing = Some(Writing { ack, swapping, first: self.window.first_open() });
    }

    /// `compare` in `gap.rs`, in the order of its arms.
    fn compare(&mut self, found: Option<Mark>, state: &State, config: &Config) {
        let Some(start) = self.start else { return };
        let (anew, changed) = (std::mem::take(&mut self.anew), std::mem::take(&mut self.changed));
        let judged = Start { run: if config.lacks(Guard::Run) { 0 } else { start.run }, ..start };
        let gap = gap(found, judged);
        let moved = start.created || self.marked.is_none_or(|marked| lsn(marked) < start.confirmed);
        let alike = |mark: &Mark| found == Some(*mark);
        match (self.held.clone(), gap) {
            _ if config.lacks(Guard::Mark) => self.held = Held::Trusted(found.into_iter().collect()),
            (_, Some(gap)) if anew && (moved || !matches!(gap, mark::Gap::Behind { .. })) => {
                self.gap(&gap, found, state, config);
            }
            (Held::Nothing, None) => {
                found.into_iter().for_each(|found| self.ring.marked(found, self.window.first_open()));
                self.held = Held::Trusted(found.into_iter().collect());
            }
            (Held::Nothing, Some(gap)) => self.gap(&gap, found, state, config),
            (Held::Trusted(known), _) if changed || !known.iter().any(alike) => self.go_on_from(found, state, config),
            (Held::Trusted(_), _) => {}
            (Held::Gap { was, .. }, _) if was == found && !changed => {}
            (Held::Gap { maybe: Some(mark), .. }, _) if alike(&mark) && !changed => {
                self.held = Held::Trusted(vec![mark]);
            }
            (Held::Gap { .. }, gap) => self.gap(&gap.unwrap_or(mark::Gap::WentBack), found, state, config),
        }
    }

    /// The cache is another than before: the ring, or a sweep.
    fn go_on_from(&mut self, found: Option<Mark>, state: &State, config: &Config) {
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
        self.sweeps.push(Sweep { spans, lease_visited, key_visited: false });
    }

    /// The answer to a mark was lost, or it was refused: `written` in `position.rs`.
    fn mark_is_unknown(&mut self, perhaps: bool) {
        let Some(writing) = self.writing.take() else { return };
        self.answered = self.answered.max(writing.ack.filter(|ack| is_current(*ack, self.run)));
        if perhaps {
            self.held.lost(writing.swapping.mark);
        }
        self.reading = true;
    }

    /// The keys of these spans were deleted.
    fn delivered(&mut self, spans: Vec<SpanId>, held: Set, swept: bool, config: &Config) {
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
    fn used(&mut self, config: &Config) {
        if std::mem::take(&mut self.broken) && !config.lacks(Guard::Identity) {
            (self.reading, self.changed) = (true, true);
        }
    }
}

impl State {
    fn with(&self, change: impl FnOnce(&mut State, &mut Daemon) -> Option<()>) -> Option<State> {
        let mut next = State { daemon: None, ..self.clone() };
        let mut daemon = self.daemon.clone()?;
        change(&mut next, &mut daemon)?;
        next.daemon = Some(daemon);
        Some(next)
    }

    fn delete(&mut self, config: &Config) {
        self.cache.unlink();
        let visible = |tx: &usize| {
            let place = self.wal.iter().position(|logged| usize::from(*logged) == *tx);
            let replayed = !config.replica || place.is_some_and(|place| (place as u64) < self.replayed);
            self.tx[*tx] == Tx::Visible && replayed
        };
        self.served |= (0..self.tx.len()).filter(visible).map(bit).sum::<Set>();
    }

    /// A flight: not while the mark is read. What it finds out about the connection comes behind it.
    fn fly(
        &self,
        config: &Config,
        spans: impl FnOnce(&mut State, &mut Daemon) -> Option<Vec<SpanId>>,
    ) -> Option<State> {
        self.with(|state, daemon| {
            (!daemon.reading).then_some(())?;
            let spans = spans(state, daemon)?;
            let held = state.held_by();
            state.delete(config);
            daemon.delivered(spans, held, false, config);
            daemon.used(config);
            Some(())
        })
    }

    /// `connected` and `leave_other_server` in `connection.rs`.
    fn connect(&self) -> Option<State> {
        self.with(|state, daemon| {
            let (None, Some(confirmed)) = (daemon.start, state.slot) else { return None };
            let created = std::mem::take(&mut state.created);
            daemon.start = Some(Start { run: state.run, confirmed, created });
            if daemon.run != state.run {
                daemon.run = state.run;
                for waiting in std::mem::take(&mut daemon.batch) {
                    let span = waiting.span.unwrap_or_else(|| daemon.window.open(Some(waiting.ack)));
                    daemon.again.push(span);
                }
                (daemon.snapshot, daemon.answered, daemon.marked) = (None, None, None);
                daemon.ring = Ring::default();
            }
            (daemon.next, daemon.reading, daemon.anew) = (confirmed, true, true);
            Some(())
        })
    }

    /// The walsender sends what is flushed, visible or not.
    fn receive(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            daemon.start.filter(|_| daemon.next < state.flushed)?;
            let tx = state.wal[daemon.next as usize];
            daemon.next += 1;
            let ack = ack(daemon.run, daemon.next);
            if config.writers[usize::from(tx)] != Writer::Elsewhere {
                daemon.batch.push(Waiting { tx, ack, span: None });
                daemon.early = false;
                return Some(());
            }
            match daemon.batch.last_mut().filter(|last| last.span.is_none()) {
                Some(last) => last.ack = ack,
                None => daemon.window.idle(ack),
            }
            Some(())
        })
    }

    fn delete_early(&self, config: &Config) -> Option<State> {
        let wanted = config.early && !config.lacks(Guard::Gate);
        self.with(|state, daemon| {
            (wanted && !daemon.reading && !daemon.early && !daemon.batch.is_empty()).then_some(())?;
            daemon.early = true;
            state.delete(config);
            daemon.used(config);
            Some(())
        })
    }

    /// A snapshot that contains nothing of the batch is taken again: it is no step.
    fn take_snapshot(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let seen = snapshot(state);
            let leaves = |waiting: &Waiting| config.lets_go(&seen, waiting);
            (daemon.snapshot.is_none() && daemon.batch.iter().any(leaves)).then_some(())?;
            daemon.snapshot = Some(seen);
            Some(())
        })
    }

    /// What the snapshot contains leaves: cut, UNLINK, every reply read.
    fn deliver(&self, config: &Config) -> Option<State> {
        self.fly(config, |_, daemon| {
            let seen = daemon.snapshot.take()?;
            let mut leaving = Vec::new();
            for mut waiting in std::mem::take(&mut daemon.batch) {
                let span = waiting.span.unwrap_or_else(|| daemon.window.open(Some(waiting.ack)));
                waiting.span = Some(span);
                match config.lets_go(&seen, &waiting) {
                    true => leaving.push(span),
                    false => daemon.batch.push(waiting),
                }
            }
            Some(leaving)
        })
    }

    fn again(&self, config: &Config) -> Option<State> {
        self.fly(config, |_, daemon| (!daemon.again.is_empty()).then(|| std::mem::take(&mut daemon.again)))
    }

    fn echo(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let due = daemon.echoes.iter().position(|echo| echo.after == 0 && !daemon.reading)?;
            let echo = daemon.echoes.remove(due);
            state.delete(config);
            daemon.window.echo_done(echo.span);
            daemon.used(config);
            Some(())
        })
    }

    /// A connection that the look itself makes counts only behind it: then the mark is read once more.
    fn read_mark(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            std::mem::take(&mut daemon.reading).then_some(())?;
            daemon.compare(state.cache.mark, state, config);
            daemon.used(config);
            daemon.reading &= daemon.start.is_some();
            Some(())
        })
    }

    fn write_mark(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let writing = daemon.writing.clone()?;
            if daemon.broken {
                daemon.mark_is_unknown(true);
                return Some(());
            }
            if config.lacks(Guard::Mark) {
                state.cache.mark = Some(writing.swapping.mark);
            } else if !state.cache.swap(&writing.swapping) {
                daemon.mark_is_unknown(false);
                return Some(());
            }
            let mark = writing.swapping.mark;
            daemon.ring.marked(mark, writing.first);
            (daemon.writing, daemon.held) = (None, Held::Trusted(vec![mark]));
            if let Some(ack) = writing.ack.filter(|ack| is_current(*ack, daemon.run)) {
                (daemon.marked, daemon.acknowledged) = (Some(ack), Some(ack));
            }
            Some(())
        })
    }

    /// The mark is written, or not, and the answer is lost.
    fn lose_reply(&self, executed: bool) -> Option<State> {
        self.fault(Fault::ReplyLost)?.with(|state, daemon| {
            let writing = daemon.writing.clone()?;
            if executed {
                state.cache.swap(&writing.swapping);
            }
            daemon.mark_is_unknown(true);
            Some(())
        })
    }

    fn status(&self) -> Option<State> {
        self.with(|state, daemon| {
            daemon.start?;
            let confirmed = state.slot?;
            let acknowledged = daemon.acknowledged.filter(|ack| is_current(*ack, daemon.run));
            state.slot = Some(acknowledged.map(lsn).filter(|lsn| *lsn > confirmed)?);
            Some(())
        })
    }

    /// What ran at the gap has ended: the sweep comes once more.
    fn elders_ended(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let now = snapshot(state);
            let ended = (0..state.tx.len() as u8).all(|tx| daemon.elders & bit(tx.into()) == 0 || now.contains(tx));
            (daemon.await_elders && ended).then_some(())?;
            (daemon.await_elders, daemon.elders) = (false, 0);
            let spans = std::mem::take(&mut daemon.unswept);
            daemon.sweep_for(spans, config);
            Some(())
        })
    }

    /// A scan visits a key at some moment; a companion lies in another bucket.
    fn sweep(&self, config: &Config, step: Step) -> Option<State> {
        self.with(|state, daemon| {
            let sweep = daemon.sweeps.first_mut()?;
            let in_order = !config.lacks(Guard::LeasesFirst);
            match step {
                Step::SweepLease => (!sweep.lease_visited).then_some(())?,
                _ => (!sweep.key_visited && (sweep.lease_visited || !in_order)).then_some(())?,
            }
            if let Step::SweepLease = step {
                sweep.lease_visited = true;
                state.cache.lease = None;
                return Some(());
            }
            sweep.key_visited = true;
            // The companion goes only with a key that the scan found.
            let lease = state.cache.lease.filter(|_| matches!(state.cache.key, super::world::Key::Empty));
            state.delete(config);
            state.cache.lease = lease;
            Some(())
        })
    }

    fn end_sweep(&self, config: &Config) -> Option<State> {
        let held = self.held_by();
        self.with(|_, daemon| {
            let done = daemon.sweeps.first().is_some_and(|sweep| sweep.lease_visited && sweep.key_visited);
            let sweep = done.then(|| daemon.sweeps.remove(0))?;
            daemon.delivered(sweep.spans, held, true, config);
            Some(())
        })
    }

    /// The idle daemon writes its mark again. Where it finds what it expects, that is no step.
    fn heartbeat(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let free = daemon.start.is_some() && !daemon.reading && daemon.writing.is_none();
            let trusted = matches!(daemon.held, Held::Trusted(_)) && !daemon.window.is_barred();
            let surprised = daemon.broken || !daemon.held.expected().contains(&state.cache.mark);
            (free && trusted && surprised && !config.lacks(Guard::Mark)).then_some(())?;
            daemon.reading = true;
            Some(())
        })
    }

    /// Every step of the daemon.
    pub fn each_of_daemon(&self, config: &Config, found: &mut dyn FnMut(Step, State)) {
        if self.daemon.is_none() {
            return;
        }
        let steps = [
            (Step::Connect, self.connect()),
            (Step::Receive, self.receive(config)),
            (Step::DeleteEarly, self.delete_early(config)),
            (Step::Snapshot, self.take_snapshot(config)),
            (Step::Deliver, self.deliver(config)),
            (Step::Again, self.again(config)),
            (Step::Echo, self.echo(config)),
            (Step::ReadMark, self.read_mark(config)),
            (Step::WriteMark, self.write_mark(config)),
            (Step::ReplyLost, self.lose_reply(true)),
            (Step::CommandLost, self.lose_reply(false)),
            (Step::Status, self.status()),
            (Step::EldersEnded, self.elders_ended(config)),
            (Step::SweepLease, self.sweep(config, Step::SweepLease)),
            (Step::SweepKey, self.sweep(config, Step::SweepKey)),
            (Step::SweepEnds, self.end_sweep(config)),
            (Step::Heartbeat, self.heartbeat(config)),
        ];
        for (step, next) in steps {
            if let Some(mut next) = next {
                if let Some(daemon) = &mut next.daemon {
                    daemon.settle(&mut next.nonces, config);
                }
                found(step, next);
            }
        }
    }
}

impl Config {
    /// Whether a waiting transaction leaves with this snapshot.
    fn lets_go(&self, seen: &Seen, waiting: &Waiting) -> bool {
        let visible = self.lacks(Guard::Gate) || seen.contains(waiting.tx);
        let replayed = !self.replica || self.lacks(Guard::Replica) || seen.replayed >= waiting.ack;
        visible && replayed
    }
}
