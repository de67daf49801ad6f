//! TOPOLOGY=cluster: three primaries with a replica each under load. A replica that takes over without the last deletes, a
//! primary that stands still, slots that go there and back, the daemon killed. Readers follow redirects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;

use crate::faults::CACHE_AWAY;
use crate::harness::cluster::{Cluster, PRIMARIES};
use crate::harness::redis::{Data, Server};
use crate::harness::wait;
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::proofs::until_stale;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::{World, is_outbox};
use crate::{beside_others, conclude, seconds_of};

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// A replica that heard nothing for a while takes the place of a primary that is killed.
    FailedOver,
    /// A primary answers nothing, shorter or longer than the others wait for it.
    Frozen,
    /// Slots with keys that are in use go to another primary and back, key by key.
    Moved,
    /// The same by the server's own migration.
    MovedAtOnce,
    DaemonKilled,
}

const WRONG: [Wrong; 5] = [Wrong::FailedOver, Wrong::Frozen, Wrong::Moved, Wrong::MovedAtOnce, Wrong::DaemonKilled];

/// A node that began as a primary, or the replica of it: who takes writes now.
fn primary(cluster: &Cluster, shard: usize) -> usize {
    let found = wait::poll(wait::PATIENCE, || {
        [shard, shard + PRIMARIES].into_iter().find(|index| cluster.info(*index, "replication").contains("role:master"))
    });
    found.unwrap_or_else(|| panic!("shard {shard} has no primary"))
}

/// Each shard has one primary and a replica that follows it, and everybody says that all slots are there.
fn whole(cluster: &Cluster) {
    let is_whole = |shard: usize| {
        let said = [shard, shard + PRIMARIES].map(|index| cluster.info(index, "replication"));
        let primaries = said.iter().filter(|said| said.contains("role:master")).count();
        primaries == 1 && said.iter().any(|said| said.contains("master_link_status:up"))
    };
    let ready = wait::poll(wait::PATIENCE, || {
        let states = cluster.nodes.iter().map(|node| node.ask::<String>(&["CLUSTER", "INFO"]));
        let all = states.into_iter().all(|state| state.contains("cluster_state:ok"));
        (all && (0..PRIMARIES).all(is_whole)).then_some(())
    });
    assert!(ready.is_some(), "the cluster does not become whole");
}

/// Keys of this primary that are read and changed most.
fn busy_keys(cluster: &Cluster, primary: usize) -> Vec<String> {
    let keys = (0..20).flat_map(|item| ["t", "l", "c"].map(|kind| format!("{kind}:item:{item}")));
    keys.filter(|key| cluster.owner(key, &[primary]).is_some()).take(6).collect()
}

fn fail_over(world: &mut World, shard: usize, seed: &mut Seed) {
    let cluster = world.cluster.as_mut().expect("a cluster");
    let old = primary(cluster, shard);
    let new = if old == shard { shard + PRIMARIES } else { shard };
    cluster.nodes[new].freeze();
    let _: u64 = cluster.nodes[old].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    // Longer than the last echo: what it deletes again is not heard either.
    sleep(seed.millis(1_500, 2_500));
    cluster.nodes[old].kill();
    cluster.nodes[new].thaw();
    cluster.take_over(new);
    sleep(seed.millis(200, 1_000));
    cluster.nodes[old].restart(Data::Lost);
}

fn move_slots(cluster: &Cluster, at_once: bool, shards: [usize; 2], seed: &mut Seed) {
    let [here, there] = shards.map(|shard| primary(cluster, shard));
    let keys = busy_keys(cluster, here);
    let slots: BTreeSet<u16> = keys.iter().map(|key| cluster.slot(key)).collect();
    let slots: Vec<u16> = slots.into_iter().collect();
    for (from, to) in [(here, there), (there, here)] {
        if at_once {
            cluster.migrate_atomically(&slots, from, to);
            let moved =
                wait::poll(wait::PATIENCE, || keys.iter().all(|key| cluster.owner(key, &[to]).is_some()).then_some(()));
            assert!(moved.is_some(), "the slots do not arrive");
        } else {
            slots.iter().for_each(|slot| cluster.migrate(*slot, from, to));
        }
        sleep(seed.millis(0, 300));
    }
}

