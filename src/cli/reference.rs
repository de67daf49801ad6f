//! The parts of the documentation that the code knows best: `crieur reference KIND` prints them as Markdown. A test compares
//! them with the pages, and writes them there with UPDATE=1. Pure.

use std::fmt::Write as _;
use std::time::Instant;

use crate::amount::shown;
use crate::cache::acl;
use crate::config::meaning::MEANINGS;
use crate::config::reference::{ConfigKey, ConfigKind};
use crate::config::{Leases, MAIN, reference, sinks};
use crate::error::Exit;
use crate::mark::Gap;
use crate::metrics::process::ProcessState;
use crate::metrics::{CacheState, Metrics, Outside};
use crate::observe::ids::{Entry, LIST, Level};
use crate::rules::plan::cause::CauseCounts;
use crate::rules::tally::OPERATIONS;
use crate::verify::tally::Verified;
use crate::warm::WarmTally;
use crate::words::Member;

/// Which part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ReferencePart {
    /// Every configuration key but those of the caches and the sinks.
    Configuration,
    /// Every key of a cache.
    CacheKeys,
    /// Every key of a sink.
    SinkKeys,
    /// Every metric, as the page of a daemon shows it.
    Metrics,
    /// Every exit code.
    ExitCodes,
    /// The help of every command but those of the next part.
    Commands,
    /// The help of the commands that write a configuration, and that compare the cache with the database.
    CommandsMore,
    /// The help of the commands that look at what runs.
    CommandsLive,
    /// The rights of the cache's user for the rules of Dousell Immo.
    Acl,
    /// Every id that a line of the log carries.
    Ids,
    /// Warnings and errors about the stream, the outbox and the slot.
    WarningsStream,
    /// Those about tables, rows and rules.
    WarningsTables,
    /// Those about the cache and the daemon itself.
    WarningsCache,
}

/// The part, as Markdown.
///
/// `crieur` is the command line that the help is of.
pub fn text(part: ReferencePart, crieur: clap::Command) -> String {
    let mut out = String::new();
    match part {
        ReferencePart::Configuration => configuration(&mut out, |key| !key.is_of_a_cache() && !key.is_of_a_sink()),
        ReferencePart::CacheKeys => configuration(&mut out, ConfigKey::is_of_a_cache),
        ReferencePart::SinkKeys => configuration(&mut out, ConfigKey::is_of_a_sink),
        ReferencePart::Metrics => metrics(&mut out),
        ReferencePart::ExitCodes => exit_codes(&mut out),
        ReferencePart::Commands => {
            commands(&mut out, crieur, |name| !MORE.contains(&name) && !LIVE.contains(&name));
        }
        ReferencePart::CommandsMore => commands(&mut out, crieur, |name| MORE.contains(&name)),
        ReferencePart::CommandsLive => commands(&mut out, crieur, |name| LIVE.contains(&name)),
        ReferencePart::Acl => rights(&mut out),
        ReferencePart::Ids => ids(&mut out),
        ReferencePart::WarningsStream | ReferencePart::WarningsTables | ReferencePart::WarningsCache => {
            warnings(&mut out, part)
        }
    }
    out
}

/// Adds a line. A `String` takes everything.
macro_rules! line {
    ($out:expr, $($format:tt)*) => {{ let _ = writeln!($out, $($format)*); }};
}

