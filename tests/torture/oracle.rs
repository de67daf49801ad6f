//! What is true: the value of each key as the database has it, and when each version of a row became visible.
//!
//! Staleness is measured with items only: one row makes the value, one writer at a time changes it, and its version
//! only grows. A hit is stale when a newer version's COMMIT had returned before the GET was sent; it is so stale as
//! that return is old. Every other key is judged when the run stands still, by the same SQL that readers fill the cache
//! with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How a reader treats a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// GET, SELECT, SET.
    Plain,
    /// The lease is the value of the key itself until the row's value takes its place.
    LeaseInKey,
    /// The lease is the companion key `lease:{KEY}`.
    Companion,
}

impl Reader {
    /// The value in what a key holds; `None` for a lease.
    pub fn value(self, held: &str) -> Option<&str> {
        match self {
            Reader::Plain | Reader::Companion => Some(held),
            Reader::LeaseInKey => held.strip_prefix('V'),
        }
    }
}

/// Keys that are made alike.
#[derive(Debug)]
pub struct Family {
    /// What the keys begin with; the rest is the query's argument, a number below `members`.
    pub prefix: &'static str,
    pub reader: Reader,
    pub members: u64,
    /// The value, with the argument as text; `-` when there is no row.
    pub sql: &'static str,
}

pub const ITEMS: u64 = 200;
pub const OWNERS: u64 = 12;
pub const CITIES: u64 = 8;
pub const LEASES: u64 = 100;
pub const DOCS: u64 = 60;
pub const TAGS: u64 = 10;
pub const BUCKETS: u64 = 30;

/// The column `extra` comes and goes.
const ITEM: &str = "SELECT coalesce((
    SELECT version || '|' || owner || '|' || city || '|' || coalesce(to_jsonb(i)->>'extra', '')
    FROM torture.items i WHERE id = $1::text::int), '-')";

/// Every family of the rules.
pub const FAMILIES: &[Family] = &[
    Family { prefix: "t:item:", reader: Reader::Plain, members: ITEMS, sql: ITEM },
    Family { prefix: "l:item:", reader: Reader::LeaseInKey, members: ITEMS, sql: ITEM },
    Family { prefix: "c:item:", reader: Reader::Companion, members: ITEMS, sql: ITEM },
    Family {
        prefix: "t:city:",
        reader: Reader::Plain,
        members: CITIES,
        sql: "SELECT count(*) || '|' || coalesce(sum(version), 0) FROM torture.items WHERE city = $1::text::int",
    },
    Family {
        prefix: "t:owner:",
        reader: Reader::Plain,
        members: OWNERS,
        sql: "SELECT count(*) || '|' || coalesce(sum(p.amount), 0) FROM torture.payments p
              JOIN torture.leases l ON l.id = p.lease JOIN torture.items i ON i.id = l.item
              WHERE i.owner = $1::text::int",
    },
    Family {
        prefix: "t:lease:",
        reader: Reader::Plain,
        members: LEASES,
        sql: "SELECT count(*) || '|' || coalesce(sum(amount), 0) FROM torture.payments WHERE lease = $1::text::int",
    },
    Family {
        prefix: "t:doc:",
        reader: Reader::Plain,
        members: DOCS,
        sql: "SELECT coalesce((SELECT version || '|' || md5(body::text) FROM torture.docs WHERE id = $1::text::int), '-')",
    },
    Family {
        prefix: "t:tag:",
        reader: Reader::Plain,
        members: TAGS,
        sql: "SELECT count(*) || '|' || coalesce(sum(version), 0) FROM torture.docs WHERE body->'tags' ? $1::text",
    },
    Family {
        prefix: "t:bucket:",
        reader: Reader::Plain,
        members: BUCKETS,
        sql: "SELECT count(*) || '|' || coalesce(sum(version), 0) FROM torture.events WHERE bucket = $1::text::int",
    },
];

/// The family of a key and the argument of its query.
pub fn family(key: &str) -> Option<(&'static Family, &str)> {
    FAMILIES.iter().find_map(|family| Some((family, key.strip_prefix(family.prefix)?)))
}

/// What readers saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub hits: u64,
    pub misses: u64,
    /// Hits of items, which can be judged one by one.
    pub judged: u64,
    /// Their staleness, of those that were stale.
    pub stale: Vec<Duration>,
    /// Plain readers that were slower than the last echo by no choice of their own, and took their value back.
    pub overran: u64,
}

/// Shared by writers, who tell, and readers, who are judged.
#[derive(Debug, Default)]
pub struct Oracle {
    version: AtomicU64,
    rows: Mutex<HashMap<u64, Vec<(u64, Instant)>>>,
    seen: Mutex<Seen>,
}

/// Versions of a row that are remembered.
const HISTORY: usize = 500;

impl Oracle {
    /// A version that no row has.
    pub fn version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// COMMIT returned: these items have this version.
    pub fn committed(&self, items: &[u64], version: u64) {
        let now = Instant::now();
        let mut rows = self.rows.lock().expect("no holder panics");
        for item in items {
            let history = rows.entry(*item).or_default();
            if history.len() >= HISTORY {
                history.drain(..HISTORY / 2);
            }
            history.push((version, now));
        }
    }

    /// The server may have forgotten transactions: what was committed before is no measure any more.
    pub fn forget(&self) {
        self.rows.lock().expect("no holder panics").clear();
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }

    /// A GET that was sent at `sent` found `value`.
    pub fn hit(&self, key: &str, value: &str, sent: Instant) {
        let version = value.split_once('|').and_then(|(version, _)| version.parse::<u64>().ok());
        let item = key.split_once(":item:").and_then(|(_, id)| id.parse::<u64>().ok());
        let staleness = item.zip(version).map(|(item, version)| self.staleness(item, version, sent));
        let mut seen = self.seen();
        seen.hits += 1;
        seen.judged += u64::from(staleness.is_some());
        seen.stale.extend(staleness.flatten());
    }

    fn staleness(&self, item: u64, version: u64, sent: Instant) -> Option<Duration> {
        let rows = self.rows.lock().expect("no holder panics");
        let history = rows.get(&item)?;
        let newer = history.partition_point(|(known, _)| *known <= version);
        history.get(newer).and_then(|(_, visible)| sent.checked_duration_since(*visible))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_as_stale_as_the_first_newer_commit_is_old() {
        let oracle = Oracle::default();
        oracle.committed(&[7], 3);
        let visible = oracle.rows.lock().expect("one thread")[&7][0].1;
        oracle.committed(&[7], 5);
        let later = visible + Duration::from_secs(9);
        assert_eq!(oracle.staleness(7, 2, later), Some(Duration::from_secs(9)));
        assert_eq!(oracle.staleness(7, 5, later), None);
        assert_eq!(oracle.staleness(7, 2, visible - Duration::from_secs(1)), None, "it was not committed yet");
        assert_eq!(oracle.staleness(8, 2, later), None, "nobody wrote it");
    }
}
