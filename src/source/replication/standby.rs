//! A stream from a standby: what must be so before it starts, and what its errors mean.
//!
//! A standby that crashed, or was stopped, opens for readers where its data is consistent, which may be before what it
//! had replayed and sent (`CheckRecoveryConsistency` in src/backend/access/transam/xlogrecovery.c). A reader may then
//! store a row that is older than a delete that was confirmed. So nothing is swept, and no stream starts, before the
//! standby has replayed again what the slot has confirmed.

use tokio::time::{Instant, sleep};

use crate::error::{Class, Error, Exit, Result};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::facts::{self, Facts, LEVEL_HINT, VERSION_DECODES};
use crate::postgres::link::answered;
use crate::postgres::wire::Wire;
use crate::reminder::Reminder;
use crate::source::replication::options::SlotOptions;

/// How often a standby is asked that has not replayed enough.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(20);

/// A standby that can decode, or a primary, which was promoted or is named by mistake.
pub(super) fn admit(facts: &Facts, options: &SlotOptions) -> Result<()> {
    let at = options.dsn.servers();
    if !facts.in_recovery {
        let hint = "Where this stays so, take standby = true out of [postgres]; if readers read from another server, put that one into postgres.url.";
        log!(Id::StandbyIsPrimary, hint, at, "the server is no standby: crieur goes on as beside a primary");
        return Ok(());
    }
    if facts.version < VERSION_DECODES {
        let seen = format!(
            "the standby is of PostgreSQL {}, and only 16 and later decode on a standby",
            facts.version / 10_000
        );
        return Err(Error::definite(Exit::Config, seen).hint(
            "Run crieur beside the primary, without postgres.standby, and name the standby in postgres.replicas.",
        ));
    }
    Ok(())
}

/// What is not there on a standby may be on its way from the primary.
pub(super) fn lenient(error: Error, facts: &Facts, has_streamed: bool) -> Error {
    match (facts.in_recovery, has_streamed) {
        (true, _) => error.class(Class::Transient).hint(
            "Run `crieur setup` with the primary's address in postgres.url; the standby has what it has replayed.",
        ),
        (false, false) => error,
        (false, true) => error.class(Class::Transient),
    }
}

/// The server's refusal to make a slot on a standby, with what the primary lacks.
pub(super) fn explained(error: Error, facts: &Facts) -> Error {
    if facts.in_recovery && error.sqlstate.as_deref() == Some("55000") {
        return error.hint(LEVEL_HINT);
    }
    error
}

/// Waits until the standby has replayed what the slot has confirmed; at once where it never went back.
pub(super) async fn replayed(wire: &mut Wire, confirmed: Lsn, options: &SlotOptions) -> Result<()> {
    let mut said = Reminder::begun(Id::StandbyBehind, Instant::now());
    // Promoted meanwhile: then all that there was is replayed.
    while let Some(replayed) = answered(options.liveness_timeout, facts::replayed(wire)).await? {
        if replayed >= confirmed {
            break;
        }
        if said.is_due(&Id::StandbyBehind, Instant::now()) {
            let at = options.dsn.servers();
            log!(
                Id::StandbyBehind,
                hint = facts::REPLAY_HINT,
                at,
                "the standby has replayed {replayed} and is waited for at {confirmed}, which was confirmed to it before it started again"
            );
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}
