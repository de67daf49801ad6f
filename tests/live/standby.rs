//! Two daemons on one slot: one works, the other takes over when it is gone, and no key is lost in between.

use std::os::unix::net::UnixDatagram;

use super::daemon::{Daemon, STARTED};
use super::harness::postgres;
use super::harness::process::Signal;
use super::harness::wait::{self, PATIENCE, eventually};
use super::scene::{Scene, set};

const STANDING_BY: &str = "id=stream.standing_by";

#[tokio::test]
async fn the_second_daemon_takes_over_and_misses_nothing() {
    let scene = Scene::start().await;
    let (mut working, mut waiting) = (scene.daemon().await, Daemon::start(&scene.config(), &[]));
    waiting.wait_for_log(STANDING_BY);
    scene.confirmed(&working).await;
    for round in 0..3 {
        scene.fill();
        working.kill();
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({round}, 1)")).await;
        waiting.wait_for_log(STARTED);
        scene.confirmed(&waiting).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "round {round}: {}", waiting.log());
        assert_eq!(waiting.log().matches(STANDING_BY).count(), 1, "it says so once:\n{}", waiting.log());
        working = std::mem::replace(&mut waiting, Daemon::start(&scene.config(), &[]));
        waiting.wait_for_log(STANDING_BY);
    }
    // One that stands by hears a stop, and leaves the other alone.
    assert_eq!(waiting.stop(), Some(0));
    assert_eq!(working.stop(), Some(0));
}

#[tokio::test]
async fn a_daemon_that_was_suspended_stands_by_when_it_wakes() {
    let conf = vec!["wal_sender_timeout = 1s".to_owned()];
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let (mut old, mut new) = (scene.daemon().await, Daemon::start(&scene.config(), &[]));
    old.allow("id=stream.interrupted");
    old.allow("failed to");
    new.wait_for_log(STANDING_BY);
    scene.confirmed(&old).await;
    old.signal(Signal::Stop);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    new.wait_for_log(STARTED);
    scene.confirmed(&new).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]), "{}", new.log());
    old.signal(Signal::Cont);
    old.wait_for_log(STANDING_BY);
    // The new one goes on with the slot while the old one looks on.
    for id in 2..6 {
        scene.fill();
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, 2)")).await;
        eventually("the key went", PATIENCE, async || scene.gone().contains("available_slots:2")).await;
    }
    assert_eq!(new.log().matches(STARTED).count(), 1, "{}", new.log());
    new.kill();
    old.wait_for_logs(STARTED, 2);
    scene.confirmed(&old).await;
    assert_eq!(old.stop(), Some(0));
}

/// What systemd hears, as one text.
fn heard(socket: &UnixDatagram, until: &str) -> String {
    let (mut all, mut message) = (String::new(), [0; 4096]);
    let found = wait::poll(PATIENCE, || {
        while let Ok(length) = socket.recv(&mut message) {
            all.push_str(&String::from_utf8_lossy(&message[..length]));
            all.push('\n');
        }
        all.contains(until).then_some(())
    });
    assert!(found.is_some(), "systemd does not hear {until:?}: {all}");
    all
}

#[tokio::test]
async fn systemd_hears_that_a_daemon_stands_by_and_that_it_took_over() {
    let scene = Scene::start().await;
    let mut working = scene.daemon().await;
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the directory is ours");
    socket.set_nonblocking(true).expect("a socket can");
    let path = path.to_str().expect("a plain name");
    let mut waiting = Daemon::start(&scene.config(), &[("NOTIFY_SOCKET", path)]);
    let all = heard(&socket, "STATUS=standing by: the slot is active for PID ");
    assert!(all.contains("READY=1"), "{all}");
    working.kill();
    heard(&socket, "STATUS=streaming");
    assert_eq!(waiting.stop(), Some(0));
}
