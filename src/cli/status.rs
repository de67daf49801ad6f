//! `crieur status`: what the marks in the caches say, what the daemon of this machine shows of itself, and a wait until
//! what is committed is deleted in the caches.
//!
//! It asks the caches before the daemon: a mark says up to where the first delete of every change was answered, whoever
//! wrote it. So the command works on any machine that reaches the servers, and a daemon that is down is seen by its marks.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::Client;

use crate::amount::duration;
use crate::cache::any::AnyCache;
use crate::cli::ask::{DeskAnswers, SocketArgs};
use crate::cli::origin::Origin;
use crate::cli::output::say;
use crate::cli::told;
use crate::config::{CacheConfig, Config, Mode};
use crate::desk::path::of_command;
use crate::desk::words::{DeskAnswer, DeskQuestion};
use crate::error::{Error, Exit, Result};
use crate::lsn::Lsn;
use crate::mark::{Mark, deleted};
use crate::postgres::facts::in_recovery;
use crate::postgres::quote;
use crate::postgres::session::{self, Session};
use crate::postgres::sqlstate::session_error;
use crate::source::outbox::query;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// One answer of a cache, at most.
const ANSWER: Duration = Duration::from_secs(5);

/// A cache that no crieur ever marked may have had every delete: behind the first sweep the mark waits for its echoes.
const NO_MARK: &str =
    "holds no mark: no crieur works with it, or the echoes of its first sweep are not over (cache.echo)";

/// A transaction of our own behind the position that is waited for: the stream passes that position with the commit at
/// the latest, also where nobody else writes. The daemon's own messages have another prefix, so this one deletes nothing.
const TRANSACTION: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'crieur.status', '')::text";

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// A position of the server's WAL.
    Position(Lsn),
    /// Whatever is committed by now.
    Now,
}

/// The marks of the caches, and what the daemon tells.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Return when everything up to this position, or everything that is committed by now, is deleted in every required
    /// cache. Sinks keep no mark, so nobody waits for them here.
    #[arg(long, value_name = "LSN|now", value_parser = until)]
    wait: Option<Until>,
    /// Stop waiting after this time: exit code 1, and the caches that lack something are named.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "wait", value_parser = time)]
    timeout: Duration,
    /// Wait for the caches that are not required, too.
    #[arg(long, requires = "wait")]
    all: bool,
    /// Write JSON: the marks as `caches`, and what the daemon tells as `daemon`, all of the page as its `shown`.
    #[arg(long, conflicts_with = "wait")]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
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
#[derive(Debug)]
pub(super) struct Wanted {
    /// Number and timeline, where the server says them.
    pub(super) server: Option<(String, u32)>,
    /// The position.
    pub(super) upto: Lsn,
}

/// What is wrong with a cache's mark; `None` when it says what is wanted.
pub(super) fn lacks(text: Option<&[u8]>, wanted: &Wanted) -> Option<String> {
    let Some(text) = text else { return Some(NO_MARK.to_owned()) };
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

/// A cache that is waited for.
struct Awaited<'a> {
    name: &'a str,
    cache: &'a AnyCache,
    /// What it lacks, as far as it said so; `None` when it lacks nothing.
    lacks: Option<String>,
}

