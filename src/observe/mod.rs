//! What the daemon tells of itself: the list of its ids, and the lines of the log that carry them.

pub mod ids;

pub use ids::{Id, Level, Line};

/// Writes one line of the log: `log!(Id::SlotAnew, hint, "replication slot \"{name}\" is created anew")`. The level comes
/// from the list of ids, and the line carries the id.
macro_rules! log {
    ($line:expr, $($said:tt)+) => {{
        let line = $crate::observe::Line::from($line);
        match line.level {
            $crate::observe::Level::Error => ::tracing::error!(id = %line.id, $($said)+),
            $crate::observe::Level::Warn | $crate::observe::Level::Lasting => ::tracing::warn!(id = %line.id, $($said)+),
            $crate::observe::Level::Info => ::tracing::info!(id = %line.id, $($said)+),
        }
    }};
}
pub(crate) use log;
