//! The daemon as `src/pipeline` has it, step by step. Real code in here: `ack::Window` keeps the order of positions,
//! `gate::Snapshot` says what may leave, `mark::gap` judges the mark.
//!
//! What only the daemon can see belongs to the step before it: a reply and what is done about it cannot be told apart
//! from outside. What others see is a step of its own: each command to the cache, each status.

use crieur::ack::{SpanId, Window};
use crieur::gate::Snapshot;
use crieur::lsn::{Lsn, Xid};
use crieur::mark;

use super::world::{Mark, Set, State, Tx, bit};
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
    /// Transactions that ran when it was asked for: their commits may not be in the stream.
    old: Set,
    lease_visited: bool,
    key_visited: bool,
    /// Only keys of the ring are deleted: no scan, and nothing to wait for.
    ring: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Writing {
    ack: u64,
    mark: Mark,
    /// The mark before was looked at; only without the stamp, where that is a command of its own.
    looked: bool,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// The server's run and the slot's position at the start of this connection.
    start: Option<(u8, u64)>,
    next: u64,
    batch: Vec<Waiting>,
    early: bool,
    snapshot: Option<Seen>,
    window: Window<u64>,
    echoes: Vec<Echo>,
    sweep: Option<Sweep>,
    reading: bool,
    /// What the mark may be.
    known: Vec<Mark>,
    answered: Option<u64>,
    writing: Option<Writing>,
    /// Told to the source, not yet to the server.
    acknowledged: Option<u64>,
    /// The connection to the cache is broken, and nobody has used it since.
    broken: bool,
    /// It was broken since the mark was last compared.
    suspect: bool,
    /// The ring holds every delete behind this mark.
    ring_from: Option<u64>,
    /// Positions of the deletes in the ring.
    ring: Vec<u64>,
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
fn gap(found: Option<Mark>, run: u8, confirmed: u64) -> bool {
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
        slot: mark::SlotOrigin::Found,
        system: "1".into(),
        timeline: 1,
        confirmed: Lsn(confirmed),
        run: run.to_string(),
        publication: String::new(),
    };
    mark::gap(text.as_deref(), &start, "").is_some()
}

impl Daemon {
    /// A daemon that runs, connected, nothing done yet.
    pub fn running() -> Daemon {
        let known = vec![Mark { lsn: 0, run: 0 }];
        Daemon { start: Some((0, 0)), known, ring_from: Some(0), ..Daemon::default() }
    }

    pub fn nobody_waits_for(&mut self, reader: usize) {
        self.echoes.iter_mut().for_each(|echo| echo.after &= !bit(reader));
    }

    pub fn mark_on_its_way(&self) -> Option<Mark> {
        self.writing.filter(|writing| writing.looked).map(|writing| writing.mark)
    }

    pub fn cache_broke(&mut self) {
        self.broken = true;
    }

    /// `source_result` of the loop: what is in the batch stays and is deleted; it comes again.
    pub fn disconnected(&mut self) {
        self.start = None;
    }

    /// Everything that needs no answer from outside: `confirm` in `position.rs`.
    fn settle(&mut self, config: &Config) {
        if self.reading {
            return;
        }
        if let Some(ack) = self.window.confirm(|_| true) {
            self.answered = Some(ack);
        }
        let (None, Some((run, _)), Some(ack)) = (self.writing, self.start, self.answered) else { return };
        self.answered = None;
        let run = if config.lacks(Guard::Run) { 0 } else { run };
        let looked = self.known.is_empty() || config.lacks(Guard::Mark) || !config.lacks(Guard::Stamp);
        self.writing = Some(Writing { ack, mark: Mark { lsn: ack, run }, looked });
    }

