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
    /// A table of which nothing is read yet.
    pub fn new(schema: &str, table: &str, rule: &str) -> Self {
        let columns = BTreeMap::new();
        TableNeeds { schema: schema.to_owned(), table: table.to_owned(), rule: rule.to_owned(), columns }
    }

    /// A rule reads a column of this image, or of a wider one.
    pub fn reads(&mut self, column: &str, image: Image, rule: &str) {
        let need = self.columns.entry(column.to_owned());
        let need = need.or_insert_with(|| ColumnNeed { image, rule: rule.to_owned() });
        need.image = need.image.max(image);
    }

    /// The columns that the replica identity must carry.
    pub fn columns_on_old(&self) -> impl Iterator<Item = &str> {
        let old = self.columns.iter().filter(|(_, need)| need.image == Image::OldToo);
        old.map(|(name, _)| name.as_str())
    }
}
