//! The environment: variables of ours, those of other programs that crieur reads, and those that it does not read though
//! somebody may think so.
//!
//! A name that can only be a slip of the pen stops the start: `CRIEUR_CACHE_PROTECT` would leave keys unprotected. Other
//! names under `CRIEUR_` are left alone: Kubernetes makes `CRIEUR_PORT` and `CRIEUR_SERVICE_HOST` for a service `crieur`.

use std::collections::BTreeMap;

use strsim::osa_distance;

use crate::config::layers::Layer;
use crate::config::named::{self, MAIN, Section};
use crate::config::reference::{ConfigKey, LEVELS, reference};
use crate::mistake::{Mistakes, Place, suggestion};
use crate::postgres::dsn::Dsn;

/// The level of the log of one run: it wins over `log.level`.
pub const LOG: &str = "CRIEUR_LOG";

/// The address of an Upstash database, and its token: what Upstash and Vercel put into an application's environment.
pub(super) const UPSTASH: [&str; 2] = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];

/// Variables of test builds (`failpoints.rs`).
const OF_TESTS: [&str; 3] = ["CRIEUR_CRASH_AT", "CRIEUR_WITHOUT", "CRIEUR_SOONER"];

/// The level that a text names.
pub fn level(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let named = |(index, level): &(usize, &&str)| level.eq_ignore_ascii_case(text) || index.to_string() == text;
    LEVELS.iter().enumerate().find(named).map(|(_, level)| *level)
}

/// A value that the surroundings of the process give, by the name of its variable.
#[derive(Clone)]
pub struct Given {
    /// The variable.
    pub name: String,
    /// Its value, which may be a secret.
    pub value: String,
    /// Where the value was written: the variable itself, or a credential's file.
    pub place: Place,
}

impl From<(String, String)> for Given {
    /// A variable that is set.
    fn from((name, value): (String, String)) -> Self {
        Given { place: Place::Variable(name.clone()), name, value }
    }
}

impl std::fmt::Debug for Given {
    /// Without the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.place)
    }
}

/// All that is given.
#[derive(Debug, Default)]
pub(super) struct Environment(BTreeMap<String, Given>);

impl Environment {
    /// A value that is not blank: an application may export the name empty to say "none".
    pub(super) fn given(&self, name: &str) -> Option<&Given> {
        self.0.get(name).filter(|given| !given.value.trim().is_empty())
    }
}

impl<G: Into<Given>> FromIterator<G> for Environment {
    fn from_iter<I: IntoIterator<Item = G>>(all: I) -> Self {
        Environment(all.into_iter().map(Into::into).map(|given| (given.name.clone(), given)).collect())
    }
}

/// Whether a variable must be readable text: one of ours, or one that an application may have for us.
pub fn concerns_us(name: &str) -> bool {
    name.to_ascii_uppercase().starts_with("CRIEUR_") || is_of_applications(name)
}

/// Whether it is a name that an application may have for us.
pub(super) fn is_of_applications(name: &str) -> bool {
    reference().iter().any(|key| key.also == Some(name)) || UPSTASH.contains(&name)
}

/// The two layers of the environment: below the file, above the file, whose caches and sinks have these names.
pub(super) fn layers(
    environment: &Environment,
    (caches, sinks): (&[&str], &[&str]),
    mistakes: &mut Mistakes,
) -> (Layer, Layer) {
    let (mut below, mut above) = (Layer::default(), Layer::default());
    for Given { name, value, place } in environment.0.values() {
        let place = place.clone();
        if let Some(key) = reference().iter().find(|key| key.also == Some(name)) {
            if environment.given(name).is_some() {
                below.set(&Section::written(key.split().0), key, value.as_str(), place, mistakes);
            }
        } else if let Some(key) = reference().iter().find(|key| key.variable() == *name && !key.is_of_a_sink()) {
            let section = Section::written(key.split().0);
            if let Some(twin) = twin(environment, name, key, &section) {
                let message = format!("{name} and {twin} are two names of one setting");
                mistakes.error(place, message, format!("set one of the two: [cache] is the cache named {MAIN}"));
                continue;
            }
            above.set(&section, key, value.as_str(), place, mistakes);
        } else if let Some(of_a_cache) = name.strip_prefix(named::VARIABLES) {
            named(of_a_cache, (caches, CACHE), &mut above, (name, value, place), mistakes);
        } else if let Some(of_a_sink) = name.strip_prefix(named::SINK_VARIABLES) {
            named(of_a_sink, (sinks, SINK), &mut above, (name, value, place), mistakes);
        } else if UPSTASH.contains(&name.as_str()) {
            // Whether they make a cache depends on what else there is: see `caches.rs`.
        } else if name == LOG {
            if !value.trim().is_empty() && level(value).is_none() {
                let allowed = format!("{LOG} must be one of: {}", LEVELS.join(", "));
                mistakes.error(place, allowed, "how much the log holds; default: info");
            }
        } else if let Some(note) = slip(name) {
            mistakes.error(place, format!("unknown environment variable {name}"), note);
        }
    }
    (below, above)
}

