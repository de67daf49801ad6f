//! What the changes that follow need of the Relation messages.
//!
//! The server describes a table once per connection, and again whenever it changed; a change names only its number.
//! Only the latest description is kept whole: a server may have many more tables, and partitions come every day, so of
//! the others there is but the number of columns.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::pgoutput::Columns;
use crate::change::{Oid, Relation, ReplicaIdentity};

/// The tables that the current connection described.
#[derive(Debug, Default)]
pub struct Relations {
    columns: HashMap<Oid, u16, RandomState>,
    last: Option<Relation>,
}

impl Relations {
    /// Takes a description in place of an earlier one.
    pub fn learn(
        &mut self,
        oid: Oid,
        (schema, name): (&str, &str),
        identity: ReplicaIdentity,
        columns: Columns<'_>,
    ) -> &Relation {
        let (schema, name, columns) = (schema.to_owned(), name.to_owned(), columns.collect::<Vec<_>>());
        // The protocol counts columns in 16 bits.
        self.columns.insert(oid, columns.len() as u16);
        self.last.insert(Relation { oid, schema, name, identity, columns })
    }

    /// How many columns the table has, as last described.
    #[inline]
    pub fn columns(&self, oid: Oid) -> Option<usize> {
        self.columns.get(&oid).copied().map(usize::from)
    }

    /// The latest description, if it is this table's.
    pub fn last(&self, oid: Oid) -> Option<&Relation> {
        self.last.as_ref().filter(|relation| relation.oid == oid)
    }
}
