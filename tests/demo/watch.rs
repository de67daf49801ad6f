//! The cache as its readers see it: keys are stored, and it is seen when they go.
//!
//! It knows no rule: it reports which keys went and when, and whoever asks decides whether that is right.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::Commands;

/// A set of keys, in order.
pub type Keys = BTreeSet<String>;

/// Long enough for any delete or echo that works; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the cache is asked.
const STEP: Duration = Duration::from_micros(250);

/// A connection of a reader.
pub struct Watch(redis::Connection);

/// What was seen of a change.
pub struct Seen {
    /// From the moment given until the last of the keys was gone; `None` when one of them never went.
    pub after: Option<Duration>,
    /// Every key that went, expected or not.
    pub went: Keys,
}

impl Watch {
    pub fn new(connection: redis::Connection) -> Watch {
        Watch(connection)
    }

    /// What a reader does with a value that it computed.
    pub fn store(&mut self, keys: &Keys) -> redis::RedisResult<()> {
        keys.iter().try_for_each(|key| self.0.set(key, "a value computed from rows"))
    }

    /// Every key, except the daemon's own mark.
    pub fn keys(&mut self) -> redis::RedisResult<Keys> {
        let keys: Keys = self.0.keys("*")?;
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
