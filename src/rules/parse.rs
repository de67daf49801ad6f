//! Rules as written: TOML to checked values. Every mistake is collected with its place; nothing is guessed.

use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cache::glob;
use crate::change::Value;
use crate::config::mistake::{Mistakes, Place, SourceFile, suggestion};
use crate::control::LookupId;
use crate::rules::render::{self, Piece as RenderPiece, Pieces};
use crate::rules::template::{self, Piece};
use crate::rules::{Lookup, On, Part, Rule, Rules, Template};

/// What a rule may say: key and meaning. The reference in the documentation lists the same.
pub const KEYS: &[(&str, &str)] = &[
    ("table", "schema.table, a name that needs it in double quotes; without a schema: public"),
    ("on", "which of insert, update, delete; default: all three. TRUNCATE always counts"),
    ("namespace", "keys become namespace:key"),
    ("keys", "key templates: literals, {column}, {lookup.column}, * as a pattern, {{ and }} for braces"),
    (
        "lookup",
        "lookup.NAME = { sql, args }: SQL with $1, $2, … and the columns that fill them; 0 to n rows, one key each",
    ),
];

/// What a lookup may say.
const LOOKUP_KEYS: &[&str] = &["sql", "args"];

type Toml<'i> = Spanned<DeValue<'i>>;

/// Collects the rules of one or more files.
#[derive(Debug)]
pub struct Reader<'m> {
    rules: Rules,
    mistakes: &'m mut Mistakes,
}

/// A lookup of the rule that is being read.
struct Named {
    name: String,
    id: LookupId,
    used: bool,
    at: Range<usize>,
}

impl<'m> Reader<'m> {
    /// Reads rules for a cache with these protected patterns.
    pub fn new(protect: &[Vec<u8>], mistakes: &'m mut Mistakes) -> Self {
        Reader { rules: Rules { protect: protect.into(), ..Rules::default() }, mistakes }
    }

    /// Everything that was read.
    pub fn finish(self) -> Rules {
        self.rules
    }

    /// Reads the value of a file's `rules`.
    pub fn read(&mut self, file: &Rc<SourceFile>, rules: &Toml<'_>) {
        let Some(array) = rules.get_ref().as_array() else {
            return self.wrong_type(file, rules, "rules", "[[rules]] tables");
        };
        for rule in array.iter() {
            match rule.get_ref().as_table() {
                Some(table) => RuleReader { reader: self, file, at: rule.span() }.read(table),
                None => self.wrong_type(file, rule, "rule", "a [[rules]] table"),
            }
        }
    }

    fn wrong_type(&mut self, file: &Rc<SourceFile>, value: &Toml<'_>, what: &str, wanted: &str) {
        let place = Place::File(Rc::clone(file), value.span());
        self.mistakes.error(place, format!("{what} must be {wanted}"), format!("this is {}", article(value)));
    }
}

