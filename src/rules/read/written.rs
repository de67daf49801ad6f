//! Where a part of a TOML string's value stands in the file: through escapes, over lines. Pure.

use std::ops::Range;

/// Bytes of the string as it is written, quotes included, for bytes of its value; `None` when it is not a string with
/// this value.
pub fn place(written: &str, value: &str, at: &Range<usize>) -> Option<Range<usize>> {
    let characters = characters(written)?;
    let text: String = characters.iter().map(|(character, _)| *character).collect();
    if text != value {
        return None;
    }
    let mut behind = 0;
    let mut covered = characters.iter().filter(|(character, _)| {
        let before = behind;
        behind += character.len_utf8();
        before < at.end.max(at.start + 1) && behind > at.start
    });
    let Some((_, first)) = covered.next() else {
        // Nothing is written behind the last character.
        let end = characters.last().map_or_else(|| opening(written).len(), |(_, last)| last.end);
        return Some(end..end);
    };
    let end = covered.last().map_or(first.end, |(_, last)| last.end);
    Some(first.start..if at.is_empty() { first.start } else { end })
}

/// The quotes that a string begins with.
fn opening(written: &str) -> &str {
    let length = ["\"\"\"", "'''"].iter().find(|quotes| written.starts_with(**quotes) && written.len() >= 6);
    &written[..length.map_or(1, |quotes| quotes.len()).min(written.len())]
}

/// Each character of the value, and the bytes that it is written with.
fn characters(written: &str) -> Option<Vec<(char, Range<usize>)>> {
    if !written.starts_with(['"', '\'']) {
        return None;
    }
    let quotes = opening(written);
    let inside = written.strip_prefix(quotes)?.strip_suffix(quotes)?;
    let (lines, escapes) = (quotes.len() == 3, quotes.starts_with('"'));
    let mut at = 0;
    if lines {
        // A line break right behind the quotes is no part of the value.
        at = ["\r\n", "\n"].iter().find(|end| inside.starts_with(**end)).map_or(0, |end| end.len());
    }
    let mut found = Vec::new();
    while let Some(character) = inside[at..].chars().next() {
        let rest = &inside[at..];
        let (character, length) = match character {
            '\\' if escapes && lines && ends_line(rest) => {
                at += rest.len() - rest[1..].trim_start_matches([' ', '\t', '\r', '\n']).len();
                continue;
            }
            '\\' if escapes => escape(rest)?,
            character => (character, character.len_utf8()),
        };
        let start = quotes.len() + at;
        found.push((character, start..start + length));
        at += length;
    }
    Some(found)
}

/// Whether nothing stands between a backslash and the end of its line.
fn ends_line(rest: &str) -> bool {
    rest[1..].trim_start_matches([' ', '\t', '\r']).starts_with('\n')
}

/// The character of an escape, and the length of how it is written.
fn escape(rest: &str) -> Option<(char, usize)> {
    let kind = rest[1..].chars().next()?;
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            let index = "btnfre\"\\".find(kind)?;
            return "\u{8}\t\n\u{c}\r\u{1b}\"\\".chars().nth(index).map(|character| (character, 2));
        }
    };
    let code = u32::from_str_radix(rest.get(2..2 + digits)?, 16).ok()?;
    Some((char::from_u32(code)?, 2 + digits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::{DeTable, DeValue};

    /// The value of a string, and where its first `[…]` is written.
    fn marked(written: &str) -> Option<String> {
        let text = format!("a = {written}");
        let table = DeTable::parse(&text).unwrap_or_else(|error| panic!("{written}: {error}"));
        let DeValue::String(value) = table.get_ref().get("a")?.get_ref() else { return None };
        let at = value.find('[').expect("a mark")..value.find(']').expect("its end") + 1;
        place(written, value, &at).map(|place| written[place].to_owned())
    }

    #[test]
    fn a_part_of_a_string_is_found_as_it_is_written() {
        let cases = [
            ("\"a[b]c\"", "[b]"),
            ("'é[b\\]c'", "[b\\]"),
            ("\"\\\\ \\\" [b] \\n\"", "[b]"),
            ("\"\\u00e9\\U0001F600\\t[\\u0062]\"", "[\\u0062]"),
            ("\"\\u005bb\\x5d\"", "\\u005bb\\x5d"),
            ("\"\\e\\b\\f\\r[b\\\\]\"", "[b\\\\]"),
            ("'''[b]'''", "[b]"),
            ("'''\n\n  [b\nc]'''", "[b\nc]"),
            ("'''\r\na\r\n[b]'''", "[b]"),
            ("'''''[b]'''''", "[b]"),
            ("\"\"\"\na \\\n   \t\n [b\\\n ]\"\"\"", "[b\\\n ]"),
            ("\"\"\"\r\n\\t\\  \r\n \r\n[b]\\\\\"\"\"", "[b]"),
            ("\"\"\"\"[b]\"\"\"\"", "[b]"),
        ];
        for (written, expected) in cases {
            assert_eq!(marked(written).as_deref(), Some(expected), "{written}");
        }
    }

    #[test]
    fn the_end_of_a_string_is_before_its_quotes_and_another_string_has_no_place() {
        for (written, value, at, expected) in [
            ("\"\"", "", 0..0, Some(1..1)),
            ("'ab'", "ab", 2..2, Some(3..3)),
            ("'ab'", "ab", 1..1, Some(2..2)),
            ("'''\nab'''", "ab", 2..2, Some(6..6)),
            ("'ab'", "ac", 0..1, None),
            ("\"\\q\"", "q", 0..1, None),
            ("\"\\", "", 0..0, None),
            ("'", "", 0..0, None),
            ("", "", 0..0, None),
            ("12", "12", 0..1, None),
        ] {
            assert_eq!(place(written, value, &at), expected, "{written}");
        }
    }
}
