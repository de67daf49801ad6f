//! What outbox mode costs and how fast it is: figures, printed. They run only when asked, on a machine that is left alone:
//! `cargo test --test live cost -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::figures::cpu_seconds;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Mode, Scene};

/// From COMMIT's return to the key's end, `tries` times, ascending.
async fn latencies(scene: &Scene, tries: usize) -> Vec<Duration> {
    let mut cache = scene.keys();
    let mut took = Vec::new();
    for id in 0..tries {
        let _: () = redis::cmd("SET").arg("available_slots:1").arg("x").query(&mut cache).expect("it is writable");
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({}, 1)", 10_000 + id)).await;
        let committed = Instant::now();
        while redis::cmd("EXISTS").arg("available_slots:1").query::<bool>(&mut cache).expect("it answers") {
            std::hint::spin_loop();
        }
        took.push(committed.elapsed());
        tokio::time::sleep(Duration::from_millis(3 + id as u64 % 17)).await;
    }
    scene.run("TRUNCATE visit_bookings").await;
    took.sort();
    took
}

/// About 200 transactions a second, none of which is measured.
fn write(url: &str, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads can be made");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sql = format!("INSERT INTO visits VALUES ({}); DELETE FROM visits", n % 100);
            client.batch_execute(&sql).await.expect("valid SQL");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

fn print(what: &str, took: &[Duration]) {
    let at = |share: usize| took[took.len() * share / 100];
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn the_cost_of_an_idle_outbox_and_the_time_from_commit_to_delete() {
    for notify in [false, true] {
        let scene = Scene::outbox().await;
        scene.run(&format!("SELECT crieur.notify({notify})")).await;
        let mut daemon: Daemon = scene.daemon().await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let (before, began) = (cpu_seconds(daemon.pid()), Instant::now());
        let server = "SELECT sum(xact_commit)::text FROM pg_stat_database WHERE datname = 'postgres'";
        let commits: f64 = scene.ask(server).await.parse().expect("a number");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let share = (cpu_seconds(daemon.pid()) - before) / began.elapsed().as_secs_f64() * 100.0;
        let commits = scene.ask(server).await.parse::<f64>().expect("a number") - commits;
        println!("notify={notify}: idle {share:.2} % of a core, {:.1} transactions a second", commits / 20.0);
        let (stop, url) = (Arc::new(AtomicBool::new(false)), scene.postgres.url());
        let stopped = Arc::clone(&stop);
        // On a thread of its own: the one that measures does nothing else.
        let load = std::thread::spawn(move || write(&url, &stopped));
        print(&format!("notify={notify}: under load"), &latencies(&scene, 300).await);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("it writes");
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn the_time_from_a_killed_daemon_to_the_first_delete_of_the_one_that_stands_by() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let (mut working, mut took) = (scene.daemon().await, Vec::new());
        for id in 0..10 {
            let mut waiting = Daemon::start(&scene.config(), &[]);
            waiting.wait_for_log("id=stream.standing_by");
            scene.confirmed(&working).await;
            scene.fill();
            working.kill();
            let killed = Instant::now();
            scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, 1)")).await;
            eventually("the key goes", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
            took.push(killed.elapsed());
            working = waiting;
        }
        took.sort();
        print(&format!("{mode:?}: taken over"), &took);
        assert_eq!(working.stop(), Some(0));
    }
}
