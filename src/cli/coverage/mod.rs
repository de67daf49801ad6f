//! `crieur coverage`: keys of a live cache that no rule can ever delete, and rules that no key of it was made for.
//!
//! Reads only: SCAN, a bounded number of keys, as much pause as work. What it says of a key is a guess from names; what
//! it shows are keys, so its output is as confidential as the cache.

pub(crate) mod families;
mod kinds;

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::cache::inspect::Inspect;
use crate::cache::lease;
use crate::cli::bar::Bar;
use crate::config::{CacheConfig, Config, Leases};
use crate::error::Exit;
use crate::glob;
use crate::keys::FamilyId;
use crate::rules::Rules;
use crate::rules::about::cover::{Suits, unversioned};
use crate::shown::quoted;
use families::Families;
use kinds::Kinds;

/// Lines of one kind that are printed.
const LINES_MAX: usize = 200;

/// What crieur keeps for itself.
const OWN: &[u8] = b"crieur:mark:";

/// Compares the keys of the live cache with the rules; changes nothing.
#[derive(Debug, clap::Args)]
pub struct CoverageArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Look at keys that match this Redis glob only.
    #[arg(long = "match", value_name = "GLOB", default_value = "*")]
    pub glob: String,
    /// Look at this many keys at most.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub keys_max: u64,
}

/// What the keys that were seen say about the rules.
struct Survey<'r> {
    rules: &'r Rules,
    /// The patterns of all families, without their versions.
    unversioned: Vec<(FamilyId, Vec<u8>)>,
    leases: Leases,
    /// Keys that were looked at, protected ones among them.
    keys: u64,
    protected: u64,
    covered: u64,
    /// Families of which a key was seen; a key that suits one well is of no other.
    matched: BTreeSet<FamilyId>,
    doubtful: Families,
    uncovered: Families,
    /// Which kinds of identifiers the keys of each family hold.
    kinds: Kinds,
    /// The glob that every key matches.
    glob: Vec<u8>,
}

impl<'r> Survey<'r> {
    fn new(rules: &'r Rules, leases: Leases, glob: &str) -> Self {
        let (matched, doubtful, uncovered) = (BTreeSet::new(), Families::default(), Families::default());
        let (kinds, glob) = (Kinds::default(), glob.as_bytes().to_vec());
        let unversioned = rules.families().map(|(family, pattern)| (family, unversioned(pattern))).collect();
        Survey {
            rules,
            unversioned,
            leases,
            keys: 0,
            protected: 0,
            covered: 0,
            matched,
            doubtful,
            uncovered,
            kinds,
            glob,
        }
    }

    fn add(&mut self, key: &[u8]) {
        self.keys += 1;
        // A lease goes with its key.
        let key = match self.leases {
            Leases::Companion => lease::key_of(key).unwrap_or(key),
            Leases::None => key,
        };
        if self.rules.protects(key) || key.starts_with(OWN) {
            self.protected += 1;
            return;
        }
        let covering: Vec<(FamilyId, Suits)> = self.rules.covering(key).collect();
        let best = covering.iter().max_by_key(|(_, suits)| *suits);
        // A key that is only doubtfully one of a template's proves no reader of the template.
        let well = covering.iter().filter(|(_, suits)| *suits == Suits::Well);
        self.matched.extend(well.map(|(family, _)| *family));
        match best {
            Some((family, Suits::Well)) => {
                self.covered += 1;
                self.kinds.add(*family, key);
            }
            Some((family, Suits::Doubtfully)) => {
                let note = format!("only if a value of {} held a \":\" or a version", self.origin(*family));
                self.doubtful.add(key, note);
            }
            None => self.uncovered.add(key, self.moved(key).unwrap_or_default()),
        }
    }

    /// Whether a rule deletes the same name in another version, or in none: readers that moved, and rules that did not.
    /// The longest pattern tells most.
    fn moved(&self, key: &[u8]) -> Option<String> {
        let plain = unversioned(key);
        let names = |pattern: &[u8]| pattern.iter().any(|byte| !matches!(byte, b'*' | b':'));
        let same = self.unversioned.iter().filter(|(_, pattern)| names(pattern) && glob::matches(pattern, &plain));
        let (family, _) = same.max_by_key(|(_, pattern)| pattern.len())?;
        Some(format!("but for the version {} deletes it: did readers move?", self.origin(*family)))
    }

