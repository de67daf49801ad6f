//! Where changes come from: the trait that the loop knows, and its members.
//!
//! A source never sees a cache, a rule or a key. It hands over events in stream order and learns only how far
//! everything was answered.

pub mod outbox;
pub mod recording;
pub mod replication;

use std::time::Duration;

use crate::change::Event;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::start::Start;
use crate::words::Words;

/// A stream that is later than this is draining a backlog: it may wait a fraction of its lateness, to read and to delete
/// in larger pieces.
pub const BACKLOG: Duration = Duration::from_millis(20);

/// A stream of committed changes with a position that can be confirmed.
///
/// The loop calls [`ready`](Source::ready), then [`take`](Source::take) until it answers `None` or the open batch is
/// full. While the batch is full nothing is taken: the socket fills, the server blocks, and WAL waits in the slot.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Source {
    /// A confirmable position. Only the source can make one, and only from a commit or an idle keepalive. Those of a later
    /// server, run or slot are greater than all of an earlier one.
    type Ack: Copy + Ord + std::fmt::Debug;

    /// Waits until at least one event can be taken, connecting first where there is no connection.
    ///
    /// Cancel-safe: bytes that were read stay in the buffer. An error ends this connection; the next call connects
    /// anew from the last confirmed position, so events may come twice.
    async fn ready(&mut self) -> Result<()>;

    /// The next event that is already in the buffer.
    fn take(&mut self) -> Result<Option<Event<'_, Self::Ack>>>;

    /// Everything up to and including `upto` was marked by every target. Never goes back; sent with the next status.
    fn acknowledge(&mut self, upto: Self::Ack);

    /// When the next status is due, if there is a connection.
    fn status_due(&self) -> Option<tokio::time::Instant>;

    /// Sends a status if one is due or was asked for. Not called while `ready` is being polled: one writer.
    async fn status(&mut self) -> Result<()>;

    /// Asks the server, with the next status, to say how far it has sent.
    fn ask(&mut self) {}

    /// How late the stream is: server time of sending less server time of commit. Zero when unknown.
    fn lateness(&self) -> Duration;

    /// Where the stream of the present connection began; it changes with each connection.
    fn start(&self) -> Option<&Start>;

    /// The position as PostgreSQL writes it, for the mark.
    fn lsn(&self, ack: Self::Ack) -> Lsn;

    /// Whether `ack` is a position of the server that is connected now, or was last: positions of another timeline, or
    /// of a server that started again from a copy, must not be confirmed to this one.
    fn is_current(&self, ack: Self::Ack) -> bool;

    /// Up to where WAL was received, also what holds no event; what echoes hold back is counted from it.
    fn received(&self) -> Lsn;

    /// Whether transactions come in the order in which they were committed: a change that one of them saw comes before it.
    fn is_in_commit_order(&self) -> bool {
        true
    }

    /// What messages call it, and how its end is told.
    fn words(&self) -> Words {
        Words::STREAM
    }

    /// The session that has the slot while this source stands by for it; 0 when it is not known.
    fn standing_by(&self) -> Option<u32> {
        None
    }

    /// Drops the connection, if there is one: after an error nothing more of it may be taken.
    fn disconnect(&mut self);

    /// Sends a last status, then CopyDone.
    async fn close(&mut self) -> Result<()>;

    /// The same before this daemon streams anew. Nobody who stands by should take over meanwhile: it may have other rules.
    async fn pause(&mut self) -> Result<()> {
        self.close().await
    }
}
