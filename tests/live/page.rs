//! The page of the real daemon: what it shows, to whom, and that nobody who looks is in the way of a delete.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::admin::{address, metric, ready};
use super::daemon::Daemon;
use super::harness::redis::{Data, Redis, Server};
use super::harness::sink::Sink;
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Mode, Scene};
use super::sinks::with;

async fn started(scene: &Scene, more: &str) -> (Daemon, SocketAddr) {
    let address = address();
    let config = format!("[admin]\nlisten = \"{address}\"\n{more}\n{}", scene.config());
    let daemon = scene.daemon_with(&config).await;
    ready(address, "200 OK").await;
    (daemon, address)
}

/// Sends a request for `path` with these fields, and reads to the end.
pub fn ask(address: SocketAddr, path: &str, fields: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("the daemon listens");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit above zero");
    socket.write_all(format!("GET {path} HTTP/1.1\r\n{fields}\r\n").as_bytes()).expect("the daemon reads");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer); // As much as there is; the caller looks at it.
    String::from_utf8_lossy(&answer).into_owned()
}

pub const HOST: &str = "Host: 127.0.0.1\r\n";

/// Opens the stream of events; it is read when somebody reads it.
fn viewer(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the daemon listens");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit above zero");
    socket.write_all(format!("GET /events?lang=fr HTTP/1.1\r\n{HOST}\r\n").as_bytes()).expect("the daemon reads");
    socket
}

/// Reads what came, until it has this text.
async fn sees(socket: &mut TcpStream, text: &str) -> String {
    let mut came = Vec::new();
    settled(&format!("the viewer sees {text}"), PATIENCE, async || {
        let mut part = [0; 65_536];
        if let Ok(read) = socket.read(&mut part) {
            came.extend_from_slice(&part[..read]);
        }
        let seen = String::from_utf8_lossy(&came).into_owned();
        if seen.contains(text) { Ok(seen) } else { Err(seen) }
    })
    .await
}

#[tokio::test]
async fn the_page_shows_what_was_deleted_by_which_rule_and_an_open_page_sees_it_come() {
    let scene = Scene::start().await;
    let (mut daemon, address) = started(&scene, "").await;
    let mut open = viewer(address);
    let begun = sees(&mut open, "data: changes ").await;
    assert!(begun.contains("text/event-stream") && begun.contains("event: part\n"), "{begun}");
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 7)").await;
    sees(&mut open, "available_slots:").await;
    // The owner is behind a lookup, whose answer the trail has as well.
    scene.change(&daemon, "INSERT INTO rental_payments VALUES (1, 71, 1)").await;
    sees(&mut open, "dashboard:").await;
    settled("the page shows both with their caches", PATIENCE, async || {
        let page = ask(address, "/", HOST);
        let all = ["public.visit_bookings", "insert", "available_slots:", "dashboard:", "payments:lease:", "main "];
        if all.iter().all(|part| page.contains(part)) && !page.contains("not yet") { Ok(()) } else { Err(page) }
    })
    .await;
    let page = ask(address, "/", HOST);
    assert!(page.len() < 60_000, "{}", page.len());
    assert!(page.contains("Content-Security-Policy: default-src 'none'") && page.contains("lang=en"), "{page}");
    let french = ask(address, "/?lang=fr", HOST);
    assert!(french.contains("Tout ce qui est validé est supprimé aussitôt."), "{french}");
    let password = ["postgres://", "redis://"];
    assert!(password.iter().all(|part| !page.contains(part)), "{page}");
    let runbook = ask(address, "/runbook/cache.failing", HOST);
    assert!(runbook.starts_with("HTTP/1.1 200") && runbook.contains("what to do"), "{runbook}");
    assert!(ask(address, "/runbook/none", HOST).starts_with("HTTP/1.1 404"));
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_is_away_is_the_first_thing_that_the_page_says() {
    let mut scene = Scene::start().await;
    let (mut daemon, address) = started(&scene, "").await;
    daemon.allow_failing_cache();
    let mut open = viewer(address);
    scene.cache.kill();
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    sees(&mut open, "le cache ne répond pas depuis").await;
    settled("the warning leads to what to do", PATIENCE, async || {
        let page = ask(address, "/", HOST);
        if page.contains("href=\"runbook/cache.failing?lang=en\"") { Ok(()) } else { Err(page) }
    })
    .await;
    scene.cache.restart(Data::Lost);
    ready(address, "200 OK").await;
    sees(&mut open, "Tout ce qui est validé est supprimé aussitôt.").await;
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}

