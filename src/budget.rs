//! What a budget of commands a month buys: how old a change may become before its keys are deleted. Pure.
//!
//! A month has 30 days. The heartbeat takes its share whatever happens; a twentieth is kept for what cannot be foreseen (a
//! sweep, a start, a command that goes again); what is left is flushes, one command each, however many keys stand in
//! it. So the longest pause between two flushes follows, and with it the greatest age of a change.

use std::fmt;
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
    /// A flush beside the marks.
    pub flush: u64,
}

impl MarkCost {
    /// In a transaction over REST: UNLINK and SET.
    pub const REST: MarkCost = MarkCost { idle: 1, carrying: 2, flush: 1 };
    /// In a script over the Redis protocol: EVAL, UNLINK and SET.
    pub const TCP: MarkCost = MarkCost { idle: 1, carrying: 3, flush: 1 };

    /// What a mark that carries costs beside the flush that it is at that moment.
    fn beside(self) -> u64 {
        self.carrying - self.flush
    }

    /// Each of them is followed by a message to readers.
    #[must_use]
    pub fn with_messages(self) -> MarkCost {
        MarkCost { idle: self.idle + 1, carrying: self.carrying + 1, flush: self.flush + 1 }
    }
}

/// Commands of a month that the marks take, one with each heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarksCost {
    /// While nothing changes.
    pub idle: u64,
    /// While keys change, beside the deletes that the marks carry.
    pub busy: u64,
}

impl fmt::Display for MarksCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MarksCost { idle, busy } = self;
        if busy > idle { write!(f, "{idle} when idle, up to {busy} while keys change") } else { write!(f, "{idle}") }
    }
}

/// Commands that may be billed in a month, and what the heartbeat takes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    commands: u64,
    heartbeat: Duration,
    mark: MarkCost,
    /// Commands a minute that the verifier may spend.
    verifier: u32,
}

