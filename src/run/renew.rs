//! Other rules or caches while the daemon runs: the loop ends as for a stop and begins anew, from the confirmed position.
//!
//! Keys that wait know the rules that made them (a bound collapses them into a family, a lookup is a question of a rule),
//! and the server describes tables once for a connection. So little is carried over: connections, counters, and echoes,
//! for which a position need not have waited. What was not confirmed comes again and meets the new rules, and the mark,
//! which tells the old rules, brings a sweep of the keys of those that are new. A cache that is new begins as at a start:
//! its mark says what it lacks. One that is gone is no longer waited for.

use std::rc::Rc;

use tokio::sync::mpsc::Receiver;

use super::{Phase, Pipeline};
use crate::cache::Cache;
use crate::control::Control;
use crate::insist::Company;
use crate::observe::{Id, log};
use crate::run::reload::{Onward, Reload};
use crate::source::Source;
use crate::target::twins::Twins;
use crate::target::{Target, TargetSettings};

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Takes other rules and caches from `reloads`.
    #[must_use]
    pub fn reloading(mut self, reloads: Receiver<Reload<C, D>>) -> Self {
        self.reloads = Some(reloads);
        self
    }

    pub(super) fn begin_reload(&mut self, reload: Reload<C, D>) {
        let source = self.feed.words().source;
        let named = |are_sinks: bool| {
            let all = reload.caches.iter().flatten().map(|onward| &onward.policy);
            let names: Vec<&str> =
                all.filter(|policy| policy.sink.is_some() == are_sinks).map(|policy| policy.name.as_str()).collect();
            Some(names.join(", ")).filter(|names| !names.is_empty())
        };
        let (caches, sinks) = (named(false), named(true));
        let what = match (&reload.caches, &sinks) {
            (None, _) => "the rules changed",
            (Some(_), None) => "the caches changed (their addresses or settings, such as cache.url)",
            (Some(_), Some(_)) => {
                "the caches or the sinks changed (their addresses or settings, such as sinks.NAME.url)"
            }
        };
        log!(Id::ReloadTaken, caches, sinks, "{what}: {source} begins anew from the confirmed position");
        self.drain(Some(Box::new(reload)));
    }

    /// A loop that begins, on the same connections.
    pub(super) fn renewed(self, Reload { rules, control, caches, taken }: Reload<C, D>) -> Self {
        if self.feed.rules().page_addresses() != rules.page_addresses() {
            self.settings.warming.forget();
        }
        let (rules, control, twins) = (Rc::new(rules), Rc::new(control), Rc::<Twins<C>>::default());
        let words = self.feed.words();
        let (memory_bytes_max, company) = (self.settings.memory_bytes_max, Company::Alone);
        let renew = |target: Target<S::Ack, C, D>| target.renewed(&rules, &control, &twins);
        let mut before = self.targets;
        let targets = match caches {
            None => before.into_iter().map(renew).collect(),
            Some(caches) => {
                let target = |Onward { policy, cache }: Onward<C>| {
                    // The parts of one cache have its name.
                    let (kept, others) =
                        std::mem::take(&mut before).into_iter().partition(|target| target.is_named(&policy.name));
                    before = others;
                    let kept: Vec<_> = kept;
                    let Some(cache) = cache else { return kept.into_iter().map(&renew).collect() };
                    let (slot, replicas) = (self.settings.slot.clone(), self.settings.replicas);
                    let warming = self.settings.warming.clone();
                    let settings = TargetSettings { policy, slot, replicas, memory_bytes_max, company, warming };
                    let told = (self.teller.clone(), Rc::clone(&twins));
                    let (control, rules) = (Rc::clone(&control), Rc::clone(&rules));
                    vec![Target::new(Rc::new(cache), control, rules, settings, words, told)]
                };
                caches.into_iter().flat_map(target).collect()
            }
        };
        // What was confirmed stays so: marks may say less at first, and no position goes back.
        let feed = self.feed.renewed(&rules, &control);
        let mut renewed = Pipeline { feed, targets, phase: Phase::Running, is_ready: false, ..self };
        renewed.share_out();
        if let Some(taken) = taken {
            let _ = taken.send(()); // Whoever asked may have stopped waiting.
        }
        renewed
    }
}
