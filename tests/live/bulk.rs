//! Bounded memory and bulk changes: one huge transaction, many open ones, a long outage of the cache.
//!
//! Each scenario runs in two sizes: a small one in every test run, with the bound scaled down, and the full one of
//! `make bulk` in a release build, with the default bound, which prints what it measured. What is asserted is the same:
//! the peak of resident memory (`VmHWM`), a stream that never broke (any warning fails a test, and a server with
//! `wal_sender_timeout = 3s` ends a session that is silent), and a cache with nothing stale in it.

use std::fs;
use std::time::{Duration, Instant};

use crieur::cache::Cache;
use crieur::cache::redis::RedisCache;
use crieur::config::Config;
use crieur::keys::{FamilyId, KeySet};

use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::wait::settled;
use super::scene::{Scene, config};

const MIB: u64 = 1 << 20;

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    /// `limits.memory_bytes_max`.
    bound: u64,
    /// Memory that is not for keys, beside the program's own pages: buffers of three sessions, and what the allocator keeps.
    base: u64,
    /// Rows of the one huge transaction.
    rows: u32,
    /// Transactions open at once, and the rows of each.
    sessions: u32,
    session_rows: u32,
    /// How long writers run without the cache.
    outage: Duration,
    patience: Duration,
}

const SMALL: Size = Size {
    bound: 8 * MIB,
    base: 6 * MIB,
    rows: 200_000,
    sessions: 40,
    session_rows: 2_000,
    outage: Duration::from_secs(6),
    patience: Duration::from_secs(60),
};

const FULL: Size = Size {
    bound: 64 * MIB,
    base: 0,
    rows: 5_000_000,
    sessions: 200,
    session_rows: 20_000,
    outage: Duration::from_secs(75),
    patience: Duration::from_secs(600),
};

/// Keys that no change makes wrong.
const BYSTANDERS: [&str; 3] = ["lock:properties:detail:1", "properties:other", "session:1"];

struct Bulk {
    scene: Scene,
    daemon: Daemon,
    size: Size,
}

impl Bulk {
    /// `options` go to the server with the daemon's sessions.
    async fn start(size: Size, conf: &[&str], options: &str) -> Bulk {
        let mut conf: Vec<String> = conf.iter().map(|line| line.to_string()).collect();
        conf.push("wal_sender_timeout = 3s".to_owned());
        conf.push("max_wal_size = 8GB".to_owned());
        let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
        scene.run("ALTER TABLE properties DROP CONSTRAINT properties_pkey").await;
        let limits = format!("[limits]\nmemory_bytes_max = {}\n[[rules]]", size.bound);
        let config = config(&(scene.postgres.url() + options), &scene.cache.url());
        let config = config.replace("echo = []", r#"echo = ["250ms", "2s"]"#).replacen("[[rules]]", &limits, 1);
        let daemon = scene.daemon_with(&config).await;
        Bulk { scene, daemon, size }
    }

    /// Puts a key there for every `step`th row, and what must stay.
    fn fill(&self, rows: u32, step: usize) {
        let mut pipeline = redis::pipe();
        for id in (1..=rows).step_by(step) {
            pipeline.cmd("SET").arg(format!("properties:detail:{id}")).arg("old").ignore();
        }
        for key in BYSTANDERS {
            pipeline.cmd("SET").arg(key).arg("value").ignore();
        }
        let _: () = pipeline.query(&mut self.scene.keys()).expect("it is writable");
    }

    /// How many there are of all.
    fn keys(&self) -> usize {
        redis::cmd("DBSIZE").query(&mut self.scene.keys()).expect("it answers")
    }

    fn left(&self) -> usize {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("properties:detail:*").query(&mut self.scene.keys()).expect("it answers");
        keys.len()
    }

    async fn confirmed(&self) {
        let now = self.scene.ask("SELECT pg_current_wal_lsn()::text").await;
        let slot = format!(
            "SELECT (confirmed_flush_lsn >= '{now}')::text || ' ' || confirmed_flush_lsn FROM pg_replication_slots"
        );
        settled(&format!("{now} is confirmed"), self.size.patience, async || {
            let seen = self.scene.ask(&slot).await;
            if seen.starts_with("true") { Ok(()) } else { Err((seen, self.daemon.log())) }
        })
        .await;
    }

    /// Nothing stale, nothing else gone, no more memory than the bound; the stream never broke.
    async fn ends_well(mut self, what: &str, started: Instant) {
        self.confirmed().await;
        assert_eq!(self.left(), 0, "{what}: stale keys");
        let there: usize = redis::cmd("EXISTS").arg(&BYSTANDERS).query(&mut self.scene.keys()).expect("it answers");
        assert_eq!(there, BYSTANDERS.len(), "{what}: keys of nobody's concern");
        // The pages of the program are no matter of load, and how many a debug build maps is no matter of this test.
        let program = if cfg!(debug_assertions) { memory(&self.daemon, "RssFile") } else { 0 };
        let peak = memory(&self.daemon, "VmHWM") - program;
        println!("{what}: peak {:.1} MiB, {:.1} s", peak as f64 / MIB as f64, started.elapsed().as_secs_f64());
        let most = self.size.bound + self.size.base;
        assert!(peak < most, "{what}: {peak} bytes resident, at most {most} are allowed");
        assert_eq!(self.daemon.log().matches("id=stream.started").count(), 1, "{}", self.daemon.log());
        assert_eq!(self.daemon.stop(), Some(0));
    }
}

/// A line of `/proc/<pid>/status`, in bytes.
fn memory(daemon: &Daemon, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let value = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kib: u64 = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok()).expect("procfs has it");
    kib * 1024
}

