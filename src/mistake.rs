//! Mistakes in what the operator wrote, shown like a compiler's: where, the line itself, what is allowed.
//!
//! Only keys and the operator's own lines are shown; a line that holds a URL is shown with the value blotted out:
//! a report ends up in a journal.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use strsim::osa_distance;

use crate::error::Exit;

/// A file as it was read.
#[derive(Debug)]
pub struct SourceFile {
    /// The name to show.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
    }

    /// The line that a byte is in.
    pub fn line(&self, at: usize) -> &str {
        self.text.lines().nth(self.position(at).0 - 1).unwrap_or("")
    }
}

/// Where a mistake is.
#[derive(Clone, Debug)]
pub enum Place {
    /// Bytes of a file.
    File(Rc<SourceFile>, Range<usize>),
    /// A file as a whole, by its name.
    Whole(String),
    /// An environment variable.
    Variable(String),
    /// Nowhere: something is not there.
    Nowhere,
}

impl fmt::Display for Place {
    /// `crieur.toml:4`, `CRIEUR__POSTGRES__SLOT`; nothing for nowhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(file, span) => write!(f, "{}:{}", file.name, file.position(span.start).0),
            Place::Whole(name) | Place::Variable(name) => f.write_str(name),
            Place::Nowhere => Ok(()),
        }
    }
}

/// Whether a finding stops the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It does.
    Error,
    /// It is said and passed over.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Mistake {
    severity: Severity,
    place: Place,
    message: String,
    note: String,
    /// What it is a part of: "rule 2, public.properties"; empty for the file itself.
    within: String,
}

/// Everything that is wrong, in the order of reading.
#[derive(Debug)]
pub struct Mistakes {
    found: Vec<Mistake>,
    exit: Exit,
    within: String,
}

impl Default for Mistakes {
    fn default() -> Self {
        Mistakes { found: Vec::new(), exit: Exit::Config, within: String::new() }
    }
}

impl Mistakes {
    /// Adds an error. `note` stands beside the place: a suggestion, or what is allowed.
    pub fn error(&mut self, place: Place, message: impl Into<String>, note: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), note.into());
    }

    /// Adds a warning: the start goes on.
    pub fn warning(&mut self, place: Place, message: impl Into<String>, note: impl Into<String>) {
        self.add(Severity::Warning, place, message.into(), note.into());
    }

    /// What the mistakes that follow are a part of; empty for the file itself.
    pub fn within(&mut self, what: impl Into<String>) {
        self.within = what.into();
    }

    fn add(&mut self, severity: Severity, place: Place, message: String, note: String) {
        self.found.push(Mistake { severity, place, message, note, within: self.within.clone() });
    }

    /// A file that must be read cannot be.
    pub(crate) fn unreadable(name: &str, cause: &std::io::Error) -> Self {
        let mut mistakes = Mistakes { exit: Exit::NoInput, ..Mistakes::default() };
        let note = match cause.kind() {
            std::io::ErrorKind::NotFound => "write it, or name another one with --config FILE",
            std::io::ErrorKind::PermissionDenied => "let the user read it whom crieur runs as",
            _ => "it must be a file with text",
        };
        mistakes.error(Place::Whole(name.to_owned()), format!("cannot read \"{name}\": {cause}"), note);
        mistakes
    }

    /// Adds those of another file.
    pub(crate) fn append(&mut self, others: Mistakes) {
        self.found.extend(others.found);
    }

    /// What the first one says.
    pub(crate) fn first_message(&self) -> &str {
        self.found.first().map_or("", |mistake| &mistake.message)
    }

    /// The note beside it.
    pub(crate) fn first_note(&self) -> &str {
        self.found.first().map_or("", |mistake| &mistake.note)
    }

    /// Whether nothing stops the start.
    pub fn is_harmless(&self) -> bool {
        self.found.iter().all(|mistake| mistake.severity == Severity::Warning)
    }

    /// Whether nothing was found at all.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The exit code that they stop the start with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.found.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        match &self.place {
            Place::File(file, span) => {
                excerpt(f, file, span, &self.note)?;
                if self.within.is_empty() { Ok(()) } else { writeln!(f, "  = in {}", self.within) }
            }
            Place::Whole(name) => writeln!(f, " --> {name}\n  = {}", self.note),
            Place::Variable(name) => writeln!(f, " --> environment variable {name}\n  = {}", self.note),
            Place::Nowhere => writeln!(f, "  = {}", self.note),
        }
    }
}

