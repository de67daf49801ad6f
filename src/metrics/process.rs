//! The process, as every program that Prometheus watches shows it, the last reload, and the warnings.

use std::time::Duration;

use super::page::{MetricsPage, shown};

/// What the kernel says of the process; nothing where it does not say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessState {
    /// When it started, since 1970.
    pub started: Duration,
    /// Processor time that it used.
    pub cpu: Option<Duration>,
    /// Bytes of memory that it has.
    pub resident_bytes: Option<u64>,
    /// File descriptors that it has open.
    pub open_fds: Option<u64>,
    /// File descriptors that it may open.
    pub max_fds: Option<u64>,
}

/// What became of the last reload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reloaded {
    pub(super) succeeded: bool,
    /// The last one that succeeded, since 1970.
    pub(super) last_success: Option<Duration>,
}

impl ProcessState {
    pub(super) fn write(&self, page: &mut MetricsPage) {
        let ProcessState { started, cpu, resident_bytes, open_fds, max_fds } = self;
        let whole = |number: &Option<u64>| number.map(|number| number.to_string());
        let values = [
            ("process_cpu_seconds_total", "counter", "Processor time that the process used.", cpu.map(shown)),
            ("process_resident_memory_bytes", "gauge", "Memory that the process has.", whole(resident_bytes)),
            ("process_open_fds", "gauge", "File descriptors that the process has open.", whole(open_fds)),
            ("process_max_fds", "gauge", "File descriptors that the process may open.", whole(max_fds)),
            ("process_start_time_seconds", "gauge", "When the process started, since 1970.", Some(shown(*started))),
        ];
        for (name, kind, help, value) in values {
            page.foreign_head(name, help, kind);
            value.iter().for_each(|value| page.foreign(name, value));
        }
    }
}

impl Reloaded {
    /// A daemon that starts has read its configuration.
    pub(super) fn at_start() -> Self {
        Reloaded { succeeded: true, last_success: None }
    }

    pub(super) fn write(&self, page: &mut MetricsPage, started: Duration) {
        page.gauge(
            "config_last_reload_successful",
            "1 when the configuration was good that was read last, at the start or at a reload.",
            u64::from(self.succeeded),
        );
        page.seconds(
            "config_last_reload_success_timestamp_seconds",
            "When a good configuration was read last, since 1970.",
            self.last_success.unwrap_or(started),
        );
    }
}

/// How often each warning was said.
pub(super) fn warnings(page: &mut MetricsPage, warnings: &[(&'static str, u64)]) {
    page.head("warnings_total", "Warnings and errors of the log, by the id that the runbook explains.", "counter");
    for (id, count) in warnings {
        page.value("warnings_total", &[("id", id)], &count.to_string());
    }
}
