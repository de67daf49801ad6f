//! What the loop and its watchers are told of each cache and each sink of the configuration.

use std::time::Duration;

use crate::admin::WatchedCache;
use crate::cache::Cache;
use crate::cache::any::AnyCache;
use crate::config::{CacheConfig, Config, Metering, OnGap, SinkConfig};
use crate::error::Result;
use crate::failpoints::{Guard, without};
use crate::target::{HOLDS_FOR_EVER, Policy, SinkPolicy};

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
        sink: None,
    }
}

/// How often a sink's place in the stream is looked at; the look costs nothing.
const BEAT: Duration = Duration::from_secs(2);

/// What the configuration says of a sink.
pub(super) fn policy_of_sink(sink: &SinkConfig) -> Policy {
    Policy {
        name: sink.name.clone(),
        protect: Vec::new(),
        echo: if without(Guard::Echo) { Vec::new() } else { sink.echo.clone() },
        echo_wal_bytes_max: sink.echo_wal_bytes_max,
        on_gap: OnGap::Sweep,
        heartbeat: BEAT,
        // Each request counts against the plan.
        metering: Metering::ByCommand,
        budget: None,
        required: false,
        hold_wal_bytes_max: sink.hold_wal_bytes_max,
        sink: Some(SinkPolicy { after: sink.after.as_slice().into() }),
    }
}

/// Every cache, and behind them every sink.
///
/// # Errors
///
/// Definite ones: an address, a token or a file that cannot be used.
pub(super) fn targets(config: &Config) -> Result<Vec<(AnyCache, Policy)>> {
    let caches = config.caches.iter().map(|cache| Ok((AnyCache::new(cache)?, policy(cache))));
    let sinks = config.sinks.iter().map(|sink| Ok((AnyCache::of_sink(sink)?, policy_of_sink(sink))));
    caches.chain(sinks).collect()
}

/// The cache for whoever watches.
pub(super) fn watched(cache: &AnyCache, policy: &Policy) -> WatchedCache {
    let (name, required) = (policy.name.as_str().into(), policy.required);
    let place = cache.server().to_owned();
    WatchedCache { name, member: cache.member(), required, health: cache.health(), budget: policy.budget, place }
}
