//! Redis glob patterns: escaping and matching, as `stringmatchlen` does it (`src/util.c` of Redis 7 and Valkey 8).
//!
//! Patterns reach the server as `SCAN … MATCH`, and `protect` compares on our side: both must read a pattern alike.
//! Every element except `*` consumes exactly one byte, so going back to the last star is enough: no recursion, and at
//! most pattern × text steps. Two deliberate choices where servers differ among themselves: `*` matches the empty text
//! (as `SCAN … MATCH *` does, by a shortcut), and bytes in ranges compare unsigned (C's `char` is signed on x86 only).

/// Bytes that mean something in a pattern, and so are escaped in a literal.
const SPECIAL: &[u8] = b"*?[]\\";

/// Appends `literal` so that a pattern matches exactly these bytes there.
#[inline]
pub fn escape_into(pattern: &mut Vec<u8>, literal: &[u8]) {
    for &byte in literal {
        // `^` and `-` mean something only behind an unescaped `[`, which never comes out of here.
        if SPECIAL.contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
}

/// Whether the whole `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut rest) = (0, text);
    // Where to go on after the last star, and the text that it has not swallowed yet.
    let mut star: Option<(usize, &[u8])> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, rest));
            continue;
        }
        let step = match (pattern.get(at), rest.split_first()) {
            (None, None) => return true,
            (Some(_), None) => return false,
            (None, Some(_)) => None,
            (Some(_), Some((&byte, behind))) => element(&pattern[at..], byte).map(|length| (at + length, behind)),
        };
        (at, rest) = match (step, star) {
            (Some(next), _) => next,
            (None, None) => return false,
            (None, Some((behind_star, from))) => {
                let Some((_, shorter)) = from.split_first() else { return false };
                star = Some((behind_star, shorter));
                (behind_star, shorter)
            }
        };
    }
}

/// The length of the first element of `pattern` (not empty, not a star) if it matches `byte`.
fn element(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (matched, length) = class_matches(class, byte);
            matched.then_some(1 + length)
        }
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Whether the class behind a `[` holds `byte`, and its length with the closing bracket. An unclosed class ends with
/// the pattern; `]` as the far end of a range (`[a-]`) is the range's end and closes nothing.
fn class_matches(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &class[at..] {
            [] => return (found != negated, at),
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [b']', ..] => return (found != negated, at + 1),
            [start, b'-', end, ..] => {
                found |= (*start.min(end)..=*start.max(end)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
}

/// Whether every text that `narrow` matches is matched by `wide`, as far as the two patterns show it: a literal of `wide`
/// stands for itself alone, and a star for anything, stars included. `false` where `wide` has `?` or `[`.
pub fn covers(wide: &[u8], narrow: &[u8]) -> bool {
    let (Some(wide), narrow) = (tokens(wide), tokens_of_any(narrow)) else { return false };
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (wide.get(at), narrow.get(read)) {
            (Some(Token::Star), _) => {
                at += 1;
                star = Some((at, read));
                continue;
            }
            (None, None) => return true,
            (Some(Token::Byte(one)), Some(Token::Byte(other))) if one == other => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            (Some(_), None) => return false,
            (_, Some(_)) => {}
        }
        let Some((behind_star, from)) = star else { return false };
        (at, read) = (behind_star, from + 1);
        star = Some((behind_star, read));
    }
}

/// An element of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One byte of several.
    Some,
    Star,
}

/// The elements, where there are only bytes and stars.
fn tokens(pattern: &[u8]) -> Option<Vec<Token>> {
    let tokens = tokens_of_any(pattern);
    tokens.iter().all(|token| *token != Token::Some).then_some(tokens)
}

fn tokens_of_any(pattern: &[u8]) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::with_capacity(pattern.len()), pattern);
    while let Some((&byte, behind)) = rest.split_first() {
        let (token, length) = match (byte, behind) {
            (b'*', _) => (Token::Star, 1),
            (b'?', _) => (Token::Some, 1),
            (b'[', class) => (Token::Some, 1 + class_matches(class, 0).1),
            (b'\\', [literal, ..]) => (Token::Byte(*literal), 2),
            (literal, _) => (Token::Byte(literal), 1),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
    tokens
}

/// The bytes that every match begins with: the pattern up to its first metacharacter, unescaped.
pub fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::new();
    let mut rest = pattern;
    loop {
        rest = match rest {
            [] | [b'*' | b'?' | b'[', ..] => return prefix,
            [b'\\', literal, behind @ ..] | [literal, behind @ ..] => {
                prefix.push(*literal);
                behind
            }
        };
    }
}

