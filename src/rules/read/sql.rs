//! The SQL of a lookup, as far as we must read it: where its parameters stand, and the same statement for many questions.
//!
//! Not a parser: it knows strings, names and comments well enough to tell a parameter from text that looks like one
//! (`src/backend/parser/scan.l`).

use std::collections::BTreeSet;
use std::ops::Range;

use crate::postgres::quote;
use crate::rules::ruleset::AnswerColumn;

/// A parameter: where it stands, and its number from 1.
type Parameter = (Range<usize>, usize);

/// The parameters of a statement, in the order of writing.
fn all(sql: &str) -> Vec<Parameter> {
    let mut found = Vec::new();
    scan(sql, |token| {
        if let Token::Parameter(at, number) = token {
            found.push((at, number));
        }
    });
    found
}

/// Every name that stands in a statement, key words among them; quoted ones as they are, others in lower case.
pub fn words(sql: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    scan(sql, |token| match token {
        Token::Parameter(..) => {}
        // The server folds the letters of ASCII, and those of one-byte encodings by its locale.
        Token::Word(word) => found.extend([word.to_lowercase(), word.to_ascii_lowercase()]),
        Token::Quoted(name) => _ = found.insert(name.replace("\"\"", "\"")),
    });
    found
}

/// The first word of a statement, in capitals.
pub fn verb(sql: &str) -> Option<String> {
    let mut first = None;
    scan(sql, |token| {
        if let (None, Token::Word(word)) = (&first, token) {
            first = Some(word.to_uppercase());
        }
    });
    first
}

/// What is not text and not a comment.
enum Token<'s> {
    Parameter(Range<usize>, usize),
    Word(&'s str),
    /// Without its quotes; one inside is doubled.
    Quoted(&'s str),
}

fn scan<'s>(sql: &'s str, mut each: impl FnMut(Token<'s>)) {
    let bytes = sql.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += match rest[0] {
            b'\'' => string(rest, at.checked_sub(1).is_some_and(|before| is_escape(bytes, before))),
            b'"' => {
                let length = quoted_name(rest);
                let inside = &sql[at + 1..at + length];
                each(Token::Quoted(inside.strip_suffix('"').unwrap_or(inside)));
                length
            }
            b'-' if rest.starts_with(b"--") => until(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => comment(rest),
            b'$' => match rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count() {
                0 => dollar_quoted(rest),
                digits => {
                    if let Ok(number) = sql[at + 1..=at + digits].parse() {
                        each(Token::Parameter(at..at + 1 + digits, number));
                    }
                    1 + digits
                }
            },
            byte if is_name(byte) => {
                let length = rest.iter().take_while(|byte| is_name(**byte) || **byte == b'$').count();
                each(Token::Word(&sql[at..at + length]));
                length
            }
            _ => 1,
        };
    }
}

/// A name in double quotes; one inside is doubled.
fn quoted_name(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        at += until(&rest[at..], b"\"");
        match rest.get(at) {
            Some(b'"') => at += 1,
            Some(_) | None => break,
        }
    }
    at
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Whether the byte is the `E` of `E'…'`.
fn is_escape(bytes: &[u8], at: usize) -> bool {
    matches!(bytes[at], b'e' | b'E')
        && !at.checked_sub(1).is_some_and(|before| is_name(bytes[before]) || bytes[before] == b'$')
}

/// How many bytes to the end of `end`, or all.
fn until(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| at + end.len())
}

/// A doubled quote is the end of one string and the beginning of the next.
fn string(rest: &[u8], escapes: bool) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        at += 1;
        match byte {
            b'\'' => return at,
            b'\\' if escapes => at += 1,
            _ => {}
        }
    }
    rest.len()
}

/// Comments nest.
fn comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < rest.len() {
        (at, depth) = match &rest[at..] {
            [b'/', b'*', ..] => (at + 2, depth + 1),
            [b'*', b'/', ..] => (at + 2, depth - 1),
            _ => (at + 1, depth),
        };
    }
    at.min(rest.len())
}

