//! Keys and tags of a rule: templates to families. Lists of constants and companions are spelled out here, one family each.

use std::ops::Range;
use std::rc::Rc;

use toml::de::DeTable;

use crate::change::Value;
use crate::glob;
use crate::mistake::{Place, suggestion};
use crate::question::LookupId;
use crate::rules::plan::render::{self, KeyPiece, Pieces};
use crate::rules::read::foreign::{self, Sign};
use crate::rules::read::rule::{NamedLookup, RuleReader};
use crate::rules::read::template::{self, Piece};
use crate::rules::ruleset::{AnswerColumn, KeyPart, Template};
use crate::rules::value::reading::Reading;
use crate::tag::TAG;

/// Families that one template may be spelled out to.
const FAMILIES_MAX: usize = 256;

/// What a rule says around each of its templates.
#[derive(Clone, Copy, Default)]
pub(super) struct Around<'a> {
    /// What each key begins with.
    pub(super) prefix: Option<&'a [u8]>,
    /// What follows each key to make another.
    pub(super) companions: &'a [(String, Range<usize>)],
    /// Of tags: the tag that stands for all of them.
    pub(super) coarse: Option<&'a [u8]>,
}

/// A template that is being read: its parts for each choice of constants.
struct Draft<'t> {
    text: &'t str,
    at: &'t Range<usize>,
    spelled: Vec<Vec<KeyPart>>,
    fed_by: Option<LookupId>,
}

impl RuleReader<'_, '_> {
    pub(super) fn keys(&mut self, block: &DeTable<'_>, namespace: Option<&str>, lookups: &mut [NamedLookup]) {
        let companions = block.get("companions").map_or_else(Vec::new, |value| self.texts(value, "companions"));
        for (companion, at) in &companions {
            if companion.is_empty() || companion.contains(['{', '}', '*']) {
                self.error(
                    at.clone(),
                    "companion must be plain text",
                    "write what follows the key, for example \":meta\"",
                );
            }
        }
        let Some(value) = block.get("keys") else {
            if ["tags", "tags_all"].iter().any(|key| block.contains_key(*key)) {
                return;
            }
            let at = self.at.clone();
            return self.error(at, "rule has no keys", "write keys = [\"detail:{id}\"]");
        };
        let templates = self.texts(value, "keys");
        if templates.is_empty() && value.get_ref().as_array().is_some_and(|array| array.is_empty()) {
            self.error(value.span(), "rule has no keys", "write at least one, for example \"detail:{id}\"");
        }
        let prefix = namespace.map(|namespace| format!("{namespace}:").into_bytes());
        let around = Around { prefix: prefix.as_deref(), companions: &companions, coarse: None };
        for (text, pieces, at) in self.pieces(&templates, "key") {
            self.template(text, at, pieces, lookups, around);
        }
    }

