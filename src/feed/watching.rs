//! What was seen of the server so far, and the look that is on its way.

use tokio::time::Instant;

use crate::change::Event;
use crate::control::Sighting;
use crate::error::Result;
use crate::feed::stall::{Ends, Stall, StallTurn};
use crate::feed::watch::{Judgement, Watch};
use crate::kept::Kept;
use crate::lsn::Lsn;
use crate::outage::Outage;
use crate::start::ServerStore;

/// What was seen so far, and since when its times count. The two are one value: other rules begin a new loop, and behind
/// times of the loop before nothing would be due for as long as that had lasted.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) began: Instant,
    pub(super) watch: Watch,
    pub(super) stall: Stall,
    /// A change came since the last look.
    pub(super) heard: bool,
    pub(super) due: Option<Instant>,
    /// The look that is on its way.
    pub(super) out: Kept<Result<Option<Sighting>>>,
    /// Of the look itself.
    pub(super) blind: Outage,
    /// How far the server's WAL went at the last look of this connection.
    flushed: Lsn,
    store: Option<ServerStore>,
}

impl Watching {
    /// `publication` is the name, for hints.
    pub(super) fn new(publication: &str) -> Self {
        let (watch, stall) = (Watch::new(publication), Stall::default());
        let (out, blind) = (Kept::default(), Outage::default());
        let (began, flushed, store) = (Instant::now(), Lsn::default(), None);
        Watching { began, watch, stall, heard: false, due: None, out, blind, flushed, store }
    }

    /// Under other rules, with another session: nothing is looked at until the stream connects.
    pub(super) fn renewed(self) -> Self {
        Watching { due: None, out: Kept::default(), blind: Outage::default(), ..self }
    }

    /// A keepalive tells how far the server is; anything else is a part of the stream.
    #[inline]
    pub(super) fn hears<A>(&mut self, event: &Event<'_, A>) {
        self.heard |= !matches!(event, Event::Skipped | Event::Idle(_));
    }

    /// The server's WAL goes on and nothing of it comes: how far the cache is behind is not known.
    pub(super) fn is_held_back(&self) -> bool {
        self.stall.is_held()
    }

    /// A new connection: what the old one lacked comes on it.
    pub(super) fn begins_anew(&mut self) {
        self.stall = Stall::default();
        self.out.forget();
        (self.flushed, self.store) = (Lsn::default(), None);
        self.due = Some(Instant::now());
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Waits for the look that is on its way. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<Option<Sighting>> {
        self.out.ended().await
    }

    pub(super) fn compare(&mut self, now: Instant, sighting: &Sighting, received: Lsn, listens: bool) -> StallTurn {
        let waits = listens && !std::mem::take(&mut self.heard);
        let ends = Ends { flushed: sighting.flushed.parse().ok(), received, waits };
        self.stall.look(now.duration_since(self.began), ends)
    }

    /// What the look says of the server's end and of what it keeps.
    pub(super) fn measure(&mut self, sighting: &Sighting) {
        self.flushed = sighting.flushed.parse().unwrap_or_default();
        self.store = sighting.store();
    }

    pub(super) fn flushed(&self) -> Lsn {
        self.flushed
    }

    pub(super) fn store(&self) -> Option<ServerStore> {
        self.store
    }

    pub(super) fn judge(&mut self, now: Instant, sighting: &Sighting) -> Judgement {
        self.watch.judge(now.duration_since(self.began), sighting)
    }
}
