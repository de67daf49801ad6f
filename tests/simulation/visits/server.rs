//! What stands around the loop while visitors come: a stream of commits, a cache with times to live, a control session.
//! Nothing fails here, and nobody is polled: a day has few commits.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::continuity::Lineage;
use crieur::cache::{Cache, Deleted, Rest, Swap, Swept};
use crieur::change::{Change, Column, Event, Oid, Relation, ReplicaIdentity};
use crieur::control::{Catalogue, Gate, Lookups, Named};
use crieur::decode::{Block, Message, decode};
use crieur::error::Result;
use crieur::gate::Snapshot;
use crieur::glob;
use crieur::keys::KeySet;
use crieur::lsn::{Lsn, Xid};
use crieur::question::{Answer, Question};
use crieur::source::Source;
use crieur::start::{SlotOrigin, Start};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::super::source::tuple;

/// The way to the cache or the server and back.
pub const WAY: Duration = Duration::from_millis(1);

/// What a key holds.
pub enum Held {
    /// The version of the row that was read.
    Value(u64),
    /// Of the reader with this number.
    Lease(u64),
}

/// One committed row, in the order of its table's columns.
pub struct Commit {
    pub table: usize,
    pub values: Vec<String>,
}

/// The cache, and what the server has committed.
#[derive(Default)]
pub struct Servers {
    pub keys: HashMap<String, (Held, Option<Instant>)>,
    /// How often what each key shows was changed.
    pub versions: HashMap<String, u64>,
    pub commits: Vec<Commit>,
    pub mark: Option<Vec<u8>>,
}

impl Servers {
    /// What the key holds now.
    pub fn get(&mut self, key: &str) -> Option<&Held> {
        if self.keys.get(key).is_some_and(|(_, ends)| ends.is_some_and(|ends| ends <= Instant::now())) {
            self.keys.remove(key);
        }
        self.keys.get(key).map(|(held, _)| held)
    }

    pub fn version(&self, key: &str) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }
}

/// The servers, and a bell for the stream.
#[derive(Clone, Default)]
pub struct Shared {
    pub servers: Rc<RefCell<Servers>>,
    bell: Rc<Notify>,
}

impl Shared {
    /// A row is committed and seen at once; these keys show it.
    pub fn commit(&self, commit: Commit, keys: &[String]) {
        let mut servers = self.servers.borrow_mut();
        for key in keys {
            *servers.versions.entry(key.clone()).or_default() += 1;
        }
        servers.commits.push(commit);
        self.bell.notify_one();
    }
}

/// The tables of the strategy, with the columns that its rules read.
const TABLES: [(&str, &[&str]); 3] =
    [("properties", &["id", "city"]), ("rental_payments", &["lease_id"]), ("visit_bookings", &["property_id"])];

fn relation(index: usize) -> Relation {
    let (name, columns) = TABLES[index];
    let column = |name: &&str| Column { name: (*name).into(), type_oid: Oid(25), in_identity: true };
    let (identity, columns) = (ReplicaIdentity::Full, columns.iter().map(column).collect());
    Relation { oid: Oid(index as u32 + 1), schema: "public".into(), name: name.into(), identity, columns }
}

/// An INSERT as pgoutput writes it.
fn insert(commit: &Commit) -> Vec<u8> {
    [&[b'I', 0, 0, 0, commit.table as u8 + 1, b'N'][..], &tuple(&commit.values)].concat()
}

fn change(bytes: &[u8]) -> Change<'_> {
    match decode(bytes, Block::Outside) {
        Ok(Message::Change { change, .. }) => change,
        other => panic!("these are valid changes, not {other:?}"),
    }
}

enum Item {
    Relation(usize),
    Begin(u32),
    Change(Vec<u8>),
    Commit(u32),
}

/// Commits in order, each sent when it is made.
pub struct Stream {
    shared: Shared,
    relations: [Relation; 3],
    start: Option<Start>,
    next: u32,
    queue: VecDeque<Item>,
    current: Option<Item>,
}

impl Stream {
    pub fn new(shared: &Shared) -> Self {
        let relations = [0, 1, 2].map(relation);
        Stream { shared: shared.clone(), relations, start: None, next: 0, queue: VecDeque::new(), current: None }
    }
}

