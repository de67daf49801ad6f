//! A cache that is another than it was: an old snapshot, a promoted replica, evicted keys, a server that still loads, one
//! that is full. What it holds that is stale goes, whether or not a connection broke.

use super::harness::process::Signal;
use super::harness::proxy::Proxy;
use super::harness::redis::{Data, Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{KEYS, Scene, config, set};

const MARK: &str = "crieur:mark:crieur";
const BOOK: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";

/// Waits until this key is gone.
async fn goes(cache: &Redis, key: &str, log: impl Fn() -> String) {
    settled(&format!("{key} goes"), PATIENCE, async || match cache.ask::<bool>(&["EXISTS", key]) {
        false => Ok(()),
        true => Err(log()),
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_restarts_from_an_old_snapshot_loses_what_is_stale_in_it() {
    let mut scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    for _ in 0..2 {
        scene.confirmed(&daemon).await;
        scene.fill();
        let () = scene.cache.ask(&["SAVE"]);
        // Deleted and confirmed, and back with the snapshot.
        scene.run(BOOK).await;
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("available_slots:1"));
        scene.cache.kill();
        scene.cache.restart(Data::Kept);
        assert!(!scene.gone().contains("available_slots:1"), "the snapshot is not old");
        // A change of something else, so that a position moves.
        scene.run("INSERT INTO visits SELECT coalesce(max(id), 0) + 1 FROM visits").await;
        goes(&scene.cache, "available_slots:1", || daemon.log()).await;
        scene.confirmed(&daemon).await;
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_replica_that_is_promoted_without_the_last_deletes_loses_what_is_stale_in_it() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.cache.port());
    let through = config(&scene.postgres.url(), &format!("redis://127.0.0.1:{}", proxy.port()));
    let mut daemon = scene.daemon_with(&through).await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    let replica = Redis::start(&Server::System, &[]);
    let () = replica.ask(&["REPLICAOF", "127.0.0.1", &scene.cache.port().to_string()]);
    let marks = || [&scene.cache, &replica].map(|server| server.ask::<Option<String>>(&["GET", MARK]));
    eventually("the replica follows", PATIENCE, async || {
        let [ours, theirs] = marks();
        ours.is_some() && ours == theirs && replica.ask::<bool>(&["EXISTS", KEYS[0]])
    })
    .await;
    let () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    scene.run(BOOK).await;
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("available_slots:1") && replica.ask::<bool>(&["EXISTS", "available_slots:1"]));

    proxy.lead_to(replica.port());
    scene.run("INSERT INTO visits VALUES (1)").await;
    goes(&replica, "available_slots:1", || daemon.log()).await;
    scene.confirmed(&daemon).await;
    assert!(replica.ask::<bool>(&["EXISTS", "session:1"]));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_evicts_keys_and_the_mark_is_swept() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let mut connection = scene.keys();
    let memory: String = redis::cmd("INFO").arg("memory").query(&mut connection).expect("it answers");
    let used: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .and_then(|bytes| bytes.parse().ok())
        .expect("each server says it");
    let () = scene.cache.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let () = scene.cache.ask(&["CONFIG", "SET", "maxmemory", &(used + (2 << 20)).to_string()]);
    let ballast = "x".repeat(10_000);
    let mut written = 0;
    daemon.signal(Signal::Stop);
    while scene.cache.ask(&["EXISTS", MARK]) {
        let mut pipeline = redis::pipe();
        for _ in 0..100 {
            written += 1;
            pipeline.cmd("SET").arg(format!("ballast:{written}")).arg(&ballast).ignore();
        }
        let () = pipeline.query(&mut connection).expect("it makes room");
        assert!(written < 100_000, "the mark is never evicted");
    }
    let () = scene.cache.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    // Keys that an older state may have left; that they are not stale nobody can know.
    scene.fill();
    daemon.signal(Signal::Cont);
    scene.run(BOOK).await;
    for key in ["available_slots:2", "properties:detail:1", "visits:1"] {
        goes(&scene.cache, key, || daemon.log()).await;
    }
    scene.confirmed(&daemon).await;
    assert!(!scene.gone().contains("session:1"));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_still_loads_gets_the_keys_when_it_has() {
    let slow = ["key-load-delay 1000", "loading-process-events-interval-bytes 1024"];
    let mut scene = Scene::with(Default::default(), &slow).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    let mut pipeline = redis::pipe();
    for key in 0..6000 {
        pipeline.cmd("SET").arg(format!("ballast:{key}")).arg("a value of some length").ignore();
    }
    let () = pipeline.query(&mut scene.keys()).expect("it is writable");
    let port = scene.cache.port();
    let mut loading = std::mem::replace(&mut scene.cache, Redis::start(&Server::System, &[]));
    let restart = tokio::task::spawn_blocking(move || {
        loading.restart(Data::Kept);
        loading
    });
    let refusal = || -> Option<String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
        let asked: redis::RedisResult<bool> = redis::cmd("EXISTS").arg("a").query(&mut client.get_connection().ok()?);
        asked.err()?.code().map(str::to_owned)
    };
    settled("it loads", PATIENCE, async || match refusal() {
        Some(code) if code == "LOADING" => Ok(()),
        other => Err(other),
    })
    .await;
    scene.run(BOOK).await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    daemon.wait_for_log("LOADING");
    let early = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&early).await, "false", "{}", daemon.log());
    scene.cache = restart.await.expect("the restart does not panic");
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// `maxmemory` with `noeviction` refuses the mark and takes UNLINK.
#[tokio::test]
async fn a_full_cache_loses_its_keys_and_the_position_goes_on() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("failed to write the mark");
    scene.confirmed(&daemon).await;
    let () = scene.cache.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    scene.run(BOOK).await;
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]), "{}", daemon.log());
    daemon.wait_for_log("OOM");
    let () = scene.cache.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    // With memory again the mark is written again, and a restart finds no gap.
    assert_eq!(scene.change(&daemon, BOOK).await, set(&["available_slots:1"]));
    assert_eq!(daemon.stop(), Some(0));
    scene.fill();
    let mut daemon = super::daemon::Daemon::start(&scene.config(), &[]);
    scene.run("INSERT INTO visit_bookings VALUES (1000, 2)").await;
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:2"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}
