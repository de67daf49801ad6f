//! Coarse tags that a sink refused for good. Pure.
//!
//! Nothing stands in for a coarse tag, so one that is refused is given up: what waited for it goes on, and so does the
//! position. The pages that carry it stay as they are, so it is owed all the same: it goes again at a slow pace, until the
//! sink takes it, be it this try or a purge that was due anyway. The next process begins with a purge of every family.

use std::collections::BTreeSet;
use std::ops::Add;
use std::time::Duration;

/// What is owed. `I` is the caller's clock.
#[derive(Debug)]
pub(super) struct OwedTags<I> {
    tags: BTreeSet<Vec<u8>>,
    due: Option<I>,
}

impl<I> Default for OwedTags<I> {
    fn default() -> Self {
        OwedTags { tags: BTreeSet::new(), due: None }
    }
}

impl<I: Copy + Ord + Add<Duration, Output = I>> OwedTags<I> {
    /// These were refused for good now; how many of them were not owed before. The first try comes after `pause`.
    pub(super) fn give_up(&mut self, tags: &BTreeSet<Vec<u8>>, now: I, pause: Duration) -> usize {
        let before = self.tags.len();
        self.tags.extend(tags.iter().cloned());
        if !self.tags.is_empty() {
            self.due.get_or_insert(now + pause);
        }
        self.tags.len() - before
    }

    /// These were purged. Whether nothing is owed any more, and something was.
    pub(super) fn purged(&mut self, tags: &[Vec<u8>]) -> bool {
        let was_owed = !self.tags.is_empty();
        tags.iter().for_each(|tag| _ = self.tags.remove(tag));
        self.ends(was_owed)
    }

    /// Other rules: what none of them names is owed no more. Whether nothing is owed any more, and something was.
    pub(super) fn keep(&mut self, named: impl Fn(&[u8]) -> bool) -> bool {
        let was_owed = !self.tags.is_empty();
        self.tags.retain(|tag| named(tag));
        self.ends(was_owed)
    }

    fn ends(&mut self, was_owed: bool) -> bool {
        let is_over = was_owed && self.tags.is_empty();
        if is_over {
            self.due = None;
        }
        is_over
    }

    /// A try leaves now; should it fail, the next one comes after `pause`.
    pub(super) fn tried(&mut self, now: I, pause: Duration) -> BTreeSet<Vec<u8>> {
        self.due = (!self.tags.is_empty()).then(|| now + pause);
        self.tags.clone()
    }

    /// When the next try is due; none while nothing is owed.
    pub(super) fn due(&self) -> Option<I> {
        self.due
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn tags(text: &str) -> BTreeSet<Vec<u8>> {
        text.split_whitespace().map(|tag| tag.as_bytes().to_vec()).collect()
    }

    fn list(text: &str) -> Vec<Vec<u8>> {
        tags(text).into_iter().collect()
    }

    #[test]
    fn what_is_given_up_is_owed_until_it_is_purged_and_each_tag_is_news_once() {
        let mut owed = OwedTags::default();
        assert_eq!((owed.give_up(&tags(""), S(1), S(60)), owed.due()), (0, None));
        assert_eq!(owed.give_up(&tags("a b"), S(1), S(60)), 2);
        assert_eq!(owed.give_up(&tags("b c"), S(50), S(60)), 1, "one of them is owed already");
        assert_eq!(owed.due(), Some(S(61)), "what is given up meanwhile puts no try off");
        assert_eq!((owed.tried(S(61), S(120)), owed.due()), (tags("a b c"), Some(S(181))));
        assert!(!owed.purged(&list("a x")) && !owed.is_empty());
        assert!(owed.purged(&list("b c")) && owed.is_empty());
        assert_eq!((owed.due(), owed.purged(&list("a"))), (None, false), "there is one end");
        assert_eq!(owed.give_up(&tags("a"), S(200), S(60)), 1, "it is news again");
    }

    #[test]
    fn what_no_rule_names_any_more_is_not_owed() {
        let mut owed = OwedTags::default();
        owed.give_up(&tags("a b"), S(1), S(60));
        assert!(!owed.keep(|tag| tag == b"a"));
        assert_eq!(owed.tried(S(61), S(60)), tags("a"));
        assert!(owed.keep(|_| false));
        assert_eq!((owed.due(), owed.tried(S(99), S(60))), (None, tags("")));
    }
}
