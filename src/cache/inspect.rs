//! A cache, for commands that only look: `check` and `coverage` know no more of it than this trait.

use std::ops::ControlFlow;

use crate::cache::probe::Examined;
use crate::error::Result;

/// What commands that only look want of a cache.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Inspect {
    /// What the cache says of itself, and what this user may do there with the mark of `name` and keys of these families
    /// (patterns).
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined>;

    /// Gives every key that matches a glob to `each`, until that breaks; whether these were all. Some may come twice.
    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool>;
}
