//! What a cache reports, and the lines of the log. No event carries a value.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::StoreError;

/// What happened. Displayed, it is a line of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The cache had the value.
    Hit {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
    },
    /// The memory of this process had the value.
    Memory {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
    },
    /// The row is there, read under a lease.
    Miss {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
    },
    /// The row of another call of this process was new enough.
    Joined {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
    },
    /// The row is there, and the cache was passed by.
    Bypass {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
    },
    /// The source failed, and a copy was answered that is this old.
    Grace {
        /// The key, with its namespace.
        key: &'a str,
        /// Since the call began.
        took: Duration,
        /// Since the copy was made.
        age: Duration,
    },
    /// The value stands in the cache.
    Set {
        /// The key, with its namespace.
        key: &'a str,
        /// How long the value stands.
        ttl: Duration,
        /// What stands at the key.
        bytes: usize,
    },
    /// The lease had gone: the row may be older than a change.
    Refused {
        /// The key, with its namespace.
        key: &'a str,
    },
    /// Keys were deleted, so many of which were there; `None`: there was no answer.
    Invalidate {
        /// The keys, with their namespace.
        keys: &'a [String],
        /// How many were there.
        removed: Option<i64>,
    },
    /// The value has no bytes, or its bytes no value.
    Unencodable {
        /// The key, with its namespace.
        key: &'a str,
    },
    /// A command was not answered, or what was asked for cannot be done.
    Error {
        /// Its first word.
        command: &'a str,
        /// Why.
        error: &'a StoreError,
    },
    /// For so long nothing is sent.
    Pause {
        /// How long.
        lasts: Duration,
        /// Why.
        error: &'a StoreError,
    },
    /// The cache answers again.
    Resume,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |took: &Duration| format!("{}ms", (took.as_secs_f64() * 1e3).round());
        match self {
            Event::Hit { key, took } => write!(f, "[CACHE] HIT   | {key} | {}", ms(took)),
            Event::Memory { key, took } => write!(f, "[CACHE] MEMORY | {key} | {}", ms(took)),
            Event::Miss { key, took } => write!(f, "[CACHE] MISS  | {key} | {} (DB)", ms(took)),
            Event::Joined { key, took } => write!(f, "[CACHE] JOINED | {key} | {}", ms(took)),
            Event::Bypass { key, .. } => write!(f, "[CACHE] PASS  | {key} | cache away"),
            Event::Grace { key, age, .. } => write!(f, "[CACHE] GRACE | {key} | {}s old", age.as_secs()),
            Event::Set { key, ttl, .. } => write!(f, "[CACHE] SET   | {key} | TTL {}s", ttl.as_secs()),
            Event::Refused { key } => write!(f, "[CACHE] KEPT OUT | {key} | changed meanwhile"),
            Event::Invalidate { keys, .. } => write!(f, "[CACHE] INVALIDATE | {}", keys.join(",")),
            Event::Unencodable { key } => write!(f, "[CACHE] UNENCODABLE | {key}"),
            Event::Error { command, error } => write!(f, "[CACHE] ERROR | {command} | {error}"),
            Event::Pause { lasts, error } => write!(f, "[CACHE] PAUSE | {} | {error}", ms(lasts)),
            Event::Resume => f.write_str("[CACHE] RESUME"),
        }
    }
}

/// Prints a line on the standard output. Where nobody reads it, nothing happens.
pub fn console_log(event: &Event<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{event}");
}

/// Whoever is told.
pub type Listener = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// Counts since the cache was made.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Values that the cache had.
    pub hits: u64,
    /// Rows that were read under a lease.
    pub misses: u64,
    /// Rows of other calls of this process.
    pub joined: u64,
    /// Rows that were read without the cache.
    pub bypassed: u64,
    /// Values that were stored.
    pub stored: u64,
    /// Stores that came too late.
    pub refused: u64,
    /// Commands that were not answered.
    pub errors: u64,
    /// Old copies that were answered because the source failed.
    pub graced: u64,
    /// Values that the memory of this process had.
    pub remembered: u64,
}

