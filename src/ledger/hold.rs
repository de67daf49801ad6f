//! Who holds the position back, and who is left behind. Pure.
//!
//! A position is given on when the mark of each cache says it, so a cache that is away holds WAL back, and a slot may be
//! lost for all of them. But the mark of a cache is its own durable position, so nobody has to wait for ever: past a limit
//! the cache is *released*, and the position goes on without it.
//!
//! # Why that leaves nothing stale
//!
//! 1. A key that was changed at position x is missing or fresh in a cache whenever that cache's mark is at x or past it.
//! 2. A mark at x is written only behind that cache's own answers to everything up to x, released or not.
//! 3. A position that is confirmed past a cache's mark is harmless. While this process lives, what lies between the two is
//!    in its memory: in the cache's inbox, its flight, its ring, or owed as a sweep. When the process has ended, the next
//!    one compares each mark with the position where its stream starts; a mark before that is a gap, and that cache alone
//!    is swept.

use crate::lsn::Lsn;
use crate::start::ServerStore;

/// A cache that is never left behind, however much WAL it holds back.
pub const HOLDS_FOR_EVER: u64 = u64::MAX;

/// Whether the position waits for the mark of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It does.
    Holds,
    /// It goes on without it.
    Released,
}

/// Why a cache is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseCause {
    /// It is configured to hold nothing.
    Never,
    /// It held back more than it may.
    Limit,
    /// Half of what the server keeps for us is used.
    SlotRoom,
}

/// What follows for one cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldVerdict {
    /// All stays as it is.
    Stays,
    /// From now on the position goes on without it.
    Release(ReleaseCause),
    /// From now on the position waits for it again.
    Hold,
}

/// How one cache stands to the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldStanding {
    /// Up to where its mark reaches; `None` where it has none of this server.
    pub marked: Option<Lsn>,
    /// Where the stream of this connection began: the position was not past that for its sake.
    pub start: Lsn,
    /// Something was handed to it that its mark does not cover.
    pub owes: bool,
    /// A change waits for its first delete for longer than any healthy cache takes.
    pub is_behind: bool,
    /// Its mark has not moved for as long, though it should.
    pub is_late: bool,
    /// Its mark is ours and in no doubt, and nothing must be deleted again before the next one.
    pub is_proven: bool,
}

/// The table. `end` is how far the server's WAL goes, as far as anybody knows.
pub fn verdict(hold: Hold, limit: u64, standing: &HoldStanding, end: Lsn, store: Option<ServerStore>) -> HoldVerdict {
    let since = |lsn: Lsn| end.0.saturating_sub(lsn.0);
    let lag = since(standing.marked.map_or(standing.start, |marked| marked.max(standing.start)));
    // Behind a start every change is old, and a burst of WAL is far: a cache that works them off moves its mark.
    let presses = |store: ServerStore| {
        let half_used = store.is_half_used() && (standing.is_behind || lag > store.total / 8 * 3);
        standing.is_late && (half_used || lag >= store.total / 2)
    };
    match (hold, limit) {
        (Hold::Holds, 0) => HoldVerdict::Release(ReleaseCause::Never),
        (Hold::Released, 0) | (Hold::Holds, HOLDS_FOR_EVER) => HoldVerdict::Stays,
        (Hold::Released, HOLDS_FOR_EVER) => HoldVerdict::Hold,
        (Hold::Holds, _) if !standing.owes => HoldVerdict::Stays,
        // A burst of WAL that its next mark covers is none of its fault.
        (Hold::Holds, _) if lag > limit && standing.is_late => HoldVerdict::Release(ReleaseCause::Limit),
        (Hold::Holds, _) if store.is_some_and(presses) => HoldVerdict::Release(ReleaseCause::SlotRoom),
        (Hold::Holds, _) => HoldVerdict::Stays,
        (Hold::Released, _) => {
            let near =
                |marked| since(marked) <= limit / 2 && store.is_none_or(|store| since(marked) <= store.total / 4);
            let is_back = standing.is_proven && !standing.is_behind && standing.marked.is_some_and(near);
            if is_back { HoldVerdict::Hold } else { HoldVerdict::Stays }
        }
    }
}

/// WAL that waiting echoes may hold back: less than what would release a cache that answers.
pub fn echo_budget(configured: u64, limit: u64, store: Option<ServerStore>) -> u64 {
    let of_limit = if limit == 0 { u64::MAX } else { limit / 2 };
    let of_store = store.map_or(u64::MAX, |store| store.total / 4);
    configured.min(of_limit).min(of_store)
}

