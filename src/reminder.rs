//! What is said once, and again once a minute while it lasts: a line for each time would hide everything else in the log.
//!
//! Whoever says such a line keeps a [`Reminder`] and asks it first. It remembers each subject (an id, a cause, a table)
//! apart, and no more of them than its bound. Pure: time comes as an argument.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

/// How often what lasts is said.
pub const EVERY: Duration = Duration::from_secs(60);

/// Subjects that are remembered unless another bound is given.
const SUBJECTS_MAX: usize = 64;

/// Of one subject.
#[derive(Clone, Copy, Debug)]
struct Said<I> {
    at: I,
    /// What was counted since, and not told.
    untold: u64,
}

/// When each subject was said last. `I` is a moment: an `Instant`, or the time since one.
#[derive(Clone, Debug)]
pub struct Reminder<K, I> {
    said: BTreeMap<K, Said<I>>,
    subjects_max: usize,
}

impl<K, I> Default for Reminder<K, I> {
    fn default() -> Self {
        Reminder::of_at_most(SUBJECTS_MAX)
    }
}

impl<K, I> Reminder<K, I> {
    /// With this bound. Past it a new subject is not said before an old one is due.
    pub fn of_at_most(subjects_max: usize) -> Self {
        Reminder { said: BTreeMap::new(), subjects_max }
    }

    /// All is over: what comes again is said at once.
    pub fn clear(&mut self) {
        self.said.clear();
    }
}

impl<K: Ord, I: Copy + Ord + Add<Duration, Output = I>> Reminder<K, I> {
    /// Of something that is no news when it begins, but when it has lasted for a minute.
    pub fn begun(subject: K, now: I) -> Self {
        let mut reminder = Reminder::default();
        reminder.said.insert(subject, Said { at: now, untold: 0 });
        reminder
    }

    /// Whether this subject is to be said now; it counts as said then.
    pub fn is_due<Q: ToOwned<Owned = K> + Ord + ?Sized>(&mut self, subject: &Q, now: I) -> bool
    where
        K: Borrow<Q>,
    {
        self.counted(subject, 0, now).is_some()
    }

    /// The same for something that is counted: how many are to be told, those that nothing was said of included.
    pub fn counted<Q: ToOwned<Owned = K> + Ord + ?Sized>(&mut self, subject: &Q, count: u64, now: I) -> Option<u64>
    where
        K: Borrow<Q>,
    {
        let is_due = |said: &Said<I>| said.at + EVERY <= now;
        if let Some(said) = self.said.get_mut(subject) {
            said.untold += count;
            return is_due(said).then(|| {
                said.at = now;
                std::mem::take(&mut said.untold)
            });
        }
        if self.said.len() >= self.subjects_max {
            // What is not told yet is kept a little longer: most often it comes again.
            self.said.retain(|_, said| !is_due(said) || (said.untold > 0 && now < said.at + EVERY + EVERY));
        }
        if self.said.len() >= self.subjects_max {
            return None;
        }
        self.said.insert(subject.to_owned(), Said { at: now, untold: 0 });
        Some(count)
    }

    /// Whether this subject is new: it is said once, until it is over.
    pub fn is_new<Q: ToOwned<Owned = K> + Ord + ?Sized>(&mut self, subject: &Q, now: I) -> bool
    where
        K: Borrow<Q>,
    {
        !self.said.contains_key(subject) && self.is_due(subject, now)
    }

    /// Subjects that are over; what comes again of them is said at once.
    pub fn retain(&mut self, lasts: impl Fn(&K) -> bool) {
        self.said.retain(|subject, _| lasts(subject));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subject_is_said_at_once_and_again_each_minute_with_all_that_was_counted_meanwhile() {
        let (mut reminder, begun) = (Reminder::<String, Instant>::default(), Instant::now());
        for (seconds, subject, count, told) in [
            (0, "timeout", 2, Some(2)),
            (0, "no column", 1, Some(1)),
            (1, "timeout", 3, None),
            (59, "timeout", 4, None),
            (60, "timeout", 5, Some(12)),
            (61, "no column", 1, Some(1)),
            (61, "timeout", 1, None),
            (500, "timeout", 1, Some(2)),
        ] {
            advance(begun + Duration::from_secs(seconds) - Instant::now()).await;
            assert_eq!(reminder.counted(subject, count, Instant::now()), told, "{seconds} {subject}");
        }
    }

    #[test]
    fn no_more_subjects_than_the_bound_are_remembered_and_none_is_hidden_for_ever() {
        let mut reminder = Reminder::<String, Duration>::of_at_most(8);
        let mut said = |second: u64| {
            let now = Duration::from_secs(second);
            (0..20).filter(|n| reminder.is_due(format!("{second} {n}").as_str(), now)).count()
        };
        assert_eq!([said(0), said(59), said(60), said(120)], [8, 0, 8, 8]);
        assert!(reminder.said.len() <= 8);
    }

    #[test]
    fn what_is_over_is_said_at_once_when_it_comes_again() {
        let at = Duration::from_secs;
        let mut reminder = Reminder::<u32, Duration>::default();
        assert!(reminder.is_due(&1, at(0)) && reminder.is_due(&2, at(0)));
        reminder.retain(|subject| *subject == 2);
        assert!(!reminder.is_new(&2, at(100)) && reminder.is_new(&5, at(1)));
        assert!(reminder.is_due(&1, at(1)) && !reminder.is_due(&2, at(1)));
        reminder.clear();
        assert!(reminder.is_due(&2, at(2)));
        let mut begun = Reminder::begun(3, at(0));
        assert_eq!([59, 60, 61].map(|second| begun.is_due(&3, at(second))), [false, true, false]);
    }
}
