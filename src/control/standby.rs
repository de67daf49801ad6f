//! The control session beside a standby: its gate is what that standby has replayed.
//!
//! The walsender of a standby sends what was replayed there (`WalSndWaitForWal` in src/backend/replication/walsender.c),
//! so the gate mostly says at once what the stream showed. It is asked all the same: the session may be on another
//! server than the stream, and the standby may be promoted at any moment, after which commits are sent ahead of their
//! visibility as on every primary. A snapshot that was begun in recovery says nothing of that primary's transactions, so
//! behind a promotion the next statement takes another one.

use std::cell::RefCell;
use std::time::Duration;

use tokio_postgres::{Client, ToStatement};

use crate::control::{CURRENT, parsed};
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::postgres::sqlstate::session_error;
use crate::start::Start;

/// How often a standby that has not replayed enough is asked again.
pub(super) const INTERVAL: Duration = Duration::from_millis(5);

/// Up to where the WAL is that another standby can have replayed.
pub(super) const END: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_flush_lsn() END::text";

/// In recovery: yes, up to where it has replayed, the oldest transaction that is open.
pub(super) const REPLAYED: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()::text, \
     pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text";

/// The next transaction number, by way of the age of the first one: no function of a standby gives out or names one. It is
/// past every transaction of which anything was replayed (`RecordKnownAssignedTransactionIds` in procarray.c).
const NEXT: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.age('3'::pg_catalog.xid), \
     pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text";

/// What `elders` and the check of the server are for a session beside a standby.
#[derive(Debug, Default)]
pub(super) struct BesideStandby {
    /// When the server of the stream started.
    expected: RefCell<Option<String>>,
}

impl BesideStandby {
    /// The stream starts here.
    pub(super) fn follow(&self, start: &Start) {
        *self.expected.borrow_mut() = start.run.split('/').next().map(str::to_owned);
    }

    /// A primary and its standbys have one system identifier; when they started tells them from each other.
    pub(super) fn same_server(&self, started: Option<&String>) -> Result<()> {
        match (&*self.expected.borrow(), started) {
            (Some(expected), Some(found)) if expected != found => {
                Err(Error::transient("ordinary sessions reach another server of the cluster than the stream")
                    .hint("Let postgres.url name the standby itself, not an address that leads to several."))
            }
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }
}

fn unexpected() -> Error {
    Error::definite(Exit::Protocol, "the standby's answer about its replay cannot be read")
}

/// The low 32 bits of a transaction number.
fn low(xid8: &str) -> Option<u32> {
    xid8.parse::<u64>().ok().map(|xid| xid as u32)
}

/// What a standby shows that has replayed `upto`; `None` while it has not. `replayed` is [`REPLAYED`], prepared.
pub(super) async fn shown(
    client: &Client,
    replayed: &tokio_postgres::Statement,
    upto: Lsn,
) -> Result<Option<Snapshot>> {
    let row = client.query_one(replayed, &[]).await.map_err(|error| session_error(&error))?;
    let in_recovery: bool = row.try_get(0).map_err(|error| session_error(&error))?;
    if !in_recovery {
        return current(client, CURRENT).await.map(Some);
    }
    let text = |column| row.try_get::<_, Option<&str>>(column).ok().flatten();
    let position: Lsn = text(1).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
    let below = text(2).and_then(low).ok_or_else(unexpected)?;
    Ok((position >= upto).then_some(Snapshot::Replayed { below }))
}

/// What may be open on a standby; `None` once it is a primary.
pub(super) async fn open(client: &Client) -> Result<Option<Snapshot>> {
    let row = client.query_one(NEXT, &[]).await.map_err(|error| session_error(&error))?;
    let in_recovery: bool = row.try_get(0).map_err(|error| session_error(&error))?;
    let age: i32 = row.try_get(1).map_err(|error| session_error(&error))?;
    let below = row.try_get::<_, &str>(2).ok().and_then(low).ok_or_else(unexpected)?;
    // As the server counts it: modulo 2^32, from the first ordinary number (`xid_age` in xid.c).
    let next = 3_u32.wrapping_add(age as u32);
    Ok(in_recovery.then(|| Snapshot::open_on_standby(next, below)))
}

/// What a primary shows; `asks` is [`CURRENT`], as a text or prepared.
pub(super) async fn current(client: &Client, asks: &(impl ToStatement + ?Sized)) -> Result<Snapshot> {
    let row = client.query_one(asks, &[]).await;
    let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
    parsed(&text)
}
