//! Read replicas: keys that wait until every replica shows what the primary shows, and are deleted once more then.
//!
//! A delivery that was answered behind the gate joins the next round; a round asks the primary for a position past all
//! of them and ends when every replica has replayed it. Rounds follow one another, so a slow replica delays nobody but
//! the position.

use std::rc::Rc;

use super::Pipeline;
use crate::ack::SpanId;
use crate::cache::Cache;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::pipeline::deliver::{Part, insist};
use crate::rules::Invalidations;
use crate::source::Source;

/// Deliveries of one round.
#[derive(Debug, Default)]
pub(super) struct Lagging {
    pub(super) load: Invalidations,
    spans: Vec<SpanId>,
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// The delivery waits for the replicas; its spans stay open.
    pub(super) fn await_replicas(&mut self, delivery: Delivery) {
        self.lagging.load.merge(delivery.load);
        for span in delivery.spans {
            // One part stands for all that wait together.
            match self.lagging.spans.last() == Some(&span) {
                true => self.window.part_done(span),
                false => self.lagging.spans.push(span),
            }
        }
        self.start_round();
    }

    fn start_round(&mut self) {
        // Keys whose spans stay with their patterns bring none.
        let lagging = &self.lagging;
        if self.round.is_some() || (lagging.load.is_empty() && lagging.spans.is_empty()) {
            return;
        }
        self.asked = std::mem::take(&mut self.lagging);
        let control = Rc::clone(&self.control);
        self.round = Some(Box::pin(async move {
            insist(Part::Replicas, "wait for the replicas", async || control.replicas_replayed().await).await
        }));
    }

    /// Positions of the server before mean nothing on this one: the round begins anew, together with the next.
    pub(super) fn ask_replicas_anew(&mut self) {
        if self.round.take().is_some() {
            let Lagging { load, spans } = std::mem::take(&mut self.asked);
            self.lagging.load.merge(load);
            self.lagging.spans.extend(spans);
            self.start_round();
        }
    }

    /// Every replica shows what these keys were deleted for.
    pub(super) fn caught_up(&mut self) {
        let Lagging { load, spans } = std::mem::take(&mut self.asked);
        self.again.push_back(Delivery { load, spans, stage: Stage::Replica });
        self.start_round();
    }
}
