//! Read replicas: keys that wait until every replica shows what the primary shows, and are deleted once more then.
//!
//! A delivery that was answered behind the gate joins the next round; a round asks the primary for its flushed position
//! and ends when every replica has replayed it. Rounds follow one another, so a slow replica delays nobody but the
//! position.

use std::rc::Rc;

use super::Pipeline;
use crate::ack::SpanId;
use crate::cache::Cache;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::pipeline::deliver::insist;
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
        self.lagging.spans.extend(delivery.spans);
        self.start_round();
    }

    fn start_round(&mut self) {
        // Without keys too: lookups may have found nobody, and the spans wait all the same.
        if self.round.is_some() || self.lagging.spans.is_empty() {
            return;
        }
        let lagging = std::mem::take(&mut self.lagging);
        self.round_bytes = lagging.load.bytes_used();
        let control = Rc::clone(&self.control);
        self.round = Some(Box::pin(async move {
            insist("wait for the replicas", async || control.replicas_replayed().await).await?;
            Ok(lagging)
        }));
    }

    /// Every replica shows what these keys were deleted for.
    pub(super) fn caught_up(&mut self, lagging: Lagging) {
        self.round_bytes = 0;
        let Lagging { load, spans } = lagging;
        self.again.push_back(Delivery { load, spans, stage: Stage::Replica });
        self.start_round();
    }
}
