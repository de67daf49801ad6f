//! The rules of one table, compiled against its columns. The hot path: no allocation per row, one walk per image.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::change::{Old, Relation, ReplicaIdentity, Row, Tuple, Value};
use crate::keys::{FamilyId, TxOrdinal};
use crate::rules::lookup;
use crate::rules::render::{Piece, Pieces, render};
use crate::rules::{Invalidations, On, Part, Rule, Rules, Template};

/// How a value goes into a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Form {
    /// As PostgreSQL sends it.
    Verbatim,
    /// `bool` (type 16): `true` and `false`, as JavaScript writes it.
    Boolean,
    /// `numeric` (type 1700): without trailing zeros behind the point, as JavaScript writes it.
    Numeric,
}

impl Form {
    /// `pg_type.oid` is fixed for built-in types (`src/include/catalog/pg_type.dat`).
    fn of(type_oid: u32) -> Self {
        match type_oid {
            16 => Form::Boolean,
            1700 => Form::Numeric,
            _ => Form::Verbatim,
        }
    }

    #[inline]
    fn read<'a>(self, value: Value<'a>) -> Value<'a> {
        match (self, value) {
            (Form::Boolean, Value::Text(b"t")) => Value::Text(b"true"),
            (Form::Boolean, Value::Text(b"f")) => Value::Text(b"false"),
            (Form::Numeric, Value::Text(text)) => Value::Text(without_trailing_zeros(text)),
            (Form::Verbatim | Form::Boolean | Form::Numeric, value) => value,
        }
    }
}

/// `250000.00` -> `250000`, `1.50` -> `1.5`; `100`, `NaN` and `Infinity` stay.
fn without_trailing_zeros(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let end = text.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    text[..end].strip_suffix(b".").unwrap_or(&text[..end])
}

/// One value that some key needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Slot {
    /// Index of the column in every tuple.
    position: usize,
    form: Form,
    in_identity: bool,
}

/// Where a planned value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// Index into the slots.
    Slot(usize),
    /// The relation has no such column (dropped, renamed, not published): never known.
    Missing,
}

#[derive(Clone, Debug)]
enum PlannedPart {
    Literal(Vec<u8>),
    Star,
    Value(Source),
    /// The answer's column: known only behind the gate.
    Answer,
}

#[derive(Clone, Debug)]
struct PlannedKey {
    family: FamilyId,
    on: On,
    parts: Vec<PlannedPart>,
    /// `Some` when a lookup feeds the key: its arguments.
    arguments: Option<Vec<Source>>,
    /// What TRUNCATE deletes.
    emptied: Emptied,
    /// Whether rendered keys must be compared with the protected patterns.
    guarded: bool,
}

#[derive(Clone, Debug)]
enum Emptied {
    Key(Vec<u8>),
    Family(Vec<u8>),
}

/// The rules of one relation, column names resolved to positions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sorted by position, distinct.
    slots: Vec<Slot>,
    keys: Vec<PlannedKey>,
    missing: Vec<String>,
    identity: ReplicaIdentity,
    protect: Rc<[Vec<u8>]>,
}

/// The values of one row image, one for each slot.
type Image<'a> = SmallVec<[Value<'a>; 16]>;

/// Redis takes keys of 512 MB and PostgreSQL has values of 1 GB; a value longer than this is not carried along.
const VALUE_BYTES_MAX: usize = 2 << 20;

