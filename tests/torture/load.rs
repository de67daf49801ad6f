//! Readers and writers on a thread of their own, and what the writers do.
//!
//! Items are changed by one writer each, so that the versions of a row grow in commit order; everything else by all of
//! them at once. A statement that fails (a deadlock, a server that went away) is an aborted transaction more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::oracle::{BUCKETS, CITIES, DOCS, ITEMS, LEASES, OWNERS, Oracle, Reader, TAGS};
use crate::readers::{Address, Readers, Sends, url};
use crate::seed::Seed;
use crate::world::World;

const WRITERS: u64 = 5;
const PAYMENTS: u64 = 300;

/// Readers of each kind, by how their clients send.
const READERS: &[(Reader, Sends, usize)] = &[
    (Reader::Plain, Sends::Once, 16),
    (Reader::LeaseInKey, Sends::Once, 5),
    (Reader::LeaseInKey, Sends::Again, 3),
    (Reader::Companion, Sends::Once, 5),
    (Reader::Companion, Sends::Again, 3),
];

/// What writers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// Everything, in a random order.
    Everything,
    /// Single rows only: few sweeps and few large transactions hide what a single delete misses.
    SingleRows,
}

/// A running load.
pub struct Load {
    thread: JoinHandle<()>,
    writers: Arc<AtomicBool>,
    readers: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
}

impl Load {
    /// Starts readers and writers.
    pub fn start(world: &World, oracle: &Arc<Oracle>, mix: Mix, seed: Seed) -> Load {
        Load::with_writers(world, oracle, mix, WRITERS, seed)
    }

    /// Readers alone: the writers of another load change what they read.
    pub fn readers(world: &World, oracle: &Arc<Oracle>, seed: Seed) -> Load {
        Load::with_writers(world, oracle, Mix::SingleRows, 0, seed)
    }

    fn with_writers(world: &World, oracle: &Arc<Oracle>, mix: Mix, writers: u64, mut seed: Seed) -> Load {
        let (stop_writers, stop_readers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let commits = Arc::new(AtomicU64::new(0));
        let (postgres, cache) = (Arc::clone(&world.reading), Arc::clone(&world.caching));
        let (oracle_too, stop) = (Arc::clone(oracle), Arc::clone(&stop_readers));
        let readers = Readers { postgres, cache, oracle: oracle_too, stop, take: world.take };
        let writer = Writer {
            postgres: Arc::clone(&world.writing),
            oracle: Arc::clone(oracle),
            stop: Arc::clone(&stop_writers),
            commits: Arc::clone(&commits),
            number: 0,
            mix,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("threads can be made").block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for number in 0..writers {
                    tasks.spawn(Writer { number, ..writer.clone() }.write(seed.fork()));
                }
                drop(writer); // Whoever counts the writers counts those that write.
                for (kind, sends, count) in READERS {
                    let caches = readers.caches(*kind, *sends);
                    for number in 0..*count {
                        let cache = caches[number % caches.len()].clone();
                        tasks.spawn(readers.clone().read(*kind, *sends, cache, seed.fork()));
                    }
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.expect("neither readers nor writers panic");
                }
            });
        });
        Load { thread, writers: stop_writers, readers: stop_readers, commits }
    }

    /// Writers end with what they are at; readers go on. Says how many transactions were committed.
    pub fn stop_writers(&self) -> u64 {
        self.writers.store(true, Ordering::Relaxed);
        while Arc::strong_count(&self.commits) > 1 {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.commits.load(Ordering::Relaxed)
    }

    /// Everybody ends.
    pub fn stop(self) {
        self.writers.store(true, Ordering::Relaxed);
        self.readers.store(true, Ordering::Relaxed);
        self.thread.join().expect("neither readers nor writers panic");
    }
}

#[derive(Clone)]
struct Writer {
    postgres: Address,
    oracle: Arc<Oracle>,
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    number: u64,
    mix: Mix,
}

/// A transaction, and the items that have the version after it.
struct Work {
    sql: String,
    items: Vec<u64>,
    version: u64,
    /// It does not commit.
    aborted: bool,
    /// It was prepared, and this ends it: a statement that stands alone.
    prepared: Option<String>,
}