impl Awaited<'_> {
    /// Asks it, for as long as there is time.
    async fn look(&mut self, slot: &str, wanted: &Wanted, by: Instant) {
        let until = by.min(Instant::now() + ANSWER);
        match timeout_at(until, self.cache.mark_for_readers(slot)).await {
            Ok(Ok(text)) => self.lacks = lacks(text.as_deref(), wanted),
            Ok(Err(error)) => self.lacks = Some(format!("does not answer: {}", error.chain())),
            // What it said before, it says better than a look that was cut short.
            Err(_) if until < by => self.lacks = Some("does not answer".to_owned()),
            Err(_) => {}
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// Those of the configuration, and of the server.
pub async fn run(config: &Config, arguments: &StatusArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let caches = config.caches.iter().map(|cache| Ok((cache, AnyCache::new(cache)?))).collect::<Result<Vec<_>>>()?;
    let Some(until) = arguments.wait else { return show(config, &caches, arguments, out).await };
    let by = Instant::now() + arguments.timeout;
    let wanted = match wanted(config, until, by).await? {
        Ok(wanted) => wanted,
        Err(late) => {
            writeln!(out, "{late}")?;
            return Ok(Exit::Failed);
        }
    };
    let is_awaited = |cache: &CacheConfig| cache.required || arguments.all;
    let awaited = caches.iter().filter(|(cache, _)| is_awaited(cache)).map(|(cache, asked)| Awaited {
        name: &cache.name,
        cache: asked,
        lacks: Some("does not answer".to_owned()),
    });
    let mut awaited: Vec<Awaited<'_>> = awaited.collect();
    loop {
        join_all(awaited.iter_mut().map(|cache| cache.look(&config.postgres.slot, &wanted, by))).await;
        awaited.retain(|cache| cache.lacks.is_some());
        if awaited.is_empty() {
            return Ok(Exit::Ok);
        }
        if Instant::now() >= by {
            for cache in &awaited {
                writeln!(out, "cache {} {}", cache.name, cache.lacks.as_deref().unwrap_or_default())?;
            }
            return Ok(Exit::Failed);
        }
        sleep_until(by.min(Instant::now() + LOOK)).await;
    }
}

/// What marks must say; what kept the server from saying so in time.
async fn wanted(config: &Config, until: Until, by: Instant) -> Result<std::result::Result<Wanted, &'static str>> {
    const SILENT: &str = "the server does not answer in time: where the caches should be is not known";
    let origin = Origin::of(config)?;
    let Ok(session) = timeout_at(by, origin.session()).await else { return Ok(Err(SILENT)) };
    let session = session?;
    match config.postgres.mode {
        Mode::Replication => timeout_at(by, of_wal(&session, until, config.postgres.standby))
            .await
            .map_or(Ok(Err(SILENT)), |of| of.map(Ok)),
        Mode::Outbox => {
            let Ok(left) = timeout_at(by, rows_left(&session, until)).await else { return Ok(Err(SILENT)) };
            let Ok(removed) = timeout_at(by, removed(&session, &left?)).await else {
                return Ok(Err("rows wait in the outbox: no daemon removes them, or a cache holds them"));
            };
            removed?;
            let of = timeout_at(by, of_outbox(&session, &config.postgres.slot)).await;
            of.map_or(Ok(Err(SILENT)), |of| of.map(Ok))
        }
    }
}

/// What the mark of a cache says now, or what is wrong with it.
fn read(answer: std::result::Result<Result<Option<Vec<u8>>>, Elapsed>) -> std::result::Result<(Mark, Lsn), String> {
    let text = match answer {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(format!("does not answer: {}", error.chain())),
        Err(_) => return Err("does not answer".to_owned()),
    };
    match text.as_deref().map(|text| (serde_json::from_slice::<Mark>(text), deleted(text))) {
        Some((Ok(mark), Some(deleted))) => Ok((mark, deleted)),
        Some(_) => Err("holds a mark that cannot be read".to_owned()),
        None => Err(NO_MARK.to_owned()),
    }
}

/// What the marks say now, and the daemon of this machine, where one answers.
async fn show(
    config: &Config,
    caches: &[(&CacheConfig, AnyCache)],
    arguments: &StatusArgs,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let asked = caches.iter().map(|(_, cache)| timeout(ANSWER, cache.mark_for_readers(&config.postgres.slot)));
    let (answers, daemon) = tokio::join!(join_all(asked), daemon(config, arguments));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut exit, mut objects) = (Exit::Ok, Vec::new());
    for ((CacheConfig { name, .. }, _), answer) in caches.iter().zip(answers) {
        let (line, object) = match read(answer) {
            Ok((Mark { lsn, at, late_ms, .. }, deleted)) => {
                let age = now.saturating_sub(at);
                let line = format!(": lsn {lsn}, deleted {deleted}, written {age} s ago, {late_ms} ms late");
                let object = serde_json::json!({
                    "cache": name, "lsn": lsn, "deleted": deleted.to_string(), "age_s": age, "late_ms": late_ms,
                });
                (line, object)
            }
            Err(wrong) => {
                exit = Exit::Failed;
                (format!(" {wrong}"), serde_json::json!({ "cache": name, "wrong": wrong }))
            }
        };
        if !arguments.json {
            writeln!(out, "cache {name}{line}")?;
        }
        objects.push(object);
    }
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({ "caches": objects, "daemon": daemon }))?;
    } else if let Some(daemon) = daemon {
        for line in told::lines(&daemon) {
            writeln!(out, "daemon: {line}")?;
        }
    }
    Ok(exit)
}

