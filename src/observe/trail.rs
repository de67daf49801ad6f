//! The trail: what single changes asked for, for people who watch. Plain values.
//!
//! Each is a row change with the keys that its rules named. A few hundred of them are kept in a second, the others are
//! counted: a trail is there to be read, and the totals are exact without it.

use std::sync::Arc;
use std::time::SystemTime;

/// Keys of one change that are kept.
pub const KEYS_MAX: usize = 20;

/// Bytes of one key that are kept.
pub const KEY_BYTES_MAX: usize = 256;

/// A key that a rule named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// Where the rule stands, as `crieur explain` says it.
    pub rule: Arc<str>,
    /// The key, or the pattern; bytes that are no text are replaced, and a long one is cut.
    pub key: String,
    /// Whether it is a pattern: a value of the key was unknown, or the rule has a `*`.
    pub is_pattern: bool,
}

/// One row change, and what its rules asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Counts from 1 since the daemon started.
    pub number: u64,
    /// Schema and name of the table.
    pub table: Arc<str>,
    /// `insert`, `update`, `delete`, `truncate`.
    pub operation: &'static str,
    /// The first of them.
    pub keys: Vec<NamedKey>,
    /// Keys besides.
    pub more: usize,
    /// Changes before this one that were not looked at, because there were very many.
    pub left_out: u64,
    /// When its transaction committed, by our clock.
    pub committed: SystemTime,
}