fn rows(from: u32, count: u32) -> String {
    format!("INSERT INTO properties SELECT i, 'Dakar', 'new', 1 FROM generate_series({from}, {}) i", from + count - 1)
}

/// Distinct keys of one transaction.
async fn one_huge_transaction(size: Size, options: &str, what: &str) {
    let bulk = Bulk::start(size, &[], options).await;
    bulk.fill(size.rows, 10);
    let started = Instant::now();
    bulk.scene.run(&rows(1, size.rows)).await;
    println!("{what}: the server took {:.1} s", started.elapsed().as_secs_f64());
    bulk.ends_well(what, started).await;
}

/// The server keeps all of a transaction until its commit.
const UNSTREAMED: &str = "?options=-c%20logical_decoding_work_mem%3D8GB";

/// Transactions that all stream at once, a part of them to no end.
async fn many_open_transactions(size: Size, what: &str) {
    let conf = ["logical_decoding_work_mem = 64kB", "max_connections = 250"];
    let bulk = Bulk::start(size, &conf, "").await;
    bulk.fill(size.sessions * size.session_rows, 10);
    let started = Instant::now();
    let mut sessions = Vec::new();
    for _ in 0..size.sessions {
        let session = bulk.scene.postgres.client().await;
        session.batch_execute("BEGIN").await.expect("valid SQL");
        sessions.push(session);
    }
    // In pieces, so that blocks of all of them alternate.
    let piece = size.session_rows / 4;
    for round in 0..4 {
        for (session, number) in sessions.iter().zip(0..) {
            let sql = rows(number * size.session_rows + round * piece + 1, piece);
            session.batch_execute(&sql).await.expect("valid SQL");
        }
    }
    for (session, number) in sessions.iter().zip(0..) {
        session.batch_execute(if number % 4 == 3 { "ROLLBACK" } else { "COMMIT" }).await.expect("valid SQL");
    }
    // Keys of those that were rolled back may stay or, when a bound was reached, go; they are made wrong now.
    for number in (0..size.sessions).filter(|number| number % 4 == 3) {
        bulk.scene.run(&rows(number * size.session_rows + 1, size.session_rows)).await;
    }
    bulk.ends_well(what, started).await;
}

/// Writers at full speed while the cache answers nothing.
async fn load_without_the_cache(size: Size, what: &str) {
    let mut bulk = Bulk::start(size, &[], "").await;
    bulk.daemon.allow_failing_cache();
    bulk.fill(100_000, 10);
    bulk.scene.cache.freeze();
    let started = Instant::now();
    let writers: Vec<_> = (0..4_u32)
        .map(async |writer| {
            let session = bulk.scene.postgres.client().await;
            let mut transactions = 0;
            while started.elapsed() < size.outage {
                let first = (transactions * 4 + writer) * 20 % 100_000 + 1;
                session.batch_execute(&rows(first, 20)).await.expect("valid SQL");
                transactions += 1;
            }
            transactions
        })
        .collect();
    let transactions: u32 = futures_util::future::join_all(writers).await.into_iter().sum();
    let held = bulk.scene.ask(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint::text FROM pg_replication_slots",
    );
    println!("{what}: {transactions} transactions, {} bytes of WAL wait", held.await);
    // Whatever was not written to by then is now.
    bulk.scene.run(&rows(1, 100_000)).await;
    bulk.scene.cache.thaw();
    bulk.ends_well(what, started).await;
}

