//! What passed through the rules, told now and then: a flood of changes costs whoever watches one telling a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::observe::news::News;
use crate::source::Source;

/// Between two tellings.
const INTERVAL: Duration = Duration::from_secs(1);

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Says which rules are in force.
    pub(super) fn tell_rules(&self) {
        self.teller.tell(News::Rules(Arc::new(self.feed.rules().labels())));
    }

    /// When it is to be told; `None` while nothing was counted.
    pub(super) fn tally_due(&self, now: Instant) -> Option<Instant> {
        let due = self.tallied.map_or(now, |told| told + INTERVAL);
        self.feed.rules().has_tally().then_some(due)
    }

    /// Says what was counted, if anything was.
    pub(super) fn tell_tally(&mut self, now: Instant) {
        if self.feed.rules().has_tally() {
            self.tallied = Some(now);
            self.teller.tell(News::Tally(Arc::new(self.feed.rules().take_tally())));
        }
    }
}
