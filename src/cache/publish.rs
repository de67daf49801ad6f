//! What readers with a memory tier are told (`cache.publish`): the name of each key that was deleted, over pub/sub.
//!
//! The invariant: when the server runs a message, every delete that it ran before is named in this message or in one
//! before it, of the same epoch. So deletes and messages take turns ([`Publisher::turn`]), a message stands behind its
//! deletes on one connection, and whatever was sent without an answer ends the epoch. Deletes that nobody names (a sweep, a
//! key that is no text) go with `flush`: readers forget everything, and keep nothing until a message comes without it.
//!
//! A message that is refused or lost never fails a delete. Readers notice the silence, and the epoch that is another one.

use std::cell::{Cell, RefCell};

use ::redis::{Cmd, Value};
use serde::Serialize;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::cache::{Swap, Swept};
use crate::config::PublishConfig;
use crate::error::Result;
use crate::keys::KeySet;
use crate::mark::Published;
use crate::observe::{Id, log};
use crate::random;
use crate::reminder::Reminder;

/// Keys in one message.
pub(super) const KEYS_MAX: usize = 1_000;
/// Bytes of keys in one message, unless a single key is longer.
pub(super) const BYTES_MAX: usize = 256 * 1024;
/// A longer key is not said.
const KEY_BYTES_MAX: usize = 64 * 1024;

/// Wire format 1.
#[derive(Serialize)]
struct Message<'a> {
    v: u32,
    slot: &'a str,
    epoch: &'a str,
    n: u64,
    keys: &'a [&'a str],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    flush: bool,
}

/// A message of no daemon, since no slot has an empty name: every reader passes it over.
pub(super) fn of_nobody(channel: &str) -> Cmd {
    let message = Message { v: 1, slot: "", epoch: "check", n: 0, keys: &[], flush: false };
    publish(channel, &message)
}

fn publish(channel: &str, message: &Message<'_>) -> Cmd {
    let text = serde_json::to_string(message).expect("a message is plain data");
    let mut command = Cmd::new();
    command.arg("PUBLISH").arg(channel).arg(text);
    command
}

/// What readers know by now.
#[derive(Debug)]
struct Told {
    epoch: String,
    /// Of the last message that was sent in this epoch.
    n: u64,
    /// Of the last one that was answered.
    answered: Option<u64>,
    /// The way that the messages of this epoch took; another one may run them in another order.
    way: Option<u64>,
    /// Deletes may be on their way that no message of this epoch names.
    owes: bool,
    /// Sweeps that run.
    sweeps: usize,
}

/// Tells the readers of one cache.
pub struct Publisher {
    channel: String,
    slot: String,
    /// One sender at a time.
    turns: Mutex<()>,
    told: RefCell<Told>,
    said: RefCell<Reminder<Id, Instant>>,
}

impl Publisher {
    /// Has told nobody anything.
    pub fn new(config: &PublishConfig) -> Self {
        let (answered, way) = (None, None);
        let told = Told { epoch: random::text(), n: 0, answered, way, owes: false, sweeps: 0 };
        Publisher {
            channel: config.channel.clone(),
            slot: config.slot.clone(),
            turns: Mutex::default(),
            told: RefCell::new(told),
            said: RefCell::default(),
        }
    }

