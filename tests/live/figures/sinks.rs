//! What a sink costs the caches beside it: one that is well, and one that hangs.

use serde_json::json;

use super::super::harness::redis::{Redis, Server};
use super::super::harness::sink::Sink;
use super::super::harness::wait::{PATIENCE, eventually};
use super::super::scene::Scene;
use super::company::{config, started};
use super::paced::{RATE, TELLS, commit_to_gone};
use super::{Spread, at, rounds};

/// How long each is measured in each round; less than a request may take.
const SECONDS: u32 = 8;
const CHANGES: u32 = RATE * SECONDS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Well,
    Hangs,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::Well, Beside::Hangs];
}

/// Milliseconds from COMMIT to each key gone.
async fn measure(beside: Beside) -> Vec<f64> {
    let mut scene = Scene::start().await;
    scene.cache = Redis::start(&Server::System, &[TELLS]);
    let site = Sink::webhook();
    let mut config = config(&scene, "crieur", &[scene.cache.url()]);
    if beside != Beside::Nothing {
        let keys = "keys = [\"available_slots:{property_id}\"]";
        let tags = format!("{keys}\ntags = [\"visits:{{property_id}}\"]\ntags_all = \"visits\"");
        config = config.replace(keys, &tags).replace("[caches.c0]\n", &(site.section("") + "[caches.c0]\n"));
    }
    let mut daemon = started(&config, "crieur", &[&scene.cache]).await;
    daemon.allow("");
    if beside != Beside::Nothing {
        eventually("the start has purged", PATIENCE, async || site.purged().contains(&"visits".to_owned())).await;
    }
    if beside == Beside::Hangs {
        site.fault(json!({"do": "hang", "times": 0}));
    }
    let took = commit_to_gone(&scene.postgres.url(), scene.cache.port(), 1, CHANGES);
    let asked = site.log();
    let hung = asked.iter().filter(|one| one.status == 0).count();
    // What was measured is what the name says.
    assert_eq!((hung > 0, asked.len() > hung), (beside == Beside::Hangs, beside != Beside::Nothing), "{beside:?}");
    daemon.kill();
    took
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn a_cache_beside_a_sink_that_hangs() {
    let (mut p99, mut medians) = (vec![Spread::default(); 3], vec![Spread::default(); 3]);
    let (mut to_none, mut to_well) = (Spread::default(), Spread::default());
    for _ in 0..rounds(5) {
        for (index, beside) in Beside::ALL.into_iter().enumerate() {
            let took = measure(beside).await;
            p99[index].push(at(0.99, took.clone()));
            medians[index].push(at(0.5, took));
        }
        let last = |index: usize| p99[index].0.last().copied().expect("it was pushed");
        to_none.push(last(2) / last(0));
        to_well.push(last(2) / last(1));
    }
    for (index, beside) in Beside::ALL.into_iter().enumerate() {
        println!("the sink {beside:?}: median {} ms, p99 {} ms", medians[index], p99[index]);
    }
    println!("p99 beside one that hangs, to that without a sink {to_none}, to that beside one that is well {to_well}");
}
