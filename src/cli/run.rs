//! `crieur run`: the daemon.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sd_notify::NotifyState;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

use crate::admin::{self, AdminState, PageOptions, WatchedCache};
use crate::cli::caches::{targets, watched};
use crate::cli::deletes::DeletesSaid;
use crate::cli::process::{block_on, end_signal, listen, notify, stop_signal};
use crate::cli::progress::ProgressLine;
use crate::cli::reload::{self, ConfigInForce, Reloading};
use crate::cli::standing::Status;
use crate::cli::warm::daemon::Warmer;
use crate::cli::{dry, log, verify};
use crate::config::{CacheConfig, Config, Mode, Postgres};
use crate::control::Control;
use crate::control::pooled::PooledControl;
use crate::control::session::ControlSession;
use crate::desk::{self, Desk, DeskFile};
use crate::error::{Exit, Result};
use crate::observe::board::Board;
use crate::observe::news::{News, Totals};
use crate::observe::recent::Recent;
use crate::observe::{Id, log};
use crate::page::snapshot::Places;
use crate::postgres::dsn::Dsn;
use crate::rules::Rules;
use crate::run::{Pipeline, Settings};
use crate::source::Source;
use crate::source::outbox::{self, Outbox};
use crate::source::replication::{self, Replication};
use crate::target::Replicas;
use crate::warm::Warming;

/// The watchdog is fed so many times within its time: one word that is late is no reason to end the daemon.
const WATCHDOG_PARTS: u32 = 3;

/// The daemon, or a dry run of it.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Print what would be deleted, on a temporary slot and without the cache: nothing is deleted and no position moves.
    #[arg(long)]
    pub dry_run: bool,
}

/// Prints what would be deleted, until SIGTERM or SIGINT.
pub fn dry(config: &Config) -> anyhow::Result<Exit> {
    log::start(&config.log, Recent::default());
    block_on(async { dry::run(config, end_signal()?, &mut std::io::stdout()).await })
}

/// Runs until SIGTERM or SIGINT, or until an error is definite; SIGHUP reads `file` again.
pub fn run(config: Config, file: &Path) -> Exit {
    let recent = Recent::default();
    log::start(&config.log, recent.clone());
    log!(Id::Starts, version = env!("CARGO_PKG_VERSION"), "crieur starts");
    for (key, value, origin) in config.effective() {
        log!(Id::Setting, %origin, "{key} = {value}");
    }
    if config.caches.len() > 1 {
        let of = |cache: &CacheConfig| format!("{} ({})", cache.name, cache.url.origin());
        let named: Vec<String> = config.caches.iter().map(of).collect();
        log!(Id::SeveralCaches, "{} caches: {}", named.len(), named.join(", "));
    }
    let result = block_on(stream(config, file, recent));
    notify(&[NotifyState::Stopping]);
    match result {
        Ok(totals) => {
            log!(Id::Stopped, keys = totals.keys, existed = totals.existed, sweeps = totals.sweeps, "stopped");
            Exit::Ok
        }
        Err(error) => {
            let hint = error.hint.as_deref();
            log!(Id::Failed, hint, exit = error.exit() as u8, "stopped: {}", error.chain());
            error.exit()
        }
    }
}

/// Ordered sweeps that wait until the loop reads them.
const ORDERS_MAX: usize = 4;

/// The control socket, where there is one.
fn open_desk(config: &Config, desk: Desk) -> Result<Option<DeskFile>> {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let path = desk::path::of_daemon(config.control.as_deref(), runtime.as_deref());
    path.map(|path| desk::open(&path, desk)).transpose()
}

async fn stream(config: Config, file: &Path, recent: Recent) -> Result<Totals> {
    let dsn = config.postgres.dsn()?;
    let replicas = config.postgres.replicas.iter().map(Dsn::read);
    let replicas = replicas.collect::<Result<Vec<_>>>()?;
    let Postgres { standby, connect_timeout, liveness_timeout, lookup_timeout, .. } = config.postgres;
    let (slot, publication) = (config.postgres.slot.clone(), config.postgres.publication.clone());
    match config.postgres.mode {
        Mode::Replication => {
            if let Some(hint) = dsn.pooler_hint() {
                log!(Id::Pooler, "{hint}");
            }
            let source = Replication::new(replication::SlotOptions {
                dsn: dsn.clone(),
                slot: slot.clone(),
                publication: publication.clone(),
                standby,
                connect_timeout,
                liveness_timeout,
            });
            let control = move |rules: &Rules| {
                ControlSession::new(dsn.clone(), connect_timeout, lookup_timeout, rules.lookups())
                    .with_replicas(replicas.clone())
                    .beside_standby(standby)
                    .watching(&slot, &publication, rules)
            };
            deliver(config, file, source, control, recent).await
        }
        Mode::Outbox => {
            let options =
                outbox::OutboxOptions { dsn: dsn.clone(), slot, connect_timeout, answer_timeout: liveness_timeout };
            let control = move |rules: &Rules| {
                PooledControl::new(dsn.clone(), connect_timeout, lookup_timeout, rules, replicas.clone())
            };
            deliver(config, file, Outbox::new(options), control, recent).await
        }
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        slot: config.postgres.slot.clone(),
        publication: config.postgres.publication.clone(),
        replicas: if config.postgres.replicas.is_empty() { Replicas::None } else { Replicas::Some },
        batch_keys_max: config.limits.batch_keys_max,
        memory_bytes_max: config.limits.memory_bytes(),
        stop_timeout: config.limits.stop_timeout,
        // A reload may bring pages.
        warming: if config.limits.warm_rate > 0 { Warming::on() } else { Warming::default() },
    }
}

