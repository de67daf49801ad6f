//! What networks and servers do: cut, stall, half a reply, a crash. No key may be lost, whatever it was.

use super::daemon::STARTED;
use super::harness::postgres::Shutdown;
use super::harness::process::Signal;
use super::harness::proxy::{Direction, Proxy};
use super::harness::redis::Data;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Scene, config, set, swept};

/// More keys than two UNLINKs take.
const MANY: usize = 1500;

fn url(proxy: &Proxy) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port())
}

fn slots(scene: &Scene) -> usize {
    let found: Vec<String> =
        redis::cmd("KEYS").arg("available_slots:*").query(&mut scene.cache.connection()).expect("it answers");
    found.len()
}

/// Puts [`MANY`] keys there, which one transaction makes wrong.
fn fill_slots(scene: &Scene) {
    let mut pipeline = redis::pipe();
    for id in 1..=MANY {
        pipeline.cmd("SET").arg(format!("available_slots:{id}")).arg("value").ignore();
    }
    let _: () = pipeline.query(&mut scene.cache.connection()).expect("it is writable");
}

fn book_all() -> String {
    format!("INSERT INTO visit_bookings SELECT i, i FROM generate_series(1, {MANY}) AS i")
}

#[tokio::test]
async fn after_half_a_reply_the_same_keys_go_again() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.cache.port());
    let through = config(&scene.postgres.url(), &format!("redis://127.0.0.1:{}", proxy.port()));
    let mut daemon = scene.daemon_with(&through).await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    fill_slots(&scene);
    // Three commands go out. ":500\r\n" is 6 bytes: one reply and the first byte of the next come back.
    proxy.cut_after(7);
    scene.run(&book_all()).await;
    eventually("the cut", PATIENCE, async || proxy.has_cut()).await;
    // Every key is stale again: only a second delete of all of them, the answered ones too, helps.
    fill_slots(&scene);
    proxy.heal();
    scene.confirmed(&daemon).await;
    assert_eq!(slots(&scene), 0, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_stalled_link_to_postgresql_is_noticed_and_made_anew() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.postgres.port());
    let timeouts = "[postgres]\nconnect_timeout = \"1s\"\nliveness_timeout = \"2s\"\nlookup_timeout = \"2s\"\n";
    let through = config(&url(&proxy), &scene.cache.url()).replace("[postgres]\n", timeouts);
    let mut daemon = scene.daemon_with(&through).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    scene.confirmed(&daemon).await;
    for (round, direction) in [Direction::Answers, Direction::Questions].into_iter().enumerate() {
        scene.fill();
        proxy.stall(direction);
        daemon.wait_for_logs("nothing received for 2s: the link is dead", round + 1);
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({round}, 1)")).await;
        proxy.heal();
        daemon.wait_for_logs(STARTED, round + 2);
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "{direction:?}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_transaction_that_is_cut_in_its_middle_comes_again_as_a_whole() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.postgres.port());
    let mut daemon = scene.daemon_with(&config(&url(&proxy), &scene.cache.url())).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    for answers in [1, 100, 10_000, 40_000] {
        scene.confirmed(&daemon).await;
        fill_slots(&scene);
        proxy.cut_after(answers);
        scene.run(&format!("TRUNCATE leases; BEGIN; {}; COMMIT", book_all())).await;
        eventually("the cut", PATIENCE, async || proxy.has_cut()).await;
        scene.run("BEGIN; DELETE FROM visit_bookings; COMMIT").await;
        proxy.heal();
        scene.confirmed(&daemon).await;
        assert_eq!(slots(&scene), 0, "cut after {answers} bytes");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_link_that_is_cut_again_and_again_loses_no_key() {
    let scene = Scene::start().await;
    let (postgres, cache) = (Proxy::start(scene.postgres.port()), Proxy::start(scene.cache.port()));
    let through = config(&url(&postgres), &format!("redis://127.0.0.1:{}", cache.port()));
    let mut daemon = scene.daemon_with(&through).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    fill_slots(&scene);
    for id in 1..=MANY {
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, {id})")).await;
        match id % 150 {
            50 => postgres.cut(),
            100 => cache.cut(),
            _ => {}
        }
    }
    scene.confirmed(&daemon).await;
    assert_eq!(slots(&scene), 0);
    assert!(postgres.accepted() > 2 && cache.accepted() > 2, "nothing was cut");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_crash_of_postgresql_is_survived() {
    let mut scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    scene.confirmed(&daemon).await;
    for (round, how) in [Shutdown::Immediate, Shutdown::Fast].into_iter().enumerate() {
        scene.fill();
        scene.postgres.restart(how);
        scene.sql = scene.postgres.client().await;
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({round}, 1)")).await;
        daemon.wait_for_logs(STARTED, round + 2);
        scene.confirmed(&daemon).await;
        // A server that started again may have forgotten what was read and cached: with synchronous_commit = off, or
        // as a restored copy.
        daemon.wait_for_logs("id=gap.restarted", round + 1);
        swept(&scene, &daemon).await;
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_comes_back_without_its_mark_is_swept() {
    let mut scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    daemon.signal(Signal::Stop);
    scene.cache.restart(Data::Lost);
    // A reader filled it again before anybody looked; which of it is stale nobody knows.
    scene.fill();
    daemon.signal(Signal::Cont);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    daemon.wait_for_log("id=gap.went_back");
    scene.confirmed(&daemon).await;
    swept(&scene, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A cache that forgets without a broken connection: flushed, evicted, failed over behind a proxy.
#[tokio::test]
async fn a_cache_that_forgets_while_connected_is_swept() {
    let mark = "crieur:mark:crieur";
    let forget: [(&[&str], &str); 2] = [
        (&["DEL", mark], "id=gap.went_back"),
        (&["SET", mark, "{}"], "the mark in the cache cannot be read: sweeping"),
    ];
    for (command, said) in forget {
        let scene = Scene::start().await;
        let mut daemon = scene.daemon().await;
        scene.confirmed(&daemon).await;
        daemon.signal(Signal::Stop);
        let mut line = redis::Cmd::new();
        let () = line.arg(command).query(&mut scene.cache.connection()).expect("the cache forgets");
        scene.fill();
        daemon.signal(Signal::Cont);
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        daemon.wait_for_log(said);
        scene.confirmed(&daemon).await;
        swept(&scene, &daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Its walsender ends when everything it sent is confirmed (walsender.c, `WalSndDone`), and the echo holds that back.
#[tokio::test]
async fn a_server_that_shuts_down_need_not_wait_for_echoes() {
    let mut scene = Scene::start().await;
    let mut daemon = scene.daemon_with(&scene.config().replace("echo = []", "echo = [\"1s\"]")).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    assert_eq!(daemon.stop(), Some(0));
    let mut daemon = scene.daemon_with(&scene.config().replace("echo = []", "echo = [\"10m\"]")).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    eventually("the first delete", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
    scene.postgres.restart(Shutdown::Fast);
    assert!(scene.postgres.log().contains("database system is shut down"), "{}", scene.postgres.log());
    daemon.wait_for_logs(STARTED, 2);
    assert_eq!(daemon.stop(), Some(0));
}

/// The same without a cache: nothing can be confirmed, and nothing is lost.
#[tokio::test]
async fn a_server_that_shuts_down_need_not_wait_for_a_cache_that_is_away() {
    for hosts in ["127.0.0.1:{port}", "127.0.0.1:{port},127.0.0.1:1"] {
        let mut scene = Scene::start().await;
        let hosts = hosts.replace("{port}", &scene.postgres.port().to_string());
        let url = format!("postgres://postgres@{hosts}/postgres");
        let mut daemon = scene.daemon_with(&config(&url, &scene.cache.url())).await;
        daemon.allow("id=stream.interrupted");
        daemon.allow_failing_cache();
        daemon.allow("id=session.failing");
        scene.confirmed(&daemon).await;
        scene.cache.kill();
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        // To delete the key, or to read the mark.
        daemon.wait_for_log("failed to ");
        scene.postgres.restart(Shutdown::Fast);
        assert!(scene.postgres.log().contains("database system is shut down"), "{}", scene.postgres.log());
        scene.cache.restart(Data::Lost);
        scene.sql = scene.postgres.client().await;
        scene.fill();
        daemon.wait_for_logs(STARTED, 2);
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("available_slots:1"), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
