//! The simulated cache and control session, as the daemon reaches them: connections that break, commands that are lost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::continuity::Lineage;
use crieur::cache::publish::{Publisher, Telling};
use crieur::cache::{Cache, Deleted, Swap, Swept};
use crieur::change::Oid;
use crieur::control::{Catalogue, Gate, Lookups, Sighting};
use crieur::error::{Error, Result};
use crieur::gate::Snapshot;
use crieur::glob;
use crieur::keys::KeySet;
use crieur::lsn::Lsn;
use crieur::mark::Published;
use crieur::question::{Answer, Question};
use redis::Value;
use tokio::time::{Instant, sleep};

use super::outbox::tables::xid8;
use super::region::Waits;
use super::scenario::Kind;
use super::store::Store;
use super::tier;
use super::world::{Commit, Shared, World};

/// A client of the cache: which server its connections lead to.
pub struct SimCache {
    pub(super) world: Shared,
    /// Which cache it is.
    pub(super) store: usize,
    known: Cell<Option<u64>>,
    marking: Cell<Option<u64>>,
    lineage: Cell<Lineage>,
    /// Of its connections: another one behind each that broke.
    pub(super) generation: Cell<u64>,
    publisher: Option<Publisher>,
    /// What would be the mark of a sink.
    told: RefCell<Option<Vec<u8>>>,
}

impl SimCache {
    pub fn new(world: Shared, store: usize) -> Self {
        let publisher = tier::publisher(&world.borrow());
        SimCache {
            world,
            store,
            known: Cell::new(None),
            marking: Cell::new(None),
            lineage: Cell::default(),
            generation: Cell::default(),
            publisher,
            told: RefCell::default(),
        }
    }

    /// Asks the cache something: `None` where nobody reaches it, which is known at once or after a while.
    pub(super) async fn ask<T>(&self, question: impl FnOnce(&mut Store) -> T) -> Option<T> {
        let wait = {
            let mut world = self.world.borrow_mut();
            let slow_ms = world.stores[self.store].slow_ms;
            if slow_ms > 0 { world.pause(slow_ms) } else { Duration::ZERO }
        };
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let is_away = self.world.borrow().stores[self.store].away;
        if !is_away {
            return Some(question(&mut self.world.borrow_mut().stores[self.store]));
        }
        let (hangs, wait) = {
            let mut world = self.world.borrow_mut();
            (world.dice.one_in(2), world.pause(100))
        };
        if hangs {
            sleep(wait).await;
        }
        None
    }

    pub(super) fn server(&self) -> u64 {
        self.world.borrow().stores[self.store].server
    }

    pub(super) fn fault(&self, one_in: u64) -> bool {
        self.world.borrow_mut().fault_at(self.store, one_in)
    }

    /// Whether what was asked of `server` is lost.
    pub(super) async fn loses(&self, server: u64, one_in: u64) -> bool {
        let found = self.ask(|store| store.server).await;
        self.fault(one_in) || found.is_none_or(|found| found != server && !self.is_alone())
    }

    /// Whether nothing but requests leads there.
    fn is_alone(&self) -> bool {
        self.world.borrow().stores[self.store].alone
    }

    /// What was asked is done late, by whoever is there then, and nobody hears of it.
    fn do_late(&self, act: impl FnOnce(&mut World) + 'static) {
        let world = Rc::clone(&self.world);
        tokio::task::spawn_local(async move {
            let wait = world.borrow_mut().pause(200);
            sleep(wait).await;
            act(&mut world.borrow_mut());
        });
    }

    /// The mark in a request of its own, as the REST interface has it: without an answer the mark is looked at.
    async fn swap_alone(&self, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        self.wait(2).await;
        let (store, late) = (self.store, self.fault(8));
        let is_written = if late {
            let (expected, mark, again) = (expected.to_vec(), mark.to_vec(), again.clone());
            self.do_late(move |world| _ = world.swap(store, &expected, &mark, &again));
            false
        } else {
            self.world.borrow_mut().swap(store, expected, mark, again)
        };
        self.wait(2).await;
        let is_lost = late || self.fault(8);
        if is_written && !is_lost {
            return Ok(Swap::Written);
        }
        self.wait(2).await;
        let is_there = !self.fault(8) && self.world.borrow().stores[store].cache.mark.as_deref() == Some(mark);
        Ok(match (is_there, is_lost) {
            (true, _) => Swap::Written,
            (false, true) => Swap::Lost,
            (false, false) => Swap::Other,
        })
    }

