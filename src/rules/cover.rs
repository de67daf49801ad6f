//! Which templates make a key, read backwards: from the key to the templates whose keys look like it. For `coverage`.
//!
//! A value can be any text, so nothing here is certain. What hardly is a value (one with the separator `:`, or with a
//! version behind it, `_v4`) is told apart: readers that moved to other names look exactly like that.

use crate::cache::glob;
use crate::keys::FamilyId;
use crate::rules::{Part, Rules};

/// How well a key suits a template.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Suits {
    /// Only if a value held a `:` or ended in a version.
    Doubtfully,
    /// Like any other of the template's keys.
    Well,
}

impl Rules {
    /// The templates that make keys like this one.
    pub fn covering<'r>(&'r self, key: &'r [u8]) -> impl Iterator<Item = (FamilyId, Suits)> + 'r {
        (0..).map(FamilyId).zip(&self.templates).filter_map(move |(family, template)| {
            let begins = match template.parts.first() {
                Some(Part::Literal(literal)) => key.starts_with(literal),
                Some(Part::Star | Part::Column(..) | Part::Answer(..)) | None => true,
            };
            if !begins || !glob::matches(&template.family, key) {
                return None;
            }
            Some((family, if suits(&template.parts, key) { Suits::Well } else { Suits::Doubtfully }))
        })
    }

    /// Whether a protected pattern covers a key.
    pub fn protects(&self, key: &[u8]) -> bool {
        self.protect.iter().any(|pattern| glob::matches(pattern, key))
    }
}

/// Whether each value can be a plain one. The parts are few, and literals between them leave few places to try.
fn suits(parts: &[Part], key: &[u8]) -> bool {
    let Some((part, behind)) = parts.split_first() else { return key.is_empty() };
    match part {
        Part::Literal(literal) => key.strip_prefix(literal.as_slice()).is_some_and(|rest| suits(behind, rest)),
        Part::Star if behind.is_empty() => true,
        Part::Star => (0..=key.len()).any(|length| starts(behind, &key[length..]) && suits(behind, &key[length..])),
        Part::Column(..) | Part::Answer(..) => {
            let longest = key.iter().position(|byte| *byte == b':').unwrap_or(key.len());
            let plain = |length: usize| version(&key[..length]).is_none();
            let rest = |length: usize| starts(behind, &key[length..]) && suits(behind, &key[length..]);
            (0..=longest).any(|length| plain(length) && rest(length))
        }
    }
}

/// A cheap look ahead: whether the next part can begin here.
fn starts(parts: &[Part], key: &[u8]) -> bool {
    match parts.first() {
        Some(Part::Literal(literal)) => key.starts_with(literal),
        Some(Part::Star | Part::Column(..) | Part::Answer(..)) => true,
        None => key.is_empty(),
    }
}

/// Where a version begins at the end of a text: `_v4`, `-v12`, `.v2`.
fn version(text: &[u8]) -> Option<usize> {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let mark = text.len().checked_sub(digits + 2).filter(|_| digits > 0)?;
    let versioned = matches!(text[mark], b'_' | b'-' | b'.') && matches!(text[mark + 1], b'v' | b'V');
    versioned.then_some(mark)
}

/// The key without versions: at the end of each segment, and segments that are nothing else.
pub fn unversioned(key: &[u8]) -> Vec<u8> {
    let alone =
        |segment: &&[u8]| !(segment.len() > 1 && segment[0] == b'v' && segment[1..].iter().all(u8::is_ascii_digit));
    let segments = key.split(|byte| *byte == b':').filter(alone);
    segments.map(|segment| &segment[..version(segment).unwrap_or(segment.len())]).collect::<Vec<_>>().join(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::parse::rules_of;

    #[test]
    fn a_key_suits_the_templates_whose_keys_look_like_it() {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['home', 'd:{id}', 's:*', 'p:{a}:{b}:x', 'q:{a}{b}']\n");
        for (key, expected) in [
            ("home", vec![(0, Suits::Well)]),
            ("home_v4", vec![]),
            ("d:7", vec![(1, Suits::Well)]),
            ("d:", vec![(1, Suits::Well)]),
            ("d:7_v4", vec![(1, Suits::Doubtfully)]),
            ("d:7_value", vec![(1, Suits::Well)]),
            ("d:7:meta", vec![(1, Suits::Doubtfully)]),
            ("s:a:b_v4", vec![(2, Suits::Well)]),
            ("p:1:2:x", vec![(3, Suits::Well)]),
            ("p:1:2:3:x", vec![(3, Suits::Doubtfully)]),
            ("p:1-v2:2:x", vec![(3, Suits::Doubtfully)]),
            ("q:abc", vec![(4, Suits::Well)]),
            ("other", vec![]),
        ] {
            let found: Vec<_> = rules.covering(key.as_bytes()).map(|(family, suits)| (family.0, suits)).collect();
            assert_eq!(found, expected, "{key}");
        }
        assert!(rules.protects(b"lock:1") && !rules.protects(b"d:1"));
    }

    #[test]
    fn versions_are_taken_off_wherever_readers_put_them() {
        for (key, plain) in [
            ("home_v4", "home"),
            ("home:v4", "home"),
            ("v2:home:x", "home:x"),
            ("a-v1:b.V22:c", "a:b:c"),
            ("move:4:v", "move:4:v"),
            ("a_v:b4", "a_v:b4"),
        ] {
            assert_eq!(unversioned(key.as_bytes()), plain.as_bytes(), "{key}");
        }
    }
}
