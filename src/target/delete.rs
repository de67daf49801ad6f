//! A load's way through the cache: deleted in one pipeline, remembered, and echoed.
//!
//! One flight at a time holds keys that nobody else holds; it ends only when every reply was read. A delivery with
//! patterns goes on to the sweep; one that was answered is remembered, and its echo queued.

use std::borrow::Cow;
use std::rc::Rc;

use tokio::time::Instant;

use super::{Replicas, Target};
use crate::cache::watch::KeyWatch;
use crate::cache::{Cache, Deleted, Rest};
use crate::control::Control;
use crate::error::Result;
use crate::failpoints::{Guard, Step, reached, without};
use crate::insist::{Company, Part, insist};
use crate::keys::KeySet;
use crate::ledger::Ticket;
use crate::ledger::window::SpanId;
use crate::observe::news::News;
use crate::rules::Invalidations;
use crate::target::echo::{Delivery, Stage, bytes_of};
use crate::target::flight::Landed;
use crate::target::warm::asked;

/// Deletes the exact keys of all deliveries in one pipeline.
async fn fly<C: Cache>(
    cache: Rc<C>,
    (part, company): (Part, Company),
    deliveries: Vec<Delivery>,
    asked: KeySet,
) -> Result<Landed> {
    let keys: Vec<&KeySet> = deliveries.iter().map(|delivery| &delivery.load.keys).filter(|k| !k.is_empty()).collect();
    let mut deleted = Deleted::default();
    let mut rest = Rest { watch: KeyWatch::of(asked), ..Rest::default() };
    if !keys.is_empty() {
        deleted = insist(&part, cache.member().delete(), async || {
            cache.delete_rest(&keys, &mut rest).await.map_err(|error| company.judge(error))
        })
        .await?;
    }
    Ok(Landed { deliveries, deleted, existed: rest.watch.existed() })
}

