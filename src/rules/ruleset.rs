//! Rules as values: what `read/` makes of a file, and all other rooms work on.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::keys::{FamilyId, KeySet};
use crate::question::LookupId;
use crate::rules::about::needs::{ImageNeed, TableNeeds};
use crate::rules::tally::Tally;
use crate::rules::value::condition::Condition;
use crate::rules::value::page::PageAddress;
use crate::rules::value::path::Path;
use crate::rules::value::reading::{Reading, TextOf};

/// A table that rules name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableId(pub(super) usize);

/// What is said of a table itself.
#[derive(Clone, Debug)]
pub(crate) struct RuleTable {
    pub(super) schema: String,
    pub(super) name: String,
    /// Columns of `[ignore]`, for every rule of the table.
    pub(super) ignore: Vec<String>,
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
pub(crate) enum KeyPart {
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
    pub(super) rule: usize,
    /// As written, without the namespace.
    pub(super) source: String,
    /// The namespace included; never two literals or two stars in a row.
    pub(super) parts: Vec<KeyPart>,
    /// At most one lookup feeds a template.
    pub(super) lookup: Option<LookupId>,
    /// The pattern that covers every key, escaped; the key itself when it is constant.
    pub(super) family: Vec<u8>,
    /// Whether a protected pattern may cover some key of it.
    pub(super) guarded: bool,
    /// Of tags: the coarse tag that stands for all of them. `None`: these are keys.
    pub(super) coarse: Option<Vec<u8>>,
    /// The address of the page that is made from the key, where that is fetched again.
    pub(super) page: Option<Rc<PageAddress>>,
}

impl Template {
    /// The key, when it has neither columns nor stars.
    pub(super) fn constant(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [KeyPart::Literal(key)] => Some(key),
            _ => None,
        }
    }
}

/// One `[[rules]]` block.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(super) tables: Vec<TableId>,
    pub(super) on: On,
    /// File and line.
    pub(super) place: String,
    /// Row images that do not meet it make no key.
    pub(super) when: Option<Condition<Path>>,
    /// The same as written.
    pub(super) said: Option<String>,
    /// An update that changes none of these makes no key.
    pub(super) changed: Option<Vec<Path>>,
    /// An update that changes nothing else makes no key; the table's own list counts as well.
    pub(super) ignore: Vec<String>,
    /// Names of the caches that the rule is for; `None` is all.
    pub(super) caches: Option<Vec<String>>,
    /// Names of the sinks that its tags are for; `None` is all.
    pub(super) sinks: Option<Vec<String>>,
}

/// What one cache has of the rules.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    /// By family: whether its rule is for the cache.
    pub(super) own: Vec<bool>,
    /// The families of rules that are for the cache, behind what each of their keys begins with.
    pub(super) families: Vec<(Vec<u8>, FamilyId)>,
    /// Patterns that this cache protects, and others do not.
    pub(super) protects: Vec<Vec<u8>>,
}

/// All rules, parsed and checked, independent of any server.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// In order of first mention.
    pub(super) tables: Vec<RuleTable>,
    pub(super) rules: Vec<Rule>,
    pub(super) templates: Vec<Template>,
    pub(super) lookups: Vec<Lookup>,
    /// The columns that each lookup takes as arguments.
    pub(super) arguments: Vec<Vec<Path>>,
    /// The tables that each lookup's answers depend on; none where answers are not kept.
    pub(super) sources: Vec<Vec<TableId>>,
    pub(super) protect: std::rc::Rc<[Vec<u8>]>,
    /// The cache that has these rules, where some are not for it.
    pub(super) audience: Option<Audience>,
    /// Made when it is first asked for.
    pub(super) digest: std::cell::OnceCell<String>,
    /// Made when something is counted first.
    pub(super) tally: std::cell::OnceCell<std::rc::Rc<Tally>>,
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

    /// Patterns of all families, for a sweep of everything that the rules own in the cache that has them.
    pub fn families(&self) -> impl Iterator<Item = (FamilyId, &[u8])> {
        let all = (0..).map(FamilyId).zip(self.templates.iter().map(|template| template.family.as_slice()));
        all.filter(|(family, _)| self.is_own(*family))
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
            let holds_values = template.parts.iter().any(|part| !matches!(part, KeyPart::Literal(_) | KeyPart::Star));
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

    /// The SQL of each lookup, in the order of `LookupId`, and the columns that templates use of it.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// Whether answers of the lookup may be kept, as the stream tells when they are old.
    pub fn keeps(&self, lookup: LookupId) -> bool {
        !self.sources_of(lookup).is_empty()
    }

    /// Schemas and names of the tables that a lookup's answers depend on.
    pub fn sources_named(&self, lookup: LookupId) -> impl Iterator<Item = (&str, &str)> {
        self.sources_of(lookup).iter().map(|table| self.name_of(*table))
    }

    pub(super) fn sources_of(&self, lookup: LookupId) -> &[TableId] {
        self.sources.get(lookup.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// The lookups whose answers depend on one of the tables.
    pub(super) fn dependents(&self, tables: &[TableId]) -> impl Iterator<Item = LookupId> {
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

    pub(super) fn needs(&self, id: TableId) -> Option<TableNeeds> {
        let table = self.tables.get(id.0)?;
        let of_it = || self.rules.iter().enumerate().filter(|(_, rule)| rule.tables.contains(&id));
        let mut needs = TableNeeds::new(&table.schema, &table.name, &of_it().next()?.1.place);
        for (index, rule) in of_it() {
            let image = if rule.on.update || rule.on.delete { ImageNeed::OldToo } else { ImageNeed::NewOnly };
            for template in self.templates.iter().filter(|template| template.rule == index) {
                self.columns(template).for_each(|column| needs.reads(column, image, &rule.place));
                // A page that cannot be told is left out: no replica identity need carry its columns.
                let page = template.page.iter().flat_map(|page| page.values());
                page.for_each(|(column, _)| needs.reads(column, ImageNeed::NewOnly, &rule.place));
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
    pub(super) fn columns<'a>(&'a self, template: &'a Template) -> impl Iterator<Item = &'a str> {
        let parts = template.parts.iter().filter_map(|part| match part {
            KeyPart::Column(name, _) => Some(name.as_str()),
            KeyPart::Literal(_) | KeyPart::Star | KeyPart::Answer(..) => None,
        });
        parts.chain(self.arguments_of(template).iter().map(|path| path.column.as_str()))
    }

    pub(super) fn arguments_of(&self, template: &Template) -> &[Path] {
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
    pub writing: TextOf,
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