/// `$tag$…$tag$`, or a dollar alone.
fn dollar_quoted(rest: &[u8]) -> usize {
    let tag = 1 + rest[1..].iter().take_while(|byte| is_name(**byte)).count();
    match rest.get(tag) {
        Some(b'$') => tag + 1 + until(&rest[tag + 1..], &rest[..=tag]),
        Some(_) | None => 1,
    }
}

/// The highest `$n` of a statement.
pub fn parameters(sql: &str) -> usize {
    all(sql).iter().map(|(_, number)| *number).max().unwrap_or(0)
}

pub(crate) fn subselect(sql: &str) -> &str {
    sql.trim_end().trim_end_matches(';')
}

/// A column of the result, by its name and its type (`pg_type.oid`).
pub type AskedColumn<'a> = (&'a str, u32);

/// The text that the stream would carry: that of the type's output function. The cast is the same but for a few types,
/// and cheaper.
fn texts(columns: &[AskedColumn<'_>]) -> String {
    let text = |(name, type_oid): &AskedColumn<'_>| match (quote::identifier(name), type_oid) {
        // bool is `true` instead of `t`, bpchar loses blanks, inet gains `/32`.
        (name, 16 | 869 | 1042) => {
            format!("CASE WHEN q.{name} IS NOT NULL THEN pg_catalog.format('%s', q.{name}) END")
        }
        (name, _) => format!("q.{name}::text"),
    };
    columns.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Behind the columns of a row, one more: which types they are of now. Cast to text, they would not tell that somebody
/// altered the table.
fn kinds<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    let kinds: Vec<String> =
        columns.map(|name| format!("pg_catalog.pg_typeof(q.{})::oid", quote::identifier(name))).collect();
    if kinds.is_empty() { String::new() } else { format!(", pg_catalog.concat_ws(' ', {})", kinds.join(", ")) }
}