/// The line of the place, and the note under the exact bytes.
fn excerpt(f: &mut fmt::Formatter<'_>, file: &SourceFile, span: &Range<usize>, note: &str) -> fmt::Result {
    let (line, column) = file.position(span.start);
    let text = file.line(span.start);
    let shown = blotted(text);
    let marked = file.text.get(span.clone()).and_then(|bytes| bytes.lines().next()).unwrap_or("");
    // A blotted line no longer has the columns of the original.
    let width = if shown == text { marked.chars().count().max(1) } else { 1 };
    let gutter = " ".repeat(line.to_string().len());
    writeln!(f, "{gutter}--> {}:{line}:{column}", file.name)?;
    writeln!(f, "{gutter} |")?;
    writeln!(f, "{line} | {}", shown.replace('\t', " "))?;
    writeln!(f, "{gutter} | {}{} {note}", " ".repeat(column - 1), "^".repeat(width))
}

/// The line, with the value behind a `url` key or anything that looks like a URL with a password blotted out.
fn blotted(line: &str) -> String {
    let url_key = line.split('=').next().is_some_and(|key| key.to_ascii_lowercase().contains("url"));
    let secret = url_key || line.contains("://") || line.to_ascii_lowercase().contains("password");
    match line.split_once('=') {
        Some((key, _)) if secret => format!("{key}= [redacted]"),
        None if secret => "[redacted]".to_owned(),
        Some(_) | None => line.to_owned(),
    }
}

/// `did you mean "slot"? ` when one of `allowed` is near, in whatever case, else nothing; then what is allowed.
pub fn suggestion<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> String {
    let allowed: Vec<&str> = allowed.into_iter().collect();
    let list = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    match nearest(written, allowed.iter().copied()) {
        Some(name) => format!("did you mean \"{name}\"? allowed here: {list}"),
        None => format!("allowed here: {list}"),
    }
}

/// The name that was most likely meant, if one is near.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let near = names
        .into_iter()
        .map(|name| (osa_distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance * 3 <= name.chars().count().max(3))
        .min();
    near.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_a_name_that_is_near() {
        let cases = [
            ("slott", Some("slot")),
            ("solt", Some("slot")), // Two neighbours that changed places are one edit.
            ("SLOT", Some("slot")),
            ("tolerated_lga", Some("tolerated_lag")),
            ("toleratd_lg", Some("tolerated_lag")),
            ("slxtt", None),
            ("", None),
        ];
        for (written, near) in cases {
            assert_eq!(nearest(written, ["slot", "tolerated_lag"]), near, "{written}");
        }
    }

    #[test]
    fn points_at_the_bytes_and_counts_characters() {
        let text = "[postgres]\n\"é\" = 1; slott = 2\n".to_owned();
        let at = text.find("slott").expect("it is there");
        let file = Rc::new(SourceFile { name: "crieur.toml".to_owned(), text });
        let mut mistakes = Mistakes::default();
        mistakes.error(Place::File(file, at..at + 5), "unknown key \"slott\"", suggestion("slott", ["url", "slot"]));
        let expected = "error: unknown key \"slott\"\n --> crieur.toml:2:10\n  |\n\
                        2 | \"é\" = 1; slott = 2\n  |          \
                        ^^^^^ did you mean \"slot\"? allowed here: url, slot\n";
        assert_eq!(mistakes.to_string(), expected);
    }

    #[test]
    fn a_line_with_a_url_is_blotted_out() {
        for line in
            ["url = \"postgres://u:hunter2@h/d\"", "\"postgres://u:hunter2@h\"", "a = { password = \"hunter2\" }"]
        {
            assert!(!blotted(line).contains("hunter2"), "{line}");
        }
    }
}
