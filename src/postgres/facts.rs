//! What a server says about itself before a stream starts: who it is, which run, what it publishes, how patient it is.
//!
//! Nothing here touches the slot. It refuses servers on which a stream would do harm: a standby that nobody named as one,
//! and a server whose commits would wait for us.

use std::time::Duration;

use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::postgres::quote;
use crate::postgres::wire::{TextRow, Wire};

/// What must not have changed for the cache to be right without a sweep; the control session asks the same.
pub(crate) const RUN: &str = include_str!("../../sql/run.sql");

/// The way out where a standby's replay does not go on.
pub(crate) const REPLAY_HINT: &str =
    "See pg_is_wal_replay_paused(), recovery_min_apply_delay and pg_stat_wal_receiver on the standby.";

/// The first version that decodes on a standby.
pub(crate) const VERSION_DECODES: u32 = 160_000;

/// The way out where a standby cannot make a slot.
pub(crate) const LEVEL_HINT: &str = "Set wal_level = logical on the standby and on its primary, and restart both.";

/// What the server says before the stream starts.
#[derive(Debug)]
pub(crate) struct Facts {
    /// `server_version_num`.
    pub(crate) version: u32,
    /// A standby.
    pub(crate) in_recovery: bool,
    /// As in [`Start::system`](crate::start::Start::system).
    pub(crate) system: String,
    /// The timeline.
    pub(crate) timeline: u32,
    /// As in [`Start::run`](crate::start::Start::run).
    pub(crate) run: String,
    /// As in [`Start::publication`](crate::start::Start::publication); empty when there is no such publication.
    pub(crate) publication: String,
    /// How often the server wants a status.
    pub(crate) status_interval: Duration,
}

impl Facts {
    /// Asks for all of it.
    pub(crate) async fn read(wire: &mut Wire, publication: &str) -> Result<Self> {
        let names = "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
                     pg_catalog.current_setting('application_name')";
        let names = row(wire, names).await?;
        refuse_as_standby(text(&names, 0).unwrap_or_default(), text(&names, 1).unwrap_or_default())?;
        let in_recovery = is_in_recovery(wire).await?;
        let system = row(wire, "IDENTIFY_SYSTEM").await?;
        let database = "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
        let database = row(wire, database).await?;
        let version = row(wire, "SELECT pg_catalog.current_setting('server_version_num')").await?;
        let timeout = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let timeout = row(wire, timeout).await?;
        let run = row(wire, &quote::fill(RUN, &[("publication", publication)])).await?;
        let unexpected = || Error::definite(Exit::Protocol, "the server's answers about itself cannot be read");
        let milliseconds: u64 = text(&timeout, 0).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
        Ok(Facts {
            in_recovery,
            version: text(&version, 0).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
            system: system_and_database(&system, &database).ok_or_else(unexpected)?,
            timeline: text(&system, 1).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
            run: text(&run, 0).ok_or_else(unexpected)?.to_owned(),
            publication: text(&run, 1).ok_or_else(unexpected)?.to_owned(),
            status_interval: status_interval(milliseconds),
        })
    }
}

/// As in [`Start::system`](crate::start::Start::system), from the answers of `IDENTIFY_SYSTEM` and of the catalog.
fn system_and_database(system: &TextRow, database: &TextRow) -> Option<String> {
    Some(format!("{}/{}", text(system, 0)?, text(database, 0)?))
}

async fn is_in_recovery(wire: &mut Wire) -> Result<bool> {
    let found = row(wire, "SELECT pg_catalog.pg_is_in_recovery()").await?;
    Ok(text(&found, 0) == Some("t"))
}

/// Up to where a standby has replayed; `None` of a primary.
pub(crate) async fn replayed(wire: &mut Wire) -> Result<Option<Lsn>> {
    let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() END";
    let found = row(wire, sql).await?;
    Ok(text(&found, 0).and_then(|text| text.parse().ok()))
}

/// The error of a server that is no primary.
pub(crate) fn in_recovery() -> Error {
    Error::transient("the server is in recovery: a standby, or a primary that just starts").hint(
        "Name every host in the connection string: the one that is the primary is found by itself. A crieur beside a \
             standby (PostgreSQL 16 or later) reads there: write standby = true into [postgres].",
    )
}

/// `synchronous_standby_names = '*'` counts every walsender's client as a standby. COMMIT would wait for our flush
/// position, and we confirm nothing before the commit is visible: the primary would stand still.
pub(crate) fn refuse_as_standby(list: &str, name: &str) -> Result<()> {
    if counts_as_standby(list, name) {
        return Err(Error::definite(Exit::Config, "synchronous_standby_names counts crieur as a standby").hint(
            "Every COMMIT would wait for crieur, and crieur for the commit. Name the standbys there instead of *.",
        ));
    }
    Ok(())
}

/// Whether the list (`src/backend/replication/syncrep_gram.y`) holds `*` or the name; names compare without case.
pub(crate) fn counts_as_standby(list: &str, name: &str) -> bool {
    let words = list.split([',', '(', ')', ' ', '\t', '\n']);
    words
        .map(|word| word.trim_matches('"'))
        .any(|word| word == "*" || (!word.is_empty() && word.eq_ignore_ascii_case(name)))
}

/// A third of `wal_sender_timeout`; with none (0), and at most, ten seconds as in `wal_receiver_status_interval`.
fn status_interval(wal_sender_timeout_ms: u64) -> Duration {
    let longest = Duration::from_secs(10);
    match wal_sender_timeout_ms {
        0 => longest,
        milliseconds => Duration::from_millis(milliseconds / 3).clamp(Duration::from_millis(10), longest),
    }
}

fn text(row: &TextRow, column: usize) -> Option<&str> {
    row.get(column)?.as_deref()
}

async fn row(wire: &mut Wire, sql: &str) -> Result<TextRow> {
    Ok(wire.simple_query(sql).await?.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_standbys_that_counts_us_is_noticed() {
        for (list, counts) in [
            ("", false),
            ("*", true),
            ("ANY 1 (s1, s2)", false),
            ("FIRST 2 (\"s1\", *)", true),
            ("s1,Crieur", true),
            ("crieur2", false),
        ] {
            assert_eq!(counts_as_standby(list, "crieur"), counts, "{list}");
        }
    }

    #[test]
    fn status_goes_out_three_times_within_the_servers_patience() {
        for (timeout_ms, interval_ms) in [(60_000, 10_000), (3_000, 1_000), (1, 10), (0, 10_000), (9_000, 3_000)] {
            assert_eq!(status_interval(timeout_ms), Duration::from_millis(interval_ms));
        }
    }
}
