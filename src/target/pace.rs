//! How close together repairs for one cause may come. Pure.
//!
//! A cache that fails over, and back, is repaired at once each time. One whose every repair makes the next one necessary
//! (an address that leads to another server at each connection, two daemons that write one mark) would be swept dozens of
//! times a second, for ever: behind the first few the pauses grow. What waits is done when it is due. Between a sweep
//! and the next one is the time from its end.

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

/// Repairs that go at once, however close together.
const FREE: u32 = 3;
/// The first pause; each next one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const MAX: Duration = Duration::from_secs(60);
/// A repair that brings the next one brings it at once, or with a heartbeat or two. What comes later is a new cause: a
/// cache that is flushed every minute is swept every minute.
const QUIET: Duration = Duration::from_secs(10);

/// When a repair may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PaceTurn<I> {
    /// At once.
    Now,
    /// Then: it is the one with this number in a row.
    Later(I, u32),
    /// Together with the one that waits already, which begins then.
    Joined(I),
}

#[derive(Debug)]
struct Repairs<I> {
    count: u32,
    /// When the last one began, or begins; or ended, if it is a sweep that is over.
    at: I,
    /// It is a sweep that is not over.
    lasts: bool,
}

/// The repairs of late, by cause. `I` is the caller's clock.
#[derive(Debug)]
pub struct Pace<I> {
    causes: BTreeMap<&'static str, Repairs<I>>,
}

impl<I> Default for Pace<I> {
    fn default() -> Self {
        Pace { causes: BTreeMap::new() }
    }
}

/// Between the repair with this number and the one before.
fn pause(count: u32) -> Duration {
    match count.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(more) => FIRST.saturating_mul(1 << more.min(16)).min(MAX),
    }
}

impl<I: Copy + Ord + Add<Duration, Output = I>> Pace<I> {
    /// A repair for this cause is wanted now.
    pub fn turn(&mut self, cause: &'static str, now: I) -> PaceTurn<I> {
        let last = self.causes.entry(cause).or_insert(Repairs { count: 0, at: now, lasts: false });
        if now < last.at {
            return PaceTurn::Joined(last.at);
        }
        if last.count == 0 || (!last.lasts && last.at + QUIET <= now) {
            *last = Repairs { count: 1, at: now, lasts: false };
            return PaceTurn::Now;
        }
        last.count += 1;
        let due = if last.lasts { now } else { last.at } + pause(last.count);
        last.at = due.max(now);
        if due <= now { PaceTurn::Now } else { PaceTurn::Later(due, last.count) }
    }

    /// The repair for this cause is a sweep: it lasts until all are [`over`](Pace::over).
    pub fn lasts(&mut self, cause: &'static str) {
        if let Some(last) = self.causes.get_mut(cause) {
            last.lasts = true;
        }
    }

    /// No sweep is under way any more, but for those that wait.
    pub fn over(&mut self, now: I) {
        for last in self.causes.values_mut().filter(|last| last.lasts && last.at <= now) {
            *last = Repairs { at: now, lasts: false, ..*last };
        }
    }

    /// What was wanted came to be: the cause is gone.
    pub fn healed(&mut self, cause: &'static str) {
        self.causes.remove(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_cause_that_comes_again_at_once_is_repaired_ever_more_seldom() {
        let mut pace = Pace::default();
        let mut now = S(100);
        let mut begun = Vec::new();
        // Each repair brings the next.
        while begun.len() < 12 {
            match pace.turn("x", now) {
                PaceTurn::Now => begun.push(now.as_secs()),
                PaceTurn::Later(due, _) => {
                    assert_eq!(pace.turn("x", now), PaceTurn::Joined(due), "what comes meanwhile goes with it");
                    now = due;
                    begun.push(now.as_secs());
                }
                PaceTurn::Joined(due) => panic!("nothing waits until {due:?}"),
            }
        }
        assert_eq!(begun, [100, 100, 100, 101, 103, 107, 115, 131, 163, 223, 283, 343]);
        assert_eq!(pace.turn("y", now), PaceTurn::Now, "another cause");
        assert_eq!(pace.turn("x", now + S(10)), PaceTurn::Now, "nothing came of it for a while");
        assert_eq!(pace.turn("x", now + S(10)), PaceTurn::Now);
    }

    #[test]
    fn a_sweep_counts_from_its_end_however_long_it_takes() {
        let mut pace = Pace::default();
        let mut now = S(100);
        let mut begun = Vec::new();
        for _ in 0..7 {
            if let PaceTurn::Later(due, _) = pace.turn("x", now) {
                pace.over(now);
                now = due;
            }
            pace.lasts("x");
            begun.push(now.as_secs());
            now += S(30);
            pace.over(now);
        }
        assert_eq!(begun, [100, 130, 160, 191, 223, 257, 295]);
        pace.lasts("x");
        assert!(matches!(pace.turn("x", now + S(500)), PaceTurn::Later(_, 8)), "the sweep goes on");
    }

    #[test]
    fn what_comes_later_is_a_cause_of_its_own() {
        let mut pace = Pace::default();
        for times in 0..20 {
            assert_eq!(pace.turn("x", S(10 * times)), PaceTurn::Now);
        }
        for _ in 0..2 {
            assert_eq!(pace.turn("x", S(190)), PaceTurn::Now);
        }
        assert!(matches!(pace.turn("x", S(190)), PaceTurn::Later(_, 4)));
        pace.healed("x");
        assert_eq!(pace.turn("x", S(190)), PaceTurn::Now);
    }
}
