//! The connection that is there, what is known of the one before, and what a new one or its end says.

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::outage::Outage;
use crate::start::Start;

/// The connection that is there, what is known of the one before, and when the next one is tried.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// Where the present connection started; `None` while there is none.
    pub(super) start: Option<Start>,
    /// System, timeline and run of the server that was connected last.
    pub(super) server: Option<(String, u32, String)>,
    /// Digest of the publication at the last connection.
    pub(super) publication: Option<String>,
    pub(super) backoff: Backoff,
    pub(super) again: Option<Instant>,
    pub(super) streaming_since: Option<Instant>,
    /// The session that has the slot instead of us.
    pub(super) standing_by: Option<u32>,
    pub(super) outage: Outage,
}

impl Connection {
    /// When the next connection is tried; `None`: now.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// The pause is over.
    pub(super) fn try_again(&mut self) {
        self.again = None;
    }

    /// The stream brought a position forward.
    pub(super) fn proved(&mut self) {
        self.backoff.reset();
    }

    /// Whether another session has the slot.
    pub(super) fn is_standing_by(&self) -> bool {
        self.standing_by.is_some()
    }

    /// Where the present connection started.
    pub(super) fn start(&self) -> Option<&Start> {
        self.start.as_ref()
    }
}

/// A new connection, for the targets.
#[derive(Debug)]
pub struct Connected {
    /// Where it starts.
    pub start: Start,
    /// It is another server than before, or another run of it.
    pub is_other_server: bool,
    /// What is watched is another than at the connection before.
    pub altered: bool,
}

/// How a connection ended that is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It broke, or could not be made.
    Interrupted,
    /// Another session has the slot: a daemon that works, or what the server still holds of our own last connection.
    /// Whether that is news.
    StandingBy(bool),
}
