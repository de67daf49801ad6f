//! Outbox mode through PgBouncer, and what a notification is worth.

use super::daemon::{self, Daemon};
use super::harness::pgbouncer::{Pgbouncer, PoolMode};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{self, Scene, set};

const SLOT: &[&str] = &["available_slots:1"];

/// A scene whose daemon knows only the pooler.
async fn behind(mode: PoolMode) -> (Scene, Pgbouncer, String) {
    let scene = Scene::outbox().await;
    let pooler = Pgbouncer::start(mode, scene.postgres.port());
    let config = scene.mode.config(&scene::config(&pooler.url(), &scene.cache.url()));
    (scene, pooler, config)
}

#[tokio::test]
async fn everything_works_through_a_pooler_whether_it_keeps_sessions_or_not() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let (scene, pooler, config) = behind(mode).await;
        for command in ["setup", "check"] {
            let out = daemon::run(command, &config, &[]);
            let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert!(out.status.success(), "{mode:?}: {command}: {said}");
        }
        let mut daemon = scene.daemon_with(&config).await;
        // Others use the same sessions meanwhile, and leave their settings there.
        let (other, connection) =
            tokio_postgres::connect(&pooler.url(), tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        let noise = "SET DateStyle TO german; SET bytea_output TO escape; SELECT set_config('search_path', '', false)";
        let cases: &[(&str, &[&str])] = &[
            ("INSERT INTO rental_payments VALUES (1, 71, 100)", &["payments:lease:71", "dashboard:41"]),
            (
                "UPDATE rental_payments SET lease_id = 72",
                &["payments:lease:71", "dashboard:41", "payments:lease:72", "dashboard:42"],
            ),
            ("INSERT INTO visit_bookings VALUES (1, 1)", SLOT),
            ("INSERT INTO visits VALUES (150)", &["visits:150"]),
            ("TRUNCATE visits_high", &["visits:1", "visits:150"]),
        ];
        for (sql, gone) in cases {
            other.batch_execute(noise).await.expect("valid SQL");
            assert_eq!(scene.change(&daemon, sql).await, set(gone), "{mode:?}: {sql}\n{}", daemon.log());
        }
        let mut second = Daemon::start(&config, &[]);
        second.wait_for_log("id=stream.standing_by");
        daemon.kill();
        second.wait_for_log("id=outbox.started");
        scene.confirmed(&second).await;
        assert_eq!(scene.change(&second, "DELETE FROM visit_bookings").await, set(SLOT), "{mode:?}");
        assert_eq!(second.stop(), Some(0), "{mode:?}");
    }
}

/// Changes, and waits for their keys: the daemon does not look for rows before a notification comes.
async fn wakes(scene: &Scene, daemon: &Daemon) {
    scene.run("TRUNCATE visit_bookings").await;
    scene.confirmed(daemon).await;
    for id in 0..3 {
        scene.fill();
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({}, 1)", 1_000 + id)).await;
        settled("the key goes", PATIENCE, async || match scene.gone() {
            gone if gone == set(SLOT) => Ok(()),
            gone => Err((gone, daemon.log())),
        })
        .await;
    }
}

#[tokio::test]
async fn a_notification_wakes_the_daemon_directly_and_through_a_pooler_that_keeps_sessions() {
    let (scene, _pooler, config) = behind(PoolMode::Session).await;
    scene.run("SELECT crieur.notify(true)").await;
    for config in [scene.config(), config] {
        let mut daemon = scene.daemon_in(&config, &[("CRIEUR_WITHOUT", "looks".to_owned())]).await;
        assert!(daemon.log().contains("notify=true"), "{}", daemon.log());
        wakes(&scene, &daemon).await;
        // A session that ends takes its LISTEN along, and the next one listens anew.
        daemon.allow("id=stream.interrupted");
        daemon.allow("failed to watch the server");
        scene.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()").await;
        daemon.wait_for_logs("id=outbox.started", 2);
        wakes(&scene, &daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}
