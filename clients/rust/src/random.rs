//! Random texts and pauses.

use std::time::Duration;

fn bits() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random bytes: without them no lease is one's own");
    u128::from_le_bytes(bytes)
}

/// 128 random bits, as a text.
pub fn text() -> String {
    format!("{:032x}", bits())
}

/// A part of this time, from `least` of it to all.
pub fn part(time: Duration, least: f64) -> Duration {
    let fraction = (bits() as u64) as f64 / u64::MAX as f64;
    time.mul_f64(least + (1.0 - least) * fraction)
}
