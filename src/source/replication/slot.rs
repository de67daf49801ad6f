//! The replication slot: what became of it, and how a dead one is made anew.
//!
//! It knows neither positions that were answered nor caches. It keeps one invariant: only a slot that decodes nothing
//! any more is dropped, and never one of another kind, plugin or database.

use std::time::Duration;

use tokio::time::{Instant, interval_at};

use crate::decode::stream::two_phase;
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::facts::Facts;
use crate::postgres::quote;
use crate::postgres::wire::{TextRow, Wire};
use crate::reminder;

/// The first version whose logical slots can be synchronized to a standby.
const VERSION_FAILOVER: u32 = 170_000;

/// How soon a standby's new slot is said to wait: somebody at the primary can end that at once.
const SOON: Duration = Duration::from_secs(3);

/// How long the slot lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Until somebody drops it: it keeps what was not confirmed.
    Lasting,
    /// As long as its connection.
    Session,
}

/// What kind of server makes a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Maker {
    version: u32,
    in_recovery: bool,
}

impl Maker {
    /// As the server says of itself.
    pub(crate) fn of(facts: &Facts) -> Self {
        Maker { version: facts.version, in_recovery: facts.in_recovery }
    }

    /// Options of the slot, what a slot that is not there yet waits for, and how soon that is said.
    fn ways(self, life: Life) -> (&'static str, &'static str, Duration) {
        let options = match life {
            Life::Session => "NOEXPORT_SNAPSHOT",
            Life::Lasting if self.version < VERSION_FAILOVER => "NOEXPORT_SNAPSHOT",
            // A standby has no slots that another standby may take over.
            Life::Lasting if self.in_recovery => "(SNAPSHOT 'nothing')",
            // As `crieur setup` makes it: a standby may take it over. Older servers know only the old form of the options.
            Life::Lasting => "(SNAPSHOT 'nothing', FAILOVER)",
        };
        match self.in_recovery {
            // The slot begins at a record of the transactions that run (`SnapBuildFindSnapshot` in snapbuild.c). A primary
            // writes one every 15 seconds, unless nothing else was written.
            true => (
                options,
                "On the primary run: SELECT pg_log_standby_snapshot(); an idle one does not do so by itself.",
                SOON,
            ),
            false => {
                let hint = "End transactions that are open for long: pg_stat_activity shows them by xact_start.";
                (options, hint, reminder::EVERY)
            }
        }
    }
}

/// What became of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SlotCondition {
    /// There is none of this name.
    Missing,
    /// It exists and can never be read again.
    Dead(String),
    /// A session with this process id reads or makes it.
    Busy(u32),
    /// It can be read from here on.
    Free(Lsn),
}

/// Asks the catalog.
pub(crate) async fn look(wire: &mut Wire, slot: &str) -> Result<SlotCondition> {
    // to_jsonb reads columns that older servers do not have as NULL.
    let sql = format!(
        "SELECT s.slot_type, s.plugin, s.database = pg_catalog.current_database(), to_jsonb(s) ->> 'two_phase', \
                s.active_pid, s.wal_status, to_jsonb(s) ->> 'invalidation_reason', to_jsonb(s) ->> 'conflicting', \
                s.confirmed_flush_lsn \
         FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = {}",
        quote::literal(slot)
    );
    match wire.simple_query(&sql).await?.into_iter().next() {
        None => Ok(SlotCondition::Missing),
        Some(row) => condition(&row, slot),
    }
}

/// What the row of [`look`] says.
fn condition(row: &TextRow, slot: &str) -> Result<SlotCondition> {
    let text = |column: usize| row.get(column).and_then(Option::as_deref);
    let foreign = |what: &str| {
        Err(Error::definite(Exit::Config, format!("replication slot \"{slot}\" {what}"))
            .hint("Choose another name in postgres.slot: this slot serves somebody else."))
    };
    if text(0) != Some("logical") {
        return foreign("is a physical one");
    }
    if text(1) != Some("pgoutput") {
        return foreign("has another plugin than pgoutput");
    }
    if text(2) != Some("t") {
        return foreign("decodes another database");
    }
    if text(3) == Some("true") {
        return Err(two_phase());
    }
    if let Some(pid) = text(4).and_then(|pid| pid.parse().ok()) {
        return Ok(SlotCondition::Busy(pid));
    }
    if let Some(reason) = text(6) {
        return Ok(SlotCondition::Dead(format!("was invalidated ({reason})")));
    }
    if text(7) == Some("true") {
        return Ok(SlotCondition::Dead("was invalidated by a conflict with recovery".to_owned()));
    }
    if text(5) == Some("lost") {
        return Ok(SlotCondition::Dead("lost its WAL (max_slot_wal_keep_size)".to_owned()));
    }
    match text(8).and_then(|lsn| lsn.parse().ok()) {
        Some(confirmed) => Ok(SlotCondition::Free(confirmed)),
        // A creation that did not end leaves a slot without a position only until its session is gone.
        None => Ok(SlotCondition::Dead("has no confirmed position".to_owned())),
    }
}

