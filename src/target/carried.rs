//! What was deleted since the last mark, in a cache that does not say who it is.
//!
//! Such a cache may become another one behind the same address, with our last mark and without what was deleted since, and
//! nothing tells. So the next mark carries these keys: the step that writes the mark deletes them once more. Whoever has
//! the mark then has had the deletes, and a connection that breaks is no reason for doubt. A pattern cannot be carried: a
//! sweep is proved by the connection that it ran over, or runs once more.

use std::rc::Rc;

use crate::keys::KeySet;

/// What one mark may carry, in bytes.
const BYTES_MAX: usize = 512 * 1024;

/// Patterns that are remembered; behind more of them all that the ring has goes again.
const PATTERNS_MAX: usize = 1_000;

/// Deleted and not covered by a mark.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    keys: KeySet,
    patterns: KeySet,
    /// What the mark carries that is on its way.
    sent: Option<Rc<KeySet>>,
    /// There was more than a mark can carry.
    is_incomplete: bool,
}

impl Unmarked {
    /// These keys were deleted.
    pub(super) fn deleted(&mut self, keys: &KeySet) {
        if self.keys.bytes_used() + keys.bytes_used() > BYTES_MAX {
            self.is_incomplete = true;
            return;
        }
        self.keys.merge(keys.clone());
    }

    /// Keys that match these patterns were deleted.
    pub(super) fn swept(&mut self, patterns: &KeySet) {
        if self.patterns.len() + patterns.len() > PATTERNS_MAX {
            self.is_incomplete = true;
            return;
        }
        self.patterns.merge(patterns.clone());
    }

    /// What the mark carries that is written now.
    pub(super) fn send(&mut self) -> Rc<KeySet> {
        let mut keys = std::mem::take(&mut self.keys);
        if let Some(sent) = self.sent.take() {
            keys.merge(Rc::unwrap_or_clone(sent));
        }
        let sent = Rc::new(keys);
        self.sent = Some(Rc::clone(&sent));
        sent
    }

    /// The mark is there, with what it carried. Patterns that were swept meanwhile are taken for proved by it: they ran over
    /// the connection that it was written on.
    pub(super) fn marked(&mut self) {
        (self.sent, self.is_incomplete) = (None, false);
        self.patterns = KeySet::default();
    }

    /// It is not, or nobody knows: the next one carries the same.
    pub(super) fn not_marked(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.keys.merge(Rc::unwrap_or_clone(sent));
        }
    }

    /// Whether the next mark carries all of it.
    pub(super) fn is_complete(&self) -> bool {
        !self.is_incomplete
    }

    /// Whether the next mark has something to carry.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The patterns, which are to be swept once more.
    pub(super) fn take_patterns(&mut self) -> KeySet {
        std::mem::take(&mut self.patterns)
    }

    /// Nothing of it is ours any more.
    pub(super) fn clear(&mut self) {
        *self = Unmarked::default();
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes_used(&self) -> usize {
        let sent = self.sent.as_ref().map_or(0, |sent| sent.bytes_used());
        self.keys.bytes_used() + self.patterns.bytes_used() + sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;

    fn keys(names: &[&str]) -> KeySet {
        let mut set = KeySet::default();
        names.iter().for_each(|name| _ = set.insert(name.as_bytes(), FamilyId(0), 0));
        set
    }

    #[test]
    fn what_was_deleted_goes_with_each_mark_until_one_is_there() {
        let mut unmarked = Unmarked::default();
        unmarked.deleted(&keys(&["a", "b"]));
        assert_eq!(unmarked.send().len(), 2);
        unmarked.deleted(&keys(&["c"]));
        unmarked.not_marked();
        assert_eq!(unmarked.send().len(), 3, "the answer was lost");
        unmarked.deleted(&keys(&["d"]));
        unmarked.marked();
        assert_eq!(unmarked.send().len(), 1, "it was deleted behind the mark");
    }

    #[test]
    fn more_than_a_mark_can_carry_is_said_until_the_next_mark() {
        let mut unmarked = Unmarked::default();
        let long = "x".repeat(BYTES_MAX);
        unmarked.deleted(&keys(&[&long]));
        assert!(!unmarked.is_complete() && !unmarked.has_keys());
        unmarked.send();
        unmarked.marked();
        assert!(unmarked.is_complete());
    }
}
