//! The layers: defaults, then DATABASE_URL and REDIS_URL, then the file, then `CRIEUR__…`. The later one wins.
//!
//! An explicit line of the file wins over DATABASE_URL, which an application's environment may hold for its own, pooled
//! connection; `CRIEUR__POSTGRES__URL` can only be meant for this daemon and wins over the file.

use std::path::Path;
use std::rc::Rc;

use config::{ConfigError, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::reference::{ConfigKey, ConfigKind, Unfit, reference};
use crate::mistake::{Mistakes, Place, SourceFile, suggestion};
use crate::rules::read::parse::TOP;

type Toml<'i> = Spanned<DeValue<'i>>;

/// Values of one origin, by full key.
#[derive(Clone, Debug, Default)]
pub struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl Layer {
    /// The defaults of the table of keys.
    pub fn defaults() -> Self {
        let value =
            |key: &ConfigKey| Some((key.name.to_owned(), Value::new(Some(&"default".to_owned()), key.default?)));
        Layer(reference().iter().filter_map(value).collect())
    }

    /// With addresses that nobody connects to.
    pub fn with_no_addresses(mut self) -> Self {
        for key in reference().iter().filter(|key| key.also.is_some()) {
            self.0.insert(key.name.to_owned(), Value::new(Some(&"nowhere".to_owned()), "none"));
        }
        self
    }

    pub(super) fn set(&mut self, key: &ConfigKey, kind: impl Into<ValueKind>, place: Place, mistakes: &mut Mistakes) {
        let value = Value::new(Some(&place.to_string()), kind);
        match key.kind.check(&value) {
            Ok(_) => {
                self.0.insert(key.name.to_owned(), value);
            }
            Err(Unfit(what)) => mistakes.error(place, format!("{} {what}", key.name), note(key)),
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
    let mut names: Vec<&str> = reference().iter().map(|key| key.split().0).collect();
    names.dedup();
    names.push("rules_file");
    names.extend(TOP);
    names
}

/// The layer of a file. The rules and `rules_file` are left to the caller.
pub fn file(file: &Rc<SourceFile>, table: &DeTable<'_>, mistakes: &mut Mistakes) -> Layer {
    let mut layer = Layer::default();
    let place = |at| Place::File(Rc::clone(file), at);
    for (name, value) in table {
        let section = name.get_ref().as_ref();
        if section == "rules_file" || TOP.contains(&section) {
            continue;
        }
        if !top_level().contains(&section) {
            let later = ["caches", "metrics"].contains(&section);
            let note = if later {
                "it is not in this version: remove it".to_owned()
            } else {
                suggestion(section, top_level())
            };
            mistakes.error(place(name.span()), format!("unknown key \"{section}\""), note);
            continue;
        }
        let Some(entries) = value.get_ref().as_table() else {
            mistakes.error(
                place(value.span()),
                format!("\"{section}\" must be a table"),
                format!("write [{section}] on a line of its own"),
            );
            continue;
        };
        for (name, value) in entries {
            match reference().iter().find(|key| key.split() == (section, name.get_ref().as_ref())) {
                Some(key) => match kind_of(key, value) {
                    Some(kind) => layer.set(key, kind, place(value.span()), mistakes),
                    None => {
                        let what = match key.kind.check(&Value::new(None, ValueKind::Nil)) {
                            Err(Unfit(what)) => what,
                            Ok(_) => "has the wrong type".to_owned(),
                        };
                        mistakes.error(place(value.span()), format!("{} {what}", key.name), note(key));
                    }
                },
                None => {
                    let allowed = reference().iter().map(|key| key.split()).filter(|(of, _)| *of == section);
                    let note = suggestion(name.get_ref(), allowed.map(|(_, name)| name));
                    mistakes.error(
                        place(name.span()),
                        format!("unknown key \"{}\" in [{section}]", name.get_ref()),
                        note,
                    );
                }
            }
        }
    }
    layer
}

/// A value for the layers. A list must be written as a list: its comma separated form is the environment's.
fn kind_of(key: &ConfigKey, value: &Toml<'_>) -> Option<ValueKind> {
    let is_list =
        matches!(key.kind, ConfigKind::Texts | ConfigKind::Prefixes | ConfigKind::Urls | ConfigKind::Ascending);
    match value.get_ref() {
        DeValue::String(text) if !is_list => Some(ValueKind::String(text.to_string())),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(ValueKind::I64),
        DeValue::Array(items) if is_list => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(|text| Value::new(None, text)));
            texts.collect::<Option<Vec<Value>>>().map(ValueKind::Array)
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
