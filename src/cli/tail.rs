//! `crieur tail`: the changes that the daemon sees, as they come, and how long after its commit each is deleted.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::cli::ask::{DeskAnswers, SocketArgs};
use crate::cli::output::say;
use crate::cli::terminal::Terminal;
use crate::desk::words::{DeskAnswer, DeskQuestion, ToldChange};
use crate::error::{Error, Exit, Result};
use crate::glob;
use crate::shown::{quoted, shown};

/// A change that is deleted nowhere for so long is shown as one that waits.
const WAITS: Duration = Duration::from_secs(1);
/// Changes that are waited for; of more the oldest are given up.
const WAITING_MAX: usize = 1_000;

/// Tables that a hint names at most.
const NAMED_MAX: usize = 12;

/// Which changes are shown, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct TailArgs {
    /// The configuration file; only control.socket of it is read.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    #[command(flatten)]
    pub(super) socket: SocketArgs,
    /// Only changes of this table: NAME or SCHEMA.NAME.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only changes of this kind.
    #[arg(long, value_name = "OPERATION", value_parser = ["insert", "update", "delete", "truncate"])]
    operation: Option<String>,
    /// Only changes of which a key was named by the rule at this place, such as crieur.toml:12.
    #[arg(long, value_name = "FILE:LINE")]
    rule: Option<String>,
    /// Only changes that name a key that matches this Redis glob.
    #[arg(long, value_name = "GLOB")]
    key: Option<String>,
    /// Only deletes in this cache.
    #[arg(long, value_name = "NAME")]
    cache: Option<String>,
    /// Write one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl TailArgs {
    /// Whether the change is one of those that are wanted.
    fn wants(&self, change: &ToldChange) -> bool {
        let is = |wanted: &Option<String>, same: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(same);
        is(&self.table, &|table| is_table(&change.table, table))
            && is(&self.operation, &|operation| operation == change.operation)
            && is(&self.rule, &|rule| change.keys.iter().any(|key| is_at(&key.rule, rule)))
            && is(&self.key, &|pattern| {
                change.keys.iter().any(|key| glob::matches(pattern.as_bytes(), key.key.as_bytes()))
            })
    }

    fn wants_cache(&self, cache: &str) -> bool {
        self.cache.as_deref().is_none_or(|wanted| wanted == cache)
    }

    /// Refuses a filter that nothing can meet, by the names that the daemon knows.
    fn can_be_met(&self, caches: &[String], tables: &[String]) -> Result<()> {
        let refused = |what: String, hint: String| Err(Error::definite(Exit::Usage, what).hint(hint));
        match (&self.cache, &self.table) {
            (Some(cache), _) if !caches.is_empty() && !caches.contains(cache) => {
                let what = format!("there is no cache {}", quoted(cache.as_bytes()));
                refused(what, format!("The caches are: {}.", caches.join(", ")))
            }
            (_, Some(table)) if !tables.is_empty() && !tables.iter().any(|known| is_table(known, table)) => {
                let what = format!("no rule has the table {}", quoted(table.as_bytes()));
                let more = if tables.len() > NAMED_MAX { ", …" } else { "." };
                let named: Vec<&str> = tables.iter().take(NAMED_MAX).map(String::as_str).collect();
                refused(what, format!("The tables of the rules are: {}{more}", named.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a table, which has its schema, is the one of this name, which may have none.
fn is_table(table: &str, wanted: &str) -> bool {
    table == wanted || table.split_once('.').is_some_and(|(_, name)| name == wanted)
}

/// Whether a rule stands there: its place as it is shown, or the end of it.
fn is_at(place: &str, wanted: &str) -> bool {
    place == wanted || place.strip_suffix(wanted).is_some_and(|before| before.ends_with('/'))
}

/// Where a change is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where<'a> {
    /// In the cache of this name, so long after the commit, in milliseconds.
    In(&'a str, u64),
    /// Nowhere yet, so long after the commit.
    Nowhere(u64),
}

/// One line for people.
fn line(change: &ToldChange, at: Where<'_>, terminal: Terminal) -> String {
    let (age, cache) = match at {
        Where::In(cache, age) => (format!("{:>6}", in_short(age)), cache),
        Where::Nowhere(age) => (format!("{:>6}", in_short(age)), "waits"),
    };
    let name = change.table.split_once('.').filter(|_| terminal.is_narrow()).map_or(&*change.table, |(_, name)| name);
    let table = shown(name.as_bytes());
    let head = format!("{age} {cache} {table} {} ", change.operation);
    let mut keys: Vec<String> = change.keys.iter().map(|key| shown(key.key.as_bytes())).collect();
    if change.more > 0 {
        keys.push(format!("+{}", change.more));
    }
    let mut rules: Vec<&str> = change.keys.iter().map(|key| key.rule.as_str()).collect();
    rules.dedup();
    let by = if rules.is_empty() { String::new() } else { format!(" by {}", rules.join(", ")) };
    let rest = terminal.fit(&format!("{}{by}", keys.join(" ")), head.chars().count());
    let colour = if matches!(at, Where::Nowhere(_)) { 33 } else { 32 };
    let head = format!(
        "{} {} {} {} ",
        terminal.paint(colour, &age),
        terminal.paint(colour, cache),
        table,
        terminal.paint(2, &change.operation)
    );
    format!("{head}{rest}")
}

/// `3ms`, `2.1s`, `5m`.
fn in_short(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{}m", millis / 60_000),
    }
}

/// One line for programs.
fn object(change: &ToldChange, at: Where<'_>) -> serde_json::Value {
    let (cache, age) = match at {
        Where::In(cache, age) => (Some(cache), age),
        Where::Nowhere(age) => (None, age),
    };
    let keys: Vec<_> = change
        .keys
        .iter()
        .map(|key| serde_json::json!({ "key": key.key, "rule": key.rule, "pattern": key.is_pattern }))
        .collect();
    serde_json::json!({
        "number": change.number, "committed_ms": change.committed_ms, "age_ms": age, "table": change.table,
        "operation": change.operation, "keys": keys, "more": change.more, "cache": cache, "waits": cache.is_none(),
    })
}

/// Changes that are wanted and may yet be deleted somewhere.
#[derive(Debug, Default)]
struct Waiting(BTreeMap<u64, Waits>);

#[derive(Debug)]
struct Waits {
    change: ToldChange,
    /// When it is shown as one that waits; `None` when it was shown.
    due: Option<Instant>,
}

impl Waiting {
    fn add(&mut self, change: ToldChange, now: Instant) {
        if self.0.len() >= WAITING_MAX {
            self.0.pop_first();
        }
        self.0.insert(change.number, Waits { change, due: Some(now + WAITS) });
    }

    /// The change of this number, which is deleted somewhere.
    fn gone(&mut self, number: u64) -> Option<&ToldChange> {
        let waits = self.0.get_mut(&number)?;
        waits.due = None;
        Some(&waits.change)
    }

    fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|waits| waits.due).min()
    }

    fn take_due(&mut self, now: Instant) -> Vec<&ToldChange> {
        let due = self.0.values_mut().filter(|waits| waits.due.is_some_and(|due| due <= now));
        due.map(|waits| {
            waits.due = None;
            &waits.change
        })
        .collect()
    }
}

/// Shows changes until `end`, or until the daemon ends.
///
/// # Errors
///
/// Nobody answers, the daemon refuses, a filter names what is not there, or nothing can be written.
pub async fn run(arguments: &TailArgs, end: impl Future<Output = ()>, out: &mut impl Write) -> anyhow::Result<Exit> {
    tokio::pin!(end);
    let terminal = Terminal::of_stdout();
    let path = arguments.socket.path(&arguments.config);
    let mut answers = DeskAnswers::of(&path, &DeskQuestion::Tail).await?;
    let mut waiting = Waiting::default();
    let show = |out: &mut dyn Write, change: &ToldChange, at: Where<'_>| match arguments.json {
        true => writeln!(out, "{}", object(change, at)),
        false => writeln!(out, "{}", line(change, at, terminal)),
    };
    loop {
        let due = waiting.due();
        let answer = tokio::select! {
            biased;
            () = &mut end => return Ok(Exit::Ok),
            answer = answers.next() => answer?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                for change in waiting.take_due(Instant::now()) {
                    show(out, change, Where::Nowhere(since(change.committed_ms)))?;
                }
                continue;
            }
        };
        match answer {
            None => {
                say("crieur tail ends: the daemon ended\n");
                return Ok(Exit::Ok);
            }
            Some(DeskAnswer::Begins { caches, tables }) => {
                arguments.can_be_met(&caches, &tables)?;
                if !arguments.json {
                    say("following the changes; Ctrl-C ends\n");
                }
            }
            Some(DeskAnswer::Change(change)) if arguments.wants(&change) => waiting.add(change, Instant::now()),
            Some(DeskAnswer::Gone { number, cache, after_ms }) => {
                if let Some(change) = waiting.gone(number)
                    && arguments.wants_cache(&cache)
                {
                    show(out, change, Where::In(&cache, after_ms))?;
                }
            }
            Some(DeskAnswer::LeftOut { changes }) if arguments.json => {
                writeln!(out, "{}", serde_json::json!({ "left_out": changes }))?;
            }
            Some(DeskAnswer::LeftOut { changes }) => {
                writeln!(out, "{}", terminal.paint(33, &format!("… {changes} changes are left out here")))?;
            }
            Some(_) => {}
        }
        out.flush()?;
    }
}

