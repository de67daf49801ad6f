//! Key templates: literals, `{column}`, `{column.path|filter or 'text'}`, `{lookup.column}`, `{4,8}`, `*` as a pattern,
//! `{{` and `}}` for braces.
//!
//! Reading only: what a column or a lookup means is decided by `keyspec`. Errors carry the bytes of the template that
//! they are about.

use std::ops::Range;

use crate::rules::value::filter::Filter;
use crate::rules::value::path::Path;
use crate::rules::value::reading::{Reading, TextOf};

/// One piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Text of the key.
    Literal(String),
    /// `*`: any text.
    Star,
    /// `{4,8}`: one key for each of them.
    Choice(Vec<String>),
    /// `{name}`, `{name.inside|filter or 'text'}`: the first name (a column or a lookup), how it is read, and its place
    /// in the template.
    Value(String, Reading, Range<usize>),
}

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateError {
    /// Which bytes of the template.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub message: String,
    /// What to write instead.
    pub note: String,
}

fn refuse<T>(at: Range<usize>, message: impl Into<String>, note: &str) -> Result<T, TemplateError> {
    Err(TemplateError { at, message: message.into(), note: note.to_owned() })
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
                let Some(length) = closing(rest) else {
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

/// The first closing brace outside of a quoted text.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            None if c == '}' => return Some(at),
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if open == c => quote = None,
            Some(_) | None => {}
        }
    }
    None
}

const FORMS: &str = "write {column}, {column.path}, {lookup.column}, {column|filter or 'text'} or {constant,constant}";

/// What stands between two braces.
fn placeholder(inside: &str, at: Range<usize>) -> Result<Piece, TemplateError> {
    if inside.trim().is_empty() {
        return refuse(at, "placeholder is empty", FORMS);
    }
    let (value, or) = alternative(inside, &at)?;
    if or.is_none() && value.contains(',') {
        return choice(value, at);
    }
    let mut words = value.split('|').map(str::trim);
    let name = words.next().unwrap_or_default();
    if name.contains("->") {
        return refuse(at, "-> is not understood", "write {location.city} for location->>'city'");
    }
    if let Some((function, argument)) = call(name) {
        let note = match Filter::NAMES.iter().any(|(filter, _)| *filter == function) {
            true => format!("write {{{argument}|{function}}}"),
            false => {
                "filters are pg, lower, upper, urlencode, md5, sha256, year, month; a lookup computes anything else"
                    .to_owned()
            }
        };
        return refuse(at, format!("{{{inside}}} calls a function, and there are none here"), &note);
    }
    let Some(path) = Path::read(name) else {
        return refuse(at, format!("placeholder {{{inside}}} is not the name of a column"), FORMS);
    };
    if name.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        const NOTE: &str = "a list of one constant is written without braces; a column of that name as {\"4\"}";
        return refuse(at, format!("\"{name}\" is a constant, and a list needs two"), NOTE);
    }
    let mut reading = Reading { path: path.inside, writing: TextOf::JavaScript, filters: Vec::new(), or };
    for (index, word) in words.enumerate() {
        match Filter::NAMES.iter().find(|(name, _)| *name == word) {
            Some((_, filter)) => reading.filters.push(*filter),
            None if word == "pg" && index == 0 => reading.writing = TextOf::PostgreSql,
            None if word == "pg" => return refuse(at, "pg must be the first filter", "write {amount|pg|md5}"),
            None => {
                const KNOWN: &str = "filters are pg, lower, upper, urlencode, md5, sha256, year, month";
                return refuse(at, format!("unknown filter \"{word}\""), KNOWN);
            }
        }
    }
    Ok(Piece::Value(path.column, reading, at))
}

/// A function and its argument, where a text looks like a call.
pub fn call(text: &str) -> Option<(String, &str)> {
    let (function, argument) = text.trim().strip_suffix(')')?.split_once('(')?;
    let is_name = !function.is_empty() && function.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    is_name.then(|| (function.to_lowercase(), argument.trim()))
}

/// Splits off `or 'text'`.
fn alternative<'t>(inside: &'t str, at: &Range<usize>) -> Result<(&'t str, Option<Vec<u8>>), TemplateError> {
    const NOTE: &str = "write {column or 'none'}";
    let Some((value, text)) = inside.split_once(" or ") else { return Ok((inside, None)) };
    let text = text.trim();
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    match quoted('"').or_else(|| quoted('\'')) {
        Some(text) if !text.contains('"') => Ok((value, Some(text.as_bytes().to_vec()))),
        Some(_) | None => refuse(at.clone(), "text behind or is not in quotes", NOTE),
    }
}

fn choice(inside: &str, at: Range<usize>) -> Result<Piece, TemplateError> {
    let constants: Vec<String> = inside.split(',').map(|constant| constant.trim().to_owned()).collect();
    let odd = |constant: &String| constant.contains(['"', '\'', '|', '*', '{']);
    if let Some(odd) = constants.iter().find(|constant| odd(constant)) {
        return refuse(at, format!("constant \"{odd}\" is not plain text"), "write {4,8}, without quotes and filters");
    }
    Ok(Piece::Choice(constants))
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
                    Piece::Choice(constants) => format!("({})", constants.join("/")),
                    Piece::Value(name, reading, at) => {
                        let path: String = reading.path.iter().map(|step| format!("/{step}")).collect();
                        let pg = if reading.writing == TextOf::PostgreSql { "|pg" } else { "" };
                        let filters: String = reading.filters.iter().map(|filter| format!("|{filter:?}")).collect();
                        let or = reading.or.iter().map(|or| format!("=={}", String::from_utf8_lossy(or)));
                        format!("{name}{path}{pg}{filters}{}@{}", or.collect::<String>(), at.start)
                    }
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
            ("x{a or \"b\"}", "<x> a==b@1"),
            ("x{a or '}'}y", "<x> a==}@1 <y>"),
            ("x{a or b}", "1..9 text behind or is not in quotes"),
            ("x{a.b.0}", "<x> a/b/0@1"),
            ("x{a|lower|md5 or \"-\"}", "<x> a|Lower|Md5==-@1"),
            ("x{a|pg}", "<x> a|pg@1"),
            ("x{a|lower|pg}", "1..13 pg must be the first filter"),
            ("x{a|lowr}", "1..9 unknown filter \"lowr\""),
            ("x{4, 8}", "<x> (4/8)"),
            ("x{,:meta}", "<x> (/:meta)"),
            ("x{4,\"8\"}", "1..8 constant \"\"8\"\" is not plain text"),
            ("x{4}", "1..4 \"4\" is a constant, and a list needs two"),
            ("x{ 4a.b|lower or 'c'}", "1..21 \"4a.b\" is a constant, and a list needs two"),
            ("x{-1}", "1..5 \"-1\" is a constant, and a list needs two"),
            ("x{\"4\"}", "<x> 4@1"),
            ("x{4,8 or 'c'}", "1..13 placeholder {4,8 or 'c'} is not the name of a column"),
            ("x{_4}{a4}", "<x> _4@1 a4@5"),
            ("x{a->b}", "1..7 -> is not understood"),
            ("x{a b}", "1..6 placeholder {a b} is not the name of a column"),
            ("x{.b}", "1..5 placeholder {.b} is not the name of a column"),
            ("x{\"A.b\".c}", "<x> A.b/c@1"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
