//! The files that `crieur init` writes, as texts. Pure.

use crate::cli::init::look::SeenTable;
use crate::cli::init::propose::{Proposal, ProposedKey, by_keys};
use crate::config::Mode;

/// What is known when the configuration is written.
#[derive(Clone, Debug)]
pub struct InitFacts {
    /// How changes are read, and why.
    pub mode: (Mode, String),
    /// The name of the rules file, beside the configuration.
    pub rules_file: String,
    /// The name of the file with the addresses.
    pub env_file: String,
    /// The cache was read.
    pub saw_cache: bool,
}

/// A text of TOML in quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// A comment: a line break in a name does not end it.
fn comment(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    format!("# {}\n", text.chars().map(plain).collect::<String>())
}

/// `crieur.toml`
pub fn config(known: &InitFacts) -> String {
    let (mode, why) = &known.mode;
    let mode = match mode {
        Mode::Replication => "replication",
        Mode::Outbox => "outbox",
    };
    let mut out = String::from("# Written by crieur init. Each line that is commented out shows its default.\n");
    out.push_str(&comment(&format!("The addresses are in {}: DATABASE_URL and REDIS_URL.", known.env_file)));
    out.push_str(&format!("\nrules_file = {}\n\n[postgres]\n", quoted(&known.rules_file)));
    out.push_str(&comment(why));
    out.push_str(&format!("mode = \"{mode}\"\n"));
    out.push_str(
        "# slot = \"crieur\"\n# publication = \"crieur\"\n\n[cache]\n\
         # Deleted again after these delays: a reader that began before the change may store the old value after\n\
         # the delete.\n\
         # echo = [\"250ms\", \"2s\", \"30s\"]\n\
         # Never deleted, whatever a rule says. Which other keys are locks, sessions or counters, crieur cannot know.\n\
         # protect = [\"lock:*\"]\n\n[admin]\n\
         # /metrics, /healthz and /readyz; not set: none. No password, so keep it local.\n\
         # listen = \"127.0.0.1:9186\"\n",
    );
    out
}

/// The name of a table as a rule has it.
fn name(table: &SeenTable) -> String {
    let is_plain = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
    };
    let written =
        |name: &str| if is_plain(name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) };
    format!("{}.{}", written(&table.schema), written(&table.name))
}

/// One `[[rules]]`.
fn rule(table: &SeenTable, keys: &[ProposedKey]) -> String {
    let mut out = format!("[[rules]]\ntable = {}\nkeys = [\n", quoted(&name(table)));
    for key in keys {
        out.push_str(&format!("    {},", quoted(&key.template)));
        let plain: String = key.why.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        out.push_str(&format!("  # {plain}\n"));
    }
    out + "]\n"
}

/// Each line of a text as a comment.
fn commented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }).collect()
}

/// The rules file. `refused` says what crieur's own reader finds wrong with a rule: such a rule is a comment.
pub fn rules(
    tables: &[SeenTable],
    proposal: &Proposal,
    known: &InitFacts,
    refused: impl Fn(&str) -> Option<String>,
) -> String {
    let mut out = String::from(
        "# Written by crieur init: which cache keys a changed row makes wrong. Look at each rule, then run\n\
         #   crieur explain --table TABLE --op update --old '{…}' --new '{…}'\n\
         # to see the keys of one change. Names of keys are your program's: what crieur could not know is a comment.\n",
    );
    if !known.saw_cache {
        out.push_str(
            "#\n# No cached keys were seen, so the names of the keys below are guesses from tables and keys. A rule whose keys\n\
             # do not exist deletes nothing. Write the names that your program uses.\n",
        );
    }
    let seen_any = !proposal.seen.is_empty();
    let mut active = 0;
    for (number, table) in tables.iter().enumerate() {
        let (keys, is_seen) = match proposal.seen.get(&number) {
            Some(keys) => (keys.clone(), true),
            None => (by_keys(table), false),
        };
        let text = rule(table, &keys);
        out.push('\n');
        match refused(&text) {
            Some(said) => {
                out.push_str(&comment(&format!("crieur cannot take this rule as it is: {said}")));
                out.push_str(&commented(&text));
            }
            None if is_seen || !seen_any => {
                if !reads_only_keys(table, &keys) && table.identity != "f" {
                    out.push_str("# crieur setup makes the old row carry these columns, too.\n");
                }
                out.push_str(&text);
                active += 1;
            }
            None => {
                out.push_str("# No cached key of this table was seen. If there are some, write their names:\n");
                out.push_str(&commented(&text));
            }
        }
    }
    if !proposal.unknown.is_empty() {
        out.push_str("\n# Cached keys of which crieur cannot know the table. Give each a rule, or leave it alone:\n");
    }
    for family in &proposal.unknown {
        let keys = if family.count == 1 { "key" } else { "keys" };
        out.push_str(&comment(&format!("  {}: {} {keys}, for example {}", family.name, family.count, family.example)));
    }
    if active == 0 {
        out.push_str(
            "\n# There is no table that crieur could write a rule for, and without a rule it does not start.\n",
        );
    }
    out.push_str(&verify(tables, proposal));
    out
}

/// Whether the keys need nothing but the primary key of the old row.
fn reads_only_keys(table: &SeenTable, keys: &[ProposedKey]) -> bool {
    let is_key = |name: &str| table.primary.iter().any(|column| column == name) || name.contains(',');
    keys.iter().all(|key| places(&key.template).all(is_key))
}

fn places(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// An example of a `[[verify]]`, as a comment: what a program keeps under a key, only its author knows.
fn verify(tables: &[SeenTable], proposal: &Proposal) -> String {
    let one = proposal.seen.iter().find_map(|(number, keys)| {
        let table = &tables[*number];
        let [primary] = table.primary.as_slice() else { return None };
        let key = keys.iter().find(|key| places(&key.template).eq([primary.as_str()]))?;
        Some((table, primary, key))
    });
    let Some((table, primary, key)) = one else { return String::new() };
    let sql = format!("SELECT * FROM {} WHERE {primary} = $1", name(table));
    let example = format!("[[verify]]\nkeys = {}\nsql = {}\ncompare = \"json\"", quoted(&key.template), quoted(&sql));
    format!(
        "\n# crieur verify compares cached values with what such a query says, once you correct it to what your\n# program keeps:\n{}",
        commented(&example)
    )
}
