//! What was deleted since the last mark, in a cache that does not say who it is.
//!
//! Such a cache may become another one behind the same address, with our last mark and without what was deleted since, and
//! nothing tells. So the next mark carries these keys: the step that writes the mark deletes them once more. Whoever has
//! the mark then has had the deletes, and a connection that breaks is no reason for doubt. A pattern cannot be carried: a
//! sweep is proved by the connection that it ran over, or runs once more.

use crate::keys::KeySet;
use crate::warm::Pages;

/// What one mark may carry, in bytes.
const BYTES_MAX: usize = 512 * 1024;

/// Patterns that are remembered; behind more of them all that the ring has goes again.
const PATTERNS_MAX: usize = 1_000;

/// What was deleted in some time.
#[derive(Debug, Default)]
struct Deletions {
    keys: KeySet,
    patterns: KeySet,
    /// What is fetched when the mark is there that carries these keys.
    pages: Pages,
    /// There was more than a mark can carry.
    is_incomplete: bool,
}

impl Deletions {
    fn add_keys(&mut self, keys: KeySet) {
        if self.keys.bytes_used() + keys.bytes_used() > BYTES_MAX {
            self.is_incomplete = true;
        } else {
            self.keys.merge(keys);
        }
    }

    fn add_patterns(&mut self, patterns: KeySet) {
        if self.patterns.len() + patterns.len() > PATTERNS_MAX {
            self.is_incomplete = true;
        } else {
            self.patterns.merge(patterns);
        }
    }

    fn join(&mut self, other: Deletions) {
        self.is_incomplete |= other.is_incomplete;
        self.add_keys(other.keys);
        self.add_patterns(other.patterns);
        self.pages.merge(other.pages);
    }

    fn bytes_used(&self) -> usize {
        self.keys.bytes_used() + self.patterns.bytes_used() + self.pages.bytes_used()
    }
}

/// Deleted and not covered by a mark.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    /// Since the mark that was sent last. It says nothing of this, whatever becomes of it.
    since: Deletions,
    /// Before that mark was sent: it carries the keys, and the sweeps ran over the connection that it was sent on.
    sent: Option<Deletions>,
}

impl Unmarked {
    /// These keys were deleted.
    pub(super) fn deleted(&mut self, keys: &KeySet) {
        self.since.add_keys(keys.clone());
    }

    /// These pages may be fetched when the next mark is there.
    pub(super) fn then(&mut self, pages: Pages) {
        self.since.pages.merge(pages);
    }

    /// Nobody waits for the next mark any more.
    pub(super) fn let_go(&mut self) {
        self.since.pages.answered();
        self.sent.iter_mut().for_each(|sent| sent.pages.answered());
    }

    /// Keys that match these patterns were deleted.
    pub(super) fn swept(&mut self, patterns: &KeySet) {
        self.since.add_patterns(patterns.clone());
    }

    /// The keys that the mark carries that is written now.
    pub(super) fn send(&mut self) -> KeySet {
        self.not_marked();
        let sent = std::mem::take(&mut self.since);
        let keys = sent.keys.clone();
        self.sent = Some(sent);
        keys
    }

    /// The mark is there, with what it carried.
    pub(super) fn marked(&mut self) {
        if let Some(mut sent) = self.sent.take() {
            sent.pages.answered();
        }
    }

    /// It is not, or nobody knows: the next one carries the same.
    pub(super) fn not_marked(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.since.join(sent);
        }
    }

    /// Whether the next mark carries all of it.
    pub(super) fn is_complete(&self) -> bool {
        !self.since.is_incomplete
    }

    /// Whether the next mark has something to carry.
    pub(super) fn has_keys(&self) -> bool {
        !self.since.keys.is_empty()
    }

    /// The patterns, which are to be swept once more.
    pub(super) fn take_patterns(&mut self) -> KeySet {
        std::mem::take(&mut self.since.patterns)
    }

    /// Nothing of it is ours any more.
    pub(super) fn clear(&mut self) {
        *self = Unmarked::default();
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes_used(&self) -> usize {
        self.since.bytes_used() + self.sent.as_ref().map_or(0, Deletions::bytes_used)
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

    #[test]
    fn a_mark_says_nothing_of_what_was_deleted_while_it_was_on_its_way() {
        let mut unmarked = Unmarked::default();
        unmarked.swept(&keys(&["before:*"]));
        unmarked.send();
        let long = "x".repeat(BYTES_MAX);
        unmarked.deleted(&keys(&[&long]));
        unmarked.swept(&keys(&["behind:*"]));
        unmarked.marked();
        assert!(!unmarked.is_complete());
        let patterns = unmarked.take_patterns();
        assert_eq!(patterns.iter().map(|pattern| pattern.bytes).collect::<Vec<_>>(), [b"behind:*"]);
    }

    #[test]
    fn marks_that_are_refused_let_no_more_wait_than_one_can_carry() {
        let mut unmarked = Unmarked::default();
        for number in 0..40 {
            let long = format!("{number}{}", "x".repeat(BYTES_MAX / 4));
            unmarked.deleted(&keys(&[&long]));
            unmarked.send();
            unmarked.not_marked();
        }
        assert!(unmarked.bytes_used() <= BYTES_MAX && !unmarked.is_complete() && unmarked.has_keys());
    }
}
