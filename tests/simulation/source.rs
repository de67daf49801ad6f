//! The simulated walsender: sends flushed commits in order, visible or not, some while they are open, and breaks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crieur::change::{Change, Column, Event, Oid, Relation, ReplicaIdentity};
use crieur::decode::{Block, Message, decode};
use crieur::error::{Error, Result};
use crieur::lsn::{Lsn, Xid};
use crieur::source::Source;
use crieur::start::{SlotOrigin, Start};
use tokio::time::{Instant, sleep};

use super::region::Waits;
use super::scenario::Kind;
use super::store::Store;
use super::world::{Commit, Shared, World};

/// A position, and the server's run that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SimAck {
    /// Counts how often somebody else had the slot meanwhile.
    turn: u64,
    run: u64,
    end: u64,
}

fn relation(oid: u32, name: &str, columns: &[&str]) -> Relation {
    let column = |name: &&str| Column { name: (*name).into(), type_oid: Oid(25), in_identity: true };
    let (identity, columns) = (ReplicaIdentity::Full, columns.iter().map(column).collect());
    Relation { oid: Oid(oid), schema: "public".into(), name: name.into(), identity, columns }
}

/// TupleData of pgoutput with text columns.
pub(super) fn tuple<T: ToString>(values: &[T]) -> Vec<u8> {
    let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        let text = value.to_string();
        bytes.push(b't');
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn insert(table: u8, key: u64) -> Vec<u8> {
    [&[b'I', 0, 0, 0, table, b'N'][..], &tuple(&[key])].concat()
}

fn update(table: u8, old: &[u64], new: &[u64]) -> Vec<u8> {
    [&[b'U', 0, 0, 0, table, b'O'][..], &tuple(old), b"N", &tuple(new)].concat()
}

fn change(bytes: &[u8]) -> Change<'_> {
    match decode(bytes, Block::Outside) {
        Ok(Message::Change { change, .. }) => change,
        other => panic!("the simulation sends valid changes, not {other:?}"),
    }
}

enum Item {
    Relation(usize),
    Begin(u32),
    Change(Vec<u8>),
    Open(u32, Vec<u8>),
    Abort(u32),
    Commit(u32, u64),
    Idle(u64),
}

pub struct SimSource {
    world: Shared,
    /// Which daemon this is.
    daemon: u32,
    /// The daemon that has the slot instead.
    standing_by: Option<u32>,
    turn: u64,
    /// Run and position of the last acknowledgment.
    acknowledged: Option<SimAck>,
    relations: [Relation; 3],
    start: Option<Start>,
    run: u64,
    stream: u64,
    /// The last position that was handed over.
    received: u64,
    /// Index of the next commit to send.
    next: usize,
    /// How much of a transaction was sent while it was open.
    opened: BTreeMap<u32, usize>,
    queue: VecDeque<Item>,
    current: Option<Item>,
}

fn changes(commit: &Commit) -> Vec<Vec<u8>> {
    let things = commit.rows.iter().map(|row| insert(1, *row));
    let moved = commit.moved.map(|moved| update(3, &[moved.row, moved.from], &[moved.row, moved.to]));
    let all: Vec<_> = things.chain(commit.shelf.map(|shelf| insert(2, shelf))).chain(moved).collect();
    if commit.published { all } else { Vec::new() }
}

impl SimSource {
    pub fn new(world: Shared, daemon: u32) -> Self {
        let relations =
            [relation(1, "things", &["id"]), relation(2, "shelves", &["id"]), relation(3, "owners", &["id", "n"])];
        let (queue, opened) = (VecDeque::new(), BTreeMap::new());
        SimSource {
            world,
            daemon,
            standing_by: None,
            turn: 0,
            acknowledged: None,
            relations,
            start: None,
            run: 0,
            stream: 0,
            received: 0,
            next: 0,
            opened,
            queue,
            current: None,
        }
    }

    /// The server starts at the confirmed position: everything after it comes again.
    fn connect(&mut self) -> Result<()> {
        let mut world = self.world.borrow_mut();
        self.standing_by = world.owner.filter(|owner| *owner != self.daemon);
        if self.standing_by.is_some() {
            (self.turn, self.acknowledged) = (self.turn + 1, None);
            return Err(Error::transient("simulated slot in use"));
        }
        world.owner = Some(self.daemon);
        let slot = if std::mem::take(&mut world.slot_lost) {
            world.new_slot();
            self.acknowledged = None;
            SlotOrigin::Created
        } else {
            SlotOrigin::Found
        };
        self.received = world.confirmed;
        self.next = world.log.iter().take_while(|commit| commit.end <= world.confirmed).count();
        self.queue = (0..self.relations.len()).map(Item::Relation).collect();
        self.opened.clear();
        (self.run, self.stream) = (world.run, world.stream);
        self.start = Some(Start {
            system: "sim".into(),
            timeline: world.timeline,
            confirmed: Lsn(world.confirmed),
            run: world.run.to_string(),
            publication: world.publication.to_string(),
            slot,
        });
        // The first status says again what the last of the connection before may have said in vain.
        if let Some(last) = self.acknowledged.filter(|last| last.run == self.run) {
            world.confirmed = world.confirmed.max(last.end);
        }
        Ok(())
    }

    /// The slot is free for others.
    fn leave(&mut self) {
        let mut world = self.world.borrow_mut();
        if self.start.take().is_some() && self.stream == world.stream && world.owner == Some(self.daemon) {
            world.owner = None;
        }
    }

    /// Sends a part of a transaction that is still open.
    fn open(&mut self, commit: &Commit, parts: usize) {
        let changes = changes(commit);
        let sent = self.opened.entry(commit.xid).or_default();
        let until = changes.len().min(*sent + parts);
        self.queue.extend(changes[*sent..until].iter().map(|bytes| Item::Open(commit.xid, bytes.clone())));
        *sent = until;
    }

