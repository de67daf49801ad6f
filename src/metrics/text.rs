//! The page: every series, in the order in which a person reads them.

use std::time::Instant;

use super::page::MetricsPage;
use super::process::warnings;
use super::{Metrics, Outside, ROLES, Role};

impl Metrics {
    /// In Prometheus' text format, version 0.0.4.
    pub fn text(&self, outside: &Outside<'_>, now: Instant) -> String {
        let mut page = MetricsPage::new();
        let totals = &self.totals;
        page.head("build_info", "The version of this daemon.", "gauge");
        page.value("build_info", &[("version", env!("CARGO_PKG_VERSION"))], "1");
        page.head("role", "1 for what this daemon does, 0 for all else.", "gauge");
        for (name, role) in ROLES {
            page.value("role", &[("role", name)], &u64::from(self.role == role).to_string());
        }
        page.gauge(
            "ready",
            "1 while this daemon deletes keys at once; 0 while it stands by or /readyz says 503.",
            u64::from(self.unready(outside.caches).is_none()),
        );
        page.seconds(
            "oldest_undeleted_seconds",
            "Age of the oldest change that is not deleted yet, 0 when there is none; counts from the break while the stream is interrupted or held back. The alarm: it is silent on a quiet night.",
            self.oldest(now),
        );
        page.gauge(
            "confirmed_lsn_bytes",
            "Position confirmed last, comparable with pg_current_wal_lsn() - '0/0'; in outbox mode a count of its own.",
            totals.confirmed.0,
        );
        page.seconds(
            "since_confirmed_seconds",
            "Time since everything that came was confirmed, or a position was; echoes hold it back.",
            now.duration_since(self.confirmed),
        );
        page.seconds(
            "lateness_seconds",
            "Server time of sending less time of commit; 0 when everything was sent.",
            self.lateness,
        );
        let is_up = matches!(self.role, Role::Streaming | Role::Standby);
        self.server.write(&mut page, is_up, totals.confirmed);
        self.counted.write(&mut page);
        page.counter("keys_widened_total", "Keys that became a pattern because a value was unknown.", totals.widened);
        page.counter(
            "keys_not_allowed_total",
            "Keys of crieur.invalidate that cache.invalidate does not allow.",
            totals.not_allowed,
        );
        page.counter(
            "families_collapsed_total",
            "Families (all keys of one template) that a memory bound collapsed into their pattern.",
            totals.collapsed,
        );
        page.gauge("memory_bytes", "Bytes of all keys in memory.", totals.memory_bytes);
        self.each_cache(&mut page, outside.caches, now);
        warnings(&mut page, outside.warnings);
        self.reloaded.write(&mut page, outside.process.started);
        outside.process.write(&mut page);
        page.into_text()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::budget::{Budget, MarkCost};
    use crate::lsn::Lsn;
    use crate::metrics::CacheState;
    use crate::metrics::process::ProcessState;
    use crate::metrics::tests::{state, text};
    use crate::observe::news::{CacheTotals, News, ServerSeen, Totals};
    use crate::rules::tally::{Labels, Tallied};

    #[test]
    fn what_passed_through_the_rules_counts_on_over_a_reload_and_what_is_gone_leaves_the_page() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let labels = |tables: &[&str]| {
            let tables = tables.iter().map(|table| format!("public.{table}")).collect();
            let (rules, lookups) = (vec!["rules.toml:3".to_owned()], vec!["owner".to_owned()]);
            News::Rules(Arc::new(Labels { digest: "4.ab".to_owned(), tables, rules, lookups, ..Labels::default() }))
        };
        let tally = |changes: &[[u64; 4]]| {
            let (keys, questions) = (vec![5], vec![[3, 1]]);
            News::Tally(Arc::new(Tallied { changes: changes.to_vec(), keys, questions }))
        };
        let has = |metrics: &Metrics, line: &str| text(metrics, &[], start).lines().any(|found| found == line);
        metrics.news(&labels(&["a", "b"]), None, start);
        assert!(has(&metrics, "crieur_changes_total{table=\"public.b\",operation=\"truncate\"} 0"));
        metrics.news(&tally(&[[1, 0, 0, 0], [0, 2, 0, 0]]), None, start);
        metrics.news(&labels(&["b", "c"]), None, start);
        metrics.news(&tally(&[[0, 1, 0, 0], [0, 0, 7, 0]]), None, start);
        for line in [
            "crieur_rules_info{digest=\"4.ab\"} 1",
            "crieur_changes_total{table=\"public.b\",operation=\"update\"} 3",
            "crieur_changes_total{table=\"public.c\",operation=\"delete\"} 7",
            "crieur_rule_keys_total{rule=\"rules.toml:3\"} 10",
            "crieur_lookups_total{lookup=\"owner\"} 6",
            "crieur_lookups_refused_total{lookup=\"owner\"} 2",
        ] {
            assert!(has(&metrics, line), "{line} is not in:\n{}", text(&metrics, &[], start));
        }
        assert!(!text(&metrics, &[], start).contains("public.a"));
    }

