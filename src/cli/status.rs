//! `crieur status`: what the marks in the caches say, and a wait until what is committed is deleted everywhere.
//!
//! It asks the caches and not the daemon: a mark says up to where the first delete of every change was answered, whoever
//! wrote it. So the command works on any machine that reaches the servers, and a daemon that is down is seen by its marks.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::amount::duration;
use crate::cache::Cache;
use crate::cache::any::AnyCache;
use crate::cli::origin::Origin;
use crate::cli::output::say;
use crate::config::{CacheConfig, Config, Mode};
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::mark::{Mark, deleted};
use crate::postgres::quote;
use crate::postgres::session::{self, Session};
use crate::postgres::sqlstate::session_error;
use crate::source::outbox::query;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// One answer of a cache, at most.
const ANSWER: Duration = Duration::from_secs(5);

/// A transaction of our own behind the position that is waited for: the stream passes that position with the commit at
/// the latest, also where nobody else writes. The daemon's own messages have another prefix, so this one deletes nothing.
const TRANSACTION: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'crieur.status', '')::text";

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// A position of the server's WAL.
    Position(Lsn),
    /// Whatever is committed by now.
    Now,
}

/// The marks of the caches.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Return when everything up to this position, or everything that is committed by now, is deleted in every required
    /// cache.
    #[arg(long, value_name = "LSN|now", value_parser = until)]
    wait: Option<Until>,
    /// Stop waiting after this time: exit code 1, and the caches that lack something are named.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "wait", value_parser = time)]
    timeout: Duration,
    /// Wait for the caches that are not required, too.
    #[arg(long, requires = "wait")]
    all: bool,
}

fn until(text: &str) -> std::result::Result<Until, String> {
    match text {
        "now" => Ok(Until::Now),
        _ => text
            .parse()
            .map(Until::Position)
            .map_err(|_| "write a position as PostgreSQL does (0/16B3748), or now".into()),
    }
}

fn time(text: &str) -> std::result::Result<Duration, String> {
    duration(text).ok_or_else(|| "write a number with its unit: 500ms, 30s, 5m".into())
}

/// The server that marks must be of, and what a mark must say.
struct Wanted {
    /// Number and timeline, where the server says them.
    server: Option<(String, u32)>,
    upto: Lsn,
}

/// What is wrong with a cache's mark; `None` when it says what is wanted.
fn lacks(text: Option<&[u8]>, wanted: &Wanted) -> Option<String> {
    let Some(text) = text else { return Some("holds no mark".to_owned()) };
    let (Ok(mark), Some(deleted)) = (serde_json::from_slice::<Mark>(text), deleted(text)) else {
        return Some("holds a mark that cannot be read".to_owned());
    };
    let of = mark.system.split('/').next().unwrap_or_default();
    if let Some((system, timeline)) = &wanted.server
        && (of, mark.timeline) != (system, *timeline)
    {
        return Some("holds a mark of another server or timeline".to_owned());
    }
    (deleted < wanted.upto).then(|| format!("is at {deleted}, before {}", wanted.upto))
}

/// Runs the command.
///
/// # Errors
///
/// Those of the configuration, and of the server.
pub async fn run(config: &Config, arguments: &StatusArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let caches = config.caches.iter().map(|cache| Ok((cache, AnyCache::new(cache)?))).collect::<Result<Vec<_>>>()?;
    let Some(until) = arguments.wait else { return show(config, &caches, out).await };
    let by = Instant::now() + arguments.timeout;
    let wanted = {
        let origin = Origin::of(config)?;
        let session = origin.session().await?;
        match config.postgres.mode {
            Mode::Replication => of_wal(&session, until).await?,
            Mode::Outbox => match of_outbox(&session, until, &config.postgres.slot, by).await? {
                Some(wanted) => wanted,
                None => {
                    writeln!(out, "rows wait in the outbox: no daemon removes them, or a cache holds them")?;
                    return Ok(Exit::Failed);
                }
            },
        }
    };
    let mut waits: Vec<_> = caches.iter().filter(|(cache, _)| cache.required || arguments.all).collect();
    loop {
        let mut missing = Vec::new();
        for (cache, asked) in std::mem::take(&mut waits) {
            if let Some(why) = lacking(asked, &config.postgres.slot, &wanted).await {
                missing.push((cache, asked, why));
            }
        }
        if missing.is_empty() {
            return Ok(Exit::Ok);
        }
        if Instant::now() >= by {
            for (cache, _, why) in &missing {
                writeln!(out, "cache {} {why}", cache.name)?;
            }
            return Ok(Exit::Failed);
        }
        let again = |name: &str| caches.iter().find(|(cache, _)| cache.name == name);
        waits = missing.iter().filter_map(|(cache, ..)| again(&cache.name)).collect();
        sleep(LOOK).await;
    }
}

async fn lacking(cache: &AnyCache, slot: &str, wanted: &Wanted) -> Option<String> {
    match timeout(ANSWER, cache.mark(slot)).await {
        Ok(Ok((text, _))) => lacks(text.as_deref(), wanted),
        Ok(Err(error)) => Some(format!("does not answer: {}", error.chain())),
        Err(_) => Some("does not answer".to_owned()),
    }
}