/// The statement for one question: its columns as text, so that keys need no type, and their types.
pub fn for_one(sql: &str, columns: &[AskedColumn<'_>]) -> String {
    // The line break ends a comment at the end of the rule's SQL.
    let kinds = kinds(columns.iter().map(|(name, _)| *name));
    format!("SELECT {}{kinds} FROM ({}\n) AS q", texts(columns), subselect(sql))
}

/// The statement that tells the types of the columns (`pg_type.oid`), a domain's as what it is made of, and then what each
/// row of [`for_one`] has behind its columns. One row, and the SQL does not run; its parameters are NULLs.
pub fn types(sql: &str, columns: &[AnswerColumn]) -> String {
    let kind = |column: &AnswerColumn| {
        let of = quote::identifier(&column.name);
        format!(
            "(WITH RECURSIVE part (oid) AS (SELECT pg_catalog.pg_typeof(q.{of})::oid UNION ALL \
             SELECT t.typbasetype FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid WHERE t.typtype = 'd') \
             SELECT p.oid FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid WHERE t.typtype <> 'd')"
        )
    };
    let types = columns.iter().map(kind).collect::<Vec<_>>().join(", ");
    let kinds = kinds(columns.iter().map(|column| column.name.as_str()));
    let sql = subselect(sql);
    format!("SELECT {types}{kinds} FROM (SELECT) AS one LEFT JOIN (SELECT * FROM ({sql}\n) AS r LIMIT 0) AS q ON true")
}

/// The statement for many questions: one array of texts for each parameter; the question's number from 1 goes before
/// the columns. `types` are the parameters' types, schema and name.
pub fn for_many(sql: &str, columns: &[AskedColumn<'_>], types: &[(&str, &str)]) -> String {
    let sql = subselect(sql);
    let (mut inner, mut from) = (String::new(), 0);
    for (at, number) in all(sql) {
        let Some((schema, name)) = number.checked_sub(1).and_then(|index| types.get(index)) else { continue };
        inner.push_str(&sql[from..at.start]);
        inner.push_str(&format!("(crieur_asked.p{number}::{})", quote::qualified(schema, name)));
        from = at.end;
    }
    inner.push_str(&sql[from..]);
    let numbers = 1..=types.len();
    let arrays: Vec<String> = numbers.clone().map(|n| format!("pg_catalog.unnest(${n}::pg_catalog.text[])")).collect();
    let names: Vec<String> = numbers.map(|n| format!("p{n}")).collect();
    format!(
        "SELECT crieur_asked.number, {}{} FROM ROWS FROM ({}) WITH ORDINALITY AS crieur_asked ({}, number) \
         CROSS JOIN LATERAL ({inner}\n) AS q",
        texts(columns),
        kinds(columns.iter().map(|(name, _)| *name)),
        arrays.join(", "),
        names.join(", "),
    )
}

/// An array of texts as PostgreSQL reads it (`array_in`, src/backend/utils/adt/arrayfuncs.c).
pub fn array<'a>(texts: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let mut out = vec![b'{'];
    for text in texts {
        if out.len() > 1 {
            out.push(b',');
        }
        let Some(text) = text else {
            out.extend_from_slice(b"NULL");
            continue;
        };
        out.push(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_told_from_text_that_looks_like_them() {
        let cases: [(&str, &[usize]); 17] = [
            ("select $1, $12", &[1, 12]),
            ("select '$1' || $2", &[2]),
            ("select 'it''s $1', $2", &[2]),
            ("select E'\\'$1', $2", &[2]),
            ("select name'\\', $1", &[1]),
            ("select '\\', $1, '$2'", &[1]),
            ("select \"$1\"\"$2\", $3", &[3]),
            ("select $1 -- $2\n, $3", &[1, 3]),
            ("select /* $1 /* $2 */ $3 */ $4", &[4]),
            ("select $$ $1 $$, $2", &[2]),
            ("select $a$ $1 $b$ $2 $$ $a$, $3", &[3]),
            ("select a$1, $2", &[2]),
            ("select é$1", &[]),
            ("where a=$1and b=$2", &[1, 2]),
            ("select '$1", &[]),
            ("/* $1", &[]),
            ("$ $99999999999999999999999", &[]),
        ];
        for (sql, expected) in cases {
            assert_eq!(all(sql).iter().map(|(_, number)| *number).collect::<Vec<_>>(), expected, "{sql}");
        }
        assert_eq!((parameters("$2 $1"), parameters("'$1'")), (2, 0));
    }

    #[test]
    fn words_are_names_and_no_texts() {
        let found = |sql: &str| words(sql).into_iter().collect::<Vec<_>>().join(" ");
        let sql = "SELECT o FROM App.\"T\"\"x\" WHERE a = 'from' AND \"b\" = $1 -- c\n";
        assert_eq!(found(sql), "T\"x a and app b from o select where");
        assert_eq!((found("é$1"), found("\"a"), found("\"\"")), ("é$1".to_owned(), "a".to_owned(), String::new()));
    }

    #[test]
    fn the_statement_for_many_takes_arrays() {
        let sql = "SELECT '$1', o FROM t WHERE a = $1 AND b = $2 OR c = $1; ";
        let types = [("pg_catalog", "uuid"), ("app", "Kind")];
        assert_eq!(
            for_many(sql, &[("o", 25)], &types),
            "SELECT crieur_asked.number, q.\"o\"::text, pg_catalog.concat_ws(' ', pg_catalog.pg_typeof(q.\"o\")::oid) \
             FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), \
             pg_catalog.unnest($2::pg_catalog.text[])) WITH ORDINALITY AS crieur_asked (p1, p2, number) \
             CROSS JOIN LATERAL (SELECT '$1', o FROM t WHERE a = (crieur_asked.p1::\"pg_catalog\".\"uuid\") \
             AND b = (crieur_asked.p2::\"app\".\"Kind\") OR c = (crieur_asked.p1::\"pg_catalog\".\"uuid\")\n) AS q"
        );
    }

    #[test]
    fn arrays_hold_any_text() {
        let texts = [Some(&b"a"[..]), None, Some(b""), Some(b"NULL"), Some(b"\"\\{},")];
        assert_eq!(array(texts.into_iter()), br#"{"a",NULL,"","NULL","\"\\{},"}"#);
        assert_eq!(array(std::iter::empty()), b"{}");
    }

    proptest::proptest! {
        #[test]
        fn no_statement_panics(sql in "[$'\"\\\\/*Ee0-9a-b\n-]{0,24}|.{0,12}") {
            let types = [("a", "b")];
            let _ = (parameters(&sql), words(&sql), for_many(&sql, &[], &types));
        }
    }
}
