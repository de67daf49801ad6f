//! What a change of the map means for the shards. Pure.
//!
//! A shard is what one primary holds, and the replica that takes its place is the same shard: it has the same slots, and
//! has had the same deletes but perhaps for the last. A primary that got its slots by migration is another: what it holds
//! came key by key, and a copy that a broken migration left there had no delete since.

use super::slot::SlotSet;
use super::view::{Map, NodeId, Primary};
use crate::failpoints::{Guard, without};

/// What is known of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shard {
    /// Its primary; `None` before the first map.
    pub node: Option<NodeId>,
    /// What its mark speaks of: slots for which this node had every delete.
    pub claim: Claim,
    /// What it will speak of when the question for it is answered.
    asked: Option<Claim>,
}

impl Shard {
    /// A shard that nobody read the mark of.
    pub fn at(node: Option<NodeId>) -> Self {
        Shard { node, ..Shard::default() }
    }

    /// The mark is asked for, which will speak of what the primary holds now. A question that fails changes nothing.
    pub fn ask(&mut self, primary: Option<&Primary>) {
        self.asked = Some(primary.map(Claim::of).unwrap_or_default());
    }

    /// The question was answered: what the mark spoke of so far.
    pub fn answered(&mut self) -> Claim {
        std::mem::replace(&mut self.claim, self.asked.take().unwrap_or_default())
    }

    /// The primary holds no more than this.
    pub fn lose(&mut self, primary: Option<&Primary>) {
        self.claim.lose(primary);
        self.asked.iter_mut().for_each(|asked| asked.lose(primary));
    }
}

/// Slots that a mark speaks of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// Slots of the primary.
    pub owned: SlotSet,
    /// Slots that come to it.
    pub coming: SlotSet,
}

impl Claim {
    /// What a primary holds now.
    pub fn of(primary: &Primary) -> Self {
        Claim { owned: primary.owned.clone(), coming: primary.coming.clone() }
    }

    /// Whether it speaks of all that the primary holds: a slot that has just changed hands is not what came before.
    pub fn covers(&self, primary: &Primary) -> bool {
        let mut known = self.owned.clone();
        known.add(&self.coming);
        (primary.owned.is_within(&self.owned) && primary.coming.is_within(&known)) || without(Guard::Arrivals)
    }

    /// What left the primary is not spoken of any more, should it come back.
    pub fn lose(&mut self, primary: Option<&Primary>) {
        let Some(primary) = primary else { return *self = Claim::default() };
        self.owned.keep(&primary.owned);
        let mut held = primary.owned.clone();
        held.add(&primary.coming);
        self.coming.keep(&held);
    }

    /// What was known to be left out of it stays left out, whatever the mark says.
    pub fn lose_beside(&mut self, known: &Claim) {
        self.owned.keep(&known.owned);
        let mut both = known.owned.clone();
        both.add(&known.coming);
        self.coming.keep(&both);
    }

    /// As it stands in the mark.
    pub fn text(&self) -> String {
        format!("{} {}", self.owned.text(), self.coming.text())
    }

    /// From the mark.
    pub fn read(text: &str) -> Option<Self> {
        let (owned, coming) = text.split_once(' ')?;
        Some(Claim { owned: SlotSet::read(owned)?, coming: SlotSet::read(coming)? })
    }
}

/// Whether the shard of this primary owes the deletes of a slot: while the slot is on its way, both ends do.
pub fn owes(primary: &Primary, slot: u16) -> bool {
    primary.owned.has(slot) || primary.coming.has(slot)
}

/// Whether a mark that was found at `node` counts, which holds what `primary` says. `about` says who wrote the mark, and of
/// which slots; `was` is what our own mark spoke of until now, `None` where nobody watched.
pub fn counts(about: Option<&(NodeId, Claim)>, was: Option<&Claim>, node: &NodeId, primary: Option<&Primary>) -> bool {
    let Some((writer, claim)) = about else { return false };
    let covers = |claim: &Claim| primary.is_none_or(|primary| claim.covers(primary));
    match was {
        // Only what this very node wrote, of all that it holds now.
        None => writer == node && covers(claim),
        // A replica that took over has the mark of its primary.
        Some(was) => {
            let mut both = claim.clone();
            both.lose_beside(was);
            covers(&both)
        }
    }
}

/// Which shard a primary is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardSeat {
    /// The shard with this index, as before.
    Stays(usize),
    /// The shard with this index: its replica took over, or this is the first map.
    Takes(usize),
    /// None of those that are known.
    New,
}

