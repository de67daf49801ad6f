//! Changes beside the daemon, for commands that look on: `record` and the dry run.
//!
//! They come from a temporary slot, which ends with its session, or from the outbox, without its lease. Nobody's position
//! moves, no daemon is disturbed, and nothing stays behind. What comes are frames that nobody has looked into.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Config;
use crate::control::Control;
use crate::decode::Frame;
use crate::decode::frame::{Reply, StandbyStatus};
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::postgres::dsn::Dsn;
use crate::postgres::facts::Facts;
use crate::postgres::link::answered;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::session_error;
use crate::postgres::wire::{Wire, error_response};
use crate::source::outbox::{self, Follower, OutboxFacts};
use crate::source::recording::Header;
use crate::source::replication::connect::{no_publication, protocol_version, start_stream};
use crate::source::replication::now;
use crate::source::replication::slot::{self, Life, Maker};

/// The pause between two looks into the outbox.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// While what is committed by now is waited for, the server is asked this often how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Frames of what is committed from now on.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Beside {
    /// Everything up to here was handed out.
    fn position(&self) -> Lsn;

    /// Waits until there may be more, or something is due. Cancel-safe.
    async fn wait(&mut self) -> Result<()>;

    /// Does what is due. Not to be cancelled.
    async fn turn(&mut self) -> Result<()>;

    /// The next frame that is here.
    fn frame(&mut self) -> Result<Option<Vec<u8>>>;

    /// Where everything was handed out that is committed by now.
    async fn end(&mut self) -> Result<Lsn>;

    /// Leaves nothing behind.
    async fn close(self) -> Result<()>;
}

/// Who looks on.
#[allow(async_fn_in_trait)] // As above.
pub trait Onlooker {
    /// What came of it.
    type Seen;
    /// What may go wrong with it.
    type Failure: From<Error>;

    /// Looks at the stream until `stop`; `control` answers lookups.
    async fn look_on(
        self,
        stream: impl Beside,
        header: Header,
        control: impl Control,
        stop: impl Future<Output = ()> + Unpin,
    ) -> std::result::Result<Self::Seen, Self::Failure>;
}

/// A temporary slot, and its stream.
pub(super) struct TemporarySlot<'c> {
    config: &'c Config,
    dsn: &'c Dsn,
    wire: Wire,
    status_interval: Duration,
    status_due: Instant,
    silence: Silence,
    /// The end is waited for.
    asking: bool,
    position: Lsn,
}

impl<'c> TemporarySlot<'c> {
    /// Makes the slot and starts the stream. Each answer but that about the slot comes within the limit: making a slot
    /// waits for transactions that are open, for as long as they are.
    pub(super) async fn open(config: &'c Config, dsn: &'c Dsn, purpose: &str) -> Result<(Self, Header)> {
        let (publication, limit) = (&config.postgres.publication, config.postgres.liveness_timeout);
        let mut wire = Wire::connect(dsn, config.postgres.connect_timeout).await?;
        let version = "SELECT pg_catalog.current_setting('server_version')";
        let version = answered(limit, wire.simple_query(version)).await?;
        let facts = answered(limit, Facts::read(&mut wire, publication)).await?;
        if facts.publication.is_empty() {
            return Err(no_publication(publication));
        }
        let slot = format!("crieur_{purpose}_{}", std::process::id());
        let position = slot::create(&mut wire, &slot, Maker::of(&facts), Life::Session).await?;
        answered(limit, start_stream(&mut wire, &slot, publication, facts.version)).await?;
        let header = Header {
            server_version: version.into_iter().flatten().flatten().next().unwrap_or_default(),
            protocol_version: protocol_version(facts.version),
            slot,
            publication: publication.to_owned(),
            system_identifier: facts.system,
        };
        let (silence, status_interval) = (Silence::new(limit), facts.status_interval);
        let status_due = Instant::now();
        let slot = TemporarySlot { config, dsn, wire, status_interval, status_due, silence, asking: false, position };
        Ok((slot, header))
    }
}

