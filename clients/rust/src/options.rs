//! How a cache behaves, and how one read differs.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::codec::Json;
use crate::event::{Event, Listener};
use crate::inner::{Core, Settings};
use crate::lease::{Protocol, Take};
use crate::memory::Memory;
use crate::silence::Silence;
use crate::store::Store;

/// The TTL of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// This long.
    For(Duration),
    /// As long as [`Builder::ttls`] says of this kind of data.
    Kind(String),
}

impl From<Duration> for Ttl {
    fn from(duration: Duration) -> Ttl {
        Ttl::For(duration)
    }
}

impl From<&str> for Ttl {
    fn from(kind: &str) -> Ttl {
        Ttl::Kind(kind.to_owned())
    }
}

/// Why a cache cannot be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BuildError {}

/// Makes a [`Cache`]. See [`Cache::builder`].
pub struct Builder<C = Json> {
    store: Option<Arc<dyn Store>>,
    codec: C,
    settings: Settings,
    ttl: Ttl,
    pause: (u32, Duration),
    listener: Option<Listener>,
}

impl Builder<Json> {
    pub(crate) fn new(store: Option<Arc<dyn Store>>) -> Builder<Json> {
        Builder {
            store,
            codec: Json,
            settings: Settings::default(),
            ttl: Ttl::For(Duration::from_secs(300)),
            pause: (3, Duration::from_secs(2)),
            listener: None,
        }
    }
}

impl<C> Builder<C> {
    /// The key is `namespace:key`, byte for byte as the rules of the daemon make it. None unless said.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = Some(namespace.into());
        self
    }

    /// TTLs by the kind of data: `[("list", 300 s), ("detail", 3600 s)]`.
    #[must_use]
    pub fn ttls<N: Into<String>>(mut self, ttls: impl IntoIterator<Item = (N, Duration)>) -> Self {
        self.settings.ttls = ttls.into_iter().map(|(name, ttl)| (name.into(), ttl)).collect::<HashMap<_, _>>();
        self
    }

    /// The TTL of what says nothing else: a duration, or a kind. 300 s unless said.
    #[must_use]
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.ttl = ttl.into();
        self
    }

    /// How readers of these keys leave nothing stale. [`Protocol::Key`] unless said.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = protocol;
        self
    }

    /// How a lease is taken. [`Take::Once`] unless said, and [`Take::Script`] over a store that sends again.
    #[must_use]
    pub fn take(mut self, take: Take) -> Self {
        self.settings.take = take;
        self
    }

    /// After this time a lease that nobody gave back frees its key. 10 s unless said.
    #[must_use]
    pub fn lease_lasts(mut self, lasts: Duration) -> Self {
        self.settings.lease_lasts = lasts;
        self
    }

    /// So long a call waits for somebody else's lease, then it reads its row and stores nothing. 1 s unless said.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// After so many losses in a row nothing is sent for a while. 3 and 2 s unless said.
    #[must_use]
    pub fn pause(mut self, after: u32, lasts: Duration) -> Self {
        self.pause = (after, lasts);
        self
    }

    /// Passes the cache by while the mark of this slot is missing, or older than `most`.
    #[must_use]
    pub fn silence(mut self, slot: &str, most: Duration) -> Self {
        self.settings.silence = Some(Silence::of(slot, most));
        self
    }

    /// Keeps values in this process's memory, too, and serves them from there. Off unless said: the daemon must say what it
    /// deletes (`publish` of its cache).
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.settings.memory = Some(memory);
        self
    }

    /// How values become bytes. [`Json`] unless said.
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Builder<D> {
        let Builder { store, settings, ttl, pause, listener, codec: _ } = self;
        Builder { store, codec, settings, ttl, pause, listener }
    }

    /// Whether calls of this process may have each other's rows, where that is exact. They may unless said.
    #[must_use]
    pub fn share(mut self, share: bool) -> Self {
        self.settings.share = share;
        self
    }

    /// Whether a caller waits for the store of its row. It does unless said; otherwise a task stores behind the answer.
    #[must_use]
    pub fn wait_for_store(mut self, wait: bool) -> Self {
        self.settings.wait_for_store = wait;
        self
    }

    /// Is told what happens. What it panics with changes nothing.
    #[must_use]
    pub fn on(mut self, listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// The cache. Nothing is sent yet.
    ///
    /// # Errors
    /// When a TTL is zero or of an unknown kind, or when plain readers shall use a store that sends again.
    pub fn build(mut self) -> Result<Cache<C>, BuildError> {
        self.settings.ttl = match &self.ttl {
            Ttl::For(ttl) => *ttl,
            Ttl::Kind(kind) => match self.settings.ttls.get(kind) {
                Some(ttl) => *ttl,
                None => return Err(BuildError(format!("ttl \"{kind}\": `ttls` has no such kind"))),
            },
        };
        let named = self.settings.ttls.iter().map(|(name, ttl)| (name.as_str(), ttl));
        let all = named.chain([("ttl", &self.settings.ttl), ("lease_lasts", &self.settings.lease_lasts)]);
        if let Some((name, _)) = all.into_iter().find(|(_, ttl)| ttl.is_zero()) {
            return Err(BuildError(format!("{name}: no key is ever without a TTL, so this one is more than zero")));
        }
        if self.store.as_ref().is_some_and(|store| store.resends()) {
            if self.settings.protocol == Protocol::Plain {
                let why = "plain: this store sends again by itself, and a SET could come long after its reader gave up";
                return Err(BuildError(format!("{why}; use a lease")));
            }
            self.settings.take = Take::Script;
        }
        let core = Core::new(self.store, self.settings, self.pause, self.listener);
        Ok(Cache::of(core, self.codec))
    }
}

/// Whether a value is stored.
pub(crate) type StoreIf<V> = Box<dyn Fn(&V) -> bool + Send + Sync>;

/// How one read differs from what the cache says.
pub struct Options<V> {
    pub(crate) ttl: Option<Ttl>,
    pub(crate) namespace: Option<String>,
    pub(crate) store_if: Option<StoreIf<V>>,
    pub(crate) grace: Duration,
}

impl<V> Default for Options<V> {
    fn default() -> Options<V> {
        Options { ttl: None, namespace: None, store_if: None, grace: Duration::ZERO }
    }
}

impl<V> Options<V> {
    /// In nothing.
    pub fn new() -> Options<V> {
        Options::default()
    }

    /// A TTL: a duration, or a kind of data.
    pub fn ttl(ttl: impl Into<Ttl>) -> Options<V> {
        Options { ttl: Some(ttl.into()), ..Options::default() }
    }

    /// Instead of the namespace of the cache; an empty one is none.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Stores only values for which this holds. All are stored unless said, `None` too.
    #[must_use]
    pub fn store_if(mut self, holds: impl Fn(&V) -> bool + Send + Sync + 'static) -> Self {
        self.store_if = Some(Box::new(holds));
        self
    }

    /// Keeps a copy for when the source fails, for so long beyond the TTL. None unless said: such a copy may show what
    /// was deleted, or is no longer allowed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}
