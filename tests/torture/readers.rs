//! Cache-aside readers, by the protocols of the README: plain, with the lease in the key, with a companion lease.
//!
//! A plain reader keeps a value for less than the last echo between its SELECT and its SET; one that the machine or a
//! fault made slower does not store, or takes back what it stored, and says so. Readers with a lease hold theirs for
//! longer than any echo: nothing but the lease keeps them right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::oracle::{FAMILIES, Family, Oracle, Reader};
use crate::seed::Seed;
use crate::world::LAST_ECHO;

/// Whether the daemon removes companion leases (`cache.leases = "companion"`).
pub const COMPANION_LEASES: bool = false;

/// How long a reader thinks at most between its SELECT and its SET.
const PLAIN_HOLD_MS: u64 = 600;
const LEASE_HOLD_MS: u64 = 2_000;

/// Stored only if the lease is still there. The key is the lease's place.
const STORE_IN_KEY: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('SET', KEYS[1], ARGV[2]) end return false";

/// The same, for a lease beside the key.
const STORE_BESIDE: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return false end
    redis.call('DEL', KEYS[2]) return redis.call('SET', KEYS[1], ARGV[2])";

/// Where readers read, and for how long.
#[derive(Clone)]
pub struct Readers {
    pub postgres: String,
    pub cache: String,
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

impl Readers {
    /// One reader of one kind, until it is told to stop. Servers that are away are no news to it.
    pub async fn read(self, kind: Reader, mut seed: Seed) {
        let families: Vec<&Family> = FAMILIES.iter().filter(|family| family.reader == kind).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((mut cache, sql)) = self.connect().await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) {
                // Half of all reads are of items, which can be judged one by one.
                let family = if seed.chance(50) { families[0] } else { seed.pick(&families) };
                let members = if seed.chance(50) { family.members.div_ceil(10) } else { family.members };
                let member = seed.below(members);
                if self.once(&mut cache, &sql, family, member, &mut seed).await.is_err() {
                    break;
                }
                sleep(seed.millis(0, 6)).await;
            }
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Client), Broken> {
        // Without limits: an answer that comes late is an answer, and a reader must know what became of its SET.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let client = redis::Client::open(self.cache.as_str())?;
        let cache = client.get_multiplexed_async_connection_with_config(&patient).await?;
        let (sql, connection) = tokio_postgres::connect(&self.postgres, NoTls).await?;
        tokio::spawn(connection);
        Ok((cache, sql))
    }

    async fn once(
        &self,
        cache: &mut MultiplexedConnection,
        sql: &Client,
        family: &Family,
        member: u64,
        seed: &mut Seed,
    ) -> Result<(), Broken> {
        let key = format!("{}{member}", family.prefix);
        let sent = Instant::now();
        let found: Option<String> = match family.reader {
            Reader::Plain | Reader::Companion => redis::cmd("GET").arg(&key).query_async(cache).await?,
            Reader::LeaseInKey => {
                let (token, found) = lease(cache, &key).await?;
                let Some(token) = token else {
                    self.found(&key, found, sent);
                    return Ok(());
                };
                self.oracle.seen().misses += 1;
                let value = select(sql, family, member).await?;
                sleep(hold(seed, LEASE_HOLD_MS)).await;
                let _: Option<String> = script(STORE_IN_KEY, &[&key], &token, &value).query_async(cache).await?;
                return Ok(());
            }
        };
        if found.is_some() {
            self.found(&key, found, sent);
            return Ok(());
        }
        self.oracle.seen().misses += 1;
        if family.reader == Reader::Companion {
            return store_with_companion(cache, sql, family, member, seed).await;
        }
        let since = Instant::now();
        let value = select(sql, family, member).await?;
        sleep(hold(seed, PLAIN_HOLD_MS)).await;
        if since.elapsed() < LAST_ECHO * 9 / 10 {
            let stored: redis::RedisResult<()> = redis::cmd("SET").arg(&key).arg(&value).query_async(cache).await;
            if since.elapsed() < LAST_ECHO {
                return stored.map_err(Broken::from);
            }
            // The cache or the machine stood still while the SET was on its way.
            let _: () = redis::cmd("DEL").arg(&key).query_async(cache).await?;
        }
        self.oracle.seen().overran += 1;
        Ok(())
    }

    /// A value, or another reader's lease, which is nobody's answer.
    fn found(&self, key: &str, found: Option<String>, sent: Instant) {
        match found.filter(|value| !value.starts_with("lease-")) {
            Some(value) => self.oracle.hit(key, &value, sent),
            None => self.oracle.seen().misses += 1,
        }
    }
}

/// Mostly nothing, sometimes long.
fn hold(seed: &mut Seed, most: u64) -> Duration {
    if seed.chance(92) { seed.millis(0, 3) } else { seed.millis(0, most) }
}

async fn select(sql: &Client, family: &Family, member: u64) -> Result<String, Broken> {
    let row = sql.query_one(family.sql, &[&member.to_string()]).await?;
    Ok(row.get(0))
}

fn script(text: &str, keys: &[&str], token: &str, value: &str) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys).arg(token).arg(value);
    command
}

/// A token that no other lease has.
fn token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("lease-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Takes the lease at `key`; the token when it was free, else what stands there.
async fn lease(cache: &mut MultiplexedConnection, key: &str) -> Result<(Option<String>, Option<String>), Broken> {
    let token = token();
    let mut command = redis::cmd("SET");
    command.arg(key).arg(&token).arg("NX").arg("GET").arg("PX").arg(10_000);
    let before: Option<String> = command.query_async(cache).await?;
    Ok((before.is_none().then_some(token), before))
}

async fn store_with_companion(
    cache: &mut MultiplexedConnection,
    sql: &Client,
    family: &Family,
    member: u64,
    seed: &mut Seed,
) -> Result<(), Broken> {
    let key = format!("{}{member}", family.prefix);
    let companion = format!("lease:{{{key}}}");
    let (Some(token), _) = lease(cache, &companion).await? else { return Ok(()) };
    let value = select(sql, family, member).await?;
    sleep(hold(seed, LEASE_HOLD_MS)).await;
    let _: Option<String> = script(STORE_BESIDE, &[&key, &companion], &token, &value).query_async(cache).await?;
    Ok(())
}
