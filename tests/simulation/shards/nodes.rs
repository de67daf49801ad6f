//! The nodes of a simulated cluster: three primaries and the replica of each, what they hold, and who has which slots.
//!
//! Slots move key by key, as tools move them: a `MIGRATE` whose answer comes too late leaves the key at both ends, and a
//! move may stop half way for ever. A primary may die, and its replica takes over, which lacks the last moments. The nodes
//! know the truth at once; nothing here knows what the daemon knows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::cluster::redirect::NodeAnswer;
use crieur::cache::cluster::slot::{SlotSet, slot_of};
use crieur::cache::cluster::view::{Map, NodeId, Primary};
use crieur::cache::place::HostPort;
use tokio::time::{Instant, sleep, sleep_until};

use crate::simulation::store::Held;
use crate::simulation::world::{OWNERS, ROWS, SHELVES, Shared};

/// Primaries; each has a replica, whose number is so much higher.
pub const SHARDS: usize = 3;

/// Slots that move behind the faults.
const LAST: usize = 16;

/// The port of the first node.
const PORT: u16 = 7_000;

/// What one node holds.
#[derive(Clone, Default)]
pub struct Node {
    pub keys: BTreeMap<String, Held>,
    /// Marks, by the slots that they lie in.
    pub marks: BTreeMap<u16, Vec<u8>>,
    /// Which process it is.
    pub process: u64,
    pub is_down: bool,
}

/// The cluster.
pub struct Nodes {
    pub world: Shared,
    pub truth: RefCell<Map>,
    pub each: RefCell<Vec<Node>>,
}

pub fn id_of(node: usize) -> NodeId {
    node.to_string()
}

pub fn index_of(id: &NodeId) -> usize {
    id.parse().expect("nodes are called by their numbers")
}

pub fn place_of(node: usize) -> HostPort {
    HostPort { host: "node".to_owned(), port: PORT + node as u16 }
}

pub fn index_at(place: &HostPort) -> usize {
    usize::from(place.port - PORT)
}

/// Every key that a rule makes.
pub fn keys() -> Vec<String> {
    let things = (0..ROWS).map(|row| format!("thing:{row}"));
    let owners = (0..OWNERS).map(|owner| format!("owner:{owner}"));
    things.chain(owners).chain((0..SHELVES).map(|shelf| format!("shelf:{shelf}:a"))).collect()
}

fn keys_in(slot: u16) -> Vec<String> {
    keys().into_iter().filter(|key| slot_of(key.as_bytes()) == slot).collect()
}

impl Nodes {
    pub fn new(world: Shared) -> Rc<Self> {
        let mut map = Map::default();
        for (index, slots) in ["0-5460", "5461-10922", "10923-16383"].into_iter().enumerate() {
            let owned = SlotSet::read(slots).expect("ranges");
            let primary = Primary { owned, coming: SlotSet::default(), endpoint: Some(place_of(index)), epoch: 0 };
            map.primaries.insert(id_of(index), primary);
            map.replicas.insert(id_of(index + SHARDS), id_of(index));
        }
        map.endpoints = (0..2 * SHARDS).map(|node| (id_of(node), place_of(node))).collect();
        let each = vec![Node::default(); 2 * SHARDS];
        Rc::new(Nodes { world, truth: RefCell::new(map), each: RefCell::new(each) })
    }

    pub fn has(&self, node: usize, key: &str) -> bool {
        self.each.borrow()[node].keys.contains_key(key)
    }

    pub fn is_down(&self, node: usize) -> bool {
        self.each.borrow()[node].is_down
    }

    pub fn process(&self, node: usize) -> u64 {
        self.each.borrow()[node].process
    }

    /// The owner of a slot, and the node that it comes to.
    pub fn ends(&self, slot: u16) -> (usize, Option<usize>) {
        let map = self.truth.borrow();
        let owner = index_of(map.owner(slot).expect("every slot has a node"));
        let target = map.primaries.iter().find(|(_, primary)| primary.coming.has(slot));
        (owner, target.map(|(id, _)| index_of(id)))
    }

    /// Where readers find a key: at the owner of its slot, or where that sends them; `None` while that is down.
    fn place(&self, key: &str) -> Option<usize> {
        let (owner, target) = self.ends(slot_of(key.as_bytes()));
        let at = target.filter(|_| !self.has(owner, key)).unwrap_or(owner);
        (!self.is_down(owner) && !self.is_down(at)).then_some(at)
    }

