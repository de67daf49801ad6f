//! Quoting for SQL that is printed or run: the one place where names and texts become SQL.
//!
//! Not an SQL builder. It keeps one invariant: whatever a name or a text holds, it stays one token.

/// An identifier, always in double quotes: an unquoted name may be a key word in a later version.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A schema-qualified name.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A list of identifiers, separated by commas.
pub fn identifiers(names: &[String]) -> String {
    names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
}

/// A text literal that reads the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// Fills psql's `:'name'` placeholders of a file in `sql/`, as psql itself does with `-v name=value`.
///
/// One pass over the text: a value that looks like a placeholder is not filled again.
pub fn fill(sql: &str, variables: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(":'") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let known = variables
            .iter()
            .find(|(name, _)| from[2..].strip_prefix(name).is_some_and(|after| after.starts_with('\'')));
        match known {
            Some((name, value)) => {
                out.push_str(&literal(value));
                rest = &from[name.len() + 3..];
            }
            None => {
                out.push_str(":'");
                rest = &from[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_token_whatever_it_holds() {
        for (name, quoted) in
            [("properties", "\"properties\""), ("Odd \"name\"; --", "\"Odd \"\"name\"\"; --\""), ("é'", "\"é'\"")]
        {
            assert_eq!(identifier(name), quoted);
        }
        assert_eq!(qualified("a.b", "c"), "\"a.b\".\"c\"");
    }

    #[test]
    fn a_text_stays_one_token_whatever_it_holds() {
        for (text, quoted) in [("crieur", "'crieur'"), ("it's", "'it''s'"), ("a\\'b", "E'a\\\\''b'"), ("", "''")] {
            assert_eq!(literal(text), quoted);
        }
    }

    #[test]
    fn placeholders_are_filled_once() {
        let filled = fill("SELECT :'a', x::text, :'b', :'c'", &[("a", ":'b'"), ("b", "it's")]);
        assert_eq!(filled, "SELECT ':''b''', x::text, 'it''s', :'c'");
    }
}
