//! TOPOLOGY=region: a daemon beside a standby whose replay lags by another time now and then. Readers read that standby,
//! writers write to its primary; the daemon, the cache, the standby and its lines go wrong.
//!
//! At the end of each round nothing in the cache may differ from the primary. With a daemon of the primary in its place
//! the same readers leave stale keys.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::faults::{CACHE_AWAY, Fault, POSTGRES_AWAY};
use crate::harness::postgres::Shutdown;
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::proofs::until_stale;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::{World, is_outbox};
use crate::{beside_others, conclude, seconds_of};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Beside(Fault),
    StandbyRestarted,
    StandbyCrashed,
}

const WRONG: [Wrong; 8] = [
    Wrong::Beside(Fault::DaemonKilled),
    Wrong::StandbyCrashed,
    Wrong::Beside(Fault::CacheFailedOver),
    Wrong::Beside(Fault::PostgresCut),
    Wrong::StandbyRestarted,
    Wrong::Beside(Fault::ClientsKilled),
    Wrong::Beside(Fault::PostgresStalled),
    Wrong::Beside(Fault::CacheEmptied),
];

impl Wrong {
    fn strike(self, world: &mut World, oracle: &Oracle, seed: &mut Seed) {
        let how = match self {
            Wrong::Beside(fault) => {
                world.allow(&fault.says());
                return fault.strike(world, oracle, seed);
            }
            Wrong::StandbyRestarted => Shutdown::Fast,
            Wrong::StandbyCrashed => Shutdown::Immediate,
        };
        world.replica.as_mut().expect("there is one").restart(how);
    }
}

/// Load, a lag that changes and things that go wrong; then the comparison.
fn round(world: &mut World, wrong: &[Wrong], seed: &mut Seed) -> Round {
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(world, &oracle, Mix::SingleRows, seed.fork());
    sleep(seed.millis(300, 800));
    for wrong in wrong {
        world.lag(seed.millis(0, 900));
        sleep(seed.millis(300, 1_000));
        wrong.strike(world, &oracle, seed);
        sleep(seed.millis(300, 1_000));
    }
    let caching = Arc::clone(&world.caching);
    let [round] = conclude(world, vec![load], [caching]);
    round
}

fn world() -> World {
    let mut world = World::in_a_region("700ms");
    world.allow(CACHE_AWAY);
    world.allow(POSTGRES_AWAY);
    world.allow(&["id=replica.", "id=slot.", "id=session.", "id=cache."]);
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=region`; otherwise four things go wrong.
#[test]
fn a_daemon_beside_a_standby_that_lags_leaves_nothing_stale() {
    if is_outbox() {
        return println!("an outbox is emptied by writes, and a standby takes none");
    }
    let _others = beside_others();
    let (seconds, number, started) = (seconds_of("region"), Seed::of_the_run(), Instant::now());
    println!("SEED={number} TOPOLOGY=region TORTURE_SECONDS={seconds}");
    let (mut seed, mut world, mut left) = (Seed(number), world(), Vec::new());
    world.move_beside_the_standby();
    world.run_ready_daemon();
    loop {
        let wrong: Vec<Wrong> = (0..4).map(|_| next(&mut left, &mut seed)).collect();
        let Round { stale, compared, commits, .. } = round(&mut world, &wrong, &mut seed);
        println!("{wrong:?}: {} stale of {compared} keys, {commits} commits", stale.len());
        let log = world.daemon().log();
        assert!(stale.is_empty(), "SEED={number}: stale after {wrong:?}: {stale:#?}\n{log}");
        assert!(compared > 20, "SEED={number}: nearly nothing was compared\n{log}");
        if started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    world.stop_daemon();
}

/// Each comes once before any comes again.
fn next(left: &mut Vec<Wrong>, seed: &mut Seed) -> Wrong {
    if left.is_empty() {
        left.extend(WRONG);
    }
    left.swap_remove(seed.below(left.len() as u64) as usize)
}

/// The same readers, and a daemon whose gate is that of the primary.
#[test]
#[ignore = "a minute; make torture TOPOLOGY=region"]
fn a_daemon_of_the_primary_leaves_stale_keys_to_readers_of_a_standby_that_lags() {
    if is_outbox() {
        return println!("the gate of an outbox is that of its rows");
    }
    let _others = beside_others();
    let (mut seed, mut world) = (Seed(Seed::of_the_run()), world());
    println!("SEED={}", seed.0);
    world.allow_accusations();
    world.run_ready_daemon();
    until_stale(&mut world, "with a daemon of the primary", 30, |world| round(world, &[], &mut seed));
    world.stop_daemon();
}
