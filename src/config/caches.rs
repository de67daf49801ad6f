//! The caches: which there are, and what is said of each. Pure.
//!
//! A cache is there because the file or a variable of ours names it, because `REDIS_URL` does (the cache named `main`),
//! or because the two variables of Upstash do (the cache named `upstash`). What an application's environment names makes
//! no second cache with an address that is configured already.

use std::collections::BTreeSet;

use crate::config::environment::{Environment, Given, UPSTASH as VARIABLES};
use crate::config::layers::{Layer, LayerValues};
use crate::config::merged::{Merged, unfit};
use crate::config::metered;
use crate::config::named::{MAIN, Section, UPSTASH};
use crate::config::reference::{Checked, ConfigKey, reference};
use crate::config::settings::{
    CacheConfig, Leases, OnGap, PublishConfig, ServersConfig, TlsFiles, Transport, mark_cost,
};
use crate::mistake::{Mistakes, Place};
use crate::secret::Secret;
use crate::url::{CacheForm, cache_form};

/// The layers of a configuration, the later one wins.
pub(super) struct Layers {
    pub(super) defaults: LayerValues,
    /// `DATABASE_URL`, `REDIS_URL` and their like.
    pub(super) below: Layer,
    pub(super) file: Layer,
    /// `CRIEUR__…`
    pub(super) above: Layer,
    /// The file writes the cache `main` as `[caches.main]`.
    pub(super) main_is_named: bool,
}

impl Layers {
    /// The layers of a cache, or of everything else.
    pub(super) fn of(&self, cache: Option<&str>) -> [LayerValues; 4] {
        [self.defaults.clone(), self.below.of(cache), self.file.of(cache), self.above.of(cache)]
    }

    /// What is written for a key of a cache.
    fn text(&self, cache: &str, key: &str) -> Option<String> {
        [&self.above, &self.file, &self.below].into_iter().find_map(|layer| layer.text(cache, key))
    }

    /// Every name: `main` first, the others by the alphabet.
    fn names(&self) -> Vec<String> {
        let layers = [&self.below, &self.file, &self.above];
        let names: BTreeSet<&str> = layers.into_iter().flat_map(Layer::names).collect();
        let main = names.contains(MAIN).then_some(MAIN);
        main.into_iter().chain(names.iter().copied().filter(|name| *name != MAIN)).map(str::to_owned).collect()
    }

    /// The caches whose addresses name this host.
    fn at_host(&self, host: &str) -> Vec<String> {
        let is_there = |name: &String| self.text(name, "cache.url").is_some_and(|url| metered::host(&url) == host);
        self.names().into_iter().filter(is_there).collect()
    }

    /// Takes what an application's environment says.
    pub(super) fn of_applications(&mut self, environment: &Environment, mistakes: &mut Mistakes) {
        let is_only_from_environment =
            |layers: &Layers| layers.file.names().chain(layers.above.names()).all(|name| name != MAIN);
        if let Some(url) = self.below.text(MAIN, "cache.url")
            && is_only_from_environment(self)
            && self.names().iter().any(|name| name != MAIN && self.text(name, "cache.url").as_ref() == Some(&url))
        {
            self.below.forget(MAIN);
        }
        let [url, token] = VARIABLES.map(|name| environment.given(name));
        match (url, token) {
            (Some(url), token) => self.upstash(url, token, mistakes),
            (None, Some(token)) => self.token(token, &|host| metered::is_upstash(host), mistakes),
            (None, None) => {}
        }
    }

