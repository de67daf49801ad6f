//! A target whose cache is one part of several: which keys it owes, and the parts that come while the daemon runs.
//!
//! A load is shared out when it is handed over, by what the cache knows then, to all parts in one step: each key is owed
//! by one of them at least. A part that came later takes what still waits at the one that told of it, because that was
//! handed over when nobody knew of the newcomer; whatever left before is older than the newcomer's first mark.

use std::rc::Rc;

use tokio::time::Instant;

use super::Target;
use crate::cache::Cache;
use crate::control::Control;
use crate::keys::KeySet;
use crate::rules::Invalidations;
use crate::warm::entry;

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// What of a load is this target's: its keys, and every pattern.
    pub(super) fn share_of(&self, mut load: Invalidations) -> Invalidations {
        self.keep_share(&mut load.keys);
        if self.cache.is_part() {
            load.warms.retain(|page| self.cache.owes(entry::key_of(page.bytes)));
        }
        load
    }

    fn keep_share(&self, keys: &mut KeySet) {
        if self.cache.is_part() {
            keys.retain(|key| self.cache.owes(key.bytes));
        }
    }

    /// The keys that are on their way to the gate go at once, too: that proves nothing, and shortens the time that old
    /// values are served.
    pub fn take_early(&mut self, mut keys: KeySet, mut warms: KeySet, now: Instant) {
        self.around.rules.leave_out_keys(&mut keys);
        self.keep_share(&mut keys);
        if !keys.is_empty() {
            warms.retain(|page| keys.contains(entry::key_of(page.bytes)));
            self.start_early(keys, warms, now);
        }
    }

    /// Targets for the parts that came since this was asked last.
    pub fn newcomers(&mut self) -> Vec<Self> {
        let caches = self.cache.newcomers();
        caches.into_iter().map(|cache| self.sibling(cache)).collect()
    }

    fn sibling(&self, cache: C) -> Self {
        let (control, rules) = (Rc::clone(&self.around.control), Rc::clone(&self.around.rules));
        let told = (self.around.teller.clone(), Rc::clone(&self.around.twins));
        let mut target = Target::new(Rc::new(cache), control, rules, self.settings.clone(), self.around.words, told);
        // What these rules are for was cut to this cache already.
        target.around.rules = Rc::clone(&self.around.rules);
        if let Some(waiting) = &self.inbox {
            target.take_in(waiting.load.clone(), None, None);
        }
        if let Some(start) = self.look.start() {
            target.begins(start, true);
        }
        target
    }
}