    /// The mark of a sink stays in the process.
    fn tell(&self, expected: &[Option<Vec<u8>>], mark: &[u8]) -> Swap {
        let mut told = self.told.borrow_mut();
        if !expected.contains(&told) {
            return Swap::Other;
        }
        *told = Some(mark.to_vec());
        self.world.borrow_mut().marked(self.store, mark);
        Swap::Written
    }

    /// A scan in a few steps; each visits what another hash of the keys chooses.
    async fn scan(&self, patterns: &KeySet) -> Result<Swept> {
        let server = self.connect();
        for step in 0..3 {
            self.wait(5).await;
            if self.loses(server, 10).await {
                return self.broken("simulated cut of a scan");
            }
            let visited = |key: &str| key.bytes().map(usize::from).sum::<usize>() % 3 == step;
            let matches = |key: &str| patterns.iter().any(|pattern| glob::matches(pattern.bytes, key.as_bytes()));
            self.world.borrow_mut().delete(self.store, |key| visited(key) && matches(key));
        }
        self.reply(2).await;
        Ok(Swept::default())
    }

    async fn swap(&self, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        let Some(server) = self.marking.get() else { return Ok(Swap::Unproven) };
        // A slow answer may come when the server that the mark is of has ended.
        let slow = self.world.borrow().plan.kind == Kind::Restart && self.world.borrow_mut().dice.one_in(4);
        self.wait(if slow { 400 } else { 2 }).await;
        let Some(found) = self.ask(|store| store.server).await else {
            self.marking.set(None);
            let refused = self.world.borrow_mut().dice.one_in(2);
            return if refused {
                Ok(Swap::Refused(Error::transient(World::absence())))
            } else {
                self.broken(World::absence())
            };
        };
        if found != server {
            self.marking.set(None);
            return Ok(Swap::Lost);
        }
        if self.fault(10) {
            self.marking.set(None);
            return Ok(Swap::Refused(Error::transient("simulated refusal")));
        }
        if self.world.borrow().stores[self.store].full || self.fault(12) {
            // Without a mark the next start sweeps; until then the position may move.
            self.world.borrow_mut().said(self.store, mark);
            return Ok(Swap::Full);
        }
        if !self.world.borrow_mut().swap(self.store, expected, mark, again) {
            return Ok(Swap::Other);
        }
        self.wait(2).await;
        if self.ask(|_| ()).await.is_none() {
            return self.broken(World::absence());
        }
        if self.fault(10) {
            return self.broken("simulated loss of the answer");
        }
        Ok(Swap::Written)
    }

    fn connect(&self) -> u64 {
        let server = self.server();
        if self.is_alone() {
            return server;
        }
        let breaks = self.world.borrow_mut().breaks(self.store);
        if self.known.replace(Some(server)).is_some_and(|known| known != server || breaks) {
            let Lineage { another, unknown } = self.lineage.get();
            let lineage = match self.world.borrow().stores[self.store].nameless {
                true => Lineage { another, unknown: unknown + 1 },
                false => Lineage { another: another + 1, unknown },
            };
            self.lineage.set(lineage);
            self.generation.set(self.generation.get() + 1);
            self.marking.set(None);
        }
        server
    }

    fn broken<T>(&self, why: &str) -> Result<T> {
        self.marking.set(None);
        self.generation.set(self.generation.get() + 1);
        Err(Error::transient(why))
    }

    /// An answer is on its way, and may come when its server has ended.
    async fn reply(&self, late_one_in: u64) {
        let late = {
            let mut world = self.world.borrow_mut();
            let goes_back = matches!(world.plan.kind, Kind::GoesBack | Kind::GoesBackTwice);
            goes_back && world.dice.one_in(late_one_in)
        };
        self.world.borrow_mut().stores[self.store].late |= late;
        self.wait(if late { 60 } else { 3 }).await;
        self.world.borrow_mut().stores[self.store].late &= !late;
    }

    pub(super) async fn wait(&self, most_ms: u64) {
        let wait = self.world.borrow_mut().pause(most_ms);
        sleep(wait).await;
    }
}

