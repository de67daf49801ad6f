//! What takes minutes; `make torture` runs it.

use std::time::Duration;

use super::harness::process::Signal;
use super::harness::wait::settled;
use super::scene::{Scene, set};

#[tokio::test]
#[ignore = "takes more than two minutes"]
async fn a_process_that_was_suspended_for_two_minutes_goes_on_where_it_was() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    daemon.signal(Signal::Stop);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let since = scene.ask("SELECT clock_timestamp()::text").await;
    // Twice the server's patience (`wal_sender_timeout`), which has ended the session by then.
    let over = format!("SELECT (clock_timestamp() > '{since}'::timestamptz + '125 s')::text");
    settled("two minutes are over", Duration::from_secs(180), async || match scene.ask(&over).await.as_str() {
        "true" => Ok(()),
        _ => Err(()),
    })
    .await;
    assert_eq!(scene.ask("SELECT active::text FROM pg_replication_slots").await, "false");
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    daemon.allow("id=stream.interrupted");
    daemon.signal(Signal::Cont);
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1", "available_slots:2"]));
    assert_eq!(daemon.log().matches("id=sweep.ended").count(), 1, "that of the first start: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}
