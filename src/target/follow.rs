//! What a target has to do with others that wait for it, or for which it waits: a sink follows its caches.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Target;
use crate::cache::Cache;
use crate::control::Control;
use crate::ledger::Ticket;
use crate::rules::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::target::behind::{CacheStanding, Spans, unite};

/// A flight that lasts for longer, or an echo that is due for longer and does not leave, is late.
const LATE: Duration = Duration::from_secs(1);

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Behind which caches it comes, if it is a sink.
    pub fn comes_after(&self) -> Option<&Rc<[String]>> {
        self.settings.policy.sink.as_ref().map(|sink| &sink.after)
    }

    /// What a sink waits for, in the order of its caches.
    pub fn awaits(&self) -> Vec<Spans> {
        self.behind.awaits()
    }

    /// How it stands for those who wait for it, and for these spans.
    pub fn standing(&mut self, awaited: Option<&Spans>, now: Instant) -> CacheStanding {
        let never_holds = self.settings.policy.hold_wal_bytes_max == 0;
        let is_overdue = self.echoes.due().is_some_and(|due| due + LATE <= now);
        CacheStanding {
            next: self.ledger.next_span(),
            answered: self.ledger.first_unanswered(),
            has_answered: awaited.is_some_and(|(from, to)| self.ledger.has_answered(*from, *to)),
            is_left: self.is_released() && (!never_holds || self.cache.is_away()),
            is_absent: self.is_released() || self.cache.is_away(),
            is_late: is_overdue || self.flight.lasts(now) > LATE,
            last_echo: self.echoes.last(),
            doubts: self.doubts,
        }
    }

    /// Of a sink: its caches stand so. Whether something went on, so that what comes behind it may.
    pub fn follow(&mut self, caches: &[CacheStanding], now: Instant) -> bool {
        if self.behind.meet(caches) {
            return true;
        }
        if let Some(room) = self.behind.holds(caches, self.echoes.last()) {
            self.echoes.postpone_last(now + room);
        }
        if self.behind.is_resolved(caches) {
            self.purge_all();
        }
        match self.behind.take_ready(caches) {
            None => false,
            Some(None) => self.behind.waits(),
            Some(Some(ready)) => {
                let bound = (self.settings.memory_bytes_max / 8, &*self.around.rules);
                self.done.collapsed += unite(&mut self.inbox, ready.load, ready.tickets, &mut self.ledger, bound);
                self.count_left_out();
                true
            }
        }
    }

    /// Unites a load with what waits: for the next flight, or of a sink for the answers of caches.
    pub(super) fn wait(&mut self, load: Invalidations, ticket: Ticket) {
        // A flight holds what cannot collapse any more: no more than a share of this target's share.
        let most = self.settings.memory_bytes_max / 8;
        let place = if self.is_sink() { &mut self.behind.next } else { &mut self.inbox };
        self.done.collapsed += unite(place, load, vec![ticket], &mut self.ledger, (most, &self.around.rules));
        self.count_left_out();
    }

    /// Owes the coarse tag of every family.
    fn purge_all(&mut self) {
        let mut load = Invalidations::default();
        for (family, pattern) in self.around.rules.families() {
            load.patterns.insert(pattern, family, 0);
        }
        load.causes.add(Cause::Missed);
        if !load.patterns.is_empty() {
            let ticket = self.ledger.open_or_join(None);
            self.wait(load, ticket);
        }
    }
}
