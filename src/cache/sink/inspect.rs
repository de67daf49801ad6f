//! What commands that look into caches are told of a sink: nothing in it can be looked at.

use std::ops::ControlFlow;

use super::SinkCache;
use crate::cache::inspect::{Inspect, Lifetimes, Walk};
use crate::cache::probe::Examined;
use crate::error::{Error, Exit, Result};

fn closed<T>(sink: &SinkCache) -> Result<T> {
    Err(Error::definite(Exit::Unavailable, "a sink takes tags, and shows nothing of what it holds").at(sink.server()))
}

impl Inspect for SinkCache {
    async fn examine(&self, _name: &str, _families: &[Vec<u8>]) -> Result<Examined> {
        closed(self)
    }

    async fn keys(&self, _matching: &[u8], _each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        closed(self)
    }

    async fn some_keys(&self, _walk: &mut Walk, _matching: &[u8]) -> Result<Vec<Vec<u8>>> {
        closed(self)
    }

    async fn values(&self, _keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        closed(self)
    }

    async fn lifetimes(&self, _look: &mut dyn Lifetimes) -> Result<()> {
        closed(self)
    }

    async fn size(&self) -> Result<u64> {
        closed(self)
    }
}