/// The image with values that are too long to carry taken as unknown, so that their keys widen.
#[inline]
fn carried(mut image: Image<'_>) -> Image<'_> {
    for value in &mut image {
        if matches!(value, Value::Text(text) if text.len() > VALUE_BYTES_MAX) {
            *value = Value::Unknown;
        }
    }
    image
}

impl Plan {
    /// The plan of the rules that `concerned` picks.
    pub(super) fn compile(rules: &Rules, relation: &Relation, concerned: impl Fn(&Rule) -> bool) -> Plan {
        let templates: Vec<(FamilyId, &Template)> = (0..)
            .map(FamilyId)
            .zip(&rules.templates)
            .filter(|(_, template)| concerned(&rules.rules[template.rule]))
            .collect();
        let mut compiler = Compiler { relation, slots: Vec::new(), missing: Vec::new() };
        for (_, template) in &templates {
            compiler.collect(rules, template);
        }
        compiler.slots.sort_unstable();
        compiler.slots.dedup();
        let keys = templates.iter().map(|(family, template)| compiler.key(rules, *family, template)).collect();
        let Compiler { slots, missing, .. } = compiler;
        Plan { slots, keys, missing, identity: relation.identity, protect: Rc::clone(&rules.protect) }
    }

    /// Whether no rule concerns the relation.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Columns that rules read and the relation does not have: their keys are always widened.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Appends what the change invalidates, under the ordinal of its transaction.
    pub fn apply(&self, row: &Row<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        match *row {
            Row::Insert { new } => {
                let new = carried(self.image(new));
                for key in self.keys.iter().filter(|key| key.on.insert) {
                    self.key(key, &new, tx, out);
                }
            }
            Row::Update { old, new } => {
                let mut new = self.image(new);
                let old = carried(self.old(old, Some(&mut new)));
                let new = carried(new);
                for key in self.keys.iter().filter(|key| key.on.update) {
                    self.key(key, &new, tx, out);
                    if key.reads_changed(&old, &new) {
                        self.key(key, &old, tx, out);
                    }
                }
            }
            Row::Delete { old } => {
                let old = carried(self.old(old, None));
                for key in self.keys.iter().filter(|key| key.on.delete) {
                    self.key(key, &old, tx, out);
                }
            }
            Row::Truncate => {
                for key in &self.keys {
                    match &key.emptied {
                        Emptied::Key(bytes) => out.keys.insert(bytes, key.family, tx),
                        Emptied::Family(pattern) => out.patterns.insert(pattern, key.family, tx),
                    };
                }
            }
        }
    }

    /// The slots' values in one walk; a tuple that ends early leaves the rest unknown.
    #[inline]
    fn image<'a>(&self, tuple: Tuple<'a>) -> Image<'a> {
        let mut image = Image::new();
        let mut values = tuple.values();
        let (mut at, mut last) = (0, Value::Unknown);
        for slot in &self.slots {
            if slot.position >= at {
                last = values.nth(slot.position - at).unwrap_or(Value::Unknown);
                at = slot.position + 1;
            }
            image.push(slot.form.read(last));
        }
        image
    }

    /// What is known of the old row. An update's `new` image gains what only the old one tells: an unchanged TOAST.
    #[inline]
    fn old<'a>(&self, old: Old<'a>, new: Option<&mut Image<'a>>) -> Image<'a> {
        let mut image = match (old, &new) {
            (Old::Full(tuple) | Old::Key(tuple), _) => self.image(tuple),
            // Nothing was sent because the identity's columns are as they were: `ExtractReplicaIdentity`
            // (src/backend/access/heap/heapam.c). With FULL the old row always comes, so its absence tells nothing.
            (Old::Absent, Some(new)) if self.identity != ReplicaIdentity::Full => Image::clone(new),
            (Old::Absent, Some(_) | None) => std::iter::repeat_n(Value::Unknown, self.slots.len()).collect(),
        };
        if !matches!(old, Old::Full(_)) {
            for (value, _) in image.iter_mut().zip(&self.slots).filter(|(_, slot)| !slot.in_identity) {
                *value = Value::Unknown;
            }
        }
        for (new, old) in new.into_iter().flatten().zip(&image).filter(|(new, _)| **new == Value::Unknown) {
            *new = *old;
        }
        image
    }

    /// One key of one image.
    #[inline]
    fn key(&self, key: &PlannedKey, image: &[Value<'_>], tx: TxOrdinal, out: &mut Invalidations) {
        if let Some(arguments) = &key.arguments
            && arguments.iter().all(|source| source.value(image) != Value::Unknown)
        {
            let arguments = arguments.iter().map(|source| source.value(image));
            let values = key.parts.iter().filter_map(|part| match part {
                PlannedPart::Value(source) => Some(source.value(image)),
                PlannedPart::Literal(_) | PlannedPart::Star | PlannedPart::Answer => None,
            });
            return lookup::encode(key.family, arguments, values, tx, &mut out.lookups);
        }
        let pieces: Pieces<'_> = key.parts.iter().map(|part| part.piece(image)).collect();
        let protect: &[Vec<u8>] = if key.guarded { &self.protect } else { &[] };
        render(&pieces, key.family, (tx, tx), protect, out);
    }
}

