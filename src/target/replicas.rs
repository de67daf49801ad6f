//! Read replicas: keys that wait until every replica shows what the primary shows, and are deleted once more then.
//!
//! A delivery that was answered behind the gate joins the next round; a round asks the primary for a position past all
//! of them and ends when every replica has replayed it. Rounds follow one another, so a slow replica delays nobody but
//! the position.

use std::rc::Rc;

use super::Target;
use crate::cache::Cache;
use crate::control::Control;
use crate::insist::{Part, insist};
use crate::target::echo::{Delivery, Stage};
use crate::target::lagging::Waiting;

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// The delivery waits for the replicas, and stays owed.
    pub(super) fn await_replicas(&mut self, delivery: Delivery) {
        self.lagging.next.load.merge(delivery.load);
        for ticket in delivery.tickets {
            self.ledger.gather(&mut self.lagging.next.tickets, ticket);
        }
        self.start_round();
    }

    fn start_round(&mut self) {
        let next = &self.lagging.next;
        // Keys whose tickets stay with their patterns bring none.
        if self.lagging.round.is_out() || (next.load.is_empty() && next.tickets.is_empty()) {
            return;
        }
        self.lagging.asked = std::mem::take(&mut self.lagging.next);
        let control = Rc::clone(&self.around.control);
        self.lagging.round.start(async move {
            insist(&Part::replicas(), "wait for the replicas", async || control.replicas_replayed().await).await
        });
    }

    /// Positions of the server before mean nothing on this one: the round begins anew, together with the next.
    pub(super) fn ask_replicas_anew(&mut self) {
        if self.lagging.round.forget() {
            let Waiting { load, tickets } = std::mem::take(&mut self.lagging.asked);
            self.lagging.next.load.merge(load);
            self.lagging.next.tickets.extend(tickets);
            self.start_round();
        }
    }

    /// Every replica shows what these keys were deleted for.
    pub(super) fn caught_up(&mut self) {
        let Waiting { load, tickets } = std::mem::take(&mut self.lagging.asked);
        self.again.push_back(Delivery { load, tickets, stage: Stage::Replica });
        self.start_round();
    }
}