/// What the daemon of this machine shows of itself; `None` where no socket is.
async fn daemon(config: &Config, arguments: &StatusArgs) -> Option<serde_json::Value> {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let path = of_command(arguments.socket.socket.as_deref(), config.control.as_deref(), runtime.as_deref());
    if arguments.socket.socket.is_none() && !path.exists() {
        return None;
    }
    let asked = async { DeskAnswers::of(&path, &DeskQuestion::Status).await?.next().await };
    match timeout(ANSWER, asked).await {
        Ok(Ok(Some(DeskAnswer::Status { status }))) => Some(status),
        Ok(Ok(_)) | Err(_) => Some(serde_json::json!({ "wrong": "does not answer" })),
        Ok(Err(error)) => Some(serde_json::json!({ "wrong": error.chain() })),
    }
}

/// Of a stream of WAL, which comes from a standby where that is configured.
pub(super) async fn of_wal(session: &Session, until: Until, standby: bool) -> Result<Wanted> {
    let place = session::place(&session.client).await?;
    if place.in_recovery && !standby {
        return Err(in_recovery());
    }
    let server = place.identity.map(|of| (of.system, of.timeline));
    let upto = match until {
        Until::Position(lsn) => lsn,
        // All that readers of the standby see by now; what its primary committed since is not there yet.
        Until::Now if place.in_recovery => position(&session.client, "pg_last_wal_replay_lsn").await?,
        Until::Now => {
            let inserted = position(&session.client, "pg_current_wal_insert_lsn").await?;
            if let Err(error) = session.client.batch_execute(TRANSACTION).await {
                let error = session_error(&error);
                say(format!(
                    "crieur may not write a message into the WAL ({error}): on a server where nobody else writes, this wait may last until its timeout\n"
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
/// for the marks of caches that were not waited for. The question whether some of those are there that are visible now.
pub(super) async fn rows_left(session: &Session, until: Until) -> Result<String> {
    if let Until::Position(_) = until {
        let error = Error::definite(Exit::Usage, "in outbox mode a position of the server's WAL says nothing of rows");
        return Err(error.hint("Write --wait now."));
    }
    let snapshot = text(&session.client, "SELECT pg_catalog.pg_current_snapshot()::text").await?;
    Ok(format!(
        "SELECT (EXISTS (SELECT FROM crieur.outbox AS o WHERE pg_catalog.pg_visible_in_snapshot(o.xid, {}::pg_snapshot)) \
         OR EXISTS (SELECT FROM crieur.collapse))::text",
        quote::literal(&snapshot)
    ))
}

/// Waits until none is left.
async fn removed(session: &Session, left: &str) -> Result<()> {
    while text(&session.client, left).await? == "true" {
        sleep(LOOK).await;
    }
    Ok(())
}

pub(super) async fn of_outbox(session: &Session, slot: &str) -> Result<Wanted> {
    let confirmed =
        format!("SELECT p.confirmed::text FROM crieur.progress AS p WHERE p.slot = {}", quote::literal(slot));
    let missing = || {
        Error::definite(Exit::Unavailable, "the table crieur.progress has no row for this slot")
            .hint("Start crieur run once.")
    };
    let confirmed = first(&session.client, &confirmed).await?.ok_or_else(missing)?;
    let upto = confirmed.parse().map_err(|_| Error::definite(Exit::Protocol, "crieur.progress cannot be read"))?;
    Ok(Wanted { server: None, upto: Lsn(upto) })
}

pub(super) async fn text(client: &Client, sql: &str) -> Result<String> {
    let missing = || Error::definite(Exit::Protocol, "the server answers a question with no row");
    first(client, sql).await?.ok_or_else(missing)
}

/// The first row's text, where there is a row.
async fn first(client: &Client, sql: &str) -> Result<Option<String>> {
    let rows = query(client, sql, &[]).await?;
    rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| session_error(&error))
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
        assert!(said("{}").is_some());
        assert!(lacks(None, &wanted).is_some_and(|why| why.contains("holds no mark") && why.contains("first sweep")));
    }

    #[test]
    fn a_position_or_now_is_waited_for() {
        assert_eq!((until("now"), until("0/20")), (Ok(Until::Now), Ok(Until::Position(Lsn(0x20)))));
        assert!(until("later").is_err() && time("5").is_err());
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
    }
}