impl Wrong {
    fn strike(self, world: &mut World, seed: &mut Seed) {
        let shard = seed.below(PRIMARIES as u64) as usize;
        let other = (shard + 1 + seed.below(PRIMARIES as u64 - 1) as usize) % PRIMARIES;
        let cluster = world.cluster.as_ref().expect("a cluster");
        match self {
            Wrong::FailedOver => fail_over(world, shard, seed),
            Wrong::Frozen => {
                let node = primary(cluster, shard);
                cluster.nodes[node].freeze();
                sleep(if seed.chance(50) { seed.millis(200, 800) } else { seed.millis(2_000, 3_500) });
                cluster.nodes[node].thaw();
            }
            Wrong::Moved => move_slots(cluster, false, [shard, other], seed),
            Wrong::MovedAtOnce => move_slots(cluster, true, [shard, other], seed),
            Wrong::DaemonKilled => {
                world.kill_daemon();
                sleep(seed.millis(0, 500));
                world.run_daemon();
            }
        }
        whole(world.cluster.as_ref().expect("a cluster"));
    }
}

/// Load, one thing wrong after the other, and the comparison at whatever is a primary by then.
fn round(world: &mut World, wrong: &[Wrong], seed: &mut Seed) -> Round {
    let load = Load::start(world, &Arc::new(Oracle::default()), Mix::SingleRows, seed.fork());
    sleep(seed.millis(500, 1_000));
    for wrong in wrong {
        wrong.strike(world, seed);
        sleep(seed.millis(0, 500));
    }
    // The daemon looks at the cluster with each heartbeat.
    sleep(Duration::from_secs(1));
    let caching = Arc::clone(&world.caching);
    let [round] = conclude(world, vec![load], [caching]);
    round
}

fn world(without: &str) -> World {
    let cluster = Cluster::start(Server::Valkey9, &["cluster-replica-validity-factor 0"]);
    let url = cluster.url();
    let lines = format!("url = \"{url}\"\nheartbeat = \"500ms\"\n");
    let mut world = World::start().with_cache_at(lines, url);
    world.cluster = Some(cluster);
    world.set("CRIEUR_WITHOUT", without.to_owned());
    world.allow(CACHE_AWAY);
    world.allow(&["id=cache.", "id=mark.", "id=sweep.", "id=gap."]);
    world.run_ready_daemon();
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=cluster`; otherwise each thing comes once.
#[test]
fn failovers_and_moves_of_a_cluster_leave_nothing_stale() {
    let _others = beside_others();
    let (seconds, number) = (seconds_of("cluster"), Seed::of_the_run());
    println!("SEED={number} TOPOLOGY=cluster TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    let (mut world, started) = (world(""), Instant::now());
    let mut left = WRONG.to_vec();
    while !left.is_empty() {
        let wrong: Vec<Wrong> =
            (0..left.len().min(3)).map(|_| left.swap_remove(seed.below(left.len() as u64) as usize)).collect();
        let round = round(&mut world, &wrong, &mut seed);
        let (log, stale, compared) = (world.daemon().log(), round.stale.len(), round.compared);
        println!("{wrong:?}: {stale} stale of {compared} keys, {} commits, {:?}", round.commits, started.elapsed());
        assert!(round.stale.is_empty(), "SEED={number}: stale after {wrong:?}: {:#?}\n{log}", round.stale);
        assert!(compared > 20, "SEED={number}: nearly nothing was compared\n{log}");
        if left.is_empty() && started.elapsed() < Duration::from_secs(seconds) {
            left = WRONG.to_vec();
        }
    }
    world.stop_daemon();
}

/// With any mark taken for ours, what a replica did not hear before it took over stays.
#[test]
fn without_the_marks_of_shards_stale_keys_are_found() {
    let _others = beside_others();
    if is_outbox() {
        return; // The road behind the source is the same.
    }
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let mut world = world(&format!("{:?}", Guard::Mark));
    until_stale(&mut world, "without marks", 6, |world| round(world, &[Wrong::FailedOver], &mut seed));
    world.stop_daemon();
}
