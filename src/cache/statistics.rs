//! What a server says of its hits, its memory and what it dropped: sections `stats` and `memory` of INFO. Pure.

use std::time::Instant;

use super::identity::Info;

/// What one server said, since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheSaid {
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Keys that went for want of memory.
    pub evicted: u64,
    /// Keys that went at the end of their time.
    pub expired: u64,
    /// Bytes in use.
    pub memory: u64,
    /// Bytes that may be used; 0 without a limit.
    pub memory_max: u64,
    /// Our own reads since this daemon started, which are among the others.
    pub own: ReadCounts,
}

impl CacheSaid {
    /// Reads it; `None` where the server does not say it.
    pub fn read(info: &Info) -> Option<Self> {
        let number = |name: &str| info.field(name)?.parse().ok();
        Some(CacheSaid {
            hits: number("keyspace_hits")?,
            misses: number("keyspace_misses")?,
            evicted: number("evicted_keys").unwrap_or(0),
            expired: number("expired_keys").unwrap_or(0),
            memory: number("used_memory").unwrap_or(0),
            memory_max: number("maxmemory").unwrap_or(0),
            own: ReadCounts::default(),
        })
    }

    /// All reads.
    pub fn reads(&self) -> ReadCounts {
        ReadCounts { hits: self.hits, all: self.hits + self.misses }
    }

    fn and(self, other: CacheSaid) -> CacheSaid {
        // A part without a limit leaves the whole without one.
        let limits = [self.memory_max, other.memory_max];
        CacheSaid {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            evicted: self.evicted + other.evicted,
            expired: self.expired + other.expired,
            memory: self.memory + other.memory,
            memory_max: if limits.contains(&0) { 0 } else { limits.iter().sum() },
            own: self.own.and(other.own),
        }
    }
}

/// Reads, and those of them that found their key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadCounts {
    /// Those that found it.
    pub hits: u64,
    /// All.
    pub all: u64,
}

impl ReadCounts {
    /// Both together.
    #[must_use]
    pub fn and(self, other: ReadCounts) -> ReadCounts {
        ReadCounts { hits: self.hits + other.hits, all: self.all + other.all }
    }

    /// What these have more than those.
    #[must_use]
    pub fn since(self, earlier: ReadCounts) -> ReadCounts {
        let (hits, all) = (self.hits.saturating_sub(earlier.hits), self.all.saturating_sub(earlier.all));
        ReadCounts { hits: hits.min(all), all }
    }

    /// The part that found its key; `None` where nobody read.
    pub fn ratio(self) -> Option<f64> {
        (self.all > 0).then(|| self.hits as f64 / self.all as f64)
    }
}

/// What a cache said at the last look, and how many reads there were in the last minutes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// When that was.
    pub at: Instant,
    /// What it said.
    pub said: CacheSaid,
    /// Reads of the last minutes, without our own.
    pub recent: ReadCounts,
}

impl Statistics {
    /// Of two parts of one cache together.
    #[must_use]
    pub fn and(self, other: Statistics) -> Statistics {
        let recent = self.recent.and(other.recent);
        Statistics { at: self.at.min(other.at), said: self.said.and(other.said), recent }
    }

    /// Reads since the server started.
    pub fn reads(&self) -> ReadCounts {
        self.said.reads()
    }
}

#[cfg(test)]
mod tests {
    use ::redis::Value;

    use super::*;

    fn said(text: &str) -> Option<CacheSaid> {
        CacheSaid::read(&Info::read(&[Value::BulkString(text.as_bytes().to_vec())]))
    }

    #[test]
    fn a_server_that_does_not_say_it_is_no_cache_without_hits() {
        assert_eq!(said("# Server\r\nrun_id:a\r\n"), None);
        let text = "keyspace_hits:9\r\nkeyspace_misses:1\r\nevicted_keys:2\r\nexpired_keys:3\r\nused_memory:4\r\n\
                    used_memory_human:4B\r\nmaxmemory:0\r\n";
        let (memory, own) = (4, ReadCounts::default());
        let expected = CacheSaid { hits: 9, misses: 1, evicted: 2, expired: 3, memory, memory_max: 0, own };
        assert_eq!(said(text), Some(expected));
    }

    #[test]
    fn two_parts_add_up_and_are_as_old_as_the_older_one() {
        let now = Instant::now();
        let older = now.checked_sub(std::time::Duration::from_secs(5)).unwrap_or(now);
        let of = |at, hits, misses, memory_max| Statistics {
            at,
            said: CacheSaid { hits, misses, memory: 10, memory_max, ..CacheSaid::default() },
            recent: ReadCounts { hits, all: hits + misses },
        };
        let both = of(now, 8, 2, 100).and(of(older, 1, 9, 50));
        assert_eq!((both.at, both.said.memory, both.said.memory_max), (older, 20, 150));
        assert_eq!((both.reads().ratio(), both.recent.ratio()), (Some(0.45), Some(0.45)));
        assert_eq!(of(now, 0, 0, 0).and(of(now, 0, 0, 5)).said.memory_max, 0);
        assert_eq!(ReadCounts::default().ratio(), None);
    }
}
