//! Reading a condition: `status = 'disponible' and (location.city ilike '%dakar%' or @featured)`.
//!
//! Reading only, as SQL reads the same words; errors carry the bytes of the text that they are about. Named conditions
//! (`@name`) are put in place here, so that nothing but values is left to be named.

use std::ops::Range;

use crate::mistake::suggestion;
use crate::rules::read::template::TemplateError;
use crate::rules::value::condition::{Comparison, Condition, Constant, Right};
use crate::rules::value::like::{Case, Like};
use crate::rules::value::path::{Path, is_name};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// A word of SQL or a path; which of them, the grammar knows.
    Word(String),
    Text(String),
    Number(String),
    Named(String),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 10] = ["<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", ","];
const GRAMMAR: &str = "write for example: status = 'free' and (city ilike '%dakar%' or price < 100)";
/// Brackets and `not`s inside of each other.
const DEPTH_MAX: usize = 40;

fn refuse<T>(at: Range<usize>, message: impl Into<String>, note: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError { at, message: message.into(), note: note.into() })
}

fn token(text: &str, from: usize) -> Result<(Token, Range<usize>), TemplateError> {
    let start = from + (text[from..].len() - text[from..].trim_start().len());
    let rest = &text[start..];
    let Some(first) = rest.chars().next() else { return Ok((Token::End, start..start)) };
    if rest.starts_with("==") {
        return refuse(start..start + 2, "\"==\" means nothing in a condition", "write =");
    }
    if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        return Ok((Token::Symbol(symbol), start..start + symbol.len()));
    }
    if first == '\'' {
        return quoted(text, start);
    }
    let digits = rest.strip_prefix('-').unwrap_or(rest);
    if digits.starts_with(|c: char| c.is_ascii_digit()) {
        let end = digits.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(digits.len());
        let end = start + (rest.len() - digits.len()) + end;
        return Ok((Token::Number(text[start..end].to_owned()), start..end));
    }
    if let Some(name) = rest.strip_prefix('@') {
        let end = name.find(|c: char| !is_name(c)).unwrap_or(name.len());
        return Ok((Token::Named(name[..end].to_owned()), start..start + 1 + end));
    }
    let mut end = 0;
    let mut in_quotes = false;
    for (at, c) in rest.char_indices() {
        in_quotes ^= c == '"';
        if !(in_quotes || c == '"' || c == '.' || is_name(c)) {
            break;
        }
        end = at + c.len_utf8();
    }
    match end {
        0 => refuse(start..start + first.len_utf8(), format!("\"{first}\" means nothing in a condition"), GRAMMAR),
        // `location->'city'`: the `-` was taken for a part of the name.
        _ if rest[end..].starts_with('>') && rest[..end].ends_with('-') => {
            refuse(start..start + end + 1, "-> is not understood", "write location.city for location->>'city'")
        }
        _ => Ok((Token::Word(rest[..end].to_owned()), start..start + end)),
    }
}

/// `'text'`, a quote in it doubled.
fn quoted(text: &str, start: usize) -> Result<(Token, Range<usize>), TemplateError> {
    let mut value = String::new();
    let mut at = start + 1;
    while let Some(length) = text[at..].find('\'') {
        value.push_str(&text[at..at + length]);
        at += length + 1;
        if !text[at..].starts_with('\'') {
            return Ok((Token::Text(value), start..at));
        }
        value.push('\'');
        at += 1;
    }
    refuse(start..text.len(), "text is never closed", "a quote inside of a text is written twice")
}

/// Named conditions.
pub type NamedConditions = [(String, Condition<Path>)];

struct Parser<'t> {
    text: &'t str,
    names: &'t NamedConditions,
    token: Token,
    at: Range<usize>,
    depth: usize,
}

