//! Readers that keep values in their own memory, and hear of deletes by messages that come late, are lost, or end with
//! their connection. The publisher of the daemon and the tier of the Rust client are the real ones; the channel, the
//! caches and the clock are simulated.
//!
//! Safety, at each read: no reader serves a value longer than its bound behind the delete of the key in the cache,
//! whether the key was there when it was deleted or not. With each guard switched off some reader does.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::publish::{Publisher, Telling};
use crieur::config::PublishConfig;
use crieur_cache::{Memory, Reply, Tier};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::pages::pages;
use super::parts::SimCache;
use super::scenario::{KINDS, Kind, Plan};
use super::store::Held;
use super::world::{Dice, Shared, World};

/// Runs in every test run.
const SEEDS: u64 = 84;

/// Within as many a guard that is off shows.
const SEARCHED: u64 = 1_000;

/// Of each reader.
const BOUND: Duration = Duration::from_secs(1);

/// Values are kept for longer than anything lasts.
const LONG: Duration = Duration::from_secs(1_000_000);

/// What keeps a reader from serving old values.
#[derive(Clone, Copy)]
pub struct Guards {
    /// A message whose number is not the next one.
    numbers: bool,
    /// A mark that names a message that did not come.
    marks: bool,
    /// A connection that was lost.
    connections: bool,
    /// What was heard is too old.
    age: bool,
    /// A fill that began before a delete was heard.
    tickets: bool,
    /// Of the daemon: keys are named that were absent in the cache.
    absent: bool,
}

const ALL: Guards = Guards { numbers: true, marks: true, connections: true, age: true, tickets: true, absent: true };

/// What comes over a subscription.
enum Item {
    Message(String),
    Pong,
}

type Sender = UnboundedSender<(Instant, Item)>;

/// A subscription that stands, at the server's end.
struct Line {
    number: u64,
    server: u64,
    to: Sender,
    /// When the last item arrives.
    last: Instant,
}

/// The channel of pub/sub, and the deletes of each key.
pub struct Channel {
    guards: Guards,
    /// Single messages are lost, and what follows them is not.
    loses: bool,
    lines: Vec<Line>,
    numbers: u64,
    keys: Vec<String>,
    deletes: BTreeMap<String, Vec<Instant>>,
    began: Instant,
    /// Values that were served from memory.
    served: u64,
}

impl Channel {
    fn new(guards: Guards, loses: bool) -> Channel {
        let (keys, began) = (pages().collect(), Instant::now());
        Channel { guards, loses, lines: Vec::new(), numbers: 0, keys, deletes: BTreeMap::new(), began, served: 0 }
    }

    /// These keys are deleted, whether they are there or not.
    pub fn note(&mut self, is_deleted: impl Fn(&str) -> bool) {
        let now = Instant::now();
        for key in self.keys.iter().filter(|key| is_deleted(key)) {
            self.deletes.entry(key.clone()).or_default().push(now);
        }
    }

    /// Since when no reader may serve what the cache held at this time.
    fn is_gone_since(&self, key: &str, read: Instant) -> Option<Instant> {
        self.deletes.get(key)?.iter().find(|deleted| **deleted > read).map(|deleted| *deleted + BOUND)
    }
}

impl World {
    /// Whether the delete of this key is told.
    pub fn is_named(&self, store: usize, key: &[u8]) -> bool {
        let names_absent = self.channel.as_ref().is_some_and(|channel| channel.guards.absent);
        names_absent || self.stores[store].cache.keys.keys().any(|held| held.as_bytes() == key)
    }

    fn heard(&mut self) -> &mut Channel {
        self.channel.as_mut().expect("somebody listens")
    }

    /// The server runs PUBLISH: whoever is subscribed there hears it, mostly.
    fn broadcast(&mut self, store: usize, text: &str) {
        let server = self.stores[store].server;
        let mut lines = std::mem::take(&mut self.heard().lines);
        // Subscriptions end with their server.
        lines.retain(|line| line.server == server);
        let loses = self.heard().loses;
        for line in &mut lines {
            if !(loses && self.fault(6)) {
                self.send(line, Item::Message(text.to_owned()));
            }
        }
        self.heard().lines = lines;
    }

