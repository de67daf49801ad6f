//! Hash slots: of a key, a short name for each, and sets of them. Pure.
//!
//! A cluster spreads keys over 16,384 slots by a checksum of the key, or of the part of it between the first `{` and the
//! next `}` where that holds something: the hash tag.

use std::fmt::Write as _;
use std::sync::OnceLock;

/// How many slots a cluster has.
pub const SLOTS: u16 = 16_384;

/// The checksum of the cluster's documentation: CRC-16 with the polynomial 0x1021, from zero (XMODEM).
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

const TABLE: [u16; 256] = table();

fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| (sum << 8) ^ TABLE[usize::from((sum >> 8) as u8 ^ byte)])
}

/// The part of the key that decides about its slot.
fn hashed(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &behind[..close],
    }
}

/// The slot of a key.
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    checksum(hashed(key)) % SLOTS
}

/// Every slot has a number below this: a test counts them.
const TAGS_BELOW: u32 = 200_000;

/// The first number, as text, that lies in the slot: a hash tag for it. The numbers of all slots are found together, once.
pub fn tag_of(slot: u16) -> String {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![0; usize::from(SLOTS)];
        for number in (0..TAGS_BELOW).rev() {
            tags[usize::from(slot_of(number.to_string().as_bytes()))] = number;
        }
        tags
    });
    tags[usize::from(slot % SLOTS)].to_string()
}

/// Some of the slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; SLOTS as usize / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        SlotSet(Box::new([0; SLOTS as usize / 64]))
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl SlotSet {
    fn place(slot: u16) -> (usize, u64) {
        (usize::from(slot / 64), 1 << (slot % 64))
    }

    /// Adds one.
    pub fn insert(&mut self, slot: u16) {
        let (word, bit) = SlotSet::place(slot % SLOTS);
        self.0[word] |= bit;
    }

    /// Takes one out.
    pub fn remove(&mut self, slot: u16) {
        let (word, bit) = SlotSet::place(slot % SLOTS);
        self.0[word] &= !bit;
    }

    /// Whether it is among them.
    #[inline]
    pub fn has(&self, slot: u16) -> bool {
        let (word, bit) = SlotSet::place(slot % SLOTS);
        self.0[word] & bit != 0
    }

    /// Each of them, the lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let words = (0..SLOTS / 64).zip(self.0.iter()).filter(|(_, word)| **word != 0);
        words.flat_map(|(place, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| place * 64 + bit))
    }

    /// The lowest.
    pub fn first(&self) -> Option<u16> {
        self.iter().next()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether each of them is one of `others`.
    pub fn is_within(&self, others: &SlotSet) -> bool {
        self.0.iter().zip(others.0.iter()).all(|(ours, theirs)| ours & !theirs == 0)
    }

    /// Keeps those that are in `others`, too.
    pub fn keep(&mut self, others: &SlotSet) {
        self.0.iter_mut().zip(others.0.iter()).for_each(|(ours, theirs)| *ours &= theirs);
    }

    /// Takes all of `others` out.
    pub fn lose(&mut self, others: &SlotSet) {
        self.0.iter_mut().zip(others.0.iter()).for_each(|(ours, theirs)| *ours &= !theirs);
    }

    /// Adds all of `others`.
    pub fn add(&mut self, others: &SlotSet) {
        self.0.iter_mut().zip(others.0.iter()).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// How many are in both.
    pub fn common(&self, others: &SlotSet) -> usize {
        self.0.iter().zip(others.0.iter()).map(|(ours, theirs)| (ours & theirs).count_ones() as usize).sum()
    }

    /// As ranges: `0-5460,9000`.
    pub fn text(&self) -> String {
        let (mut text, mut from) = (String::new(), None);
        for slot in 0..=SLOTS {
            let has = slot < SLOTS && self.has(slot);
            match (from, has) {
                (None, true) => from = Some(slot),
                (Some(first), false) => {
                    let comma = if text.is_empty() { "" } else { "," };
                    // Writing to a String cannot fail.
                    let _ = match slot - 1 {
                        last if last == first => write!(text, "{comma}{first}"),
                        last => write!(text, "{comma}{first}-{last}"),
                    };
                    from = None;
                }
                _ => {}
            }
        }
        text
    }

    /// From ranges; `None` for anything else.
    pub fn read(text: &str) -> Option<Self> {
        let mut set = SlotSet::default();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
            if last >= SLOTS || first > last {
                return None;
            }
            (first..=last).for_each(|slot| set.insert(slot));
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_that_of_the_servers() {
        // The first from the cluster's specification, the others from CLUSTER KEYSLOT of Redis 7.
        assert_eq!(checksum(b"123456789"), 0x31C3);
        for (key, slot) in [
            (&b""[..], 0),
            (b"foo", 12_182),
            (b"somekey", 11_058),
            (b"foo{hash_tag}", 2_515),
            (b"bar{hash_tag}", 2_515),
            (b"hash_tag", 2_515),
        ] {
            assert_eq!(slot_of(key), slot, "{}", String::from_utf8_lossy(key));
        }
        for (key, part) in [
            ("a{b}c", "b"),
            ("a{}c", "a{}c"),
            ("a{b", "a{b"),
            ("a}b{c}", "c"),
            ("{b}{c}", "b"),
            ("a{{b}}", "{b"),
            ("lease:{a}b}", "a"),
        ] {
            assert_eq!(hashed(key.as_bytes()), part.as_bytes(), "{key}");
        }
    }

    #[test]
    fn every_slot_has_a_tag() {
        let mut found = SlotSet::default();
        for number in 0..TAGS_BELOW {
            found.insert(slot_of(number.to_string().as_bytes()));
        }
        assert_eq!(found.len(), usize::from(SLOTS));
        for slot in [0, 1, 5_461, 16_383] {
            assert_eq!(slot_of(format!("crieur:mark:crieur:{{{}}}", tag_of(slot)).as_bytes()), slot);
        }
    }

    #[test]
    fn sets_are_told_as_ranges_and_compared() {
        for text in ["", "0", "0-5460", "0-1,3,16383", "5461-10922"] {
            let set = SlotSet::read(text).expect("ranges");
            assert_eq!(set.text(), text);
            assert_eq!(set.is_empty(), text.is_empty());
        }
        for wrong in ["x", "1-", "2-1", "16384", "-1", "1 "] {
            assert_eq!(SlotSet::read(wrong), None, "{wrong}");
        }
        let read = |text| SlotSet::read(text).expect("ranges");
        let (some, more) = (read("5-7"), read("0-10"));
        assert!(some.is_within(&more) && !more.is_within(&some) && read("").is_within(&some));
        assert_eq!((some.first(), some.len(), some.common(&more), read("").first()), (Some(5), 3, 3, None));
        let mut kept = more.clone();
        kept.keep(&some);
        assert_eq!(kept, some);
        kept.add(&more);
        assert_eq!(kept, more);
        kept.lose(&some);
        assert_eq!(kept, read("0-4,8-10"));
        assert_eq!(read("0,63-64,16383").iter().collect::<Vec<_>>(), [0, 63, 64, 16_383]);
    }
}
