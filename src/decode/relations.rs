//! What the changes that follow need of the Relation messages.
//!
//! The server describes a table once per connection, and again whenever it changed; a change names only its number.
//! Only the latest description is kept whole: a server may have many more tables, and partitions come every day, so of
//! the others there is but the number of columns. A column of a domain is described as one of the type below it.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::pgoutput::Columns;
use crate::change::{Column, Oid, Relation, ReplicaIdentity};

/// Built-in types whose values are read (`src/include/catalog/pg_type.dat`).
const BUILT_IN: [(&str, u32); 19] = [
    ("bool", 16),
    ("bytea", 17),
    ("name", 19),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("text", 25),
    ("oid", 26),
    ("json", 114),
    ("float4", 700),
    ("float8", 701),
    ("bpchar", 1042),
    ("varchar", 1043),
    ("date", 1082),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("numeric", 1700),
    ("uuid", 2950),
    ("jsonb", 3802),
];

/// The tables that the current connection described.
#[derive(Debug, Default)]
pub struct Relations {
    columns: HashMap<Oid, u16, RandomState>,
    /// The type below each domain.
    domains: HashMap<Oid, Oid, RandomState>,
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
        let below = |column: Column| Column { type_oid: self.below(column.type_oid), ..column };
        let (schema, name, columns) = (schema.to_owned(), name.to_owned(), columns.map(below).collect::<Vec<_>>());
        // The protocol counts columns in 16 bits.
        self.columns.insert(oid, columns.len() as u16);
        self.last.insert(Relation { oid, schema, name, identity, columns })
    }

    /// Takes the name of a type that is not built in. For a domain the server sends the name of the type below it, before
    /// it describes a table that has it (`logicalrep_write_typ` in src/backend/replication/logical/proto.c).
    pub fn learn_type(&mut self, oid: Oid, schema: &str, name: &str) {
        let known = BUILT_IN.iter().find(|(built_in, _)| schema == "pg_catalog" && name == *built_in);
        match known {
            Some((_, below)) => drop(self.domains.insert(oid, Oid(*below))),
            None => drop(self.domains.remove(&oid)),
        }
    }

    fn below(&self, oid: Oid) -> Oid {
        self.domains.get(&oid).copied().unwrap_or(oid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_the_type_below_it_until_its_number_is_anothers() {
        let mut relations = Relations::default();
        for (schema, name, below) in [
            ("pg_catalog", "numeric", 1700),
            ("app", "numeric", 70_000),
            ("pg_catalog", "box", 70_000),
            ("pg_catalog", "bool", 16),
        ] {
            relations.learn_type(Oid(70_000), schema, name);
            assert_eq!(relations.below(Oid(70_000)), Oid(below), "{schema}.{name}");
        }
    }
}
