//! Commits that nobody sees yet: a synchronous standby that never answers keeps them back behind their WAL record. The
//! gate waits for them, each for itself, and so do the sweeps of gaps.

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::Options;
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, swept};

const ELDERS: &str = "id=gap.open_transactions";

/// A server whose commits wait for ever where they do not say otherwise.
async fn hanging() -> Scene {
    let conf =
        ["synchronous_commit = local", "synchronous_standby_names = 'nobody'", "wal_receiver_status_interval = 1"];
    let conf = conf.map(str::to_owned).to_vec();
    Scene::with(Options { conf, ..Default::default() }, &[]).await
}

/// A transaction whose COMMIT is in WAL and does not return.
async fn hang(scene: &Scene, sql: &str) -> tokio::task::JoinHandle<()> {
    let writer = scene.postgres.client().await;
    let sql = format!("SET synchronous_commit = on; BEGIN; {sql}; COMMIT");
    let commit = tokio::spawn(async move { writer.batch_execute(&sql).await.expect("valid SQL") });
    eventually("the commit waits", PATIENCE, async || {
        scene.ask("SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await == "1"
    })
    .await;
    commit
}

/// Lets it return, and makes what it did visible.
async fn release(scene: &Scene, commit: tokio::task::JoinHandle<()>) {
    scene.run("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    scene.run("SELECT pg_reload_conf()").await;
    commit.await.expect("it does not panic");
}

#[tokio::test]
async fn what_is_visible_does_not_wait_for_what_is_not() {
    let scene = hanging().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let commit = hang(&scene, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    eventually("its key goes early", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
    // More keys than are ever deleted ahead of the gate: they go behind it, or not at all.
    let filled = |from: u32, to: u32| {
        let mut pipeline = redis::pipe();
        (from..=to).for_each(|id| {
            pipeline.cmd("SET").arg(format!("available_slots:{id}")).arg("value").ignore();
        });
        let () = pipeline.query(&mut scene.keys()).expect("it is writable");
    };
    filled(1001, 1200);
    scene.run("INSERT INTO visit_bookings SELECT i, i FROM generate_series(1001, 1200) AS i").await;
    settled("the visible keys go", PATIENCE, async || {
        let left: Vec<String> =
            redis::cmd("KEYS").arg("available_slots:1??*").query(&mut scene.keys()).expect("answers");
        if left.is_empty() { Ok(()) } else { Err((left.len(), daemon.log())) }
    })
    .await;
    scene.fill();
    assert!(!scene.gone().contains("available_slots:1"), "only its visibility deletes it again");
    release(&scene, commit).await;
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("available_slots:1"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Who makes the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maker {
    Run,
    Setup,
}

/// Waits until a session waits for the end of the transaction that `pid` has open.
async fn waited_for(scene: &Scene, pid: &str) {
    let sql = format!(
        "SELECT (count(*) > 0)::text FROM pg_locks AS w JOIN pg_locks AS h USING (transactionid) \
         WHERE NOT w.granted AND h.granted AND h.pid = {pid}"
    );
    eventually("the new slot waits for it", PATIENCE, async || scene.ask(&sql).await == "true").await;
}

/// An open transaction with a number.
async fn open(scene: &Scene) -> (tokio_postgres::Client, String) {
    let client = scene.postgres.client().await;
    client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("valid SQL");
    let pid = client.query_one("SELECT pg_backend_pid()::text", &[]).await.expect("it answers").get(0);
    (client, pid)
}

/// `SnapBuildFindSnapshot` (snapbuild.c) waits twice for what is open. A transaction that begins behind the second wait
/// and commits before it ends is not in the stream; here it is also not visible when the first sweep runs.
#[tokio::test]
async fn a_commit_before_the_slot_that_becomes_visible_after_the_sweep_is_swept_again() {
    for maker in [Maker::Run, Maker::Setup] {
        let scene = hanging().await;
        scene.run("SELECT pg_drop_replication_slot('crieur')").await;
        let config = scene.config();
        let (first, first_pid) = open(&scene).await;
        let setup = config.clone();
        let (mut running, setting_up) = match maker {
            Maker::Run => (Some(Daemon::start(&config, &[])), None),
            Maker::Setup => (None, Some(tokio::task::spawn_blocking(move || daemon::run("setup", &setup, &[])))),
        };
        waited_for(&scene, &first_pid).await;
        let (second, second_pid) = open(&scene).await;
        first.batch_execute("COMMIT").await.expect("it is open");
        waited_for(&scene, &second_pid).await;
        let commit = hang(&scene, "INSERT INTO visit_bookings VALUES (1, 1)").await;
        second.batch_execute("COMMIT").await.expect("it is open");
        if let Some(setting_up) = setting_up {
            let out = setting_up.await.expect("it does not panic");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        let mut daemon = running.take().unwrap_or_else(|| Daemon::start(&config, &[]));
        daemon.allow("id=slot.anew");
        daemon.wait_for_log(STARTED);
        daemon.wait_for_log("id=sweep.ended");
        assert!(daemon.log().contains(ELDERS), "{maker:?}: {}", daemon.log());
        assert_eq!(scene.ask("SELECT count(*)::text FROM visit_bookings").await, "0");
        // A reader stores what it sees: no booking.
        scene.fill();
        release(&scene, commit).await;
        swept(&scene, &daemon).await;
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.log().matches("id=sweep.ended").count(), 2, "{maker:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
