//! One value out of a JSON text, with the meaning of PostgreSQL's `->` and `->>`. No allocation, no recursion.
//!
//! PostgreSQL sends `json` and `jsonb` as valid JSON (`src/backend/utils/adt/jsonfuncs.c` reads them); whatever is not
//! valid here is answered with [`FoundInJson::Invalid`], which the rules take for an unknown value. No bytes can panic it.

use std::borrow::Cow;

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FoundInJson<'a> {
    /// Nothing, or JSON's null: SQL's NULL.
    Null,
    /// `true` or `false`, as text.
    Boolean(&'a [u8]),
    /// A number as it is written.
    Number(&'a [u8]),
    /// A string between its quotes, escapes included.
    Text(&'a [u8]),
    /// An object or an array, as it is written.
    Composite(&'a [u8]),
    /// No JSON.
    Invalid,
}

/// Walks `path` from the outermost value: the name of a field, or the position of an element from 0, from the end when
/// it is negative.
///
/// Of a field that stands twice the last one counts, as in PostgreSQL.
pub fn find<'a>(text: &'a [u8], path: &[String]) -> FoundInJson<'a> {
    let Some((mut value, rest)) = value(blank(text)) else { return FoundInJson::Invalid };
    if !blank(rest).is_empty() {
        return FoundInJson::Invalid;
    }
    for step in path {
        let inner = match value.first() {
            Some(b'{') => field(value, step.as_bytes()),
            Some(b'[') => element(value, step),
            _ if classified(value) == FoundInJson::Invalid => return FoundInJson::Invalid,
            _ => return FoundInJson::Null,
        };
        value = match inner {
            Some(Some(inner)) => inner,
            Some(None) => return FoundInJson::Null,
            None => return FoundInJson::Invalid,
        };
    }
    classified(value)
}

fn classified(value: &[u8]) -> FoundInJson<'_> {
    match value {
        b"null" => FoundInJson::Null,
        b"true" | b"false" => FoundInJson::Boolean(value),
        [b'"', text @ .., b'"'] => FoundInJson::Text(text),
        [b'{' | b'[', ..] => FoundInJson::Composite(value),
        [b'-' | b'0'..=b'9', ..] => FoundInJson::Number(value),
        _ => FoundInJson::Invalid,
    }
}

/// Without the white space in front.
fn blank(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !b" \t\r\n".contains(byte)).unwrap_or(text.len());
    &text[start..]
}

/// The value that `text` begins with, and what follows it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match text.first()? {
        b'"' => string_length(text)?,
        b'{' | b'[' => composite_length(text)?,
        _ => text.iter().position(|byte| b",]} \t\r\n:\"".contains(byte)).unwrap_or(text.len()),
    };
    (length > 0).then(|| text.split_at(length))
}

/// The length of a string with its quotes.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The length of an object or an array: brackets counted, strings passed over.
fn composite_length(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at += string_length(&text[at..])?,
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' => {
                (at, depth) = (at + 1, depth - 1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

/// The field of an object; `None` when the object is no JSON.
fn field<'a>(object: &'a [u8], name: &[u8]) -> Option<Option<&'a [u8]>> {
    let mut found = None;
    let mut rest = blank(&object[1..]);
    while rest.first() != Some(&b'}') {
        let (key, behind) = value(rest)?;
        let (inner, behind) = value(blank(blank(behind).strip_prefix(b":")?))?;
        let [b'"', key @ .., b'"'] = key else { return None };
        if unescaped(key)?.as_ref() == name {
            found = Some(inner);
        }
        rest = next(behind)?;
    }
    Some(found)
}

/// The element of an array, -1 the last one; `None` when the array is no JSON.
fn element<'a>(array: &'a [u8], position: &str) -> Option<Option<&'a [u8]>> {
    let Ok(position) = position.parse::<i64>() else { return Some(None) };
    if let Ok(position) = usize::try_from(position) {
        return nth(array, position).map(Result::ok);
    }
    let count = nth(array, usize::MAX)?.err().unwrap_or_default();
    let from_end = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
    count.checked_sub(from_end).map_or(Some(None), |position| nth(array, position).map(Result::ok))
}

/// The element at a position, or how many there are.
fn nth(array: &[u8], position: usize) -> Option<Result<&[u8], usize>> {
    let mut rest = blank(&array[1..]);
    let mut at = 0;
    while rest.first() != Some(&b']') {
        let (inner, behind) = value(rest)?;
        if at == position {
            return Some(Ok(inner));
        }
        (at, rest) = (at + 1, next(behind)?);
    }
    Some(Err(at))
}

