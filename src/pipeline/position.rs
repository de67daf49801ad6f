//! The position: what may be confirmed, and the mark that says so. The only place of the loop where a position moves.
//!
//! Before a position is confirmed to the server, the cache's mark says it; the mark is written only over the one that
//! was written last. A cache that went back in time is so noticed even when no connection broke, at the latest with
//! the next heartbeat.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use crate::ack::SpanId;
use crate::cache::{Cache, Swap};
use crate::config::{Metering, OnGap};
use crate::control::Control;
use crate::error::Error;
use crate::failpoints::{Guard, Step, reached, without};
use crate::lsn::Lsn;
use crate::mark::Mark;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::pipeline::outage::{Say, span};
use crate::pipeline::repairs::{UNPROVEN, When};
use crate::proof::Held;
use crate::source::Source;

/// How often the mark and, behind it, the confirmed position move at most. A status costs the server a slot update;
/// PostgreSQL recycles WAL at checkpoints, so a twentieth of a second loses nothing, and a second little.
fn confirm_interval(metering: Metering) -> Duration {
    match metering {
        Metering::None => Duration::from_millis(50),
        Metering::ByCommand => Duration::from_secs(1),
    }
}

/// The pause behind a mark that the cache refused, which it may do for hours: each try takes a new connection.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What became of writing a mark.
pub(super) enum Written {
    /// It is there, or another, or there is no place for it.
    Tried(Swap),
    /// The answer was lost: it may be there.
    Unknown(Error),
}

/// A mark on its way to the cache.
pub(super) struct Writing<A> {
    /// What may be confirmed once it is there; `None` for a heartbeat that moves nothing.
    ack: Option<A>,
    lsn: Lsn,
    mark: Mark,
    text: Vec<u8>,
    /// The first span that it does not cover.
    first: SpanId,
}

impl<A> Writing<A> {
    /// A heartbeat.
    pub(super) fn moves_nothing(&self) -> bool {
        self.ack.is_none()
    }
}

