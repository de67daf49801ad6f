//! Asks a server how it fares, on a connection of its own: no delete ever waits for that, and what goes wrong with it says
//! nothing of the other connections.

use ::redis::Pipeline;

use super::identity::Info;
use super::redis::RedisCache;
use super::speak::Speaks;
use super::statistics::CacheSaid;
use crate::error::Result;

impl RedisCache {
    /// What the server says of its hits and its memory; `None` where the user may not ask.
    pub(super) async fn said(&self) -> Result<Option<CacheSaid>> {
        let mut link = self.log_in().await?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("stats").cmd("INFO").arg("memory");
        let replies = link.exchange(&pipeline, 0).await?;
        let own = self.health().own_reads();
        Ok(CacheSaid::read(&Info::read(&replies)).map(|said| CacheSaid { own, ..said }))
    }
}
