//! What all reads of a cache share: the way to the server, what was said and counted, and the reads that run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::breaker::Breaker;
use crate::event::{Event, Listener, Teller};
use crate::flight::Flights;
use crate::lease::{self, Command, Names, Protocol, Seen, Take, Taken};
use crate::memory::{Memory, Tier};
use crate::options::Ttl;
use crate::silence::Silence;
use crate::store::{Reply, Store, StoreError, StoreErrorKind, TIMEOUT};

/// What the builder was told.
pub struct Settings {
    pub namespace: Option<String>,
    pub ttls: HashMap<String, Duration>,
    pub ttl: Duration,
    pub protocol: Protocol,
    pub take: Take,
    pub lease_lasts: Duration,
    pub wait: Duration,
    pub silence: Option<Silence>,
    pub memory: Option<Memory>,
    pub share: bool,
    pub wait_for_store: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            namespace: None,
            ttls: HashMap::new(),
            ttl: Duration::from_secs(300),
            protocol: Protocol::default(),
            take: Take::default(),
            lease_lasts: Duration::from_secs(10),
            wait: Duration::from_secs(1),
            silence: None,
            memory: None,
            share: true,
            wait_for_store: true,
        }
    }
}

/// A cache without its codec.
pub struct Core {
    pub store: Option<Arc<dyn Store>>,
    pub settings: Settings,
    pub teller: Teller,
    /// Reads that have a lease, or are about to take one.
    pub flights: Flights,
    /// The latest fetch of a key without the cache.
    pub rows: Flights,
    /// Values of this process.
    pub memory: Option<Arc<Tier>>,
    breaker: Mutex<Breaker>,
    clock: AtomicU64,
}

impl Core {
    pub fn new(
        store: Option<Arc<dyn Store>>,
        settings: Settings,
        (after, pause): (u32, Duration),
        listener: Option<Listener>,
    ) -> Core {
        let memory = settings.memory.clone().filter(|_| store.is_some()).map(|memory| Arc::new(Tier::new(memory)));
        Core {
            store,
            memory,
            settings,
            teller: Teller::new(listener),
            flights: Flights::default(),
            rows: Flights::default(),
            breaker: Mutex::new(Breaker::new(after, pause)),
            clock: AtomicU64::new(0),
        }
    }

    /// A moment of this cache, later than all before.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What one call may cost beyond its fetch.
    pub fn budget(&self) -> Duration {
        2 * self.store.as_ref().map_or(TIMEOUT, |store| store.timeout())
    }

    /// The keys of a read.
    pub fn names(&self, key: &str, namespace: Option<&str>) -> Names {
        let namespace = namespace.or(self.settings.namespace.as_deref());
        self.settings.protocol.names(lease::full_key(namespace, key))
    }

