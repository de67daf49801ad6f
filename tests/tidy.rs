//! The architecture and the style that can be checked: walls between layers, sizes, words that have no place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crieur::observe::ids::{LIST, Level};

/// Modules that decide and never touch the outside: no runtime, no clock, no log.
const PURE: &[&str] = &[
    "src/backoff.rs",
    "src/glob.rs",
    "src/cache/identity.rs",
    "src/change.rs",
    "src/control/mod.rs",
    "src/decode",
    "src/error.rs",
    "src/gate.rs",
    "src/keys.rs",
    "src/lsn.rs",
    "src/postgres/quote.rs",
    "src/mark.rs",
    "src/reminder.rs",
    "src/metrics.rs",
    "src/notice.rs",
    "src/observe/ids.rs",
    "src/observe/news.rs",
    "src/cache/continuity.rs",
    "src/feed/batch.rs",
    "src/feed/ddl.rs",
    "src/feed/intake.rs",
    "src/feed/stall.rs",
    "src/feed/tables.rs",
    "src/feed/watch.rs",
    "src/ledger",
    "src/load.rs",
    "src/target/echo.rs",
    "src/target/pace.rs",
    "src/target/proof.rs",
    "src/target/ring.rs",
    "src/words.rs",
    "src/rules",
    "src/postgres/frames.rs",
];

/// What would break the wall around them.
const OUTSIDE: &[&str] = &["tokio::", "tracing::", "Instant::now", "SystemTime", "std::net", "std::fs", "println!"];

fn files(under: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.join(under)]);
    while let Some(path) = folders.pop() {
        if path.is_file() {
            if path.extension().is_some_and(|extension| extension == ending) {
                let text = std::fs::read_to_string(&path).expect("a source file is readable text");
                found.push((path.strip_prefix(root).expect("below the root").to_owned(), text));
            }
        } else {
            let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            folders.extend(entries.map(|entry| entry.expect("readable").path()));
        }
    }
    assert!(!found.is_empty(), "{under} holds no .{ending} file");
    found
}

/// The text before its unit tests, without comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn pure_modules_know_no_runtime_no_clock_and_no_log() {
    let texts = PURE.iter().flat_map(|path| files(path, "rs"));
    let complaints = texts.flat_map(|(path, text)| {
        let code = code(&text);
        let found: Vec<_> = OUTSIDE.iter().filter(|word| code.contains(*word)).collect();
        found.into_iter().map(|word| format!("{}: {word}", path.display())).collect::<Vec<_>>()
    });
    complain(complaints.collect());
}

#[test]
fn a_source_sees_no_cache_and_a_cache_no_source() {
    let sees = |folder: &'static str, words: &'static [&'static str]| {
        files(folder, "rs").into_iter().filter_map(move |(path, text)| {
            let code = code(&text);
            let word = words.iter().find(|word| code.contains(**word))?;
            Some(format!("{}: {word}", path.display()))
        })
    };
    const PARTS: [&str; 4] = ["source::replication", "cache::redis", "crate::control::session", "tokio_postgres"];
    let source = sees("src/source", &["crate::cache", "redis::", "crate::feed", "crate::target", "crate::run"]);
    let cache = sees("src/cache", &["crate::source", "crate::feed", "crate::target", "crate::run", "tokio_postgres"]);
    let feed = sees("src/feed", &["crate::cache", "crate::target", "crate::run"]);
    let target = sees("src/target", &["crate::source", "crate::decode", "crate::feed", "crate::run"]);
    let loops = ["src/feed", "src/target", "src/run"].into_iter().flat_map(|folder| sees(folder, &PARTS));
    complain(source.chain(cache).chain(feed).chain(target).chain(loops).collect());
}

#[test]
fn files_and_lines_stay_readable() {
    let mut complaints = Vec::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let lines = text.lines().count();
        if lines > 600 {
            complaints.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") && !path.ends_with("fuzz_targets") {
            complaints.push(format!("{}: no word on what the file is", path.display()));
        }
        // Text in quotes may be long: data, SQL, messages.
        let long = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 125 && !line.contains('"'));
        complaints.extend(long.map(|(number, _)| format!("{}:{}: over 125 columns", path.display(), number + 1)));
    }
    complain(complaints);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut complaints = Vec::new();
    for (path, text) in files("src", "rs") {
        let lines: Vec<&str> = text.lines().collect();
        if path.ends_with("cases.rs") {
            continue; // A list of cases as data.
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            if !head.trim_start_matches("async ").starts_with("fn ") {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let end = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
            if end + 1 > 70 {
                complaints.push(format!("{}:{}: {} lines", path.display(), start + 1, end + 1));
            }
        }
    }
    complain(complaints);
}

/// They panic where nothing can be written: a full disk under the log, a closed pipe.
#[test]
fn nothing_is_printed_by_a_macro_that_panics() {
    let printing = [concat!("print", "!("), concat!("println", "!(")];
    let complaints = files("src", "rs").into_iter().filter(|(path, _)| !path.ends_with("failpoints.rs"));
    let complaints = complaints.filter(|(_, text)| printing.iter().any(|word| code(text).contains(word)));
    complain(complaints.map(|(path, _)| format!("{}: write with cli/output.rs", path.display())).collect());
}

