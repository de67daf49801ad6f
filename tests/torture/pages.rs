//! TOPOLOGY=pages: what stands behind the cache. A site makes pages through the real cache and the real database, and
//! keeps them until crieur purges their tags over HTTP; readers with the memory tier of the Rust client hear of deletes
//! over pub/sub. The daemon fetches pages whose keys it deleted. The daemon, the cache, the site, and the lines of those
//! readers go wrong.
//!
//! After the last echo no page and no value in memory may differ from the database. With a guard switched off some do.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;
use crieur_cache::{Cache, From, Memory, Options, Protocol, Raw, Redis};
use tokio_postgres::{Client, NoTls};

use crate::faults::{CACHE_AWAY, Fault};
use crate::harness::proxy::{Direction, Proxy};
use crate::load::{Load, Mix};
use crate::oracle::{FAMILIES, Family, ITEMS, Oracle, Reader};
use crate::readers::{Address, url};
use crate::seed::Seed;
use crate::site::{Mood, Site};
use crate::world::{LAST_ECHO, World};
use crate::{beside_others, seconds_of};

/// The echoes of the sink, of which the last one comes behind those of the cache.
const ECHOES: &str = "[\"500ms\", \"6s\"]";
const LAST: Duration = Duration::from_secs(6);

/// How long the making of a page takes at most, in milliseconds: less than the last echoes lie apart.
const MAKING_MS: u64 = 2_500;

/// Of readers with a memory.
const BOUND: Duration = Duration::from_secs(1);

const MAKERS: usize = 12;
const PROCESSES: usize = 2;
const READERS: usize = 4;
/// Longer than any run.
const TTL: Duration = Duration::from_secs(1_000_000);

/// Rounds until something stale must have been found.
const ROUNDS: u64 = 30;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Beside(Fault),
    SiteRefuses,
    SiteCuts,
    ReadersCut,
    ReadersStalled,
}

const WRONG: [Wrong; 10] = [
    Wrong::SiteRefuses,
    Wrong::ReadersStalled,
    Wrong::Beside(Fault::CacheFailedOver),
    Wrong::Beside(Fault::DaemonKilled),
    Wrong::ReadersCut,
    Wrong::SiteCuts,
    Wrong::Beside(Fault::CacheCut),
    Wrong::Beside(Fault::CacheEmptied),
    Wrong::Beside(Fault::ClientsKilled),
    Wrong::Beside(Fault::CacheSuspended),
];

/// What makers and readers do now.
const WORK: u8 = 0;
const JUDGE: u8 = 1;

/// What a reader with a memory was answered at the end.
struct Answer {
    item: u64,
    text: String,
    is_kept: bool,
}

/// Makers of pages, and readers with a memory, on a thread of their own.
struct Beyond {
    thread: JoinHandle<()>,
    phase: Arc<AtomicU8>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

/// The family that pages and memories are made of: its readers have a lease.
fn family() -> &'static Family {
    FAMILIES.iter().find(|family| family.reader == Reader::Companion).expect("there is one")
}

fn key(item: u64) -> String {
    format!("{}{item}", family().prefix)
}

/// One who makes pages or reads.
#[derive(Clone)]
struct Visitor {
    postgres: Address,
    phase: Arc<AtomicU8>,
    cache: Cache<Raw>,
}

impl Visitor {
    fn is_at_work(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == WORK
    }

    async fn read(&self, sql: &Client, item: u64) -> Result<(String, bool), tokio_postgres::Error> {
        let fetch = async || {
            let row = sql.query_one(family().sql, &[&item.to_string()]).await?;
            Ok(row.get::<_, String>(0))
        };
        let read = self.cache.read(&key(item), Options::new(), fetch).await?;
        Ok((read.value.clone(), read.from == From::Memory))
    }