fn configuration(out: &mut String, is_meant: impl Fn(&ConfigKey) -> bool) {
    let mut section = "";
    for key in reference().iter().filter(|key| is_meant(key)) {
        let (of, written) = (key.split().0, key.written());
        if of != section {
            section = of;
            line!(out, "## `[{}]`\n", written.rsplit_once('.').map_or("", |(section, _)| section));
        }
        line!(out, "### `{written}`\n");
        let meaning = MEANINGS.iter().find(|(name, _)| *name == key.name);
        line!(out, "{}\n", meaning.map_or(key.doc, |(_, text)| text));
        line!(out, "{} {} Variable: {}.\n", value(key.kind), default(key), variables(key));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
}

/// What the value must be.
fn value(kind: ConfigKind) -> String {
    match kind {
        ConfigKind::Url => "Value: an address.".to_owned(),
        ConfigKind::Urls => "Value: a list of addresses.".to_owned(),
        ConfigKind::Name => "Value: a text that is not empty.".to_owned(),
        ConfigKind::Slot => "Value: 1 to 63 of `a-z`, `0-9` and `_`.".to_owned(),
        ConfigKind::Path => "Value: the name of a file.".to_owned(),
        ConfigKind::Choice(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            format!("Value: one of {}.", words.join(", "))
        }
        ConfigKind::Duration(least, most) => format!("Value: a duration from `{}` to `{}`.", shown(least), shown(most)),
        ConfigKind::Ascending => "Value: a list of durations above zero, ascending, each at most `1h`.".to_owned(),
        ConfigKind::Bytes(0) => "Value: a size, such as `\"64MiB\"`, or a number of bytes.".to_owned(),
        ConfigKind::Bytes(least) => {
            format!("Value: a size, such as `\"64MiB\"`, or a number of bytes, at least `{least}`.")
        }
        ConfigKind::Count(least, most) => format!("Value: a whole number from `{least}` to `{most}`."),
        ConfigKind::Texts => "Value: a list of texts.".to_owned(),
        ConfigKind::Hosts => "Value: a list of names, without scheme and port.".to_owned(),
        ConfigKind::Prefixes => "Value: a list of texts, each with its only `*` at the end.".to_owned(),
        ConfigKind::Secret => "Value: a text, which is never shown.".to_owned(),
        ConfigKind::Flag => "Value: `true` or `false`.".to_owned(),
        ConfigKind::Budget => "Value: commands a month, such as `\"200k\"` or `\"1.5M\"`, or `\"none\"`.".to_owned(),
        ConfigKind::Rate => "Value: a number and a time, such as `\"10/s\"`, `\"5/min\"` or `\"1000/h\"`.".to_owned(),
        ConfigKind::Socket => "Value: an address and a port.".to_owned(),
        ConfigKind::Nodes => {
            "Value: a table of hosts with ports by hosts with ports; in a variable `told=reached`, parted by commas."
                .to_owned()
        }
    }
}

fn default(key: &ConfigKey) -> String {
    let is_list = matches!(
        key.kind,
        ConfigKind::Urls | ConfigKind::Texts | ConfigKind::Hosts | ConfigKind::Prefixes | ConfigKind::Ascending
    );
    if let Some(said) = key.default.is_none().then(|| sinks::default_said(key.name)).flatten() {
        return said;
    }
    match key.default {
        None if key.also.is_some() && key.is_of_a_cache() => "Mandatory for each cache.".to_owned(),
        None if key.also.is_some() => "Mandatory.".to_owned(),
        None => "`Default:` none.".to_owned(),
        Some("") => "`Default:` `[]`.".to_owned(),
        Some(list) if is_list => {
            let items: Vec<_> = list.split(',').map(|item| format!("\"{item}\"")).collect();
            format!("`Default:` `[{}]`.", items.join(", "))
        }
        Some(number) if matches!(key.kind, ConfigKind::Count(..) | ConfigKind::Flag) => {
            format!("`Default:` `{number}`.")
        }
        Some(text) => format!("`Default:` `\"{text}\"`."),
    }
}

fn variables(key: &ConfigKey) -> String {
    let also = key.also.map_or_else(String::new, |name| format!(" or `{name}`"));
    format!("`{}`{also}", key.variable())
}

/// The page of a daemon that has just started, read as Prometheus reads it.
fn metrics(out: &mut String) {
    let main = CacheState {
        name: MAIN.into(),
        member: Member::Cache,
        required: true,
        away: false,
        refuses: false,
        place: String::new(),
        away_since: None,
        outages: 0,
        returns: 0,
        billed: 0,
        budget: None,
        sentinels: Some(true),
    };
    let outside = Outside { caches: &[main], process: ProcessState::default(), warnings: &[] };
    let beside = Verified::default().series() + &WarmTally::default().series();
    let page = Metrics::new(Instant::now()).text(&outside, Instant::now()) + &beside;
    line!(out, "| Metric | Kind | Meaning |\n|---|---|---|");
    let kinds: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, help) in page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')) {
        let label = match name {
            "crieur_role" => "{role}",
            "crieur_gaps_total" => "{cache,kind}",
            "crieur_build_info" => "{version}",
            "crieur_rules_info" => "{digest}",
            "crieur_changes_total" => "{table,operation}",
            "crieur_rule_keys_total" => "{rule}",
            "crieur_lookups_total" | "crieur_lookups_refused_total" => "{lookup}",
            "crieur_commit_to_deleted_seconds" => "{cache,le}",
            "crieur_sweep_causes_total" => "{cache,cause}",
            "crieur_warnings_total" => "{id}",
            "crieur_warm_pages_total" => "{result}",
            name if name.starts_with("crieur_cache_") || name.starts_with("crieur_mark_") => "{cache}",
            name if page.contains(&format!("\n{name}{{cache=")) => "{cache}",
            _ => "",
        };
        let kind = kinds.iter().find(|(other, _)| *other == name).map_or("", |(_, kind)| kind);
        line!(out, "| `{name}{label}` | {kind} | {help} |");
    }
    let roles: Vec<_> = page.lines().filter_map(|line| line.split("role=\"").nth(1)?.split('"').next()).collect();
    line!(out, "\nThe label `role` is one of `{}`.", roles.join("`, `"));
    line!(out, "The label `cache` is the name of the cache, `{MAIN}` for `[cache]`, or that of the sink.");
    line!(
        out,
        "The label `table` has the schema before its name; the label `operation` is one of `{}`.",
        OPERATIONS.join("`, `")
    );
    line!(
        out,
        "The label `rule` is the place of a rule, as `crieur explain` names it; the label `lookup` is its name."
    );
    let causes: Vec<_> = CauseCounts::default().each().map(|(cause, _)| cause).collect();
    line!(out, "The label `cause` is one of `{}`.", causes.join("`, `"));
    line!(out, "The label `id` is an [id of the log](log-ids.md) at WARN or above.");
    line!(out, "The label `kind` is one of `{}`.", Gap::ALL.map(|gap| gap.kind()).join("`, `"));
    let results: Vec<_> = page.lines().filter_map(|line| line.split("{result=\"").nth(1)?.split('"').next()).collect();
    line!(out, "The label `result` is one of `{}`.", results.join("`, `"));
}

