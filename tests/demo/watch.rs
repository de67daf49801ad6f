//! The cache as its readers see it: keys are stored, and it is seen when they go.
//!
//! It knows no rule: it reports which keys went and when, and whoever asks decides whether that is right.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use crieur_cache::{Cache, From, Options, Protocol, Raw, Redis};
use redis::Commands;

/// A set of keys, in order.
pub type Keys = BTreeSet<String>;

/// Long enough for any delete or echo that works; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than the demo: nothing expires that should have been deleted.
const TTL: Duration = Duration::from_secs(3600);

/// How often the cache is asked.
const STEP: Duration = Duration::from_micros(250);

/// What readers hold of the cache.
pub struct Watch {
    /// The shipped reader, without leases: what is stored again behind a delete is what the echo is for.
    reader: Cache<Raw>,
    connection: redis::Connection,
}

/// What was seen of a change.
pub struct Seen {
    /// From the moment given until the last of the keys was gone; `None` when one of them never went.
    pub after: Option<Duration>,
    /// Every key that went, expected or not.
    pub went: Keys,
}

impl Watch {
    /// Readers of the cache at this address.
    pub fn new(url: &str, connection: redis::Connection) -> Watch {
        let redis = Redis::open(url).expect("a server's own address").timeout(PATIENCE);
        let reader = Cache::builder(redis).codec(Raw).protocol(Protocol::Plain).ttl(TTL).build();
        Watch { reader: reader.expect("what is said is valid"), connection }
    }

    /// What readers do with values that they computed from rows.
    ///
    /// # Errors
    /// When the cache does not take one: a reader of an application would go on without.
    pub async fn store(&self, keys: &Keys) -> Result<(), String> {
        for key in keys {
            let computed = async || Ok::<_, Infallible>("a value computed from rows".to_owned());
            let Ok(read) = self.reader.read(key, Options::new(), computed).await;
            if read.from == From::Bypass {
                return Err(format!("the cache does not take {key}"));
            }
        }
        Ok(())
    }

    /// Every key, except the daemon's own mark.
    pub fn keys(&mut self) -> redis::RedisResult<Keys> {
        let keys: Keys = self.connection.keys("*")?;
        Ok(keys.into_iter().filter(|key| !key.starts_with("crieur:")).collect())
    }

    /// Waits until all of `keys` are gone; `before` is what the cache held.
    pub fn gone(&mut self, keys: &Keys, before: &Keys, since: Instant) -> redis::RedisResult<Seen> {
        loop {
            let now = self.keys()?;
            let after = since.elapsed();
            let done = now.is_disjoint(keys);
            if done || after > PATIENCE {
                let went = before.difference(&now).cloned().collect();
                return Ok(Seen { after: done.then_some(after), went });
            }
            std::thread::sleep(STEP);
        }
    }
}

/// Keys from text.
pub fn keys(texts: &[&str]) -> Keys {
    texts.iter().map(ToString::to_string).collect()
}
