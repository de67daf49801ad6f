//! The environment: variables of ours, those of other programs that crieur reads, and those that it does not read though
//! somebody may think so.
//!
//! A name that can only be a slip of the pen stops the start: `CRIEUR_CACHE_PROTECT` would leave keys unprotected. Other
//! names under `CRIEUR_` are left alone: Kubernetes makes `CRIEUR_PORT` and `CRIEUR_SERVICE_HOST` for a service `crieur`.

use std::collections::BTreeMap;

use strsim::osa_distance;

use crate::config::layers::Layer;
use crate::config::reference::{ConfigKey, reference};
use crate::mistake::{Mistakes, Place, suggestion};
use crate::postgres::dsn::Dsn;

/// The level of the log.
pub const LOG: &str = "CRIEUR_LOG";

/// Levels, from the fewest lines to the most; a number from 0 means the same.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Variables of test builds (`failpoints.rs`).
const OF_TESTS: [&str; 2] = ["CRIEUR_CRASH_AT", "CRIEUR_WITHOUT"];

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

impl<G: Into<Given>> FromIterator<G> for Environment {
    fn from_iter<I: IntoIterator<Item = G>>(all: I) -> Self {
        Environment(all.into_iter().map(Into::into).map(|given| (given.name.clone(), given)).collect())
    }
}

/// Whether a variable must be readable text: one of ours, or one that an application may have for us.
pub fn concerns_us(name: &str) -> bool {
    name.to_ascii_uppercase().starts_with("CRIEUR_") || reference().iter().any(|key| key.also == Some(name))
}

/// The two layers of the environment: below the file, above the file.
pub(super) fn layers(environment: &Environment, mistakes: &mut Mistakes) -> (Layer, Layer) {
    let (mut below, mut above) = (Layer::default(), Layer::default());
    for Given { name, value, place } in environment.0.values() {
        let place = place.clone();
        if let Some(key) = reference().iter().find(|key| key.also == Some(name)) {
            // An application may export the name empty to say "none".
            if !value.trim().is_empty() {
                below.set(key, value.as_str(), place, mistakes);
            }
        } else if let Some(key) = reference().iter().find(|key| key.variable() == *name) {
            above.set(key, value.as_str(), place, mistakes);
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

/// What was meant by a variable that is not ours, but written as if.
fn slip(name: &str) -> Option<String> {
    let known: Vec<String> = reference().iter().map(ConfigKey::variable).chain([LOG.to_owned()]).collect();
    if name.starts_with("CRIEUR__") {
        return Some(suggestion(name, known.iter().map(String::as_str)));
    }
    let squeezed = squeezed(name);
    if !squeezed.starts_with("CRIEUR_") || OF_TESTS.contains(&name) {
        return None;
    }
    let meant = known.iter().find(|known| osa_distance(&squeezed, &self::squeezed(known)) <= 2)?;
    Some(format!("did you mean \"{meant}\"? sections and keys are parted by two underscores"))
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
        "cache.url" => {
            (&["redis://", "rediss://", "valkey://", "valkeys://"], &["UPSTASH_REDIS_REST_URL", "KV_REST_API_URL"])
        }
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
                "cache.url" => "it is of a REST interface; for Upstash write rediss://default:<token>@<endpoint>:6379",
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
            layers(&variables(&[(name, value)]), &mut mistakes);
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
            ("UPSTASH_REDIS_REST_URL", "https://hunter2.upstash.io"),
        ]);
        for (missing, names) in
            [("cache.url", ["KV_URL", "UPSTASH_REDIS_REST_URL"]), ("postgres.url", ["PGHOST", "POSTGRES_URL"])]
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
