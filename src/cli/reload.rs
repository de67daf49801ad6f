//! SIGHUP: reads the configuration again and takes its rules, caches and sinks. What is wrong with them is said, and the
//! old ones stay.
//!
//! `[[rules]]`, what they share, `[[verify]]`, `[cache]`, `[caches.NAME]` and `[sinks.NAME]` can change while the daemon
//! runs. A cache or a sink whose settings are the same keeps its connections; one with others begins as at a start. A change
//! of anything else is named and waits for the next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admin::WatchedCache;
use crate::cache::any::AnyCache;
use crate::cli::caches::{policy, policy_of_sink, watched};
use crate::cli::output::say;
use crate::cli::process::environment;
use crate::cli::verify::{Newer, Sampler};
use crate::config::{CacheConfig, Config, Effective, SinkConfig};
use crate::error::{Error, Result};
use crate::mistake::Mistakes;
use crate::observe::speaker::CacheName;
use crate::observe::{Id, log};
use crate::rules::Rules;
use crate::run::{Onward, Reload};
use crate::secret::Secret;
use crate::target::Policy;
use crate::target::twins::Twins;
use crate::verify::Verification;

/// How long a reload waits for each cache that it compares with the others; the loop compares those that answer later.
const ANSWERS: Duration = Duration::from_secs(2);

/// Where the configuration is, and what is in force.
pub(super) struct ConfigInForce {
    path: PathBuf,
    settings: Vec<Effective>,
    addresses: Addresses,
    caches: Vec<CacheInForce>,
    rules: String,
    verify: Vec<Verification>,
    /// Where the verifier looks for another one.
    verifier: Newer<Sampler>,
}

/// What is said of a target, to compare.
#[derive(Clone, PartialEq, Eq)]
enum TargetConfig {
    Cache(Box<CacheConfig>),
    Sink(Box<SinkConfig>),
}

impl TargetConfig {
    fn all(config: &Config) -> Vec<TargetConfig> {
        let caches = config.caches.iter().map(|cache| TargetConfig::Cache(Box::new(cache.clone())));
        caches.chain(config.sinks.iter().map(|sink| TargetConfig::Sink(Box::new(sink.clone())))).collect()
    }

    fn policy(&self) -> Policy {
        match self {
            TargetConfig::Cache(cache) => policy(cache),
            TargetConfig::Sink(sink) => policy_of_sink(sink),
        }
    }

    fn make(&self) -> Result<AnyCache> {
        match self {
            TargetConfig::Cache(cache) => AnyCache::new(cache),
            TargetConfig::Sink(sink) => AnyCache::of_sink(sink),
        }
    }

    fn settings(&self) -> TargetConfig {
        match self {
            TargetConfig::Cache(cache) => TargetConfig::Cache(Box::new(settings(cache))),
            TargetConfig::Sink(_) => self.clone(),
        }
    }
}

/// A cache or a sink in force.
struct CacheInForce {
    settings: TargetConfig,
    watched: WatchedCache,
}

/// What a reload changes.
struct Changes {
    rules: Rules,
    caches: Option<(Vec<Onward<AnyCache>>, Vec<WatchedCache>)>,
}

impl ConfigInForce {
    /// `config` was read from `path` and is in force, with these caches in its order.
    pub(super) fn new(path: &Path, config: &Config, caches: &[WatchedCache], verifier: Newer<Sampler>) -> Self {
        let caches = TargetConfig::all(config)
            .into_iter()
            .zip(caches)
            .map(|(target, watched)| CacheInForce { settings: target.settings(), watched: watched.clone() });
        ConfigInForce {
            path: path.to_owned(),
            settings: config.effective().collect(),
            addresses: addresses(config),
            caches: caches.collect(),
            rules: rules(config),
            verify: config.verify.clone(),
            verifier,
        }
    }

    /// What is other now than what is in force; an error is why all of that stays.
    async fn read(&mut self) -> std::result::Result<Option<Changes>, String> {
        let environment = environment().map_err(|error| error.chain())?;
        match Config::load(&self.path, environment.into_iter()) {
            Ok(config) => self.others(config).await.map_err(|error| error.chain()),
            Err(mistakes) => {
                show(&mistakes);
                Err("the configuration is wrong, as shown above".to_owned())
            }
        }
    }

