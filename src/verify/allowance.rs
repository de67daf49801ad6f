//! What the verifier may spend in a cache where each command is billed. Pure.
//!
//! What a look costs is known behind it, so a look may cost more than is left; then the next ones wait until that is made
//! up for. So a minute may be dearer than allowed, and a month is not.

use std::time::Duration;

/// Commands that may be spent; in a cache that bills none, as many as come.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Allowance {
    per_minute: Option<u32>,
    left: f64,
    billed: u64,
}

impl Allowance {
    /// Of so many commands a minute; `None`: commands cost nothing.
    pub fn new(per_minute: Option<u32>) -> Self {
        Allowance { per_minute, left: 0.0, billed: 0 }
    }

    /// Time goes by. No more is put aside than for a minute.
    pub fn passes(&mut self, time: Duration) {
        let per_minute = f64::from(self.per_minute.unwrap_or_default());
        self.left = (self.left + per_minute * time.as_secs_f64() / 60.0).min(per_minute);
    }

    /// The bill says so much by now.
    pub fn read(&mut self, billed: u64) {
        self.left -= billed.saturating_sub(self.billed) as f64;
        self.billed = billed;
    }

    /// Whether something may be spent now.
    pub fn allows(&self) -> bool {
        self.per_minute.is_none() || self.left > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_cost_too_much_is_made_up_for() {
        let mut allowance = Allowance::new(Some(12));
        assert!(!allowance.allows(), "a start spends nothing");
        let (mut billed, mut looks) = (0, 0);
        for _ in 0..12 * 60 {
            allowance.passes(Duration::from_secs(5));
            if allowance.allows() {
                (billed, looks) = (billed + 20, looks + 1);
                allowance.read(billed);
            }
        }
        assert!((720..=740).contains(&billed), "{billed} commands in an hour, in {looks} looks");
        allowance.passes(Duration::from_secs(86_400));
        assert_eq!(allowance.left, 12.0, "a quiet day is not spent in a minute");
    }

    #[test]
    fn where_nothing_is_billed_nothing_is_held_back() {
        let mut allowance = Allowance::new(None);
        allowance.read(1_000_000);
        assert!(allowance.allows());
        let mut none = Allowance::new(Some(0));
        none.passes(Duration::from_secs(60));
        assert!(!none.allows());
    }
}
