//! Servers that forget: crashes with `synchronous_commit = off`, restored copies. No WAL tells, the run of the server
//! does.

use super::daemon::{Daemon, STARTED};
use super::harness::postgres::{self, Shutdown, Version};
use super::harness::process::{self, Signal};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, set, swept};

const STARTED_AGAIN: &str = "id=gap.restarted";

async fn of(version: Version, conf: &[&str]) -> Scene {
    let conf = conf.iter().map(|line| line.to_string()).collect();
    Scene::with(postgres::Options { version, conf, ..Default::default() }, &[]).await
}

/// SIGKILL for one backend: the server ends all others, recovers, and its postmaster stays.
async fn crash(scene: &mut Scene) {
    let other = scene.postgres.client().await;
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.expect("it answers").get(0);
    process::send(pid.try_into().expect("pids are positive"), Signal::Kill);
    eventually("every session ended", PATIENCE, async || scene.sql.is_closed()).await;
    let url = scene.postgres.url();
    settled("the server recovered", PATIENCE, async || {
        match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                scene.sql = client;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

async fn run_of(scene: &Scene) -> String {
    scene.ask(&include_str!("../../sql/run.sql").replace(":'publication'", "'crieur'")).await
}

#[tokio::test]
async fn the_run_of_a_server_changes_with_every_start_and_crash_and_with_nothing_else() {
    for version in Version::ALL {
        let mut scene = of(version, &[]).await;
        let mut before = run_of(&scene).await;
        for quiet in
            ["CHECKPOINT", "SELECT pg_reload_conf()", "SELECT pg_stat_reset()", "VACUUM", "SELECT pg_switch_wal()"]
        {
            scene.run(quiet).await;
            assert_eq!(run_of(&scene).await, before, "{version:?}: {quiet}");
        }
        for how in ["crash", "crash", "fast", "immediate"] {
            match how {
                "crash" => crash(&mut scene).await,
                how => {
                    scene.postgres.restart(if how == "fast" { Shutdown::Fast } else { Shutdown::Immediate });
                    scene.sql = scene.postgres.client().await;
                }
            }
            let after = run_of(&scene).await;
            assert_ne!(after, before, "{version:?}: {how}");
            before = after;
        }
    }
}

#[tokio::test]
async fn a_value_whose_transaction_a_crash_forgot_goes() {
    let mut scene = of(Version::System, &["synchronous_commit = off", "wal_writer_delay = 10s"]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    scene.confirmed(&daemon).await;
    let title = "SELECT title FROM properties WHERE id = 1";
    for round in 1.. {
        assert!(round < 6, "the server forgets nothing");
        scene.run("UPDATE properties SET title = 'forgotten' WHERE id = 1").await;
        assert_eq!(scene.ask(title).await, "forgotten");
        // A reader puts what it saw into the cache.
        scene.fill();
        crash(&mut scene).await;
        daemon.wait_for_logs(STARTED, round + 1);
        daemon.wait_for_logs(STARTED_AGAIN, round);
        swept(&scene, &daemon).await;
        if scene.ask(title).await == "old" {
            break;
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_server_that_was_restored_from_a_copy_means_a_sweep() {
    let mut scene = of(Version::System, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    scene.confirmed(&daemon).await;
    scene.postgres.stop(Shutdown::Fast);
    scene.postgres.save();
    scene.postgres.start_again();
    scene.sql = scene.postgres.client().await;
    daemon.wait_for_logs(STARTED, 2);
    for id in 0..50 {
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, 1)")).await;
    }
    scene.run("SELECT pg_switch_wal()").await;
    scene.run("INSERT INTO leases VALUES (1000, 1)").await;
    scene.confirmed(&daemon).await;

    // Back in time, while the daemon runs.
    scene.postgres.stop(Shutdown::Fast);
    scene.fill();
    scene.postgres.restore();
    scene.postgres.start_again();
    scene.sql = scene.postgres.client().await;
    daemon.wait_for_logs(STARTED, 3);
    swept(&scene, &daemon).await;
    // Positions of the time that never was confirm nothing, and the new ones move.
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    let real = "SELECT (confirmed_flush_lsn <= pg_current_wal_lsn())::text FROM pg_replication_slots";
    assert_eq!(scene.ask(real).await, "true", "a position of the time that never was is confirmed");
    assert_eq!(daemon.stop(), Some(0));

    // And while it is down.
    scene.postgres.stop(Shutdown::Fast);
    scene.fill();
    scene.postgres.restore();
    scene.postgres.start_again();
    scene.sql = scene.postgres.client().await;
    let mut next = Daemon::start(&scene.config(), &[]);
    next.wait_for_log(STARTED);
    swept(&scene, &next).await;
    let gone = scene.change(&next, "INSERT INTO visit_bookings VALUES (2, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", next.log());
    assert_eq!(next.stop(), Some(0));
}
