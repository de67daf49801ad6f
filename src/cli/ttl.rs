//! `crieur ttl`: how long the keys of each family live, against `[ttl]` of the configuration. Reads only.
//!
//! A TTL bounds how long a key is stale that no rule deletes: crieur deletes what changes, and the TTL is the net below. A
//! key without one stays for ever. So a key is wrong that lives longer than its line of `[ttl]` says, and so is a key of the
//! rules without a TTL.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::amount;
use crate::cache::any::AnyCache;
use crate::cache::inspect::{Inspect as _, Lifetimes};
use crate::cli::bar::Bar;
use crate::cli::finding::{Finding, report};
use crate::cli::output::say;
use crate::config::ttl::TtlLimit;
use crate::config::{Config, Metering};
use crate::error::{Error, Exit};
use crate::glob;
use crate::rules::Rules;
use crate::shown::{quoted, shown};

/// What a server rounds, and what a SET and our look may be apart.
const SLACK: Duration = Duration::from_secs(1);

/// What crieur keeps for itself.
const OWN: &[u8] = b"crieur:";

/// The caches that are looked at, and how that is said.
#[derive(Debug, Clone, clap::Args)]
pub struct TtlArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Look at this cache only.
    #[arg(long, value_name = "NAME")]
    cache: Option<String>,
    /// Write JSON.
    #[arg(long)]
    json: bool,
    /// Look also where each command is billed, whatever that costs.
    #[arg(long)]
    yes: bool,
}

/// What was seen of the keys of one line, or of one family that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lived {
    keys: u64,
    longest: Option<u64>,
    /// Keys that live longer than they may, and the longest of them.
    over: u64,
    worst: Option<Vec<u8>>,
    /// Keys without a TTL, and one of them.
    without: u64,
    example: Option<Vec<u8>>,
}

/// What is known of the keys of one pattern.
#[derive(Debug, Clone)]
struct Family {
    pattern: Vec<u8>,
    /// As `[ttl]` says; `None`: a family of the rules of which `[ttl]` says nothing.
    most: Option<Duration>,
    lived: Lived,
}

/// A look at one cache.
struct Look<'a> {
    /// Those of `[ttl]`, the longest literal first, then those of the rules.
    families: Vec<Family>,
    protect: &'a [Vec<u8>],
    seen: u64,
    of: u64,
    bar: Bar,
}

impl<'a> Look<'a> {
    fn new(limits: &[TtlLimit], rules: &Rules, protect: &'a [Vec<u8>]) -> Self {
        let stated = |limit: &TtlLimit| Family {
            pattern: limit.pattern.as_bytes().to_vec(),
            most: Some(limit.most),
            lived: Lived::default(),
        };
        let mut families: Vec<Family> = limits.iter().map(stated).collect();
        families.sort_by_key(|family| std::cmp::Reverse(glob::literal_prefix(&family.pattern).len()));
        let unstated =
            rules.families().filter(|(_, pattern)| !families.iter().any(|of| glob::covers(&of.pattern, pattern)));
        let unstated: Vec<Family> = unstated
            .map(|(_, pattern)| Family { pattern: pattern.to_vec(), most: None, lived: Lived::default() })
            .collect();
        families.extend(unstated);
        Look { families, protect, seen: 0, of: 0, bar: Bar::default() }
    }

    fn family(&mut self, key: &[u8]) -> Option<&mut Family> {
        self.families.iter_mut().find(|family| glob::matches(&family.pattern, key))
    }
}

impl Lifetimes for Look<'_> {
    fn wants(&mut self, key: &[u8]) -> bool {
        self.seen += 1;
        self.bar.draw(&format!("{} of about {} keys looked at", self.seen, self.of));
        let is_ours = key.starts_with(OWN) || self.protect.iter().any(|protect| glob::matches(protect, key));
        !is_ours && self.family(key).is_some()
    }

    fn lives(&mut self, key: &[u8], millis: Option<u64>) {
        let Some(Family { most, lived, .. }) = self.family(key) else { return };
        lived.keys += 1;
        let Some(millis) = millis else {
            lived.without += 1;
            lived.example.get_or_insert_with(|| key.to_vec());
            return;
        };
        let is_over = most.is_some_and(|most| Duration::from_millis(millis) > most + SLACK);
        lived.over += u64::from(is_over);
        if lived.longest.is_none_or(|longest| longest < millis) {
            lived.longest = Some(millis);
            if is_over {
                lived.worst = Some(key.to_vec());
            }
        }
    }
}