fn exit_codes(out: &mut String) {
    line!(out, "| Code | Meaning | Does the systemd unit start crieur again? |\n|---|---|---|");
    for exit in Exit::ALL {
        let again = match exit {
            Exit::Ok => "no: somebody asked for the end",
            _ if Exit::FOR_GOOD.contains(&exit) => "no: a restart cannot mend this",
            _ => "yes",
        };
        line!(out, "| {} | {} | {again} |", exit as u8, exit.meaning());
    }
}

/// The pages of the runbook, and what the ids on them begin with.
const PAGES: [(ReferencePart, &str, &[&str]); 3] = [
    (
        ReferencePart::WarningsStream,
        "runbook-stream.md",
        &["stream", "session", "address", "catalog", "slot", "lookup", "replica", "outbox", "message", "standby"],
    ),
    (
        ReferencePart::WarningsTables,
        "runbook-tables.md",
        &["publication", "table", "writes", "rules", "row", "invalidate", "ddl"],
    ),
    (
        ReferencePart::WarningsCache,
        "runbook-cache.md",
        &[
            "run", "control", "reload", "metrics", "cache", "sink", "mark", "repair", "tls", "sweep", "gap",
            "sentinel", "cluster", "verify", "publish", "warm",
        ],
    ),
];

/// Where a warning has its heading.
fn page(entry: &Entry) -> Option<(ReferencePart, &'static str)> {
    let family = entry.name.split('.').next()?;
    PAGES.iter().find(|(_, _, families)| families.contains(&family)).map(|(part, file, _)| (*part, *file))
}

fn ids(out: &mut String) {
    line!(out, "| id | Level | Meaning |\n|---|---|---|");
    for entry in LIST {
        let name = match (entry.level, page(entry)) {
            (Level::Info, _) | (_, None) => format!("`{}`", entry.name),
            (_, Some((_, file))) => format!("[`{}`]({file}#{})", entry.name, entry.name.replace('.', "")),
        };
        line!(out, "| {name} | {} | {} |", entry.level.shown(), entry.means);
    }
}

