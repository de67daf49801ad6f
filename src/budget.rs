//! What a budget of commands a month buys: how old a change may become before its keys are deleted. Pure.
//!
//! A month has 30 days. The heartbeat takes its share whatever happens; a twentieth is kept for what cannot be foreseen (a
//! sweep, a start, a command that goes again); what is left is flushes, one command each, however many keys stand in
//! it. So the longest pause between two flushes follows, and with it the greatest age of a change.

use std::time::Duration;

/// What a budget is for.
pub const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How much of the budget is planned with, in parts of a hundred.
const PLANNED: u64 = 95;
/// A longer pause between two deletes is no bound that anybody means.
const BOUND_MAX: Duration = Duration::from_secs(60 * 60);

/// What one mark costs where it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkCost {
    /// Nothing was deleted since the last one.
    pub idle: u64,
    /// It carries what was deleted since the last one, together with what is to be deleted now.
    pub carrying: u64,
}

impl MarkCost {
    /// In a transaction over REST: UNLINK and SET.
    pub const REST: MarkCost = MarkCost { idle: 1, carrying: 2 };
    /// In a script over the Redis protocol: EVAL, UNLINK and SET.
    pub const TCP: MarkCost = MarkCost { idle: 1, carrying: 3 };
}

/// Commands that may be billed in a month, and what the heartbeat takes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    commands: u64,
    heartbeat: Duration,
    mark: MarkCost,
}

/// A budget that no pause could keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSmall {
    /// Commands a month that the heartbeat alone takes.
    pub heartbeat: u64,
    /// The least budget for this heartbeat.
    pub least: u64,
    /// The shortest heartbeat for this budget.
    pub shortest: Duration,
}

impl Budget {
    /// # Errors
    ///
    /// Where nothing useful is left beside the heartbeat.
    pub fn new(commands: u64, heartbeat: Duration, mark: MarkCost) -> Result<Self, TooSmall> {
        let budget = Budget { commands, heartbeat, mark };
        // A mark that carries also is the flush of that moment.
        let extra = mark.carrying - 1;
        let marks = MONTH.as_secs_f64() / heartbeat.as_secs_f64();
        let flushes = MONTH.as_secs_f64() / BOUND_MAX.as_secs_f64();
        let least = (marks * extra as f64 + flushes) * 100.0 / PLANNED as f64;
        if budget.commands as f64 >= least {
            return Ok(budget);
        }
        let left = (commands as f64 * PLANNED as f64 / 100.0 - flushes).max(1.0);
        let shortest = Duration::from_secs((MONTH.as_secs_f64() * extra as f64 / left).ceil() as u64);
        Err(TooSmall { heartbeat: marks.ceil() as u64 * extra, least: least.ceil() as u64, shortest })
    }

    /// Commands a month.
    pub fn commands(self) -> u64 {
        self.commands
    }

    /// Commands a second that are planned with.
    pub fn rate(self) -> f64 {
        self.commands as f64 * PLANNED as f64 / 100.0 / MONTH.as_secs_f64()
    }

    /// Commands that may be spent at once after a time without changes: a hundredth of the month's.
    pub fn burst(self) -> f64 {
        self.commands as f64 / 100.0
    }

    /// The longest pause between two flushes: no change waits longer while the cache answers.
    pub fn bound(self) -> Duration {
        let marks = (self.mark.carrying - 1) as f64 / self.heartbeat.as_secs_f64();
        Duration::from_secs_f64(1.0 / (self.rate() - marks)).min(BOUND_MAX)
    }

    /// The bound in whole seconds, or in milliseconds below one; rounded up.
    pub fn bound_shown(self) -> String {
        let bound = self.bound();
        match bound.as_secs_f64() {
            seconds if seconds >= 1.0 => format!("{} s", seconds.ceil()),
            seconds => format!("{} ms", (seconds * 1000.0).ceil()),
        }
    }

    /// Commands of a month in which nothing changes.
    pub fn idle(self) -> u64 {
        (MONTH.as_secs_f64() / self.heartbeat.as_secs_f64()).ceil() as u64 * self.mark.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_bound_follows_from_budget_and_heartbeat() {
        for (commands, heartbeat, mark, bound, idle) in [
            (200_000, 60, MarkCost::REST, 17656, 43_200),
            (200_000, 60, MarkCost::TCP, 25019, 43_200),
            (500_000, 60, MarkCost::REST, 6002, 43_200),
            (5_000_000, 30, MarkCost::TCP, 566, 86_400),
        ] {
            let budget = Budget::new(commands, S(heartbeat), mark).expect("large enough");
            assert_eq!((budget.bound().as_millis(), budget.idle()), (bound, idle), "{commands} {mark:?}");
            let spent = MONTH.as_secs_f64() / budget.bound().as_secs_f64()
                + MONTH.as_secs_f64() / heartbeat as f64 * (mark.carrying - 1) as f64;
            assert!(spent + budget.burst() <= commands as f64, "{spent}");
        }
    }

    #[test]
    fn a_budget_that_the_heartbeat_eats_names_what_would_do() {
        for (commands, heartbeat, mark) in [
            (40_000, 60, MarkCost::REST),
            (90_000, 60, MarkCost::TCP),
            (200_000, 2, MarkCost::REST),
            (1, 60, MarkCost::REST),
        ] {
            let small = Budget::new(commands, S(heartbeat), mark).expect_err("too small");
            assert!(small.least > commands && small.heartbeat + 1_000 > commands.min(small.heartbeat));
            assert!(Budget::new(small.least, S(heartbeat), mark).is_ok(), "{small:?}");
            if commands > 1_000 {
                assert!(Budget::new(commands, small.shortest, mark).is_ok(), "{small:?}");
            }
        }
    }
}
