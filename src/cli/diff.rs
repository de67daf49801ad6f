//! `crieur explain --diff OLD.toml NEW.toml --recording FILE`: what a change of rules adds and removes, key by key.
//!
//! Both files go over the same recording on the daemon's own road, so that what differs is the rules and nothing else.
//! No server is asked: a lookup that the recording does not hold an answer of widens, as a refused one does.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::config::rules_of_file;
use crate::error::{Exit, Result};
use crate::glob;
use crate::mistake::Mistakes;
use crate::rules::{Invalidations, Rules};
use crate::shown::shown;
use crate::source::Source;
use crate::source::recording::{RecordedAck, RecordedControl, RecordedSource, Recording};
use crate::tag::tag_of;
use crate::tap::{Settled, Tap};

/// Keys of open transactions, in bytes: as the daemon's default.
const KEYS_BYTES_MAX: usize = 64 << 20;

/// What is deleted by: a key, or a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Key,
    Pattern,
}

/// What one transaction deletes, and the rule behind each.
#[derive(Default)]
struct Deletes {
    by: BTreeMap<(Kind, Vec<u8>), String>,
    /// Lookups that the recording has no answer of.
    unknown: u64,
}

impl Deletes {
    fn add(&mut self, rules: &Rules, load: &Invalidations) {
        for (kind, set) in [(Kind::Key, &load.keys), (Kind::Pattern, &load.patterns)] {
            for key in set.iter() {
                let (place, template) = rules.origin(key.family).unwrap_or(("?", "?"));
                self.by.insert((kind, key.bytes.to_vec()), format!("\"{template}\" at {place}"));
            }
        }
    }

    /// The pattern that deletes a key as well, if there is one.
    fn pattern_over(&self, kind: Kind, key: &[u8]) -> Option<&[u8]> {
        let patterns = self.by.keys().filter(|(other, _)| *other == Kind::Pattern).map(|(_, bytes)| bytes.as_slice());
        (kind == Kind::Key).then_some(())?;
        patterns.into_iter().find(|pattern| glob::matches(pattern, key))
    }
}

/// One set of rules on its way through the recording.
struct Walk<'r> {
    rules: &'r Rules,
    source: RecordedSource,
    control: RecordedControl,
    tap: Tap<'r, RecordedAck>,
    /// What was read last and belongs to a later commit than what was handed out.
    next: Option<(u64, Deletes)>,
}

impl<'r> Walk<'r> {
    fn new(recording: &Recording, rules: &'r Rules) -> Self {
        Walk {
            rules,
            source: RecordedSource::new(recording),
            control: RecordedControl::new(recording, rules.lookups()),
            tap: Tap::new(rules, KEYS_BYTES_MAX),
            next: None,
        }
    }

    /// Reads until a transaction deletes something; its number among all, from 1.
    async fn read(&mut self) -> Result<Option<(u64, Deletes)>> {
        loop {
            let Some(event) = self.source.take()? else { return Ok(None) };
            if let Some(transaction) = self.tap.event(event, &self.control).await?.transaction {
                let settled = Settled::ask(transaction, self.rules, &self.control).await?;
                let mut deletes = Deletes::default();
                deletes.add(self.rules, &settled.load);
                deletes.add(self.rules, &settled.found);
                let refused = settled.asked.iter().filter(|(_, _, answer)| answer.refusal().is_some());
                deletes.unknown = refused.count() as u64;
                return Ok(Some((settled.commit, deletes)));
            }
        }
    }

    /// Everything of the next transaction that deletes something; a large one comes in pieces.
    async fn transaction(&mut self) -> Result<Option<(u64, Deletes)>> {
        let first = match self.next.take() {
            Some(first) => Some(first),
            None => self.read().await?,
        };
        let Some((number, mut deletes)) = first else { return Ok(None) };
        while let Some((other, more)) = self.read().await? {
            if other != number {
                self.next = Some((other, more));
                break;
            }
            deletes.by.extend(more.by);
            deletes.unknown += more.unknown;
        }
        Ok(Some((number, deletes)))
    }
}

/// What was found in all.
#[derive(Default)]
struct Sum {
    added: u64,
    removed: u64,
    transactions: u64,
    unknown: u64,
}

/// Reads both files, or shows every mistake in them.
pub fn rules(old: &Path, new: &Path) -> std::result::Result<(Rules, Rules), Mistakes> {
    Ok((rules_of_file(old)?, rules_of_file(new)?))
}

