//! A cluster: one cache for each primary, over one shared picture of who has which slots.
//!
//! Each shard is a target of its own with its own mark, so that a primary that is away delays no other and a failover
//! that lost deletes is repaired alone. What a shard's mark proves, and what keeps that true while slots move, stands at
//! [`topology`]. Readers ask for one mark of the whole, `crieur:mark:<slot>`: it says the least of all shards' marks, is
//! written behind them, and proves nothing to this program.

mod delete;
pub mod mark;
pub mod moves;
mod node;
mod pipe;
pub mod redirect;
pub mod routes;
pub mod shards;
pub mod slot;
mod sweep;
mod topology;
pub mod view;
mod whole;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use ::redis::{Cmd, Value};

use self::mark::Replaced;
use self::node::Node;
use self::topology::Topology;
use self::view::NodeId;
use crate::cache::continuity::Lineage;
use crate::cache::forms::ClusterAddress;
use crate::cache::health::Health;
use crate::cache::identity::Info;
use crate::cache::inspect::{Inspect, Lifetimes, Walk};
use crate::cache::link::CacheLink;
use crate::cache::probe::{self, Examined};
use crate::cache::speak::{self, Speaks, count};
use crate::cache::statistics::CacheSaid;
use crate::cache::sweep::{Steps, SweepPlan};
use crate::cache::unlink::Packing;
use crate::cache::{Cache, Deleted, Rest, Swap, Swept, reply, scan};
use crate::config::CacheConfig;
use crate::error::{Error, Result};
use crate::keys::{Key, KeySet};

/// One shard of a cluster: what one primary holds.
pub struct ShardCache {
    topology: Rc<Topology>,
    index: usize,
    name: String,
    steps: Steps,
    /// The slot that the mark was read or written in last.
    marked_in: Cell<Option<u16>>,
    /// What stands where the mark should be, and counts for none.
    disregarded: RefCell<Option<Vec<u8>>>,
    /// The mark of a shard whose node holds no slot any more: nothing is left to be proved.
    vacant: RefCell<Option<Vec<u8>>>,
}

impl ShardCache {
    /// The first shard of a cluster; the others come with the map. Nothing is connected yet.
    pub fn new(settings: CacheConfig, address: ClusterAddress) -> Self {
        ShardCache::of(Topology::new(settings, address), 0)
    }

    fn of(topology: Rc<Topology>, index: usize) -> Self {
        let name = format!("{}, shard {index}", topology.server());
        let (steps, marked_in, disregarded, vacant) =
            (Steps::new(Packing::Free), Cell::default(), RefCell::default(), RefCell::default());
        ShardCache { topology, index, name, steps, marked_in, disregarded, vacant }
    }

    /// Whether every shard answers.
    pub fn health(&self) -> Arc<Health> {
        self.topology.health()
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        self.topology.server()
    }

    /// The mark of the whole cluster, as readers see it. Nobody need serve the cluster: behind a question without an answer
    /// the nodes are asked for the map again.
    pub async fn mark_of_whole(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.topology.sure().await?;
        self.topology.doubt();
        let mark = whole::read(&self.topology, name).await.map_err(|error| error.at(self.topology.server()))?;
        self.topology.trust();
        Ok(mark)
    }

    /// The node that holds this shard, and the slot that its mark lies in; `None` where it holds no slot of its own.
    fn seat(&self) -> Option<(NodeId, Rc<Node>, u16)> {
        let (id, node) = self.topology.primary(self.index)?;
        let slot = self.topology.mark_slot(self.index)?;
        Some((id, node, slot))
    }