impl Beside for TemporarySlot<'_> {
    fn position(&self) -> Lsn {
        self.position
    }

    async fn wait(&mut self) -> Result<()> {
        tokio::select! {
            () = sleep_until(self.status_due.min(self.silence.due())) => {}
            filled = self.wire.fill() => {
                filled?;
                self.silence = Silence::new(self.silence.limit);
            }
        }
        Ok(())
    }

    /// Everything that was handed out counts as flushed: the slot keeps no WAL of it.
    async fn turn(&mut self) -> Result<()> {
        let began = Instant::now();
        let silent = self.silence.ask(began)?;
        if silent == Reply::Requested || began >= self.status_due {
            let (at, reply) = (self.position, if self.asking { Reply::Requested } else { silent });
            let status = StandbyStatus { written: at, flushed: at, applied: at, sent_at: now(), reply };
            answered(self.silence.limit, self.wire.send_copy_data(&status.encode())).await?;
            self.status_due = began + if self.asking { ASK_INTERVAL } else { self.status_interval };
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some((tag, body)) = self.wire.message()? {
            match tag {
                b'd' => {}
                b'N' | b'S' => continue,
                b'E' => return Err(error_response(body)),
                _ => return Err(Error::transient("the server ended the stream")),
            }
            // What cannot be read is for whoever takes it to tell.
            match Frame::parse(body) {
                Ok(Frame::XLogData { start, .. }) => self.position = self.position.max(start),
                Ok(Frame::Keepalive { end, reply, .. }) => {
                    self.position = self.position.max(end);
                    if reply == Reply::Requested {
                        self.status_due = Instant::now();
                    }
                }
                Err(_) => {}
            }
            return Ok(Some(body.to_vec()));
        }
        Ok(None)
    }

    async fn end(&mut self) -> Result<Lsn> {
        const SQL: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
                           THEN pg_catalog.pg_last_wal_replay_lsn() \
                           ELSE pg_catalog.pg_current_wal_flush_lsn() END::text";
        (self.asking, self.status_due) = (true, Instant::now());
        let session = Session::connect(self.dsn, self.config.postgres.connect_timeout, "").await?;
        let row = session.client.query_one(SQL, &[]).await;
        let text: String = row.and_then(|row| row.try_get(0)).map_err(|error| session_error(&error))?;
        text.parse().map_err(|cause| Error::definite(Exit::Protocol, "read the end of WAL").because(cause))
    }

    async fn close(mut self) -> Result<()> {
        self.wire.copy_done().await
    }
}

/// Since when nothing was received, as in the daemon's own stream: half of the limit on, a reply is asked for once, and
/// behind all of it the link is dead.
struct Silence {
    since: Instant,
    limit: Duration,
    asked: bool,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Silence { since: Instant::now(), limit, asked: false }
    }

    /// When there is something to do about it.
    fn due(&self) -> Instant {
        self.since + if self.asked { self.limit } else { self.limit / 2 }
    }

    /// Whether a reply is to be asked for now.
    fn ask(&mut self, now: Instant) -> Result<Reply> {
        if now >= self.since + self.limit {
            let limit = self.limit;
            return Err(Error::transient(format!("nothing received for {limit:?}: the link is dead")));
        }
        if self.asked || now < self.due() {
            return Ok(Reply::NotRequested);
        }
        self.asked = true;
        Ok(Reply::Requested)
    }
}

/// The outbox, read beside the daemon, which removes no rows meanwhile.
pub(super) struct OutboxBeside {
    follower: Follower,
    frames: VecDeque<Vec<u8>>,
}

impl OutboxBeside {
    /// Begins behind everything that is visible now.
    pub(super) async fn open(config: &Config, dsn: &Dsn) -> Result<(Self, Header)> {
        let postgres = &config.postgres;
        let session = Session::through_pooler(dsn, postgres.connect_timeout).await?;
        let facts = OutboxFacts::read(&session.client).await?;
        let sql = "SELECT pg_catalog.current_setting('server_version')";
        let version = outbox::query(&session.client, sql, &[]).await?;
        let version = version.first().map_or(Ok(String::new()), |row| row.try_get(0));
        let header = Header {
            server_version: version.map_err(|error| session_error(&error))?,
            protocol_version: 1,
            slot: postgres.slot.clone(),
            publication: "crieur.outbox".to_owned(),
            system_identifier: facts.system,
        };
        let follower = Follower::begin(session, postgres.liveness_timeout).await?;
        Ok((OutboxBeside { follower, frames: VecDeque::new() }, header))
    }
}

impl Beside for OutboxBeside {
    fn position(&self) -> Lsn {
        self.follower.position()
    }

    async fn wait(&mut self) -> Result<()> {
        sleep(LOOK_PAUSE).await;
        Ok(())
    }

    async fn turn(&mut self) -> Result<()> {
        self.frames.extend(self.follower.frames().await?);
        Ok(())
    }

    fn frame(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.frames.pop_front())
    }

    /// The next look sees all of it.
    async fn end(&mut self) -> Result<Lsn> {
        Ok(self.position())
    }

    async fn close(self) -> Result<()> {
        self.follower.end().await
    }
}