    fn origin(&self, family: FamilyId) -> String {
        let (place, template) = self.rules.origin(family).unwrap_or(("?", "?"));
        format!("\"{template}\" at {place}")
    }

    /// Templates for which no key was seen, each once however many families it is spelled out to; where some of these
    /// were seen, the others by their patterns.
    fn never(&self) -> BTreeSet<String> {
        let seen: BTreeSet<String> = self.matched.iter().map(|family| self.origin(*family)).collect();
        let looked_for = |pattern: &[u8]| kinds::lies_within(pattern, &self.glob);
        let unseen = self.rules.families().filter(|(family, _)| !self.matched.contains(family));
        let unseen = unseen.filter(|(_, pattern)| looked_for(pattern));
        let said = |(family, pattern): (FamilyId, &[u8])| match self.origin(family) {
            origin if seen.contains(&origin) => format!("{} of {origin}", quoted(pattern)),
            origin => origin,
        };
        unseen.map(said).collect()
    }
}

/// Looks at the keys of each cache and prints what was found; says how to exit.
pub async fn run(
    config: &Config,
    arguments: &CoverageArgs,
    caches: &[(&CacheConfig, impl Inspect)],
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut worst = Exit::Ok;
    for (settings, cache) in caches {
        if caches.len() > 1 {
            writeln!(out, "cache {}:", settings.name)?;
        }
        let exit = look(config, arguments, (settings, cache), out).await?;
        worst = if worst == Exit::Ok { exit } else { worst };
    }
    Ok(worst)
}

async fn look(
    config: &Config,
    arguments: &CoverageArgs,
    (settings, cache): (&CacheConfig, &impl Inspect),
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let seen = config.rules.seen_by(&settings.name, &settings.protect);
    let mut survey = Survey::new(seen.as_ref().unwrap_or(&config.rules), settings.leases, &arguments.glob);
    let (mut bar, all) = (Bar::default(), cache.size().await.unwrap_or_default().min(arguments.keys_max));
    let mut each = |key: &[u8]| {
        if survey.keys == arguments.keys_max {
            return ControlFlow::Break(());
        }
        survey.add(key);
        bar.draw(&format!("cache {}: {} of about {all} keys looked at", settings.name, survey.keys));
        ControlFlow::Continue(())
    };
    let whole = cache.keys(arguments.glob.as_bytes(), &mut each).await;
    bar.clear();
    let whole = whole?;
    Ok(report(survey, whole, out)?)
}

