//! The flight: the pipeline of deletes that is out, and what it brings back.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Deleted;
use crate::error::Result;
use crate::kept::Kept;
use crate::target::echo::Delivery;

/// Deliveries whose keys were deleted, and what that did.
#[derive(Debug)]
pub struct Landed {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deleted: Deleted,
}

/// The pipeline of UNLINKs that is out.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) out: Kept<Result<Landed>>,
    pub(super) bytes: usize,
    /// When it left.
    pub(super) since: Option<Instant>,
}

impl Flight {
    pub(super) fn is_out(&self) -> bool {
        self.out.is_out()
    }

    /// How long it has been out.
    pub(super) fn lasts(&self, now: Instant) -> Duration {
        let since = self.since.filter(|_| self.is_out());
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(super) fn bytes_used(&self) -> usize {
        self.bytes
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Landed>> {
        self.out.poll(cx)
    }
}
