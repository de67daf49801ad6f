//! The series of the caches, each with the label `cache`: the name of the configuration.

use std::time::{Duration, Instant};

use super::page::{MetricsPage, shown};
use super::{CacheState, Metrics, OfCache};
use crate::cache::statistics::Statistics;
use crate::observe::news::CacheTotals;

/// What a cache said is old after so long: it is asked twice a minute.
const STALE: Duration = Duration::from_secs(180);

/// A cache and what the loop told of it.
type Both<'a> = (&'a CacheState, &'a OfCache);

/// One value for each cache that has it.
fn series(
    page: &mut MetricsPage,
    all: &[Both<'_>],
    head: (&str, &str, &str),
    value: &dyn Fn(Both<'_>) -> Option<String>,
) {
    let (name, kind, help) = head;
    page.head(name, help, kind);
    for both in all {
        value(*both).iter().for_each(|value| page.value(name, &[("cache", &both.0.name)], value));
    }
}

impl Metrics {
    pub(super) fn each_cache(&self, page: &mut MetricsPage, caches: &[CacheState], now: Instant) {
        let nothing = OfCache::default();
        let all: Vec<Both<'_>> =
            caches.iter().map(|state| (state, self.caches.get(&state.name).unwrap_or(&nothing))).collect();
        standing(page, &all, now);
        counted(page, &all);
        delays(page, &all);
        causes(page, &all);
        statistics(page, &all, now);
        billed(page, &all);
    }
}

/// Whether each answers, and how far behind it is.
fn standing(page: &mut MetricsPage, all: &[Both<'_>], now: Instant) {
    let age = |since: Instant| shown(now.saturating_duration_since(since));
    type Shown<'a> = &'a dyn Fn(Both<'_>) -> Option<String>;
    let bit = |is: bool| Some(u8::from(is).to_string());
    let gauges: [(&str, &str, Shown<'_>); 7] = [
        ("cache_up", "1 unless the last attempt at the cache failed.", &|(state, _)| bit(!state.away)),
        (
            "cache_sentinels_up",
            "1 while a majority of the Sentinels answers; nothing where there are none.",
            &|(state, _)| state.sentinels.and_then(bit),
        ),
        (
            "cache_released",
            "1 while the position goes on without the cache, which held back more than it may.",
            &|(_, cache)| bit(cache.released),
        ),
        (
            "cache_oldest_undeleted_seconds",
            "Age of the oldest change that came and is not deleted in the cache yet, 0 when there is none.",
            &|(_, cache)| Some(cache.totals.oldest.map_or_else(|| shown(Duration::ZERO), age)),
        ),
        (
            "mark_lsn_bytes",
            "Position of the mark that this daemon wrote last into the cache; nothing before the first. The mark of a sink is in the daemon's memory: the sink has answered every purge up to there, echoes included.",
            &|(_, cache)| cache.totals.marked.map(|(lsn, _)| lsn.0.to_string()),
        ),
        (
            "mark_age_seconds",
            "Time since this daemon wrote that mark; of a cluster, the oldest of its shards'; of a sink, the one in memory.",
            &|(_, cache)| cache.totals.marked.map(|(_, at)| age(at)),
        ),
        ("echoes_waiting", "Keys and patterns that wait for their echo.", &|(_, cache)| {
            Some(cache.totals.echoes_waiting.to_string())
        }),
    ];
    for (name, help, value) in gauges {
        series(page, all, (name, "gauge", help), value);
    }
}

/// What was done in each.
fn counted(page: &mut MetricsPage, all: &[Both<'_>]) {
    type Count = fn(&CacheTotals) -> u64;
    let counters: [(&str, &str, Count); 6] = [
        ("keys_sent_total", "Keys sent to the cache, echoes included, leases not.", |totals| totals.keys),
        ("keys_existed_total", "Keys sent that existed in the cache.", |totals| totals.existed),
        ("sweeps_total", "Sweeps finished.", |totals| totals.sweeps),
        ("keys_swept_total", "Keys deleted by sweeps.", |totals| totals.swept),
        (
            "repairs_delayed_total",
            "Repairs of the cache that waited because one cause came again and again: an alarm.",
            |totals| totals.repairs_delayed,
        ),
        ("cache_turns_total", "Connections that led to another cache server.", |totals| totals.turns),
    ];
    for (name, help, count) in counters {
        series(page, all, (name, "counter", help), &|(_, cache)| Some(count(&cache.totals).to_string()));
    }
    let head = ("cache_outages_total", "counter", "Times that the cache stopped answering.");
    series(page, all, head, &|(state, _)| Some(state.outages.to_string()));
    let head = ("cache_reconnects_total", "counter", "Times that the cache answered again behind an outage.");
    series(page, all, head, &|(state, _)| Some(state.returns.to_string()));
    page.head("gaps_total", "Times that the cache may have missed invalidations, by kind.", "counter");
    for (state, cache) in all {
        for (kind, count) in &cache.gaps {
            page.value("gaps_total", &[("cache", &state.name), ("kind", kind)], &count.to_string());
        }
    }
}

fn delays(page: &mut MetricsPage, all: &[Both<'_>]) {
    let name = "commit_to_deleted_seconds";
    let help = "From a commit until the cache answered the first delete behind the gate. One observation is a load: what left the gate together, by its oldest transaction.";
    page.head(name, help, "histogram");
    let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
    for (state, cache) in all {
        let (cache_label, delays) = (("cache", &*state.name), &cache.totals.delays);
        for (bound, upto) in delays.cumulated() {
            let bound = bound.as_secs_f64().to_string();
            page.value(&bucket, &[cache_label, ("le", &bound)], &upto.to_string());
        }
        let all = delays.count().to_string();
        page.value(&bucket, &[cache_label, ("le", "+Inf")], &all);
        page.value(&sum, &[cache_label], &delays.sum().as_secs_f64().to_string());
        page.value(&count, &[cache_label], &all);
    }
}

fn causes(page: &mut MetricsPage, all: &[Both<'_>]) {
    let name = "sweep_causes_total";
    page.head(name, "Sweeps finished, by cause; one that has several causes counts for each.", "counter");
    for (state, cache) in all {
        for (cause, count) in cache.totals.causes.each() {
            page.value(name, &[("cache", &state.name), ("cause", cause)], &count.to_string());
        }
    }
}

/// What the caches say of themselves.
fn statistics(page: &mut MetricsPage, all: &[Both<'_>], now: Instant) {
    type Said = fn(&Statistics) -> Option<String>;
    let values: [(&str, &str, &str, Said); 8] = [
        (
            "cache_hits_total",
            "counter",
            "Reads that found their key, as the server's INFO counts them; reads of marks count.",
            |of| Some(of.said.hits.to_string()),
        ),
        (
            "cache_misses_total",
            "counter",
            "Reads that did not find their key, as the server's INFO counts them.",
            |of| Some(of.said.misses.to_string()),
        ),
        (
            "cache_hit_ratio",
            "gauge",
            "Hits by all reads since the server started; nothing before the first read.",
            |of| of.reads().ratio().map(|ratio| format!("{ratio:.4}")),
        ),
        (
            "cache_recent_hit_ratio",
            "gauge",
            "The same of the last minutes, five at most; nothing while nobody reads.",
            |of| of.recent.ratio().map(|ratio| format!("{ratio:.4}")),
        ),
        ("cache_memory_bytes", "gauge", "Memory in use (used_memory).", |of| Some(of.said.memory.to_string())),
        ("cache_memory_max_bytes", "gauge", "Memory that may be used (maxmemory); nothing without a limit.", |of| {
            (of.said.memory_max > 0).then(|| of.said.memory_max.to_string())
        }),
        ("cache_evicted_keys_total", "counter", "Keys that the server dropped for want of memory.", |of| {
            Some(of.said.evicted.to_string())
        }),
        ("cache_expired_keys_total", "counter", "Keys whose time to live ended.", |of| {
            Some(of.said.expired.to_string())
        }),
    ];
    for (name, kind, help, value) in values {
        series(page, all, (name, kind, help), &|(_, cache)| {
            let fresh = |of: &Statistics| now.saturating_duration_since(of.at) < STALE;
            cache.totals.statistics.filter(fresh).and_then(|of| value(&of))
        });
    }
}

/// What is billed, for caches that bill.
fn billed(page: &mut MetricsPage, all: &[Both<'_>]) {
    let help = "Commands sent that are billed, where commands are billed.";
    series(page, all, ("cache_commands_billed_total", "counter", help), &|(state, _)| {
        (state.billed > 0 || state.budget.is_some()).then(|| state.billed.to_string())
    });
    let help = "How long a change may wait, by the cache's budget, while the cache answers.";
    series(page, all, ("cache_age_bound_seconds", "gauge", help), &|(state, _)| {
        state.budget.map(|budget| shown(budget.bound()))
    });
}
