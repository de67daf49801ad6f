//! A batch's way through the cache: early, behind the gate, swept, and what an answered delivery leaves behind.
//!
//! One flight at a time holds keys that nobody else holds; it ends only when every reply was read. A delivery with
//! patterns goes on to the sweep; one that was answered is remembered, and its echo queued.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pipeline, Replicas};
use crate::cache::{Cache, Swept};
use crate::config::Metering;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::failpoints::{Step, reached};
use crate::gate::Snapshot;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::pipeline::deliver::{Asking, Landed, fly};
use crate::pipeline::memory::bytes_of;
use crate::pipeline::owed::Repair;
use crate::pipeline::repairs::{SWEPT_BY_TWO, When};
use crate::rules::Invalidations;
use crate::rules::plan::cause::{Cause, Causes};
use crate::source::Source;

/// More patterns than this in one sweep collapse into their families: each is compared with every key of the cache.
const PATTERNS_MAX: usize = 1_000;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// The keys of a fresh batch, once: ahead of the gate, and then again behind it.
    pub(super) fn early_delivery(&mut self) -> Option<Delivery> {
        if self.patience() > Duration::ZERO || self.settings.metering == Metering::ByCommand {
            return None;
        }
        let keys = self.gating.early(self.intake.batch.keys())?;
        let load = Invalidations { keys, ..Invalidations::default() };
        Some(Delivery { load, spans: Vec::new(), stage: Stage::Early })
    }

    /// The snapshot came: what it contains leaves.
    pub(super) fn cut(&mut self, snapshot: &Snapshot, now: Instant) {
        reached(Step::Snapshot);
        let Some(cut) = self.intake.batch.cut(snapshot, &mut self.window) else { return self.gating.saw_nothing(now) };
        self.gating.saw_some(self.intake.batch.keys());
        self.filling_since = (!self.intake.batch.is_empty()).then_some(now);
        self.totals.widened += cut.load.widened;
        let fresh = Delivery { load: cut.load, spans: cut.spans, stage: Stage::Fresh };
        self.start_flight(Some(fresh), now);
    }

    /// Sends the fresh delivery, if there is one, together with what goes again and the echoes that are due.
    pub(super) fn start_flight(&mut self, fresh: Option<Delivery>, now: Instant) {
        assert!(self.flight.is_none(), "a flight that is out holds keys that nobody else holds");
        let mut deliveries: Vec<Delivery> = fresh.into_iter().collect();
        let mut bytes = bytes_of(&deliveries);
        while bytes < self.settings.memory_bytes_max / 8
            && let Some(echo) = self.again.pop_front().or_else(|| self.echoes.take_due(now))
        {
            bytes += echo.load.bytes_used();
            deliveries.push(echo);
        }
        if !deliveries.is_empty() {
            let (cache, control) = (Rc::clone(&self.cache), Rc::clone(&self.control));
            self.flight_bytes = bytes;
            let asking = Asking {
                rules: Rc::clone(&self.rules),
                answers: Rc::clone(&self.answers),
                late: RefCell::default(),
                keys_bytes_max: self.settings.memory_bytes_max / 8,
            };
            self.flight = Some(Box::pin(fly(cache, control, asking, deliveries)));
        }
    }

    /// Every reply of a flight was read.
    pub(super) fn landed(&mut self, landed: Landed) {
        reached(Step::Deleted);
        self.flight_bytes = 0;
        self.totals.keys += landed.deleted.sent;
        self.totals.existed += landed.deleted.existed;
        self.totals.refused += landed.refused;
        (self.news)(News::Deleted(landed.deleted));
        for delivery in landed.deliveries {
            let (keys, patterns) = self.parted(delivery);
            keys.into_iter().for_each(|delivery| self.delivered(delivery));
            patterns.into_iter().for_each(|delivery| self.queue_sweep(delivery));
        }
        self.look_for_another_cache();
        self.tell();
    }

    /// What was deleted, and what is still to be swept: exact keys do not wait for a sweep with their echoes. The spans
    /// stay with the patterns, which are behind the keys at every stage from here on. Should the cache go back while the
    /// sweep runs, only the ring knows these keys.
    fn parted(&mut self, mut delivery: Delivery) -> (Option<Delivery>, Option<Delivery>) {
        if delivery.load.patterns.is_empty() {
            return (Some(delivery), None);
        }
        if delivery.load.keys.is_empty() {
            return (None, Some(delivery));
        }
        let keys = Invalidations { keys: std::mem::take(&mut delivery.load.keys), ..Invalidations::default() };
        if delivery.stage == Stage::Fresh {
            self.ring.push(Cow::Borrowed(&keys), &delivery.spans);
        }
        let keys = Delivery { load: keys, spans: Vec::new(), stage: delivery.stage };
        (Some(keys), Some(delivery))
    }

    pub(super) fn queue_sweep(&mut self, mut delivery: Delivery) {
        self.answers.borrow_mut().forget(&std::mem::take(&mut delivery.load.forgets));
        self.totals.collapsed += delivery.load.collapse_patterns(PATTERNS_MAX, &self.rules);
        match self.sweeps.iter_mut().find(|queued| queued.stage == delivery.stage) {
            Some(queued) => {
                queued.load.merge(delivery.load);
                self.totals.collapsed += queued.load.collapse_patterns(PATTERNS_MAX, &self.rules);
                queued.spans.extend(delivery.spans);
            }
            None => self.sweeps.push(delivery),
        }
    }

    pub(super) fn swept(&mut self, (deliveries, swept): (Vec<Delivery>, Swept)) {
        reached(Step::Swept);
        self.sweep_bytes = 0;
        self.totals.sweeps += 1;
        self.totals.swept += swept.deleted;
        self.say_swept(&deliveries, swept);
        (self.news)(News::SweepEnded(swept));
        let again = std::mem::take(&mut self.sweep_again);
        match again {
            true => self.sweep_later(deliveries),
            false => {
                self.repairs.swept_by_one();
                deliveries.into_iter().for_each(|delivery| self.delivered(delivery));
            }
        }
        if !self.sweeps.iter().any(|queued| queued.load.causes.has(Cause::Missed)) {
            self.repairs.swept();
        }
        // Its connection may have met another server.
        self.look_for_another_cache();
        self.tell();
    }

    /// The cache became another while these were swept.
    fn sweep_later(&mut self, deliveries: Vec<Delivery>) {
        let when = self.repairs.when(SWEPT_BY_TWO, "the cache became another server while it was swept");
        if when == When::Now {
            deliveries.into_iter().for_each(|delivery| self.queue_sweep(delivery));
        } else {
            self.repairs.owed.push(Instant::now() + when.pause(), Repair::Again(deliveries));
        }
    }

    /// A sweep of whole tables is news; patterns that a rule or a transaction names, and echoes, are its daily work.
    pub(super) fn say_sweeping(&self, deliveries: &[Delivery]) {
        if let Some((tables, cause)) = self.purpose(deliveries) {
            log!(Id::SweepBegan, tables, cause, "sweep began");
        }
    }

    fn say_swept(&self, deliveries: &[Delivery], swept: Swept) {
        let Swept { scanned, deleted } = swept;
        match self.purpose(deliveries) {
            Some((tables, cause)) => log!(Id::SweepEnded, tables, cause, scanned, deleted, "sweep finished"),
            None => tracing::debug!(scanned, deleted, "sweep finished: patterns"),
        }
    }

    /// Which tables a sweep is about as a whole, and why.
    fn purpose(&self, deliveries: &[Delivery]) -> Option<(String, String)> {
        let mut causes = Causes::default();
        let mut tables = BTreeSet::new();
        for delivery in deliveries.iter().filter(|delivery| delivery.stage == Stage::Fresh) {
            let is_gap = delivery.load.causes.has(Cause::Missed);
            let swept = self.rules.swept_tables(&delivery.load.patterns, is_gap);
            if is_gap || !swept.is_empty() {
                causes.merge(delivery.load.causes);
                tables.extend(swept);
            }
        }
        let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
        (causes != Causes::default()).then(|| (tables, causes.words(self.source.words().emptied)))
    }

    /// Everything of a delivery was answered: its spans have one part less out, and its echo is queued.
    pub(super) fn delivered(&mut self, mut delivery: Delivery) {
        // Lookups that found nothing, answers that were only forgotten: there is nothing to delete again.
        let empty = delivery.load.is_empty();
        if delivery.stage == Stage::Fresh && self.settings.replicas == Replicas::Some && !empty {
            self.ring.push(Cow::Borrowed(&delivery.load), &delivery.spans);
            return self.await_replicas(delivery);
        }
        let next = if empty { None } else { self.echoes.next(delivery.stage) };
        let copied =
            if next.is_some() { Cow::Borrowed(&delivery.load) } else { Cow::Owned(std::mem::take(&mut delivery.load)) };
        match delivery.stage {
            Stage::Early => reached(Step::Early),
            Stage::Fresh => self.ring.push(copied, &delivery.spans),
            Stage::Replica => {} // It is in the ring since it was fresh.
            Stage::Echo(_) => reached(Step::Echoed),
        }
        if let Some(stage) = next {
            self.echoes.add(stage, Instant::now(), delivery.load, &delivery.spans);
        }
        for span in delivery.spans {
            match (delivery.stage, next) {
                (Stage::Early, _) => {}
                (Stage::Fresh | Stage::Replica, Some(_)) => {
                    self.window.add_echo(span);
                    self.window.part_done(span);
                }
                (Stage::Fresh | Stage::Replica, None) => self.window.part_done(span),
                (Stage::Echo(_), Some(_)) => {}
                (Stage::Echo(_), None) => self.window.echo_done(span),
            }
        }
    }
}
