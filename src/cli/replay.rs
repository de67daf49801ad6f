//! `crieur replay`: a recording through the decoder, the rules and, when asked, the cache.
//!
//! It prints what each transaction deletes in one canonical form, without positions, transaction numbers or times: the
//! same workload on another server prints the same text. `tests/golden.rs` compares exactly this text.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use crate::ack::Window;
use crate::cache::Cache;
use crate::cache::redis::RedisCache;
use crate::change::Event;
use crate::cli::output::cannot_write;
use crate::config::Config;
use crate::control::{Catalogue, Lookups};
use crate::error::{Exit, Result};
use crate::gate::Snapshot;
use crate::keys::KeySet;
use crate::lsn::Xid;
use crate::pipeline::intake::{Intake, Need};
use crate::question::{Answer, Question};
use crate::rules::{Invalidations, Rules};
use crate::source::Source;
use crate::source::recording::{RecordedControl, RecordedSource, Recording};

/// Arguments of `crieur replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The recording.
    #[arg(value_name = "RECORDING")]
    pub recording: PathBuf,
    /// The configuration file; its rules decide what is deleted.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Delete the keys from the configured cache.
    #[arg(long)]
    pub execute: bool,
}

/// One committed transaction, or a piece of it, that deletes something.
#[derive(Debug)]
pub struct Transaction {
    /// Its number in the stream.
    pub xid: Xid,
    /// What its rows name directly.
    pub load: Invalidations,
}

/// Events to transactions, one by one, on the loop's own road. A transaction past the bound comes in pieces.
#[derive(Debug)]
pub struct Transactions<A> {
    intake: Intake<A>,
    window: Window<A>,
    /// The transaction whose changes arrive now.
    current: Option<Xid>,
    bytes_max: usize,
}

impl<A: Copy + Ord> Transactions<A> {
    /// `bytes_max` bounds the keys of the transactions that are still open, and those of the one that arrives.
    pub fn new(bytes_max: usize) -> Self {
        Transactions { intake: Intake::default(), window: Window::default(), current: None, bytes_max }
    }

    /// Takes one event in; a commit, or a piece that is large enough, gives what to delete.
    pub fn event(&mut self, event: Event<'_, A>, rules: &Rules) -> (Need, Option<Transaction>) {
        let committed = match &event {
            Event::Commit(xid, _) => Some(*xid),
            Event::Begin(xid) => {
                self.current = Some(*xid);
                None
            }
            Event::Relation(_)
            | Event::Change(_)
            | Event::Open(..)
            | Event::Message(..)
            | Event::Abort(_)
            | Event::Skipped
            | Event::Idle(_) => None,
        };
        let need = self.intake.event(event, rules, &mut self.window);
        let full = self.intake.batch.bytes_used() > self.bytes_max;
        while self.intake.bytes_used() > 2 * self.bytes_max && self.intake.collapse_largest(rules) > 0 {}
        let leaving = committed.or(self.current.filter(|_| full));
        (need, leaving.and_then(|xid| self.cut(xid)))
    }

    /// See [`Intake::resolved`].
    pub fn resolved(&mut self, need: Need, tables: Option<Vec<(String, String)>>, rules: &Rules) {
        match need {
            Need::Nothing | Need::Warning | Need::Untold | Need::Refusal(_) => {}
            Need::Tables(relation) => self.intake.resolved(&relation, tables, rules),
        }
    }

    fn cut(&mut self, xid: Xid) -> Option<Transaction> {
        // Nothing is confirmed here: the window only takes what the batch hands it.
        let cut = self.intake.batch.cut(&Snapshot::Everything, &mut self.window);
        self.window = Window::default();
        let load = cut?.load;
        (!load.is_empty()).then_some(Transaction { xid, load })
    }
}

/// A transaction with its lookups answered.
#[derive(Debug)]
pub struct Settled {
    /// Place among the transactions that delete something, from 1.
    pub ordinal: u64,
    /// What its rows name directly.
    pub load: Invalidations,
    /// Name of the lookup, its arguments, and what came of it.
    pub asked: Vec<(String, Question, Answer)>,
    /// What the answers name.
    pub found: Invalidations,
}

impl Settled {
    /// Asks what the transaction wants to know.
    pub async fn ask(ordinal: u64, load: Invalidations, rules: &Rules, control: &impl Lookups) -> Result<Self> {
        let questions = rules.questions(&load.lookups);
        let answers = control.ask(&questions).await?;
        let mut found = Invalidations::default();
        rules.resolve(&load.lookups, &questions, &answers, &mut found);
        let name = |question: &Question| {
            let lookup = rules.lookups().get(question.lookup.0 as usize);
            // The place behind the name holds a path, which is another one elsewhere.
            lookup.and_then(|lookup| lookup.name.rsplit_once(" (")).map_or(String::new(), |(name, _)| name.to_owned())
        };
        let asked = questions.into_iter().zip(answers).map(|(question, answer)| (name(&question), question, answer));
        Ok(Settled { ordinal, load, asked: asked.collect(), found })
    }
}

