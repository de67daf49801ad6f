//! What each further cache takes: resident memory of daemons that are idle.

use std::time::Duration;

use super::super::harness::redis::{Redis, Server};
use super::super::scene::Scene;
use super::company::{config, started};
use super::{Spread, rounds};

/// Of a process, in kB (proc(5), `VmRSS`).
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("each process has some");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The daemons run side by side, each with a slot of its own.
#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn with_one_two_and_twenty_caches() {
    let counts = [1, 2, 20];
    let (mut sizes, mut each) = (vec![Spread::default(); 3], vec![Spread::default(); 3]);
    for _ in 0..rounds(5) {
        let scene = Scene::start().await;
        let cache = Redis::start(&Server::System, &["databases 20"]);
        let mut daemons = Vec::new();
        for count in counts {
            let urls: Vec<String> = (0..count).map(|database| format!("{}/{database}", cache.url())).collect();
            let slot = format!("of_{count}");
            let mut daemon = started(&config(&scene, &slot, &urls), &slot, &[&cache]).await;
            daemon.allow("");
            daemons.push(daemon);
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let now: Vec<f64> = daemons.iter().map(|daemon| resident(daemon.pid())).collect();
        for (index, count) in counts.into_iter().enumerate() {
            sizes[index].push(now[index]);
            if count > 1 {
                each[index].push((now[index] - now[0]) / f64::from(count - 1));
            }
        }
        daemons.iter_mut().for_each(|daemon| assert_eq!(daemon.stop(), Some(0)));
    }
    println!("VmRSS with 1 cache {} kB", sizes[0]);
    for index in [1, 2] {
        println!("with {} {} kB: {} kB for each further one", counts[index], sizes[index], each[index]);
    }
}
