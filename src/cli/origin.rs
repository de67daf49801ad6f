//! Where the changes of a configuration come from, replication or an outbox: what a command does differently for each.

use crate::config::{Config, Mode};
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
        Ok(Origin { config, dsn: Dsn::read(&config.postgres.url)? })
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

    /// What a statement of a session fails with is the server's. What cannot be written, or was never sent, is no fault of
    /// it.
    pub fn blamed(&self, error: Error) -> Error {
        match error.exit() {
            Exit::CantCreate | Exit::Software | Exit::Config | Exit::Usage => error,
            _ => error.at(&self.dsn.servers()),
        }
    }
}
