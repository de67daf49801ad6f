//! Logs: one line on standard error for each event, for a journal or a terminal.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

use crate::config::environment::{LOG, level};

/// Starts logging. `CRIEUR_LOG` sets the level: `off`, `error`, `warn`, `info` (default), `debug`, `trace`.
///
/// Under systemd the journal adds the time, so the lines carry none.
pub fn start() {
    // What is no level has stopped the start.
    let level = std::env::var(LOG).ok().and_then(|text| level(&text)).and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::INFO);
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(std::io::stderr)
        // What cannot be written must not end the daemon: it would be said on the same full disk, with a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
}
