//! Which outbox, and how to reach it.

use std::time::Duration;

use crate::postgres::dsn::Dsn;

/// Which outbox, and how to reach it.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// The server, or a pooler before it.
    pub dsn: Dsn,
    /// The consumer's name.
    pub slot: String,
    /// Limit for TCP, TLS and log-in together, for each host.
    pub connect_timeout: Duration,
    /// A server that does not answer for so long is gone.
    pub answer_timeout: Duration,
}
