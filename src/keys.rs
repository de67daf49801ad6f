//! Sets of keys: segments of bytes and entries, one table of indexes, no allocation per key.
//!
//! A [`KeySet`] holds exact keys, escaped patterns or encoded lookup parameters alike: it knows bytes, not meanings.
//! Each entry remembers the first and the last transaction (an ordinal inside of its batch) that named it, so that a
//! batch can be split by visibility without storing a key twice, and the family that it collapses into when a bound is
//! reached.
//!
//! Memory is what the set is made for: a segment never grows past its size (a longer key gets one of its own), so that
//! nothing large is ever copied to grow, freed segments fit the next set exactly, and a set that is merged or split
//! gives its segments back one by one. [`KeySet::bytes_used`] counts what was allocated, not what was asked for.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Ordinal of a transaction inside of one batch.
pub type TxOrdinal = u32;

/// Index of a key family in the rules: the pattern that covers every key of one template.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FamilyId(pub u32);

/// Bytes of keys in one segment: below the size from which the C library maps memory for each allocation.
const SEGMENT_BYTES: usize = 64 * 1024;

/// Entries in one segment, as a number of bits of an index.
const ENTRY_BITS: u32 = 11;
const SEGMENT_ENTRIES: usize = 1 << ENTRY_BITS;

/// One entry: where its bytes are in its segment and which transactions named it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    length: u32,
    family: FamilyId,
    first: TxOrdinal,
    last: TxOrdinal,
}

/// One entry as readers of the set see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'a> {
    /// The key, pattern or encoded parameters.
    pub bytes: &'a [u8],
    /// The family that covers it.
    pub family: FamilyId,
    /// The first transaction that named it.
    pub first: TxOrdinal,
    /// The last transaction that named it.
    pub last: TxOrdinal,
}

/// Keys that lie together.
#[derive(Clone, Default)]
struct Segment {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Segment {
    #[inline]
    fn has_room(&self, length: usize) -> bool {
        self.entries.is_empty() || (self.entries.len() < SEGMENT_ENTRIES && self.bytes.len() + length <= SEGMENT_BYTES)
    }

    fn bytes_allocated(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    #[inline]
    fn text(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..][..entry.length as usize]
    }

    #[inline]
    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let key = |entry: &Entry| (entry.family, entry.first, entry.last);
        self.entries.iter().map(move |entry| {
            let (family, first, last) = key(entry);
            Key { bytes: self.text(entry), family, first, last }
        })
    }
}

/// The segments of a set; an index is the segment's number and the entry's in it.
#[derive(Clone, Default)]
struct Segments(Vec<Segment>);

impl Segments {
    #[inline]
    fn entry(&self, index: u32) -> (&Segment, &Entry) {
        let segment = &self.0[(index >> ENTRY_BITS) as usize];
        (segment, &segment.entries[index as usize % SEGMENT_ENTRIES])
    }

    #[inline]
    fn text(&self, index: u32) -> &[u8] {
        let (segment, entry) = self.entry(index);
        segment.text(entry)
    }

    /// Transactions from `first` to `last` named the key as well.
    #[inline]
    fn name(&mut self, index: u32, first: TxOrdinal, last: TxOrdinal) {
        let entry = &mut self.0[(index >> ENTRY_BITS) as usize].entries[index as usize % SEGMENT_ENTRIES];
        entry.first = entry.first.min(first);
        entry.last = entry.last.max(last);
    }

    /// Appends a key; its index, and how many bytes were allocated for it.
    #[inline]
    fn push(&mut self, key: &Key<'_>) -> (u32, usize) {
        let mut before = 0;
        match self.0.last() {
            Some(segment) if segment.has_room(key.bytes.len()) => before = segment.bytes_allocated(),
            Some(_) => self.0.push(Segment {
                bytes: Vec::with_capacity(SEGMENT_BYTES.max(key.bytes.len())),
                entries: Vec::with_capacity(SEGMENT_ENTRIES),
            }),
            None => self.0.push(Segment::default()), // Most sets are small and never need a second.
        }
        let number = self.0.len() as u32 - 1;
        let segment = self.0.last_mut().expect("pushed above when there was none");
        let start = segment.bytes.len() as u32;
        segment.bytes.extend_from_slice(key.bytes);
        let Key { bytes, family, first, last } = *key;
        segment.entries.push(Entry { start, length: bytes.len() as u32, family, first, last });
        let index = number << ENTRY_BITS | (segment.entries.len() as u32 - 1);
        (index, segment.bytes_allocated() - before)
    }
}