    async fn others(&mut self, config: Config) -> Result<Option<Changes>> {
        show(&config.warnings);
        let caches = self.caches(&config).await?;
        let in_force = caches.as_ref().map_or(&self.caches, |(_, in_force)| in_force);
        let watched: Vec<WatchedCache> = in_force.iter().map(|cache| cache.watched.clone()).collect();
        let mut waits = changed(&self.settings, &config.effective().collect::<Vec<_>>());
        waits.extend(moved(&self.addresses, &addresses(&config)));
        if !waits.is_empty() {
            log!(
                Id::ReloadWaits,
                hint = "Restart crieur.",
                "changed settings take effect at the next start only: {}",
                waits.join(", ")
            );
        }
        let rules = rules(&config);
        let is_verified_otherwise = config.verify != self.verify;
        if is_verified_otherwise || caches.is_some() {
            self.verifier.put(Sampler::of(&config, &watched)?);
            self.verify.clone_from(&config.verify);
        }
        let caches = caches.map(|(onward, in_force)| {
            self.caches = in_force;
            (onward, watched)
        });
        if rules == self.rules && caches.is_none() {
            let verified = if is_verified_otherwise { "; [[verify]] is another, and is in force" } else { "" };
            log!(
                Id::ReloadSame,
                "the configuration was read again: rules, caches and sinks are those in force{verified}"
            );
            return Ok(None);
        }
        self.rules = rules;
        Ok(Some(Changes { rules: config.rules, caches }))
    }

    /// The caches, where they are others.
    async fn caches(&self, config: &Config) -> Result<Option<(Vec<Onward<AnyCache>>, Vec<CacheInForce>)>> {
        let targets = TargetConfig::all(config);
        let now: Vec<TargetConfig> = targets.iter().map(TargetConfig::settings).collect();
        if now.iter().eq(self.caches.iter().map(|cache| &cache.settings)) {
            return Ok(None);
        }
        tell_apart(config).await?;
        let (mut onward, mut in_force) = (Vec::new(), Vec::new());
        for (target, settings) in targets.iter().zip(now) {
            let policy = target.policy();
            match self.caches.iter().find(|known| known.settings == settings) {
                Some(known) => {
                    onward.push(Onward { policy, cache: None });
                    in_force.push(CacheInForce { settings, watched: known.watched.clone() });
                }
                None => {
                    let made = target.make()?;
                    in_force.push(CacheInForce { settings, watched: watched(&made, &policy) });
                    onward.push(Onward { policy, cache: Some(made) });
                }
            }
        }
        Ok(Some((onward, in_force)))
    }
}

/// Refuses two caches that are one database, as far as they answer.
async fn tell_apart(config: &Config) -> Result<()> {
    let twins = Twins::default();
    let made = config.caches.iter().map(|cache| Ok((cache.name.as_str().into(), Rc::new(AnyCache::new(cache)?))));
    let made: Vec<(CacheName, Rc<AnyCache>)> = made.collect::<Result<_>>()?;
    let admitting = made.iter().map(|(name, cache)| timeout(ANSWERS, twins.admit(name, cache)));
    for admitted in join_all(admitting).await {
        match admitted {
            Ok(Err(error)) if !error.is_transient() => return Err(error),
            Ok(Ok(()) | Err(Error { .. })) | Err(_) => {}
        }
    }
    Ok(())
}

/// Every setting of a cache, to compare. How its section is written says nothing of it, and `invalidate` is of the rules.
/// What the verifier spends is the cache's where it is in its budget.
fn settings(cache: &CacheConfig) -> CacheConfig {
    let verifier = cache.budget.map_or(0, |_| cache.verifier);
    CacheConfig { section: String::new(), invalidate: Vec::new(), verifier, ..cache.clone() }
}

/// What the rules say, to compare.
fn rules(config: &Config) -> String {
    format!("{} {}", config.rules.digest(), config.rules.audiences())
}

/// Addresses with their secrets, by the names of their settings. Never shown.
type Addresses = Vec<(&'static str, Vec<String>)>;

/// Their names. Where a list was empty it is not redacted, so its text changes as well.
const ADDRESSES: [&str; 2] = ["postgres.url", "postgres.replicas"];

fn addresses(config: &Config) -> Addresses {
    let texts = |secrets: &[Secret]| secrets.iter().map(|secret| secret.expose().to_owned()).collect();
    let [postgres, replicas] = ADDRESSES;
    let url = texts(std::slice::from_ref(&config.postgres.url));
    vec![(postgres, url), (replicas, texts(&config.postgres.replicas))]
}

/// Names of those that differ: a password that was changed, a host that moved.
fn moved(before: &Addresses, now: &Addresses) -> impl Iterator<Item = String> {
    before.iter().zip(now).filter(|(before, now)| before != now).map(|((name, _), _)| (*name).to_owned())
}

/// Names of settings that differ and that only a start reads. Addresses are redacted and look alike: see [`moved`].
fn changed(before: &[Effective], now: &[Effective]) -> Vec<String> {
    let value =
        |list: &[Effective], name: &str| list.iter().find(|(key, _, _)| key == name).map(|(_, value, _)| value.clone());
    let is_of_a_cache =
        |name: &str| ["cache.", "caches.", "sinks."].into_iter().any(|section| name.starts_with(section));
    let names: BTreeSet<&String> = before.iter().chain(now).map(|(name, _, _)| name).collect();
    let is_verified = |name: &str| name.starts_with("verify.");
    let waits = |name: &str| !is_of_a_cache(name) && !is_verified(name) && !ADDRESSES.contains(&name);
    let differs = |name: &&String| waits(name) && value(before, name) != value(now, name);
    names.into_iter().filter(differs).cloned().collect()
}

/// Lines of their own, as at the start.
fn show(mistakes: &Mistakes) {
    say(mistakes);
}

fn refuse(why: &str) {
    log!(
        Id::ReloadRefused,
        hint = "Correct the file and send SIGHUP again.",
        "the configuration was not taken, and the rules, caches and sinks in force stay: {why}"
    );
}

/// What a SIGHUP comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reloading {
    /// The configuration is read.
    Began,
    /// What is in force stays, because the configuration cannot be.
    Refused,
    /// The configuration is in force.
    Done,
}

