//! Outages: since when a step fails, when that is worth a line, and how long it lasted. Pure: time comes as an argument.
//!
//! The levels of the log follow from it. The first failure is a warning: the step is tried again, and mostly that is all.
//! One that lasts is an error: somebody must look.

use std::time::Duration;

use tokio::time::Instant;

use crate::reminder::{self, Reminder};

/// Causes that are remembered of one outage.
const CAUSES_MAX: usize = 8;

/// An outage that has lasted so long is said so often from then on, whatever its causes: an hour of it is a page of the log.
const LONG: Duration = Duration::from_secs(5 * 60);

/// One outage, or none.
#[derive(Debug)]
pub(crate) struct Outage {
    since: Option<Instant>,
    /// Its causes: another one is said at once.
    told: Reminder<String, Instant>,
    /// When it was said last that it lasts.
    still: Option<Instant>,
}

impl Default for Outage {
    fn default() -> Self {
        Outage { since: None, told: Reminder::of_at_most(CAUSES_MAX), still: None }
    }
}

/// What a failure is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Say {
    /// It began, or has another cause.
    First,
    /// It lasts since so long.
    Still(Duration),
    /// This was said a moment ago.
    Nothing,
}

impl Outage {
    /// The step failed for this cause.
    pub(crate) fn failed(&mut self, cause: &str, now: Instant) -> Say {
        let lasted = now.duration_since(*self.since.get_or_insert(now));
        if lasted >= LONG && self.still.is_some_and(|still| now < still + LONG) {
            return Say::Nothing;
        }
        match self.told.is_due(cause, now) {
            false => Say::Nothing,
            true if lasted < reminder::EVERY => Say::First,
            true => {
                self.still = Some(now);
                Say::Still(lasted)
            }
        }
    }

    /// How long it has lasted, if there is one.
    pub(crate) fn lasted(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.duration_since(since))
    }

    /// The step succeeded: how long the outage was, if there was one.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Duration> {
        let lasted = self.lasted(now);
        self.told.clear();
        (self.since, self.still) = (None, None);
        lasted
    }
}

/// A duration for people: `66 ms`, `25 s`, `3 min`, `2 h`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.subsec_millis() > 0 => format!("{} ms", duration.as_millis()),
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_when_it_begins_then_each_minute_and_ends_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        assert_eq!(outage.over(start), None);
        let still = |seconds| Say::Still(Duration::from_secs(seconds));
        for (seconds, cause, say) in [
            (5, "refused", Say::First),
            (6, "refused", Say::Nothing),
            (7, "expired", Say::First),
            (64, "refused", Say::Nothing),
            (65, "refused", still(60)),
            (70, "refused", Say::Nothing),
            (130, "refused", still(125)),
        ] {
            assert_eq!(outage.failed(cause, at(seconds)), say, "{seconds}");
        }
        assert_eq!(outage.over(at(131)), Some(Duration::from_secs(126)));
        assert_eq!((outage.over(at(132)), outage.failed("refused", at(133))), (None, Say::First));
    }

    /// Three steps may fail at once for one cause outside: deletes, the mark and a sweep, or the stream, the session and a
    /// look.
    #[test]
    fn an_hour_of_an_outage_with_causes_in_turn_is_at_most_80_lines_of_three_steps() {
        let start = Instant::now();
        let causes = ["refused", "timed out", "refused", "no route"];
        let lines = |step: u64| {
            let mut outage = Outage::default();
            let tries = (0..3600 / 4).map(|turn| (turn * 4 + step, causes[(turn % 4) as usize]));
            let said = tries
                .filter(|(second, cause)| outage.failed(cause, start + Duration::from_secs(*second)) != Say::Nothing);
            said.count()
        };
        let all: usize = (0..3).map(lines).sum();
        assert!((30..=80).contains(&all), "{all} lines");
    }

    #[test]
    fn a_span_is_told_in_its_largest_unit() {
        for (milliseconds, expected) in [
            (0, "0 s"),
            (66, "66 ms"),
            (999, "999 ms"),
            (1_500, "1 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_199_000, "119 min"),
            (9_000_000, "2 h"),
        ] {
            assert_eq!(span(Duration::from_millis(milliseconds)), expected);
        }
    }
}
