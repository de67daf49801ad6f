//! A cache, for commands that only look: `check` and `coverage` know no more of it than this trait.

use std::ops::ControlFlow;

use crate::cache::probe::Examined;
use crate::error::Result;

/// How far a walk over all keys came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Which server, of several.
    pub(super) server: usize,
    pub(super) cursor: Vec<u8>,
}

impl Default for Walk {
    fn default() -> Self {
        Walk { server: 0, cursor: b"0".to_vec() }
    }
}

impl Walk {
    /// Whether all keys were given, and the first come next.
    pub fn is_around(&self) -> bool {
        self.server == 0 && self.is_at_end()
    }

    /// Whether the next keys are those of another server.
    pub(super) fn is_at_end(&self) -> bool {
        self.cursor == b"0"
    }
}

/// What commands that only look want of a cache.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Inspect {
    /// What the cache says of itself, and what this user may do there with the mark of `name` and keys of these families
    /// (patterns).
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined>;

    /// Gives every key that matches a glob to `each`, until that breaks; whether these were all. Some may come twice.
    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool>;

    /// The next few keys that match a glob, maybe none; behind the last ones come the first again.
    async fn some_keys(&self, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The values of these keys, in order; `None` for a key that is not there, or holds another type than text.
    async fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>>;

    /// Tells `look` how long each key that it wants still lives; some may come twice.
    async fn lifetimes(&self, look: &mut dyn Lifetimes) -> Result<()>;

    /// Keys in the database.
    async fn size(&self) -> Result<u64>;
}

/// Whoever looks at how long keys live.
pub trait Lifetimes {
    /// Whether the key is asked for.
    fn wants(&mut self, key: &[u8]) -> bool;

    /// The key lives for so long, in milliseconds; `None`: for ever.
    fn lives(&mut self, key: &[u8], millis: Option<u64>);
}