/// `59m 12s`, `2h`: the two largest units.
fn in_words(millis: u64) -> String {
    let seconds = millis / 1000;
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let said = units.iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0);
    let said: Vec<String> = said.map(|(count, unit)| format!("{count}{unit}")).collect();
    if said.is_empty() { "less than 1s".to_owned() } else { said.join(" ") }
}

/// What is to be said of a family in the cache of this name.
fn findings(cache: &str, family: &Family) -> Vec<Finding> {
    let Family { pattern, most, lived } = family;
    let subject = format!("cache {cache}, keys {}", shown(pattern));
    let example = |key: &Option<Vec<u8>>| quoted(key.as_deref().unwrap_or_default());
    let longest = in_words(lived.longest.unwrap_or_default());
    let mut out = Vec::new();
    if lived.without > 0 {
        let seen = format!("{} of {} have no TTL, for example {}", lived.without, lived.keys, example(&lived.example));
        let ttl = most.map_or(3600, |most| most.as_secs().max(1));
        out.push(Finding::wrong(&subject, seen).mend(format!("SET key value EX {ttl} in the readers that store them")));
    }
    if let Some(most) = most
        && lived.over > 0
    {
        let (over, keys, most) = (lived.over, lived.keys, amount::shown(*most));
        let seen =
            format!("{over} of {keys} live longer than {most}, the longest {longest}: {}", example(&lived.worst));
        let mend = format!("store them with a TTL of at most {most}, or raise their line of [ttl]");
        out.push(Finding::wrong(&subject, seen).mend(mend));
    }
    if !out.is_empty() {
        return out;
    }
    vec![match (lived.keys, most) {
        (0, _) => Finding::note(subject, "the cache holds none"),
        (keys, Some(most)) => {
            Finding::ready(subject, format!("{keys}, the longest lives {longest} of {}", amount::shown(*most)))
        }
        (keys, None) => {
            Finding::note(subject, format!("{keys}, the longest lives {longest}; [ttl] says nothing of them"))
        }
    }]
}

/// The same for programs.
fn object(family: &Family) -> serde_json::Value {
    let Family { pattern, most, lived } = family;
    let text = |key: &Option<Vec<u8>>| key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
    serde_json::json!({
        "pattern": String::from_utf8_lossy(pattern), "most_s": most.map(|most| most.as_secs()), "keys": lived.keys,
        "longest_ms": lived.longest, "over": lived.over, "worst": text(&lived.worst), "without": lived.without,
        "example": text(&lived.example),
    })
}

