//! Keys, tags, and other bytes, as people read them.

use crate::tag::tag_of;

/// Plain where it is plain text; otherwise in quotes, every odd byte escaped. A tag says that it is one.
pub fn shown(bytes: &[u8]) -> String {
    tag_of(bytes).map_or_else(|| untagged(bytes), |tag| format!("tag {}", untagged(tag)))
}

fn untagged(bytes: &[u8]) -> String {
    let plain = |text: &str| {
        let odd = |c: char| c.is_control() || c == '"' || c == '\\';
        !text.is_empty() && text.trim() == text && !text.contains(odd)
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if plain(text) => text.to_owned(),
        Ok(text) => format!("\"{}\"", text.chars().map(escaped).collect::<String>()),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// Letters of any language stay readable; what nobody would see is shown byte by byte.
fn escaped(c: char) -> String {
    match c.is_ascii() || c.is_control() || c.is_whitespace() {
        true => c.encode_utf8(&mut [0; 4]).as_bytes().escape_ascii().to_string(),
        false => c.to_string(),
    }
}

/// The same in quotes, plain or not.
pub fn quoted(bytes: &[u8]) -> String {
    let (of, shown) = tag_of(bytes).map_or_else(|| ("", untagged(bytes)), |tag| ("tag ", untagged(tag)));
    if shown.starts_with('"') { format!("{of}{shown}") } else { format!("{of}\"{shown}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_escaped_and_plain_text_is_not() {
        let cases: [(&[u8], &str); 10] = [
            (b"\0a:b c", "tag a:b c"),
            (b"a:b c", "a:b c"),
            ("é".as_bytes(), "é"),
            (b"", "\"\""),
            (b" a", "\" a\""),
            (b"a ", "\"a \""),
            ("a\u{a0}".as_bytes(), "\"a\\xc2\\xa0\""),
            (b"a\nb", "\"a\\nb\""),
            (b"a\\*", "\"a\\\\*\""),
            (b"\xFF", "\"\\xff\""),
        ];
        for (bytes, text) in cases {
            assert_eq!(shown(bytes), text);
        }
    }
}
