//! The same simulation in outbox mode: the real loop and the real source of the outbox, over a simulated server that it
//! reaches by PostgreSQL's protocol. What each statement does is imitated (`tables.rs`), and so not proven here.
//!
//! Transactions have a number long before they commit, so rows come in another order than that of commits. Leases are
//! lost, removals are forgotten by a crash, positions are of an era that a failover may give out again.

mod server;
pub mod tables;
mod writers;

use std::rc::Rc;
use std::time::Duration;

use crieur::error::Error;
use crieur::postgres::dsn::Dsn;
use crieur::postgres::session::Session;
use crieur::source::Source;
use crieur::source::outbox::{Connect, Outbox, OutboxOptions};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::scenario::{KINDS, Kind, OF_SEVERAL, Plan};
use super::world::{Dice, Shared, World};
use tables::Tables;

pub use writers::write;

/// Runs in every test run; `SEED` runs one.
const SEEDS: u64 = 138;

/// The same with several caches.
const SEEDS_OF_SEVERAL: u64 = 52;

/// Of faults that meet.
const SEEDS_OF_MIXED: u64 = 20;

/// Those of a stream that an outbox has too, and its own.
fn kinds() -> Vec<Kind> {
    let own = [Kind::Cut, Kind::Late, Kind::Overflow, Kind::Stalled, Kind::Recorded];
    KINDS.into_iter().filter(|kind| !matches!(kind, Kind::ControlLost | Kind::Streamed)).chain(own).collect()
}

fn world(seed: u64) -> World {
    let kinds = kinds();
    world_of(seed, kinds[seed as usize % kinds.len()], 1)
}

fn world_mixed(seed: u64) -> World {
    world_of(seed, Kind::Mixed, 1 + seed as usize % 3)
}

/// Two caches, or three: one of them goes wrong.
fn world_of_several(seed: u64) -> World {
    let mut kinds = kinds();
    kinds.extend(OF_SEVERAL);
    let (kind, round) = (kinds[seed as usize % kinds.len()], seed as usize / kinds.len());
    world_of(seed, kind, 2 + round % 2)
}

fn world_of(seed: u64, kind: Kind, caches: usize) -> World {
    let mut dice = Dice(seed);
    let mut plan = Plan::new(kind, &mut dice);
    if kind == Kind::Chaos {
        // Long enough to get a lease that a killed daemon left.
        plan.faults_end += Duration::from_millis(dice.roll(2_500));
        (plan.troubles.end, plan.written) = (plan.faults_end, plan.faults_end + Duration::from_millis(100));
    } else if matches!(kind, Kind::Late | Kind::NewSlot | Kind::Failover | Kind::Overflow) {
        plan.written += Duration::from_millis(1_500);
    } else if dice.one_in(2) {
        plan.written = plan.written.max(plan.at + Duration::from_millis(dice.roll(1_500)));
    }
    let page_rows = if dice.one_in(2) { 1 + dice.roll(6) as usize } else { 1_000 };
    let tables = Tables::new(page_rows, dice.one_in(2));
    let mut world = super::world_of(plan, dice, caches);
    // Rows are longer than the WAL of the other simulation.
    if world.budget > 0 {
        world.budget *= 10;
    }
    world.hold = world.hold.saturating_mul(10);
    world.outbox = Some(tables);
    world
}

/// The real source, whose sessions lead to the simulated server.
pub fn source(world: &Shared, daemon: u32) -> Outbox {
    let world = Rc::clone(world);
    let open: Connect = Box::new(move || Box::pin(open(Rc::clone(&world), daemon)));
    let options = OutboxOptions {
        dsn: Dsn::parse("postgres://sim@localhost/sim").expect("a connection string"),
        slot: "sim".into(),
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(2),
    };
    Outbox::over(options, open)
}

async fn open(world: Shared, daemon: u32) -> crieur::error::Result<Session> {
    let wait = world.borrow_mut().pause(20);
    sleep(wait).await;
    if world.borrow_mut().fault(8) {
        return Err(Error::transient("simulated refusal"));
    }
    let (client, end) = tokio::io::duplex(1 << 16);
    let serving = tokio::task::spawn_local(server::serve(Rc::clone(&world), end, daemon));
    world.borrow_mut().tables().sessions.push(serving.abort_handle());
    let mut config = Config::new();
    config.user("sim").ssl_mode(SslMode::Disable);
    Session::over(client, &config).await
}

/// The line to the daemon that works stands still; often for longer than its lease.
pub async fn stall(world: Shared, at: Instant) {
    sleep_until(at).await;
    let mut world = world.borrow_mut();
    let (daemon, wait) = (1 + world.dice.roll(2) as u32, world.pause(3_500));
    world.tables().stalled = Some((daemon, Instant::now() + wait));
}

/// `/healthz` takes a loop that says nothing for a minute for one that hangs, and nothing but this is sure to wake it
/// while the cache is away, a sweep runs or nobody writes.
#[test]
fn a_loop_that_waits_for_the_cache_shows_that_it_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime.expect("a runtime"), async {
        let mut world = world(0);
        world.plan.troubles = Instant::now()..Instant::now();
        let mut source = source(&Rc::new(std::cell::RefCell::new(world)), 1);
        while source.start().is_none() {
            source.ready().await.expect("the simulated server is there");
        }
        let mut shown = Instant::now();
        for _ in 0..20 {
            let due = source.status_due().expect("the outbox is read");
            assert!(due.saturating_duration_since(shown) <= Duration::from_secs(20), "it shows nothing for long");
            sleep_until(due).await;
            source.status().await.expect("nothing is sent");
            shown = Instant::now();
        }
        assert!(source.status_due().is_some_and(|due| due > shown), "it does nothing else");
    });
}

#[test]
fn no_schedule_of_an_outbox_removes_too_early_or_leaves_a_stale_value() {
    super::run(SEEDS, world, "simulation::outbox");
}

#[test]
fn no_schedule_of_an_outbox_under_mixed_faults_breaks_a_promise() {
    super::run(SEEDS_OF_MIXED, world_mixed, "an_outbox_under_mixed");
}

#[test]
fn no_schedule_of_an_outbox_and_several_caches_breaks_a_promise_in_any_of_them() {
    super::run(SEEDS_OF_SEVERAL, world_of_several, "an_outbox_and_several");
}
