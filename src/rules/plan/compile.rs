//! From rules and the columns of a relation to a plan: names become positions, once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::change::{Oid, Relation, ReplicaIdentity};
use crate::keys::FamilyId;
use crate::question::LookupId;
use crate::rules::plan::columns::{ColumnSet, Comparing};
use crate::rules::plan::images::{ImageSlot, Making, ValueSource};
use crate::rules::plan::page::PlannedPagePart;
use crate::rules::plan::verdict::{Conditions, Operand};
use crate::rules::plan::{Emptied, Forgetting, Plan, PlannedKey, PlannedPart, PlannedRule, Watched};
use crate::rules::ruleset::{KeyPart, Rule, Rules, TableId, Template};
use crate::rules::value::condition::Kind;
use crate::rules::value::page::{AddressPart, PageAddress};
use crate::rules::value::path::Path;
use crate::rules::value::reading::{Form, Reading};

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

    /// The families that a change of some tables may be about, of those that the cache with these rules owns.
    pub fn families_of_all(&self, tables: impl Iterator<Item = TableId>) -> BTreeSet<FamilyId> {
        let tables: Vec<TableId> = tables.collect();
        let is_about = |family: &FamilyId| {
            let template = self.templates.get(family.0 as usize);
            template.is_some_and(|template| Scope::Families(&tables).holds(self, template))
        };
        self.families().map(|(family, _)| family).filter(is_about).collect()
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
        let like_before = RefCell::new((ColumnSet::none(relation.columns.len()), Vec::new()));
        let identity = relation.identity;
        let tables = match scope {
            Scope::Tables(tables) => tables.iter().map(|table| table.0).collect(),
            Scope::Nothing | Scope::Families(_) | Scope::Everything => Vec::new(),
        };
        let (tally, rules) = (Rc::clone(rules.tally()), planned);
        Plan {
            slots,
            makings,
            conditions,
            comparing,
            rules,
            forgetting,
            like_before,
            missing,
            identity,
            protect,
            tables,
            tally,
        }
    }
}

/// Resolves column names to slots.
struct Compiler<'a> {
    rules: &'a Rules,
    relation: &'a Relation,
    scope: Scope<'a>,
    slots: Vec<ImageSlot>,
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
    fn slot(&self, name: &str, reading: &Reading) -> Option<(ImageSlot, Option<Form>)> {
        let (position, column) = self.relation.columns.iter().enumerate().find(|(_, column)| column.name == name)?;
        let in_identity = column.in_identity;
        let form = Form::of(column.type_oid.0, reading.writing);
        Some(match reading.is_plain() && form.is_slice() {
            true => (ImageSlot { position, form, in_identity }, None),
            false => (ImageSlot { position, form: Form::Verbatim, in_identity }, Some(form)),
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
                    KeyPart::Column(name, reading) => self.read(name, reading),
                    KeyPart::Literal(_) | KeyPart::Star | KeyPart::Answer(..) => {}
                }
            }
            self.rules.arguments_of(template).iter().for_each(|path| self.read(&path.column, &plain(path)));
            let page = template.page.iter().flat_map(|page| page.values());
            page.for_each(|(name, reading)| self.read(name, reading));
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

    fn source(&mut self, name: &str, reading: &Reading) -> ValueSource {
        let found = self.slot(name, reading);
        let Some((slot, form)) = found.and_then(|(slot, form)| Some((self.slots.binary_search(&slot).ok()?, form)))
        else {
            return ValueSource::Missing;
        };
        let Some(form) = form else { return ValueSource::Slot(slot) };
        ValueSource::Made(place(&mut self.makings, Making { slot, form, reading: reading.clone() }))
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
    fn columns<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> ColumnSet {
        let all = &self.relation.columns;
        let mut columns = ColumnSet::none(all.len());
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
    fn counting(&mut self, ignore: &[String]) -> Option<ColumnSet> {
        let ignored = |name: &String| ignore.contains(name) || self.scope.ignores(self.rules, name);
        let columns = &self.relation.columns;
        let counting: Vec<&str> =
            columns.iter().map(|column| &column.name).filter(|name| !ignored(name)).map(String::as_str).collect();
        (counting.len() < columns.len()).then(|| self.columns(counting.into_iter()))
    }

    fn key(&mut self, family: FamilyId, template: &Template) -> PlannedKey {
        let mut part = |part: &KeyPart| match part {
            KeyPart::Literal(bytes) => PlannedPart::Literal(bytes.clone()),
            KeyPart::Star => PlannedPart::Star,
            KeyPart::Column(name, reading) => PlannedPart::Value(self.source(name, reading)),
            KeyPart::Answer(..) => PlannedPart::Answer,
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
            page: template.page.as_ref().map(|page| self.page(page)),
        }
    }

    fn page(&mut self, page: &PageAddress) -> Vec<PlannedPagePart> {
        let part = |part: &AddressPart| match part {
            AddressPart::Literal(text) => PlannedPagePart::Literal(text.clone()),
            AddressPart::Value(name, reading) => PlannedPagePart::Value(self.source(name, reading)),
        };
        page.parts.iter().map(part).collect()
    }
}

/// The index of an item, added unless it is there.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    /// The patterns that are swept in a cache when the table `t` was altered.
    fn swept(rules: &Rules, cache: &str) -> Vec<String> {
        let seen = rules.seen_by(cache, &[b"lock:*".to_vec()]);
        let rules = seen.as_ref().unwrap_or(rules);
        let families = rules.families_of_all(rules.table("public", "t").into_iter());
        families.into_iter().map(|family| String::from_utf8_lossy(rules.family(family)).into_owned()).collect()
    }

    #[test]
    fn a_pattern_of_two_rules_is_swept_in_each_cache_that_one_of_them_is_for() {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nkeys = ['a:{id}', 'both:{id}']\ncaches = ['dakar']\n\
             [[rules]]\ntable = 't'\nkeys = ['both:{n}']\n[[rules]]\ntable = 'u'\nkeys = ['u:{id}']\n",
        );
        assert_eq!(swept(&rules, "upstash"), ["both:*"]);
        assert_eq!(swept(&rules, "dakar"), ["a:*", "both:*", "both:*"], "each rule has its family");
    }

    #[test]
    fn a_key_without_a_column_is_swept_as_well_and_so_are_keys_of_answers() {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nkeys = ['home', 't:{id}']\n[[rules]]\ntable = 'u'\nkeys = ['u:{o.c}', 'u']\n\
             lookup.o = { sql = 'select c from t where id = $1', args = ['id'] }\n",
        );
        assert_eq!(swept(&rules, "main"), ["home", "t:*"]);
    }
}
