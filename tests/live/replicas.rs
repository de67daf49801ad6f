//! Readers of a standby: a key goes at once, and once more when the standby shows what the primary shows.

use super::daemon::Daemon;
use super::harness::postgres::{Options, Postgres, Shutdown};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene, set};

/// A primary, its standby, and a configuration that names it.
async fn with_replica(mode: Mode, conf: &[&str]) -> (Scene, Postgres, String) {
    let conf = conf.iter().map(|line| line.to_string()).collect();
    let mut scene = Scene::of(mode, Options { conf, ..Options::default() }, &[]).await;
    scene.run("SELECT pg_create_physical_replication_slot('standby')").await;
    let replica = scene.postgres.standby(&[]);
    scene.sql = scene.postgres.client().await;
    let config = naming(&scene, &replica);
    (scene, replica, config)
}

fn naming(scene: &Scene, replica: &Postgres) -> String {
    let replicas = format!("[postgres]\nreplicas = [\"{}\"]\n", replica.url());
    scene.config().replace("[postgres]\n", &replicas)
}

async fn goes(scene: &Scene, daemon: &Daemon, key: &str) {
    eventually(&format!("{key} goes"), PATIENCE, async || scene.gone().contains(key)).await;
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}

/// A change of `available_slots:1`; the question whether it is confirmed.
async fn book(scene: &Scene, id: u32) -> String {
    scene.run(&format!("BEGIN; INSERT INTO visit_bookings VALUES ({id}, 1)")).await;
    match scene.mode {
        Mode::Replication => {
            scene.run("COMMIT").await;
            let lsn = scene.ask("SELECT pg_current_wal_insert_lsn()::text").await;
            let slot = "FROM pg_replication_slots WHERE slot_name = 'crieur'";
            format!("SELECT (confirmed_flush_lsn >= '{lsn}')::text {slot}")
        }
        Mode::Outbox => {
            let rows = "SELECT count(*)::text FROM crieur.outbox WHERE xid =";
            let xid = scene.ask("SELECT pg_current_xact_id()::text").await;
            assert_eq!(scene.ask(&format!("{rows} '{xid}'")).await, "1");
            scene.run("COMMIT").await;
            format!("SELECT ('0' = ({rows} '{xid}'))::text")
        }
    }
}

#[tokio::test]
async fn what_readers_of_a_replica_stored_goes_when_the_replica_caught_up() {
    lagging_gone_and_promoted(Mode::Replication).await;
}

#[tokio::test]
async fn what_readers_of_a_replica_stored_goes_in_outbox_mode_too() {
    lagging_gone_and_promoted(Mode::Outbox).await;
}

async fn lagging_gone_and_promoted(mode: Mode) {
    let (scene, mut replica, config) = with_replica(mode, &[]).await;
    // Payments have no key but that of their lookup.
    let config = config.replace("\"payments:lease:{lease_id}\", ", "");
    let mut daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;

    // It lags: readers still see the row of before.
    let there = replica.client().await;
    there.batch_execute("SELECT pg_wal_replay_pause()").await.expect("it is a standby");
    let booked = book(&scene, 1).await;
    goes(&scene, &daemon, "available_slots:1").await;
    // Ahead of the gate and behind it; then nothing else deletes it, whatever else goes.
    settled("what a reader stores stays", PATIENCE, async || {
        scene.fill();
        scene.run("UPDATE properties SET title = title || '!' WHERE id = 1").await;
        eventually("the other key goes", PATIENCE, async || scene.gone().contains("properties:detail:1")).await;
        if scene.gone().contains("available_slots:1") { Err(daemon.log()) } else { Ok(()) }
    })
    .await;
    assert!(scene.ask(&booked).await == "false", "the replica's readers may store it still: {}", daemon.log());
    there.batch_execute("SELECT pg_wal_replay_resume()").await.expect("it is a standby");
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("available_slots:1"), "{}", daemon.log());

    // A lookup that finds no row makes no key to wait for, and its position moves.
    let none = scene.change(&daemon, "INSERT INTO rental_payments VALUES (1, 999, 1)").await;
    assert_eq!(none, set(&[]), "{}", daemon.log());

    // It is down: deletes go on, the position waits, and the log says for whom.
    daemon.allow("failed to wait for the replicas");
    drop(there);
    replica.stop(Shutdown::Fast);
    scene.fill();
    let booked = book(&scene, 2).await;
    goes(&scene, &daemon, "available_slots:1").await;
    daemon.wait_for_log("failed to wait for the replicas");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("failed to wait for the replicas")).expect("it was just seen");
    assert!(line.contains(" WARN PostgreSQL at "), "the object comes first: {line}");
    scene.fill();
    scene.run("INSERT INTO visits VALUES (150)").await;
    goes(&scene, &daemon, "visits:150").await;
    assert!(scene.ask(&booked).await == "false", "{}", daemon.log());
    replica.start_again();
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("available_slots:1"), "{}", daemon.log());
    daemon.wait_for_log("each read replica works again");

    // It is promoted: it never shows anything of the primary again.
    let there = replica.client().await;
    there.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
    let booked = book(&scene, 3).await;
    daemon.wait_for_log("Name only standbys in postgres.replicas");
    assert!(daemon.log().contains("ask the replica: the server is no standby"), "{}", daemon.log());
    assert!(scene.ask(&booked).await == "false", "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Of a commit that nobody waits for, the primary shows the rows before the WAL is where a standby gets it from.
#[tokio::test]
async fn a_commit_is_not_confirmed_before_the_replica_shows_it_even_if_it_is_not_flushed() {
    for mode in Mode::ALL {
        let (scene, replica, config) = with_replica(mode, &["wal_writer_delay = 2s"]).await;
        let mut daemon = scene.daemon_with(&config).await;
        scene.confirmed(&daemon).await;
        let there = replica.client().await;
        scene.run("SET synchronous_commit TO off").await;
        for id in 1..4 {
            let booked = book(&scene, id).await;
            eventually("it is confirmed", PATIENCE, async || scene.ask(&booked).await == "true").await;
            let shown = there.query_one("SELECT max(id) FROM visit_bookings", &[]).await.expect("it is a standby");
            assert_eq!(shown.get::<_, Option<i32>>(0), i32::try_from(id).ok(), "{mode:?}: {}", daemon.log());
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_replica_that_is_the_primary_is_said_to_be_none() {
    let scene = Scene::start().await;
    let mut daemon = Daemon::start(&naming(&scene, &scene.postgres), &[]);
    daemon.allow("ask the replica: the server is no standby");
    daemon.wait_for_log("Name only standbys in postgres.replicas");
    assert_eq!(daemon.stop(), Some(0));
}
