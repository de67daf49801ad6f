//! TOPOLOGY=upstash: the stand-in of Upstash, over REST and over TCP. A leader that forgets, reads that lag, answers that
//! are none, sessions that end, the daemon killed; readers come over TCP.
//!
//! The service does not say who it is: what a new leader lost is found by the mark alone.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;
use serde_json::{Value, json};

use crate::faults::CACHE_AWAY;
use crate::harness::upstash::{TOKEN, Upstash};
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::proofs::{is_leased, until_stale};
use crate::report::Round;
use crate::seed::Seed;
use crate::world::World;
use crate::{beside_others, conclude, seconds_of};

/// The ways to the service.
const WAYS: [&str; 2] = ["rest", "tcp"];

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// A new leader without the last transactions, deletes and marks among them.
    LeaderForgot,
    /// Reads come from a replica that is behind.
    ReadsLag,
    /// The connection ends before a command is executed.
    CutBefore,
    /// It is executed, and nobody is told.
    CutAfter,
    /// Half of an answer comes.
    HalfAnswers,
    /// The answer is an error of the service.
    Failing,
    /// Every session ends.
    Dropped,
    DaemonKilled,
}

const WRONG: [Wrong; 8] = [
    Wrong::LeaderForgot,
    Wrong::ReadsLag,
    Wrong::CutBefore,
    Wrong::CutAfter,
    Wrong::HalfAnswers,
    Wrong::Failing,
    Wrong::Dropped,
    Wrong::DaemonKilled,
];

impl Wrong {
    fn strike(self, world: &mut World, upstash: &Upstash, seed: &mut Seed) {
        // What the daemon sends on this way; over TCP it meets readers, too.
        let rule = |what: Value, seed: &mut Seed| {
            let mut rule = what;
            rule["match"] = json!({"command": seed.pick(&["UNLINK", "SET", "EVAL", "GET"])});
            rule["times"] = json!(1 + seed.below(3));
            upstash.fault(rule);
        };
        match self {
            Wrong::LeaderForgot => {
                upstash.control("POST", "/lose", &json!({"transactions": 1 + seed.below(64)}));
            }
            Wrong::ReadsLag => {
                upstash.control("POST", "/lag", &json!({"ms": 100 + seed.below(900)}));
            }
            Wrong::CutBefore => rule(json!({"do": "cut", "when": "before"}), seed),
            Wrong::CutAfter => rule(json!({"do": "cut", "when": "after"}), seed),
            Wrong::HalfAnswers => rule(json!({"do": "truncate"}), seed),
            Wrong::Failing => rule(json!({"do": "status", "code": 503}), seed),
            Wrong::Dropped => drop(upstash.control("POST", "/drop", &json!({}))),
            Wrong::DaemonKilled => {
                world.kill_daemon();
                sleep(seed.millis(0, 500));
                world.run_daemon();
            }
        }
    }
}

/// Load, one thing wrong after the other, the service well again, and the comparison at its leader.
fn round(world: &mut World, upstash: &Upstash, wrong: &[Wrong], seed: &mut Seed) -> Round {
    let load = Load::start(world, &Arc::new(Oracle::default()), Mix::SingleRows, seed.fork());
    sleep(seed.millis(500, 1_000));
    for wrong in wrong {
        wrong.strike(world, upstash, seed);
        sleep(seed.millis(200, 1_000));
    }
    upstash.control("POST", "/unfault", &json!({}));
    upstash.control("POST", "/lag", &json!({"ms": 0}));
    let caching = Arc::clone(&world.caching);
    let [round] = conclude(world, vec![load], [caching]);
    round
}

fn world(way: &str, upstash: &Upstash, without: &str) -> World {
    let url = if way == "rest" { upstash.rest_url() } else { upstash.tcp_url() };
    // As often as a server of one's own, so that seconds show what a month would.
    let lines = format!(
        "url = \"{url}\"\ntoken = \"{TOKEN}\"\ntransport = \"{way}\"\nmetered = \"no\"\nheartbeat = \"500ms\"\n"
    );
    let lines = if way == "rest" { lines } else { lines.replace(&format!("token = \"{TOKEN}\"\n"), "") };
    let mut world = World::start().with_cache_at(lines, upstash.tcp_url());
    world.set("CRIEUR_WITHOUT", without.to_owned());
    // Pauses of minutes behind a refusal.
    world.set("CRIEUR_SOONER", "60".to_owned());
    world.allow(CACHE_AWAY);
    world.allow(&["id=cache.", "id=mark.", "id=gap."]);
    world.run_ready_daemon();
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=upstash`, on each way; otherwise each thing comes once.
#[test]
fn faults_of_the_service_leave_nothing_stale_over_rest_and_tcp() {
    let _others = beside_others();
    let (seconds, number) = (seconds_of("upstash"), Seed::of_the_run());
    println!("SEED={number} TOPOLOGY=upstash TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    for way in WAYS {
        let upstash = Upstash::start();
        let (mut world, started) = (world(way, &upstash, ""), Instant::now());
        let mut left = WRONG.to_vec();
        while !left.is_empty() {
            let wrong: Vec<Wrong> =
                (0..left.len().min(4)).map(|_| left.swap_remove(seed.below(left.len() as u64) as usize)).collect();
            let round = round(&mut world, &upstash, &wrong, &mut seed);
            let (log, stale, compared) = (world.daemon().log(), round.stale.len(), round.compared);
            println!("{way}, {wrong:?}: {stale} stale of {compared} keys, {} commits", round.commits);
            assert!(round.stale.is_empty(), "SEED={number}: {way}, stale after {wrong:?}: {:#?}\n{log}", round.stale);
            assert!(compared > 20, "SEED={number}: {way}: nearly nothing was compared\n{log}");
            if left.is_empty() && started.elapsed() < Duration::from_secs(seconds / WAYS.len() as u64) {
                left = WRONG.to_vec();
            }
        }
        world.stop_daemon();
    }
}

/// With any mark taken for ours, what a new leader forgot stays in the cache. Echoes are off, too: they delete again what
/// was deleted of late, and plain readers, who need them, are not judged.
#[test]
fn without_the_mark_a_new_leader_leaves_stale_keys() {
    let _others = beside_others();
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let upstash = Upstash::start();
    let mut world = world("tcp", &upstash, &format!("{:?},{:?}", Guard::Mark, Guard::Echo));
    until_stale(&mut world, "without the mark", 8, |world| {
        let mut round = round(world, &upstash, &[Wrong::LeaderForgot; 8], &mut seed);
        round.stale.retain(|(key, ..)| is_leased(key));
        round
    });
    world.stop_daemon();
}
