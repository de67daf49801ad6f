//! Sinks come behind the caches that their pages read: how these stand is told to each sink at each turn.

use tokio::time::Instant;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::source::Source;
use crate::target::behind::CacheStanding;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Lets what waits in each sink go on when its caches have answered.
    pub(super) fn follow(&mut self, now: Instant) {
        for sink in 0..self.targets.len() {
            let Some(after) = self.targets[sink].comes_after().cloned() else { continue };
            // What gathered while something waited may have no more to wait for.
            loop {
                let standings = self.standings(sink, &after, now);
                if !self.targets[sink].follow(&standings, now) {
                    break;
                }
            }
        }
    }

    /// How the caches of a sink stand for it.
    fn standings(&mut self, sink: usize, after: &[String], now: Instant) -> Vec<CacheStanding> {
        let awaited = self.targets[sink].awaits();
        // The parts of one cache have its name.
        let is_awaited = |name: &str| after.iter().any(|cache| cache == name);
        let caches = self.targets.iter_mut().filter(|target| !target.is_sink() && is_awaited(&target.label()));
        caches.enumerate().map(|(place, cache)| cache.standing(awaited.get(place), now)).collect()
    }
}
