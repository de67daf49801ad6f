//! Changes that are not deleted: a server that holds the stream back while its WAL goes on, a cache that is away. What shows
//! the daemon's state shows that.

use std::time::{SystemTime, UNIX_EPOCH};

use super::harness::postgres::{self, Version};
use super::harness::process::free_port;
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Mode, Scene, set};

const HELD: &str = "id=stream.held_back";

/// How old the mark in the cache is, in seconds.
fn age_of_mark(scene: &Scene) -> u64 {
    let mark: String = redis::cmd("GET").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("it is there");
    let mark: crieur::mark::Mark = serde_json::from_str(&mark).expect("a mark");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    now.saturating_sub(mark.at)
}

/// The first line of the answer, and its body.
fn get(port: u16, path: &str) -> (String, String) {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// Whole seconds of a metric.
fn metric(port: u16, name: &str) -> u64 {
    let (_, page) = get(port, "/metrics");
    let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{page}"));
    line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
}

#[tokio::test]
async fn a_standby_that_is_waited_for_holds_the_stream_back_and_that_is_said() {
    let scene = Scene::with(postgres::Options { version: Version::V17, ..Default::default() }, &[]).await;
    let port = free_port();
    let config = scene.config() + &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow(HELD);
    scene.confirmed(&daemon).await;
    assert_eq!(metric(port, "crieur_oldest_undeleted_seconds"), 0);
    scene.run("SELECT pg_create_physical_replication_slot('standby1')").await;
    scene.run("ALTER SYSTEM SET synchronized_standby_slots = 'standby1'").await;
    scene.run("SELECT pg_reload_conf()").await;
    settled("the setting holds", PATIENCE, async || {
        match scene.ask("SELECT current_setting('synchronized_standby_slots')").await {
            set if set == "standby1" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    daemon.wait_for_log(HELD);
    assert!(daemon.log().contains("synchronized_standby_slots = 'standby1'"), "{}", daemon.log());
    assert_eq!(scene.gone(), set(&[]), "{}", daemon.log());
    let checked = super::daemon::run("check", &config, &[]);
    let out = String::from_utf8_lossy(&checked.stdout).into_owned();
    let line =
        "WRONG synchronized_standby_slots: slot \"standby1\" is used by no standby: the server holds the stream back";
    assert!(out.contains(line) && checked.status.code() == Some(1), "{out}");
    assert!(out.contains("mend: ALTER SYSTEM SET synchronized_standby_slots = '';"), "{out}");
    settled("all that shows says so", PATIENCE, async || {
        let (ready, why) = get(port, "/readyz");
        let age = metric(port, "crieur_oldest_undeleted_seconds");
        let shown = ready.contains("503") && why.starts_with("the server holds the stream back\n") && age >= 1;
        if shown && age_of_mark(&scene) >= 4 { Ok(()) } else { Err((ready, why, age, age_of_mark(&scene))) }
    })
    .await;
    scene.run("ALTER SYSTEM RESET synchronized_standby_slots").await;
    scene.run("SELECT pg_reload_conf()").await;
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]), "{}", daemon.log());
    settled("it is over", PATIENCE, async || {
        let seen = (get(port, "/readyz").0.contains("200"), metric(port, "crieur_oldest_undeleted_seconds"));
        if seen == (true, 0) && age_of_mark(&scene) < 4 { Ok(()) } else { Err((seen, daemon.log())) }
    })
    .await;
    assert_eq!(daemon.log().matches("id=stream.started").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// The age of the oldest change that is not deleted yet grows while the cache is away, and is nothing when nothing is left.
#[tokio::test]
async fn the_oldest_change_that_waits_is_on_the_page() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, postgres::Options::default(), &[]).await;
        let port = free_port();
        let config = scene.config() + &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
        let mut daemon = scene.daemon_with(&config).await;
        daemon.allow_failing_cache();
        let oldest = || metric(port, "crieur_oldest_undeleted_seconds");
        assert_eq!(oldest(), 0);
        scene.cache.freeze();
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        settled("the change grows old", PATIENCE, async || match oldest() {
            0 | 1 => Err(daemon.log()),
            _ => Ok(()),
        })
        .await;
        scene.cache.thaw();
        settled("nothing is left", PATIENCE, async || {
            let seen = (oldest(), metric(port, "crieur_since_confirmed_seconds") < 4);
            if seen == (0, true) { Ok(()) } else { Err((seen, daemon.log())) }
        })
        .await;
        assert_eq!(daemon.stop(), Some(0));
    }
}
