//! A cache of any kind: what its configuration asks for, behind one type, so that one loop drives different ones.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::cluster::ShardCache;
use super::continuity::Lineage;
use super::forms::CacheAddress;
use super::health::Health;
use super::inspect::Inspect;
use super::probe::Examined;
use super::redis::RedisCache;
use super::rest::RestCache;
use super::sweep::Progress;
use super::{Cache, Deleted, Rest, Swap, Swept};
use crate::config;
use crate::error::Result;
use crate::keys::KeySet;

/// A cache of any kind.
pub enum AnyCache {
    /// One server, over its own protocol.
    Server(Box<RedisCache>),
    /// Upstash, over its REST interface.
    Rest(Box<RestCache>),
    /// One shard of a cluster.
    Shard(Box<ShardCache>),
}

/// The same call of whichever cache it is.
macro_rules! each {
    ($any:expr, $cache:ident => $call:expr) => {
        match $any {
            AnyCache::Server($cache) => $call,
            AnyCache::Rest($cache) => $call,
            AnyCache::Shard($cache) => $call,
        }
    };
}

impl AnyCache {
    /// The kind that the configuration asks for. Checks what can be checked without a connection.
    ///
    /// # Errors
    ///
    /// Definite ones: an address or a file that cannot be used.
    pub fn new(config: &config::CacheConfig) -> Result<Self> {
        Ok(match CacheAddress::of(config)? {
            CacheAddress::Rest(address) => AnyCache::Rest(Box::new(RestCache::new(address, config)?)),
            CacheAddress::Cluster(address) => AnyCache::Shard(Box::new(ShardCache::new(config.clone(), address))),
            _ => AnyCache::Server(Box::new(RedisCache::new(config)?)),
        })
    }

    /// How far the current or last sweep is.
    pub fn progress(&self) -> &Progress {
        each!(self, cache => cache.progress())
    }

    /// Whether the cache answers.
    pub fn health(&self) -> Arc<Health> {
        each!(self, cache => cache.health())
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        each!(self, cache => cache.server())
    }
}

impl Cache for AnyCache {
    async fn whereabouts(&self) -> Result<Option<String>> {
        each!(self, cache => cache.whereabouts().await)
    }

    async fn leave_note(&self, note: &str) -> Result<()> {
        each!(self, cache => cache.leave_note(note).await)
    }

    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        each!(self, cache => cache.find_note().await)
    }

    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        each!(self, cache => cache.delete(keys).await)
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        each!(self, cache => cache.delete_rest(keys, rest).await)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        each!(self, cache => cache.sweep(patterns).await)
    }

    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        each!(self, cache => cache.try_out(name, families).await)
    }

    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        each!(self, cache => cache.mark(name).await)
    }

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        each!(self, cache => cache.swap_mark(name, expected, mark, again).await)
    }

    async fn turned(&self, since: Lineage) {
        each!(self, cache => cache.turned(since).await)
    }

    fn name(&self) -> &str {
        each!(self, cache => cache.name())
    }

    fn billed(&self) -> u64 {
        each!(self, cache => cache.billed())
    }

    fn is_away(&self) -> bool {
        each!(self, cache => cache.is_away())
    }

    fn is_nameless(&self) -> bool {
        each!(self, cache => cache.is_nameless())
    }

    fn lineage(&self) -> Lineage {
        each!(self, cache => cache.lineage())
    }

    fn is_part(&self) -> bool {
        each!(self, cache => cache.is_part())
    }

    fn owes(&self, key: &[u8]) -> bool {
        each!(self, cache => cache.owes(key))
    }

    fn newcomers(&self) -> Vec<Self> {
        match self {
            AnyCache::Server(_) | AnyCache::Rest(_) => Vec::new(),
            AnyCache::Shard(shard) => shard.newcomers().into_iter().map(Box::new).map(AnyCache::Shard).collect(),
        }
    }
}

impl Inspect for AnyCache {
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined> {
        each!(self, cache => cache.examine(name, families).await)
    }

    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        each!(self, cache => cache.keys(matching, each).await)
    }
}
