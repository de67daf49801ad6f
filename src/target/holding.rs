//! Whether the position waits for the target, and what was handed to it.

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
}

impl<A> Default for Holding<A> {
    fn default() -> Self {
        Holding { hold: Hold::Holds, handed: None, since: Lsn::default() }
    }
}

impl<A: Copy + Ord> Holding<A> {
    pub(super) fn hand(&mut self, upto: Option<A>) {
        self.handed = self.handed.max(upto);
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
