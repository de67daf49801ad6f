//! The truth of the simulation: a server's transactions, caches that hold values, readers and writers, and what goes
//! wrong with them. The daemon's parts are `source.rs` and `parts.rs`; nothing here knows what the daemon does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crieur::control::Named;
use tokio::time::{Instant, sleep};

use super::outbox::tables::Tables;
use super::pages::Site;
use super::region::Waits;
use super::scenario::{Kind, Plan};
use super::store::{Held, Store};
use super::tier::Channel;

/// A small generator with a good mix (splitmix64): a schedule must depend on nothing but its seed.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0) % sides
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Rows of the table, and owners that a lookup finds for them.
pub const ROWS: u64 = 30;
pub const OWNERS: u64 = 12;
/// Rows of the second table.
pub const SHELVES: u64 = 8;

/// One committed transaction.
#[derive(Clone)]
pub struct Commit {
    /// Of this transaction only; a server that took over gives out the numbers of lost ones again.
    pub id: u32,
    pub xid: u32,
    pub end: u64,
    pub rows: Vec<u64>,
    /// A row of the second table, whose keys are a pattern.
    pub shelf: Option<u64>,
    /// A thing's owner, before and after.
    pub moved: Option<Moved>,
    pub visible_at: Instant,
    pub flushed_at: Instant,
    /// When the read replica shows it.
    pub replayed_at: Instant,
    pub published: bool,
    /// Sent while it is open.
    pub streamed: bool,
    /// Keys whose values it changes.
    pub keys: BTreeSet<String>,
}

/// A thing goes from one owner to another.
#[derive(Clone, Copy)]
pub struct Moved {
    pub row: u64,
    pub from: u64,
    pub to: u64,
}

pub struct World {
    pub dice: Dice,
    pub plan: Plan,
    pub replica: bool,
    pub echoes: bool,
    pub log: Vec<Commit>,
    /// Readers read a standby beside which the daemon runs, and its gate waits so.
    pub region: Option<Waits>,
    /// What the daemon reads instead of WAL; `None` where it reads that.
    pub outbox: Option<Tables>,
    pub ids: u32,
    pub xids: u32,
    pub confirmed: u64,
    /// What echoes may hold back for ever; zero where each of them comes.
    pub budget: u64,
    /// What a cache may hold back.
    pub hold: u64,
    pub run: u64,
    pub timeline: u32,
    pub publication: u64,
    pub published: bool,
    /// Tables whose changes do not come, when somebody looks.
    pub unpublished: Option<Named>,
    /// Connections of the walsender; a cut makes it another.
    pub stream: u64,
    /// When it was cut last.
    pub cut_at: Option<Instant>,
    pub slot_lost: bool,
    /// The daemon that has the slot.
    pub owner: Option<u32>,
    /// The caches.
    pub stores: Vec<Store>,
    /// Of the last store, where that is a sink.
    pub site: Option<Site>,
    /// Where readers hear of the deletes in the first one.
    pub channel: Option<Channel>,
    /// The cache that goes wrong.
    pub victim: usize,
    /// Whether replies of the others are lost as well.
    pub all_troubled: bool,
    /// When the daemon began that runs now.
    pub began: Instant,
    pub control_lost: bool,
    /// The database server does not answer.
    pub deaf: bool,
    /// Lookups fail, or are refused.
    pub unanswered: bool,
    pub quiet: bool,
    /// Everything was looked at.
    pub over: bool,
    pub failure: Option<String>,
}

pub type Shared = Rc<RefCell<World>>;

thread_local! {
    /// Those that came to nothing.
    static ATTEMPTS: Cell<usize> = const { Cell::new(0) };
}

impl World {
    pub fn fault(&mut self, one_in: u64) -> bool {
        self.plan.troubles.contains(&Instant::now()) && self.dice.one_in(one_in)
    }

    /// Whether a command to this cache goes wrong.
    pub fn fault_at(&mut self, store: usize, one_in: u64) -> bool {
        (self.all_troubled || store == self.victim) && self.fault(one_in)
    }

    /// Whether a connection to the cache is a new one each few commands.
    pub fn breaks(&mut self, store: usize) -> bool {
        self.plan.kind == Kind::Flaky
            && store == self.victim
            && Instant::now() < self.plan.faults_end
            && self.dice.one_in(3)
    }

