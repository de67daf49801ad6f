//! From a change to keys: compiled once per relation into a plan. No I/O; cannot fail at run time.
//!
//! Whatever a change does not tell is widened, never skipped: an unknown value in a key becomes `*` with everything
//! around it escaped; the family of a template covers each of its keys.

pub mod about;
#[cfg(test)]
mod cases;
pub mod plan;
pub mod read;
pub mod value;

use std::collections::BTreeSet;

use crate::change::Relation;
use crate::keys::{FamilyId, KeySet};
use crate::question::{Answer, LookupId, Question};
use crate::rules::about::needs::{Image, TableNeeds};
use crate::rules::plan::cause::{Cause, Causes};
use crate::rules::read::syntax::Path;
use crate::rules::value::condition::Condition;
use crate::rules::value::reading::{Reading, Writing};

pub use plan::Plan;
use plan::{Scope, lookup};

/// What changes ask for, until it is sent: exact keys, patterns (escaped globs) and lookups that wait for the gate.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    /// Exact keys.
    pub keys: KeySet,
    /// Escaped Redis globs.
    pub patterns: KeySet,
    /// Encoded lookups: which template, its parameters, the values of its other columns. Only `rules` reads them.
    pub lookups: KeySet,
    /// Lookups whose kept answers are older than these changes: their numbers, as four bytes each.
    pub forgets: KeySet,
    /// Keys that were widened to a pattern because a value was unknown; a counter, never reset by a split.
    pub widened: u64,
    /// Keys that a rule named and a protected pattern covers: they stay. A counter like `widened`.
    pub protected: u64,
    /// Why whole templates are among the patterns.
    pub causes: Causes,
}

/// A table that rules name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableId(usize);

/// What is said of a table itself.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    schema: String,
    name: String,
    /// Columns of `[ignore]`, for every rule of the table.
    ignore: Vec<String>,
}

/// Which changes a rule listens to; TRUNCATE always counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct On {
    /// Insert.
    pub insert: bool,
    /// Update.
    pub update: bool,
    /// Delete.
    pub delete: bool,
}

/// One part of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Bytes of the key.
    Literal(Vec<u8>),
    /// `*`.
    Star,
    /// A column of the changed row.
    Column(String, Reading),
    /// A column of the lookup's answer: index into [`Lookup::columns`].
    Answer(usize, Reading),
}

/// One key template of one rule; its index is its [`FamilyId`].
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Index of its rule.
    rule: usize,
    /// As written, without the namespace.
    source: String,
    /// The namespace included; never two literals or two stars in a row.
    parts: Vec<Part>,
    /// At most one lookup feeds a template.
    lookup: Option<LookupId>,
    /// The pattern that covers every key, escaped; the key itself when it is constant.
    family: Vec<u8>,
    /// Whether a protected pattern may cover some key of it.
    guarded: bool,
}

impl Template {
    /// The key, when it has neither columns nor stars.
    fn constant(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [Part::Literal(key)] => Some(key),
            _ => None,
        }
    }
}

/// One `[[rules]]` block.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    tables: Vec<TableId>,
    on: On,
    /// File and line.
    place: String,
    /// Row images that do not meet it make no key.
    when: Option<Condition<Path>>,
    /// The same as written.
    said: Option<String>,
    /// An update that changes none of these makes no key.
    changed: Option<Vec<Path>>,
    /// An update that changes nothing else makes no key; the table's own list counts as well.
    ignore: Vec<String>,
}

/// All rules, parsed and checked, independent of any server.
#[derive(Debug, Default)]
pub struct Rules {
    /// In order of first mention.
    tables: Vec<Table>,
    rules: Vec<Rule>,
    templates: Vec<Template>,
    lookups: Vec<Lookup>,
    /// The columns that each lookup takes as arguments.
    arguments: Vec<Vec<Path>>,
    /// The tables that each lookup's answers depend on; none where answers are not kept.
    sources: Vec<Vec<TableId>>,
    protect: std::rc::Rc<[Vec<u8>]>,
    /// Made when it is first asked for.
    digest: std::cell::OnceCell<String>,
    /// The same.
    everything: std::cell::OnceCell<Plan>,
}

