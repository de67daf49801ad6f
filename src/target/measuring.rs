//! What a cache says of its hits and its memory: asked twice a minute, when nothing else is asked, and kept for some
//! minutes.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::statistics::{CacheSaid, Statistics};
use crate::error::Result;
use crate::kept::Kept;

/// How often a cache is asked.
const INTERVAL: Duration = Duration::from_secs(30);

/// What the cache said lately: the last five minutes are those between the first and the last of these.
const SAMPLES: usize = 11;

/// What was said, and the question that is out.
#[derive(Debug, Default)]
pub(super) struct Measuring {
    out: Kept<Result<Option<CacheSaid>>>,
    /// The next question; `None` while the cache says nothing.
    due: Option<Instant>,
    samples: VecDeque<(Instant, CacheSaid)>,
}

impl Measuring {
    /// The stream is connected: a cache that said nothing is asked again.
    pub(super) fn connected(&mut self) {
        self.due = self.due.or(Some(Instant::now()));
    }

    /// When the cache is to be asked, where nothing keeps it from that.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.out.is_out())
    }

    /// Asks.
    pub(super) fn start(&mut self, question: impl Future<Output = Result<Option<CacheSaid>>> + 'static) {
        self.out.start(question);
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<CacheSaid>>> {
        self.out.poll(cx)
    }

    /// The cache answered, or not: whether it is away is said by what deletes.
    pub(super) fn came(&mut self, answer: Result<Option<CacheSaid>>, now: Instant) {
        self.due = Some(now + INTERVAL);
        match answer {
            Ok(Some(said)) => self.keep(said, now),
            Ok(None) => {
                self.due = None;
                self.samples.clear();
            }
            Err(error) => tracing::debug!("failed to ask the cache how it fares: {}", error.chain()),
        }
    }

    fn keep(&mut self, said: CacheSaid, now: Instant) {
        // Another server, or another run of it, counts from nothing.
        if self.samples.back().is_some_and(|(_, last)| said.hits < last.hits || said.misses < last.misses) {
            self.samples.clear();
        }
        self.samples.push_back((now, said));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// What the cache said last, and the reads of others since the first of what is kept.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        let ((_, first), (at, last)) = (self.samples.front()?, self.samples.back()?);
        // Our own reads would be most of those of a cache that nobody else reads.
        let recent = last.reads().since(first.reads()).since(last.own.since(first.own));
        Some(Statistics { at: at.into_std(), said: *last, recent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::statistics::ReadCounts;
    use crate::error::Error;

    #[test]
    fn what_crieur_reads_itself_is_no_hit_of_a_reader() {
        let (now, mut measuring) = (Instant::now(), Measuring::default());
        let mut recent = |hits, misses, own| {
            let own = ReadCounts { hits: own, all: own + 1 };
            measuring.came(Ok(Some(CacheSaid { hits, misses, own, ..CacheSaid::default() })), now);
            measuring.statistics().map(|of| of.recent.ratio())
        };
        assert_eq!(recent(1_000, 5, 40), Some(None));
        assert_eq!(recent(1_060, 5, 100), Some(None), "nobody else reads");
        assert_eq!(recent(1_063, 6, 100), Some(Some(0.75)));
        // The server's word may be older than the last read.
        assert_eq!(recent(1_063, 6, 104), Some(None), "never less than none");
    }

    #[test]
    fn the_last_minutes_are_those_of_the_samples_and_another_server_begins_anew() {
        let start = Instant::now();
        let said = |hits, misses| Ok(Some(CacheSaid { hits, misses, ..CacheSaid::default() }));
        let mut measuring = Measuring::default();
        assert_eq!(measuring.due(), None);
        measuring.connected();
        assert!(measuring.due().is_some());
        let mut recent = |answer, minute: u32| {
            let now = start + INTERVAL * minute;
            measuring.came(answer, now);
            (measuring.statistics().map(|of| (of.recent.hits, of.recent.all)), measuring.due())
        };
        let next = |minute: u32| Some(start + INTERVAL * (minute + 1));
        assert_eq!(recent(said(100, 10), 0), (Some((0, 0)), next(0)));
        assert_eq!(recent(said(108, 12), 1), (Some((8, 10)), next(1)));
        assert_eq!(recent(Err(Error::transient("away")), 2), (Some((8, 10)), next(2)));
        for minute in 3..14 {
            recent(said(100 + u64::from(minute) * 10, 12), minute);
        }
        assert_eq!(recent(said(240, 12), 14).0, Some((100, 100)), "the first ones are forgotten");
        assert_eq!(recent(said(5, 1), 15).0, Some((0, 0)), "it started anew");
        assert_eq!(recent(Ok(None), 16), (None, None));
    }
}
