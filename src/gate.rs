//! The gate: which transactions a snapshot contains. Pure.
//!
//! The walsender sends a commit when its WAL record is flushed; other sessions see the transaction only after
//! `ProcArrayEndTransaction` (`src/backend/access/transam/xact.c`, `CommitTransaction`), with synchronous replication
//! possibly seconds later. A key deleted in between is filled again with the old value. So keys leave only when a
//! snapshot of our own contains their transaction. The snapshot decides, not the commit log: `pg_xact_status` may say
//! "committed" before a snapshot agrees.

use std::fmt;

use crate::lsn::Xid;

/// What `pg_current_snapshot()` returned, on the server where readers read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Snapshot {
    /// Every transaction is visible: the source is a recording, or has no gate.
    Everything,
    /// `xmin:xmax:xip_list`, low 32 bits.
    Taken {
        /// First transaction number that was not yet assigned.
        xmax: u32,
        /// Transactions in progress, sorted.
        in_progress: Vec<u32>,
    },
    /// Taken on a standby, which had replayed all that was asked for. Its snapshots list no transaction as in progress,
    /// whatever is (`GetSnapshotData` in src/backend/storage/ipc/procarray.c), so only the oldest says something.
    Replayed {
        /// Every transaction below it has ended.
        below: u32,
    },
}

/// The text was not a `pg_snapshot`.
#[derive(Debug, PartialEq, Eq)]
pub struct SnapshotParseError(String);

impl fmt::Display for SnapshotParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot \"{}\" is not of the form xmin:xmax:xip,xip", self.0.escape_debug())
    }
}

impl std::error::Error for SnapshotParseError {}

impl Snapshot {
    /// Parses the text form of `pg_snapshot` (PostgreSQL documentation, table "Snapshot Components").
    pub fn parse(text: &str) -> Result<Self, SnapshotParseError> {
        let refuse = || SnapshotParseError(text.to_owned());
        let number = |part: &str| part.parse::<u64>().map_err(|_| refuse());
        let mut parts = text.splitn(3, ':');
        let (Some(xmin), Some(xmax), Some(list)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        number(xmin)?;
        let xmax = number(xmax)? as u32;
        let mut in_progress = list
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| number(part).map(|xid| xid as u32))
            .collect::<Result<Vec<u32>, _>>()?;
        in_progress.sort_unstable();
        Ok(Snapshot::Taken { xmax, in_progress })
    }

    /// What a standby shows whose next transaction has this number: all that has begun until then and has not ended.
    pub fn open_on_standby(next: u32, below: u32) -> Self {
        if precedes(below, next) {
            // The youngest stands for all of them: it has ended when every transaction below `next` has.
            Snapshot::Taken { xmax: next, in_progress: vec![next.wrapping_sub(1)] }
        } else {
            Snapshot::Replayed { below }
        }
    }

    /// Whether every transaction that was in progress when `self` was taken has ended by `later`.
    pub fn ended_by(&self, later: &Snapshot) -> bool {
        match self {
            Snapshot::Everything | Snapshot::Replayed { .. } => true,
            Snapshot::Taken { in_progress, .. } => in_progress.iter().all(|xid| later.contains(Xid(*xid))),
        }
    }

    /// Whether every transaction that `self` contains is contained in `later`.
    pub fn is_within(&self, later: &Snapshot) -> bool {
        match (self, later) {
            (_, Snapshot::Everything) => true,
            (Snapshot::Everything, Snapshot::Taken { .. } | Snapshot::Replayed { .. })
            | (Snapshot::Replayed { .. }, Snapshot::Taken { .. } | Snapshot::Replayed { .. })
            | (Snapshot::Taken { .. }, Snapshot::Replayed { .. }) => false,
            (Snapshot::Taken { xmax, .. }, Snapshot::Taken { xmax: later_xmax, in_progress }) => {
                !precedes(*later_xmax, *xmax) && in_progress.iter().all(|xid| !self.contains(Xid(*xid)))
            }
        }
    }

