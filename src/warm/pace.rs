//! When the next page may be asked for: two at a time, and no more in any minute than the limit. Pure.
//!
//! A request counts until a minute behind its answer, because nobody knows when the site began to count it. So no minute of
//! the site's own clock holds more requests than the limit, wherever that minute begins.

use std::collections::VecDeque;
use std::ops::Add;
use std::time::Duration;

/// Requests that are out at once.
pub const AT_ONCE: usize = 2;

const MINUTE: Duration = Duration::from_secs(60);

/// The requests of late. `I` is the caller's clock.
#[derive(Debug)]
pub struct PagePace<I> {
    per_minute: usize,
    out: usize,
    answered: VecDeque<I>,
    pause: Option<I>,
}

/// What keeps the next request from leaving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageTurn<I> {
    /// Nothing.
    Now,
    /// The limit, or a site, until then.
    At(I),
    /// Requests that are out.
    Behind,
}

impl<I: Copy + Ord + Add<Duration, Output = I>> PagePace<I> {
    /// So many in a minute.
    pub fn new(per_minute: u64) -> Self {
        let per_minute = usize::try_from(per_minute).unwrap_or(usize::MAX);
        PagePace { per_minute, out: 0, answered: VecDeque::new(), pause: None }
    }

    /// What keeps the next request from leaving.
    pub fn turn(&mut self, now: I) -> PageTurn<I> {
        while self.answered.front().is_some_and(|first| *first + MINUTE <= now) {
            self.answered.pop_front();
        }
        if let Some(pause) = self.pause.filter(|pause| *pause > now) {
            return PageTurn::At(pause);
        }
        if self.out >= AT_ONCE {
            return PageTurn::Behind;
        }
        match self.answered.front() {
            _ if self.out + self.answered.len() < self.per_minute => PageTurn::Now,
            Some(first) => PageTurn::At(*first + MINUTE),
            None => PageTurn::Behind,
        }
    }

    /// Whether a request is out.
    pub fn is_out(&self) -> bool {
        self.out > 0
    }

    /// A request leaves.
    pub fn leaves(&mut self) {
        self.out += 1;
    }

    /// One was answered, or given up.
    pub fn answered(&mut self, now: I) {
        self.out = self.out.saturating_sub(1);
        self.answered.push_back(now);
    }

    /// A site wants no request before then.
    pub fn pause_until(&mut self, then: I) {
        self.pause = self.pause.max(Some(then));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// The moments at which requests leave that take so long each, until `count` have left; each with its end.
    fn played(per_minute: u64, count: usize, lasts: impl Fn(usize) -> Duration) -> Vec<(Duration, Duration)> {
        let mut pace = PagePace::new(per_minute);
        let (mut now, mut out, mut all): (_, Vec<Duration>, _) = (MS(0), Vec::new(), Vec::new());
        while all.len() < count {
            match pace.turn(now) {
                PageTurn::Now => {
                    pace.leaves();
                    let end = now + lasts(all.len());
                    all.push((now, end));
                    out.push(end);
                    out.sort();
                    continue;
                }
                PageTurn::At(then) => now = out.first().copied().unwrap_or(then).min(then).max(now),
                PageTurn::Behind => now = out[0],
            }
            while out.first().is_some_and(|end| *end <= now) {
                pace.answered(out.remove(0));
            }
        }
        all
    }

    #[test]
    fn never_more_than_two_are_out_and_no_minute_holds_more_than_the_limit() {
        for (per_minute, lasts) in [(5, 0), (5, 700), (60, 3_000), (1, 200), (120, 100), (2, 90_000)] {
            let all = played(per_minute, 150, |index| MS(lasts + (index as u64 * 7919) % 300));
            for (index, (begins, _)) in all.iter().enumerate() {
                let out = all[..index].iter().filter(|(_, end)| end > begins).count();
                assert!(out < AT_ONCE, "{per_minute}");
            }
            // Wherever between its begin and its answer the site counts each.
            for part in 0..4 {
                let counted = |(index, (begins, ends)): (usize, &(Duration, Duration))| {
                    *begins + (*ends - *begins) * ((index as u32 * part) % 4) / 3
                };
                let all: Vec<Duration> = all.iter().enumerate().map(counted).collect();
                for first in &all {
                    let within = all.iter().filter(|other| (*first..*first + MINUTE).contains(*other)).count();
                    assert!(within <= per_minute as usize, "{within} of {per_minute}");
                }
            }
        }
    }

    #[test]
    fn the_limit_is_used_and_a_pause_is_kept() {
        let all = played(60, 120, |_| MS(100));
        assert_eq!(all[1].0, MS(0), "two leave at once");
        assert!(all[59].0 < MS(3_100) && all[60].0 >= MINUTE && all[119].0 < MINUTE + MINUTE, "{:?}", all[119]);
        let mut pace = PagePace::new(60);
        pace.pause_until(MS(500));
        pace.pause_until(MS(300));
        assert_eq!((pace.turn(MS(0)), pace.turn(MS(500))), (PageTurn::At(MS(500)), PageTurn::Now));
    }
}
