//! Random numbers: one source, the system's, for names that nobody else may draw and for pauses that must not coincide.
//!
//! The seeds of hash tables are none of this: each table's hasher draws its own.

use crate::failpoints;

/// Bytes that nobody can guess and no other process draws.
///
/// # Panics
///
/// The system has no source of random bytes. TLS and SCRAM could do nothing there either.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if !failpoints::fill(&mut bytes) {
        getrandom::fill(&mut bytes).expect("the system has a source of random bytes");
    }
    bytes
}

/// A text that nobody can guess and no other process draws.
pub(crate) fn text() -> String {
    bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number in 0..1, each as likely as the others.
pub(crate) fn fraction() -> f64 {
    // As many bits as the mantissa holds: with more, the largest would be rounded to 1.
    (u64::from_ne_bytes(bytes()) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        assert_ne!(bytes::<16>(), bytes::<16>());
        assert_ne!(bytes::<16>(), [0; 16]);
    }

    #[test]
    fn fractions_lie_in_their_range_and_fill_it() {
        let drawn: Vec<f64> = (0..1_000).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        // A thousand draws that all miss a tenth of the range are rarer than one in 10^45.
        assert!(drawn.iter().any(|fraction| *fraction < 0.1) && drawn.iter().any(|fraction| *fraction > 0.9));
    }
}
