//! What a sweep of a large cache does to the reads of others, and how long it takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::daemon::Daemon;
use super::super::harness::redis::{Redis, Server};
use super::super::harness::wait::PATIENCE;
use super::super::scene::Scene;
use super::{Spread, at, program, rounds};

/// Keys of the cache, in parts: the server makes each of them without looking at its clients.
const PARTS: u32 = 60;
const PART: &str = "50000";

/// Who reads, and how often each of them.
const READERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(2);

/// Milliseconds of each GET until `stop`.
fn reads(port: u16, stop: &AtomicBool) -> Vec<f64> {
    let mut cache = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    cache.set_nodelay(true).expect("a socket takes options");
    let (mut took, mut answer) = (Vec::new(), [0; 64]);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let asked = Instant::now();
        cache.write_all(b"GET hot\r\n").expect("it reads");
        assert!(cache.read(&mut answer).expect("it answers") > 0, "it closed the connection");
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
    }
    took
}

/// The p99 of GETs while `work` is done, in milliseconds.
async fn beside(port: u16, work: impl AsyncFnOnce()) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let reader = |_| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || reads(port, &stop))
    };
    let readers: Vec<_> = (0..READERS).map(reader).collect();
    work().await;
    stop.store(true, Ordering::Relaxed);
    at(0.99, readers.into_iter().flat_map(|reader| reader.join().expect("it reads")).collect())
}

/// The keys are all of the table that is truncated, or all of others.
#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn reads_beside_a_sweep_over_three_million_keys() {
    for (whose, prefix) in [("others", "other"), ("the table's", "properties:detail")] {
        let mut scene = Scene::start().await;
        scene.cache = Redis::start(&Server::System, &["enable-debug-command yes"]);
        let mut daemon = Daemon::start_build(&program(), &scene.config());
        daemon.allow("");
        daemon.wait_for_log("id=sweep.ended");
        scene.confirmed(&daemon).await;
        let (mut quiet, mut busy, mut ratios, mut lasted) = Default::default();
        let spreads: [&mut Spread; 4] = [&mut quiet, &mut busy, &mut ratios, &mut lasted];
        let [quiet, busy, ratios, lasted] = spreads;
        let port = scene.cache.port();
        for _ in 0..rounds(5) {
            for part in 0..PARTS {
                let () = scene.cache.ask(&["DEBUG", "POPULATE", PART, &format!("{prefix}:{part}"), "64"]);
            }
            let () = scene.cache.ask(&["SET", "hot", "value"]);
            quiet.push(beside(port, async || tokio::time::sleep(Duration::from_secs(5)).await).await);
            let (ended, began) = (daemon.log().matches("id=sweep.ended").count(), Instant::now());
            busy.push(
                beside(port, async || {
                    scene.run("TRUNCATE properties").await;
                    while daemon.log().matches("id=sweep.ended").count() == ended {
                        assert!(began.elapsed() < 10 * PATIENCE, "{}", daemon.log());
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                })
                .await,
            );
            lasted.push(began.elapsed().as_secs_f64());
            ratios.push(busy.0[busy.0.len() - 1] / quiet.0[quiet.0.len() - 1]);
        }
        println!(
            "three million keys, {whose}: p99 of GET quiet {quiet} ms, beside the sweep {busy} ms, ratio {ratios}; \
             the sweep took {lasted} s"
        );
        assert_eq!(daemon.stop(), Some(0));
    }
}
