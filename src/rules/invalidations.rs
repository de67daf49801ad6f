//! What changes ask for: what a plan writes and the batch gathers.

use crate::keys::KeySet;
use crate::rules::plan::cause::Causes;

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
    /// Why whole templates are among the patterns.
    pub causes: Causes,
}
