//! What a look at the servers and the rules found: one line each, with what mends it, and how a report of them is printed.

use std::fmt;
use std::io::Write;

use crate::error::Exit;

/// What of a report is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// All of it: what is wrong, then what is worth knowing, then what is ready.
    All,
    /// What is wrong.
    Wrong,
}

/// How a finding counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grade {
    /// Must be mended.
    Wrong,
    /// Works, and is worth knowing.
    Note,
    /// As it must be.
    Ready,
}

/// One line of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How it counts.
    pub verdict: Grade,
    /// What was looked at.
    pub subject: String,
    /// What was seen: lower case, no full stop.
    pub seen: String,
    /// SQL or commands that mend it, in order.
    pub mend: Vec<String>,
}

impl Finding {
    fn new(verdict: Grade, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding { verdict, subject: subject.into(), seen: seen.into(), mend: Vec::new() }
    }

    /// As it must be.
    pub fn ready(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding::new(Grade::Ready, subject, seen)
    }

    /// Works, and is worth knowing.
    pub fn note(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding::new(Grade::Note, subject, seen)
    }

    /// Must be mended.
    pub fn wrong(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding::new(Grade::Wrong, subject, seen)
    }

    /// Adds a statement or a command that mends it.
    #[must_use]
    pub fn mend(mut self, step: impl Into<String>) -> Self {
        self.mend.push(step.into());
        self
    }

    /// Adds several, in order.
    #[must_use]
    pub fn mend_all(mut self, steps: impl IntoIterator<Item = String>) -> Self {
        self.mend.extend(steps);
        self
    }
}

impl fmt::Display for Finding {
    /// One line, then one line for each step; names come from configuration and catalog, so control bytes are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Grade::Ready => "ok   ",
            Grade::Note => "note ",
            Grade::Wrong => "WRONG",
        };
        write!(f, "{verdict} {}: {}", escaped(&self.subject), escaped(&self.seen))?;
        self.mend.iter().try_for_each(|step| write!(f, "\n      mend: {}", escaped(step)))
    }
}

/// The text without control characters.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Prints the findings and says whether something must be mended. What is wrong comes first.
pub fn report(out: &mut dyn Write, findings: &[Finding]) -> anyhow::Result<Exit> {
    print(out, findings, Shown::All)
}

/// [`report`], of what is to be shown.
pub fn print(out: &mut dyn Write, findings: &[Finding], shown: Shown) -> anyhow::Result<Exit> {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (wrong, notes) = (count(Grade::Wrong), count(Grade::Note));
    let mut lines = folded(findings);
    lines.sort_by_key(|finding| finding.verdict);
    lines.retain(|finding| shown == Shown::All || finding.verdict == Grade::Wrong);
    for finding in &lines {
        writeln!(out, "{finding}")?;
    }
    if shown == Shown::All {
        writeln!(out, "{} ok, {notes} to note, {wrong} wrong", count(Grade::Ready))?;
    }
    Ok(if wrong == 0 { Exit::Ok } else { Exit::Failed })
}

/// Things of one kind of which the same is to be said, with the same way out, share a line: tables, partitions, families of
/// keys.
pub fn folded(findings: &[Finding]) -> Vec<Finding> {
    let mut out: Vec<(Option<&str>, Finding)> = Vec::new();
    for finding in findings {
        let split = finding.subject.rsplit_once(' ');
        let kind = split.map(|(kind, _)| kind);
        let same = |(other, line): &&mut (Option<&str>, Finding)| {
            let said = (line.verdict, &line.seen, &line.mend) == (finding.verdict, &finding.seen, &finding.mend);
            said && kind.is_some() && *other == kind
        };
        match (split, out.iter_mut().find(same)) {
            (Some((_, name)), Some((_, line))) => line.subject.push_str(&format!(", {name}")),
            (None, _) | (_, None) => out.push((kind, finding.clone())),
        }
    }
    out.into_iter().map(|(_, line)| line).collect()
}

/// Those that must be mended.
pub fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.verdict == Grade::Wrong).collect()
}