    async fn connect(&self) -> Client {
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&url(&self.postgres), NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes the pages that visitors ask for and the site does not keep.
    async fn make(self, site: Site, mut seed: Seed) {
        let mut sql = self.connect().await;
        while self.is_at_work() {
            let most = if seed.chance(50) { 20 } else { ITEMS };
            let any = seed.below(most);
            tokio::time::sleep(seed.millis(0, 8)).await;
            let item = site.wanted().unwrap_or(any);
            if site.page(item).is_some() {
                continue;
            }
            let began = Instant::now();
            let Ok((text, _)) = self.read(&sql, item).await else {
                sql = self.connect().await;
                continue;
            };
            tokio::time::sleep(if seed.chance(90) { seed.millis(0, 5) } else { seed.millis(0, MAKING_MS) }).await;
            // A machine that stood still made this page take too long.
            if began.elapsed() < Duration::from_millis(MAKING_MS + 500) {
                site.take(item, text, began);
            }
        }
    }

    /// Reads, and at the end each key once more.
    async fn visit(self, answers: Arc<Mutex<Vec<Answer>>>, is_last: bool, mut seed: Seed) {
        let mut sql = self.connect().await;
        while self.is_at_work() {
            let most = if seed.chance(50) { 20 } else { ITEMS };
            let item = seed.below(most);
            if self.read(&sql, item).await.is_err() {
                sql = self.connect().await;
            }
            tokio::time::sleep(seed.millis(0, 8)).await;
        }
        for item in (0..ITEMS).filter(|_| is_last) {
            let (text, is_kept) = self.read(&sql, item).await.expect("nothing is wrong any more");
            answers.lock().expect("no holder panics").push(Answer { item, text, is_kept });
        }
    }
}

impl Beyond {
    fn start(scene: &Scene, seed: &mut Seed) -> Beyond {
        let (phase, answers) = (Arc::new(AtomicU8::new(WORK)), Arc::new(Mutex::new(Vec::new())));
        let (postgres, caching) = (Arc::clone(&scene.world.reading), url(&scene.world.caching));
        let lines = format!("redis://127.0.0.1:{}", scene.to_readers.port());
        let (site, bound, mut seed) = (scene.site.clone(), scene.bound, seed.fork());
        let (its_phase, its_answers) = (Arc::clone(&phase), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("threads can be made").block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                let visitor = |memory: Option<Memory>| {
                    let redis = Redis::open(&caching).expect("an address").timeout(Duration::from_millis(500));
                    let builder = Cache::builder(redis).codec(Raw).protocol(Protocol::Companion).ttl(TTL);
                    let builder = builder.pause(3, Duration::from_millis(50));
                    let builder = memory.into_iter().fold(builder, |builder, memory| builder.memory(memory));
                    let (postgres, phase) = (Arc::clone(&postgres), Arc::clone(&its_phase));
                    Visitor { postgres, phase, cache: builder.build().expect("what is said is valid") }
                };
                let makes = visitor(None);
                for _ in 0..MAKERS {
                    tasks.spawn(makes.clone().make(site.clone(), seed.fork()));
                }
                for _ in 0..PROCESSES {
                    let visits = visitor(Some(Memory::open(&lines).expect("an address").bound(bound)));
                    for number in 0..READERS {
                        tasks.spawn(visits.clone().visit(Arc::clone(&its_answers), number == 0, seed.fork()));
                    }
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.expect("nobody panics");
                }
            });
        });
        Beyond { thread, phase, answers }
    }

    fn stop(self) -> Vec<Answer> {
        self.phase.store(JUDGE, Ordering::Relaxed);
        self.thread.join().expect("nobody panics");
        std::mem::take(&mut *self.answers.lock().expect("no holder panics"))
    }
}

/// Whatever is not as the database has it at the end of a round, and how much was compared.
#[derive(Debug, Default)]
struct Outcome {
    pages: Vec<(u64, String, String)>,
    memories: Vec<(u64, String, String)>,
    keys: Vec<(String, String, String)>,
    /// Pages, values that came from memory, keys.
    compared: (usize, usize, usize),
    commits: u64,
}

impl Outcome {
    fn print(&self, what: &str) {
        let (pages, memories, keys) = self.compared;
        let (old_pages, old_memories, old_keys) = (self.pages.len(), self.memories.len(), self.keys.len());
        println!(
            "{what}: stale {old_pages} of {pages} pages, {old_memories} of {memories} values in memory, {old_keys} of {keys} \
             keys; {} commits",
            self.commits
        );
    }
}

