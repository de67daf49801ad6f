//! The lease of the outbox: which of several daemons is at work, and since which count of positions.
//!
//! A row with an owner and a time, renewed by the server's clock. No lock is held: a session-level one does not survive a
//! pooler that gives each transaction another session. The lease only decides who works; what makes a removal safe is
//! that it happens in the same statement that renews the lease.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::quote;
use crate::source::outbox::page::RowName;
use crate::source::sqlstate::session_error;

const ACQUIRE: &str = include_str!("../../../sql/outbox/acquire.sql");
const REMOVE: &str = include_str!("../../../sql/outbox/remove.sql");

/// How often the lease is renewed; it lasts 1.5 seconds (`acquire.sql`).
pub(super) const RENEW_INTERVAL: Duration = Duration::from_millis(400);

/// For what must not be lost.
pub(super) const BEGIN_SURELY: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path TO ''";

/// Losing the last removals to a crash of the server costs nothing: their rows come again.
pub(crate) const BEGIN_WRITE: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit TO off; SET LOCAL search_path TO ''";

/// Who this process is: the process, its machine, and a number that no other one draws.
pub(super) fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let nonce = RandomState::new().hash_one(0u8);
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
pub(super) async fn acquire(client: &Client, slot: &str, owner: &str) -> Result<Acquired> {
    let variables = [("slot", slot), ("owner", owner)];
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
    /// The rows are gone, and the lease goes on.
    Gone,
    /// The lease goes on; the rows stay as long as somebody records them.
    Recorded,
    /// The lease is another's: nothing was removed.
    Lost,
}

/// Removes rows whose keys are deleted, moves the position and renews the lease.
pub(super) async fn remove(
    client: &Client,
    (slot, owner): (&str, &str),
    confirmed: u64,
    rows: &[RowName],
) -> Result<Removed> {
    let list = |items: Vec<String>| format!("{{{}}}", items.join(","));
    let xids = list(rows.iter().map(|row| row.xid.to_string()).collect());
    let ids = list(rows.iter().map(|row| row.id.to_string()).collect());
    let confirmed = confirmed.to_string();
    let variables =
        [("slot", slot), ("owner", owner), ("confirmed", confirmed.as_str()), ("xids", &xids), ("ids", &ids)];
    let row = transact(client, BEGIN_WRITE, &quote::fill(REMOVE, &variables)).await?;
    let is = |column: usize| row.as_ref().and_then(|row| row.get(column)) == Some("t");
    Ok(match (is(0), is(1)) {
        (false, _) => Removed::Lost,
        (true, false) => Removed::Gone,
        (true, true) => Removed::Recorded,
    })
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
    fn an_owner_tells_its_process() {
        assert_eq!(pid(&owner()), std::process::id());
        assert_eq!((pid(""), pid("x@host/1")), (0, 0));
    }
}
