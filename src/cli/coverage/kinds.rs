//! Identifiers of another kind than the others of a template: a user's number where an owner's UUID is. Pure; memory is
//! bounded.

use std::collections::BTreeMap;

use super::families::general;
use crate::glob;
use crate::keys::FamilyId;

/// Shapes that are told apart for one family; more of them are words.
const SHAPES_MAX: usize = 16;

/// How the keys of each family look.
#[derive(Debug, Default)]
pub struct Kinds(BTreeMap<FamilyId, Shapes>);

/// Segments with their kinds named, how many keys have them, and the first of these.
type Shapes = BTreeMap<Vec<String>, (u64, Vec<u8>)>;

/// Keys that look otherwise than most of their family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Odd {
    /// How they look.
    pub shape: String,
    /// How many they are.
    pub count: u64,
    /// One of them.
    pub example: Vec<u8>,
    /// How most look.
    pub usual: String,
}

impl Kinds {
    /// Counts a key that suits the family.
    pub fn add(&mut self, family: FamilyId, key: &[u8]) {
        let shapes = self.0.entry(family).or_default();
        let shape: Vec<String> = key.split(|byte| *byte == b':').map(general).collect();
        if let Some((count, _)) = shapes.get_mut(&shape) {
            *count += 1;
        } else if shapes.len() < SHAPES_MAX {
            shapes.insert(shape, (1, key.to_vec()));
        }
    }

    /// Those that have a number where most have a UUID, or the reverse.
    pub fn odd(&self) -> impl Iterator<Item = (FamilyId, Odd)> {
        self.0.iter().flat_map(|(family, shapes)| {
            let usual = shapes.iter().max_by_key(|(_, (count, _))| *count);
            let odd = shapes.iter().filter(move |(shape, _)| usual.is_some_and(|(usual, _)| is_odd(shape, usual)));
            odd.map(move |(shape, (count, example))| {
                let usual = usual.map_or_else(String::new, |(usual, _)| usual.join(":"));
                (*family, Odd { shape: shape.join(":"), count: *count, example: example.clone(), usual })
            })
        })
    }
}

fn is_odd(shape: &[String], usual: &[String]) -> bool {
    let kinds = |a: &str, b: &str| matches!((a, b), ("{number}", "{uuid}") | ("{uuid}", "{number}"));
    shape.len() == usual.len() && shape.iter().zip(usual).any(|(a, b)| kinds(a, b))
}

/// Whether every key of a family matches a glob, as far as a few of them tell.
pub fn lies_within(family: &[u8], pattern: &[u8]) -> bool {
    [&b""[..], b"\x01", b"0", b"a:b"].iter().all(|text| glob::matches(pattern, &filled(family, text)))
}

/// A key of the family, with this text for each star.
fn filled(family: &[u8], text: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(family.len());
    let mut bytes = family.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => key.extend(bytes.next()),
            b'*' => key.extend_from_slice(text),
            byte => key.push(*byte),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_lies_within_a_glob_when_each_of_its_keys_matches() {
        for (family, pattern, within) in [
            (&b"a:*"[..], &b"*"[..], true),
            (b"a:*", b"a:*", true),
            (b"a:*", b"a:b*", false),
            (b"*:a", b"a:*", false),
            (b"a:b", b"a:?", true),
            (b"a\\*:*", b"a[*]:*", true),
        ] {
            assert_eq!(lies_within(family, pattern), within, "{}", family.escape_ascii());
        }
    }
}
