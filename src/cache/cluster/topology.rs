//! What is known of a cluster, shared by all of its shards: the map, the nodes, which shard is which primary, and what
//! each shard's mark may speak of.
//!
//! **What a mark in a cluster proves.** A shard's mark at position x speaks of a set of slots, its *claim*. It proves: of
//! every slot of the claim, this node had every delete up to x. Each step keeps that true.
//!
//! - A key is handed to the shard of its slot's owner, and to the shard of the node that the slot comes to
//!   ([`Topology::belongs`]); both owe it. Each deletes it at its own node, and follows the node's redirects.
//! - A slot that leaves a node leaves its claim at once, and does not come back into the claim with the slot
//!   ([`Claim::lose`]): what happened to it elsewhere nobody knows. A delete is only ever lost at another node after a
//!   redirect, so a node cannot have lost a slot unseen by the shard that owed the delete.
//! - A slot that came to a node is not in its claim before the node was swept behind the mark that was read with it
//!   ([`Topology::claim`]): copies that a broken migration left there had no delete. Keys that another shard deletes here
//!   meanwhile, by redirect, are older than that sweep and its echoes.
//! - After a start, a mark counts only when the node that wrote it is this one, and its claim holds all of what the node
//!   holds now. A replica that took over while nobody watched is swept.
//!
//! A position is confirmed when every shard's mark says it; so a delete that only one shard owes is never passed over.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::mark::least;
use super::moves::Moves;
use super::node::Node;
use super::routes::Routes;
use super::shards::{Claim, Shard, ShardSeat, counts, owes, places};
use super::slot::slot_of;
use super::view::{Map, NodeId, View};
use crate::cache::continuity::Lineage;
use crate::cache::forms::ClusterAddress;
use crate::cache::health::Health;
use crate::cache::place::{HostPort, NodeLogin};
use crate::config::CacheConfig;
use crate::error::{Error, Result};
use crate::observe::{Id, log};

/// How often the nodes are asked for the map, at least; a large cluster less often.
const EVERY: Duration = Duration::from_secs(1);
/// How often at most, whatever happens.
const PAUSE: Duration = Duration::from_millis(100);
/// So long nothing may have changed before what changed hands is swept: slots move in long rows.
const REST: Duration = Duration::from_millis(500);
/// A row that does not end is swept in between.
const UNREST_MAX: Duration = Duration::from_secs(30);
/// A node that answers later than the others is left out of the view.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// What is known of a shard besides.
#[derive(Debug, Default)]
struct Known {
    shard: Shard,
    /// How often the shard's node became another, or got slots.
    turns: Lineage,
    /// Its mark was read once.
    is_claimed: bool,
    /// The mark is to be read again since slots came; said once.
    is_bumped: bool,
    /// The last attempt at it failed.
    is_away: bool,
    /// The text of the mark that was written last.
    mark: Option<Vec<u8>>,
}

/// A cluster.
pub(super) struct Topology {
    settings: CacheConfig,
    login: NodeLogin,
    seeds: Vec<HostPort>,
    /// For messages: "the cluster at 10.0.0.5:7001 (REDIS_URL)".
    server: String,
    map: RefCell<Map>,
    nodes: RefCell<BTreeMap<HostPort, Rc<Node>>>,
    shards: RefCell<Vec<Known>>,
    /// Shards that nobody serves yet.
    newcomers: RefCell<Vec<usize>>,
    moves: RefCell<Moves<Instant>>,
    /// When the map was asked for last, and whether it was told; held while it is asked for.
    asked: Mutex<Option<(Instant, bool)>>,
    /// When slots changed hands last, and since when they do without a rest.
    changed: Cell<Option<(Instant, Instant)>>,
    /// Something makes the map doubtful.
    is_doubtful: Cell<bool>,
    /// The map is to be looked at.
    doubt: Notify,
    /// The map, or what a shard holds, is another.
    change: Notify,
    health: Arc<Health>,
}