fn article(value: &Toml<'_>) -> String {
    let name = value.get_ref().type_str();
    let vowel = name.starts_with(['a', 'i']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

/// Reads one `[[rules]]` block.
struct RuleReader<'r, 'm> {
    reader: &'r mut Reader<'m>,
    file: &'r Rc<SourceFile>,
    at: Range<usize>,
}

impl RuleReader<'_, '_> {
    fn error(&mut self, at: Range<usize>, message: impl Into<String>, note: impl Into<String>) {
        self.reader.mistakes.error(Place::File(Rc::clone(self.file), at), message, note);
    }

    fn read(&mut self, block: &DeTable<'_>) {
        self.refuse_unknown(block);
        let table = self.table(block);
        let on = self.on(block);
        let namespace = self.namespace(block);
        let mut lookups = self.lookups(block);
        let (schema, table) = table.unwrap_or_default();
        let place = Place::File(Rc::clone(self.file), self.at.clone()).to_string();
        self.reader.rules.rules.push(Rule { schema, table, on, place });
        self.keys(block, namespace.as_deref(), &mut lookups);
        for lookup in lookups.iter().filter(|lookup| !lookup.used) {
            let place = Place::File(Rc::clone(self.file), lookup.at.clone());
            let message = format!("lookup \"{}\" is used by no key", lookup.name);
            self.reader.mistakes.warning(place, message, "remove it, or use one of its columns in a key");
        }
    }

    fn refuse_unknown(&mut self, block: &DeTable<'_>) {
        const LATER: [&str; 3] = ["ignore", "changed", "when"];
        for key in block.keys().filter(|key| !KEYS.iter().any(|(name, _)| *name == key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            if LATER.contains(&name) {
                self.error(
                    key.span(),
                    format!("\"{name}\" is not supported in this version"),
                    "remove it: more keys are deleted then, never fewer",
                );
            } else {
                let note = suggestion(name, KEYS.iter().map(|(name, _)| *name));
                self.error(key.span(), format!("unknown key \"{name}\" in a rule"), note);
            }
        }
    }

    fn table(&mut self, block: &DeTable<'_>) -> Option<(String, String)> {
        const NOTE: &str =
            "write schema.table, for example \"public.properties\"; a name with capitals or dots goes in double quotes";
        let Some(value) = block.get("table") else {
            let at = self.at.clone();
            self.error(at, "rule has no table", "write table = \"schema.table\"");
            return None;
        };
        let text = self.text(value, "table")?;
        let name = table_name(&text);
        if name.is_none() {
            self.error(value.span(), format!("\"{text}\" is not the name of a table"), NOTE);
        }
        name
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

    fn lookups(&mut self, block: &DeTable<'_>) -> Vec<Named> {
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

    fn lookup(&mut self, name: &str, at: Range<usize>, value: &Toml<'_>) -> Option<Named> {
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
        let args: Vec<String> = table
            .get("args")
            .map_or_else(Vec::new, |args| self.texts(args, "args"))
            .into_iter()
            .map(|(arg, _)| arg)
            .collect();
        let wanted = parameters(&text);
        if text.trim().is_empty() {
            self.error(sql.span(), "sql is empty", "write a SELECT");
        } else if wanted != args.len() {
            let message = format!("sql takes {wanted} parameters and args names {} columns", args.len());
            self.error(sql.span(), message, "$1 is the first of args, $2 the second, …");
        }
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
        Some(Named { name: name.to_owned(), id, used: false, at })
    }

    fn keys(&mut self, block: &DeTable<'_>, namespace: Option<&str>, lookups: &mut [Named]) {
        let Some(value) = block.get("keys") else {
            let at = self.at.clone();
            return self.error(at, "rule has no keys", "write keys = [\"detail:{id}\"]");
        };
        let templates = self.texts(value, "keys");
        if templates.is_empty() && value.get_ref().as_array().is_some_and(|array| array.is_empty()) {
            self.error(value.span(), "rule has no keys", "write at least one, for example \"detail:{id}\"");
        }
        for (index, (text, at)) in templates.iter().enumerate() {
            if templates[..index].iter().any(|(earlier, _)| earlier == text) {
                let place = Place::File(Rc::clone(self.file), at.clone());
                self.reader.mistakes.warning(place, format!("key \"{text}\" stands here twice"), "remove one");
            }
            match template::pieces(text) {
                Ok(pieces) => self.template(text, at, namespace, pieces, lookups),
                Err(error) => {
                    let at = self.inside(at, text, &error.at);
                    self.error(at, error.message, error.note);
                }
            }
        }
    }

    fn template(
        &mut self,
        text: &str,
        at: &Range<usize>,
        namespace: Option<&str>,
        pieces: Vec<Piece>,
        lookups: &mut [Named],
    ) {
        let mut parts = Vec::new();
        if let Some(namespace) = namespace {
            push(&mut parts, Part::Literal(format!("{namespace}:").into_bytes()));
        }
        let mut fed_by = None;
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => push(&mut parts, Part::Literal(literal.into_bytes())),
                Piece::Star => push(&mut parts, Part::Star),
                Piece::Column(name, _) => push(&mut parts, Part::Column(name)),
                Piece::Lookup(name, column, place) => {
                    let place = self.inside(at, text, &place);
                    let Some(part) = self.answer(&name, &column, place, lookups, &mut fed_by) else { return };
                    push(&mut parts, part);
                }
            }
        }
        let rule = self.reader.rules.rules.len() - 1;
        let family = family(&parts);
        let template = Template { rule, source: text.to_owned(), parts, lookup: fed_by, family, guarded: false };
        self.add(template, at);
    }

    fn answer(
        &mut self,
        name: &str,
        column: &str,
        at: Range<usize>,
        lookups: &mut [Named],
        fed_by: &mut Option<LookupId>,
    ) -> Option<Part> {
        let Some(named) = lookups.iter_mut().find(|lookup| lookup.name == name) else {
            let note = match lookups {
                [] => "the rule has no lookup; paths into JSON are not supported in this version".to_owned(),
                lookups => suggestion(name, lookups.iter().map(|lookup| lookup.name.as_str())),
            };
            self.error(at, format!("unknown lookup \"{name}\""), note);
            return None;
        };
        named.used = true;
        if fed_by.is_some_and(|other| other != named.id) {
            self.error(at, "key uses two lookups", "join them in one SQL statement");
            return None;
        }
        *fed_by = Some(named.id);
        let columns = &mut self.reader.rules.lookups[named.id.0 as usize].columns;
        let index = columns.iter().position(|known| known == column).unwrap_or_else(|| {
            columns.push(column.to_owned());
            columns.len() - 1
        });
        Some(Part::Answer(index))
    }

    /// Adds a template whose family is neither everything nor protected.
    fn add(&mut self, mut template: Template, at: &Range<usize>) {
        let key = &template.source;
        if !template.parts.iter().any(|part| matches!(part, Part::Literal(text) if !text.is_empty())) {
            let message = match template.parts.is_empty() {
                true => "key is empty".to_owned(),
                false => format!("key \"{key}\" has no literal text: its family would be every key of the cache"),
            };
            return self.error(at.clone(), message, "write a prefix, for example \"detail:{id}\", or a namespace");
        }
        let prefix = glob::literal_prefix(&template.family);
        let protect = Rc::clone(&self.reader.rules.protect);
        let covers = |pattern: &Vec<u8>| match template.constant() {
            Some(key) => glob::matches(pattern, key),
            None => {
                let protected = glob::literal_prefix(pattern);
                pattern.ends_with(b"*")
                    && escaped(&protected) == pattern[..pattern.len() - 1]
                    && prefix.starts_with(&protected)
            }
        };
        if let Some(pattern) = protect.iter().find(|pattern| covers(pattern)) {
            let pattern = String::from_utf8_lossy(pattern);
            let message = format!("key \"{key}\" is protected: it would never be deleted");
            return self.error(at.clone(), message, format!("cache.protect holds \"{pattern}\""));
        }
        template.guarded = protect.iter().any(|pattern| {
            let protected = glob::literal_prefix(pattern);
            protected.starts_with(&prefix) || prefix.starts_with(&protected)
        });
        self.reader.rules.templates.push(template);
    }

    /// Bytes of the file for bytes of a string's value, when the string is written without escapes.
    fn inside(&self, string: &Range<usize>, value: &str, at: &Range<usize>) -> Range<usize> {
        let start = string.start + 1;
        match self.file.text.get(start..start + value.len()) {
            Some(written) if written == value => start + at.start..start + at.end,
            Some(_) | None => string.clone(),
        }
    }

    fn text(&mut self, value: &Toml<'_>, what: &str) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.reader.wrong_type(self.file, value, what, "a string");
        }
        text
    }

    fn texts(&mut self, value: &Toml<'_>, what: &str) -> Vec<(String, Range<usize>)> {
        let Some(array) = value.get_ref().as_array() else {
            self.reader.wrong_type(self.file, value, what, "an array of strings");
            return Vec::new();
        };
        array.iter().filter_map(|item| Some((self.text(item, &format!("each of {what}"))?, item.span()))).collect()
    }
}

/// Adds a part; literals that meet become one, stars that meet as well.
fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Literal(before)), Part::Literal(more)) => before.extend_from_slice(&more),
        (Some(Part::Star), Part::Star) => {}
        (_, part) => parts.push(part),
    }
}

