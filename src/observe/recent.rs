//! What happened lately, for readers that come late or are slow: a page, a terminal far away.
//!
//! A ring of a fixed number of entries. Whoever adds never waits: the lock is held for the time of a copy, and the oldest
//! entry makes room. Each reader goes at its own pace, from the oldest entry that is there when it begins; one that falls
//! behind is told how many it has missed, at the place where they are missing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::observe::news::{News, Said};
use crate::observe::speaker::{CacheName, speaker};
use crate::observe::warned::Warned;

/// Entries that the daemon keeps. Most are a few words; a line of the log is cut to [`TEXT_BYTES_MAX`].
pub const ENTRIES_MAX: usize = 256;

/// Bytes of a line of the log that are kept.
pub const TEXT_BYTES_MAX: usize = 1024;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecentEntry {
    /// Counts from 0 since the daemon started.
    pub number: u64,
    /// When it happened, by our clock.
    pub at: SystemTime,
    /// The cache whose part told it, if one did.
    pub cache: Option<CacheName>,
    /// What it was.
    pub news: News,
}

/// What a reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// The next one.
    Entry(RecentEntry),
    /// So many are gone, because this reader was slow.
    Lost(u64),
}

#[derive(Debug)]
struct Kept {
    /// The oldest first; their numbers have no gaps.
    entries: VecDeque<RecentEntry>,
    /// The number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    came: Notify,
    /// Readers that there are now.
    readers: AtomicUsize,
    entries_max: usize,
    said: Warned,
}

/// The ring. Its clones are the same one.
#[derive(Clone, Debug)]
pub struct Recent(Arc<Shared>);

impl Default for Recent {
    fn default() -> Self {
        Recent::of_at_most(ENTRIES_MAX)
    }
}

impl Recent {
    /// With this bound, which is at least one.
    pub fn of_at_most(entries_max: usize) -> Self {
        let kept = Mutex::new(Kept { entries: VecDeque::with_capacity(entries_max), next: 0 });
        let readers = AtomicUsize::new(0);
        let (came, entries_max, said) = (Notify::new(), entries_max.max(1), Warned::default());
        Recent(Arc::new(Shared { kept, came, readers, entries_max, said }))
    }

    /// Adds what happened. What comes many times a second would push out all else: a flight and a mark are kept while
    /// somebody reads; where things stand ([`News::Totals`]) and single changes, which have their own place, never are.
    /// Warnings are counted, too.
    pub fn add(&self, news: &News, at: SystemTime) {
        let is_unread = self.0.readers.load(Ordering::Relaxed) == 0;
        let is_frequent = matches!(news, News::Deleted(_) | News::Marked(_));
        if let News::Said(Said { line, .. }) = news {
            self.0.said.count(*line);
        }
        let is_elsewhere = matches!(
            news,
            News::Totals(..)
                | News::CacheTotals(..)
                | News::Server(_)
                | News::Rules(_)
                | News::Tally(_)
                | News::Changed(_)
                | News::Gone(..)
        );
        if is_elsewhere || (is_unread && is_frequent) {
            return;
        }
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        if kept.entries.len() >= self.0.entries_max {
            kept.entries.pop_front();
        }
        kept.entries.push_back(RecentEntry { number, at, cache: speaker(), news: news.clone() });
        drop(kept);
        self.0.came.notify_waiters();
    }

    /// A reader that begins with the oldest entry that is there.
    pub fn reader(&self) -> Reader {
        self.0.readers.fetch_add(1, Ordering::Relaxed);
        let kept = self.kept();
        let next = kept.entries.front().map_or(kept.next, |entry| entry.number);
        drop(kept);
        Reader { of: self.clone(), next }
    }

    /// How often each warning and error was said.
    pub fn warned(&self) -> &Warned {
        &self.0.said
    }

