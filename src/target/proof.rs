//! What a mark that was read in the cache means. Pure: one table, held × found × continuity × slot.
//!
//! *Held* is what this process knows of the mark, *found* is what the cache said, *continuity* is what is known of the
//! cache that said it, *slot* is where the stream starts that the mark is compared with. A connection proves nothing by
//! itself: where servers say who they are, another one is suspicious whatever its mark says; where they do not, only the
//! mark counts.

use crate::cache::continuity::Continuity;
use crate::lsn::Lsn;
use crate::mark::Gap;

/// Marks whose answers were lost and that are still taken for ours; each attempt sends all of them.
const LOST_MAX: usize = 16;

/// What is known of the cache's mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// Not looked at yet.
    Nothing,
    /// It is one of these: the last that was written, and those whose answer was lost.
    Trusted(Vec<Vec<u8>>),
    /// What is there proves nothing; a sweep is on its way, and the next mark goes over it.
    Gap {
        /// What is there.
        was: Option<Vec<u8>>,
        /// A mark whose answer was lost.
        maybe: Option<Vec<u8>>,
    },
}

impl Held {
    /// What the next mark may replace.
    pub fn expected(&self) -> Vec<Option<Vec<u8>>> {
        match self {
            Held::Nothing => vec![None],
            Held::Trusted(known) if known.is_empty() => vec![None],
            Held::Trusted(known) => known.iter().cloned().map(Some).collect(),
            Held::Gap { was, maybe } => std::iter::once(was.clone()).chain(maybe.clone().map(Some)).collect(),
        }
    }

    /// The mark may be there: the answer was lost. The oldest are forgotten: should one of them be there after all, it
    /// is another's, and what was deleted since is deleted again.
    pub fn lost(&mut self, mark: Vec<u8>) {
        match self {
            Held::Nothing => {}
            Held::Trusted(known) => {
                if known.len() >= LOST_MAX {
                    known.remove(0);
                }
                known.push(mark);
            }
            Held::Gap { maybe, .. } => *maybe = Some(mark),
        }
    }

    /// How what was found fits.
    pub fn fit(&self, found: Option<&[u8]>) -> Fit {
        match self {
            Held::Nothing => Fit::First,
            Held::Trusted(known) if found.is_some_and(|found| known.iter().any(|mark| mark == found)) => Fit::Ours,
            Held::Trusted(_) => Fit::NotOurs,
            Held::Gap { was, .. } if was.as_deref() == found => Fit::Unmoved,
            Held::Gap { maybe: Some(mark), .. } if found == Some(mark) => Fit::Arrived,
            Held::Gap { .. } => Fit::Moved,
        }
    }
}

/// How a mark that was found fits what is held: the first two dimensions of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// Nothing was held: the first look of this process.
    First,
    /// It is a mark that this process wrote last, or trusted.
    Ours,
    /// A mark of ours should be there, and none, an older or another one is.
    NotOurs,
    /// A sweep is on its way, and what proved nothing is still there.
    Unmoved,
    /// A sweep is done, and the mark behind it was written; only the answer was lost.
    Arrived,
    /// A sweep is on its way, and something else is there now.
    Moved,
}

/// The stream that the mark is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// It was compared before.
    Compared,
    /// A new one, which starts where a mark of this process says, or before it.
    Continued,
    /// A new one, and no memory of this process has what it lacks: the slot moved on without us or was made anew, the
    /// publication was altered, or this is the first stream.
    MovedOn,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// Nothing: what is held stays true.
    Holds,
    /// The mark of the process before covers everything ahead of this stream.
    Covered,
    /// The mark behind a sweep is there.
    Arrived,
    /// The cache does not say whether it is the same, and has our mark: the next one carries the keys that were deleted
    /// since. Only what it cannot carry goes again.
    Carried,
    /// What was deleted since the mark that was found goes again, from the ring; a sweep where that does not reach.
    Replay,
    /// The cache may hold stale keys, nobody knows which.
    Sweep(Gap),
}