    /// The cache may hold stale keys: `gap` in `position.rs`.
    fn gap(&mut self, found: Option<Mark>, state: &State, config: &Config) {
        if config.lacks(Guard::Stamp) {
            self.known.clear();
        }
        let since = found.map(|found| found.lsn).filter(|lsn| self.ring_from.is_some_and(|from| *lsn >= from));
        let ring = config.ring && since.is_some();
        if ring && config.lacks(Guard::Ring) {
            return;
        }
        if let (false, Some(writing)) = (config.lacks(Guard::Stamp), self.writing.take()) {
            self.answered = self.answered.max(Some(writing.ack)); // Its stamp is not the last one: it will be refused.
        }
        let span = self.window.open_barrier(self.answered.take());
        let mut spans = self.sweep.take().map_or(Vec::new(), |sweep| sweep.spans);
        spans.push(span);
        let lacking = self.ring.iter().any(|ack| since.is_some_and(|since| *ack > since));
        let runs = |tx: &usize| matches!(state.tx[*tx], Tx::Running | Tx::Logged);
        let old =
            if ring || config.lacks(Guard::WaitForOld) { 0 } else { (0..state.tx.len()).filter(runs).map(bit).sum() };
        let nothing = ring && !lacking;
        let no_companion = config.protocol != Protocol::Companion;
        if !ring {
            (self.ring_from, self.ring) = (None, Vec::new());
        }
        self.sweep = Some(Sweep { spans, old, lease_visited: nothing || no_companion, key_visited: nothing, ring });
    }

    /// A command failed or what it found is not what was expected: `Written::Unknown` in `position.rs`.
    fn mark_is_unknown(&mut self, perhaps: Option<Mark>) {
        let Some(writing) = self.writing.take() else { return };
        self.answered = self.answered.max(Some(writing.ack));
        if !self.known.is_empty() {
            self.known.extend(perhaps);
        }
        self.reading = true;
    }

    /// With stamps nothing is deleted before the first one is set: there would be nothing to tell that it was lost.
    fn may_delete(&self, config: &Config) -> bool {
        config.lacks(Guard::Stamp) || !self.known.is_empty()
    }

    /// A command went through, perhaps on a new connection.
    fn used(&mut self) {
        if std::mem::take(&mut self.broken) {
            (self.reading, self.suspect) = (true, true);
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

    /// UNLINK, and in one with it the stamp. Says whether the stamp before was there.
    fn delete(&mut self, config: &Config) -> bool {
        self.cache.unlink();
        if let Some(copy) = &mut self.copy {
            copy.stamped = false;
        }
        let visible = |tx: &usize| {
            let place = self.wal.iter().position(|logged| usize::from(*logged) == *tx);
            let replayed = !config.replica || place.is_some_and(|place| (place as u64) < self.replayed);
            self.tx[*tx] == Tx::Visible && replayed
        };
        self.served |= (0..self.tx.len()).filter(visible).map(bit).sum::<Set>();
        self.cache.stamped || config.lacks(Guard::Stamp)
    }

    fn connect(&self) -> Option<State> {
        self.with(|state, daemon| {
            let (None, Some(confirmed)) = (daemon.start, state.slot) else { return None };
            daemon.start = Some((state.run, confirmed));
            (daemon.next, daemon.reading) = (confirmed, true);
            Some(())
        })
    }

    /// The walsender sends what is flushed, visible or not.
    fn receive(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            daemon.start.filter(|_| daemon.next < state.flushed)?;
            let tx = state.wal[daemon.next as usize];
            daemon.next += 1;
            if config.writers[usize::from(tx)] != Writer::Elsewhere {
                daemon.batch.push(Waiting { tx, ack: daemon.next, span: None });
                daemon.early = false;
                return Some(());
            }
            match daemon.batch.last_mut().filter(|last| last.span.is_none()) {
                Some(last) => last.ack = daemon.next,
                None => daemon.window.idle(daemon.next),
            }
            Some(())
        })
    }

