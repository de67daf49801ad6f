//! How to log in at servers whose places other servers name.

use std::sync::Arc;

pub use crate::place::{HostPort, NodeMap, SERVER_PORT};
use crate::tls::Trust;

/// How to log in at servers whose places another server names.
#[derive(Clone)]
pub struct NodeLogin {
    /// `None` without TLS.
    pub(super) trust: Option<Arc<Trust>>,
    /// ACL user; `None` is `default`.
    pub(super) user: Option<String>,
    /// Password; `None` sends no AUTH at all.
    pub(super) password: Option<String>,
    /// Database number.
    pub(super) database: i64,
    /// Other addresses of the same servers.
    pub(super) nodes: NodeMap,
    /// Behind the place in messages: " (REDIS_URL)", or nothing.
    pub(super) written: String,
}