/// Prints what differs.
pub async fn run(old: &Rules, new: &Rules, recording: &Recording, out: &mut impl Write) -> anyhow::Result<Exit> {
    let (mut before, mut after) = (Walk::new(recording, old), Walk::new(recording, new));
    let (mut left, mut right) = (before.transaction().await?, after.transaction().await?);
    let mut sum = Sum::default();
    loop {
        let number = match (&left, &right) {
            (None, None) => break,
            (Some((number, _)), None) | (None, Some((number, _))) => *number,
            (Some((left, _)), Some((right, _))) => *left.min(right),
        };
        let this = |side: &Option<(u64, Deletes)>| side.as_ref().is_some_and(|(other, _)| *other == number);
        let (here, there) = (this(&left), this(&right));
        let was = if here { std::mem::replace(&mut left, before.transaction().await?) } else { None };
        let is = if there { std::mem::replace(&mut right, after.transaction().await?) } else { None };
        let deletes = |side: Option<(u64, Deletes)>| side.map(|(_, deletes)| deletes).unwrap_or_default();
        compare(number, &deletes(was), &deletes(is), &mut sum, out)?;
    }
    let Sum { added, removed, transactions, unknown } = sum;
    writeln!(
        out,
        "{added} added, {removed} removed in {transactions} of {} transactions",
        before.tap.commits().max(after.tap.commits())
    )?;
    if unknown > 0 {
        writeln!(out, "{unknown} lookups have no answer in the recording: their keys are shown as a pattern")?;
    }
    Ok(Exit::Ok)
}

/// Prints what one transaction deletes under one set of rules only.
fn compare(number: u64, was: &Deletes, is: &Deletes, sum: &mut Sum, out: &mut impl Write) -> std::io::Result<()> {
    sum.unknown += was.unknown + is.unknown;
    let removed = was.by.iter().filter(|(what, _)| !is.by.contains_key(what)).map(|entry| ('-', entry, is));
    let added = is.by.iter().filter(|(what, _)| !was.by.contains_key(what)).map(|entry| ('+', entry, was));
    let mut lines: Vec<_> = removed.chain(added).collect();
    if lines.is_empty() {
        return Ok(());
    }
    lines.sort_by_key(|(sign, (what, _), _)| ((*what).clone(), *sign));
    sum.transactions += 1;
    writeln!(out, "transaction {number}")?;
    for (sign, ((kind, bytes), by), other) in lines {
        let tag = tag_of(bytes);
        let name = match (kind, tag) {
            (Kind::Key, None) => "key",
            (Kind::Key, Some(_)) => "tag",
            (Kind::Pattern, None) => "pattern",
            (Kind::Pattern, Some(_)) => "tags",
        };
        let (sign, note) = match other.pattern_over(*kind, bytes) {
            Some(pattern) if sign == '-' => ('~', format!(", now by the pattern {}", shown(pattern))),
            Some(pattern) => ('~', format!(", before by the pattern {}", shown(pattern))),
            None => (sign, String::new()),
        };
        sum.added += u64::from(sign == '+');
        sum.removed += u64::from(sign == '-');
        writeln!(out, "  {sign} {name} {}    by {by}{note}", shown(tag.unwrap_or(bytes)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    /// The recording of `tests/golden`: Dousell Immo's tables.
    async fn diff(change: impl Fn(&str) -> String) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dousell/pg15.rec");
        let recording = Recording::open(&path).expect("it is in the repository");
        let text = include_str!("../../tests/golden/dousell/rules.toml");
        let mut out = Vec::new();
        run(&rules_of(text), &rules_of(&change(text)), &recording, &mut out).await.expect("it can be replayed");
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn the_same_rules_differ_in_nothing() {
        let same = diff(str::to_owned).await;
        assert!(same.starts_with("0 added, 0 removed in 0 of "), "{same}");
    }

    #[tokio::test]
    async fn a_key_that_is_renamed_goes_and_comes() {
        let text = diff(|rules| rules.replace("city:{city}", "town:{city}")).await;
        assert!(text.contains("  - key properties:city:Dakar    by \"city:{city}\" at rules.toml:"), "{text}");
        assert!(text.contains("  + key properties:town:Dakar    by \"town:{city}\" at rules.toml:"), "{text}");
        assert!(!text.contains("detail:") && !text.contains("~"), "{text}");
    }

    #[tokio::test]
    async fn a_key_that_a_pattern_covers_now_is_not_called_removed() {
        let text = diff(|rules| rules.replace("detail:{id}", "detail:*")).await;
        assert!(text.contains("  ~ key properties:detail:1    by \"detail:{id}\""), "{text}");
        assert!(text.contains(", now by the pattern properties:detail:*\n"), "{text}");
        assert!(text.contains("  + pattern properties:detail:*    by \"detail:*\""), "{text}");
        assert!(text.contains(", 0 removed in "), "{text}");
    }
}