struct Scene {
    world: World,
    site: Site,
    /// Between readers with a memory and what tells them of deletes.
    to_readers: Proxy,
    /// Of those readers.
    bound: Duration,
    /// The last echo of the sink.
    last_echo: Duration,
}

impl Scene {
    fn start(remembers: bool, echoes: &str, without: &[Guard]) -> Scene {
        let site = Site::start(remembers);
        let last_echo = if echoes == "[]" { Duration::ZERO } else { LAST };
        let mut world = World::start().before_a_site(site.port(), echoes);
        let off: Vec<String> = without.iter().map(|guard| format!("{guard:?}")).collect();
        world.set("CRIEUR_WITHOUT", off.join(","));
        world.allow(CACHE_AWAY);
        // While a round is judged nobody makes pages, and what crieur fetches then does not come.
        world.allow(&["id=cache.", "id=sink.", "id=mark.", "id=warm."]);
        world.run_ready_daemon();
        let to_readers = Proxy::start(world.cache.port());
        Scene { world, site, to_readers, bound: BOUND, last_echo }
    }

    fn strike(&mut self, wrong: Wrong, oracle: &Oracle, seed: &mut Seed) {
        match wrong {
            Wrong::Beside(fault) => {
                self.world.allow(&fault.says());
                return fault.strike(&mut self.world, oracle, seed);
            }
            Wrong::SiteRefuses => self.site.mood(Mood::Refuses),
            Wrong::SiteCuts => self.site.mood(Mood::Cuts),
            Wrong::ReadersCut => self.to_readers.cut(),
            Wrong::ReadersStalled => self.to_readers.stall(Direction::Answers),
        }
        sleep(seed.millis(200, 2_500));
        self.site.mood(Mood::Well);
        self.to_readers.heal();
    }

    /// Load and what goes wrong; then everything stands still, the daemon catches up, and all is compared.
    fn round(&mut self, wrong: &[Wrong], seed: &mut Seed) -> Outcome {
        let oracle = Arc::new(Oracle::default());
        let load = Load::start(&self.world, &oracle, Mix::SingleRows, seed.fork());
        let beyond = Beyond::start(self, seed);
        sleep(seed.millis(500, 1_000));
        for wrong in wrong {
            self.strike(*wrong, &oracle, seed);
            sleep(seed.millis(100, 800));
        }
        self.conclude(load, beyond)
    }