    /// The database of Upstash is a cache of its own, unless one has its address.
    fn upstash(&mut self, url: &Given, token: Option<&Given>, mistakes: &mut Mistakes) {
        let host = metered::host(&url.value);
        if !metered::is_web(&url.value) || host.is_empty() {
            let message = format!("{} must begin with https://, and name a host", url.name);
            return mistakes.error(url.place.clone(), message, "Upstash shows this address under REST API");
        }
        let there = self.at_host(&host);
        if let Some(token) = token
            && !there.is_empty()
        {
            return self.token(token, &|other| other == host, mistakes);
        }
        if !there.is_empty() {
            return;
        }
        let Some(token) = token else {
            let message = format!("{} is set, and {} is not", url.name, VARIABLES[1]);
            return mistakes.warning(url.place.clone(), message, "without its token this address makes no cache");
        };
        if self.text(UPSTASH, "cache.url").is_some() {
            let message = format!("{} is not used: the cache named {UPSTASH} has another address", url.name);
            return mistakes.warning(url.place.clone(), message, "give the configured cache another name");
        }
        self.leave_out_main(mistakes);
        for (key, given) in [("cache.url", url), ("cache.token", token)] {
            let value = given.value.trim();
            self.below.set(&Section::of_cache(UPSTASH), of_table(key), value, given.place.clone(), mistakes);
        }
    }

    /// The variables of Upstash make the cache: a section `[cache]` that says nothing, not even an address, is none.
    fn leave_out_main(&mut self, mistakes: &mut Mistakes) {
        let is_named = self.file.names().any(|name| name == MAIN);
        if !is_named || self.text(MAIN, "cache.url").is_some() {
            return;
        }
        if [&self.below, &self.file, &self.above].into_iter().all(|layer| layer.is_empty_for(MAIN)) {
            return self.file.forget(MAIN);
        }
        let message = format!("[cache] has no address, and the variables of Upstash make a cache named {UPSTASH}");
        mistakes.warning(Place::Nowhere, message, format!("write the settings of that cache below [caches.{UPSTASH}]"));
    }

    /// Gives the token to the caches that have the address without one.
    fn token(&mut self, token: &Given, is_meant: &dyn Fn(&str) -> bool, mistakes: &mut Mistakes) {
        for name in self.names() {
            let Some(url) = self.text(&name, "cache.url") else { continue };
            let lacks = metered::is_web(&url) && self.text(&name, "cache.token").is_none();
            if lacks && is_meant(&metered::host(&url)) {
                let section = Section::of_cache(&name);
                self.below.set(&section, of_table("cache.token"), token.value.trim(), token.place.clone(), mistakes);
            }
        }
    }

    /// Each cache, merged. Where there is none, the one that is missing.
    pub(super) fn merged(&self) -> Vec<(String, Merged)> {
        let mut names = self.names();
        if names.is_empty() {
            names.push(MAIN.to_owned());
        }
        let merge = |name: String| {
            let is_plain = name == MAIN && !self.main_is_named;
            let section = if is_plain { Section::written("cache") } else { Section::of_cache(&name) };
            let merged = Merged::merge(Some(section), self.of(Some(&name)));
            (name, merged)
        };
        names.into_iter().map(merge).collect()
    }
}

pub(super) fn of_table(name: &str) -> &'static ConfigKey {
    reference().iter().find(|key| key.name == name).unwrap_or_else(|| unfit(name, None))
}