/// Milliseconds since then, by our clock.
fn since(committed_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(committed_ms)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::desk::words::ToldKey;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        tail: TailArgs,
    }

    fn change() -> ToldChange {
        let key = |key: &str, rule: &str| ToldKey { rule: rule.to_owned(), key: key.to_owned(), is_pattern: false };
        ToldChange {
            number: 7,
            committed_ms: 1,
            table: "public.properties".to_owned(),
            operation: "update".to_owned(),
            keys: vec![
                key("properties:detail:12", "/etc/crieur/crieur.toml:8"),
                key("p\nq", "/etc/crieur/crieur.toml:8"),
            ],
            more: 3,
        }
    }

    #[test]
    fn filters_are_all_to_be_met() {
        for (arguments, wanted) in [
            (&[][..], true),
            (&["--table", "properties"], true),
            (&["--table", "public.properties", "--operation", "update"], true),
            (&["--table", "other"], false),
            (&["--operation", "insert"], false),
            (&["--key", "properties:*"], true),
            (&["--key", "properties"], false),
            (&["--rule", "crieur.toml:8"], true),
            (&["--rule", "toml:8"], false),
            (&["--rule", "/etc/crieur/crieur.toml:8", "--key", "x*"], false),
        ] {
            let only = Only::try_parse_from([&["tail"], arguments].concat()).expect("they are arguments");
            assert_eq!(only.tail.wants(&change()), wanted, "{arguments:?}");
        }
        assert!(Only::try_parse_from(["tail", "--operation", "drop"]).is_err());
    }

    #[test]
    fn a_filter_that_names_what_is_not_there_is_refused_with_what_is() {
        let tables: Vec<String> = (0..13).map(|number| format!("public.t{number}")).collect();
        let caches = ["main".to_owned(), "dakar".to_owned()];
        for (arguments, refused) in [
            (&[][..], None),
            (&["--cache", "dakar", "--table", "t12"], None),
            (&["--table", "public.t3"], None),
            (&["--cache", "nope"], Some(("there is no cache \"nope\"", "main, dakar."))),
            (&["--table", "nope"], Some(("no rule has the table \"nope\"", "public.t11, …"))),
            (&["--table", "other.t3"], Some(("no rule has the table \"other.t3\"", "public.t0, "))),
        ] {
            let only = Only::try_parse_from([&["tail"], arguments].concat()).expect("they are arguments");
            let met = only.tail.can_be_met(&caches, &tables);
            assert_eq!(met.is_err(), refused.is_some(), "{arguments:?}");
            if let (Err(error), Some((what, hint))) = (met, refused) {
                assert_eq!((error.exit(), error.message.as_str()), (Exit::Usage, what));
                assert!(error.hint.as_ref().is_some_and(|said| said.contains(hint)), "{error:?}");
            }
            assert!(only.tail.can_be_met(&[], &[]).is_ok(), "a daemon that told of none is believed");
        }
    }

    #[test]
    fn a_line_says_age_cache_table_operation_keys_and_rule_and_holds_no_other_line() {
        let wide = Terminal::default();
        assert_eq!(
            line(&change(), Where::In("main", 3), wide),
            "   3ms main public.properties update properties:detail:12 \"p\\nq\" +3 by /etc/crieur/crieur.toml:8"
        );
        let narrow = Terminal { colours: false, columns: Some(60) };
        let cut = line(&change(), Where::Nowhere(61_000), narrow);
        assert_eq!(
            (cut.as_str(), cut.chars().count()),
            ("    1m waits public.properties update properties:detail:12 …", 60)
        );
        let object = object(&change(), Where::Nowhere(1_500));
        assert_eq!((&object["waits"], &object["cache"], &object["age_ms"]), (&true.into(), &().into(), &1_500.into()));
    }

    #[test]
    fn a_change_waits_once_and_no_more_when_it_is_gone_somewhere() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.add(change(), now);
        assert!(waiting.take_due(now).is_empty());
        assert_eq!(waiting.take_due(now + WAITS).len(), 1);
        assert!(waiting.take_due(now + WAITS).is_empty() && waiting.gone(7).is_some());
        waiting.add(ToldChange { number: 8, ..change() }, now);
        assert!(waiting.gone(8).is_some() && waiting.due().is_none() && waiting.gone(9).is_none());
    }
}