/// Up to where the position may go: the least that is marked over those that hold it; where nobody does, the least that
/// was handed over. Each is `(hold, marked, handed)`.
pub fn given_on<A: Copy + Ord>(all: impl Iterator<Item = (Hold, Option<A>, Option<A>)> + Clone) -> Option<A> {
    let holding = all.clone().filter(|(hold, ..)| *hold == Hold::Holds).map(|(_, marked, _)| marked);
    holding.min().unwrap_or_else(|| all.map(|(_, _, handed)| handed).min().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: HoldStanding = HoldStanding {
        marked: Some(Lsn(100)),
        start: Lsn(50),
        owes: true,
        is_behind: true,
        is_late: true,
        is_proven: true,
    };

    #[test]
    fn a_cache_holds_until_its_limit_or_until_half_of_the_servers_room_is_used() {
        use HoldVerdict::{Release, Stays};
        let idle = HoldStanding { owes: false, ..FAR };
        let slow = HoldStanding { is_behind: false, ..FAR };
        let burst = HoldStanding { is_behind: false, is_late: false, ..FAR };
        // The daemon was away: all that waits is old, and the cache works it off.
        let backlog = HoldStanding { is_late: false, ..FAR };
        let never_seen = HoldStanding { marked: None, ..FAR };
        let store = |used, total| Some(ServerStore { used, total });
        let table = [
            (FAR, 1000, 1100, None, Stays),
            (FAR, 1000, 1101, None, Release(ReleaseCause::Limit)),
            (slow, 1000, 1101, None, Release(ReleaseCause::Limit)),
            (burst, 1000, 9999, None, Stays),
            (backlog, 1000, 9999, None, Stays),
            (backlog, 1000, 110, store(700, 800), Stays),
            (FAR, 0, 100, None, Release(ReleaseCause::Never)),
            (FAR, HOLDS_FOR_EVER, u64::MAX, store(99, 100), Stays),
            // What a cache has not to do with it does not answer for: the server may hold the stream back.
            (idle, 1000, 9999, store(99, 100), Stays),
            (never_seen, 1000, 1050, None, Stays),
            (never_seen, 1000, 1051, None, Release(ReleaseCause::Limit)),
            (FAR, 1000, 110, store(399, 800), Stays),
            (FAR, 1000, 110, store(400, 800), Release(ReleaseCause::SlotRoom)),
            // It answers: a transaction that is open for long uses the room, and no cache can help that.
            (slow, 1000, 110, store(700, 800), Stays),
            (slow, 1000, 401, store(400, 800), Release(ReleaseCause::SlotRoom)),
            (slow, 1000, 500, store(0, 800), Release(ReleaseCause::SlotRoom)),
            (slow, 1000, 499, store(0, 800), Stays),
        ];
        for (standing, limit, end, store, expected) in table {
            let found = verdict(Hold::Holds, limit, &standing, Lsn(end), store);
            assert_eq!(found, expected, "{standing:?} {limit} {end} {store:?}");
        }
    }

    #[test]
    fn a_released_cache_holds_again_when_its_own_mark_is_near() {
        let back = HoldStanding { is_behind: false, ..FAR };
        let table = [
            (back, 1000, 600, None, HoldVerdict::Hold),
            (back, 1000, 601, None, HoldVerdict::Stays),
            (back, 1000, 600, Some(ServerStore { used: 0, total: 800 }), HoldVerdict::Stays),
            (back, 1000, 300, Some(ServerStore { used: 0, total: 800 }), HoldVerdict::Hold),
            (FAR, 1000, 110, None, HoldVerdict::Stays),
            (HoldStanding { is_proven: false, ..back }, 1000, 110, None, HoldVerdict::Stays),
            // Where the connection began is no word of its own.
            (HoldStanding { marked: None, ..back }, 1000, 110, None, HoldVerdict::Stays),
            (HoldStanding { marked: Some(Lsn(1)), start: Lsn(9000), ..back }, 1000, 9001, None, HoldVerdict::Stays),
            (back, 0, 100, None, HoldVerdict::Stays),
            (back, HOLDS_FOR_EVER, 9999, None, HoldVerdict::Hold),
        ];
        for (standing, limit, end, store, expected) in table {
            let found = verdict(Hold::Released, limit, &standing, Lsn(end), store);
            assert_eq!(found, expected, "{standing:?} {limit} {end} {store:?}");
        }
    }

    #[test]
    fn echoes_alone_never_release_a_cache() {
        for (limit, total) in [(1000, None), (1000, Some(400)), (1 << 30, Some(1 << 26))] {
            let store = total.map(|total| ServerStore { used: total / 2, total });
            let budget = echo_budget(u64::MAX, limit, store);
            let waits = HoldStanding { marked: Some(Lsn(0)), start: Lsn(0), is_behind: false, ..FAR };
            assert_eq!(
                verdict(Hold::Holds, limit, &waits, Lsn(budget), store),
                HoldVerdict::Stays,
                "{limit} {total:?}"
            );
        }
        assert_eq!(echo_budget(64, 0, None), 64);
    }

    #[test]
    fn the_position_goes_by_those_that_hold_it_and_without_any_by_what_was_handed_over() {
        use Hold::{Holds, Released};
        type Row<'a> = (&'a [(Hold, Option<u64>, Option<u64>)], Option<u64>);
        let table: &[Row<'_>] = &[
            (&[(Holds, Some(3), Some(9)), (Holds, Some(5), Some(9))], Some(3)),
            (&[(Released, Some(3), Some(9)), (Holds, Some(5), Some(9))], Some(5)),
            (&[(Released, None, Some(9)), (Holds, None, Some(9))], None),
            (&[(Released, Some(3), Some(9))], Some(9)),
            (&[(Released, None, Some(8)), (Released, Some(3), Some(9))], Some(8)),
            (&[(Released, Some(3), None)], None),
            (&[], None),
        ];
        for (all, expected) in table {
            assert_eq!(given_on(all.iter().copied()), *expected, "{all:?}");
        }
    }
}
