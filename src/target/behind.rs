//! A sink's load waits behind the caches that its pages read: a page that is made anew from a stale key would stay.
//!
//! What is handed over waits until each of these caches has answered what was handed to it in the same time: two sets, of
//! which one waits for answers and the other gathers what comes meanwhile, so that a busy cache delays a load and starves
//! none. A cache for which the position does not wait any more is not waited for either (`cache.hold_wal_bytes_max`), nor is
//! one that never holds the position and is away. What goes ahead of such a cache is not enough: pages may be made from keys
//! that it still holds. So when the cache has answered everything at last, the coarse tag of every family is purged behind
//! it. The same follows when a cache is found to lack deletes: until it is repaired it serves stale keys.

use std::time::Duration;

use crate::failpoints::{Guard, without};
use crate::ledger::window::SpanId;
use crate::ledger::{Ledger, Ticket};
use crate::rules::{Invalidations, Rules};
use crate::target::echo::{Delivery, Stage, bytes_of};

/// What was handed to a cache while a load gathered: the spans from the first one to before the second one.
pub type Spans = (SpanId, SpanId);

/// How a cache stands for those who wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheStanding {
    /// What is handed to it from now on has this span or a later one.
    pub(super) next: SpanId,
    /// Everything before this span was answered, echoes aside.
    pub(super) answered: SpanId,
    /// It owes nothing of what is waited for.
    pub(super) has_answered: bool,
    /// Nobody waits for it.
    pub(super) is_left: bool,
    /// A stop does not wait for it.
    pub(super) is_absent: bool,
    /// Its echoes are not answered when they are due.
    pub(super) is_late: bool,
    /// The delay of its last echo.
    pub(super) last_echo: Duration,
    /// How often it was found to lack deletes.
    pub(super) doubts: u64,
}

/// What one cache is waited for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    spans: Spans,
    /// When everything before this span was answered, all pages are purged.
    doubt: Option<SpanId>,
    doubts: u64,
}

/// What waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// What gathers.
    pub(super) next: Option<Delivery>,
    waiting: Option<Delivery>,
    caches: Vec<Awaited>,
    /// A stop does not wait for what it waits for.
    is_blocked: bool,
    /// Echoes of its caches are late: its own would be too early.
    pub(super) holds_echoes: bool,
}

impl Behind {
    /// Whether echoes of its caches are late, as these stand now. When they are no more: how much later than theirs its own
    /// last echo, which has this delay, is meant to be. That is the time in which a page is made; whoever began to make one
    /// just before a late echo needs it as well.
    pub(super) fn holds(&mut self, caches: &[CacheStanding], last_echo: Duration) -> Option<Duration> {
        let held =
            std::mem::replace(&mut self.holds_echoes, caches.iter().any(|cache| cache.is_late && !cache.is_left));
        let theirs = caches.iter().map(|cache| cache.last_echo).max().unwrap_or_default();
        (held && !self.holds_echoes).then(|| last_echo.saturating_sub(theirs))
    }

    /// Whether a stop need not wait.
    pub(super) fn is_finished(&self) -> bool {
        (self.next.is_none() && self.waiting.is_none()) || self.is_blocked
    }

    /// Both sets.
    pub(super) fn deliveries(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.next.iter_mut().chain(&mut self.waiting)
    }

    pub(super) fn bytes_used(&self) -> usize {
        bytes_of(&self.next) + bytes_of(&self.waiting)
    }

    /// What the larger of the two holds, in bytes.
    pub(super) fn largest(&self) -> usize {
        bytes_of(&self.next).max(bytes_of(&self.waiting))
    }

