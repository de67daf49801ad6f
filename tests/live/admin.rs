//! The admin pages of the real daemon: what they say while it works, while the cache is away, and when the port is taken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::daemon::Daemon;
use super::harness::process;
use super::harness::redis::Data;
use super::harness::wait::{PATIENCE, settled};
use super::scene::Scene;

pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], process::free_port()))
}

fn config(scene: &Scene, address: SocketAddr) -> String {
    format!("[admin]\nlisten = \"{address}\"\n{}", scene.config())
}

/// Sends these bytes and reads to the end.
fn talk(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("the daemon listens");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit above zero");
    let _ = socket.write_all(request.as_bytes()); // It may be refused before its end.
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer); // As much as there is; the caller looks at it.
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn get(address: SocketAddr, path: &str) -> String {
    talk(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let page = get(address, "/metrics");
    let of_cache = format!("crieur_{name}{{cache=\"main\"}} ");
    let line = page.lines().find_map(|line| {
        line.strip_prefix(&format!("crieur_{name} ")).or_else(|| line.strip_prefix(of_cache.as_str()))
    });
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in:\n{page}"))
}

/// Waits until the metrics hold this line.
pub async fn shows(address: SocketAddr, line: &str) {
    settled(&format!("the metrics say {line}"), PATIENCE, async || match get(address, "/metrics") {
        page if page.lines().any(|found| found == line) => Ok(()),
        page => Err(page),
    })
    .await;
}

pub async fn ready(address: SocketAddr, expected: &str) {
    settled(&format!("/readyz says {expected:?}"), PATIENCE, async || match get(address, "/readyz") {
        answer if answer.contains(expected) => Ok(()),
        answer => Err(answer),
    })
    .await;
}

#[tokio::test]
async fn the_pages_follow_the_daemon() {
    let mut scene = Scene::start().await;
    let address = address();
    let mut daemon = scene.daemon_with(&config(&scene, address)).await;
    daemon.allow_failing_cache();
    ready(address, "200 OK").await;
    let before = metric(address, "keys_sent_total");
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    let confirmed = scene.ask("SELECT (confirmed_flush_lsn - '0/0')::text FROM pg_replication_slots").await;
    assert!(metric(address, "keys_sent_total") > before && metric(address, "keys_existed_total") >= 1.0);
    assert!(metric(address, "confirmed_lsn_bytes") >= confirmed.parse::<f64>().expect("a number"));
    assert_eq!(metric(address, "role{role=\"streaming\"}"), 1.0);
    assert_eq!(metric(address, "gaps_total{cache=\"main\",kind=\"missing\"}"), 1.0);
    assert_eq!(metric(address, "sweeps_total"), 1.0);
    assert_eq!(metric(address, "cache_outages_total"), 0.0);
    assert!(get(address, "/healthz").contains("200 OK"));
    assert!(!get(address, "/metrics").contains("redis://"));

    scene.cache.kill();
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    ready(address, "503 Service Unavailable").await;
    assert!(get(address, "/readyz").contains("the cache does not answer"));
    assert!(get(address, "/healthz").contains("200 OK"));
    scene.cache.restart(Data::Lost);
    ready(address, "200 OK").await;
    assert_eq!((metric(address, "cache_outages_total"), metric(address, "cache_up")), (1.0, 1.0));
    scene.confirmed(&daemon).await;
    let said = ["id=cache.failing", "id=mark.failing", "INFO the cache main works again id=cache.works_again"];
    assert_eq!(said.map(|line| daemon.log().matches(line).count()), [1, 0, 1], "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn whatever_a_client_does_the_keys_go_and_the_next_client_is_answered() {
    let scene = Scene::start().await;
    let address = address();
    let mut daemon = scene.daemon_with(&config(&scene, address)).await;
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).expect("the queue has room")).collect();
    scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    drop(silent);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let cases = [
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("GET /other HTTP/1.1\r\n\r\n", "404"),
        ("\u{16}\u{3}\u{1}\r\n\r\n", "400"),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
    ];
    for (request, status) in cases {
        let answer = talk(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    let head = talk(address, cases[3].0);
    assert!(head.ends_with("\r\n\r\n"), "a HEAD has no body: {head}");
    talk(address, &long); // Refused; the answer may be lost with the connection.
    ready(address, "200 OK").await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_daemon_with_a_hint() {
    let scene = Scene::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("a bound socket has an address");
    let mut daemon = Daemon::start(&config(&scene, address), &[]);
    daemon.allow("cannot listen on");
    assert_eq!(daemon.exit(), Some(71));
    assert!(daemon.log().contains("admin.listen"), "{}", daemon.log());
}

#[tokio::test]
async fn the_pages_say_which_daemon_works_and_which_stands_by() {
    let scene = Scene::start().await;
    let (first, second) = (address(), address());
    let mut working = scene.daemon_with(&config(&scene, first)).await;
    let mut waiting = Daemon::start(&config(&scene, second), &[]);
    let role = |address| ["streaming", "standby"].map(|role| metric(address, &format!("role{{role=\"{role}\"}}")));
    waiting.wait_for_log("id=stream.standing_by");
    settled("the second one stands by", PATIENCE, async || match role(second) {
        [0.0, 1.0] => Ok(()),
        seen => Err((seen, waiting.log())),
    })
    .await;
    assert_eq!(role(first), [1.0, 0.0]);
    assert!(get(second, "/healthz").contains("200 OK"), "{}", waiting.log());
    // A rolling update ends the first one only when the second is ready; that it works is another question.
    let readyz = get(second, "/readyz");
    assert!(readyz.contains("200 OK") && readyz.contains("standing by: another daemon has the slot"), "{readyz}");
    assert_eq!(metric(second, "ready"), 0.0);
    working.kill();
    settled("it took over", PATIENCE, async || match role(second) {
        [1.0, 0.0] => Ok(()),
        seen => Err((seen, waiting.log())),
    })
    .await;
    ready(second, "200 OK").await;
    assert_eq!(waiting.stop(), Some(0));
}
