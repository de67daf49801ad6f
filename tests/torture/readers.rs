//! Cache-aside readers: those of `clients/rust`, by the protocols of docs/guide/readers.md.
//!
//! A plain reader keeps a value for less than the last echo between its SELECT and its SET; one that the machine or a
//! fault made slower does not store, or takes back what it stored, and says so. Readers with a lease hold theirs for
//! longer than any echo: nothing but the lease keeps them right. Some of them use a client that sends commands again, in
//! the worst moment: then nothing but the script that makes another lease each time does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crieur_cache::{Cache, From, Options, Protocol, Raw, Redis, Sending, Store, Take};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::clustered::Clustered;
use crate::oracle::{FAMILIES, Family, Oracle, Reader};
use crate::seed::Seed;
use crate::world::LAST_ECHO;

/// How long a reader thinks at most between its SELECT and its SET.
const PLAIN_HOLD_MS: u64 = 600;
const LEASE_HOLD_MS: u64 = 2_000;

/// Longer than any run: nothing expires that should have been deleted.
const TTL: Duration = Duration::from_secs(1_000_000);

/// A plain reader must know what became of its SET: for it an answer that comes late is an answer.
const PATIENT: Duration = Duration::from_secs(3600);

/// Readers with a lease give up on a command: whatever arrives late does no harm.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A cache that was away is asked again soon: the load goes on.
const PAUSE: Duration = Duration::from_millis(50);

/// A URL that a failover changes.
pub type Address = Arc<Mutex<String>>;

/// What stands behind it now.
pub fn url(address: &Address) -> String {
    address.lock().expect("no holder panics").clone()
}

/// How a reader's client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sends {
    Once,
    /// Every command again, and the take of a lease right before the store.
    Again,
}

/// Where readers read, and for how long.
#[derive(Clone)]
pub struct Readers {
    pub postgres: Address,
    pub cache: Address,
    pub oracle: Arc<Oracle>,
    pub stop: Arc<AtomicBool>,
    /// How those take a lease whose client sends again; [`Take::Once`] is the mistake that must be seen.
    pub take: Take,
}

/// A client that goes where the cache's address leads now, as one does that asks the Sentinels.
struct Following {
    address: Address,
    timeout: Duration,
    open: Mutex<(String, Arc<dyn Store>)>,
}

impl Following {
    fn new(address: &Address, timeout: Duration) -> Following {
        let here = url(address);
        let redis = Following::open(&here, timeout);
        Following { address: Arc::clone(address), timeout, open: Mutex::new((here, redis)) }
    }

    fn open(url: &str, timeout: Duration) -> Arc<dyn Store> {
        if let Some(cluster) = Clustered::new(url, timeout) {
            return Arc::new(cluster);
        }
        Arc::new(Redis::open(url).expect("a server's own address").timeout(timeout))
    }

    fn here(&self) -> Arc<dyn Store> {
        let (here, mut open) = (url(&self.address), self.open.lock().expect("no holder panics"));
        if open.0 != here {
            let redis = Following::open(&here, self.timeout);
            *open = (here, redis);
        }
        Arc::clone(&open.1)
    }
}

impl Store for Following {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move { self.here().send(command).await })
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A client that sends again by itself: the first copy of a take arrives last, when the store is on its way.
struct Resending {
    redis: Following,
    /// Whether the reader is told.
    says_so: bool,
    takes: Mutex<HashMap<Vec<u8>, Vec<Vec<u8>>>>,
}

impl Resending {
    /// What was sent to this key before.
    fn taken(&self, key: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.takes.lock().expect("no holder panics").remove(key)
    }
}

impl Store for Resending {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            match command {
                [b"EVAL", script, _, key, ..] if script.starts_with(b"-- take") => {
                    self.takes.lock().expect("no holder panics").insert(key.to_vec(), owned(command));
                }
                [b"SET", key, ..] => {
                    self.takes.lock().expect("no holder panics").insert(key.to_vec(), owned(command));
                }
                [b"EVAL", script, count, keys @ ..] if script.starts_with(b"-- store") => {
                    let place = if *count == b"2" { keys[1] } else { keys[0] };
                    if let Some(take) = self.taken(place) {
                        let words: Vec<&[u8]> = take.iter().map(Vec::as_slice).collect();
                        let _ = self.redis.send(&words).await; // Nobody waits for the answer of a copy.
                    }
                    let _ = self.redis.send(command).await;
                }
                _ => _ = self.redis.send(command).await,
            }
            self.redis.send(command).await
        })
    }

    fn resends(&self) -> bool {
        self.says_so
    }
}

fn owned(command: &[&[u8]]) -> Vec<Vec<u8>> {
    command.iter().map(|word| word.to_vec()).collect()
}

/// One key to be read.
struct Key<'a> {
    family: &'a Family,
    member: u64,
    name: String,
}

