//! The layers: defaults, then DATABASE_URL and REDIS_URL, then the file, then `CRIEUR__…`. The later one wins.
//!
//! An explicit line of the file wins over DATABASE_URL, which an application's environment may hold for its own, pooled
//! connection; `CRIEUR__POSTGRES__URL` can only be meant for this daemon and wins over the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use config::{ConfigError, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::named::{self, MAIN, Owner, Section};
use crate::config::reference::{ConfigKey, ConfigKind, Unfit, reference};
use crate::config::ttl;
use crate::mistake::{Mistakes, Place, SourceFile, suggestion};
use crate::rules::read::parse::TOP;

type Toml<'i> = Spanned<DeValue<'i>>;

/// Values by the table's names of their keys: what one origin says of one cache, or of everything else.
#[derive(Clone, Debug, Default)]
pub struct LayerValues(Map<String, Value>);

impl Source for LayerValues {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl LayerValues {
    /// The defaults of the table of keys.
    pub fn defaults() -> Self {
        let value =
            |key: &ConfigKey| Some((key.name.to_owned(), Value::new(Some(&"default".to_owned()), key.default?)));
        LayerValues(reference().iter().filter_map(value).collect())
    }

    /// With addresses that nobody connects to.
    pub fn with_no_addresses(mut self) -> Self {
        for key in reference().iter().filter(|key| key.also.is_some()) {
            self.0.insert(key.name.to_owned(), Value::new(Some(&"nowhere".to_owned()), "none"));
        }
        self
    }
}

/// The values of one origin: those of each cache and of each sink by its name, and all others.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    others: LayerValues,
    caches: BTreeMap<String, LayerValues>,
    sinks: BTreeMap<String, LayerValues>,
}

impl Layer {
    /// What it says of a cache, or of everything else.
    pub(super) fn of(&self, cache: Option<&str>) -> LayerValues {
        match cache {
            Some(name) => self.caches.get(name).cloned().unwrap_or_default(),
            None => self.others.clone(),
        }
    }

    /// What it says of a sink.
    pub(super) fn of_sink(&self, name: &str) -> LayerValues {
        self.sinks.get(name).cloned().unwrap_or_default()
    }

    /// The sinks that it speaks of.
    pub(super) fn sinks(&self) -> impl Iterator<Item = &str> {
        self.sinks.keys().map(String::as_str)
    }

    /// The caches that it speaks of.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.caches.keys().map(String::as_str)
    }

    /// The text of a cache's key.
    pub(super) fn text(&self, cache: &str, key: &str) -> Option<String> {
        let value = self.caches.get(cache)?.0.get(key)?;
        value.clone().into_string().ok()
    }

    /// Whether it says nothing of the cache but that there is one.
    pub(super) fn is_empty_for(&self, cache: &str) -> bool {
        self.caches.get(cache).is_none_or(|values| values.0.is_empty())
    }

    /// Speaks of the cache no more.
    pub(super) fn forget(&mut self, cache: &str) {
        self.caches.remove(cache);
    }

    /// Speaks of the section, whatever follows.
    fn mention(&mut self, section: &Section) -> &mut LayerValues {
        match section.owner() {
            Owner::Daemon => &mut self.others,
            Owner::Cache(name) => self.caches.entry(name.to_owned()).or_default(),
            Owner::Sink(name) => self.sinks.entry(name.to_owned()).or_default(),
        }
    }

    /// Takes a value of the key in `section`.
    pub(super) fn set(
        &mut self,
        section: &Section,
        key: &ConfigKey,
        kind: impl Into<ValueKind>,
        place: Place,
        mistakes: &mut Mistakes,
    ) {
        let value = Value::new(Some(&place.to_string()), kind);
        match key.kind.check(&value) {
            Ok(_) => {
                self.mention(section).0.insert(key.name.to_owned(), value);
            }
            Err(Unfit(what)) => mistakes.error(place, format!("{} {what}", section.shown(key)), note(key)),
        }
    }
}

/// What to say beside a value that does not fit.
fn note(key: &ConfigKey) -> String {
    let default = key.default.map_or_else(String::new, |default| format!("; default: {default}"));
    format!("{}{default}", key.doc)
}

/// The sections that keys belong to, in order, and what else stands at the top of the file.
fn top_level() -> Vec<&'static str> {
    let mut names: Vec<&str> = reference().iter().filter(|key| !key.is_of_a_sink()).map(|key| key.split().0).collect();
    names.dedup();
    names.push(named::CACHES);
    names.push(named::SINKS);
    names.push("rules_file");
    names.push(ttl::SECTION);
    names.extend(TOP);
    names
}

/// A file that is read, and where its mistakes go.
struct Reading<'a, 'i> {
    file: &'a Rc<SourceFile>,
    table: &'a DeTable<'i>,
    mistakes: &'a mut Mistakes,
    layer: Layer,
}

