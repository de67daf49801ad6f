//! One `[[rules]]` block: TOML to checked values. Keys are read in `keyspec`.

use std::ops::Range;
use std::rc::Rc;

use toml::de::DeTable;

use crate::mistake::{Place, SourceFile, suggestion};
use crate::question::LookupId;
use crate::rules::read::name::table_name;
use crate::rules::read::reader::{RulesReader, Toml};
use crate::rules::read::sql;
use crate::rules::read::syntax::{self};
use crate::rules::read::template;
use crate::rules::read::written;
use crate::rules::ruleset::{KeyPart, Lookup, On, Rule, TableId};
use crate::rules::value::condition::Condition;
use crate::rules::value::path::Path;

/// What a rule may say: key and meaning. The reference in the documentation lists the same.
const KEYS: &[(&str, &str)] = &[
    ("table", "schema.table or an array of them, a name that needs it in double quotes; without a schema: public"),
    ("on", "which of insert, update, delete; default: all three. TRUNCATE always counts"),
    ("when", "a condition on each row image: status = 'free' and (location.city ilike '%dakar%' or @named)"),
    ("changed", "columns or JSON paths: an update that changes none of them does not count"),
    ("ignore", "columns that do not count: an update that changes nothing else does not count"),
    ("namespace", "keys become namespace:key"),
    (
        "keys",
        "key templates: literals, {column}, {column.path|filter or 'text'}, {lookup.column}, {4,8}, * as a pattern, \
         {{ and }} for braces",
    ),
    ("caches", "names of the caches that the rule is for; default: all of them"),
    ("companions", "texts that follow each key to make another: [\":meta\"]"),
    ("tags", "tags of pages, for the sinks: templates like those of keys, without namespace, companions and *"),
    ("tags_all", "the coarse tag: every page that has one of the tags carries it, too"),
    ("sinks", "names of the sinks that the tags are for; default: all of them"),
    (
        "warm",
        "address of the page that is made from the keys: fetched again when one that existed was deleted; placeholders like \
         those of keys, in path and query only",
    ),
    (
        "lookup",
        "lookup.NAME = { sql, args, tables }: SQL with $1, $2, … and the columns that fill them; 0 to n rows, one key each; \
         tables: all that the SQL reads, so that answers are kept until one of them changes",
    ),
];

/// What a lookup may say.
const LOOKUP_KEYS: &[&str] = &["sql", "args", "tables"];

/// How a query begins that only reads.
const READING: [&str; 4] = ["SELECT", "WITH", "VALUES", "TABLE"];

/// A lookup of the rule that is being read.
pub(super) struct NamedLookup {
    pub(super) name: String,
    pub(super) id: LookupId,
    pub(super) used: bool,
    at: Range<usize>,
}

/// Reads one `[[rules]]` block.
pub(super) struct RuleReader<'r, 'm> {
    pub(super) reader: &'r mut RulesReader<'m>,
    pub(super) file: &'r Rc<SourceFile>,
    pub(super) at: Range<usize>,
}

impl RuleReader<'_, '_> {
    pub(super) fn error(&mut self, at: Range<usize>, message: impl Into<String>, note: impl Into<String>) {
        self.reader.mistakes.error(Place::File(Rc::clone(self.file), at), message, note);
    }

    pub(super) fn read(&mut self, block: &DeTable<'_>) {
        self.refuse_unknown(block);
        let tables = self.tables(block);
        let on = self.on(block);
        let namespace = self.namespace(block);
        let mut lookups = self.lookups(block);
        let when = self.when(block);
        let said = block.get("when").and_then(|value| value.get_ref().as_str()).map(str::to_owned);
        let changed = self.changed(block);
        let ignore: Vec<String> = self.columns(block, "ignore");
        let (caches, sinks) = (self.caches(block), self.sinks(block));
        let place = Place::File(Rc::clone(self.file), self.at.clone()).to_string();
        self.reader.rules.rules.push(Rule { tables, on, place, when, said, changed, ignore, caches, sinks });
        self.keys(block, namespace.as_deref(), &mut lookups);
        self.tags(block, &mut lookups);
        self.warm(block, &lookups);
        self.warn_of_ignored_keys(block);
        for lookup in lookups.iter().filter(|lookup| !lookup.used) {
            let place = Place::File(Rc::clone(self.file), lookup.at.clone());
            let message = format!("lookup \"{}\" is used by no key", lookup.name);
            self.reader.mistakes.warning(place, message, "remove it, or use one of its columns in a key");
        }
    }