impl Topology {
    /// Nothing is connected yet.
    pub(super) fn new(settings: CacheConfig, address: ClusterAddress) -> Rc<Self> {
        let ClusterAddress { seeds, node: login } = address;
        let places = seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let server = format!("the cluster at {places}{}", login.written);
        Rc::new(Topology {
            settings,
            login,
            seeds,
            server,
            map: RefCell::default(),
            nodes: RefCell::default(),
            shards: RefCell::new(vec![Known::default()]),
            newcomers: RefCell::default(),
            moves: RefCell::default(),
            asked: Mutex::new(None),
            changed: Cell::new(None),
            is_doubtful: Cell::new(true),
            doubt: Notify::new(),
            change: Notify::new(),
            health: Arc::default(),
        })
    }

    pub(super) fn settings(&self) -> &CacheConfig {
        &self.settings
    }

    /// For messages.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.login.user.as_deref()
    }

    pub(super) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// An attempt at the shard ended. The cluster is away while one of them is.
    pub(super) fn note(&self, index: usize, answered: bool) {
        let mut shards = self.shards.borrow_mut();
        if let Some(known) = shards.get_mut(index) {
            known.is_away = !answered;
        }
        self.health.note(!shards.iter().any(|known| known.is_away));
    }

    /// Whether the last attempt at this shard failed.
    pub(super) fn is_away(&self, index: Option<usize>) -> bool {
        index.and_then(|index| self.shards.borrow().get(index).map(|known| known.is_away)).unwrap_or(true)
    }

    /// The shard's mark is this one: the mark of the whole, when every shard that holds slots has one.
    pub(super) fn note_mark(&self, index: usize, text: &[u8]) -> Option<Vec<u8>> {
        let (map, mut shards) = (self.map.borrow(), self.shards.borrow_mut());
        shards.get_mut(index)?.mark = Some(text.to_vec());
        let holds = |known: &&Known| known.shard.node.as_ref().is_some_and(|id| map.primaries.contains_key(id));
        least(shards.iter().filter(holds).map(|known| known.mark.as_deref()))
    }

    /// The node that has a slot, and the shard that it is.
    pub(super) fn owner_of(&self, slot: u16) -> Option<(Option<usize>, Rc<Node>)> {
        let id = self.map.borrow().owner(slot).cloned()?;
        let index = self.shards.borrow().iter().position(|known| known.shard.node.as_ref() == Some(&id));
        Some((index, self.node_of(&id)?))
    }

    /// Where a node says that it is.
    pub(super) fn endpoint_of(&self, id: &NodeId) -> Option<HostPort> {
        self.map.borrow().endpoints.get(id).cloned()
    }

    /// Whether slots come to the node.
    pub(super) fn takes(&self, id: &NodeId) -> bool {
        self.map.borrow().primaries.get(id).is_some_and(|primary| !primary.coming.is_empty())
    }

    /// Where the key's slot comes to, if that is another place than `at`.
    pub(super) fn comes_to(&self, key: &[u8], at: &HostPort) -> Option<HostPort> {
        let (slot, map) = (slot_of(key), self.map.borrow());
        let endpoint = map.primaries.values().find(|primary| primary.coming.has(slot))?.endpoint.clone();
        endpoint.filter(|endpoint| endpoint != at)
    }

    /// The node at this place.
    pub(super) fn node_at(&self, endpoint: &HostPort) -> Rc<Node> {
        let mut nodes = self.nodes.borrow_mut();
        let new = || Rc::new(Node::new(endpoint.clone(), &self.login, &self.settings));
        Rc::clone(nodes.entry(endpoint.clone()).or_insert_with(new))
    }

    fn node_of(&self, id: &NodeId) -> Option<Rc<Node>> {
        let endpoint = self.map.borrow().endpoints.get(id).cloned()?;
        Some(self.node_at(&endpoint))
    }

    /// The node and name of the shard's primary, if it has one that holds slots.
    pub(super) fn primary(&self, index: usize) -> Option<(NodeId, Rc<Node>)> {
        let id = self.shards.borrow().get(index)?.shard.node.clone()?;
        self.map.borrow().primaries.get(&id)?;
        let node = self.node_of(&id)?;
        Some((id, node))
    }

    /// All primaries.
    pub(super) fn primaries(&self) -> Vec<(NodeId, Rc<Node>)> {
        let ids: Vec<NodeId> = self.map.borrow().primaries.keys().cloned().collect();
        ids.into_iter().filter_map(|id| self.node_of(&id).map(|node| (id, node))).collect()
    }

    /// Where the shard deletes keys first, by the map as it is.
    pub(super) fn routes(&self, index: usize) -> Routes {
        let shards = self.shards.borrow();
        Routes::new(&self.map.borrow(), shards.get(index).and_then(|known| known.shard.node.as_ref()))
    }

    /// Whether the shard owes this key's delete: pure, by the map as it is. Before the first map, and of a slot that
    /// nobody has, the first shard owes it.
    pub(super) fn belongs(&self, index: usize, key: &[u8]) -> bool {
        let slot = slot_of(key);
        let (map, shards) = (self.map.borrow(), self.shards.borrow());
        let holds = |known: &Known| {
            let primary = known.shard.node.as_ref().and_then(|id| map.primaries.get(id));
            primary.is_some_and(|primary| owes(primary, slot))
        };
        let is_owned = |known: &Known| {
            let primary = known.shard.node.as_ref().and_then(|id| map.primaries.get(id));
            primary.is_some_and(|primary| primary.owned.has(slot))
        };
        shards.get(index).is_some_and(holds) || (index == 0 && !shards.iter().any(is_owned))
    }

    /// Makes sure that there is a map.
    pub(super) async fn ready(&self) -> Result<()> {
        if self.map.borrow().primaries.is_empty() { self.refresh().await } else { Ok(()) }
    }

    /// The same, or a map that nothing makes doubtful.
    pub(super) async fn sure(&self) -> Result<()> {
        if self.is_doubtful.get() { self.refresh().await } else { self.ready().await }
    }

    /// What was asked by the map was answered.
    pub(super) fn trust(&self) {
        self.is_doubtful.set(false);
    }

    /// Asks the nodes for the map, unless that was done since.
    pub(super) async fn refresh(&self) -> Result<()> {
        let since = Instant::now();
        let mut asked = self.asked.lock().await;
        match *asked {
            Some((last, true)) if last >= since => return Ok(()),
            Some((last, false)) if last >= since => {
                return Err(Error::transient("the map of the cluster was asked for, and not told").at(self.server()));
            }
            Some((last, _)) => sleep_until(last + PAUSE).await,
            None => {}
        }
        self.is_doubtful.set(false);
        let map = self.told().await;
        *asked = Some((Instant::now(), map.is_ok()));
        self.apply(map?);
        Ok(())
    }

    /// The map that the nodes tell.
    async fn told(&self) -> Result<Map> {
        let map = Map::of(&self.views().await?);
        if map.primaries.is_empty() {
            return Err(Error::transient("no node of the cluster has slots (CLUSTERDOWN)")
                .hint("Give the cluster its slots: redis-cli --cluster fix, or create.")
                .at(self.server()));
        }
        Ok(map)
    }

    /// What the nodes say: the primaries that are known, and all others where too few of them answer.
    async fn views(&self) -> Result<Vec<View>> {
        let primaries: Vec<Rc<Node>> = self.primaries().into_iter().map(|(_, node)| node).collect();
        let wanted = primaries.len() / 2 + 1;
        let (mut views, mut failed) = self.ask(&primaries, wanted).await;
        if views.len() < wanted {
            let known: Vec<HostPort> = self.map.borrow().endpoints.values().cloned().collect();
            let others: Vec<Rc<Node>> = known.iter().chain(&self.seeds).map(|at| self.node_at(at)).collect();
            let others: Vec<Rc<Node>> =
                others.into_iter().filter(|node| !primaries.iter().any(|asked| Rc::ptr_eq(asked, node))).collect();
            let (more, error) = self.ask(&others, others.len()).await;
            views.extend(more);
            failed = error.or(failed);
        }
        match (views.is_empty(), failed) {
            (false, _) => Ok(views),
            (true, Some(error)) => Err(error),
            (true, None) => Err(Error::transient("no node of the cluster answers").at(self.server())),
        }
    }

    /// The views of those that answer soon, and an error of one that does not.
    async fn ask(&self, nodes: &[Rc<Node>], wanted: usize) -> (Vec<View>, Option<Error>) {
        let mut asking: FuturesUnordered<_> = nodes.iter().map(|node| node.view()).collect();
        let (mut views, mut failed) = (Vec::new(), None);
        let mut until = Instant::now() + self.settings.timeout;
        loop {
            match timeout_at(until, asking.next()).await {
                Err(_) | Ok(None) => break,
                Ok(Some(Ok(view))) => views.push(view),
                Ok(Some(Err(error))) => failed = failed.filter(|_| error.is_transient()).or(Some(error)),
            }
            if views.len() >= wanted {
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        (views, failed)
    }

    /// The map is this one from now on.
    fn apply(&self, map: Map) {
        let before = self.map.replace(map);
        let map = self.map.borrow();
        self.follow_to_other_places(&before, &map);
        if before.primaries == map.primaries {
            return;
        }
        let now = Instant::now();
        // A slot may have come, or gone and come back, between two looks: a node's epoch rises with each that comes.
        for known in self.shards.borrow_mut().iter_mut() {
            let Some(id) = &known.shard.node else { continue };
            let epoch = |map: &Map| map.primaries.get(id).map(|primary| primary.epoch);
            if epoch(&before).is_some_and(|old| epoch(&map) > Some(old)) {
                known.shard.lose(None);
            }
        }
        if !self.moves.borrow_mut().compare(&before, &map, now) && !before.primaries.is_empty() {
            return;
        }
        let since = self.changed.get().filter(|(last, _)| now - *last < REST).map_or(now, |(_, since)| since);
        self.changed.set(Some((now, since)));
        let mut shards = self.shards.borrow_mut();
        let known: Vec<Shard> = shards.iter().map(|known| known.shard.clone()).collect();
        for (id, place) in places(&known, &before, &map) {
            match place {
                ShardSeat::Stays(_) => {}
                ShardSeat::Takes(index) => {
                    let lineage = self.lineage_of(&shards[index]);
                    let known = &mut shards[index];
                    if let Some(node) = known.shard.node.replace(id.clone()) {
                        known.turns = Lineage { another: lineage.another + 1, unknown: lineage.unknown };
                        let (from, to) = (before.endpoints.get(&node), map.endpoints.get(&id));
                        let name = |at: Option<&HostPort>| at.map_or_else(String::new, ToString::to_string);
                        log!(
                            Id::ClusterTookOver,
                            server = self.server(),
                            from = name(from),
                            to = name(to),
                            "a replica took over for its primary: the mark of shard {index} is compared there"
                        );
                    }
                }
                ShardSeat::New => {
                    shards.push(Known { shard: Shard::at(Some(id)), ..Known::default() });
                    self.newcomers.borrow_mut().push(shards.len() - 1);
                }
            }
        }
        for known in shards.iter_mut() {
            let primary = known.shard.node.as_ref().and_then(|id| map.primaries.get(id));
            known.shard.lose(primary);
        }
        self.change.notify_waiters();
    }

    /// A node that is at another address now may be another process there, with older data: what was known of the process
    /// before is compared with whoever answers.
    fn follow_to_other_places(&self, before: &Map, map: &Map) {
        for (id, to) in &map.endpoints {
            if let Some(from) = before.endpoints.get(id).filter(|from| *from != to) {
                self.node_at(to).cache.succeeds(&self.node_at(from).cache);
            }
        }
    }

    /// A node said that the slot is another's.
    pub(super) fn moved(&self, slot: u16, to: &HostPort) {
        let mut map = self.map.borrow().clone();
        match map.at(to).cloned() {
            Some(id) => {
                map.moved(slot, &id);
                self.apply(map);
            }
            None => tracing::debug!(slot, "a redirect to a node that no view knows"),
        }
        self.doubt();
    }

    /// A node said that keys of the slot are at another already.
    pub(super) fn comes(&self, slot: u16, to: &HostPort) {
        let mut map = self.map.borrow().clone();
        if let Some(id) = map.at(to).cloned() {
            map.comes(slot, &id);
            self.apply(map);
        }
        self.doubt();
    }

    /// Whether no slot can come to the node at this place, by the map as it was told last.
    pub(super) fn takes_nothing(&self, at: &HostPort) -> bool {
        let map = self.map.borrow();
        map.at(at).is_some_and(|id| map.takes_nothing(id))
    }

    /// Something went wrong that another map may explain.
    pub(super) fn doubt(&self) {
        self.is_doubtful.set(true);
        self.doubt.notify_one();
    }

    /// Whether a node says that it takes no writes.
    pub(super) fn is_down(&self, id: &NodeId) -> bool {
        self.map.borrow().down.contains(id)
    }

    /// Whether the node still holds slots, or gets some.
    fn is_primary(&self, endpoint: &HostPort) -> bool {
        self.map.borrow().primaries.values().any(|primary| primary.endpoint.as_ref() == Some(endpoint))
    }

    /// Resolves when the node at this place holds no slot any more: what it did not answer goes elsewhere.
    pub(super) async fn deposed(&self, endpoint: &HostPort) {
        if !self.is_primary(endpoint) {
            // A redirect led there: the map may not know it yet.
            return std::future::pending().await;
        }
        loop {
            let change = self.change.notified();
            if !self.is_primary(endpoint) {
                return;
            }
            change.await;
        }
    }

    /// What happened to the shard's cache.
    pub(super) fn lineage(&self, index: usize) -> Lineage {
        self.shards.borrow().get(index).map(|known| self.lineage_of(known)).unwrap_or_default()
    }

    fn lineage_of(&self, known: &Known) -> Lineage {
        use crate::cache::Cache as _;
        let node = known.shard.node.as_ref().and_then(|id| self.node_of(id));
        let of_node = node.map(|node| node.cache.lineage()).unwrap_or_default();
        Lineage { another: known.turns.another + of_node.another, unknown: known.turns.unknown + of_node.unknown }
    }

    /// The mark of the shard is asked for now: what it will speak of is what its node holds.
    pub(super) fn ask_claim(&self, index: usize) {
        let (map, mut shards) = (self.map.borrow(), self.shards.borrow_mut());
        let Some(known) = shards.get_mut(index) else { return };
        let primary = known.shard.node.as_ref().and_then(|id| map.primaries.get(id));
        known.shard.ask(primary);
    }

    /// The question was answered. Says what the mark spoke of before; `None` the first time.
    pub(super) fn claim(&self, index: usize) -> Option<Claim> {
        let mut shards = self.shards.borrow_mut();
        let known = shards.get_mut(index)?;
        let was = known.shard.answered();
        known.is_bumped = false;
        std::mem::replace(&mut known.is_claimed, true).then_some(was)
    }

    /// Whether the mark that was found at this node counts; `about` says who wrote it, and of which slots.
    pub(super) fn counts(
        &self,
        index: usize,
        node: &NodeId,
        about: Option<&(NodeId, Claim)>,
        was: Option<&Claim>,
    ) -> bool {
        let (map, shards) = (self.map.borrow(), self.shards.borrow());
        let primary =
            shards.get(index).and_then(|known| known.shard.node.as_ref()).and_then(|id| map.primaries.get(id));
        counts(about, was, node, primary)
    }

    /// What the shard's mark speaks of now.
    pub(super) fn claimed(&self, index: usize) -> Claim {
        self.shards.borrow().get(index).map(|known| known.shard.claim.clone()).unwrap_or_default()
    }

    /// Whether a claim speaks of all that the shard's node holds.
    pub(super) fn covers(&self, index: usize, claim: &Claim) -> bool {
        let (map, shards) = (self.map.borrow(), self.shards.borrow());
        let primary =
            shards.get(index).and_then(|known| known.shard.node.as_ref()).and_then(|id| map.primaries.get(id));
        primary.is_none_or(|primary| claim.covers(primary))
    }

    /// The slot that the shard's mark lies in: the lowest of its node that does not leave it.
    pub(super) fn mark_slot(&self, index: usize) -> Option<u16> {
        let shards = self.shards.borrow();
        self.map.borrow().mark_slot(shards.get(index)?.shard.node.as_ref()?)
    }

    /// Which nodes a sweep of the shard's node must see besides, because keys left it of late; and how often slots moved.
    pub(super) fn followed(&self, index: usize) -> (Vec<(NodeId, Rc<Node>)>, u64) {
        let node = self.shards.borrow().get(index).and_then(|known| known.shard.node.clone());
        let moves = self.moves.borrow();
        let Some(node) = node.filter(|id| self.map.borrow().primaries.contains_key(id)) else {
            return (self.primaries(), moves.count());
        };
        let ids = moves.reached_from(&node, &self.map.borrow(), Instant::now());
        (ids.into_iter().filter_map(|id| self.node_of(&id).map(|node| (id, node))).collect(), moves.count())
    }

    /// Whether slots are on their way now.
    pub(super) fn is_moving(&self) -> bool {
        self.map.borrow().is_moving()
    }

    /// Shards that nobody serves yet.
    pub(super) fn take_newcomers(&self) -> Vec<usize> {
        std::mem::take(&mut *self.newcomers.borrow_mut())
    }

    /// Keeps the map fresh for all shards; resolves when there are newcomers.
    pub(super) async fn keep(&self) {
        loop {
            let due = Instant::now() + self.interval();
            let wait = async {
                let doubt = self.doubt.notified();
                if !self.is_doubtful.get() {
                    doubt.await;
                }
            };
            // Nothing is lost when neither comes: the next turn asks again.
            let _ = timeout_at(due, wait).await;
            if let Err(error) = self.refresh().await {
                tracing::debug!("the map of the cluster is not told: {}", error.chain());
                self.is_doubtful.set(false);
            }
            self.sweep_what_came();
            if !self.newcomers.borrow().is_empty() {
                return;
            }
        }
    }

    fn interval(&self) -> Duration {
        let is_unproved = self.shards.borrow().iter().enumerate().any(|(index, _)| self.is_behind(index));
        let nodes = self.map.borrow().primaries.len() as u32;
        if is_unproved { REST } else { EVERY.max(PAUSE * nodes) }
    }

    /// Whether slots came to the shard's node that its mark does not speak of.
    fn is_behind(&self, index: usize) -> bool {
        let shards = self.shards.borrow();
        let Some(known) = shards.get(index).filter(|known| known.is_claimed && !known.is_bumped) else { return false };
        let claim = known.shard.claim.clone();
        drop(shards);
        !self.covers(index, &claim)
    }

    /// A shard to which slots came reads its mark again, which does not count then: its node is swept.
    fn sweep_what_came(&self) {
        let now = Instant::now();
        let rests = self.changed.get().is_none_or(|(last, since)| now - last >= REST || now - since >= UNREST_MAX);
        if !rests {
            return;
        }
        let count = self.shards.borrow().len();
        for index in (0..count).filter(|index| self.is_behind(*index)) {
            if let Some(known) = self.shards.borrow_mut().get_mut(index) {
                known.is_bumped = true;
                known.turns.another += 1;
            }
            if let Some((_, node)) = self.primary(index) {
                log!(
                    Id::ClusterSlotsCame,
                    server = self.server(),
                    node = node.endpoint.to_string(),
                    "slots came to a node of the cluster: its keys are swept, because copies may have been left there"
                );
            }
            self.change.notify_waiters();
        }
    }

    /// Resolves when the shard's cache is another than `seen`, or got slots.
    pub(super) async fn turned(&self, index: usize, seen: Lineage) {
        loop {
            let change = self.change.notified();
            if self.lineage(index) != seen {
                return;
            }
            change.await;
        }
    }
}