/// The pattern that covers every key of a template.
fn family(parts: &[Part]) -> Vec<u8> {
    let pieces: Pieces<'_> = parts
        .iter()
        .map(|part| match part {
            Part::Literal(bytes) => RenderPiece::Literal(bytes),
            Part::Star | Part::Column(_) | Part::Answer(_) => RenderPiece::Value(Value::Unknown),
        })
        .collect();
    render::pattern(&pieces)
}

fn escaped(literal: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::new();
    glob::escape_into(&mut pattern, literal);
    pattern
}

/// Schema and table of `table`, `schema.table`, `"My Schema"."My.Table"`. Unquoted names are folded to lower case, as
/// PostgreSQL folds identifiers; a quote inside of quotes is doubled.
pub(crate) fn table_name(text: &str) -> Option<(String, String)> {
    let (first, rest) = identifier(text)?;
    if rest.is_empty() {
        return Some(("public".to_owned(), first));
    }
    let (second, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((first, second))
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let starts = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        return (starts && name.chars().all(plain)).then(|| (name.to_ascii_lowercase(), rest));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return (!name.is_empty()).then(|| (name, &quoted[at + 1..])),
            other => name.push(other),
        }
    }
    None
}

/// The highest `$n` of a statement. A `$1` inside of a string literal counts as well; nobody writes one.
fn parameters(sql: &str) -> usize {
    let after_dollar = sql.split('$').skip(1);
    let numbers = after_dollar.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u16>().ok()
    });
    numbers.max().map_or(0, usize::from)
}