impl Readers {
    /// Two processes with readers of one kind: inside of each the readers share what is new enough.
    pub fn caches(&self, kind: Reader, sends: Sends) -> [Cache<Raw>; 2] {
        [(); 2].map(|()| {
            let (protocol, timeout) = match kind {
                Reader::Plain => (Protocol::Plain, PATIENT),
                Reader::LeaseInKey => (Protocol::Key, TIMEOUT),
                Reader::Companion => (Protocol::Companion, TIMEOUT),
            };
            let redis = Following::new(&self.cache, timeout);
            let builder = match sends {
                Sends::Once => Cache::builder(redis),
                Sends::Again => {
                    let says_so = self.take == Take::Script;
                    Cache::builder(Resending { redis, says_so, takes: Mutex::default() })
                }
            };
            let builder = builder.codec(Raw).protocol(protocol).ttl(TTL).pause(3, PAUSE);
            builder.build().expect("what is said is valid")
        })
    }

    /// One reader of one kind, until it is told to stop. Servers that are away are no news to it.
    pub async fn read(self, kind: Reader, sends: Sends, cache: Cache<Raw>, mut seed: Seed) {
        let families: Vec<&Family> = FAMILIES.iter().filter(|family| family.reader == kind).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((sql, connection)) = tokio_postgres::connect(&url(&self.postgres), NoTls).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(connection);
            while !self.stop.load(Ordering::Relaxed) {
                // Half of all reads are of items, which can be judged one by one.
                let family = if seed.chance(50) { families[0] } else { seed.pick(&families) };
                let members = if seed.chance(50) { family.members.div_ceil(10) } else { family.members };
                let member = seed.below(members);
                let key = Key { family, member, name: format!("{}{member}", family.prefix) };
                let hold = match kind {
                    Reader::Plain => hold(&mut seed, PLAIN_HOLD_MS, 8),
                    // Whoever sends again holds long, so that something changes meanwhile.
                    _ => hold(&mut seed, LEASE_HOLD_MS, if sends == Sends::Again { 50 } else { 8 }),
                };
                let fails = kind != Reader::Plain && seed.chance(3);
                let done = self.one(&cache, &sql, key, hold, fails);
                // Some callers do not wait for their answer.
                let limit = if seed.chance(2) { seed.millis(0, 50) } else { PATIENT };
                let limit = if kind == Reader::Plain { PATIENT } else { limit };
                if tokio::time::timeout(limit, done).await.is_ok_and(|done| done.is_err()) {
                    sleep(Duration::from_millis(20)).await;
                    break;
                }
                sleep(seed.millis(0, 6)).await;
            }
        }
    }

    /// One read. An error is the database's, or was wanted.
    async fn one(
        &self,
        cache: &Cache<Raw>,
        sql: &Client,
        key: Key<'_>,
        hold: Duration,
        fails: bool,
    ) -> Result<(), Option<tokio_postgres::Error>> {
        let is_plain = key.family.reader == Reader::Plain;
        let (called, selected) = (Instant::now(), Arc::new(Mutex::new(None::<Instant>)));
        let since = Arc::clone(&selected);
        let options = Options::new().store_if(move |_: &String| {
            let since = since.lock().expect("no holder panics").expect("it was fetched");
            !is_plain || since.elapsed() < LAST_ECHO * 9 / 10
        });
        let fetch = async || {
            *selected.lock().expect("no holder panics") = Some(Instant::now());
            let row = sql.query_one(key.family.sql, &[&key.member.to_string()]).await.map_err(Some)?;
            sleep(hold).await;
            if fails { Err(None) } else { Ok(row.get::<_, String>(0)) }
        };
        let read = match cache.read(&key.name, options, fetch).await {
            Err(None) => return Ok(()),
            read => read?,
        };
        match read.from {
            From::Hit | From::Memory | From::Joined => self.oracle.hit(&key.name, &read.value, called),
            From::Miss | From::Bypass | From::Grace(_) => self.oracle.seen().misses += 1,
        }
        let since = *selected.lock().expect("no holder panics");
        if is_plain && since.is_some_and(|since| since.elapsed() >= LAST_ECHO * 9 / 10) {
            // The cache or the machine stood still while the SET was on its way, or there was none.
            if since.is_some_and(|since| since.elapsed() >= LAST_ECHO) {
                // A client that rests after errors sends nothing, and a late SET stays.
                while !cache.invalidate([&key.name]).await && !self.stop.load(Ordering::Relaxed) {
                    sleep(PAUSE).await;
                }
            }
            self.oracle.seen().overran += 1;
        }
        Ok(())
    }
}

/// Mostly nothing; in so many of a hundred cases, long.
fn hold(seed: &mut Seed, most: u64, percent: u64) -> Duration {
    if seed.chance(100 - percent) { seed.millis(0, 3) } else { seed.millis(0, most) }
}
