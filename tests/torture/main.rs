//! Torture: real servers, readers and writers under load, faults at random; at the end of each round nothing in the
//! cache may differ from the database.
//!
//! `TORTURE_SECONDS` says for how long, `SEED` repeats a run's plan, `FAULTS` narrows it to some, `CRIEUR_MODE=outbox`
//! reads an outbox. A round is some seconds of load with a few faults; then everything stands still, the daemon gets
//! the time to catch up, and every cached key is compared. The same test with a guard switched off must find stale
//! keys: `proofs.rs`. A crash at each step of the loop: `crashes.rs`. One fault each, beside an ungated delete:
//! `scenarios.rs`. A cache behind Sentinels, whose primary changes: `sentinel.rs`, for longer with `TOPOLOGY=sentinel`.
//! Two caches, of which one goes wrong: `two.rs`, `TOPOLOGY=two`. The stand-in of Upstash: `upstash.rs`. A cluster:
//! `cluster.rs`. A site behind the cache, and readers with a memory: `pages.rs`, `TOPOLOGY=pages`. A daemon beside a
//! standby: `region.rs`, `TOPOLOGY=region`. Readers in both languages, over each adapter: `languages.rs`,
//! `TOPOLOGY=languages`. In each of them the daemon's own verifier looks on: `verified.rs`.

#[path = "../live/daemon.rs"]
mod daemon;
#[path = "../harness/mod.rs"]
mod harness;

mod cluster;
mod clustered;
mod crashes;
mod faults;
mod languages;
mod load;
mod oracle;
mod pages;
mod proofs;
mod readers;
mod region;
mod report;
mod scenarios;
mod seed;
mod sentinel;
mod site;
mod takeover;
mod two;
mod upstash;
mod verified;
mod world;

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use faults::Fault;
use harness::wait;
use load::{Load, Mix};
use oracle::Oracle;
use proofs::find_stale_keys;
use readers::Address;
use report::{Report, Round};
use seed::Seed;
use world::{World, is_outbox, started};

static MACHINE: RwLock<()> = RwLock::new(());

/// Most tests take all that the machine has, and would time out others beside them.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Those of a topology mostly wait, for elections and limits, and have servers of their own.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// `TORTURE_SECONDS` where this `TOPOLOGY` is asked for, else 0: each kind of fault comes once.
fn seconds_of(topology: &str) -> u64 {
    let is_asked_for = std::env::var("TOPOLOGY").is_ok_and(|asked| asked == topology);
    let seconds = std::env::var("TORTURE_SECONDS").ok().filter(|_| is_asked_for);
    seconds.map_or(0, |text| text.parse().expect("TORTURE_SECONDS is a number"))
}

/// Load, the faults one after the other, more load, stillness, comparison.
fn round(world: &mut World, oracle: &Arc<Oracle>, faults: &[Fault], mix: Mix, seed: &mut Seed) -> Round {
    world.expect_silence();
    let load = Load::start(world, oracle, mix, seed.fork());
    sleep(seed.millis(500, 1_500));
    for fault in faults {
        world.allow(&fault.says());
        fault.strike(world, oracle, seed);
        sleep(seed.millis(100, 1_500));
    }
    let caching = Arc::clone(&world.caching);
    let [round] = conclude(world, vec![load], [caching]);
    world.judge_log();
    round
}

/// Readers whose password was refused ask the cache nothing for a minute.
const REFUSED: Duration = Duration::from_secs(90);

/// Keys of a cache that readers have filled.
const FILLED: usize = 40;

/// Writers end, the daemon catches up, readers end: what is in each cache then. The first load has the writers.
fn conclude<const N: usize>(world: &mut World, loads: Vec<Load>, caches: [Address; N]) -> [Round; N] {
    let (commits, stopped) = (loads[0].stop_writers(), Instant::now());
    let first = Arc::clone(&world.caching);
    // Readers go on meanwhile: whatever they store from now on must stay right.
    for cache in &caches {
        world.caching = Arc::clone(cache);
        world.settle();
    }
    let settled = stopped.elapsed();
    // The last sweep may have left an empty cache, and nothing to compare: readers fill it again.
    sleep(Duration::from_millis(500));
    world.sees_the_publication();
    for cache in &caches {
        world.caching = Arc::clone(cache);
        let _ = wait::poll(REFUSED, || (world.stale_keys().1 > FILLED).then_some(())); // The caller judges.
    }
    loads.into_iter().for_each(Load::stop);
    world.count_verified();
    let rounds = caches.map(|cache| {
        world.caching = cache;
        let (stale, compared) = world.stale_keys();
        Round { stale, compared, commits, settled }
    });
    world.caching = first;
    rounds
}