    /// Why something is not reached: the cause differs from one attempt to the next.
    pub fn absence() -> &'static str {
        let causes = ["cannot connect: connection refused", "no answer within 5 s", "the connection was closed"];
        causes[ATTEMPTS.replace(ATTEMPTS.get() + 1) % causes.len()]
    }

    pub fn pause(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.dice.roll(most_ms * 1_000))
    }

    /// What a SELECT for the key returns now, where readers read: the transactions that it sees.
    pub fn value(&self, key: &str) -> BTreeSet<u32> {
        let now = Instant::now();
        let seen = |commit: &&Commit| self.shown_at(commit) <= now;
        let touching = self.log.iter().filter(seen).filter(|commit| commit.keys.contains(key));
        touching.map(|commit| commit.id).collect()
    }

    /// The owner of a row after the transactions that `seen` picks.
    pub fn owner_of(&self, row: u64, seen: impl Fn(&Commit) -> bool) -> u64 {
        let moves = self.log.iter().rev().filter(|commit| seen(commit)).filter_map(|commit| commit.moved);
        moves.filter(|moved| moved.row == row).map(|moved| moved.to).next().unwrap_or(row % OWNERS)
    }

    /// The commit, unless a server forgot it.
    pub fn happened(&self, id: u32) -> Option<&Commit> {
        self.log.binary_search_by_key(&id, |commit| commit.id).ok().map(|index| &self.log[index])
    }

    /// Nobody reads any more.
    pub fn is_over(&self) -> bool {
        self.over || self.failure.is_some()
    }

    pub fn end(&self) -> u64 {
        self.log.last().map_or(0, |commit| commit.end)
    }

    /// Everything is confirmed but what echoes may hold back.
    pub fn is_confirmed(&self) -> bool {
        match self.outbox.as_ref().map(Tables::left) {
            Some((bytes, to_sweep)) => bytes <= self.budget && !to_sweep,
            None => self.confirmed + self.budget >= self.end(),
        }
    }

    /// A crash and recovery: what was not flushed is gone, though it was seen; what was logged is visible.
    pub fn crash(&mut self) {
        let now = Instant::now();
        self.lose(now);
        self.log.iter_mut().for_each(|commit| commit.visible_at = commit.visible_at.min(now));
        (self.run, self.control_lost) = (self.run + 1, true);
        self.cut();
    }

    /// What was not flushed by then never happened.
    fn lose(&mut self, then: Instant) {
        let kept = self.log.iter().take_while(|commit| commit.flushed_at <= then).count();
        for lost in self.log.split_off(kept) {
            self.forgive(lost.id);
        }
        if let Some(outbox) = &mut self.outbox {
            let ids: BTreeSet<u32> = self.log.iter().map(|commit| commit.id).collect();
            outbox.lose(then, |id| ids.contains(&id));
            outbox.completed = self.xids;
        }
    }

    /// A standby takes over that lacks the last commits, and whose slot is a little behind. Its transactions and
    /// positions have the numbers of the lost ones.
    pub fn fail_over(&mut self) {
        let now = Instant::now();
        if self.outbox.is_some() {
            let behind = self.pause(100);
            self.lose(now - behind);
            (self.run, self.timeline) = (self.run + 1, self.timeline + 1);
            return self.cut();
        }
        let kept = self.log.iter().take_while(|commit| commit.replayed_at <= now).count();
        for lost in self.log.split_off(kept) {
            self.forgive(lost.id);
        }
        for commit in &mut self.log {
            (commit.visible_at, commit.flushed_at) = (commit.visible_at.min(now), commit.flushed_at.min(now));
        }
        self.xids = self.log.last().map_or(2, |last| last.xid);
        self.confirmed = self.confirmed.min(self.end()).saturating_sub(10 * self.dice.roll(4));
        (self.run, self.timeline, self.control_lost) = (self.run + 1, self.timeline + 1, true);
        self.cut();
    }

    /// The walsender ends.
    pub fn cut(&mut self) {
        (self.stream, self.owner, self.cut_at) = (self.stream + 1, None, Some(Instant::now()));
        self.cut_outbox();
    }

    pub fn cut_outbox(&mut self) {
        if let Some(outbox) = &mut self.outbox {
            outbox.cut();
        }
    }

    /// Or the outbox is made anew, which needs no new connection to be noticed.
    pub fn lose_slot(&mut self) {
        if let Some(outbox) = &mut self.outbox {
            (self.publication, outbox.completed) = (self.publication + 1, self.xids);
            outbox.reinstall();
            // A removal that is on its way would bring the position of the outbox before, which costs the next start a
            // sweep.
            if outbox.stalled.is_some() {
                outbox.cut();
            }
            return self.stores.iter_mut().for_each(|store| store.owed.clear());
        }
        if self.dice.one_in(3) {
            // Nobody made it anew: somebody moved it on (`pg_replication_slot_advance`).
            self.new_slot();
        } else {
            self.slot_lost = true;
        }
        self.cut();
    }

    pub fn publish(&mut self, published: bool) {
        (self.published, self.publication) = (published, self.publication + 1);
        if self.outbox.is_none() || self.dice.one_in(2) {
            self.cut();
        }
    }

    /// The slot is gone; the new one begins at the end of the WAL, when the daemon connects.
    pub fn new_slot(&mut self) {
        // That of a standby begins where its replay is.
        let now = Instant::now();
        let replayed = self.log.iter().take_while(|commit| self.region.is_none() || commit.replayed_at <= now);
        let ids: Vec<(u32, u64)> = replayed.map(|commit| (commit.id, commit.end)).collect();
        self.confirmed = ids.last().map_or(0, |(_, end)| *end);
        self.log.iter_mut().for_each(|commit| commit.flushed_at = commit.flushed_at.min(now));
        ids.into_iter().for_each(|(id, _)| self.forgive(id));
    }

    /// Nobody has to delete anything for this transaction.
    fn forgive(&mut self, id: u32) {
        for store in &mut self.stores {
            store.owed.remove(&id);
        }
    }

    fn chaos(&mut self) {
        // The last two are of an outbox only.
        match self.dice.roll(if self.outbox.is_some() { 11 } else { 9 }) {
            0..=2 => {
                let store = self.a_store();
                self.go_back(store);
            }
            3 => {
                let store = self.a_store();
                self.lose_all(store);
            }
            4 if !self.replica => self.crash(),
            5 => self.lose_slot(),
            6 => self.publish(!self.published),
            7 => self.control_lost = true,
            9 => self.tables().full ^= true,
            10 => {
                let wait = self.pause(2_500);
                self.tables().stalled = Some((1, Instant::now() + wait));
            }
            _ => self.cut(),
        }
    }
}

