//! The architecture and the style that can be checked: walls between layers, sizes, words that have no place.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crieur::observe::ids::{LIST, Level};

use read::{circles, code, imports, long_functions, module, shared_types};

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
    "src/metrics",
    "src/notice.rs",
    "src/observe/ids.rs",
    "src/observe/line.rs",
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

/// The readers' crate keeps the same style.
const CLIENT: &str = "clients/rust/src";

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

/// What the files of a room may not import, each with all that is below it.
const WALLS: &[(&str, &[&str])] = &[
    (
        "postgres",
        &[
            "cache", "catalog", "config", "control", "feed", "keys", "ledger", "mark", "run", "rules", "source",
            "target",
        ],
    ),
    (
        "decode",
        &["cache", "config", "control", "feed", "keys", "ledger", "postgres", "rules", "run", "source", "target"],
    ),
    ("source", &["cache", "catalog", "cli", "config", "feed", "keys", "ledger", "run", "target"]),
    (
        "cache",
        &["catalog", "cli", "control", "decode", "feed", "ledger", "postgres", "rules", "run", "source", "target"],
    ),
    (
        "feed",
        &[
            "cache",
            "cli",
            "control::pooled",
            "control::session",
            "postgres::session",
            "postgres::wire",
            "run",
            "source::outbox",
            "source::replication",
            "tap",
            "target",
        ],
    ),
    (
        "target",
        &[
            "cache::redis",
            "catalog",
            "cli",
            "control::pooled",
            "control::session",
            "decode",
            "feed",
            "postgres",
            "run",
            "source",
            "tap",
        ],
    ),
    (
        "run",
        &[
            "cache::redis",
            "cli",
            "control::pooled",
            "control::session",
            "postgres",
            "source::outbox",
            "source::replication",
            "tap",
        ],
    ),
    ("ledger", &["cache", "cli", "config", "control", "feed", "rules", "run", "source", "target"]),
    (
        "rules",
        &[
            "cache", "catalog", "cli", "config", "control", "decode", "feed", "ledger", "observe", "run", "source",
            "target",
        ],
    ),
    ("catalog", &["cache", "cli", "config", "feed", "run", "source", "target"]),
    (
        "control",
        &[
            "cache",
            "cli",
            "config",
            "feed",
            "keys",
            "ledger",
            "run",
            "source::outbox::worker",
            "source::replication",
            "target",
        ],
    ),
    ("tap", &["cache", "cli", "config", "control::pooled", "control::session", "postgres", "run", "source", "target"]),
    ("config", &["cache", "catalog", "cli", "control", "decode", "feed", "run", "source", "target"]),
];

/// Words know no room but words.
const WORDS: &[&str] = &[
    "amount", "backoff", "change", "error", "gate", "glob", "keys", "lsn", "mistake", "notice", "question", "reminder",
    "secret", "shown", "start", "tag", "url",
];

/// Every file of `src`, by its module.
fn sources() -> BTreeMap<String, String> {
    let texts = files("src", "rs").into_iter();
    texts.map(|(path, text)| (module(&path.to_string_lossy()), code(&text))).collect()
}

fn is_in(module: &str, room: &str) -> bool {
    module == room || module.strip_prefix(room).is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn the_walls_between_the_rooms_stand() {
    let sources = sources();
    let mut complaints = Vec::new();
    for (module, seen) in imports(&sources) {
        for (_, forbidden) in WALLS.iter().filter(|(room, _)| is_in(module, room)) {
            let through = seen.iter().filter(|seen| forbidden.iter().any(|room| is_in(seen, room)));
            complaints.extend(through.map(|seen| format!("{module} imports {seen}")));
        }
        if WORDS.contains(&module) {
            let through = seen.iter().filter(|seen| !WORDS.contains(seen));
            complaints.extend(through.map(|seen| format!("{module} is a word and imports {seen}")));
        }
        let dies = |room: &str| is_in(module, room) && sources[module].contains("tokio_postgres::");
        complaints.extend(
            ["cache", "feed", "rules", "run", "tap", "target"]
                .iter()
                .filter(|room| dies(room))
                .map(|_| format!("{module}: tokio_postgres")),
        );
    }
    complain(complaints);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let found = circles(&imports(&sources)).into_iter();
    complain(found.map(|circle| format!("a circle: {}", circle.into_iter().collect::<Vec<_>>().join(", "))).collect());
}

/// A name of several types makes a reader look twice. One that its file keeps for itself is nobody else's business.
#[test]
fn no_two_types_that_others_may_name_have_one_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, code) in sources() {
        for name in shared_types(&code) {
            places.entry(name).or_default().push(module.clone());
        }
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    complain(twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect());
}

#[test]
fn files_and_lines_stay_readable() {
    let mut complaints = Vec::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("tests", "rs")).chain(files(CLIENT, "rs")) {
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
    for (path, text) in files("src", "rs").into_iter().chain(files(CLIENT, "rs")) {
        // A list of cases is data.
        if !path.ends_with("cases.rs") {
            let long = long_functions(&text, 70).into_iter();
            complaints.extend(long.map(|(line, length)| format!("{}:{line}: {length} lines", path.display())));
        }
    }
    complain(complaints);
}

/// They panic where nothing can be written: a full disk under the log, a closed pipe.
#[test]
fn nothing_is_printed_by_a_macro_that_panics() {
    let printing = [concat!("print", "!("), concat!("println", "!(")];
    let texts = files("src", "rs").into_iter().chain(files(CLIENT, "rs"));
    let complaints = texts.filter(|(path, _)| !path.ends_with("failpoints.rs"));
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
    let complaints = files("src", "rs").into_iter().chain(files(CLIENT, "rs")).flat_map(|(path, text)| {
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
