//! Where keys are deleted and tags purged: the trait that the loop knows, and its members.
//!
//! One call is one attempt. It succeeds only when every reply was read and none was an error; otherwise the caller
//! sends the same keys again, because deleting twice is harmless and deleting too little is not.

pub mod acl;
pub mod address;
pub mod any;
mod asking;
mod bill;
pub mod cluster;
pub mod continuity;
pub mod forms;
pub mod health;
mod http;
pub mod identity;
pub mod inspect;
pub mod lease;
mod link;
mod long;
pub mod place;
pub mod probe;
pub mod publish;
mod query;
pub mod redis;
mod renewal;
pub mod reply;
pub mod rest;
mod route;
mod scan;
pub mod sentinel;
pub mod sink;
pub mod site;
mod socket;
mod speak;
pub mod statistics;
mod swap;
pub mod sweep;
mod unlink;
pub mod watch;

use crate::cache::continuity::Lineage;
use crate::cache::sink::message::SinkMessage;
use crate::cache::statistics::CacheSaid;
use crate::cache::watch::KeyWatch;
use crate::error::{Error, Result};
use crate::keys::KeySet;
use crate::mark::Published;
use crate::tag::CoarseTag;
use crate::words::Member;

/// What one attempt did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deleted {
    /// Keys sent. Their leases are not counted.
    pub sent: u64,
    /// Keys that existed; with `cache.leases = "companion"`, keys of which the value or the lease existed.
    pub existed: u64,
}

/// What is left of a delete that is tried again: a cache that answers each key by itself is not asked twice for one.
#[derive(Debug, Default)]
pub struct Rest {
    /// The keys that had no answer yet; `None` before the first attempt: all of them.
    pub keys: Option<KeySet>,
    /// What the attempts before did.
    pub done: Deleted,
    /// Keys of which it is asked whether they existed.
    pub watch: KeyWatch,
    /// A message of a sink whose answer is missing: it goes again under its own name.
    pub unanswered: Option<SinkMessage>,
}

/// What one sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Keys that the scan returned.
    pub scanned: u64,
    /// Keys deleted.
    pub deleted: u64,
}

/// What became of writing a mark.
#[derive(Debug)]
pub enum Swap {
    /// It is there.
    Written,
    /// Another was there, which stays.
    Other,
    /// Nothing was written: the connection that the mark was read on is gone, or leads to another server now. The cache
    /// may be another than the one that had the deletes.
    Unproven,
    /// The connection was closed before the answer.
    Lost,
    /// The cache is full and evicts nothing: deletes work, writes do not.
    Full,
    /// The cache refused for another cause: nothing was written.
    Refused(Error),
}

/// A Redis-protocol cache.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Cache {
    /// Deletes the exact keys of every set, in pipelined multi-key UNLINKs, and reads every reply.
    ///
    /// Connects first where there is no connection. After an error the connection is not used again.
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted>;

    /// The same, as one of several attempts for the same keys: `rest` is what the attempts before left, and what this one
    /// leaves.
    async fn delete_rest(&self, keys: &[&KeySet], _rest: &mut Rest) -> Result<Deleted> {
        self.delete(keys).await
    }

    /// Deletes every key that matches one of the patterns (Redis glob, values escaped), in one SCAN pass over the
    /// whole keyspace on a connection of its own. Keys that match a protected pattern stay.
    async fn sweep(&self, patterns: &KeySet) -> Result<Swept>;

    /// The same, as one of several attempts for the same patterns.
    async fn sweep_rest(&self, patterns: &KeySet, _rest: &mut Rest) -> Result<Swept> {
        self.sweep(patterns).await
    }

    /// Of a sink: these are the coarse tags of its families from now on.
    fn learn(&self, tags: Vec<CoarseTag>) {
        let _ = tags;
    }

    /// Whether it is a sink, which takes tags and can hold no mark.
    fn is_sink(&self) -> bool {
        false
    }

    /// How a person calls what it is.
    fn member(&self) -> Member {
        if self.is_sink() { Member::Sink } else { Member::Cache }
    }

    /// Tries every command that the others need, in a form that changes nothing: the mark of `name`, keys of these
    /// families (patterns). An error is that of the first that is refused.
    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()>;

    /// The mark of `name`, if the cache holds it, and what was known of the cache before it was asked.
    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)>;

    /// Writes the mark of `name` behind every delete that was answered, if one of `expected` is what is there
    /// (`None`: nothing is). One step for the server: between the look and the write nothing can be lost. The same step
    /// deletes the keys of `again` once more, ahead of the mark: what was deleted since the last one, where the cache
    /// does not say who it is ([`is_nameless`](Cache::is_nameless)).
    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap>;

    /// Whether the last attempt at the cache failed.
    fn is_away(&self) -> bool {
        false
    }

    /// Whether the cache that answered last does not say who it is. Its connections prove nothing then: each mark carries
    /// the keys that were deleted since the last one, so a cache that has the mark has these deletes.
    fn is_nameless(&self) -> bool {
        false
    }

    /// Whether this is one of several parts of a cache, which share its keys.
    fn is_part(&self) -> bool {
        false
    }

    /// Of a part: whether it owes the delete of this key. It answers at once, by what is known now, so that of all parts
    /// that are asked in one step at least one says yes.
    fn owes(&self, _key: &[u8]) -> bool {
        true
    }

    /// Parts that came since this was asked last; each is a target of its own from now on.
    fn newcomers(&self) -> Vec<Self>
    where
        Self: Sized,
    {
        Vec::new()
    }

    /// The last message to readers with a memory tier that was answered; none where nothing is published.
    fn published(&self) -> Option<Published> {
        None
    }

    /// Commands that were sent so far and are billed; none where commands cost nothing.
    fn billed(&self) -> u64 {
        0
    }

    /// Which database of which server answers; `None` where the server does not say.
    async fn whereabouts(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Leaves a note there for a few seconds, under a name that no mark has: for [`find_note`](Cache::find_note) of another
    /// cache, which may be the same database.
    async fn leave_note(&self, note: &str) -> Result<()> {
        let _ = note;
        Ok(())
    }

    /// The note that somebody left there.
    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// What the cache says of its hits and its memory, where it says it. Never asked where commands cost money.
    async fn statistics(&self) -> Result<Option<CacheSaid>> {
        Ok(None)
    }

    /// Which cache this is, for messages.
    fn name(&self) -> &str {
        "the cache"
    }

    /// Follows whatever tells, without a command to the cache, that another one than at `since` is the right one now;
    /// resolves when it is so, or when there are [`newcomers`](Cache::newcomers), and where nothing tells that: never.
    async fn turned(&self, since: Lineage) {
        let _ = since;
        std::future::pending().await
    }

    /// What is known of the cache that answers: whether it is the one of an earlier look. It may be another one then, empty,
    /// older, a promoted replica.
    fn lineage(&self) -> Lineage;
}
