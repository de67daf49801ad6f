//! The steps of the daemon: each command to the cache, each status, each thing it learns.

use crieur::ledger::window::SpanId;

use super::{Daemon, Held, Ring, Seen, Start, Waiting, ack, is_current, lsn, snapshot};
use crate::model::world::{Key, Set, State, Swap, Tx, bit};
use crate::model::{Config, Fault, Guard, Protocol, Step, Writer};

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
            daemon.used(state.cache.server, config);
            Some(())
        })
    }

    /// `connected` and `leave_other_server` in `connect.rs`.
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
            daemon.used(state.cache.server, config);
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
            daemon.unmarked |= config.nameless;
            daemon.used(state.cache.server, config);
            Some(())
        })
    }

    /// A connection that the look itself makes counts only behind it: then the mark is read once more.
    fn read_mark(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            std::mem::take(&mut daemon.reading).then_some(())?;
            daemon.compare(state.cache.mark, state, config);
            daemon.used(state.cache.server, config);
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
            let mark = writing.swapping.mark;
            match state.cache.swap(&writing.swapping, config) {
                _ if config.lacks(Guard::Mark) => state.cache.mark = Some(mark),
                Swap::Written => {}
                Swap::Other => {
                    daemon.mark_is_unknown(false);
                    return Some(());
                }
                Swap::Unproven => {
                    daemon.broken = true;
                    daemon.mark_is_unknown(false);
                    return Some(());
                }
            }
            daemon.ring.marked(mark, writing.first);
            daemon.unmarked_sweep = false;
            (daemon.writing, daemon.held) = (None, Held::Trusted(vec![mark]));
            if let Some(ack) = writing.ack.filter(|ack| is_current(*ack, daemon.run)) {
                (daemon.marked, daemon.acknowledged) = (Some(ack), Some(ack));
            }
            Some(())
        })
    }

    /// The mark is written, or not, and the answer is lost.
    fn lose_reply(&self, config: &Config, executed: bool) -> Option<State> {
        self.fault(Fault::ReplyLost)?.with(|state, daemon| {
            let writing = daemon.writing.clone()?;
            // A broken connection does not lead to the new server.
            if executed && !daemon.broken {
                state.cache.swap(&writing.swapping, config);
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
            let lease = state.cache.lease.filter(|_| matches!(state.cache.key, Key::Empty));
            state.delete(config);
            state.cache.lease = lease;
            Some(())
        })
    }

    fn end_sweep(&self, config: &Config) -> Option<State> {
        let held = self.held_by();
        self.with(|_, daemon| {
            let running = daemon.sweeps.first_mut().filter(|sweep| sweep.is_through())?;
            if std::mem::take(&mut running.again) {
                (running.lease_visited, running.key_visited) = (config.protocol != Protocol::Companion, false);
                return Some(());
            }
            let sweep = daemon.sweeps.remove(0);
            if sweep.repeated {
                daemon.unmarked_sweep = true;
                for span in sweep.spans {
                    daemon.window.part_done(span);
                }
                return Some(());
            }
            daemon.delivered(sweep.spans, held, true, config);
            Some(())
        })
    }

    /// The idle daemon writes its mark again. Where it finds what it expects, that is no step.
    fn heartbeat(&self, config: &Config) -> Option<State> {
        self.with(|state, daemon| {
            let free = daemon.start.is_some() && !daemon.reading && daemon.writing.is_none();
            let trusted = matches!(daemon.held, Held::Trusted(_)) && !daemon.window.is_mending();
            let another = daemon.server != state.cache.server && config.asks_who();
            let surprised = daemon.broken || another || !daemon.held.expected().contains(&state.cache.mark);
            (free && trusted && surprised && !config.lacks(Guard::Mark)).then_some(())?;
            daemon.broken |= another;
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
            (Step::ReplyLost, self.lose_reply(config, true)),
            (Step::CommandLost, self.lose_reply(config, false)),
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
