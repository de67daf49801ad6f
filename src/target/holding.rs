//! Whether the position waits for the target, and what was handed to it.

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::hold::Hold;
use crate::lsn::Lsn;

/// Whether the position waits for the target, and what that goes by.
#[derive(Debug)]
pub(super) struct Holding<A> {
    pub(super) hold: Hold,
    /// Up to where everything was handed to the target.
    pub(super) handed: Option<A>,
    /// The position that it held at the last look.
    pub(super) since: Lsn,
    /// What the mark said then, and since when.
    marked: (Option<A>, Option<Instant>),
}

impl<A> Default for Holding<A> {
    fn default() -> Self {
        Holding { hold: Hold::Holds, handed: None, since: Lsn::default(), marked: (None, None) }
    }
}

impl<A: Copy + Ord> Holding<A> {
    pub(super) fn hand(&mut self, upto: Option<A>) {
        self.handed = self.handed.max(upto);
    }

    /// How long the mark has said the same though more was handed over.
    pub(super) fn stands_still(&mut self, marked: Option<A>, now: Instant) -> Duration {
        if self.marked.0 != marked || self.handed <= marked {
            self.marked = (marked, None);
        }
        now.saturating_duration_since(*self.marked.1.get_or_insert(now))
    }

    /// A new connection of the stream: nothing could be handed over while there was none.
    pub(super) fn connected(&mut self) {
        self.marked.1 = None;
    }

    /// Positions of the next one mean something else.
    pub(super) fn leave_server(&mut self) {
        self.handed = None;
    }

    /// For a loop that begins anew: what it holds in memory is forgotten.
    pub(super) fn carried(self) -> Self {
        Holding { handed: None, ..self }
    }
}