/// The variable of the same setting of the cache named `main`.
fn twin(environment: &Environment, name: &str, key: &ConfigKey, section: &Section) -> Option<String> {
    let twin = Section::of_cache(section.cache()?).variable(key);
    (twin != name && environment.0.contains_key(&twin)).then_some(twin)
}

/// What variables name: the word, the section of a name, and what stands before the names.
type Naming = (&'static str, fn(&str) -> Section, &'static str);

const CACHE: Naming = ("cache", Section::of_cache, named::VARIABLES);
const SINK: Naming = ("sink", Section::of_sink, named::SINK_VARIABLES);

/// Takes `CRIEUR__CACHES__NAME__KEY`, of which `rest` is `NAME__KEY`, or the same of a sink.
fn named(
    rest: &str,
    (in_file, (what, section, before)): (&[&str], Naming),
    above: &mut Layer,
    (variable, value, place): (&str, &str, Place),
    mistakes: &mut Mistakes,
) {
    let unknown = |mistakes: &mut Mistakes, place, note| {
        mistakes.error(place, format!("unknown environment variable {variable}"), note);
    };
    let Some((name, key_name)) = rest.rsplit_once("__") else {
        return unknown(mistakes, place, format!("write {before}NAME__URL with the name of a {what}"));
    };
    // A variable has no lower case and no hyphen: the file says how the name is written.
    let in_file = in_file.iter().find(|written| named::in_variables(written) == name);
    let name = in_file.map_or_else(|| name.to_ascii_lowercase(), |written| (*written).to_owned());
    let section = section(&name);
    let keys = || reference().iter().filter(|key| section.has(key));
    if let Some(wrong) = named::wrong(&name) {
        return unknown(
            mistakes,
            place,
            format!("\"{name}\" is not the name of a {what}: {wrong}; {}", named::form(what)),
        );
    }
    let Some(key) = keys().find(|key| key.split().1.eq_ignore_ascii_case(key_name)) else {
        let known: Vec<String> = keys().map(|key| section.variable(key)).collect();
        return unknown(mistakes, place, suggestion(variable, known.iter().map(String::as_str)));
    };
    if variable != section.variable(key) {
        return unknown(mistakes, place, format!("did you mean \"{}\"?", section.variable(key)));
    }
    above.set(&section, key, value, place, mistakes);
}

/// What was meant by a variable that is not ours, but written as if.
fn slip(name: &str) -> Option<String> {
    let known = reference().iter().filter(|key| !key.is_of_a_sink()).map(ConfigKey::variable);
    let known: Vec<String> = known.chain([LOG.to_owned()]).collect();
    if name.starts_with("CRIEUR__") {
        return Some(suggestion(name, known.iter().map(String::as_str)));
    }
    let squeezed = squeezed(name);
    if !squeezed.starts_with("CRIEUR_") || OF_TESTS.contains(&name) {
        return None;
    }
    for (_, section, before) in [CACHE, SINK] {
        let rest = squeezed.strip_prefix(&before.replace("__", "_"));
        if let Some((name, key)) = rest.and_then(|rest| of_a_section(rest, &section(MAIN))) {
            return Some(format!("did you mean \"{before}{name}__{key}\"? {PARTED}"));
        }
    }
    let meant = known.iter().find(|known| osa_distance(&squeezed, &self::squeezed(known)) <= 2)?;
    Some(format!("did you mean \"{meant}\"? {PARTED}"))
}

/// How the parts of our variables are told from each other.
const PARTED: &str = "sections, names and keys are parted by two underscores";