    fn send(&mut self, line: &mut Line, item: Item) {
        // A line that stands still for a while keeps its order.
        let most_ms = if self.fault(20) { 1_500 } else { 3 };
        line.last = line.last.max(Instant::now() + self.pause(most_ms));
        let _ = line.to.send((line.last, item)); // A reader that has gone hears nothing.
    }

    fn subscribe(&mut self) -> (u64, Sender, UnboundedReceiver<(Instant, Item)>) {
        let (to, from) = unbounded_channel();
        let server = self.stores[0].server;
        let channel = self.heard();
        channel.numbers += 1;
        let number = channel.numbers;
        channel.lines.push(Line { number, server, to: to.clone(), last: Instant::now() });
        (number, to, from)
    }

    fn ping(&mut self, number: u64) {
        let mut lines = std::mem::take(&mut self.heard().lines);
        if let Some(line) = lines.iter_mut().find(|line| line.number == number) {
            self.send(line, Item::Pong);
        }
        self.heard().lines = lines;
    }

    /// A reader serves what it read from the cache at this time.
    fn serves(&mut self, key: &str, read: Duration) {
        let channel = self.heard();
        channel.served += 1;
        let until = channel.is_gone_since(key, channel.began + read);
        if let Some(late) =
            until.and_then(|until| Instant::now().checked_duration_since(until)).filter(|l| !l.is_zero())
        {
            self.failure = Some(format!("{key} is served {late:?} past the bound"));
        }
    }
}

/// The publisher of a daemon whose cache has listeners.
pub(super) fn publisher(world: &World) -> Option<Publisher> {
    let config = PublishConfig { channel: "crieur:keys".to_owned(), slot: "sim".to_owned() };
    world.channel.as_ref().map(|_| Publisher::new(&config))
}

impl SimCache {
    /// The message stands behind its deletes, on their connection.
    pub(super) async fn tell_readers(&self, telling: &Telling<'_>, keys: Option<&[&[u8]]>) {
        self.wait(2).await;
        let way = self.generation.get();
        let command = keys.map_or_else(|| telling.flush(way), |keys| telling.message(way, keys));
        let text = command.args_iter().nth(2).expect("a channel and a text");
        let redis::Arg::Simple(text) = text else { panic!("a text is no cursor") };
        let text = std::str::from_utf8(text).expect("JSON is text");
        self.world.borrow_mut().broadcast(self.store, text);
    }

    /// A beat, or what the step of a mark deleted, on the connection of the mark.
    pub(super) async fn tell_behind_mark(&self, telling: Telling<'_>, keys: &[&[u8]]) {
        self.tell_readers(&telling, Some(keys)).await;
        self.wait(3).await;
        if self.loses(self.server(), 15).await {
            return;
        }
        telling.answered(&redis::Value::Int(1));
        telling.done();
    }
}

/// One process: a subscription that is made anew whenever it ends.
async fn follow(world: Shared, tier: Rc<Tier>) {
    let guards = world.borrow_mut().heard().guards;
    let mut is_first = true;
    let mut told = (String::new(), 0);
    while !world.borrow().is_over() {
        let wait = world.borrow_mut().pause(60);
        sleep(wait).await;
        let (number, _to, from) = world.borrow_mut().subscribe();
        if guards.connections || is_first {
            tier.subscribed();
        }
        is_first = false;
        Listening { world: &world, tier: &tier, guards, number, told: &mut told, from }.listen().await;
        world.borrow_mut().heard().lines.retain(|line| line.number != number);
        if guards.connections {
            tier.lost();
        }
    }
}

struct Listening<'a> {
    world: &'a Shared,
    tier: &'a Tier,
    guards: Guards,
    number: u64,
    /// The epoch and the number of the last message, as a reader has it that looks at no number.
    told: &'a mut (String, u64),
    from: UnboundedReceiver<(Instant, Item)>,
}

