//! What changes ask for: what a plan writes and the batch gathers.

use crate::keys::KeySet;
use crate::rules::plan::cause::Causes;
use crate::warm::Pages;

/// What changes ask for, until it is sent: exact keys, patterns (escaped globs) and lookups that wait for the gate.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    /// Exact keys.
    pub keys: KeySet,
    /// Escaped Redis globs.
    pub patterns: KeySet,
    /// Encoded lookups: which template, its parameters, the values of its other columns. Only `rules` reads them.
    pub lookups: KeySet,
    /// Lookups whose kept answers are older than these changes: their numbers, as four bytes each.
    pub forgets: KeySet,
    /// Keys that were widened to a pattern because a value was unknown; a counter, never reset by a split.
    pub widened: u64,
    /// Keys that a rule named and a protected pattern covers: they stay. A counter like `widened`.
    pub protected: u64,
    /// Keys with the addresses of their pages (`warm/entry.rs`), until the first delete tells which keys existed.
    pub warms: KeySet,
    /// Pages that were left out; a counter like `widened`.
    pub unwarmed: u64,
    /// The pages that are fetched behind the last delete of these keys.
    pub pages: Pages,
    /// Why whole templates are among the patterns.
    pub causes: Causes,
}
