//! TOPOLOGY=sentinel: failovers of the cache under load. Readers follow the Sentinels as their clients do.
//!
//! A failover that was asked for leaves the old primary acknowledging deletes for ten seconds, and all of them are lost.
//! What counts is where a majority of the Sentinels leads: once the daemon has confirmed a change, the primary that they
//! name must not hold what the change made old, whatever another server acknowledged.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;

use crate::faults::CACHE_AWAY;
use crate::harness::redis::{Data, Server};
use crate::harness::sentinel::How;
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::proofs::until_stale;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::{World, is_outbox};
use crate::{beside_others, conclude, seconds_of};

/// Longer than the heartbeat of the daemon: so long a word of the Sentinels counts.
const WORD: Duration = Duration::from_secs(1);

/// Load, a failover in the midst of it, and the comparison at the new primary while the old one may still answer.
fn failover(world: &mut World, oracle: &Arc<Oracle>, how: How, seed: &mut Seed) -> Round {
    let load = Load::start(world, oracle, Mix::SingleRows, seed.fork());
    sleep(seed.millis(500, 1_500));
    let watched = world.watched.as_mut().expect("behind Sentinels");
    let before = watched.primary();
    watched.fail_over(how, before);
    let started = Instant::now();
    while watched.primary() == before {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody takes the place:\n{}", watched.sentinels[0].log());
    }
    let after = watched.primary();
    *world.caching.lock().expect("no holder panics") = watched.servers[after].url();
    sleep(WORD + seed.millis(0, 1_000));
    let caching = Arc::clone(&world.caching);
    let [round] = conclude(world, vec![load], [caching]);
    round
}

/// The pair is whole again: what was killed is up, and follows.
fn mend(world: &mut World, how: How) {
    let watched = world.watched.as_mut().expect("behind Sentinels");
    let primary = watched.primary();
    if how == How::Killed {
        watched.servers[1 - primary].restart(Data::Lost);
    }
    watched.settle();
}

fn world(server: Server, without: &str) -> World {
    let mut world = World::start().behind_sentinels(server);
    world.set("CRIEUR_WITHOUT", without.to_owned());
    world.allow(CACHE_AWAY);
    world.run_ready_daemon();
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=sentinel`; otherwise each kind of failover comes once.
#[test]
fn failovers_of_a_cache_behind_sentinels_leave_nothing_stale() {
    let _others = beside_others();
    let seconds = seconds_of("sentinel");
    let (number, oracle, started) = (Seed::of_the_run(), Arc::new(Oracle::default()), Instant::now());
    println!("SEED={number} TOPOLOGY=sentinel TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    let mut world = world(Server::Valkey9, "");
    let mut rounds: Vec<How> = vec![How::Asked, How::Killed];
    while let Some(how) = rounds.first().copied() {
        rounds.remove(0);
        let round = failover(&mut world, &oracle, how, &mut seed);
        let log = world.daemon().log();
        println!("{how:?}: {} stale of {} keys, {} commits", round.stale.len(), round.compared, round.commits);
        assert!(round.stale.is_empty(), "SEED={number}: stale after {how:?}: {:#?}\n{log}", round.stale);
        assert!(round.compared > 20, "SEED={number}: nearly nothing was compared\n{log}");
        if rounds.is_empty() && started.elapsed() < Duration::from_secs(seconds) {
            rounds.push(seed.pick(&[How::Asked, How::Coordinated, How::Killed]));
        }
        if !rounds.is_empty() {
            mend(&mut world, how);
        }
    }
    world.stop_daemon();
}

/// With the word of the Sentinels passed over, the daemon confirms what only the deposed primary has heard.
#[test]
fn without_the_word_of_sentinels_stale_keys_are_found() {
    let _others = beside_others();
    if is_outbox() {
        return; // The road behind the source is the same.
    }
    let (oracle, mut seed) = (Arc::new(Oracle::default()), Seed(Seed::of_the_run()));
    println!("SEED={}", seed.0);
    let mut world = world(Server::Valkey9, &format!("{:?}", Guard::Sentinels));
    let mut is_whole = true;
    until_stale(&mut world, "without the word of Sentinels", 6, |world| {
        if !std::mem::take(&mut is_whole) {
            mend(world, How::Asked);
        }
        failover(world, &oracle, How::Asked, &mut seed)
    });
    world.stop_daemon();
}
