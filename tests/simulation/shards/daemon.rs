//! What the daemon knows of the simulated cluster, and how it reaches the shards. The decisions are the daemon's own:
//! which shard a primary is, which deletes it owes, of which slots a mark speaks and whether it counts, where a key goes
//! and what follows from an answer, how far a sweep follows keys. Here is only the transport, as `ShardCache` and
//! `Topology` have a real one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::cluster::mark;
use crieur::cache::cluster::moves::{Moves, Pass, is_over};
use crieur::cache::cluster::redirect::{Next, NodeAnswer, SentPart, next};
use crieur::cache::cluster::routes::Routes;
use crieur::cache::cluster::shards::{Claim, Shard, ShardSeat, counts, owes, places};
use crieur::cache::cluster::slot::slot_of;
use crieur::cache::cluster::view::{Map, NodeId, Primary};
use crieur::cache::continuity::Lineage;
use crieur::cache::{Cache, Deleted, Swap, Swept};
use crieur::error::{Error, Result};
use crieur::glob;
use crieur::keys::KeySet;
use crieur::lsn::Lsn;
use crieur::mark::Mark;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::nodes::{Nodes, SHARDS, id_of, index_at, index_of};
use crate::simulation::store::Held;

/// The map is asked for so often at most.
const LOOKS_MS: u64 = 60;
/// What changed hands is swept when nothing changed for so long, or has for so much longer.
const REST: Duration = Duration::from_millis(20);
const UNREST_MAX: Duration = Duration::from_millis(300);

/// What is known of one shard.
struct Known {
    shard: Shard,
    turns: Lineage,
    is_claimed: bool,
    is_bumped: bool,
}

/// What is known of the cluster.
pub struct Daemon {
    nodes: Rc<Nodes>,
    map: RefCell<Map>,
    shards: RefCell<Vec<Known>>,
    moves: RefCell<Moves<Instant>>,
    changed: Cell<Option<(Instant, Instant)>>,
    /// Which process answered last at each node, and how often it was another.
    met: RefCell<Vec<(Option<u64>, u64)>>,
    change: Notify,
}

impl Daemon {
    pub fn new(nodes: Rc<Nodes>) -> Rc<Self> {
        let map = nodes.truth.borrow().clone();
        let node = |index| [index, index + SHARDS].map(id_of).into_iter().find(|id| map.primaries.contains_key(id));
        let known = |index| Known {
            shard: Shard::at(node(index)),
            turns: Lineage::default(),
            is_claimed: false,
            is_bumped: false,
        };
        let shards = RefCell::new((0..SHARDS).map(known).collect());
        Rc::new(Daemon {
            nodes,
            shards,
            map: RefCell::new(map),
            moves: RefCell::default(),
            changed: Cell::new(None),
            met: RefCell::new(vec![(None, 0); 2 * SHARDS]),
            change: Notify::new(),
        })
    }

    /// The map is this one from now on. Where a redirect names a replica that took over before the map says so, the node
    /// would be a shard of its own until the next look: that look comes at once instead.
    fn apply(&self, map: Map) {
        if self.map.borrow().primaries == map.primaries {
            return;
        }
        let shards: Vec<Shard> = self.shards.borrow().iter().map(|known| known.shard.clone()).collect();
        let seats = places(&shards, &self.map.borrow(), &map);
        let is_new = seats.iter().any(|(_, seat)| *seat == ShardSeat::New);
        let map = if is_new { self.nodes.truth.borrow().clone() } else { map };
        let before = self.map.replace(map);
        let (map, now) = (self.map.borrow(), Instant::now());
        if !self.moves.borrow_mut().compare(&before, &map, now) {
            return;
        }
        let since = self.changed.get().filter(|(last, _)| now - *last < REST).map_or(now, |(_, since)| since);
        self.changed.set(Some((now, since)));
        for (id, seat) in places(&shards, &before, &map) {
            match seat {
                ShardSeat::Stays(_) => {}
                ShardSeat::Takes(index) => {
                    let Lineage { another, unknown } = self.lineage(index);
                    let known = &mut self.shards.borrow_mut()[index];
                    known.shard.node = Some(id);
                    known.turns = Lineage { another: another + 1, unknown };
                }
                ShardSeat::New => panic!("node {id} is the replica of none of {shards:?}"),
            }
        }
        for known in self.shards.borrow_mut().iter_mut() {
            known.shard.lose(known.shard.node.clone().and_then(|id| map.primaries.get(&id)));
        }
        self.change.notify_waiters();
    }

