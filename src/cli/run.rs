//! `crieur run`: the daemon.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::{self, Watch};
use crate::cache::redis::RedisCache;
use crate::cli::progress::Progress;
use crate::cli::{log, runtime};
use crate::config::{Config, Mode};
use crate::control::Control;
use crate::error::{Error, Exit, Result};
use crate::failpoints::{Guard, without};
use crate::pipeline::{News, Pipeline, Replicas, Settings, Totals};
use crate::pooled::PooledControl;
use crate::session::ControlSession;
use crate::source::Source;
use crate::source::dsn::Dsn;
use crate::source::outbox::{self, Outbox};
use crate::source::replication::{self, Replication};

/// How often systemd hears how it goes.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, or until an error is definite.
pub fn run(config: Config) -> Exit {
    log::start();
    info!(version = env!("CARGO_PKG_VERSION"), "crieur starts");
    for (key, value, origin) in config.effective() {
        info!(%origin, "{key} = {value}");
    }
    let result = runtime().and_then(|runtime| runtime.block_on(stream(config)));
    notify(&[NotifyState::Stopping]);
    match result {
        Ok(totals) => {
            info!(keys = totals.keys, existed = totals.existed, sweeps = totals.sweeps, "stopped");
            Exit::Ok
        }
        Err(error) => {
            let hint = error.hint.as_deref().unwrap_or("none");
            error!(hint, exit = error.exit() as u8, "stopped: {}", error.chain());
            error.exit()
        }
    }
}

async fn stream(config: Config) -> Result<Totals> {
    let dsn = Dsn::parse(config.postgres.url.expose())?;
    let replicas = config.postgres.replicas.iter().map(|url| Dsn::parse(url.expose())).collect::<Result<_>>()?;
    match config.postgres.mode {
        Mode::Replication => {
            if let Some(hint) = dsn.pooler_hint() {
                warn!("{hint}");
            }
            let postgres = &config.postgres;
            let control = ControlSession::new(
                dsn.clone(),
                postgres.connect_timeout,
                postgres.lookup_timeout,
                config.rules.lookups(),
            )
            .with_replicas(replicas)
            .watching(&postgres.slot, &postgres.publication, &config.rules);
            let source = Replication::new(replication::Options {
                dsn,
                slot: postgres.slot.clone(),
                publication: postgres.publication.clone(),
                connect_timeout: postgres.connect_timeout,
                liveness_timeout: postgres.liveness_timeout,
            });
            deliver(config, source, control).await
        }
        Mode::Outbox => {
            let postgres = &config.postgres;
            let (connect_timeout, lookup_timeout) = (postgres.connect_timeout, postgres.lookup_timeout);
            let control = PooledControl::new(dsn.clone(), connect_timeout, lookup_timeout, &config.rules, replicas);
            let (slot, answer_timeout) = (postgres.slot.clone(), postgres.liveness_timeout);
            let source = Outbox::new(outbox::Options { dsn, slot, connect_timeout, answer_timeout });
            deliver(config, source, control).await
        }
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        slot: config.postgres.slot.clone(),
        publication: config.postgres.publication.clone(),
        echo: if without(Guard::Echo) { Vec::new() } else { config.cache.echo.clone() },
        echo_wal_bytes_max: config.cache.echo_wal_bytes_max,
        on_gap: config.cache.on_gap,
        replicas: if config.postgres.replicas.is_empty() { Replicas::None } else { Replicas::Some },
        heartbeat: config.cache.heartbeat,
        batch_keys_max: config.limits.batch_keys_max,
        memory_bytes_max: config.limits.memory_bytes_max.try_into().unwrap_or(usize::MAX),
        stop_timeout: config.limits.stop_timeout,
    }
}

/// The loop between a source and the cache.
async fn deliver<S, D>(config: Config, source: S, control: D) -> Result<Totals>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    let settings = settings(&config);
    let cache = RedisCache::new(&config.cache)?;
    let watch = Watch::new(cache.health());
    if let Some(address) = config.admin {
        admin::serve(address, watch.clone()).await?;
    }
    let stop = stop_signal()?;
    let (mut progress, mut status) = (Progress::default(), Status::default());
    let news = Box::new(move |news| {
        match news {
            News::Ready => notify(&[NotifyState::Ready, NotifyState::Status("streaming")]),
            News::StandingBy(pid) => {
                // Up, though another one works: a unit of Type=notify must not wait for it.
                let line = format!("standing by: the slot is active for PID {pid}");
                notify(&[NotifyState::Ready, NotifyState::Status(&line)]);
            }
            News::SweepEnded(swept) => info!(scanned = swept.scanned, deleted = swept.deleted, "sweep finished"),
            News::Totals(totals, late) => status.tell(&totals, late),
            News::SweepBegan | News::Streaming | News::Interrupted | News::Gap(_) => {}
        }
        watch.news(news);
        progress.news(news);
    });
    Pipeline::new(source, cache, control, config.rules, settings, news).run(stop).await
}

/// The line of `systemctl status`, renewed now and then.
#[derive(Default)]
struct Status {
    told: Option<Instant>,
}

impl Status {
    fn tell(&mut self, totals: &Totals, late: Duration) {
        if self.told.is_none_or(|told| told.elapsed() >= STATUS_INTERVAL) {
            self.told = Some(Instant::now());
            let behind = late.as_secs();
            let Totals { keys, existed, widened, sweeps, .. } = totals;
            let line = format!(
                "{keys} keys sent, {existed} existed, {widened} widened, {sweeps} sweeps; last change {behind} s late"
            );
            notify(&[NotifyState::Status(&line)]);
        }
    }
}

/// Resolves at the first SIGTERM or SIGINT. SIGHUP changes nothing and says so: unheard, it would end the process.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).map_err(|cause| Error::definite(Exit::Os, "listen for signals").because(cause));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => warn!("SIGHUP: this version reads its configuration only at the start"),
            }
        }
        notify(&[NotifyState::Stopping]);
    })
}

/// Tells systemd, where there is one (`NOTIFY_SOCKET`).
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("failed to notify systemd: {error}");
    }
}