impl Writer {
    async fn write(self, mut seed: Seed) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((client, connection)) = tokio_postgres::connect(&url(&self.postgres), NoTls).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(connection);
            self.roll_back_prepared(&client).await;
            while !self.stop.load(Ordering::Relaxed) && !client.is_closed() {
                let work = self.work(&mut seed);
                self.execute(&client, &work).await;
                sleep(seed.millis(5, 40)).await;
            }
            self.roll_back_prepared(&client).await;
        }
    }

    /// A prepared transaction outlives the session and the server that prepared it, and keeps its locks.
    async fn roll_back_prepared(&self, client: &Client) {
        let left = format!("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '{}-%'", self.number);
        for row in client.query(&left, &[]).await.unwrap_or_default() {
            let gid: String = row.get(0);
            let _ = client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await; // Else by the next session.
        }
    }

    async fn execute(&self, client: &Client, work: &Work) {
        let mut done = client.batch_execute(&work.sql).await;
        if let (Ok(()), Some(end)) = (&done, &work.prepared) {
            done = client.batch_execute(end).await;
        }
        match done {
            Ok(()) if !work.aborted => {
                self.oracle.committed(&work.items, work.version);
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            // A deadlock, or a server that went away: this transaction is none.
            Err(_) => drop(client.batch_execute("ROLLBACK").await),
        }
    }

    /// An item of this writer; often one of the few that are busy.
    fn item(&self, seed: &mut Seed) -> u64 {
        let most = if seed.chance(50) { 4 } else { ITEMS / WRITERS };
        seed.below(most) * WRITERS + self.number
    }

    fn work(&self, seed: &mut Seed) -> Work {
        let version = self.oracle.version();
        let item = self.item(seed);
        let one = |sql: String| Work { sql, items: vec![item], version, aborted: false, prepared: None };
        let other = |sql: String| Work { sql, items: Vec::new(), version, aborted: false, prepared: None };
        let die = if self.mix == Mix::SingleRows { seed.below(500) } else { seed.below(1_000) };
        match die {
            0..250 => one(format!("UPDATE torture.items SET version = {version} WHERE id = {item}")),
            250..320 => one(move_item(item, version, seed)),
            320..360 => one(format!("DELETE FROM torture.items WHERE id = {item}")),
            360..440 => one(upsert(item, version, seed)),
            440..470 => other(payment(seed, version)),
            470..500 => other(format!(
                "UPDATE torture.leases SET item = {} WHERE id = {}",
                seed.below(ITEMS),
                seed.below(LEASES)
            )),
            500..590 => self.several(seed, version),
            590..600 => self.two_phase(seed, version),
            600..650 => Work {
                aborted: true,
                ..other(format!(
                    "BEGIN; UPDATE torture.items SET version = {version}, owner = 1 WHERE id = {item}; {}; ROLLBACK",
                    payment(seed, version)
                ))
            },
            650..710 => self.savepoints(seed, version),
            710..790 => other(payment(seed, version)),
            790..900 => other(document(seed, version)),
            900..950 => {
                other(format!("UPDATE torture.events SET version = {version} WHERE bucket = {}", seed.below(BUCKETS)))
            }
            950..985 => other(format!(
                "COPY torture.events (bucket, version) FROM PROGRAM 'yes {},{version} | head -n 40' (FORMAT csv)",
                seed.below(BUCKETS)
            )),
            985..992 => Work { aborted: seed.chance(30), ..other(large(seed, version)) },
            992..996 => {
                other("DELETE FROM torture.events WHERE id > (SELECT min(id) + 4000 FROM torture.events)".into())
            }
            996..998 => other(format!(
                "BEGIN; TRUNCATE torture.events;
                 INSERT INTO torture.events (bucket, version)
                 SELECT i % {BUCKETS}, {version} FROM generate_series(1, 2000) AS i;
                 COMMIT"
            )),
            _ => other(
                "BEGIN; CREATE TEMP TABLE keep AS TABLE torture.docs; TRUNCATE torture.docs;
                 INSERT INTO torture.docs TABLE keep; UPDATE torture.docs SET version = version + 1 WHERE id < 9;
                 DROP TABLE keep; COMMIT"
                    .to_owned(),
            ),
        }
    }

    /// Items, a payment and a document in one transaction, and time in between.
    fn several(&self, seed: &mut Seed, version: u64) -> Work {
        let mut items: Vec<u64> = (0..1 + seed.below(6)).map(|_| self.item(seed)).collect();
        items.sort_unstable();
        items.dedup();
        let list = items.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let sql = format!(
            "BEGIN; UPDATE torture.items SET version = {version} WHERE id IN ({list}); SELECT pg_sleep(0.0{});
             {}; {}; COMMIT",
            seed.below(10),
            payment(seed, version),
            document(seed, version)
        );
        Work { sql, items, version, aborted: false, prepared: None }
    }

    /// Prepared, and then committed or not.
    fn two_phase(&self, seed: &mut Seed, version: u64) -> Work {
        let (item, gid) = (self.item(seed), format!("{}-{version}", self.number));
        let sql = format!(
            "BEGIN; UPDATE torture.items SET version = {version} WHERE id = {item}; {}; PREPARE TRANSACTION '{gid}'",
            payment(seed, version)
        );
        let aborted = seed.chance(30);
        let end = if aborted { "ROLLBACK" } else { "COMMIT" };
        Work { sql, items: vec![item], version, aborted, prepared: Some(format!("{end} PREPARED '{gid}'")) }
    }

    /// A rolled back, a released and a kept part.
    fn savepoints(&self, seed: &mut Seed, version: u64) -> Work {
        let (first, second, third) = (self.item(seed), self.item(seed), self.item(seed));
        let sql = format!(
            "BEGIN; UPDATE torture.items SET version = {version} WHERE id = {first};
             SAVEPOINT a; UPDATE torture.items SET city = {} WHERE id = {second}; ROLLBACK TO a;
             SAVEPOINT b; UPDATE torture.items SET version = {version} WHERE id = {third}; RELEASE b; COMMIT",
            seed.below(CITIES)
        );
        Work { sql, items: vec![first, third], version, aborted: false, prepared: None }
    }
}