    fn refresh(&self) {
        self.apply(self.nodes.truth.borrow().clone());
    }

    fn node(&self, index: usize) -> NodeId {
        self.shards.borrow()[index].shard.node.clone().expect("each shard has a node")
    }

    fn primary(&self, index: usize) -> Option<Primary> {
        self.map.borrow().primaries.get(&self.node(index)).cloned()
    }

    fn lineage(&self, index: usize) -> Lineage {
        let (turns, node) = (self.shards.borrow()[index].turns, index_of(&self.node(index)));
        Lineage { another: turns.another + self.met.borrow()[node].1, unknown: turns.unknown }
    }

    /// A command goes to a node: which process answers, or an error where none does.
    fn meet(&self, node: usize) -> Result<u64> {
        if self.nodes.is_down(node) {
            return Err(Error::transient("simulated absence"));
        }
        let process = self.nodes.process(node);
        let (known, turns) = &mut self.met.borrow_mut()[node];
        *turns += u64::from(known.replace(process).is_some_and(|known| known != process));
        Ok(process)
    }

    /// Slots came to a node that its mark does not speak of: the mark is read again, and does not count then.
    fn sweep_what_came(&self) {
        let now = Instant::now();
        if self.changed.get().is_some_and(|(last, since)| now - last < REST && now - since < UNREST_MAX) {
            return;
        }
        for index in 0..SHARDS {
            let primary = self.primary(index);
            let known = &mut self.shards.borrow_mut()[index];
            let is_covered = primary.is_none_or(|primary| known.shard.claim.covers(&primary));
            if known.is_claimed && !known.is_bumped && !is_covered {
                known.is_bumped = true;
                known.turns.another += 1;
            }
        }
        self.change.notify_waiters();
    }

    /// Deletes a key along its redirects, first where the map says, or where it was seen.
    async fn delete(&self, index: usize, key: &str, seen: Option<(usize, bool)>) -> Result<()> {
        let (mut to, mut hops) = (seen, 0);
        loop {
            let routes = Routes::new(&self.map.borrow(), Some(&self.node(index)));
            let route = || routes.of(key.as_bytes()).map(|(at, asking)| (index_at(&routes.endpoints[at]), asking));
            let (at, asking) = to.take().or_else(route).ok_or_else(|| Error::transient("a slot without a node"))?;
            self.meet(at)?;
            let answer = self.nodes.unlink(at, key, asking);
            // It may be on its way when the slot changes hands.
            if self.nodes.roll(8) == 0 {
                self.nodes.wait(3).await;
            }
            let redirected = |learn: &dyn Fn(&mut Map)| {
                let mut map = self.map.borrow().clone();
                learn(&mut map);
                self.apply(map);
            };
            match &answer {
                NodeAnswer::Moved(slot, to) => redirected(&|map| map.moved(*slot, &id_of(index_at(to)))),
                NodeAnswer::Ask(slot, to) => redirected(&|map| map.comes(*slot, &id_of(index_at(to)))),
                _ => {}
            }
            match next(SentPart::Whole, false, hops, answer) {
                Next::Done(_) => return Ok(()),
                Next::Follow { to: place, asking } => {
                    hops += 1;
                    to = Some((index_at(&place), asking));
                }
                other => return Err(Error::transient(format!("{key} waits: {other:?}"))),
            }
        }
    }

    /// Which nodes a sweep must see, and how often slots moved.
    fn followed(&self, index: usize) -> (Vec<usize>, u64) {
        let moves = self.moves.borrow();
        let ids = moves.reached_from(&self.node(index), &self.map.borrow(), Instant::now());
        (ids.iter().map(index_of).collect(), moves.count())
    }
}

