//! The source's connection: what a new one means for what was collected on the old one, and what its errors mean.

use std::time::Duration;

use tokio::time::Instant;

use super::Feed;
use crate::control::Control;
use crate::error::{Class, Error, Result};
use crate::feed::connection::{Connected, Ended};
use crate::feed::gating::Gating;
use crate::gate::Snapshot;
use crate::insist::pause;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::outage::{Outage, Say, span};
use crate::source::Source;
use crate::start::Start;

/// A stream that ran this long was not refused for what it is: the next failure is a new one.
const STEADY: Duration = Duration::from_secs(1);

/// How often a daemon that stands by looks whether the slot is free.
const STANDBY_INTERVAL: Duration = Duration::from_millis(300);

impl<S, D> Feed<S, D>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    /// Whether there is a connection of the stream.
    pub fn is_connected(&self) -> bool {
        self.connection.start.is_some()
    }

    /// A connection that was not seen before: whoever has something to compare with its start does so now.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::settled`](crate::ledger::Ledger::settled).
    pub fn connected(&mut self) -> Result<Option<Connected>> {
        let Some(start) = self.source.start().filter(|start| Some(*start) != self.connection.start.as_ref()) else {
            return Ok(None);
        };
        let start = start.clone();
        let is_other_server = self.leave_other_server(&start)?;
        let now = Instant::now();
        self.connection.streaming_since = Some(now);
        if let Some(lasted) = self.connection.outage.lasted(now) {
            let source = self.source.words().source;
            log!(Id::StreamResumed, after = span(lasted), "{source} goes on from the confirmed position");
        }
        self.connection.standing_by = None;
        self.connection.start = Some(start.clone());
        let publication = Some(start.publication.clone());
        let altered = self.connection.publication.replace(start.publication.clone()) != publication;
        // An answer that is on its way may be of the server before.
        self.control.follow(&start);
        self.lookups.connected();
        self.gating.forget();
        if self.watching.is_held_back() {
            self.teller.tell(News::HeldBack(false));
        }
        self.watching.begins_anew();
        self.teller.tell(News::Streaming);
        self.read_catalog();
        Ok(Some(Connected { start, is_other_server, altered }))
    }

    /// Another server, or another run of it: its transaction numbers say nothing about what was collected before. All of
    /// that goes at once; the mark decides about a sweep.
    fn leave_other_server(&mut self, start: &Start) -> Result<bool> {
        let server = (start.system.clone(), start.timeline, start.run.clone());
        if self.connection.server.replace(server.clone()).is_none_or(|known| known == server) {
            return Ok(false);
        }
        let cut = self.intake.batch.cut(&Snapshot::Everything, &mut self.ledger);
        (self.gating, self.filling_since) = (Gating::default(), None);
        if let Some(cut) = cut {
            self.leave(cut)?;
        }
        Ok(true)
    }

    /// A definite error stops the daemon; any other ends the connection, and the source connects anew after a pause.
    ///
    /// # Errors
    ///
    /// The definite one.
    pub fn ended(&mut self, error: Error) -> Result<Ended> {
        let error = if self.connection.server.is_some() { error.having_worked() } else { error };
        if let Class::Definite(_) = error.class {
            return Err(error);
        }
        let now = Instant::now();
        if self.connection.streaming_since.take().is_some_and(|since| now.duration_since(since) >= STEADY) {
            self.connection.backoff.reset();
            self.connection.outage = Outage::default();
        }
        self.disconnect();
        if let Some(pid) = self.source.standing_by() {
            self.connection.again = Some(now + STANDBY_INTERVAL);
            return Ok(Ended::StandingBy(self.stand_by(pid)));
        }
        self.teller.tell(News::Interrupted);
        let wait = pause(&mut self.connection.backoff, &error);
        let (hint, again_in, chain) = (error.hint.as_deref(), span(wait), error.chain());
        let interrupted = self.source.words().interrupted;
        match self.connection.outage.failed(&chain, now) {
            Say::First => log!(Id::StreamInterrupted, hint, again_in, "{interrupted}: {chain}"),
            Say::Still(lasted) => {
                log!(Id::StreamInterrupted.lasting(), hint, again_in, "{interrupted} for {}: {chain}", span(lasted))
            }
            Say::Nothing => {}
        }
        self.connection.again = Some(now + wait);
        Ok(Ended::Interrupted)
    }

    /// The connection no longer stands for what the mark says: the next one is made in a moment.
    pub(super) fn connect_anew(&mut self, now: Instant) {
        self.disconnect();
        self.connection.again = Some(now + STANDBY_INTERVAL);
    }

    /// Ends the connection; what was committed on it stays.
    pub fn disconnect(&mut self) {
        self.source.disconnect();
        self.intake.interrupted();
        self.connection.start = None;
    }

    /// What the slot has not confirmed comes again. Says whether it is news that another has the slot.
    fn stand_by(&mut self, pid: u32) -> bool {
        self.connection.backoff.reset();
        let is_news = pid != 0 && self.connection.standing_by != Some(pid);
        if is_news {
            self.connection.standing_by = Some(pid);
            log!(Id::StandingBy, pid, "another session has the slot: this daemon stands by");
            self.teller.tell(News::StandingBy(pid));
        }
        is_news
    }
}