/// What contradicts itself in the settings of one cache.
pub(super) fn contradictions(merged: &Merged, mistakes: &mut Mistakes) {
    let Some(Checked::Text(url)) = merged.get("cache.url").filter(|_| merged.is_written("cache.url")) else { return };
    let [address, token, transport] =
        ["cache.url", "cache.token", "cache.transport"].map(|name| merged.shown(of_table(name)));
    let origin = merged.origin("cache.url");
    let mut wrong = |message: String, note: &str| mistakes.error(Place::Nowhere, message, note);
    let is_web = metered::is_web(url);
    let is_rest = merged.text("cache.transport") == "rest";
    if is_web && merged.get("cache.token").is_none() {
        wrong(
            format!("{token} is missing, and the address begins with https:// ({origin})"),
            "Upstash shows both under REST API: write token = \"…\" beside the address, or set UPSTASH_REDIS_REST_TOKEN",
        );
    } else if !is_web && merged.get("cache.token").is_some() {
        wrong(
            format!("{token} is set, and the address does not begin with https:// ({origin})"),
            "remove the token: in other addresses the password stands before the @",
        );
    }
    if !is_web && is_rest {
        wrong(
            format!("{transport} is \"rest\", and the address does not begin with https:// ({origin})"),
            "write the address and the token that Upstash shows under REST API, or transport = \"tcp\"",
        );
    } else if is_web && !is_rest && !metered::is_upstash(&metered::host(url)) {
        wrong(
            format!("{address} is a web address ({origin}), and its host is none of Upstash"),
            "write redis://host:port or rediss://host:port; or transport = \"rest\" where the host speaks Upstash's REST",
        );
    }
    if cache_form(url.trim()) == Some(CacheForm::Cluster)
        && matches!(merged.get("cache.budget"), Some(Checked::Budget(Some(_))))
    {
        let budget = merged.shown(of_table("cache.budget"));
        wrong(
            format!("{budget} is set, and the address is that of a cluster ({origin})"),
            "remove the budget, or write budget = \"none\": a budget is for a service that bills commands, and no cluster does",
        );
    }
    if cache_form(url.trim()) == Some(CacheForm::Cluster) && merged.get("cache.publish").is_some() {
        wrong(
            format!(
                "{} is set, and the address is that of a cluster ({origin})",
                merged.shown(of_table("cache.publish"))
            ),
            "remove publish: what one primary of a cluster tells has no order with what another one deleted, so readers could not trust what they keep in memory",
        );
    }
    if merged.text("cache.on_gap") == "warn" && merged.is_written("cache.hold_wal_bytes_max") {
        let message = format!("{} has no effect", merged.shown(of_table("cache.hold_wal_bytes_max")));
        let note = "with on_gap = \"warn\" nothing sweeps, so the position waits for this cache as long as it is away";
        mistakes.warning(Place::Nowhere, message, note);
    }
}

/// The settings of one cache.
pub(super) fn config(name: String, merged: &mut Merged, slot: &str) -> CacheConfig {
    let transport = Transport::read(&merged.text("cache.transport"));
    let publish = merged.get("cache.publish").is_some().then(|| merged.text("cache.publish"));
    let publish = publish.map(|channel| PublishConfig { channel, slot: slot.to_owned() });
    let metering = metered::settle(merged, mark_cost(transport, publish.as_ref()));
    let token = merged.get("cache.token").is_some().then(|| merged.secret("cache.token"));
    let budget = match merged.get("cache.budget") {
        Some(Checked::Budget(budget)) => *budget,
        other => unfit("cache.budget", other),
    };
    CacheConfig {
        url: address(merged.secret("cache.url"), token.as_ref(), transport),
        section: merged.section(),
        token,
        transport,
        tls: TlsFiles {
            authority: merged.path("cache.tls_ca"),
            certificate: merged.path("cache.tls_cert"),
            key: merged.path("cache.tls_key"),
        },
        servers: servers(merged),
        required: merged.flag("cache.required"),
        hold_wal_bytes_max: merged.number("cache.hold_wal_bytes_max"),
        verifier: 0,
        budget,
        echo: merged.durations("cache.echo"),
        echo_wal_bytes_max: merged.number("cache.echo_wal_bytes_max"),
        protect: merged.texts("cache.protect").into_iter().map(String::into_bytes).collect(),
        invalidate: merged.texts("cache.invalidate"),
        leases: if merged.text("cache.leases") == "companion" { Leases::Companion } else { Leases::None },
        publish,
        on_gap: if merged.text("cache.on_gap") == "warn" { OnGap::Warn } else { OnGap::Sweep },
        metering,
        heartbeat: merged.duration("cache.heartbeat"),
        connection_age_max: merged.duration("cache.connection_age_max"),
        timeout: merged.duration("cache.timeout"),
        name,
    }
}

/// What is said of servers that others name.
fn servers(merged: &Merged) -> ServersConfig {
    let nodes = match merged.get("cache.nodes") {
        Some(Checked::Nodes(nodes)) => nodes.clone(),
        other => unfit("cache.nodes", other),
    };
    let of_password = "cache.sentinel_password";
    ServersConfig {
        nodes,
        sentinel_user: merged.get("cache.sentinel_user").map(|_| merged.text("cache.sentinel_user")),
        sentinel_password: merged.get(of_password).map(|_| merged.secret(of_password)),
        sentinel_tls: match merged.text("cache.sentinel_tls").as_str() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        },
        sentinel_authority: merged.path("cache.sentinel_tls_ca"),
    }
}