    /// Collapses the largest family of the larger one; says how many bytes that freed.
    pub(super) fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let both = [&mut self.next, &mut self.waiting].into_iter().flatten();
        let larger = both.max_by_key(|delivery| delivery.load.bytes_used());
        larger.map_or(0, |delivery| delivery.load.collapse_largest(rules))
    }

    /// Knows as many caches as there are; whether it knew fewer. Parts of a cluster that came take what still waits at
    /// others, so it is waited for.
    pub(super) fn meet(&mut self, caches: &[CacheStanding]) -> bool {
        if self.caches.len() == caches.len() {
            return false;
        }
        for (awaited, cache) in self.caches.iter_mut().zip(caches) {
            awaited.spans.1 = cache.next;
        }
        for cache in caches.iter().skip(self.caches.len()) {
            self.caches.push(Awaited { spans: (cache.answered, cache.next), doubt: None, doubts: cache.doubts });
        }
        true
    }

    /// Whether a cache has answered at last what it lacked, or what was not waited for.
    pub(super) fn is_resolved(&mut self, caches: &[CacheStanding]) -> bool {
        let mut is_resolved = false;
        for (awaited, cache) in self.caches.iter_mut().zip(caches) {
            if std::mem::replace(&mut awaited.doubts, cache.doubts) != cache.doubts {
                awaited.doubt = Some(cache.next);
            }
            if awaited.doubt.is_some_and(|span| cache.answered >= span) {
                awaited.doubt = None;
                is_resolved = !without(Guard::Doubt);
            }
        }
        is_resolved
    }

    /// What is waited for, in the order of the caches.
    pub(super) fn awaits(&self) -> Vec<Spans> {
        self.caches.iter().map(|cache| cache.spans).collect()
    }

    /// Whether something waits.
    pub(super) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// What has everything that it waited for, if anything waited; then the next set waits. `None` while a cache owes an
    /// answer.
    pub(super) fn take_ready(&mut self, caches: &[CacheStanding]) -> Option<Option<Delivery>> {
        if self.next.is_none() && self.waiting.is_none() {
            self.caches.iter_mut().zip(caches).for_each(|(awaited, cache)| awaited.spans = (cache.next, cache.next));
            return Some(None);
        }
        self.is_blocked = caches.iter().any(|cache| !cache.has_answered && cache.is_absent);
        if caches.iter().any(|cache| !cache.has_answered && !cache.is_left) && !without(Guard::Behind) {
            return None;
        }
        for (awaited, cache) in self.caches.iter_mut().zip(caches) {
            if !cache.has_answered && !without(Guard::Behind) {
                awaited.doubt = awaited.doubt.max(Some(awaited.spans.1));
            }
            awaited.spans = (awaited.spans.1, cache.next);
        }
        Some(std::mem::replace(&mut self.waiting, self.next.take()))
    }
}

/// Adds a load to what waits in a place, which holds at most so many bytes; says how many families collapsed for that.
pub(super) fn unite<A: Copy + Ord>(
    place: &mut Option<Delivery>,
    load: Invalidations,
    tickets: Vec<Ticket>,
    ledger: &mut Ledger<A>,
    (bytes_max, rules): (usize, &Rules),
) -> u64 {
    let Some(waiting) = place else {
        *place = Some(Delivery { load, tickets, stage: Stage::Fresh });
        return 0;
    };
    waiting.load.merge(load);
    tickets.into_iter().for_each(|ticket| ledger.gather(&mut waiting.tickets, ticket));
    waiting.load.collapse_to(bytes_max, rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::echo::Echoes;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    fn standing(is_late: bool, is_left: bool, last_echo: u64) -> CacheStanding {
        let span = Ledger::<u64>::default().next_span();
        CacheStanding {
            next: span,
            answered: span,
            has_answered: true,
            is_left,
            is_absent: false,
            is_late,
            last_echo: SECONDS(last_echo),
            doubts: 0,
        }
    }

    #[test]
    fn when_late_echoes_of_the_caches_are_over_the_time_in_which_a_page_is_made_begins_anew() {
        let mut behind = Behind::default();
        for (caches, expected) in [
            (vec![standing(false, false, 30), standing(false, false, 10)], None),
            (vec![standing(false, false, 30), standing(true, false, 10)], None),
            (vec![standing(true, false, 30), standing(false, false, 10)], None),
            (vec![standing(false, false, 30), standing(false, false, 10)], Some(SECONDS(5))),
            (vec![standing(false, false, 30), standing(false, false, 10)], None),
            // A cache that nobody waits for any more is behind a purge of everything.
            (vec![standing(true, true, 30)], None),
            (vec![standing(true, false, 60)], None),
            (vec![standing(false, false, 60)], Some(SECONDS(0))),
        ] {
            assert_eq!(behind.holds(&caches, SECONDS(35)), expected, "{caches:?}");
        }
    }

    #[test]
    fn the_last_echo_is_postponed_and_the_others_are_not() {
        let mut echoes = Echoes::<Duration>::new(&[SECONDS(2), SECONDS(35)]);
        assert_eq!(echoes.last(), SECONDS(35));
        echoes.add(0, SECONDS(0), Invalidations::default(), Vec::new());
        for moment in [0, 20] {
            echoes.add(1, SECONDS(moment), Invalidations::default(), Vec::new());
        }
        echoes.postpone_last(SECONDS(40));
        let mut seen = Vec::new();
        while let Some(due) = echoes.due() {
            seen.push((due, echoes.take_due(due).map(|delivery| delivery.stage)));
        }
        let of = |stage| Some(Stage::Echo(stage));
        // Deliveries that are answered within a tenth of the delay, a second at most, go together.
        assert_eq!(seen, [(Duration::from_millis(2_200), of(0)), (SECONDS(40), of(1)), (SECONDS(54), of(1))]);
    }
}