    fn refuse_unknown(&mut self, block: &DeTable<'_>) {
        for key in block.keys().filter(|key| !KEYS.iter().any(|(name, _)| *name == key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let note = suggestion(name, KEYS.iter().map(|(name, _)| *name));
            self.error(key.span(), format!("unknown key \"{name}\" in a rule"), note);
        }
    }

    /// One table, or an array of them.
    fn tables(&mut self, block: &DeTable<'_>) -> Vec<TableId> {
        let Some(value) = block.get("table") else {
            let at = self.at.clone();
            self.error(at, "rule has no table", "write table = \"schema.table\"");
            return Vec::new();
        };
        let texts = match value.get_ref().is_array() {
            true => self.texts(value, "table"),
            false => self.text(value, "table").map(|text| (text, value.span())).into_iter().collect(),
        };
        if texts.is_empty() && value.get_ref().is_array() {
            self.error(value.span(), "rule has no table", "write table = \"schema.table\"");
        }
        self.named_tables(texts)
    }

    fn named_tables(&mut self, texts: Vec<(String, Range<usize>)>) -> Vec<TableId> {
        const NOTE: &str =
            "write schema.table, for example \"public.properties\"; a name with capitals or dots goes in double quotes";
        let mut tables = Vec::new();
        for (text, at) in texts {
            match table_name(&text).map(|(schema, table)| self.reader.table(schema, table)) {
                Some(table) if tables.contains(&table) => {
                    self.error(at, format!("table \"{text}\" stands here twice"), "remove one");
                }
                Some(table) => tables.push(table),
                None => self.error(at, format!("\"{text}\" is not the name of a table"), NOTE),
            }
        }
        tables
    }

    fn when(&mut self, block: &DeTable<'_>) -> Option<Condition<Path>> {
        let value = block.get("when")?;
        let text = self.text(value, "when")?;
        self.condition(&text, &value.span())
    }

    pub(super) fn condition(&mut self, text: &str, at: &Range<usize>) -> Option<Condition<Path>> {
        match syntax::condition(text, &self.reader.conditions) {
            Ok(condition) => Some(condition),
            Err(error) => {
                let at = self.inside(at, text, &error.at);
                self.error(at, error.message, error.note);
                None
            }
        }
    }

    fn changed(&mut self, block: &DeTable<'_>) -> Option<Vec<Path>> {
        let value = block.get("changed")?;
        let texts = self.texts(value, "changed");
        if texts.is_empty() && value.get_ref().is_array() {
            self.error(value.span(), "rule listens to no column", "name at least one, or remove changed");
        }
        Some(texts.into_iter().filter_map(|(text, at)| self.path(&text, at)).collect())
    }

    /// The caches that the rule is for; `None` is all.
    fn caches(&mut self, block: &DeTable<'_>) -> Option<Vec<String>> {
        let known = self.reader.names.as_ref().map(|names| names.caches.clone());
        self.targets(block, ("caches", "cache"), "then it is for all", known)
    }

    /// The targets that a key of the rule names; `all` says what the rule means without the key.
    pub(super) fn targets(
        &mut self,
        block: &DeTable<'_>,
        (key, thing): (&str, &str),
        all: &str,
        known: Option<Vec<String>>,
    ) -> Option<Vec<String>> {
        let value = block.get(key)?;
        let texts = self.texts(value, key);
        if texts.is_empty() && value.get_ref().is_array() {
            let note = format!("name at least one, or remove {key}: {all}");
            self.error(value.span(), format!("rule is for no {thing}"), note);
        }
        for (text, at) in &texts {
            if let Some(known) = known.as_ref().filter(|known| !known.contains(text)) {
                let note = suggestion(text, known.iter().map(String::as_str));
                self.error(at.clone(), format!("there is no {thing} \"{text}\""), note);
            }
        }
        Some(texts.into_iter().map(|(text, _)| text).collect())
    }

    fn path(&mut self, text: &str, at: Range<usize>) -> Option<Path> {
        let path = Path::read(text);
        if path.is_none() && template::call(text).is_some() {
            let message = format!("\"{text}\" calls a function, and there are none here");
            self.error(at, message, "name the column alone; a lookup computes anything else");
        } else if path.is_none() {
            self.error(
                at,
                format!("\"{text}\" is not the name of a column"),
                "write column, or column.field of a JSON column",
            );
        }
        path
    }

    /// Names of columns, without paths.
    fn columns(&mut self, block: &DeTable<'_>, key: &str) -> Vec<String> {
        let Some(value) = block.get(key) else { return Vec::new() };
        let texts = self.texts(value, key);
        texts.into_iter().filter_map(|(text, at)| self.column(&text, at)).collect()
    }

    pub(super) fn column(&mut self, text: &str, at: Range<usize>) -> Option<String> {
        let path = self.path(text, at.clone())?;
        if !path.inside.is_empty() {
            self.error(
                at,
                format!("\"{text}\" is a path, and ignore takes whole columns"),
                "name in changed what counts",
            );
            return None;
        }
        Some(path.column)
    }

    /// A key that reads an ignored column goes stale when only that column changes.
    fn warn_of_ignored_keys(&mut self, block: &DeTable<'_>) {
        let rules = &self.reader.rules;
        let index = rules.rules.len() - 1;
        let rule = &rules.rules[index];
        let in_when = |column: &str| {
            let mut found = false;
            rule.when.iter().for_each(|when| when.visit(&mut |path: &Path| found |= path.column == column));
            found
        };
        let in_keys = |column: &str| {
            let mut templates = rules.templates.iter().filter(|template| template.rule == index);
            templates.any(|template| {
                template.parts.iter().any(|part| matches!(part, KeyPart::Column(name, _) if name == column))
                    || rules.arguments_of(template).iter().any(|path| path.column == column)
            })
        };
        let in_changed = |column: &str| rule.changed.iter().flatten().any(|path| path.column == column);
        let ignored = rule.tables.iter().flat_map(|table| &rules.tables[table.0].ignore).chain(&rule.ignore);
        let Some(column) = ignored.clone().find(|column| in_when(column) || in_keys(column) || in_changed(column))
        else {
            return;
        };
        let message = format!("column \"{column}\" is ignored and the rule reads it");
        let at = block.get("ignore").map_or_else(|| self.at.clone(), |value| value.span());
        let place = Place::File(Rc::clone(self.file), at);
        self.reader.mistakes.warning(place, message, "an update of this column alone leaves its keys");
    }

    fn on(&mut self, block: &DeTable<'_>) -> On {
        let Some(value) = block.get("on") else { return On { insert: true, update: true, delete: true } };
        let mut on = On { insert: false, update: false, delete: false };
        let words = self.texts(value, "on");
        for (word, at) in &words {
            match word.as_str() {
                "insert" => on.insert = true,
                "update" => on.update = true,
                "delete" => on.delete = true,
                "truncate" => self.error(at.clone(), "truncate always counts", "remove it"),
                other => {
                    let note = suggestion(other, ["insert", "update", "delete"]);
                    self.error(at.clone(), format!("unknown change \"{other}\""), note);
                }
            }
        }
        if words.is_empty() && value.get_ref().is_array() {
            self.error(value.span(), "rule listens to no change", "name at least one of insert, update, delete");
        }
        on
    }

    fn namespace(&mut self, block: &DeTable<'_>) -> Option<String> {
        let value = block.get("namespace")?;
        let text = self.text(value, "namespace")?;
        if text.is_empty() || text.contains(['{', '}', '*']) {
            self.error(value.span(), "namespace must be plain text", "braces and * belong into keys");
            return None;
        }
        Some(text)
    }

    fn lookups(&mut self, block: &DeTable<'_>) -> Vec<NamedLookup> {
        let Some(value) = block.get("lookup") else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.reader.wrong_type(
                self.file,
                value,
                "lookup",
                "a table: lookup.NAME = { sql = \"…\", args = [\"column\"] }",
            );
            return Vec::new();
        };
        table.iter().filter_map(|(name, value)| self.lookup(name.get_ref(), name.span(), value)).collect()
    }

