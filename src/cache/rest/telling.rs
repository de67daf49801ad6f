//! Deletes, sweeps and marks over REST, each with what readers with a memory tier are told of it (`cache/publish.rs`).

use super::{RestCache, Speaks as _, WAY};
use crate::cache::publish::Telling;
use crate::cache::swap::Swapping;
use crate::cache::watch::KeyWatch;
use crate::cache::{Deleted, Swap, Swept};
use crate::error::Result;
use crate::keys::KeySet;

impl RestCache {
    /// UNLINKs every key that can have been stored; gives back the others.
    pub(super) async fn unlink_all<'k>(
        &self,
        keys: &[&'k KeySet],
        watch: &KeyWatch,
    ) -> Result<(Deleted, Vec<&'k [u8]>)> {
        let all = keys.iter().flat_map(|set| set.iter().map(|key| key.bytes));
        let mut link = self.link(&self.deletes);
        let Some(publisher) = &self.publisher else { return link.unlink_and_tell(all, self.leases, watch, None).await };
        let telling = publisher.turn().await;
        telling.deletes();
        let deleted = link.unlink_and_tell(all, self.leases, watch, Some(&telling)).await?;
        telling.done();
        Ok(deleted)
    }

    /// Sweeps, and tells that there is a sweep.
    pub(super) async fn sweep_and_tell(&self, patterns: &KeySet) -> Result<Swept> {
        let Some(publisher) = &self.publisher else { return self.sweep_all(patterns).await };
        let flush = async |telling: &Telling<'_>| {
            let reply = self.link(&self.deletes).ask(telling.flush(WAY)).await?;
            telling.answered(&reply);
            Ok(())
        };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell(telling, keys).await;
        publisher.around_sweep(flush, async || self.sweep_all(patterns).await, tell).await
    }

    /// Swaps the mark, and tells what its transaction deleted.
    pub(super) async fn swap_and_tell(&self, asked: &Swapping<'_>) -> Result<Swap> {
        let Some(publisher) = &self.publisher else { return self.swap_mark_once(asked).await };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell(telling, keys).await;
        publisher.around_swap(asked.again, async || self.swap_mark_once(asked).await, tell).await
    }

    async fn tell(&self, telling: Telling<'_>, keys: &[&[u8]]) {
        if let Ok(reply) = self.link(&self.deletes).ask(telling.message(WAY, keys)).await {
            telling.answered(&reply);
            telling.done();
        }
    }
}
