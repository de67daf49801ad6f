//! A day of load on the outbox, in the minutes that the machine needs for it: figures, printed. `make day` runs it.
//!
//! `DAY` is the number of transactions, by default those of twenty a second for 24 hours. Some roll back, some change
//! many rows, one in thousands is left open for seconds, which keeps VACUUM from what was removed meanwhile; the daemon
//! is killed at intervals. Autovacuum works as it does anywhere: with the outbox's own settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::scene::Scene;

const WRITERS: u64 = 6;

/// Every so many transactions the daemon dies, and stays away for a moment.
const LIFE: u64 = 200_000;

/// Sizes of the outbox with its index and its dead rows, in bytes, as they were seen each second.
#[derive(Default)]
struct Sizes(Vec<u64>);

impl Sizes {
    fn line(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let at = |part: usize| mib(sorted[(sorted.len() - 1) * part / 100]);
        let last = self.0.last().copied().unwrap_or_default();
        format!("median {:.1}, p99 {:.1}, max {:.1}, at the end {:.1} MiB", at(50), at(99), at(100), mib(last))
    }
}

/// One of the transactions; they differ by their number.
fn transaction(number: u64) -> String {
    let (property, id) = (number % 9 + 1, 1_000 + number);
    match number % 1_000 {
        0..600 => format!("UPDATE properties SET title = 'title {number}' WHERE id = {property}"),
        600..800 => format!("INSERT INTO visit_bookings VALUES ({id}, {property})"),
        800..900 => format!("INSERT INTO rental_payments VALUES ({id}, {}, 1)", 70 + property),
        900..950 => format!("BEGIN; UPDATE properties SET city = 'Mbour' WHERE id = {property}; ROLLBACK"),
        950..998 => format!(
            "BEGIN; SAVEPOINT a; DELETE FROM rental_payments WHERE id = {id}; ROLLBACK TO a; \
                             UPDATE leases SET property_id = property_id WHERE id = 71; COMMIT"
        ),
        998 => "DELETE FROM visit_bookings".to_owned(),
        _ => "UPDATE properties SET title = title || '.' WHERE length(title) < 100; DELETE FROM rental_payments"
            .to_owned(),
    }
}

fn write(url: &str, done: &AtomicU64, day: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads can be made");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        loop {
            let number = done.fetch_add(1, Ordering::Relaxed);
            if number >= day {
                return;
            }
            client.batch_execute(&transaction(number)).await.expect("valid SQL");
            if number % 50_000 == 7 {
                client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("valid SQL");
                tokio::time::sleep(Duration::from_secs(5)).await;
                client.batch_execute("COMMIT").await.expect("it is open");
            }
        }
    });
}

/// Another daemon in the place of one that was killed.
async fn another(scene: &Scene, mut daemon: Daemon) -> Daemon {
    daemon.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut next = Daemon::start(&scene.config(), &[]);
    next.wait_for_log(scene.mode.started());
    next
}

#[tokio::test]
#[ignore = "takes minutes; make day"]
async fn the_outbox_stays_small_under_a_day_of_load() {
    let day: u64 = std::env::var("DAY").map_or(20 * 86_400, |text| text.parse().expect("DAY is a number"));
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (url, done) = (scene.postgres.url(), Arc::clone(&done));
            std::thread::spawn(move || write(&url, &done, day))
        })
        .collect();
    let (mut sizes, mut rows_max, mut lives) = (Sizes::default(), 0, 1);
    while writers.iter().any(|writer| !writer.is_finished()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let size = scene.ask("SELECT pg_total_relation_size('crieur.outbox')::text").await;
        sizes.0.push(size.parse().expect("a number"));
        let rows = scene.ask("SELECT count(*)::text FROM crieur.outbox").await;
        rows_max = rows.parse::<u64>().expect("a number").max(rows_max);
        if done.load(Ordering::Relaxed) / LIFE >= lives {
            daemon = another(&scene, daemon).await;
            lives += 1;
        }
    }
    writers.into_iter().for_each(|writer| writer.join().expect("no writer panics"));
    let took = started.elapsed();
    scene.confirmed(&daemon).await;
    let left = scene.ask("SELECT count(*)::text FROM crieur.outbox").await;
    println!("{day} transactions in {} s, {lives} daemons", took.as_secs());
    println!("the outbox on disk: {}; rows at most {rows_max}, left {left}", sizes.line());
    assert_eq!(left, "0");
    let bound = scene.ask("SELECT bytes_max::text FROM crieur.setting").await.parse::<u64>().expect("a number");
    assert!(sizes.0.iter().all(|size| *size < bound), "a limit was needed");
    assert_eq!(daemon.stop(), Some(0));
}
