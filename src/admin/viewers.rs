//! What is kept for those who look: their places, the counts of late, and what was made for all of them.
//!
//! A viewer is a task of its own that reads the newest text and writes it to its socket. One that does not read is given up
//! after some seconds, and there are no more than so many: the loop knows of none of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::observe::board::Board;
use crate::page::snapshot::DaemonShown;
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

/// What one moment's counts were.
#[derive(Debug)]
struct Counts {
    at: Instant,
    tables: Vec<(u64, u64)>,
}

/// The parts of the page, and when they were made.
pub(super) type MadeParts = (Instant, Arc<Vec<PagePart>>);

/// What is kept for those who look.
#[derive(Debug)]
pub(super) struct Viewers {
    pub(super) options: PageOptions,
    pub(super) board: Board,
    places: Arc<Semaphore>,
    counts: Mutex<VecDeque<Counts>>,
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

    /// What came of each table in a second, of late.
    pub(super) fn rates(&self, snapshot: &DaemonShown, now: Instant) -> Option<Vec<Rate>> {
        let tables: Vec<(u64, u64)> =
            snapshot.tables.iter().map(|table| (table.changes.iter().sum(), table.keys)).collect();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Other rules have other tables.
        if counts.back().is_some_and(|last| last.tables.len() != tables.len()) {
            counts.clear();
        }
        let rates = counts.front().and_then(|first| {
            let time = now.saturating_duration_since(first.at).as_secs_f64();
            let rate = |(before, after): (&(u64, u64), &(u64, u64))| Rate {
                changes: after.0.saturating_sub(before.0) as f64 / time,
                keys: after.1.saturating_sub(before.1) as f64 / time,
            };
            (time > 0.5).then(|| first.tables.iter().zip(&tables).map(rate).collect())
        });
        if counts.back().is_none_or(|last| now.saturating_duration_since(last.at) >= RENEWAL / 2) {
            counts.push_back(Counts { at: now, tables });
        }
        while counts.len() > 1
            && counts.front().is_some_and(|first| now.saturating_duration_since(first.at) > RATE_OVER)
        {
            counts.pop_front();
        }
        rates
    }
}
