//! How close together flushes may come where each command costs money. Pure.
//!
//! A bucket is filled at the rate that the budget allows and holds a hundredth of the month. Each command that is billed
//! takes one out, whatever it was for. The fuller the bucket, the shorter the pause behind a flush: the first change
//! after a while goes at once, and under load the pauses grow to the bound, at which the bucket stays as it is. They never
//! grow beyond: what a change may wait is a promise, and so is the month.

use std::ops::{Add, Sub};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;

/// Commands, and the pauses that follow. `I` is the caller's clock.
#[derive(Clone, Debug)]
pub struct Meter<I> {
    budget: Budget,
    /// What is in the bucket; below zero where more was needed than there was.
    level: f64,
    /// When that was so.
    at: I,
    /// The last flush left.
    flushed: Option<I>,
    /// The one before it.
    before: Option<I>,
}

impl<I: Copy + Ord + Add<Duration, Output = I> + Sub<I, Output = Duration>> Meter<I> {
    /// A process begins with a quarter of a full bucket: one that is started again and again stays within the month.
    pub fn new(budget: Budget, now: I) -> Self {
        Meter { budget, level: budget.burst() / 4.0, at: now, flushed: None, before: None }
    }

    /// What it goes by.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Commands were billed.
    pub fn spent(&mut self, commands: u64, now: I) {
        self.fill(now);
        self.level -= commands as f64;
    }

    /// A flush leaves.
    pub fn flushes(&mut self, now: I) {
        self.fill(now);
        self.before = self.flushed.replace(now);
    }

    /// What left last was not deleted: it has waited already, and goes at once.
    pub fn takes_back(&mut self) {
        self.flushed = self.before;
    }

    /// When the next flush may leave; at once where there is no answer.
    pub fn due(&self) -> Option<I> {
        let fill = (self.level / self.budget.burst()).clamp(0.0, 1.0);
        self.flushed.map(|flushed| flushed + self.budget.bound().mul_f64(1.0 - fill))
    }

    fn fill(&mut self, now: I) {
        if now > self.at {
            let came = (now - self.at).as_secs_f64() * self.budget.rate();
            self.level = (self.level + came).min(self.budget.burst());
            self.at = now;
        }
    }
}

/// The meter of a target, and what its cache had billed when the bill was read last.
#[derive(Debug)]
pub(super) struct Metered {
    meter: Meter<Instant>,
    billed: u64,
}

impl Metered {
    /// From now on.
    pub(super) fn new(budget: Budget, billed: u64) -> Self {
        Metered { meter: Meter::new(budget, Instant::now()), billed }
    }

    /// The bill says so much.
    pub(super) fn read(&mut self, billed: u64, now: Instant) {
        if billed != self.billed {
            self.meter.spent(billed.saturating_sub(self.billed), now);
            self.billed = billed;
        }
    }

    /// A flush leaves.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.meter.flushes(now);
    }

    /// What left last was not deleted.
    pub(super) fn takes_back(&mut self) {
        self.meter.takes_back();
    }

    /// When the next flush may leave; at once where there is no answer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.meter.due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{MONTH, MarkCost};

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// A month of changes, of which `next` is the first behind a moment, and a mark with each heartbeat. Commands, and
    /// the greatest age of a change that was deleted.
    fn month(
        budget: Budget,
        heartbeat: Duration,
        mark: MarkCost,
        next: impl Fn(Duration) -> Duration,
    ) -> (u64, Duration) {
        let mut meter = Meter::new(budget, Duration::ZERO);
        let (mut commands, mut oldest) = (0, Duration::ZERO);
        let (mut change, mut beat, mut carries) = (Duration::ZERO, Duration::ZERO, false);
        while change < MONTH {
            let flush = meter.due().unwrap_or_default().max(change);
            while beat < flush {
                let cost = if carries { mark.carrying - 1 } else { mark.idle };
                meter.spent(cost, beat);
                (commands, beat, carries) = (commands + cost, beat + heartbeat, false);
            }
            meter.flushes(flush);
            meter.spent(1, flush);
            (commands, oldest, carries) = (commands + 1, oldest.max(flush - change), true);
            change = next(flush); // All that came until then went along.
        }
        (commands, oldest)
    }

    #[test]
    fn a_month_stays_within_its_budget_and_no_change_waits_longer_than_the_bound() {
        for (commands, mark) in [(200_000, MarkCost::REST), (200_000, MarkCost::TCP), (1_000_000, MarkCost::TCP)] {
            let heartbeat = S(60);
            let budget = Budget::new(commands, heartbeat, mark).expect("large enough");
            let day = |now: Duration| now.as_secs() / 86_400;
            for (load, next) in [
                ("20 a second", &(|now| now + Duration::from_millis(50)) as &dyn Fn(Duration) -> Duration),
                ("one a minute", &|now| now + S(60)),
                ("an hour of load in every day", &|now| match now.as_secs() % 86_400 {
                    0..3_600 => now + Duration::from_millis(500),
                    _ => S(86_400 * (day(now) + 1)),
                }),
            ] {
                let (spent, oldest) = month(budget, heartbeat, mark, next);
                assert!(spent <= commands, "{load}: {spent} of {commands}");
                assert!(oldest <= budget.bound(), "{load}: {oldest:?}, and the bound is {:?}", budget.bound());
            }
        }
    }

    #[test]
    fn the_first_change_after_a_while_goes_at_once_and_pauses_grow_behind_it() {
        let budget = Budget::new(200_000, S(60), MarkCost::REST).expect("large enough");
        let mut meter = Meter::new(budget, S(0));
        assert_eq!(meter.due(), None);
        let mut now = S(1_000_000);
        let mut pauses = Vec::new();
        for _ in 0..4_000 {
            meter.flushes(now);
            meter.spent(1, now);
            let due = meter.due().expect("a flush left");
            pauses.push(due - now);
            now = due.max(now);
        }
        assert!(pauses[0] < Duration::from_millis(50), "{:?}", pauses[0]);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses.last() <= Some(&budget.bound()) && pauses.last() > Some(&budget.bound().mul_f64(0.7)));
        assert!(meter.due() < Some(now + budget.bound()), "whoever waits for the bound goes at once");
        let before = meter.due();
        meter.spent(1_000_000, now);
        assert!(meter.due() >= before && meter.due() <= Some(now + budget.bound()), "a sweep makes no bound longer");
    }
}