    /// The templates that can be read; the others are mistakes.
    pub(super) fn pieces<'t>(
        &mut self,
        templates: &'t [(String, Range<usize>)],
        what: &str,
    ) -> Vec<(&'t str, Vec<Piece>, &'t Range<usize>)> {
        let mut read = Vec::new();
        for (index, (text, at)) in templates.iter().enumerate() {
            if templates[..index].iter().any(|(earlier, _)| earlier == text) {
                let place = Place::File(Rc::clone(self.file), at.clone());
                self.reader.mistakes.warning(place, format!("{what} \"{text}\" stands here twice"), "remove one");
            }
            match template::pieces(text) {
                Ok(pieces) => {
                    self.warn_of_foreign(text, at, what);
                    read.push((text.as_str(), pieces, at));
                }
                Err(error) => {
                    let at = self.inside(at, text, &error.at);
                    self.error(at, error.message, error.note);
                }
            }
        }
        read
    }

    /// A placeholder as the application may write it: `${id}`.
    fn warn_of_foreign(&mut self, text: &str, at: &Range<usize>, what: &str) {
        for found in foreign::find(text).into_iter().filter(|found| found.sign == Sign::AtSight) {
            let place = Place::File(Rc::clone(self.file), at.clone());
            let message =
                format!("\"{}\" in {what} \"{text}\" is not how a column's value is written here", found.written);
            let note = match found.meant {
                Some(meant) => format!("write \"{meant}\", unless the cache's keys hold that text"),
                None => {
                    "write the column in braces, for example {id}, unless the cache's keys hold that text".to_owned()
                }
            };
            self.reader.mistakes.warning(place, message, note);
        }
    }

    pub(super) fn template(
        &mut self,
        text: &str,
        at: &Range<usize>,
        pieces: Vec<Piece>,
        lookups: &mut [NamedLookup],
        Around { prefix, companions, coarse }: Around<'_>,
    ) {
        let prefix = prefix.map(|prefix| KeyPart::Literal(prefix.to_vec()));
        let mut draft = Draft { text, at, spelled: vec![prefix.into_iter().collect()], fed_by: None };
        for piece in pieces {
            if self.piece(&mut draft, piece, lookups).is_none() {
                return;
            }
        }
        if draft.spelled.len() * (1 + companions.len()) > FAMILIES_MAX {
            let message = format!("key \"{text}\" makes more than {FAMILIES_MAX} families");
            return self.error(at.clone(), message, "write fewer constants, or * where a sweep will do");
        }
        let rule = self.reader.rules.rules.len() - 1;
        for parts in draft.spelled {
            // A star at the end covers what follows the key.
            let followed = if parts.last() == Some(&KeyPart::Star) { &[] } else { companions };
            let with = |companion: &[u8]| {
                let mut parts = parts.clone();
                push(&mut parts, KeyPart::Literal(companion.to_vec()));
                parts
            };
            let all = followed.iter().map(|(companion, _)| with(companion.as_bytes()));
            for parts in std::iter::once(parts.clone()).chain(all) {
                let (family, lookup) = (family(&parts), draft.fed_by);
                let (source, coarse) = (text.to_owned(), coarse.map(<[u8]>::to_vec));
                if self
                    .add(Template { rule, source, parts, lookup, family, guarded: false, coarse, page: None }, at)
                    .is_none()
                {
                    return; // The other spellings would be refused with the same words.
                }
            }
        }
    }

    /// Adds a piece to every spelling; `None` when it was refused.
    fn piece(&mut self, draft: &mut Draft<'_>, piece: Piece, lookups: &mut [NamedLookup]) -> Option<()> {
        let part = match piece {
            Piece::Literal(literal) => KeyPart::Literal(literal.into_bytes()),
            Piece::Star => KeyPart::Star,
            Piece::Value(name, reading, place) => {
                let place = self.inside(draft.at, draft.text, &place);
                self.value(name, reading, place, lookups, &mut draft.fed_by)?
            }
            Piece::Choice(constants) => {
                let spelled = std::mem::take(&mut draft.spelled);
                for parts in spelled.iter().take(FAMILIES_MAX) {
                    for constant in &constants {
                        let mut parts = parts.clone();
                        push(&mut parts, KeyPart::Literal(constant.clone().into_bytes()));
                        draft.spelled.push(parts);
                    }
                }
                return Some(());
            }
        };
        draft.spelled.iter_mut().for_each(|parts| push(parts, part.clone()));
        Some(())
    }

    /// A column of the row, or of a lookup's answer when the rule has a lookup of that name.
    fn value(
        &mut self,
        name: String,
        mut reading: Reading,
        at: Range<usize>,
        lookups: &mut [NamedLookup],
        fed_by: &mut Option<LookupId>,
    ) -> Option<KeyPart> {
        let Some(named) = lookups.iter_mut().find(|lookup| lookup.name == name) else {
            let note = suggestion(&name, lookups.iter().map(|lookup| lookup.name.as_str()));
            if !reading.path.is_empty() && note.starts_with("did you mean") {
                self.error(at, format!("unknown lookup \"{name}\""), note);
                return None;
            }
            return Some(KeyPart::Column(name, reading));
        };
        named.used = true;
        if reading.path.is_empty() {
            self.error(at, format!("lookup \"{name}\" lacks a column"), "write {lookup.column}");
            return None;
        }
        if fed_by.is_some_and(|other| other != named.id) {
            self.error(at, "key uses two lookups", "join them in one SQL statement");
            return None;
        }
        *fed_by = Some(named.id);
        let column = AnswerColumn { name: reading.path.remove(0), writing: reading.column_writing() };
        let columns = &mut self.reader.rules.lookups[named.id.0 as usize].columns;
        let index = columns.iter().position(|known| *known == column).unwrap_or_else(|| {
            columns.push(column);
            columns.len() - 1
        });
        Some(KeyPart::Answer(index, reading))
    }

    /// Adds a template whose family is neither everything nor protected; `None` when it was refused.
    fn add(&mut self, mut template: Template, at: &Range<usize>) -> Option<()> {
        if template.coarse.is_some() {
            self.reader.rules.templates.push(template);
            return Some(());
        }
        let key = &template.source;
        if matches!(template.parts.first(), Some(KeyPart::Literal(text)) if text.first() == Some(&TAG)) {
            self.error(at.clone(), "key begins with NUL", "no key that clients of Redis share does: remove it");
            return None;
        }
        if !template.parts.iter().any(|part| matches!(part, KeyPart::Literal(text) if !text.is_empty())) {
            let message = match template.parts.iter().all(|part| matches!(part, KeyPart::Literal(_))) {
                true => "key is empty".to_owned(),
                false => format!("key \"{key}\" has no literal text: its family would be every key of the cache"),
            };
            self.error(at.clone(), message, "write a prefix, for example \"detail:{id}\", or a namespace");
            return None;
        }
        let prefix = glob::literal_prefix(&template.family);
        let protect = Rc::clone(&self.reader.rules.protect);
        let covers = |pattern: &Vec<u8>| match template.constant() {
            Some(key) => glob::matches(pattern, key),
            None => {
                let protected = glob::literal_prefix(pattern);
                pattern.ends_with(b"*")
                    && escaped(&protected) == pattern[..pattern.len() - 1]
                    && prefix.starts_with(&protected)
            }
        };
        if let Some(pattern) = protect.iter().find(|pattern| covers(pattern)) {
            let pattern = String::from_utf8_lossy(pattern);
            let message = format!("key \"{key}\" is protected: it would never be deleted");
            self.error(at.clone(), message, format!("protect of every cache holds \"{pattern}\""));
            return None;
        }
        template.guarded = protect.iter().any(|pattern| {
            let protected = glob::literal_prefix(pattern);
            protected.starts_with(&prefix) || prefix.starts_with(&protected)
        });
        self.reader.rules.templates.push(template);
        Some(())
    }
}

/// Adds a part; literals that meet become one, stars that meet as well.
fn push(parts: &mut Vec<KeyPart>, part: KeyPart) {
    match (parts.last_mut(), part) {
        (Some(KeyPart::Literal(before)), KeyPart::Literal(more)) => before.extend_from_slice(&more),
        (Some(KeyPart::Star), KeyPart::Star) => {}
        (_, part) => parts.push(part),
    }
}

/// The pattern that covers every key of a template.
fn family(parts: &[KeyPart]) -> Vec<u8> {
    let pieces: Pieces<'_> = parts
        .iter()
        .map(|part| match part {
            KeyPart::Literal(bytes) => KeyPiece::Literal(bytes),
            KeyPart::Star | KeyPart::Column(..) | KeyPart::Answer(..) => KeyPiece::Value(Value::Unknown),
        })
        .collect();
    render::pattern(&pieces)
}

fn escaped(literal: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::new();
    glob::escape_into(&mut pattern, literal);
    pattern
}