/// Past the comma, if there is one.
fn next(rest: &[u8]) -> Option<&[u8]> {
    let rest = blank(rest);
    match rest.first()? {
        b',' => Some(blank(&rest[1..])),
        b'}' | b']' => Some(rest),
        _ => None,
    }
}

/// The text behind a string's escapes; `None` for what is no text in PostgreSQL (`\u0000`, half a surrogate pair).
pub fn unescaped(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.contains(&b'\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        let (&escape, behind) = rest.split_first()?;
        rest = behind;
        plain.push(match escape {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'"' | b'\\' | b'/' => escape,
            b'u' => {
                let (character, behind) = code_point(rest)?;
                rest = behind;
                plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        });
    }
    Some(Cow::Owned(plain))
}

/// Behind `\u`: one code unit, or a pair of them.
fn code_point(text: &[u8]) -> Option<(char, &[u8])> {
    let unit = |text: &[u8]| u32::from_str_radix(std::str::from_utf8(text.get(..4)?).ok()?, 16).ok();
    let first = unit(text)?;
    if first == 0 {
        return None;
    }
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first)?, &text[4..]));
    }
    let rest = text[4..].strip_prefix(b"\\u")?;
    let second = unit(rest).filter(|second| (0xDC00..0xE000).contains(second))?;
    let point = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    Some((char::from_u32(point)?, &rest[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn finds_what_postgresql_finds() {
        let text =
            br#" {"a" : {"b": [10, "x\n", {"c": null}], "b.c": true}, "n": -1.50, "a2": "", "t": "\u00e9\ud83d\ude00",
            "d": 1, "d": 2, "e\"": "q", "o": {}, "o2": {"-1": 7}, "l": [ ] } "#;
        let cases: &[(&str, FoundInJson<'_>)] = &[
            ("a.b.0", FoundInJson::Number(b"10")),
            ("a.b.1", FoundInJson::Text(b"x\\n")),
            ("a.b.2.c", FoundInJson::Null),
            ("a.b.3", FoundInJson::Null),
            ("a.b.-1", FoundInJson::Composite(b"{\"c\": null}")),
            ("a.b.-2", FoundInJson::Text(b"x\\n")),
            ("a.b.-3", FoundInJson::Number(b"10")),
            ("a.b.-4", FoundInJson::Null),
            ("a.b.-0", FoundInJson::Number(b"10")),
            ("a.b.-", FoundInJson::Null),
            ("a.b.-9223372036854775808", FoundInJson::Null),
            ("a.b.-99999999999999999999", FoundInJson::Null),
            ("a.-1", FoundInJson::Null),
            ("o2.-1", FoundInJson::Number(b"7")),
            ("l.-1", FoundInJson::Null),
            ("a.b.x", FoundInJson::Null),
            ("a.0", FoundInJson::Null),
            ("n", FoundInJson::Number(b"-1.50")),
            ("n.x", FoundInJson::Null),
            ("a2", FoundInJson::Text(b"")),
            ("d", FoundInJson::Number(b"2")),
            ("e\"", FoundInJson::Text(b"q")),
            ("o", FoundInJson::Composite(b"{}")),
            ("l.0", FoundInJson::Null),
            ("a.b.2", FoundInJson::Composite(b"{\"c\": null}")),
            ("zz", FoundInJson::Null),
        ];
        for (steps, expected) in cases {
            assert_eq!(find(text, &path(steps)), *expected, "{steps}");
        }
        for text in ["", "{", "{\"a\"", "{\"a\":", "[1", "nul", "{\"a\":1}x", "\"a", "{a:1}", "\\", "{\"a\":x}"] {
            assert_eq!(find(text.as_bytes(), &path("a")), FoundInJson::Invalid, "{text}");
        }
        assert_eq!(unescaped(b"\\u00e9\\ud83d\\ude00\\/"), Some(Cow::Borrowed("é😀/".as_bytes())));
        for broken in ["\\u0000", "\\ud83d", "\\ud83dx", "\\x", "\\", "\\u12"] {
            assert_eq!(unescaped(broken.as_bytes()), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in "[\\[\\]{}\",:\\\\ua0-9tn ]{0,24}", bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            for text in [text.as_bytes(), &bytes] {
                for steps in ["", "a", "0", "-1", "a.0", "a.-2", "0.a"] {
                    let found = find(text, &path(steps));
                    if let FoundInJson::Text(text) = found {
                        let _ = unescaped(text);
                    }
                }
            }
        }
    }
}
