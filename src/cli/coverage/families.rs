//! Key families as they can be guessed from keys alone: segments that are numbers, identifiers or hashes stand for any
//! such, and a place where many words were seen stands for any text. Pure; memory is bounded.

use std::collections::{BTreeMap, HashMap, HashSet};

/// So many different words at one place of otherwise equal families are values, not names.
const WORDS_MAX: usize = 8;

/// Families that are told apart while keys come in.
const FAMILIES_MAX: usize = 4_000;

/// A family, and one of its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// How many keys were seen.
    pub count: u64,
    /// The first of them.
    pub example: Vec<u8>,
    /// What the caller knows of it.
    pub note: String,
}

/// The segments of a family, and its note.
type Shape = (Vec<String>, String);

/// Keys by family; a note tells apart what looks alike.
#[derive(Debug, Default)]
pub struct Families {
    seen: HashMap<Shape, Seen>,
}

impl Families {
    /// Counts a key.
    pub fn add(&mut self, key: &[u8], note: String) {
        let shape = (key.split(|byte| *byte == b':').map(general).collect(), note);
        if let Some(seen) = self.seen.get_mut(&shape) {
            seen.count += 1;
            return;
        }
        let note = shape.1.clone();
        self.seen.insert(shape, Seen { count: 1, example: key.to_vec(), note });
        if self.seen.len() > FAMILIES_MAX {
            self.merge(WORDS_MAX);
            // Keys without any order: fewer and fewer words are names.
            let mut most = WORDS_MAX;
            while self.seen.len() > FAMILIES_MAX / 2 && most > 0 {
                most -= 1;
                self.merge(most);
            }
            if self.seen.len() > FAMILIES_MAX / 2 {
                self.forget_shapes();
            }
        }
    }

    /// The families by name, the largest first.
    pub fn finish(mut self) -> Vec<(String, Seen)> {
        self.merge(WORDS_MAX);
        self.fold();
        let mut families: Vec<(String, Seen)> =
            self.seen.into_iter().map(|((shape, _), seen)| (shape.join(":"), seen)).collect();
        families.sort_by(|a, b| b.1.count.cmp(&a.1.count).then_with(|| a.0.cmp(&b.0)));
        families
    }

    /// Places with more than `most` words become `*`, from the end, where keys vary most. A first segment is a name,
    /// unless it is all there is.
    fn merge(&mut self, most: usize) {
        let longest = self.seen.keys().map(|(shape, _)| shape.len()).max().unwrap_or(0);
        for place in (0..longest).rev() {
            let around = |(shape, note): &(Vec<String>, String)| {
                let mut around = shape.clone();
                around[place] = "*".to_owned();
                (around, note.clone())
            };
            let here = |shape: &[String]| shape.len() > place && (place > 0 || shape.len() == 1);
            let mut words: BTreeMap<_, HashSet<&str>> = BTreeMap::new();
            for key in self.seen.keys().filter(|key| here(&key.0)) {
                words.entry(around(key)).or_default().insert(&key.0[place]);
            }
            let merged: HashSet<_> =
                words.into_iter().filter(|(_, words)| words.len() > most).map(|(shape, _)| shape).collect();
            if merged.is_empty() {
                continue;
            }
            for (key, seen) in std::mem::take(&mut self.seen) {
                let general = here(&key.0).then(|| around(&key)).filter(|around| merged.contains(around));
                self.put(general.unwrap_or(key), seen);
            }
        }
    }

    /// Families that differ in one word are one line, with the words in braces as a rule would have them.
    fn fold(&mut self) {
        let longest = self.seen.keys().map(|(shape, _)| shape.len()).max().unwrap_or(0);
        for place in (1..longest).rev() {
            let mut alike: BTreeMap<Shape, Vec<(String, u64)>> = BTreeMap::new();
            for ((shape, note), seen) in &self.seen {
                if let Some(word) = shape.get(place).filter(|word| is_word(word)) {
                    let mut around = shape.clone();
                    around[place].clear();
                    alike.entry((around, note.clone())).or_default().push((word.clone(), seen.count));
                }
            }
            for ((around, note), mut words) in alike.into_iter().filter(|(_, words)| words.len() > 1) {
                words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                let at = |word: &str| {
                    let mut shape = around.clone();
                    shape[place] = word.to_owned();
                    (shape, note.clone())
                };
                let all = words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(",");
                for (word, _) in &words {
                    if let Some(seen) = self.seen.remove(&at(word)) {
                        self.put(at(&format!("{{{all}}}")), seen);
                    }
                }
            }
        }
    }