impl Listening<'_> {
    /// As the client does, until the subscription is lost.
    async fn listen(mut self) {
        let mut ticks = interval(BOUND / 4);
        let ends = Instant::now() + Duration::from_millis(200) + self.world.borrow_mut().pause(3_000);
        loop {
            tokio::select! {
                item = self.from.recv() => {
                    let Some(item) = item else { return };
                    self.take(item).await;
                }
                _ = ticks.tick() => {
                    let wait = self.world.borrow_mut().pause(3);
                    sleep(wait).await;
                    let mark = self.mark();
                    let wait = self.world.borrow_mut().pause(3);
                    sleep(wait).await;
                    let sent = Instant::now();
                    self.world.borrow_mut().ping(self.number);
                    if timeout(BOUND, self.pong()).await != Ok(true) {
                        return;
                    }
                    self.tier.answered(sent.into_std(), mark.as_ref());
                }
            }
            let mut world = self.world.borrow_mut();
            let is_over = world.is_over();
            if is_over || (Instant::now() > ends && world.plan.troubles.contains(&Instant::now())) {
                return;
            }
            // Cut off, and nobody says so.
            if world.fault(40) {
                let number = self.number;
                world.heard().lines.retain(|line| line.number != number);
            }
        }
    }

    /// What the cache answers to GET; nothing where the answer is lost, or nobody looks at marks.
    fn mark(&self) -> Option<Reply> {
        let mut world = self.world.borrow_mut();
        if !self.guards.marks || world.fault(10) {
            return None;
        }
        Some(world.stores[0].cache.mark.clone().map_or(Reply::Nil, Reply::Bytes))
    }

    async fn pong(&mut self) -> bool {
        while let Some(item) = self.from.recv().await {
            if self.take(item).await {
                return true;
            }
        }
        false
    }

    /// Waits until the item is there, and hears it; whether that was the answer to a PING.
    async fn take(&mut self, (at, item): (Instant, Item)) -> bool {
        sleep_until(at).await;
        match item {
            Item::Pong => true,
            Item::Message(text) => {
                let text = if self.guards.numbers { text } else { self.unnumbered(&text) };
                self.tier.hear(text.as_bytes(), Instant::now().into_std());
                false
            }
        }
    }

    /// The same message with the number that is next, as one has it who does not look.
    fn unnumbered(&mut self, text: &str) -> String {
        let mut message: serde_json::Value = serde_json::from_str(text).expect("the daemon writes JSON");
        let epoch = message["epoch"].as_str().expect("a text").to_owned();
        let number = message["n"].as_u64().expect("a number");
        let number = if self.told.0 == epoch { self.told.1 + 1 } else { number };
        *self.told = (epoch, number);
        message["n"] = number.into();
        message.to_string()
    }
}

/// Reads keys: from memory, else from the cache, and then they are kept.
async fn read(world: Shared, tier: Rc<Tier>) {
    let (guards, began) = {
        let mut world = world.borrow_mut();
        let channel = world.heard();
        (channel.guards, channel.began)
    };
    while !world.borrow().is_over() {
        let wait = world.borrow_mut().pause(8);
        sleep(wait).await;
        let key = world.borrow_mut().wanted();
        let now = if guards.age { Instant::now() } else { began };
        if let Some(kept) = tier.get_at(&key, now.into_std()) {
            let read = std::str::from_utf8(&kept).ok().and_then(|text| text.parse().ok()).expect("a number of µs");
            world.borrow_mut().serves(&key, Duration::from_micros(read));
            continue;
        }
        let ticket = if guards.tickets { tier.ticket(&key) } else { None };
        let wait = world.borrow_mut().pause(3);
        sleep(wait).await;
        let (at, held) = (began.elapsed(), world.borrow().stores[0].cache.keys.get(&key).cloned());
        let most_ms = if world.borrow_mut().dice.one_in(8) { 100 } else { 3 };
        let wait = world.borrow_mut().pause(most_ms);
        sleep(wait).await;
        let ticket = if guards.tickets { ticket } else { tier.ticket(&key) };
        if let (Some(Held::Value(_)), Some(ticket)) = (held, ticket) {
            ticket.keep(at.as_micros().to_string().as_bytes(), LONG);
        }
    }
}

