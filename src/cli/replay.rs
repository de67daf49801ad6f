//! `crieur replay`: a recording through the decoder, the rules and, when asked, the cache.
//!
//! It prints what each transaction deletes in one canonical form, without positions, transaction numbers or times: the
//! same workload on another server prints the same text. `tests/golden.rs` compares exactly this text.

use std::io::Write;
use std::path::PathBuf;

use crate::cache::any::AnyCache;
use crate::cache::{Cache, Deleted};
use crate::config::{CacheConfig, Config};
use crate::error::{Exit, Result};
use crate::rules::{Invalidations, Rules};
use crate::source::Source;
use crate::source::recording::{RecordedControl, RecordedSource, Recording};
use crate::tap::{Settled, Tap};

/// Arguments of `crieur replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The recording.
    #[arg(value_name = "RECORDING")]
    pub recording: PathBuf,
    /// The configuration file; its rules decide what is deleted.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Delete the keys from the configured caches.
    #[arg(long)]
    pub execute: bool,
}

/// Gives every transaction of the recording that deletes something to `each`, in order.
pub async fn transactions(
    recording: &Recording,
    rules: &Rules,
    bytes_max: usize,
    mut each: impl AsyncFnMut(Settled) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut source = RecordedSource::new(recording);
    let control = RecordedControl::new(recording, rules.lookups());
    let mut tap = Tap::new(rules, bytes_max);
    let mut count = 0;
    while let Some(event) = source.take()? {
        if let Some(transaction) = tap.event(event, &control).await?.transaction {
            count = transaction.ordinal;
            each(Settled::ask(transaction, rules, &control).await?).await?;
        }
    }
    Ok(count)
}

/// A cache that is told what is replayed, in its parts, and the rules as it has them where it has not all of them.
struct ReplayedCache {
    parts: Vec<AnyCache>,
    rules: Option<Rules>,
}

impl ReplayedCache {
    fn new(config: &CacheConfig, rules: &Rules) -> Result<Self> {
        Ok(ReplayedCache { parts: vec![AnyCache::new(config)?], rules: rules.seen_by(&config.name, &config.protect) })
    }

    /// Deletes what is for this cache; says how many keys were sent and how many existed.
    async fn delete(&mut self, load: &Invalidations) -> Result<Deleted> {
        let mut load = load.clone();
        self.rules.iter().for_each(|rules| rules.leave_out(&mut load));
        let Some(first) = self.parts.first() else { return Ok(Deleted::default()) };
        // A part of a cluster sends each key to where it lives. It sweeps its own node, so every part sweeps.
        let mut deleted = first.delete(&[&load.keys]).await?;
        let newcomers = first.newcomers();
        self.parts.extend(newcomers);
        if !load.patterns.is_empty() {
            for part in &self.parts {
                deleted.existed += part.sweep(&load.patterns).await?.deleted;
            }
        }
        Ok(deleted)
    }
}

/// Prints the recording's transactions; when they are executed, deletes what they name from each cache and says how much
/// existed.
pub async fn run(config: &Config, recording: &Recording, executed: bool, out: &mut impl Write) -> anyhow::Result<Exit> {
    let caches = config.caches.iter().filter(|_| executed);
    let caches = caches.map(|cache| ReplayedCache::new(cache, &config.rules)).collect::<Result<Vec<_>>>();
    let (mut caches, mut sent, mut existed) = (caches?, 0, 0);
    let bytes_max = config.limits.memory_bytes();
    let count = transactions(recording, &config.rules, bytes_max, async |settled: Settled| {
        write!(out, "{settled}")?;
        for cache in &mut caches {
            for load in [&settled.load, &settled.found] {
                let deleted = cache.delete(load).await?;
                (sent, existed) = (sent + deleted.sent, existed + deleted.existed);
            }
        }
        Ok(())
    })
    .await?;
    let end = match executed {
        false => writeln!(out, "{count} transactions delete something; nothing was deleted now"),
        true => writeln!(out, "{count} transactions, {sent} keys sent, {existed} existed and are deleted"),
    };
    end?;
    Ok(Exit::Ok)
}
