//! What the daemon tells of itself: what happens (`news.rs`), who may read it late (`recent.rs`), and the lines of the log
//! with the list of their ids (`ids.rs`).
//!
//! Whatever is said in the log is news as well: `heard.rs` takes it from there, so that a part of the daemon that says
//! something needs to know nobody.

pub mod board;
pub mod delays;
pub mod heard;
pub mod ids;
pub mod level;
pub mod line;
pub mod news;
pub mod recent;
pub mod speaker;
pub mod teller;
pub mod trail;
pub mod warned;

pub use ids::{Id, Level};
pub use line::Line;

/// Writes one line of the log: `log!(Id::SlotAnew, hint, "replication slot \"{name}\" is created anew")`. The level comes
/// from the list of ids, and the line carries the id, and the name of the cache whose part says it.
macro_rules! log {
    ($line:expr, $($said:tt)+) => {{
        let line = $crate::observe::Line::from($line);
        let speaker = $crate::observe::speaker::speaker();
        let cache = speaker.as_deref().map(::tracing::field::display);
        match line.level {
            $crate::observe::Level::Error => ::tracing::error!(id = %line.id, cache, $($said)+),
            $crate::observe::Level::Warn | $crate::observe::Level::Lasting => {
                ::tracing::warn!(id = %line.id, cache, $($said)+);
            }
            $crate::observe::Level::Info => ::tracing::info!(id = %line.id, cache, $($said)+),
        }
    }};
}
pub(crate) use log;