    /// What a node answers to the UNLINK of one key.
    pub fn unlink(&self, at: usize, key: &str, asking: bool) -> NodeAnswer {
        let slot = slot_of(key.as_bytes());
        let (owner, target) = self.ends(slot);
        if at != owner && !(asking && target == Some(at)) {
            return NodeAnswer::Moved(slot, place_of(owner));
        }
        match target {
            Some(target) if at == owner && !self.has(at, key) => NodeAnswer::Ask(slot, place_of(target)),
            _ => NodeAnswer::Done(u64::from(self.each.borrow_mut()[at].keys.remove(key).is_some())),
        }
    }

    pub async fn wait(&self, most_ms: u64) {
        let wait = self.world.borrow_mut().pause(most_ms);
        sleep(wait).await;
    }

    pub fn roll(&self, sides: usize) -> usize {
        self.world.borrow_mut().dice.roll(sides as u64) as usize
    }

    pub fn is_troubled(&self) -> bool {
        Instant::now() < self.world.borrow().plan.faults_end
    }

    /// What readers are answered that is another value than the database's.
    pub fn stale(&self) -> Vec<String> {
        let wrong = |key: &String| {
            let Some(at) = self.place(key) else { return false };
            let nodes = self.each.borrow();
            matches!(nodes[at].keys.get(key), Some(Held::Value(value)) if *value != self.world.borrow().value(key))
        };
        keys().into_iter().filter(wrong).collect()
    }

    /// A slot of a key, or one that a mark lies in.
    fn a_slot(&self) -> u16 {
        let (keys, map) = (keys(), self.truth.borrow());
        let marked = if self.roll(6) == 0 { map.primaries.keys().nth(self.roll(SHARDS)) } else { None };
        let marked = marked.and_then(|id| map.mark_slot(id));
        marked.unwrap_or_else(|| slot_of(keys[self.roll(keys.len())].as_bytes()))
    }

    /// Carries a key from node to node; where the answer of the target came too late, both have it.
    fn carry(&self, key: &str, from: usize, to: usize, leave: bool) {
        let mut nodes = self.each.borrow_mut();
        let Some(held) = nodes[from].keys.get(key).cloned() else { return };
        nodes[to].keys.insert(key.to_owned(), held);
        if !leave {
            nodes[from].keys.remove(key);
        }
    }

    /// A slot begins to move, or goes on where it began to: from where to where.
    fn begin(&self, slot: u16) -> (usize, usize) {
        let (from, before) = self.ends(slot);
        let to = before.unwrap_or_else(|| {
            let map = self.truth.borrow();
            let others: Vec<usize> = map.primaries.keys().map(index_of).filter(|at| *at != from).collect();
            others[self.roll(others.len())]
        });
        self.truth.borrow_mut().comes(slot, &id_of(to));
        (from, to)
    }

    /// Whether the slot is on its way still, and both ends are there.
    fn goes_on(&self, slot: u16, (from, to): (usize, usize)) -> bool {
        self.ends(slot) == (from, Some(to)) && !self.is_down(from) && !self.is_down(to)
    }

    /// The slot stays where it was; copies stay where they are.
    fn give_up(&self, slot: u16) {
        self.truth.borrow_mut().primaries.values_mut().for_each(|primary| primary.coming.remove(slot));
    }

    /// The slot is the other node's. Of two copies the target's stays: the node that gives the slot away drops what it has
    /// of it.
    fn finish(&self, slot: u16, (from, to): (usize, usize)) {
        let mark = self.each.borrow_mut()[from].marks.remove(&slot);
        if let Some(mark) = mark {
            self.each.borrow_mut()[to].marks.insert(slot, mark);
        }
        for key in keys_in(slot) {
            if !self.has(to, &key) {
                self.carry(&key, from, to, false);
            }
            self.each.borrow_mut()[from].keys.remove(&key);
        }
        self.truth.borrow_mut().moved(slot, &id_of(to));
    }

    async fn move_one(&self, slot: u16) {
        let ends = self.begin(slot);
        self.wait(40).await;
        for key in keys_in(slot) {
            let roll = self.roll(4);
            if roll > 0 && self.goes_on(slot, ends) {
                self.carry(&key, ends.0, ends.1, roll > 1);
            }
            self.wait(40).await;
        }
        match self.roll(6) {
            _ if !self.goes_on(slot, ends) => {}
            0 => {} // Half way.
            1 => self.give_up(slot),
            _ => self.finish(slot, ends),
        }
    }

