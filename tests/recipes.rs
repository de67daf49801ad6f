//! The recipes of docs/guide/recipes.md: each block of rules, and each change behind it, through `crieur explain`.

use std::collections::BTreeSet;
use std::path::Path;

use crieur::cli::explain::{Args, Operation, explain};
use crieur::config::rules_of_file;
use crieur::rules::Rules;

/// The blocks between ``` of the recipes, with their language.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let fenced = include_str!("../docs/guide/recipes.md").split("```").skip(1).step_by(2);
    let blocks = fenced.filter_map(|block| block.split_once('\n'));
    blocks.map(|(info, block)| (info.split(' ').next().unwrap_or_default(), block)).collect()
}

/// Keys, patterns and lookups of a change, as the recipes write them.
fn made(rules: &Rules, change: &str) -> BTreeSet<String> {
    let mut words = change.splitn(3, ' ');
    let (table, operation) = (words.next().expect("a table"), words.next().expect("an operation"));
    let rows = words.next().expect("a row");
    let (operation, old, new) = match (operation, rows.split_once(" -> ")) {
        ("insert", None) => (Operation::Insert, None, Some(rows)),
        ("delete", None) => (Operation::Delete, Some(rows), None),
        ("update", Some((old, new))) => (Operation::Update, Some(old), Some(new)),
        other => panic!("{change}: {other:?}"),
    };
    let [old, new] = [old, new].map(|row| row.map(str::to_owned));
    let args = Args { table: table.to_owned(), operation, old, new, types: Vec::new() };
    let said = explain(rules, &args).unwrap_or_else(|error| panic!("{change}: {error}"));
    let mut made = BTreeSet::new();
    let mut lookup = String::new();
    for line in said.lines() {
        let line = line.trim_end();
        if let Some(key) = line.strip_prefix("key       ") {
            made.insert(key.to_owned());
        } else if let Some(pattern) = line.strip_prefix("pattern   ") {
            made.insert(format!("pattern {pattern}"));
        } else if let Some(family) = line.strip_prefix("lookup    ") {
            lookup = format!("lookup {family}");
        } else if let Some((_, argument)) =
            line.trim_start().strip_prefix("with $").and_then(|text| text.split_once(" = "))
        {
            made.insert(format!("{lookup} with {argument}"));
        }
    }
    made
}

#[test]
fn every_recipe_deletes_what_it_says() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let path = directory.path().join("rules.toml");
    let (mut rules, mut recipes, mut changes) = (None, 0, 0);
    for (language, block) in blocks() {
        match language {
            "toml" => {
                std::fs::write(&path, block).expect("the directory is ours");
                rules = Some(read(&path));
                recipes += 1;
            }
            "text" => {
                let rules = rules.take().expect("changes stand behind their rules");
                for line in block.lines() {
                    let (change, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("{line}"));
                    let expected = expected.split(", ").filter(|key| *key != "nothing").map(str::to_owned);
                    assert_eq!(made(&rules, change), expected.collect::<BTreeSet<_>>(), "{change}");
                    changes += 1;
                }
            }
            other => assert_eq!(other, "sql"),
        }
        assert!(language == "toml" || rules.is_none() || language == "sql", "a recipe without changes");
    }
    assert!(recipes >= 7 && changes >= 12, "{recipes} recipes, {changes} changes");
}

fn read(path: &Path) -> Rules {
    rules_of_file(path).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}
