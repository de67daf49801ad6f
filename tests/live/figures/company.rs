//! What the others cost a cache: one that is away, slow, or refuses, and nineteen that are well.

use std::time::Duration;

use super::super::daemon::Daemon;
use super::super::harness::proxy::Proxy;
use super::super::harness::redis::{Redis, Server};
use super::super::harness::wait::{PATIENCE, eventually};
use super::super::scene::{RULES, Scene};
use super::paced::{RATE, TELLS, commit_to_gone};
use super::{Spread, at, program, rounds};

/// How long each state is measured in each round.
const SECONDS: u32 = 8;
const CHANGES: u32 = RATE * SECONDS;

/// A configuration of these caches, under this slot. The mark of the first start follows the last echo.
pub fn config(scene: &Scene, slot: &str, urls: &[String]) -> String {
    let cache = |(index, url): (usize, &String)| format!("[caches.c{index}]\nurl = \"{url}\"\necho = [\"250ms\"]\n");
    let caches: String = urls.iter().enumerate().map(cache).collect();
    format!("[postgres]\nurl = \"{}\"\nslot = \"{slot}\"\n{caches}{RULES}", scene.postgres.url())
}

/// A daemon with this configuration whose marks are in all caches.
pub async fn started(config: &str, slot: &str, caches: &[&Redis]) -> Daemon {
    let set_up = super::super::daemon::run("setup", config, &[]);
    assert!(set_up.status.success(), "{}", String::from_utf8_lossy(&set_up.stderr));
    let daemon = Daemon::start_build(&program(), config);
    for cache in caches {
        let mark = format!("crieur:mark:{slot}");
        eventually("its mark is there", PATIENCE, async || cache.ask(&["EXISTS", &mark])).await;
    }
    daemon
}

/// How the other cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Well,
    Stopped,
    Slow,
    Refusing,
}

impl Other {
    const ALL: [Other; 4] = [Other::Well, Other::Stopped, Other::Slow, Other::Refusing];

    fn begins(self, server: &Redis, link: &Proxy) {
        match self {
            Other::Well => {}
            Other::Stopped => server.freeze(),
            Other::Slow => link.delay(Duration::from_millis(100)),
            Other::Refusing => link.refuse(),
        }
    }

    fn ends(server: &Redis, link: &Proxy) {
        server.thaw();
        link.heal();
    }
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn a_cache_beside_one_that_is_away() {
    let mut scene = Scene::start().await;
    scene.cache = Redis::start(&Server::System, &[TELLS]);
    let other = Redis::start(&Server::System, &[]);
    let link = Proxy::start(other.port());
    let urls = [scene.cache.url(), format!("redis://127.0.0.1:{}", link.port())];
    let mut daemon = started(&config(&scene, "crieur", &urls), "crieur", &[&scene.cache, &other]).await;
    daemon.allow("");
    let (mut first, mut p99, mut medians) = (1, vec![Spread::default(); 4], vec![Spread::default(); 4]);
    let mut ratios = vec![Spread::default(); 4];
    for _ in 0..rounds(7) {
        for (index, state) in Other::ALL.into_iter().enumerate() {
            state.begins(&other, &link);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let took = commit_to_gone(&scene.postgres.url(), scene.cache.port(), first, CHANGES);
            first += CHANGES;
            Other::ends(&other, &link);
            p99[index].push(at(0.99, took.clone()));
            medians[index].push(at(0.5, took));
            let well = p99[0].0.last().copied().expect("it is the first");
            ratios[index].push(p99[index].0.last().copied().expect("it was pushed") / well);
            scene.confirmed(&daemon).await;
        }
    }
    for (index, state) in Other::ALL.into_iter().enumerate() {
        let (median, p99, ratio) = (&medians[index], &p99[index], &ratios[index]);
        println!("the other cache {state:?}: median {median} ms, p99 {p99} ms, p99 beside Well {ratio}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn a_cache_beside_nineteen_others() {
    let many = Redis::start(&Server::System, &["databases 20"]);
    let alone = [1, 20];
    let (mut p99, mut ratios) = (vec![Spread::default(); 2], Spread::default());
    for _ in 0..rounds(5) {
        for (index, count) in alone.into_iter().enumerate() {
            let mut scene = Scene::start().await;
            scene.cache = Redis::start(&Server::System, &[TELLS]);
            let mut urls = vec![scene.cache.url()];
            urls.extend((1..count).map(|database| format!("{}/{database}", many.url())));
            let mut daemon = started(&config(&scene, "crieur", &urls), "crieur", &[&scene.cache]).await;
            daemon.allow("");
            scene.confirmed(&daemon).await;
            let took = commit_to_gone(&scene.postgres.url(), scene.cache.port(), 1, CHANGES);
            p99[index].push(at(0.99, took));
            assert_eq!(daemon.stop(), Some(0));
            let _: () = many.ask(&["FLUSHALL"]);
        }
        let last = |index: usize| p99[index].0.last().copied().expect("it was pushed");
        ratios.push(last(1) / last(0));
    }
    println!("p99 with 1 cache {} ms, with 20 {} ms, ratio {ratios}", p99[0], p99[1]);
}
