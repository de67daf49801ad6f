//! The rules of one table, compiled against its columns. The hot path: no allocation per row, one walk per image.
//!
//! What forty rules have in common is found once for each change: which columns changed, which conditions an image
//! meets. A rule whose columns did not change costs the comparison of two sets.

pub mod cause;
mod columns;
pub mod custom;
mod images;
mod lookup;
pub(super) mod render;
mod verdict;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::change::{Oid, Old, Relation, ReplicaIdentity, Row, Tuple, Value};
use crate::keys::{FamilyId, TxOrdinal};
use crate::question::LookupId;
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::rules::plan::columns::{Columns, Comparing};
use crate::rules::plan::images::{Image, Making, Slot, Source, raw, raw_old};
use crate::rules::plan::render::{Piece, render};
use crate::rules::plan::verdict::{Conditions, Operand, Side};
use crate::rules::ruleset::{On, Part, Rule, Rules, TableId, Template};
use crate::rules::value::condition::Kind;
use crate::rules::value::path::Path;
use crate::rules::value::reading::{Form, Reading};

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
    parts: Vec<PlannedPart>,
    /// `Some` when a lookup feeds the key: its arguments.
    arguments: Option<Vec<Source>>,
    /// The columns that it is made of, arguments included.
    reads: Columns,
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

/// Why a rule makes no key of a change, for `explain`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
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
    columns: Columns,
    values: Vec<Source>,
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
    counting: Option<Columns>,
    keys: Vec<PlannedKey>,
}

/// The lookups whose kept answers a change makes old.
#[derive(Clone, Debug)]
struct Forgetting {
    lookups: Vec<LookupId>,
    /// The columns that count, when the table ignores some.
    counting: Option<Columns>,
}

/// Whose keys a plan makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope<'a> {
    /// Nobody's.
    Nothing,
    /// Those of the tables' rules: a relation's rows are those of each table that it is a part of.
    Tables(&'a [TableId]),
    /// The same, and those whose lookups depend on the tables.
    Families(&'a [TableId]),
    /// Everybody's.
    Everything,
}

impl Scope<'_> {
    fn holds(self, rules: &Rules, template: &Template) -> bool {
        let of_rule = |table: &TableId| rules.rules[template.rule].tables.contains(table);
        let looks_up = |table: &TableId| template.lookup.is_some_and(|lookup| rules.sources_of(lookup).contains(table));
        match self {
            Scope::Nothing => false,
            Scope::Tables(tables) => tables.iter().any(of_rule),
            Scope::Families(tables) => tables.iter().any(|table| of_rule(table) || looks_up(table)),
            Scope::Everything => true,
        }
    }

    /// The lookups whose kept answers are old when what it covers changes.
    fn forgets(self, rules: &Rules) -> Vec<LookupId> {
        match self {
            Scope::Nothing => Vec::new(),
            Scope::Tables(tables) | Scope::Families(tables) => rules.dependents(tables).collect(),
            Scope::Everything => (0..rules.lookups.len() as u32).map(LookupId).filter(|id| rules.keeps(*id)).collect(),
        }
    }

    /// Whether a column counts for none of the tables that it is about.
    fn ignores(self, rules: &Rules, name: &String) -> bool {
        let of_table = |table: &TableId| rules.tables.get(table.0).is_some_and(|table| table.ignore.contains(name));
        match self {
            Scope::Tables(tables) | Scope::Families(tables) => !tables.is_empty() && tables.iter().all(of_table),
            Scope::Nothing | Scope::Everything => false,
        }
    }
}

/// An update, with what its rules have in common.
struct Update<'a, 'p> {
    old: Image<'a, 'p>,
    new: Image<'a, 'p>,
    changed: Columns,
}

/// The rules of one relation, column names resolved to positions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sorted by position, distinct.
    slots: Vec<Slot>,
    makings: Vec<Making>,
    conditions: Conditions,
    comparing: Comparing,
    rules: Vec<PlannedRule>,
    forgetting: Forgetting,
    /// Columns that changed, and the rules that such an update does not hold back by its columns alone: one update is
    /// like the one before it.
    like_before: RefCell<(Columns, Vec<usize>)>,
    missing: Vec<String>,
    identity: ReplicaIdentity,
    protect: Rc<[Vec<u8>]>,
}

impl Rules {
    /// Compiles the rules of `table` (the relation itself, or the root of its partition tree) against its columns.
    pub fn plan(&self, relation: &Relation, (schema, table): (&str, &str)) -> Plan {
        match self.table(schema, table) {
            Some(table) => self.plan_of(relation, &[table]),
            None => Plan::compile(self, relation, Scope::Nothing),
        }
    }

    /// The same for a relation whose rows are those of several tables: one that inherits from others.
    pub fn plan_of(&self, relation: &Relation, tables: &[TableId]) -> Plan {
        Plan::compile(self, relation, Scope::Tables(tables))
    }

