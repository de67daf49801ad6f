//! What a stream can hold besides plain rows: large and prepared transactions, TOAST, poor identities, changed tables,
//! and commits that nobody can see yet.

use super::harness::postgres;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{KEYS, Scene, set};

async fn with(conf: &[&str]) -> Scene {
    let conf = conf.iter().map(|line| line.to_string()).collect();
    Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await
}

#[tokio::test]
async fn a_transaction_that_is_streamed_while_open_deletes_what_it_commits() {
    let scene = with(&["logical_decoding_work_mem = 64kB"]).await;
    let mut daemon = scene.daemon().await;
    let rows =
        |from: u32, to: u32| format!("INSERT INTO visit_bookings SELECT i, i FROM generate_series({from}, {to}) i");
    let rolled_back = format!("BEGIN; {}; ROLLBACK", rows(1, 5000));
    assert_eq!(scene.change(&daemon, &rolled_back).await, set(&[]));
    // Keys of a subtransaction that was streamed before it was rolled back go with those of its transaction.
    let partly = format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; INSERT INTO visits VALUES (1); COMMIT",
        rows(2, 5000),
        rows(5001, 9000).replace("i, i", "i, 2"),
    );
    assert_eq!(scene.change(&daemon, &partly).await, set(&["available_slots:2", "visits:1"]));
    // The statistics come a moment later.
    eventually("a transaction was streamed while it was open", PATIENCE, async || {
        scene.ask("SELECT (stream_count > 0)::text FROM pg_stat_replication_slots").await == "true"
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_prepared_transaction_counts_when_it_is_committed() {
    let scene = with(&["max_prepared_transactions = 5"]).await;
    let mut daemon = scene.daemon().await;
    let prepare = "BEGIN; INSERT INTO visit_bookings VALUES (1, 1); PREPARE TRANSACTION 'a'";
    assert_eq!(scene.change(&daemon, prepare).await, set(&[]));
    assert_eq!(scene.change(&daemon, "COMMIT PREPARED 'a'").await, set(&["available_slots:1"]));
    let other = prepare.replace("(1, 1)", "(2, 2)");
    assert_eq!(scene.change(&daemon, &other).await, set(&[]));
    assert_eq!(scene.change(&daemon, "ROLLBACK PREPARED 'a'").await, set(&[]));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn what_the_identity_does_not_carry_widens_to_its_family() {
    let scene = Scene::start().await;
    // Before the daemon describes it for the first time: a poorer identity is a changed table.
    scene.run("ALTER TABLE properties REPLICA IDENTITY DEFAULT").await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let city = |key: &&str| key.starts_with("properties:city:");
    let mut expected: Vec<&str> = KEYS.iter().copied().filter(city).collect();
    expected.extend(["properties:all_properties_public", "properties:detail:1"]);
    for sql in ["UPDATE properties SET city = 'Mbour' WHERE id = 1", "DELETE FROM properties WHERE id = 1"] {
        assert_eq!(scene.change(&daemon, sql).await, set(&expected), "{sql}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_long_value_that_did_not_change_still_makes_its_key() {
    let scene = Scene::start().await;
    scene.run("ALTER TABLE properties ALTER city SET STORAGE EXTERNAL").await;
    scene.run("UPDATE properties SET city = repeat('long ', 2000) WHERE id = 1").await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let key = format!("properties:city:{}", "long ".repeat(2000));
    let _: () = redis::cmd("SET").arg(&key).arg("value").query(&mut scene.keys()).expect("it is writable");
    let gone = scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await;
    assert_eq!(gone, set(&["properties:all_properties_public", "properties:detail:1"]));
    let found: bool = redis::cmd("EXISTS").arg(&key).query(&mut scene.keys()).expect("it answers");
    assert!(!found, "the key of the value that is out of line stays");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_lookup_that_the_server_refuses_widens_until_it_is_mended() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=lookup.refused");
    scene.run("ALTER TABLE leases RENAME TO contracts").await;
    let gone = scene.change(&daemon, "INSERT INTO rental_payments VALUES (1, 71, 1)").await;
    assert_eq!(gone, set(&["payments:lease:71", "dashboard:41", "dashboard:42"]));
    daemon.wait_for_log("id=lookup.refused");
    scene.run("ALTER TABLE contracts RENAME TO leases").await;
    let gone = scene.change(&daemon, "INSERT INTO rental_payments VALUES (2, 72, 1)").await;
    assert_eq!(gone, set(&["payments:lease:72", "dashboard:42"]));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_commit_that_nobody_sees_yet_is_deleted_after_it_is_seen() {
    let scene = with(&["synchronous_commit = local", "synchronous_standby_names = 'nobody'"]).await;
    let mut daemon = scene.daemon().await;
    let writer = scene.postgres.client().await;
    let insert = "SET synchronous_commit = on; INSERT INTO visit_bookings VALUES (1, 1)";
    let commit = tokio::spawn(async move { writer.batch_execute(insert).await });
    // It is in the WAL, and so in the stream, but waits for a standby: other sessions see the old rows.
    eventually("the commit waits", PATIENCE, async || {
        scene.ask("SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await == "1"
    })
    .await;
    let end = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let received = format!("SELECT (write_lsn >= '{end}')::text FROM pg_stat_replication");
    eventually("the change is received", PATIENCE, async || scene.ask(&received).await == "true").await;
    assert_eq!(scene.ask("SELECT count(*)::text FROM visit_bookings").await, "0");
    // A reader that missed fills the cache from the old row.
    scene.fill();
    let confirmed = format!("SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&confirmed).await, "false", "a commit that nobody sees was confirmed");

    scene.run("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    scene.run("SELECT pg_reload_conf()").await;
    commit.await.expect("it does not panic").expect("it commits");
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]));
    assert_eq!(daemon.stop(), Some(0));
}