/// Looks at the caches.
///
/// # Errors
///
/// A cache does not answer, or looking there costs money and nobody agreed.
pub async fn run(config: &Config, arguments: &TtlArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let named = config.caches.iter().filter(|cache| arguments.cache.as_ref().is_none_or(|name| *name == cache.name));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        let names: Vec<&str> = config.caches.iter().map(|cache| cache.name.as_str()).collect();
        let missing = quoted(arguments.cache.as_deref().unwrap_or_default().as_bytes());
        let error = Error::definite(Exit::Usage, format!("there is no cache {missing}"));
        return Err(error.hint(format!("The caches are: {}.", names.join(", "))).into());
    }
    if config.ttl.is_empty() && !arguments.json {
        say(
            "the configuration has no [ttl]: only keys without a TTL are wrong. Write [ttl] with lines such as \"properties:detail:*\" = \"1h\"\n",
        );
    }
    let (mut all, mut objects) = (Vec::new(), Vec::new());
    for settings in named {
        let seen = config.rules.seen_by(&settings.name, &settings.protect);
        let rules = seen.as_ref().unwrap_or(&config.rules);
        let cache = AnyCache::new(settings)?;
        let mut look = Look::new(&config.ttl, rules, &settings.protect);
        look.of = cache.size().await?;
        if settings.metering == Metering::ByCommand && !arguments.yes {
            let price = look.of + look.of.div_ceil(500).max(1);
            let what = format!("looking at cache {} costs up to {price} commands, and each is billed", settings.name);
            let error = Error::definite(Exit::Usage, what);
            return Err(error.hint("Add --yes to look all the same, or name another cache with --cache.").into());
        }
        cache.lifetimes(&mut look).await?;
        look.bar.clear();
        all.extend(look.families.iter().flat_map(|family| findings(&settings.name, family)));
        let families: Vec<_> = look.families.iter().map(object).collect();
        objects.push(serde_json::json!({ "cache": settings.name, "families": families }));
    }
    if !arguments.json {
        return report(out, &all);
    }
    let is_wrong = all.iter().any(|finding| finding.verdict == crate::cli::finding::Grade::Wrong);
    writeln!(out, "{}", serde_json::json!({ "caches": objects, "wrong": is_wrong }))?;
    Ok(if is_wrong { Exit::Failed } else { Exit::Ok })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Grade;

    fn look() -> Look<'static> {
        let limit = |pattern: &str, most| TtlLimit { pattern: pattern.to_owned(), most: Duration::from_secs(most) };
        let mut look = Look::new(&[limit("p:*", 3600), limit("p:slots:*", 120)], &Rules::default(), &[]);
        for (key, millis) in [
            ("p:1", Some(3_600_900)),
            ("p:2", Some(1)),
            ("p:slots:1", Some(60_000)),
            ("p:slots:2", Some(600_000)),
            ("p:slots:3", Some(500_000)),
            ("p:slots:4", None),
            ("other", None),
        ] {
            if look.wants(key.as_bytes()) {
                look.lives(key.as_bytes(), millis);
            }
        }
        look
    }

    #[test]
    fn a_key_counts_for_the_line_that_says_most_of_it() {
        let look = look();
        let [slots, rest] = &look.families[..] else { panic!("two lines") };
        assert_eq!((slots.lived.keys, slots.lived.over, slots.lived.without), (4, 2, 1));
        assert_eq!(
            (slots.lived.worst.as_deref(), slots.lived.example.as_deref()),
            (Some(&b"p:slots:2"[..]), Some(&b"p:slots:4"[..]))
        );
        assert_eq!((rest.lived.keys, rest.lived.over, rest.lived.without, look.seen), (2, 0, 0, 7));
    }

    #[test]
    fn what_is_wrong_names_how_many_an_example_and_the_way_out() {
        let look = look();
        let said: Vec<String> =
            look.families.iter().flat_map(|family| findings("main", family)).map(|one| one.to_string()).collect();
        assert_eq!(
            said,
            [
                "WRONG cache main, keys p:slots:*: 1 of 4 have no TTL, for example \"p:slots:4\"\n      \
                 mend: SET key value EX 120 in the readers that store them",
                "WRONG cache main, keys p:slots:*: 2 of 4 live longer than 2m, the longest 10m: \"p:slots:2\"\n      \
                 mend: store them with a TTL of at most 2m, or raise their line of [ttl]",
                "ok    cache main, keys p:*: 2, the longest lives 1h of 1h",
            ]
        );
        let none = Family { pattern: b"q:*".to_vec(), most: None, lived: Lived::default() };
        assert_eq!(findings("main", &none)[0].verdict, Grade::Note);
    }

    #[test]
    fn a_lifetime_is_told_in_its_two_largest_units() {
        for (millis, words) in [(0, "less than 1s"), (61_000, "1m 1s"), (7_200_000, "2h"), (90_061_000, "1d 1h")] {
            assert_eq!(in_words(millis), words);
        }
    }
}
