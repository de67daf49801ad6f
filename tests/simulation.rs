//! The real loop over a simulated source, cache, control session and clock. A seed makes the schedule and the faults.
//!
//! Safety, at every step: what is confirmed was answered, and positions never go back. Every committed key is deleted
//! at a moment when its transaction is visible. Liveness: after the faults end, everything is delivered and confirmed.
//! A failing seed is one line: `SEED=n cargo test --test main simulation`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::{Cache, Deleted, Swap, Swept};
use crieur::change::{Change, Column, Event, Oid, Relation, ReplicaIdentity};
use crieur::config::{Config, OnGap};
use crieur::control::{Answer, Control, Question};
use crieur::decode::{Block, Message, decode};
use crieur::error::{Error, Result};
use crieur::gate::Snapshot;
use crieur::keys::KeySet;
use crieur::lsn::{Lsn, Xid};
use crieur::mark::{SlotOrigin, Start};
use crieur::pipeline::{Pipeline, Replicas, Settings};
use crieur::rules::Rules;
use crieur::source::Source;
use tokio::time::{Instant, sleep};

/// Runs in every test run; `SEED` runs one.
const SEEDS: u64 = 1_000;

/// A small generator with a good mix (splitmix64): a schedule must depend on nothing but its seed.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// One committed transaction of the simulated server.
#[derive(Clone)]
struct Commit {
    xid: u32,
    end: u64,
    keys: Vec<u64>,
    visible_at: Instant,
}

/// Everything that the parts share: the truth, and what was done about it.
struct World {
    dice: Dice,
    faults_end: Instant,
    log: Vec<Commit>,
    /// Transactions whose keys were not yet deleted at a moment when they were visible.
    owed: BTreeMap<u32, BTreeSet<u64>>,
    confirmed: u64,
    mark: Option<Vec<u8>>,
    failure: Option<String>,
}

type Shared = Rc<RefCell<World>>;

impl World {
    fn fault(&mut self, one_in: u64) -> bool {
        Instant::now() < self.faults_end && self.dice.one_in(one_in)
    }