/// The name and the key of `DAKAR_TLS_CA`, if it ends in a key of such a section.
fn of_a_section<'r>(rest: &'r str, section: &Section) -> Option<(&'r str, String)> {
    let keys = reference().iter().filter(|key| section.has(key)).map(|key| key.split().1.to_ascii_uppercase());
    let named = |key: String| Some((rest.strip_suffix(&key)?.strip_suffix('_')?, key));
    keys.filter_map(named).filter(|(name, _)| !name.is_empty()).min_by_key(|(name, _)| name.len())
}

/// The name in upper case, each run of underscores as one.
fn squeezed(name: &str) -> String {
    let mut squeezed = name.to_ascii_uppercase();
    while squeezed.contains("__") {
        squeezed = squeezed.replace("__", "_");
    }
    squeezed
}

/// Addresses that stand where crieur does not look; said when `missing` (a key's name) is nowhere else.
pub(super) fn elsewhere(environment: &Environment, missing: &ConfigKey, mistakes: &mut Mistakes) {
    let (schemes, others): (&[&str], &[&str]) = match missing.name {
        "cache.url" => (&["redis://", "rediss://", "valkey://", "valkeys://"], &["KV_REST_API_URL"]),
        _ => (&["postgres://", "postgresql://"], &["PGHOST", "PGHOSTADDR", "PGSERVICE"]),
    };
    let read = missing.also.unwrap_or_default();
    let others_given = environment.0.values().filter(|given| given.name != read && !given.value.is_empty());
    for Given { name, value, place } in others_given {
        let place = place.clone();
        if schemes.iter().any(|scheme| value.starts_with(scheme)) {
            let (name, read) = match &place {
                Place::Variable(_) => (name.clone(), read.to_owned()),
                place => (format!("credential \"{place}\""), format!("credential \"{}\"", read.to_ascii_lowercase())),
            };
            let message = format!("{name} looks like an address for {}", missing.name);
            mistakes.warning(place, message, format!("crieur reads {read}"));
        } else if others.contains(&name.as_str()) {
            let note = match missing.name {
                "cache.url" => "crieur reads UPSTASH_REDIS_REST_URL with UPSTASH_REDIS_REST_TOKEN",
                _ => "crieur reads none of libpq's variables: write postgres://user:password@host:port/database",
            };
            mistakes.warning(place, format!("{name} does not say {}", missing.name), note);
        }
    }
}