/// The table. `gap` is what [`gap`](crate::mark::gap) says of the mark that was found.
pub fn meaning(fit: Fit, continuity: Continuity, slot: Slot, gap: Option<Gap>) -> Meaning {
    let is_behind = matches!(gap, Some(Gap::Behind { .. }));
    // Of which tables a mark speaks counts only where the mark itself is in no doubt.
    let is_ours = matches!(fit, Fit::First | Fit::Ours) && slot != Slot::Compared && continuity != Continuity::Another;
    let gap = if gap == Some(Gap::OtherTables) && !is_ours { Some(Gap::OtherPublication) } else { gap };
    match (slot, fit, continuity, gap) {
        // A stream that the mark does not cover, and neither does the ring.
        (Slot::MovedOn, _, _, Some(gap)) => Meaning::Sweep(gap),
        (Slot::Continued, _, _, Some(gap)) if !is_behind => Meaning::Sweep(gap),
        (_, Fit::First, _, None) => Meaning::Covered,
        (_, Fit::First, _, Some(gap)) => Meaning::Sweep(gap),
        (_, Fit::Ours, Continuity::Same, _) => Meaning::Holds,
        // A connection to a nameless server is no evidence: one that closes each of them would be in doubt for ever.
        (_, Fit::Ours, Continuity::Unknown, gap) => match since(gap) {
            Meaning::Replay => Meaning::Carried,
            other => other,
        },
        // Even our own mark: a replica that was promoted may have it, and lack what was deleted since.
        (_, Fit::Ours, Continuity::Another, gap) | (_, Fit::NotOurs, _, gap) => since(gap),
        // The sweep goes on in this very cache, as far as anybody can tell. Were a connection to a nameless server taken
        // for another cache, one that closes idle connections would be swept for ever.
        (_, Fit::Unmoved, Continuity::Same | Continuity::Unknown, _) => Meaning::Holds,
        (_, Fit::Arrived, Continuity::Same | Continuity::Unknown, _) => Meaning::Arrived,
        (_, Fit::Unmoved | Fit::Arrived, Continuity::Another, gap) | (_, Fit::Moved, _, gap) => {
            Meaning::Sweep(gap.unwrap_or(Gap::WentBack))
        }
    }
}

/// What a comparison proves of the changes before the connection's start, and so the least that the next mark may say;
/// `None` where it proves what the one before proved.
///
/// A mark that is not behind the start covers them, and so does a sweep, ahead of which no mark is written. What lies
/// between a mark that is behind and the start may be in memory, and not deleted yet: a cache was left behind, or somebody
/// moved the slot on. A mark that said the start would then say too much, and the process that has it in memory may end.
pub fn proven(is_swept: bool, slot: Slot, gap: Option<&Gap>, start: Lsn) -> Option<Lsn> {
    match (slot, gap) {
        _ if is_swept => Some(start),
        (Slot::Compared, _) => None,
        (Slot::Continued | Slot::MovedOn, Some(Gap::Behind { mark, .. })) => Some(*mark),
        (Slot::Continued | Slot::MovedOn, _) => Some(start),
    }
}

