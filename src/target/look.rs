//! The look at the mark: what this process knows of it, and the reading that is on its way.

use std::task::{Context, Poll};

use crate::cache::continuity::{Continuity, Lineage};
use crate::error::Result;
use crate::kept::Kept;
use crate::lsn::Lsn;
use crate::start::{SlotOrigin, Start};
use crate::target::proof::Held;

/// A mark as the cache said it, if there was one, and what is known of the cache that said it.
pub type Found = (Option<Vec<u8>>, Lineage);

/// What is known of the mark.
#[derive(Debug)]
pub(super) struct Looking {
    held: Held,
    reading: Kept<Result<Found>>,
    /// The cache, when its mark was compared last.
    lineage: Lineage,
    /// Where the present connection of the stream started; `None` while there is none.
    start: Option<Start>,
    /// The least that the next mark says: see [`proven`](crate::target::proof::proven).
    proven: Lsn,
    /// What lies between that and the start was in the memory of this process.
    is_in_memory: bool,
    /// Nothing was compared since that connection began.
    is_anew: bool,
    /// A connection began, and the mark was not compared since, that no memory of this process leads up to.
    moved_on: bool,
    /// The slot of such a connection was made anew.
    is_made: bool,
    /// The mark was compared, since this daemon has the slot.
    is_known: bool,
}

impl Default for Looking {
    fn default() -> Self {
        Looking {
            held: Held::Nothing,
            reading: Kept::default(),
            lineage: Lineage::default(),
            start: None,
            proven: Lsn::default(),
            is_in_memory: false,
            is_anew: false,
            moved_on: false,
            is_made: false,
            is_known: false,
        }
    }
}

impl Looking {
    /// A new connection of the stream. `moved_on`: no memory of this process leads up to its start.
    ///
    /// What a connection shows stays true when the connection ends before the mark was compared: the next one begins in the
    /// middle of what is in memory by then, and says nothing of what is missing before that.
    pub(super) fn connected(&mut self, start: &Start, moved_on: bool) {
        self.is_made |= start.slot == SlotOrigin::Created;
        let slot = if self.is_made && start.slot == SlotOrigin::Found { SlotOrigin::Created } else { start.slot };
        self.start = Some(Start { slot, ..start.clone() });
        self.moved_on |= moved_on || self.is_made;
        self.is_anew = true;
    }

    /// The connection ended.
    pub(super) fn disconnected(&mut self) {
        self.start = None;
    }

    /// Somebody else writes the mark from now on.
    pub(super) fn stand_by(&mut self) {
        (self.held, self.is_known) = (Held::Nothing, false);
    }

    /// Nothing is known of the mark.
    pub(super) fn forget(&mut self) {
        self.held = Held::Nothing;
    }

    /// What is known.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// The mark is ours, and it is this one.
    pub(super) fn trust(&mut self, mark: Option<Vec<u8>>) {
        self.held = Held::Trusted(mark.into_iter().collect());
    }

    /// The mark proves nothing; a sweep is on its way, unless `cache.on_gap` is "warn".
    pub(super) fn doubt(&mut self, was: Option<Vec<u8>>) {
        self.held = Held::Gap { was, maybe: None };
    }

    /// The answer to writing this mark was lost.
    pub(super) fn lost(&mut self, mark: Vec<u8>) {
        self.held.lost(mark);
    }

    /// Reads the mark, whatever is being read now.
    pub(super) fn read(&mut self, reading: impl Future<Output = Result<Found>> + 'static) {
        self.reading.start(reading);
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_out()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Found>> {
        self.reading.poll(cx)
    }

    /// Where the present connection of the stream started.
    pub(super) fn start(&self) -> Option<&Start> {
        self.start.as_ref()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.start.is_some()
    }

    /// Whether nothing was compared since the connection began.
    pub(super) fn is_anew(&self) -> bool {
        self.is_anew
    }

    /// Where nothing was compared since the connection began: whether it moved on.
    pub(super) fn take_anew(&mut self) -> Option<bool> {
        self.is_made = false;
        let moved_on = std::mem::take(&mut self.moved_on);
        std::mem::take(&mut self.is_anew).then_some(moved_on)
    }

    /// What the comparison proves; `is_in_memory`: what lies between that and the start was in memory when it began.
    pub(super) fn proves(&mut self, proven: Lsn, is_in_memory: bool) {
        (self.proven, self.is_in_memory) = (proven, is_in_memory);
    }

    /// What the last comparison proves: the least that the next mark says. Where nothing is owed any more, what was in
    /// memory was deleted: without it a server that writes nothing would leave the mark behind the start.
    pub(super) fn proven(&self, owes_nothing: bool) -> Lsn {
        match &self.start {
            Some(start) if self.is_in_memory && owes_nothing => start.confirmed,
            _ => self.proven,
        }
    }

    /// The cache when its mark was compared last.
    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The mark is compared now: what became of the cache since the last time.
    pub(super) fn follow(&mut self, lineage: Lineage) -> Continuity {
        self.is_known = true;
        lineage.since(std::mem::replace(&mut self.lineage, lineage))
    }

    /// Whether the mark was compared since this daemon has the slot.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(slot: SlotOrigin) -> Start {
        Start { system: "7/5".into(), timeline: 1, confirmed: Lsn(460), run: "r".into(), publication: "p".into(), slot }
    }

    #[test]
    fn what_a_connection_showed_is_told_behind_the_next_one_where_nothing_was_compared_between() {
        let mut look = Looking::default();
        look.connected(&start(SlotOrigin::Created), false);
        look.disconnected();
        look.connected(&start(SlotOrigin::Found), false);
        assert_eq!(look.start().map(|start| start.slot), Some(SlotOrigin::Created), "it is as new as it was");
        assert_eq!(look.take_anew(), Some(true));
        assert_eq!(look.take_anew(), None, "once");
        look.disconnected();
        look.connected(&start(SlotOrigin::Found), false);
        assert_eq!(look.start().map(|start| start.slot), Some(SlotOrigin::Found));
        assert_eq!(look.take_anew(), Some(false), "the one before was compared");
        look.connected(&start(SlotOrigin::Found), true);
        look.connected(&start(SlotOrigin::Found), false);
        assert_eq!(look.take_anew(), Some(true));
    }
}