    /// The TTL in whole seconds; `None` where there is none, which is told.
    pub fn seconds(&self, ttl: Option<&Ttl>) -> Option<u64> {
        let ttl = match ttl {
            None => Some(self.settings.ttl),
            Some(Ttl::For(ttl)) => Some(*ttl),
            Some(Ttl::Kind(kind)) => self.settings.ttls.get(kind).copied(),
        };
        let seconds = ttl.filter(|ttl| !ttl.is_zero()).map(whole_seconds);
        if seconds.is_none() {
            let error = StoreError::new("no such kind of `ttls`, or zero: the row is answered and not stored");
            self.teller.tell(&Event::Error { command: "ttl", error: &error });
        }
        seconds
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Sends a command. `None`: there is no answer that counts.
    pub async fn ask(&self, command: &Command) -> Option<Reply> {
        let store = self.store.as_ref()?;
        let ticket = self.breaker().admit(Instant::now())?;
        let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let answer = store.send(&words).await;
        if let Err(error) = &answer {
            let name = String::from_utf8_lossy(&command[0]);
            self.teller.tell(&Event::Error { command: &name, error });
            if error.kind() != StoreErrorKind::OneKey {
                let is_refused = error.kind() == StoreErrorKind::Refused;
                let pause = self.breaker().lost(ticket, Instant::now(), is_refused);
                if let Some(lasts) = pause {
                    self.teller.tell(&Event::Pause { lasts, error });
                }
                return None;
            }
        }
        if self.breaker().answered(ticket) {
            self.teller.tell(&Event::Resume);
        }
        answer.ok()
    }

    /// What the cache holds. `None`: there is no answer, or nobody deletes.
    pub async fn look(&self, names: &Names) -> Option<Seen> {
        let mut keys = self.settings.protocol.looked_at(names);
        keys.extend(self.settings.silence.as_ref().map(|silence| silence.key.as_str()));
        let word = if keys.len() == 1 { "GET" } else { "MGET" };
        let command = std::iter::once(word).chain(keys.iter().copied()).map(|word| word.as_bytes().to_vec()).collect();
        let mut answers = match self.ask(&command).await? {
            Reply::Many(all) if keys.len() > 1 && all.len() == keys.len() => all,
            one if keys.len() == 1 => vec![one],
            _ => return None,
        };
        if let Some(silence) = &self.settings.silence {
            let mark = answers.pop().unwrap_or(Reply::Nil);
            if silence.is_silent(&mark) {
                return None;
            }
        }
        Some(self.settings.protocol.seen(answers.into_iter()))
    }

    /// Takes the lease. `None`: there is no answer, and perhaps a lease that nobody uses.
    pub async fn take(&self, names: &Names) -> Option<Taken> {
        let Settings { protocol, take, lease_lasts, .. } = &self.settings;
        let own = format!("L{}", crate::random::text());
        let Some(command) = protocol.take(*take, names, &own, &lease_lasts.as_millis().max(1).to_string()) else {
            return Some(Taken::Ours(Vec::new()));
        };
        let answer = self.ask(&command).await?;
        Some(protocol.taken(*take, &own, answer))
    }

    /// Stores under the lease.
    pub async fn keep(&self, names: &Names, lease: &[u8], text: &[u8], seconds: u64, grace: Duration) {
        let protocol = self.settings.protocol;
        let answer = self.ask(&protocol.store(names, lease, text, &seconds.to_string())).await;
        let is_stored = answer.as_ref().is_some_and(|answer| answer.is("OK") || answer.int() == Some(1));
        if is_stored {
            let ttl = Duration::from_secs(seconds);
            self.teller.tell(&Event::Set { key: &names.key, ttl, bytes: protocol.bytes(text) });
            if !grace.is_zero() {
                self.copy(names, text, seconds + whole_seconds(grace)).await;
            }
        } else if answer.is_some() {
            self.teller.tell(&Event::Refused { key: &names.key });
        }
    }

    /// Keeps a copy for when the source fails.
    async fn copy(&self, names: &Names, text: &[u8], seconds: u64) {
        let value = [now().as_millis().to_string().as_bytes(), b":", text].concat();
        let seconds = seconds.to_string();
        let words = [b"SET", names.grace.as_bytes(), &value, b"EX", seconds.as_bytes()];
        self.ask(&words.map(<[u8]>::to_vec).to_vec()).await;
    }

    /// The copy, and how old it is.
    pub async fn copied(&self, names: &Names) -> Option<(Vec<u8>, Duration)> {
        let command = [&b"GET"[..], names.grace.as_bytes()].map(<[u8]>::to_vec).to_vec();
        let Some(Reply::Bytes(copy)) = self.ask(&command).await else { return None };
        let cut = copy.iter().position(|byte| *byte == b':')?;
        let stored: u64 = std::str::from_utf8(&copy[..cut]).ok()?.parse().ok()?;
        Some((copy[cut + 1..].to_vec(), now().saturating_sub(Duration::from_millis(stored))))
    }

    /// Frees the key for others. A lease that was never needed needs nothing.
    pub async fn give_back(&self, names: &Names, lease: &[u8]) {
        if !lease.is_empty() {
            self.ask(&lease::give_back(names, lease)).await;
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Never zero of what is more.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
