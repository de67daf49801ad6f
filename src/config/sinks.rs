//! The sinks: what is said of each, and what contradicts itself in that. Pure.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::amount::{RateLimit, shown};
use crate::config::caches::{Layers, of_table};
use crate::config::merged::{Merged, unfit};
use crate::config::named::{Section, in_variables};
use crate::config::reference::Checked;
use crate::config::settings::CacheConfig;
use crate::mistake::{Mistakes, Place, suggestion};
use crate::rules::Rules;
use crate::rules::read::template::TemplateError;
use crate::rules::read::warmspec;
use crate::secret::Secret;
use crate::tag::SinkKind;
use crate::url;

/// What stands before the Base64 of a secret.
const SECRET_BEGINS: &str = "whsec_";
/// What Standard Webhooks asks of a secret, at least.
const SECRET_BYTES_MIN: usize = 24;
/// An echo of a cache may be answered this long after its delay: until then a page may be made from an old value.
const ECHO_SLACK: Duration = Duration::from_secs(5);

/// `[sinks.NAME]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkConfig {
    /// NAME: stands in metrics and in the log.
    pub name: String,
    /// `sinks.NAME`
    pub section: String,
    /// `kind`: who takes the tags.
    pub kind: SinkKind,
    /// `url`, default that of the service.
    pub url: Secret,
    /// `secret`: the keys that a webhook is signed with, the first one ahead.
    pub secrets: Vec<SigningKey>,
    /// `token`
    pub token: Option<Secret>,
    /// `project`, `zone` or `service`, as the kind needs.
    pub owner: String,
    /// `team`
    pub team: Option<String>,
    /// `soft`, default false.
    pub soft: bool,
    /// `after`, default every required cache: names of caches.
    pub after: Vec<String>,
    /// `echo`, default by the kind.
    pub echo: Vec<Duration>,
    /// `echo_wal_bytes_max`, default 64 MiB.
    pub echo_wal_bytes_max: u64,
    /// `hold_wal_bytes_max`, default 1 GiB.
    pub hold_wal_bytes_max: u64,
    /// `rate`, default by the kind.
    pub rate: RateLimit,
    /// `timeout`, default 10 s.
    pub timeout: Duration,
    /// `tls_ca`, default the system's.
    pub authority: Option<PathBuf>,
}

/// Bytes that a webhook is signed with; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(pub(crate) Vec<u8>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Base64 of either form of its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys that a text holds, parted by spaces or commas.
fn signing_keys(text: &str) -> impl Iterator<Item = Result<SigningKey, &'static str>> {
    text.split(|c: char| c.is_whitespace() || c == ',').filter(|key| !key.is_empty()).map(signing_key)
}

/// A key as it is written, `whsec_` and Base64; otherwise what is wrong with it.
fn signing_key(text: &str) -> Result<SigningKey, &'static str> {
    let Some(coded) = text.strip_prefix(SECRET_BEGINS) else { return Err("does not begin with whsec_") };
    let key = BASE64.decode(coded).map_err(|_| "is no Base64 behind whsec_")?;
    if key.is_empty() { Err("is empty behind whsec_") } else { Ok(SigningKey(key)) }
}

/// What a plan allows where nobody says it.
fn default_rate(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Webhook => "10/s",
        SinkKind::Vercel => "5/s",
        SinkKind::Cloudflare => "5/min",
        SinkKind::Fastly => "20/s",
    }
}

/// When tags go again where nobody says it. A site of one's own pays nothing for one more request, and its pages are right
/// within a second, also one whose making began before COMMIT and ended behind the first purge.
fn default_echo(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Webhook => "700ms,5s,35s",
        SinkKind::Vercel | SinkKind::Cloudflare | SinkKind::Fastly => "2s,35s",
    }
}

/// Where each service listens.
fn default_url(kind: SinkKind) -> Option<&'static str> {
    match kind {
        SinkKind::Webhook => None,
        SinkKind::Vercel => Some("https://api.vercel.com"),
        SinkKind::Cloudflare => Some("https://api.cloudflare.com"),
        SinkKind::Fastly => Some("https://api.fastly.com"),
    }
}

