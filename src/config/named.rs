//! Sections and the names of caches: what may be written, and what it is called. Pure.
//!
//! The table of keys has one section `cache`; its keys stand in `[cache]`, which is the cache named `main`, and in each
//! `[caches.NAME]`. Those of its section `sink` stand in each `[sinks.NAME]`.

use std::fmt;

use crate::config::reference::{ConfigKey, reference};

/// The section of the table whose keys each cache has, and the section of the cache named `main`.
pub(super) const CACHE: &str = "cache";

/// What stands before the names of caches.
pub(super) const CACHES: &str = "caches";

/// The section of the table whose keys each sink has.
const SINK: &str = "sink";

/// What stands before the names of sinks.
pub(super) const SINKS: &str = "sinks";

/// The beginning of the variables of sinks.
pub(super) const SINK_VARIABLES: &str = "CRIEUR__SINKS__";

/// The name of the cache of `[cache]` and `REDIS_URL`.
pub const MAIN: &str = "main";

/// The name of the cache that the variables of Upstash make.
pub const UPSTASH: &str = "upstash";

/// Bytes of a name: it stands in variables, metrics and lines of the log.
const NAME_BYTES_MAX: usize = 40;

/// The beginning of the variables of named caches.
pub(super) const VARIABLES: &str = "CRIEUR__CACHES__";

/// What the name of a `cache` or a `sink` must be, with an example.
pub(super) fn form(thing: &str) -> String {
    let example = if thing == SINK { "sinks.site" } else { "caches.dakar" };
    format!("a name has 1 to 40 letters from a to z, digits, _ and -: [{example}]")
}

/// The name that this one is but for upper and lower case, of those that other parts of the configuration give a cache. In
/// metrics and variables nobody would tell them apart.
pub(super) fn taken(name: &str) -> Option<&'static str> {
    [MAIN, UPSTASH].into_iter().find(|taken| name.eq_ignore_ascii_case(taken) && name != *taken)
}

/// What is wrong with the name of a cache.
pub(super) fn wrong(name: &str) -> Option<&'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        Some("it is empty or longer than 40 characters")
    } else if !name.bytes().all(is_allowed) {
        Some("it has another character than letters from a to z, digits, _ and -")
    } else {
        None
    }
}

/// The name as it stands in variables, which have neither lower case nor hyphens.
pub(super) fn in_variables(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// A text that knows the keys of a cache as `cache.url`, with the keys of this section instead: `caches.dakar.url`.
pub fn in_section(section: &str, text: String) -> String {
    if section.is_empty() || section == CACHE || !text.contains("cache.") {
        return text;
    }
    let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    let is_key = |at: usize| {
        let end = text[at..]
            .find(|c: char| !c.is_ascii_lowercase() && c != '_' && c != '.')
            .map_or(text.len(), |end| at + end);
        let name = text[at..end].trim_end_matches('.');
        !is_inside(text.as_bytes()[..at].last()) && reference().iter().any(|key| key.name == name)
    };
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices("cache.").filter(|(at, _)| is_key(*at)) {
        out.push_str(&text[done..at]);
        out.push_str(section);
        done = at + CACHE.len();
    }
    out.push_str(&text[done..]);
    out
}

/// What has a section of its own, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// There is one such section.
    Daemon,
    /// A cache.
    Cache(String),
    /// A sink.
    Sink(String),
}

/// A section as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Section {
    /// `postgres`, `cache`, `caches.dakar`
    written: String,
    owner: Owner,
}

impl Section {
    /// A section of the table of keys.
    pub(super) fn written(section: &str) -> Self {
        let owner = if section == CACHE { Owner::Cache(MAIN.to_owned()) } else { Owner::Daemon };
        Section { written: section.to_owned(), owner }
    }

    /// `[caches.NAME]`
    pub(super) fn of_cache(name: &str) -> Self {
        Section { written: format!("{CACHES}.{name}"), owner: Owner::Cache(name.to_owned()) }
    }

    /// `[sinks.NAME]`
    pub(super) fn of_sink(name: &str) -> Self {
        Section { written: format!("{SINKS}.{name}"), owner: Owner::Sink(name.to_owned()) }
    }

    /// Whose section it is.
    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The name of the cache whose section it is.
    pub(super) fn cache(&self) -> Option<&str> {
        match &self.owner {
            Owner::Cache(name) => Some(name),
            Owner::Daemon | Owner::Sink(_) => None,
        }
    }

