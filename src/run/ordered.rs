//! What the loop does with an ordered sweep: each cache that is meant owes it from then on.

use std::collections::BTreeMap;

use tokio::sync::mpsc::{Receiver, Sender};

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::observe::speaker::CacheName;
use crate::rules::plan::named::Unowned;
use crate::run::order::{SweepOrder, SweepTold};
use crate::shown::quoted;
use crate::source::Source;
use crate::tag::told;
use crate::target::Target;

/// Families that a refusal names.
const NAMED_MAX: usize = 12;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Takes orders of sweeps from `orders`.
    #[must_use]
    pub fn taking_orders(mut self, orders: Receiver<SweepOrder>) -> Self {
        self.orders = Some(orders);
        self
    }

    /// Sweeps what is ordered, or says why not.
    pub(super) fn order(&mut self, SweepOrder { what, cache, answers }: SweepOrder) {
        let told = match self.begin_order(&what, cache.as_deref(), &answers) {
            Ok(begins) => begins,
            Err((why, hint)) => SweepTold::Refused { why, hint },
        };
        // Whoever is gone need not hear it.
        let _ = answers.try_send(told);
    }

    fn begin_order(
        &mut self,
        what: &str,
        cache: Option<&str>,
        answers: &Sender<SweepTold>,
    ) -> Result<SweepTold, (String, String)> {
        let load = self.feed.rules().named(what).map_err(|unowned| self.refusal(what, unowned))?;
        let is_meant = |name: &CacheName| cache.is_none_or(|cache| cache == &**name);
        let names: Vec<CacheName> = self.targets.iter().map(|target| target.label()).collect();
        if !names.iter().any(is_meant) {
            let known: Vec<&str> = names.iter().map(|name| &**name).collect();
            let (one, all) = match self.targets.iter().any(Target::is_sink) {
                true => ("cache and no sink", "caches and sinks"),
                false => ("cache", "caches"),
            };
            let why = format!("there is no {one} {}", quoted(cache.unwrap_or_default().as_bytes()));
            return Err((why, format!("The {all} are: {}.", known.join(", "))));
        }
        let patterns = load.patterns.iter().map(|pattern| told(pattern.bytes)).collect();
        let mut caches = BTreeMap::new();
        for target in self.targets.iter_mut().filter(|target| is_meant(&target.label())) {
            let (name, answers) = (target.label(), answers.clone());
            let of = CacheName::clone(&name);
            let done = move |swept| drop(answers.try_send(SweepTold::Ended { cache: of, swept }));
            if target.take_order(load.clone(), Box::new(done)) {
                *caches.entry(name).or_default() += 1;
            }
        }
        if caches.is_empty() {
            let why = format!("{} is of rules that are for other caches", quoted(what.as_bytes()));
            return Err((why, "Name one of their caches with --cache, or none.".to_owned()));
        }
        self.is_news = true;
        Ok(SweepTold::Begins { patterns, caches })
    }

    fn refusal(&self, what: &str, unowned: Unowned) -> (String, String) {
        let rules = self.feed.rules();
        let named = rules.families().filter_map(|(family, _)| rules.origin(family)).map(|(_, template)| template);
        unowned.words(what, named.take(NAMED_MAX))
    }
}