/// Things go wrong from outside until the faults end.
pub async fn chaos(world: Shared, most_ms: u64) {
    loop {
        let wait = world.borrow_mut().pause(most_ms);
        sleep(wait).await;
        let mut world = world.borrow_mut();
        if Instant::now() >= world.plan.faults_end {
            if !world.published {
                world.publish(true);
            }
            if let Some(outbox) = &mut world.outbox {
                outbox.full = false;
            }
            return;
        }
        world.chaos();
    }
}

/// Commits whose visibility comes some time after the walsender may send them.
pub async fn write(world: Shared) {
    let until = world.borrow().plan.written;
    while Instant::now() < until {
        let wait = world.borrow_mut().pause(20);
        sleep(wait).await;
        let mut world = world.borrow_mut();
        world.xids += 1;
        let xid = world.xids;
        let commit = world.commit(xid);
        world.log_commit(commit);
    }
}

impl World {
    /// It happened: its keys are to be deleted, unless nothing tells the daemon.
    pub fn log_commit(&mut self, commit: Commit) {
        self.hand_over(&commit);
        if commit.published && !commit.keys.is_empty() {
            for store in &mut self.stores {
                store.owed.insert(commit.id, commit.keys.clone());
            }
        }
        self.log.push(commit);
    }

    pub fn commit(&mut self, xid: u32) -> Commit {
        let (now, kind) = (Instant::now(), self.plan.kind);
        self.ids += 1;
        let most = if kind == Kind::Streamed { 12 } else { 4 };
        let rows: Vec<u64> = (0..self.dice.roll(most)).map(|_| self.a_row()).collect();
        // A move drops every answer that is kept: one that the stream lacks shows only while no other comes behind it.
        let lacking = matches!(kind, Kind::Publication | Kind::AlteredAway);
        let rare = match kind {
            Kind::Late => 8,
            _ if lacking && self.published => 40,
            _ => 4,
        };
        let moved = self.dice.one_in(rare).then(|| self.moved(&rows));
        // Sweeps run when the cache goes back.
        let rare = if matches!(kind, Kind::GoesBack | Kind::GoesBackTwice) { 3 } else { 15 };
        // Where nothing but requests leads to the cache, the mark proves single keys and no sweep.
        let shelf = if kind != Kind::Requests && self.dice.one_in(rare) { Some(self.dice.roll(SHELVES)) } else { None };
        let most_ms = if matches!(kind, Kind::NewSlot | Kind::AlteredAway) { 400 } else { 30 };
        let invisible = if self.dice.one_in(3) { self.pause(most_ms) } else { Duration::ZERO };
        // `synchronous_commit = off`: seen before it is flushed, and flushed in order.
        let most_ms = match kind {
            Kind::Restart => 60,
            Kind::RestartThenBack => 120,
            _ => 20,
        };
        let unflushed = if self.dice.one_in(4) { self.pause(most_ms) } else { Duration::ZERO };
        let behind = self.log.last().map_or(now, |last| last.flushed_at);
        let flushed_at = (now + unflushed).max(behind);
        let last_replayed = self.log.last().map_or(now, |last| last.replayed_at);
        let most_ms = match kind {
            Kind::Replicas => 200,
            _ if self.region.is_some() => 200,
            Kind::Failover => 60,
            _ => 20,
        };
        let replayed_at = (flushed_at + self.pause(most_ms)).max(last_replayed);
        let streamed = self.dice.one_in(if kind == Kind::Streamed { 2 } else { 4 });
        let mut visible_at = now + invisible;
        if let Some(moved) = moved {
            // Whoever changes a row waits for the one who changed it before.
            let before = self.log.iter().filter(|c| c.moved.is_some_and(|other| other.row == moved.row));
            visible_at = before.map(|c| c.visible_at).fold(visible_at, Instant::max);
        }
        Commit {
            id: self.ids,
            xid,
            end: self.end() + 10,
            shelf,
            moved,
            visible_at,
            flushed_at,
            replayed_at,
            published: self.published,
            streamed,
            keys: self.keys(&rows, shelf, moved),
            rows,
        }
    }

