//! Faults after which another takes over: a standby the primary's work, a copy of yesterday the server's, a second
//! daemon the first one's.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::postgres::Shutdown;
use crate::harness::wait;
use crate::seed::Seed;
use crate::world::{World, started};

/// The primary dies, its asynchronous standby is promoted: the last commits, which readers may have cached, never were.
pub fn fail_over(world: &mut World, seed: &mut Seed) {
    world.sql_at_last(
        "SELECT pg_create_physical_replication_slot('standby')
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'standby')",
    );
    let standby = world.postgres.standby(&[]);
    world.sql_until(
        "SELECT 'yes' FROM pg_replication_slots WHERE slot_name = 'standby' AND active AND restart_lsn IS NOT NULL",
    );
    sleep(seed.millis(300, 1_500));
    world.postgres.stop(Shutdown::Immediate);
    world.promoted(standby);
    world.sql_at_last("SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote() END");
}

/// The data directory becomes that of some seconds ago; the same positions come again with other changes.
pub fn restore(world: &mut World, seed: &mut Seed) {
    world.postgres.stop(Shutdown::Fast);
    world.postgres.save();
    world.postgres.start_again();
    sleep(seed.millis(800, 2_500));
    world.postgres.stop(Shutdown::Immediate);
    world.postgres.restore();
    world.postgres.start_again();
}

/// The working one of two daemons dies. Mostly that is the first; behind another fault it may have lost its place.
pub fn kill_one_of_two(world: &mut World, seed: &mut Seed) {
    let mut second = world.another_daemon();
    let stands_by = wait::poll(wait::PATIENCE, || {
        let log = second.log();
        let stands_by = log.contains("id=stream.standing_by");
        (stands_by || log.contains(started())).then_some(stands_by)
    });
    sleep(seed.millis(100, 800));
    match stands_by {
        Some(true) => world.take_over(second),
        Some(false) => second.kill(),
        None => panic!("the second neither works nor stands by:\n{}", second.log()),
    }
    sleep(Duration::from_millis(500));
}
