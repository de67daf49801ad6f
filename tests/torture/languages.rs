//! TOPOLOGY=languages: the whole chain with readers in both languages: those of `clients/rust`, and a Node process with
//! those of `clients/typescript`, over ioredis 5, ioredis 6 and Upstash's REST, which reach the same Valkey through a proxy
//! and through the stand-in.
//!
//! There are no echoes: they would delete again what a broken lease let in. So only keys with a lease are judged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::Fault;
use crate::harness::process::{Process, Signal};
use crate::harness::proxy::{Direction, Proxy};
use crate::harness::upstash::{TOKEN, Upstash};
use crate::harness::wait;
use crate::load::{Load, Mix};
use crate::oracle::{FAMILIES, Oracle, Reader};
use crate::report::Round;
use crate::seed::Seed;
use crate::verified::{Judged, STALE};
use crate::world::World;
use crate::{beside_others, seconds_of};

/// What happens: to the daemon, or between the Node process and its cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Daemon(Fault),
    /// Every connection of ioredis ends.
    Cut,
    /// What ioredis asks arrives late, or its answers do.
    Stalled(Direction),
    /// Requests end before they are executed, or behind that.
    RestCut(&'static str),
    /// They are executed late, behind what came later.
    RestHeld,
    /// The service answers with an error.
    RestFails,
}

const WRONG: &[Wrong] = &[
    Wrong::Daemon(Fault::DaemonKilled),
    Wrong::Cut,
    Wrong::RestCut("before"),
    Wrong::Daemon(Fault::CacheCut),
    Wrong::Stalled(Direction::Questions),
    Wrong::RestHeld,
    Wrong::Daemon(Fault::WalsenderTerminated),
    Wrong::RestCut("after"),
    Wrong::Cut,
    Wrong::Daemon(Fault::CacheStalled),
    Wrong::Stalled(Direction::Answers),
    Wrong::RestFails,
    Wrong::Daemon(Fault::SessionsTerminated),
    Wrong::Daemon(Fault::BothCut),
];

impl Wrong {
    fn strike(self, world: &mut World, node: &Node, upstash: &Upstash, oracle: &Oracle, seed: &mut Seed) {
        let rule = |mut rule: Value, seed: &mut Seed| {
            rule["match"] = json!({"over": "rest", "command": seed.pick(&["SET", "EVAL", "GET"])});
            rule["times"] = json!(1 + seed.below(5));
            upstash.fault(rule);
        };
        match self {
            Wrong::Daemon(fault) => fault.strike(world, oracle, seed),
            Wrong::Cut => node.proxy.cut(),
            Wrong::Stalled(direction) => {
                node.proxy.stall(direction);
                sleep(seed.millis(200, 1_500));
                node.proxy.heal();
            }
            Wrong::RestCut(when) => rule(json!({"do": "cut", "when": when}), seed),
            Wrong::RestHeld => {
                rule(json!({"do": "hold", "when": "before"}), seed);
                sleep(seed.millis(200, 1_500));
                upstash.control("POST", "/release", &json!({}));
            }
            Wrong::RestFails => rule(json!({"do": "status", "code": 503}), seed),
        }
    }
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/typescript")
}

/// The Node process with its readers.
struct Node {
    process: Process,
    proxy: Proxy,
    dir: TempDir,
}

