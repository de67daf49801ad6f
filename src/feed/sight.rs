//! The feed's look at the server, every two seconds over the control session. What it means is `watch.rs`'s business.
//!
//! It only adds: warnings, extra sweeps, and a new connection where the present one no longer stands for what the mark
//! says. The comparison with the mark at that connection finds the gap, as at any other.

use tokio::time::Instant;

use super::{Feed, Handed, Room};
use crate::control::{Control, Sighting};
use crate::error::{Error, Result};
use crate::feed::stall::StallTurn;
use crate::feed::watch::Notice;
use crate::insist::complain;
use crate::load::Untold;
use crate::lsn::Lsn;
use crate::observe::news::{News, ServerSeen};
use crate::observe::{Id, log};
use crate::outage::{Outage, Say};
use crate::rules::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::seen;
use crate::source::Source;
use crate::start::ServerStore;

/// How often the server is looked at.
const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

impl<S, D> Feed<S, D>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    /// Looks, unless another daemon has the slot: it looks then.
    pub(super) fn begin_watch(&mut self) {
        self.watching.due = None;
        if self.connection.is_standing_by() {
            self.watching.due = Some(Instant::now() + WATCH_INTERVAL);
            return;
        }
        let control = std::rc::Rc::clone(&self.control);
        self.watching.out.start(async move { control.watch().await });
    }

    /// The server was seen, or not: what keeps it from being seen is logged by the stream and the gate.
    ///
    /// # Errors
    ///
    /// A definite one.
    pub fn sighted(&mut self, seen: Result<Option<Sighting>>, room: &Room) -> Result<()> {
        let now = Instant::now();
        let sighting = match seen.map_err(Error::having_worked) {
            Ok(Some(sighting)) => sighting,
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => {
                tracing::debug!("failed to watch the server: {}", error.chain());
                self.watching.due = Some(now + WATCH_INTERVAL);
                // What does not last is said by the stream and the gate.
                if let say @ Say::Still(_) = self.watching.blind.failed("", now) {
                    complain(Id::SessionFailing, self.source.words().watch, &error, say);
                }
                return Ok(());
            }
            Err(error) => return Err(error.while_doing("watch the server")),
        };
        self.watching.due = Some(now + WATCH_INTERVAL);
        self.watching.blind = Outage::default();
        self.watching.measure(&sighting);
        self.teller.tell(News::Server(seen_of(&sighting)));
        let judgement = self.watching.judge(now, &sighting);
        if !judgement.notices.is_empty() {
            self.teller.tell(News::Noticed);
            judgement.notices.iter().for_each(tell);
        }
        self.compare_ends(&sighting, now, room);
        self.connect_anew_when_changed(&sighting, now);
        self.sweep_tables(&judgement.sweep, &sighting);
        Ok(())
    }

    /// What was received beside where the server's WAL stands.
    fn compare_ends(&mut self, sighting: &Sighting, now: Instant, room: &Room) {
        let listens = self.is_connected() && self.has_room(room) && self.connection.again().is_none();
        let was_held = self.watching.is_held_back();
        match self.watching.compare(now, sighting, self.source.received(), listens) {
            StallTurn::Flows => {}
            StallTurn::Waits => self.source.ask(),
            StallTurn::Held(since) => {
                self.source.ask();
                let clock = now.duration_since(self.watching.began);
                self.watching.watch.held_back(clock, since, sighting).iter().for_each(tell);
            }
            StallTurn::Ended => log!(Id::Flows, "the server no longer holds the stream back"),
        }
        if self.watching.is_held_back() != was_held {
            self.teller.tell(News::HeldBack(!was_held));
        }
    }

    /// The stream's start no longer describes what it streams: the next connection finds the gap by the mark.
    fn connect_anew_when_changed(&mut self, sighting: &Sighting, now: Instant) {
        let Some(start) = self.connection.start() else { return };
        let words = self.source.words();
        let (source, watched) = (words.source, words.watched);
        let known = !sighting.system.is_empty();
        if sighting.promoted {
            log!(Id::StandbyPromoted, "the standby was promoted: {source} connects anew, as to a primary");
        } else if known && (&sighting.system, sighting.timeline) != (&start.system, start.timeline) {
            log!(Id::OtherServer, "ordinary sessions reach another server than {source}: {source} connects anew");
        } else if !seen::is_same(&start.publication, &sighting.publication) {
            log!(Id::PublicationChanged, "{watched} changed: {source} connects anew");
        } else {
            return;
        }
        self.connect_anew(now);
    }

    /// Hands over the keys of tables whose changes do not come.
    fn sweep_tables(&mut self, tables: &[(String, String)], sighting: &Sighting) {
        if tables.is_empty() {
            return;
        }
        // Tables that triggers no longer tell of were altered.
        let all = self.untold(tables.iter());
        let altered = self.untold(tables.iter().filter(|table| sighting.uncovered.contains(table)));
        self.handed.push_back(Handed::Sweep(Box::new(Untold { all, altered })));
    }

    fn untold<'a>(&mut self, tables: impl Iterator<Item = &'a (String, String)>) -> Invalidations {
        let mut load = Invalidations::default();
        for table in tables.filter_map(|(schema, table)| self.rules.table(schema, table)) {
            self.rules.families_of(table).whole(Cause::Untold, 0, &mut load);
        }
        load.widen_keys();
        self.lookups.forget(&mut load);
        load
    }

    /// How far the server's WAL goes, as far as anybody knows; `None` while there is no stream.
    pub fn server_end(&self) -> Option<Lsn> {
        self.connection.start()?;
        Some(self.source.received().max(self.watching.flushed()))
    }

    /// What the server keeps for us, where that has a bound.
    pub fn store(&self) -> Option<ServerStore> {
        self.watching.store()
    }

    /// Whether the server's WAL goes on and nothing of it comes: how far the caches are behind is not known.
    pub fn is_held_back(&self) -> bool {
        self.watching.is_held_back()
    }
}

/// For whoever watches.
fn seen_of(sighting: &Sighting) -> ServerSeen {
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let rows = sighting.outbox_rows.unwrap_or(0);
    ServerSeen {
        flushed: sighting.flushed.parse().ok(),
        held_bytes: sighting.wal.map(|wal| bytes(wal.held_bytes)),
        safe_bytes: sighting.wal.and_then(|wal| wal.safe_bytes).map(bytes),
        outbox: sighting.outbox.map(|(used, most)| [rows, used, most]),
    }
}

fn tell(notice: &Notice) {
    log!(notice.line, hint = &notice.hint, "{}", notice.text);
}
