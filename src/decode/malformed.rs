//! What cannot be understood, and what cannot follow.

use std::fmt;

use crate::error::{Error, Exit};

/// The way out of every error of this module.
const HINT: &str = "Nothing past this message was confirmed. Record the stream with `crieur record` and report it.";

/// A message that cannot be understood. Holds no byte of it but the tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// Offset from the start of the message, its tag included.
    pub at: usize,
    /// What is wrong there: a clause in lower case.
    pub what: &'static str,
    /// The message's first byte; 0 when there is none.
    pub tag: u8,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replication message \"{}\", byte {}: {}", self.tag.escape_ascii(), self.at, self.what)
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::definite(Exit::Data, error.to_string()).hint(HINT)
    }
}

/// The messages are well formed but cannot follow each other.
#[cold]
pub(super) fn out_of_order(what: impl Into<String>) -> Error {
    Error::definite(Exit::Data, what).hint(HINT)
}
