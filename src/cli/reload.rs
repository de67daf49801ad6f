//! SIGHUP: reads the configuration again and takes its rules. What is wrong with them is said, and the old ones stay.
//!
//! Only `[[rules]]`, what they share, and `cache.invalidate` can change while the daemon runs; a change of anything else
//! is named and waits for the next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::signal::unix::Signal;
use tokio::sync::mpsc::Sender;

use crate::cli::output::say;
use crate::cli::process::environment;
use crate::config::{CacheConfig, Config, Effective};
use crate::mistake::Mistakes;
use crate::observe::{Id, log};
use crate::rules::Rules;
use crate::run::Reload;
use crate::secret::Secret;

/// Where the rules are, and what is in force.
pub(super) struct RulesFile {
    path: PathBuf,
    protect: Vec<Vec<u8>>,
    settings: Vec<Effective>,
    addresses: Addresses,
    digest: String,
}

impl RulesFile {
    /// `config` was read from `path` and is in force.
    pub(super) fn new(path: &Path, config: &Config) -> Self {
        RulesFile {
            path: path.to_owned(),
            protect: config.protect.clone(),
            settings: config.effective().collect(),
            addresses: addresses(config),
            digest: config.rules.digest().to_owned(),
        }
    }

    /// The rules, if there are others now than those in force.
    fn read(&mut self) -> Option<Rules> {
        let environment = match environment() {
            Ok(environment) => environment,
            Err(error) => {
                refuse(&error.chain());
                return None;
            }
        };
        match Config::load_anew(&self.path, environment.into_iter(), &self.protect) {
            Ok(config) => self.others(config),
            Err(mistakes) => {
                show(&mistakes);
                refuse("the configuration is wrong, as shown above");
                None
            }
        }
    }

    fn others(&mut self, config: Config) -> Option<Rules> {
        show(&config.warnings);
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
        let digest = config.rules.digest().to_owned();
        if digest == self.digest {
            log!(Id::ReloadSame, "the rules were read again: they are those in force");
            return None;
        }
        self.digest = digest;
        Some(config.rules)
    }
}

/// Addresses with their secrets, by the names of their settings. Never shown.
type Addresses = Vec<(String, Vec<String>)>;

/// Ends of their names. Where a list was empty it is not redacted, so its text changes as well.
const ADDRESSES: [&str; 3] = [".url", ".replicas", ".token"];

fn addresses(config: &Config) -> Addresses {
    let texts = |secrets: &[Secret]| secrets.iter().map(|secret| secret.expose().to_owned()).collect();
    let one = std::slice::from_ref::<Secret>;
    let of_cache = |cache: &CacheConfig| (format!("{}.url", cache.section), texts(one(&cache.url)));
    let postgres = [("url", texts(one(&config.postgres.url))), ("replicas", texts(&config.postgres.replicas))];
    let postgres = postgres.into_iter().map(|(name, texts)| (format!("postgres.{name}"), texts));
    postgres.chain(config.caches.iter().map(of_cache)).collect()
}

/// Names of those that differ: a password that was changed, a host that moved.
fn moved(before: &Addresses, now: &Addresses) -> Vec<String> {
    let names: BTreeSet<&String> = before.iter().chain(now).map(|(name, _)| name).collect();
    let texts =
        |all: &Addresses, wanted: &str| all.iter().find(|(name, _)| name == wanted).map(|(_, texts)| texts.clone());
    names.into_iter().filter(|name| texts(before, name) != texts(now, name)).cloned().collect()
}

/// Names of settings that differ and that only a start reads. Addresses are redacted and look alike: see [`moved`].
fn changed(before: &[Effective], now: &[Effective]) -> Vec<String> {
    let value =
        |list: &[Effective], name: &str| list.iter().find(|(key, _, _)| key == name).map(|(_, value, _)| value.clone());
    let waits = |name: &str| !name.ends_with(".invalidate") && !ADDRESSES.iter().any(|end| name.ends_with(end));
    let names: BTreeSet<&String> = before.iter().chain(now).map(|(name, _, _)| name).collect();
    let differs = |name: &&String| waits(name) && value(before, name) != value(now, name);
    names.into_iter().filter(differs).cloned().collect()
}

/// Lines of their own, as at the start.
fn show(mistakes: &Mistakes) {
    say(mistakes);
}

fn refuse(why: &str) {
    log!(Id::ReloadRefused, hint = "Correct the file and send SIGHUP again.", "the rules in force stay: {why}");
}

/// Hands the rules over at each SIGHUP, with what `control` makes for them. It never ends.
pub(super) async fn at_each<D>(
    mut hangup: Signal,
    mut file: RulesFile,
    control: impl Fn(&Rules) -> D,
    reloads: Sender<Reload<D>>,
) {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        if let Some(rules) = file.read() {
            let control = control(&rules);
            // The loop that no longer listens is about to end.
            let _ = reloads.send(Reload { rules, control }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_a_start_reads_wait_for_one() {
        use crate::rules::plan::custom::SETTING;
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned(), "file".to_owned());
        let before = [setting("cache.timeout", "5s"), setting("cache.protect", "a"), setting(SETTING, "")];
        let now = [setting("cache.timeout", "5s"), setting("cache.protect", "b"), setting(SETTING, "c:*")];
        assert_eq!(changed(&before, &now), ["cache.protect"]);
        assert_eq!(changed(&before, &before[1..]), ["cache.timeout"]);
    }

    #[test]
    fn an_address_that_differs_is_named() {
        let of = |url: &str, replicas: &[&str]| {
            let replicas = replicas.iter().map(|replica| (*replica).to_owned()).collect();
            [("postgres.url", vec![url.to_owned()]), ("postgres.replicas", replicas), ("cache.url", vec!["c".into()])]
                .map(|(name, texts)| (name.to_owned(), texts))
                .to_vec()
        };
        let names = |before, now| moved(&before, &now);
        assert_eq!(names(of("a", &["r"]), of("a", &["r"])), [""; 0]);
        assert_eq!(names(of("a", &[]), of("a", &[])[..2].to_vec()), ["cache.url"]);
        assert_eq!(names(of("a", &["r"]), of("b", &["r"])), ["postgres.url"]);
        assert_eq!(names(of("a", &[]), of("a", &["r"])), ["postgres.replicas"]);
        assert_eq!(names(of("a", &["r", "s"]), of("a", &["s", "r"])), ["postgres.replicas"]);
    }
}
