//! What a month costs there, and how old a change becomes.

use std::time::{Duration, Instant};

use super::super::daemon::{Daemon, STARTED};
use super::{Scene, Way};

/// Commands of a month, idle and at 20 changes a second, with and without a budget, and the greatest age that was seen:
/// `cargo test --features failpoints --test live upstash::figures -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn of_a_month() {
    // They mostly wait, so all four wait together.
    let all = Way::BOTH.into_iter().flat_map(|way| {
        [("budget 200k", "budget = '200k'"), ("no budget", "")].map(|(name, cache)| of(way, name, cache))
    });
    futures_util::future::join_all(all).await;
}

/// What three idle minutes cost, and fifteen with twenty changes a second, and the greatest age of a key in these.
async fn of(way: Way, name: &str, cache: &str) {
    let scene = Scene::start(way).await;
    let config = scene.config(cache).replace("echo = []", "");
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow("id=gap.missing");
    daemon.wait_for_log(STARTED);
    // The sweep of the start, its echoes and the first mark are no part of a month.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let month = |before: u64, lasted: Duration| {
        (scene.upstash.billed() - before) as f64 * 30.0 * 86_400.0 / lasted.as_secs_f64()
    };
    let (before, began) = (scene.upstash.billed(), Instant::now());
    tokio::time::sleep(Duration::from_secs(180)).await;
    let idle = month(before, began.elapsed());
    let (before, began, mut greatest, mut id) = (scene.upstash.billed(), Instant::now(), Duration::ZERO, 0);
    let mut open: Vec<(String, Instant)> = Vec::new();
    while began.elapsed() < Duration::from_secs(900) {
        id = id % 99 + 1;
        let (key, keys) = (format!("k:{id}"), scene.keys());
        open.retain(|(key, committed)| {
            let gone = !keys.contains(key);
            if gone {
                greatest = greatest.max(committed.elapsed());
            }
            !gone
        });
        // A key that is still there is not stored again: it would hide that the first change's delete came.
        let is_open = open.iter().any(|(known, _)| *known == key);
        if !is_open {
            scene.store(&[&key]);
        }
        scene.change(id).await;
        if !is_open {
            open.push((key, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(45)).await;
    }
    let busy = month(before, began.elapsed());
    println!("{way:?}, {name}: idle {idle:.0}, at 20 a second {busy:.0} commands a month, greatest age {greatest:?}");
    daemon.kill();
}
