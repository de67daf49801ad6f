//! Which way slots went of late, for sweeps: a key that moves from a node that was not scanned yet to one that was is
//! seen by neither scan. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::slot::SLOTS;
use super::view::{Map, NodeId};

/// A sweep that begins later than so long behind a move does not follow it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The moves. `I` is the caller's clock.
#[derive(Debug)]
pub struct Moves<I> {
    /// From where to where, and when last.
    lately: BTreeMap<(NodeId, NodeId), I>,
    /// How often slots moved.
    count: u64,
}

impl<I> Default for Moves<I> {
    fn default() -> Self {
        Moves { lately: BTreeMap::new(), count: 0 }
    }
}

/// For each slot its owner, and whoever it comes to.
fn holders(map: &Map) -> (Vec<Option<&NodeId>>, Vec<Option<&NodeId>>) {
    let (mut owners, mut coming) = (vec![None; usize::from(SLOTS)], vec![None; usize::from(SLOTS)]);
    for (id, primary) in &map.primaries {
        primary.owned.iter().for_each(|slot| owners[usize::from(slot)] = Some(id));
        primary.coming.iter().for_each(|slot| coming[usize::from(slot)] = Some(id));
    }
    (owners, coming)
}

impl<I: Copy + Ord + std::ops::Sub<Output = Duration>> Moves<I> {
    /// Remembers what is other in `map`; says whether something is.
    pub fn compare(&mut self, before: &Map, map: &Map, now: I) -> bool {
        let ((owners, coming), (new_owners, new_coming)) = (holders(before), holders(map));
        let mut moved = false;
        for slot in 0..usize::from(SLOTS) {
            if (owners[slot], coming[slot]) == (new_owners[slot], new_coming[slot]) {
                continue;
            }
            moved = true;
            let pairs = [(owners[slot], new_owners[slot]), (new_owners[slot], new_coming[slot])];
            for (from, to) in pairs {
                if let (Some(from), Some(to)) = (from, to)
                    && from != to
                {
                    self.lately.insert((from.clone(), to.clone()), now);
                }
            }
        }
        self.count += u64::from(moved);
        self.lately.retain(|_, when| now - *when < REMEMBERED);
        moved
    }

    /// How often slots moved.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// This node, and all where keys of it may be by now.
    pub fn reached_from(&self, node: &NodeId, map: &Map, now: I) -> BTreeSet<NodeId> {
        let (owners, coming) = holders(map);
        let mut ways: BTreeSet<(&NodeId, &NodeId)> =
            owners.iter().zip(&coming).filter_map(|(owner, coming)| Some(((*owner)?, (*coming)?))).collect();
        ways.extend(self.lately.iter().filter(|(_, when)| now - **when < REMEMBERED).map(|((from, to), _)| (from, to)));
        let mut reached = BTreeSet::from([node.clone()]);
        loop {
            let more: Vec<NodeId> = ways
                .iter()
                .filter(|(from, to)| {
                    reached.contains(*from) && !reached.contains(*to) && map.primaries.contains_key(*to)
                })
                .map(|(_, to)| (*to).clone())
                .collect();
            if more.is_empty() {
                return reached;
            }
            reached.extend(more);
        }
    }
}

/// What a pass saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// Passes so far.
    pub number: u32,
    /// Slots changed hands, or began to, since it began.
    pub moved: bool,
    /// Slots are on their way.
    pub moving: bool,
    /// More nodes are to be seen than it saw.
    pub more: bool,
}

/// Whether a sweep is over. Slots that are on their way move one way while nothing else changes: two passes see all.
pub fn is_over(pass: Pass) -> bool {
    !pass.moved && !pass.more && (!pass.moving || pass.number >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::cluster::slot::SlotSet;
    use crate::cache::cluster::view::Primary;

    fn map(primaries: &[(&str, &str, &str)]) -> Map {
        let set = |text| SlotSet::read(text).expect("ranges");
        let primary = |owned, coming| Primary { owned: set(owned), coming: set(coming), endpoint: None, epoch: 0 };
        let primaries = primaries.iter().map(|(id, owned, coming)| ((*id).to_owned(), primary(owned, coming)));
        Map { primaries: primaries.collect(), ..Map::default() }
    }

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Second(u64);

    impl std::ops::Sub for Second {
        type Output = Duration;

        fn sub(self, other: Second) -> Duration {
            Duration::from_secs(self.0 - other.0)
        }
    }

    #[test]
    fn a_sweep_follows_the_keys_that_left_its_node_of_late() {
        let start = map(&[("a", "0-9", ""), ("b", "10-19", ""), ("c", "20-29", "")]);
        let mut moves = Moves::default();
        assert!(!moves.compare(&start, &start, Second(0)));
        let reached = |moves: &Moves<Second>, node: &str, map: &Map, at| {
            let reached = moves.reached_from(&node.to_owned(), map, Second(at));
            reached.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(reached(&moves, "a", &start, 1), "a");
        let flagged = map(&[("a", "0-9", ""), ("b", "10-19", "3"), ("c", "20-29", "")]);
        assert!(moves.compare(&start, &flagged, Second(1)));
        assert_eq!(
            (reached(&moves, "a", &flagged, 1).as_str(), reached(&moves, "b", &flagged, 1).as_str()),
            ("a b", "b")
        );
        let on = map(&[("a", "0-2,4-9", ""), ("b", "3,10-18", ""), ("c", "19-29", "")]);
        assert!(moves.compare(&flagged, &on, Second(2)));
        assert_eq!(reached(&moves, "a", &on, 2), "a b c", "from a to b, and from b on to c");
        assert_eq!(reached(&moves, "c", &on, 2), "c");
        assert_eq!(reached(&moves, "a", &on, 100), "a", "long ago");
        assert_eq!(moves.count(), 2);
    }

    #[test]
    fn a_sweep_ends_when_no_key_can_have_moved_past_it() {
        let pass = |number, moved, moving, more| is_over(Pass { number, moved, moving, more });
        for (seen, over) in [
            (pass(1, false, false, false), true),
            (pass(1, false, true, false), false),
            (pass(2, false, true, false), true),
            (pass(1, true, false, false), false),
            (pass(4, true, true, false), false),
            (pass(3, false, false, true), false),
        ] {
            assert_eq!(seen, over);
        }
    }
}