#[tokio::test]
async fn a_huge_streamed_transaction_stays_within_the_bound() {
    one_huge_transaction(SMALL, "", "streamed").await;
}

#[tokio::test]
async fn a_huge_transaction_that_arrives_at_its_commit_stays_within_the_bound() {
    one_huge_transaction(SMALL, UNSTREAMED, "at commit").await;
}

#[tokio::test]
async fn many_open_transactions_stay_within_the_bound() {
    many_open_transactions(SMALL, "many open").await;
}

#[tokio::test]
async fn load_without_the_cache_stays_within_the_bound() {
    load_without_the_cache(SMALL, "without the cache").await;
}

#[tokio::test]
#[ignore = "takes minutes and wants a release build: make bulk"]
async fn at_full_size_and_with_the_default_bound() {
    one_huge_transaction(FULL, "", "streamed, 5 million rows").await;
    one_huge_transaction(FULL, UNSTREAMED, "at commit, 5 million rows").await;
    many_open_transactions(FULL, "200 open transactions").await;
    load_without_the_cache(FULL, "without the cache").await;
}

/// A COMMIT to its last key gone, against the deletes alone: three times each, in turn.
#[tokio::test]
#[ignore = "wants a release build: make bulk"]
async fn a_commit_of_500_000_rows_takes_little_longer_than_its_deletes() {
    const ROWS: u32 = 500_000;
    let bulk = Bulk::start(FULL, &[], "").await;
    let sweeps = |bulk: &Bulk| bulk.daemon.log().matches("id=sweep.ended").count();
    // Those of the first start and of the preparations, echoes included.
    let before = sweeps(&bulk);
    let sink = Config::load(&bulk.daemon.config_path(), std::iter::empty::<(String, String)>())
        .expect("the daemon runs with it");
    let sink = RedisCache::new(&sink.caches[0]).expect("valid URL");
    let mut keys = KeySet::default();
    for id in 1..=ROWS {
        keys.insert(format!("properties:detail:{id}").as_bytes(), FamilyId(0), 0);
    }
    let (mut commits, mut deletes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let others = bulk.keys();
        bulk.fill(ROWS, 1);
        let started = Instant::now();
        sink.delete(&[&keys]).await.expect("the cache answers");
        deletes.push(started.elapsed());
        bulk.fill(ROWS, 1);
        bulk.scene.run("BEGIN").await;
        bulk.scene.run(&rows(1, ROWS)).await;
        let now = bulk.scene.ask("SELECT pg_current_wal_insert_lsn()::text").await;
        let sent = format!("SELECT (sent_lsn >= '{now}'::pg_lsn - 1000000)::text FROM pg_stat_replication");
        settled("the open transaction was streamed", bulk.size.patience, async || match bulk.scene.ask(&sent).await {
            seen if seen == "true" => Ok(()),
            seen => Err(seen),
        })
        .await;
        let started = Instant::now();
        bulk.scene.run("COMMIT").await;
        settled("the last key is gone", bulk.size.patience, async || match bulk.keys() {
            size if size <= others + BYSTANDERS.len() => Ok(()),
            size => Err(size),
        })
        .await;
        commits.push(started.elapsed());
        bulk.confirmed().await;
    }
    commits.sort_unstable();
    deletes.sort_unstable();
    println!("{ROWS} rows: COMMIT to the last key gone {commits:?}, the deletes alone {deletes:?}");
    assert_eq!(sweeps(&bulk), before, "collapsed: {}", bulk.daemon.log());
    // The best of each: whatever else the machine does only adds.
    assert!(commits[0] < deletes[0].mul_f64(1.5), "{commits:?} is too far from {deletes:?}");
    bulk.ends_well("500 000 rows, three times", Instant::now()).await;
}