    /// Whether the snapshot contains the top-level transaction. Transaction numbers wrap: the comparison is modular.
    /// What belongs to no transaction is visible. That of a standby may contain more than it can say.
    pub fn contains(&self, xid: Xid) -> bool {
        match self {
            Snapshot::Everything => true,
            Snapshot::Taken { xmax, in_progress } => {
                xid == Xid::NONE || precedes(xid.0, *xmax) && in_progress.binary_search(&xid.0).is_err()
            }
            Snapshot::Replayed { below } => xid == Xid::NONE || precedes(xid.0, *below),
        }
    }
}

/// As `TransactionIdPrecedes` (`src/backend/access/transam/transam.c`).
fn precedes(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_ended_before_it() {
        let snapshot = Snapshot::parse("10:20:10,14,15").expect("valid");
        let seen: Vec<u32> = (8..23).filter(|xid| snapshot.contains(Xid(*xid))).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
    }

    #[test]
    fn transactions_that_were_open_end_one_by_one() {
        let first = Snapshot::parse("10:20:10,14").expect("valid");
        for (later, ended) in [("10:20:10,14", false), ("14:30:14,25", false), ("25:30:25", true), ("30:30:", true)] {
            assert_eq!(first.ended_by(&Snapshot::parse(later).expect("valid")), ended, "{later}");
        }
    }

    #[test]
    fn one_that_is_within_another_contains_nothing_more() {
        let first = Snapshot::parse("10:20:10,14").expect("valid");
        for (later, within) in [
            ("10:20:10,14", true),
            ("14:20:14", true),
            ("10:19:10,14", false),
            ("10:30:10,11", false),
            ("14:30:14,25", true),
        ] {
            assert_eq!(first.is_within(&Snapshot::parse(later).expect("valid")), within, "{later}");
        }
        assert!(first.is_within(&Snapshot::Everything) && !Snapshot::Everything.is_within(&first));
    }

    #[test]
    fn what_is_open_on_a_standby_has_ended_when_the_oldest_there_is_younger() {
        let open = Snapshot::open_on_standby(20, 14);
        for (below, ended) in [(14, false), (19, false), (20, true), (25, true)] {
            assert_eq!(open.ended_by(&Snapshot::Replayed { below }), ended, "{below}");
        }
        let none = Snapshot::open_on_standby(20, 20);
        assert!(none.ended_by(&none), "nothing was open");
        assert!(!open.ended_by(&open), "something was");
        // A standby that is promoted: what was open on its primary has ended, and its own are younger.
        assert!(open.ended_by(&Snapshot::parse("21:23:21").expect("valid")));
        let seen: Vec<u32> = (12..17).filter(|xid| Snapshot::Replayed { below: 14 }.contains(Xid(*xid))).collect();
        assert_eq!(seen, [12, 13]);
        assert!(Snapshot::Replayed { below: 14 }.contains(Xid::NONE));
        assert!(
            !Snapshot::Replayed { below: 14 }.is_within(&open) && !open.is_within(&Snapshot::Replayed { below: 14 })
        );
        let wrapped = Snapshot::open_on_standby(2, u32::MAX);
        assert!(
            !wrapped.ended_by(&Snapshot::Replayed { below: 1 }) && wrapped.ended_by(&Snapshot::Replayed { below: 3 })
        );
    }

    #[test]
    fn compares_over_the_wraparound() {
        // xmax = epoch 1, xid 5; a transaction of the last epoch is far behind it, not ahead.
        let snapshot = Snapshot::parse("4294967290:4294967301:4294967295").expect("valid");
        assert!(snapshot.contains(Xid(u32::MAX - 1)));
        assert!(!snapshot.contains(Xid(u32::MAX)));
        assert!(snapshot.contains(Xid(4)) && !snapshot.contains(Xid(5)));
    }

    #[test]
    fn refuses_other_text() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "1:-2:", "1:2:3,,x"] {
            assert!(Snapshot::parse(text).is_err(), "{text}");
        }
    }
}