    /// Stops half way for ever, with a copy at both ends; everybody knows by then that the slot is on its way.
    async fn stop_half_way(&self, key: &str) {
        let slot = slot_of(key.as_bytes());
        let ends = self.begin(slot);
        sleep(Duration::from_millis(350)).await;
        self.wait(100).await;
        if self.goes_on(slot, ends) {
            self.carry(key, ends.0, ends.1, true);
        }
    }

    /// Is given up and leaves a copy; later the slot comes to that copy for good.
    async fn come_back(&self, key: &str) {
        let slot = slot_of(key.as_bytes());
        let ends = self.begin(slot);
        self.wait(200).await;
        if !self.goes_on(slot, ends) {
            return;
        }
        self.carry(key, ends.0, ends.1, true);
        self.give_up(slot);
        sleep(Duration::from_millis(100)).await;
        self.wait(400).await;
        let is_there = self.truth.borrow().primaries.contains_key(&id_of(ends.1));
        if is_there && self.ends(slot) == (ends.0, None) {
            self.truth.borrow_mut().comes(slot, &id_of(ends.1));
            self.wait(50).await;
            if self.goes_on(slot, ends) {
                self.finish(slot, ends);
            }
        }
    }

    /// A primary dies, and its replica takes over, which lacks the last moments.
    async fn take_over(&self) {
        let died = {
            let map = self.truth.borrow();
            map.primaries.keys().nth(self.roll(map.primaries.len())).map(index_of).expect("there are primaries")
        };
        let replica = (died + SHARDS) % (2 * SHARDS);
        let copy = self.each.borrow()[died].clone();
        self.wait(60).await;
        self.each.borrow_mut()[died].is_down = true;
        self.wait(40).await;
        {
            let mut nodes = self.each.borrow_mut();
            let process = nodes[replica].process;
            nodes[replica] = Node { process, ..copy };
            let mut map = self.truth.borrow_mut();
            let had = map.primaries.remove(&id_of(died)).expect("nobody else takes its slots");
            // A replica does not know what was on its way.
            let (owned, coming) = (had.owned, SlotSet::default());
            map.primaries.values_mut().for_each(|primary| primary.coming.lose(&owned));
            map.primaries
                .insert(id_of(replica), Primary { owned, coming, endpoint: Some(place_of(replica)), epoch: 0 });
            map.replicas.remove(&id_of(replica));
            map.replicas.insert(id_of(died), id_of(replica));
        }
        self.wait(40).await;
        let mut nodes = self.each.borrow_mut();
        nodes[died] = Node { process: nodes[died].process + 1, ..Node::default() };
    }
}

/// Moves slots until the faults end.
pub async fn move_slots(nodes: Rc<Nodes>) {
    loop {
        nodes.wait(60).await;
        if !nodes.is_troubled() {
            return;
        }
        nodes.move_one(nodes.a_slot()).await;
    }
}

/// Behind the faults, some slots stop half way for ever, and others come to where a copy of a key was left.
pub async fn move_last(nodes: Rc<Nodes>) {
    let faults_end = nodes.world.borrow().plan.faults_end;
    sleep_until(faults_end).await;
    let keys = keys();
    for number in 0..LAST {
        let (nodes, key) = (Rc::clone(&nodes), keys[nodes.roll(keys.len())].clone());
        tokio::task::spawn_local(async move {
            if number % 2 == 0 { nodes.stop_half_way(&key).await } else { nodes.come_back(&key).await }
        });
    }
}

/// Primaries die until the faults end.
pub async fn take_over(nodes: Rc<Nodes>) {
    loop {
        nodes.wait(800).await;
        if !nodes.is_troubled() {
            return;
        }
        nodes.take_over().await;
    }
}

/// A reader that fills keys with a lease, wherever its key is.
pub async fn read(nodes: Rc<Nodes>, reader: u64) {
    let (keys, mut token) = (keys(), reader << 32);
    while !nodes.world.borrow().quiet {
        nodes.wait(12).await;
        token += 1;
        let key = &keys[nodes.roll(keys.len())];
        let Some(at) = nodes.place(key).filter(|at| !nodes.has(*at, key)) else { continue };
        nodes.each.borrow_mut()[at].keys.insert(key.clone(), Held::Lease(token));
        nodes.wait(3).await;
        let value = nodes.world.borrow().value(key);
        nodes.wait(30).await;
        let Some(at) = nodes.place(key) else { continue };
        let held = &mut nodes.each.borrow_mut()[at].keys;
        if held.get(key) == Some(&Held::Lease(token)) {
            held.insert(key.clone(), Held::Value(value));
        }
    }
}
