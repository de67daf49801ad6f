//! The flight: the pipeline of deletes that is out, and what it brings back.

use std::collections::HashSet;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Deleted;
use crate::error::Result;
use crate::kept::Kept;
use crate::keys::KeySet;
use crate::target::echo::Delivery;
use crate::warm::Pages;

/// Deliveries whose keys were deleted, and what that did.
#[derive(Debug)]
pub struct Landed {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deleted: Deleted,
    /// The keys that existed, of those of which that was asked.
    pub(super) existed: KeySet,
}

/// Keys that existed when they were deleted ahead of the gate: behind it they are gone.
#[derive(Debug, Default)]
pub(super) struct Early(HashSet<Box<[u8]>>);

/// So many are remembered; most of them are deleted behind the gate in a moment.
const EARLY_MAX: usize = 10_000;

impl Early {
    pub(super) fn add(&mut self, existed: &KeySet) {
        if self.0.len() + existed.len() > EARLY_MAX {
            self.0.clear();
        }
        self.0.extend(existed.iter().map(|key| key.bytes.into()));
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.0.contains(key)
    }

    /// These keys were deleted behind the gate.
    pub(super) fn take(&mut self, keys: &KeySet) {
        if !self.0.is_empty() {
            keys.iter().for_each(|key| _ = self.0.remove(key.bytes));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The pipeline of UNLINKs that is out.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) out: Kept<Result<Landed>>,
    pub(super) bytes: usize,
    /// When it left.
    pub(super) since: Option<Instant>,
    /// Of each delivery that is out, the pages that it holds.
    pub(super) pages: Vec<Pages>,
    pub(super) early: Early,
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