/// The youngest span of what is owed.
fn youngest(tickets: &[Ticket]) -> Option<SpanId> {
    tickets.iter().map(Ticket::span).max()
}

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Sends the first delivery, if there is one, together with what goes again and the echoes that are due.
    pub(super) fn start_flight(&mut self, first: Option<Delivery>, now: Instant) {
        assert!(!self.flight.is_out(), "a flight that is out holds keys that nobody else holds");
        let mut deliveries = self.deliveries(first, now, self.settings.memory_bytes_max / 8);
        if !deliveries.is_empty() {
            self.leaves(now);
            (self.flight.bytes, self.flight.since) = (bytes_of(&deliveries), Some(now));
            let (asked, others) = asked(&deliveries, self.asks_max());
            self.settings.warming.dropped(others);
            self.flight.pages = Self::take_pages(&mut deliveries);
            let whose = (self.around.part.clone(), self.settings.company);
            self.flight.out.start(fly(Rc::clone(&self.cache), whose, deliveries, asked));
        }
    }

    /// All that is to be deleted now.
    pub(super) fn take_deliveries(&mut self, now: Instant, bytes_max: usize) -> Vec<Delivery> {
        let fresh = self.inbox.take();
        self.deliveries(fresh, now, bytes_max)
    }

    fn deliveries(&mut self, first: Option<Delivery>, now: Instant, bytes_max: usize) -> Vec<Delivery> {
        let mut deliveries: Vec<Delivery> = first.into_iter().collect();
        let mut bytes = bytes_of(&deliveries);
        while bytes < bytes_max
            && let Some(echo) = self.again.pop_front().or_else(|| self.take_echo(now))
        {
            bytes += echo.load.bytes_used();
            deliveries.push(echo);
        }
        deliveries
    }

    fn take_echo(&mut self, now: Instant) -> Option<Delivery> {
        if self.behind.holds_echoes { None } else { self.echoes.take_due(now) }
    }

    /// Sends keys ahead of the gate.
    pub(super) fn start_early(&mut self, keys: KeySet, warms: KeySet, now: Instant) {
        let load = Invalidations { keys, warms, ..Invalidations::default() };
        self.start_flight(Some(Delivery { load, tickets: Vec::new(), stage: Stage::Early }), now);
    }

    /// Every reply of a flight was read.
    pub(super) fn landed(&mut self, mut landed: Landed) {
        self.flight.bytes = 0;
        let pages = std::mem::take(&mut self.flight.pages);
        landed.deliveries.iter_mut().zip(pages).for_each(|(delivery, pages)| delivery.load.pages = pages);
        for delivery in &landed.deliveries {
            if delivery.stage != Stage::Early && self.cache.is_nameless() {
                self.unmarked.deleted(&delivery.load.keys);
            }
        }
        self.arrived(landed);
    }

    /// What was sent was deleted, whichever way it went.
    pub(super) fn arrived(&mut self, Landed { deliveries, deleted, existed }: Landed) {
        reached(Step::Deleted);
        self.done.keys += deleted.sent;
        self.done.existed += deleted.existed;
        self.around.teller.tell(News::Deleted(deleted));
        for mut delivery in deliveries {
            self.tell_pages(&mut delivery, &existed);
            let (keys, patterns) = self.parted(delivery);
            keys.into_iter().for_each(|delivery| self.delivered(delivery));
            patterns.into_iter().for_each(|delivery| self.queue_sweep(delivery));
        }
        self.look_for_another_cache();
    }

    /// What was deleted, and what is still to be swept: exact keys do not wait for a sweep with their echoes. The tickets
    /// stay with the patterns, which are behind the keys at every stage from here on. Should the cache go back while the
    /// sweep runs, only the ring knows these keys.
    fn parted(&mut self, mut delivery: Delivery) -> (Option<Delivery>, Option<Delivery>) {
        if delivery.load.patterns.is_empty() {
            return (Some(delivery), None);
        }
        if delivery.load.keys.is_empty() {
            return (None, Some(delivery));
        }
        let (keys, pages) = (std::mem::take(&mut delivery.load.keys), std::mem::take(&mut delivery.load.pages));
        let keys = Invalidations { keys, pages, ..Invalidations::default() };
        if delivery.stage == Stage::Fresh
            && let Some(last) = youngest(&delivery.tickets)
        {
            self.ring.push(Cow::Borrowed(&keys), last);
        }
        let keys = Delivery { load: keys, tickets: Vec::new(), stage: delivery.stage };
        (Some(keys), Some(delivery))
    }

    /// Everything of a delivery was answered: its tickets are handed back, or owed for its echo from now on.
    pub(super) fn delivered(&mut self, mut delivery: Delivery) {
        // Lookups that found nothing: there is nothing to delete again.
        let is_empty = delivery.load.is_empty();
        let last = youngest(&delivery.tickets);
        if delivery.stage == Stage::Fresh && self.settings.replicas == Replicas::Some && !is_empty {
            last.inspect(|last| self.ring.push(Cow::Borrowed(&delivery.load), *last));
            return self.await_replicas(delivery);
        }
        let next = if is_empty { None } else { self.echoes.next(delivery.stage) };
        let mut pages = std::mem::take(&mut delivery.load.pages);
        if without(Guard::Pages) {
            pages.answered();
        }
        match (delivery.stage, last) {
            (Stage::Early, _) => reached(Step::Early),
            (Stage::Fresh, Some(last)) if next.is_some() => self.ring.push(Cow::Borrowed(&delivery.load), last),
            (Stage::Fresh, Some(last)) => self.ring.push(Cow::Owned(std::mem::take(&mut delivery.load)), last),
            // The keys of a replica's turn are in the ring since they were fresh.
            (Stage::Fresh | Stage::Replica | Stage::Repeated, _) => {}
            (Stage::Echo(_), _) => reached(Step::Echoed),
        }
        match next {
            Some(stage) => {
                let tickets = delivery.tickets.into_iter().map(|ticket| self.ledger.echoing(ticket)).collect();
                delivery.load.pages = pages;
                self.echoes.add(stage, Instant::now(), delivery.load, tickets);
            }
            None => {
                delivery.tickets.into_iter().for_each(|ticket| self.ledger.done(ticket));
                self.let_go(pages);
            }
        }
    }
}