    fn conclude(&mut self, load: Load, beyond: Beyond) -> Outcome {
        let commits = load.stop_writers();
        self.world.settle();
        // A purge behind a repair has its echo, too. A page that began to be made before has ended by then.
        self.site.rests(self.last_echo + self.last_echo / 4 + Duration::from_millis(500));
        load.stop();
        sleep(BOUND.max(LAST_ECHO));
        let answers = beyond.stop();
        let all = self.world.true_values(family());
        let truth = |item: u64| all[item as usize].clone();
        let mut outcome = Outcome { commits, ..Outcome::default() };
        let pages = self.site.pages();
        outcome.compared.0 = pages.len();
        for (item, page) in pages {
            let truth = truth(item);
            if truth != page {
                outcome.pages.push((item, page, truth));
            }
        }
        outcome.compared.1 = answers.iter().filter(|answer| answer.is_kept).count();
        for Answer { item, text, .. } in answers.into_iter().filter(|answer| answer.is_kept) {
            let truth = truth(item);
            if truth != text {
                outcome.memories.push((item, text, truth));
            }
        }
        (outcome.keys, outcome.compared.2) = self.world.stale_keys();
        outcome
    }
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=pages`; otherwise five things go wrong.
#[test]
fn behind_the_last_echo_no_page_and_no_value_in_memory_is_stale() {
    let _others = beside_others();
    let (seconds, number, started) = (seconds_of("pages"), Seed::of_the_run(), Instant::now());
    println!("SEED={number} TOPOLOGY=pages TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    let mut scene = Scene::start(false, ECHOES, &[]);
    let mut left = Vec::new();
    loop {
        let wrong: Vec<Wrong> = (0..5).map(|_| next(&mut left, &mut seed)).collect();
        let outcome = scene.round(&wrong, &mut seed);
        outcome.print(&format!("{wrong:?}"));
        let log = scene.world.daemon().log();
        let Outcome { pages, memories, keys, .. } = &outcome;
        let is_right = pages.is_empty() && memories.is_empty() && keys.is_empty();
        assert!(is_right, "SEED={number}: stale after {wrong:?}: {outcome:#?}\n{log}");
        let (pages, memories, keys) = outcome.compared;
        let is_enough = pages > 20 && memories > 20 && keys > 20;
        assert!(is_enough, "SEED={number}: nearly nothing was compared: {outcome:?}\n{log}");
        if started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    let fetched = scene.site.fetched();
    println!("{} tags were purged, {fetched} pages were fetched behind deletes", scene.site.purges());
    assert!(fetched > 0, "SEED={number}: nothing was warmed\n{}", scene.world.daemon().log());
    scene.world.stop_daemon();
}

/// Each comes once before any comes again.
fn next(left: &mut Vec<Wrong>, seed: &mut Seed) -> Wrong {
    if left.is_empty() {
        left.extend(WRONG);
    }
    left.swap_remove(seed.below(left.len() as u64) as usize)
}

/// Rounds until there is a stale page; then as many with the guard on, which leave none.
fn prove(what: &str, wrong: &[Wrong], mut off: Scene, on: impl FnOnce() -> Scene) {
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let found = (1..=ROUNDS).find(|round| {
        let outcome = off.round(wrong, &mut seed);
        outcome.print(&format!("{what}, round {round}"));
        !outcome.pages.is_empty()
    });
    let rounds =
        found.unwrap_or_else(|| panic!("{what}: {ROUNDS} rounds, and no stale page:\n{}", off.world.daemon().log()));
    off.world.stop_daemon();
    let mut on = on();
    for _ in 0..rounds {
        let outcome = on.round(wrong, &mut seed);
        assert!(outcome.pages.is_empty() && outcome.compared.0 > 20, "with the guard of {what}: {outcome:#?}");
    }
    println!("{what}: with the guard none in {rounds} rounds");
    on.world.stop_daemon();
}

/// A site that remembers needs no echo: the order of the purges alone keeps its pages right.
#[test]
#[ignore = "a minute; make torture TOPOLOGY=pages"]
fn ahead_of_the_answers_of_the_cache_purges_leave_stale_pages() {
    let _others = beside_others();
    let wrong = [Wrong::Beside(Fault::CacheStalled)];
    prove("ahead of the cache", &wrong, Scene::start(true, "[]", &[Guard::Behind]), || Scene::start(true, "[]", &[]));
}

#[test]
fn without_the_echoes_of_the_sink_stale_pages_are_found() {
    let _others = beside_others();
    prove("without echoes", &[], Scene::start(false, "[]", &[]), || Scene::start(false, ECHOES, &[]));
}

/// A line that stands still says nothing of deletes; nothing but the age of what was heard shows it.
#[test]
fn with_a_bound_of_an_hour_a_line_that_stands_still_leaves_stale_values_in_memory() {
    let _others = beside_others();
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let mut scene = Scene::start(true, "[]", &[]);
    for bound in [Duration::from_secs(3_600), BOUND] {
        scene.bound = bound;
        let load = Load::start(&scene.world, &Arc::new(Oracle::default()), Mix::SingleRows, seed.fork());
        let beyond = Beyond::start(&scene, &mut seed);
        sleep(Duration::from_secs(2));
        scene.to_readers.stall(Direction::Answers);
        sleep(Duration::from_secs(1));
        let Outcome { memories, compared, .. } = scene.conclude(load, beyond);
        scene.to_readers.heal();
        println!("a bound of {bound:?}: stale {} of {} values in memory", memories.len(), compared.1);
        assert_eq!(memories.is_empty(), bound == BOUND, "a bound of {bound:?}: {memories:#?}");
    }
    scene.world.stop_daemon();
}