impl Rules {
    /// The pattern that covers every key of one template, escaped (`properties:city:*`; a constant key is itself,
    /// escaped).
    pub fn family(&self, id: FamilyId) -> &[u8] {
        self.templates.get(id.0 as usize).map_or(b"", |template| &template.family)
    }

    /// The family with this pattern.
    pub fn family_of(&self, pattern: &[u8]) -> Option<FamilyId> {
        self.families().find(|(_, family)| *family == pattern).map(|(id, _)| id)
    }

    /// Patterns of all families, for a sweep of everything that the rules own.
    pub fn families(&self) -> impl Iterator<Item = (FamilyId, &[u8])> {
        (0..).map(FamilyId).zip(self.templates.iter().map(|template| template.family.as_slice()))
    }

    /// The same, without their numbers.
    pub fn patterns(&self) -> Vec<Vec<u8>> {
        self.families().map(|(_, pattern)| pattern.to_vec()).collect()
    }

    /// The tables whose keys these patterns take as a whole; none for a pattern that a rule itself writes, unless
    /// a gap asks for it.
    pub fn swept_tables(&self, patterns: &KeySet, is_gap: bool) -> BTreeSet<String> {
        let whole = |key: &crate::keys::Key<'_>| {
            let template = self.templates.get(key.family.0 as usize)?;
            let holds_values = template.parts.iter().any(|part| !matches!(part, Part::Literal(_) | Part::Star));
            ((is_gap || holds_values) && template.family == key.bytes).then_some(template)
        };
        let rules = patterns.iter().filter_map(|key| whole(&key)).filter_map(|template| self.rules.get(template.rule));
        let tables = rules.flat_map(|rule| &rule.tables).filter_map(|table| self.tables.get(table.0));
        tables.map(|table| format!("{}.{}", table.schema, table.name)).collect()
    }

    /// Whether a rule names the table.
    pub fn concerns(&self, schema: &str, table: &str) -> bool {
        self.table(schema, table).is_some()
    }

    /// The table of this name, if a rule names it.
    pub fn table(&self, schema: &str, table: &str) -> Option<TableId> {
        self.tables.iter().position(|known| known.schema == schema && known.name == table).map(TableId)
    }

    /// Every table.
    pub fn table_ids(&self) -> impl Iterator<Item = TableId> {
        (0..self.tables.len()).map(TableId)
    }

    /// Schema and name of a table.
    pub fn name_of(&self, table: TableId) -> (&str, &str) {
        self.tables.get(table.0).map_or(("", ""), |table| (&table.schema, &table.name))
    }

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
    pub fn everything(&self) -> &Plan {
        self.everything.get_or_init(|| Plan::compile(self, &Rules::nothing(), Scope::Everything))
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
            oid: crate::change::Oid(0),
            schema: String::new(),
            name: String::new(),
            identity: crate::change::ReplicaIdentity::Nothing,
            columns: Vec::new(),
        }
    }

    /// The SQL of each lookup, in the order of `LookupId`, and the columns that templates use of it.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// The distinct questions behind encoded lookups.
    pub fn questions(&self, lookups: &KeySet) -> Vec<Question> {
        lookup::questions(self, lookups)
    }

    /// Renders the keys of encoded lookups from the answers to [`questions`](Rules::questions) (same order); a refused
    /// question widens.
    pub fn resolve(&self, lookups: &KeySet, questions: &[Question], answers: &[Answer], out: &mut Invalidations) {
        lookup::resolve(self, lookups, questions, answers, out);
    }

    /// Whether answers of the lookup may be kept, as the stream tells when they are old.
    pub fn keeps(&self, lookup: LookupId) -> bool {
        !self.sources_of(lookup).is_empty()
    }

    /// Schemas and names of the tables that a lookup's answers depend on.
    pub fn sources_named(&self, lookup: LookupId) -> impl Iterator<Item = (&str, &str)> {
        self.sources_of(lookup).iter().map(|table| self.name_of(*table))
    }

    fn sources_of(&self, lookup: LookupId) -> &[TableId] {
        self.sources.get(lookup.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// The lookups whose answers depend on one of the tables.
    fn dependents(&self, tables: &[TableId]) -> impl Iterator<Item = LookupId> {
        let lookups = (0..).map(LookupId).zip(&self.sources);
        lookups.filter(|(_, sources)| tables.iter().any(|table| sources.contains(table))).map(|(lookup, _)| lookup)
    }

    /// What the stream must carry: the tables of the rules, and those that kept answers depend on.
    pub fn streamed(&self) -> Vec<TableNeeds> {
        let mut all = self.tables();
        for (index, table) in self.tables.iter().enumerate() {
            let Some(lookup) = self.dependents(&[TableId(index)]).next() else { continue };
            let known = all.iter_mut().find(|needs| (&needs.schema, &needs.table) == (&table.schema, &table.name));
            let needs = match known {
                Some(needs) => needs,
                None => {
                    let place = self.lookups.get(lookup.0 as usize).map_or("", |lookup| &lookup.name);
                    all.push(TableNeeds::new(&table.schema, &table.name, place));
                    all.last_mut().expect("one was pushed")
                }
            };
            if !table.ignore.is_empty() {
                needs.ignores(table.ignore.iter());
            }
        }
        all
    }

    /// What the rules need of each table, in order of first mention.
    pub fn tables(&self) -> Vec<TableNeeds> {
        (0..self.tables.len()).filter_map(|table| self.needs(TableId(table))).collect()
    }

    fn needs(&self, id: TableId) -> Option<TableNeeds> {
        let table = self.tables.get(id.0)?;
        let of_it = || self.rules.iter().enumerate().filter(|(_, rule)| rule.tables.contains(&id));
        let mut needs = TableNeeds::new(&table.schema, &table.name, &of_it().next()?.1.place);
        for (index, rule) in of_it() {
            let image = if rule.on.update || rule.on.delete { Image::OldToo } else { Image::NewOnly };
            for template in self.templates.iter().filter(|template| template.rule == index) {
                self.columns(template).for_each(|column| needs.reads(column, image, &rule.place));
            }
            let mut reads = |path: &Path| needs.reads(&path.column, image, &rule.place);
            rule.when.iter().for_each(|when| when.visit(&mut reads));
            if rule.on.update {
                rule.changed.iter().flatten().for_each(reads);
                needs.ignores(table.ignore.iter().chain(&rule.ignore));
            }
        }
        Some(needs)
    }

    /// The columns of the changed row that a template reads, its lookup's arguments included.
    fn columns<'a>(&'a self, template: &'a Template) -> impl Iterator<Item = &'a str> {
        let parts = template.parts.iter().filter_map(|part| match part {
            Part::Column(name, _) => Some(name.as_str()),
            Part::Literal(_) | Part::Star | Part::Answer(..) => None,
        });
        parts.chain(self.arguments_of(template).iter().map(|path| path.column.as_str()))
    }

    fn arguments_of(&self, template: &Template) -> &[Path] {
        template.lookup.map_or(&[], |lookup| &self.arguments[lookup.0 as usize])
    }

    /// The rule and the template behind a family, for `explain`: place of the rule, template as written.
    pub fn origin(&self, id: FamilyId) -> Option<(&str, &str)> {
        let template = self.templates.get(id.0 as usize)?;
        Some((&self.rules[template.rule].place, &template.source))
    }

    /// The place of a rule, by its index.
    pub fn place_of(&self, rule: usize) -> Option<&str> {
        self.rules.get(rule).map(|rule| rule.place.as_str())
    }

    /// The condition of a rule as written, by its index.
    pub fn condition_of(&self, rule: usize) -> Option<&str> {
        self.rules.get(rule)?.said.as_deref()
    }

    /// The condition that the rows behind a family's keys meet, as written.
    pub fn condition_behind(&self, id: FamilyId) -> Option<&str> {
        self.condition_of(self.templates.get(id.0 as usize)?.rule)
    }

    /// The lookup that feeds a family's keys.
    pub fn lookup_of(&self, id: FamilyId) -> Option<LookupId> {
        self.templates.get(id.0 as usize)?.lookup
    }
}

/// A column of a lookup's result, in the text that templates want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerColumn {
    /// Its name.
    pub name: String,
    /// Whose text.
    pub writing: Writing,
}

/// A lookup as the control session needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where it was written, for messages: rule and name.
    pub name: String,
    /// The SQL with `$1`, `$2`, …
    pub sql: String,
    /// Columns of the result that templates use; an [`AnswerRow`](crate::question::AnswerRow) holds them in this order.
    pub columns: Vec<AnswerColumn>,
    /// How many parameters it takes.
    pub args: usize,
}