/// Variables of libpq that a program with libpq would take to complete the address; crieur takes the address as it is.
pub(super) fn unread(environment: &Environment, address: &str, mistakes: &mut Mistakes) {
    let Ok(dsn) = Dsn::parse(address) else { return };
    let config = &dsn.config;
    let says = |parameter: &str| address.contains(&format!("{parameter}="));
    let lacking = [
        ("PGHOST", "host", config.get_hosts().is_empty() && config.get_hostaddrs().is_empty()),
        ("PGHOSTADDR", "hostaddr", config.get_hostaddrs().is_empty()),
        ("PGPORT", "port", config.get_ports().is_empty()),
        ("PGUSER", "user", config.get_user().is_none()),
        ("PGPASSWORD", "password", config.get_password().is_none()),
        ("PGPASSFILE", "password", config.get_password().is_none()),
        ("PGDATABASE", "dbname", config.get_dbname().is_none()),
        ("PGOPTIONS", "options", config.get_options().is_none()),
        ("PGSSLMODE", "sslmode", !says("sslmode")),
        ("PGSSLROOTCERT", "sslrootcert", !says("sslrootcert")),
        ("PGSSLCERT", "sslcert", !says("sslcert")),
        ("PGSSLKEY", "sslkey", !says("sslkey")),
        ("PGTARGETSESSIONATTRS", "target_session_attrs", !says("target_session_attrs")),
        ("PGSERVICE", "service", true),
    ];
    for (name, parameter, is_lacking) in lacking {
        if is_lacking && environment.0.get(name).is_some_and(|given| !given.value.is_empty()) {
            let message = format!("{name} is not read, and the address of PostgreSQL says no {parameter}");
            mistakes.warning(Place::Variable(name.to_owned()), message, "write into the address what crieur shall use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> Environment {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_slip_of_the_pen_stops_the_start_and_the_names_of_kubernetes_do_not() {
        for (name, value, meant) in [
            ("CRIEUR_CACHE_TIMEOUT", "2s", Some("CRIEUR__CACHE__TIMEOUT")),
            ("CRIEUR_CACHE__PROTECT", "a", Some("CRIEUR__CACHE__PROTECT")),
            ("crieur__cache__on_gap", "warn", Some("CRIEUR__CACHE__ON_GAP")),
            ("CRIEUR_POSTGRES_SLOTS", "a", Some("CRIEUR__POSTGRES__SLOT")),
            ("CRIEUR_CACHES_DAKAR_TLS_CA", "a", Some("CRIEUR__CACHES__DAKAR__TLS_CA")),
            ("CRIEUR__CACHES__DAKAR__URLS", "a", Some("did you mean \"CRIEUR__CACHES__DAKAR__URL\"?")),
            ("CRIEUR__CACHES__DAKAR", "a", Some("CRIEUR__CACHES__NAME__URL")),
            ("CRIEUR__CACHES__DAKAR__URL", "redis://a", None),
            ("CRIEUR__SINKS__SITE__URL", "https://a", None),
            ("CRIEUR__SINKS__SITE__SECRETS", "a", Some("did you mean \"CRIEUR__SINKS__SITE__SECRET\"?")),
            ("CRIEUR_SINKS_SITE_TLS_CA", "a", Some("CRIEUR__SINKS__SITE__TLS_CA")),
            ("CRIEUR_CACHES_SERVICE_HOST", "10.0.0.1", None),
            ("CRIEUR__LOG", "info", Some("CRIEUR_LOG")),
            ("CRIEUR_LOGS", "info", Some("CRIEUR_LOG")),
            ("CRIEUR_LOG", "verbose", Some("one of: off, error, warn, info, debug, trace")),
            ("CRIEUR_LOG", "crieur=debug", Some("CRIEUR_LOG must be")),
            ("CRIEUR_LOG", "DEBUG", None),
            ("CRIEUR_LOG", "3", None),
            ("CRIEUR_LOG", "", None),
            ("CRIEUR_CRASH_AT", "swept", None),
            ("CRIEUR_PORT", "tcp://10.0.0.1:9186", None),
            ("CRIEUR_SERVICE_HOST", "10.0.0.1", None),
            ("CRIEUR_CACHE_SERVICE_PORT", "6379", None),
            ("CRIEUR", "/usr/bin/crieur", None),
        ] {
            let mut mistakes = Mistakes::default();
            layers(&variables(&[(name, value)]), (&[], &[]), &mut mistakes);
            let said = mistakes.to_string();
            match meant {
                Some(words) => assert!(said.contains(words) && said.contains(name), "{name}={value}: {said}"),
                None => assert_eq!(said, "", "{name}={value}"),
            }
        }
    }

    #[test]
    fn an_address_that_stands_elsewhere_is_pointed_at_and_not_shown() {
        let key = |name: &str| reference().iter().find(|key| key.name == name).expect("a key");
        let there = variables(&[
            ("KV_URL", "rediss://:hunter2@h"),
            ("PGHOST", "hunter2"),
            ("POSTGRES_URL", "postgres://u:hunter2@h"),
            ("KV_REST_API_URL", "https://hunter2.upstash.io"),
        ]);
        for (missing, names) in
            [("cache.url", ["KV_URL", "KV_REST_API_URL"]), ("postgres.url", ["PGHOST", "POSTGRES_URL"])]
        {
            let mut mistakes = Mistakes::default();
            elsewhere(&there, key(missing), &mut mistakes);
            let said = mistakes.to_string();
            assert!(mistakes.is_harmless() && said.matches("warning: ").count() == 2, "{said}");
            assert!(names.iter().all(|name| said.contains(name)) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn variables_of_libpq_are_told_where_libpq_would_take_them() {
        let all = variables(&[("PGHOST", "h"), ("PGPASSWORD", "hunter2"), ("PGSSLMODE", "require"), ("PGUSER", "")]);
        for (address, expected) in [
            ("postgres://u:p@h/d?sslmode=disable", &[][..]),
            ("postgres://u:p@h/d", &["PGSSLMODE"]),
            ("postgres://u@h/d?sslmode=require", &["PGPASSWORD"]),
            ("postgres:///d", &["PGHOST", "PGPASSWORD", "PGSSLMODE"]),
            ("dbname=d host=h password=p", &["PGSSLMODE"]),
        ] {
            let mut mistakes = Mistakes::default();
            unread(&all, address, &mut mistakes);
            let said = mistakes.to_string();
            assert_eq!(said.matches("warning: ").count(), expected.len(), "{address}: {said}");
            assert!(expected.iter().all(|name| said.contains(&format!("{name} is not read"))), "{address}: {said}");
            assert!(!said.contains("hunter2"));
        }
    }
}
