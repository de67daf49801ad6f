//! The rules of one table, compiled against its columns. The hot path: no allocation per row, one walk per image.
//!
//! What forty rules have in common is found once for each change: which columns changed, which conditions an image
//! meets. A rule whose columns did not change costs the comparison of two sets.

pub mod cause;
mod columns;
mod compile;
pub mod custom;
mod images;
mod lookup;
pub mod named;
mod page;
pub(super) mod render;
mod verdict;

use std::cell::RefCell;
use std::rc::Rc;

use crate::change::{Old, ReplicaIdentity, Row, Tuple, Value};
use crate::keys::{FamilyId, TxOrdinal};
use crate::question::LookupId;
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::rules::plan::columns::{ColumnSet, Comparing};
use crate::rules::plan::images::{Image, ImageSlot, Making, ValueSource, raw, raw_old};
use crate::rules::plan::page::PlannedPagePart;
use crate::rules::plan::render::{KeyPiece, render};
use crate::rules::plan::verdict::{Conditions, Side};
use crate::rules::ruleset::On;
use crate::rules::tally::Tally;

#[derive(Clone, Debug)]
enum PlannedPart {
    Literal(Vec<u8>),
    Star,
    Value(ValueSource),
    /// The answer's column: known only behind the gate.
    Answer,
}

#[derive(Clone, Debug)]
struct PlannedKey {
    family: FamilyId,
    parts: Vec<PlannedPart>,
    /// `Some` when a lookup feeds the key: its arguments.
    arguments: Option<Vec<ValueSource>>,
    /// The columns that it is made of, arguments included.
    reads: ColumnSet,
    /// What TRUNCATE deletes.
    emptied: Emptied,
    /// Whether rendered keys must be compared with the protected patterns.
    guarded: bool,
    /// The address of its page, where that is fetched again.
    page: Option<Vec<PlannedPagePart>>,
}

#[derive(Clone, Debug)]
enum Emptied {
    Key(Vec<u8>),
    Family(Vec<u8>),
}

/// Why a rule makes no key of a change, for `explain`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldBack {
    /// It does not listen to this kind of change.
    Deaf,
    /// Only ignored columns changed.
    Ignored,
    /// None of the columns in `changed` changed.
    Unchanged,
    /// No row image meets its condition.
    Unmet,
}

/// `changed` of a rule: an update counts when one of the values did.
#[derive(Clone, Debug)]
struct Watched {
    columns: ColumnSet,
    values: Vec<ValueSource>,
}

#[derive(Clone, Debug)]
struct PlannedRule {
    /// Index into the rules.
    index: usize,
    on: On,
    /// Its index in [`Plan::conditions`].
    when: Option<usize>,
    changed: Option<Watched>,
    /// The columns that count, when some do not.
    counting: Option<ColumnSet>,
    keys: Vec<PlannedKey>,
}

/// The lookups whose kept answers a change makes old.
#[derive(Clone, Debug)]
struct Forgetting {
    lookups: Vec<LookupId>,
    /// The columns that count, when the table ignores some.
    counting: Option<ColumnSet>,
}

/// An update, with what its rules have in common.
struct Update<'a, 'p> {
    old: Image<'a, 'p>,
    new: Image<'a, 'p>,
    changed: ColumnSet,
}

/// The rules of one relation, column names resolved to positions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sorted by position, distinct.
    slots: Vec<ImageSlot>,
    makings: Vec<Making>,
    conditions: Conditions,
    comparing: Comparing,
    rules: Vec<PlannedRule>,
    forgetting: Forgetting,
    /// Columns that changed, and the rules that such an update does not hold back by its columns alone: one update is
    /// like the one before it.
    like_before: RefCell<(ColumnSet, Vec<usize>)>,
    missing: Vec<String>,
    identity: ReplicaIdentity,
    protect: Rc<[Vec<u8>]>,
    /// The tables whose rows they are, by their indexes.
    tables: Vec<usize>,
    tally: Rc<Tally>,
}

