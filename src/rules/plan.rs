//! The rules of one table, compiled against its columns.

use crate::change::Row;
use crate::keys::TxOrdinal;
use crate::rules::Invalidations;

/// The rules of one relation, column names resolved to positions.
#[derive(Debug, Clone)]
pub struct Plan {}

impl Plan {
    /// Whether no rule concerns the relation.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Appends what the change invalidates, under the ordinal of its transaction.
    pub fn apply(&self, _row: &Row<'_>, _tx: TxOrdinal, _out: &mut Invalidations) {}
}