    fn lookup(&mut self, name: &str, at: Range<usize>, value: &Toml<'_>) -> Option<NamedLookup> {
        let Some(table) = value.get_ref().as_table() else {
            self.reader.wrong_type(self.file, value, "lookup", "a table with sql and args");
            return None;
        };
        for key in table.keys().filter(|key| !LOOKUP_KEYS.contains(&key.get_ref().as_ref())) {
            let note = suggestion(key.get_ref(), LOOKUP_KEYS.iter().copied());
            self.error(key.span(), format!("unknown key \"{}\" in a lookup", key.get_ref()), note);
        }
        let Some(sql) = table.get("sql") else {
            self.error(at, format!("lookup \"{name}\" has no sql"), "write sql = \"select … where … = $1\"");
            return None;
        };
        let text = self.text(sql, "sql")?;
        let args = table.get("args").map_or_else(Vec::new, |args| self.texts(args, "args"));
        let args: Vec<Path> = args.into_iter().filter_map(|(arg, at)| self.path(&arg, at)).collect();
        let wanted = sql::parameters(&text);
        if text.trim().is_empty() {
            self.error(sql.span(), "sql is empty", "write a SELECT");
        } else if let Some(verb) = sql::verb(&text).filter(|verb| !READING.contains(&verb.as_str())) {
            let message = format!("sql begins with {verb}, and a lookup only reads");
            self.error(sql.span(), message, "write a query that begins with SELECT, WITH, VALUES or TABLE");
        } else if wanted != args.len() {
            let message = format!("sql takes {wanted} parameters and args names {} columns", args.len());
            self.error(sql.span(), message, "$1 is the first of args, $2 the second, …");
        }
        let sources = table.get("tables").map_or_else(Vec::new, |tables| {
            let texts = self.texts(tables, "tables");
            if texts.is_empty() && tables.get_ref().is_array() {
                let note = "name every table that the SQL reads, or remove tables: then each batch asks anew";
                self.error(tables.span(), format!("lookup \"{name}\" depends on no table"), note);
            }
            self.named_tables(texts)
        });
        let rules = &mut self.reader.rules;
        let id = LookupId(rules.lookups.len() as u32);
        let place = Place::File(Rc::clone(self.file), at.clone());
        rules.lookups.push(Lookup {
            name: format!("{name} ({place})"),
            sql: text,
            columns: Vec::new(),
            args: args.len(),
        });
        rules.arguments.push(args);
        rules.sources.push(sources);
        Some(NamedLookup { name: name.to_owned(), id, used: false, at })
    }

    /// Bytes of the file for bytes of a string's value.
    pub(super) fn inside(&self, string: &Range<usize>, value: &str, at: &Range<usize>) -> Range<usize> {
        let place = self.file.text.get(string.clone()).and_then(|written| written::place(written, value, at));
        place.map_or_else(|| string.clone(), |place| string.start + place.start..string.start + place.end)
    }

    pub(super) fn text(&mut self, value: &Toml<'_>, what: &str) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.reader.wrong_type(self.file, value, what, "a string");
        }
        text
    }

    pub(super) fn texts(&mut self, value: &Toml<'_>, what: &str) -> Vec<(String, Range<usize>)> {
        let Some(array) = value.get_ref().as_array() else {
            self.reader.wrong_type(self.file, value, what, "an array of strings");
            return Vec::new();
        };
        array.iter().filter_map(|item| Some((self.text(item, &format!("each of {what}"))?, item.span()))).collect()
    }
}