/// Hands rules and caches over at each SIGHUP, with what `control` makes for the rules; `watch` hears of the caches, and
/// `told` what comes of it. It never ends.
pub(super) async fn at_each<D>(
    mut hangup: Signal,
    mut file: ConfigInForce,
    control: impl Fn(&Rules) -> D,
    reloads: Sender<Reload<AnyCache, D>>,
    (watch, told): (impl Fn(Vec<WatchedCache>), impl Fn(Reloading)),
) {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        told(Reloading::Began);
        let end = match file.read().await {
            Err(why) => {
                refuse(&why);
                Reloading::Refused
            }
            Ok(None) => Reloading::Done,
            Ok(Some(Changes { rules, caches })) => {
                let control = control(&rules);
                let (caches, watched) = caches.unzip();
                watched.into_iter().for_each(&watch);
                let (sender, taken) = oneshot::channel();
                // The loop that no longer listens, or does not answer, is about to end.
                let _ = reloads.send(Reload { rules, control, caches, taken: Some(sender) }).await;
                let _ = taken.await;
                Reloading::Done
            }
        };
        told(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_a_start_reads_wait_for_one() {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned(), "file".to_owned());
        let before = [setting("postgres.slot", "a"), setting("limits.stop_timeout", "5s"), setting("cache.echo", "")];
        let mut now =
            vec![setting("postgres.slot", "a"), setting("limits.stop_timeout", "9s"), setting("caches.a.echo", "1s")];
        now.push(setting("verify.1", "keys a:{id}"));
        assert_eq!(changed(&before, &now), ["limits.stop_timeout"]);
        assert_eq!(changed(&before, &before[1..]), ["postgres.slot"]);
    }

    #[test]
    fn an_address_that_differs_is_named() {
        let of = |url: &str, replicas: &[&str]| {
            let replicas = replicas.iter().map(|replica| (*replica).to_owned()).collect();
            vec![("postgres.url", vec![url.to_owned()]), ("postgres.replicas", replicas)]
        };
        let names = |before, now| moved(&before, &now).collect::<Vec<_>>();
        assert_eq!(names(of("a", &["r"]), of("a", &["r"])), [""; 0]);
        assert_eq!(names(of("a", &["r"]), of("b", &["r"])), ["postgres.url"]);
        assert_eq!(names(of("a", &[]), of("a", &["r"])), ["postgres.replicas"]);
        assert_eq!(names(of("a", &["r", "s"]), of("a", &["s", "r"])), ["postgres.replicas"]);
    }

    #[test]
    fn a_cache_is_another_when_anything_of_it_is_and_not_when_its_lines_moved() {
        let load = |cache: &str| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = directory.path().join("crieur.toml");
            let text = format!("[postgres]\nurl = 'postgres://a/d'\n{cache}\n[[rules]]\ntable = 't'\nkeys = ['k']\n");
            std::fs::write(&path, text).expect("written");
            let none = std::iter::empty::<crate::config::Given>();
            Config::load(&path, none).unwrap_or_else(|mistakes| panic!("{mistakes}"))
        };
        let of = |section: &str, more: &str| {
            let url = "redis+sentinel://:hunter2@a,b,c/m";
            settings(&load(&format!("{section}\nurl = '{url}'\nsentinel_password = 'old'\n{more}")).caches[0])
        };
        let before = of("[cache]", "");
        assert_eq!(before, of("\n\n[caches.main]", ""), "the same settings on other lines");
        assert_eq!(before, of("[cache]", "invalidate = ['k*']"));
        for more in ["required = false", "tls_ca = '/etc/ca.pem'", "timeout = '4s'", "echo = []"] {
            assert_ne!(before, of("[cache]", more), "{more}");
        }
        let other = |from: &str, to: &str| {
            let text = "[cache]\nurl = 'redis+sentinel://:hunter2@a,b,c/m'\nsentinel_password = 'old'\n";
            settings(&load(&text.replace(from, to)).caches[0])
        };
        assert_eq!(before, other("", ""));
        assert_ne!(before, other("old", "new"), "a password that nobody is shown");
        assert_ne!(before, other("hunter2", "hunter3"));
    }
}
