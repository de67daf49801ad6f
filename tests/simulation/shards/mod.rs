//! A cluster whose slots move at random times, with moves that leave copies at both ends, moves that stop half way, and
//! replicas that take over late; the daemon is killed once meanwhile.
//!
//! Every mark that is written is held against all values of the slots that it speaks of. In the end no reader is answered
//! another value than the database's, at either end of a slot that is still on its way. `SEED`, `DRAW` and
//! `SEEDS` are those of the other schedules.

mod daemon;
mod nodes;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crieur::run::Pipeline;
use tokio::time::{Instant, sleep};

use self::daemon::{Daemon, SimShard};
use self::nodes::{Nodes, SHARDS};
use super::parts::SimControl;
use super::scenario::{Kind, Plan};
use super::source::SimSource;
use super::world::{Dice, World};

/// Runs in every test run.
const SEEDS: u64 = 20;

/// What is stale so long behind the last change stays so: a repair that waits for its turn has had it.
const FOR_EVER: Duration = Duration::from_secs(30);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn world(seed: u64) -> World {
    let mut dice = Dice(seed);
    let mut plan = Plan::new(Kind::Cut, &mut dice);
    plan.faults_end = Instant::now() + ms(1_200);
    plan.written = plan.faults_end + ms(500);
    plan.troubles = Instant::now()..plan.faults_end;
    let mut world = super::world_of(plan, dice, SHARDS);
    (world.echoes, world.replica, world.budget) = (false, false, 0);
    world
}

/// Commits until the writers end, and waits until everything is confirmed and nothing stale for a while.
async fn write(nodes: &Nodes) {
    let (world, mut rest) = (&nodes.world, 0);
    let written = world.borrow().plan.written;
    while Instant::now() < written + FOR_EVER {
        if Instant::now() < written {
            nodes.wait(20).await
        } else {
            sleep(ms(100)).await
        }
        let mut world = world.borrow_mut();
        if Instant::now() < written {
            world.xids += 1;
            let xid = world.xids;
            let commit = world.commit(xid);
            world.log_commit(commit);
            // Which node owes a key changes with the slots: marks and values are looked at instead.
            world.stores.iter_mut().for_each(|store| store.owed.clear());
            continue;
        }
        // The last moves have ended by then.
        world.quiet |= Instant::now() > written + ms(300);
        if world.failure.is_some() {
            return;
        }
        let is_confirmed = world.quiet && world.is_confirmed();
        drop(world);
        rest = if is_confirmed && nodes.stale().is_empty() { rest + 1 } else { 0 };
        if rest > 4 {
            return;
        }
    }
    let stale = nodes.stale();
    let mut world = world.borrow_mut();
    let (confirmed, end) = (world.confirmed, world.end());
    world.failure = Some(format!("stale for ever: {stale:?}; {confirmed} of {end} is confirmed"));
}

/// One life of the daemon; the first is killed while slots move.
async fn live(nodes: &Rc<Nodes>, number: u32) -> Result<(), String> {
    let world = &nodes.world;
    let daemon = Daemon::new(Rc::clone(nodes));
    let looks = tokio::task::spawn_local(daemon::look(Rc::clone(&daemon)));
    let (settings, policy) = super::settings(world);
    let caches = (0..SHARDS).map(|index| (SimShard::new(Rc::clone(&daemon), index), policy.clone())).collect();
    let source = SimSource::new(Rc::clone(world), number);
    let control = SimControl(Rc::clone(world));
    let pipeline = Pipeline::new(source, caches, control, super::rules(), settings, |_| {});
    let ended = if number > 1 {
        pipeline.run(write(nodes)).await.map(drop).map_err(|error| format!("stopped: {error}"))
    } else {
        let lasts = ms(300) + world.borrow_mut().pause(800);
        tokio::select! {
            biased;
            () = sleep(lasts) => Ok(()),
            ended = pipeline.run(write(nodes)) => ended.map(drop).map_err(|error| format!("stopped: {error}")),
        }
    };
    looks.abort();
    world.borrow_mut().cut();
    ended
}

async fn one_seed(seed: u64) -> Result<(), String> {
    let nodes = Nodes::new(Rc::new(RefCell::new(world(seed))));
    tokio::task::spawn_local(nodes::move_slots(Rc::clone(&nodes)));
    tokio::task::spawn_local(nodes::take_over(Rc::clone(&nodes)));
    tokio::task::spawn_local(nodes::move_last(Rc::clone(&nodes)));
    for reader in 1..=6 {
        tokio::task::spawn_local(nodes::read(Rc::clone(&nodes), reader));
    }
    for number in 1..=2 {
        live(&nodes, number).await?;
        if let Some(failure) = nodes.world.borrow().failure.clone() {
            return Err(failure);
        }
    }
    Ok(())
}

#[test]
fn no_schedule_of_moving_slots_leaves_a_stale_value() {
    super::schedules(SEEDS, one_seed, "moving_slots");
}

#[cfg(feature = "failpoints")]
const SEARCH: &str = "shards::no_schedule_of_moving_slots_leaves_a_stale_value";

#[cfg(feature = "failpoints")]
#[test]
fn without_a_sweep_of_slots_that_came_moving_slots_leave_a_stale_value() {
    super::finds_without(crieur::failpoints::Guard::Arrivals, SEARCH);
}