/// The layer of a file. The rules and `rules_file` are left to the caller.
pub fn file(file: &Rc<SourceFile>, table: &DeTable<'_>, mistakes: &mut Mistakes) -> Layer {
    let mut reading = Reading { file, table, mistakes, layer: Layer::default() };
    for (name, value) in table {
        let section = name.get_ref().as_ref();
        if section == "rules_file" || section == ttl::SECTION || TOP.contains(&section) {
            continue;
        }
        if section == named::CACHES {
            reading.caches(value);
        } else if section == named::SINKS {
            reading.sinks(value);
        } else if top_level().contains(&section) {
            reading.section(&Section::written(section), value);
        } else {
            let note = match section {
                "metrics" => "it is not in this version: remove it".to_owned(),
                _ => suggestion(section, top_level()),
            };
            reading.error(name.span(), format!("unknown key \"{section}\""), note);
        }
    }
    reading.layer
}

impl Reading<'_, '_> {
    fn place(&self, at: std::ops::Range<usize>) -> Place {
        Place::File(Rc::clone(self.file), at)
    }

    fn error(&mut self, at: std::ops::Range<usize>, message: impl Into<String>, note: impl Into<String>) {
        let place = self.place(at);
        self.mistakes.error(place, message, note);
    }

    /// `[caches.NAME]`, each.
    fn caches(&mut self, value: &Toml<'_>) {
        for (at, name, value) in self.named(value, (named::CACHES, "cache"), taken) {
            if name == MAIN
                && let Some((other, _)) = self.table.get_key_value(named::CACHE)
            {
                let (line, _) = self.file.position(other.span().start);
                let message = format!("[caches.{MAIN}] is the section [cache], which is at {}:{line}", self.file.name);
                self.error(at, message, "write the keys of this cache in one of the two sections");
                continue;
            }
            self.section(&Section::of_cache(name), value);
        }
    }

    /// `[sinks.NAME]`, each.
    fn sinks(&mut self, value: &Toml<'_>) {
        for (_, name, value) in self.named(value, (named::SINKS, "sink"), |_| None) {
            self.section(&Section::of_sink(name), value);
        }
    }

    /// The sections below `of` whose names can be those of such a thing, each with its place. `refuses` says, of a name that
    /// is one, what else speaks against it, and the way out.
    fn named<'v>(
        &mut self,
        value: &'v Toml<'_>,
        (of, thing): (&str, &str),
        refuses: impl Fn(&str) -> Option<(String, String)>,
    ) -> Vec<(std::ops::Range<usize>, &'v str, &'v Toml<'v>)> {
        let mut found = Vec::new();
        let Some(entries) = value.get_ref().as_table() else {
            let note = format!("write [{of}.NAME] on a line of its own");
            self.error(value.span(), format!("\"{of}\" must be a table"), note);
            return found;
        };
        let mut variables: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in entries {
            let (at, name) = (name.span(), name.get_ref().as_ref());
            if let Some(wrong) = named::wrong(name) {
                let message = format!("\"{name}\" is not the name of a {thing}: {wrong}");
                self.error(at, message, named::form(thing));
            } else if let Some((message, note)) = refuses(name) {
                self.error(at, message, note);
            } else if let Some(other) = variables.insert(named::in_variables(name), name) {
                let message = format!("the {of} \"{other}\" and \"{name}\" would have the same variables");
                self.error(at, message, "two names must differ in more than upper and lower case, - and _");
            } else {
                found.push((at, name, value));
            }
        }
        found
    }

    /// The keys of one section.
    fn section(&mut self, section: &Section, value: &Toml<'_>) {
        let Some(entries) = value.get_ref().as_table() else {
            let message = format!("\"{section}\" must be a table");
            return self.error(value.span(), message, as_table(section));
        };
        self.layer.mention(section);
        for (name, value) in entries {
            let known = |key: &&ConfigKey| key.split() == (section.in_table(), name.get_ref().as_ref());
            let Some(key) = reference().iter().find(known) else {
                let allowed = reference().iter().map(|key| key.split()).filter(|(of, _)| *of == section.in_table());
                let note = if section.to_string() == named::CACHE && value.get_ref().is_table() {
                    format!("a cache of this name is written [{}.{}]", named::CACHES, name.get_ref())
                } else {
                    suggestion(name.get_ref(), allowed.map(|(_, name)| name))
                };
                self.error(name.span(), format!("unknown key \"{}\" in [{section}]", name.get_ref()), note);
                continue;
            };
            match kind_of(key, value) {
                Some(kind) => {
                    let place = self.place(value.span());
                    self.layer.set(section, key, kind, place, self.mistakes);
                }
                None => {
                    let what = match key.kind.check(&Value::new(None, ValueKind::Nil)) {
                        Err(Unfit(what)) => what,
                        Ok(_) => "has the wrong type".to_owned(),
                    };
                    self.error(value.span(), format!("{} {what}", section.shown(key)), note(key));
                }
            }
        }
    }
}

