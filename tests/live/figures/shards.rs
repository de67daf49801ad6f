//! Keys a second into a cluster, beside a single server on the same machine.

use std::time::Instant;

use super::super::daemon::{self, Daemon, STARTED};
use super::super::harness::cluster::Cluster;
use super::super::harness::redis::Server;
use super::super::harness::wait::{PATIENCE, settled};
use super::super::scene::Scene;
use super::{Spread, program, rounds};

/// Keys of each row, so that deleting is what takes the time.
const KEYS: u32 = 10;
/// Transactions of the backlog, and rows of each.
const TRANSACTIONS: u32 = 100;
const ROWS: u32 = 1_000;

fn config(scene: &Scene, slot: &str, cache: &str) -> String {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("\"k{key}:{{id}}\"")).collect();
    let (url, keys) = (scene.postgres.url(), keys.join(", "));
    format!(
        "[postgres]\nurl = \"{url}\"\nslot = \"{slot}\"\n[cache]\nurl = \"{cache}\"\necho = []\n\
         [[rules]]\ntable = \"public.visit_bookings\"\nkeys = [{keys}]\n"
    )
}

/// The backlog of this slot, in keys a second.
async fn drained(scene: &Scene, slot: &str, config: &str) -> f64 {
    let now = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let mut daemon = Daemon::start_build(&program(), config);
    daemon.allow("");
    daemon.wait_for_log(STARTED);
    let began = Instant::now();
    let is_confirmed =
        format!("SELECT (confirmed_flush_lsn >= '{now}')::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    settled("the backlog is gone", 4 * PATIENCE, async || match scene.ask(&is_confirmed).await {
        yes if yes == "true" => Ok(()),
        _ => Err(daemon.log()),
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    assert_eq!(daemon.stop(), Some(0));
    assert!(!daemon.log().contains("id=sweep.began"), "keys were not deleted one by one: {}", daemon.log());
    f64::from(KEYS * TRANSACTIONS * ROWS) / took
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn keys_into_a_cluster_beside_a_single_server() {
    for server in [Server::System, Server::Valkey9] {
        let (mut scene, cluster) = (Scene::start().await, Cluster::start(server, &[]));
        scene.cache = super::super::harness::redis::Redis::start(&server, &[]);
        let ways = [("single", scene.cache.url()), ("cluster", cluster.url())];
        let configs = ways.clone().map(|(slot, url)| config(&scene, slot, &url));
        for (config, (slot, _)) in configs.iter().zip(&ways) {
            let out = daemon::run("setup", config, &[]);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            // Its first start sweeps, and leaves a mark.
            let mut daemon = Daemon::start_build(&program(), config);
            daemon.allow("");
            daemon.wait_for_log("id=sweep.ended");
            settled_at(&scene, slot).await;
            assert_eq!(daemon.stop(), Some(0));
        }
        let (mut speeds, mut ratios) = (vec![Spread::default(); 2], Spread::default());
        for _ in 0..rounds(5) {
            for _ in 0..TRANSACTIONS {
                let rows = format!("SELECT id, 1 FROM generate_series(1, {ROWS}) AS id");
                scene.run(&format!("INSERT INTO visit_bookings {rows}")).await;
                scene.run("TRUNCATE visits; DELETE FROM visit_bookings").await;
            }
            for (index, (config, (slot, _))) in configs.iter().zip(&ways).enumerate() {
                speeds[index].push(drained(&scene, slot, config).await / 1000.0);
            }
            let last = |index: usize| speeds[index].0.last().copied().expect("it was pushed");
            ratios.push(last(1) / last(0));
        }
        println!("{server:?}: single {} k keys/s, cluster {} k keys/s, ratio {ratios}", speeds[0], speeds[1]);
    }
}

/// Waits until the slot has confirmed what is there now.
async fn settled_at(scene: &Scene, slot: &str) {
    let now = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let sql =
        format!("SELECT (confirmed_flush_lsn >= '{now}')::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    settled("it is confirmed", PATIENCE, async || match scene.ask(&sql).await {
        yes if yes == "true" => Ok(()),
        other => Err(other),
    })
    .await;
}
