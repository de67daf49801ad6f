//! Values in the process's own memory, for a daemon that says what it deletes (`publish` of its cache). Off unless used.
//!
//! Pub/sub loses messages. So each has a number, the mark of the daemon names the last one, and what was heard has an age:
//! a message that comes behind the answer to a PING was sent after that PING, and names every delete before it. The tier
//! serves nothing that is older than its bound by that age, and forgets everything when a message is missing, when another
//! epoch begins, when its subscription is lost, or when the mark names what did not come. No clock is compared with
//! another one. The format is in `clients/typescript/docs/memory.md` of the repository.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use redis::Client;
use redis::aio::{PubSubSink, PubSubStream};
use serde::Deserialize;
use tokio::time::{interval, sleep, timeout};

use crate::inner::Core;
use crate::store::{Reply, StoreError};

/// The pause behind a subscription that was lost or could not be made, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How a cache keeps values in memory, and where it hears of deletes. See [`Builder::memory`](crate::Builder::memory).
#[derive(Clone, Debug)]
pub struct Memory {
    client: Client,
    slot: String,
    channel: String,
    bound: Duration,
    bytes_max: usize,
}

impl Memory {
    /// Hears over a connection of its own to the server at this address, which is that of the cache.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn open(url: &str) -> Result<Memory, StoreError> {
        Client::open(url).map(Memory::over).map_err(|error| StoreError::new(error.to_string()))
    }

    /// The same over a client that was made elsewhere.
    pub fn over(client: Client) -> Memory {
        let (slot, channel) = ("crieur".to_owned(), "crieur:keys".to_owned());
        Memory { client, slot, channel, bound: Duration::from_secs(5), bytes_max: 16 << 20 }
    }

    /// The slot of the daemon (`postgres.slot`). `crieur` unless said.
    #[must_use]
    pub fn slot(self, slot: impl Into<String>) -> Memory {
        Memory { slot: slot.into(), ..self }
    }

    /// The channel, as the daemon's `publish` says. `crieur:keys` unless said.
    #[must_use]
    pub fn channel(self, channel: impl Into<String>) -> Memory {
        Memory { channel: channel.into(), ..self }
    }

    /// No value is served longer than this behind the delete of its key. 5 s unless said; twice the daemon's `heartbeat`
    /// at least, or the memory is of little use.
    #[must_use]
    pub fn bound(self, bound: Duration) -> Memory {
        Memory { bound, ..self }
    }

    /// What keys and values may take, in bytes; those that came first go first. 16 MiB unless said.
    #[must_use]
    pub fn bytes_max(self, bytes: usize) -> Memory {
        Memory { bytes_max: bytes, ..self }
    }
}

/// A message of the daemon.
#[derive(Deserialize)]
struct Message {
    v: u64,
    #[serde(default)]
    slot: String,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    n: u64,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    flush: bool,
}

/// What the mark says of the messages.
#[derive(Deserialize)]
struct Published {
    epoch: String,
    n: u64,
}

#[derive(Deserialize)]
struct Marked {
    published: Option<Published>,
}

/// A value.
struct Kept {
    text: Arc<[u8]>,
    until: Instant,
    /// Its place in the order of arrival.
    place: u64,
}

/// Fills of one key that are under way.
#[derive(Default)]
struct Filling {
    running: usize,
    /// How often a message named the key meanwhile.
    voided: u64,
}

/// What was heard, and what is kept.
#[derive(Default)]
struct State {
    /// The subscription stands.
    hears: bool,
    /// No sweep runs, as far as the last message says.
    keeps: bool,
    /// Of the last message.
    epoch: Option<String>,
    n: u64,
    /// When the latest PING was sent that was answered.
    pinged: Option<Instant>,
    /// Every delete before then is known.
    fresh: Option<Instant>,
    kept: HashMap<String, Kept>,
    order: BTreeMap<u64, String>,
    places: u64,
    bytes: usize,
    filling: HashMap<String, Filling>,
    /// How often everything was forgotten.
    flushes: u64,
}

impl State {
    fn forget_all(&mut self) {
        self.kept.clear();
        self.order.clear();
        (self.bytes, self.flushes) = (0, self.flushes + 1);
    }

    fn forget(&mut self, key: &str) {
        if let Some(filling) = self.filling.get_mut(key) {
            filling.voided += 1;
        }
        self.remove(key);
    }

    fn remove(&mut self, key: &str) {
        if let Some(kept) = self.kept.remove(key) {
            self.order.remove(&kept.place);
            self.bytes -= key.len() + kept.text.len();
        }
    }

