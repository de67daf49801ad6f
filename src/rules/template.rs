//! Key templates: literals, `{column}`, `{lookup.column}`, `*` as a pattern, `{{` and `}}` for braces.
//!
//! Reading only: what a column or a lookup means is decided by `parse`. Errors carry the bytes of the template that
//! they are about. Whatever later versions will understand is refused by name, never taken for something else.

use std::ops::Range;

/// One piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Text of the key.
    Literal(String),
    /// `*`: any text.
    Star,
    /// `{name}`, with its place in the template.
    Column(String, Range<usize>),
    /// `{name.column}`, with its place in the template.
    Lookup(String, String, Range<usize>),
}

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateError {
    /// Which bytes of the template.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub message: String,
    /// What to write instead.
    pub note: &'static str,
}

fn refuse<T>(at: Range<usize>, message: impl Into<String>, note: &'static str) -> Result<T, TemplateError> {
    Err(TemplateError { at, message: message.into(), note })
}

/// Reads a template.
pub fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let piece = match next {
            '{' | '}' if rest[1..].starts_with(next) => {
                literal.push(next);
                at += 2;
                continue;
            }
            '{' => {
                let Some(length) = rest.find('}') else {
                    return refuse(
                        at..text.len(),
                        "brace is never closed",
                        "write \"{{\" for a brace that is part of the key",
                    );
                };
                let whole = at..at + length + 1;
                at = whole.end;
                placeholder(&text[whole.start + 1..whole.end - 1], whole)?
            }
            '}' => {
                return refuse(
                    at..at + 1,
                    "brace was never opened",
                    "write \"}}\" for a brace that is part of the key",
                );
            }
            '*' => {
                at += 1;
                Piece::Star
            }
            other => {
                literal.push(other);
                at += other.len_utf8();
                continue;
            }
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// What stands between two braces.
fn placeholder(inside: &str, at: Range<usize>) -> Result<Piece, TemplateError> {
    const LATER: &str = "only {column} and {lookup.column} are understood";
    if inside.is_empty() {
        return refuse(at, "placeholder is empty", "write {column} or {lookup.column}");
    }
    if inside.contains(" or ") {
        return refuse(at, "{… or …} is not supported in this version", LATER);
    }
    if inside.contains('|') || inside.contains(':') {
        return refuse(at, "filters are not supported in this version", LATER);
    }
    if inside.contains(',') {
        return refuse(at, "lists of constants are not supported in this version", "write one key for each of them");
    }
    if inside.contains("->") || inside.matches('.').count() > 1 {
        return refuse(at, "paths into JSON are not supported in this version", LATER);
    }
    if !inside.chars().all(|c| c.is_alphanumeric() || "_$.-".contains(c)) {
        return refuse(at, format!("placeholder {{{inside}}} is not the name of a column"), LATER);
    }
    match inside.split_once('.') {
        None => Ok(Piece::Column(inside.to_owned(), at)),
        Some((lookup, column)) if !lookup.is_empty() && !column.is_empty() => {
            Ok(Piece::Lookup(lookup.to_owned(), column.to_owned(), at))
        }
        Some(_) => refuse(at, format!("placeholder {{{inside}}} lacks a name beside the dot"), LATER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces, one word each; an error as its bytes and its message.
    fn shown(text: &str) -> String {
        match pieces(text) {
            Ok(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Literal(literal) => format!("<{literal}>"),
                    Piece::Star => "*".to_owned(),
                    Piece::Column(name, at) => format!("{name}@{}", at.start),
                    Piece::Lookup(name, column, at) => format!("{name}/{column}@{}", at.start),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("{}..{} {}", error.at.start, error.at.end, error.message),
        }
    }

    #[test]
    fn templates_are_read_piece_by_piece() {
        let cases = [
            ("plain", "<plain>"),
            ("city:{city}", "<city:> city@5"),
            ("{a}{b}:x", "a@0 b@3 <:x>"),
            ("d:{owner.owner_id}", "<d:> owner/owner_id@2"),
            ("search:*:{id}", "<search:> * <:> id@9"),
            ("{{{id}}}", "<{> id@2 <}>"),
            ("é{{x}}", "<é{x}>"),
            ("a?[b]", "<a?[b]>"),
            ("x{", "1..2 brace is never closed"),
            ("x}y", "1..2 brace was never opened"),
            ("x{}", "1..3 placeholder is empty"),
            ("x{a or \"b\"}", "1..11 {… or …} is not supported in this version"),
            ("x{a.b.c}", "1..8 paths into JSON are not supported in this version"),
            ("x{a|lower}", "1..10 filters are not supported in this version"),
            ("x{4,8}", "1..6 lists of constants are not supported in this version"),
            ("x{a b}", "1..6 placeholder {a b} is not the name of a column"),
            ("x{.b}", "1..5 placeholder {.b} lacks a name beside the dot"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