impl Cache for SimCache {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        if self.is_sink() {
            return self.purge_tags(keys).await.map(|()| Deleted::default());
        }
        let telling = match &self.publisher {
            Some(publisher) => Some(publisher.turn().await),
            None => None,
        };
        telling.iter().for_each(Telling::deletes);
        let mut named: Vec<&[u8]> = Vec::new();
        let server = self.connect();
        self.wait(5).await;
        if self.ask(|_| ()).await.is_none() {
            return self.broken(World::absence());
        }
        for key in keys.iter().flat_map(|set| set.iter()) {
            // Half a pipeline may be done before the connection breaks.
            if self.fault(60) || (self.server() != server && !self.is_alone()) {
                if self.is_alone() {
                    let (store, key) = (self.store, key.bytes.to_vec());
                    self.do_late(move |world| world.delete(store, |held| held.as_bytes() == key));
                }
                return self.broken("simulated half reply");
            }
            if self.world.borrow().is_named(self.store, key.bytes) {
                named.push(key.bytes);
            }
            self.world.borrow_mut().delete(self.store, |held| held.as_bytes() == key.bytes);
        }
        if let Some(telling) = &telling {
            self.tell_readers(telling, Some(&named)).await;
        }
        self.wait(5).await;
        if self.loses(server, 20).await {
            return self.broken("simulated lost reply");
        }
        if let Some(telling) = telling {
            telling.answered(&Value::Int(1));
            telling.done();
        }
        self.reply(5).await;
        Ok(Deleted::default())
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if self.is_sink() {
            return self.purge_families(patterns).await.map(|()| Swept::default());
        }
        let Some(publisher) = &self.publisher else { return self.scan(patterns).await };
        let flush = async |telling: &Telling<'_>| {
            self.tell_readers(telling, None).await;
            if self.loses(self.connect(), 15).await {
                return self.broken("simulated loss of a message");
            }
            telling.answered(&Value::Int(1));
            Ok(())
        };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell_behind_mark(telling, keys).await;
        publisher.around_sweep(flush, async || self.scan(patterns).await, tell).await
    }

    fn published(&self) -> Option<Published> {
        self.publisher.as_ref().and_then(Publisher::published)
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        if self.is_sink() {
            return Ok(self.tell(expected, mark));
        }
        if self.is_alone() {
            return self.swap_alone(expected, mark, again).await;
        }
        let Some(publisher) = &self.publisher else { return self.swap(expected, mark, again).await };
        let tell = async |telling: Telling<'_>, keys: &[&[u8]]| self.tell_behind_mark(telling, keys).await;
        publisher.around_swap(again, async || self.swap(expected, mark, again).await, tell).await
    }

    fn is_sink(&self) -> bool {
        self.world.borrow().stores[self.store].is_sink
    }

    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        if self.is_sink() {
            return Ok(());
        }
        self.connect();
        self.wait(3).await;
        let lost = self.ask(|_| ()).await.is_none() || self.fault(15);
        if lost { self.broken("simulated loss of an attempt") } else { Ok(()) }
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        if self.is_sink() {
            return Ok((self.told.borrow().clone(), Lineage::default()));
        }
        let server = match self.marking.get() {
            Some(server) if server == self.server() => server,
            _ => self.connect(),
        };
        let lineage = self.lineage();
        self.wait(3).await;
        if self.loses(server, 15).await {
            return self.broken("simulated loss of the mark");
        }
        self.marking.set(Some(server));
        let mark = self.world.borrow().stores[self.store].cache.mark.clone();
        self.wait(3).await;
        Ok((mark, lineage))
    }

    fn is_nameless(&self) -> bool {
        self.world.borrow().stores[self.store].nameless
    }

    fn lineage(&self) -> Lineage {
        self.lineage.get()
    }
}

fn low_bits((xmax, open): (u32, Vec<u32>)) -> Snapshot {
    let mut in_progress: Vec<u32> = open.into_iter().map(|xid| xid8(xid) as u32).collect();
    in_progress.sort_unstable();
    Snapshot::Taken { xmax: xid8(xmax) as u32, in_progress }
}

/// The control session.
pub struct SimControl(pub Shared);

