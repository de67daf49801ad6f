//! The board: single changes of late, and in which caches they are deleted, for a page and a terminal.
//!
//! It is to changes what [`Recent`](crate::observe::recent::Recent) is to everything else: a ring of a fixed number of
//! entries behind a lock that is held for the time of a copy. A reader sees an entry again when something became of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::observe::news::News;
use crate::observe::speaker::CacheName;
use crate::observe::trail::Traced;

/// Entries that the daemon keeps.
pub const ENTRIES_MAX: usize = 256;

/// One change, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// What changed, and which keys that named.
    pub changed: Arc<Traced>,
    /// The caches in which these keys are deleted, and how long after the commit they were.
    pub gone: Vec<(CacheName, Duration)>,
    /// Counts what was posted or became of an entry since the daemon started; a reader goes on behind the last that it read.
    pub turn: u64,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Posted>,
    turn: u64,
}

/// The ring. Its clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<(Mutex<Kept>, Notify)>);

impl Board {
    /// Takes what the loop says; `at` is now.
    pub fn news(&self, news: &News, at: SystemTime) {
        match news {
            News::Changed(changed) => self.post(changed),
            News::Gone(cache, upto) => self.gone(cache, *upto, at),
            _ => return,
        }
        self.0.1.notify_waiters();
    }

    fn post(&self, changed: &Arc<Traced>) {
        let mut kept = self.kept();
        if kept.entries.len() >= ENTRIES_MAX {
            kept.entries.pop_front();
        }
        kept.turn += 1;
        let turn = kept.turn;
        kept.entries.push_back(Posted { changed: Arc::clone(changed), gone: Vec::new(), turn });
    }

    fn gone(&self, cache: &CacheName, upto: u64, at: SystemTime) {
        let mut kept = self.kept();
        let Kept { entries, turn } = &mut *kept;
        let waits = |posted: &&mut Posted| posted.gone.iter().all(|(gone, _)| gone != cache);
        let known = entries.iter_mut().rev().skip_while(|posted| posted.changed.number > upto);
        for posted in known.take_while(waits) {
            *turn += 1;
            let after = at.duration_since(posted.changed.committed).unwrap_or_default();
            posted.gone.push((CacheName::clone(cache), after));
            posted.turn = *turn;
        }
    }

    /// The turn of now: what is behind it is news.
    pub fn turn(&self) -> u64 {
        self.kept().turn
    }

    /// Entries that were posted, or of which something became, behind this turn: the oldest change first.
    pub fn behind(&self, turn: u64) -> Vec<Posted> {
        self.kept().entries.iter().filter(|posted| posted.turn > turn).cloned().collect()
    }

    /// Waits until there is something behind this turn, and gives it. Cancel-safe.
    pub async fn next(&self, turn: u64) -> Vec<Posted> {
        loop {
            // Made before the look, so that what is posted behind the look wakes it.
            let came = self.0.1.notified();
            let behind = self.behind(turn);
            if !behind.is_empty() {
                return behind;
            }
            came.await;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(number: u64) -> News {
        News::Changed(Arc::new(Traced {
            number,
            table: "public.properties".into(),
            operation: "insert",
            keys: Vec::new(),
            more: 0,
            left_out: 0,
            committed: SystemTime::UNIX_EPOCH,
        }))
    }

    #[test]
    fn a_reader_sees_a_change_when_it_comes_and_again_when_it_is_deleted() {
        let board = Board::default();
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        (1..=3).for_each(|number| board.news(&changed(number), at(0)));
        let came = board.behind(0);
        assert_eq!(
            came.iter().map(|posted| (posted.changed.number, posted.turn)).collect::<Vec<_>>(),
            [(1, 1), (2, 2), (3, 3)]
        );
        assert_eq!(board.behind(3), []);
        board.news(&News::Gone("main".into(), 2), at(5));
        board.news(&News::Gone("main".into(), 3), at(7));
        let gone = board.behind(3);
        let gone: Vec<_> = gone.iter().map(|posted| (posted.changed.number, posted.gone[0].1.as_millis())).collect();
        assert_eq!(gone, [(1, 5), (2, 5), (3, 7)]);
        (4..1_000).for_each(|number| board.news(&changed(number), at(0)));
        assert_eq!(board.behind(0).len(), ENTRIES_MAX);
    }
}
