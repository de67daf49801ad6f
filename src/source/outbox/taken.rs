//! What was handed over and goes when it is confirmed. Pure: the worker asks the server.
//!
//! Rows are named by runs, one or more for each transaction. While somebody records, rows stay, and runs would gather as
//! long as the recorder is there: so of what is confirmed only the snapshot of a complete look is kept. Everything that is
//! visible in it was handed over up to that look's end, so it names those rows as well as their runs do.

use std::collections::VecDeque;

use crate::source::outbox::page::Run;

/// Rows in one removal; a page has fewer. By a snapshot as many go at once (`remove.sql`).
const REMOVED_MAX: usize = 5_000;

#[derive(Debug)]
enum Entry {
    Rows(Run),
    /// Numbers of collapse rows.
    Collapsed(Vec<i64>),
    /// A complete look's snapshot: everything before and nothing behind this entry is visible in it, or gone.
    Look(String),
}

/// What one removal is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Removal {
    /// Everything up to here is confirmed; 0 when nothing new is.
    pub(super) position: u64,
    pub(super) runs: Vec<Run>,
    /// Rows that are visible in this snapshot, some thousand of them.
    pub(super) seen: Option<String>,
    /// Collapse rows. Whoever records reads none of them.
    pub(super) collapsed: Vec<i64>,
    /// Entries that are done with the removal.
    entries: usize,
}

/// Everything that was handed over and is not removed, in the order of positions.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Each with the position of its last row: a transaction may have any number of them.
    entries: VecDeque<(u64, Entry)>,
    /// The snapshot that stands for confirmed rows which stayed because somebody recorded them, and the last position of
    /// these.
    kept: Option<(u64, String)>,
    /// Somebody recorded at the last removal, and no look was complete since.
    wants_look: bool,
}

impl Taken {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.kept.is_none()
    }

    /// Whether a removal would find something to do.
    pub(super) fn is_due(&self, confirmed: u64) -> bool {
        self.kept.is_some() || self.entries.front().is_some_and(|(position, _)| *position <= confirmed)
    }

    pub(super) fn rows(&mut self, last: u64, run: Run) {
        self.entries.push_back((last, Entry::Rows(run)));
    }

    pub(super) fn collapsed(&mut self, position: u64, ids: Vec<i64>) {
        self.entries.push_back((position, Entry::Collapsed(ids)));
    }

    /// A look is complete: everything that its snapshot shows was handed over up to `position`. Kept once for each
    /// removal that removed nothing.
    pub(super) fn look(&mut self, position: u64, snapshot: &str) {
        if std::mem::take(&mut self.wants_look) {
            self.entries.push_back((position, Entry::Look(snapshot.to_owned())));
        }
    }

    /// What goes next of what is confirmed.
    pub(super) fn removal(&self, confirmed: u64) -> Removal {
        if let Some((position, snapshot)) = self.kept.clone() {
            return Removal { position, seen: Some(snapshot), ..Removal::default() };
        }
        let mut removal = Removal::default();
        let mut rows = 0;
        for (upto, entry) in self.entries.iter().take_while(|(upto, _)| *upto <= confirmed) {
            match entry {
                Entry::Rows(run) if rows + run.rows > REMOVED_MAX => break,
                Entry::Rows(run) => {
                    rows += run.rows;
                    removal.runs.push(*run);
                }
                Entry::Collapsed(ids) => removal.collapsed.extend_from_slice(ids),
                Entry::Look(_) => {}
            }
            (removal.entries, removal.position) = (removal.entries + 1, *upto);
        }
        removal
    }

    /// The removal is done, and removed so many rows.
    pub(super) fn removed(&mut self, removal: &Removal, rows: usize) {
        self.entries.drain(..removal.entries);
        if removal.seen.is_some() && rows < REMOVED_MAX {
            self.kept = None;
        }
    }

    /// Somebody records: the rows stay, and what is confirmed up to the last complete look is named by its snapshot.
    /// The collapse rows up to there, which nobody records.
    pub(super) fn recorded(&mut self, confirmed: u64) -> Vec<i64> {
        self.wants_look = true;
        let mut ids = Vec::new();
        let entries = self.entries.iter().take_while(|(position, _)| *position <= confirmed);
        let looks = entries.enumerate().filter(|(_, (_, entry))| matches!(entry, Entry::Look(_)));
        let Some(last) = looks.map(|(index, _)| index).last() else { return ids };
        for (position, entry) in self.entries.drain(..=last) {
            match entry {
                Entry::Rows(_) => {}
                Entry::Collapsed(more) => ids.extend(more),
                Entry::Look(snapshot) => self.kept = Some((position, snapshot)),
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(xid: u64) -> Run {
        Run { xid, first: 1, last: 1, rows: 1 }
    }

    #[test]
    fn rows_that_are_confirmed_go_by_their_runs_and_no_more_than_some_thousand_at_once() {
        let mut taken = Taken::default();
        (1..=6_000).for_each(|n| taken.rows(n, run(n)));
        taken.look(6_000, "1:6001:");
        assert!(taken.is_due(1) && !taken.is_due(0));
        let removal = taken.removal(3);
        assert_eq!((removal.position, removal.runs.len(), removal.seen.as_deref()), (3, 3, None));
        taken.removed(&removal, 3);
        let removal = taken.removal(6_000);
        assert_eq!((removal.position, removal.runs.len()), (5_003, REMOVED_MAX));
        taken.removed(&removal, REMOVED_MAX);
        taken.removed(&taken.removal(6_000), 997);
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn what_is_confirmed_takes_no_memory_while_somebody_records() {
        let mut taken = Taken::default();
        let (mut position, mut greatest) = (0, 0);
        for removal in 1..=100 {
            for _ in 0..1_000 {
                position += 1;
                taken.rows(position, run(position));
            }
            taken.collapsed(position, vec![removal]);
            taken.look(position, &format!("1:{}:", position + 1));
            taken.look(position, "no second one for one removal");
            // What is confirmed never is all that was handed over.
            taken.recorded(position - 10);
            greatest = greatest.max(taken.entries.len());
        }
        assert!(greatest < 3_010, "{greatest} entries for {position} transactions");
        assert!(taken.entries.capacity() < 10_000, "{}", taken.entries.capacity());
        // The recorder is gone: what was kept goes by the snapshot, until less than a whole portion was there.
        let removal = taken.removal(position);
        assert_eq!((removal.position, removal.seen.as_deref()), (99_000, Some("1:99001:")));
        assert!(removal.runs.is_empty());
        taken.removed(&removal, REMOVED_MAX);
        assert_eq!(taken.removal(position), removal);
        assert!(taken.is_due(0) && !taken.is_empty());
        taken.removed(&removal, 17);
        let rest = taken.removal(position);
        assert_eq!((rest.seen.as_deref(), rest.runs[0], rest.collapsed.as_slice()), (None, run(99_001), &[100][..]));
        taken.removed(&rest, 1_000);
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn a_look_stands_for_nothing_before_all_of_it_is_confirmed() {
        let mut taken = Taken::default();
        assert_eq!(taken.recorded(0), Vec::<i64>::new());
        taken.rows(1, run(1));
        taken.collapsed(2, vec![7]);
        taken.rows(3, run(3));
        taken.look(3, "1:4:");
        assert_eq!(taken.recorded(2), Vec::<i64>::new());
        assert_eq!((taken.removal(2).runs.len(), taken.removal(2).seen), (1, None));
        assert_eq!(taken.recorded(3), [7]);
        assert_eq!(taken.removal(3).seen.as_deref(), Some("1:4:"));
    }
}
