//! Cached values against the database: `crieur verify` once over all of them, the daemon over a few each minute.
//!
//! A value that the database contradicts is only a suspect, because its delete may be on the way. It is stale when the same
//! bytes are contradicted three times: a second time when the echoes of all that was committed before the first look are
//! done, which the cache's own mark says, and a third time when the first deletes of all that was committed before the
//! second are. The mark is read before and after each of these looks. The verifier has connections of its own to both
//! servers, and writes nothing into a cache.

pub mod ask;
mod daemon;
mod eyes;
mod judge;
mod newer;
mod once;
mod position;

pub use daemon::Sampler;
pub use eyes::wrong;
pub use newer::Newer;
pub use once::{VerifyArgs, run};
