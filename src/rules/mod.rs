//! From a change to keys: compiled once per relation into a plan. No I/O; cannot fail at run time.

pub mod needs;
pub mod parse;
pub mod plan;
pub mod template;

use crate::change::Relation;
use crate::control::{Answer, Question};
use crate::keys::{FamilyId, KeySet};

pub use plan::Plan;

/// What changes ask for, until it is sent: exact keys, patterns (escaped globs) and lookups that wait for the gate.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    /// Exact keys.
    pub keys: KeySet,
    /// Escaped Redis globs.
    pub patterns: KeySet,
    /// Encoded lookups: which template, its parameters, the values of its other columns. Only `rules` reads them.
    pub lookups: KeySet,
    /// Keys that were widened to a pattern because a value was unknown; a counter, never reset by a split.
    pub widened: u64,
}

/// All rules, parsed and checked, independent of any server.
#[derive(Debug, Default)]
pub struct Rules {
    // private
}

impl Rules {
    /// The pattern that covers every key of one template, escaped (`properties:city:*`; a constant key is itself).
    pub fn family(&self, _id: FamilyId) -> &[u8] {
        &[]
    }

    /// Patterns of all families, for a sweep of everything that the rules own.
    pub fn families(&self) -> impl Iterator<Item = (FamilyId, &[u8])> {
        std::iter::empty()
    }

    /// Whether a rule names the table.
    pub fn concerns(&self, _schema: &str, _table: &str) -> bool {
        false
    }

    /// Compiles the rules of `table` (the relation itself, or the root of its partition tree) against its columns.
    pub fn plan(&self, _relation: &Relation, _table: (&str, &str)) -> Plan {
        Plan {}
    }

    /// The SQL of each lookup, in the order of `LookupId`, and the columns that templates use of it.
    pub fn lookups(&self) -> &[Lookup] {
        &[]
    }

    /// The distinct questions behind encoded lookups.
    pub fn questions(&self, _lookups: &KeySet) -> Vec<Question> {
        Vec::new()
    }

    /// Renders the keys of encoded lookups from the answers to [`questions`](Rules::questions) (same order); a refused
    /// question widens.
    pub fn resolve(&self, _lookups: &KeySet, _questions: &[Question], _answers: &[Answer], _out: &mut Invalidations) {}
}

/// A lookup as the control session needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where it was written, for messages: rule and name.
    pub name: String,
    /// The SQL with `$1`, `$2`, …
    pub sql: String,
    /// Columns of the result that templates use; an [`AnswerRow`](crate::control::AnswerRow) holds them in this order.
    pub columns: Vec<String>,
    /// How many parameters it takes.
    pub args: usize,
}