impl Source for Stream {
    type Ack = u64;

    async fn ready(&mut self) -> Result<()> {
        if self.start.is_none() {
            self.queue.extend([0, 1, 2].map(Item::Relation));
            let (system, run, publication) = ("visits".into(), "1".into(), "1".into());
            let (confirmed, slot) = (Lsn(0), SlotOrigin::Found);
            self.start = Some(Start { system, timeline: 1, confirmed, run, publication, slot });
        }
        while self.queue.is_empty() {
            let bytes = self.shared.servers.borrow().commits.get(self.next as usize).map(insert);
            match bytes {
                Some(bytes) => {
                    self.next += 1;
                    self.queue.extend([Item::Begin(self.next), Item::Change(bytes), Item::Commit(self.next)]);
                }
                None => self.shared.bell.notified().await,
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Event<'_, u64>>> {
        self.current = self.queue.pop_front();
        Ok(self.current.as_ref().map(|item| match item {
            Item::Relation(index) => Event::Relation(&self.relations[*index]),
            Item::Begin(xid) => Event::Begin(Xid(*xid)),
            Item::Change(bytes) => Event::Change(change(bytes)),
            Item::Commit(xid) => Event::Commit(Xid(*xid), u64::from(*xid)),
        }))
    }

    fn acknowledge(&mut self, _upto: u64) {}

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

    fn lsn(&self, ack: u64) -> Lsn {
        Lsn(ack)
    }

    fn is_current(&self, _ack: u64) -> bool {
        true
    }

    fn received(&self) -> Lsn {
        Lsn(u64::from(self.next))
    }

    fn disconnect(&mut self) {
        self.start = None;
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The cache, as the daemon reaches it.
pub struct DayCache(pub Shared);

impl Cache for DayCache {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.delete_rest(keys, &mut Rest::default()).await
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        sleep(WAY / 2).await;
        let mut deleted = Deleted::default();
        for key in keys.iter().flat_map(|set| set.iter()) {
            let key = std::str::from_utf8(key.bytes).expect("these keys are texts");
            let mut servers = self.0.servers.borrow_mut();
            let existed = servers.get(key).is_some();
            servers.keys.remove(key);
            (deleted.sent, deleted.existed) = (deleted.sent + 1, deleted.existed + u64::from(existed));
            rest.watch.answered(key.as_bytes(), u64::from(existed));
        }
        sleep(WAY / 2).await;
        Ok(deleted)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        let is_swept = |key: &str| patterns.iter().any(|pattern| glob::matches(pattern.bytes, key.as_bytes()));
        self.0.servers.borrow_mut().keys.retain(|key, _| !is_swept(key));
        Ok(Swept::default())
    }

    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        Ok((self.0.servers.borrow().mark.clone(), Lineage::default()))
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], _again: &KeySet) -> Result<Swap> {
        sleep(WAY).await;
        let there = &mut self.0.servers.borrow_mut().mark;
        if !expected.contains(there) {
            return Ok(Swap::Other);
        }
        *there = Some(mark.to_vec());
        Ok(Swap::Written)
    }

    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
}

/// The control session; `owner_of` answers the lookup of the rules.
pub struct Session {
    pub shared: Shared,
    pub owner_of: fn(u64) -> u64,
}

impl Gate for Session {
    async fn snapshot(&self) -> Result<Snapshot> {
        sleep(WAY).await;
        let xmax = self.shared.servers.borrow().commits.len() as u32 + 1;
        Ok(Snapshot::Taken { xmax, in_progress: Vec::new() })
    }
}

impl Lookups for Session {
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        sleep(WAY).await;
        let answer = |question: &Question| {
            let text = question.args[0].as_deref().and_then(|text| std::str::from_utf8(text).ok());
            let owner = (self.owner_of)(text.and_then(|text| text.parse().ok()).expect("the number of a lease"));
            Answer::Rows(vec![vec![Some(owner.to_string().into())]])
        };
        Ok(questions.iter().map(answer).collect())
    }
}

impl Catalogue for Session {
    async fn tables_of(&self, _oid: Oid) -> Result<Option<Named>> {
        Ok(None)
    }
}
