//! How the target stands to the position: whether that waits for its mark.

use std::time::Duration;

use tokio::time::Instant;

use super::Target;
use crate::cache::Cache;
use crate::control::Control;
use crate::ledger::Positions;
use crate::ledger::hold::{Hold, HoldStanding, HoldVerdict, verdict};
use crate::lsn::Lsn;
use crate::observe::speaker::CacheName;
use crate::start::ServerStore;
use crate::target::confirm::confirm_interval;
use crate::target::proof::Held;

/// A change that waits longer for its first delete, besides the pauses that the cache is asked with, waits for a cache
/// that is away, or far behind.
const BEHIND: Duration = Duration::from_millis(500);

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Whether the position still waits for this target.
    pub fn judge_hold(
        &mut self,
        stream: &impl Positions<A>,
        end: Lsn,
        store: Option<ServerStore>,
        now: Instant,
    ) -> HoldVerdict {
        let Some(start) = self.look.start().map(|start| start.confirmed) else { return HoldVerdict::Stays };
        let limit = self.settings.policy.hold_wal_bytes_max;
        let (since, behind) = (self.ledger.oldest(), BEHIND + self.pauses());
        let is_stuck = self.flight.lasts(now) > BEHIND;
        let marked = stream.current(self.marking.marked());
        let standing = HoldStanding {
            marked: stream.place(marked),
            start,
            // What is in the batch waits for the flight.
            owes: self.holding.handed > marked || is_stuck,
            is_behind: is_stuck || since.is_some_and(|since| now.into_std().saturating_duration_since(since) > behind),
            is_late: is_stuck || self.holding.stands_still(marked, now) > behind,
            is_proven: matches!(self.look.held(), Held::Trusted(_))
                && !self.look.is_reading()
                && !self.ledger.is_barred(),
        };
        self.holding.since = standing.marked.map_or(start, |marked| marked.max(start));
        let verdict = verdict(self.holding.hold, limit, &standing, end, store);
        match verdict {
            HoldVerdict::Stays => {}
            HoldVerdict::Release(_) => self.holding.hold = Hold::Released,
            HoldVerdict::Hold => self.holding.hold = Hold::Holds,
        }
        verdict
    }

    /// How long a cache that answers may be asked for nothing: where commands are billed, flushes wait for each other, and
    /// with a budget the mark waits for the heartbeat.
    fn pauses(&self) -> Duration {
        let policy = &self.settings.policy;
        policy.budget.map_or(confirm_interval(policy.metering), |budget| budget.bound() + policy.heartbeat)
    }

    /// What it holds back, in bytes.
    pub fn held_back(&self, end: Lsn) -> u64 {
        end.0.saturating_sub(self.holding.since.0)
    }

    /// Whether the position waits for it; what its mark says, and what it was handed.
    pub fn holds(&self) -> (Hold, Option<A>, Option<A>) {
        (self.holding.hold, self.marking.marked(), self.holding.handed)
    }

    /// Whether the position goes on without it.
    pub fn is_released(&self) -> bool {
        self.holding.hold == Hold::Released
    }

    /// Up to where this process has had everything, be it in memory.
    pub(super) fn reached(&self) -> Option<A> {
        self.marking.marked().max(self.holding.handed)
    }

    /// What it is called.
    pub fn label(&self) -> CacheName {
        CacheName::clone(&self.around.name)
    }
}
