//! The loop's look at the server, every two seconds over the control session. What it means is `watch.rs`'s business.
//!
//! It only adds: warnings, extra sweeps, and a new connection where the present one no longer stands for what the mark
//! says. The comparison with the mark at that connection finds the gap, as at any other.

use tokio::time::Instant;

use super::Pipeline;
use super::connection::STANDBY_INTERVAL;
use crate::cache::Cache;
use crate::change::Event;
use crate::config::OnGap;
use crate::control::{Control, Sighting};
use crate::echo::{Delivery, Stage};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::pipeline::deliver::complain;
use crate::pipeline::outage::{Outage, Say};
use crate::pipeline::stall::{Ends, Stall, Turn};
use crate::pipeline::watch::{Judgement, Notice, Watch};
use crate::rules::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::seen;
use crate::source::Source;

/// How often the server is looked at.
pub(super) const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

/// What was seen so far, and since when its times count. The two are one value: other rules begin a new loop, and behind
/// times of the loop before nothing would be due for as long as that had lasted.
#[derive(Debug)]
pub(super) struct Watching {
    began: Instant,
    watch: Watch,
    stall: Stall,
    /// A change came since the last look.
    heard: bool,
}

impl Watching {
    /// `publication` is the name, for hints.
    pub(super) fn new(publication: &str) -> Self {
        let (watch, stall) = (Watch::new(publication), Stall::default());
        Watching { began: Instant::now(), watch, stall, heard: false }
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
    }

    fn compare(&mut self, now: Instant, sighting: &Sighting, received: Lsn, listens: bool) -> Turn {
        let waits = listens && !std::mem::take(&mut self.heard);
        let ends = Ends { flushed: sighting.flushed.parse().ok(), received, waits };
        self.stall.look(now.duration_since(self.began), ends)
    }

    fn judge(&mut self, now: Instant, sighting: &Sighting) -> Judgement {
        self.watch.judge(now.duration_since(self.began), sighting)
    }
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Looks, unless another daemon has the slot: it looks then.
    pub(super) fn begin_watch(&mut self) {
        self.watch_due = None;
        if self.standing_by.is_some() {
            self.watch_due = Some(Instant::now() + WATCH_INTERVAL);
            return;
        }
        let control = std::rc::Rc::clone(&self.control);
        self.watching = Some(Box::pin(async move { Ok(control.watch().await) }));
    }

    /// The server was seen, or not: what keeps it from being seen is logged by the stream and the gate.
    pub(super) fn sighted(&mut self, seen: Result<Option<Sighting>>) -> Result<()> {
        let now = Instant::now();
        let sighting = match seen.map_err(Error::having_worked) {
            Ok(Some(sighting)) => sighting,
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => {
                tracing::debug!("failed to watch the server: {}", error.chain());
                self.watch_due = Some(now + WATCH_INTERVAL);
                // What does not last is said by the stream and the gate.
                if let say @ Say::Still(_) = self.blind.failed("", now) {
                    complain(Id::SessionFailing, self.source.words().watch, &error, say);
                }
                return Ok(());
            }
            Err(error) => return Err(error.while_doing("watch the server")),
        };
        self.watch_due = Some(now + WATCH_INTERVAL);
        self.blind = Outage::default();
        let judgement = self.watch.judge(now, &sighting);
        if !judgement.notices.is_empty() {
            (self.news)(News::Noticed);
            judgement.notices.iter().for_each(tell);
        }
        self.compare_ends(&sighting, now);
        self.connect_anew_when_changed(&sighting, now);
        // Tables that triggers no longer tell of were altered: their keys go whatever becomes of a gap's.
        let stays =
            |table: &(String, String)| self.settings.on_gap == OnGap::Warn && !sighting.uncovered.contains(table);
        let tables: Vec<_> = judgement.sweep.into_iter().filter(|table| !stays(table)).collect();
        self.sweep_tables(&tables);
        Ok(())
    }

    /// What was received beside where the server's WAL stands.
    fn compare_ends(&mut self, sighting: &Sighting, now: Instant) {
        let listens = self.compared.is_some() && self.has_room() && self.source_again.is_none();
        let was_held = self.watch.is_held_back();
        match self.watch.compare(now, sighting, self.source.received(), listens) {
            Turn::Flows => {}
            Turn::Waits => self.source.ask(),
            Turn::Held(since) => {
                self.source.ask();
                if let Some(notice) = self.watch.watch.held_back(now.duration_since(self.watch.began), since, sighting)
                {
                    tell(&notice);
                }
            }
            Turn::Ended => log!(Id::Flows, "the server no longer holds the stream back"),
        }
        if self.watch.is_held_back() != was_held {
            (self.news)(News::HeldBack(!was_held));
        }
    }

    /// The stream's start no longer describes what it streams: the next connection finds the gap by the mark.
    fn connect_anew_when_changed(&mut self, sighting: &Sighting, now: Instant) {
        let Some(start) = &self.compared else { return };
        let words = self.source.words();
        let (source, watched) = (words.source, words.watched);
        let known = !sighting.system.is_empty();
        if known && (&sighting.system, sighting.timeline) != (&start.system, start.timeline) {
            log!(Id::OtherServer, "ordinary sessions reach another server than {source}: {source} connects anew");
        } else if !seen::is_same(&start.publication, &sighting.publication) {
            log!(Id::PublicationChanged, "{watched} changed: {source} connects anew");
        } else {
            return;
        }
        self.disconnect();
        self.source_again = Some(now + STANDBY_INTERVAL);
    }

    /// Sweeps the keys of tables whose changes do not come.
    fn sweep_tables(&mut self, tables: &[(String, String)]) {
        if tables.is_empty() {
            return;
        }
        let mut load = Invalidations::default();
        for table in tables.iter().filter_map(|(schema, table)| self.rules.table(schema, table)) {
            self.rules.families_of(table).whole(Cause::Untold, 0, &mut load);
        }
        load.widen_keys();
        self.queue_sweep(Delivery { load, spans: Vec::new(), stage: Stage::Fresh });
    }
}

fn tell(notice: &Notice) {
    log!(notice.line, hint = &notice.hint, "{}", notice.text);
}