/// The place of each primary of `map`; `before` is the map that it replaces.
pub fn places(shards: &[Shard], before: &Map, map: &Map) -> Vec<(NodeId, ShardSeat)> {
    let mut taken: Vec<usize> = Vec::new();
    let mut places: Vec<(NodeId, ShardSeat)> = Vec::new();
    for id in map.primaries.keys() {
        if let Some(index) = shards.iter().position(|shard| shard.node.as_ref() == Some(id)) {
            taken.push(index);
            places.push((id.clone(), ShardSeat::Stays(index)));
        }
    }
    let others = |places: &[(NodeId, ShardSeat)]| -> Vec<NodeId> {
        let placed = |id: &NodeId| places.iter().any(|(placed, _)| placed == id);
        map.primaries.keys().filter(|id| !placed(id)).cloned().collect()
    };
    for id in others(&places) {
        let is_free = |index: &usize| !taken.contains(index);
        let of_primary = |index: &usize| match &shards[*index].node {
            None => true,
            Some(node) => before.replicas.get(&id) == Some(node) && !map.primaries.contains_key(node),
        };
        let place = (0..shards.len()).filter(is_free).find(of_primary);
        taken.extend(place);
        places.push((id, place.map_or(ShardSeat::New, ShardSeat::Takes)));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> SlotSet {
        SlotSet::read(text).expect("ranges")
    }

    fn map(primaries: &[(&str, &str, &str)], replicas: &[(&str, &str)]) -> Map {
        let primary = |owned, coming| Primary { owned: set(owned), coming: set(coming), endpoint: None, epoch: 0 };
        Map {
            primaries: primaries.iter().map(|(id, owned, coming)| ((*id).to_owned(), primary(owned, coming))).collect(),
            replicas: replicas.iter().map(|(id, of)| ((*id).to_owned(), (*of).to_owned())).collect(),
            ..Map::default()
        }
    }

    fn shard(node: Option<&str>) -> Shard {
        Shard::at(node.map(str::to_owned))
    }

    #[test]
    fn a_replica_takes_the_place_of_its_primary_and_nobody_else_does() {
        let before = map(&[("a", "0-9", ""), ("b", "10-19", "")], &[("x", "a"), ("y", "b")]);
        let shards = [shard(Some("a")), shard(Some("b"))];
        let to = |id: &str, place| (id.to_owned(), place);
        for (what, now, expected) in [
            ("nothing", before.clone(), vec![to("a", ShardSeat::Stays(0)), to("b", ShardSeat::Stays(1))]),
            (
                "failover",
                map(&[("x", "0-9", ""), ("b", "10-19", "")], &[]),
                vec![to("b", ShardSeat::Stays(1)), to("x", ShardSeat::Takes(0))],
            ),
            (
                "all slots to a node that was no replica",
                map(&[("n", "0-9", ""), ("b", "10-19", "")], &[]),
                vec![to("b", ShardSeat::Stays(1)), to("n", ShardSeat::New)],
            ),
            (
                "scale-out",
                map(&[("a", "0-5", ""), ("b", "10-19", ""), ("n", "6-9", "")], &[]),
                vec![to("a", ShardSeat::Stays(0)), to("b", ShardSeat::Stays(1)), to("n", ShardSeat::New)],
            ),
            ("scale-in", map(&[("a", "0-19", "")], &[]), vec![to("a", ShardSeat::Stays(0))]),
            (
                "a replica that became a primary beside its own",
                map(&[("a", "0-5", ""), ("b", "10-19", ""), ("x", "6-9", "")], &[]),
                vec![to("a", ShardSeat::Stays(0)), to("b", ShardSeat::Stays(1)), to("x", ShardSeat::New)],
            ),
        ] {
            assert_eq!(places(&shards, &before, &now), expected, "{what}");
        }
        let first = places(&[shard(None)], &Map::default(), &before);
        assert_eq!(first, [to("a", ShardSeat::Takes(0)), to("b", ShardSeat::New)]);
    }

    #[test]
    fn a_question_for_the_mark_that_fails_is_forgotten_and_what_came_stays_unproved() {
        let primary = |owned| Primary { owned: set(owned), coming: set(""), endpoint: None, epoch: 0 };
        let mut shard = shard(Some("a"));
        shard.ask(Some(&primary("0-9")));
        assert_eq!((shard.answered(), shard.claim.text().as_str()), (Claim::default(), "0-9 "));
        // A slot came. The first question has no answer.
        shard.lose(Some(&primary("0-10")));
        shard.ask(Some(&primary("0-10")));
        shard.ask(Some(&primary("0-10")));
        assert!(!shard.answered().covers(&primary("0-10")), "the node was not swept since the slot came");
        // Slots that leave while the question is out are not spoken of, should they come back.
        shard.ask(Some(&primary("0-10")));
        shard.lose(Some(&primary("0-8")));
        shard.lose(Some(&primary("0-10")));
        assert_eq!((shard.answered().text().as_str(), shard.claim.text().as_str()), ("0-8 ", "0-8 "));
    }

    #[test]
    fn a_mark_speaks_of_what_its_node_held_and_of_nothing_that_came() {
        let primary = |owned, coming| Primary { owned: set(owned), coming: set(coming), endpoint: None, epoch: 0 };
        let claim = |owned, coming| Claim { owned: set(owned), coming: set(coming) };
        for (held, now, covered) in [
            (claim("0-9", ""), primary("0-9", ""), true),
            (claim("0-9", ""), primary("0-5", ""), true),
            (claim("0-9", ""), primary("0-10", ""), false),
            (claim("0-9", ""), primary("0-9", "10"), false),
            (claim("0-9", "10"), primary("0-9", "10"), true),
            (claim("0-9", "10"), primary("0-10", ""), false),
            (claim("0-9", ""), primary("0-8", "9"), true),
            (claim("", ""), primary("", ""), true),
        ] {
            assert_eq!(held.covers(&now), covered, "{held:?} {now:?}");
        }
        let mut there_and_back = claim("0-9", "12");
        there_and_back.lose(Some(&primary("0-8", "12")));
        assert!(!there_and_back.covers(&primary("0-9", "")), "what was at another node comes back unproved");
        assert!(there_and_back.covers(&primary("0-8", "12")));
        there_and_back.lose(None);
        assert_eq!(there_and_back, Claim::default());
        for text in ["0-9 12", " ", "0-9 "] {
            assert_eq!(Claim::read(text).map(|claim| claim.text()).as_deref(), Some(text));
        }
        assert_eq!(Claim::read("0-9"), None);
    }
}
