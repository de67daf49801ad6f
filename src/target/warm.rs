//! The pages of keys that are deleted: held from the hand-over to the last answer, so that nobody fetches them before, and
//! told which of their keys existed by the first delete.

use super::Target;
use crate::cache::Cache;
use crate::config::Metering;
use crate::control::Control;
use crate::keys::KeySet;
use crate::rules::Invalidations;
use crate::target::echo::{Delivery, Stage};
use crate::warm::{Pages, entry};

/// Where each command is billed, so many keys of one flight have a command of their own; whether the others existed nobody
/// is told.
const BILLED_MAX: usize = 20;

/// The keys of which a flight asks whether they existed, at most so many; and how many there are besides.
pub(super) fn asked(deliveries: &[Delivery], most: usize) -> (KeySet, u64) {
    let (mut asked, mut others) = (KeySet::default(), 0);
    let first = deliveries.iter().filter(|delivery| matches!(delivery.stage, Stage::Early | Stage::Fresh));
    for delivery in first {
        for page in delivery.load.warms.iter() {
            let key = entry::key_of(page.bytes);
            if asked.len() < most {
                asked.insert(key, page.family, page.first);
            } else if !asked.contains(key) {
                others += 1;
            }
        }
    }
    (asked, others)
}

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// So many keys of one flight may be asked for by themselves.
    pub(super) fn asks_max(&self) -> usize {
        let is_billed = self.metered.is_some() || self.settings.policy.metering != Metering::None;
        if is_billed { BILLED_MAX } else { usize::MAX }
    }

    /// Holds the pages of a load that was handed over. One that is away holds none: nobody waits for it.
    pub(super) fn hold_pages(&mut self, load: &mut Invalidations) {
        if load.warms.is_empty() {
            return;
        }
        if self.is_absent() {
            load.warms = KeySet::default();
            return;
        }
        for page in load.warms.iter() {
            let address = self.around.rules.page_of(page.family);
            let url = entry::parts(page.bytes).and_then(|(_, url)| std::str::from_utf8(url).ok());
            if let (Some(address), Some(url)) = (address, url) {
                load.pages.hold(&self.settings.warming, url, address.shown());
            }
        }
        if self.is_sink() {
            load.warms = KeySet::default(); // A sink does not tell what it held.
        }
    }

    /// Which keys of a delivery existed is known, as far as it was asked.
    pub(super) fn tell_pages(&mut self, delivery: &mut Delivery, existed: &KeySet) {
        let early = &mut self.flight.early;
        match delivery.stage {
            Stage::Early => early.add(existed),
            Stage::Fresh => {
                let warms = std::mem::take(&mut delivery.load.warms);
                for page in warms.iter() {
                    let Some((key, url)) = entry::parts(page.bytes) else { continue };
                    if (existed.contains(key) || early.has(key))
                        && let Ok(url) = std::str::from_utf8(url)
                    {
                        delivery.load.pages.existed(url);
                    }
                }
                early.take(&delivery.load.keys);
            }
            Stage::Replica | Stage::Echo(_) | Stage::Repeated => {}
        }
    }

    /// Counts the pages that were left out where loads were united.
    pub(super) fn count_left_out(&mut self) {
        let waiting = self.inbox.iter_mut().chain(self.behind.deliveries());
        let left_out = waiting.map(|delivery| std::mem::take(&mut delivery.load.unwarmed)).sum();
        self.settings.warming.dropped(left_out);
    }

    /// The last answer for these pages came. The next mark of a cache that does not say who it is deletes the keys once
    /// more.
    pub(super) fn let_go(&mut self, mut pages: Pages) {
        if self.cache.is_nameless() && !self.is_sink() {
            self.unmarked.then(pages);
        } else {
            pages.answered();
        }
    }

    /// Nobody waits for a target that is away: what it holds it holds no more.
    pub(super) fn let_go_when_absent(&mut self) {
        if !self.is_absent() {
            return;
        }
        self.flight.pages.iter_mut().for_each(Pages::answered);
        let waiting = self.inbox.iter_mut().chain(&mut self.again).chain(self.behind.deliveries());
        waiting.for_each(|delivery| delivery.load.pages.answered());
        self.echoes.each_load(|load| load.pages.answered());
        self.lagging.next.load.pages.answered();
        self.lagging.asked.load.pages.answered();
        self.unmarked.let_go();
        self.flight.early.clear();
    }

    /// The pages of what flies: an end of waiting for this target reaches them there, too.
    pub(super) fn take_pages(deliveries: &mut [Delivery]) -> Vec<Pages> {
        deliveries.iter_mut().map(|delivery| std::mem::take(&mut delivery.load.pages)).collect()
    }
}