    /// Notes whether the shard answered. What fails may be explained by another map.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.topology.note(self.index, result.is_ok());
        result.map_err(|error| {
            self.topology.doubt();
            let error = if self.topology.health().has_deleted() { error.having_worked() } else { error };
            error.at(self.topology.server())
        })
    }

    /// The node that has the slot of notes.
    async fn noted_by(&self) -> Result<Rc<Node>> {
        self.topology.ready().await?;
        let owner = self.topology.owner_of(slot::slot_of(speak::NOTE.as_bytes()));
        owner.map(|(_, node)| node).ok_or_else(|| Error::transient("no node has the slot of the note"))
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.topology.ready().await?;
        let Some((id, node, slot)) = self.seat() else {
            self.topology.ask_claim(self.index);
            let was = self.topology.claim(self.index);
            self.marked_in.set(None);
            // Nothing stands in the node; what came to it since is swept all the same.
            let covers = was.is_some_and(|was| self.topology.covers(self.index, &was));
            return Ok(self.vacant.borrow().clone().filter(|_| covers));
        };
        self.topology.ask_claim(self.index);
        let key = mark::key(name, slot);
        let found = node.cache.on_marking(async |link| get(link, &key).await).await?;
        let was = self.topology.claim(self.index);
        self.marked_in.set(Some(slot));
        let read = found.as_deref().map(mark::read);
        let counts =
            read.as_ref().is_none_or(|(_, about)| self.topology.counts(self.index, &id, about.as_ref(), was.as_ref()));
        let text = read.filter(|_| counts).map(|(mark, _)| mark.to_vec());
        *self.disregarded.borrow_mut() = found.filter(|_| !counts);
        Ok(text)
    }

    async fn write_mark(&self, name: &str, expected: &[Option<Vec<u8>>], text: &[u8]) -> Result<Swap> {
        let Some((id, node, slot)) = self.seat() else {
            *self.vacant.borrow_mut() = Some(text.to_vec());
            self.marked_in.set(None);
            // A node that gets its first slot counts among those that hold some.
            whole::tell(&self.topology, self.index, name, text).await;
            return Ok(Swap::Written);
        };
        // The node holds slots again: what it has is to be looked at first.
        let Some(before) = self.marked_in.get() else { return Ok(Swap::Unproven) };
        if self.topology.is_down(&id) {
            let down = Error::transient("the node says that it takes no writes (cluster_state:fail)");
            return Ok(Swap::Refused(
                down.hint("It lost the majority of the cluster: look at its network.").at(node.name()),
            ));
        }
        let claim = self.topology.claimed(self.index);
        let stored = mark::stored(text, &id, &claim);
        let disregarded = self.disregarded.borrow().clone();
        let replaced = Replaced { expected, disregarded: disregarded.as_deref(), anything: before != slot };
        let key = mark::key(name, slot);
        let swap =
            node.cache.swap(&|identity| (mark::swap(&key, &stored, identity, replaced), false), stored.len()).await;
        match &swap {
            Ok(Swap::Written) => {
                self.marked_in.set(Some(slot));
                *self.disregarded.borrow_mut() = None;
                whole::tell(&self.topology, self.index, name, text).await;
            }
            Ok(Swap::Other | Swap::Refused(_) | Swap::Unproven) | Err(_) => self.topology.doubt(),
            Ok(Swap::Lost | Swap::Full) => {}
        }
        swap
    }

    async fn try_commands(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        self.topology.ready().await?;
        let Some((_, node, slot)) = self.seat() else { return Ok(()) };
        let leases = self.topology.settings().leases;
        let tried = async |link: &mut CacheLink| {
            let tried = probe::each_in_cluster(link, &mark::key(name, slot), families, leases).await?;
            tried.into_iter().try_for_each(probe::Tried::into_result)
        };
        node.cache.on_marking(tried).await
    }
}

/// A mark as it stands there. One that is no text, somebody else wrote under our name.
async fn get(link: &mut CacheLink, key: &str) -> Result<Option<Vec<u8>>> {
    match link.ask(speak::read(key)).await? {
        Value::ServerError(error) if error.code() != "WRONGTYPE" => {
            Err(reply::in_cluster("GET", error.code(), error.details().unwrap_or_default()))
        }
        value => match speak::mark("GET", value) {
            Ok(mark) => Ok(mark),
            Err(Some(error)) => Err(error),
            Err(None) => {
                let mut command = Cmd::new();
                command.arg("UNLINK").arg(key);
                count("UNLINK", &link.ask(command).await?).map(|_| None)
            }
        },
    }
}

impl Cache for ShardCache {
    fn name(&self) -> &str {
        &self.name
    }

    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.delete_rest(keys, &mut Rest::default()).await
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        let deleted = async {
            self.topology.ready().await?;
            let mut left = KeySet::default();
            let before = rest.keys.take();
            let all = || keys.iter().flat_map(|set| set.iter());
            let pending: Box<dyn Iterator<Item = Key<'_>>> = match &before {
                Some(before) => Box::new(before.iter()),
                None => Box::new(all()),
            };
            let pending = pending.map(|key| key.bytes);
            let outcome = delete::delete(&self.topology, self.index, pending, (None, &rest.watch)).await;
            rest.done.sent += outcome.deleted.sent;
            rest.done.existed += outcome.deleted.existed;
            if outcome.deleted.sent > 0 {
                self.topology.health().note_deleted();
            }
            for key in &outcome.left {
                left.insert(key, crate::keys::FamilyId(0), 0);
            }
            rest.keys = Some(left);
            match outcome.error {
                Some(error) => Err(error),
                None => Ok(rest.done),
            }
        };
        self.noted(deleted.await)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        let settings = self.topology.settings();
        let plan = SweepPlan::new(patterns, &settings.protect, settings.leases);
        let swept = async {
            self.topology.ready().await?;
            sweep::sweep(&self.topology, self.index, &self.steps, &plan).await
        };
        self.noted(swept.await)
    }

    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        self.noted(self.try_commands(name, families).await)
    }

    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        // Before the question: what turns out meanwhile is looked at again.
        self.noted(self.topology.ready().await)?;
        let lineage = self.lineage();
        self.noted(self.read_mark(name).await).map(|mark| (mark, lineage))
    }

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], _again: &KeySet) -> Result<Swap> {
        // A node that does not say who it is is refused: its marks need not carry what was deleted.
        self.noted(self.write_mark(name, expected, mark).await)
    }

    /// Whichever shard asks: the note lies in one slot of the cluster. Node ids would tell as much of a cluster, and the
    /// same of a copy of that cluster.
    async fn leave_note(&self, note: &str) -> Result<()> {
        let node = self.noted_by().await?;
        speak::leave_note(&mut node.cache.log_in().await?, note).await
    }

    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        let node = self.noted_by().await?;
        speak::find_note(&mut node.cache.log_in().await?).await
    }

    fn is_away(&self) -> bool {
        self.topology.is_away(Some(self.index))
    }

    /// A shard whose node holds no slot has nothing to say.
    async fn statistics(&self) -> Result<Option<CacheSaid>> {
        self.topology.ready().await?;
        match self.seat() {
            Some((_, node, _)) => node.cache.said().await,
            None => Ok(Some(CacheSaid::default())),
        }
    }

    fn lineage(&self) -> Lineage {
        self.topology.lineage(self.index)
    }

    fn is_part(&self) -> bool {
        true
    }

    fn owes(&self, key: &[u8]) -> bool {
        self.topology.belongs(self.index, key)
    }

    fn newcomers(&self) -> Vec<Self> {
        let newcomers = self.topology.take_newcomers().into_iter();
        newcomers.map(|index| ShardCache::of(Rc::clone(&self.topology), index)).collect()
    }

    async fn turned(&self, seen: Lineage) {
        if self.index == 0 {
            tokio::select! {
                () = self.topology.keep() => {}
                () = self.topology.turned(self.index, seen) => {}
            }
        } else {
            self.topology.turned(self.index, seen).await;
        }
    }
}