    /// A plan whose TRUNCATE is every family of every rule.
    pub fn everything(&self) -> Plan {
        Plan::compile(self, &Rules::nothing(), Scope::Everything)
    }

    /// A plan whose TRUNCATE is every family that a change of the table may be about: those of its rules, and those whose
    /// keys are made of answers that depend on it.
    pub fn families_of(&self, table: TableId) -> Plan {
        Plan::compile(self, &Rules::nothing(), Scope::Families(&[table]))
    }

    /// The families of some tables.
    pub fn families_of_all(&self, tables: impl Iterator<Item = TableId>) -> BTreeSet<FamilyId> {
        let mut load = Invalidations::default();
        tables.for_each(|table| self.families_of(table).whole(Cause::Asked, 0, &mut load));
        load.patterns.iter().map(|pattern| pattern.family).collect()
    }

    /// A relation without a column, for plans of which only TRUNCATE is used.
    fn nothing() -> Relation {
        Relation {
            oid: Oid(0),
            schema: String::new(),
            name: String::new(),
            identity: ReplicaIdentity::Nothing,
            columns: Vec::new(),
        }
    }
}

impl Plan {
    /// The plan of the rules in `scope` over the columns of `relation`.
    fn compile(rules: &Rules, relation: &Relation, scope: Scope<'_>) -> Plan {
        let mut compiler = Compiler::new(rules, relation, scope);
        let concerned = |index| rules.templates.iter().any(|t| t.rule == index && scope.holds(rules, t));
        let picked = || rules.rules.iter().enumerate().filter(|(index, _)| concerned(*index));
        picked().for_each(|(index, rule)| compiler.collect(index, rule));
        compiler.slots.sort_unstable();
        compiler.slots.dedup();
        let planned = picked().map(|(index, rule)| compiler.rule(index, rule)).collect();
        let lookups = scope.forgets(rules);
        let counting = if lookups.is_empty() { None } else { compiler.counting(&[]) };
        let forgetting = Forgetting { lookups, counting };
        let Compiler { slots, makings, conditions, comparing, missing, .. } = compiler;
        let protect = Rc::clone(&rules.protect);
        // An update that changed no column at all, not even those that the relation lacks, does not exist.
        let like_before = RefCell::new((Columns::none(relation.columns.len()), Vec::new()));
        let identity = relation.identity;
        let rules = planned;
        Plan { slots, makings, conditions, comparing, rules, forgetting, like_before, missing, identity, protect }
    }

    /// Whether neither a rule nor a kept answer depends on the relation.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.forgetting.lookups.is_empty()
    }

    /// Columns that rules read and the relation does not have: their keys are always widened.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Appends what the change invalidates, under the ordinal of its transaction.
    pub fn apply(&self, row: &Row<'_>, tx: TxOrdinal, out: &mut Invalidations) {
        match *row {
            Row::Insert { new } => self.alone(&self.image(new), |on| on.insert, tx, out),
            Row::Update { old, new } => self.update(old, new, tx, out),
            Row::Delete { old } => {
                let old = Image::new(raw_old(&self.slots, self.identity, old, None), &self.makings);
                self.alone(&old, |on| on.delete, tx, out);
            }
            Row::Truncate => return self.whole(Cause::Emptied, tx, out),
        }
        if !self.forgetting.lookups.is_empty() {
            self.forget(row, tx, out);
        }
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

    fn image<'a>(&self, tuple: Tuple<'a>) -> Image<'a, '_> {
        Image::new(raw(&self.slots, tuple), &self.makings)
    }

    #[inline]
    fn alone(&self, image: &Image<'_, '_>, listens: fn(On) -> bool, tx: TxOrdinal, out: &mut Invalidations) {
        let side = self.conditions.of(image);
        for rule in self.rules.iter().filter(|rule| listens(rule.on) && self.meets(rule, &side)) {
            for key in &rule.keys {
                self.key(key, image, tx, out);
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
                    self.key(key, &update.new, tx, out);
                }
                if old_meets && (!new_meets || key.reads_changed(&update)) {
                    self.key(key, &update.old, tx, out);
                }
            }
        }
    }

    #[inline]
    fn compare<'a>(&self, old: Old<'a>, new: Tuple<'a>) -> Update<'a, '_> {
        let changed = self.comparing.changed(old, new);
        let mut new = raw(&self.slots, new);
        let old = Image::new(raw_old(&self.slots, self.identity, old, Some(&mut new)), &self.makings);
        Update { old, new: Image::new(new, &self.makings), changed }
    }

    /// Whether the image may meet the rule's condition.
    #[inline]
    fn meets(&self, rule: &PlannedRule, side: &Side<'_, '_, '_>) -> bool {
        rule.when.is_none_or(|when| self.conditions.possible(when, side).may_hold())
    }

    /// The rules (their index) that make no key of the change, and why.
    pub fn held(&self, row: &Row<'_>) -> Vec<(usize, Held)> {
        let alone = |rule: &PlannedRule, listens: bool, image: &Image<'_, '_>| match listens {
            false => Some(Held::Deaf),
            true => (!self.meets(rule, &self.conditions.of(image))).then_some(Held::Unmet),
        };
        let why = |rule: &PlannedRule| match *row {
            Row::Insert { new } => alone(rule, rule.on.insert, &self.image(new)),
            Row::Delete { old } => {
                let old = Image::new(raw_old(&self.slots, self.identity, old, None), &self.makings);
                alone(rule, rule.on.delete, &old)
            }
            Row::Update { old, new } => {
                let update = self.compare(old, new);
                let met = |image| self.meets(rule, &self.conditions.of(image));
                let unmet = || (!met(&update.new) && !met(&update.old)).then_some(Held::Unmet);
                rule.held_from_update(&update).or_else(unmet)
            }
            Row::Truncate => None,
        };
        self.rules.iter().filter_map(|rule| Some((rule.index, why(rule)?))).collect()
    }

    /// One key of one image.
    #[inline]
    fn key(&self, key: &PlannedKey, image: &Image<'_, '_>, tx: TxOrdinal, out: &mut Invalidations) {
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
            return;
        }
        let protect: &[Vec<u8>] = if key.guarded { &self.protect } else { &[] };
        render(key.parts.iter().map(|part| part.piece(image)), key.family, (tx, tx), protect, out);
    }
}

