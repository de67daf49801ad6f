//! A server that is far away: its snapshot comes a round trip after its change.

use super::harness::proxy::Proxy;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Scene, config};

/// The first delete does not wait for the snapshot, and the second does: the reader that fills the key in between sees
/// it go once more.
#[tokio::test]
async fn a_key_goes_at_once_and_again_behind_the_snapshot() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.postgres.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let mut daemon = scene.daemon_with(&config(&url, &scene.cache.url())).await;
    // Whose rows are whose is known from here on.
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (100, 1)").await;
    for id in 1..=3 {
        proxy.stall_all_but_streams();
        scene.fill();
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, 1)")).await;
        let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
        eventually("it goes at once", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
        let ahead = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
        assert_eq!(scene.ask(&ahead).await, "false", "nothing is confirmed before the snapshot came");
        scene.fill();
        proxy.heal();
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("available_slots:1"), "{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}