    /// Nothing tells the families apart any more: their first segment and their length must do.
    fn forget_shapes(&mut self) {
        for ((mut shape, note), seen) in std::mem::take(&mut self.seen) {
            let names = usize::from(shape.len() > 1 && self.seen.len() < FAMILIES_MAX / 4);
            shape.truncate(names);
            shape.push("*".to_owned());
            self.put((shape, note), seen);
        }
    }

    fn put(&mut self, key: (Vec<String>, String), seen: Seen) {
        match self.seen.get_mut(&key) {
            Some(known) => known.count += seen.count,
            None => _ = self.seen.insert(key, seen),
        }
    }
}

/// Whether a segment is a word, and names no kind.
fn is_word(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains(['{', '*'])
}

/// A segment with what varies named by its kind. A version stays: `_v4` is a name.
pub fn general(segment: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(segment) else { return "{bytes}".to_owned() };
    let is_uuid = |text: &str| {
        text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    if let Some(head) = text.get(..36).filter(|head| is_uuid(head)) {
        return format!("{{uuid}}{}", general(&segment[head.len()..]));
    }
    if text.len() >= 16
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !text.bytes().all(|b| b.is_ascii_digit())
    {
        return "{hash}".to_owned();
    }
    if text.len() > 48 || text.chars().any(|c| c.is_control() || "@=&{}\"' ".contains(c)) {
        return "{text}".to_owned();
    }
    let mut out = String::new();
    let mut before = ' ';
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if matches!(before, 'v' | 'V') => out.push(c),
            true if before.is_ascii_digit() && out.ends_with('}') => {}
            true if before.is_ascii_digit() => out.push(c),
            true => out.push_str("{number}"),
            false => out.push(c),
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_in_a_segment_is_named_by_its_kind() {
        for (segment, shape) in [
            ("detail", "detail"),
            ("42", "{number}"),
            ("home_v12", "home_v12"),
            ("page7", "page{number}"),
            ("2024-03-01", "{number}-{number}-{number}"),
            ("6f9619ff-8b86-d011-b42d-00c04fc964ff", "{uuid}"),
            ("6f9619ff-8b86-d011-b42d-00c04fc964ff_v4", "{uuid}_v4"),
            ("d41d8cd98f00b204e9800998ecf8427e", "{hash}"),
            ("a b", "{text}"),
            ("x@y.sn", "{text}"),
            ("", ""),
        ] {
            assert_eq!(general(segment.as_bytes()), shape, "{segment}");
        }
        assert_eq!(general(b"\xFF"), "{bytes}");
    }

    fn named(keys: impl IntoIterator<Item = String>) -> Vec<(String, u64)> {
        let mut families = Families::default();
        keys.into_iter().for_each(|key| families.add(key.as_bytes(), String::new()));
        families.finish().into_iter().map(|(name, seen)| (name, seen.count)).collect()
    }

    #[test]
    fn many_words_at_one_place_are_values_and_few_are_names() {
        let cities = ('a'..='z').map(|city| format!("search:city{city}:list"));
        let kinds = ["x:a:1", "x:b:2", "x:b:3"].map(str::to_owned);
        let found = named(cities.chain(kinds));
        let expected = [("search:*:list", 26), ("x:{b,a}:{number}", 3)];
        assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn memory_stays_bounded_whatever_the_keys_are() {
        let word = |mut number: usize| {
            let mut word = String::new();
            for _ in 0..6 {
                word.push(char::from(b'a' + (number % 26) as u8));
                number /= 26;
            }
            word
        };
        let mut families = Families::default();
        for number in 0..40_000_usize {
            let key = format!("{}:{}:{}", word(number), word(number * 7919), word(number * 104_729));
            families.add(key.as_bytes(), String::new());
            assert!(families.seen.len() <= FAMILIES_MAX + 1, "{}", families.seen.len());
        }
        assert_eq!(families.finish().iter().map(|(_, seen)| seen.count).sum::<u64>(), 40_000);
    }
}
