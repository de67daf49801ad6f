//! What passed through the rules: changes by table, keys by rule, questions by lookup. Labels are names of the
//! configuration in force, so there are no more series than it has tables, rules and lookups; what a reload takes out of
//! the configuration leaves the page, and what it keeps counts on.

use std::collections::BTreeMap;

use super::page::MetricsPage;
use crate::rules::tally::{Labels, OPERATIONS, Tallied};

/// The counts so far, in the order of the labels.
#[derive(Debug, Default)]
pub(super) struct Counted {
    labels: Labels,
    counts: Tallied,
}

/// The counts of these labels, as far as others had the same names.
fn carried<T: Clone + Default>(before: &[String], counts: &[T], now: &[String]) -> Vec<T> {
    let known: BTreeMap<&String, &T> = before.iter().zip(counts).collect();
    now.iter().map(|label| known.get(label).map(|count| (*count).clone()).unwrap_or_default()).collect()
}

impl Counted {
    /// These rules are in force.
    pub(super) fn rules(&mut self, labels: &Labels) {
        let Counted { labels: before, counts } = self;
        self.counts = Tallied {
            changes: carried(&before.tables, &counts.changes, &labels.tables),
            keys: carried(&before.rules, &counts.keys, &labels.rules),
            questions: carried(&before.lookups, &counts.questions, &labels.lookups),
        };
        self.labels = labels.clone();
    }

    /// So much more passed.
    pub(super) fn add(&mut self, more: &Tallied) {
        let counts = &mut self.counts;
        for (sum, more) in counts.changes.iter_mut().zip(&more.changes) {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        counts.keys.iter_mut().zip(&more.keys).for_each(|(sum, more)| *sum += more);
        for (sum, more) in counts.questions.iter_mut().zip(&more.questions) {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// The rules in force, by their digest.
    pub(super) fn digest(&self) -> &str {
        &self.labels.digest
    }

    /// Each table with its changes, and the keys that its rules named: those of a rule of several tables count for each.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&str, [u64; OPERATIONS.len()], u64)> {
        let Counted { labels, counts } = self;
        let keys = |table: usize| {
            let named = labels.tables_of.iter().zip(&counts.keys).filter(move |(tables, _)| tables.contains(&table));
            named.map(|(_, keys)| keys).sum()
        };
        let tables = labels.tables.iter().zip(&counts.changes).enumerate();
        tables.map(move |(index, (table, changes))| (table.as_str(), *changes, keys(index)))
    }

    /// Each rule with the keys that it named.
    pub(super) fn rules_counted(&self) -> impl Iterator<Item = (&str, u64)> {
        self.labels.rules.iter().map(String::as_str).zip(self.counts.keys.iter().copied())
    }

    pub(super) fn write(&self, page: &mut MetricsPage) {
        let Counted { labels, counts } = self;
        page.head("rules_info", "The rules in force, by their digest.", "gauge");
        if !labels.digest.is_empty() {
            page.value("rules_info", &[("digest", &labels.digest)], "1");
        }
        let help = "Changes that came of the tables of the rules; a transaction that is rolled back may count.";
        page.head("changes_total", help, "counter");
        for (table, counts) in labels.tables.iter().zip(&counts.changes) {
            for (operation, count) in OPERATIONS.iter().zip(counts) {
                page.value("changes_total", &[("table", table), ("operation", operation)], &count.to_string());
            }
        }
        let help = "Keys and patterns that a rule made of rows, by the rule's place in its file, before what is named twice is sent once.";
        page.head("rule_keys_total", help, "counter");
        for (rule, count) in labels.rules.iter().zip(&counts.keys) {
            page.value("rule_keys_total", &[("rule", rule)], &count.to_string());
        }
        let questions = [
            ("lookups_total", "Questions of a lookup, those with a kept answer included.", 0),
            ("lookups_refused_total", "Questions of a lookup that the server refused; their keys were swept.", 1),
        ];
        for (name, help, which) in questions {
            page.head(name, help, "counter");
            for (lookup, counts) in labels.lookups.iter().zip(&counts.questions) {
                page.value(name, &[("lookup", lookup)], &counts[which].to_string());
            }
        }
    }
}
