//! The seam: whatever can send one command to a Redis-protocol server.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Within this time a store answers, unless it says another.
pub const TIMEOUT: Duration = Duration::from_millis(500);

/// A future that a store returns.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Reply, StoreError>> + Send + 'a>>;

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A text, `OK` included.
    Bytes(Vec<u8>),
    /// Several answers.
    Many(Vec<Reply>),
}

impl Reply {
    /// The number, also where a proxy made a text of it.
    pub fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(number) => Some(*number),
            Reply::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            Reply::Nil | Reply::Many(_) => None,
        }
    }

    /// Whether this is the text.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Reply::Bytes(bytes) if bytes == text.as_bytes())
    }
}

/// The way to the cache. A second implementation is a few lines: see the README.
///
/// A store sends each command at most once, and answers or fails in bounded time. A store over a client that sends again
/// by itself says so.
pub trait Store: Send + Sync + 'static {
    /// Sends a command. An answer that may belong to a second copy of the command is a failure.
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a>;

    /// Whether something below sends commands again by itself: then a lease is taken by the script that makes another
    /// lease each time it runs, and plain readers are refused.
    fn resends(&self) -> bool {
        false
    }

    /// Within which time [`Store::send`] ends.
    fn timeout(&self) -> Duration {
        TIMEOUT
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    text: String,
}

/// What a failure means for what is sent next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreErrorKind {
    /// The server did not answer, or answered something else.
    Lost,
    /// The server will not serve us for a while: a wrong password, a quota.
    Refused,
    /// The server answered, and what stands at this key is of another type.
    OneKey,
}

impl StoreError {
    /// A failure, sorted by the words of the server.
    pub fn new(text: impl Into<String>) -> StoreError {
        let text = text.into();
        StoreError { kind: kind_of(&text), text }
    }

    /// What it means for what is sent next.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

fn kind_of(text: &str) -> StoreErrorKind {
    let lower = text.to_ascii_lowercase();
    let has_quota =
        lower.split_once("max ").is_some_and(|(_, rest)| rest.contains("request") && rest.contains("limit"));
    let is_refused =
        ["wrongpass", "noauth", "unauthorized", "authentication failed"].iter().any(|word| lower.contains(word));
    match () {
        () if is_refused || has_quota => StoreErrorKind::Refused,
        () if text.contains("WRONGTYPE") => StoreErrorKind::OneKey,
        () => StoreErrorKind::Lost,
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_server_decide_how_long_nothing_is_sent() {
        let cases = [
            ("connection refused", StoreErrorKind::Lost),
            ("WRONGPASS invalid username-password pair", StoreErrorKind::Refused),
            ("NOAUTH Authentication required.", StoreErrorKind::Refused),
            ("ERR max daily request limit exceeded. Limit: 10000", StoreErrorKind::Refused),
            ("ERR max requests limit exceeded", StoreErrorKind::Refused),
            ("ERR max request size exceeded", StoreErrorKind::Lost),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreErrorKind::OneKey),
            ("ERR syntax error", StoreErrorKind::Lost),
        ];
        for (text, kind) in cases {
            assert_eq!(StoreError::new(text).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_number_is_one_also_as_a_text() {
        assert_eq!([Reply::Int(7), Reply::Bytes(b"7".to_vec())].map(|reply| reply.int()), [Some(7); 2]);
        assert_eq!([Reply::Nil, Reply::Bytes(b"x".to_vec())].map(|reply| reply.int()), [None; 2]);
    }
}
