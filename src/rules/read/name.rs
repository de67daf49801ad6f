//! Names of tables as rules write them: read as PostgreSQL reads identifiers, never folded or guessed otherwise.

use crate::rules::value::path::quoted;

/// Schema and table of `table`, `schema.table`, `"My Schema"."My.Table"`. Unquoted names are folded to lower case, as
/// PostgreSQL folds identifiers; a quote inside of quotes is doubled.
pub(crate) fn table_name(text: &str) -> Option<(String, String)> {
    let (first, rest) = identifier(text)?;
    if rest.is_empty() {
        return Some(("public".to_owned(), first));
    }
    let (second, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((first, second))
}

fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(inside) = text.strip_prefix('"') {
        return quoted(inside);
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let starts = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    (starts && name.chars().all(plain)).then(|| (name.to_ascii_lowercase(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_read_as_postgresql_reads_identifiers() {
        let cases = [
            ("Properties", Some(("public", "properties"))),
            ("app.t_1", Some(("app", "t_1"))),
            ("\"My Schema\".\"a.\"\"b\"", Some(("My Schema", "a.\"b"))),
            ("\"open", None),
            ("a.", None),
            ("1a", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let name = table_name(text);
            assert_eq!(name.as_ref().map(|(schema, table)| (schema.as_str(), table.as_str())), expected, "{text}");
        }
    }
}
