//! Logs: one line on standard error for each event, for a journal or a terminal; and as news, for whoever reads them later.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

use crate::config::environment::{LOG, level};
use crate::observe::heard::Heard;
use crate::observe::recent::Recent;

/// Starts logging. `CRIEUR_LOG` sets the level of the lines: `off`, `error`, `warn`, `info` (default), `debug`, `trace`.
/// What carries an id is heard at every level.
///
/// Under systemd the journal adds the time, so the lines carry none.
pub fn start(recent: Recent) {
    // What is no level has stopped the start.
    let level = std::env::var(LOG).ok().and_then(|text| level(&text)).and_then(|level| level.parse().ok());
    let level: LevelFilter = level.unwrap_or(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(std::io::stderr)
        // What cannot be written must not end the daemon: it would be said on the same full disk, with a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let heard = Heard::new(recent).with_filter(LevelFilter::INFO);
    let lines = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().boxed(),
        None => lines.boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(level)).with(heard).init();
}