/// The report. Something that no rule can delete is worth an exit code; a template without keys need not be wrong.
fn report(survey: Survey<'_>, whole: bool, out: &mut dyn Write) -> std::io::Result<Exit> {
    let never = survey.never();
    let mixed: Vec<_> = survey.kinds.odd().map(|(family, odd)| (survey.origin(family), odd)).collect();
    let Survey { keys, protected, covered, doubtful, uncovered, .. } = survey;
    let (doubtful, uncovered) = (doubtful.finish(), uncovered.finish());
    for (kind, families) in [("NO RULE", &uncovered), ("DOUBT  ", &doubtful)] {
        for (name, seen) in families.iter().take(LINES_MAX) {
            let keys = if seen.count == 1 { "key" } else { "keys" };
            writeln!(out, "{kind} {name}: {} {keys}, for example {}", seen.count, quoted(&seen.example))?;
            if !seen.note.is_empty() {
                writeln!(out, "        {}", seen.note)?;
            }
        }
        if families.len() > LINES_MAX {
            writeln!(out, "{kind} … and {} more families", families.len() - LINES_MAX)?;
        }
    }
    for (origin, kinds::Odd { shape, count, example, usual }) in mixed.iter().take(LINES_MAX) {
        let keys = if *count == 1 { "key" } else { "keys" };
        writeln!(out, "DOUBT   {shape}: {count} {keys}, for example {}", quoted(example))?;
        writeln!(out, "        most keys of {origin} are {usual}: is it another thing's identifier?")?;
    }
    for template in never.iter().take(LINES_MAX) {
        writeln!(out, "NEVER   {template}: no key was seen")?;
    }
    if never.len() > LINES_MAX {
        writeln!(out, "NEVER   … and {} more", never.len() - LINES_MAX)?;
    }
    let count = |families: &[(String, families::Seen)]| families.iter().map(|(_, seen)| seen.count).sum::<u64>();
    let odd: u64 = mixed.iter().map(|(_, odd)| odd.count).sum();
    let (no_rule, doubt, covered) = (count(&uncovered), count(&doubtful) + odd, covered - odd);
    let all = if whole { "" } else { ", which are not all" };
    writeln!(
        out,
        "{keys} keys{all}: {covered} covered, {no_rule} without a rule, {doubt} in doubt, {protected} protected"
    )?;
    Ok(if uncovered.is_empty() && doubtful.is_empty() && mixed.is_empty() { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn readers_that_moved_to_other_names_are_shown_with_the_rule_that_did_not() {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nnamespace = 'p'\nkeys = ['home', 'detail:{id}', 'city:{city}', 'gone:{4,8}']\n",
        );
        let mut survey = Survey::new(&rules, Leases::Companion, "*");
        let keys: &[&[u8]] = &[
            b"p:home_v4",
            b"p:detail:1",
            b"p:detail:2",
            b"lease:{p:detail:2}",
            b"p:detail:1_v4",
            b"p:detail:2_v4",
            b"p:city:Mbour",
            b"p:search:a\xFF\n",
            b"lock:x",
            b"crieur:mark:crieur",
        ];
        keys.iter().for_each(|key| survey.add(key));
        let mut out = Vec::new();
        assert_eq!(report(survey, false, &mut out).expect("written"), Exit::Failed);
        let expected = r#"NO RULE p:home_v4: 1 key, for example "p:home_v4"
        but for the version "home" at rules.toml:1 deletes it: did readers move?
NO RULE p:search:{bytes}: 1 key, for example "p:search:a\xff\n"
DOUBT   p:detail:{number}_v4: 2 keys, for example "p:detail:1_v4"
        only if a value of "detail:{id}" at rules.toml:1 held a ":" or a version
NEVER   "gone:{4,8}" at rules.toml:1: no key was seen
NEVER   "home" at rules.toml:1: no key was seen
10 keys, which are not all: 4 covered, 2 without a rule, 2 in doubt, 2 protected
"#;
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    /// The report on a cache with these keys, but for its last line.
    fn reported(rules: &str, keys: &[&str]) -> String {
        reported_within("*", rules, keys)
    }

    fn reported_within(glob: &str, rules: &str, keys: &[&str]) -> String {
        let rules = rules_of(&format!("[[rules]]\ntable = 't'\n{rules}\n"));
        let mut survey = Survey::new(&rules, Leases::None, glob);
        keys.iter().for_each(|key| survey.add(key.as_bytes()));
        let mut out = Vec::new();
        report(survey, true, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        text.rsplit_once('\n').and_then(|(text, _)| text.rsplit_once('\n')).map_or("", |(lines, _)| lines).to_owned()
    }

    #[test]
    fn a_name_of_a_list_that_no_key_has_any_more_is_never_seen() {
        let list = "keys = ['{properties:detail,property:v2}:{id}']\ncompanions = [':meta']";
        let never = |pattern: &str| {
            format!(
                "NEVER   \"{pattern}\" of \"{{properties:detail,property:v2}}:{{id}}\" at rules.toml:1: no key was seen"
            )
        };
        assert_eq!(
            reported(list, &["property:v2:7", "property:v2:7:meta", "properties:detail:7", "properties:detail:7:meta"]),
            ""
        );
        let old = ["properties:detail:*", "properties:detail:*:meta"].map(never).join("\n");
        assert_eq!(reported(list, &["property:v2:7", "property:v2:7:meta"]), old);
        // A companion alone is no key of the template itself.
        assert_eq!(
            reported(list, &["property:v2:7", "property:v2:7:meta", "properties:detail:7:meta"]),
            never("properties:detail:*"),
        );
        let all = "NEVER   \"{properties:detail,property:v2}:{id}\" at rules.toml:1: no key was seen";
        assert_eq!(reported(list, &[]), all);
    }

    #[test]
    fn readers_that_moved_from_one_version_to_another_are_shown() {
        let said = "        but for the version \"home_v3\" at rules.toml:1 deletes it: did readers move?";
        for key in ["home_v4", "home"] {
            let expected = format!(
                "NO RULE {key}: 1 key, for example \"{key}\"\n{said}\nNEVER   \"home_v3\" at rules.toml:1: no key was seen"
            );
            assert_eq!(reported("keys = ['home_v3', 'v1:{id}']", &[key, "v1:x"]), expected);
        }
        let deep = reported("keys = ['p:v3:d:{id}', 'p:x']", &["p:v4:d:7", "p:x"]);
        assert!(deep.contains("but for the version \"p:v3:d:{id}\" at"), "{deep}");
    }

    #[test]
    fn a_template_that_only_doubtful_keys_could_meet_was_never_seen() {
        let found = reported("keys = ['d:{id}', 'e']", &["d:7:meta", "e"]);
        assert!(found.starts_with("DOUBT   d:{number}:meta: 1 key"), "{found}");
        assert!(found.ends_with("NEVER   \"d:{id}\" at rules.toml:1: no key was seen"), "{found}");
    }

    #[test]
    fn templates_outside_of_the_glob_are_not_missed() {
        let rules = "keys = ['a:{id}', 'b:{id}', '*:all', 'a:b:c']";
        let never = |key: &str| format!("NEVER   \"{key}\" at rules.toml:1: no key was seen");
        assert_eq!(reported_within("a:*", rules, &["a:7"]), never("a:b:c"));
        assert_eq!(reported_within("a:*", rules, &[]), [never("a:b:c"), never("a:{id}")].join("\n"));
        assert_eq!(reported_within("x", rules, &[]), "");
    }

    #[test]
    fn identifiers_of_another_kind_than_most_are_in_doubt() {
        let uuid = |number: u32| format!("d:6f9619ff-8b86-d011-b42d-{number:012}");
        let keys: Vec<String> = (0..9).map(uuid).chain(["d:42".to_owned()]).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let expected = "DOUBT   d:{number}: 1 key, for example \"d:42\"\n        \
            most keys of \"d:{id}\" at rules.toml:1 are d:{uuid}: is it another thing's identifier?";
        assert_eq!(reported("keys = ['d:{id}']", &keys), expected);
        assert_eq!(reported("keys = ['d:{city}']", &["d:Mbour", "d:7", "d:a-b"]), "", "words are of any kind");
    }

    #[test]
    fn versions_within_a_name_and_like_families_make_one_line_each() {
        let moved = reported("keys = ['popular_v3_8', 'x:{id}']", &["popular_v4_8", "x:1"]);
        assert!(moved.contains("but for the version \"popular_v3_8\" at rules.toml:1 deletes it"), "{moved}");
        let folded = reported("keys = ['x:{id}']", &["x:1", "user:1:cart", "user:2:cart", "user:1:home"]);
        assert_eq!(folded, "NO RULE user:{number}:{cart,home}: 3 keys, for example \"user:1:cart\"");
    }

    #[test]
    fn a_timestamp_is_no_doubt() {
        assert_eq!(reported("keys = ['at:{t}']", &["at:2024-03-01T23:30:00.5+00:00"]), "");
    }

    #[test]
    fn a_cache_that_the_rules_cover_ends_well() {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['d:{id}']\n");
        let mut survey = Survey::new(&rules, Leases::None, "*");
        survey.add(b"d:1");
        let mut out = Vec::new();
        assert_eq!(report(survey, true, &mut out).expect("written"), Exit::Ok);
        assert_eq!(out, b"1 keys: 1 covered, 0 without a rule, 0 in doubt, 0 protected\n");
    }
}
