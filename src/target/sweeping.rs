//! The sweep that runs, what waits for the next one, and what a sweep brings back.

use std::task::{Context, Poll};

use crate::cache::Swept;
use crate::error::Result;
use crate::kept::Kept;
use crate::target::echo::{Delivery, bytes_of};

/// Deliveries whose patterns were swept, and what that did.
#[derive(Debug)]
pub struct Scanned {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) swept: Swept,
}

/// The sweep that runs, and what waits for the next one.
#[derive(Debug, Default)]
pub(super) struct Sweeping {
    /// One per stage.
    pub(super) queued: Vec<Delivery>,
    pub(super) out: Kept<Result<Scanned>>,
    /// What the running sweep holds, in bytes.
    pub(super) bytes: usize,
    /// The cache became another while the sweep ran: parts of it may have been answered by the one before.
    pub(super) again: bool,
    /// Whoever ordered a sweep that waits, and the one that runs.
    pub(super) orders: Vec<SweepDone>,
    pub(super) orders_out: Vec<SweepDone>,
}

/// Called with what an ordered sweep did.
pub(super) struct SweepDone(pub(super) Box<dyn FnOnce(Swept)>);

impl std::fmt::Debug for SweepDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SweepDone")
    }
}

impl Sweeping {
    /// Whether a sweep runs.
    pub(super) fn is_out(&self) -> bool {
        self.out.is_out()
    }

    /// Whether one runs or waits.
    pub(super) fn is_busy(&self) -> bool {
        self.is_out() || !self.queued.is_empty()
    }

    /// The sweep that runs, if one does, is to run once more.
    pub(super) fn run_again(&mut self) {
        self.again = self.is_out();
    }

    pub(super) fn bytes_used(&self) -> usize {
        self.bytes + bytes_of(&self.queued)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Scanned>> {
        self.out.poll(cx)
    }
}
