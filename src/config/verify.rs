//! `[[verify]]`: cached keys, and the SQL that says what they should hold. Every mistake is said with its place.

use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistake::{Mistakes, Place, SourceFile, suggestion};
use crate::rules::read::sql;
use crate::verify::compare::Compare;
use crate::verify::template::KeyTemplate;
use crate::verify::{PER_MINUTE_MAX, Verification};

/// The keys of a `[[verify]]`.
const KEYS: [&str; 4] = ["keys", "sql", "compare", "per_minute"];

/// What a query may begin with.
const READING: [&str; 4] = ["SELECT", "WITH", "VALUES", "TABLE"];

/// The `[[verify]]` of one file.
pub(super) fn read(file: &Rc<SourceFile>, table: &DeTable<'_>, mistakes: &mut Mistakes) -> Vec<Verification> {
    let Some(value) = table.get("verify") else { return Vec::new() };
    let Some(entries) = value.get_ref().as_array() else {
        let note = "write [[verify]] on a line of its own; how many keys a minute is per_minute in each";
        mistakes.error(Place::File(Rc::clone(file), value.span()), "verify must be [[verify]] tables", note);
        return Vec::new();
    };
    let mut read = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        mistakes.within(format!("verify {}", index + 1));
        read.extend(Entry { file, at: entry, mistakes }.read());
    }
    mistakes.within("");
    read
}

/// One as it is shown; what the daemon verifies, only a start reads.
pub(super) fn effective((of, number): (&Verification, usize)) -> (String, String, String) {
    let Verification { keys, sql, compare, per_minute, place } = of;
    let rate = per_minute.map_or_else(|| "default".to_owned(), |rate| rate.to_string());
    // One line of the log.
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let value = format!("keys {}, sql {sql}, compare {compare}, per_minute {rate}", keys.text());
    (format!("verify.{number}"), value, place.clone())
}

type Toml<'i> = Spanned<DeValue<'i>>;

/// One that is being read.
struct Entry<'a, 'i> {
    file: &'a Rc<SourceFile>,
    at: &'a Toml<'i>,
    mistakes: &'a mut Mistakes,
}

impl Entry<'_, '_> {
    fn place(&self, value: &Toml<'_>) -> Place {
        Place::File(Rc::clone(self.file), value.span())
    }

    fn wrong(&mut self, value: &Toml<'_>, message: impl Into<String>, note: impl Into<String>) {
        let place = self.place(value);
        self.mistakes.error(place, message, note);
    }

    fn read(mut self) -> Option<Verification> {
        let entry = self.at;
        let Some(table) = entry.get_ref().as_table() else {
            self.wrong(entry, "verify must be a [[verify]] table", "write keys and sql below [[verify]]");
            return None;
        };
        for name in table.keys().filter(|name| !KEYS.contains(&name.get_ref().as_ref())) {
            let place = Place::File(Rc::clone(self.file), name.span());
            self.mistakes.error(place, format!("unknown key \"{}\"", name.get_ref()), suggestion(name.get_ref(), KEYS));
        }
        let keys = self.keys(table.get("keys"));
        let sql = self.sql(table.get("sql"), keys.as_ref());
        let compare = self.compare(table.get("compare"));
        let per_minute = self.per_minute(table.get("per_minute"));
        let place = self.place(entry).to_string();
        Some(Verification { keys: keys?, sql: sql?, compare: compare?, per_minute, place })
    }

    fn text(&mut self, name: &str, value: Option<&Toml<'_>>, example: &str) -> Option<String> {
        let entry = self.at;
        let Some(value) = value else {
            self.wrong(entry, format!("verify has no {name}"), format!("write {example}"));
            return None;
        };
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(value, format!("{name} must be a text"), format!("write {example}"));
        }
        text
    }

    fn keys(&mut self, value: Option<&Toml<'_>>) -> Option<KeyTemplate> {
        let text = self.text("keys", value, "keys = \"properties:detail:{id}\"")?;
        match KeyTemplate::read(&text) {
            Ok(template) => Some(template),
            Err((message, note)) => {
                self.wrong(value?, format!("\"{text}\": {message}"), note);
                None
            }
        }
    }

    fn sql(&mut self, value: Option<&Toml<'_>>, keys: Option<&KeyTemplate>) -> Option<String> {
        let text = self.text("sql", value, "sql = \"SELECT … WHERE id = $1\"")?;
        let value = value?;
        let (wanted, verb) = (sql::parameters(&text), sql::verb(&text));
        let has = keys.map_or(wanted, |keys| keys.names().len());
        if text.trim().is_empty() {
            self.wrong(value, "sql is empty", "write a SELECT");
        } else if let Some(verb) = verb.filter(|verb| !READING.contains(&verb.as_str())) {
            let note = "write a query that begins with SELECT, WITH, VALUES or TABLE";
            self.wrong(value, format!("sql begins with {verb}, and the verifier only reads"), note);
        } else if wanted != has {
            let names = keys.map(|keys| keys.names().join(", ")).unwrap_or_default();
            let message = format!("sql takes {wanted} parameters and keys has {has} values");
            let note = match has {
                0 => "keys names no value: write one as {id}".to_owned(),
                _ => {
                    format!("$1 is the first value of keys, $2 the second: {names}; write * for what sql does not need")
                }
            };
            self.wrong(value, message, note);
        }
        Some(text)
    }

    fn compare(&mut self, value: Option<&Toml<'_>>) -> Option<Compare> {
        let Some(value) = value else { return Some(Compare::Json) };
        let read = value.get_ref().as_str().and_then(Compare::read);
        if read.is_none() {
            let note = "json compares the whole value, text every byte, path:updated_at what stands there in the JSON";
            self.wrong(value, "compare must be one of: json, text, path:NAME", note);
        }
        read
    }

    fn per_minute(&mut self, value: Option<&Toml<'_>>) -> Option<u32> {
        let value = value?;
        let number =
            value.get_ref().as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        let number = number.filter(|number| *number <= PER_MINUTE_MAX);
        if number.is_none() {
            let note = "so many keys the daemon looks at in a minute; 0 is none";
            self.wrong(value, format!("per_minute must be an integer from 0 to {PER_MINUTE_MAX}"), note);
        }
        number
    }
}