/// A text that no other mark has: 128 bits of the seed that the hasher draws anew each time.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    let seed = RandomState::new();
    format!("{:016x}{:016x}", seed.hash_one(0u8), seed.hash_one(1u8))
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Moves the position over everything that was answered: first the mark in the cache, then the status.
    pub(super) fn confirm(&mut self, now: Instant) {
        if self.reading_mark.is_some() {
            return; // Whether something must be deleted again first is not known yet.
        }
        let (source, budget) = (&self.source, self.settings.echo_wal_bytes_max);
        let (received, confirmed) = (source.received(), self.confirmed_to_server());
        let held_back = |upto: Option<S::Ack>| {
            let upto = upto.filter(|ack| source.is_current(*ack)).map(|ack| source.lsn(ack)).max(confirmed);
            upto.is_none_or(|upto| received.0.saturating_sub(upto.0) <= budget)
        };
        if let Some(ack) = self.window.confirm(held_back)
            && source.is_current(ack)
        {
            self.answered = Some(ack);
        }
        if self.writing.is_some() || self.confirm_due.is_some() || self.compared.is_none() {
            return;
        }
        let beat = self.beat_due.is_none_or(|due| due <= now) && self.may_beat();
        if self.answered.is_some() || beat {
            self.write_mark(now);
        }
    }

    /// What the server that is connected now has heard of; `None` while there is none and was none.
    fn confirmed_to_server(&self) -> Option<Lsn> {
        let start = self.compared.as_ref().map(|start| start.confirmed);
        self.marked.map(|ack| self.source.lsn(ack)).max(start)
    }

    /// One try: whatever fails, the cache is asked what it holds.
    fn write_mark(&mut self, now: Instant) {
        let Some(start) = &self.compared else { return };
        let ack = self.answered.take();
        // Where this connection started is covered, by the mark that was compared with it or by a sweep. The last mark
        // may say less: the slot was made anew.
        let lsn = ack.or(self.marked).map_or(start.confirmed, |ack| self.source.lsn(ack).max(start.confirmed));
        let mark = Mark {
            system: start.system.clone(),
            timeline: start.timeline,
            slot: self.settings.slot.clone(),
            lsn: lsn.to_string(),
            at: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            nonce: nonce(),
            rules: self.rules.digest().to_owned(),
            run: start.run.clone(),
            publication: start.publication.clone(),
        };
        let text = serde_json::to_vec(&mark).expect("a mark is plain data");
        let expected = self.held.expected();
        self.writing = Some(Writing { ack, lsn, mark, text: text.clone(), first: self.window.first_open() });
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        self.writing_mark = Some(Box::pin(async move {
            match cache.swap_mark(&slot, &expected, &text).await {
                Ok(swap) => Ok(Written::Tried(swap)),
                Err(error) if error.is_transient() => Ok(Written::Unknown(error)),
                Err(error) => Err(error.while_doing("write the mark")),
            }
        }));
        self.confirm_due = Some(now + confirm_interval(self.settings.metering));
        self.beat_due = Some(now + self.settings.heartbeat);
    }

    /// The mark was written, or not: only when it is there the position behind it may be confirmed.
    pub(super) fn written(&mut self, written: Written) {
        let Some(writing) = self.writing.take() else { return };
        // What is read meanwhile may be from before it.
        if self.reading_mark.is_some() {
            self.read_mark();
        }
        match written {
            Written::Tried(Swap::Written) => {
                reached(Step::MarkWritten);
                self.ring.marked(&writing.mark.nonce, writing.first);
                self.repairs.proved();
                if let Some(lasted) = self.mark_outage.over(Instant::now()) {
                    log!(Id::MarkWorks, cache = self.cache.name(), after = span(lasted), "the mark is written again");
                }
                self.held = Held::Trusted(vec![writing.text]);
                self.acknowledge(writing.ack);
                (self.news)(News::Marked(writing.lsn));
                self.tell();
            }
            // Without a mark the next start sweeps; until then the position may move.
            Written::Tried(Swap::Full) if self.settings.on_gap == OnGap::Sweep => {
                self.complain_about_mark(
                    "failed to write the mark: OOM, the cache is full and evicts nothing; the next start sweeps",
                    None,
                );
                self.acknowledge(writing.ack);
            }
            Written::Tried(Swap::Full) => {
                self.complain_about_mark(
                    "failed to write the mark: OOM, the cache is full and evicts nothing; nothing is confirmed",
                    None,
                );
                self.answered = self.answered.max(writing.ack);
            }
            Written::Tried(Swap::Other) if without(Guard::Mark) => {
                self.held = Held::Nothing;
                self.acknowledge(writing.ack);
            }
            // A server closes idle connections; the next beat must not find the same again.
            Written::Tried(Swap::Lost) => {
                self.may_be_there(&writing);
                self.answered = self.answered.max(writing.ack);
                self.beat_due = None;
                self.read_mark();
            }
            Written::Tried(Swap::Refused(error)) => {
                self.complain_about_mark("failed to write the mark", Some(error));
                self.answered = self.answered.max(writing.ack);
                self.confirm_due = Some(Instant::now() + REFUSED_PAUSE);
            }
            Written::Tried(Swap::Other | Swap::Unproven) => {
                self.answered = self.answered.max(writing.ack);
                let what = "the mark cannot be written where it was read";
                let when = self.repairs.when(UNPROVEN, what);
                if when != When::Now {
                    self.confirm_due = Some(Instant::now() + when.pause());
                }
                self.read_mark();
            }
            Written::Unknown(error) => {
                self.complain_about_mark("failed to write the mark", Some(error));
                self.answered = self.answered.max(writing.ack);
                self.may_be_there(&writing);
                self.read_mark();
            }
        }
    }

    /// The answer was lost. Should the mark be there, it covers what it says: the cache wrote it behind those deletes.
    fn may_be_there(&mut self, writing: &Writing<S::Ack>) {
        self.ring.marked(&writing.mark.nonce, writing.first);
        self.held.lost(writing.text.clone());
    }

    fn acknowledge(&mut self, ack: Option<S::Ack>) {
        if let Some(ack) = ack
            && self.source.is_current(ack)
        {
            self.marked = Some(ack);
            // A stream that brings the position forward is no refused one, however short it lives.
            self.source_backoff.reset();
            self.totals.confirmed = self.source.lsn(ack);
            self.totals.confirmations += 1;
            self.source.acknowledge(ack);
            reached(Step::Acknowledged);
        }
    }

    /// Once for each cause, and each minute.
    fn complain_about_mark(&mut self, what: &str, error: Option<Error>) {
        let cause = error.as_ref().map(|error| format!(": {}", error.chain())).unwrap_or_default();
        let line = format!("{what}{cause}");
        let cache = self.cache.name();
        let hint = match &error {
            Some(error) => error.hint.as_deref().unwrap_or("The log of the cache may tell why it refuses the mark."),
            None => "Raise maxmemory of the cache, or give it a maxmemory-policy that evicts keys.",
        };
        let id = if error.is_some() { Id::MarkFailing } else { Id::MarkFull };
        match self.mark_outage.failed(&line, Instant::now()) {
            Say::First => log!(id, hint, cache, "{line}"),
            // What lasts does not mend itself.
            Say::Still(_) => log!(id.lasting(), hint, cache, "{line}"),
            Say::Nothing => {}
        }
    }
}
