//! Gaps whose sweep has not begun, and the transactions that one waits for.

use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::error::Result;
use crate::gate::Snapshot;
use crate::kept::Kept;
use crate::observe::Id;
use crate::reminder::Reminder;
use crate::target::owed::GapSweep;

/// Gaps whose sweep has not begun, or waits for the transactions that were open.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// The sweep of all of them.
    pub(super) sweep: GapSweep,
    /// The transactions that the sweep waits for, and when that was last said.
    pub(super) elders: Option<(Snapshot, Reminder<Id, Instant>)>,
    pub(super) looking: Kept<Result<Snapshot>>,
}

impl Gaps {
    /// Whether no sweep is still to begin.
    pub(super) fn is_over(&self) -> bool {
        self.sweep.tickets.is_empty()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Snapshot>> {
        self.looking.poll(cx)
    }

    pub(super) fn add(&mut self, sweep: GapSweep) {
        self.sweep.join(sweep);
        self.elders = None;
    }
}
