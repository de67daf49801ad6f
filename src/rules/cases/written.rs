//! The cases that are written down: `*.txt` beside this file, each line a change and exactly what it makes.
//!
//! A paragraph under `rules:` is a rules file, a line `when:` a rule with that condition and the key `k`; `columns:` is
//! the table `t`. Cells are split by `|`, `~` is unknown, `␤` a new line; keys are split by ` & `, a `~` before one
//! makes it a pattern, `?2` are two lookups.

use super::{Before, Made, check};

const FILES: [(&str, &str); 4] = [
    ("filters-of-changes", include_str!("filters-of-changes.txt")),
    ("conditions", include_str!("conditions.txt")),
    ("values", include_str!("values.txt")),
    ("shapes", include_str!("shapes.txt")),
];

fn before(cells: &[String]) -> Vec<&str> {
    cells.iter().map(String::as_str).collect()
}

/// The cells of a row image, behind the word that says how much of it is known.
fn cells(text: &str) -> Vec<String> {
    text.split('|').map(|cell| cell.replace('␤', "\n")).collect()
}

/// Runs one line.
fn run(rules: &str, columns: &str, line: &str) {
    let (change, expected) = line.split_once(" =>").unwrap_or_else(|| panic!("no arrow in {line:?}"));
    let expected: Vec<String> = expected
        .split(" & ")
        .map(|key| key.trim_start_matches(' ').replace('␤', "\n"))
        .filter(|key| !key.is_empty())
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let (word, rest) = change.split_once(' ').unwrap_or((change, ""));
    let (old, new) = match (word, rest.split_once(" -> ")) {
        ("update", Some((old, new))) => (old, cells(new)),
        ("insert", _) => ("absent", cells(rest)),
        _ => (rest, Vec::new()),
    };
    let (known, old) = old.split_once(' ').unwrap_or((old, ""));
    let (old, new) = (cells(old), new);
    let (old, new) = (before(&old), before(&new));
    let known = match known {
        "full" => Before::Full(&old),
        "key" => Before::Key(&old),
        _ => Before::Absent,
    };
    let made = match word {
        "insert" => Made::Insert(&new),
        "update" => Made::Update(known, &new),
        "delete" => Made::Delete(known),
        "truncate" => Made::Truncate,
        other => panic!("no change: {other}"),
    };
    check(rules, "t", columns, made, &expected);
}

#[test]
fn every_written_case_makes_exactly_its_keys() {
    let mut count = 0;
    for (name, text) in FILES {
        let (mut rules, mut columns) = (String::new(), "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            match line.split_once(": ") {
                _ if line.is_empty() || line.starts_with('#') => {}
                _ if line == "rules:" => {
                    let block: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                    rules = block.join("\n") + "\n";
                }
                Some(("columns", text)) => columns = text,
                Some(("when", text)) => {
                    rules = format!("[[rules]]\ntable = 't'\nkeys = ['k']\nwhen = '''{text}'''\n");
                }
                _ => {
                    count += 1;
                    run(&rules, columns, line);
                }
            }
        }
        assert!(!rules.is_empty() && !columns.is_empty(), "{name} holds no case");
    }
    assert!(count >= 150, "{count} cases");
}
