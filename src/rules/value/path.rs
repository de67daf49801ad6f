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
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let (part, behind) = rest.split_once('"')?;
            name.push_str(part);
            match behind.strip_prefix('"') {
                Some(behind) => (name.push('"'), rest = behind).1,
                None => return (!name.is_empty()).then_some((name, behind)),
            }
        }
    }
    let end = text.find(|c: char| !is_name(c)).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// What a name without quotes is made of.
pub(in crate::rules) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '-'
}
