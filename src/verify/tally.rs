//! What the verifier counted. Plain values.

use std::time::{Duration, SystemTime};

/// A key that was found stale.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaleKey {
    /// When that was proved.
    pub at: SystemTime,
    /// In this cache.
    pub cache: String,
    /// The key, as people read it; `None` for whoever may not see keys.
    pub key: Option<String>,
    /// The place of its `[[verify]]`.
    pub place: String,
    /// How long the database had said otherwise by then.
    pub known_for: Duration,
    /// It was stale no more at a later look.
    pub is_mended: bool,
}

/// What was counted since the start, and what is stale now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Cached values that were compared with the database.
    pub checked: u64,
    /// Keys that were found stale.
    pub stale: u64,
    /// Values of which nothing can be said: they changed meanwhile, crieur was behind, or the database cannot read the key.
    pub undecided: u64,
    /// Keys that were found stale and still are.
    pub stale_now: u64,
    /// How long the oldest of these is known to be stale.
    pub stale_age: Duration,
    /// The key that was found stale last.
    pub last_stale: Option<StaleKey>,
}

impl Verified {
    /// As Prometheus reads it.
    pub fn series(&self) -> String {
        let Verified { checked, stale, undecided, stale_now, stale_age, last_stale: _ } = self;
        let rows = [
            (
                "checked_total",
                "counter",
                "Cached values that the verifier compared with the database.",
                checked.to_string(),
            ),
            ("stale_total", "counter", "Cached keys that the verifier found stale.", stale.to_string()),
            (
                "undecided_total",
                "counter",
                "Cached values of which the verifier could say nothing.",
                undecided.to_string(),
            ),
            ("stale_keys", "gauge", "Cached keys that were found stale and still are.", stale_now.to_string()),
            (
                "stale_age_seconds",
                "gauge",
                "How long the oldest stale key is known to be stale; 0 without one.",
                format!("{:.3}", stale_age.as_secs_f64()),
            ),
        ];
        let row = |(name, kind, help, value): (&str, &str, &str, String)| {
            format!(
                "# HELP crieur_verify_{name} {help}\n# TYPE crieur_verify_{name} {kind}\ncrieur_verify_{name} {value}\n"
            )
        };
        rows.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_a_series() {
        let age = Duration::from_millis(1_500);
        let text =
            Verified { checked: 5, stale: 1, undecided: 2, stale_now: 1, stale_age: age, last_stale: None }.series();
        for line in ["checked_total 5", "stale_total 1", "undecided_total 2", "stale_keys 1", "stale_age_seconds 1.500"]
        {
            assert!(text.contains(&format!("\ncrieur_verify_{line}\n")), "{line} in {text}");
        }
    }
}
