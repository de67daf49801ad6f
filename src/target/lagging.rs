//! What waits for the read replicas: the round that is out, and the one behind it.

use std::task::{Context, Poll};

use crate::error::Result;
use crate::kept::Kept;
use crate::ledger::Ticket;
use crate::rules::{Invalidations, Rules};

/// Deliveries of one round.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) load: Invalidations,
    pub(super) tickets: Vec<Ticket>,
}

/// What waits for the read replicas, and what they are asked about now.
#[derive(Debug, Default)]
pub(super) struct Lagging {
    pub(super) next: Waiting,
    pub(super) asked: Waiting,
    pub(super) round: Kept<Result<()>>,
}

impl Lagging {
    pub(super) fn bytes_used(&self) -> usize {
        self.next.load.bytes_used() + self.asked.load.bytes_used()
    }

    /// What the larger of the two holds, in bytes.
    pub(super) fn largest(&self) -> usize {
        self.next.load.bytes_used().max(self.asked.load.bytes_used())
    }

    /// Collapses the largest family of the larger one; says how many bytes that freed.
    pub(super) fn collapse_largest(&mut self, rules: &Rules) -> usize {
        let both = [&mut self.next.load, &mut self.asked.load];
        let larger = both.into_iter().max_by_key(|load| load.bytes_used());
        larger.map_or(0, |load| load.collapse_largest(rules))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.round.poll(cx)
    }
}