    fn is_fresh(&self, now: Instant, bound: Duration) -> bool {
        self.hears && self.keeps && self.was_heard_within(now, bound)
    }

    fn was_heard_within(&self, now: Instant, bound: Duration) -> bool {
        self.fresh.is_some_and(|fresh| now.saturating_duration_since(fresh) <= bound)
    }
}

/// The tier of one cache.
pub struct Tier {
    settings: Memory,
    state: Mutex<State>,
    is_followed: AtomicBool,
}

/// The right to keep what is read from the cache from now on.
pub struct Ticket<'a> {
    tier: &'a Tier,
    key: &'a str,
    flushes: u64,
    voided: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.tier.state();
        if let Some(filling) = state.filling.get_mut(self.key) {
            filling.running -= 1;
            if filling.running == 0 {
                state.filling.remove(self.key);
            }
        }
    }
}

impl Ticket<'_> {
    /// Keeps what was read, unless its key was deleted meanwhile, as far as was heard.
    pub fn keep(&self, text: &[u8], lasts: Duration) {
        let (key, limit) = (self.key, self.tier.settings.bytes_max);
        let mut state = self.tier.state();
        let voided = state.filling.get(key).map(|filling| filling.voided);
        let is_void = !state.hears || !state.keeps || state.flushes != self.flushes || voided != Some(self.voided);
        if is_void || key.len() + text.len() > limit {
            return;
        }
        state.remove(key);
        state.bytes += key.len() + text.len();
        state.places += 1;
        let (place, until) = (state.places, Instant::now() + lasts);
        state.order.insert(place, key.to_owned());
        state.kept.insert(key.to_owned(), Kept { text: text.into(), until, place });
        while state.bytes > limit
            && let Some((_, oldest)) = state.order.pop_first()
        {
            state.remove(&oldest);
        }
    }
}

impl Tier {
    /// Keeps nothing yet.
    pub fn new(settings: Memory) -> Tier {
        Tier { settings, state: Mutex::default(), is_followed: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The value that is kept for this key, if what was heard is fresh enough.
    pub fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        self.get_at(key, Instant::now())
    }

    /// The same at this time.
    pub fn get_at(&self, key: &str, now: Instant) -> Option<Arc<[u8]>> {
        let state = self.state();
        let kept = state.kept.get(key).filter(|kept| kept.until > now)?;
        state.is_fresh(now, self.settings.bound).then(|| Arc::clone(&kept.text))
    }

    /// To be taken before the cache is asked; `None` while nothing is kept.
    pub fn ticket<'a>(&'a self, key: &'a str) -> Option<Ticket<'a>> {
        let mut state = self.state();
        if !state.hears || !state.keeps {
            return None;
        }
        let filling = state.filling.entry(key.to_owned()).or_default();
        filling.running += 1;
        let voided = filling.voided;
        Some(Ticket { tier: self, key, flushes: state.flushes, voided })
    }

    /// These keys are deleted.
    pub fn forget<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        let mut state = self.state();
        keys.for_each(|key| state.forget(key));
    }

    /// The subscription stands.
    pub fn subscribed(&self) {
        let mut state = self.state();
        state.forget_all();
        (state.hears, state.keeps, state.epoch, state.n) = (true, false, None, 0);
        (state.pinged, state.fresh) = (None, None);
    }

    /// It does not stand any more.
    pub fn lost(&self) {
        let mut state = self.state();
        state.forget_all();
        state.hears = false;
    }

    /// A message came.
    pub fn hear(&self, text: &[u8], now: Instant) {
        let mut state = self.state();
        let message: Message = match serde_json::from_slice(text) {
            Ok(Message { v: 1, slot, .. }) if slot != self.settings.slot => return,
            Ok(message @ Message { v: 1, .. }) => message,
            // Another format, or none: what it says is not known.
            Ok(_) | Err(_) => {
                state.forget_all();
                (state.keeps, state.epoch) = (false, None);
                return;
            }
        };
        let is_next = state.epoch.as_deref() == Some(&message.epoch) && message.n == state.n + 1;
        let was_silent = state.fresh.is_some() && !state.was_heard_within(now, self.settings.bound);
        if !is_next || message.flush || was_silent {
            state.forget_all();
        }
        (state.keeps, state.epoch, state.n) = (!message.flush, Some(message.epoch), message.n);
        let keys: HashSet<String> = message.keys.into_iter().collect();
        keys.iter().for_each(|key| state.forget(key));
        state.fresh = state.fresh.max(state.pinged);
    }