/// A slot cannot be made where all are in use, and it is no use to say that it is made.
pub(crate) async fn refuse_without_room(wire: &mut Wire) -> Result<()> {
    let sql = "SELECT pg_catalog.current_setting('max_replication_slots'), count(*) \
               FROM pg_catalog.pg_replication_slots";
    let row = wire.simple_query(sql).await?.into_iter().next().unwrap_or_default();
    let number = |column: usize| row.get(column).and_then(Option::as_deref).and_then(|text| text.parse::<u64>().ok());
    let (Some(most), Some(used)) = (number(0), number(1)) else { return Ok(()) };
    if used < most {
        return Ok(());
    }
    let mut error = Error::transient(format!("all {most} replication slots of the server are in use")).hint(
        "Drop one that nobody reads (SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots \
         and restart the server. crieur makes its slot as soon as there is room.",
    );
    error.sqlstate = Some("53400".to_owned());
    Err(error.while_doing("create the replication slot"))
}

/// Drops a slot that is of no use any more.
pub(crate) async fn drop_dead(wire: &mut Wire, slot: &str) -> Result<()> {
    let dropped = wire.simple_query(&format!("DROP_REPLICATION_SLOT \"{slot}\"")).await;
    dropped.map(drop).map_err(|error| error.while_doing("drop the dead replication slot"))
}

/// Creates the slot and returns where its stream begins.
///
/// The server waits for every transaction that is open now (`SnapBuildFindSnapshot` in `snapbuild.c`), however long
/// they take. Whoever gives up drops the session.
pub(crate) async fn create(wire: &mut Wire, slot: &str, maker: Maker, life: Life) -> Result<Lsn> {
    let (options, hint, soon) = maker.ways(life);
    let life = if life == Life::Session { "TEMPORARY " } else { "" };
    let sql = format!("CREATE_REPLICATION_SLOT \"{slot}\" {life}LOGICAL pgoutput {options}");
    let since = Instant::now();
    let mut remind = interval_at(since + soon, reminder::EVERY);
    let mut creating = Box::pin(wire.simple_query(&sql));
    let rows = loop {
        tokio::select! {
            rows = &mut creating => break rows.map_err(|error| error.while_doing("create the replication slot"))?,
            _ = remind.tick() => {
                let seconds = since.elapsed().as_secs();
                let what = if maker.in_recovery { "the primary's word of its open transactions" } else { "open transactions to end" };
                log!(Id::SlotWaits, hint, seconds, "replication slot \"{slot}\", which is new, waits for {what}");
            }
        }
    };
    let point = rows.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
    let point =
        point.ok_or_else(|| Error::definite(Exit::Protocol, "the server does not say where the slot begins"))?;
    log!(Id::SlotCreated, %slot, lsn = %point, seconds = since.elapsed().as_secs(), "replication slot created");
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slot_of_ours_that_decodes_nothing_any_more_is_dead() {
        let row = |changes: &[(usize, Option<&str>)]| {
            let usual = [Some("logical"), Some("pgoutput"), Some("t"), Some("false")];
            let rest = [None, Some("reserved"), None, Some("false"), Some("0/20")];
            let mut row: TextRow = usual.into_iter().chain(rest).map(|text| text.map(str::to_owned)).collect();
            for (column, text) in changes {
                row[*column] = text.map(str::to_owned);
            }
            condition(&row, "crieur").map_err(|error| error.exit())
        };
        assert_eq!(row(&[]), Ok(SlotCondition::Free(Lsn(0x20))));
        assert_eq!(row(&[(3, None), (7, None)]), Ok(SlotCondition::Free(Lsn(0x20))), "an old server");
        assert_eq!(row(&[(5, Some("unreserved"))]), Ok(SlotCondition::Free(Lsn(0x20))));
        assert_eq!(row(&[(4, Some("77")), (8, None)]), Ok(SlotCondition::Busy(77)));
        for (column, text) in [(5, Some("lost")), (6, Some("idle_timeout")), (7, Some("true")), (8, None)] {
            assert!(matches!(row(&[(column, text)]), Ok(SlotCondition::Dead(_))), "{text:?}");
        }
        for (column, text) in [(0, "physical"), (1, "wal2json"), (2, "f"), (3, "true")] {
            assert!(row(&[(column, Some(text)), (5, Some("lost"))]).is_err(), "{text}");
        }
    }
}