    /// Everything that is there, the oldest first.
    pub fn entries(&self) -> Vec<RecentEntry> {
        self.kept().entries.iter().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader of the ring.
#[derive(Debug)]
pub struct Reader {
    of: Recent,
    /// The number of the entry that it reads next.
    next: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.of.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reader {
    /// What comes next, if it is there.
    pub fn read(&mut self) -> Option<Read> {
        let kept = self.of.kept();
        let oldest = kept.entries.front()?.number;
        if self.next < oldest {
            let lost = oldest - self.next;
            self.next = oldest;
            return Some(Read::Lost(lost));
        }
        let index = usize::try_from(self.next - oldest).ok()?;
        let entry = kept.entries.get(index)?.clone();
        self.next += 1;
        Some(Read::Entry(entry))
    }

    /// Waits for what comes next. Cancel-safe: what was not returned is read the next time.
    pub async fn next(&mut self) -> Read {
        loop {
            let of = self.of.clone();
            // Made before the look, so that what is added behind the look wakes it.
            let came = of.0.came.notified();
            if let Some(read) = self.read() {
                return read;
            }
            came.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lsn::Lsn;
    use crate::observe::news::Totals;

    fn add(recent: &Recent, pid: u32) {
        recent.add(&News::StandingBy(pid), SystemTime::UNIX_EPOCH);
    }

    /// The process ids of the entries that are there; what is lost as a negative number.
    fn all(reader: &mut Reader) -> Vec<i64> {
        let shown = |read| match read {
            Read::Lost(count) => -i64::try_from(count).expect("few"),
            Read::Entry(RecentEntry { news: News::StandingBy(pid), .. }) => i64::from(pid),
            Read::Entry(other) => panic!("nobody added {other:?}"),
        };
        std::iter::from_fn(|| reader.read()).map(shown).collect()
    }

    #[test]
    fn each_reader_reads_everything_once_in_order_and_one_that_is_slow_is_told_how_much_it_lost() {
        let recent = Recent::of_at_most(3);
        let (mut quick, mut slow) = (recent.reader(), recent.reader());
        assert_eq!(all(&mut quick), [0_i64; 0]);
        (0..2).for_each(|pid| add(&recent, pid));
        assert_eq!((all(&mut quick), all(&mut quick)), (vec![0, 1], vec![]));
        (2..8).for_each(|pid| add(&recent, pid));
        assert_eq!((all(&mut quick), all(&mut slow)), (vec![-3, 5, 6, 7], vec![-5, 5, 6, 7]));
        add(&recent, 8);
        assert_eq!((all(&mut quick), all(&mut slow)), (vec![8], vec![8]));
    }

    #[test]
    fn a_reader_that_comes_late_begins_with_the_oldest_that_is_there_and_has_lost_nothing() {
        let recent = Recent::of_at_most(3);
        (0..8).for_each(|pid| add(&recent, pid));
        let mut late = recent.reader();
        assert_eq!(all(&mut late), [5, 6, 7]);
        let numbers = |mut reader: Reader| {
            std::iter::from_fn(move || reader.read())
                .filter_map(|read| match read {
                    Read::Entry(entry) => Some(entry.number),
                    Read::Lost(_) => None,
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(recent.reader()), [5, 6, 7]);
    }

    #[test]
    fn where_things_stand_pushes_nothing_out() {
        let recent = Recent::of_at_most(3);
        add(&recent, 1);
        let totals = News::Totals(Totals::default(), Duration::ZERO);
        (0..10).for_each(|_| recent.add(&totals, SystemTime::UNIX_EPOCH));
        assert_eq!(all(&mut recent.reader()), [1]);
    }

    #[test]
    fn what_comes_many_times_a_second_is_kept_only_while_somebody_reads() {
        let recent = Recent::of_at_most(3);
        let mark = |recent: &Recent| recent.add(&News::Marked(Lsn(1)), SystemTime::UNIX_EPOCH);
        add(&recent, 1);
        (0..10).for_each(|_| mark(&recent));
        let mut reader = recent.reader();
        assert_eq!(all(&mut reader), [1]);
        mark(&recent);
        assert!(matches!(reader.read(), Some(Read::Entry(RecentEntry { news: News::Marked(_), number: 1, .. }))));
        drop(reader);
        (0..10).for_each(|_| mark(&recent));
        assert_eq!(recent.kept().next, 2);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let recent = Recent::of_at_most(3);
        let mut reader = recent.reader();
        let (read, ()) = tokio::join!(reader.next(), async { add(&recent, 7) });
        let Read::Entry(entry) = read else { panic!("nothing was lost: {read:?}") };
        assert_eq!((entry.number, entry.news), (0, News::StandingBy(7)));
    }

    #[test]
    fn whoever_adds_does_not_wait_for_a_reader_that_never_reads() {
        let recent = Recent::of_at_most(2);
        let mut reader = recent.reader();
        (0..10_000).for_each(|pid| add(&recent, pid));
        assert_eq!(recent.kept().entries.len(), 2);
        assert_eq!(all(&mut reader), [-9_998, 9_998, 9_999]);
    }
}
