//! What the loop is told at its start, and what it tells whoever watches it. Plain values.

use std::time::{Duration, Instant};

use crate::cache::Swept;
use crate::config::{Metering, OnGap};
use crate::lsn::Lsn;

/// Whether readers also read from standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// From the primary only.
    None,
    /// Keys wait for the replicas, too.
    Some,
}

/// What the loop needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the mark: the slot.
    pub slot: String,
    /// Delays of the echoes.
    pub echo: Vec<Duration>,
    /// WAL that waiting echoes may hold back, in bytes.
    pub echo_wal_bytes_max: u64,
    /// The publication's name, for hints.
    pub publication: String,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// Whether readers also read from standbys.
    pub replicas: Replicas,
    /// How often the mark is written when nothing moves.
    pub heartbeat: Duration,
    /// Whether each command costs money.
    pub metering: Metering,
    /// Keys in one pipeline.
    pub batch_keys_max: usize,
    /// Bound of all key sets together, in bytes.
    pub memory_bytes_max: usize,
    /// What is in flight may take this long after a stop was asked for.
    pub stop_timeout: Duration,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exact keys sent to the cache, echoes included.
    pub keys: u64,
    /// Of these, keys that existed.
    pub existed: u64,
    /// Keys widened to a pattern because a value was unknown.
    pub widened: u64,
    /// Sweeps finished.
    pub sweeps: u64,
    /// Keys deleted by sweeps.
    pub swept: u64,
    /// Lookups that the server refused.
    pub refused: u64,
    /// Keys that a transaction named and may not.
    pub not_allowed: u64,
    /// Families collapsed into their pattern by a memory bound.
    pub collapsed: u64,
    /// Repairs of the cache that waited, because the same had just been repaired.
    pub repairs_delayed: u64,
    /// Whether one waited and nothing was proved since.
    pub repairs_slow: bool,
    /// Connections that led to another cache server than the one before.
    pub cache_turns: u64,
    /// Keys and patterns that wait for their echo.
    pub echoes_waiting: u64,
    /// Bytes of all key sets.
    pub memory_bytes: u64,
    /// The position confirmed last; zero before the first.
    pub confirmed: Lsn,
    /// How often a position was confirmed.
    pub confirmations: u64,
    /// When the oldest change committed that is not deleted yet, by our clock; `None` while there is none.
    pub oldest: Option<Instant>,
    /// Everything that came is confirmed.
    pub settled: bool,
}

/// What the loop tells whoever watches it: the terminal, systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The stream runs.
    Streaming,
    /// The stream broke, or could not be made; it is tried again.
    Interrupted,
    /// The stream runs, and the cache answered: at first, and again after standing by.
    Ready,
    /// The cache may have missed invalidations: the kind of the gap.
    Gap(&'static str),
    /// The session with this process id (0: not known) has the slot; this daemon takes over when it ends.
    StandingBy(u32),
    /// The server's WAL goes on and nothing of it comes, or comes again.
    HeldBack(bool),
    /// The log names something on the server that somebody must mend.
    Noticed,
    /// A sweep began.
    SweepBegan,
    /// A sweep ended.
    SweepEnded(Swept),
    /// Now and then, while changes come.
    Totals(Totals, Duration),
}
