//! Where the changes of a configuration come from, replication or an outbox: what a command does differently for each.

use crate::cli::beside::{Onlooker, OutboxBeside, TemporarySlot};
use crate::config::{Config, Mode};
use crate::control::pooled::PooledControl;
use crate::control::session::ControlSession;
use crate::error::{Error, Exit, Result};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::question::LookupId;
use crate::rules::about::needs::TableNeeds;

/// The configured server, and the way in which changes come from it.
#[derive(Debug)]
pub struct Origin<'c> {
    /// The configuration.
    pub config: &'c Config,
    dsn: Dsn,
}

impl<'c> Origin<'c> {
    /// Reads the address.
    pub fn of(config: &'c Config) -> Result<Self> {
        Ok(Origin { config, dsn: config.postgres.dsn()? })
    }

    /// An ordinary session for a command that runs and ends.
    pub async fn session(&self) -> Result<Session> {
        let limit = self.config.postgres.connect_timeout;
        match self.config.postgres.mode {
            Mode::Replication => Session::connect(&self.dsn, limit, "").await,
            Mode::Outbox => Session::through_pooler(&self.dsn, limit).await,
        }
    }

    /// The tables whose changes must come. Answers of lookups are kept only where they come in commit order.
    pub fn needs(&self) -> Vec<TableNeeds> {
        match self.config.postgres.mode {
            Mode::Replication => self.config.rules.streamed(),
            Mode::Outbox => self.config.rules.tables(),
        }
    }

    /// Whether answers of the lookup are kept.
    pub fn keeps(&self, lookup: LookupId) -> bool {
        match self.config.postgres.mode {
            Mode::Replication => self.config.rules.keeps(lookup),
            Mode::Outbox => false,
        }
    }

    /// Lets somebody look at what is committed from now on, until `stop`; `None` where that came before the stream.
    pub async fn beside<O: Onlooker>(
        &self,
        purpose: &str,
        mut stop: impl Future<Output = ()> + Unpin,
        onlooker: O,
    ) -> std::result::Result<Option<O::Seen>, O::Failure> {
        let (config, dsn, Config { postgres, rules, .. }) = (self.config, &self.dsn, self.config);
        let (connect, lookup) = (postgres.connect_timeout, postgres.lookup_timeout);
        match postgres.mode {
            Mode::Replication => {
                let opened = before(&mut stop, TemporarySlot::open(config, dsn, purpose)).await?;
                let Some((stream, header)) = opened else { return Ok(None) };
                let control = ControlSession::new(dsn.clone(), connect, lookup, rules.lookups());
                let control = control.beside_standby(postgres.standby);
                onlooker.look_on(stream, header, control, stop).await.map(Some)
            }
            Mode::Outbox => {
                let opened = before(&mut stop, OutboxBeside::open(config, dsn)).await?;
                let Some((stream, header)) = opened else { return Ok(None) };
                let control = PooledControl::new(dsn.clone(), connect, lookup, rules, Vec::new());
                onlooker.look_on(stream, header, control, stop).await.map(Some)
            }
        }
    }

    /// What a statement of a session fails with is the server's. What was never sent, or is of what a command says, is no
    /// fault of it.
    pub fn blamed(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<Error>() {
            Ok(error) if matches!(error.exit(), Exit::Software | Exit::Config | Exit::Usage) => error.into(),
            Ok(error) => error.at(&self.dsn.servers()).into(),
            Err(other) => other,
        }
    }
}

/// What comes of `work`, unless `stop` comes first.
async fn before<T>(stop: impl Future<Output = ()> + Unpin, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    tokio::select! {
        () = stop => Ok(None),
        done = work => done.map(Some),
    }
}