/// Whether a pattern matches exactly one text, its literal prefix.
pub fn is_literal(pattern: &[u8]) -> bool {
    let mut rest = pattern;
    loop {
        rest = match rest {
            [] => return true,
            [b'*' | b'?' | b'[', ..] => return false,
            [b'\\', _, behind @ ..] | [_, behind @ ..] => behind,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_covers_another_when_each_of_its_texts_matches() {
        for (wide, narrow, covered) in [
            ("a:*", "a:b*", true),
            ("a:*", "a:*", true),
            ("a:*", "a:", true),
            ("a:*", "a*", false),
            ("a:*:b", "a:*:b", true),
            ("a:*:b", "a:x*:b", true),
            ("a:*:b", "a:*", false),
            ("*", "[ab]?*", true),
            ("a:*", "a:[xy]", true),
            ("a:*", "[a]:x", false),
            ("a?", "a?", false),
            (r"a\*:*", r"a\*:1", true),
            (r"a\*:*", "ab:1", false),
            ("a*ab", "aab", true),
            ("ab", "a", false),
        ] {
            assert_eq!(covers(wide.as_bytes(), narrow.as_bytes()), covered, "{wide} {narrow}");
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_never_matches_more(wide in "[ab*\\\\]{0,6}", narrow in "[ab*?\\[\\]]{0,6}", text in "[ab*]{0,5}") {
            let (wide, narrow, text) = (wide.as_bytes(), narrow.as_bytes(), text.as_bytes());
            prop_assert!(!covers(wide, narrow) || !matches(narrow, text) || matches(wide, text));
        }
    }

    #[test]
    fn reads_patterns_as_the_server_does() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("*", &["", "a", "a*b"], &[]),
            ("a*", &["a", "ab", "a*"], &["", "ba"]),
            ("a**c*", &["ac", "abc", "abcd"], &["ab"]),
            ("h?llo", &["hello", "h?llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "h[ae]llo"]),
            ("h[^e]llo", &["hallo", "h^llo"], &["hello"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            ("[\\]a]", &["]", "a"], &["\\"]),
            ("[]a]", &[], &["]", "a", "]a]"]),
            ("[a-]", &["]", "^", "a"], &["-", "b"]),
            ("[ab", &["a", "b"], &["ab", "[ab"]),
            ("[", &[], &["["]),
            ("[^", &["a"], &["", "ab"]),
            ("[a\\", &["a", "\\"], &["b"]),
            ("a]b", &["a]b"], &["ab"]),
            ("a\\*", &["a*"], &["ab", "a\\*"]),
            ("a\\", &["a\\"], &["a"]),
            ("*ab*ab", &["abab", "xabxab"], &["ab", "aba"]),
            ("*\n*", &["a\nb"], &["ab"]),
        ];
        for (pattern, yes, no) in cases {
            for text in *yes {
                assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} should match {text:?}");
            }
            for text in *no {
                assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} should not match {text:?}");
            }
        }
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        let pattern = "a*".repeat(2000) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 20_000]));
    }

    #[test]
    fn the_literal_prefix_ends_before_the_first_metacharacter() {
        let cases =
            [("", ""), ("lock:*", "lock:"), ("a\\*b?c", "a*b"), ("x[ab]", "x"), ("plain", "plain"), ("a\\", "a\\")];
        for (pattern, prefix) in cases {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes(), "{pattern}");
        }
    }

    /// The server's algorithm, written naively: a star tries every rest.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], text) => (0..=text.len()).any(|from| model(rest, &text[from..])),
            (_, []) => false,
            (pattern, [byte, behind @ ..]) => match pattern {
                [b'?', rest @ ..] => model(rest, behind),
                [b'[', class @ ..] => {
                    let (negated, class) = match class {
                        [b'^', class @ ..] => (true, class),
                        class => (false, class),
                    };
                    let (members, rest) = model_class(class);
                    (members.contains(byte) != negated) && model(rest, behind)
                }
                [b'\\', literal, rest @ ..] | [literal, rest @ ..] => literal == byte && model(rest, behind),
                [] => false,
            },
        }
    }

    fn model_class(class: &[u8]) -> (Vec<u8>, &[u8]) {
        let (mut head, rest) = match class {
            [] => return (Vec::new(), class),
            [b'\\', literal, rest @ ..] => (vec![*literal], rest),
            [b']', rest @ ..] => return (Vec::new(), rest),
            [a, b'-', z, rest @ ..] => ((*a.min(z)..=*a.max(z)).collect(), rest),
            [literal, rest @ ..] => (vec![*literal], rest),
        };
        let (tail, rest) = model_class(rest);
        head.extend(tail);
        (head, rest)
    }

    /// Bytes that are mostly metacharacters, so that short inputs meet every branch.
    fn spicy(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![8 => prop::sample::select(b"*?[]^-\\abc".to_vec()), 1 => any::<u8>()];
        prop::collection::vec(byte, 0..longest)
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(pattern in spicy(10), text in spicy(8)) {
            prop_assert_eq!(matches(&pattern, &text), model(&pattern, &text));
        }

        #[test]
        fn an_escaped_literal_matches_itself_and_nothing_else(literal in spicy(12), other in spicy(12)) {
            let mut pattern = Vec::new();
            escape_into(&mut pattern, &literal);
            prop_assert!(matches(&pattern, &literal));
            prop_assert_eq!(matches(&pattern, &other), literal == other);
            prop_assert_eq!(literal_prefix(&pattern), literal);
        }

        #[test]
        fn every_match_begins_with_the_literal_prefix(pattern in spicy(8), text in spicy(8)) {
            if matches(&pattern, &text) {
                prop_assert!(text.starts_with(&literal_prefix(&pattern)));
            }
        }
    }
}
