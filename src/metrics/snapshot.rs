//! The same state as people read it: the page and `crieur status`.

use std::time::{Duration, Instant};

use super::wrong::{STANDS_BY, WrongNow};
use super::{CacheState, Metrics, OfCache, ROLES, Role};
use crate::page::snapshot::{CacheShown, DaemonShown, Places, PostgresShown, ProblemShown, RuleShown, TableShown};

/// What a cache said of itself is old after so long: it is asked twice a minute.
const STALE: Duration = Duration::from_secs(180);

impl Metrics {
    /// How the daemon stands `now`, so long after 1970; this is wrong.
    pub fn snapshot(
        &self,
        (wrong, caches): (Vec<WrongNow>, &[CacheState]),
        places: &Places,
        (now, at): (Instant, Duration),
    ) -> DaemonShown {
        let age = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let stands_by = (self.role == Role::Standby)
            .then(|| ProblemShown { what: STANDS_BY.to_owned(), seconds: Some(age(self.role_since)) });
        let wrong = wrong.into_iter().map(|of| ProblemShown { what: of.what, seconds: of.since.map(age) });
        let nothing = OfCache::default();
        let shown = |state: &CacheState| self.cache_shown(state, self.caches.get(&state.name).unwrap_or(&nothing), now);
        let tables = self.counted.tables();
        DaemonShown {
            version: env!("CARGO_PKG_VERSION"),
            at: at.as_secs_f64(),
            role: ROLES.iter().find(|(_, role)| *role == self.role).map_or("", |(name, _)| name),
            is_ready: self.unready(caches).is_none(),
            problems: stands_by.into_iter().chain(wrong).collect(),
            oldest_undeleted_seconds: self.oldest(now).as_secs_f64(),
            postgres: self.postgres_shown(places),
            caches: caches.iter().map(shown).collect(),
            tables: tables
                .map(|(table, changes, keys)| TableShown { table: table.to_owned(), changes, keys })
                .collect(),
            rules: self.counted.rules_counted().map(|(rule, keys)| RuleShown { rule: rule.to_owned(), keys }).collect(),
            rules_digest: self.counted.digest().to_owned(),
            is_last_reload_good: self.reloaded.succeeded,
        }
    }

    fn postgres_shown(&self, places: &Places) -> PostgresShown {
        let (seen, seconds_to_loss) = self.server.shown();
        let [rows, bytes, _] = seen.outbox.map_or([None; 3], |outbox| outbox.map(Some));
        PostgresShown {
            place: places.postgres.clone(),
            is_up: matches!(self.role, Role::Streaming | Role::Standby),
            slot: places.slot.clone(),
            confirmed: self.totals.confirmed.to_string(),
            held_bytes: seen.held_bytes,
            safe_bytes: seen.safe_bytes,
            seconds_to_loss: seconds_to_loss.filter(|seconds| seconds.is_finite()),
            outbox_rows: rows,
            outbox_bytes: bytes,
        }
    }

    fn cache_shown(&self, state: &CacheState, told: &OfCache, now: Instant) -> CacheShown {
        let age = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let statistics = told.totals.statistics.filter(|of| now.saturating_duration_since(of.at) < STALE);
        CacheShown {
            name: state.name.to_string(),
            place: state.place.clone(),
            kind: state.member.pick("cache", "sink"),
            is_required: state.required,
            is_up: !state.away,
            refuses: state.refuses,
            is_released: told.released,
            oldest_undeleted_seconds: told.totals.oldest.map_or(0.0, age),
            mark_age_seconds: told.totals.marked.map(|(_, at)| age(at)),
            mark: told.totals.marked.map(|(lsn, _)| lsn.to_string()),
            keys_sent: told.totals.keys,
            keys_existed: told.totals.existed,
            sweeps: told.totals.sweeps,
            reads: statistics.map(|of| of.reads().all),
            hit_ratio: statistics.and_then(|of| of.reads().ratio()),
            recent_hit_ratio: statistics.and_then(|of| of.recent.ratio()),
            recent_reads: statistics.map(|of| of.recent.all),
            memory_bytes: statistics.map(|of| of.said.memory),
            evicted: statistics.map(|of| of.said.evicted),
            billed: (state.billed > 0 || state.budget.is_some()).then_some(state.billed),
            age_bound_seconds: state.budget.map(|budget| budget.bound().as_secs_f64()),
        }
    }
}
