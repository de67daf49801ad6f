//! Single changes on their way, for people who watch: which of them are deleted where. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::observe::speaker::CacheName;

/// Changes that are followed at once; of more the oldest are given up.
const FOLLOWED_MAX: usize = 1_000;

/// Changes that were told.
#[derive(Debug)]
pub(super) struct Followed<A> {
    /// The positions of their commits, and their numbers.
    told: VecDeque<(A, u64)>,
    next: u64,
    /// Up to which number each cache has deleted them.
    gone: BTreeMap<CacheName, u64>,
}

impl<A> Default for Followed<A> {
    fn default() -> Self {
        Followed { told: VecDeque::new(), next: 1, gone: BTreeMap::new() }
    }
}

impl<A: Copy + Ord> Followed<A> {
    /// Follows a change from now on; its number.
    pub(super) fn add(&mut self, ack: A) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.told.len() >= FOLLOWED_MAX {
            self.told.pop_front();
        }
        self.told.push_back((ack, number));
        number
    }

    /// The cache deleted everything up to there: the number up to which its changes are gone, if that is news.
    pub(super) fn answered(&mut self, cache: &CacheName, upto: A) -> Option<u64> {
        let gone = self.told.iter().take_while(|(ack, _)| *ack <= upto).last()?.1;
        let known = self.gone.entry(CacheName::clone(cache)).or_default();
        let is_news = gone > *known;
        *known = gone.max(*known);
        is_news.then_some(gone)
    }

    /// Those that are gone in all of these caches need not be followed.
    pub(super) fn forget_gone(&mut self, caches: &[CacheName]) {
        self.gone.retain(|cache, _| caches.contains(cache));
        let everywhere = caches.iter().map(|cache| self.gone.get(cache).copied().unwrap_or(0)).min().unwrap_or(0);
        while self.told.front().is_some_and(|(_, number)| *number <= everywhere) {
            self.told.pop_front();
        }
    }

    /// Whether nothing is followed.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Positions mean something else from now on.
    pub(super) fn forget(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_gone_in_a_cache_once_and_followed_until_it_is_gone_in_all() {
        let (main, dakar) = (CacheName::from("main"), CacheName::from("dakar"));
        let both = [CacheName::clone(&main), CacheName::clone(&dakar)];
        let mut followed = Followed::default();
        assert_eq!([10, 10, 20].map(|ack| followed.add(ack)), [1, 2, 3]);
        assert_eq!(followed.answered(&main, 9), None);
        assert_eq!(followed.answered(&main, 10), Some(2));
        assert_eq!(followed.answered(&main, 15), None, "it was said");
        followed.forget_gone(&both);
        assert_eq!(followed.told.len(), 3, "the other one has none of them");
        assert_eq!((followed.answered(&dakar, 30), followed.answered(&main, 20)), (Some(3), Some(3)));
        followed.forget_gone(&both);
        assert!(followed.told.is_empty());
        for ack in 0..2 * FOLLOWED_MAX {
            followed.add(ack);
        }
        assert_eq!(followed.told.len(), FOLLOWED_MAX);
    }
}
