//! What the loop and its watchers are told of each cache of the configuration.

use crate::admin::WatchedCache;
use crate::cache::any::AnyCache;
use crate::config::{CacheConfig, OnGap};
use crate::failpoints::{Guard, without};
use crate::target::{HOLDS_FOR_EVER, Policy};

/// What the configuration says of a cache.
pub(super) fn policy(cache: &CacheConfig) -> Policy {
    Policy {
        name: cache.name.clone(),
        protect: cache.protect.clone(),
        echo: if without(Guard::Echo) { Vec::new() } else { cache.echo.clone() },
        echo_wal_bytes_max: cache.echo_wal_bytes_max,
        on_gap: cache.on_gap,
        heartbeat: cache.heartbeat,
        metering: cache.metering,
        budget: cache.budget().ok().flatten(),
        required: cache.required,
        // Nothing would sweep what it lacks when it returns.
        hold_wal_bytes_max: if cache.on_gap == OnGap::Warn { HOLDS_FOR_EVER } else { cache.hold_wal_bytes_max },
    }
}

/// The cache for whoever watches.
pub(super) fn watched(cache: &AnyCache, policy: &Policy) -> WatchedCache {
    let (name, required) = (policy.name.as_str().into(), policy.required);
    let place = cache.server().to_owned();
    WatchedCache { name, required, health: cache.health(), budget: policy.budget, place }
}
