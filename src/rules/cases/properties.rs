//! Properties of rules over any values: a value is data, and protected keys stay.

use proptest::prelude::*;

use super::{Before, Made, NULL, UNKNOWN, apply, odd};
use crate::change::Value;
use crate::glob;
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::render::{KeyPiece, pattern};
use crate::rules::read::parse::rules_of;

/// Any bytes, mostly those that a pattern makes something of.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => prop::sample::select(b"*?[]^-\\ab:".to_vec()), 1 => any::<u8>()];
    prop::collection::vec(byte, 0..5)
}

/// Whether a key is what the pieces spell, an unknown piece being any text: read literally, without a glob.
fn spells(pieces: &[Option<Vec<u8>>], key: &[u8]) -> bool {
    match pieces {
        [] => key.is_empty(),
        [Some(text), rest @ ..] => key.strip_prefix(text.as_slice()).is_some_and(|key| spells(rest, key)),
        [None, rest @ ..] => (0..=key.len()).any(|from| spells(rest, &key[from..])),
    }
}

proptest! {
    #[test]
    fn a_pattern_matches_what_its_literal_reading_does_and_nothing_else(
        pieces in prop::collection::vec(prop::option::of(bytes()), 0..6),
        fill in prop::collection::vec(bytes(), 6),
        other in bytes(),
    ) {
        let made: Vec<KeyPiece<'_>> = pieces.iter().map(|piece| match piece {
            Some(text) => KeyPiece::Value(Value::Text(text)),
            None => KeyPiece::Value(Value::Unknown),
        }).collect();
        let pattern = pattern(&made);
        let fits = pieces.iter().zip(&fill).map(|(piece, fill)| piece.clone().unwrap_or(fill.clone()));
        let fits: Vec<Vec<u8>> = fits.collect();
        let fits = fits.concat();
        let cut = fits.get(1..).unwrap_or_default().to_vec();
        prop_assert!(glob::matches(&pattern, &fits));
        for key in [fits, cut, other] {
            prop_assert_eq!(glob::matches(&pattern, &key), spells(&pieces, &key));
        }
    }

    #[test]
    fn no_value_makes_a_rule_name_a_protected_key(a in odd(), b in odd(), lock in prop::sample::select(vec!["lock:", "ock:1", "l", "LOCK:"])) {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nkeys = ['l{a}{b}', '{a}k:{b}', '{a|lower}:{b}', 'lo{ck,x}{a|pg}', '{,l}{a}c{b or \"k:\"}']\n\
             companions = [':meta']\n",
        );
        for a in [a.as_str(), lock, UNKNOWN, NULL] {
            let mut out = Invalidations::default();
            let new = [a, b.as_str()];
            apply(&rules, "t", "a* b*", Made::Update(Before::Key(&[lock, "k:"]), &new), 0, &mut out);
            prop_assert!(out.keys.iter().all(|key| !key.bytes.starts_with(b"lock:")));
        }
    }

    #[test]
    fn the_family_of_a_template_covers_whatever_its_filters_make(a in odd(), b in odd()) {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nkeys = ['a:{a|lower}:{b|md5}', 'b:{a|urlencode or \"x\"}*', 'c{1,2}:{a.x or \"*\"}:{b|upper}']\n",
        );
        let mut out = Invalidations::default();
        for values in [[a.as_str(), &b], [NULL, &b], [UNKNOWN, &b], [&a, UNKNOWN]] {
            apply(&rules, "t", "a* b*", Made::Insert(&values), 0, &mut out);
        }
        for key in out.keys.iter() {
            prop_assert!(glob::matches(rules.family(key.family), key.bytes));
        }
        for pattern in out.patterns.iter() {
            // A widened key begins like its family: what it sweeps is the family's.
            let owned = glob::literal_prefix(rules.family(pattern.family));
            prop_assert!(glob::literal_prefix(pattern.bytes).starts_with(&owned));
        }
    }
}