fn move_item(item: u64, version: u64, seed: &mut Seed) -> String {
    let (owner, city) = (seed.below(OWNERS), seed.below(CITIES));
    format!("UPDATE torture.items SET version = {version}, owner = {owner}, city = {city} WHERE id = {item}")
}

fn upsert(item: u64, version: u64, seed: &mut Seed) -> String {
    let (owner, city) = (seed.below(OWNERS), seed.below(CITIES));
    format!(
        "INSERT INTO torture.items VALUES ({item}, {owner}, {city}, {version})
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, owner = excluded.owner"
    )
}

fn payment(seed: &mut Seed, amount: u64) -> String {
    let (id, lease) = (seed.below(PAYMENTS), seed.below(LEASES));
    match seed.below(4) {
        0 => format!("DELETE FROM torture.payments WHERE id = {id}"),
        1 => format!("UPDATE torture.payments SET amount = {amount}, lease = {lease} WHERE id = {id}"),
        _ => format!(
            "INSERT INTO torture.payments VALUES ({id}, {lease}, {amount})
             ON CONFLICT (id) DO UPDATE SET amount = excluded.amount"
        ),
    }
}

fn document(seed: &mut Seed, version: u64) -> String {
    let id = seed.below(DOCS);
    match seed.below(4) {
        // The body is TOASTed and stays: it is not in the stream's new row.
        0 | 1 => format!("UPDATE torture.docs SET version = {version} WHERE id = {id}"),
        2 => format!(
            "UPDATE torture.docs SET version = {version}, body = jsonb_set(body, '{{tags,0}}', '\"{}\"') WHERE id = {id}",
            seed.below(TAGS)
        ),
        _ => format!(
            "WITH gone AS (DELETE FROM torture.docs WHERE id = {id} RETURNING body)
             INSERT INTO torture.docs SELECT {id} + {DOCS}, {version}, body FROM gone ON CONFLICT DO NOTHING;
             INSERT INTO torture.docs VALUES ({id}, {version}, '{{\"tags\": [\"{}\"]}}') ON CONFLICT DO NOTHING",
            seed.below(TAGS)
        ),
    }
}

/// More than decoding memory holds: streamed while it is open.
fn large(seed: &mut Seed, version: u64) -> String {
    let end = if seed.chance(70) { "COMMIT" } else { "ROLLBACK" };
    format!(
        "BEGIN; UPDATE torture.events SET version = {version}; SAVEPOINT a;
         UPDATE torture.events SET bucket = (bucket + 1) % {BUCKETS} WHERE bucket < 3; ROLLBACK TO a;
         SELECT pg_sleep(0.05); {end}"
    )
}