/// What is typed stands between backquotes, as in the rest of the pages: commands up to their last word, SQL up to its `;`.
fn typed(act: &str) -> String {
    const COMMANDS: [&str; 5] = [
        "crieur setup",
        "crieur check",
        "systemctl start crieur",
        "systemctl restart crieur",
        "systemctl reload crieur",
    ];
    const SQL: [&str; 2] = ["SELECT ", "ALTER "];
    let (mut out, mut rest, mut is_code) = (String::new(), act, false);
    while let Some(next) = rest.chars().next() {
        let command = COMMANDS.iter().find(|command| rest.starts_with(**command)).map(|command| command.len());
        let sql = || SQL.iter().any(|word| rest.starts_with(word)).then(|| rest.find(';').map(|at| at + 1)).flatten();
        let length = if is_code { None } else { command.or_else(sql) };
        match length {
            Some(length) => {
                let _ = write!(out, "`{}`", &rest[..length]); // A String takes it all.
                rest = &rest[length..];
            }
            None => {
                is_code ^= next == '`';
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

fn warnings(out: &mut String, part: ReferencePart) {
    let is_here = |entry: &&Entry| page(entry).is_some_and(|(other, _)| other == part);
    for entry in LIST.iter().filter(|entry| entry.level != Level::Info).filter(is_here) {
        line!(out, "## `{}`\n", entry.name);
        line!(out, "{}: {}\n", entry.level.shown(), entry.means);
        line!(out, "- Stale? {}\n- Do: {}\n- Ends: {}\n", entry.stale, typed(entry.act), entry.ends);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
}

/// Commands that look at what runs, and order a sweep; they have a page of their own.
const LIVE: [&str; 4] = ["status", "tail", "sweep", "ttl"];

/// Commands whose help stands on the second page.
const MORE: [&str; 2] = ["init", "verify"];

fn commands(out: &mut String, mut crieur: clap::Command, is_here: impl Fn(&str) -> bool) {
    crieur.build();
    for command in crieur.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        if command.get_name() == "help" || !is_here(command.get_name()) {
            continue;
        }
        line!(out, "## `crieur {}`\n\n```text", command.get_name());
        let help = command.render_long_help().to_string();
        // Each ends with how to print it.
        let help = help.split("\n  -h, --help").next().unwrap_or_default().trim_end();
        for text in help.strip_suffix("Options:").unwrap_or(help).trim_end().lines() {
            line!(out, "{}", text.trim_end());
        }
        line!(out, "```\n");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
}

/// The families of `systemd/dousell.rules.toml`, which a test compares with the file.
pub const FAMILIES: [&str; 6] = [
    "properties:all_properties_public",
    "properties:detail:*",
    "properties:city:*",
    "payments:lease:*",
    "dashboard:*",
    "available_slots:*",
];

fn rights(out: &mut String) {
    let families = FAMILIES.map(|family| family.as_bytes().to_vec());
    line!(out, "```text");
    line!(out, "ACL SETUSER crieur on >password resetkeys -@all");
    line!(out, "{}", acl::grant("crieur", &families, Leases::None));
    line!(out, "```\n\nWith `cache.leases = \"companion\"` the second line is:\n\n```text");
    line!(out, "{}", acl::grant("crieur", &families, Leases::Companion));
    line!(out, "```");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_stands_between_backquotes() {
        let cases = [
            ("Nothing.", "Nothing."),
            ("Do this, then: systemctl start crieur", "Do this, then: `systemctl start crieur`"),
            ("`crieur check` names it; crieur setup", "`crieur check` names it; `crieur setup`"),
            ("The statement: ALTER TABLE … ADD …; at once", "The statement: `ALTER TABLE … ADD …;` at once"),
            ("SELECT 1; SELECT 2; and end", "`SELECT 1;` `SELECT 2;` and end"),
        ];
        for (act, expected) in cases {
            assert_eq!(typed(act), expected);
        }
    }

    #[test]
    fn every_warning_has_a_page() {
        assert!(LIST.iter().all(|entry| page(entry).is_some()));
    }

    #[test]
    fn every_key_has_one_meaning_and_every_code_one_line() {
        let names: Vec<_> = reference().iter().map(|key| key.name).collect();
        assert_eq!(MEANINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
        let codes = text(ReferencePart::ExitCodes, clap::Command::new("crieur"));
        assert!(Exit::ALL.iter().all(|exit| codes.matches(&format!("\n| {} |", *exit as u8)).count() == 1), "{codes}");
    }
}
