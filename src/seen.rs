//! What an outbox's mark says of the watched tables, so that only those are swept which DDL may have changed. Pure.
//!
//! A text of one word for each table, in which hashes stand for what `sql/outbox/facts.sql` says: nothing of the tables
//! themselves. Two such texts are compared table by table. Any other text (a publication's digest, one of an older
//! version) is compared as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::rules::about::digest::hash;

/// How a text of tables begins.
const TABLES: &str = "tables";

/// So many tables have a word each, and each so many labels: with more they share a hash, and the mark stays small.
const TABLES_MAX: usize = 64;
const LABELS_MAX: usize = 64;

/// A table as `sql/outbox/facts.sql` says it.
#[derive(Debug, Deserialize)]
struct Facts {
    schema: String,
    name: String,
    look: Option<String>,
    files: Option<String>,
    versions: Option<String>,
    /// Those of each relation that holds its rows.
    labels: Vec<BTreeSet<String>>,
}

/// One word of the text.
#[derive(PartialEq, Eq, Debug)]
struct Seen<'a> {
    look: &'a str,
    files: &'a str,
    versions: &'a str,
    labels: BTreeSet<&'a str>,
}

impl Seen<'_> {
    /// Whether values may be others than they were.
    fn differs(&self, later: &Seen<'_>) -> bool {
        self.look != later.look
            || (self.files != later.files && self.versions != later.versions)
            // One that is new as well: a mark that does not name it would not tell that it was renamed later.
            || self.labels != later.labels
    }
}

/// The word that stands for a table's name.
pub fn key(schema: &str, name: &str) -> String {
    hash(format!("{schema}\0{name}"))
}

/// The text for an answer of `sql/outbox/facts.sql`. One that is not of tables is the text itself.
pub fn spelled(answer: &str) -> String {
    let Ok(tables) = serde_json::from_str::<Vec<Facts>>(answer) else { return answer.to_owned() };
    let short = |text: &Option<String>| hash(text.as_deref().unwrap_or_default())[..8].to_owned();
    let word = |facts: &Facts| {
        let labels: BTreeSet<String> = facts.labels.iter().flatten().map(|label| hash(label)[..8].to_owned()).collect();
        let one = labels.len() > LABELS_MAX;
        let labels = labels.into_iter().collect::<Vec<_>>().join("+");
        let labels = if one { hash(labels) } else { labels };
        let look = hash(facts.look.as_deref().unwrap_or_default());
        let (key, files, versions) = (key(&facts.schema, &facts.name), short(&facts.files), short(&facts.versions));
        format!("{key}:{look}:{files}:{versions}:{labels}")
    };
    let words: BTreeSet<String> = tables.iter().map(word).collect();
    let words = words.into_iter().collect::<Vec<_>>().join(" ");
    if tables.len() <= TABLES_MAX { format!("{TABLES} {words}") } else { hash(words) }
}

/// Tables in which values may have changed from one text to the other, as [`key`] names them; `None` where a text is not
/// of tables.
pub fn changed(before: &str, now: &str) -> Option<BTreeSet<String>> {
    let (before, now) = (read(before)?, read(now)?);
    let differs = |key: &&&str| match (before.get(**key), now.get(**key)) {
        (Some(before), Some(now)) => before.differs(now),
        // It was not watched, or is called otherwise now.
        (_, _) => true,
    };
    let keys: BTreeSet<&&str> = before.keys().chain(now.keys()).collect();
    Some(keys.iter().filter(|key| differs(key)).map(|key| (**key).to_string()).collect())
}

/// Whether nothing that readers see differs between two texts.
pub fn is_same(before: &str, now: &str) -> bool {
    before == now || changed(before, now).is_some_and(|changed| changed.is_empty())
}

fn read(text: &str) -> Option<BTreeMap<&str, Seen<'_>>> {
    let words = text.strip_prefix(TABLES)?.split_whitespace();
    words
        .map(|word| {
            let mut parts = word.split(':');
            let mut part = || parts.next();
            let (key, look, files, versions) = (part()?, part()?, part()?, part()?);
            let labels = part()?.split('+').filter(|label| !label.is_empty()).collect();
            Some((key, Seen { look, files, versions, labels }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, look: &str, files: &str, versions: &str, labels: &[&str]) -> serde_json::Value {
        serde_json::json!({
            "schema": "public", "name": name, "look": look, "files": files, "versions": versions, "labels": [labels]
        })
    }

    fn text(tables: &[serde_json::Value]) -> String {
        spelled(&serde_json::Value::from(tables).to_string())
    }

    #[test]
    fn a_table_differs_by_its_look_a_rewrite_or_another_label() {
        let other = || table("u", "l", "f", "v", &[]);
        let before = text(&[table("t", "l", "f", "v", &["a", "b"]), other()]);
        for (now, differs) in [
            (table("t", "l", "f", "v", &["b", "a"]), false),
            (table("t", "l", "VACUUM FULL", "v", &["a", "b"]), false),
            (table("t", "l", "f", "SET STATISTICS", &["a", "b"]), false),
            (table("t", "l", "f", "v", &["a", "b", "new"]), true),
            (table("t", "l", "rewritten", "rewritten", &["a", "b"]), true),
            (table("t", "other", "f", "v", &["a", "b"]), true),
            (table("t", "l", "f", "v", &["a", "renamed"]), true),
        ] {
            let now = text(&[other(), now]);
            let expected = if differs { BTreeSet::from([key("public", "t")]) } else { BTreeSet::new() };
            assert_eq!(changed(&before, &now), Some(expected), "{now}");
            assert_eq!(is_same(&before, &now), !differs);
        }
        let renamed = text(&[other(), table("s", "l", "f", "v", &["a", "b"])]);
        let both = BTreeSet::from([key("public", "t"), key("public", "s")]);
        assert_eq!(changed(&before, &renamed), Some(both));
        assert_eq!(changed(&text(&[]), &text(&[other()])), Some(BTreeSet::from([key("public", "u")])));
    }

    #[test]
    fn any_other_text_is_compared_as_a_whole() {
        let tables = text(&[table("t", "l", "f", "v", &[])]);
        for (before, now) in
            [("digest", tables.as_str()), (tables.as_str(), "digest"), ("a", "b"), ("tables x", "tables y")]
        {
            assert_eq!((changed(before, now), is_same(before, now)), (None, false), "{before} {now}");
        }
        assert!(is_same("digest", "digest"));
        let many = |files: &str| {
            let tables: Vec<_> = (0..65).map(|n| table(&n.to_string(), "l", files, "v", &[])).collect();
            text(&tables)
        };
        assert!(many("f").len() < 20 && !is_same(&many("f"), &many("g")), "too many for a word each");
        assert_eq!(spelled("digest"), "digest");
    }
}
