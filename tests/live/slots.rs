//! What can become of a slot: dropped, lost, advanced, made while transactions are open. The cache becomes right by
//! itself, and the log says what happened.

use super::daemon::{Daemon, STARTED};
use super::harness::postgres::{self, Version};
use super::harness::process::Signal;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Scene, swept};

const ANEW: &str = "id=slot.anew";
const DROP: &str = "SELECT pg_drop_replication_slot('crieur')";

/// Ends the sender of a suspended daemon, so that its slot can be dropped or advanced.
async fn free_slot(scene: &Scene, daemon: &Daemon) {
    daemon.signal(Signal::Stop);
    scene.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await;
    eventually("the slot is free", PATIENCE, async || {
        scene.ask("SELECT bool_or(active)::text FROM pg_replication_slots").await == "false"
    })
    .await;
}

/// A change that no stream will ever tell, and the cache full of what was right before it.
async fn unseen_change(scene: &Scene) {
    scene.run("UPDATE properties SET title = title || '!'").await;
    scene.fill();
}

async fn of(version: Version, conf: &[&str]) -> Scene {
    let conf = conf.iter().map(|line| line.to_string()).collect();
    Scene::with(postgres::Options { version, conf, ..Default::default() }, &[]).await
}

#[tokio::test]
async fn a_slot_that_was_dropped_is_made_anew_and_the_cache_swept() {
    for version in Version::ALL {
        let scene = of(version, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow("id=stream.interrupted");
        daemon.allow("\"crieur\" does not exist: it is created anew");
        scene.confirmed(&daemon).await;
        // While it runs.
        free_slot(&scene, &daemon).await;
        scene.run(DROP).await;
        unseen_change(&scene).await;
        daemon.signal(Signal::Cont);
        daemon.wait_for_log(ANEW);
        daemon.wait_for_logs(STARTED, 2);
        scene.confirmed(&daemon).await;
        swept(&scene, &daemon).await;
        assert_eq!(daemon.stop(), Some(0));
        // While it is down; nothing was written since, so that no position tells.
        scene.run(DROP).await;
        scene.fill();
        let mut next = Daemon::start(&scene.config(), &[]);
        next.allow(ANEW);
        next.wait_for_log("id=sweep.ended");
        swept(&scene, &next).await;
        scene.confirmed(&next).await;
        assert_eq!(next.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_slot_that_lost_its_wal_is_made_anew_and_the_cache_swept() {
    for version in Version::ALL {
        let conf = ["max_slot_wal_keep_size = 16MB", "min_wal_size = 32MB", "max_wal_size = 32MB"];
        let scene = of(version, &conf).await;
        let mut daemon = scene.daemon().await;
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
        unseen_change(&scene).await;
        for id in 0..6 {
            scene.run(&format!("INSERT INTO leases VALUES ({}, 1)", 1000 + id)).await;
            scene.run("SELECT pg_switch_wal()").await;
        }
        scene.run("CHECKPOINT").await;
        assert_eq!(scene.ask("SELECT wal_status FROM pg_replication_slots").await, "lost");
        let mut next = Daemon::start(&scene.config(), &[]);
        next.allow(ANEW);
        next.wait_for_log(STARTED);
        swept(&scene, &next).await;
        scene.confirmed(&next).await;
        assert_eq!(scene.ask("SELECT wal_status FROM pg_replication_slots").await, "reserved");
        assert_eq!(next.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_slot_that_somebody_advanced_means_a_sweep() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    unseen_change(&scene).await;
    scene.run("SELECT pg_replication_slot_advance('crieur', pg_current_wal_lsn())").await;
    let mut next = Daemon::start(&scene.config(), &[]);
    next.wait_for_log(", the replication slot at ");
    swept(&scene, &next).await;
    assert_eq!(next.stop(), Some(0));
}

#[tokio::test]
async fn a_daemon_that_waits_for_its_new_slot_hears_a_stop() {
    let scene = Scene::start().await;
    scene.run(DROP).await;
    let other = scene.postgres.client().await;
    other.batch_execute("BEGIN; INSERT INTO visit_bookings VALUES (1, 1)").await.expect("valid SQL");
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow(ANEW);
    daemon.wait_for_log(ANEW);
    assert_eq!(daemon.stop(), Some(0));
}

/// The new slot's stream begins behind transactions that were open when it was made: none of them is in it.
#[tokio::test]
async fn what_was_open_when_the_slot_was_made_is_swept_after_its_end() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    scene.run(DROP).await;
    let other = scene.postgres.client().await;
    other.batch_execute("BEGIN; INSERT INTO visit_bookings VALUES (1, 1)").await.expect("valid SQL");
    let mut next = Daemon::start(&scene.config(), &[]);
    next.allow(ANEW);
    next.wait_for_log(ANEW);
    scene.fill();
    other.batch_execute("COMMIT").await.expect("it is open");
    next.wait_for_log(STARTED);
    scene.confirmed(&next).await;
    swept(&scene, &next).await;
    assert_eq!(next.stop(), Some(0));
}

/// It is warned of while it can be mended; when it is too late it becomes right by itself.
#[tokio::test]
async fn a_slot_that_is_lost_under_a_running_daemon_is_made_anew_and_the_cache_swept() {
    let scene = of(Version::System, &["max_slot_wal_keep_size = 64MB", "min_wal_size = 32MB", "max_wal_size = 32MB"]);
    let scene = scene.await;
    let mut daemon = scene.daemon().await;
    daemon.allow("failed to");
    daemon.allow("replication slot holds back");
    daemon.allow("id=stream.interrupted");
    daemon.allow(ANEW);
    scene.confirmed(&daemon).await;
    // A cache that is away is left behind in time; what a transaction holds back that stays open nobody can move.
    let mut client = scene.postgres.client().await;
    let open = client.transaction().await.expect("it begins");
    open.batch_execute("INSERT INTO visits VALUES (99)").await.expect("valid SQL");
    let write = async |segments: u32| {
        for _ in 0..segments {
            scene.run("INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings").await;
            scene.run("SELECT pg_switch_wal()").await;
        }
    };
    write(4).await;
    daemon.wait_for_log("it is behind by more than max_wal_size");
    // The server makes checkpoints of its own, so that "unreserved" may be over before it is looked at.
    write(4).await;
    scene.run("CHECKPOINT").await;
    daemon.wait_for_log("lost its WAL (max_slot_wal_keep_size): it is created anew");
    open.rollback().await.expect("it ends");
    daemon.wait_for_logs(STARTED, 2);
    swept(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    assert_eq!(scene.ask("SELECT wal_status FROM pg_replication_slots").await, "reserved");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_slot_that_is_about_to_be_lost_is_told_and_nothing_is_when_the_cache_comes_back_in_time() {
    // Positions move only at the end of a transaction; the ballast is more than two WAL files.
    let scene = of(Version::System, &["max_slot_wal_keep_size = 1MB"]).await;
    // A cache that may not be swept is never left behind.
    let config = scene.config().replace("[cache]\n", "[cache]\non_gap = \"warn\"\n");
    let mut daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;
    scene.cache.freeze();
    let words = ["failed to delete keys", "failed to write the mark", "failed to read the mark", "id=gap.unswept"];
    for allowed in words {
        daemon.allow(allowed);
    }
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let ballast = "SELECT count(pg_logical_emit_message(false, 'ballast', repeat('x', 100000)))::text \
                   FROM generate_series(1, 500)";
    scene.ask(ballast).await;
    eventually("the slot is beyond what the server keeps", PATIENCE, async || {
        scene.ask("SELECT wal_status FROM pg_replication_slots").await == "unreserved"
    })
    .await;
    daemon.allow("replication slot holds back");
    daemon.wait_for_log("the next checkpoint may remove what it needs");
    scene.cache.thaw();
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), super::scene::set(&["available_slots:1"]));
    assert_eq!(daemon.log().matches(STARTED).count(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// What nobody saw may stay, as the configuration says; what is in memory may not.
#[tokio::test]
async fn where_gaps_are_only_told_no_mark_is_ahead_of_what_is_in_memory() {
    let scene = Scene::start().await;
    let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
    let as_ann = format!("redis://ann:pw@127.0.0.1:{}", scene.cache.port());
    let config = scene.config().replace(&scene.cache.url(), &as_ann);
    let config = config.replace("[cache]\n", "[cache]\non_gap = \"warn\"\nheartbeat = \"1s\"\n");
    let config = format!("{config}\n[[rules]]\ntable = \"public.visits\"\nkeys = [\"visit:{{id}}:*\"]\n");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    ["id=gap.unswept", "id=stream.interrupted"].into_iter().for_each(|id| daemon.allow(id));
    scene.confirmed(&daemon).await;
    scene.fill();
    let rooms = || scene.cache.ask::<bool>(&["EXISTS", "visit:7:rooms"]);
    let () = scene.cache.ask(&["SET", "visit:7:rooms", "old"]);
    let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "-scan"]);
    scene.cache.freeze();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    scene.run("INSERT INTO visits VALUES (7)").await;
    let received = format!(
        "SELECT bool_or(write_lsn >= '{}')::text FROM pg_stat_replication",
        scene.ask("SELECT pg_current_wal_lsn()::text").await
    );
    eventually("both are received", PATIENCE, async || scene.ask(&received).await == "true").await;
    free_slot(&scene, &daemon).await;
    unseen_by_the_daemon(&scene).await;
    let start = scene.ask("SELECT confirmed_flush_lsn::text FROM pg_replication_slots").await;
    daemon.signal(Signal::Cont);
    daemon.wait_for_logs(STARTED, 2);
    scene.cache.thaw();
    eventually("the first one's key goes", PATIENCE, async || {
        !scene.cache.ask::<bool>(&["EXISTS", "available_slots:1"])
    })
    .await;
    // Behind it a mark would have been written at once.
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    eventually("another key goes", PATIENCE, async || !scene.cache.ask::<bool>(&["EXISTS", "available_slots:2"])).await;
    let mark: String = scene.cache.ask(&["GET", "crieur:mark:crieur"]);
    let mark: crieur::mark::Mark = serde_json::from_str(&mark).expect("the daemon writes marks");
    assert!(rooms(), "{}", daemon.log());
    let is_behind = scene.ask(&format!("SELECT ('{}'::pg_lsn < '{start}')::text", mark.lsn)).await;
    assert_eq!(is_behind, "true", "{mark:?}, {start}: {}", daemon.log());
    let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "+scan"]);
    eventually("what was in memory goes", PATIENCE, async || !rooms()).await;
    scene.confirmed(&daemon).await;
    assert!(daemon.log().matches("id=gap.unswept").count() == 2, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// A change ahead of which somebody moves the slot on.
async fn unseen_by_the_daemon(scene: &Scene) {
    scene.run("UPDATE properties SET title = title || '!'").await;
    scene.ask("SELECT pg_replication_slot_advance('crieur', pg_current_wal_lsn())::text").await;
}

/// Said once, with what it is about: nothing is made anew where there is no room.
#[tokio::test]
async fn a_server_without_a_free_slot_is_waited_for_and_told_once() {
    let scene = of(Version::System, &["max_replication_slots = 1"]).await;
    scene.run(DROP).await;
    scene.run("SELECT pg_create_physical_replication_slot('other')").await;
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("all 1 replication slots of the server are in use");
    daemon.wait_for_log("all 1 replication slots of the server are in use");
    assert!(daemon.log().contains("raise max_replication_slots"), "{}", daemon.log());
    scene.run("SELECT pg_drop_replication_slot('other')").await;
    daemon.allow(ANEW);
    daemon.wait_for_log(STARTED);
    assert_eq!(daemon.log().matches(ANEW).count(), 1, "{}", daemon.log());
    assert_eq!(daemon.log().matches("are in use").count(), 1, "{}", daemon.log());
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}
