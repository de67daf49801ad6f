//! Lookups between the change and the gate: encoded when a change asks, answered when its transaction is visible.
//!
//! An entry is the template's number and then values: first the arguments of the question, then the template's own
//! columns in their order. A value is a tag, its length (UInt32) and its bytes. Only this file writes or reads them.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::change::Value;
use crate::keys::{FamilyId, KeySet, TxOrdinal};
use crate::question::{Answer, AnswerRow, Question};
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::render::{KeyPiece, Pieces, render};
use crate::rules::ruleset::{KeyPart, Rules, Template};
use crate::rules::value::reading::{Form, Made};

const NULL: u8 = 0;
const UNKNOWN: u8 = 1;
const TEXT: u8 = 2;

/// Adds one entry: a question of a template, unless the same was asked before. Nothing when a column is NULL.
pub fn encode<'a>(
    family: FamilyId,
    arguments: impl Iterator<Item = Value<'a>>,
    mut values: impl Iterator<Item = Value<'a>> + Clone,
    tx: TxOrdinal,
    lookups: &mut KeySet,
) {
    if values.clone().any(|value| value == Value::Null) {
        return;
    }
    let mut entry = lookups.write();
    entry.push(&family.0.to_be_bytes());
    for value in arguments.chain(values.by_ref()) {
        match value {
            Value::Null => entry.push(&[NULL]),
            Value::Unknown => entry.push(&[UNKNOWN]),
            Value::Text(text) => {
                entry.push(&[TEXT]);
                entry.push(&(text.len() as u32).to_be_bytes());
                entry.push(text);
            }
        }
    }
    entry.finish(family, tx);
}

/// An entry, read back.
struct Entry<'a> {
    template: &'a Template,
    question: Question,
    values: Vec<Value<'a>>,
}

/// Reads an entry; `None` only for bytes that [`encode`] did not write.
fn decode<'a>(rules: &'a Rules, bytes: &'a [u8]) -> Option<Entry<'a>> {
    let (number, mut rest) = bytes.split_first_chunk::<4>()?;
    let template = rules.templates.get(u32::from_be_bytes(*number) as usize)?;
    let lookup = template.lookup?;
    let mut values = Vec::new();
    while let Some((tag, behind)) = rest.split_first() {
        rest = behind;
        values.push(match *tag {
            NULL => Value::Null,
            UNKNOWN => Value::Unknown,
            _ => {
                let (length, behind) = rest.split_first_chunk::<4>()?;
                let (text, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                rest = behind;
                Value::Text(text)
            }
        });
    }
    let own = values.split_off(rules.arguments_of(template).len().min(values.len()));
    let args = values
        .iter()
        .map(|value| match value {
            Value::Text(text) => Some(text.to_vec()),
            Value::Null | Value::Unknown => None,
        })
        .collect();
    Some(Entry { template, question: Question { lookup, args }, values: own })
}

impl Rules {
    /// The distinct questions behind encoded lookups.
    pub fn questions(&self, lookups: &KeySet) -> Vec<Question> {
        questions(self, lookups)
    }

    /// Renders the keys of encoded lookups from the answers to [`questions`](Rules::questions) (same order); a refused
    /// question widens.
    pub fn resolve(&self, lookups: &KeySet, questions: &[Question], answers: &[Answer], out: &mut Invalidations) {
        resolve(self, lookups, questions, answers, out);
    }
}

/// The distinct questions, in order of first mention.
fn questions(rules: &Rules, lookups: &KeySet) -> Vec<Question> {
    let mut seen = std::collections::HashSet::new();
    let entries = lookups.iter().filter_map(|key| decode(rules, key.bytes));
    entries.map(|entry| entry.question).filter(|question| seen.insert(question.clone())).collect()
}

/// The keys of every entry; a question without a usable answer widens its keys.
fn resolve(rules: &Rules, lookups: &KeySet, questions: &[Question], answers: &[Answer], out: &mut Invalidations) {
    let answered: HashMap<&Question, &Answer> = questions.iter().zip(answers).collect();
    for key in lookups.iter() {
        let Some(entry) = decode(rules, key.bytes) else { continue };
        let txs = (key.first, key.last);
        match answered.get(&entry.question) {
            Some(Answer::Rows(rows)) => {
                for row in rows {
                    entry.render(rules, key.family, Some(row), txs, out);
                }
            }
            Some(Answer::Refused(_) | Answer::Late(_)) | None => entry.render(rules, key.family, None, txs, out),
        }
    }
}

impl Entry<'_> {
    /// One key of one row of the answer; without a row, the pattern.
    fn render(
        &self,
        rules: &Rules,
        family: FamilyId,
        row: Option<&AnswerRow>,
        txs: (TxOrdinal, TxOrdinal),
        out: &mut Invalidations,
    ) {
        let made: SmallVec<[Made<'_>; 4]> = self.template.parts.iter().filter_map(|part| part.made(row)).collect();
        let (mut values, mut made) = (self.values.iter().copied(), made.iter());
        let pieces = self.template.parts.iter().map(|part| match part {
            KeyPart::Literal(bytes) => KeyPiece::Literal(bytes),
            KeyPart::Star => KeyPiece::Star,
            KeyPart::Column(..) => KeyPiece::Value(values.next().unwrap_or(Value::Unknown)),
            KeyPart::Answer(..) => KeyPiece::Value(made.next().map_or(Value::Unknown, Made::value)),
        });
        let pieces: Pieces<'_> = pieces.collect();
        let protect: &[Vec<u8>] = if self.template.guarded { &rules.protect } else { &[] };
        if render(pieces.iter().copied(), family, txs, protect, out) {
            rules.tally().named(self.template.rule);
        }
    }
}

impl KeyPart {
    /// The value of an answer's column, as the template reads it.
    fn made<'a>(&self, row: Option<&'a AnswerRow>) -> Option<Made<'a>> {
        match self {
            KeyPart::Answer(column, reading) => {
                let value = match row.and_then(|row| row.get(*column)) {
                    Some(Some(text)) => Value::Text(text),
                    Some(None) => Value::Null,
                    None => Value::Unknown,
                };
                Some(reading.make(Form::Verbatim, value))
            }
            KeyPart::Literal(_) | KeyPart::Star | KeyPart::Column(..) => None,
        }
    }
}