/// The keys that a kind needs, and those that it may have besides what every kind has.
fn keys_of(kind: SinkKind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        SinkKind::Webhook => (&["url", "secret"], &[]),
        SinkKind::Vercel => (&["token", "project"], &["url", "team", "soft"]),
        SinkKind::Cloudflare => (&["token", "zone"], &["url"]),
        SinkKind::Fastly => (&["token", "service"], &["url", "soft"]),
    }
}

/// What the documentation says in the place of a default that depends on the kind or on the caches.
pub(crate) fn default_said(key: &str) -> Option<String> {
    let name = key.strip_prefix("sink.")?;
    let kinds = || SinkKind::WORDS.iter().filter_map(|word| SinkKind::read(word));
    let of = |text: &str, kind: SinkKind| format!("`{text}` for `{}`", kind.word());
    let needed: Vec<String> =
        kinds().filter(|kind| keys_of(*kind).0.contains(&name)).map(|kind| format!("`{}`", kind.word())).collect();
    let mandatory = (!needed.is_empty()).then(|| format!("Mandatory for {}.", needed.join(", ")));
    let defaults: Vec<String> = match name {
        "kind" => return Some("Mandatory for each sink.".to_owned()),
        "after" => vec!["every cache that is required".to_owned()],
        "rate" => kinds().map(|kind| of(default_rate(kind), kind)).collect(),
        "echo" => {
            let list = |text: &str| format!("[\"{}\"]", text.replace(',', "\", \""));
            kinds().map(|kind| of(&list(default_echo(kind)), kind)).collect()
        }
        "url" => kinds().filter_map(|kind| Some(of(default_url(kind)?, kind))).collect(),
        _ => Vec::new(),
    };
    let default = (!defaults.is_empty()).then(|| format!("`Default:` {}.", defaults.join(", ")));
    let said: Vec<String> = [mandatory, default].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(" "))
}

/// Keys that belong to some kinds only.
const OF_KINDS: [&str; 7] = ["secret", "token", "project", "team", "zone", "service", "soft"];

impl Layers {
    /// Each sink, merged.
    pub(super) fn sinks(&self) -> Vec<(String, Merged)> {
        let names: std::collections::BTreeSet<&str> =
            [&self.below, &self.file, &self.above].into_iter().flat_map(|layer| layer.sinks()).collect();
        let merge = |name: &str| {
            let layers =
                [self.defaults.clone(), self.below.of_sink(name), self.file.of_sink(name), self.above.of_sink(name)];
            (name.to_owned(), Merged::merge(Some(Section::of_sink(name)), layers))
        };
        names.into_iter().map(merge).collect()
    }
}

fn key(name: &str) -> String {
    format!("sink.{name}")
}

/// The kind that is written, if it is one.
pub(super) fn kind(merged: &Merged) -> Option<SinkKind> {
    match merged.get("sink.kind") {
        Some(Checked::Text(text)) => SinkKind::read(text),
        Some(_) | None => None,
    }
}

/// Gives the pages of a sink their address, where a rule has none of its own.
pub(super) fn warm(name: &str, merged: &Merged, rules: &mut Rules, mistakes: &mut Mistakes) {
    let Some(Checked::Text(text)) = merged.get("sink.warm") else { return };
    let key = format!("{}.warm ({})", merged.section(), merged.origin("sink.warm"));
    match warmspec::address(text) {
        Err(TemplateError { message, note, .. }) => mistakes.error(Place::Nowhere, format!("{key}: {message}"), note),
        Ok(address) => {
            if !rules.warm_behind_sink(name, &Rc::new(address)) {
                let note = "a rule needs tags for this sink, keys, and every column of the address in one of them; or write \
                            warm into the rule itself";
                mistakes.warning(Place::Nowhere, format!("{key} is the address of no rule's pages"), note);
            }
        }
    }
}

