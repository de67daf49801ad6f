//! `crieur replay`: a recording through the decoder, the rules and, when asked, the cache.
//!
//! It prints what each transaction deletes in one canonical form, without positions, transaction numbers or times: the
//! same workload on another server prints the same text. `tests/golden.rs` compares exactly this text.

use std::io::Write;
use std::path::PathBuf;

use crate::cache::Cache;
use crate::cache::any::AnyCache;
use crate::config::Config;
use crate::error::Exit;
use crate::rules::Rules;
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

/// Prints the recording's transactions; with caches, deletes what they name from each and says how much existed.
pub async fn run(
    config: &Config,
    recording: &Recording,
    caches: &[AnyCache],
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (mut sent, mut existed) = (0, 0);
    let bytes_max = config.limits.memory_bytes_max.try_into().unwrap_or(usize::MAX);
    let count = transactions(recording, &config.rules, bytes_max, async |settled: Settled| {
        write!(out, "{settled}")?;
        for cache in caches {
            let deleted = cache.delete(&[&settled.load.keys, &settled.found.keys]).await?;
            (sent, existed) = (sent + deleted.sent, existed + deleted.existed);
            for patterns in [&settled.load.patterns, &settled.found.patterns] {
                if !patterns.is_empty() {
                    existed += cache.sweep(patterns).await?.deleted;
                }
            }
        }
        Ok(())
    })
    .await?;
    let end = match caches {
        [] => writeln!(out, "{count} transactions delete something; nothing was deleted now"),
        [..] => writeln!(out, "{count} transactions, {sent} keys sent, {existed} existed and are deleted"),
    };
    end?;
    Ok(Exit::Ok)
}
