//! What the operator wrote, parsed and proved: after this nothing about it can be wrong.

mod caches;
pub mod credentials;
pub(crate) mod environment;
mod layers;
pub mod meaning;
mod merged;
mod metered;
mod named;
pub mod reference;
mod rules_file;
mod settings;
pub(crate) mod sinks;
pub mod ttl;
mod verify;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::amount::shown;
use crate::budget::TooSmall;
use crate::config::caches::Layers;
use crate::config::environment::Environment;
use crate::config::layers::LayerValues;
use crate::config::merged::{Merged, unfit};
use crate::config::reference::Checked;
use crate::config::ttl::TtlLimit;
use crate::mistake::{Mistakes, Place, SourceFile};
use crate::rules::Rules;
use crate::verify::{Verification, commands_a_minute};

pub use environment::Given;
pub use metered::Metering;
pub use named::{MAIN, UPSTASH, in_section};
pub use reference::reference;
pub use rules_file::rules_of_file;
pub use settings::{
    CacheConfig, Leases, Limits, LogConfig, LogFormat, Mode, OnGap, Postgres, PublishConfig, ServersConfig, TlsFiles,
    Transport,
};
pub use sinks::{SigningKey, SinkConfig};

/// Everything that a command needs.
#[derive(Debug)]
pub struct Config {
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[cache]` and `[caches.NAME]`: at least one, `main` before the others.
    pub caches: Vec<CacheConfig>,
    /// `[sinks.NAME]`
    pub sinks: Vec<SinkConfig>,
    /// What every cache protects: what the rules never delete.
    pub protect: Vec<Vec<u8>>,
    /// `[limits]`
    pub limits: Limits,
    /// `admin.listen`: where the metrics are; default: nowhere.
    pub admin: Option<SocketAddr>,
    /// `admin.changes`: whether the page shows the last changes with their keys.
    pub shows_changes: bool,
    /// `admin.hosts`: names by which the page may be called, besides addresses.
    pub admin_hosts: Vec<String>,
    /// `[log]`
    pub log: LogConfig,
    /// `control.socket`: where commands of this machine ask the daemon; default: in systemd's runtime directory.
    pub control: Option<PathBuf>,
    /// `[ttl]`: how long the keys of each family may live.
    pub ttl: Vec<TtlLimit>,
    /// `[[rules]]` and those of `rules_file`, checked.
    pub rules: Rules,
    /// `[[verify]]`: cached values that are compared with the database.
    pub verify: Vec<Verification>,
    /// What the operator should know and need not mend.
    pub warnings: Mistakes,
    effective: Vec<Effective>,
}

/// One key, its value as it would be written (secrets redacted), and where it comes from.
pub type Effective = (String, String, String);

/// What is said of each cache, or of each sink, by its name.
type NamedParts = Vec<(String, Merged)>;

/// How a configuration is read.
#[derive(Clone, Copy)]
enum Reading {
    /// For a daemon, or a command that connects.
    Whole,
    /// For a command that connects to nothing.
    Unconnected,
}

impl Config {
    /// Reads the file and the environment; every mistake in both is reported, not only the first.
    pub fn load(path: &Path, env: impl Iterator<Item = impl Into<Given>>) -> Result<Config, Mistakes> {
        Config::read(layers::read(path)?, path.parent().unwrap_or(Path::new("")), env, Reading::Whole)
    }

    /// The same for a command that connects to nothing: the addresses may be missing, and then mean nothing.
    pub fn load_unconnected(path: &Path, env: impl Iterator<Item = impl Into<Given>>) -> Result<Config, Mistakes> {
        Config::read(layers::read(path)?, path.parent().unwrap_or(Path::new("")), env, Reading::Unconnected)
    }

    /// The same, from a text that stands in no file yet and names no other.
    pub fn of_text(name: &str, text: &str, env: impl Iterator<Item = impl Into<Given>>) -> Result<Config, Mistakes> {
        let file = SourceFile { name: name.to_owned(), text: text.to_owned() };
        Config::read(Rc::new(file), Path::new(""), env, Reading::Whole)
    }

    /// The same, from a text that is already read; `directory` is where `rules_file` is looked for.
    fn read(
        file: Rc<SourceFile>,
        directory: &Path,
        env: impl Iterator<Item = impl Into<Given>>,
        reading: Reading,
    ) -> Result<Config, Mistakes> {
        let mut mistakes = Mistakes::default();
        let Some(table) = layers::parse(&file, &mut mistakes) else { return Err(mistakes) };
        let env: Environment = env.collect();
        let from_file = layers::file(&file, &table, &mut mistakes);
        let (names, sinks): (Vec<&str>, Vec<&str>) = (from_file.names().collect(), from_file.sinks().collect());
        let (below, above) = environment::layers(&env, (&names, &sinks), &mut mistakes);
        let defaults = match reading {
            Reading::Unconnected => LayerValues::defaults().with_no_addresses(),
            Reading::Whole => LayerValues::defaults(),
        };
        let main_is_named = from_file.names().any(|name| name == MAIN) && !table.contains_key("cache");
        let mut layers = Layers { defaults, below, file: from_file, above, main_is_named };
        layers.of_applications(&env, &mut mistakes);
        let (merged, caches, sinks) = (Merged::merge(None, layers.of(None)), layers.merged(), layers.sinks());
        for part in std::iter::once(&merged).chain(caches.iter().map(|(_, cache)| cache)) {
            part.require_urls(&mut mistakes);
            part.look_elsewhere(&env, &mut mistakes);
        }
        merged.contradictions(&mut mistakes);
        caches.iter().for_each(|(_, cache)| caches::contradictions(cache, &mut mistakes));
        let protect = rules_file::common(&caches, "cache.protect").into_iter();
        let protect: Vec<Vec<u8>> = protect.map(String::into_bytes).collect();
        // Without the environment nobody knows every name.
        let is_known = !matches!(reading, Reading::Unconnected);
        let names = rules_file::names(&caches, &sinks);
        sinks.iter().for_each(|(name, sink)| sinks::contradictions(name, sink, &names.caches, &mut mistakes));
        let names = is_known.then_some(names);
        let (mut rules, verify) = rules_file::read_rules(&file, &table, directory, (&protect, names), &mut mistakes)?;
        rules.allow(&rules_file::united(&caches, "cache.invalidate"));
        sinks.iter().for_each(|(name, sink)| sinks::warm(name, sink, &mut rules, &mut mistakes));
        if merged.number("limits.warm_rate") == 0 {
            rules.cool();
        }
        let ttl = ttl::read(&file, &table, &mut mistakes);
        if !mistakes.is_harmless() {
            return Err(mistakes);
        }
        let config = Config::of(merged, (caches, sinks), (rules, protect, verify, ttl), mistakes);
        config.with_sinks_that_have_tags().with_budgets_that_can_be_kept()
    }

    /// What the operator should know of the sinks, and of tags that nobody takes.
    fn with_sinks_that_have_tags(mut self) -> Self {
        for sink in &self.sinks {
            sinks::warnings(sink, &self.caches, &mut self.warnings);
            if self.rules.seen_by_sink(&sink.name).families().next().is_none() {
                let message = format!("no rule has tags for the sink \"{}\"", sink.name);
                self.warnings.warning(
                    Place::Nowhere,
                    message,
                    "write tags = [\"property:{id}\"] and tags_all into a rule",
                );
            }
        }
        if self.sinks.is_empty() && !self.rules.coarse_tags().is_empty() {
            let note = "write [sinks.NAME], or remove tags and tags_all from the rules";
            self.warnings.warning(Place::Nowhere, "the rules have tags, and there is no sink that takes them", note);
        }
        self
    }

    /// A budget that the heartbeat and the verifier eat is a mistake.
    fn with_budgets_that_can_be_kept(mut self) -> Result<Config, Mistakes> {
        for cache in &self.caches {
            let Err(small) = cache.budget() else { continue };
            let TooSmall { marks, verifier, least, shortest } = small;
            let (section, budget) = (&cache.section, cache.budget.unwrap_or_default());
            let mut message = format!(
                "{section}.budget: {budget} commands a month are too few: with a heartbeat of {} the marks alone may cost {marks}",
                shown(cache.heartbeat)
            );
            let other = match verifier {
                0 => format!("heartbeat = \"{}\" or longer", shown(shortest)),
                _ => {
                    message += &format!("; what [[verify]] looks at, up to {verifier}");
                    "a smaller per_minute in [[verify]]".to_owned()
                }
            };
            let note = format!(
                "allow at least {least} commands, or write {other}; budget = \"none\" on a plan that does not bill"
            );
            self.warnings.error(Place::Nowhere, message, &note);
        }
        if self.warnings.is_harmless() { Ok(self) } else { Err(self.warnings) }
    }

    /// Every value in its place.
    fn of(
        merged: Merged,
        (mut of_caches, mut of_sinks): (NamedParts, NamedParts),
        (rules, protect, verify, ttl): (Rules, Vec<Vec<u8>>, Vec<Verification>, Vec<TtlLimit>),
        warnings: Mistakes,
    ) -> Config {
        let (verifier, slot) = (commands_a_minute(&verify), merged.text("postgres.slot"));
        let mut caches: Vec<CacheConfig> =
            of_caches.iter_mut().map(|(name, merged)| caches::config(name.clone(), merged, &slot)).collect();
        caches.iter_mut().filter(|cache| cache.is_billed()).for_each(|cache| cache.verifier = verifier);
        let required: Vec<String> =
            caches.iter().filter(|cache| cache.required).map(|cache| cache.name.clone()).collect();
        let sinks = of_sinks.iter_mut().map(|(name, merged)| sinks::config(name.clone(), merged, &required)).collect();
        let admin = merged.get("admin.listen").map(|value| match value {
            Checked::Socket(address) => *address,
            other => unfit("admin.listen", Some(other)),
        });
        let shown: Vec<Effective> = verify.iter().zip(1..).map(verify::effective).collect();
        Config {
            postgres: Postgres {
                url: merged.secret("postgres.url"),
                mode: if merged.text("postgres.mode") == "outbox" { Mode::Outbox } else { Mode::Replication },
                slot: merged.text("postgres.slot"),
                publication: merged.text("postgres.publication"),
                replicas: merged.secrets("postgres.replicas"),
                standby: merged.flag("postgres.standby"),
                connect_timeout: merged.duration("postgres.connect_timeout"),
                liveness_timeout: merged.duration("postgres.liveness_timeout"),
                lookup_timeout: merged.duration("postgres.lookup_timeout"),
            },
            caches,
            sinks,
            protect,
            limits: Limits {
                memory_bytes_max: merged.number("limits.memory_bytes_max"),
                batch_keys_max: merged.number("limits.batch_keys_max").try_into().unwrap_or(usize::MAX),
                stop_timeout: merged.duration("limits.stop_timeout"),
                warm_rate: merged.number("limits.warm_rate"),
                warm_timeout: merged.duration("limits.warm_timeout"),
            },
            admin,
            shows_changes: merged.flag("admin.changes"),
            admin_hosts: merged.texts("admin.hosts"),
            log: LogConfig {
                level: merged.text("log.level"),
                format: if merged.text("log.format") == "json" { LogFormat::Json } else { LogFormat::Text },
            },
            control: merged.path("control.socket"),
            ttl,
            rules,
            verify,
            warnings,
            effective: std::iter::once(&merged)
                .chain(of_caches.iter().chain(&of_sinks).map(|(_, named)| named))
                .flat_map(effective)
                .chain(shown)
                .collect(),
        }
    }

    /// Every key with its value and origin, secrets redacted, for the first log line.
    pub fn effective(&self) -> impl Iterator<Item = Effective> {
        self.effective.clone().into_iter()
    }
}

/// The settings of a part, as they are shown.
fn effective(merged: &Merged) -> Vec<Effective> {
    let shown = |(key, setting): &(&'static reference::ConfigKey, Option<merged::Setting>)| {
        let (_, text, origin) = setting.as_ref()?;
        Some((merged.shown(key), text.clone(), origin.clone()))
    };
    merged.settings.iter().filter_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Exit;
    use crate::secret::Secret;

    const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['k']\n";

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let file = Rc::new(SourceFile { name: "crieur.toml".to_owned(), text: text.to_owned() });
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(file, Path::new(""), env, Reading::Whole).map_err(|mistakes| mistakes.to_string())
    }

    const URLS: [(&str, &str); 2] = [("DATABASE_URL", "postgres://u:hunter2@a/d"), ("REDIS_URL", "redis://:hunter2@b")];

    #[test]
    fn where_commands_are_billed_the_mark_is_seldom_unless_it_is_written_otherwise() {
        let upstash = [URLS[0], ("REDIS_URL", "rediss://default:t@x.upstash.io:6379")];
        let own = format!("[cache]\nheartbeat = '5s'\n{RULES}");
        let told = format!("[cache]\nmetered = 'no'\n{RULES}");
        let yes = format!("[cache]\nmetered = 'yes'\n{RULES}");
        for (text, env, metering, seconds) in [
            (RULES, URLS, Metering::None, (2, 15)),
            (RULES, upstash, Metering::ByCommand, (60, 300)),
            (own.as_str(), upstash, Metering::ByCommand, (5, 300)),
            (told.as_str(), upstash, Metering::None, (2, 15)),
            (yes.as_str(), URLS, Metering::ByCommand, (60, 300)),
        ] {
            let config = load(text, &env).expect("valid");
            let cache = &config.caches[0];
            assert_eq!(cache.metering, metering, "{text}");
            assert_eq!((cache.heartbeat.as_secs(), cache.connection_age_max.as_secs()), seconds, "{text}");
            let shown = config.effective().find(|(name, ..)| name == "cache.heartbeat").expect("each key is shown").1;
            assert_eq!(crate::amount::duration(&shown), Some(cache.heartbeat), "{text}");
        }
    }

    #[test]
    fn the_later_layer_wins() {
        let own = ("CRIEUR__POSTGRES__URL", "postgres://own");
        let file = format!("[postgres]\nurl = 'postgres://file'\n{RULES}");
        let cases = [
            (RULES, URLS.to_vec(), "postgres://u:hunter2@a/d"),
            (file.as_str(), URLS.to_vec(), "postgres://file"),
            (file.as_str(), [URLS.as_slice(), &[own]].concat(), "postgres://own"),
        ];
        for (text, env, expected) in cases {
            let config = load(text, &env).expect("valid");
            assert_eq!(config.postgres.url.expose(), expected);
        }
    }

    #[test]
    fn rules_alone_and_the_environment_are_a_configuration() {
        let env = [
            ("CRIEUR__POSTGRES__URL", "postgres://a"),
            ("CRIEUR__POSTGRES__SLOT", "bench"),
            ("CRIEUR__CACHE__URL", "redis://b"),
            ("CRIEUR__CACHE__PROTECT", "lock:*, session:*"),
            ("CRIEUR__CACHE__ECHO", "1s,2s"),
        ];
        let replicas = "postgres.replicas = [\"postgres://a/d\", \"postgres://b,c/d\"]";
        let text = format!("{replicas}\n[cache]\necho = []\non_gap = \"warn\"\n{RULES}");
        let config = load(&text, &env).expect("valid");
        assert_eq!(config.postgres.slot, "bench");
        assert_eq!(config.caches[0].protect, [b"lock:*".to_vec(), b"session:*".to_vec()]);
        assert_eq!(config.caches[0].echo, [Duration::from_secs(1), Duration::from_secs(2)]);
        let replicas = config.postgres.replicas.iter().map(Secret::expose).collect::<Vec<_>>();
        assert_eq!(replicas, ["postgres://a/d", "postgres://b,c/d"]);
        assert_eq!(config.caches[0].on_gap, OnGap::Warn);
        assert!(load(&text, &env[..3]).expect("valid").caches[0].echo.is_empty());
        assert_eq!(config.limits.memory_bytes_max, 64 << 20);
    }

    #[test]
    fn every_effective_setting_names_its_origin_and_no_secret() {
        let config = load(&format!("[postgres]\nslot = 'mine'\n{RULES}"), &URLS).expect("valid");
        let shown: Vec<String> =
            config.effective().map(|(key, value, origin)| format!("{key}={value} ({origin})")).collect();
        for line in [
            "postgres.url=postgres://[redacted]@a/d (DATABASE_URL)",
            "cache.url=redis://[redacted]@b (REDIS_URL)",
            "postgres.slot=mine (crieur.toml:2)",
            "cache.echo=250ms,2s,30s (default)",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:?}");
        }
        assert!(!format!("{shown:?} {config:?}").contains("hunter2"));
    }

    /// The whole report, letter by letter.
    #[test]
    fn mistakes_are_shown_like_a_compilers() {
        let url = URLS.to_vec();
        type Environment<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(&str, Environment<'_>, &str)] = &[
            (
                "[postgres]\nslott = \"x\"\n",
                &url,
                "error: unknown key \"slott\" in [postgres]\n --> crieur.toml:2:1\n  |\n\
                 2 | slott = \"x\"\n  | ^^^^^ did you mean \
                 \"slot\"? allowed here: url, mode, slot, publication, replicas, standby, \
                 connect_timeout, liveness_timeout, lookup_timeout\n",
            ),
            (
                "[metrics]\nport = 1\n",
                &url,
                "error: unknown key \"metrics\"\n --> crieur.toml:1:2\n  |\n\
                 1 | [metrics]\n  |  ^^^^^^^ it is not in this version: remove it\n",
            ),
            (
                "[postgres]\nmode = \"trigger\"\n",
                &url,
                "error: postgres.mode must be one of: replication, outbox\n --> crieur.toml:2:8\n  |\n\
                 2 | mode = \"trigger\"\n  |        ^^^^^^^^^",
            ),
            (
                "",
                &[("CRIEUR__CACHE__ONGAP", "x"), URLS[0], URLS[1], ("CRIEUR__POSTGRES__SLOT", "A")],
                "error: unknown environment variable CRIEUR__CACHE__ONGAP\n --> environment variable CRIEUR__CACHE__ONGAP\n  \
                 = did \
                 you mean \"CRIEUR__CACHE__ON_GAP\"? allowed here: ",
            ),
            (
                "",
                &[],
                "error: postgres.url is missing\n  \
                 = write url = \"…\" under [postgres], or set CRIEUR__POSTGRES__URL, or \
                 DATABASE_URL\n\n\
                 error: cache.url is missing\n  = write url = \"…\" under [cache], or set CRIEUR__CACHE__URL, \
                 or REDIS_URL\n",
            ),
            (
                "[postgres]\nurl = 5\nslot = \"A\"\n[cache]\necho = [\"2s\", \"1s\"]\n",
                &url,
                "error: postgres.url must be a text that is not empty\n --> crieur.toml:2:7\n  |\n\
                 2 | url = [redacted]\n",
            ),
        ];
        for (text, env, expected) in cases {
            let shown =
                load(&format!("{text}{RULES}"), env).map(|_| "no mistake".to_owned()).unwrap_or_else(|shown| shown);
            assert!(shown.starts_with(expected), "{text}\n{shown}\n--- expected\n{expected}");
            assert!(!shown.contains("hunter2"));
        }
        let all = load(&format!("{}{RULES}", cases[5].0), &url).expect_err("three mistakes");
        assert_eq!(all.matches("error: ").count(), 3, "{all}");
    }

    #[test]
    fn what_is_no_toml_and_what_holds_no_rules_is_said_once() {
        let wrong = |rule: &str| format!("{RULES}[[rules]]\ntable = 5\n{rule}\n");
        let quote = wrong("keys = [\"k:{x or \"none\"}\"]");
        for (text, place, note) in [
            ("a = [", "file is not valid TOML\n --> crieur.toml:1:6\n", "array"),
            (&quote, "file is not valid TOML\n --> crieur.toml:6:19\n", "write {x or 'none'}, or use a '…' string"),
            (
                &wrong("when = [\"t\", \"u\"\nkeys = [\"k\"]"),
                "file is not valid TOML\n --> crieur.toml:7:1\n",
                "or the ] of an array above is missing",
            ),
            ("", "there are no rules\n --> crieur.toml\n", "add [[rules]] here, or rules_file"),
        ] {
            let shown = load(text, &URLS).map(|_| ()).expect_err("a mistake");
            assert!(shown.starts_with(&format!("error: {place}")) && shown.contains(note), "{shown}");
            assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_of_rules_is_said_of_that_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("crieur.toml");
        let main = "rules_file = 'more.toml'\n[[rules]]\ntable = 't'\nwhen = '@free'\nkeys = ['k']\n";
        let none = main.split_inclusive('\n').next().expect("a line");
        for (main, more, expected) in [
            (main, &b"[conditions]\nfree = \"a"[..], "file is not valid TOML\n --> DIR/more.toml:2:"),
            (main, b"[conditions]\n# \xe9t\xe9\nfree = 'a'", "file is not UTF-8\n --> DIR/more.toml:2:3\n"),
            (none, b"", "there are no rules\n --> DIR/more.toml\n  = add [[rules]] here\n"),
            (none, b"\xff", "file is not UTF-8\n --> DIR/more.toml:1:1\n"),
        ] {
            std::fs::write(directory.path().join("more.toml"), more).expect("written");
            std::fs::write(&path, main).expect("written");
            let shown = rules_of_file(&path).map(|_| ()).expect_err("a mistake").to_string();
            let expected = expected.replace("DIR", &directory.path().display().to_string());
            assert!(shown.starts_with(&format!("error: {expected}")), "{shown}\n--- expected\n{expected}");
        }
        std::fs::write(&path, b"\n[postgres] # caf\xe9\n").expect("written");
        let mistakes = rules_of_file(&path).map(|_| ()).expect_err("a mistake");
        assert_eq!(mistakes.exit(), Exit::Config);
        assert!(mistakes.to_string().contains("crieur.toml:2:17\n"), "{mistakes}");
        let directory = rules_of_file(directory.path()).map(|_| ()).expect_err("a directory is no file");
        assert_eq!(directory.exit(), Exit::NoInput);
        assert!(directory.to_string().ends_with("= it must be a file with text\n"), "{directory}");
    }

    #[test]
    fn rules_may_stand_in_a_file_of_their_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("crieur.toml");
        std::fs::write(directory.path().join("more.toml"), "[[rules]]\ntable = 'u'\nkeys = ['m']\n").expect("written");
        std::fs::write(&path, format!("rules_file = 'more.toml'\n{RULES}")).expect("written");
        let env = || URLS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(&path, env()).expect("valid");
        assert!(config.rules.concerns("public", "t") && config.rules.concerns("public", "u"));
        std::fs::write(&path, "rules_file = 'absent.toml'\n").expect("written");
        assert_eq!(Config::load(&path, env()).expect_err("absent").exit(), crate::error::Exit::Config);
        std::fs::write(&path, RULES).expect("written");
        let none = std::iter::empty::<Given>;
        assert!(Config::load(&path, none()).is_err(), "the addresses are missing");
        Config::load_unconnected(&path, none()).expect("nobody connects");
        let missing = Config::load(&directory.path().join("none.toml"), env()).expect_err("missing");
        assert_eq!(missing.exit(), crate::error::Exit::NoInput);
    }
}
