//! `crieur sweep`: deletes every key of a template, or that matches a pattern, through the daemon.
//!
//! The daemon does it, and not this command: the mark of each cache waits for the sweep, so a cache that goes back in time
//! meanwhile is swept again. What no rule owns, and no pattern of `cache.invalidate`, nobody can sweep.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::cache::Cache as _;
use crate::cache::any::AnyCache;
use crate::cache::inspect::Inspect as _;
use crate::cli::ask::{DeskAnswers, SocketArgs};
use crate::cli::bar::{Bar, blocks};
use crate::cli::output::say;
use crate::cli::process::{block_on, end_signal};
use crate::config::{CacheConfig, Config, Leases, Metering};
use crate::desk::words::{DeskAnswer, DeskQuestion};
use crate::error::{Error, Exit, Result};
use crate::glob;
use crate::shown::quoted;

/// What is swept, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    /// A template of the rules as it is written there, such as detail:{id}; or a Redis glob under one, such as
    /// properties:detail:1*; or a key.
    #[arg(value_name = "PATTERN|FAMILY")]
    pub what: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    #[command(flatten)]
    pub(super) socket: SocketArgs,
    /// In this cache only.
    #[arg(long, value_name = "NAME")]
    pub cache: Option<String>,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Count the keys that match, and what the sweep would cost where commands are billed; delete nothing.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
}

/// Orders the sweep, and waits until it is done.
///
/// # Errors
///
/// Nobody answers, nobody agrees, or the daemon refuses.
pub fn run(arguments: &SweepArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let path = arguments.socket.path(&arguments.config);
    if !arguments.yes && !agreed(arguments)? {
        say("nothing is deleted\n");
        return Ok(Exit::Failed);
    }
    block_on(async {
        let question = DeskQuestion::Sweep { what: arguments.what.clone(), cache: arguments.cache.clone() };
        let end = end_signal()?;
        tokio::pin!(end);
        let mut answers = DeskAnswers::of(&path, &question).await?;
        let mut bar = Bar::default();
        loop {
            let answer = tokio::select! {
                biased;
                () = &mut end => {
                    bar.clear();
                    say("the daemon goes on with the sweep; its log says when it is done\n");
                    return Ok(Exit::Failed);
                }
                answer = answers.next() => answer,
            };
            let answer = answer.inspect_err(|_| bar.clear())?;
            match answer {
                Some(DeskAnswer::Progress { cache, percent, deleted }) => {
                    bar.draw(&format!("{cache}: {} {percent:>2} %, {deleted} keys deleted", blocks(percent)));
                }
                Some(DeskAnswer::Swept { cache, scanned, deleted }) => {
                    bar.clear();
                    writeln!(out, "cache {cache}: {deleted} keys deleted, {scanned} looked at")?;
                }
                Some(DeskAnswer::Done) => return Ok(Exit::Ok),
                Some(_) => {}
                None => {
                    bar.clear();
                    let ended = Error::definite(Exit::Unavailable, "the daemon ended before the sweep was done");
                    return Err(ended.hint("Run the command again when the daemon works.").into());
                }
            }
        }
    })
}

/// Whether the person at the terminal agrees.
fn agreed(arguments: &SweepArgs) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let error = Error::definite(Exit::Usage, "crieur sweep asks first, and standard input is no terminal");
        return Err(error.hint("Add --yes to delete without a question, or --dry-run to count what would be deleted."));
    }
    let within = arguments.cache.as_deref().map_or_else(|| "every cache".to_owned(), |cache| format!("cache {cache}"));
    say(format_args!("delete every key of {} in {within}? [y/N] ", quoted(arguments.what.as_bytes())));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|cause| Error::definite(Exit::Os, "read an answer").because(cause))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "o" | "oui"))
}

/// Counts what would be deleted, and what that would cost.
///
/// # Errors
///
/// Nobody could sweep this, or a cache does not answer.
pub async fn price(config: &Config, arguments: &SweepArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let what = &arguments.what;
    let named: Vec<&CacheConfig> =
        config.caches.iter().filter(|cache| arguments.cache.as_ref().is_none_or(|name| *name == cache.name)).collect();
    if named.is_empty() {
        let names: Vec<&str> = config.caches.iter().map(|cache| cache.name.as_str()).collect();
        let missing = quoted(arguments.cache.as_deref().unwrap_or_default().as_bytes());
        let error = Error::definite(Exit::Usage, format!("there is no cache {missing}"));
        return Err(error.hint(format!("The caches are: {}.", names.join(", "))).into());
    }
    for settings in named {
        let seen = config.rules.seen_by(&settings.name, &settings.protect);
        let rules = seen.as_ref().unwrap_or(&config.rules);
        let load = rules.named(what).map_err(|unowned| {
            let templates =
                rules.families().filter_map(|(family, _)| rules.origin(family)).map(|(_, template)| template);
            let (why, hint) = unowned.words(what, templates.take(12));
            Error::definite(Exit::Usage, why).hint(hint)
        })?;
        let cache = AnyCache::new(settings)?;
        let (mut keys, mut bar) = (0_u64, Bar::default());
        for pattern in load.patterns.iter() {
            let mut count = |key: &[u8]| {
                let stays = settings.protect.iter().any(|protect| glob::matches(protect, key));
                keys += u64::from(!stays && glob::matches(pattern.bytes, key));
                bar.draw(&format!("{}: {keys} keys match so far", settings.name));
                ControlFlow::Continue(())
            };
            cache.keys(pattern.bytes, &mut count).await?;
        }
        bar.clear();
        let patterns: Vec<String> = load.patterns.iter().map(|pattern| quoted(pattern.bytes)).collect();
        let (name, all) = (&settings.name, patterns.join(", "));
        writeln!(out, "cache {name}: {keys} keys match {all}; a sweep would delete them")?;
        if settings.metering == Metering::ByCommand {
            let look = cache.billed();
            let about = commands(look, keys, settings.echo.len(), settings.leases);
            writeln!(out, "cache {name}: the sweep would cost about {about} commands; this count cost {look}")?;
        }
    }
    Ok(Exit::Ok)
}

/// Commands of a sweep: a count of the same keys took so many, with half as many buckets in each SCAN.
fn commands(look: u64, keys: u64, echoes: usize, leases: Leases) -> u64 {
    let pages = look.div_ceil(2).max(1);
    let passes = if leases == Leases::Companion { 2 } else { 1 };
    let unlinks = keys.min(pages).max(keys.div_ceil(500));
    // A write that later reads see, and DBSIZE.
    (2 + passes * pages + unlinks) + echoes as u64 * (2 + passes * pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_costs_its_pages_and_its_deletes_and_each_echo_its_pages_again() {
        for ((look, keys, echoes, leases), expected) in [
            ((1, 0, 0, Leases::None), 3),
            ((20, 3, 0, Leases::None), 2 + 10 + 3),
            ((20, 9_000, 0, Leases::None), 2 + 10 + 18),
            ((20, 3, 3, Leases::None), 15 + 3 * 12),
            ((20, 3, 1, Leases::Companion), 25 + 22),
        ] {
            assert_eq!(commands(look, keys, echoes, leases), expected);
        }
    }

    #[test]
    fn a_bar_has_ten_signs() {
        assert_eq!([0, 45, 99, 250].map(blocks), ["[          ]", "[####      ]", "[######### ]", "[##########]"]);
    }
}