impl Plan {
    /// Whether neither a rule nor a kept answer depends on the relation.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.forgetting.lookups.is_empty()
    }

    /// Columns that rules read and the relation does not have: their keys are always widened.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Appends what the change invalidates, under the ordinal of its transaction.
    #[inline]
    pub fn apply(&self, row: &Row<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        self.tally.changed(&self.tables, row);
        match *row {
            Row::Insert { new } => self.alone(&self.image(new), |on| on.insert, tx, out),
            Row::Update { old, new } => self.update(old, new, tx, out),
            Row::Delete { old } => {
                let old = Image::old(raw_old(&self.slots, self.identity, old, None), &self.makings);
                self.alone(&old, |on| on.delete, tx, out);
            }
            Row::Truncate => return self.whole(Cause::Emptied, tx, out),
        }
        if !self.forgetting.lookups.is_empty() {
            self.forget(row, tx, out);
        }
    }

    /// The same, for whoever only looks at the change: it is not counted.
    pub fn sketch(&self, row: &Row<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        self.tally.uncounted(|| self.apply(row, tx, out));
    }

    /// Appends every key of the rules, because of `cause`: what an emptied table invalidates.
    pub fn whole(&self, cause: Cause, tx: TxOrdinal, out: &mut Invalidations) {
        for key in self.rules.iter().flat_map(|rule| &rule.keys) {
            match &key.emptied {
                Emptied::Key(bytes) => out.keys.insert_constant(bytes, key.family, tx),
                Emptied::Family(pattern) => out.patterns.insert(pattern, key.family, tx),
            };
        }
        out.causes.add(cause);
        if !self.forgetting.lookups.is_empty() {
            self.forget(&Row::Truncate, tx, out);
        }
    }

    /// Names the lookups whose kept answers are older than the change.
    fn forget(&self, row: &Row<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        if let (Row::Update { old, new }, Some(counting)) = (row, &self.forgetting.counting)
            && !counting.meets(&self.comparing.changed(*old, *new))
        {
            return;
        }
        for lookup in &self.forgetting.lookups {
            out.forgets.insert_constant(&lookup.0.to_be_bytes(), FamilyId(lookup.0), tx);
        }
    }

    /// What one row image of an update makes by itself, whatever the other image holds: for `explain`.
    pub fn updated(&self, image: Tuple<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        self.alone(&self.image(image), |on| on.update, tx, out);
    }

    #[inline]
    fn image<'a>(&self, tuple: Tuple<'a>) -> Image<'a, '_> {
        Image::new(raw(&self.slots, tuple), &self.makings)
    }

    #[inline]
    fn alone(&self, image: &Image<'_, '_>, listens: fn(On) -> bool, tx: TxOrdinal, out: &mut Invalidations) {
        let side = self.conditions.of(image);
        for rule in self.rules.iter().filter(|rule| listens(rule.on) && self.meets(rule, &side)) {
            for key in &rule.keys {
                self.key(rule, key, image, tx, out);
            }
        }
    }

    #[inline]
    fn update(&self, old: Old<'_>, new: Tuple<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        let update = self.compare(old, new);
        let new_side = self.conditions.of(&update.new);
        let old_side = self.conditions.beside(&update.old, &update.changed, &new_side);
        let mut like_before = self.like_before.borrow_mut();
        let (changed, concerned) = &mut *like_before;
        if *changed != update.changed {
            concerned.clear();
            let hears = |rule: &PlannedRule| rule.held_by_columns(&update.changed).is_none();
            concerned.extend((0..self.rules.len()).filter(|index| hears(&self.rules[*index])));
            *changed = update.changed.clone();
        }
        for index in concerned {
            let rule = &self.rules[*index];
            if !rule.changed.as_ref().is_none_or(|watched| watched.may_have_changed(&update)) {
                continue;
            }
            let (new_meets, old_meets) = (self.meets(rule, &new_side), self.meets(rule, &old_side));
            for key in &rule.keys {
                if new_meets {
                    self.key(rule, key, &update.new, tx, out);
                }
                if old_meets && (!new_meets || key.reads_changed(&update)) {
                    self.key(rule, key, &update.old, tx, out);
                }
            }
        }
    }

    #[inline]
    fn compare<'a>(&self, old: Old<'a>, new: Tuple<'a>) -> Update<'a, '_> {
        let changed = self.comparing.changed(old, new);
        let mut new = raw(&self.slots, new);
        let old = Image::old(raw_old(&self.slots, self.identity, old, Some(&mut new)), &self.makings);
        Update { old, new: Image::new(new, &self.makings), changed }
    }

    /// Whether the image may meet the rule's condition.
    #[inline]
    fn meets(&self, rule: &PlannedRule, side: &Side<'_, '_, '_>) -> bool {
        rule.when.is_none_or(|when| self.conditions.possible(when, side).may_hold())
    }

    /// The rules (their index) that make no key of the change, and why.
    pub fn held(&self, row: &Row<'_>) -> Vec<(usize, HeldBack)> {
        let alone = |rule: &PlannedRule, listens: bool, image: &Image<'_, '_>| match listens {
            false => Some(HeldBack::Deaf),
            true => (!self.meets(rule, &self.conditions.of(image))).then_some(HeldBack::Unmet),
        };
        let why = |rule: &PlannedRule| match *row {
            Row::Insert { new } => alone(rule, rule.on.insert, &self.image(new)),
            Row::Delete { old } => {
                let old = Image::old(raw_old(&self.slots, self.identity, old, None), &self.makings);
                alone(rule, rule.on.delete, &old)
            }
            Row::Update { old, new } => {
                let update = self.compare(old, new);
                let met = |image| self.meets(rule, &self.conditions.of(image));
                let unmet = || (!met(&update.new) && !met(&update.old)).then_some(HeldBack::Unmet);
                rule.held_from_update(&update).or_else(unmet)
            }
            Row::Truncate => None,
        };
        self.rules.iter().filter_map(|rule| Some((rule.index, why(rule)?))).collect()
    }

    /// One key of one image.
    #[inline]
    fn key(&self, rule: &PlannedRule, key: &PlannedKey, image: &Image<'_, '_>, tx: TxOrdinal, out: &mut Invalidations) {
        if let Some(arguments) = &key.arguments
            && arguments.iter().all(|source| image.value(*source) != Value::Unknown)
        {
            let arguments = arguments.iter().map(|source| image.value(*source));
            let values = key.parts.iter().filter_map(|part| match part {
                PlannedPart::Value(source) => Some(image.value(*source)),
                PlannedPart::Literal(_) | PlannedPart::Star | PlannedPart::Answer => None,
            });
            return lookup::encode(key.family, arguments, values, tx, &mut out.lookups);
        }
        if let Emptied::Key(constant) = &key.emptied {
            out.keys.insert_constant(constant, key.family, tx);
            self.page(key, image, tx, out);
            return self.tally.named(rule.index);
        }
        if render(key.parts.iter().map(|part| part.piece(image)), key.family, (tx, tx), self.protects(key), out) {
            self.page(key, image, tx, out);
            self.tally.named(rule.index);
        }
    }

    #[inline]
    fn protects(&self, key: &PlannedKey) -> &[Vec<u8>] {
        if key.guarded { &self.protect } else { &[] }
    }

    /// The page of a key.
    #[inline]
    fn page(&self, key: &PlannedKey, image: &Image<'_, '_>, tx: TxOrdinal, out: &mut Invalidations) {
        if let Some(address) = &key.page {
            let pieces = key.parts.iter().map(|part| part.piece(image));
            page::add(address, image, pieces, (key.family, tx), self.protects(key), out);
        }
    }
}