/// What contradicts itself in the settings of one sink, among these caches.
pub(super) fn contradictions(name: &str, merged: &Merged, caches: &[String], mistakes: &mut Mistakes) {
    let section = merged.section();
    let mut wrong = |message: String, note: String| mistakes.error(Place::Nowhere, message, note);
    if let Some(cache) = caches.iter().find(|cache| in_variables(cache) == in_variables(name)) {
        wrong(
            format!("the sink \"{name}\" has the name of the cache \"{cache}\""),
            "give it another name: both stand in metrics and in the log by their names".to_owned(),
        );
    }
    let Some(kind) = kind(merged) else {
        if merged.get("sink.kind").is_none() {
            wrong(
                format!("{section}.kind is missing"),
                format!("write kind = \"…\" under [{section}]: one of {}", SinkKind::WORDS.join(", ")),
            );
        }
        return;
    };
    let (needed, _) = keys_of(kind);
    for name in needed.iter().filter(|name| merged.get(&key(name)).is_none()) {
        let note = format!("{}; write {name} = \"…\" under [{section}]", of_table(&key(name)).doc);
        wrong(format!("{section}.{name} is missing, and its kind is \"{}\"", kind.word()), note);
    }
    for name in OF_KINDS.iter().filter(|name| merged.is_written(&key(name))) {
        let (needed, allowed) = keys_of(kind);
        if !needed.contains(name) && !allowed.contains(name) {
            let note = format!("remove it: a sink of kind \"{}\" has no {name}", kind.word());
            wrong(format!("{section}.{name} is set, and its kind is \"{}\"", kind.word()), note);
        }
    }
    if let Some(Checked::Text(url)) = merged.get("sink.url")
        && let Some(url::Wrong { what, hint }) = url::of_sink(url)
    {
        wrong(format!("{section}.url {what} ({})", merged.origin("sink.url")), hint);
    }
    let texts = merged.get("sink.secret").map(|_| merged.secret("sink.secret"));
    for what in texts.iter().flat_map(|secret| signing_keys(secret.expose())).filter_map(Result::err) {
        let note = "write whsec_ and at least 24 random bytes in Base64: openssl rand -base64 32 makes them";
        wrong(format!("{section}.secret {what} ({})", merged.origin("sink.secret")), note.to_owned());
    }
    for cache in after(merged).iter().flatten().filter(|cache| !caches.contains(*cache)) {
        let note = suggestion(cache, caches.iter().map(String::as_str));
        wrong(format!("{section}.after names \"{cache}\", and there is no such cache"), note);
    }
}

/// What the operator should know of a sink and its caches.
pub(super) fn warnings(sink: &SinkConfig, caches: &[CacheConfig], mistakes: &mut Mistakes) {
    let section = &sink.section;
    if sink.secrets.iter().any(|key| key.0.len() < SECRET_BYTES_MIN) {
        let note = "openssl rand -base64 32 makes a longer one";
        mistakes.warning(Place::Nowhere, format!("{section}.secret has fewer than 24 bytes"), note);
    }
    let last = sink.echo.last().copied().unwrap_or_default();
    for cache in caches.iter().filter(|cache| sink.after.contains(&cache.name)) {
        let longest = cache.echo.last().copied().unwrap_or_default();
        if !longest.is_zero() && last < longest + ECHO_SLACK {
            let (section, of_cache) = (&sink.section, &cache.section);
            let message =
                format!("{section}.echo ends {} behind the change, {of_cache}.echo {}", shown(last), shown(longest));
            let note = format!(
                "a page may be made from a value that this cache still holds, and nothing purges it: let {section}.echo end \
                 with {} or more",
                shown(longest + ECHO_SLACK)
            );
            mistakes.warning(Place::Nowhere, message, note);
        }
    }
}

/// The caches that are named, where any are.
fn after(merged: &Merged) -> Option<Vec<String>> {
    merged.get("sink.after").map(|_| merged.texts("sink.after"))
}