/// A set of byte strings in order of first mention.
#[derive(Clone, Default)]
pub struct KeySet {
    segments: Segments,
    table: HashTable<u32>,
    hasher: RandomState,
    /// By family: the entry of a key that is the only one of its family, behind the one that means none.
    constants: Vec<u32>,
    /// Of all segments.
    allocated: usize,
    /// The key that is being written.
    scratch: Vec<u8>,
}

/// A key under construction: write its parts, then [`finish`](KeyWriter::finish). Dropped unfinished, it leaves no trace.
pub struct KeyWriter<'a> {
    set: &'a mut KeySet,
}

impl KeyWriter<'_> {
    /// Appends bytes to the key.
    #[inline]
    pub fn push(&mut self, part: &[u8]) {
        self.set.scratch.extend_from_slice(part);
    }

    /// What was written so far.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.set.scratch
    }

    /// Adds the key unless the set holds it; says whether it is new.
    #[inline]
    pub fn finish(self, family: FamilyId, tx: TxOrdinal) -> bool {
        self.finish_range(family, (tx, tx))
    }

    /// The same, named by transactions from `first` to `last`.
    #[inline]
    pub fn finish_range(self, family: FamilyId, (first, last): (TxOrdinal, TxOrdinal)) -> bool {
        let mut scratch = std::mem::take(&mut self.set.scratch);
        let new = self.set.add(&Key { bytes: &scratch, family, first, last });
        if scratch.capacity() <= SEGMENT_BYTES {
            scratch.clear();
            self.set.scratch = scratch;
        }
        new
    }
}

