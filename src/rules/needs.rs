//! What the rules need of each table: which columns they read, and which of them the old row must carry.
//!
//! Not used on the road of a change: `check` and `setup` compare it with the catalog.

use std::collections::BTreeMap;

/// Whether a column must be known of the row as it was before an update or a delete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Image {
    /// Only rules for inserts read it.
    NewOnly,
    /// A rule for updates or deletes reads it: the replica identity must carry it.
    OldToo,
}

/// One column that the rules read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnNeed {
    /// Which rows it is read of.
    pub image: Image,
    /// The first rule that reads it, for messages.
    pub rule: String,
}

/// One table of the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableNeeds {
    /// Schema of the table.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The first rule that names the table, for messages.
    pub rule: String,
    /// The columns that templates and lookups read, by name.
    pub columns: BTreeMap<String, ColumnNeed>,
}

impl TableNeeds {
    /// The columns that the replica identity must carry.
    pub fn columns_on_old(&self) -> impl Iterator<Item = &str> {
        let old = self.columns.iter().filter(|(_, need)| need.image == Image::OldToo);
        old.map(|(name, _)| name.as_str())
    }
}
