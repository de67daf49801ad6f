//! What was said of lookups that the server refuses: each cause once, and while it lasts once a minute. Pure.
//!
//! A refused lookup is asked again with every batch, so that a line for each would hide everything else in the log.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::pipeline::told::REMIND;
use crate::question::LookupId;

/// Causes that are remembered. They are the server's words and its codes, of which one lookup brings few.
const CAUSES_MAX: usize = 64;

/// When a cause was last said, and the questions that were refused for it since.
#[derive(Debug)]
struct Said {
    at: Instant,
    since: u64,
}

/// The causes of all lookups.
#[derive(Debug, Default)]
pub struct Complaints(BTreeMap<(LookupId, String), Said>);

impl Complaints {
    /// So many questions of a lookup were refused for this cause: how many are to be told now, if it is to be said. Those
    /// that nothing was said of are among them.
    pub(crate) fn refused(&mut self, lookup: LookupId, cause: &str, count: u64, now: Instant) -> Option<u64> {
        let is_due = |said: &Said| now.duration_since(said.at) >= REMIND;
        if let Some(said) = self.0.get_mut(&(lookup, cause.to_owned())) {
            said.since += count;
            return is_due(said).then(|| {
                said.at = now;
                std::mem::take(&mut said.since)
            });
        }
        if self.0.len() >= CAUSES_MAX {
            self.0.retain(|_, said| now.duration_since(said.at) < 2 * REMIND);
        }
        if self.0.len() >= CAUSES_MAX {
            return None;
        }
        self.0.insert((lookup, cause.to_owned()), Said { at: now, since: 0 });
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cause_is_said_once_for_each_lookup_and_then_each_minute_with_all_that_were_refused_meanwhile() {
        let start = Instant::now();
        let mut complaints = Complaints::default();
        for (seconds, lookup, cause, count, told) in [
            (0, 0, "timeout", 2, Some(2)),
            (0, 1, "timeout", 1, Some(1)),
            (1, 0, "timeout", 3, None),
            (2, 0, "no column", 1, Some(1)),
            (59, 0, "timeout", 4, None),
            (60, 0, "timeout", 5, Some(12)),
            (61, 0, "timeout", 1, None),
            (500, 0, "timeout", 1, Some(2)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(complaints.refused(LookupId(lookup), cause, count, now), told, "{seconds} {lookup} {cause}");
        }
    }

    #[test]
    fn they_take_no_more_than_their_bound() {
        let start = Instant::now();
        let mut complaints = Complaints::default();
        let told = |complaints: &mut Complaints, second: u64| {
            let now = start + Duration::from_secs(second);
            (0..100).filter(|n| complaints.refused(LookupId(0), &format!("{second} {n}"), 1, now).is_some()).count()
        };
        assert_eq!([told(&mut complaints, 0), told(&mut complaints, 60), told(&mut complaints, 120)], [64, 0, 64]);
    }
}
