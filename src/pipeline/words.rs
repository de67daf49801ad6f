//! What the loop is told at its start. Plain values.

use std::time::Duration;

use crate::config::{Metering, OnGap};

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