impl PlannedRule {
    /// What holds the rule back from an update, conditions aside.
    fn held_from_update(&self, update: &Update<'_, '_>) -> Option<Held> {
        let unchanged = || self.changed.as_ref().is_some_and(|watched| !watched.may_have_changed(update));
        self.held_by_columns(&update.changed).or_else(|| unchanged().then_some(Held::Unchanged))
    }

    /// What holds the rule back from an update that may have changed these columns and no others.
    fn held_by_columns(&self, changed: &Columns) -> Option<Held> {
        if !self.on.update {
            return Some(Held::Deaf);
        }
        if self.counting.as_ref().is_some_and(|counting| !counting.meets(changed)) {
            return Some(Held::Ignored);
        }
        let unchanged = self.changed.as_ref().is_some_and(|watched| !watched.columns.meets(changed));
        unchanged.then_some(Held::Unchanged)
    }
}

impl Watched {
    /// Whether one of the values, in columns that may have changed, differs or is not known.
    #[inline]
    fn may_have_changed(&self, update: &Update<'_, '_>) -> bool {
        let differs = |source: &Source| {
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
        let differs = |source: &Source| update.old.value(*source) != update.new.value(*source);
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
    fn piece<'a>(&'a self, image: &'a Image<'_, '_>) -> Piece<'a> {
        match self {
            PlannedPart::Literal(bytes) => Piece::Literal(bytes),
            PlannedPart::Star => Piece::Star,
            PlannedPart::Value(source) => Piece::Value(image.value(*source)),
            PlannedPart::Answer => Piece::Value(Value::Unknown),
        }
    }
}

/// Resolves column names to slots.
struct Compiler<'a> {
    rules: &'a Rules,
    relation: &'a Relation,
    scope: Scope<'a>,
    slots: Vec<Slot>,
    makings: Vec<Making>,
    conditions: Conditions,
    comparing: Comparing,
    missing: Vec<String>,
}

/// A value inside of a column, in PostgreSQL's own text: what conditions compare and lookups are asked with.
fn plain(path: &Path) -> Reading {
    Reading { path: path.inside.clone(), ..Reading::POSTGRESQL }
}

impl<'a> Compiler<'a> {
    fn new(rules: &'a Rules, relation: &'a Relation, scope: Scope<'a>) -> Self {
        let (slots, makings, missing) = (Vec::new(), Vec::new(), Vec::new());
        let (conditions, comparing) = (Conditions::none(relation.columns.len()), Comparing::new(relation));
        Compiler { rules, relation, scope, slots, makings, conditions, comparing, missing }
    }

    /// The slot of a column, and the form that is left for a making to write.
    fn slot(&self, name: &str, reading: &Reading) -> Option<(Slot, Option<Form>)> {
        let (position, column) = self.relation.columns.iter().enumerate().find(|(_, column)| column.name == name)?;
        let in_identity = column.in_identity;
        let form = Form::of(column.type_oid.0, reading.writing);
        Some(match reading.is_plain() && form.is_slice() {
            true => (Slot { position, form, in_identity }, None),
            false => (Slot { position, form: Form::Verbatim, in_identity }, Some(form)),
        })
    }

