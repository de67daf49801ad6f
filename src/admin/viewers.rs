//! What is kept for those who look: their places, the counts of late, and what was made for all of them.
//!
//! A viewer is a task of its own that reads the newest text and writes it to its socket. One that does not read is given up
//! after some seconds, and there are no more than so many: the loop knows of none of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::observe::board::Board;
use crate::page::snapshot::{DaemonShown, TableShown};
use crate::page::{PagePart, Rate};

/// Open pages at once; another one hears that there are too many.
const VIEWERS_MAX: usize = 16;

/// How often an open page is renewed.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// Rates are those of so long.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What the page may show, by the configuration.
#[derive(Debug, Clone)]
pub struct PageOptions {
    /// The last changes, with their keys.
    pub changes: bool,
    /// Names by which this daemon may be called, besides addresses.
    pub hosts: Vec<String>,
}

/// Changes of each table so far, and keys that they named.
type OfTables = Vec<(u64, u64)>;

/// What was counted of late. Pure.
#[derive(Debug, Default)]
struct Counted(VecDeque<(Instant, OfTables)>);

impl Counted {
    /// So much was counted by now. The loop tells once a second while changes come: where it told nothing, nothing came.
    fn note(&mut self, tables: OfTables, now: Instant) {
        // Other rules have other tables.
        if self.0.back().is_some_and(|(_, last)| last.len() != tables.len()) {
            self.0.clear();
        }
        match self.0.back().cloned() {
            Some((at, _)) if now.saturating_duration_since(at) < RENEWAL / 2 => return,
            Some((at, last)) if now.saturating_duration_since(at) > RENEWAL => self.0.push_back((now - RENEWAL, last)),
            Some(_) | None => {}
        }
        self.0.push_back((now, tables));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
    }

    /// What came in a second, when it is so much now.
    fn rates(&self, tables: &[(u64, u64)], now: Instant) -> Option<Vec<Rate>> {
        let is_old = |(at, _): &&(Instant, OfTables)| now.saturating_duration_since(*at) >= RATE_OVER;
        let (at, first) = self.0.iter().rev().find(is_old).or(self.0.front())?;
        let time = now.saturating_duration_since(*at).min(RATE_OVER).as_secs_f64();
        let rate = |(before, after): (&(u64, u64), &(u64, u64))| Rate {
            changes: after.0.saturating_sub(before.0) as f64 / time,
            keys: after.1.saturating_sub(before.1) as f64 / time,
        };
        (time > 0.5 && first.len() == tables.len()).then(|| first.iter().zip(tables).map(rate).collect())
    }
}

/// The parts of the page, and when they were made.
pub(super) type MadeParts = (Instant, Arc<Vec<PagePart>>);

/// What is kept for those who look.
#[derive(Debug)]
pub(super) struct Viewers {
    pub(super) options: PageOptions,
    pub(super) board: Board,
    places: Arc<Semaphore>,
    counts: Mutex<Counted>,
    /// The newest parts of each language, and when they were made.
    pub(super) made: Mutex<[Option<MadeParts>; 2]>,
}

impl Viewers {
    pub(super) fn new(options: PageOptions, board: Board) -> Self {
        let places = Arc::new(Semaphore::new(VIEWERS_MAX));
        Viewers { options, board, places, counts: Mutex::default(), made: Mutex::default() }
    }

    /// A place for one more, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// So much was counted of each table by now.
    pub(super) fn counted(&self, tables: OfTables, now: Instant) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).note(tables, now);
    }

    /// What came of each table in a second, of late.
    pub(super) fn rates(&self, snapshot: &DaemonShown, now: Instant) -> Option<Vec<Rate>> {
        let of = |table: &TableShown| (table.changes.iter().sum(), table.keys);
        let tables: OfTables = snapshot.tables.iter().map(of).collect();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = counts.rates(&tables, now);
        counts.note(tables, now);
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds_also_for_whoever_looks_for_the_first_time() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut counted = Counted::default();
        let rate = |counted: &Counted, changes: u64, seconds| {
            let rates = counted.rates(&[(changes, changes * 3)], at(seconds))?;
            Some((rates[0].changes, rates[0].keys))
        };
        assert_eq!(rate(&counted, 0, 0.0), None);
        counted.note(vec![(0, 0)], at(0.0));
        assert_eq!(rate(&counted, 8, 4.0), Some((2.0, 6.0)));
        // A burst behind an hour of silence is not spread over the hour.
        counted.note(vec![(20, 60)], at(3600.0));
        assert_eq!(rate(&counted, 20, 3600.0), Some((2.0, 6.0)));
        counted.note(vec![(40, 120)], at(3601.0));
        assert_eq!(rate(&counted, 40, 3602.0), Some((4.0, 12.0)));
        assert_eq!(rate(&counted, 40, 3700.0), Some((0.0, 0.0)));
        // Other rules.
        counted.note(vec![(0, 0), (0, 0)], at(3700.0));
        assert_eq!(rate(&counted, 40, 3701.0), None);
        for second in 0..1_000_u32 {
            counted.note(vec![(0, 0), (0, 0)], at(4000.0 + f64::from(second)));
        }
        assert!(counted.0.len() < 15, "{}", counted.0.len());
    }
}
