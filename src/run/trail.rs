//! Tells single changes when they come, and when they are deleted in a cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::observe::news::News;
use crate::observe::speaker::CacheName;
use crate::source::Source;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Tells the changes that came.
    pub(super) fn tell_changes(&mut self) {
        for (ack, mut changed) in self.feed.trail() {
            changed.number = self.followed.add(ack);
            self.teller.tell(News::Changed(Arc::new(changed)));
        }
    }

    /// Tells which of them are deleted where.
    pub(super) fn tell_gone(&mut self) {
        if self.followed.is_empty() {
            return;
        }
        // A cache of several parts has deleted what each of them has.
        let mut caches: BTreeMap<CacheName, Option<S::Ack>> = BTreeMap::new();
        for target in &mut self.targets {
            let upto = target.answered_to();
            caches.entry(target.label()).and_modify(|least| *least = (*least).min(upto)).or_insert(upto);
        }
        for (cache, upto) in &caches {
            if let Some(number) = upto.and_then(|upto| self.followed.answered(cache, upto)) {
                self.teller.tell(News::Gone(CacheName::clone(cache), number));
            }
        }
        self.followed.forget_gone(&caches.into_keys().collect::<Vec<_>>());
    }
}
