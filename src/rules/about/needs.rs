//! What the rules need of each table: which columns they read, and which of them the old row must carry.
//!
//! Not used on the road of a change: `check` and `setup` compare it with the catalog.

use std::collections::{BTreeMap, BTreeSet};

/// Whether a column must be known of the row as it was before an update or a delete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ImageNeed {
    /// Only rules for inserts read it.
    NewOnly,
    /// A rule for updates or deletes reads it: the replica identity must carry it.
    OldToo,
}

/// One column that the rules read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnNeed {
    /// Which rows it is read of.
    pub image: ImageNeed,
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
    /// The columns that keys, lookups and conditions read, by name.
    pub columns: BTreeMap<String, ColumnNeed>,
    /// When rules ignore columns: those that all of these rules ignore. The old row must carry every other one.
    pub ignored: Option<BTreeSet<String>>,
    /// Columns that every rule for updates ignores; `None` while there is no such rule.
    ignored_by_all: Option<BTreeSet<String>>,
}

impl TableNeeds {
    /// A table of which nothing is read yet.
    pub fn new(schema: &str, table: &str, rule: &str) -> Self {
        let (schema, table, rule) = (schema.to_owned(), table.to_owned(), rule.to_owned());
        TableNeeds { schema, table, rule, columns: BTreeMap::new(), ignored: None, ignored_by_all: None }
    }

    /// A rule for updates ignores these columns.
    pub fn ignores<'a>(&mut self, columns: impl Iterator<Item = &'a String>) {
        let columns: BTreeSet<String> = columns.cloned().collect();
        let by_all = self.ignored_by_all.take();
        self.ignored_by_all = Some(by_all.map_or_else(|| columns.clone(), |others| &others & &columns));
        if !columns.is_empty() {
            let by_others = self.ignored.take();
            self.ignored = Some(by_others.map_or_else(|| columns.clone(), |others| &others & &columns));
        }
    }

    /// Columns that every rule for updates ignores: an update of these alone concerns nobody.
    pub fn ignorable(&self) -> impl Iterator<Item = &String> {
        self.ignored_by_all.iter().flatten()
    }

    /// Whether the old row must carry a column that no key reads, for rules to see that only ignored ones changed.
    pub fn counts(&self, column: &str) -> bool {
        self.ignored.as_ref().is_some_and(|ignored| !ignored.contains(column))
    }

    /// A rule reads a column of this image, or of a wider one.
    pub fn reads(&mut self, column: &str, image: ImageNeed, rule: &str) {
        let need = self.columns.entry(column.to_owned());
        let need = need.or_insert_with(|| ColumnNeed { image, rule: rule.to_owned() });
        need.image = need.image.max(image);
    }

    /// The columns that the replica identity must carry.
    pub fn columns_on_old(&self) -> impl Iterator<Item = &str> {
        let old = self.columns.iter().filter(|(_, need)| need.image == ImageNeed::OldToo);
        old.map(|(name, _)| name.as_str())
    }
}