    /// A PING that was sent then was answered, and all messages before the answer were heard; `mark` was read before.
    pub fn answered(&self, sent: Instant, mark: Option<&Reply>) {
        let mut state = self.state();
        state.pinged = Some(sent);
        // A cache that does not answer says nothing.
        let Some(mark) = mark else { return };
        let marked: Option<Marked> = match mark {
            Reply::Bytes(text) => serde_json::from_slice(text).ok(),
            Reply::Nil | Reply::Int(_) | Reply::Many(_) => None,
        };
        let published = marked.and_then(|marked| marked.published);
        let is_heard = published.is_some_and(|of| state.epoch.as_ref() == Some(&of.epoch) && of.n <= state.n);
        if !is_heard {
            state.forget_all();
        }
    }

    /// Follows the daemon as long as the cache is there; from the first call on.
    pub fn follow(self: &Arc<Tier>, core: &Arc<Core>) {
        if self.is_followed.swap(true, Ordering::SeqCst) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(follow(Arc::clone(self), Arc::downgrade(core)))),
            Err(_) => self.is_followed.store(false, Ordering::SeqCst),
        }
    }
}

/// Ends when the cache is gone. A runtime that ends takes the task along, and the next runtime begins another.
async fn follow(tier: Arc<Tier>, core: Weak<Core>) {
    /// Whatever ends the task, nothing is served behind it.
    struct Followed(Arc<Tier>);
    impl Drop for Followed {
        fn drop(&mut self) {
            self.0.lost();
            self.0.is_followed.store(false, Ordering::SeqCst);
        }
    }
    let _followed = Followed(Arc::clone(&tier));
    let mut pause = PAUSE;
    while core.strong_count() > 0 {
        let limit = tier.settings.bound.max(PAUSE_MAX);
        if let Ok(Ok((sink, stream))) = timeout(limit, subscribe(&tier.settings)).await {
            tier.subscribed();
            pause = PAUSE;
            listen(&tier, &core, sink, stream).await;
            tier.lost();
        }
        sleep(crate::random::part(pause, 0.5)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn subscribe(settings: &Memory) -> redis::RedisResult<(PubSubSink, PubSubStream)> {
    let (mut sink, stream) = settings.client.get_async_pubsub().await?.split();
    sink.subscribe(&settings.channel).await?;
    Ok((sink, stream))
}

/// Hears, and asks four times within the bound, until the subscription is lost.
async fn listen(tier: &Tier, core: &Weak<Core>, mut sink: PubSubSink, mut stream: PubSubStream) {
    let mark = [b"GET".to_vec(), format!("crieur:mark:{}", tier.settings.slot).into_bytes()].to_vec();
    let mut ticks = interval((tier.settings.bound / 4).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(message) => tier.hear(message.get_payload_bytes(), Instant::now()),
                None => return,
            },
            _ = ticks.tick() => {
                let Some(core) = core.upgrade() else { return };
                let asking = async {
                    let mark = core.ask(&mark).await;
                    let sent = Instant::now();
                    let answered = timeout(tier.settings.bound, sink.ping::<redis::Value>()).await;
                    matches!(answered, Ok(Ok(_))).then_some((sent, mark))
                };
                let mut asking = std::pin::pin!(asking);
                let answer = loop {
                    tokio::select! {
                        answer = &mut asking => break answer,
                        message = stream.next() => match message {
                            Some(message) => tier.hear(message.get_payload_bytes(), Instant::now()),
                            None => return,
                        },
                    }
                };
                let Some((sent, mark)) = answer else { return };
                // What came ahead of the answer says nothing of the time behind the question.
                while let Some(Some(message)) = stream.next().now_or_never() {
                    tier.hear(message.get_payload_bytes(), Instant::now());
                }
                tier.answered(sent, mark.as_ref());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(60);

    fn tier() -> Tier {
        let tier = Tier::new(Memory::open("redis://127.0.0.1:1").expect("an address").bound(BOUND).bytes_max(100));
        tier.subscribed();
        tier
    }

    fn says(tier: &Tier, n: u64, keys: &[&str]) {
        let text = serde_json::json!({ "v": 1, "slot": "crieur", "epoch": "e", "n": n, "keys": keys }).to_string();
        tier.hear(text.as_bytes(), Instant::now());
    }

    fn mark(epoch: &str, n: u64) -> Reply {
        Reply::Bytes(format!("{{\"at\":1,\"published\":{{\"epoch\":\"{epoch}\",\"n\":{n}}}}}").into_bytes())
    }

    /// A tier that keeps `a` and serves it.
    fn serving() -> Tier {
        let tier = tier();
        tier.answered(Instant::now(), None);
        says(&tier, 7, &[]);
        tier.ticket("a").expect("it keeps").keep(b"1", LONG);
        assert!(tier.get("a").is_some());
        tier
    }

    #[test]
    fn nothing_is_kept_before_the_first_message_and_nothing_served_before_its_age_is_known() {
        let tier = tier();
        assert!(tier.ticket("a").is_none());
        says(&tier, 7, &[]);
        tier.ticket("a").expect("it keeps").keep(b"1", LONG);
        assert!(tier.get("a").is_none(), "how old the message is nobody knows");
        tier.answered(Instant::now(), Some(&mark("e", 7)));
        assert!(tier.get("a").is_none(), "the message came before the answer");
        says(&tier, 8, &[]);
        assert!(tier.get("a").is_some());
    }

    #[test]
    fn a_delete_a_missing_number_and_whatever_is_not_understood_are_forgotten() {
        type Happens = fn(&Tier);
        let cases: [(&str, Happens); 10] = [
            ("named", |tier| says(tier, 8, &["a", "b"])),
            ("a number is missing", |tier| says(tier, 9, &[])),
            ("a number came again", |tier| says(tier, 7, &[])),
            ("another epoch", |tier| {
                tier.hear(br#"{"v":1,"slot":"crieur","epoch":"f","n":8,"keys":[]}"#, Instant::now());
            }),
            ("a sweep", |tier| {
                tier.hear(br#"{"v":1,"slot":"crieur","epoch":"e","n":8,"keys":[],"flush":true}"#, Instant::now());
            }),
            ("another format", |tier| tier.hear(br#"{"v":2}"#, Instant::now())),
            ("no message", |tier| tier.hear(b"x", Instant::now())),
            ("a lost connection", Tier::lost),
            ("a mark of what did not come", |tier| tier.answered(Instant::now(), Some(&mark("e", 8)))),
            ("no mark", |tier| tier.answered(Instant::now(), Some(&Reply::Nil))),
        ];
        for (what, happens) in cases {
            let tier = serving();
            happens(&tier);
            assert!(tier.get("a").is_none(), "{what}");
        }
        let tier = serving();
        says(&tier, 8, &["b"]);
        tier.hear(br#"{"v":1,"slot":"other","epoch":"f","n":3,"keys":["a"]}"#, Instant::now());
        tier.answered(Instant::now(), Some(&mark("e", 8)));
        assert!(tier.get("a").is_some(), "none of that is about it");
    }

    #[test]
    fn what_was_read_before_a_delete_was_heard_is_not_kept_behind_it() {
        let tier = serving();
        let ticket = tier.ticket("b").expect("it keeps");
        let other = tier.ticket("c").expect("it keeps");
        says(&tier, 8, &["b"]);
        ticket.keep(b"old", LONG);
        other.keep(b"2", LONG);
        assert!(tier.get("b").is_none() && tier.get("c").is_some());
        drop(ticket);
        tier.ticket("b").expect("it keeps").keep(b"new", LONG);
        assert!(tier.get("b").is_some());
        let ticket = tier.ticket("d").expect("it keeps");
        says(&tier, 10, &[]);
        ticket.keep(b"old", LONG);
        assert!(tier.get("d").is_none(), "everything was forgotten meanwhile");
        drop((ticket, other));
        assert!(tier.state().filling.is_empty());
    }

    #[test]
    fn silence_ends_what_is_served_and_the_first_to_come_goes_first() {
        let tier = serving();
        let long_ago = Instant::now().checked_sub(BOUND + Duration::from_secs(1)).expect("the machine runs for longer");
        tier.state().fresh = Some(long_ago);
        assert!(tier.get("a").is_none());
        says(&tier, 8, &[]);
        assert!(tier.get("a").is_none(), "and it is gone");
        let tier = serving();
        for key in ["b", "c", "d"] {
            tier.ticket(key).expect("it keeps").keep(&[0; 40], LONG);
        }
        assert!(tier.get("a").is_none() && tier.get("b").is_none());
        assert!(tier.get("c").is_some() && tier.get("d").is_some() && tier.state().bytes <= 100);
        tier.ticket("e").expect("it keeps").keep(b"5", Duration::ZERO);
        assert!(tier.get("e").is_none(), "its time is over");
    }
}