/// The rules of a text that is known to be right, for tests of what rules do.
#[cfg(test)]
pub(crate) fn rules_of(text: &str) -> Rules {
    read_text(text, &["lock:*"]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[cfg(test)]
pub(crate) fn read_text(text: &str, protect: &[&str]) -> Result<Rules, Mistakes> {
    let file = Rc::new(SourceFile { name: "rules.toml".to_owned(), text: text.to_owned() });
    let table = DeTable::parse(&file.text).expect("valid TOML");
    let protect: Vec<Vec<u8>> = protect.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
    let mut mistakes = Mistakes::default();
    let mut reader = Reader::new(&protect, &mut mistakes);
    reader.read(&file, table.get_ref().get("rules").expect("the text has rules"));
    let rules = reader.finish();
    if mistakes.is_empty() { Ok(rules) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every mistake of one rule: its message and the bytes it points at.
    #[test]
    fn mistakes_of_rules_point_at_what_is_wrong() {
        let cases: &[(&str, &[&str])] = &[
            ("table = 'a.b.c'\nkeys = ['x']", &["\"a.b.c\" is not the name of a table"]),
            ("table = 'a b'\nkeys = ['x']", &["\"a b\" is not the name of a table"]),
            ("keys = ['x']", &["rule has no table"]),
            ("table = 't'", &["rule has no keys"]),
            ("table = 't'\nkeys = []", &["rule has no keys"]),
            ("table = 't'\nkeys = 'x'", &["keys must be an array of strings"]),
            ("table = 't'\nkeys = [1]", &["each of keys must be a string"]),
            ("table = 't'\nkeys = ['']", &["key is empty"]),
            (
                "table = 't'\nkeys = ['{id}']",
                &["key \"{id}\" has no literal text: its family would be every key of the cache"],
            ),
            ("table = 't'\nkeys = ['lock:{id}']", &["key \"lock:{id}\" is protected: it would never be deleted"]),
            ("table = 't'\nkeys = ['lock:a']", &["key \"lock:a\" is protected: it would never be deleted"]),
            ("table = 't'\nkeys = ['x', 'x']", &["key \"x\" stands here twice"]),
            ("table = 't'\nkeys = ['x{o.c}']", &["unknown lookup \"o\""]),
            ("table = 't'\nkeys = ['x{a|b}']", &["filters are not supported in this version"]),
            ("table = 't'\non = ['updat']\nkeys = ['x']", &["unknown change \"updat\""]),
            ("table = 't'\non = []\nkeys = ['x']", &["rule listens to no change"]),
            ("table = 't'\nignore = ['x']\nkeys = ['x']", &["\"ignore\" is not supported in this version"]),
            ("tabel = 't'\nkeys = ['x']", &["unknown key \"tabel\" in a rule", "rule has no table"]),
            ("table = 't'\nnamespace = '*'\nkeys = ['x']", &["namespace must be plain text"]),
            (
                "table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = 'select $1', args = [] }",
                &["sql takes 1 parameters and args names 0 columns"],
            ),
            ("table = 't'\nkeys = ['x']\nlookup.o = { sql = 'select 1' }", &["lookup \"o\" is used by no key"]),
            (
                "table = 't'\nkeys = ['x{a.c}{b.c}']\nlookup.a = { sql = 'select 1' }\nlookup.b = { sql = 'select 1' }",
                &["key uses two lookups"],
            ),
        ];
        for (text, expected) in cases {
            let mistakes = read_text(&format!("[[rules]]\n{text}\n"), &["lock:*"])
                .err()
                .map(|m| m.to_string())
                .unwrap_or_default();
            let severity = |line: &&str| line.starts_with("error: ") || line.starts_with("warning: ");
            let found: Vec<&str> =
                mistakes.lines().filter(severity).filter_map(|line| Some(line.split_once(": ")?.1)).collect();
            assert_eq!(found, *expected, "{text}");
        }
    }

    #[test]
    fn a_template_error_points_into_the_template() {
        let mistakes =
            read_text("[[rules]]\ntable = 't'\nkeys = [\"é:{ownr.id}\"]\nlookup.owner = { sql = \"select 1\" }\n", &[]);
        let shown = mistakes.err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
        let expected = "error: unknown lookup \"ownr\"\n --> rules.toml:3:12\n  |\n\
                        3 | keys = [\"é:{ownr.id}\"]\n  |            \
                        ^^^^^^^^^ did you mean \"owner\"? allowed here: owner\n";
        assert!(shown.starts_with(expected), "{shown}");
    }

    #[test]
    fn names_of_tables_are_read_as_postgresql_reads_identifiers() {
        let cases = [
            ("Properties", Some(("public", "properties"))),
            ("app.t_1", Some(("app", "t_1"))),
            ("\"My Schema\".\"a.\"\"b\"", Some(("My Schema", "a.\"b"))),
            ("\"open", None),
            ("a.", None),
            ("1a", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let name = table_name(text);
            assert_eq!(name.as_ref().map(|(schema, table)| (schema.as_str(), table.as_str())), expected, "{text}");
        }
    }

    #[test]
    fn the_digest_knows_families_and_not_their_order() {
        let one = rules_of("[[rules]]\ntable = 't'\nkeys = ['a', 'b:{x}']\n").digest();
        let same =
            rules_of("[[rules]]\ntable = 'u'\nkeys = ['b:{y}']\n[[rules]]\ntable = 't'\nkeys = ['a']\n").digest();
        let other = rules_of("[[rules]]\ntable = 't'\nkeys = ['a', 'c:{x}']\n").digest();
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