impl PlannedKey {
    /// Whether the old image makes another key (or question) than the new one.
    #[inline]
    fn reads_changed(&self, old: &[Value<'_>], new: &[Value<'_>]) -> bool {
        let part_changed = |part: &PlannedPart| match part {
            PlannedPart::Value(source) => source.value(old) != source.value(new),
            PlannedPart::Literal(_) | PlannedPart::Star | PlannedPart::Answer => false,
        };
        self.parts.iter().any(part_changed)
            || self.arguments.iter().flatten().any(|source| source.value(old) != source.value(new))
    }
}

impl PlannedPart {
    #[inline]
    fn piece<'a>(&'a self, image: &[Value<'a>]) -> Piece<'a> {
        match self {
            PlannedPart::Literal(bytes) => Piece::Literal(bytes),
            PlannedPart::Star => Piece::Star,
            PlannedPart::Value(source) => Piece::Value(source.value(image)),
            PlannedPart::Answer => Piece::Value(Value::Unknown),
        }
    }
}

impl Source {
    #[inline]
    fn value<'a>(self, image: &[Value<'a>]) -> Value<'a> {
        match self {
            Source::Slot(slot) => image[slot],
            Source::Missing => Value::Unknown,
        }
    }
}

/// Resolves column names to slots.
struct Compiler<'a> {
    relation: &'a Relation,
    slots: Vec<Slot>,
    missing: Vec<String>,
}

/// Whether a column goes into a key or to a lookup.
#[derive(Clone, Copy)]
enum Use {
    Key,
    /// A parameter is compared by PostgreSQL, which wants its own text.
    Argument,
}

impl Compiler<'_> {
    fn slot(&self, name: &str, r#use: Use) -> Option<Slot> {
        let (position, column) = self.relation.columns.iter().enumerate().find(|(_, column)| column.name == name)?;
        let form = match r#use {
            Use::Key => Form::of(column.type_oid.0),
            Use::Argument => Form::Verbatim,
        };
        Some(Slot { position, form, in_identity: column.in_identity })
    }

    fn collect(&mut self, rules: &Rules, template: &Template) {
        let parts = template.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some((name, Use::Key)),
            Part::Literal(_) | Part::Star | Part::Answer(_) => None,
        });
        for (name, r#use) in parts.chain(rules.arguments_of(template).iter().map(|name| (name, Use::Argument))) {
            match self.slot(name, r#use) {
                Some(slot) => self.slots.push(slot),
                None if self.missing.contains(name) => {}
                None => self.missing.push(name.clone()),
            }
        }
    }

    fn source(&self, name: &str, r#use: Use) -> Source {
        let slot = self.slot(name, r#use).and_then(|slot| self.slots.binary_search(&slot).ok());
        slot.map_or(Source::Missing, Source::Slot)
    }

    fn key(&self, rules: &Rules, family: FamilyId, template: &Template) -> PlannedKey {
        let part = |part: &Part| match part {
            Part::Literal(bytes) => PlannedPart::Literal(bytes.clone()),
            Part::Star => PlannedPart::Star,
            Part::Column(name) => PlannedPart::Value(self.source(name, Use::Key)),
            Part::Answer(_) => PlannedPart::Answer,
        };
        let arguments = rules.arguments_of(template).iter().map(|name| self.source(name, Use::Argument)).collect();
        PlannedKey {
            family,
            on: rules.rules[template.rule].on,
            parts: template.parts.iter().map(part).collect(),
            arguments: template.lookup.map(|_| arguments),
            emptied: match template.constant() {
                Some(key) => Emptied::Key(key.to_vec()),
                None => Emptied::Family(template.family.clone()),
            },
            guarded: template.guarded,
        }
    }
}