impl KeySet {
    /// Starts a key.
    #[inline]
    pub fn write(&mut self) -> KeyWriter<'_> {
        self.scratch.clear();
        KeyWriter { set: self }
    }

    /// Adds a whole key; says whether it is new.
    pub fn insert(&mut self, key: &[u8], family: FamilyId, tx: TxOrdinal) -> bool {
        self.add(&Key { bytes: key, family, first: tx, last: tx })
    }

    /// Adds the only key that its family ever makes. Many changes name it: it is found by its family, without a hash.
    #[inline]
    pub fn insert_constant(&mut self, key: &[u8], family: FamilyId, tx: TxOrdinal) -> bool {
        let at = family.0 as usize;
        if let Some(index) = self.constants.get(at).and_then(|known| known.checked_sub(1)) {
            self.segments.name(index, tx, tx);
            return false;
        }
        let (index, new) = self.place(&Key { bytes: key, family, first: tx, last: tx });
        self.constants.resize(self.constants.len().max(at + 1), 0);
        self.constants[at] = index + 1;
        new
    }

    /// Adds a key, or widens the range of transactions of the one that is there; says whether it is new.
    pub fn add(&mut self, key: &Key<'_>) -> bool {
        self.place(key).1
    }

    #[inline]
    fn place(&mut self, key: &Key<'_>) -> (u32, bool) {
        let KeySet { segments, table, hasher, .. } = self;
        let hash = hasher.hash_one(key.bytes);
        if let Some(&index) = table.find(hash, |&index| segments.text(index) == key.bytes) {
            segments.name(index, key.first, key.last);
            return (index, false);
        }
        let (index, allocated) = segments.push(key);
        table.insert_unique(hash, index, |&index| hasher.hash_one(segments.text(index)));
        self.allocated += allocated;
        (index, true)
    }

    /// How many keys the set holds.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes allocated; what the memory bounds count.
    pub fn bytes_used(&self) -> usize {
        self.allocated + self.table.allocation_size() + self.constants.capacity() * size_of::<u32>()
    }

    /// Whether the set holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&index| self.segments.text(index) == key).is_some()
    }

    /// The keys in order of first mention.
    pub fn iter(&self) -> impl Iterator<Item = Key<'_>> {
        self.segments.0.iter().flat_map(Segment::keys)
    }

    /// The keys behind the first `skipped` in order of first mention.
    pub fn behind(&self, skipped: usize) -> KeySet {
        let mut behind = KeySet::default();
        let mut before = 0;
        for segment in &self.segments.0 {
            let left = skipped.saturating_sub(before).min(segment.entries.len());
            segment.keys().skip(left).for_each(|key| _ = behind.add(&key));
            before += segment.entries.len();
        }
        behind
    }

    /// Hands every key over, and gives each segment back as soon as its keys were.
    pub fn drain(self, mut take: impl FnMut(Key<'_>)) {
        drop(self.table);
        for segment in self.segments.0 {
            segment.keys().for_each(&mut take);
        }
    }

    /// Adds every key of `other` with its transactions. The larger set keeps its memory.
    pub fn merge(&mut self, mut other: KeySet) {
        if other.len() > self.len() {
            std::mem::swap(self, &mut other);
        }
        other.drain(|key| _ = self.add(&key));
    }

    /// Keeps the keys for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&Key<'_>) -> bool) {
        if self.iter().all(|key| keep(&key)) {
            return;
        }
        let old = std::mem::take(self);
        old.drain(|key| {
            if keep(&key) {
                self.add(&key);
            }
        });
    }

    /// Splits into what `leaves` and what stays, for which `stays` says under which transactions. A key may do both.
    pub fn split(
        &mut self,
        leaves: impl Fn(&Key<'_>) -> bool,
        stays: impl Fn(&Key<'_>) -> Option<(TxOrdinal, TxOrdinal)>,
    ) -> KeySet {
        let mut leaving = KeySet::default();
        std::mem::take(self).drain(|key| {
            if leaves(&key) {
                leaving.add(&key);
            }
            if let Some((first, last)) = stays(&key) {
                self.add(&Key { first, last, ..key });
            }
        });
        leaving
    }

    /// The same keys in sets of a few thousand; what was handed out is no longer held here.
    pub fn pieces(self) -> impl Iterator<Item = KeySet> {
        drop(self.table);
        self.segments.0.into_iter().map(|segment| {
            let mut piece = KeySet::default();
            segment.keys().for_each(|key| _ = piece.add(&key));
            piece
        })
    }

    /// Renumbers the transactions of every entry.
    pub fn renumber(&mut self, number: impl Fn(TxOrdinal, TxOrdinal) -> (TxOrdinal, TxOrdinal)) {
        for entry in self.segments.0.iter_mut().flat_map(|segment| &mut segment.entries) {
            (entry.first, entry.last) = number(entry.first, entry.last);
        }
    }
}

impl std::fmt::Debug for KeySet {
    /// Counts only: keys hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys, {} bytes)", self.len(), self.bytes_used())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_behind_a_number_are_those_of_every_later_mention_over_segments() {
        let mut set = KeySet::default();
        let keys: Vec<String> = (0..SEGMENT_ENTRIES * 2 + 5).map(|key| key.to_string()).collect();
        keys.iter().for_each(|key| _ = set.insert(key.as_bytes(), FamilyId(0), 0));
        for skipped in
            [0, 1, SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES, SEGMENT_ENTRIES + 1, keys.len() - 1, keys.len(), usize::MAX]
        {
            let behind = set.behind(skipped);
            let behind: Vec<&[u8]> = behind.iter().map(|key| key.bytes).collect();
            let expected: Vec<&[u8]> = keys.iter().skip(skipped).map(|key| key.as_bytes()).collect();
            assert!(behind == expected, "{skipped}: {} of {}", behind.len(), expected.len());
        }
    }

    fn listed(set: &KeySet) -> Vec<(&[u8], TxOrdinal, TxOrdinal)> {
        set.iter().map(|key| (key.bytes, key.first, key.last)).collect()
    }

    /// `count` keys of 18 bytes, from `from` on.
    fn numbered(from: usize, count: usize) -> KeySet {
        let mut set = KeySet::default();
        for number in from..from + count {
            set.insert(format!("key:{number:014}").as_bytes(), FamilyId(0), 0);
        }
        set
    }

    #[test]
    fn keeps_each_key_once_with_its_first_and_last_transaction() {
        let mut set = KeySet::default();
        assert!(set.insert(b"a", FamilyId(0), 3));
        assert!(set.insert(b"", FamilyId(1), 4));
        assert!(!set.insert(b"a", FamilyId(0), 9));
        assert_eq!(listed(&set), [(&b"a"[..], 3, 9), (&b""[..], 4, 4)]);
    }

    #[test]
    fn an_unfinished_key_leaves_no_trace() {
        let mut set = KeySet::default();
        set.write().push(b"half");
        assert!(set.is_empty() && set.bytes_used() == 0);
        let mut writer = set.write();
        writer.push(b"whole");
        assert!(writer.finish(FamilyId(0), 0));
        assert!(set.contains(b"whole") && !set.contains(b"halfwhole") && !set.contains(b"half"));
    }

    #[test]
    fn retain_keeps_ranges_and_membership() {
        let mut set = KeySet::default();
        for (key, tx) in [("a", 0), ("b", 1), ("a", 5), ("c", 2)] {
            set.insert(key.as_bytes(), FamilyId(0), tx);
        }
        set.retain(|key| key.last >= 2);
        assert_eq!(listed(&set), [(&b"a"[..], 0, 5), (&b"c"[..], 2, 2)]);
        assert!(set.contains(b"a") && !set.contains(b"b"));
    }

    #[test]
    fn keys_of_every_length_are_found_again_over_many_segments() {
        let lengths = [0, 1, 100, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 7];
        let keys: Vec<Vec<u8>> = (0..60_u8).flat_map(|byte| lengths.map(|length| vec![byte; length])).collect();
        let mut set = KeySet::default();
        let distinct = keys.iter().filter(|key| set.insert(key, FamilyId(0), 0)).count();
        assert_eq!((distinct, set.len()), (60 * 7 + 1, 60 * 7 + 1), "the empty key is one");
        assert!(keys.iter().all(|key| set.contains(key) && !set.insert(key, FamilyId(0), 0)));
        let counted: usize = set.segments.0.iter().map(Segment::bytes_allocated).sum();
        assert_eq!(set.bytes_used(), counted + set.table.allocation_size());
    }

    #[test]
    fn a_million_short_keys_take_less_than_twice_their_entries() {
        let set = numbered(0, 1_000_000);
        let least = 1_000_000 * (18 + size_of::<Entry>());
        assert!((least..least * 17 / 10).contains(&set.bytes_used()), "{} of {least}", set.bytes_used());
        assert!(numbered(0, 1).bytes_used() < 400, "{}", numbered(0, 1).bytes_used());
    }

    #[test]
    fn merging_splitting_and_taking_apart_lose_no_key() {
        let mut set = numbered(0, 3000);
        set.merge(numbered(2500, 30_000));
        assert_eq!(set.len(), 32_500);
        assert_eq!(set.clone().pieces().map(|piece| piece.len()).sum::<usize>(), 32_500);
        assert!(
            set.clone().pieces().all(|piece| piece.len() <= SEGMENT_ENTRIES && piece.iter().count() == piece.len())
        );
        let odd = |key: &Key<'_>| key.bytes.last().is_some_and(|digit| digit % 2 == 1);
        let leaving = set.split(odd, |key| (!odd(key)).then_some((4, 5)));
        assert_eq!((leaving.len(), set.len()), (16_250, 16_250));
        assert!(set.iter().all(|key| !odd(&key) && (key.first, key.last) == (4, 5)));
        assert!(leaving.iter().all(|key| odd(&key) && (key.first, key.last) == (0, 0)));
    }
}
