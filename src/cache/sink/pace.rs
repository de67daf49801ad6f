//! When the next request may leave: as often as the plan allows, and not before a service wants to be asked again. Pure.
//!
//! In no time as long as that of the rate are there more requests than it says, wherever that time begins: no server that
//! counts in whole minutes, in a moving window or with a bucket of that size refuses one. A request counts from its
//! answer, because the server counted it before.

use std::collections::VecDeque;
use std::ops::Add;
use std::time::Duration;

use crate::amount::RateLimit;

/// The requests of late. `I` is the caller's clock.
#[derive(Debug)]
pub(super) struct RequestPace<I> {
    rate: RateLimit,
    answered: VecDeque<I>,
    pause: Option<I>,
}

impl<I: Copy + Ord + Add<Duration, Output = I>> RequestPace<I> {
    pub(super) fn new(rate: RateLimit) -> Self {
        RequestPace { rate, answered: VecDeque::new(), pause: None }
    }

    /// When the next request may leave, if that is later than now.
    pub(super) fn due(&self, now: I) -> Option<I> {
        let full = self.answered.len() >= self.rate.count as usize;
        let free = self.answered.front().filter(|_| full).map(|first| *first + self.rate.per);
        free.max(self.pause).filter(|due| *due > now)
    }

    /// A request was answered, or given up.
    pub(super) fn answered(&mut self, now: I) {
        while self.answered.len() >= self.rate.count as usize {
            self.answered.pop_front();
        }
        self.answered.push_back(now);
    }

    /// The service wants no request before then.
    pub(super) fn pause_until(&mut self, then: I) {
        self.pause = self.pause.max(Some(then));
    }
}

/// Requests that may leave together: what the rate allows in ten seconds, or in its own time where that is longer. What
/// takes more goes as coarse tags.
pub(super) fn requests_max(rate: RateLimit) -> usize {
    const LONGEST: u64 = 10;
    let per = rate.per.as_secs().max(1);
    (u64::from(rate.count) * per.max(LONGEST) / per) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn no_window_of_the_rates_time_holds_more_than_the_rate() {
        let rate = RateLimit { count: 5, per: S(60) };
        let mut pace = RequestPace::new(rate);
        let (mut now, mut sent) = (S(1000), Vec::new());
        for number in 0..40 {
            now = pace.due(now).unwrap_or(now);
            sent.push(now);
            now += Duration::from_millis(number * 7 % 300);
            pace.answered(now);
        }
        assert_eq!(sent[4], sent[0] + Duration::from_millis(7 + 14 + 21), "the first ones go at once");
        for (index, first) in sent.iter().enumerate() {
            let within = sent[index..].iter().filter(|other| **other < *first + rate.per).count();
            assert!(within <= 5, "{within} from {first:?}");
        }
        assert!(sent[39] < S(1000 + 60 * 8), "and the rate is used: {:?}", sent[39]);
    }

    #[test]
    fn a_pause_that_the_service_wants_is_kept() {
        let mut pace = RequestPace::new(RateLimit { count: 10, per: S(1) });
        assert_eq!(pace.due(S(5)), None);
        pace.pause_until(S(30));
        pace.pause_until(S(20));
        assert_eq!(pace.due(S(5)), Some(S(30)));
        assert_eq!(pace.due(S(30)), None);
    }

    #[test]
    fn what_leaves_together_is_sent_in_seconds_or_in_the_rates_own_time() {
        for (count, per, expected) in [(10, 1, 100), (5, 60, 5), (1, 3_600, 1), (3, 5, 6)] {
            assert_eq!(requests_max(RateLimit { count, per: S(per) }), expected);
        }
    }
}
