//! Repairs that wait for their turn. Each holds the position until it is made, and none keeps another one waiting.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::keys::FamilyId;
use crate::ledger::Ticket;
use crate::mark::Gap;
use crate::rules::plan::cause::{Cause, Causes};
use crate::rules::{Invalidations, Rules};
use crate::target::echo::{Delivery, bytes_of};

/// The sweep of a gap, or of several.
#[derive(Debug, Default)]
pub(super) struct GapSweep {
    /// What it goes over.
    pub(super) families: BTreeSet<FamilyId>,
    pub(super) causes: Causes,
    /// What is owed until the sweep is done.
    pub(super) tickets: Vec<Ticket>,
    /// It waits for the transactions that are open when it begins.
    pub(super) awaits_elders: bool,
}

impl GapSweep {
    /// What a gap needs.
    pub(super) fn of(gap: &Gap, families: BTreeSet<FamilyId>, ticket: Ticket) -> Self {
        // Tables that are others than the mark says were altered; of any other gap nobody knows what it hides.
        let mut causes = Causes::default();
        causes.add(if *gap == Gap::OtherTables { Cause::Ddl } else { Cause::Missed });
        // What was open when a slot was made, or a table published, may be committed in WAL that the stream does not
        // have, and becomes visible after a sweep that does not wait for it.
        let awaits_elders = match gap {
            Gap::WentBack | Gap::Restarted | Gap::OtherRules => false,
            Gap::Missing
            | Gap::Unproven
            | Gap::Unreadable
            | Gap::OtherServer
            | Gap::OtherDatabase
            | Gap::NewSlot
            | Gap::Behind { .. }
            | Gap::OtherTables
            | Gap::OtherPublication => true,
        };
        GapSweep { families, causes, tickets: vec![ticket], awaits_elders }
    }

    /// One sweep does both.
    pub(super) fn join(&mut self, more: GapSweep) {
        self.families.extend(more.families);
        self.causes.merge(more.causes);
        self.tickets.extend(more.tickets);
        self.awaits_elders |= more.awaits_elders;
    }

    /// The patterns.
    pub(super) fn load(&self, rules: &Rules) -> Invalidations {
        let mut load = Invalidations { causes: self.causes, ..Invalidations::default() };
        for family in &self.families {
            load.patterns.insert(rules.family(*family), *family, 0);
        }
        load
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Repair {
    /// What was deleted since the mark with this nonce goes again, from the ring.
    Replay {
        nonce: String,
        ticket: Ticket,
    },
    Sweep(GapSweep),
    /// Sweeps that were answered by two servers in part go again.
    Again(Vec<Delivery>),
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Owed {
    waiting: Vec<(Instant, Repair)>,
}

impl Owed {
    /// To be done then. What is due no later and does the same does both.
    pub(super) fn push(&mut self, due: Instant, repair: Repair) {
        let earlier = self.waiting.iter_mut().filter(|(at, _)| *at <= due);
        let sweep = earlier.filter_map(|(_, waits)| match waits {
            Repair::Sweep(sweep) => Some(sweep),
            Repair::Replay { .. } | Repair::Again(_) => None,
        });
        match (repair, sweep.last()) {
            (Repair::Sweep(more), Some(sweep)) => sweep.join(more),
            (repair, _) => self.waiting.push((due, repair)),
        }
    }

    /// Whether a replay waits.
    pub(super) fn has_replay(&self) -> bool {
        self.waiting.iter().any(|(_, repair)| matches!(repair, Repair::Replay { .. }))
    }

    /// When the first one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    /// Takes out those that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Repair> {
        self.waiting.extract_if(.., |(due, _)| *due <= now).map(|(_, repair)| repair).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes_used(&self) -> usize {
        let bytes = |repair: &Repair| match repair {
            Repair::Replay { .. } | Repair::Sweep(_) => 0,
            Repair::Again(deliveries) => bytes_of(deliveries),
        };
        self.waiting.iter().map(|(_, repair)| bytes(repair)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sweep_joins_one_that_is_due_no_later_and_never_waits_longer() {
        let sweep = |family| {
            Repair::Sweep(GapSweep {
                families: BTreeSet::from([FamilyId(family)]),
                causes: Causes::default(),
                tickets: Vec::new(),
                awaits_elders: false,
            })
        };
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut owed = Owed::default();
        owed.push(at(60), sweep(0));
        owed.push(at(5), sweep(1));
        owed.push(at(8), sweep(2));
        owed.push(at(2), Repair::Again(Vec::new()));
        let mut due = Vec::new();
        while let Some(next) = owed.due() {
            for repair in owed.take_due(next) {
                let families = match repair {
                    Repair::Sweep(sweep) => sweep.families.into_iter().map(|family| family.0).collect(),
                    Repair::Replay { .. } | Repair::Again(_) => Vec::new(),
                };
                due.push(((next - now).as_secs(), families));
            }
        }
        assert_eq!(due, [(2, vec![]), (5, vec![1, 2]), (60, vec![0])]);
        assert!(owed.is_empty());
    }
}