impl Inspect for ShardCache {
    /// The first primary stands for all.
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined> {
        self.topology.ready().await?;
        let Some((_, node, slot)) = self.seat() else { return Err(Error::transient("no node has slots")) };
        let mut link = node.cache.log_in().await?;
        let mut memory = Cmd::new();
        memory.arg("INFO").arg("memory");
        let memory = link.ask(memory).await?;
        let leases = self.topology.settings().leases;
        let tried = probe::each_in_cluster(&mut link, &mark::key(name, slot), families, leases).await?;
        let user = self.topology.user().unwrap_or("default").to_owned();
        Ok(Examined { info: link.info.clone(), memory: Info::read(&[memory]), tried, user, sentinels: None })
    }

    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        self.topology.ready().await?;
        for (_, node) in self.topology.primaries() {
            let mut link = node.cache.log_in().await?;
            let scanned = scan::all(&mut link, matching, each).await;
            if !scanned.map_err(|error| error.while_doing("scan").at(node.name()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One primary after the other.
    async fn some_keys(&self, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.topology.ready().await?;
        let primaries = self.topology.primaries();
        let node = primaries.get(walk.server).or(primaries.first());
        let Some((_, node)) = node else { return Err(Error::transient("no node has slots")) };
        let mut link = node.cache.log_in().await?;
        let keys = scan::some(&mut link, walk, matching).await;
        let keys = keys.map_err(|error| error.while_doing("scan").at(node.name()))?;
        if walk.is_at_end() {
            walk.server = if walk.server + 1 < primaries.len() { walk.server + 1 } else { 0 };
        }
        Ok(keys)
    }

    async fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.topology.ready().await?;
        let mut values = vec![None; keys.len()];
        for (_, node) in self.topology.primaries() {
            let is_there = |key: &[u8]| {
                self.topology.owner_of(slot::slot_of(key)).is_some_and(|(_, owner)| owner.name() == node.name())
            };
            let (places, here): (Vec<usize>, Vec<Vec<u8>>) =
                keys.iter().cloned().enumerate().filter(|(_, key)| is_there(key)).unzip();
            if here.is_empty() {
                continue;
            }
            let read = async { speak::values(&mut node.cache.log_in().await?, &here).await };
            // A slot that moved meanwhile: the map is asked again before the next look.
            let read = read.await.inspect_err(|_| self.topology.doubt());
            let read = read.map_err(|error| error.while_doing("read values").at(node.name()))?;
            places.into_iter().zip(read).for_each(|(place, value)| values[place] = value);
        }
        Ok(values)
    }

    async fn lifetimes(&self, look: &mut dyn Lifetimes) -> Result<()> {
        self.topology.ready().await?;
        for (_, node) in self.topology.primaries() {
            let mut link = node.cache.log_in().await?;
            let looked = scan::lifetimes(&mut link, look).await;
            looked.map_err(|error| error.while_doing("look at lifetimes").at(node.name()))?;
        }
        Ok(())
    }

    async fn size(&self) -> Result<u64> {
        self.topology.ready().await?;
        let mut keys = 0;
        for (_, node) in self.topology.primaries() {
            let mut link = node.cache.log_in().await?;
            keys += scan::size(&mut link).await.map_err(|error| error.at(node.name()))?;
        }
        Ok(keys)
    }
}