impl PlannedRule {
    /// What holds the rule back from an update, conditions aside.
    fn held_from_update(&self, update: &Update<'_, '_>) -> Option<HeldBack> {
        let unchanged = || self.changed.as_ref().is_some_and(|watched| !watched.may_have_changed(update));
        self.held_by_columns(&update.changed).or_else(|| unchanged().then_some(HeldBack::Unchanged))
    }

    /// What holds the rule back from an update that may have changed these columns and no others.
    fn held_by_columns(&self, changed: &ColumnSet) -> Option<HeldBack> {
        if !self.on.update {
            return Some(HeldBack::Deaf);
        }
        if self.counting.as_ref().is_some_and(|counting| !counting.meets(changed)) {
            return Some(HeldBack::Ignored);
        }
        let unchanged = self.changed.as_ref().is_some_and(|watched| !watched.columns.meets(changed));
        unchanged.then_some(HeldBack::Unchanged)
    }
}

impl Watched {
    /// Whether one of the values, in columns that may have changed, differs or is not known.
    #[inline]
    fn may_have_changed(&self, update: &Update<'_, '_>) -> bool {
        let differs = |source: &ValueSource| {
            let (old, new) = (update.old.value(*source), update.new.value(*source));
            old != new || old == Value::Unknown
        };
        self.values.iter().any(differs)
    }
}

impl PlannedKey {
    /// Whether the old image makes another key (or question) than the new one.
    #[inline]
    fn reads_changed(&self, update: &Update<'_, '_>) -> bool {
        let differs = |source: &ValueSource| update.old.value(*source) != update.new.value(*source);
        let part_changed = |part: &PlannedPart| match part {
            PlannedPart::Value(source) => differs(source),
            PlannedPart::Literal(_) | PlannedPart::Star | PlannedPart::Answer => false,
        };
        self.reads.meets(&update.changed)
            && (self.parts.iter().any(part_changed) || self.arguments.iter().flatten().any(differs))
    }
}

impl PlannedPart {
    #[inline]
    fn piece<'a>(&'a self, image: &'a Image<'_, '_>) -> KeyPiece<'a> {
        match self {
            PlannedPart::Literal(bytes) => KeyPiece::Literal(bytes),
            PlannedPart::Star => KeyPiece::Star,
            PlannedPart::Value(source) => KeyPiece::Value(image.value(*source)),
            PlannedPart::Answer => KeyPiece::Value(Value::Unknown),
        }
    }
}