impl Node {
    /// With `mistake`, its stores do not look whether their lease still stands.
    fn start(world: &World, upstash: &Upstash, mistake: bool) -> Node {
        let proxy = Proxy::start(upstash.backend.port());
        let families: Vec<Value> = FAMILIES
            .iter()
            .filter(|family| family.reader != Reader::Plain)
            .map(|family| {
                let protocol = if family.reader == Reader::Companion { "companion" } else { "key" };
                json!({"prefix": family.prefix, "members": family.members, "sql": family.sql, "protocol": protocol})
            })
            .collect();
        let config = json!({
            "postgres": world.postgres.port(), "tcp": proxy.port(), "rest": upstash.rest_url(), "token": TOKEN,
            "families": families, "mistake": mistake,
        });
        let dir =
            tempfile::Builder::new().prefix("crieur-node-").tempdir().expect("the temporary directory is writable");
        let file = |name: &str| File::create(dir.path().join(name)).expect("the directory is ours");
        let mut command = Command::new("node");
        command.arg(package().join("test/parts/chain.mjs")).arg(config.to_string());
        command.stdin(Stdio::null()).stdout(file("counts")).stderr(file("log"));
        let process = Process::start(&mut command, dir.path());
        let said = dir.path().join("counts");
        let ready =
            wait::poll(Duration::from_secs(60), || fs::read_to_string(&said).ok().filter(|said| !said.is_empty()));
        assert!(ready.is_some(), "{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
        Node { process, proxy, dir }
    }

    /// Ends it; what each kind of reader counted, by adapter and protocol.
    fn stop(mut self) -> Value {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let log = read("log");
        assert!(self.process.ended().is_none(), "Node ended by itself:\n{log}");
        // It ends when its readers have: some of them hold their row.
        self.process.signal(Signal::Term);
        let ended = self.process.wait(Duration::from_secs(60));
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        let (counts, log) = (read("counts"), read("log"));
        assert!(log.is_empty(), "Node complains:\n{log}");
        serde_json::from_str(counts.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {counts}"))
    }
}

/// Load, one thing wrong after the other, stillness, comparison; and what Node's readers counted.
fn round(world: &mut World, upstash: &Upstash, wrong: &[Wrong], mistake: bool, seed: &mut Seed) -> (Round, Value) {
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(world, &oracle, Mix::SingleRows, seed.fork());
    let node = Node::start(world, upstash, mistake);
    sleep(seed.millis(1_500, 2_000));
    for wrong in wrong {
        wrong.strike(world, &node, upstash, &oracle, seed);
        sleep(seed.millis(200, 1_000));
    }
    upstash.control("POST", "/unfault", &json!({}));
    upstash.control("POST", "/release", &json!({}));
    let (commits, stopped) = (load.stop_writers(), Instant::now());
    world.settle();
    let settled = stopped.elapsed();
    // Readers went on meanwhile, and go on: whatever they store from now on must stay right.
    sleep(Duration::from_millis(500));
    let counts = node.stop();
    load.stop();
    let (stale, compared) = world.stale_keys();
    let leased = |key: &str| ["l:", "c:"].iter().any(|prefix| key.starts_with(prefix));
    let stale = stale.into_iter().filter(|(key, ..)| leased(key));
    (Round { stale: stale.collect(), compared, commits, settled }, counts)
}

/// What Node runs is built from its sources, once; their types are checked by the package's own tests.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut command = Command::new("node");
        command.args(["node_modules/typescript/bin/tsc", "-p", ".", "--noCheck"]).current_dir(package());
        let built = command.output().expect("node is there after tests/setup.sh");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stdout));
    });
}

fn world(upstash: &Upstash) -> World {
    let building = spawn(build);
    let mut world = World::start();
    world.verify = Judged::Leased;
    world.to_cache.lead_to(upstash.backend.port());
    *world.caching.lock().expect("no holder panics") = upstash.backend.url();
    world.set("CRIEUR_WITHOUT", format!("{:?}", Guard::Echo));
    world.run_ready_daemon();
    building.join().expect("the package is built");
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=languages`; otherwise each thing comes once. A round is all of them.
#[test]
fn readers_of_both_languages_and_all_adapters_leave_nothing_stale() {
    let _beside = beside_others();
    let (seconds, number) = (seconds_of("languages"), Seed::of_the_run());
    println!("SEED={number} TOPOLOGY=languages TORTURE_SECONDS={seconds}");
    let (mut seed, upstash) = (Seed(number), Upstash::start());
    let (mut world, started) = (world(&upstash), Instant::now());
    loop {
        for wrong in WRONG {
            if let Wrong::Daemon(fault) = wrong {
                world.allow(&fault.says());
            }
        }
        let (round, counts) = round(&mut world, &upstash, WRONG, false, &mut seed);
        let log = world.daemon().log();
        let (stale, took) = (round.stale.len(), started.elapsed().as_secs());
        println!("{took:>5} s  {stale} stale of {} keys, {} commits, {counts}", round.compared, round.commits);
        assert!(round.stale.is_empty(), "SEED={number}: stale: {:#?}\n{log}", round.stale);
        assert!(round.compared > 20, "SEED={number}: nearly nothing was compared\n{log}");
        let kinds = counts.as_object().expect("counts by kind");
        assert_eq!(kinds.len(), 6, "three adapters, two protocols: {counts}");
        for (kind, count) in kinds {
            for name in ["hits", "misses", "stored", "refused"] {
                assert!(count[name].as_u64() > Some(0), "SEED={number}: no {name} of {kind}: {counts}");
            }
        }
        if started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    world.stop_daemon();
}

/// The comparison sees it when Node's stores do not look at their lease.
#[test]
fn node_readers_that_store_without_looking_leave_stale_keys() {
    let _beside = beside_others();
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let upstash = Upstash::start();
    let mut world = world(&upstash);
    world.daemon().allow(STALE);
    for number in 1..=8 {
        let (round, _) = round(&mut world, &upstash, &[], true, &mut seed);
        if !round.stale.is_empty() {
            println!("without the look: round {number}, {} stale of {}", round.stale.len(), round.compared);
            return world.stop_daemon();
        }
    }
    panic!("eight rounds, and no stale key:\n{}", world.daemon().log());
}
