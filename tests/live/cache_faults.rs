//! What a cache does to itself: it forgets, refuses, hangs, is replaced. Afterwards nothing stale is in it, and nothing
//! was confirmed before its key was answered.

use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::proxy::Proxy;
use super::harness::redis::{Data, Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{KEYS, Scene, config, set};

const MARK: &str = "crieur:mark:crieur";

fn ask<T: redis::FromRedisValue>(cache: &Redis, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query(&mut cache.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Waits until the log says `text` behind its first `from` bytes.
async fn says(daemon: &Daemon, from: usize, text: &str) {
    settled(&format!("the log says {text:?}"), PATIENCE, async || match daemon.log()[from..].to_owned() {
        log if log.contains(text) => Ok(()),
        log => Err(log),
    })
    .await;
}

async fn position(scene: &Scene) -> String {
    scene.ask("SELECT confirmed_flush_lsn::text FROM pg_replication_slots").await
}

/// The keys of the rules are gone, all others are there.
async fn swept(scene: &Scene, daemon: &Daemon) {
    let others = ["lock:lease:71", "lock:properties:detail:1", "properties:other", "session:1"];
    let ours = KEYS.iter().map(|key| key.to_string()).filter(|key| !others.contains(&key.as_str())).collect();
    settled("the rules' keys went, all others stay", PATIENCE, async || match scene.gone() {
        gone if gone == ours => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_that_the_cache_closed_is_replaced_without_a_word() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    for round in 0..5 {
        scene.confirmed(&daemon).await;
        // As `timeout` in redis.conf does; nothing is allowed in the log.
        let killed: u64 = ask(&scene.cache, &["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(killed > 0, "it had no connection");
        let booked = format!("INSERT INTO visit_bookings VALUES ({round}, 1)");
        assert_eq!(scene.change(&daemon, &booked).await, set(&["available_slots:1"]));
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// A key that the server does not even read must not keep the others waiting for ever.
#[tokio::test]
async fn a_key_that_is_too_long_for_the_cache_is_left_out_and_the_others_go() {
    let mut scene = Scene::start().await;
    let long = "repeat('x', 3 * 1024 * 1024)";
    let key = format!("properties:city:{}", "x".repeat(3 * 1024 * 1024));
    for server in Server::ALL {
        scene.cache = Redis::start(server, &[]);
        let mut daemon = scene.daemon().await;
        let () = ask(&scene.cache, &["SET", &key, "v"]);
        let went = scene.change(&daemon, &format!("UPDATE properties SET city = {long} WHERE id = 1")).await;
        assert!(went.contains("properties:detail:1"), "{server:?}");
        assert_eq!(ask::<u64>(&scene.cache, &["EXISTS", &key]), 0, "{server:?}: it can have this key");

        // From here on no client can read or write it.
        let () = ask(&scene.cache, &["SET", &key, "v"]);
        let () = ask(&scene.cache, &["CONFIG", "SET", "proto-max-bulk-len", "1048576"]);
        daemon.allow("the cache does not read a key of 3145744 bytes");
        let went = scene.change(&daemon, "UPDATE properties SET city = 'Dakar' WHERE id = 1").await;
        assert!(went.contains("properties:detail:1") && went.contains("properties:city:Dakar"), "{server:?}");
        let warned = daemon.log().len();
        scene.fill();
        scene.run("TRUNCATE properties CASCADE").await;
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("properties:detail:2"), "{server:?}: {}", daemon.log());
        says(&daemon, warned, "does not read a key").await;
        scene.run("INSERT INTO properties SELECT id, 'Dakar', 'old', 40 + id FROM generate_series(1, 9) AS id").await;
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0), "{server:?}");
    }
}

/// A cluster node: keys of a batch live in other slots, and this version cannot send them there.
#[tokio::test]
async fn a_cluster_node_stops_the_daemon_with_a_hint() {
    let mut scene = Scene::start().await;
    scene.cache = Redis::start(&Server::System, &["cluster-enabled yes"]);
    let slots: Vec<String> = (0..16384).map(|slot: u32| slot.to_string()).collect();
    let words: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    let () = ask(&scene.cache, &words);
    eventually("the cluster is whole", PATIENCE, async || {
        ask::<String>(&scene.cache, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("CROSSSLOT");
    scene.run("INSERT INTO visit_bookings SELECT i, i FROM generate_series(1, 9) AS i").await;
    assert_eq!(daemon.exit(), Some(69), "{}", daemon.log());
    assert!(daemon.log().contains("cluster node"), "{}", daemon.log());
}