/// A budget that is set has a price, which the log names.
fn say_bound(cache: &CacheConfig) {
    let Ok(Some(budget)) = cache.budget() else { return };
    let verifier = match budget.verifier() {
        0 => String::new(),
        commands => format!("; what [[verify]] looks at, up to {commands}"),
    };
    log!(
        Id::BudgetBound,
        cache = %cache.name,
        "{} commands a month: a change is deleted at most {} late while the cache answers; the marks alone cost {}{verifier}",
        budget.commands(),
        budget.bound_shown(),
        budget.marks()
    );
}

/// The loop between a source and the caches; `control` makes the ordinary session that asks the lookups of rules and
/// watches their tables.
async fn deliver<S, D>(
    config: Config,
    file: &Path,
    source: S,
    control: impl Fn(&Rules) -> D,
    recent: Recent,
) -> Result<Totals>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    let settings = settings(&config);
    let caches = targets(&config)?;
    config.caches.iter().for_each(say_bound);
    let watched: Vec<WatchedCache> = caches.iter().map(|(cache, policy)| watched(cache, policy)).collect();
    let (sampler, newer) = (verify::Sampler::of(&config, &watched)?, verify::Newer::default());
    let board = Board::default();
    let places = Places { postgres: Dsn::read(&config.postgres.url)?.servers(), slot: config.postgres.slot.clone() };
    let page = PageOptions { changes: config.shows_changes, hosts: config.admin_hosts.clone() };
    let watch = AdminState::new(watched.clone(), places, (recent.clone(), board.clone()), page);
    if let Some(address) = config.admin {
        admin::serve(address, watch.clone()).await?;
    }
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let _socket = open_desk(&config, Desk { board: board.clone(), state: watch.clone(), orders })?;
    let in_force = ConfigInForce::new(file, &config, &watched, newer.clone());
    let stop = stop_signal()?;
    let (mut progress, status) = (ProgressLine::default(), Status::new(watch.clone()));
    let (teller, pages, counted, warmed) = (status.clone(), watch.clone(), watch.clone(), watch.clone());
    let (posts, mut deletes) = (board, DeletesSaid::default());
    let news = move |news: News| {
        watch.news(&news);
        status.news(&news);
        progress.news(&news);
        posts.news(&news, SystemTime::now());
        if matches!(news, News::Gone(..)) && tracing::enabled!(tracing::Level::DEBUG) {
            deletes.lines(&posts).iter().for_each(|(cache, line)| tracing::debug!(%cache, "{line}"));
        }
        recent.add(&news, SystemTime::now());
    };
    let (sender, reloads) = mpsc::channel(1);
    let hangup = listen(SignalKind::hangup())?;
    let first = control(&config.rules);
    let warmer = Warmer::new(settings.warming.clone(), &config.limits);
    let mut pipeline = Pipeline::new(source, caches, first, config.rules, settings, news);
    pipeline = pipeline.reloading(reloads).taking_orders(ordered);
    if let Some(within) = sd_notify::watchdog_enabled() {
        pipeline = pipeline.turning(within / WATCHDOG_PARTS, || notify(&[NotifyState::Watchdog]));
    }
    let others = |caches: Vec<WatchedCache>| pages.watch(caches);
    let reloaded = |reloading| {
        match reloading {
            Reloading::Began => {}
            Reloading::Refused => pages.reloaded(false),
            Reloading::Done => pages.reloaded(true),
        }
        teller.reloading(reloading);
    };
    tokio::select! {
        ended = pipeline.run(stop) => ended,
        () = reload::at_each(hangup, in_force, control, sender, (others, reloaded)) => unreachable!("it waits for signals for ever"),
        never = teller.now_and_then() => match never {},
        never = sampler.always(newer, |tally| counted.verified(tally)) => match never {},
        never = warmer.always(|tally| warmed.warmed(tally)) => match never {},
    }
}