/// A budget that no pause could keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSmall {
    /// What the marks alone cost a month.
    pub marks: MarksCost,
    /// Commands a month that the verifier may spend.
    pub verifier: u64,
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
        Budget::beside_verifier(commands, heartbeat, mark, 0)
    }

    /// The same with a verifier that may spend so many commands a minute.
    ///
    /// # Errors
    ///
    /// Where nothing useful is left beside both.
    pub fn beside_verifier(
        commands: u64,
        heartbeat: Duration,
        mark: MarkCost,
        verifier: u32,
    ) -> Result<Self, TooSmall> {
        let budget = Budget { commands, heartbeat, mark, verifier };
        let each = mark.beside().max(mark.idle);
        let marks = MONTH.as_secs_f64() / heartbeat.as_secs_f64();
        let flushes = MONTH.as_secs_f64() / BOUND_MAX.as_secs_f64() * mark.flush as f64 + budget.verifier() as f64;
        let least = (marks * each as f64 + flushes) * 100.0 / PLANNED as f64;
        if budget.commands as f64 >= least {
            return Ok(budget);
        }
        let left = (commands as f64 * PLANNED as f64 / 100.0 - flushes).max(1.0);
        let shortest = Duration::from_secs((MONTH.as_secs_f64() * each as f64 / left).ceil() as u64);
        let (marks, verifier) = (budget.marks(), budget.verifier());
        Err(TooSmall { marks, verifier, least: least.ceil() as u64, shortest })
    }

    /// Commands of a month that the verifier may spend.
    pub fn verifier(self) -> u64 {
        u64::from(self.verifier) * MONTH.as_secs() / 60
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
        let (mark, heartbeat) = (self.mark, self.heartbeat.as_secs_f64());
        let left = |each: u64| self.rate() - each as f64 / heartbeat - f64::from(self.verifier) / 60.0;
        let pause = |flush: u64, each: u64| flush as f64 / left(each).max(f64::MIN_POSITIVE);
        let dense = pause(mark.flush, mark.beside());
        // Where flushes are rarer than marks, most marks carry nothing.
        let is_rare = dense > heartbeat && mark.idle > mark.beside();
        let pause = if is_rare { pause(mark.carrying - mark.idle, mark.idle) } else { dense };
        Duration::from_secs_f64(pause.min(BOUND_MAX.as_secs_f64()))
    }

    /// The bound in whole seconds, or in milliseconds below one; rounded up.
    pub fn bound_shown(self) -> String {
        let bound = self.bound();
        match bound.as_secs_f64() {
            seconds if seconds >= 1.0 => format!("{} s", seconds.ceil()),
            seconds => format!("{} ms", (seconds * 1000.0).ceil()),
        }
    }

    /// What the marks alone cost a month.
    pub fn marks(self) -> MarksCost {
        let marks = (MONTH.as_secs_f64() / self.heartbeat.as_secs_f64()).ceil() as u64;
        MarksCost { idle: marks * self.mark.idle, busy: marks * self.mark.beside() }
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
            (200_000, 60, MarkCost::REST.with_messages(), 35_313, 86_400),
        ] {
            let budget = Budget::new(commands, S(heartbeat), mark).expect("large enough");
            assert_eq!((budget.bound().as_millis(), budget.marks().idle), (bound, idle), "{commands} {mark:?}");
            let spent = MONTH.as_secs_f64() / budget.bound().as_secs_f64()
                + MONTH.as_secs_f64() / heartbeat as f64 * (mark.carrying - 1) as f64;
            assert!(spent + budget.burst() <= commands as f64, "{spent}");
        }
    }

    /// A message to readers goes with each mark, whether the mark carries anything or not.
    #[test]
    fn a_month_of_marks_that_carry_little_stays_within_the_budget() {
        let mark = MarkCost::REST.with_messages();
        let small = Budget::new(86_400, S(60), mark).expect_err("the marks of an idle month take all of it");
        assert_eq!(small.marks, MarksCost { idle: 86_400, busy: 43_200 });
        for commands in [small.least, 100_000, 150_000, 200_000] {
            let budget = Budget::new(commands, S(60), mark).expect("large enough");
            let (marks, flushes) = (43_200.0, MONTH.as_secs_f64() / budget.bound().as_secs_f64());
            let carrying = f64::min(marks, flushes);
            let spent = carrying * mark.carrying as f64
                + (marks - carrying) * mark.idle as f64
                + (flushes - carrying) * mark.flush as f64;
            assert!(spent <= commands as f64 * 0.951, "{commands}: {spent}");
        }
    }

    #[test]
    fn what_the_marks_cost_is_said_the_same_way_wherever_it_is_said() {
        let tcp = Budget::new(95_000, S(60), MarkCost::TCP).expect("large enough");
        let small = Budget::new(90_000, S(60), MarkCost::TCP).expect_err("too small");
        assert_eq!((tcp.marks(), small.least), (small.marks, 91_706));
        assert_eq!(small.marks.to_string(), "43200 when idle, up to 86400 while keys change");
        let rest = Budget::new(95_000, S(60), MarkCost::REST).expect("large enough");
        assert_eq!(rest.marks().to_string(), "43200");
    }

    #[test]
    fn what_the_verifier_may_spend_is_part_of_the_budget() {
        let of = |verifier| Budget::beside_verifier(200_000, S(60), MarkCost::REST, verifier);
        let (without, beside) = (of(0).expect("large enough"), of(2).expect("large enough"));
        assert_eq!((without.verifier(), beside.verifier()), (0, 86_400));
        let flushes = |budget: Budget| MONTH.as_secs_f64() / budget.bound().as_secs_f64();
        assert_eq!((flushes(without) - flushes(beside)).round(), 86_400.0);
        let small = of(4).expect_err("172,800 beside 43,200");
        assert_eq!((small.verifier, small.marks.idle, small.marks.busy), (172_800, 43_200, 43_200));
        assert!(Budget::beside_verifier(small.least, S(60), MarkCost::REST, 4).is_ok(), "{small:?}");
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
            assert!(small.least > commands && small.marks.idle.max(small.marks.busy) <= small.least, "{small:?}");
            assert!(Budget::new(small.least, S(heartbeat), mark).is_ok(), "{small:?}");
            if commands > 1_000 {
                assert!(Budget::new(commands, small.shortest, mark).is_ok(), "{small:?}");
            }
        }
    }
}
