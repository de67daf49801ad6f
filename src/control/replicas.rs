//! Read replicas: how far they have replayed the primary's WAL. Sessions only; the loop decides what waits for them.
//!
//! A reader of a replica fills the cache with what the replica shows, so a key is deleted once more when every replica
//! has replayed its commit. Only the replay position tells: on a standby `pg_current_snapshot()` lists no transaction
//! as in progress (`GetSnapshotData` in src/backend/storage/ipc/procarray.c), whatever is.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::session_error;
use crate::reminder::Reminder;

/// How often a replica that lags is asked again.
const INTERVAL: Duration = Duration::from_millis(10);

/// Sessions with one standby, as many as ask at once; each connects when first needed, anew after an error.
struct Replica {
    dsn: Dsn,
    idle: RefCell<Vec<Session>>,
}

/// All of `postgres.replicas`.
#[derive(Default)]
pub struct ReplicaSessions {
    replicas: Vec<Replica>,
    /// For connecting, and for each answer.
    limit: Duration,
}

impl ReplicaSessions {
    /// `limit` is for each connection and each answer.
    pub fn new(dsns: Vec<Dsn>, limit: Duration) -> Self {
        let replicas = dsns.into_iter().map(|dsn| Replica { dsn, idle: RefCell::default() }).collect();
        ReplicaSessions { replicas, limit }
    }

    /// Waits until every replica has replayed `lsn`. One attempt: a replica that fails is an error.
    pub async fn reach(&self, lsn: Lsn) -> Result<()> {
        for replica in &self.replicas {
            let reached = self.reach_one(replica, lsn).await;
            reached.map_err(|error| error.at(&replica.dsn.servers()).while_doing("ask the replica"))?;
        }
        Ok(())
    }

    async fn reach_one(&self, replica: &Replica, lsn: Lsn) -> Result<()> {
        let mut said = Reminder::begun(Id::ReplicaBehind, Instant::now());
        loop {
            // Out of its place while it is used: an error, or a dropped call, leaves none behind.
            let session = replica.idle.borrow_mut().pop();
            let session = match session {
                Some(session) => session,
                None => Session::connect(&replica.dsn, self.limit, "-c default_transaction_read_only=on").await?,
            };
            let replayed = match timeout(self.limit, replayed(&session)).await {
                Ok(replayed) => replayed?,
                Err(_) => return Err(Error::transient(format!("no answer within {:?}", self.limit))),
            };
            replica.idle.borrow_mut().push(session);
            if replayed >= lsn {
                return Ok(());
            }
            if said.is_due(&Id::ReplicaBehind, Instant::now()) {
                let hint = "The position waits for it: see pg_stat_wal_receiver and pg_is_wal_replay_paused() there.";
                let server = replica.dsn.servers();
                log!(Id::ReplicaBehind, hint, "replica {server} has replayed {replayed} and is waited for at {lsn}");
            }
            sleep(INTERVAL).await;
        }
    }
}

/// A server that was promoted still says what it replayed as a standby, for ever the same.
async fn replayed(session: &Session) -> Result<Lsn> {
    let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()::text END";
    let row = session.client.query_one(sql, &[]).await;
    let text: Option<String> = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::transient("the server is no standby, or has replayed nothing")
            .hint("Name only standbys in postgres.replicas; after a failover take the new primary out of it.")
    })
}
