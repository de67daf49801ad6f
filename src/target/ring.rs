//! The ring: what was deleted lately, for a cache that went back. Pure.
//!
//! A cache that holds a mark has had every delete up to that mark, and perhaps none after it: a replica that was
//! promoted lacks the last ones, a restored snapshot many. Each mark remembers the first span that it does not cover,
//! so everything from that span on can be deleted again. Past the bound the oldest keys are forgotten, and a mark from
//! before them is covered no more: then only a sweep helps.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::ledger::window::SpanId;
use crate::rules::Invalidations;

/// Marks that are remembered: at 20 a second, a minute.
const MARKS_MAX: usize = 1_200;

/// What an entry costs besides its keys: two empty sets and their places.
const ENTRY_BYTES: usize = 512;

#[derive(Debug)]
struct Entry {
    /// The youngest span that these keys belong to.
    last: SpanId,
    load: Invalidations,
}

/// Recent keys, oldest first.
#[derive(Debug)]
pub struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// The youngest span of what was forgotten.
    forgotten: Option<SpanId>,
    /// Nonces of the marks that were written, and the first span that each does not cover. Not their positions: another
    /// daemon, or another run of the server, may have had the same.
    marks: VecDeque<(String, SpanId)>,
}

impl Ring {
    /// `bytes_max` bounds the memory of the keys.
    pub fn new(bytes_max: usize) -> Self {
        Ring { entries: VecDeque::new(), bytes: 0, bytes_max, forgotten: None, marks: VecDeque::new() }
    }

    /// Remembers keys that were deleted for spans, of which `last` is the youngest; copies them only where somebody else
    /// needs them, too.
    pub fn push(&mut self, load: Cow<'_, Invalidations>, last: SpanId) {
        if load.bytes_used() > self.bytes_max {
            self.forgotten = self.forgotten.max(Some(last));
            return;
        }
        self.bytes += ENTRY_BYTES + load.bytes_used();
        self.entries.push_back(Entry { last, load: load.into_owned() });
        self.forget_the_oldest();
    }

    /// May hold so much from now on.
    pub fn bound(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.forget_the_oldest();
    }

    fn forget_the_oldest(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= ENTRY_BYTES + entry.load.bytes_used();
            self.forgotten = self.forgotten.max(Some(entry.last));
        }
    }

    /// The mark with this nonce was written, or may have been; it covers every span before `first`.
    pub fn marked(&mut self, nonce: &str, first: SpanId) {
        self.marks.push_back((nonce.to_owned(), first));
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
    }

    /// The first span that a cache with the mark of this nonce may lack; `None` when that is not known any more.
    fn first_since(&self, nonce: &str) -> Option<SpanId> {
        let first = self.marks.iter().find(|(marked, _)| marked == nonce)?.1;
        self.forgotten.is_none_or(|forgotten| forgotten < first).then_some(first)
    }

    /// How many deliveries a cache with the mark of this nonce may lack; `None` when that is not known any more.
    pub fn lacking(&self, nonce: &str) -> Option<usize> {
        let first = self.first_since(nonce)?;
        Some(self.entries.iter().filter(|entry| entry.last >= first).count())
    }

    /// Takes out what such a cache may lack.
    pub fn take_since(&mut self, nonce: &str) -> Option<Vec<Invalidations>> {
        let first = self.first_since(nonce)?;
        let (lacking, kept) = self.entries.drain(..).partition(|entry| entry.last >= first);
        self.entries = kept;
        let lacking: VecDeque<Entry> = lacking;
        let loads: Vec<Invalidations> = lacking.into_iter().map(|entry| entry.load).collect();
        self.bytes -= loads.iter().map(|load| ENTRY_BYTES + load.bytes_used()).sum::<usize>();
        Some(loads)
    }

    /// Forgets everything: somebody else deleted meanwhile, or for another server.
    pub fn clear(&mut self) {
        *self = Ring::new(self.bytes_max);
    }

    /// Memory in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;
    use crate::ledger::window::Window;

    fn load(key: &str) -> Invalidations {
        let mut load = Invalidations::default();
        load.keys.insert(key.as_bytes(), FamilyId(0), 0);
        load
    }

    fn keys(loads: Option<Vec<Invalidations>>) -> Option<Vec<String>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let keys = |load: Invalidations| load.keys.iter().map(|key| text(key.bytes)).collect::<Vec<_>>();
        loads.map(|loads| loads.into_iter().flat_map(keys).collect())
    }

    #[test]
    fn what_a_mark_does_not_cover_comes_again() {
        let mut window: Window<u64> = Window::default();
        let spans: Vec<SpanId> = (0..4).map(|ack| window.open(Some(ack))).collect();
        let mut ring = Ring::new(1 << 20);
        ring.marked("10", spans[0]);
        ring.push(Cow::Owned(load("a")), spans[0]);
        ring.marked("20", spans[1]);
        ring.marked("21", spans[2]);
        // Delivered out of order.
        ring.push(Cow::Owned(load("c")), spans[2]);
        ring.push(Cow::Owned(load("b")), spans[1]);
        assert_eq!(["15", "10", "20", "21"].map(|nonce| ring.lacking(nonce)), [None, Some(3), Some(2), Some(1)]);
        assert_eq!(keys(ring.take_since("15")), None, "nobody wrote that mark");
        assert_eq!(keys(ring.take_since("20")), Some(vec!["c".into(), "b".into()]));
        assert_eq!(keys(ring.take_since("10")), Some(vec!["a".into()]), "the others are on their way already");
        assert_eq!(ring.bytes_used(), 0);
    }

    #[test]
    fn a_mark_from_before_what_was_forgotten_is_not_covered() {
        let mut window: Window<u64> = Window::default();
        let mut ring = Ring::new(8 * ENTRY_BYTES);
        let first = window.open(Some(0));
        ring.marked("1", first);
        ring.push(Cow::Owned(load("old")), first);
        let second = window.open(Some(1));
        ring.marked("2", second);
        for _ in 0..20 {
            let span = window.open(Some(2));
            ring.push(Cow::Owned(load("new")), span);
        }
        assert!(ring.bytes_used() <= 8 * ENTRY_BYTES);
        assert_eq!(keys(ring.take_since("1")), None);
        assert_eq!(keys(ring.take_since("2")), None);
        let last = window.open(Some(3));
        ring.marked("3", last);
        ring.push(Cow::Owned(load("last")), last);
        assert_eq!(keys(ring.take_since("3")), Some(vec!["last".into()]));
    }
}