/// Keys expire, or give way to others.
async fn evict(world: Shared) {
    while !world.borrow().quiet {
        let wait = world.borrow_mut().pause(20);
        sleep(wait).await;
        let mut world = world.borrow_mut();
        let key = world.wanted();
        world.stores[0].cache.keys.remove(&key);
    }
}

/// Some processes with several readers each.
pub(super) fn listeners(world: &Shared) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = vec![tokio::task::spawn_local(evict(Rc::clone(world)))];
    for _ in 0..2 {
        let memory = Memory::open("redis://127.0.0.1:1").expect("an address").slot("sim").bound(BOUND);
        let tier = Rc::new(Tier::new(memory));
        tasks.push(tokio::task::spawn_local(follow(Rc::clone(world), Rc::clone(&tier))));
        tasks.extend((0..3).map(|_| tokio::task::spawn_local(read(Rc::clone(world), Rc::clone(&tier)))));
    }
    tasks
}

fn world_with(seed: u64, guards: Guards, loses: bool) -> World {
    let mut dice = Dice(seed);
    let kinds: Vec<Kind> = KINDS.iter().copied().filter(|kind| *kind != Kind::Budget).collect();
    let mut plan = Plan::new(kinds[seed as usize % kinds.len()], &mut dice);
    // Subscriptions have troubles for longer than caches.
    plan.troubles = plan.troubles.start.min(plan.at)..plan.faults_end;
    let mut world = super::world_of(plan, dice, 1);
    world.echoes = false;
    world.channel = Some(Channel::new(guards, loses));
    world
}

fn world(seed: u64) -> World {
    world_with(seed, ALL, true)
}

#[test]
fn no_reader_with_a_memory_serves_a_value_past_its_bound() {
    super::run(SEEDS, world, "past_its_bound");
}

/// Each of the two alone is enough.
#[test]
fn a_missing_message_shows_in_the_numbers_and_in_the_mark() {
    super::run(SEEDS / 3, |seed| world_with(seed, Guards { marks: false, ..ALL }, true), "shows_in_the_numbers");
    super::run(SEEDS / 3, |seed| world_with(seed, Guards { numbers: false, ..ALL }, true), "shows_in_the_numbers");
}

const PAST: &str = "past the bound";

#[test]
fn without_a_look_at_numbers_and_marks_a_value_is_served_past_the_bound() {
    super::finds(PAST, SEARCHED, |seed| world_with(seed, Guards { numbers: false, marks: false, ..ALL }, true));
}

/// Where nothing is lost but with a connection, that guard is enough.
#[test]
fn without_forgetting_at_a_lost_connection_a_value_is_served_past_the_bound() {
    const OTHERS_OFF: Guards = Guards { numbers: false, marks: false, ..ALL };
    super::run(SEEDS / 3, |seed| world_with(seed, OTHERS_OFF, false), "without_forgetting");
    super::finds(PAST, SEARCHED, |seed| world_with(seed, Guards { connections: false, ..OTHERS_OFF }, false));
}

#[test]
fn without_a_look_at_the_age_a_value_is_served_past_the_bound() {
    super::finds(PAST, SEARCHED, |seed| world_with(seed, Guards { age: false, ..ALL }, true));
}

#[test]
fn without_the_ticket_of_a_fill_a_value_is_served_past_the_bound() {
    super::finds(PAST, SEARCHED, |seed| world_with(seed, Guards { tickets: false, ..ALL }, true));
}

#[test]
fn without_the_names_of_absent_keys_a_value_is_served_past_the_bound() {
    super::finds(PAST, SEARCHED, |seed| world_with(seed, Guards { absent: false, ..ALL }, true));
}