    fn templates(&self, rule: usize) -> impl Iterator<Item = (FamilyId, &'a Template)> + use<'a> {
        let (rules, scope) = (self.rules, self.scope);
        let templates = (0..).map(FamilyId).zip(&rules.templates);
        templates.filter(move |(_, template)| template.rule == rule && scope.holds(rules, template))
    }

    /// Takes note of every column that the rule reads.
    fn collect(&mut self, index: usize, rule: &'a Rule) {
        for (_, template) in self.templates(index) {
            for part in &template.parts {
                match part {
                    Part::Column(name, reading) => self.read(name, reading),
                    Part::Literal(_) | Part::Star | Part::Answer(..) => {}
                }
            }
            self.rules.arguments_of(template).iter().for_each(|path| self.read(&path.column, &plain(path)));
        }
        rule.when.iter().for_each(|when| when.visit(&mut |path: &Path| self.read(&path.column, &plain(path))));
        rule.changed.iter().flatten().for_each(|path| self.read(&path.column, &plain(path)));
    }

    fn read(&mut self, name: &str, reading: &Reading) {
        match self.slot(name, reading) {
            Some((slot, _)) => self.slots.push(slot),
            None if self.missing.iter().any(|missing| missing == name) => {}
            None => self.missing.push(name.to_owned()),
        }
    }

    fn source(&mut self, name: &str, reading: &Reading) -> Source {
        let found = self.slot(name, reading);
        let Some((slot, form)) = found.and_then(|(slot, form)| Some((self.slots.binary_search(&slot).ok()?, form)))
        else {
            return Source::Missing;
        };
        let Some(form) = form else { return Source::Slot(slot) };
        Source::Made(place(&mut self.makings, Making { slot, form, reading: reading.clone() }))
    }

    fn operand(&mut self, path: &Path) -> Operand {
        let columns = &self.relation.columns;
        let column = columns.iter().position(|column| column.name == path.column).unwrap_or(columns.len());
        let kind = match columns.get(column) {
            Some(column) if path.inside.is_empty() => Kind::of(column.type_oid.0),
            Some(_) | None => Kind::Text,
        };
        Operand { source: self.source(&path.column, &plain(path)), kind, column }
    }

    /// The set of these columns; updates are compared for each of them.
    fn columns<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> Columns {
        let all = &self.relation.columns;
        let mut columns = Columns::none(all.len());
        for name in names {
            columns.insert(all.iter().position(|column| column.name == name).unwrap_or(all.len()));
        }
        self.comparing.watch(&columns);
        columns
    }

    fn rule(&mut self, index: usize, rule: &Rule) -> PlannedRule {
        let when = rule.when.as_ref().map(|when| {
            let condition = when.map(&mut |path: &Path| self.operand(path));
            let index = self.conditions.add(&condition);
            self.comparing.watch(self.conditions.reads(index));
            index
        });
        let changed = rule.changed.as_ref().map(|paths| Watched {
            columns: self.columns(paths.iter().map(|path| path.column.as_str())),
            values: paths.iter().map(|path| self.source(&path.column, &plain(path))).collect(),
        });
        let counting = self.counting(&rule.ignore);
        let keys = self.templates(index).map(|(family, template)| self.key(family, template)).collect();
        PlannedRule { index, on: rule.on, when, changed, counting, keys }
    }

    /// Which columns count, if one that the relation has does not: it is in `ignore`, or in the table's own list.
    fn counting(&mut self, ignore: &[String]) -> Option<Columns> {
        let ignored = |name: &String| ignore.contains(name) || self.scope.ignores(self.rules, name);
        let columns = &self.relation.columns;
        let counting: Vec<&str> =
            columns.iter().map(|column| &column.name).filter(|name| !ignored(name)).map(String::as_str).collect();
        (counting.len() < columns.len()).then(|| self.columns(counting.into_iter()))
    }

    fn key(&mut self, family: FamilyId, template: &Template) -> PlannedKey {
        let mut part = |part: &Part| match part {
            Part::Literal(bytes) => PlannedPart::Literal(bytes.clone()),
            Part::Star => PlannedPart::Star,
            Part::Column(name, reading) => PlannedPart::Value(self.source(name, reading)),
            Part::Answer(..) => PlannedPart::Answer,
        };
        let parts = template.parts.iter().map(&mut part).collect();
        let arguments = self.rules.arguments_of(template).iter();
        let arguments = arguments.map(|path| self.source(&path.column, &plain(path))).collect();
        let reads = self.columns(self.rules.columns(template));
        PlannedKey {
            family,
            parts,
            arguments: template.lookup.map(|_| arguments),
            reads,
            emptied: match template.constant() {
                Some(key) => Emptied::Key(key.to_vec()),
                None => Emptied::Family(template.family.clone()),
            },
            guarded: template.guarded,
        }
    }
}

/// The index of an item, added unless it is there.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}
