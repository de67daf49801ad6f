//! Relation messages kept for the changes that follow.
//!
//! The server describes a table once per connection, and again whenever it changed; a change names only its number.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::pgoutput::Columns;
use crate::change::{Oid, Relation, ReplicaIdentity};

/// The tables that the current connection described.
#[derive(Debug, Default)]
pub struct Relations {
    by_oid: HashMap<Oid, Relation, RandomState>,
}

impl Relations {
    /// Keeps a description in place of an earlier one.
    pub fn learn(
        &mut self,
        oid: Oid,
        (schema, name): (&str, &str),
        identity: ReplicaIdentity,
        columns: Columns<'_>,
    ) -> &Relation {
        let (schema, name, columns) = (schema.to_owned(), name.to_owned(), columns.collect());
        let relation = Relation { oid, schema, name, identity, columns };
        self.by_oid.entry(oid).insert_entry(relation).into_mut()
    }

    /// The table as last described.
    #[inline]
    pub fn get(&self, oid: Oid) -> Option<&Relation> {
        self.by_oid.get(&oid)
    }
}
