//! The way to a running stream: log in, wait for the slot or make it anew, check the server, START_REPLICATION.
//!
//! It knows what may pass and what cannot: a daemon that has streamed waits for things that went away, one that never did
//! stops and says what is missing. It keeps no position.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Class, Error, Exit, Result};
use crate::failpoints::{Guard, without};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::facts::{self, Facts};
use crate::postgres::link::answered;
use crate::postgres::quote;
use crate::postgres::wire::{ROLES_PATH, Wire};
use crate::source::replication::options::SlotOptions;
use crate::source::replication::slot::{self, Life, SlotCondition};
use crate::source::replication::standby;
use crate::start::{SlotOrigin, Start};

/// A slot is free for a moment whenever its daemon begins anew, with other rules for one. Whoever stands by may have the
/// old rules, so it leaves the slot to that daemon for at least so long,
const GRACE: Duration = Duration::from_millis(700);
/// and for at most so long.
const GRACE_MAX: Duration = Duration::from_secs(5);
/// A daemon that begins anew needs about a dozen round trips: TCP, TLS, SCRAM, what the server is, the slot, the start.
const GRACE_ROUND_TRIPS: u32 = 24;

/// How long the slot is left to the daemon that had it: as far as that one is from the server, so is this one, mostly.
fn grace(round_trip: Duration) -> Duration {
    (round_trip * GRACE_ROUND_TRIPS).clamp(GRACE, GRACE_MAX)
}

/// A stream that was started, from which nothing was read yet.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) wire: Wire,
    pub(super) start: Start,
    /// How often the server wants a status.
    pub(super) status_interval: Duration,
}

/// What a try to stream comes to.
#[derive(Debug)]
pub(super) enum Outcome {
    Running(Box<Begun>),
    /// Another session has the slot; ours waits for it.
    Busy(Box<Wire>, u32),
}

/// What is known of the slot's past before a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// Nothing: this daemon never streamed. What is missing now most likely never was there.
    None,
    /// It was streamed from. What is missing now went away and may come back.
    Streamed,
    /// The server could not decode what the slot holds: only a new one goes on.
    Undecodable,
}

/// Connects, or goes on with a session that waited for the slot, and starts the stream.
pub(super) async fn start(options: Rc<SlotOptions>, waiting: Option<Box<Wire>>, past: Past) -> Result<Outcome> {
    let limit = options.liveness_timeout;
    let stood_by = waiting.is_some();
    let mut wire = match waiting {
        Some(wire) => wire,
        None => Box::new(Wire::connect(&options.dsn, options.connect_timeout).await?),
    };
    let asked = Instant::now();
    let mut condition = answered(limit, slot::look(&mut wire, &options.slot)).await?;
    if stood_by && !matches!(condition, SlotCondition::Busy(_)) {
        sleep(grace(asked.elapsed())).await;
        condition = answered(limit, slot::look(&mut wire, &options.slot)).await?;
    }
    if let SlotCondition::Busy(pid) = condition {
        return Ok(Outcome::Busy(wire, pid));
    }
    let facts = answered(limit, Facts::read(&mut wire, &options.publication)).await?;
    match options.standby {
        true => standby::admit(&facts, &options)?,
        // Nobody named the standby as one: its readers are not those of the configuration.
        false if facts.in_recovery => return Err(facts::in_recovery()),
        false => {}
    }
    if facts.publication.is_empty() {
        return Err(standby::lenient(no_publication(&options.publication), &facts, past != Past::None));
    }
    let (confirmed, origin) = usable_slot(&mut wire, &options, &facts, condition, past).await?;
    if facts.in_recovery && !without(Guard::Replay) {
        standby::replayed(&mut wire, confirmed, &options).await?;
    }
    let started = answered(limit, start_stream(&mut wire, &options.slot, &options.publication, facts.version)).await;
    if let Err(error) = started {
        if error.sqlstate.as_deref() != Some("55006") {
            return Err(lenient(error, past));
        }
        // Somebody was faster: the next look says who.
        return Ok(Outcome::Busy(wire, 0));
    }
    let Facts { version, system, timeline, run, publication, status_interval, .. } = facts;
    let at = options.dsn.servers();
    log!(Id::StreamStarted, at, slot = options.slot, lsn = %confirmed, timeline, server = version, "replication started");
    let start = Start { system, timeline, confirmed, run, publication, slot: origin };
    Ok(Outcome::Running(Box::new(Begun { wire: *wire, start, status_interval })))
}

