//! How loud a line of the log is. Pure.
//!
//! ERROR: something is or will be wrong until a person acts. WARN: nobody must act yet, because crieur tries again or
//! deletes more than it would have to. INFO: something changed. What lasts begins as WARN and is an ERROR when it has
//! lasted for a minute.

/// How loud a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Something is or will be wrong until a person acts.
    Error,
    /// Nobody must act yet.
    Warn,
    /// WARN when it begins, and ERROR each minute when it has lasted for one.
    Lasting,
    /// Something changed.
    Info,
}

impl Level {
    /// As the log shows it.
    pub fn shown(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Lasting => "WARN, after a minute ERROR",
            Level::Info => "INFO",
        }
    }
}
