//! The source's connection: what a new one means for what was collected on the old one, and what its errors mean.

use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::error::{Class, Result};
use crate::gate::Snapshot;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::pipeline::deliver::pause;
use crate::pipeline::gating::Gating;
use crate::pipeline::outage::{Outage, Say, span};
use crate::proof::Held;
use crate::source::Source;

/// A stream that ran this long was not refused for what it is: the next failure is a new one.
const STEADY: Duration = Duration::from_secs(1);

/// How often a daemon that stands by looks whether the slot is free.
pub(super) const STANDBY_INTERVAL: Duration = Duration::from_millis(300);

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Compares the mark in the cache with where a new connection starts, before anything is confirmed on it.
    pub(super) fn connected(&mut self) {
        if self.source.start() != self.compared.as_ref() {
            self.leave_other_server();
            self.streaming_since = Some(Instant::now());
            if let Some(lasted) = self.outage.lasted(Instant::now()) {
                let source = self.source.words().source;
                log!(Id::StreamResumed, after = span(lasted), "{source} goes on from the confirmed position");
            }
            self.standing_by = None;
            self.compared = self.source.start().cloned();
            let publication = self.compared.as_ref().map(|start| start.publication.clone());
            // Changes may be missing behind the last mark, so an old one in the cache hides no gap now: not even one
            // whose sweep is over and not yet marked.
            self.altered |= self.publication != publication;
            self.publication = publication;
            if let Some(start) = &self.compared {
                // An answer that is on its way may be of the server before.
                self.control.follow(start);
                self.answers.borrow_mut().clear();
                self.gating.forget();
                self.watching = None;
                if self.watch.is_held_back() {
                    (self.news)(News::HeldBack(false));
                }
                self.watch.begins_anew();
                self.watch_due = Some(Instant::now());
            }
            (self.news)(News::Streaming);
            self.connected_anew = true;
            self.read_catalog();
            self.read_mark();
        }
    }

    /// Another server, or another run of it: its transaction numbers say nothing about what was collected before, and
    /// its positions nothing about what was deleted. All of that goes at once; the mark decides about a sweep.
    fn leave_other_server(&mut self) {
        let Some(start) = self.source.start() else { return };
        let server = (start.system.clone(), start.timeline, start.run.clone());
        if self.server.replace(server.clone()).is_none_or(|known| known == server) {
            return;
        }
        if let Some(cut) = self.intake.batch.cut(&Snapshot::Everything, &mut self.window) {
            self.again.push_back(Delivery { load: cut.load, spans: cut.spans, stage: Stage::Fresh });
        }
        (self.gating, self.filling_since) = (Gating::default(), None);
        (self.answered, self.marked) = (None, None);
        self.ring.clear();
        self.ask_replicas_anew();
    }

    /// A definite error stops the daemon; any other ends the connection, and the source connects anew after a pause.
    pub(super) fn source_result(&mut self, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        let error = if self.server.is_some() { error.having_worked() } else { error };
        if let Class::Definite(_) = error.class {
            return Err(error);
        }
        let now = Instant::now();
        if self.streaming_since.take().is_some_and(|since| now.duration_since(since) >= STEADY) {
            self.source_backoff.reset();
            self.outage = Outage::default();
        }
        self.disconnect();
        if let Some(pid) = self.source.standing_by() {
            self.stand_by(pid);
            self.source_again = Some(now + STANDBY_INTERVAL);
            return Ok(());
        }
        (self.news)(News::Interrupted);
        let wait = pause(&mut self.source_backoff, &error);
        let (hint, again_in, chain) = (error.hint.as_deref(), span(wait), error.chain());
        let interrupted = self.source.words().interrupted;
        match self.outage.failed(&chain, now) {
            Say::First => log!(Id::StreamInterrupted, hint, again_in, "{interrupted}: {chain}"),
            Say::Still(lasted) => {
                log!(Id::StreamInterrupted.lasting(), hint, again_in, "{interrupted} for {}: {chain}", span(lasted))
            }
            Say::Nothing => {}
        }
        self.source_again = Some(now + wait);
        Ok(())
    }

    /// Ends the connection; what was committed on it stays.
    pub(super) fn disconnect(&mut self) {
        self.source.disconnect();
        self.intake.interrupted();
        self.compared = None;
    }

    /// Another session has the slot: a daemon that works, or what the server still holds of our own last connection.
    fn stand_by(&mut self, pid: u32) {
        // The marks are another's from now on, and so are deletes behind ours; what the slot has not confirmed comes again.
        self.held = Held::Nothing;
        self.ring.clear();
        self.source_backoff.reset();
        if pid != 0 && self.standing_by != Some(pid) {
            self.standing_by = Some(pid);
            self.ready = false;
            log!(Id::StandingBy, pid, "standing by: another session has the slot");
            (self.news)(News::StandingBy(pid));
        }
    }
}