/// The cache went back, or is another: a mark of this run may be one that the ring knows, any other means nothing here,
/// even if its position looks like one of ours.
fn since(gap: Option<Gap>) -> Meaning {
    match gap {
        None | Some(Gap::Missing | Gap::Unproven | Gap::Behind { .. } | Gap::WentBack) => Meaning::Replay,
        Some(
            gap @ (Gap::Unreadable
            | Gap::OtherServer
            | Gap::OtherDatabase
            | Gap::OtherRules
            | Gap::Restarted
            | Gap::OtherPublication
            | Gap::OtherTables
            | Gap::NewSlot),
        ) => Meaning::Sweep(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: Gap = Gap::Behind { mark: Lsn(1), confirmed: Lsn(2) };

    #[test]
    fn what_was_found_fits_what_is_held_in_one_way() {
        let text = |text: &str| text.as_bytes().to_vec();
        let trusted = Held::Trusted(vec![text("a"), text("b")]);
        let swept = Held::Gap { was: Some(text("a")), maybe: Some(text("b")) };
        let empty = Held::Gap { was: None, maybe: None };
        for (held, found, fit) in [
            (&Held::Nothing, None, Fit::First),
            (&Held::Nothing, Some("a"), Fit::First),
            (&trusted, Some("a"), Fit::Ours),
            (&trusted, Some("b"), Fit::Ours),
            (&trusted, Some("c"), Fit::NotOurs),
            (&trusted, None, Fit::NotOurs),
            (&swept, Some("a"), Fit::Unmoved),
            (&swept, Some("b"), Fit::Arrived),
            (&swept, Some("c"), Fit::Moved),
            (&swept, None, Fit::Moved),
            (&empty, None, Fit::Unmoved),
            (&empty, Some("a"), Fit::Moved),
        ] {
            assert_eq!(held.fit(found.map(str::as_bytes)), fit, "{held:?} {found:?}");
        }
    }

    /// Each fit, with what the mark says of the slot (nothing, behind it, of another run), under each connection.
    #[test]
    fn a_stream_that_was_compared_before_leaves_the_word_to_the_mark_and_the_connection() {
        use Meaning::{Arrived, Carried, Covered, Holds, Replay, Sweep};
        let (went_back, restarted) = (Sweep(Gap::WentBack), Sweep(Gap::Restarted));
        let gaps = [None, Some(BEHIND), Some(Gap::Restarted)];
        let first = [Covered, Sweep(BEHIND), restarted.clone()];
        let since = [Replay, Replay, restarted.clone()];
        let sweep = [went_back, Sweep(BEHIND), restarted.clone()];
        let table = [
            (Fit::First, [first.clone(), first.clone(), first]),
            (Fit::Ours, [[Holds, Holds, Holds], [Carried, Carried, restarted.clone()], since.clone()]),
            (Fit::NotOurs, [since.clone(), since.clone(), since]),
            (Fit::Unmoved, [[Holds, Holds, Holds], [Holds, Holds, Holds], sweep.clone()]),
            (Fit::Arrived, [[Arrived, Arrived, Arrived], [Arrived, Arrived, Arrived], sweep.clone()]),
            (Fit::Moved, [sweep.clone(), sweep.clone(), sweep]),
        ];
        for (fit, rows) in table {
            for (continuity, row) in [Continuity::Same, Continuity::Unknown, Continuity::Another].into_iter().zip(rows)
            {
                for (gap, wanted) in gaps.iter().cloned().zip(row) {
                    let seen = meaning(fit, continuity, Slot::Compared, gap.clone());
                    assert_eq!(seen, wanted, "{fit:?} {continuity:?} {gap:?}");
                }
            }
        }
    }

    #[test]
    fn a_mark_behind_the_start_proves_no_more_than_it_says_unless_a_sweep_comes_first() {
        for (is_swept, slot, gap, expected) in [
            (false, Slot::MovedOn, None, Some(Lsn(2))),
            (false, Slot::Continued, None, Some(Lsn(2))),
            (false, Slot::Continued, Some(BEHIND), Some(Lsn(1))),
            // The cache may not be swept: what nobody saw stays, and what is in memory is still to be deleted.
            (false, Slot::MovedOn, Some(BEHIND), Some(Lsn(1))),
            (false, Slot::MovedOn, Some(Gap::Missing), Some(Lsn(2))),
            (true, Slot::MovedOn, Some(BEHIND), Some(Lsn(2))),
            (true, Slot::Compared, Some(BEHIND), Some(Lsn(2))),
            (false, Slot::Compared, Some(BEHIND), None),
            (false, Slot::Compared, None, None),
        ] {
            assert_eq!(proven(is_swept, slot, gap.as_ref(), Lsn(2)), expected, "{is_swept} {slot:?} {gap:?}");
        }
    }

    #[test]
    fn single_tables_are_swept_only_for_a_mark_in_no_doubt() {
        for fit in [Fit::First, Fit::Ours, Fit::NotOurs, Fit::Unmoved, Fit::Arrived, Fit::Moved] {
            for continuity in [Continuity::Same, Continuity::Unknown, Continuity::Another] {
                for slot in [Slot::Continued, Slot::MovedOn] {
                    let sure = matches!(fit, Fit::First | Fit::Ours) && continuity != Continuity::Another;
                    let gap = if sure { Gap::OtherTables } else { Gap::OtherPublication };
                    let seen = meaning(fit, continuity, slot, Some(Gap::OtherTables));
                    assert_eq!(seen, Meaning::Sweep(gap), "{fit:?} {continuity:?} {slot:?}");
                }
            }
        }
    }

    #[test]
    fn a_new_stream_is_swept_for_whatever_neither_the_mark_nor_the_ring_covers() {
        let fits = [Fit::First, Fit::Ours, Fit::NotOurs, Fit::Unmoved, Fit::Arrived, Fit::Moved];
        for fit in fits {
            for continuity in [Continuity::Same, Continuity::Unknown, Continuity::Another] {
                for gap in [Gap::Missing, Gap::NewSlot, Gap::OtherServer, BEHIND] {
                    let swept = Meaning::Sweep(gap.clone());
                    assert_eq!(meaning(fit, continuity, Slot::MovedOn, Some(gap.clone())), swept, "{fit:?}");
                    let known = meaning(fit, continuity, Slot::Compared, Some(gap.clone()));
                    let continued = if gap == BEHIND { known } else { swept };
                    assert_eq!(meaning(fit, continuity, Slot::Continued, Some(gap)), continued, "{fit:?}");
                }
                let known = meaning(fit, continuity, Slot::Compared, None);
                for slot in [Slot::Continued, Slot::MovedOn] {
                    assert_eq!(meaning(fit, continuity, slot, None), known, "a mark that covers the stream: {fit:?}");
                }
            }
        }
    }
}