/// The daemon is ready without them, and readers of a stale value are no better off for that.
#[tokio::test]
async fn what_is_not_required_and_refuses_or_does_not_answer_is_named_first_and_the_position_is_never_none() {
    let (mut scene, site) = (Scene::start().await, Sink::webhook());
    let mut dakar = Redis::start(&Server::System, &[]);
    let other = format!("[caches.dakar]\nurl = \"{}\"\nrequired = false\necho = []\n", dakar.url());
    let sections = site.section("echo = []\nhold_wal_bytes_max = 0") + &other;
    site.fault(json!({"do": "status", "code": 401, "times": 0}));
    // Nothing can be confirmed until the cache is there.
    scene.cache.kill();
    let address = address();
    let config = format!("[admin]\nlisten = \"{address}\"\n{}", with(&scene, &sections));
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log(Mode::Replication.started());
    let slot = "SELECT (confirmed_flush_lsn - '0/0')::text FROM pg_replication_slots";
    let stands_at: f64 = scene.ask(slot).await.parse().expect("a number");
    settled("the position is the slot's", PATIENCE, async || match metric(address, "confirmed_lsn_bytes") {
        at if at == stands_at => Ok(()),
        at => Err(format!("{at} instead of {stands_at}: {}", daemon.log())),
    })
    .await;
    assert!(!ask(address, "/", HOST).contains("<td>0/0</td>"));
    scene.cache.restart(Data::Lost);
    ready(address, "200 OK").await;
    dakar.kill();
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    let all = [
        ("/", "the cache dakar does not answer for"),
        ("/", "the sink webhook refuses what crieur asks for"),
        ("/", "<b>webhook</b> (sink)"),
        ("/?lang=fr", "le cache dakar ne répond pas depuis"),
        ("/?lang=fr", "le sink webhook refuse ce que crieur demande depuis"),
        ("/readyz", "200 OK"),
        ("/readyz", "sink webhook refuses what crieur asks"),
    ];
    for (path, part) in all {
        settled(&format!("{path} says {part}"), PATIENCE, async || {
            let answer = ask(address, path, HOST);
            if answer.contains(part) { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    assert!(!ask(address, "/", HOST).contains("deleted at once"));
}

#[tokio::test]
async fn a_name_that_may_be_somebody_elses_reads_no_page_and_keys_stay_off_it_when_they_shall() {
    let scene = Scene::start().await;
    let (mut daemon, address) = started(&scene, "changes = false\nhosts = [\"crieur.example\"]").await;
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 7)").await;
    for path in ["/", "/events", "/runbook/cache.failing"] {
        for fields in ["", "Host: evil.example\r\n", "Host: 127.0.0.1.evil.example\r\n"] {
            let answer = ask(address, path, fields);
            assert!(answer.starts_with("HTTP/1.1 403"), "{path} {fields}: {answer}");
        }
    }
    let page = ask(address, "/", "Host: crieur.example:443\r\n");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("admin.changes"), "{page}");
    assert!(!page.contains("available_slots:"), "{page}");
    assert!(ask(address, "/metrics", "Host: evil.example\r\n").starts_with("HTTP/1.1 200"), "a scraper has any name");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_hundred_viewers_are_shown_the_page_or_refused_and_no_delete_waits_for_them() {
    let scene = Scene::start().await;
    let (mut daemon, address) = started(&scene, "").await;
    // None of them reads.
    let viewers: Vec<TcpStream> = (0..100).map(|_| viewer(address)).collect();
    for lease in 1..20 {
        scene.change(&daemon, &format!("INSERT INTO visit_bookings VALUES ({lease}, {lease})")).await;
    }
    let mut shown = 0;
    for mut viewer in viewers {
        viewer.set_read_timeout(Some(PATIENCE)).expect("a limit above zero");
        let mut status = [0; 12];
        viewer.read_exact(&mut status).expect("each one is answered");
        match &status {
            b"HTTP/1.1 200" => shown += 1,
            b"HTTP/1.1 503" => {}
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!((1..=16).contains(&shown), "{shown}");
    settled("their places are free again", PATIENCE, async || {
        let mut next = viewer(address);
        let mut part = [0; 12];
        next.set_read_timeout(Some(PATIENCE)).expect("a limit above zero");
        next.read_exact(&mut part).map_err(|error| error.to_string())?;
        if &part == b"HTTP/1.1 200" { Ok(()) } else { Err(String::from_utf8_lossy(&part).into_owned()) }
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

/// What a browser made of the page after some seconds, and what it said about it.
fn browsed(address: SocketAddr, path: &str) -> (String, String) {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"])
        .args(["--timeout=6000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null())
        .output()
        .expect("chromium runs: apt-get install chromium");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_browser_shows_what_comes_while_the_page_is_open_and_its_policy_refuses_nothing_of_ours() {
    let scene = Scene::start().await;
    let (mut daemon, address) = started(&scene, "").await;
    let looking = std::thread::spawn(move || browsed(address, "/?lang=fr"));
    // While the browser looks, again and again: one of them comes behind the page's own text.
    let mut count = 0;
    while !looking.is_finished() {
        count += 1;
        scene.change(&daemon, &format!("INSERT INTO visit_bookings VALUES ({count}, {count})")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (page, said) = looking.join().expect("the browser ended");
    assert!(page.contains("lang=\"fr\"") && page.contains("available_slots:"), "{page}\n{said}");
    assert!(page.contains("<circle"), "the plot has points: {page}");
    assert!(!said.contains("Content Security Policy") && !said.contains("Uncaught"), "{said}");
    let gone = page.split("id=\"gone\"").nth(1).expect("the line for a daemon that is gone");
    assert!(gone.split('>').next().is_some_and(|tag| tag.contains("hidden")), "the events came: {said}");
    assert_eq!(daemon.stop(), Some(0));
}

/// A picture of the page for people to look at.
fn pictured(address: SocketAddr, path: &str, name: &str, size: &str, more: &[&str]) {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).expect("the target directory is ours");
    let file = folder.join(format!("{name}.png"));
    let status = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--timeout=3000"])
        .arg(format!("--window-size={size}"))
        .args(more)
        .arg(format!("--screenshot={}", file.display()))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("chromium runs: apt-get install chromium");
    assert!(status.success() && file.exists(), "{}", file.display());
    println!("{}", file.display());
}

#[tokio::test]
#[ignore = "pictures for people: cargo test --test live pictures -- --ignored --nocapture"]
async fn pictures_of_the_page() {
    let mut scene = Scene::start().await;
    let other = Redis::start(&Server::Valkey9, &[]);
    let dakar = format!("[caches.dakar]\nurl = \"{}\"\nrequired = false\necho = []\n", other.url());
    let (mut daemon, address) = started(&scene, &dakar).await;
    daemon.allow_failing_cache();
    for round in 1..40 {
        scene.change(&daemon, &format!("INSERT INTO visit_bookings VALUES ({round}, {round})")).await;
        scene.change(&daemon, &format!("INSERT INTO rental_payments VALUES ({round}, 71, {round})")).await;
        scene.run(&format!("UPDATE properties SET title = 'n{round}' WHERE id = 1")).await;
    }
    const DARK: &[&str] = &["--blink-settings=preferredColorScheme=0", "--force-dark-mode"];
    pictured(address, "/", "wide", "1280,1500", &[]);
    pictured(address, "/", "phone", "390,2600", &[]);
    pictured(address, "/", "dark", "1280,1500", DARK);
    pictured(address, "/?lang=fr", "french", "1280,1500", &[]);
    scene.cache.kill();
    scene.run("INSERT INTO visit_bookings VALUES (1000, 2)").await;
    daemon.wait_for_log("id=cache.failing");
    pictured(address, "/", "cache-away", "1280,1500", &[]);
    pictured(address, "/?lang=fr", "cache-away-phone-french", "390,2600", &[]);
    assert_eq!(daemon.stop(), Some(0));
}
