//! Cache-aside readers, by the protocols of docs/guide/readers.md: plain, and with the lease in or beside the key.
//!
//! A plain reader keeps a value for less than the last echo between its SELECT and its SET; one that the machine or a
//! fault made slower does not store, or takes back what it stored, and says so. Readers with a lease hold theirs for
//! longer than any echo: nothing but the lease keeps them right.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::oracle::{FAMILIES, Family, Oracle, Reader};
use crate::seed::Seed;
use crate::world::LAST_ECHO;

/// How long a reader thinks at most between its SELECT and its SET.
const PLAIN_HOLD_MS: u64 = 600;
const LEASE_HOLD_MS: u64 = 2_000;

/// Values begin with V, leases with L.
const STORE_IN_KEY: &str = include_str!("../../lua/store-in-key.lua");
const STORE_BESIDE: &str = include_str!("../../lua/store-beside.lua");
const GIVE_BACK: &str = include_str!("../../lua/give-back.lua");

/// Longer than any run: nothing expires that should have been deleted.
const TTL_SECONDS: u64 = 1_000_000;

/// A URL that a failover changes.
pub type Address = Arc<Mutex<String>>;

/// What stands behind it now.
pub fn url(address: &Address) -> String {
    address.lock().expect("no holder panics").clone()
}

/// Where readers read, and for how long.
#[derive(Clone)]
pub struct Readers {
    pub postgres: Address,
    pub cache: Address,
    pub oracle: Arc<Oracle>,
    pub stop: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Broken {
    Cache,
    Database,
}

impl From<redis::RedisError> for Broken {
    fn from(_: redis::RedisError) -> Broken {
        Broken::Cache
    }
}

impl From<tokio_postgres::Error> for Broken {
    fn from(_: tokio_postgres::Error) -> Broken {
        Broken::Database
    }
}

/// One key to be read.
struct Read<'a> {
    cache: &'a mut MultiplexedConnection,
    sql: &'a Client,
    family: &'a Family,
    member: u64,
    key: String,
}

impl Readers {
    /// One reader of one kind, until it is told to stop. Servers that are away are no news to it.
    pub async fn read(self, kind: Reader, mut seed: Seed) {
        let families: Vec<&Family> = FAMILIES.iter().filter(|family| family.reader == kind).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let here = url(&self.cache);
            let Ok((mut cache, sql)) = self.connect(&here).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) && url(&self.cache) == here {
                // Half of all reads are of items, which can be judged one by one.
                let family = if seed.chance(50) { families[0] } else { seed.pick(&families) };
                let members = if seed.chance(50) { family.members.div_ceil(10) } else { family.members };
                let member = seed.below(members);
                let key = format!("{}{member}", family.prefix);
                let read = Read { cache: &mut cache, sql: &sql, family, member, key };
                let done = match kind {
                    Reader::Plain => self.plain(read, &mut seed).await,
                    Reader::LeaseInKey | Reader::Companion => self.with_lease(read, &mut seed).await,
                };
                if done.is_err() {
                    sleep(Duration::from_millis(20)).await;
                    break;
                }
                sleep(seed.millis(0, 6)).await;
            }
        }
    }

    async fn connect(&self, cache: &str) -> Result<(MultiplexedConnection, Client), Broken> {
        // Without limits: an answer that comes late is an answer, and a reader must know what became of its SET.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let client = redis::Client::open(cache)?;
        let cache = client.get_multiplexed_async_connection_with_config(&patient).await?;
        let (sql, connection) = tokio_postgres::connect(&url(&self.postgres), NoTls).await?;
        tokio::spawn(connection);
        Ok((cache, sql))
    }

    /// GET K.
    async fn found(&self, read: &mut Read<'_>) -> Result<bool, Broken> {
        let sent = Instant::now();
        let found: Option<String> = redis::cmd("GET").arg(&read.key).query_async(read.cache).await?;
        match found.as_deref().and_then(|found| read.family.reader.value(found)) {
            Some(value) => self.oracle.hit(&read.key, value, sent),
            None => self.oracle.seen().misses += 1,
        }
        // Another's lease is nobody's answer: it comes by again later.
        Ok(found.is_some())
    }

    async fn plain(&self, mut read: Read<'_>, seed: &mut Seed) -> Result<(), Broken> {
        if self.found(&mut read).await? {
            return Ok(());
        }
        let since = Instant::now();
        let value = select(&read).await?;
        sleep(hold(seed, PLAIN_HOLD_MS)).await;
        if since.elapsed() < LAST_ECHO * 9 / 10 {
            let stored: redis::RedisResult<()> =
                redis::cmd("SET").arg(&read.key).arg(&value).query_async(read.cache).await;
            if since.elapsed() < LAST_ECHO {
                return stored.map_err(Broken::from);
            }
            // The cache or the machine stood still while the SET was on its way.
            let _: () = redis::cmd("DEL").arg(&read.key).query_async(read.cache).await?;
        }
        self.oracle.seen().overran += 1;
        Ok(())
    }

    async fn with_lease(&self, mut read: Read<'_>, seed: &mut Seed) -> Result<(), Broken> {
        if self.found(&mut read).await? {
            return Ok(());
        }
        let beside = format!("lease:{{{}}}", read.key);
        let (place, store) = match read.family.reader {
            Reader::Companion => (beside.as_str(), STORE_BESIDE),
            Reader::Plain | Reader::LeaseInKey => (read.key.as_str(), STORE_IN_KEY),
        };
        let lease = lease();
        let mut take = redis::cmd("SET");
        take.arg(place).arg(&lease).arg("NX");
        // With GET the answer is what was there: nothing, and the lease is taken.
        let with_get = read.family.reader == Reader::LeaseInKey;
        if with_get {
            take.arg("GET");
        }
        let answer: Option<String> = take.arg("PX").arg(10_000).query_async(read.cache).await?;
        if answer.is_none() != with_get {
            return Ok(());
        }
        let value = select(&read).await?;
        sleep(hold(seed, LEASE_HOLD_MS)).await;
        let mut command = redis::cmd("EVAL");
        if seed.chance(3) {
            command.arg(GIVE_BACK).arg(1).arg(place).arg(&lease);
        } else if read.family.reader == Reader::Companion {
            command.arg(store).arg(2).arg(&read.key).arg(place).arg(&lease).arg(value).arg(TTL_SECONDS);
        } else {
            command.arg(store).arg(1).arg(place).arg(&lease).arg(format!("V{value}")).arg(TTL_SECONDS);
        }
        let _: u64 = command.query_async(read.cache).await?;
        Ok(())
    }
}

/// Mostly nothing, sometimes long.
fn hold(seed: &mut Seed, most: u64) -> Duration {
    if seed.chance(92) { seed.millis(0, 3) } else { seed.millis(0, most) }
}

async fn select(read: &Read<'_>) -> Result<String, Broken> {
    let row = read.sql.query_one(read.family.sql, &[&read.member.to_string()]).await?;
    Ok(row.get(0))
}

/// A lease that nobody else has: one process makes them all.
fn lease() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("L{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
