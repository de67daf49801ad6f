//! The page: every series, in the order in which a person reads them.

use std::time::Instant;

use super::page::Page;
use super::process::warnings;
use super::{Metrics, Outside, ROLES, Role};

impl Metrics {
    /// In Prometheus' text format, version 0.0.4.
    pub fn text(&self, outside: &Outside<'_>, now: Instant) -> String {
        let mut page = Page::new();
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