    /// Late transactions often meet in the row that was moved last.
    fn a_row(&mut self) -> u64 {
        if self.plan.kind != Kind::Late {
            return self.dice.roll(ROWS);
        }
        let last = self.log.last().and_then(|commit| commit.moved).filter(|_| self.dice.one_in(2));
        last.map_or_else(|| self.dice.roll(4), |moved| moved.row)
    }

    fn moved(&mut self, rows: &[u64]) -> Moved {
        // Often a row that the same transaction changes: its lookup must see the new owner.
        let row = rows.first().copied().filter(|_| self.dice.one_in(2)).unwrap_or_else(|| self.a_row());
        Moved { row, from: self.owner_of(row, |_| true), to: self.dice.roll(OWNERS) }
    }

    fn keys(&self, rows: &[u64], shelf: Option<u64>, moved: Option<Moved>) -> BTreeSet<String> {
        let things = rows.iter().map(|row| format!("thing:{row}"));
        let shelves = shelf.map(|shelf| format!("shelf:{shelf}:a"));
        let owner = |row: &u64| match moved {
            Some(moved) if moved.row == *row => moved.to,
            _ => self.owner_of(*row, |_| true),
        };
        let owners = rows.iter().map(owner).chain(moved.into_iter().flat_map(|moved| [moved.from, moved.to]));
        things.chain(shelves).chain(owners.map(|owner| format!("owner:{owner}"))).collect()
    }

    /// A lookup for an earlier transaction may already see the new owner: the old one's key is this transaction's to
    /// delete from now on, as the rule of its own table says.
    fn hand_over(&mut self, commit: &Commit) {
        let Some(moved) = commit.moved else { return };
        let key = format!("owner:{}", moved.from);
        for earlier in self.log.iter_mut().filter(|earlier| earlier.rows.contains(&moved.row)) {
            earlier.keys.remove(&key);
            for keys in self.stores.iter_mut().filter_map(|store| store.owed.get_mut(&earlier.id)) {
                keys.remove(&key);
            }
        }
        for store in &mut self.stores {
            store.owed.retain(|_, keys| !keys.is_empty());
        }
    }

    /// A key that a reader asks for.
    pub fn wanted(&mut self) -> String {
        match self.dice.roll(8) {
            0 => format!("owner:{}", self.dice.roll(OWNERS)),
            1 => format!("shelf:{}:a", self.dice.roll(SHELVES)),
            _ => format!("thing:{}", self.dice.roll(ROWS)),
        }
    }

    /// Most readers are quick; some hold their value for long.
    fn holds(&mut self, lease: bool) -> Duration {
        match (self.dice.one_in(4), lease) {
            (true, true) => self.pause(200),
            (true, false) => self.pause(85),
            (false, _) => self.pause(8),
        }
    }
}

/// A reader that fills keys: plain ones promise to store before the last echo, others have a lease and all the time.
pub async fn read(world: Shared, store: usize, reader: u64) {
    let mut token = reader << 32;
    loop {
        let wait = world.borrow_mut().pause(12);
        sleep(wait).await;
        if world.borrow().quiet {
            return;
        }
        token += 1;
        let (key, lease) = {
            let mut world = world.borrow_mut();
            let key = world.wanted();
            if world.stores[store].cache.keys.contains_key(&key) {
                continue;
            }
            let lease = !world.echoes || world.dice.one_in(2);
            if lease {
                world.stores[store].cache.keys.insert(key.clone(), Held::Lease(token));
            }
            (key, lease)
        };
        let wait = world.borrow_mut().pause(3);
        sleep(wait).await;
        let value = world.borrow().value(&key);
        let wait = world.borrow_mut().holds(lease);
        sleep(wait).await;
        let mut world = world.borrow_mut();
        if !lease || world.stores[store].cache.keys.get(&key) == Some(&Held::Lease(token)) {
            world.stores[store].cache.keys.insert(key, Held::Value(value));
        }
    }
}