impl fmt::Display for Settled {
    /// Sorted: the order of first mention is the server's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "transaction {}", self.ordinal)?;
        lines(f, "key", &self.load.keys)?;
        lines(f, "pattern", &self.load.patterns)?;
        let asked = self.asked.iter().map(|(name, question, answer)| {
            let args: Vec<String> =
                question.args.iter().map(|arg| arg.as_deref().map_or("NULL".to_owned(), shown)).collect();
            let outcome = match answer {
                Answer::Rows(rows) => format!("{} rows", rows.len()),
                Answer::Refused(why) | Answer::Late(why) => format!("refused, {why}"),
            };
            format!("  lookup {name} ({}): {outcome}", args.join(", "))
        });
        for line in asked.collect::<BTreeSet<_>>() {
            writeln!(f, "{line}")?;
        }
        lines(f, "key of a lookup", &self.found.keys)?;
        lines(f, "pattern of a lookup", &self.found.patterns)
    }
}

fn lines(f: &mut fmt::Formatter<'_>, what: &str, keys: &KeySet) -> fmt::Result {
    for key in keys.iter().map(|key| key.bytes).collect::<BTreeSet<_>>() {
        writeln!(f, "  {what} {}", shown(key))?;
    }
    Ok(())
}

/// Plain where it is plain text; otherwise in quotes, every odd byte escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let plain = |text: &str| {
        let odd = |c: char| c.is_control() || c == '"' || c == '\\';
        !text.is_empty() && text.trim() == text && !text.contains(odd)
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if plain(text) => text.to_owned(),
        Ok(text) => format!("\"{}\"", text.chars().map(escaped).collect::<String>()),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// Letters of any language stay readable; what nobody would see is shown byte by byte.
fn escaped(c: char) -> String {
    match c.is_ascii() || c.is_control() || c.is_whitespace() {
        true => c.encode_utf8(&mut [0; 4]).as_bytes().escape_ascii().to_string(),
        false => c.to_string(),
    }
}

/// The same in quotes, plain or not.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let shown = shown(bytes);
    if shown.starts_with('"') { shown } else { format!("\"{shown}\"") }
}

/// Gives every transaction of the recording that deletes something to `each`, in order.
pub async fn transactions(
    recording: &Recording,
    rules: &Rules,
    bytes_max: usize,
    mut each: impl AsyncFnMut(Settled) -> Result<()>,
) -> Result<u64> {
    let mut source = RecordedSource::new(recording);
    let control = RecordedControl::new(recording, rules.lookups());
    let mut transactions = Transactions::new(bytes_max);
    let mut count = 0;
    while let Some(event) = source.take()? {
        let (need, committed) = transactions.event(event, rules);
        if let Need::Tables(relation) = &need {
            let root = control.tables_of(relation.oid).await?;
            transactions.resolved(need, root, rules);
        }
        if let Some(Transaction { load, .. }) = committed {
            count += 1;
            each(Settled::ask(count, load, rules, &control).await?).await?;
        }
    }
    Ok(count)
}

/// Prints the recording's transactions; with a cache, deletes what they name and says how much existed.
pub async fn run(
    config: &Config,
    recording: &Recording,
    cache: Option<&RedisCache>,
    out: &mut impl Write,
) -> Result<Exit> {
    let (mut sent, mut existed) = (0, 0);
    let bytes_max = config.limits.memory_bytes_max.try_into().unwrap_or(usize::MAX);
    let count = transactions(recording, &config.rules, bytes_max, async |settled: Settled| {
        write!(out, "{settled}").map_err(cannot_write)?;
        let Some(cache) = cache else { return Ok(()) };
        let deleted = cache.delete(&[&settled.load.keys, &settled.found.keys]).await?;
        (sent, existed) = (sent + deleted.sent, existed + deleted.existed);
        for patterns in [&settled.load.patterns, &settled.found.patterns] {
            if !patterns.is_empty() {
                existed += cache.sweep(patterns).await?.deleted;
            }
        }
        Ok(())
    })
    .await?;
    let end = match cache {
        None => writeln!(out, "{count} transactions delete something; nothing was deleted now"),
        Some(_) => writeln!(out, "{count} transactions, {sent} keys sent, {existed} existed and are deleted"),
    };
    end.map_err(cannot_write)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_escaped_and_plain_text_is_not() {
        let cases: [(&[u8], &str); 9] = [
            (b"a:b c", "a:b c"),
            ("é".as_bytes(), "é"),
            (b"", "\"\""),
            (b" a", "\" a\""),
            (b"a ", "\"a \""),
            ("a\u{a0}".as_bytes(), "\"a\\xc2\\xa0\""),
            (b"a\nb", "\"a\\nb\""),
            (b"a\\*", "\"a\\\\*\""),
            (b"\xFF", "\"\\xff\""),
        ];
        for (bytes, text) in cases {
            assert_eq!(shown(bytes), text);
        }
    }
}
