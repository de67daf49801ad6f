//! A client of PostgreSQL: connection strings, sockets, TLS, the replication session, ordinary sessions, SQLSTATEs.
//!
//! It knows no rule, key or cache, and no source: what is asked for, and what an answer means for a cache, is decided by
//! `source/` (the stream), `control/` (what the stream cannot tell) and `catalog/` (what `check` and `setup` look at).

pub mod dsn;
pub(crate) mod facts;
pub mod frames;
pub mod link;
pub mod quote;
pub mod session;
pub mod socket;
pub mod sqlstate;
pub mod tls;
pub mod wire;
