//! What happens, as one type: the loop tells it, and the log, the metrics, the status line and whoever else watches read
//! it. Plain values.
//!
//! The loop tells it once for each flight, sweep and turn of the stream, never for each key, and waits for nobody: what
//! must miss nothing (metrics, status) is a function that only adds up, and what may be slow reads [`Recent`]. While a
//! cache's part tells its news, [`speaker`](crate::observe::speaker::speaker) says which cache that is.
//!
//! [`Recent`]: crate::observe::recent::Recent

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::statistics::Statistics;
use crate::cache::{Deleted, Swept};
use crate::lsn::Lsn;
use crate::observe::delays::Delays;
use crate::observe::line::Line;
use crate::observe::speaker::CacheName;
use crate::observe::trail::Traced;
use crate::rules::plan::cause::CauseCounts;
use crate::rules::tally::{Labels, Tallied};

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exact keys sent to the cache, echoes included.
    pub keys: u64,
    /// Of these, keys that existed.
    pub existed: u64,
    /// Keys widened to a pattern because a value was unknown.
    pub widened: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Lookups that the server refused.
    pub refused: u64,
    /// Keys that a transaction named and may not.
    pub not_allowed: u64,
    /// Families collapsed into their pattern by a memory bound.
    pub collapsed: u64,
    /// Bytes of all key sets.
    pub memory_bytes: u64,
    /// The position confirmed last; before the first confirmation of this daemon, where its stream began.
    pub confirmed: Lsn,
    /// How often a position was confirmed.
    pub confirmations: u64,
    /// When the oldest change committed that is not deleted yet, by our clock; `None` while there is none.
    pub oldest: Option<Instant>,
    /// Everything that came is confirmed.
    pub settled: bool,
}

/// What was done in one cache so far, and where it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheTotals {
    /// Exact keys sent to the cache, echoes included.
    pub keys: u64,
    /// Of these, keys that existed.
    pub existed: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Keys deleted by sweeps.
    pub swept: u64,
    /// Repairs that waited, because the same had just been repaired.
    pub repairs_delayed: u64,
    /// Whether one waited and nothing was proved since.
    pub repairs_slow: bool,
    /// Connections that led to another server than the one before.
    pub turns: u64,
    /// Keys and patterns that wait for their echo.
    pub echoes_waiting: u64,
    /// The mark written last, and when; of several parts the oldest, and none before each has one.
    pub marked: Option<(Lsn, Instant)>,
    /// Its mark was judged since this daemon has the slot.
    pub is_known: bool,
    /// When the oldest change committed that is not deleted there yet, by our clock; `None` while there is none.
    pub oldest: Option<Instant>,
    /// How long it took from the commit of a load's oldest change until its first deletes were proved.
    pub delays: Delays,
    /// The sweeps by their causes.
    pub causes: CauseCounts,
    /// What the cache says of itself, where it may be asked.
    pub statistics: Option<Statistics>,
}

impl CacheTotals {
    /// Of two parts of one cache together.
    #[must_use]
    pub fn and(self, other: CacheTotals) -> CacheTotals {
        CacheTotals {
            keys: self.keys + other.keys,
            existed: self.existed + other.existed,
            sweeps: self.sweeps + other.sweeps,
            swept: self.swept + other.swept,
            repairs_delayed: self.repairs_delayed + other.repairs_delayed,
            repairs_slow: self.repairs_slow || other.repairs_slow,
            turns: self.turns + other.turns,
            echoes_waiting: self.echoes_waiting + other.echoes_waiting,
            marked: self.marked.zip(other.marked).map(|(one, other)| if one.1 <= other.1 { one } else { other }),
            is_known: self.is_known && other.is_known,
            oldest: [self.oldest, other.oldest].into_iter().flatten().min(),
            delays: self.delays.and(other.delays),
            causes: self.causes.and(other.causes),
            // What is known of one part says nothing of the whole.
            statistics: self.statistics.zip(other.statistics).map(|(one, other)| one.and(other)),
        }
    }
}

/// What was seen of the server at one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerSeen {
    /// Up to where its WAL is flushed; `None` where that is not known.
    pub flushed: Option<Lsn>,
    /// Bytes of WAL that it keeps for the slot; `None` where there is no slot.
    pub held_bytes: Option<u64>,
    /// Bytes of WAL that may be written until the slot can be lost; `None` without a limit.
    pub safe_bytes: Option<u64>,
    /// Rows of the outbox, as its statistics say; what the outbox takes on disk, and may take.
    pub outbox: Option<[u64; 3]>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What the line is about, and how loud it was.
    pub line: Line,
    /// The sentence, with its fields behind it.
    pub text: Arc<str>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The stream runs.
    Streaming,
    /// The stream broke, or could not be made; it is tried again.
    Interrupted,
    /// The stream runs, and the cache answered: at first, and again after standing by.
    Ready,
    /// The cache may have missed invalidations: the kind of the gap.
    Gap(&'static str),
    /// The session with this process id (0: not known) has the slot; this daemon takes over when it ends.
    StandingBy(u32),
    /// The server's WAL goes on and nothing of it comes, or comes again.
    HeldBack(bool),
    /// The log names something on the server that somebody must mend.
    Noticed,
    /// The keys of one flight were deleted.
    Deleted(Deleted),
    /// A mark was written: the position that it covers.
    Marked(Lsn),
    /// The position goes on without the cache of this name from now on, or waits for it again.
    Released(CacheName, bool),
    /// A sweep began.
    SweepBegan,
    /// A sweep ended.
    SweepEnded(Swept),
    /// A row changed, and its rules named keys: one of so many a second.
    Changed(Arc<Traced>),
    /// The changes up to this number are deleted in the cache of this name.
    Gone(CacheName, u64),
    /// A line of the log was said, by whatever part of the daemon.
    Said(Said),
    /// Where everything stands now, rather than something that happened: now and then, while changes come.
    Totals(Totals, Duration),
    /// The same of the cache of this name.
    CacheTotals(CacheName, Box<CacheTotals>),
    /// The server was looked at.
    Server(ServerSeen),
    /// These rules are in force from now on.
    Rules(Arc<Labels>),
    /// How much passed through the rules since this was last told: at most once a second.
    Tally(Arc<Tallied>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_whole_is_as_old_as_that_of_its_oldest_part() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let part = |marked| CacheTotals { marked, ..CacheTotals::default() };
        let (old, young) = ((Lsn(9), start), (Lsn(7), start + second));
        for (one, other, expected) in [
            (Some(old), Some(young), Some(old)),
            (Some(young), Some(old), Some(old)),
            (Some(old), None, None),
            (None, Some(young), None),
        ] {
            assert_eq!(part(one).and(part(other)).marked, expected, "{one:?} {other:?}");
        }
    }
}
