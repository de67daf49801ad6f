//! Randomness that a number repeats: which faults, which rows, which pauses. What the servers and the scheduler do is
//! not in it, so a seed repeats the plan of a run and not every interleaving.

use std::time::Duration;

/// Splitmix64: small, and good enough to choose from lists.
#[derive(Clone, Debug)]
pub struct Seed(pub u64);

impl Seed {
    /// `SEED` of the environment, else the clock.
    pub fn of_the_run() -> u64 {
        let given = std::env::var("SEED").ok().map(|text| text.parse().expect("SEED is a number"));
        given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() % 1_000_000_007))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// From `low` to `high`, in milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low + 1))
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// For a part of the run that takes as many numbers as it likes.
    pub fn fork(&mut self) -> Seed {
        Seed(self.next())
    }
}