/// The daemon asks for the map now and then.
pub async fn look(daemon: Rc<Daemon>) {
    loop {
        daemon.nodes.wait(LOOKS_MS).await;
        daemon.refresh();
        daemon.sweep_what_came();
    }
}

/// One shard, as the daemon reaches it.
pub struct SimShard {
    daemon: Rc<Daemon>,
    index: usize,
    /// The slot that the mark was read or written in last, and the process that it was read from.
    marked_in: Cell<Option<(u16, usize, u64)>>,
    /// What is there and counts for none.
    disregarded: RefCell<Option<Vec<u8>>>,
}

impl SimShard {
    pub fn new(daemon: Rc<Daemon>, index: usize) -> Self {
        SimShard { daemon, index, marked_in: Cell::default(), disregarded: RefCell::default() }
    }

    async fn wait(&self, most_ms: u64) {
        self.daemon.nodes.wait(most_ms).await;
    }

    fn fails(&self, one_in: u64, what: &str) -> Result<()> {
        let fails = self.daemon.nodes.world.borrow_mut().fault(one_in);
        if fails { Err(Error::transient(format!("simulated loss of {what}"))) } else { Ok(()) }
    }

    /// What stands at a node in the slot of a mark; an error where the node sends whoever asks to another.
    fn stored(&self, at: usize, slot: u16) -> Result<Option<Vec<u8>>> {
        let found = self.daemon.nodes.each.borrow()[at].marks.get(&slot).cloned();
        match self.daemon.nodes.ends(slot) {
            (owner, _) if owner != at => Err(Error::transient("MOVED")),
            (_, Some(_)) if found.is_none() => Err(Error::transient("ASK")),
            _ => Ok(found),
        }
    }

    /// Every value of a slot that the mark speaks of has all up to it.
    fn judge(&self, at: usize, text: &[u8], claim: &Claim) {
        let nodes = &self.daemon.nodes;
        let mut world = nodes.world.borrow_mut();
        world.said(self.index, text);
        let mark: Mark = serde_json::from_slice(text).expect("the daemon writes marks");
        let upto = mark.lsn.parse::<Lsn>().expect("a position").0;
        let stale = nodes.each.borrow()[at].keys.iter().find_map(|(key, held)| {
            let Held::Value(seen) = held else { return None };
            let slot = slot_of(key.as_bytes());
            let is_spoken_of = claim.owned.has(slot) && nodes.ends(slot).0 == at;
            let lacks = |commit: &&_| {
                let commit: &crate::simulation::world::Commit = commit;
                commit.end <= upto && !seen.contains(&commit.id) && commit.keys.contains(key)
            };
            (is_spoken_of && world.log.iter().find(lacks).is_some()).then(|| key.clone())
        });
        if let Some(key) = stale {
            world.failure = Some(format!("the mark of node {at} says {upto}, {key} is stale"));
        }
    }

    /// One pass over one node, in a few steps.
    async fn pass(&self, at: usize, patterns: &KeySet) -> Result<()> {
        for step in 0..3 {
            self.wait(5).await;
            self.daemon.meet(at)?;
            self.fails(10, "a scan")?;
            let visited = |key: &str| {
                key.bytes().map(usize::from).sum::<usize>() % 3 == step
                    && patterns.iter().any(|pattern| glob::matches(pattern.bytes, key.as_bytes()))
            };
            let found: Vec<String> = {
                let nodes = self.daemon.nodes.each.borrow();
                nodes[at].keys.keys().filter(|key| visited(key)).cloned().collect()
            };
            self.wait(2).await;
            for key in found {
                let takes = {
                    let map = self.daemon.map.borrow();
                    map.primaries.get(&id_of(at)).is_some_and(|primary| !primary.coming.is_empty())
                };
                self.daemon.delete(self.index, &key, Some((at, takes))).await?;
            }
        }
        Ok(())
    }
}

