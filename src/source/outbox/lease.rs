//! The lease of the outbox: which of several daemons is at work, and since which count of positions.
//!
//! A row with an owner and a time, renewed by the server's clock. No lock is held: a session-level one does not survive a
//! pooler that gives each transaction another session. The lease only decides who works; what makes a removal safe is
//! that it happens in the same statement that renews the lease.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::postgres::quote;
use crate::postgres::sqlstate::session_error;
use crate::random;
use crate::source::outbox::page::Run;
use crate::source::outbox::taken::Removal;

const ACQUIRE: &str = include_str!("../../../sql/outbox/acquire.sql");
const REMOVE: &str = include_str!("../../../sql/outbox/remove.sql");

/// How often the lease is renewed.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_millis(400);

/// How long it lasts at least, and at most (`acquire.sql`): a longer delay is that of a process that stood still.
const LASTS_MIN: Duration = Duration::from_millis(1_500);
const LASTS_MAX: Duration = Duration::from_secs(60);

/// How long the lease lasts, learned from how long it went without being renewed.
///
/// One thing is asked at a time, and what is asked may take longer than [`LASTS_MIN`]: a page of rows over a slow line.
/// Two daemons would then take the lease from each other for ever, each at its first look. So it lasts twice the
/// last delay, also for the next acquisition of a daemon that lost it that way: from then on it keeps it.
#[derive(Debug, Default)]
pub(super) struct Lasting(AtomicU64);

impl Lasting {
    /// The last renewal came so long after the one before.
    pub(super) fn learn(&self, delay: Duration) {
        self.0.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For the next renewal.
    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed).saturating_mul(2)).clamp(LASTS_MIN, LASTS_MAX)
    }

    fn seconds(&self) -> String {
        self.get().as_secs_f64().to_string()
    }
}

/// For what must not be lost.
pub(super) const BEGIN_SURELY: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL jit TO off; SET LOCAL row_security TO off; \
    SET LOCAL search_path TO ''";

/// Losing the last removals to a crash of the server costs nothing: their rows come again.
pub(crate) const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
    SET LOCAL synchronous_commit TO off; SET LOCAL jit TO off; SET LOCAL row_security TO off; \
    SET LOCAL search_path TO ''";

/// Who this process is: the process, its machine, and a number that no other one draws.
pub(super) fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let nonce = u64::from_ne_bytes(random::bytes());
    format!("{}@{}/{nonce:016x}", std::process::id(), host.trim())
}

/// The process of an owner; 0 when it cannot be read.
fn pid(owner: &str) -> u32 {
    owner.split('@').next().and_then(|pid| pid.parse().ok()).unwrap_or(0)
}

/// What a try to get the lease comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acquired {
    /// Ours: positions of this era come now, behind the confirmed one.
    Mine { era: u32, confirmed: Lsn },
    /// Another process has it.
    Busy(u32),
}

/// Several statements in one transaction and one round trip; the row of the only one that answers with one.
pub(crate) async fn transact(client: &Client, begin: &str, sql: &str) -> Result<Option<SimpleQueryRow>> {
    let sql = format!("{begin}; {}; COMMIT", sql.trim().trim_end_matches(';'));
    let answers = match client.simple_query(&sql).await {
        Ok(answers) => answers,
        Err(error) => {
            // The failed transaction stays open, and with it the session behind a pooler.
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(session_error(&error));
        }
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }))
}

/// Takes the lease when nobody has it, or we.
pub(super) async fn acquire(client: &Client, slot: &str, owner: &str, lasting: &Lasting) -> Result<Acquired> {
    let seconds = lasting.seconds();
    let variables = [("slot", slot), ("owner", owner), ("seconds", seconds.as_str())];
    let insert = format!("INSERT INTO crieur.progress (slot) VALUES ({}) ON CONFLICT DO NOTHING", quote::literal(slot));
    let sql = format!("{insert}; {}", quote::fill(ACQUIRE, &variables));
    let row = transact(client, BEGIN_SURELY, &sql).await?;
    let row = row.ok_or_else(|| Error::definite(Exit::Protocol, "the server says nothing about the outbox's lease"))?;
    let number = |column| row.get(column).and_then(|text| text.parse::<u64>().ok());
    match (number(0), number(1)) {
        (Some(era), Some(confirmed)) => {
            let era = u32::try_from(era)
                .map_err(|cause| Error::definite(Exit::Data, "the outbox's era is past its end").because(cause))?;
            Ok(Acquired::Mine { era, confirmed: Lsn(confirmed) })
        }
        _ => Ok(Acquired::Busy(row.get(2).map_or(0, pid))),
    }
}

/// What became of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Removed {
    /// The rows are gone, so many; the lease goes on.
    Gone(usize),
    /// The lease goes on; the rows stay as long as somebody records them.
    Recorded,
    /// The lease is another's: nothing was removed.
    Lost,
}

/// Removes rows whose keys are deleted, moves the position and renews the lease.
pub(super) async fn remove(
    client: &Client,
    (slot, owner, lasting): (&str, &str, &Lasting),
    removal: &Removal,
) -> Result<Removed> {
    let runs = &removal.runs;
    let list = |number: fn(&Run) -> String| format!("{{{}}}", runs.iter().map(number).collect::<Vec<_>>().join(","));
    let (confirmed, seconds) = (removal.position.to_string(), lasting.seconds());
    let variables = [
        ("slot", slot),
        ("owner", owner),
        ("confirmed", &confirmed),
        ("seconds", &seconds),
        ("xids", &list(|run| run.xid.to_string())),
        ("firsts", &list(|run| run.first.to_string())),
        ("lasts", &list(|run| run.last.to_string())),
        ("seen", removal.seen.as_deref().unwrap_or_default()),
    ];
    let row = transact(client, BEGIN_WRITE, &quote::fill(REMOVE, &variables)).await?;
    let is = |column: usize| row.as_ref().and_then(|row| row.get(column)) == Some("t");
    let rows = row.as_ref().and_then(|row| row.get(2)?.parse().ok());
    match (is(0), is(1), rows) {
        (false, ..) => Ok(Removed::Lost),
        (true, true, _) => Ok(Removed::Recorded),
        (true, false, Some(rows)) => Ok(Removed::Gone(rows)),
        (true, false, None) => Err(Error::definite(Exit::Protocol, "the server does not say how many rows it removed")),
    }
}

/// Gives the lease back, so that whoever stands by need not wait for its end.
pub(super) async fn release(client: &Client, slot: &str, owner: &str) -> Result<()> {
    let (slot, owner) = (quote::literal(slot), quote::literal(owner));
    let sql =
        format!("UPDATE crieur.progress SET owner = NULL, owner_until = NULL WHERE slot = {slot} AND owner = {owner}");
    transact(client, BEGIN_WRITE, &sql).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlasts_the_delay_of_its_last_renewal() {
        let lasting = Lasting::default();
        for (delay, lasts) in [(0, 1_500), (400, 1_500), (700, 1_500), (3_000, 6_000), (120_000, 60_000), (400, 1_500)]
        {
            lasting.learn(Duration::from_millis(delay));
            assert_eq!(lasting.get(), Duration::from_millis(lasts));
        }
    }

    #[test]
    fn an_owner_tells_its_process() {
        assert_eq!(pid(&owner()), std::process::id());
        assert_eq!((pid(""), pid("x@host/1")), (0, 0));
    }
}
