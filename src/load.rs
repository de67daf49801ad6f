//! What is to be deleted: the sums, unions and collapses of the sets that one load holds. Pure.
//!
//! A load is what the rules made of changes (`rules::Invalidations`). On its way it is only united with others, cut in
//! two, or made coarser where memory is short: deleting a key too often is safe, running out of memory is not.

use std::collections::HashMap;

use crate::glob;
use crate::keys::{FamilyId, Key, KeySet, TxOrdinal};
use crate::rules::plan::cause::{Cause, Causes};
use crate::rules::{Invalidations, Rules};
use crate::warm::Pages;

/// Keys of tables whose changes do not come.
#[derive(Clone, Debug)]
pub struct Untold {
    /// Of all such tables.
    pub all: Invalidations,
    /// Of those that were altered: their keys are stale for certain.
    pub altered: Invalidations,
}

impl Invalidations {
    /// Keys, patterns, lookups and what is to be forgotten, together.
    pub fn len(&self) -> usize {
        self.keys.len() + self.patterns.len() + self.lookups.len() + self.forgets.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.keys.bytes_used()
            + self.patterns.bytes_used()
            + self.lookups.bytes_used()
            + self.forgets.bytes_used()
            + self.pages_bytes()
    }

    /// Of the pages.
    fn pages_bytes(&self) -> usize {
        self.warms.bytes_used() + self.pages.bytes_used()
    }

    /// Adds all of `other`, each key with its transactions.
    pub fn merge(&mut self, other: Invalidations) {
        self.keys.merge(other.keys);
        self.patterns.merge(other.patterns);
        self.lookups.merge(other.lookups);
        self.forgets.merge(other.forgets);
        self.widened += other.widened;
        self.protected += other.protected;
        self.unwarmed += other.unwarmed;
        self.merge_pages(other.warms);
        self.pages.merge(other.pages);
        self.causes.merge(other.causes);
    }

    /// See [`KeySet::split`]. What was counted leaves.
    pub(crate) fn split(
        &mut self,
        leaves: impl Fn(&Key<'_>) -> bool,
        stays: impl Fn(&Key<'_>) -> Option<(TxOrdinal, TxOrdinal)>,
    ) -> Invalidations {
        let causes = self.causes;
        let leaving = Invalidations {
            keys: self.keys.split(&leaves, &stays),
            patterns: self.patterns.split(&leaves, &stays),
            lookups: self.lookups.split(&leaves, &stays),
            forgets: self.forgets.split(&leaves, &stays),
            widened: std::mem::take(&mut self.widened),
            protected: std::mem::take(&mut self.protected),
            warms: self.warms.split(&leaves, &stays),
            unwarmed: std::mem::take(&mut self.unwarmed),
            // Nobody holds a page before its load was handed over.
            pages: Pages::default(),
            causes,
        };
        // Which pattern has which cause is not known: both sides keep them all.
        if self.patterns.is_empty() && self.lookups.is_empty() {
            self.causes = Causes::default();
        }
        leaving
    }

    pub(crate) fn each_set(&mut self, mut apply: impl FnMut(&mut KeySet)) {
        apply(&mut self.keys);
        apply(&mut self.patterns);
        apply(&mut self.lookups);
        apply(&mut self.forgets);
        apply(&mut self.warms);
    }

    /// Lets all pages go, which are a hint; says how many bytes that freed.
    fn forget_pages(&mut self) -> usize {
        let freed = self.pages_bytes();
        if freed > 0 {
            self.unwarmed += std::mem::take(&mut self.warms).len() as u64;
            self.pages = Pages::default();
        }
        freed
    }

    /// Lets the pages go, or where there are none replaces the family that takes most memory by its pattern; says how many
    /// bytes that freed. Over-deleting is safe, running out of memory is not.
    pub fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let freed = self.forget_pages();
        if freed > 0 {
            return freed;
        }
        let before = self.bytes_used();
        let mut bytes: HashMap<FamilyId, usize> = HashMap::new();
        for set in [&self.keys, &self.patterns, &self.lookups] {
            for key in set.iter() {
                *bytes.entry(key.family).or_default() += key.bytes.len() + 32;
            }
        }
        if let Some((largest, _)) = bytes.into_iter().max_by_key(|(family, bytes)| (*bytes, family.0)) {
            self.collapse(largest, rules);
        }
        before.saturating_sub(self.bytes_used())
    }

    /// Collapses the largest families until all takes at most so many bytes, or one pattern for each family is left. Says
    /// how many were collapsed.
    pub fn collapse_to(&mut self, bytes_max: usize, rules: &Rules) -> u64 {
        let mut collapsed = 0;
        if self.bytes_used() > bytes_max {
            self.forget_pages();
        }
        while self.bytes_used() > bytes_max && self.collapse_largest(rules) > 0 {
            collapsed += 1;
        }
        collapsed
    }

    /// Collapses the families with most patterns until at most `most` are left: a sweep compares every key of the cache
    /// with every pattern. Says how many were collapsed.
    pub fn collapse_patterns(&mut self, most: usize, rules: &Rules) -> u64 {
        let mut collapsed = 0;
        while self.patterns.len() > most {
            let mut counts: HashMap<FamilyId, usize> = HashMap::new();
            self.patterns.iter().for_each(|pattern| *counts.entry(pattern.family).or_default() += 1);
            match counts.into_iter().max_by_key(|(family, count)| (*count, family.0)) {
                Some((family, count)) if count > 1 => self.collapse(family, rules),
                Some(_) | None => break, // One pattern for each family is the least there can be.
            }
            collapsed += 1;
        }
        collapsed
    }

    fn collapse(&mut self, family: FamilyId, rules: &Rules) {
        let range = [&self.keys, &self.patterns, &self.lookups]
            .into_iter()
            .flat_map(|set| set.iter())
            .filter(|key| key.family == family)
            .fold(None, |range: Option<(TxOrdinal, TxOrdinal)>, key| {
                let (first, last) = range.unwrap_or((key.first, key.last));
                Some((first.min(key.first), last.max(key.last)))
            });
        let Some((first, last)) = range else { return };
        self.causes.add(Cause::Collapsed);
        // Whether a key exists that a sweep deletes nobody is told.
        let warms = self.warms.len();
        self.warms.retain(|page| page.family != family);
        self.unwarmed += (warms - self.warms.len()) as u64;
        for set in [&mut self.keys, &mut self.patterns, &mut self.lookups] {
            set.retain(|key| key.family != family);
        }
        self.patterns.insert(rules.family(family), family, first);
        self.patterns.insert(rules.family(family), family, last);
    }

    /// Makes the exact keys patterns, for a load that goes to the sweep and not through a flight.
    pub fn widen_keys(&mut self) {
        for key in std::mem::take(&mut self.keys).iter() {
            let mut pattern = Vec::with_capacity(key.bytes.len());
            glob::escape_into(&mut pattern, key.bytes);
            self.patterns.insert(&pattern, key.family, key.first);
        }
    }
}