/// The settings of one sink; `required` are the names of the caches without which nothing is ready.
pub(super) fn config(name: String, merged: &mut Merged, required: &[String]) -> SinkConfig {
    let kind = kind(merged).unwrap_or_else(|| unfit("sink.kind", None));
    if let Some(url) = default_url(kind).filter(|_| merged.get("sink.url").is_none()) {
        merged.set_default("sink.url", url, "default");
    }
    merged.set_default("sink.rate", default_rate(kind), "default");
    merged.set_default("sink.echo", default_echo(kind), "default");
    merged.set_default("sink.after", &required.join(","), "default");
    let rate = match merged.get("sink.rate") {
        Some(Checked::Rate(rate)) => *rate,
        other => unfit("sink.rate", other),
    };
    let text = |name: &str| merged.get(name).map(|_| merged.text(name));
    let secrets = text("sink.secret").unwrap_or_default();
    SinkConfig {
        section: merged.section(),
        kind,
        url: merged.secret("sink.url"),
        secrets: signing_keys(&secrets).filter_map(Result::ok).collect(),
        token: merged.get("sink.token").map(|_| merged.secret("sink.token")),
        owner: ["sink.project", "sink.zone", "sink.service"].into_iter().find_map(text).unwrap_or_default(),
        team: text("sink.team"),
        soft: merged.flag("sink.soft"),
        after: merged.texts("sink.after"),
        echo: merged.durations("sink.echo"),
        echo_wal_bytes_max: merged.number("sink.echo_wal_bytes_max"),
        hold_wal_bytes_max: merged.number("sink.hold_wal_bytes_max"),
        rate,
        timeout: merged.duration("sink.timeout"),
        authority: merged.path("sink.tls_ca"),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let text = format!(
            "[cache]\nurl = 'redis://a'\n[caches.eu]\nurl = 'redis://b'\nrequired = false\n{text}\n\
                            [[rules]]\ntable = 't'\nkeys = ['k']\ntags = ['t:{{id}}']\ntags_all = 't'\n"
        );
        let env = env.iter().chain([&("DATABASE_URL", "postgres://a/d")]);
        let env = env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::of_text("crieur.toml", &text, env).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn each_kind_has_its_settings_and_its_defaults() {
        let site = format!(
            "[sinks.site]\nkind = 'webhook'\nurl = 'https://example.sn/api/revalidate'\nsecret = '{KEY}, {KEY}'\n"
        );
        let config = load(
            &(site
                + "[sinks.v]\nkind = 'vercel'\ntoken = 'hunter2'\nproject = 'p'\nteam = 't'\nafter = []\n\
                   [sinks.c]\nkind = 'cloudflare'\ntoken = 'hunter2'\nzone = 'z'\nrate = '5/s'\nafter = ['eu']\n\
                   [sinks.f]\nkind = 'fastly'\ntoken = 'hunter2'\nservice = 's'\nsoft = true"),
            &[],
        )
        .expect("valid");
        let seen = |sink: &SinkConfig| {
            let per = sink.rate.per.as_secs();
            (
                sink.name.clone(),
                sink.url.expose().to_owned(),
                sink.owner.clone(),
                (sink.rate.count, per),
                sink.after.clone(),
            )
        };
        let of = |name: &str, url: &str, owner: &str, rate, after: &[&str]| {
            let after = after.iter().map(|name| (*name).to_owned()).collect();
            (name.to_owned(), url.to_owned(), owner.to_owned(), rate, after)
        };
        assert_eq!(
            config.sinks.iter().map(seen).collect::<Vec<_>>(),
            [
                of("c", "https://api.cloudflare.com", "z", (5, 1), &["eu"]),
                of("f", "https://api.fastly.com", "s", (20, 1), &["main"]),
                of("site", "https://example.sn/api/revalidate", "", (10, 1), &["main"]),
                of("v", "https://api.vercel.com", "p", (5, 1), &[]),
            ]
        );
        let echoes: Vec<Vec<u128>> =
            config.sinks.iter().map(|sink| sink.echo.iter().map(Duration::as_millis).collect()).collect();
        assert_eq!(echoes, [vec![2_000, 35_000], vec![2_000, 35_000], vec![700, 5_000, 35_000], vec![2_000, 35_000]]);
        assert_eq!((config.sinks[2].secrets.len(), config.sinks[2].secrets[0].0.len()), (2, 24));
        let shown: Vec<String> = config.effective().map(|(key, value, _)| format!("{key}={value}")).collect();
        for line in [
            "sinks.c.rate=5/s",
            "sinks.v.token=[redacted]",
            "sinks.site.secret=[redacted]",
            "sinks.f.soft=true",
            "sinks.site.rate=10/s",
            "sinks.site.after=main",
            "sinks.v.after=",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:?}");
        }
        assert!(!format!("{shown:?} {config:?}").contains("hunter2") && !format!("{config:?}").contains("MfKQ9r8"));
        assert_eq!(config.warnings.to_string(), "");
    }

    #[test]
    fn the_environment_says_the_secret() {
        let site = "[sinks.my-site]\nkind = 'webhook'\nurl = 'http://127.0.0.1:3000/x'";
        let config = load(site, &[("CRIEUR__SINKS__MY_SITE__SECRET", KEY)]).expect("valid");
        assert_eq!((config.sinks[0].name.as_str(), config.sinks[0].secrets.len()), ("my-site", 1));
    }

    #[test]
    fn what_is_wrong_with_a_sink_names_it_and_the_way_out() {
        let webhook = |more: &str| format!("[sinks.s]\nkind = 'webhook'\n{more}");
        let whole = |url: &str, secret: &str| webhook(&format!("url = '{url}'\nsecret = '{secret}'"));
        for (text, words) in [
            ("[sinks]\nx = 1".to_owned(), &["\"sinks.x\" must be a table", "write [sinks.x]"][..]),
            ("[sinks.'a b']\nkind = 'fastly'".to_owned(), &["\"a b\" is not the name of a sink", "[sinks.site]"]),
            ("[sinks.EU]\nkind = 'webhook'".to_owned(), &["the sink \"EU\" has the name of the cache \"eu\""]),
            ("[sinks.s]\nurl = 'https://a'".to_owned(), &["sinks.s.kind is missing", "webhook, vercel"]),
            ("[sinks.s]\nkind = 'akamai'".to_owned(), &["sinks.s.kind must be one of: webhook"]),
            (webhook(""), &["sinks.s.url is missing", "sinks.s.secret is missing", "[sinks.s]"]),
            (whole("https://a", "hunter2"), &["sinks.s.secret does not begin with whsec_", "openssl rand"]),
            (whole("https://a", "whsec_hunter2!"), &["sinks.s.secret is no Base64"]),
            (whole("http://example.sn/x", KEY), &["sinks.s.url", "http://", "https://"]),
            (whole("https://u:hunter2@a/x", KEY), &["sinks.s.url", "user"]),
            (whole("redis://a", KEY), &["sinks.s.url", "https://"]),
            (whole("https://a", KEY) + "\ntoken = 'hunter2'", &["sinks.s.token is set", "remove it"]),
            (whole("https://a", KEY) + "\nafter = ['man']", &["\"man\"", "did you mean \"main\""]),
            (whole("https://a", KEY) + "\nrate = '5'", &["sinks.s.rate must be a number and a time"]),
            (whole("https://a", KEY) + "\nurls = 'x'", &["unknown key \"urls\" in [sinks.s]", "did you mean \"url\""]),
        ] {
            let said = load(&text, &[]).map(|config| format!("{config:?}")).expect_err(&text);
            assert!(words.iter().all(|words| said.contains(words)) && !said.contains("hunter2"), "{text}\n{said}");
        }
    }

    #[test]
    fn an_echo_that_ends_before_the_echo_of_its_caches_is_warned_of() {
        let text = format!("[sinks.s]\nkind = 'webhook'\nurl = 'https://a'\nsecret = '{KEY}'\necho = ['2s', '30s']");
        let said = load(&text, &[]).expect("valid").warnings.to_string();
        assert!(said.contains("sinks.s.echo ends 30s") && said.contains("35s"), "{said}");
        let said = load(&text.replace(KEY, "whsec_c2hvcnQ="), &[]).expect("valid").warnings.to_string();
        assert!(said.contains("fewer than 24 bytes"), "{said}");
    }
}