#[test]
fn after_faults_at_random_nothing_in_the_cache_differs_from_the_database() {
    let _alone = alone();
    let seconds: u64 =
        std::env::var("TORTURE_SECONDS").map_or(60, |text| text.parse().expect("TORTURE_SECONDS is a number"));
    let number = Seed::of_the_run();
    println!("SEED={number} TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    let mut world = World::start();
    let oracle = Arc::new(Oracle::default());
    let mut report = Report::default();
    world.run_ready_daemon();
    let started = Instant::now();
    let mut left: Vec<Fault> = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        let faults: Vec<Fault> = (0..1 + seed.below(3)).map(|_| next_fault(&mut left, &mut seed)).collect();
        println!("{:>5} s  {faults:?}", started.elapsed().as_secs());
        let round = round(&mut world, &oracle, &faults, Mix::Everything, &mut seed);
        let log = world.daemon().log();
        assert!(round.stale.is_empty(), "SEED={number}: stale after {faults:?}: {:#?}\n{log}", round.stale);
        assert!(round.compared > 20, "SEED={number}: nearly nothing was cached, so nearly nothing was compared\n{log}");
        report.add(&faults, &round);
    }
    // A daemon that was killed told nothing of what it verified: the last one is given the time.
    let _ = wait::poll(verified::PATIENCE, || {
        world.count_verified();
        (world.verified().checked > 0).then_some(())
    }); // It is judged below.
    world.stop_daemon();
    report.print(&oracle.seen(), seconds);
    let verified = world.verified();
    println!(
        "verified              {:>10}   undecided {}, accused {}",
        verified.checked, verified.undecided, verified.stale
    );
    assert!(verified.checked > 0 && verified.stale == 0, "{verified:?}");
}

/// Each fault comes once before any comes again.
fn next_fault(left: &mut Vec<Fault>, seed: &mut Seed) -> Fault {
    if left.is_empty() {
        left.extend(Fault::chosen());
    }
    left.swap_remove(seed.below(left.len() as u64) as usize)
}

/// Item 9: longer than `wal_sender_timeout`, longer than the liveness limit.
#[test]
fn a_suspended_daemon_and_a_stalled_link_are_noticed_and_overcome() {
    let _alone = alone();
    let mut world = World::start();
    let oracle = Arc::new(Oracle::default());
    let mut seed = Seed(9);
    world.run_ready_daemon();
    world.allow(&Fault::DaemonSuspended.says());
    let load = Load::start(&world, &oracle, Mix::Everything, seed.fork());
    sleep(Duration::from_secs(1));
    world.suspend_daemon(Duration::from_secs(10));
    // The outbox stays its own as long as no other daemon wants it.
    let starts = if is_outbox() { 1 } else { 2 };
    let log = world.postgres.log();
    let ended = log.contains("terminating walsender process due to replication timeout");
    assert_eq!(ended, !is_outbox(), "{log}");
    world.daemon().wait_for_logs(started(), starts);
    Fault::PostgresStalled.strike(&mut world, &oracle, &mut seed);
    world.daemon().wait_for_logs(started(), starts + 1);
    load.stop_writers();
    world.settle();
    load.stop();
    assert!(world.stale_keys().0.is_empty());
    world.stop_daemon();
}

/// Readers read a standby, and fill the cache with what it shows long after the primary shows something newer.
#[test]
fn readers_of_a_standby_that_lags_leave_nothing_stale() {
    let _alone = alone();
    let mut world = World::start().with_replica("700ms");
    let (oracle, mut seed) = (Arc::new(Oracle::default()), Seed(Seed::of_the_run()));
    println!("SEED={}", seed.0);
    // The daemon that does not know of the standby deletes too early.
    world.set("CRIEUR__POSTGRES__REPLICAS", String::new());
    world.allow_accusations();
    world.run_ready_daemon();
    let stale = find_stale_keys(&mut world, &oracle, "without postgres.replicas", &[], &mut seed);
    world.verifier_finds(stale.len());
    world.stop_daemon();
    // What that one left is its own, and stays until its row changes again: the mark has no gap.
    world.empty_cache();
    world.set("CRIEUR__POSTGRES__REPLICAS", world.replica_url());
    world.forbid_accusations();
    world.run_ready_daemon();
    for faults in [[Fault::DaemonKilled, Fault::WalsenderTerminated], [Fault::ClientsKilled, Fault::CacheFailedOver]] {
        let round = round(&mut world, &oracle, &faults, Mix::Everything, &mut seed);
        assert!(round.stale.is_empty(), "{:#?}\n{}", round.stale, world.daemon().log());
        assert!(round.compared > 20, "nearly nothing was compared");
    }
    world.stop_daemon();
}
