//! How long to wait before the same step is tried again: exponential, jittered, pure.
//!
//! It neither sleeps nor draws random numbers: the caller hands in a number from [0, 1) and does the waiting. The
//! invariant: a delay is never zero (a refused connection must not become a busy loop) and never above the maximum.

use std::time::Duration;

/// First and longest delay for errors of class [`TransientSlow`](crate::error::Class::TransientSlow).
const SLOW: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));

/// The delays of one sequence of failures.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// A tenth of a second at first, then up to five: short enough for a server that restarts.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

impl Backoff {
    /// Delays that start around `first` and double up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Backoff { first, max: max.max(first), failures: 0 }
    }

    /// The delay after one more failure: between half and the whole of the doubled step, by `random` in [0, 1).
    ///
    /// Half of the step stays fixed, so that the load on a server that comes back is spread and still bounded.
    pub fn next(&mut self, random: f64) -> Duration {
        self.step(self.first, self.max, random)
    }

    /// The same for an error of class `TransientSlow`: one to five minutes.
    pub fn next_slow(&mut self, random: f64) -> Duration {
        self.step(SLOW.0 * 2, SLOW.1, random)
    }

    /// The step succeeded: the next failure starts over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn step(&mut self, first: Duration, max: Duration, random: f64) -> Duration {
        let doubled = first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = (self.failures + 1).min(31);
        let whole = doubled.min(max);
        // A NaN clamps to NaN, which `mul_f64` would refuse by panicking.
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
        whole.mul_f64(0.5 + random / 2.0).max(Duration::from_millis(1)).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn delays(backoff: &mut Backoff, random: f64, count: usize) -> Vec<u128> {
        (0..count).map(|_| backoff.next(random).as_millis()).collect()
    }

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(MS(100), MS(1000));
        assert_eq!(delays(&mut backoff, 1.0, 6), [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(delays(&mut backoff, 0.0, 6), [50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn slow_delays_lie_between_one_and_five_minutes() {
        for random in [0.0, 0.5, 1.0] {
            let mut backoff = Backoff::new(MS(100), MS(1000));
            for _ in 0..100 {
                let delay = backoff.next_slow(random);
                assert!((60..=300).contains(&delay.as_secs()), "{delay:?}");
            }
        }
    }

    #[test]
    fn no_input_gives_zero_or_more_than_the_maximum() {
        for (first, max) in [(MS(0), MS(0)), (MS(5), MS(1)), (MS(100), Duration::MAX)] {
            for random in [f64::NAN, -1.0, 0.0, 0.999, 7.0] {
                let mut backoff = Backoff::new(first, max);
                for _ in 0..100 {
                    let delay = backoff.next(random);
                    assert!(delay >= MS(1) && delay <= max.max(first).max(MS(1)), "{delay:?}");
                }
            }
        }
    }
}
