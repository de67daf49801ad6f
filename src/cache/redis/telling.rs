//! Deletes, sweeps and marks, each with what readers with a memory tier are told of it (`publish.rs`).
//!
//! A message is never what fails: a delete that was answered is done, whatever became of its message.

use super::{MakeSwap, RedisCache};
use crate::cache::link::CacheLink;
use crate::cache::publish::Telling;
use crate::cache::sweep::SweepPlan;
use crate::cache::watch::KeyWatch;
use crate::cache::{Deleted, Swap, Swept};
use crate::error::Result;
use crate::keys::KeySet;

impl RedisCache {
    /// UNLINKs every key, those that are too long for a common command each alone.
    pub(super) async fn unlink_all(&self, keys: &[&KeySet], watch: &KeyWatch) -> Result<Deleted> {
        let all = || keys.iter().flat_map(|set| set.iter().map(|key| key.bytes));
        let telling = match &self.publisher {
            Some(publisher) => Some(publisher.turn().await),
            None => None,
        };
        telling.iter().for_each(Telling::deletes);
        let unlink =
            async |link: &mut CacheLink| link.unlink_and_tell(all(), self.leases, watch, telling.as_ref()).await;
        let (done, long) = self.on_link(&self.idle, unlink).await?;
        if done.sent > 0 {
            self.health.note_deleted();
        }
        let alone = self.unlink_long(&long).await?;
        if let Some(telling) = telling {
            if !long.is_empty() {
                let flush = async |link: &mut CacheLink| link.tell(&telling, telling.flush(link.generation)).await;
                self.on_link(&self.idle, flush).await?;
            }
            telling.done();
        }
        Ok(Deleted { sent: done.sent + alone.sent, existed: done.existed + alone.existed })
    }

    /// Sweeps, and tells that there is a sweep.
    pub(super) async fn sweep_and_tell(&self, plan: &SweepPlan<'_>) -> Result<Swept> {
        let Some(publisher) = &self.publisher else { return self.sweep_on_link(plan).await };
        let flush = async |telling: &Telling<'_>| {
            let flush = async |link: &mut CacheLink| link.tell(telling, telling.flush(link.generation)).await;
            self.on_link(&self.idle, flush).await
        };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell_where_the_mark_is(telling, keys).await;
        publisher.around_sweep(flush, async || self.sweep_on_link(plan).await, tell).await
    }

    /// Swaps the mark, and tells what its step deleted.
    pub(super) async fn swap_and_tell(&self, make: MakeSwap<'_>, bytes: usize, again: &KeySet) -> Result<Swap> {
        let Some(publisher) = &self.publisher else { return self.swap(make, bytes).await };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell_where_the_mark_is(telling, keys).await;
        publisher.around_swap(again, async || self.swap(make, bytes).await, tell).await
    }

    /// Over the connection that the mark was written on, and no other: a new one would be one that no mark was read on.
    async fn tell_where_the_mark_is(&self, telling: Telling<'_>, keys: &[&[u8]]) {
        let Some(mut link) = self.marking.borrow_mut().pop() else { return };
        let message = telling.message(link.generation, keys);
        let told = link.again().tell(&telling, message).await;
        if self.ended(&self.marking, link, told).is_ok() {
            telling.done();
        }
    }
}
