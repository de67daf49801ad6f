//! Repairs that wait for their turn. Each holds the position until it is made, and none keeps another one waiting.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::ack::SpanId;
use crate::echo::Delivery;
use crate::keys::FamilyId;
use crate::pipeline::memory::bytes_of;
use crate::rules::plan::cause::Causes;

/// The sweep of a gap.
#[derive(Debug)]
pub(super) struct GapSweep {
    /// What it goes over.
    pub(super) families: BTreeSet<FamilyId>,
    pub(super) causes: Causes,
    pub(super) spans: Vec<SpanId>,
    /// It waits for the transactions that are open when it begins.
    pub(super) awaits_elders: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Repair {
    /// What was deleted since the mark with this nonce goes again, from the ring.
    Replay {
        nonce: String,
        span: SpanId,
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
            (Repair::Sweep(more), Some(sweep)) => {
                sweep.families.extend(more.families);
                sweep.causes.merge(more.causes);
                sweep.spans.extend(more.spans);
                sweep.awaits_elders |= more.awaits_elders;
            }
            (repair, _) => self.waiting.push((due, repair)),
        }
    }

    /// The replay that waits, with the mark that it goes on from.
    pub(super) fn replay(&mut self) -> Option<&mut String> {
        self.waiting.iter_mut().find_map(|(_, repair)| match repair {
            Repair::Replay { nonce, .. } => Some(nonce),
            Repair::Sweep(_) | Repair::Again(_) => None,
        })
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
                spans: Vec::new(),
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