/// Why this name of a cache is another one's, and the way out.
fn taken(name: &str) -> Option<(String, String)> {
    let taken = named::taken(name)?;
    let of = if taken == MAIN {
        "main is the cache of [cache] and REDIS_URL"
    } else {
        "upstash is the cache that the variables of Upstash make"
    };
    let message = format!("the cache \"{name}\" differs from \"{taken}\" in upper and lower case alone");
    Some((message, format!("write [caches.{taken}] for this cache, or another name: {of}")))
}

/// How a section is written that is none. Under `[caches]` a key of a cache lacks the cache's name.
fn as_table(section: &Section) -> String {
    let is_key = |name: &str| reference().iter().any(|key| key.split() == (named::CACHE, name));
    match section.cache() {
        Some(name) if is_key(name) => {
            format!("give the cache a name, and write {name} below [{}.NAME]", named::CACHES)
        }
        Some(_) | None => format!("write [{section}] on a line of its own"),
    }
}

/// A value for the layers. A list must be written as a list: its comma separated form is the environment's.
fn kind_of(key: &ConfigKey, value: &Toml<'_>) -> Option<ValueKind> {
    let is_list = matches!(
        key.kind,
        ConfigKind::Texts | ConfigKind::Hosts | ConfigKind::Prefixes | ConfigKind::Urls | ConfigKind::Ascending
    );
    match value.get_ref() {
        DeValue::String(text) if !is_list => Some(ValueKind::String(text.to_string())),
        DeValue::Boolean(flag) if key.kind == ConfigKind::Flag => Some(ValueKind::Boolean(*flag)),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(ValueKind::I64),
        DeValue::Array(items) if is_list => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(|text| Value::new(None, text)));
            texts.collect::<Option<Vec<Value>>>().map(ValueKind::Array)
        }
        DeValue::Table(pairs) if key.kind == ConfigKind::Nodes => {
            let pair = |(told, reached): (&Spanned<std::borrow::Cow<'_, str>>, &Toml<'_>)| {
                Some(Value::new(None, format!("{}={}", told.get_ref(), reached.get_ref().as_str()?)))
            };
            pairs.iter().map(pair).collect::<Option<Vec<Value>>>().map(ValueKind::Array)
        }
        DeValue::String(_)
        | DeValue::Array(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => None,
    }
}

/// Reads a file's text.
pub fn read(path: &Path) -> Result<Rc<SourceFile>, Mistakes> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|cause| Mistakes::unreadable(&name, &cause))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Rc::new(SourceFile { name, text })),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let mut mistakes = Mistakes::default();
            let place =
                Place::File(Rc::new(SourceFile { name, text }), at..at + char::REPLACEMENT_CHARACTER.len_utf8());
            mistakes.error(place, "file is not UTF-8", "save it as UTF-8");
            Err(mistakes)
        }
    }
}

/// Parses a file. Of what is not TOML at all the first mistake is said with its place, and nothing is read: those behind
/// it come of it.
pub fn parse<'i>(file: &'i Rc<SourceFile>, mistakes: &mut Mistakes) -> Option<DeTable<'i>> {
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    let Some(error) = errors.iter().min_by_key(|error| error.span().map_or(0, |at| at.start)) else {
        return Some(table.into_inner());
    };
    let at = error.span().unwrap_or(0..0);
    let message = error.message().replace('\n', ", ");
    let note = match ends_inside(file.line(at.start)) {
        true => "a \" ends the string: inside of \"…\" write {x or 'none'}, or use a '…' string".to_owned(),
        // It is seen only where something else begins.
        false if message.contains("array") => format!("{message}; or the ] of an array above is missing"),
        false => message,
    };
    mistakes.error(Place::File(Rc::clone(file), at), "file is not valid TOML", note);
    None
}

/// Whether the line looks like `"{x or "none"}"`, whose second quote ends the string.
fn ends_inside(line: &str) -> bool {
    line.match_indices(" or \"").any(|(at, _)| {
        let before = &line[..at];
        let open = before.rfind('{');
        open.is_some_and(|open| !before[open..].contains(['}', '"']) && before[..open].matches('"').count() % 2 == 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_that_ends_a_string_too_early_is_told_from_other_mistakes() {
        for (line, expected) in [
            (r#"keys = ["a:{x or "none"}"]"#, true),
            (r#"keys = ["a", "b:{x.y|lower or "none"}:c"]"#, true),
            (r#"keys = ['a:{x or "none"}'"#, false),
            (r#"when = "a = 1 or "b"#, false),
            (r#"keys = ["a:{x}", " or "b"#, false),
            (r#"keys = ["a:{x or 'none'}""#, false),
        ] {
            assert_eq!(ends_inside(line), expected, "{line}");
        }
    }
}