    /// Where the messages go.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Waits until nobody else deletes or tells.
    pub async fn turn(&self) -> Telling<'_> {
        Telling::of(self, self.turns.lock().await)
    }

    /// The same where nobody does now.
    fn turn_now(&self) -> Option<Telling<'_>> {
        self.turns.try_lock().ok().map(|guard| Telling::of(self, guard))
    }

    /// The last message that was answered, for the mark; none where the next one begins an epoch.
    pub fn published(&self) -> Option<Published> {
        let told = self.told.borrow();
        told.answered.map(|n| Published { epoch: told.epoch.clone(), n })
    }

    /// A sweep begins: until it has ended, each message says so.
    fn sweeps(&self) -> SweepUntold<'_> {
        self.told.borrow_mut().sweeps += 1;
        SweepUntold { publisher: self, is_done: false }
    }

    /// Sweeps; readers hear of it ahead of the first delete, and when it has ended. `flush` sends what the turn says, and
    /// `tell` ends a turn with a message.
    pub async fn around_sweep(
        &self,
        flush: impl AsyncFnOnce(&Telling<'_>) -> Result<()>,
        sweep: impl AsyncFnOnce() -> Result<Swept>,
        tell: impl AsyncFnOnce(Telling<'_>, &[&[u8]]),
    ) -> Result<Swept> {
        let untold = self.sweeps();
        let telling = self.turn().await;
        flush(&telling).await?;
        telling.done();
        let swept = sweep().await?;
        untold.done();
        self.beat(tell).await;
        Ok(swept)
    }

    /// Swaps the mark by a step that deletes the keys of `again`; readers hear these behind it, or a beat.
    pub async fn around_swap(
        &self,
        again: &KeySet,
        swap: impl AsyncFnOnce() -> Result<Swap>,
        tell: impl AsyncFnOnce(Telling<'_>, &[&[u8]]),
    ) -> Result<Swap> {
        if again.is_empty() {
            let swap = swap().await?;
            if let Swap::Written = swap {
                self.beat(tell).await;
            }
            return Ok(swap);
        }
        let telling = self.turn().await;
        telling.deletes();
        let swap = swap().await?;
        // What the step of another outcome deleted is not known: the turn ends without a word then, and with it the epoch.
        if let Swap::Written = swap {
            let keys: Vec<&[u8]> = again.iter().map(|key| key.bytes).collect();
            tell(telling, &keys).await;
        }
        Ok(swap)
    }

    /// A heartbeat, unless a delete is on its way: that one tells as much.
    async fn beat(&self, tell: impl AsyncFnOnce(Telling<'_>, &[&[u8]])) {
        if let Some(telling) = self.turn_now() {
            tell(telling, &[]).await;
        }
    }

    fn renew(&self) {
        let mut told = self.told.borrow_mut();
        (told.epoch, told.n, told.answered, told.way) = (random::text(), 0, None, None);
    }
}

/// The sole right to delete and to tell. Dropped before it is done, it ends the epoch.
pub struct Telling<'a> {
    publisher: &'a Publisher,
    _guard: MutexGuard<'a, ()>,
    /// Something may be deleted that was not told.
    deletes: Cell<bool>,
    is_done: Cell<bool>,
}

impl<'a> Telling<'a> {
    fn of(publisher: &'a Publisher, guard: MutexGuard<'a, ()>) -> Self {
        Telling { publisher, _guard: guard, deletes: Cell::new(false), is_done: Cell::new(false) }
    }

    /// Something is deleted in this turn.
    pub fn deletes(&self) {
        self.deletes.set(true);
    }

    /// The message behind the deletes of these keys, or a heartbeat; `way` is the connection that it goes over, by its
    /// generation.
    pub fn message(&self, way: u64, keys: &[&[u8]]) -> Cmd {
        if self.publisher.told.borrow().way.is_some_and(|before| before != way) {
            self.publisher.renew();
        }
        let is_sayable = |key: &&[u8]| key.len() <= KEY_BYTES_MAX;
        let texts: Option<Vec<&str>> = keys
            .iter()
            .map(|key| Some(*key).filter(is_sayable).and_then(|key| std::str::from_utf8(key).ok()))
            .collect();
        self.say(way, texts.filter(|texts| texts.len() <= KEYS_MAX))
    }

    /// The same behind deletes that are not named one by one.
    pub fn flush(&self, way: u64) -> Cmd {
        self.say(way, None)
    }

    fn say(&self, way: u64, keys: Option<Vec<&str>>) -> Cmd {
        let mut told = self.publisher.told.borrow_mut();
        told.n += 1;
        told.way = Some(way);
        let flush = keys.is_none() || told.owes || told.sweeps > 0;
        let keys = keys.unwrap_or_default();
        let Publisher { channel, slot, .. } = self.publisher;
        publish(channel, &Message { v: 1, slot, epoch: &told.epoch, n: told.n, keys: &keys, flush })
    }

    /// The answer to the message that was sent last.
    pub fn answered(&self, reply: &Value) {
        if let Value::ServerError(error) = reply {
            let channel = &self.publisher.channel;
            let due = self.publisher.said.borrow_mut().is_due(&Id::PublishRefused, Instant::now());
            if due {
                let hint = "Give the user of the cache the right: ACL SETUSER … +publish &CHANNEL; or take publish out of this cache.";
                log!(
                    Id::PublishRefused,
                    hint,
                    code = error.code(),
                    "the cache refuses to publish on \"{channel}\": readers keep nothing in memory"
                );
            }
            return self.publisher.renew();
        }
        let mut told = self.publisher.told.borrow_mut();
        told.answered = Some(told.n);
    }

    /// Everything that was deleted in this turn was told, or cannot have happened.
    pub fn done(self) {
        self.is_done.set(true);
        if self.deletes.get() {
            self.publisher.told.borrow_mut().owes = false;
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.is_done.get() {
            self.publisher.renew();
            self.publisher.told.borrow_mut().owes |= self.deletes.get();
        }
    }
}

/// A sweep that runs. Dropped before it is done, what it deleted may be told by nobody.
struct SweepUntold<'a> {
    publisher: &'a Publisher,
    is_done: bool,
}

impl SweepUntold<'_> {
    /// It ended, and every delete of it was answered.
    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for SweepUntold<'_> {
    fn drop(&mut self) {
        self.publisher.told.borrow_mut().sweeps -= 1;
        if !self.is_done {
            self.publisher.renew();
            self.publisher.told.borrow_mut().owes = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::Arg;

    fn publisher() -> Publisher {
        Publisher::new(&PublishConfig { channel: "crieur:keys".to_owned(), slot: "crieur".to_owned() })
    }

    /// What a message says: its number, its keys, whether everything is to be forgotten; and its epoch.
    fn said(command: &Cmd) -> ((u64, Vec<String>, bool), String) {
        let words: Vec<String> = command
            .args_iter()
            .map(|argument| match argument {
                Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
                _ => String::new(), // Arg is foreign and non-exhaustive.
            })
            .collect();
        assert_eq!(words[..2], ["PUBLISH", "crieur:keys"]);
        let message: serde_json::Value = serde_json::from_str(&words[2]).expect("JSON");
        assert_eq!((message["v"].as_u64(), message["slot"].as_str()), (Some(1), Some("crieur")));
        let keys = message["keys"].as_array().expect("a list").iter();
        let keys = keys.map(|key| key.as_str().expect("a text").to_owned()).collect();
        let of = (message["n"].as_u64().expect("a number"), keys, message["flush"] == true);
        (of, message["epoch"].as_str().expect("a text").to_owned())
    }

    #[tokio::test]
    async fn each_message_has_the_next_number_and_what_cannot_be_named_is_a_flush() {
        let publisher = publisher();
        let turn = publisher.turn().await;
        assert_eq!(publisher.published(), None, "nothing was sent");
        let (first, epoch) = said(&turn.message(7, &[b"a", b"b{c}"]));
        assert_eq!(first, (1, vec!["a".to_owned(), "b{c}".to_owned()], false));
        assert_eq!(publisher.published(), None, "it was not answered");
        turn.answered(&Value::Int(0));
        assert_eq!(publisher.published(), Some(Published { epoch: epoch.clone(), n: 1 }));
        assert_eq!(said(&turn.message(7, &[])).0, (2, vec![], false));
        assert_eq!(said(&turn.message(7, &[b"a", b"\xFF"])).0, (3, vec![], true));
        let long = vec![b'k'; KEY_BYTES_MAX + 1];
        assert_eq!(said(&turn.message(7, &[&long])).0, (4, vec![], true));
        assert_eq!(said(&turn.message(7, &vec![&b"k"[..]; KEYS_MAX + 1])).0, (5, vec![], true));
        let (last, same) = said(&turn.flush(7));
        assert_eq!((last, same), ((6, vec![], true), epoch));
        turn.done();
    }

    #[tokio::test]
    async fn what_was_lost_ends_the_epoch_and_readers_keep_nothing_until_it_went_again() {
        let publisher = publisher();
        let turn = publisher.turn().await;
        let (_, epoch) = said(&turn.message(1, &[b"a"]));
        turn.deletes();
        drop(turn);
        let turn = publisher.turn().await;
        let (beat, second) = said(&turn.message(1, &[]));
        assert!(epoch != second && beat == (1, vec![], true), "{beat:?}");
        turn.answered(&Value::Int(0));
        turn.done();
        let turn = publisher.turn().await;
        turn.deletes();
        assert!(said(&turn.message(1, &[b"a"])).0.2, "it is not through yet");
        turn.answered(&Value::Int(0));
        turn.done();
        let turn = publisher.turn().await;
        assert_eq!(said(&turn.message(1, &[])), ((3, vec![], false), second.clone()));
        // A heartbeat that was lost owes nothing.
        drop(turn);
        let turn = publisher.turn().await;
        let (beat, third) = said(&turn.message(1, &[]));
        assert!(third != second && beat == (1, vec![], false), "{beat:?}");
        // Another connection may run messages in another order.
        let (beat, fourth) = said(&turn.message(2, &[]));
        assert!(fourth != third && beat.0 == 1);
        turn.done();
    }

    #[tokio::test]
    async fn while_a_sweep_runs_each_message_says_so() {
        let publisher = publisher();
        let sweep = publisher.sweeps();
        let turn = publisher.turn().await;
        let (first, epoch) = said(&turn.message(1, &[]));
        assert_eq!(first, (1, vec![], true));
        sweep.done();
        assert_eq!(said(&turn.message(1, &[])), ((2, vec![], false), epoch.clone()));
        drop(publisher.sweeps());
        let (after, other) = said(&turn.message(1, &[]));
        assert!(other != epoch && after == (1, vec![], true), "a sweep that ended half way: {after:?}");
        turn.done();
    }

    #[tokio::test]
    async fn one_at_a_time_deletes_and_tells() {
        let publisher = publisher();
        let turn = publisher.turn_now().expect("nobody else");
        assert!(publisher.turn_now().is_none());
        turn.done();
        assert!(publisher.turn_now().is_some());
    }
}
