//! The place of a value in a row: a column, and fields inside of its JSON.

/// A value as conditions and `changed` name it: `column` or `column.field.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Path {
    /// The column.
    pub column: String,
    /// Fields and positions inside of its JSON.
    pub inside: Vec<String>,
}

impl Path {
    /// Reads `column.field.0`; a name in double quotes may hold anything, a quote in it is doubled.
    pub fn read(text: &str) -> Option<Path> {
        let mut rest = text;
        let mut steps = Vec::new();
        loop {
            let (step, behind) = step(rest)?;
            steps.push(step);
            match behind.strip_prefix('.') {
                Some(behind) => rest = behind,
                None if behind.is_empty() => break,
                None => return None,
            }
        }
        let column = steps.remove(0);
        Some(Path { column, inside: steps })
    }
}

fn step(text: &str) -> Option<(String, &str)> {
    if let Some(inside) = text.strip_prefix('"') {
        return quoted(inside);
    }
    let end = text.find(|c: char| !is_name(c)).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// The name that stands in double quotes, and what stands behind them; `text` begins behind the first quote. A quote in
/// the name is doubled, and no name is empty, as in PostgreSQL.
pub(in crate::rules) fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let (part, behind) = rest.split_once('"')?;
        name.push_str(part);
        let Some(more) = behind.strip_prefix('"') else {
            return (!name.is_empty()).then_some((name, behind));
        };
        name.push('"');
        rest = more;
    }
}

/// What a name without quotes is made of.
pub(in crate::rules) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_quotes_are_read_as_postgresql_reads_them() {
        let cases = [
            (r#"a""#, Some(("a", ""))),
            (r#"My Table".b"#, Some(("My Table", ".b"))),
            (r#"a.b" c"#, Some(("a.b", " c"))),
            (r#"a""b""#, Some((r#"a"b"#, ""))),
            (r#"""""#, Some((r#"""#, ""))),
            (r#"""""""#, Some((r#""""#, ""))),
            (r#"é" "d""#, Some(("é", r#" "d""#))),
            (r#"""#, None),
            (r#""""#, None),
            ("open", None),
            (r#"open"""#, None),
            ("", None),
        ];
        for (text, expected) in cases {
            let read = quoted(text);
            assert_eq!(read.as_ref().map(|(name, behind)| (name.as_str(), *behind)), expected, "{text}");
        }
    }
}
