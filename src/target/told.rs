//! What a target did and how its cache fares, for whoever watches. It decides nothing.

use std::rc::Rc;

use tokio::time::Instant;

use super::{Target, TargetTotals, Turn};
use crate::cache::Cache;
use crate::config::Metering;
use crate::control::Control;
use crate::observe::news::CacheTotals;
use crate::observe::speaker::CacheName;

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// What was done so far.
    pub fn done(&self) -> TargetTotals {
        self.done
    }

    /// What was done so far and where the cache stands, for whoever watches.
    pub fn told(&mut self) -> (CacheName, CacheTotals) {
        let TargetTotals { keys, existed, sweeps, swept, delays, causes, marked, .. } = self.done;
        let (repairs_delayed, repairs_slow) = self.repairs();
        let totals = CacheTotals {
            keys,
            existed,
            sweeps,
            swept,
            repairs_delayed,
            repairs_slow,
            turns: self.turns(),
            echoes_waiting: self.echoes_waiting() as u64,
            marked: marked.map(|(lsn, at)| (lsn, at.into_std())),
            is_known: self.is_known(),
            oldest: self.oldest(),
            delays,
            causes,
            statistics: self.measuring.statistics(),
        };
        (CacheName::clone(&self.around.name), totals)
    }

    /// Repairs that waited, and whether one waits now or nothing was proved since.
    pub fn repairs(&self) -> (u64, bool) {
        (self.repairs.delayed(), self.repairs.is_slow())
    }

    /// Connections that led to another server.
    pub fn turns(&self) -> u64 {
        self.cache.lineage().another
    }

    /// Keys and patterns that wait for their echo.
    pub fn echoes_waiting(&self) -> usize {
        self.echoes.keys()
    }

    /// How long it took until the first deletes were proved of what was proved just now.
    pub(super) fn date_what_is_proved(&mut self) {
        let now = Instant::now().into_std();
        for since in self.ledger.take_proved() {
            self.done.delays.add(now.saturating_duration_since(since));
        }
    }

    /// When the cache is to be asked how it fares; `None` while it is asked anything else, or where asking costs money.
    pub(super) fn measure_due<P>(&self, turn: &Turn<'_, P>) -> Option<Instant> {
        let is_busy = self.flight.is_out() || self.look.is_reading() || self.marking.is_writing();
        let may_ask = self.settings.policy.metering == Metering::None && self.look.is_connected() && !turn.draining;
        self.measuring.due().filter(|_| may_ask && !is_busy && !self.cache.is_away())
    }

    /// Asks the cache how it fares, when that is due.
    pub(super) fn start_measuring<P>(&mut self, turn: &Turn<'_, P>) {
        if self.measure_due(turn).is_some_and(|due| due <= turn.now) {
            let cache = Rc::clone(&self.cache);
            self.measuring.start(async move { cache.statistics().await });
        }
    }
}