    /// Whether the key of the table stands in it.
    pub(super) fn has(&self, key: &ConfigKey) -> bool {
        match self.owner {
            Owner::Daemon => !key.is_of_a_cache() && !key.is_of_a_sink(),
            Owner::Cache(_) => key.is_of_a_cache(),
            Owner::Sink(_) => key.is_of_a_sink(),
        }
    }

    /// The section of the table that has its keys.
    pub(super) fn in_table(&self) -> &str {
        match &self.owner {
            Owner::Daemon => &self.written,
            Owner::Cache(_) => CACHE,
            Owner::Sink(_) => SINK,
        }
    }

    /// The key as it would be written with its section.
    pub(super) fn shown(&self, key: &ConfigKey) -> String {
        format!("{}.{}", self.written, key.split().1)
    }

    /// The variable of the key.
    pub(super) fn variable(&self, key: &ConfigKey) -> String {
        let named = |before: &str, name: &str| {
            format!("{before}{}__{}", in_variables(name), key.split().1.to_ascii_uppercase())
        };
        match &self.owner {
            Owner::Cache(name) if self.written != CACHE => named(VARIABLES, name),
            Owner::Sink(name) => named(SINK_VARIABLES, name),
            Owner::Cache(_) | Owner::Daemon => key.variable(),
        }
    }

    /// Whether names that an application may already have for the address mean this section.
    pub(super) fn has_names_of_applications(&self) -> bool {
        match &self.owner {
            Owner::Daemon => true,
            Owner::Cache(name) => name == MAIN,
            Owner::Sink(_) => false,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_in_a_variable_a_metric_and_a_line_of_the_log() {
        for (name, is_right) in [
            ("dakar", true),
            ("Dakar-2", true),
            ("a_b", true),
            ("7", true),
            ("", false),
            ("a b", false),
            ("dakar.sn", false),
            ("é", false),
            ("_a__b-", true),
            ("a\"b", false),
            (&"a".repeat(41), false),
        ] {
            assert_eq!(wrong(name).is_none(), is_right, "{name}");
        }
    }

    #[test]
    fn a_name_that_differs_from_a_given_one_by_case_alone_is_taken() {
        for (name, expected) in
            [("main", None), ("upstash", None), ("Main", Some("main")), ("UPSTASH", Some("upstash")), ("mains", None)]
        {
            assert_eq!(taken(name), expected, "{name}");
        }
    }

    #[test]
    fn a_text_names_the_keys_of_the_section() {
        let of = |section: &str, text: &str| in_section(section, text.to_owned());
        for (text, expected) in [
            ("correct cache.url. Write it", "correct caches.eu.url. Write it"),
            ("cache.tls_ca and cache.sentinel_tls_ca", "caches.eu.tls_ca and caches.eu.sentinel_tls_ca"),
            ("set the key `cache.url`, é", "set the key `caches.eu.url`, é"),
            ("the cache. It", "the cache. It"),
            ("a host cache.url.example or my-cache.url", "a host cache.url.example or my-cache.url"),
            ("postgres.url and cache.url", "postgres.url and caches.eu.url"),
        ] {
            assert_eq!(of("caches.eu", text), expected);
            assert_eq!((of("cache", text), of("", text)), (text.to_owned(), text.to_owned()));
        }
        assert_eq!(of("caches.cache", "cache.url or cache.url"), "caches.cache.url or caches.cache.url");
    }

    #[test]
    fn each_section_has_the_names_of_its_keys() {
        let key = crate::config::reference().iter().find(|key| key.name == "cache.tls_ca").expect("a key");
        for (section, shown, variable) in [
            (Section::written(CACHE), "cache.tls_ca", "CRIEUR__CACHE__TLS_CA"),
            (Section::of_cache("main"), "caches.main.tls_ca", "CRIEUR__CACHES__MAIN__TLS_CA"),
            (Section::of_cache("da-kar"), "caches.da-kar.tls_ca", "CRIEUR__CACHES__DA_KAR__TLS_CA"),
        ] {
            assert_eq!((section.shown(key).as_str(), section.variable(key).as_str()), (shown, variable));
            assert_eq!(section.in_table(), CACHE);
        }
        let key = crate::config::reference().iter().find(|key| key.name == "sink.tls_ca").expect("a key");
        let section = Section::of_sink("my-site");
        assert_eq!(section.shown(key), "sinks.my-site.tls_ca");
        assert_eq!((section.variable(key).as_str(), section.in_table()), ("CRIEUR__SINKS__MY_SITE__TLS_CA", SINK));
    }
}
