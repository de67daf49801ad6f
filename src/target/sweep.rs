//! Sweeps: patterns that wait for the next pass over the keyspace, and the pass that runs.

use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::time::Instant;

use super::Target;
use crate::cache::{Cache, Rest, Swept};
use crate::control::Control;
use crate::error::Result;
use crate::failpoints::{Step, reached};
use crate::insist::{Company, Part, insist};
use crate::keys::KeySet;
use crate::observe::news::News;
use crate::observe::speaker::speaks;
use crate::observe::{Id, log};
use crate::rules::Invalidations;
use crate::rules::plan::cause::{Cause, Causes};
use crate::target::echo::{Delivery, Stage, bytes_of};
use crate::target::owed::Repair;
use crate::target::repairs::{SWEPT_BY_TWO, When};
use crate::target::sweeping::{Scanned, SweepDone};

/// More patterns than this in one sweep collapse into their families: each is compared with every key of the cache.
const PATTERNS_MAX: usize = 1_000;

/// Sweeps the patterns of all deliveries in one pass.
async fn sweep<C: Cache>(cache: Rc<C>, (part, company): (Part, Company), deliveries: Vec<Delivery>) -> Result<Scanned> {
    let mut patterns = KeySet::default();
    for delivery in &deliveries {
        patterns.merge(delivery.load.patterns.clone());
    }
    let mut rest = Rest::default();
    let swept = insist(&part, cache.member().sweep(), async || {
        cache.sweep_rest(&patterns, &mut rest).await.map_err(|error| company.judge(error))
    })
    .await?;
    Ok(Scanned { deliveries, swept })
}

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    pub(super) fn queue_sweep(&mut self, mut delivery: Delivery) {
        // Which keys of a pattern existed no sweep tells.
        self.let_go(std::mem::take(&mut delivery.load.pages));
        self.done.collapsed += delivery.load.collapse_patterns(PATTERNS_MAX, &self.around.rules);
        match self.sweeping.queued.iter_mut().find(|queued| queued.stage == delivery.stage) {
            Some(queued) => {
                queued.load.merge(delivery.load);
                self.done.collapsed += queued.load.collapse_patterns(PATTERNS_MAX, &self.around.rules);
                delivery.tickets.into_iter().for_each(|ticket| self.ledger.gather(&mut queued.tickets, ticket));
            }
            None => self.sweeping.queued.push(delivery),
        }
    }

    /// A person ordered a sweep of these patterns: it is owed, and `done` hears what it did. Whether any of them is for this
    /// cache.
    pub fn take_order(&mut self, mut load: Invalidations, done: Box<dyn FnOnce(Swept)>) -> bool {
        let _speaking = speaks(&self.around.name);
        self.around.rules.leave_out(&mut load);
        if load.is_empty() {
            return false;
        }
        // The mark says nothing of what comes behind the order before the sweep is done.
        let ticket = self.ledger.open_or_join(None);
        self.sweeping.orders.push(SweepDone(done));
        if self.is_sink() {
            // Who ordered it hears of this purge at once. Another purge follows behind the caches, for the pages that were
            // made anew before those were swept.
            let behind = self.ledger.open_or_join(None);
            self.wait(load.clone(), behind);
        }
        self.queue_sweep(Delivery { load, tickets: vec![ticket], stage: Stage::Fresh });
        true
    }

    /// Begins a sweep of what waits.
    pub(super) fn start_sweep(&mut self) {
        if self.sweeping.is_out() || self.sweeping.queued.is_empty() {
            return;
        }
        self.around.teller.tell(News::SweepBegan);
        let deliveries = std::mem::take(&mut self.sweeping.queued);
        self.say_sweeping(&deliveries);
        self.sweeping.bytes = bytes_of(&deliveries);
        self.sweeping.orders_out = std::mem::take(&mut self.sweeping.orders);
        let whose = (self.around.part.clone(), self.settings.company);
        self.sweeping.out.start(sweep(Rc::clone(&self.cache), whose, deliveries));
    }

    pub(super) fn swept(&mut self, Scanned { deliveries, swept }: Scanned) {
        reached(Step::Swept);
        self.sweeping.bytes = 0;
        self.done.sweeps += 1;
        self.count_causes(&deliveries);
        self.done.swept += swept.deleted;
        self.say_swept(&deliveries, swept);
        self.around.teller.tell(News::SweepEnded(swept));
        if self.cache.is_nameless() {
            deliveries.iter().for_each(|delivery| self.unmarked.swept(&delivery.load.patterns));
        }
        let again = std::mem::take(&mut self.sweeping.again);
        match again {
            true => self.sweep_later(deliveries),
            false => {
                self.repairs.swept_by_one();
                self.sweeping.orders_out.drain(..).for_each(|order| (order.0)(swept));
                deliveries.into_iter().for_each(|delivery| self.delivered(delivery));
            }
        }
        if !self.sweeping.queued.iter().any(|queued| queued.load.causes.has(Cause::Missed)) {
            self.repairs.swept();
        }
        // Its connection may have met another server.
        self.look_for_another_cache();
    }

    /// The cache became another while these were swept.
    fn sweep_later(&mut self, deliveries: Vec<Delivery>) {
        let when = self.repairs.when(SWEPT_BY_TWO, "the cache became another server while it was swept");
        if when == When::Now {
            deliveries.into_iter().for_each(|delivery| self.queue_sweep(delivery));
            let orders = std::mem::take(&mut self.sweeping.orders_out);
            self.sweeping.orders.extend(orders);
        } else {
            // Whoever ordered it hears no more of it, and it is owed as before.
            self.sweeping.orders_out.clear();
            self.repairs.owed.push(Instant::now() + when.pause(), Repair::Again(deliveries));
        }
    }

    /// A sweep of whole tables is news; patterns that a rule or a transaction names, and echoes, are its daily work.
    fn say_sweeping(&self, deliveries: &[Delivery]) {
        if let Some((tables, cause)) = self.purpose(deliveries) {
            log!(Id::SweepBegan, tables, cause, "{} began", self.cache.member().a_sweep());
        }
    }

    fn say_swept(&self, deliveries: &[Delivery], swept: Swept) {
        let Swept { scanned, deleted } = swept;
        match self.purpose(deliveries) {
            Some((tables, cause)) => {
                let what = self.cache.member().a_sweep();
                log!(Id::SweepEnded, tables, cause, scanned, deleted, "{what} finished");
            }
            None => tracing::debug!(scanned, deleted, "sweep finished: patterns"),
        }
    }

    fn count_causes(&mut self, deliveries: &[Delivery]) {
        let mut causes = Causes::default();
        let mut first = deliveries.iter().filter(|delivery| matches!(delivery.stage, Stage::Fresh | Stage::Repeated));
        match first.next() {
            None => self.done.causes.add_echo(),
            Some(delivery) => {
                std::iter::once(delivery).chain(first).for_each(|delivery| causes.merge(delivery.load.causes));
                self.done.causes.add(causes);
            }
        }
    }

    /// Which tables a sweep is about as a whole, and why.
    fn purpose(&self, deliveries: &[Delivery]) -> Option<(String, String)> {
        let mut causes = Causes::default();
        let mut tables = BTreeSet::new();
        for delivery in deliveries.iter().filter(|delivery| delivery.stage == Stage::Fresh) {
            let is_gap = delivery.load.causes.has(Cause::Missed);
            let swept = self.around.rules.swept_tables(&delivery.load.patterns, is_gap);
            if is_gap || !swept.is_empty() || delivery.load.causes.has(Cause::Ordered) {
                causes.merge(delivery.load.causes);
                tables.extend(swept);
            }
        }
        let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
        let words = || self.cache.member().in_words(&causes.words(self.around.words.emptied));
        (causes != Causes::default()).then(|| (tables, words()))
    }
}
