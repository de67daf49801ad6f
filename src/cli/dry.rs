//! `crieur run --dry-run`: what the daemon would delete, printed instead.
//!
//! It streams from a temporary slot of its own, which ends with it, or reads the outbox beside its lease: the configured
//! slot is not touched, no position of it moves, and a daemon that works goes on working. The cache is not connected to,
//! so no mark is read or written. What is printed is what `crieur replay` prints; keys hold row values.

use std::io::Write;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use crate::change::Event;
use crate::cli::output::cannot_write;
use crate::config::{Config, Mode};
use crate::control::Control;
use crate::control::pooled::PooledControl;
use crate::control::session::ControlSession;
use crate::decode::Frame;
use crate::error::{Exit, Result};
use crate::observe::{Id, log};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::rules::Rules;
use crate::source::Source;
use crate::source::outbox::Follower;
use crate::source::replication::{Life, Replication, SlotOptions};
use crate::tap::{FrameTap, Settled, Tap, Tapped};

/// Prints until `stop`, or until the connection ends.
pub async fn run(config: &Config, stop: impl Future<Output = ()>, out: &mut impl Write) -> Result<Exit> {
    let dsn = Dsn::read(&config.postgres.url)?;
    let postgres = &config.postgres;
    let bytes_max = config.limits.memory_bytes_max.try_into().unwrap_or(usize::MAX);
    if postgres.mode == Mode::Outbox {
        return follow(config, dsn, bytes_max, stop, out).await;
    }
    let rules = &config.rules;
    let lookups = rules.lookups();
    let control = ControlSession::new(dsn.clone(), postgres.connect_timeout, postgres.lookup_timeout, lookups);
    let mut source = Replication::new(SlotOptions {
        dsn,
        slot: format!("crieur_dry_{}", std::process::id()),
        life: Life::Session,
        publication: postgres.publication.clone(),
        connect_timeout: postgres.connect_timeout,
        liveness_timeout: postgres.liveness_timeout,
    });
    let mut printer = Printer { rules, control, tap: Tap::new(rules, bytes_max), out };
    log!(Id::Dry, "{SAID}");
    tokio::pin!(stop);
    loop {
        let due = source.status_due();
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = async { sleep_until(due.expect("the branch is for a status that is due")).await }, if due.is_some() => {
                source.status().await?;
            }
            ready = source.ready() => {
                ready?;
                printer.take_from(&mut source).await?;
            }
        }
    }
    source.close().await?;
    Ok(Exit::Ok)
}

/// [`run`] in outbox mode: beside the daemon, which removes no rows meanwhile.
async fn follow(
    config: &Config,
    dsn: Dsn,
    bytes_max: usize,
    stop: impl Future<Output = ()>,
    out: &mut impl Write,
) -> Result<Exit> {
    let Config { postgres, rules, .. } = config;
    let session = Session::through_pooler(&dsn, postgres.connect_timeout).await?;
    let control = PooledControl::new(dsn, postgres.connect_timeout, postgres.lookup_timeout, rules, Vec::new());
    let mut follower = Follower::begin(session, postgres.liveness_timeout).await?;
    let mut printer = Printer { rules, control, tap: FrameTap::new(rules, bytes_max), out };
    log!(Id::Dry, "{SAID}");
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = sleep(LOOK_PAUSE) => {}
        }
        for frame in follower.frames().await? {
            let Frame::XLogData { payload, .. } = Frame::parse(&frame)? else { continue };
            for tapped in printer.tap.payload(payload, &printer.control).await? {
                printer.print(tapped).await?;
            }
        }
    }
    follower.end().await?;
    Ok(Exit::Ok)
}

/// The first line of the log.
const SAID: &str = "dry run: keys are printed and nothing is deleted; the configured slot and the cache are left alone";

/// The pause between two looks into the outbox.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What becomes of events.
struct Printer<'a, W: Write, C, T> {
    rules: &'a Rules,
    control: C,
    tap: T,
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W, ControlSession, Tap<'_, <Replication as Source>::Ack>> {
    /// Everything that is in the source's buffer. The temporary slot's own position follows: it keeps no WAL.
    async fn take_from(&mut self, source: &mut Replication) -> Result<()> {
        let mut done = None;
        while let Some(event) = source.take()? {
            if let Event::Commit(_, ack) | Event::Idle(ack) = event {
                done = Some(ack);
            }
            self.event(event).await?;
        }
        if let Some(ack) = done {
            source.acknowledge(ack);
        }
        Ok(())
    }
}

impl<W: Write, C: Control, A: Copy + Ord> Printer<'_, W, C, Tap<'_, A>> {
    async fn event(&mut self, event: Event<'_, A>) -> Result<()> {
        let tapped = self.tap.event(event, &self.control).await?;
        self.print(tapped).await
    }
}

impl<W: Write, C: Control, T> Printer<'_, W, C, T> {
    async fn print(&mut self, tapped: Tapped) -> Result<()> {
        let Some(transaction) = tapped.transaction else { return Ok(()) };
        let settled = Settled::ask(transaction, self.rules, &self.control).await?;
        let printed = write!(self.out, "{settled}").and_then(|()| self.out.flush());
        printed.map_err(cannot_write)
    }
}
