//! Reads the outbox beside the daemon that works: what is committed from now on, as frames, for a recording.
//!
//! It removes nothing and needs no lease. As long as it is there, its row in `crieur.progress` keeps the daemon from
//! removing rows (`remove.sql`), so it misses none; when it dies, that row runs out within seconds.

use tokio::time::{Duration, Instant};

use crate::decode::outbox::{Encoder, Messages, Shapes};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::postgres::link::answered;
use crate::postgres::quote;
use crate::postgres::session::Session;
use crate::source::outbox::lease::{self, BEGIN_WRITE, transact};
use crate::source::outbox::page::{Poll, shapes};

/// How often its row is renewed; it lasts ten seconds.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// A reader beside the daemon.
pub(crate) struct Follower {
    session: Session,
    /// For each answer.
    limit: Duration,
    /// Its row's name.
    name: String,
    renew_due: Instant,
    poll: Poll,
    shapes: Shapes,
    encoder: Encoder,
    position: Lsn,
}

impl Follower {
    /// Begins behind everything that is visible now. A server that does not answer within `limit` is gone.
    pub(crate) async fn begin(session: Session, limit: Duration) -> Result<Self> {
        answered(limit, Follower::log_in(session, limit)).await
    }

    async fn log_in(session: Session, limit: Duration) -> Result<Self> {
        // No slot has a name with an "@", and no other recorder has this one.
        let name = format!("record_{}", lease::owner());
        renew(&session, &name).await?;
        let poll = Poll::from_now(&session.client).await?;
        Ok(Follower {
            session,
            limit,
            name,
            renew_due: Instant::now() + RENEW_INTERVAL,
            poll,
            shapes: Shapes::default(),
            encoder: Encoder::default(),
            position: Lsn(0),
        })
    }

    /// CopyData payloads of what became visible since the last call, as a walsender would send them; none when it is
    /// nothing.
    pub(crate) async fn frames(&mut self) -> Result<Vec<Vec<u8>>> {
        if self.renew_due <= Instant::now() {
            answered(self.limit, renew(&self.session, &self.name)).await?;
            self.renew_due = Instant::now() + RENEW_INTERVAL;
        }
        let mut out = Vec::new();
        loop {
            let page = answered(self.limit, self.poll.page(&self.session.client)).await?;
            let unknown: Vec<i32> = page.shapes().filter(|id| !self.shapes.contains_key(id)).collect();
            if !unknown.is_empty() {
                self.shapes.extend(answered(self.limit, shapes(&self.session.client, &unknown)).await?);
            }
            let mut messages = Messages::default();
            for index in 0..page.len() {
                let Some(row) = page.row(index) else { break };
                self.position.0 += 1;
                // One that is not understood is recorded as what it means: sweep everything.
                let _ = self.encoder.row(&row?, self.position, &self.shapes, &mut messages);
            }
            if page.is_last {
                self.encoder.end(&mut messages);
            }
            while let Some(message) = messages.pop() {
                let at = [self.position.0, self.position.0, page.at.cast_unsigned()].map(u64::to_be_bytes).concat();
                out.push([b"w", &at[..], message].concat());
            }
            if page.is_last {
                return Ok(out);
            }
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// Lets the daemon remove rows again.
    pub(crate) async fn end(self) -> Result<()> {
        let sql = format!("DELETE FROM crieur.progress WHERE slot = {}", quote::literal(&self.name));
        answered(self.limit, transact(&self.session.client, BEGIN_WRITE, &sql)).await.map(drop)
    }
}

async fn renew(session: &Session, name: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO crieur.progress (slot, owner_until) VALUES ({}, pg_catalog.clock_timestamp() + interval '10 s') \
         ON CONFLICT (slot) DO UPDATE SET owner_until = excluded.owner_until",
        quote::literal(name)
    );
    let renewed = transact(&session.client, BEGIN_WRITE, &sql).await;
    renewed.map(drop).map_err(|error: Error| error.while_doing("keep rows from being removed"))
}
