//! Positions and transaction numbers, as PostgreSQL writes them.
//!
//! An [`Lsn`] is a byte position in the write-ahead log; a [`Xid`] is the low 32 bits of a transaction number. Neither
//! can be mistaken for the other or for a plain integer. What may be *confirmed* is not an `Lsn` at all: it is the
//! [`Source`](crate::source::Source)'s own `Ack`, which only a source can make.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log (`XLogRecPtr`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not of the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsnParseError(String);

impl fmt::Display for LsnParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log position \"{}\" is not of the form 16/B374D848", self.0.escape_debug())
    }
}

impl std::error::Error for LsnParseError {}

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || LsnParseError(text.to_owned());
        let half = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten().ok_or_else(refuse)
        };
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

/// The low 32 bits of a transaction number, as the replication protocol sends it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Xid(pub u32);

impl Xid {
    /// No transaction (`InvalidTransactionId`): no transaction ever gets this number.
    pub const NONE: Xid = Xid(0);
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_like_postgres() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "/", "1", "1/", "/1", "g/0", "1/123456789", "+1/2", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
