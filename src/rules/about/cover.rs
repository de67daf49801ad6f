//! Which templates make a key, read backwards: from the key to the templates whose keys look like it. For `coverage`.
//!
//! A value can be any text, so nothing here is certain. What hardly is a value (one with the separator `:` that is no
//! timestamp, or with a version behind it, `_v4`) is told apart: readers that moved to other names look exactly like that.

use std::collections::BTreeSet;

use crate::glob;
use crate::keys::FamilyId;
use crate::rules::ruleset::{KeyPart, Rules};

/// Longer keys suit whatever template covers them: there is no telling in reasonable time.
const KEY_BYTES_MAX: usize = 1024;

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
                Some(KeyPart::Literal(literal)) => key.starts_with(literal),
                Some(KeyPart::Star | KeyPart::Column(..) | KeyPart::Answer(..)) | None => true,
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

/// Whether each value can be a plain one: part by part, every place where the next one may begin.
fn suits(parts: &[KeyPart], key: &[u8]) -> bool {
    if key.len() > KEY_BYTES_MAX {
        return true;
    }
    let mut places = BTreeSet::from([0]);
    for part in parts {
        places = match part {
            KeyPart::Literal(literal) => {
                let fitting = places.into_iter().filter(|place| key[*place..].starts_with(literal));
                fitting.map(|place| place + literal.len()).collect()
            }
            KeyPart::Star => places.first().map_or_else(BTreeSet::new, |first| (*first..=key.len()).collect()),
            KeyPart::Column(..) | KeyPart::Answer(..) => {
                places.iter().flat_map(|place| value_ends(key, *place)).collect()
            }
        };
    }
    places.contains(&key.len())
}

/// Where a plain value that begins at `place` may end.
fn value_ends(key: &[u8], place: usize) -> impl Iterator<Item = usize> {
    let behind = place + timestamp(&key[place..]);
    let last = key[behind..].iter().position(|byte| *byte == b':').map_or(key.len(), |colon| behind + colon);
    (place..=last).filter(move |end| !versions(&key[place..*end]).any(|_| true))
}

/// The length of a timestamp that a text begins with, 0 without one: `2024-01-02T03:04:05.1+00:00`, or a blank for the T.
fn timestamp(text: &[u8]) -> usize {
    let has_shape = |text: &[u8], shape: &[u8]| {
        let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
        text.len() >= shape.len() && text.iter().zip(shape).all(fits)
    };
    let Some(shape) =
        [b"0000-00-00T00:00:00", b"0000-00-00 00:00:00"].into_iter().find(|shape| has_shape(text, *shape))
    else {
        return 0;
    };
    let fraction = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
    let seconds = shape.len() + text[shape.len()..].iter().take_while(fraction).count();
    let zones: [&[u8]; 2] = [b"+00:00", b"-00:00"];
    seconds + zones.iter().find(|zone| has_shape(&text[seconds..], zone)).map_or(0, |zone| zone.len())
}

/// The versions in a text: `_v4`, `-v12`, `.v2` before its end or before another mark, as in `popular_v4_8`.
fn versions(text: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let is_mark = |byte: &u8| matches!(byte, b'_' | b'-' | b'.');
    (0..text.len()).filter_map(move |at| {
        let begins = is_mark(&text[at]) && matches!(text.get(at + 1), Some(b'v' | b'V'));
        let digits = text[at + 1..].iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
        let end = at + 2 + digits;
        let ends = text.get(end).is_none_or(|byte| is_mark(byte) || *byte == b':');
        (begins && digits > 0 && ends).then_some(at..end)
    })
}

/// The key without versions: those within segments, and segments that are nothing else.
pub fn unversioned(key: &[u8]) -> Vec<u8> {
    let alone =
        |segment: &&[u8]| !(segment.len() > 1 && segment[0] == b'v' && segment[1..].iter().all(u8::is_ascii_digit));
    let segments = key.split(|byte| *byte == b':').filter(alone);
    let plain = segments.map(|segment| {
        let mut plain = Vec::with_capacity(segment.len());
        let mut from = 0;
        for version in versions(segment) {
            plain.extend_from_slice(&segment[from..version.start]);
            from = version.end;
        }
        plain.extend_from_slice(&segment[from..]);
        plain
    });
    plain.collect::<Vec<_>>().join(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn a_key_suits_the_templates_whose_keys_look_like_it() {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['home', 'd:{id}', 's:*', 'p:{a}:{b}:x', 'q:{a}{b}']\n");
        for (key, expected) in [
            ("home", vec![(0, Suits::Well)]),
            ("home_v4", vec![]),
            ("d:7", vec![(1, Suits::Well)]),
            ("d:", vec![(1, Suits::Well)]),
            ("d:7_v4", vec![(1, Suits::Doubtfully)]),
            ("d:7_v4_8", vec![(1, Suits::Doubtfully)]),
            ("d:7_value", vec![(1, Suits::Well)]),
            ("d:7:meta", vec![(1, Suits::Doubtfully)]),
            ("d:2024-03-01T23:30:00.5+00:00", vec![(1, Suits::Well)]),
            ("d:2024-03-01 23:30:00-05:30", vec![(1, Suits::Well)]),
            ("d:2024-03-01T23:30:00", vec![(1, Suits::Well)]),
            ("d:2024-03-01T23:30:00:meta", vec![(1, Suits::Doubtfully)]),
            ("d:2024-03-01T23:30:00+00:00:meta", vec![(1, Suits::Doubtfully)]),
            ("d:23:30:00", vec![(1, Suits::Doubtfully)]),
            ("p:2024-03-01T23:30:00+00:00:2:x", vec![(3, Suits::Well)]),
            ("s:a:b_v4", vec![(2, Suits::Well)]),
            ("p:1:2:x", vec![(3, Suits::Well)]),
            ("p:1:2:3:x", vec![(3, Suits::Doubtfully)]),
            ("p:1-v2:2:x", vec![(3, Suits::Doubtfully)]),
            ("q:abc", vec![(4, Suits::Well)]),
            (&format!("p:{}", "::x".repeat(300)), vec![(3, Suits::Doubtfully)]),
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
            ("popular_locations_v4_8", "popular_locations_8"),
            ("a_v1_v2-x:b", "a-x:b"),
            ("a_v4b", "a_v4b"),
            ("a_v:b4", "a_v:b4"),
        ] {
            assert_eq!(unversioned(key.as_bytes()), plain.as_bytes(), "{key}");
        }
    }
}
