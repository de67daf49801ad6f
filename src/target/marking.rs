//! What was answered, what the mark says of it, and the mark that is on its way.

use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::cache::Swap;
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::ledger::window::SpanId;
use crate::lsn::Lsn;
use crate::mark::Mark;
use crate::outage::Outage;
use crate::target::echo::{Delivery, bytes_of};

/// What became of writing a mark.
#[derive(Debug)]
pub enum MarkOutcome {
    /// It is there, or another, or there is no place for it.
    Tried(Swap),
    /// The answer was lost: it may be there.
    Unknown(Error),
}

/// A mark on its way to the cache.
#[derive(Debug)]
pub(super) struct Writing<A> {
    /// What may be confirmed once it is there; `None` for a heartbeat that moves nothing.
    pub(super) ack: Option<A>,
    pub(super) lsn: Lsn,
    pub(super) mark: Mark,
    pub(super) text: Vec<u8>,
    /// The first span that it does not cover.
    pub(super) first: SpanId,
    /// What is deleted in the same transaction.
    pub(super) riders: Vec<Delivery>,
}

/// What was answered, what the mark says of it, and the mark that is on its way.
#[derive(Debug)]
pub(super) struct Marking<A> {
    /// Everything up to here was answered, and no mark says so yet.
    pub(super) answered: Option<A>,
    pub(super) writing: Option<Writing<A>>,
    pub(super) out: Kept<Result<MarkOutcome>>,
    /// What the last mark of this connection's server says.
    pub(super) marked: Option<A>,
    /// Up to where the last mark that was sent says that everything was deleted once.
    pub(super) told_deleted: Option<Lsn>,
    pub(super) confirm_due: Option<Instant>,
    pub(super) beat_due: Option<Instant>,
    /// Of writing the mark.
    pub(super) outage: Outage,
    /// Nothing was written since an answer was lost.
    pub(super) lost_one: bool,
    /// A try came soon behind one that failed, and nothing was written since.
    pub(super) came_soon: bool,
}

impl<A> Default for Marking<A> {
    fn default() -> Self {
        Marking {
            answered: None,
            writing: None,
            out: Kept::default(),
            marked: None,
            told_deleted: None,
            confirm_due: None,
            beat_due: None,
            outage: Outage::default(),
            lost_one: false,
            came_soon: false,
        }
    }
}

impl<A: Copy + Ord> Marking<A> {
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// What rides with it, in bytes.
    pub(super) fn bytes_riding(&self) -> usize {
        self.writing.as_ref().map_or(0, |writing| bytes_of(&writing.riders))
    }

    /// Whether something was answered that no mark says yet.
    pub(super) fn is_owed(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether the mark says all that was answered.
    pub(super) fn is_settled(&self) -> bool {
        self.answered.is_none() && self.writing.as_ref().is_none_or(|writing| writing.ack.is_none())
    }

    pub(super) fn marked(&self) -> Option<A> {
        self.marked
    }

    /// What was answered and not marked, which comes again behind a barrier.
    pub(super) fn withdraw(&mut self) -> Option<A> {
        self.answered.take()
    }

    /// The mark of it was not written, or nobody knows: it comes again with the next one.
    pub(super) fn comes_again(&mut self, ack: Option<A>) {
        self.answered = self.answered.max(ack);
    }

    pub(super) fn leave_server(&mut self) {
        (self.answered, self.marked, self.told_deleted) = (None, None, None);
    }

    pub(super) fn confirm_at_once(&mut self) {
        self.confirm_due = None;
    }

    /// When the next mark may be written: behind the last one after a pause, and at the latest with the next beat.
    pub(super) fn due(&self, beats: bool) -> Option<Instant> {
        self.confirm_due.or_else(|| self.beat_due.filter(|_| beats))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<MarkOutcome>> {
        self.out.poll(cx)
    }
}