impl Gate for SimControl {
    async fn snapshot(&self) -> Result<Snapshot> {
        let wait = self.0.borrow_mut().pause(1);
        sleep(wait).await;
        if self.0.borrow().deaf {
            return Err(Error::transient(World::absence()));
        }
        if self.0.borrow_mut().fault(30) {
            return Err(Error::transient("simulated loss of the control session"));
        }
        if self.0.borrow().region == Some(Waits::ForReplay) {
            return Ok(self.0.borrow().shown());
        }
        let now = Instant::now();
        let snapshot = {
            let world = self.0.borrow();
            match &world.outbox {
                Some(outbox) => low_bits(outbox.snapshot()),
                None => {
                    let invisible = world.log.iter().filter(|commit| commit.visible_at > now);
                    let in_progress = invisible.map(|commit| commit.xid).collect();
                    // As on a real server, a transaction that had no number yet is not contained.
                    Snapshot::Taken { xmax: world.xids + 1, in_progress }
                }
            }
        };
        let wait = self.0.borrow_mut().pause(1);
        sleep(wait).await;
        Ok(snapshot)
    }

    /// Rows of an outbox come from a snapshot that contains them.
    async fn gate(&self, upto: Lsn) -> Result<Snapshot> {
        if self.0.borrow().region == Some(Waits::ForReplay) {
            return self.replayed(upto).await;
        }
        let is_outbox = self.0.borrow().outbox.is_some();
        if is_outbox { Ok(Snapshot::Everything) } else { self.snapshot().await }
    }

    async fn elders(&self) -> Result<Snapshot> {
        let is_outbox = self.0.borrow().outbox.is_some();
        if is_outbox {
            let _ = self.0.borrow_mut().number();
        }
        if self.0.borrow().region == Some(Waits::ForReplay) {
            return Ok(self.open_on_standby());
        }
        self.snapshot().await
    }

    async fn replicas_replayed(&self) -> Result<()> {
        let now = Instant::now();
        let until = {
            let world = self.0.borrow();
            let asked = |commit: &&Commit| world.outbox.is_some() || commit.flushed_at <= now;
            world.log.iter().filter(asked).map(|commit| commit.replayed_at).max()
        };
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        if self.0.borrow_mut().fault(10) { Err(Error::transient("simulated replica")) } else { Ok(()) }
    }

    async fn lost(&self) {
        loop {
            let lost = std::mem::take(&mut self.0.borrow_mut().control_lost);
            if lost && self.0.borrow().outbox.is_none() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Lookups for SimControl {
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        let wait = self.0.borrow_mut().pause(3);
        sleep(wait).await;
        if self.0.borrow().deaf {
            return Err(Error::transient(World::absence()));
        }
        let unanswered = self.0.borrow().unanswered;
        if self.0.borrow_mut().fault(30) || (unanswered && self.0.borrow_mut().dice.one_in(2)) {
            return Err(Error::transient("simulated loss of the control session"));
        }
        // A refusal sweeps, and where nothing but requests leads to the cache the mark proves single keys and no sweep.
        let may_refuse = self.0.borrow().plan.kind != Kind::Requests;
        let refused =
            (may_refuse && self.0.borrow_mut().fault(40)) || (unanswered && self.0.borrow_mut().dice.one_in(2));
        let answer = |question: &Question| {
            let id = question.args[0].as_deref().and_then(|id| std::str::from_utf8(id).ok()?.parse::<u64>().ok());
            let now = Instant::now();
            let world = self.0.borrow();
            let owner = world.owner_of(id.expect("a row's number"), |commit| world.first_shown_at(commit) <= now);
            if refused {
                Answer::Refused(String::new())
            } else {
                Answer::Rows(vec![vec![Some(owner.to_string().into())]])
            }
        };
        let answers = questions.iter().map(answer).collect();
        let wait = self.0.borrow_mut().pause(3);
        sleep(wait).await;
        Ok(answers)
    }
}

impl Catalogue for SimControl {
    /// Triggers that were dropped or made again are noticed here, and tables that were left out.
    async fn watch(&self) -> Result<Option<Sighting>> {
        let wait = self.0.borrow_mut().pause(3);
        sleep(wait).await;
        let world = self.0.borrow();
        if world.deaf {
            return Err(Error::transient(World::absence()));
        }
        let (timeline, publication) = (world.timeline, world.publication.to_string());
        if let Some(unpublished) = world.unpublished.clone() {
            return Ok(Some(Sighting { timeline, publication, unpublished, ..Sighting::default() }));
        }
        Ok(world.outbox.as_ref().map(|outbox| {
            let system = format!("sim/1/outbox/{}", outbox.nonce);
            Sighting { system, timeline, publication, ..Sighting::default() }
        }))
    }

    async fn tables_of(&self, _oid: Oid) -> Result<Option<Vec<(String, String)>>> {
        Ok(None)
    }
}
