//! How loud a line of the log is. Pure.

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