/// The address to connect to: the Redis protocol of an Upstash database has the host and the token of its REST interface.
fn address(url: Secret, token: Option<&Secret>, transport: Transport) -> Secret {
    let Some(token) = token.filter(|_| transport == Transport::Tcp && metered::is_web(url.expose())) else {
        return url;
    };
    let host = metered::host(url.expose());
    Secret::written(format!("rediss://default:{}@{host}:6379", percent(token.expose())), url.origin().to_owned())
}

/// Every byte but letters and digits, as a URL writes it.
fn percent(text: &str) -> String {
    let written = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Metering};

    const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://a/d");
    const UPSTASH: [(&str, &str); 2] =
        [("UPSTASH_REDIS_REST_URL", "https://nice-cat-1.upstash.io"), ("UPSTASH_REDIS_REST_TOKEN", "AX/hunter2==")];
    const MAIN_URL: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:6379");

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("crieur.toml");
        std::fs::write(&path, format!("{text}\n[[rules]]\ntable = 't'\nkeys = ['k']\n")).expect("written");
        let env = env.iter().chain([&DATABASE]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let folder = directory.path().display().to_string() + "/";
        Config::load(Path::new(&path), env).map_err(|mistakes| mistakes.to_string().replace(&folder, ""))
    }

    /// Each cache as `name=address (origin)`, and what is warned of.
    fn caches(text: &str, env: &[(&str, &str)]) -> (Vec<String>, String) {
        let config = load(text, env).unwrap_or_else(|said| panic!("{text}\n{said}"));
        let shown = |cache: &CacheConfig| format!("{}={}", cache.name, cache.url.expose());
        (config.caches.iter().map(shown).collect(), config.warnings.to_string())
    }

    #[test]
    fn a_cache_is_made_by_its_section_by_its_variable_and_by_what_an_application_has() {
        let tcp = "upstash=rediss://default:AX%2Fhunter2%3D%3D@nice-cat-1.upstash.io:6379";
        let two = "[cache]\nurl = 'redis://a'\n[caches.dakar]\nurl = 'redis://b'";
        let of_rest = "[caches.vercel]\nurl = 'https://nice-cat-1.upstash.io'";
        let dakar = ("CRIEUR__CACHES__DAKAR__URL", "redis://c");
        for (text, env, expected) in [
            ("", &[MAIN_URL][..], &["main=redis://127.0.0.1:6379"][..]),
            ("[caches.main]\nurl = 'redis://a'", &[MAIN_URL], &["main=redis://a"]),
            ("[caches.dakar]\nurl = 'redis://a'", &[], &["dakar=redis://a"]),
            (two, &[], &["main=redis://a", "dakar=redis://b"]),
            (two, &[dakar, MAIN_URL], &["main=redis://a", "dakar=redis://c"]),
            ("[caches.Dakar]\necho = []", &[dakar], &["Dakar=redis://c"]),
            ("", &[dakar, MAIN_URL], &["main=redis://127.0.0.1:6379", "dakar=redis://c"]),
            ("[caches.a]\nurl = 'redis://127.0.0.1:6379'", &[MAIN_URL], &["a=redis://127.0.0.1:6379"]),
            ("", &UPSTASH, &[tcp]),
            ("[cache]", &UPSTASH, &[tcp]),
            ("[caches.main]", &UPSTASH, &[tcp]),
            ("[cache]", &[UPSTASH[0], UPSTASH[1], MAIN_URL], &["main=redis://127.0.0.1:6379", tcp]),
            ("", &[UPSTASH[0], UPSTASH[1], MAIN_URL], &["main=redis://127.0.0.1:6379", tcp]),
            ("[caches.upstash]\nrequired = false", &UPSTASH, &[tcp]),
            ("[cache]\nurl = 'rediss://x@nice-cat-1.upstash.io'", &UPSTASH, &["main=rediss://x@nice-cat-1.upstash.io"]),
            (of_rest, &UPSTASH, &[&tcp.replace("upstash=", "vercel=")]),
            (of_rest, &UPSTASH[1..], &[&tcp.replace("upstash=", "vercel=")]),
        ] {
            assert_eq!(
                caches(text, env),
                (expected.iter().map(|text| (*text).to_owned()).collect(), String::new()),
                "{text}"
            );
        }
        let (one, warned) = caches("", &[UPSTASH[0], MAIN_URL]);
        assert!(one.len() == 1 && warned.contains("UPSTASH_REDIS_REST_TOKEN is not"), "{one:?} {warned}");
        let (both, warned) = caches("[caches.upstash]\nurl = 'redis://a'", &UPSTASH);
        assert!(both == ["upstash=redis://a"] && warned.contains("has another address"), "{both:?} {warned}");
    }

    #[test]
    fn the_default_budget_is_there_where_marks_leave_something_of_it_over_the_way_that_was_chosen() {
        for (transport, expected) in [("rest", Some(200_000)), ("tcp", None)] {
            let text = format!(
                "[caches.vercel]\nurl = 'https://nice-cat-1.upstash.io'\nheartbeat = '20s'\ntransport = '{transport}'"
            );
            let config = load(&text, &UPSTASH).unwrap_or_else(|said| panic!("{said}"));
            assert_eq!(config.caches[0].budget, expected, "{transport}");
        }
    }

    #[test]
    fn each_cache_has_its_own_settings_and_the_defaults_of_its_host() {
        let text = "[cache]\nurl = 'redis://a'\nbudget = '1.5M'\n[caches.dakar]\nurl = 'redis://b'\nrequired = false\n\
                    hold_wal_bytes_max = 0\necho = []\n[caches.fixed]\nurl = 'rediss://:t@b.upstash.io'\nbudget = 'none'";
        let config = load(text, &UPSTASH).expect("valid");
        let seen = |cache: &CacheConfig| {
            let seconds = cache.heartbeat.as_secs();
            (cache.required, cache.hold_wal_bytes_max, cache.budget, cache.echo.len(), seconds, cache.metering)
        };
        assert_eq!(
            config.caches.iter().map(|cache| (cache.name.as_str(), seen(cache))).collect::<Vec<_>>(),
            [
                ("main", (true, 1 << 30, Some(1_500_000), 3, 60, Metering::ByCommand)),
                ("dakar", (false, 0, None, 0, 2, Metering::None)),
                ("fixed", (true, 1 << 30, None, 3, 60, Metering::ByCommand)),
                ("upstash", (true, 1 << 30, Some(200_000), 3, 60, Metering::ByCommand)),
            ]
        );
        let shown: Vec<String> = config.effective().map(|(key, value, _)| format!("{key}={value}")).collect();
        for line in ["cache.budget=1.5M", "caches.dakar.required=false", "caches.upstash.token=[redacted]"] {
            assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:?}");
        }
        assert!(!format!("{shown:?} {config:?}").contains("hunter2"));
    }

    #[test]
    fn a_section_without_an_address_beside_the_variables_of_upstash_is_said_with_the_right_one() {
        let said = load("[cache]\necho = []", &UPSTASH).map(|config| format!("{config:?}")).expect_err("no address");
        for words in ["cache.url is missing", "make a cache named upstash", "below [caches.upstash]"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let said = load("[cache]", &UPSTASH[..1]).map(|config| format!("{config:?}")).expect_err("no token");
        assert!(said.contains("cache.url is missing") && said.contains("UPSTASH_REDIS_REST_TOKEN is not"), "{said}");
    }

    #[test]
    fn what_is_wrong_with_a_cache_names_it_and_the_way_out() {
        for (text, env, words) in [
            (
                "[cache]\nurl = 'redis://a'\n[caches.main]\nurl = 'redis://b'",
                &[][..],
                &["crieur.toml:1", "crieur.toml:3:9", "[cache]"][..],
            ),
            ("[caches.'da kar']\nurl = 'redis://a'", &[], &["\"da kar\" is not the name of a cache", "letters"]),
            (
                "[caches.da-kar]\nurl = 'redis://a'\n[caches.DA_KAR]\nurl = 'redis://b'",
                &[],
                &["\"da-kar\"", "\"DA_KAR\"", "the same variables"],
            ),
            (
                "[caches.dakar]\nurls = 'redis://a'",
                &[],
                &["unknown key \"urls\" in [caches.dakar]", "did you mean \"url\""],
            ),
            ("[caches.dakar]\nrequired = 'perhaps'", &[], &["caches.dakar.required must be true or false"]),
            ("[caches.dakar]\nrequired = false", &[], &["caches.dakar.url is missing", "CRIEUR__CACHES__DAKAR__URL"]),
            ("[caches.a]\nurl = 'https://x.upstash.io'", &[], &["caches.a.token is missing", "crieur.toml:2"]),
            ("[caches.a]\nurl = 'redis://x'\ntoken = 'hunter2'", &[], &["caches.a.token is set", "remove the token"]),
            ("[caches.a]\nurl = 'redis://x'\ntransport = 'rest'", &[], &["caches.a.transport is \"rest\""]),
            ("[caches.a]\nurl = 'https://example.com'\ntoken = 'hunter2'", &[], &["caches.a.url is a web address"]),
            (
                "[caches.a]\nurl = 'redis+cluster://:hunter2@x:7001,y:7001'\nbudget = '200k'",
                &[],
                &["caches.a.budget is set", "that of a cluster (caches.a.url in crieur.toml:2)", "budget = \"none\""],
            ),
            (
                "[cache]\nurl = 'redis://a'\n[caches.Main]\nurl = 'redis://b'",
                &[],
                &["the cache \"Main\" differs from \"main\"", "crieur.toml:3:9", "[cache] and REDIS_URL"],
            ),
            (
                "[caches.Upstash]\nurl = 'redis://b'",
                &UPSTASH,
                &["\"upstash\"", "or another name", "the variables of Upstash"],
            ),
            ("caches = 1", &[MAIN_URL], &["\"caches\" must be a table"]),
            (
                "[caches]\nurl = 'redis://b'",
                &[MAIN_URL],
                &["\"caches.url\" must be a table", "give the cache a name, and write url below [caches.NAME]"],
            ),
            (
                "[cache.eu]\nurl = 'redis://b'",
                &[MAIN_URL],
                &["unknown key \"eu\" in [cache]", "a cache of this name is written [caches.eu]"],
            ),
            ("[caches]\ndakar = 1", &[MAIN_URL], &["\"caches.dakar\" must be a table"]),
            ("", &[MAIN_URL, ("CRIEUR__CACHES__É__URL", "redis://a")], &["is not the name of a cache"]),
            (
                "",
                &[MAIN_URL, ("CRIEUR__CACHE__ECHO", ""), ("CRIEUR__CACHES__MAIN__ECHO", "1s")],
                &["CRIEUR__CACHE__ECHO and CRIEUR__CACHES__MAIN__ECHO are two names of one setting"],
            ),
            ("", &[UPSTASH[0]], &["cache.url is missing", "UPSTASH_REDIS_REST_TOKEN is not"]),
            ("", &[("UPSTASH_REDIS_REST_URL", "redis://hunter2"), UPSTASH[1]], &["must begin with https://"]),
        ] {
            let said = load(text, env).map(|config| format!("{config:?}")).expect_err(text);
            assert!(words.iter().all(|words| said.contains(words)) && !said.contains("hunter2"), "{text}\n{said}");
        }
        let warned = caches("[cache]\nurl = 'redis://a'\non_gap = 'warn'\nhold_wal_bytes_max = '1GiB'", &[]).1;
        assert!(warned.contains("cache.hold_wal_bytes_max has no effect"), "{warned}");
    }
}