impl Cache for SimShard {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.wait(5).await;
        for key in keys.iter().flat_map(|set| set.iter()) {
            self.fails(60, "half a reply")?;
            self.daemon.delete(self.index, &String::from_utf8_lossy(key.bytes), None).await?;
        }
        self.wait(5).await;
        self.fails(20, "a reply").map(|()| Deleted::default())
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        for number in 1..=5 {
            self.daemon.refresh();
            let (seen, count) = self.daemon.followed(self.index);
            for at in &seen {
                self.pass(*at, patterns).await?;
            }
            self.daemon.refresh();
            let (now, count_now) = self.daemon.followed(self.index);
            let more = now.iter().any(|at| !seen.contains(at));
            let is_followed = seen.len() > 1 || more;
            let moving = self.daemon.map.borrow().is_moving() && is_followed;
            if is_over(Pass { number, moved: count != count_now && is_followed, moving, more }) {
                return Ok(Swept::default());
            }
        }
        Err(Error::transient("slots moved in each pass"))
    }

    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        self.wait(3).await;
        Ok(())
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        let (daemon, lineage) = (&self.daemon, self.daemon.lineage(self.index));
        let id = daemon.node(self.index);
        let slot = daemon.map.borrow().mark_slot(&id).expect("each node keeps slots");
        let primary = daemon.primary(self.index);
        daemon.shards.borrow_mut()[self.index].shard.ask(primary.as_ref());
        self.wait(3).await;
        let at = index_of(&id);
        let process = daemon.meet(at)?;
        let found = self.stored(at, slot)?;
        self.wait(3).await;
        self.fails(4, "the mark")?;
        let was = {
            let known = &mut daemon.shards.borrow_mut()[self.index];
            let was = known.shard.answered();
            known.is_bumped = false;
            std::mem::replace(&mut known.is_claimed, true).then_some(was)
        };
        self.marked_in.set(Some((slot, at, process)));
        let primary = daemon.primary(self.index);
        let read = found.as_deref().map(mark::read);
        let counts = read.as_ref().is_none_or(|(_, about)| counts(about.as_ref(), was.as_ref(), &id, primary.as_ref()));
        let text = read.filter(|_| counts).map(|(mark, _)| mark.to_vec());
        *self.disregarded.borrow_mut() = found.filter(|_| !counts);
        Ok((text, lineage))
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], text: &[u8], _again: &KeySet) -> Result<Swap> {
        let (daemon, id) = (&self.daemon, self.daemon.node(self.index));
        let slot = daemon.map.borrow().mark_slot(&id).expect("each node keeps slots");
        let at = index_of(&id);
        let Some((before, _, process)) = self.marked_in.get().filter(|(_, read_at, _)| *read_at == at) else {
            return Ok(Swap::Unproven);
        };
        let claim = daemon.shards.borrow()[self.index].shard.claim.clone();
        let stored = mark::stored(text, &id, &claim);
        let disregarded = self.disregarded.borrow().clone();
        self.wait(2).await;
        if daemon.meet(at)? != process {
            return Ok(Swap::Unproven);
        }
        let found = match self.stored(at, slot) {
            Ok(found) => found,
            Err(refused) => return Ok(Swap::Refused(refused)),
        };
        if let Err(refused) = self.fails(10, "the mark") {
            return Ok(Swap::Refused(refused));
        }
        // As the script has it.
        let first = found.as_deref().map(|found| mark::read(found).0.to_vec());
        let may_go = found.is_some() && found == disregarded && expected.contains(&None);
        if before == slot && !may_go && !expected.contains(&first) {
            return Ok(Swap::Other);
        }
        daemon.nodes.each.borrow_mut()[at].marks.insert(slot, stored);
        self.judge(at, text, &claim);
        self.wait(2).await;
        self.fails(10, "an answer")?;
        self.marked_in.set(Some((slot, at, process)));
        *self.disregarded.borrow_mut() = None;
        Ok(Swap::Written)
    }

    fn is_part(&self) -> bool {
        true
    }

    fn owes(&self, key: &[u8]) -> bool {
        self.daemon.primary(self.index).is_some_and(|primary| owes(&primary, slot_of(key)))
    }

    fn lineage(&self) -> Lineage {
        self.daemon.lineage(self.index)
    }

    async fn turned(&self, seen: Lineage) {
        loop {
            let change = self.daemon.change.notified();
            if self.lineage() != seen {
                return;
            }
            change.await;
        }
    }
}