    #[test]
    fn a_reload_that_failed_leaves_the_time_of_the_one_before() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let shown = |metrics: &Metrics| {
            let text = text(metrics, &[], start);
            let value =
                |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned).expect("it is there");
            ["crieur_config_last_reload_successful ", "crieur_config_last_reload_success_timestamp_seconds "].map(value)
        };
        assert_eq!(shown(&metrics), ["1", "0.000"], "the start was a success");
        for (succeeded, at, expected) in
            [(true, 5, ["1", "5.000"]), (false, 6, ["0", "5.000"]), (true, 7, ["1", "7.000"])]
        {
            metrics.reloaded(succeeded, (start, Duration::from_secs(at)));
            assert_eq!(shown(&metrics), expected);
        }
    }

    #[test]
    fn every_number_that_the_loop_tells_is_on_the_page() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let totals = Totals {
            widened: 2,
            not_allowed: 3,
            collapsed: 4,
            memory_bytes: 5,
            confirmed: Lsn(1_000),
            ..Totals::default()
        };
        let of_cache = CacheTotals {
            keys: 10,
            existed: 11,
            sweeps: 12,
            swept: 13,
            repairs_delayed: 14,
            turns: 15,
            echoes_waiting: 16,
            oldest: Some(start),
            ..CacheTotals::default()
        };
        metrics.news(&News::Streaming, None, start);
        metrics.news(&News::Totals(totals, Duration::ZERO), None, start);
        metrics.news(&News::CacheTotals("main".into(), Box::new(of_cache)), None, start);
        metrics.news(&News::Released("main".into(), true), None, start);
        let outbox = Some([7, 80, 900]);
        let seen = ServerSeen { flushed: Some(Lsn(1_250)), held_bytes: Some(300), safe_bytes: Some(400), outbox };
        metrics.news(&News::Server(seen), None, start);
        let page = text(&metrics, &[state("main", false)], start + Duration::from_secs(9));
        for line in [
            "crieur_keys_widened_total 2",
            "crieur_keys_not_allowed_total 3",
            "crieur_families_collapsed_total 4",
            "crieur_memory_bytes 5",
            "crieur_keys_sent_total{cache=\"main\"} 10",
            "crieur_keys_existed_total{cache=\"main\"} 11",
            "crieur_sweeps_total{cache=\"main\"} 12",
            "crieur_keys_swept_total{cache=\"main\"} 13",
            "crieur_repairs_delayed_total{cache=\"main\"} 14",
            "crieur_cache_turns_total{cache=\"main\"} 15",
            "crieur_echoes_waiting{cache=\"main\"} 16",
            "crieur_cache_oldest_undeleted_seconds{cache=\"main\"} 9.000",
            "crieur_cache_released{cache=\"main\"} 1",
            "crieur_slot_behind_bytes 250",
            "crieur_slot_held_bytes 300",
            "crieur_slot_safe_bytes 400",
            "crieur_outbox_rows 7",
            "crieur_outbox_bytes 80",
            "crieur_outbox_max_bytes 900",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
    }

    #[test]
    fn what_the_loop_does_not_tell_is_on_the_page_too() {
        let start = Instant::now();
        let metrics = Metrics::new(start);
        let budget = Budget::new(1_000_000, Duration::from_secs(60), MarkCost::TCP).ok();
        let cache = CacheState { sentinels: Some(true), billed: 17, returns: 18, budget, ..state("main", true) };
        let process = ProcessState {
            started: Duration::from_secs(19),
            cpu: Some(Duration::from_millis(20)),
            resident_bytes: Some(21),
            open_fds: Some(22),
            max_fds: Some(23),
        };
        let outside = Outside { caches: &[cache], process, warnings: &[("cache.failing", 24)] };
        let text = metrics.text(&outside, start);
        for line in [
            "crieur_cache_sentinels_up{cache=\"main\"} 1",
            "crieur_cache_commands_billed_total{cache=\"main\"} 17",
            "crieur_cache_reconnects_total{cache=\"main\"} 18",
            "crieur_warnings_total{id=\"cache.failing\"} 24",
            concat!("crieur_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "process_start_time_seconds 19.000",
            "process_cpu_seconds_total 0.020",
            "process_resident_memory_bytes 21",
            "process_open_fds 22",
            "process_max_fds 23",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        let bound = text.lines().find(|line| line.starts_with("crieur_cache_age_bound_seconds{cache=\"main\"} "));
        assert!(bound.is_some(), "{text}");
    }
}
