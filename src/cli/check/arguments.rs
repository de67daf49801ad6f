//! The arguments of lookups against the parameters that the server makes of them: what is no value of a parameter's type
//! is refused with every row, and its keys widen to a sweep each time. Pure.

use crate::catalog::{Catalog, CatalogColumn};
use crate::cli::finding::Finding;
use crate::question::LookupId;
use crate::rules::{Lookup, Rules};

/// Types whose texts are alike, as far as that is plain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Integer,
    Decimal,
    Boolean,
    Uuid,
    Time,
    Json,
    /// Anything may stand in it.
    Text,
    /// Nothing is known of it: an enum, an array, an extension's type.
    Other,
}

impl Kind {
    /// By the name that `format_type` or the catalog gives.
    fn of(name: &str) -> Kind {
        match name {
            "smallint" | "integer" | "bigint" | "int2" | "int4" | "int8" | "oid" => Kind::Integer,
            "numeric" | "real" | "double precision" | "float4" | "float8" => Kind::Decimal,
            "boolean" | "bool" => Kind::Boolean,
            "uuid" => Kind::Uuid,
            "date" | "timestamp" | "timestamptz" | "timestamp with time zone" | "timestamp without time zone" => {
                Kind::Time
            }
            "json" | "jsonb" => Kind::Json,
            "text" | "varchar" | "bpchar" | "name" | "character varying" | "character" => Kind::Text,
            _ => Kind::Other,
        }
    }

    /// Whether no text of this type is one of the other: where some are, rows decide.
    fn never_is(self, parameter: Kind) -> bool {
        match (self, parameter) {
            (Kind::Text | Kind::Other, _) | (_, Kind::Text | Kind::Other) => false,
            (Kind::Integer | Kind::Decimal, Kind::Integer | Kind::Decimal) => false,
            // 1 and 0 are booleans, and every number is JSON.
            (Kind::Integer, Kind::Boolean) | (Kind::Integer | Kind::Decimal, Kind::Json) => false,
            (column, parameter) => column != parameter,
        }
    }
}

/// The first argument of a lookup that no value of its column fits; `parameters` are the names of their types.
pub fn unfit(
    rules: &Rules,
    catalog: &Catalog,
    id: LookupId,
    lookup: &Lookup,
    parameters: &[String],
) -> Option<Finding> {
    for (index, (parameter, (table, path))) in
        rules.asked_with(id).flat_map(|all| parameters.iter().zip(all)).enumerate()
    {
        let Some(column) = column(catalog, &table, &path.column) else { continue };
        // What stands inside of JSON may be anything.
        if path.inside.is_empty() && Kind::of(&column.kind).never_is(Kind::of(parameter)) {
            let number = index % parameters.len().max(1) + 1;
            let seen = format!(
                "its argument \"{}\" is {} and ${number} is {parameter}: the server refuses every row's question",
                path.column, column.kind
            );
            let mend = format!(
                "name a column of type {parameter} in args, or compare ${number} with one of type {}",
                column.kind
            );
            return Some(Finding::wrong(format!("lookup {}", lookup.name), seen).mend(mend));
        }
    }
    None
}

fn column<'c>(catalog: &'c Catalog, (schema, name): &(String, String), column: &str) -> Option<&'c CatalogColumn> {
    let table = catalog.tables.iter().find(|table| (&table.schema, &table.table) == (schema, name))?;
    table.carriers.iter().find_map(|carrier| carrier.column(column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn an_argument_that_no_value_of_its_column_fits_is_told() {
        for (kind, parameter, told) in [
            ("integer", "int8", false),
            ("bigint", "uuid", true),
            ("uuid", "int4", true),
            ("uuid", "text", false),
            ("text", "uuid", false),
            ("boolean", "int4", true),
            ("timestamp with time zone", "date", false),
            ("date", "int4", true),
            ("jsonb", "int4", true),
            ("numeric", "int4", false),
            ("mood", "int4", false),
        ] {
            let mut catalog = example::catalog();
            catalog.tables[0].carriers[0].columns[0].kind = kind.to_owned();
            let rules = rules_of(
                "[[rules]]\ntable = 't'\nkeys = ['k:{o.x}']\nlookup.o = { sql = 'select x, $1', args = ['id'] }\n",
            );
            let found = unfit(&rules, &catalog, LookupId(0), &rules.lookups()[0], &[parameter.to_owned()]);
            assert_eq!(found.is_some(), told, "{kind} {parameter}: {found:?}");
            let words = format!("its argument \"id\" is {kind} and $1 is {parameter}");
            assert!(found.is_none_or(|found| found.seen.contains(&words)));
        }
    }
}