    /// Sends the next transaction, or at times a keepalive.
    fn produce(&mut self) {
        let (commit, later, aborted, idle) = {
            let mut world = self.world.borrow_mut();
            let now = Instant::now();
            let rare = if world.plan.kind == Kind::Streamed { 3 } else { 9 };
            let commit = world.log.get(self.next).filter(|commit| commit.flushed_at <= now).cloned();
            let later: Vec<Commit> = world.log.iter().skip(self.next + 1).take(2).cloned().collect();
            let flushed = world.log.iter().all(|commit| commit.flushed_at <= now);
            let quiet = commit.is_none() && flushed;
            let idle = (quiet && world.plan.chatty && world.dice.one_in(3)).then(|| world.end() + 1);
            (commit, later, world.dice.one_in(rare).then(|| world.dice.roll(9)), idle)
        };
        for commit in later.iter().filter(|commit| commit.streamed) {
            self.open(commit, 1);
        }
        if let Some(row) = aborted {
            let xid = 1_000_000 + row as u32;
            self.queue.extend([Item::Open(xid, insert(1, row)), Item::Abort(xid)]);
        }
        self.queue.extend(idle.map(Item::Idle));
        let Some(commit) = commit else { return };
        self.next += 1;
        if commit.streamed {
            self.open(&commit, usize::MAX - ROOM);
        } else {
            self.queue.push_back(Item::Begin(commit.xid));
            self.queue.extend(changes(&commit).into_iter().map(Item::Change));
        }
        self.queue.push_back(Item::Commit(commit.xid, commit.end));
    }
}

/// More than any transaction has changes.
const ROOM: usize = 1 << 20;

impl Source for SimSource {
    type Ack = SimAck;

    async fn ready(&mut self) -> Result<()> {
        if self.start.is_none() {
            let wait = self.world.borrow_mut().pause(20);
            sleep(wait).await;
            if self.world.borrow().deaf {
                return Err(Error::transient(World::absence()));
            }
            return self.connect();
        }
        while self.queue.is_empty() {
            let wait = {
                let mut world = self.world.borrow_mut();
                let most_ms = if world.quiet { 40 } else { 3 };
                world.pause(most_ms)
            };
            sleep(wait).await;
            if self.world.borrow().stream != self.stream || self.world.borrow().deaf {
                self.start = None;
                return Err(Error::transient("simulated cut"));
            }
            self.produce();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Event<'_, SimAck>>> {
        self.current = self.queue.pop_front();
        if let Some(Item::Commit(_, end) | Item::Idle(end)) = &self.current {
            self.received = *end;
        }
        let ack = |end: &u64| SimAck { turn: self.turn, run: self.run, end: *end };
        Ok(self.current.as_ref().map(|item| match item {
            Item::Relation(index) => Event::Relation(&self.relations[*index]),
            Item::Begin(xid) => Event::Begin(Xid(*xid)),
            Item::Commit(xid, end) => Event::Commit(Xid(*xid), ack(end)),
            Item::Idle(end) => Event::Idle(ack(end)),
            Item::Change(bytes) => Event::Change(change(bytes)),
            Item::Open(xid, bytes) => Event::Open(Xid(*xid), change(bytes)),
            Item::Abort(xid) => Event::Abort(Xid(*xid)),
        }))
    }

    fn acknowledge(&mut self, upto: SimAck) {
        let mut world = self.world.borrow_mut();
        if upto.run != self.run {
            world.failure = Some(format!("{upto:?} is a position of another run"));
        }
        if self.acknowledged.is_some_and(|last| last.run == upto.run && last.end > upto.end) {
            world.failure = Some(format!("{upto:?} goes back from {:?}", self.acknowledged));
        }
        self.acknowledged = Some(upto);
        if self.start.is_none() || self.stream != world.stream || upto.end <= world.confirmed {
            return; // It never arrives, or moves nothing (`LogicalConfirmReceivedLocation` in `logical.c`).
        }
        let confirmed = world.log.iter().filter(|commit| commit.end <= upto.end).map(|commit| commit.id);
        // With these guards off nobody asks: what was left out is looked for among pages and values.
        let is_searched = world.region == Some(Waits::ForPrimary);
        let is_unsure = is_searched || world.releases_are_of_two();
        let is_asked = |store: &&Store| !store.is_excused() && !is_unsure && store.owes_all();
        let early: Vec<u32> = confirmed
            .filter(|id| world.stores.iter().filter(is_asked).any(|store| store.owed.contains_key(id)))
            .collect();
        if !early.is_empty() {
            world.failure = Some(format!("confirmed {} with {early:?} unanswered", upto.end));
        }
        world.given_on(upto.run, upto.end);
        world.confirmed = upto.end;
    }

    fn status_due(&self) -> Option<Instant> {
        None
    }

    async fn status(&mut self) -> Result<()> {
        Ok(())
    }

    fn lateness(&self) -> Duration {
        Duration::ZERO
    }

    fn start(&self) -> Option<&Start> {
        self.start.as_ref()
    }

    fn lsn(&self, ack: SimAck) -> Lsn {
        Lsn(ack.end)
    }

    fn is_current(&self, ack: SimAck) -> bool {
        ack.run == self.run && ack.turn == self.turn
    }

    fn received(&self) -> Lsn {
        Lsn(self.received)
    }

    fn standing_by(&self) -> Option<u32> {
        self.standing_by
    }

    fn disconnect(&mut self) {
        self.leave();
    }

    async fn close(&mut self) -> Result<()> {
        self.leave();
        Ok(())
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        self.leave();
    }
}