    fn pause(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.dice.roll(most_ms * 1_000))
    }

    fn deleted(&mut self, key: u64) {
        let now = Instant::now();
        for commit in self.log.iter().filter(|commit| commit.visible_at <= now) {
            if let Some(keys) = self.owed.get_mut(&commit.xid) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.owed.remove(&commit.xid);
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SimAck(u64);

/// The table of the simulation, and what its messages look like.
fn relation() -> Relation {
    let id = Column { name: "id".into(), type_oid: Oid(25), in_identity: true };
    let identity = ReplicaIdentity::Full;
    Relation { oid: Oid(1), schema: "public".into(), name: "things".into(), identity, columns: vec![id] }
}

/// An Insert message of pgoutput with one text column.
fn insert(key: u64) -> Vec<u8> {
    let text = format!("{key}");
    let mut bytes = b"I\x00\x00\x00\x01N\x00\x01t".to_vec();
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

enum Item {
    Relation,
    Begin(u32),
    Insert(Vec<u8>),
    Commit(u32, u64),
    Idle(u64),
}

/// A server's walsender: sends each commit before or after it is visible, and breaks at times.
struct SimSource {
    world: Shared,
    relation: Relation,
    start: Option<Start>,
    /// Index of the next commit to send.
    next: usize,
    queue: VecDeque<Item>,
    current: Option<Item>,
}

impl Source for SimSource {
    type Ack = SimAck;

    async fn ready(&mut self) -> Result<()> {
        if self.start.is_none() {
            let wait = self.world.borrow_mut().pause(20);
            sleep(wait).await;
            let world = self.world.borrow();
            // The server starts at the confirmed position: everything after it comes again.
            self.next = world.log.iter().take_while(|commit| commit.end <= world.confirmed).count();
            self.queue = VecDeque::from([Item::Relation]);
            self.start = Some(Start {
                system: "sim".into(),
                timeline: 1,
                confirmed: Lsn(world.confirmed),
                run: String::new(),
                publication: String::new(),
                slot: SlotOrigin::Found,
            });
            return Ok(());
        }
        while self.queue.is_empty() {
            let wait = self.world.borrow_mut().pause(3);
            sleep(wait).await;
            if self.world.borrow_mut().fault(60) {
                self.start = None;
                return Err(Error::transient("simulated cut"));
            }
            self.produce();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Event<'_, SimAck>>> {
        self.current = self.queue.pop_front();
        Ok(match &self.current {
            None => None,
            Some(Item::Relation) => Some(Event::Relation(&self.relation)),
            Some(Item::Begin(xid)) => Some(Event::Begin(Xid(*xid))),
            Some(Item::Commit(xid, end)) => Some(Event::Commit(Xid(*xid), SimAck(*end))),
            Some(Item::Idle(end)) => Some(Event::Idle(SimAck(*end))),
            Some(Item::Insert(bytes)) => Some(Event::Change(change(bytes))),
        })
    }

    fn acknowledge(&mut self, upto: SimAck) {
        let mut world = self.world.borrow_mut();
        let went_back = upto.0 < world.confirmed;
        let confirmed = world.log.iter().filter(|commit| commit.end <= upto.0).map(|commit| commit.xid);
        let early: Vec<u32> = confirmed.filter(|xid| world.owed.contains_key(xid)).collect();
        if went_back || !early.is_empty() {
            world.failure = Some(format!("confirmed {} with {early:?} unanswered (back: {went_back})", upto.0));
        }
        world.confirmed = upto.0;
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
        Lsn(ack.0)
    }

    fn is_current(&self, _ack: SimAck) -> bool {
        true
    }

    fn bytes_behind(&self, _ack: SimAck) -> u64 {
        0
    }

    fn disconnect(&mut self) {
        self.start = None;
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

fn change(bytes: &[u8]) -> Change<'_> {
    match decode(bytes, Block::Outside) {
        Ok(Message::Change { change, .. }) => change,
        other => panic!("the simulation sends valid changes, not {other:?}"),
    }
}

impl SimSource {
    /// Sends the next transaction, or at times a keepalive.
    fn produce(&mut self) {
        let mut world = self.world.borrow_mut();
        match world.log.get(self.next).cloned() {
            Some(commit) => {
                self.next += 1;
                self.queue.push_back(Item::Begin(commit.xid));
                self.queue.extend(commit.keys.iter().map(|key| Item::Insert(insert(*key))));
                self.queue.push_back(Item::Commit(commit.xid, commit.end));
            }
            None if world.dice.one_in(3) => {
                let end = world.log.last().map_or(1, |commit| commit.end) + 1;
                self.queue.push_back(Item::Idle(end));
            }
            None => {}
        }
    }
}

struct SimCache(Shared);

impl Cache for SimCache {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        let wait = self.0.borrow_mut().pause(5);
        sleep(wait).await;
        for set in keys {
            for key in set.iter() {
                // Half a pipeline may be done before the connection breaks.
                if self.0.borrow_mut().fault(40) {
                    return Err(Error::transient("simulated half reply"));
                }
                let text = std::str::from_utf8(key.bytes).expect("the simulation's keys are text");
                let key = text.strip_prefix("thing:").and_then(|id| id.parse().ok()).expect("the rule's form");
                self.0.borrow_mut().deleted(key);
            }
        }
        let wait = self.0.borrow_mut().pause(5);
        sleep(wait).await;
        if self.0.borrow_mut().fault(20) {
            return Err(Error::transient("simulated lost reply"));
        }
        Ok(Deleted::default())
    }

    async fn sweep(&self, _patterns: &KeySet) -> Result<Swept> {
        Ok(Swept::default())
    }

    async fn mark(&self, _name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().mark.clone())
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8]) -> Result<Swap> {
        let wait = self.0.borrow_mut().pause(2);
        sleep(wait).await;
        if self.0.borrow_mut().fault(10) {
            return Err(Error::transient("simulated refusal"));
        }
        if !expected.contains(&self.0.borrow().mark) {
            return Ok(Swap::Other);
        }
        self.0.borrow_mut().mark = Some(mark.to_vec());
        if self.0.borrow_mut().fault(10) {
            return Err(Error::transient("simulated loss of the answer"));
        }
        Ok(Swap::Written)
    }

    fn changes(&self) -> u64 {
        1
    }
}

struct SimControl(Shared);

impl Control for SimControl {
    async fn snapshot(&self) -> Result<Snapshot> {
        let wait = self.0.borrow_mut().pause(1);
        sleep(wait).await;
        if self.0.borrow_mut().fault(30) {
            return Err(Error::transient("simulated loss of the control session"));
        }
        let now = Instant::now();
        let snapshot = {
            let world = self.0.borrow();
            let in_progress =
                world.log.iter().filter(|commit| commit.visible_at > now).map(|commit| commit.xid).collect();
            // As on a real server, a transaction that had no number yet is not contained.
            Snapshot::Taken { xmax: world.log.len() as u32 + 1, in_progress }
        };
        let wait = self.0.borrow_mut().pause(1);
        sleep(wait).await;
        Ok(snapshot)
    }

    async fn ask(&self, _questions: &[Question]) -> Result<Vec<Answer>> {
        Ok(Vec::new())
    }

    async fn partition_root(&self, _oid: Oid) -> Result<Option<(String, String)>> {
        Ok(None)
    }
}

/// Writers: commits whose visibility comes up to 30 ms after the walsender may send them.
async fn write(world: Shared, commits: u32) {
    let mut end = 0;
    for xid in 1..=commits {
        let wait = world.borrow_mut().pause(4);
        sleep(wait).await;
        let mut world = world.borrow_mut();
        end += 10;
        let keys: Vec<u64> = (0..world.dice.roll(5)).map(|_| world.dice.roll(12)).collect();
        let invisible = if world.dice.one_in(3) { world.pause(30) } else { Duration::ZERO };
        if !keys.is_empty() {
            world.owed.insert(xid, keys.iter().copied().collect());
        }
        world.log.push(Commit { xid, end, keys, visible_at: Instant::now() + invisible });
    }
}

fn rules() -> Rules {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("crieur.toml");
    let text = "[[rules]]\ntable = \"public.things\"\nkeys = [\"thing:{id}\"]\n";
    std::fs::write(&file, text).expect("written");
    let urls = [("DATABASE_URL", "postgres://sim@localhost/sim"), ("REDIS_URL", "redis://localhost")];
    let env = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&file, env.into_iter()).expect("valid").rules
}

async fn one_seed(seed: u64) -> std::result::Result<(), String> {
    let mut dice = Dice(seed);
    let faults_end = Instant::now() + Duration::from_millis(dice.roll(400));
    let echo = if dice.one_in(2) { vec![Duration::from_millis(20), Duration::from_millis(90)] } else { Vec::new() };
    let batch_keys_max = 1 + dice.roll(20) as usize;
    let world =
        World { dice, faults_end, log: Vec::new(), owed: BTreeMap::new(), confirmed: 0, mark: None, failure: None };
    let world = Rc::new(RefCell::new(world));
    let source = SimSource {
        world: Rc::clone(&world),
        relation: relation(),
        start: None,
        next: 0,
        queue: VecDeque::new(),
        current: None,
    };
    let settings = Settings {
        slot: "sim".into(),
        echo,
        echo_wal_bytes_max: u64::MAX,
        publication: "crieur".to_owned(),
        on_gap: OnGap::Sweep,
        replicas: Replicas::None,
        heartbeat: Duration::from_secs(2),
        batch_keys_max,
        memory_bytes_max: 1 << 20,
        stop_timeout: Duration::from_secs(5),
    };
    let (cache, control) = (SimCache(Rc::clone(&world)), SimControl(Rc::clone(&world)));
    let pipeline = Pipeline::new(source, cache, control, rules(), settings, Box::new(|_| {}));
    let done = {
        let world = Rc::clone(&world);
        async move {
            write(Rc::clone(&world), 60).await;
            // Faults end within half a second; backoff and echoes need a while more.
            for _ in 0..6_000 {
                sleep(Duration::from_millis(10)).await;
                let world = world.borrow();
                if world.failure.is_some() || (world.owed.is_empty() && world.confirmed >= 600) {
                    break;
                }
            }
        }
    };
    let ended = pipeline.run(done).await;
    let world = world.borrow();
    match (&world.failure, ended) {
        (Some(failure), _) => Err(failure.clone()),
        (None, Err(error)) => Err(format!("stopped: {error}")),
        (None, Ok(_)) if !world.owed.is_empty() => Err(format!("never deleted: {:?}", world.owed)),
        (None, Ok(_)) if world.confirmed < 600 => Err(format!("stuck at {}", world.confirmed)),
        (None, Ok(_)) => Ok(()),
    }
}

#[test]
fn no_schedule_confirms_too_early_or_leaves_a_key() {
    let one = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let result = runtime.expect("a runtime").block_on(one_seed(seed));
        if let Err(failure) = result {
            panic!("{failure}\nagain: SEED={seed} cargo test --test main simulation");
        }
    }
}