    /// A delete ahead of the gate.
    fn delete_early(&self, config: &Config) -> Option<State> {
        let wanted = config.early && !config.lacks(Guard::Gate);
        self.with(|state, daemon| {
            (wanted && !daemon.early && !daemon.batch.is_empty() && daemon.may_delete(config)).then_some(())?;
            daemon.early = true;
            if !state.delete(config) {
                daemon.gap(state.cache.mark, state, config);
                state.stamp();
            }
            daemon.used();
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
        self.with(|state, daemon| {
            daemon.may_delete(config).then_some(())?;
            let seen = daemon.snapshot.take()?;
            let held = state.held_by();
            let stamped = state.delete(config);
            for mut waiting in std::mem::take(&mut daemon.batch) {
                let span = waiting.span.unwrap_or_else(|| daemon.window.open(Some(waiting.ack)));
                waiting.span = Some(span);
                if !config.lets_go(&seen, &waiting) {
                    daemon.batch.push(waiting);
                    continue;
                }
                daemon.ring.push(waiting.ack);
                if config.echoes() {
                    daemon.window.add_echo(span);
                    daemon.echoes.push(Echo { span, after: held });
                }
                daemon.window.part_done(span);
            }
            if !stamped {
                daemon.gap(state.cache.mark, state, config);
                state.stamp();
            }
            daemon.used();
            Some(())
        })
    }

    fn echo(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            daemon.may_delete(config).then_some(())?;
            let due = daemon.echoes.iter().position(|echo| echo.after == 0)?;
            let echo = daemon.echoes.remove(due);
            let stamped = state.delete(config);
            daemon.window.echo_done(echo.span);
            if !stamped {
                daemon.gap(state.cache.mark, state, config);
                state.stamp();
            }
            daemon.used();
            Some(())
        })
    }

    /// A stamp is set whatever was there: from now on this copy, and no other, has it.
    fn stamp(&mut self) {
        self.cache.stamped = true;
        if let Some(copy) = &mut self.copy {
            copy.stamped = false;
        }
    }

