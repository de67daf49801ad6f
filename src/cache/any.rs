//! A cache of any kind: what its configuration asks for, behind one type, so that one loop drives different ones.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::cluster::ShardCache;
use super::continuity::Lineage;
use super::forms::CacheAddress;
use super::health::Health;
use super::inspect::{Inspect, Lifetimes, Walk};
use super::probe::Examined;
use super::redis::RedisCache;
use super::rest::RestCache;
use super::sink::SinkCache;
use super::statistics::CacheSaid;
use super::{Cache, Deleted, Rest, Swap, Swept};
use crate::config::{self, in_section};
use crate::error::{Error, Result};
use crate::keys::KeySet;
use crate::mark::Published;
use crate::tag::CoarseTag;

/// A cache of any kind. What it answers names the keys of its own section: `caches.dakar.url`.
pub struct AnyCache {
    section: Rc<str>,
    kind: Kind,
}

enum Kind {
    /// One server, over its own protocol.
    Server(Box<RedisCache>),
    /// Upstash, over its REST interface.
    Rest(Box<RestCache>),
    /// One shard of a cluster.
    Shard(Box<ShardCache>),
    /// No cache: pages, which are purged by their tags.
    Sink(Box<SinkCache>),
}

/// The same call of whichever cache it is.
macro_rules! each {
    ($any:expr, $cache:ident => $call:expr) => {
        match &$any.kind {
            Kind::Server($cache) => $call,
            Kind::Rest($cache) => $call,
            Kind::Shard($cache) => $call,
            Kind::Sink($cache) => $call,
        }
    };
}

/// The same question to whichever cache it is. An error names the keys of the section.
macro_rules! ask {
    ($any:expr, $cache:ident => $call:expr) => {
        each!($any, $cache => $call.await).map_err(|error| of_section(error, &$any.section))
    };
}

fn of_section(mut error: Error, section: &str) -> Error {
    error.message = in_section(section, error.message);
    error.hint = error.hint.map(|hint| in_section(section, hint));
    error
}

impl AnyCache {
    /// The kind that the configuration asks for. Checks what can be checked without a connection.
    ///
    /// # Errors
    ///
    /// Definite ones: an address or a file that cannot be used.
    pub fn new(config: &config::CacheConfig) -> Result<Self> {
        let section = Rc::from(config.section.as_str());
        let kind = Kind::new(config).map_err(|error| of_section(error, &section))?;
        Ok(AnyCache { section, kind })
    }

    /// A sink. What it answers names the keys of its section by itself.
    ///
    /// # Errors
    ///
    /// Definite ones: a token or a file that cannot be used.
    pub fn of_sink(config: &config::SinkConfig) -> Result<Self> {
        let kind = Kind::Sink(Box::new(SinkCache::new(config)?));
        Ok(AnyCache { section: Rc::from(""), kind })
    }

    /// Whether the cache answers.
    pub fn health(&self) -> Arc<Health> {
        each!(self, cache => cache.health())
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        each!(self, cache => cache.server())
    }

    /// The mark that readers ask for: of a cluster, that of the whole.
    ///
    /// # Errors
    ///
    /// Those of the cache.
    pub async fn mark_for_readers(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match &self.kind {
            Kind::Shard(shard) => shard.mark_of_whole(name).await.map_err(|error| of_section(error, &self.section)),
            Kind::Server(_) | Kind::Rest(_) | Kind::Sink(_) => self.mark(name).await.map(|(mark, _)| mark),
        }
    }
}

impl Kind {
    fn new(config: &config::CacheConfig) -> Result<Self> {
        Ok(match CacheAddress::of(config)? {
            CacheAddress::Rest(address) => Kind::Rest(Box::new(RestCache::new(address, config)?)),
            CacheAddress::Cluster(address) => Kind::Shard(Box::new(ShardCache::new(config.clone(), address))),
            CacheAddress::Single(_) | CacheAddress::Sentinel(_) => Kind::Server(Box::new(RedisCache::new(config)?)),
        })
    }
}

impl Cache for AnyCache {
    async fn whereabouts(&self) -> Result<Option<String>> {
        ask!(self, cache => cache.whereabouts())
    }