/// Where the text calls this macro: what follows its bracket.
fn calls<'t>(code: &'t str, of: &str) -> Vec<&'t str> {
    let name = format!("{of}!(");
    let is_other = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(&name)
        .filter(|(at, _)| !is_other(&code[..*at]))
        .map(|(at, _)| code[at + name.len()..].trim_start())
        .collect()
}

/// The level and the id come from one list, so that both can be relied on; only what nobody looks for is written freely.
#[test]
fn every_line_of_the_log_above_debug_carries_an_id() {
    let mut complaints = Vec::new();
    for (path, text) in files("src", "rs").into_iter().filter(|(path, _)| *path != Path::new("src/observe/mod.rs")) {
        let code = code(&text);
        for of in ["error", "warn", "info", "event"] {
            let found = calls(&code, of).into_iter().map(|rest| rest.lines().next().unwrap_or_default());
            complaints.extend(found.map(|line| format!("{}: write log!(Id::…) for {of}!({line}", path.display())));
        }
    }
    complain(complaints);
}

#[test]
fn every_id_of_the_list_is_used() {
    let texts = files("src", "rs").into_iter().filter(|(path, _)| *path != Path::new("src/observe/ids.rs"));
    let all: String = texts.map(|(_, text)| code(&text)).collect();
    let used: BTreeSet<&str> =
        all.split("Id::").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next()).collect();
    let unused = LIST.iter().filter(|entry| !used.contains(format!("{:?}", entry.id).as_str()));
    complain(unused.map(|entry| format!("{} is said nowhere", entry.name)).collect());
}

/// A line at ERROR says that somebody must act, so it must be able to say what.
#[test]
fn every_error_in_the_log_has_room_for_a_hint() {
    let loud = |id: &str| {
        let entry = LIST.iter().find(|entry| format!("{:?}", entry.id) == id);
        // Where a variable stands for the id, it may be any.
        entry.is_none_or(|entry| matches!(entry.level, Level::Error | Level::Lasting))
    };
    let mut complaints = Vec::new();
    for (path, text) in files("src", "rs").into_iter().filter(|(path, _)| *path != Path::new("src/observe/mod.rs")) {
        let code = code(&text);
        for call in calls(&code, "log") {
            let (id, said) = call.split_once(',').unwrap_or((call, ""));
            let is_told = said.split(';').next().unwrap_or_default().contains("hint");
            let quiet = ["id(gap)", "part.works()"].contains(&id) || !loud(id.trim_start_matches("Id::"));
            complaints.extend((!quiet && !is_told).then(|| format!("{}: {id} has no hint", path.display())));
        }
        if code.contains("hint=\"none\"") {
            complaints.push(format!("{}: no hint is better than none", path.display()));
        }
    }
    complain(complaints);
}

#[test]
fn the_calls_of_a_macro_are_those_of_its_whole_name() {
    let code = "log!(Id::A, hint); tracing::warn!(\n  x); compile_error!(y); catalog!(z)";
    assert_eq!(calls(code, "log"), ["Id::A, hint); tracing::warn!(\n  x); compile_error!(y); catalog!(z)"]);
    assert_eq!((calls(code, "warn").len(), calls(code, "error").len()), (1, 0));
}

#[test]
fn no_word_of_unfinished_work_stays() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("dbg", "!("), "unwrap()"];
    let complaints = files("src", "rs").into_iter().flat_map(|(path, text)| {
        let code = code(&text);
        words
            .into_iter()
            .filter(|word| code.contains(word))
            .map(|word| format!("{}: {word}", path.display()))
            .collect::<Vec<_>>()
    });
    complain(complaints.collect());
}

#[test]
fn every_sql_file_is_used() {
    let sources = files("src", "rs").into_iter().map(|(_, text)| text).collect::<String>();
    let unused = files("sql", "sql")
        .into_iter()
        .filter(|(path, _)| !sources.contains(path.file_name().and_then(|name| name.to_str()).expect("a plain name")));
    complain(unused.map(|(path, _)| format!("{} is included nowhere", path.display())).collect());
}

/// A script may be installed in a database of any encoding, and goes there through editors and terminals of any.
#[test]
fn sql_is_plain_ascii() {
    let mut complaints = Vec::new();
    for (path, text) in files("sql", "sql") {
        let odd = text.lines().enumerate().filter(|(_, line)| !line.is_ascii());
        complaints.extend(odd.map(|(number, line)| format!("{}:{}: {line}", path.display(), number + 1)));
    }
    complain(complaints);
}

/// What lasts is said by one reminder; a minute of a file's own would be another rule.
#[test]
fn one_reminder_serves_all_that_is_said_again() {
    let texts = files("src", "rs").into_iter().filter(|(path, _)| *path != Path::new("src/reminder.rs"));
    let own = texts.filter(|(_, text)| code(text).contains("const REMIND"));
    complain(own.map(|(path, _)| format!("{}: use src/reminder.rs", path.display())).collect());
}
