//! The position: which mark the cache holds, whether it proves a gap, and what may be confirmed. The only place of the
//! loop where a position moves.
//!
//! Before a position is confirmed to the server, the cache's mark says it; before the mark is written, the one before
//! it is looked at. A cache that went back in time is so noticed even when no connection broke.

use std::rc::Rc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{CONFIRM_INTERVAL, News, Pipeline};
use crate::cache::Cache;
use crate::config::OnGap;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::error::{Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::mark::{Gap, Mark, gap};
use crate::pipeline::deliver::{REMIND, insist};
use crate::rules::Invalidations;
use crate::source::Source;

/// What became of writing a mark.
pub(super) enum Written<A> {
    /// It is there; the position may be confirmed.
    Yes(A, Vec<u8>),
    /// The one before is not what was expected, or an answer was lost with this one perhaps written: the cache must be
    /// asked before anything is confirmed.
    Unknown(A, Option<Vec<u8>>, Option<Error>),
}

/// Writes the mark, after a look at the one before it. One try: whatever fails, the cache is asked what it holds.
async fn write_mark<C: Cache, A>(
    cache: Rc<C>,
    slot: String,
    known: Vec<Vec<u8>>,
    mark: Vec<u8>,
    ack: A,
) -> Result<Written<A>> {
    let steps = async {
        // Read even when nothing is known of it: the mark is written on the connection that it was read on, and one that
        // was idle for an echo may be closed.
        let found = cache.mark(&slot).await?;
        if !without(Guard::Mark) && !known.is_empty() && found.is_none_or(|found| !known.contains(&found)) {
            return Ok::<bool, Error>(false);
        }
        cache.set_mark(&slot, &mark).await?;
        Ok(true)
    };
    match steps.await {
        Ok(true) => Ok(Written::Yes(ack, mark)),
        Ok(false) => Ok(Written::Unknown(ack, None, None)),
        Err(error) if !error.is_transient() => Err(error.while_doing("write the mark")),
        Err(error) => Ok(Written::Unknown(ack, Some(mark), Some(error))),
    }
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    pub(super) fn read_mark(&mut self) {
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        self.reading_mark =
            Some(Box::pin(async move { Ok(insist("read the mark", async || cache.mark(&slot).await).await?.value) }));
    }

    /// The mark was read: sweep when it does not prove that the cache saw everything before the stream's start.
    pub(super) fn compare(&mut self, mark: Option<Vec<u8>>) {
        let Some(start) = &self.compared else { return };
        reached(Step::MarkRead);
        let digest = self.rules.digest();
        let known = |text: &[u8]| self.marks.iter().any(|mark| mark == text);
        let found = match mark.as_deref() {
            Some(text) if !self.marks.is_empty() && !known(text) => Some(Gap::WentBack),
            mark => gap(mark, start, &digest),
        };
        let found = found.filter(|_| !without(Guard::Mark));
        match (found, mark) {
            (Some(gap), _) => self.gap(&gap),
            (None, Some(text)) => self.marks = vec![text],
            (None, None) => {}
        }
        if !self.ready {
            self.ready = true;
            (self.news)(News::Ready);
        }
    }

    /// The cache may hold stale keys.
    fn gap(&mut self, gap: &Gap) {
        self.marks.clear();
        (self.news)(News::Gap(gap.kind()));
        match self.settings.on_gap {
            OnGap::Sweep => self.sweep_everything(gap),
            OnGap::Warn => {
                warn!("{gap}: it may hold stale keys until they expire (cache.on_gap is \"warn\")");
            }
        }
    }

    /// The mark was written, or not: only when it is there the position behind it may be confirmed.
    pub(super) fn written(&mut self, written: Written<S::Ack>) {
        match written {
            Written::Yes(ack, mark) => {
                reached(Step::MarkWritten);
                self.marks = vec![mark];
                self.totals.confirmed = self.source.lsn(ack);
                self.totals.confirmations += 1;
                self.source.acknowledge(ack);
                reached(Step::Acknowledged);
                self.tell();
            }
            Written::Unknown(ack, mark, error) => {
                self.complain_about_mark(error);
                self.answered = self.answered.max(Some(ack));
                if !self.marks.is_empty() {
                    self.marks.extend(mark);
                }
                self.read_mark();
            }
        }
    }

    /// With a full cache that evicts nothing, UNLINK works and the mark cannot be written: nothing is confirmed then.
    fn complain_about_mark(&mut self, error: Option<Error>) {
        let now = Instant::now();
        if let Some(error) = error
            && self.mark_said.is_none_or(|said| now.duration_since(said) >= REMIND)
        {
            self.mark_said = Some(now);
            let hint =
                error.hint.as_deref().unwrap_or("nothing is confirmed until it is written; WAL waits in the slot");
            warn!(hint, "failed to write the mark: {}", error.chain());
        }
    }

    fn sweep_everything(&mut self, gap: &Gap) {
        info!("{gap}: sweeping every key that the rules own");
        let mut load = Invalidations::default();
        load.everything(&self.rules, 0);
        load.widen_keys();
        let spans = vec![self.window.open_barrier(self.answered.take())];
        self.queue_sweep(Delivery { load, spans, stage: Stage::Fresh });
    }

    /// Moves the position over everything that was answered: first the mark in the cache, then the status.
    pub(super) fn confirm(&mut self, now: Instant) {
        if self.reading_mark.is_some() {
            return; // Whether a sweep must come first is not known yet.
        }
        let budget = self.settings.echo_wal_bytes_max;
        let source = &self.source;
        if let Some(ack) = self.window.confirm(|ack| source.bytes_behind(ack) <= budget) {
            self.answered = Some(ack);
        }
        if self.writing_mark.is_some() || self.confirm_due.is_some() {
            return;
        }
        let Some(start) = &self.compared else { return };
        let Some(ack) = self.answered.take() else { return };
        let mark = Mark {
            system: start.system.clone(),
            timeline: start.timeline,
            slot: self.settings.slot.clone(),
            lsn: self.source.lsn(ack).to_string(),
            at: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            rules: self.rules.digest(),
            run: start.run.clone(),
            publication: start.publication.clone(),
        };
        let mark = serde_json::to_vec(&mark).expect("a mark is plain data");
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        self.writing_mark = Some(Box::pin(write_mark(cache, slot, self.marks.clone(), mark, ack)));
        self.confirm_due = Some(now + CONFIRM_INTERVAL);
    }
}