impl Stats {
    /// hits / (hits + misses + bypassed), from 0 to 1. Joined reads, and those of the memory, are not in it.
    pub fn hit_rate(&self) -> f64 {
        let all = self.hits + self.misses + self.bypassed;
        if all == 0 { 0.0 } else { self.hits as f64 / all as f64 }
    }

    /// The counts as a Prometheus text.
    pub fn metrics(&self) -> String {
        let counts = [
            ("hits", self.hits),
            ("misses", self.misses),
            ("joined", self.joined),
            ("bypassed", self.bypassed),
            ("stored", self.stored),
            ("refused", self.refused),
            ("errors", self.errors),
            ("grace", self.graced),
            ("memory", self.remembered),
        ];
        let line = |(name, count): (&str, u64)| {
            format!("# TYPE crieur_cache_{name}_total counter\ncrieur_cache_{name}_total {count}\n")
        };
        counts.into_iter().map(line).collect()
    }
}

/// Counts what happens, and tells it.
#[derive(Default)]
pub struct Teller {
    listener: Option<Listener>,
    counts: [AtomicU64; 9],
}

impl Teller {
    pub fn new(listener: Option<Listener>) -> Teller {
        Teller { listener, ..Teller::default() }
    }

    pub fn tell(&self, event: &Event<'_>) {
        let place = match event {
            Event::Hit { .. } => Some(0),
            Event::Miss { .. } => Some(1),
            Event::Joined { .. } => Some(2),
            Event::Bypass { .. } => Some(3),
            Event::Set { .. } => Some(4),
            Event::Refused { .. } => Some(5),
            Event::Error { .. } => Some(6),
            Event::Grace { .. } => Some(7),
            Event::Memory { .. } => Some(8),
            Event::Invalidate { .. } | Event::Unencodable { .. } | Event::Pause { .. } | Event::Resume => None,
        };
        if let Some(place) = place {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(listener) = &self.listener {
            // A listener that panics is no reason to lose a row; the hook of the process has told of it.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(event)));
        }
    }

    pub fn stats(&self) -> Stats {
        let [hits, misses, joined, bypassed, stored, refused, errors, graced, remembered] =
            self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        Stats { hits, misses, joined, bypassed, stored, refused, errors, graced, remembered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_the_strategy() {
        let (key, took) = ("properties:all_public", Duration::from_micros(5_400));
        let ttl = Duration::from_secs(3600);
        let cases = [
            (Event::Hit { key, took }, "[CACHE] HIT   | properties:all_public | 5ms"),
            (Event::Miss { key, took: took * 53 }, "[CACHE] MISS  | properties:all_public | 286ms (DB)"),
            (Event::Set { key, ttl, bytes: 9 }, "[CACHE] SET   | properties:all_public | TTL 3600s"),
            (Event::Bypass { key, took }, "[CACHE] PASS  | properties:all_public | cache away"),
            (Event::Refused { key }, "[CACHE] KEPT OUT | properties:all_public | changed meanwhile"),
        ];
        for (event, line) in cases {
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn what_happens_is_counted_and_a_listener_that_panics_changes_nothing() {
        std::panic::set_hook(Box::new(|_| {}));
        let teller = Teller::new(Some(Arc::new(|_| panic!("of the listener"))));
        let (key, took) = ("k", Duration::ZERO);
        for _ in 0..3 {
            teller.tell(&Event::Hit { key, took });
        }
        teller.tell(&Event::Bypass { key, took });
        let _ = std::panic::take_hook();
        let stats = teller.stats();
        assert_eq!((stats.hits, stats.bypassed, stats.hit_rate()), (3, 1, 0.75));
        assert!(stats.metrics().contains("# TYPE crieur_cache_hits_total counter\ncrieur_cache_hits_total 3\n"));
        assert_eq!(Stats::default().hit_rate(), 0.0);
    }
}
