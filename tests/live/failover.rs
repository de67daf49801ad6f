//! A primary that dies and its standby that is promoted, with and without a synchronized slot.

use super::daemon::STARTED;
use super::harness::postgres::{self, Shutdown, Version};
use super::harness::proxy::Proxy;
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Scene, config, set, swept};

/// Promotes the standby of a scene's server that dies, with a daemon that knows both; says what the daemon logged.
async fn fail_over(version: Version, conf: &[&str], [prepare, ready]: [&str; 2]) -> String {
    let mut scene = Scene::with(postgres::Options { version, ..Default::default() }, &[]).await;
    scene.run("SELECT pg_create_physical_replication_slot('standby')").await;
    let standby = scene.postgres.standby(conf);
    scene.sql = scene.postgres.client().await;
    let (first, second) = (scene.postgres.port(), standby.port());
    // The standby comes first: it must be passed over while it is one.
    let hosts = format!("postgres://postgres@127.0.0.1:{second},127.0.0.1:{first}/postgres");
    let mut daemon = scene.daemon_with(&config(&hosts, &scene.cache.url())).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    daemon.allow("id=slot.anew");
    scene.confirmed(&daemon).await;
    let there = standby.client().await;
    settled("the standby is ready", PATIENCE, async || {
        // The slot's position moves when the server writes down which transactions run.
        scene.run("UPDATE leases SET property_id = property_id").await;
        scene.run("CHECKPOINT").await;
        scene.confirmed(&daemon).await;
        there.batch_execute(prepare).await.expect("the standby can");
        let row = there.query_one(ready, &[]).await.expect("the standby answers");
        if row.get::<_, Option<bool>>(0) == Some(true) { Ok(()) } else { Err((standby.log(), daemon.log())) }
    })
    .await;
    scene.fill();
    scene.postgres.stop(Shutdown::Immediate);
    there.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
    scene.sql = there;
    daemon.wait_for_logs(STARTED, 2);
    swept(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    // The gate asks the new primary: a change of it goes through.
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{version:?}: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
    daemon.log()
}

#[tokio::test]
async fn without_a_synchronized_slot_a_new_one_is_made_on_the_new_primary() {
    for version in Version::ALL {
        let log = fail_over(version, &[], ["", "SELECT pg_last_wal_replay_lsn() > '0/0'"]).await;
        assert!(log.contains("does not exist: it is created anew"), "{version:?}: {log}");
    }
}

#[tokio::test]
async fn a_synchronized_slot_goes_on_on_the_new_primary() {
    let ready = "SELECT bool_or(synced AND NOT temporary) FROM pg_replication_slots WHERE slot_name = 'crieur'";
    for version in [Version::V17, Version::V18] {
        let log =
            fail_over(version, &["hot_standby_feedback = on"], ["SELECT pg_sync_replication_slots()", ready]).await;
        assert!(!log.contains("id=slot.anew"), "{version:?}: {log}");
        assert!(log.contains("the mark in the cache is of another server or timeline: sweeping"), "{log}");
    }
}

/// An address that moves while the stream's old connection lives: the ordinary sessions notice.
#[tokio::test]
async fn a_stream_that_is_left_on_the_old_primary_follows_the_ordinary_sessions() {
    let mut scene = Scene::start().await;
    scene.run("SELECT pg_create_physical_replication_slot('standby')").await;
    let standby = scene.postgres.standby(&[]);
    scene.sql = scene.postgres.client().await;
    let address = Proxy::start(scene.postgres.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", address.port());
    let mut daemon = scene.daemon_with(&config(&url, &scene.cache.url())).await;
    daemon.allow("id=stream.other_server");
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    daemon.allow("id=slot.anew");
    scene.confirmed(&daemon).await;
    let there = standby.client().await;
    there.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
    address.move_to(standby.port());
    let ordinary = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE application_name = 'crieur' AND backend_type = 'client backend'";
    scene.run(ordinary).await;
    daemon.wait_for_logs(STARTED, 2);
    scene.sql = there;
    // The first one was that of the first start.
    daemon.wait_for_logs("id=sweep.ended", 2);
    scene.confirmed(&daemon).await;
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// The standby lacks what the old primary wrote last. From the promotion on the mark speaks of the new one's positions,
/// which are smaller: a mark with one of the old would cover changes that are yet to come.
#[tokio::test]
async fn the_mark_on_a_new_primary_that_is_behind_says_no_position_of_the_old_one() {
    let mut scene = Scene::start().await;
    scene.run("SELECT pg_create_physical_replication_slot('standby')").await;
    let standby = scene.postgres.standby(&[]);
    scene.sql = scene.postgres.client().await;
    let (first, second) = (scene.postgres.port(), standby.port());
    let hosts = format!("postgres://postgres@127.0.0.1:{second},127.0.0.1:{first}/postgres");
    let mut daemon = scene.daemon_with(&config(&hosts, &scene.cache.url())).await;
    ["id=stream.interrupted", "failed to", "id=slot.anew"].into_iter().for_each(|text| daemon.allow(text));
    scene.confirmed(&daemon).await;
    let there = standby.client().await;
    for statement in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
        there.batch_execute(statement).await.expect("the standby can");
    }
    settled("the standby receives nothing more", PATIENCE, async || {
        let row = there.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await.expect("it answers");
        if row.get::<_, i64>(0) == 0 { Ok(()) } else { Err(standby.log()) }
    })
    .await;
    scene.run("SELECT pg_logical_emit_message(true, 'other', repeat('x', 1000000)) FROM generate_series(1, 40)").await;
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    let said = |name: &str| -> crieur::lsn::Lsn {
        let mark: String = scene.cache.ask(&["GET", "crieur:mark:crieur"]);
        let mark: serde_json::Value = serde_json::from_str(&mark).expect("a mark");
        mark[name].as_str().and_then(|lsn| lsn.parse().ok()).expect("a position")
    };
    let before = said("lsn");
    scene.postgres.stop(Shutdown::Immediate);
    there.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
    daemon.wait_for_logs(STARTED, 2);
    daemon.wait_for_logs("id=sweep.ended", 2);
    let position = async || -> crieur::lsn::Lsn {
        let row = there.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.expect("it answers");
        row.get::<_, String>(0).parse().expect("a position")
    };
    // The first marks of the new connection, and some that follow.
    for id in 2..6 {
        there.batch_execute(&format!("INSERT INTO visit_bookings VALUES ({id}, 1)")).await.expect("valid SQL");
        let key = || scene.cache.ask::<bool>(&["EXISTS", "available_slots:1"]);
        scene.cache.ask::<()>(&["SET", "available_slots:1", "old"]);
        there.batch_execute("UPDATE visit_bookings SET property_id = property_id").await.expect("valid SQL");
        settled("it is deleted", PATIENCE, async || if key() { Err(daemon.log()) } else { Ok(()) }).await;
        for name in ["lsn", "deleted"] {
            let (said, there) = (said(name), position().await);
            assert!(
                said <= there && there < before,
                "{name} {said}, the server is at {there}, the old one was at {before}"
            );
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}
