//! What one transaction deletes, its lookups answered: the text that `replay` and the dry run print.

use std::collections::BTreeSet;
use std::fmt;

use tokio::time::sleep;

use crate::control::{Gate, Lookups};
use crate::error::Result;
use crate::keys::KeySet;
use crate::question::{Answer, Question};
use crate::rules::{Invalidations, Rules};
use crate::shown::shown;
use crate::tap::transactions::{GATE_PAUSE, Transaction};

/// A transaction with its lookups answered.
#[derive(Debug)]
pub struct Settled {
    /// Place among the transactions that delete something, from 1.
    pub ordinal: u64,
    /// Place of its commit among all, from 1; the pieces of a large one have the same.
    pub commit: u64,
    /// What its rows name directly.
    pub load: Invalidations,
    /// Name of the lookup, its arguments, and what came of it.
    pub asked: Vec<(String, Question, Answer)>,
    /// What the answers name.
    pub found: Invalidations,
}

impl Settled {
    /// Asks what the transaction wants to know, once readers see it, as the daemon does behind its gate.
    pub async fn ask(transaction: Transaction, rules: &Rules, control: &(impl Gate + Lookups)) -> Result<Self> {
        let Transaction { xid, commit, ordinal, load } = transaction;
        while !load.lookups.is_empty() && !control.snapshot().await?.contains(xid) {
            sleep(GATE_PAUSE).await;
        }
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
        Ok(Settled { commit, ordinal, load, asked: asked.collect(), found })
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