    /// Reads the mark and compares it: `compare` in `position.rs`. With stamps: reads and stamps, in one.
    fn read_mark(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            std::mem::take(&mut daemon.reading).then_some(())?;
            let Some((run, confirmed)) = daemon.start else { return Some(()) };
            let run = if config.lacks(Guard::Run) { 0 } else { run };
            let found = state.cache.mark;
            let known = |found: Mark| daemon.known.contains(&found);
            let went_back = match config.lacks(Guard::Stamp) {
                true => !daemon.known.is_empty() && !found.is_some_and(known),
                false => !daemon.known.is_empty() && !state.cache.stamped,
            };
            let suspect = std::mem::take(&mut daemon.suspect) && config.suspicious;
            state.stamp();
            if !config.lacks(Guard::Mark) && (went_back || suspect || gap(found, run, confirmed)) {
                daemon.gap(found, state, config);
            }
            // With stamps, an entry says only that there was a stamp.
            if let Some(found) = found.filter(|_| daemon.sweep.is_none()) {
                daemon.known = vec![found];
                daemon.ring_from = daemon.ring_from.or(Some(found.lsn));
            } else if !config.lacks(Guard::Stamp) {
                daemon.known = vec![Mark { lsn: 0, run }];
            }
            Some(())
        })
    }

    /// Only without stamps: GET before SET.
    fn look_at_mark(&self) -> Option<State> {
        self.with(|state, daemon| {
            let writing = daemon.writing.as_mut().filter(|writing| !writing.looked)?;
            let expected = state.cache.mark.is_some_and(|found| daemon.known.contains(&found));
            writing.looked = true;
            let mark = writing.mark;
            if daemon.broken {
                daemon.used();
                daemon.mark_is_unknown(Some(mark));
            } else if !expected {
                daemon.mark_is_unknown(None);
            }
            Some(())
        })
    }

    /// SET of the mark; with stamps a script that sets it only where the last stamp is.
    fn write_mark(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let writing = daemon.writing.filter(|writing| writing.looked)?;
            if daemon.broken {
                daemon.used();
                daemon.mark_is_unknown(Some(writing.mark));
                return Some(());
            }
            if !config.lacks(Guard::Stamp) && !state.cache.stamped {
                daemon.mark_is_unknown(None);
                return Some(());
            }
            state.cache.mark = Some(writing.mark);
            daemon.writing = None;
            daemon.known = vec![writing.mark];
            daemon.ring_from = daemon.ring_from.or(Some(writing.mark.lsn));
            daemon.acknowledged = Some(writing.ack);
            Some(())
        })
    }

    /// The mark is written, or not, and the answer is lost.
    fn lose_reply(&self, executed: bool) -> Option<State> {
        self.fault(Fault::ReplyLost)?.with(|state, daemon| {
            let writing = daemon.writing.filter(|writing| writing.looked)?;
            if executed {
                state.cache.mark = Some(writing.mark);
            }
            daemon.mark_is_unknown(Some(writing.mark));
            Some(())
        })
    }

    fn status(&self) -> Option<State> {
        self.with(|state, daemon| {
            daemon.start?;
            let confirmed = state.slot?;
            state.slot = Some(daemon.acknowledged.filter(|ack| *ack > confirmed)?);
            Some(())
        })
    }

    /// A scan visits a key at some moment; a companion lies in another bucket.
    fn sweep(&self, config: &Config, step: Step) -> Option<State> {
        self.with(|state, daemon| {
            let sweep = daemon.sweep.as_mut()?;
            let now = snapshot(state);
            let ended = (0..state.tx.len() as u8).all(|tx| sweep.old & bit(tx.into()) == 0 || now.contains(tx));
            let in_order = !config.lacks(Guard::LeasesFirst) || sweep.ring;
            let possible = match step {
                Step::SweepLease => !sweep.lease_visited,
                _ => !sweep.key_visited && (sweep.lease_visited || !in_order),
            };
            (ended && possible).then_some(())?;
            let stamped = match step {
                Step::SweepLease => {
                    sweep.lease_visited = true;
                    state.cache.lease = None;
                    state.cache.stamped || config.lacks(Guard::Stamp)
                }
                _ => {
                    sweep.key_visited = true;
                    // The companion goes only with a key that the scan found.
                    let lease = state.cache.lease.filter(|_| matches!(state.cache.key, super::world::Key::Empty));
                    let stamped = state.delete(config);
                    state.cache.lease = lease;
                    stamped
                }
            };
            if !stamped {
                daemon.gap(state.cache.mark, state, config);
                state.stamp();
            }
            Some(())
        })
    }

    fn end_sweep(&self, config: &Config) -> Option<State> {
        let held = self.held_by();
        self.with(|_, daemon| {
            let sweep = daemon.sweep.take_if(|sweep| sweep.lease_visited && sweep.key_visited)?;
            for span in sweep.spans {
                if config.echoes() {
                    daemon.window.add_echo(span);
                    daemon.echoes.push(Echo { span, after: held });
                }
                daemon.window.part_done(span);
            }
            Some(())
        })
    }

    /// The idle daemon looks after its mark. Where it would find what it expects, that is no step.
    fn heartbeat(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let busy = daemon.start.is_none() || daemon.reading || daemon.writing.is_some() || daemon.sweep.is_some();
            let surprised = match config.lacks(Guard::Stamp) {
                true => !state.cache.mark.is_some_and(|found| daemon.known.contains(&found)),
                false => !state.cache.stamped,
            };
            let broken = daemon.broken && config.suspicious;
            let beats = !busy && (!daemon.known.is_empty() && surprised || broken) && !config.lacks(Guard::Mark);
            daemon.reading = beats.then_some(true)?;
            daemon.used();
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
            (Step::Echo, self.echo(config)),
            (Step::ReadMark, self.read_mark(config)),
            (Step::LookAtMark, self.look_at_mark()),
            (Step::WriteMark, self.write_mark(config)),
            (Step::ReplyLost, self.lose_reply(true)),
            (Step::CommandLost, self.lose_reply(false)),
            (Step::Status, self.status()),
            (Step::SweepLease, self.sweep(config, Step::SweepLease)),
            (Step::SweepKey, self.sweep(config, Step::SweepKey)),
            (Step::SweepEnds, self.end_sweep(config)),
            (Step::Heartbeat, self.heartbeat(config)),
        ];
        for (step, next) in steps {
            if let Some(mut next) = next {
                if let Some(daemon) = &mut next.daemon {
                    daemon.settle(config);
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
