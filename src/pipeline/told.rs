//! What was said of an outage: the same again only after a while, another cause at once. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How often a continuing outage is logged.
pub(crate) const REMIND: Duration = Duration::from_secs(60);

/// Causes that are remembered; one that brings more is said again when the oldest is due.
const CAUSES_MAX: usize = 8;

/// What was said, and when.
#[derive(Debug, Default)]
pub(crate) struct Told(Vec<(String, Instant)>);

impl Told {
    /// Whether this cause is to be said now: it was not for a while. It counts as said then.
    pub(crate) fn is_due(&mut self, cause: &str, now: Instant) -> bool {
        self.0.retain(|(_, said)| now.duration_since(*said) < REMIND);
        if self.0.len() >= CAUSES_MAX || self.0.iter().any(|(said, _)| said == cause) {
            return false;
        }
        self.0.push((cause.to_owned(), now));
        true
    }

    /// The outage is over.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cause_is_said_at_once_and_the_same_after_a_while() {
        let start = Instant::now();
        let mut told = Told::default();
        let said: Vec<bool> =
            [("refused", 0), ("refused", 1), ("expired", 2), ("refused", 59), ("refused", 60), ("expired", 61)]
                .map(|(cause, seconds)| told.is_due(cause, start + Duration::from_secs(seconds)))
                .to_vec();
        assert_eq!(said, [true, false, true, false, true, false]);
        assert_eq!((0..20).filter(|cause| told.is_due(&cause.to_string(), start + Duration::from_secs(62))).count(), 7);
        told.clear();
        assert!(told.is_due("refused", start + Duration::from_secs(63)), "a new outage");
    }
}
