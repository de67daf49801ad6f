//! How a connection finds its server: at one address, or where Sentinels say that the primary is.

use std::future::pending;

use super::address::Address;
use super::link::CacheLink;
use super::sentinel::{SentinelReport, Sentinels};
use crate::error::Result;

/// The way to the server that holds all keys.
pub(super) struct Route {
    /// For messages: "the cache at 127.0.0.1:6379 (REDIS_URL)".
    pub(super) server: String,
    way: Way,
}

enum Way {
    /// One address.
    Fixed(Box<Address>),
    /// It is asked for at each connect.
    Sentinels(Box<Sentinels>),
}

impl Route {
    pub(super) fn fixed(address: Address) -> Self {
        Route { server: address.server.clone(), way: Way::Fixed(Box::new(address)) }
    }

    pub(super) fn sentinels(sentinels: Sentinels) -> Self {
        Route { server: sentinels.server(), way: Way::Sentinels(Box::new(sentinels)) }
    }

    /// The user that logs in; `None` is `default`.
    pub(super) fn user(&self) -> Option<&str> {
        match &self.way {
            Way::Fixed(address) => address.user.as_deref(),
            Way::Sentinels(sentinels) => sentinels.user(),
        }
    }

    /// A connection to where the way leads now; `open` makes one to an address.
    pub(super) async fn connect(&self, open: impl AsyncFn(&Address) -> Result<CacheLink>) -> Result<CacheLink> {
        match &self.way {
            Way::Fixed(address) => open(address).await,
            Way::Sentinels(sentinels) => sentinels.connect(open).await,
        }
    }

    /// How often the way led to another server than before, as far as others than that server say it.
    pub(super) fn turns(&self) -> u64 {
        match &self.way {
            Way::Fixed(_) => 0,
            Way::Sentinels(sentinels) => sentinels.turns(),
        }
    }

    /// Resolves when the way leads elsewhere than after so many `turns`, by whoever asks meanwhile.
    pub(super) async fn turned(&self, turns: u64) {
        match &self.way {
            Way::Fixed(_) => pending().await,
            Way::Sentinels(sentinels) => sentinels.turned(turns).await,
        }
    }

    /// The same, and asks.
    pub(super) async fn watch(&self, turns: u64) {
        match &self.way {
            Way::Fixed(_) => pending().await,
            Way::Sentinels(sentinels) => sentinels.watch(turns).await,
        }
    }

    /// Waits until nothing speaks against a mark where the way leads now.
    pub(super) async fn permits_mark(&self) -> Result<()> {
        match &self.way {
            Way::Fixed(_) => Ok(()),
            Way::Sentinels(sentinels) => sentinels.permits_mark().await,
        }
    }

    /// What Sentinels say, for `crieur check`.
    pub(super) async fn report(&self) -> Option<SentinelReport> {
        match &self.way {
            Way::Fixed(_) => None,
            Way::Sentinels(sentinels) => Some(sentinels.report().await),
        }
    }
}
