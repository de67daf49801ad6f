//! How long something took, as a histogram: a fixed array of counters. Pure.

use std::time::Duration;

/// The upper bounds of the buckets, in milliseconds.
const BOUNDS: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// How often something took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delays {
    /// By bound; what took longer than the last one is in none.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Delays {
    /// It took so long once.
    pub fn add(&mut self, delay: Duration) {
        if let Some(bucket) = BOUNDS.iter().position(|bound| delay <= Duration::from_millis(*bound)) {
            self.counts[bucket] += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(delay);
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Delays) -> Delays {
        Delays {
            counts: std::array::from_fn(|index| self.counts[index] + other.counts[index]),
            count: self.count + other.count,
            sum: self.sum.saturating_add(other.sum),
        }
    }

    /// Each bound, with what took no longer.
    pub fn cumulated(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS.into_iter().map(Duration::from_millis).zip(counts)
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How long all together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_holds_what_took_no_longer_than_its_bound() {
        let mut delays = Delays::default();
        for millis in [0, 1, 2, 40, 61_000] {
            delays.add(Duration::from_millis(millis));
        }
        let at = |millis| delays.cumulated().find(|(bound, _)| *bound == Duration::from_millis(millis)).map(|(_, n)| n);
        assert_eq!([1, 2, 20, 50, 60_000].map(at), [Some(2), Some(3), Some(3), Some(4), Some(4)]);
        assert_eq!((delays.count(), delays.sum()), (5, Duration::from_millis(61_043)));
        let twice = delays.and(delays);
        assert_eq!((twice.count(), twice.cumulated().last().map(|(_, n)| n)), (10, Some(8)));
    }
}
