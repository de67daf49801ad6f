//! A crash at each step between receive and confirm: what was not confirmed comes again, and nothing stays stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crieur::failpoints::Step;

use crate::alone;
use crate::faults::POSTGRES_AWAY;
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::seed::Seed;
use crate::world::{World, is_outbox};

/// A step is reached this often in less.
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn after_a_crash_at_any_step_nothing_is_stale() {
    let _alone = alone();
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let mut world = World::start();
    world.allow(POSTGRES_AWAY);
    let oracle = Arc::new(Oracle::default());
    // The outbox's worker says by itself what is confirmed, and nothing goes ahead of a gate that is open.
    let applies = |step: &Step| !(is_outbox() && matches!(step, Step::Status | Step::Early));
    for step in Step::ALL.into_iter().filter(applies) {
        // The first time is at the start of the daemon, in its sweep or near it; a later one is under load.
        for count in [1, 2 + seed.below(4)] {
            crash(&mut world, &oracle, step, count, &mut seed);
        }
    }
}

/// One life that ends at the step, one that repairs.
fn crash(world: &mut World, oracle: &Arc<Oracle>, step: Step, count: u64, seed: &mut Seed) {
    let at = format!("{}:{count}", step.name());
    world.set("CRIEUR_CRASH_AT", at.clone());
    world.run_daemon();
    let load = Load::start(world, oracle, Mix::Everything, seed.fork());
    let started = Instant::now();
    while !world.daemon().has_ended() {
        assert!(started.elapsed() < PATIENCE, "{at} is never reached:\n{}", world.daemon().log());
        match step {
            // A mark is read behind a new connection.
            Step::MarkRead => drop(
                world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crieur'"),
            ),
            Step::Swept => drop(world.sql("TRUNCATE torture.events")),
            Step::Taken
            | Step::Early
            | Step::Snapshot
            | Step::LookedUp
            | Step::Answered
            | Step::Deleted
            | Step::Echoed
            | Step::MarkWritten
            | Step::Acknowledged
            | Step::Status => {}
        }
        std::thread::sleep(seed.millis(100, 500));
    }
    let mut daemon = world.daemon.take().expect("it was started above");
    assert_eq!(daemon.exit(), None, "{at}: it ended before the crash:\n{}", daemon.log());
    assert!(daemon.log().contains(&format!("crash point: {}", step.name())), "{at}:\n{}", daemon.log());
    drop(daemon);
    world.set("CRIEUR_CRASH_AT", String::new());
    world.run_ready_daemon();
    std::thread::sleep(seed.millis(0, 400));
    let commits = load.stop_writers();
    world.settle();
    load.stop();
    let (stale, compared) = world.stale_keys();
    println!("{at:<16} {commits:>5} transactions, {compared:>4} keys compared, {} stale", stale.len());
    assert!(stale.is_empty(), "{at}: {stale:#?}\n{}", world.daemon().log());
    world.stop_daemon();
}
