//! The look at the mark: what this process knows of it, and the reading that is on its way.

use std::task::{Context, Poll};

use crate::cache::continuity::{Continuity, Lineage};
use crate::error::Result;
use crate::kept::Kept;
use crate::start::Start;
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
    /// Nothing was compared since that connection began.
    is_anew: bool,
    /// What is watched is another than before, and the mark was not compared since.
    altered: bool,
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
            is_anew: false,
            altered: false,
            is_known: false,
        }
    }
}

impl Looking {
    /// A new connection of the stream.
    pub(super) fn connected(&mut self, start: &Start, altered: bool) {
        self.start = Some(start.clone());
        // Changes may be missing behind the last mark, so an old one in the cache hides no gap now: not even one whose
        // sweep is over and not yet marked.
        self.altered |= altered;
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

    /// The connection that is compared for the first time, and whether what is watched was altered.
    pub(super) fn take_anew(&mut self) -> Option<(&Start, bool)> {
        let altered = std::mem::take(&mut self.altered);
        let start = self.start.as_ref().filter(|_| std::mem::take(&mut self.is_anew))?;
        Some((start, altered))
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
