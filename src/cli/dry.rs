//! `crieur run --dry-run`: what the daemon would delete, printed instead.
//!
//! It streams from a temporary slot of its own, which ends with it: the configured slot is not touched, no position of it
//! moves, and a daemon that works goes on working. The cache is not connected to, so no mark is read or written. What is
//! printed is what `crieur replay` prints; keys hold row values.

use std::io::Write;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};
use tracing::info;

use crate::change::Event;
use crate::cli::replay::{Settled, Transaction, Transactions};
use crate::config::{Config, Mode};
use crate::control::Control;
use crate::error::{Error, Exit, Result};
use crate::pipeline::intake::Need;
use crate::session::ControlSession;
use crate::source::Source;
use crate::source::dsn::Dsn;
use crate::source::replication::{Life, Options, Replication};

/// The pause before a transaction with lookups is looked for again.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// Prints until `stop`, or until the connection ends.
pub async fn run(config: &Config, stop: impl Future<Output = ()>, out: &mut impl Write) -> Result<Exit> {
    if config.postgres.mode == Mode::Outbox {
        // Rows of the outbox are the daemon's: whoever reads them beside it needs a position of its own.
        return Err(Error::definite(Exit::Usage, "a dry run reads the replication stream, and postgres.mode is \"outbox\"")
            .hint("Use `crieur record` and `crieur replay`, or CRIEUR__POSTGRES__MODE=replication where the role may replicate."));
    }
    let dsn = Dsn::parse(config.postgres.url.expose())?;
    let postgres = &config.postgres;
    let lookups = config.rules.lookups();
    let control = ControlSession::new(dsn.clone(), postgres.connect_timeout, postgres.lookup_timeout, lookups);
    let mut source = Replication::new(Options {
        dsn,
        slot: format!("crieur_dry_{}", std::process::id()),
        life: Life::Session,
        publication: postgres.publication.clone(),
        connect_timeout: postgres.connect_timeout,
        liveness_timeout: postgres.liveness_timeout,
    });
    let bytes_max = config.limits.memory_bytes_max.try_into().unwrap_or(usize::MAX);
    let mut printer = Printer { config, control, transactions: Transactions::new(bytes_max), count: 0, out };
    info!("dry run: keys are printed and nothing is deleted; the configured slot and the cache are left alone");
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

/// What becomes of events.
struct Printer<'a, W: Write> {
    config: &'a Config,
    control: ControlSession,
    transactions: Transactions<<Replication as Source>::Ack>,
    /// Transactions that delete something.
    count: u64,
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    /// Everything that is in the source's buffer. The temporary slot's own position follows: it keeps no WAL.
    async fn take_from(&mut self, source: &mut Replication) -> Result<()> {
        let rules = &self.config.rules;
        let mut done = None;
        while let Some(event) = source.take()? {
            if let Event::Commit(_, ack) | Event::Idle(ack) = event {
                done = Some(ack);
            }
            let (need, committed) = self.transactions.event(event, rules);
            if let Need::PartitionRoot(relation) = &need {
                let root = self.control.partition_root(relation.oid).await?;
                self.transactions.resolved(need, root, rules);
            }
            if let Some(transaction) = committed {
                self.print(transaction).await?;
            }
        }
        if let Some(ack) = done {
            source.acknowledge(ack);
        }
        Ok(())
    }

    /// Lookups see what the transaction did, as they do behind the daemon's gate.
    async fn print(&mut self, Transaction { xid, load }: Transaction) -> Result<()> {
        while !load.lookups.is_empty() && !self.control.snapshot().await?.contains(xid) {
            sleep(GATE_PAUSE).await;
        }
        self.count += 1;
        let settled = Settled::ask(self.count, load, &self.config.rules, &self.control).await?;
        let printed = write!(self.out, "{settled}").and_then(|()| self.out.flush());
        printed.map_err(|cause| Error::definite(Exit::CantCreate, "the output cannot be written").because(cause))
    }
}
