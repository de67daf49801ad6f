//! The loop's look at the server, every two seconds over the control session. What it means is `watch.rs`'s business.
//!
//! It only adds: warnings, extra sweeps, and a new connection where the present one no longer stands for what the mark
//! says. The comparison with the mark at that connection finds the gap, as at any other.

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Pipeline;
use super::connection::STANDBY_INTERVAL;
use crate::cache::Cache;
use crate::change::Row;
use crate::config::OnGap;
use crate::control::{Control, Sighting};
use crate::echo::{Delivery, Stage};
use crate::error::Result;
use crate::pipeline::deliver::REMIND;
use crate::pipeline::watch::{Judgement, Notice, Severity, Watch};
use crate::rules::Invalidations;
use crate::source::Source;

/// How often the server is looked at.
pub(super) const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

/// What was seen so far, and since when its times count. The two are one value: other rules begin a new loop, and behind
/// times of the loop before nothing would be due for as long as that had lasted.
#[derive(Debug)]
pub(super) struct Watching {
    began: Instant,
    watch: Watch,
}

impl Watching {
    /// `publication` is the name, for hints.
    pub(super) fn new(publication: &str) -> Self {
        Watching { began: Instant::now(), watch: Watch::new(publication) }
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
        let sighting = match seen {
            Ok(Some(sighting)) => sighting,
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => {
                debug!("failed to watch the server: {}", error.chain());
                self.watch_due = Some(now + WATCH_INTERVAL);
                let blind = *self.blind_since.get_or_insert(now);
                if now.duration_since(blind) >= REMIND {
                    self.blind_since = Some(now);
                    let hint = error.hint.as_deref().unwrap_or("the slot's WAL and the publication are not watched");
                    warn!(hint, "failed to watch the server: {}", error.chain());
                }
                return Ok(());
            }
            Err(error) => return Err(error.while_doing("watch the server")),
        };
        self.watch_due = Some(now + WATCH_INTERVAL);
        self.blind_since = None;
        let judgement = self.watch.judge(now, &sighting);
        judgement.notices.iter().for_each(tell);
        self.connect_anew_when_changed(&sighting, now);
        self.sweep_tables(&judgement.sweep);
        Ok(())
    }

    /// The stream's start no longer describes what it streams: the next connection finds the gap by the mark.
    fn connect_anew_when_changed(&mut self, sighting: &Sighting, now: Instant) {
        let Some(start) = &self.compared else { return };
        let known = !sighting.system.is_empty();
        if known && (&sighting.system, sighting.timeline) != (&start.system, start.timeline) {
            warn!("ordinary sessions reach another server than the stream: it connects anew");
        } else if sighting.publication != start.publication {
            info!("the publication changed: the stream connects anew");
        } else {
            return;
        }
        self.disconnect();
        self.source_again = Some(now + STANDBY_INTERVAL);
    }

    /// Sweeps the keys of tables whose changes do not come.
    fn sweep_tables(&mut self, tables: &[(String, String)]) {
        if tables.is_empty() || self.settings.on_gap == OnGap::Warn {
            return;
        }
        let mut load = Invalidations::default();
        for table in tables.iter().filter_map(|(schema, table)| self.rules.table(schema, table)) {
            self.rules.families_of(table).apply(&Row::Truncate, 0, &mut load);
        }
        load.widen_keys();
        self.queue_sweep(Delivery { load, spans: Vec::new(), stage: Stage::Fresh });
    }
}

fn tell(notice: &Notice) {
    let hint = &notice.hint;
    match notice.severity {
        Severity::Warning => warn!(hint, "{}", notice.text),
        Severity::Error => error!(hint, "{}", notice.text),
    }
}