    async fn leave_note(&self, note: &str) -> Result<()> {
        ask!(self, cache => cache.leave_note(note))
    }

    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        ask!(self, cache => cache.find_note())
    }

    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        ask!(self, cache => cache.delete(keys))
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        ask!(self, cache => cache.delete_rest(keys, rest))
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        ask!(self, cache => cache.sweep(patterns))
    }

    async fn sweep_rest(&self, patterns: &KeySet, rest: &mut Rest) -> Result<Swept> {
        ask!(self, cache => cache.sweep_rest(patterns, rest))
    }

    fn learn(&self, tags: Vec<CoarseTag>) {
        each!(self, cache => cache.learn(tags))
    }

    fn is_sink(&self) -> bool {
        each!(self, cache => cache.is_sink())
    }

    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        ask!(self, cache => cache.try_out(name, families))
    }

    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        ask!(self, cache => cache.mark(name))
    }

    fn published(&self) -> Option<Published> {
        each!(self, cache => cache.published())
    }

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        ask!(self, cache => cache.swap_mark(name, expected, mark, again))
    }

    async fn turned(&self, since: Lineage) {
        each!(self, cache => cache.turned(since).await)
    }

    async fn statistics(&self) -> Result<Option<CacheSaid>> {
        each!(self, cache => cache.statistics().await)
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
        let of = |shard| AnyCache { section: Rc::clone(&self.section), kind: Kind::Shard(Box::new(shard)) };
        match &self.kind {
            Kind::Server(_) | Kind::Rest(_) | Kind::Sink(_) => Vec::new(),
            Kind::Shard(shard) => shard.newcomers().into_iter().map(of).collect(),
        }
    }
}

impl Inspect for AnyCache {
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined> {
        ask!(self, cache => cache.examine(name, families))
    }

    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        ask!(self, cache => cache.keys(matching, each))
    }

    async fn some_keys(&self, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>> {
        ask!(self, cache => cache.some_keys(walk, matching))
    }

    async fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        ask!(self, cache => cache.values(keys))
    }

    async fn lifetimes(&self, look: &mut dyn Lifetimes) -> Result<()> {
        ask!(self, cache => cache.lifetimes(look))
    }

    async fn size(&self) -> Result<u64> {
        ask!(self, cache => cache.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    /// The cache of a configuration with this section.
    fn configured(section: &str) -> config::CacheConfig {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("crieur.toml");
        let text = format!("[postgres]\nurl = 'postgres://a/d'\n{section}\n[[rules]]\ntable = 't'\nkeys = ['k']\n");
        std::fs::write(&path, text).expect("written");
        let none = std::iter::empty::<config::Given>();
        let config = config::Config::load(&path, none).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.caches[0].clone()
    }

    #[test]
    fn errors_name_the_keys_of_the_section() {
        for section in ["cache", "caches.eu", "caches.main"] {
            let config = configured(&format!("[{section}]\nurl = 'redis://a'\ntls_ca = '/ca.pem'"));
            let error = AnyCache::new(&config).err().expect("there is no TLS");
            let message = format!("{section}.tls_ca is set, and {section}.url does not begin with rediss://");
            let hint = format!("Write rediss:// to use TLS, or remove {section}.tls_ca.");
            assert_eq!((error.message, error.hint), (message, Some(hint)));
        }
    }

    /// What is said of a cache of Upstash whose port for TCP leads to this place instead.
    async fn said_of(place: &str) -> (String, String) {
        let mut config = configured("[caches.eu]\nurl = 'https://nice-cat-1.upstash.io'\ntoken = 'hunter2'");
        assert_eq!(config.url.expose(), "rediss://default:hunter2@nice-cat-1.upstash.io:6379");
        let moved = config.url.expose().replace("nice-cat-1.upstash.io:6379", place);
        config.url = Secret::written(moved, config.url.origin().to_owned());
        let error = AnyCache::new(&config).expect("valid").mark("crieur").await.expect_err("nobody answers");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        (error.chain(), error.hint.expect("a way out"))
    }

    #[tokio::test]
    async fn a_closed_port_is_said_with_the_cache_the_cause_and_the_way_over_rest() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
        let (said, hint) = said_of(&closed.to_string()).await;
        for words in [closed.to_string().as_str(), "(caches.eu.url in ", "cannot connect", "refused"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert!(hint.contains("transport = \"rest\""), "{hint}");
    }

    #[tokio::test]
    async fn a_host_without_an_address_is_not_reached_over_rest_either() {
        let (said, hint) = said_of("nowhere.invalid:6379").await;
        assert!(said.contains("cannot connect") && hint.contains("Correct the host's name"), "{said} {hint}");
    }
}