/// Reads a whole condition.
pub fn condition(text: &str, names: &NamedConditions) -> Result<Condition<Path>, TemplateError> {
    let (token, at) = token(text, 0)?;
    let mut parser = Parser { text, names, token, at, depth: 0 };
    let condition = parser.any()?;
    match parser.token {
        Token::End => Ok(condition),
        _ => refuse(parser.at, "condition goes on where it should end", "join conditions with and, or"),
    }
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, TemplateError> {
        let (next, at) = token(self.text, self.at.end)?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> Result<bool, TemplateError> {
        let found = self.is_word(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn take(&mut self, symbol: &str) -> Result<bool, TemplateError> {
        let found = matches!(self.token, Token::Symbol(found) if found == symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn any(&mut self) -> Result<Condition<Path>, TemplateError> {
        let mut all = vec![self.every()?];
        while self.take_word("or")? {
            all.push(self.every()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::Or(all) })
    }

    fn every(&mut self) -> Result<Condition<Path>, TemplateError> {
        let mut all = vec![self.one()?];
        while self.take_word("and")? {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::And(all) })
    }

    fn one(&mut self) -> Result<Condition<Path>, TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return refuse(
                self.at.clone(),
                "condition is nested too deeply",
                "give a part of it a name in [conditions]",
            );
        }
        let condition = if self.take_word("not")? {
            Condition::Not(Box::new(self.one()?))
        } else if self.take("(")? {
            let inner = self.any()?;
            if !self.take(")")? {
                return refuse(self.at.clone(), "bracket is never closed", "write \")\" here");
            }
            inner
        } else if let Token::Named(name) = &self.token {
            let Some((_, condition)) = self.names.iter().find(|(known, _)| known == name) else {
                let message = format!("unknown condition \"@{name}\"");
                return refuse(self.at.clone(), message, self.known_names(name));
            };
            let condition = condition.clone();
            self.advance()?;
            condition
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn known_names(&self, written: &str) -> String {
        const NOTE: &str = "name it in [conditions], above those that use it";
        match self.names {
            [] => NOTE.to_owned(),
            names => format!("{}; {NOTE}", suggestion(written, names.iter().map(|(name, _)| name.as_str()))),
        }
    }

    fn test(&mut self) -> Result<Condition<Path>, TemplateError> {
        let at = self.at.clone();
        if let Some(constant) = self.constant()? {
            return match (self.comparison()?, constant) {
                (None, Constant::Boolean(truth)) => Ok(Condition::Constant(truth)),
                (None, _) => refuse(at, "a constant alone is no condition", GRAMMAR),
                (Some(comparison), constant) => {
                    let path = self.path()?;
                    Ok(Condition::Compare(path, comparison.turned(), Right::Constant(constant)))
                }
            };
        }
        let path = self.path()?;
        if self.token == Token::Symbol("(") {
            let message = format!("{}() is a function, and there are none here", path.column);
            const NOTE: &str =
                "ilike compares without regard to case: city ilike 'dakar'; a lookup computes anything else";
            return refuse(at.start..self.at.end, message, NOTE);
        }
        if let Some(comparison) = self.comparison()? {
            self.refuse_null()?;
            let right = match self.constant()? {
                Some(constant) => Right::Constant(constant),
                None => Right::Value(self.path()?),
            };
            return Ok(Condition::Compare(path, comparison, right));
        }
        if self.take_word("is")? {
            return self.is(path);
        }
        let contrary = self.take_word("not")?;
        let condition = if self.take_word("in")? {
            self.list(path)?
        } else if self.is_word("like") || self.is_word("ilike") {
            self.like(path)?
        } else if contrary || self.is_word("between") {
            return refuse(self.at.clone(), "expected in, like or ilike", "for between write a >= 1 and a <= 9");
        } else {
            return Ok(Condition::Holds(path));
        };
        Ok(if contrary { Condition::Not(Box::new(condition)) } else { condition })
    }

    /// `= null` is never true; nobody means it.
    fn refuse_null(&self) -> Result<(), TemplateError> {
        match self.is_word("null") {
            true => refuse(self.at.clone(), "nothing is equal to null", "write is null, or is not null"),
            false => Ok(()),
        }
    }

    fn comparison(&mut self) -> Result<Option<Comparison>, TemplateError> {
        let comparison = match self.token {
            Token::Symbol("=") => Comparison::Equal,
            Token::Symbol("!=" | "<>") => Comparison::Unequal,
            Token::Symbol("<") => Comparison::Less,
            Token::Symbol("<=") => Comparison::AtMost,
            Token::Symbol(">") => Comparison::Greater,
            Token::Symbol(">=") => Comparison::AtLeast,
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(comparison))
    }

    fn constant(&mut self) -> Result<Option<Constant>, TemplateError> {
        let constant = match &self.token {
            Token::Text(text) => Constant::Text(text.clone().into_bytes()),
            Token::Number(number) => {
                if crate::rules::value::number::compare(number.as_bytes(), b"0").is_none() {
                    return refuse(self.at.clone(), format!("\"{number}\" is no number"), "texts go in single quotes");
                }
                Constant::Number(number.clone().into_bytes())
            }
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Constant::Boolean(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Constant::Boolean(false),
            Token::Word(_) | Token::Named(_) | Token::Symbol(_) | Token::End => return Ok(None),
        };
        self.advance()?;
        Ok(Some(constant))
    }

    fn path(&mut self) -> Result<Path, TemplateError> {
        const RESERVED: [&str; 10] = ["and", "or", "not", "in", "is", "null", "like", "ilike", "true", "false"];
        let path = match &self.token {
            Token::Word(word) if !RESERVED.iter().any(|reserved| word.eq_ignore_ascii_case(reserved)) => {
                Path::read(word)
            }
            _ => None,
        };
        let Some(path) = path else {
            return refuse(self.at.clone(), "expected a column", "texts go in single quotes; paths are location.city");
        };
        self.advance()?;
        Ok(path)
    }

    fn is(&mut self, path: Path) -> Result<Condition<Path>, TemplateError> {
        let contrary = self.take_word("not")?;
        let known = |path: &Path| Condition::Not(Box::new(Condition::IsNull(path.clone())));
        let condition = if self.take_word("null")? {
            Condition::IsNull(path)
        } else if self.take_word("true")? {
            Condition::And(vec![known(&path), Condition::Holds(path)])
        } else if self.take_word("false")? {
            Condition::And(vec![known(&path), Condition::Not(Box::new(Condition::Holds(path)))])
        } else {
            return refuse(self.at.clone(), "expected null, true or false", "write is null, or is not null");
        };
        Ok(if contrary { Condition::Not(Box::new(condition)) } else { condition })
    }

    fn list(&mut self, path: Path) -> Result<Condition<Path>, TemplateError> {
        const NOTE: &str = "write in ('a', 'b')";
        if !self.take("(")? {
            return refuse(self.at.clone(), "expected a list", NOTE);
        }
        let mut all = Vec::new();
        loop {
            let Some(constant) = self.constant()? else {
                return refuse(self.at.clone(), "expected a text, a number, true or false", NOTE);
            };
            all.push(Condition::Compare(path.clone(), Comparison::Equal, Right::Constant(constant)));
            if !self.take(",")? {
                break;
            }
        }
        match self.take(")")? {
            true => Ok(Condition::Or(all)),
            false => refuse(self.at.clone(), "list is never closed", NOTE),
        }
    }

    fn like(&mut self, path: Path) -> Result<Condition<Path>, TemplateError> {
        let case = if self.is_word("ilike") { Case::Ignored } else { Case::Counts };
        self.advance()?;
        let Token::Text(pattern) = &self.token else {
            return refuse(self.at.clone(), "expected a pattern", "write like 'Dakar%'");
        };
        let Some(like) = Like::new(pattern, case) else {
            return refuse(self.at.clone(), "pattern ends with its escape", "write \\\\ for a backslash");
        };
        self.advance()?;
        Ok(Condition::Like(path, like))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match condition(text, &[]) {
            Ok(_) => "understood".to_owned(),
            Err(error) => format!("{}..{} {}", error.at.start, error.at.end, error.message),
        }
    }

    #[test]
    fn a_mistake_in_a_condition_points_at_its_bytes() {
        let cases = [
            ("a = 1 and b = 'x''y'", "understood"),
            ("NOT a.b.0 In (1, -2.5, 'x') OR (\"My Col\" is not null)", "understood"),
            ("a = b and c and d not ilike '%x%' and e is not true", "understood"),
            ("1 < a and true", "understood"),
            ("", "0..0 expected a column"),
            ("a =", "3..3 expected a column"),
            ("a = 'x", "4..6 text is never closed"),
            ("a == 1", "2..4 \"==\" means nothing in a condition"),
            ("a.-1 = 'x' and a.b.-2 is null", "understood"),
            ("a = 1 b", "6..7 condition goes on where it should end"),
            ("(a = 1", "6..6 bracket is never closed"),
            ("a = null", "4..8 nothing is equal to null"),
            ("a in 1", "5..6 expected a list"),
            ("a in (b)", "6..7 expected a text, a number, true or false"),
            ("a between 1 and 2", "2..9 expected in, like or ilike"),
            ("é = #", "5..6 \"#\" means nothing in a condition"),
            ("a->>'b' = 1", "0..3 -> is not understood"),
            ("@free", "0..5 unknown condition \"@free\""),
            ("a = 1x", "4..6 \"1x\" is no number"),
            ("'a'", "0..3 a constant alone is no condition"),
            ("a like 1", "7..8 expected a pattern"),
            ("a like 'x\\'", "7..11 pattern ends with its escape"),
            ("a is 1", "5..6 expected null, true or false"),
            ("a.b. = 1", "0..4 expected a column"),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text}");
        }
        assert!(error(&"(".repeat(500)).ends_with("nested too deeply"));
        assert!(error(&"not ".repeat(500)).ends_with("nested too deeply"));
    }

    #[test]
    fn paths_are_names_with_dots_between_them() {
        let read = |text| Path::read(text).map(|path| (path.column, path.inside.join("/")));
        let path = |column: &str, inside: &str| Some((column.to_owned(), inside.to_owned()));
        assert_eq!(read("a"), path("a", ""));
        assert_eq!(read("location.city.0"), path("location", "city/0"));
        assert_eq!(read("\"a.\"\"b\".c"), path("a.\"b", "c"));
        for broken in ["", ".", "a.", ".a", "a..b", "\"a", "a b", "\"\""] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }
}