/// A slot to stream from, made anew where the one that is there can never be read again.
async fn usable_slot(
    wire: &mut Wire,
    options: &SlotOptions,
    facts: &Facts,
    condition: SlotCondition,
    past: Past,
) -> Result<(Lsn, SlotOrigin)> {
    let name = &options.slot;
    let (what, dead) = match condition {
        SlotCondition::Free(confirmed) if past != Past::Undecodable => return Ok((confirmed, SlotOrigin::Found)),
        SlotCondition::Free(_) => ("cannot be decoded from its position on".to_owned(), true),
        SlotCondition::Missing => ("does not exist".to_owned(), false),
        SlotCondition::Dead(reason) => (reason, true),
        SlotCondition::Busy(pid) => return Err(busy(name, pid)),
    };
    if !dead {
        answered(options.liveness_timeout, slot::refuse_without_room(wire)).await?;
    }
    let hint = "What was changed until it exists is unknown: every key that the rules own is swept then.";
    log!(Id::SlotAnew, hint, "replication slot \"{name}\" {what}: it is created anew");
    let made = async {
        if dead {
            answered(options.liveness_timeout, slot::drop_dead(wire, name)).await?;
        }
        let (from, life) = (slot::Maker::of(facts), Life::Lasting);
        slot::create(wire, name, from, life).await
    };
    let made = made.await.map_err(|error| standby::explained(error, facts));
    Ok((made.map_err(|error| lenient(error, past))?, SlotOrigin::Created))
}

/// The error while another session has the slot.
pub(super) fn busy(slot: &str, pid: u32) -> Error {
    let mut error = Error::transient(format!("replication slot \"{slot}\" is active for PID {pid}"));
    error.sqlstate = Some("55006".to_owned());
    error
}

/// The error of a publication that is not there.
pub(crate) fn no_publication(name: &str) -> Error {
    Error::definite(Exit::Config, format!("publication \"{name}\" does not exist"))
        .hint("Run `crieur setup`; every key that the rules own is swept when it is there.")
}

/// What a daemon that has streamed meets may pass: a dropped publication, a slot that somebody removes meanwhile, a
/// standby that was promoted without `wal_level = logical`.
fn lenient(error: Error, past: Past) -> Error {
    let passing = matches!(error.sqlstate.as_deref(), Some("42704" | "42710" | "55000" | "58P01"));
    match past {
        Past::Streamed | Past::Undecodable if passing => error.class(Class::Transient),
        Past::None | Past::Streamed | Past::Undecodable => error,
    }
}

/// An error of the running stream. Some say that the slot's WAL cannot be decoded: before version 18 a publication that
/// did not exist then (42704), or a segment that is gone (58P01).
pub(super) fn stream_error(error: Error, past: &mut Past) -> Error {
    // A text of an encoding that only the server can convert has a byte without a form in UTF-8 (22P05), or is none of its
    // own encoding (22021): every try would end there.
    if matches!(error.sqlstate.as_deref(), Some("42704" | "58P01" | "22P05" | "22021")) {
        *past = Past::Undecodable;
    }
    lenient(error, *past)
}

/// The server keeps `logical_decoding_work_mem` of an open transaction before it streams it, 64 MB unless told otherwise;
/// all of that is still to come at COMMIT. So this session asks for less, unless the URL's `options` say how much.
const STREAM_EARLY: &str = "SELECT set_config(name, '1MB', false) FROM pg_catalog.pg_settings \
     WHERE name = 'logical_decoding_work_mem' AND setting::int > 1024 AND source <> 'client'";

/// Starts the stream of a slot at its confirmed position.
pub(crate) async fn start_stream(wire: &mut Wire, slot: &str, publication: &str, version: u32) -> Result<()> {
    let protocol = protocol_options(version, publication);
    // 0/0: the server starts at the slot's confirmed position, and so do we.
    let sql = format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({protocol})");
    tracing::debug!(protocol, "start replication");
    wire.simple_query(STREAM_EARLY).await.map_err(|error| error.while_doing("set how early transactions stream"))?;
    wire.simple_query(ROLES_PATH).await?;
    wire.start_copy_both(&sql).await.map_err(|error| error.while_doing("start replication"))
}

/// The newest protocol that is of use: 2 streams large transactions while they are open, from version 14 on.
pub(crate) fn protocol_version(version: u32) -> u32 {
    if version < 140_000 { 1 } else { 2 }
}

/// Options of pgoutput (`src/backend/replication/pgoutput/pgoutput.c`, `parse_output_parameters`) by server version.
fn protocol_options(version: u32, publication: &str) -> String {
    // A replication command knows no E'' literal, so a backslash stays as it is.
    let names = format!("publication_names '{}'", quote::identifier(publication).replace('\'', "''"));
    if version < 140_000 {
        return format!("proto_version '1', {names}");
    }
    // Protocol 2 streams large transactions while they are open: only their keys are kept, and COMMIT finds them ready.
    format!("proto_version '2', streaming 'on', messages 'true', {names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_left_longer_to_a_daemon_that_is_far_from_the_server() {
        for (round_trip_ms, grace_ms) in [(0, 700), (1, 700), (29, 700), (50, 1_200), (100, 2_400), (1_000, 5_000)] {
            let grace = grace(Duration::from_millis(round_trip_ms));
            assert_eq!(grace, Duration::from_millis(grace_ms), "{round_trip_ms}");
        }
    }

    #[test]
    fn quotes_the_publication_for_the_option_and_for_the_list_in_it() {
        let text = protocol_options(170_000, "a'b\"c");
        assert!(text.ends_with(r#"publication_names '"a''b""c"'"#), "{text}");
        assert!(protocol_options(130_020, "p").starts_with("proto_version '1', "));
    }
}
