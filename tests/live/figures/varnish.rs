//! From COMMIT to the page of a CDN: a real Varnish with xkey stands for it, with its receiver, on this machine.

use std::time::{Duration, Instant};

use super::super::harness::wait::{PATIENCE, eventually};
use super::super::varnish::World;
use super::{Spread, rounds};

/// What the strategy says that a query takes.
const QUERY: Duration = Duration::from_millis(250);
/// Rows of their own, so that no echo of an earlier round purges a later one's page.
const FIRST: u32 = 1_000;

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn from_commit_to_the_page_of_a_cdn() {
    for takes in [Duration::ZERO, QUERY] {
        let world = World::start(takes).await;
        let changes = rounds(50) as u32;
        let rows = format!("SELECT id, 'Dakar', 'old', 1 FROM generate_series({FIRST}, {}) AS id", FIRST + changes - 1);
        world.scene.run(&format!("INSERT INTO properties {rows}")).await;
        // The purge of the first start has no echoes, so that nobody waits for them.
        assert_eq!(world.scene.daemon_with(&world.config("echo = []")).await.stop(), Some(0));
        // As the page has it: one change comes behind the other here.
        let daemon = world.scene.daemon_with(&world.config("rate = \"100/s\"")).await;
        let (mut shown, mut waited) = (Spread::default(), Spread::default());
        for id in FIRST..FIRST + changes {
            let path = format!("/biens/{id}");
            assert_eq!(world.kept(&path).await, "old");
            world.retitle(id, "new").await;
            let committed = Instant::now();
            loop {
                let came = Instant::now();
                if world.visit(&path).await == "new" {
                    shown.push(committed.elapsed().as_secs_f64() * 1e3);
                    waited.push(came.elapsed().as_secs_f64() * 1e3);
                    break;
                }
            }
        }
        println!("pages take {takes:?} to be made, {changes} changes, milliseconds, median (least to greatest):");
        println!("  COMMIT to the page {shown}; of it the first visitor waits {waited}");
        drop(daemon);
    }
}

/// The page is fetched again behind the last echo; until then a visitor who comes waits for the site.
#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn the_first_visitor_of_a_page_that_was_warmed() {
    let world = World::start(QUERY).await;
    let changes = rounds(20) as u32;
    let rows = format!("SELECT id, 'Dakar', 'old', 1 FROM generate_series({FIRST}, {}) AS id", FIRST + changes - 1);
    world.scene.run(&format!("INSERT INTO properties {rows}")).await;
    assert_eq!(world.scene.daemon_with(&world.config("echo = []")).await.stop(), Some(0));
    let page = format!("http://127.0.0.1:{}/biens/{{id}}", world.varnish.port());
    let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
    let config = world.config("rate = \"100/s\"\necho = [\"1s\"]").replace(keys, &format!("{keys}\nwarm = \"{page}\""));
    let daemon = world.scene.daemon_with(&config).await;
    let (mut warm, mut waited) = (Spread::default(), Spread::default());
    for id in FIRST..FIRST + changes {
        let path = format!("/biens/{id}");
        assert_eq!(world.kept(&path).await, "old");
        // Only what somebody had is fetched.
        let _: () = world.scene.cache.ask(&["SET", &format!("properties:detail:{id}"), "old"]);
        let reads = world.reads(&path);
        world.retitle(id, "new").await;
        let committed = Instant::now();
        eventually("the page is made for crieur", PATIENCE, async || world.reads(&path) > reads).await;
        tokio::time::sleep(QUERY).await;
        warm.push(committed.elapsed().as_secs_f64() * 1e3);
        let came = Instant::now();
        assert_eq!(world.visit(&path).await, "new");
        waited.push(came.elapsed().as_secs_f64() * 1e3);
        assert_eq!(world.reads(&path), reads + 1, "the visitor came when it was there");
    }
    println!("pages take {QUERY:?} to be made, the last echo after 1 s, {changes} changes, milliseconds:");
    println!("  COMMIT to the page fetched {warm}; the first visitor then waits {waited}");
    drop(daemon);
}
