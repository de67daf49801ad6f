//! Where and how to stream.

use std::time::Duration;

use crate::postgres::dsn::Dsn;

/// Where and how to stream.
#[derive(Debug, Clone)]
pub struct SlotOptions {
    /// The server.
    pub dsn: Dsn,
    /// The replication slot; made anew when it is missing or dead.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// `postgres.standby`: the server may be a standby, and changes are those that it has replayed.
    pub standby: bool,
    /// Limit for TCP, TLS and log-in together, for each host.
    pub connect_timeout: Duration,
    /// With nothing received for half of it a reply is asked for, after all of it the link is dropped.
    pub liveness_timeout: Duration,
}
