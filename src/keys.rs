//! Sets of keys: one arena of bytes, one table of indexes, no allocation per key.
//!
//! A [`KeySet`] holds exact keys, escaped patterns or encoded lookup parameters alike: it knows bytes, not meanings.
//! Each entry remembers the first and the last transaction (an ordinal inside of its batch) that named it, so that a
//! batch can be split by visibility without storing a key twice, and the family that it collapses into when a bound is
//! reached.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Ordinal of a transaction inside of one batch.
pub type TxOrdinal = u32;

/// Index of a key family in the rules: the pattern that covers every key of one template.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FamilyId(pub u32);

/// One entry: where its bytes are and which transactions named it.
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

/// A set of byte strings in order of first mention.
#[derive(Clone, Default)]
pub struct KeySet {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    table: HashTable<u32>,
    hasher: RandomState,
}

/// A key under construction: write its parts, then [`finish`](KeyWriter::finish). Dropped unfinished, it leaves no trace.
pub struct KeyWriter<'a> {
    set: &'a mut KeySet,
    start: usize,
}

impl KeyWriter<'_> {
    /// Appends bytes to the key.
    #[inline]
    pub fn push(&mut self, part: &[u8]) {
        self.set.bytes.extend_from_slice(part);
    }

    /// What was written so far.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.set.bytes[self.start..]
    }

    /// The buffer, for parts that are computed in place; only append to it.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.set.bytes
    }

    /// Adds the key unless the set holds it; says whether it is new.
    #[inline]
    pub fn finish(self, family: FamilyId, tx: TxOrdinal) -> bool {
        let start = self.start;
        let set = &mut *self.set;
        let hash = set.hasher.hash_one(&set.bytes[start..]);
        let KeySet { bytes, entries, table, hasher } = set;
        let key = &bytes[start..];
        let text = |index: u32| {
            let entry: &Entry = &entries[index as usize];
            &bytes[entry.start as usize..(entry.start + entry.length) as usize]
        };
        if let Some(&index) = table.find(hash, |&index| text(index) == key) {
            let entry = &mut entries[index as usize];
            entry.first = entry.first.min(tx);
            entry.last = entry.last.max(tx);
            return false; // Drop cuts the arena back.
        }
        let length = key.len() as u32;
        table.insert_unique(hash, entries.len() as u32, |&index| hasher.hash_one(text(index)));
        entries.push(Entry { start: start as u32, length, family, first: tx, last: tx });
        std::mem::forget(self);
        true
    }
}

impl Drop for KeyWriter<'_> {
    fn drop(&mut self) {
        self.set.bytes.truncate(self.start);
    }
}

impl KeySet {
    /// The longest arena: offsets are 32 bits wide.
    pub const BYTES_MAX: usize = u32::MAX as usize / 2;

    /// Starts a key at the end of the arena.
    #[inline]
    pub fn write(&mut self) -> KeyWriter<'_> {
        let start = self.bytes.len();
        KeyWriter { set: self, start }
    }

    /// Adds a whole key; says whether it is new.
    pub fn insert(&mut self, key: &[u8], family: FamilyId, tx: TxOrdinal) -> bool {
        let mut writer = self.write();
        writer.push(key);
        writer.finish(family, tx)
    }

    /// How many keys the set holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes in use, bookkeeping included; what the memory bounds count.
    pub fn bytes_used(&self) -> usize {
        self.bytes.len() + self.entries.len() * (size_of::<Entry>() + 2 * size_of::<u32>())
    }

    /// Whether the set holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&index| self.entry_bytes(&self.entries[index as usize]) == key).is_some()
    }

    fn entry_bytes(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..(entry.start + entry.length) as usize]
    }

    /// The keys in order of first mention.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Key<'_>> {
        self.entries.iter().map(|entry| Key {
            bytes: self.entry_bytes(entry),
            family: entry.family,
            first: entry.first,
            last: entry.last,
        })
    }

    /// Adds every key of `other`, all under the transaction `tx`.
    pub fn merge(&mut self, other: &KeySet, tx: TxOrdinal) {
        for key in other.iter() {
            self.insert(key.bytes, key.family, tx);
        }
    }

    /// Forgets the keys and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.table.clear();
    }

    /// Keeps the keys for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&Key<'_>) -> bool) {
        let mut kept = KeySet { hasher: self.hasher.clone(), ..KeySet::default() };
        for key in self.iter().filter(keep) {
            kept.insert(key.bytes, key.family, key.first);
            if let Some(entry) = kept.entries.last_mut() {
                entry.last = key.last;
            }
        }
        *self = kept;
    }

    /// Renumbers the transactions of every entry.
    pub fn renumber(&mut self, number: impl Fn(TxOrdinal, TxOrdinal) -> (TxOrdinal, TxOrdinal)) {
        for entry in &mut self.entries {
            (entry.first, entry.last) = number(entry.first, entry.last);
        }
    }
}

impl std::fmt::Debug for KeySet {
    /// Counts only: keys hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys, {} bytes)", self.len(), self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(set: &KeySet) -> Vec<(&[u8], TxOrdinal, TxOrdinal)> {
        set.iter().map(|key| (key.bytes, key.first, key.last)).collect()
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
        assert!(set.is_empty() && set.bytes.is_empty());
        set.insert(b"whole", FamilyId(0), 0);
        assert!(set.contains(b"whole") && !set.contains(b"halfwhole"));
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
}