/// What the marks say now.
async fn show(config: &Config, caches: &[(&CacheConfig, AnyCache)], out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    for (config_of, cache) in caches {
        let name = &config_of.name;
        let text = match timeout(ANSWER, cache.mark(&config.postgres.slot)).await {
            Ok(Ok((text, _))) => text,
            Ok(Err(error)) => {
                writeln!(out, "cache {name} does not answer: {}", error.chain())?;
                exit = Exit::Failed;
                continue;
            }
            Err(_) => {
                writeln!(out, "cache {name} does not answer")?;
                exit = Exit::Failed;
                continue;
            }
        };
        match text.as_deref().map(|text| (serde_json::from_slice::<Mark>(text), deleted(text))) {
            Some((Ok(mark), Some(deleted))) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let age = now.saturating_sub(mark.at);
                let Mark { lsn, late_ms, .. } = mark;
                writeln!(out, "cache {name}: lsn {lsn}, deleted {deleted}, written {age} s ago, {late_ms} ms late")?;
            }
            Some(_) => {
                writeln!(out, "cache {name} holds a mark that cannot be read")?;
                exit = Exit::Failed;
            }
            None => {
                writeln!(out, "cache {name} holds no mark")?;
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// Of a stream of WAL.
async fn of_wal(session: &Session, until: Until) -> Result<Wanted> {
    let server = session::identity(&session.client).await?.map(|of| (of.system, of.timeline));
    let upto = match until {
        Until::Position(lsn) => lsn,
        Until::Now => {
            let inserted = position(&session.client, "pg_current_wal_insert_lsn").await?;
            if let Err(error) = session.client.batch_execute(TRANSACTION).await {
                let error = session_error(&error);
                say(format!(
                    "the server writes no message for us ({error}): where nobody writes, its position may come late\n"
                ));
                flushed(&session.client, inserted).await?
            } else {
                inserted
            }
        }
    };
    Ok(Wanted { server, upto })
}

/// `inserted`, or up to where the server flushed when that is not there soon: at the beginning of a page the next record
/// begins behind the page's head, which nobody flushes alone.
async fn flushed(client: &Client, inserted: Lsn) -> Result<Lsn> {
    let begun = Instant::now();
    loop {
        let flushed = position(client, "pg_current_wal_flush_lsn").await?;
        if flushed >= inserted || begun.elapsed() > Duration::from_secs(1) {
            return Ok(flushed.min(inserted));
        }
        sleep(LOOK).await;
    }
}

async fn position(client: &Client, function: &str) -> Result<Lsn> {
    let text = text(client, &format!("SELECT pg_catalog.{function}()::text")).await?;
    text.parse().map_err(|_| Error::definite(Exit::Protocol, "the server's position cannot be read"))
}

/// Of an outbox: its rows count no positions that others know, so these are waited for until they are removed, and then
/// for the marks of caches that were not waited for.
async fn of_outbox(session: &Session, until: Until, slot: &str, by: Instant) -> Result<Option<Wanted>> {
    if let Until::Position(_) = until {
        let error = Error::definite(Exit::Usage, "in outbox mode a position of the server's WAL says nothing of rows");
        return Err(error.hint("Write --wait now."));
    }
    let snapshot = text(&session.client, "SELECT pg_catalog.pg_current_snapshot()::text").await?;
    let left = format!(
        "SELECT (EXISTS (SELECT FROM crieur.outbox AS o WHERE pg_catalog.pg_visible_in_snapshot(o.xid, {}::pg_snapshot)) \
         OR EXISTS (SELECT FROM crieur.collapse))::text",
        quote::literal(&snapshot)
    );
    while text(&session.client, &left).await? == "true" {
        if Instant::now() >= by {
            return Ok(None);
        }
        sleep(LOOK).await;
    }
    let confirmed =
        format!("SELECT p.confirmed::text FROM crieur.progress AS p WHERE p.slot = {}", quote::literal(slot));
    let confirmed = text(&session.client, &confirmed).await?;
    let upto = confirmed.parse().map_err(|_| Error::definite(Exit::Protocol, "crieur.progress cannot be read"))?;
    Ok(Some(Wanted { server: None, upto: Lsn(upto) }))
}

async fn text(client: &Client, sql: &str) -> Result<String> {
    let rows = query(client, sql, &[]).await?;
    let missing =
        || Error::definite(Exit::Unavailable, "the server has no answer; has `crieur run` been started once?");
    let row = rows.first().ok_or_else(missing)?;
    row.try_get(0).map_err(|error| session_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_when_it_is_of_this_server_and_far_enough() {
        let text = |system: &str, lsn: &str, deleted: &str| {
            format!(
                r#"{{"system":"{system}","timeline":1,"slot":"s","lsn":"{lsn}","deleted":"{deleted}","at":1,"rules":""}}"#
            )
        };
        let wanted = Wanted { server: Some(("7".into(), 1)), upto: Lsn(0x20) };
        let said = |text: &str| lacks(Some(text.as_bytes()), &wanted);
        assert_eq!(said(&text("7/5", "0/20", "")), None);
        assert_eq!(said(&text("7/5", "0/10", "0/20")), None, "its echoes may be out");
        assert_eq!(said(&text("7/5", "0/10", "0/1F")).as_deref(), Some("is at 0/1F, before 0/20"));
        assert!(said(&text("8/5", "0/30", "")).is_some_and(|why| why.contains("another server")));
        assert!(said("{}").is_some() && lacks(None, &wanted).is_some());
    }

    #[test]
    fn a_position_or_now_is_waited_for() {
        assert_eq!((until("now"), until("0/20")), (Ok(Until::Now), Ok(Until::Position(Lsn(0x20)))));
        assert!(until("later").is_err() && time("5").is_err());
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
    }
}
