//! Rules as written: TOML to checked values. Every mistake is collected with its place; nothing is guessed.

use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::mistake::{Mistakes, Place, SourceFile, suggestion};
use crate::rules::read::name::table_name;
use crate::rules::read::reader::{Ignored, NamesOfTargets, RulesReader, Toml};
use crate::rules::read::rule::RuleReader;
use crate::rules::ruleset::Rules;
use crate::rules::value::condition::Condition;
use crate::rules::value::path::Path;

/// What stands at the top of a rules file.
pub const TOP: [&str; 4] = ["rules", "conditions", "ignore", "verify"];

impl<'m> RulesReader<'m> {
    /// Reads rules for a cache with these protected patterns.
    pub fn new(protect: &[Vec<u8>], mistakes: &'m mut Mistakes) -> Self {
        let rules = Rules { protect: protect.into(), ..Rules::default() };
        RulesReader { rules, mistakes, conditions: Vec::new(), ignored: Vec::new(), names: None }
    }

    /// Rules may name these caches and sinks and no others.
    #[must_use]
    pub fn knowing(mut self, names: Option<NamesOfTargets>) -> Self {
        self.names = names;
        self
    }

    /// Everything that was read.
    pub fn finish(self) -> Rules {
        let RulesReader { rules, mistakes, ignored, .. } = self;
        let named: Vec<String> = rules.tables.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect();
        for Ignored { table: (schema, table), place, .. } in ignored {
            let name = format!("{schema}.{table}");
            if !named.contains(&name) {
                let note = suggestion(&name, named.iter().map(String::as_str));
                mistakes.warning(place, format!("no rule names the table \"{name}\""), note);
            }
        }
        rules
    }

    /// Reads what the rules of all files share: a file's `[conditions]` and `[ignore]`.
    pub fn shared(&mut self, file: &Rc<SourceFile>, table: &DeTable<'_>) {
        for (name, value) in self.entries(file, table, "conditions") {
            self.mistakes.within(format!("condition {}", name.get_ref()));
            self.condition(file, &name, value);
        }
        for (name, value) in self.entries(file, table, "ignore") {
            self.mistakes.within(format!("[ignore], {}", name.get_ref()));
            self.ignore(file, &name, value);
        }
        self.mistakes.within("");
    }

    /// The entries of a table at the top of a file.
    fn entries<'t, 'i>(
        &mut self,
        file: &Rc<SourceFile>,
        table: &'t DeTable<'i>,
        key: &str,
    ) -> Vec<(Spanned<String>, &'t Toml<'i>)> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(file, value, key, &format!("a table: [{key}]"));
            return Vec::new();
        };
        let owned = |name: &Spanned<_>| Spanned::new(name.span(), AsRef::<str>::as_ref(name.get_ref()).to_owned());
        entries.iter().map(|(name, value): (&Spanned<std::borrow::Cow<'i, str>>, _)| (owned(name), value)).collect()
    }

    fn condition(&mut self, file: &Rc<SourceFile>, name: &Spanned<String>, value: &Toml<'_>) {
        let place = |at: Range<usize>| Place::File(Rc::clone(file), at);
        let known = self.conditions.iter().any(|(known, _)| known == name.get_ref());
        if known || Path::read(name.get_ref()).is_none_or(|path| !path.inside.is_empty()) {
            let message = format!("condition \"{}\" is no plain name, or stands here twice", name.get_ref());
            return self.mistakes.error(place(name.span()), message, "letters, digits, - and _ make a name");
        }
        let mut reader = RuleReader { reader: self, file, at: value.span() };
        let read = reader.text(value, "a condition").and_then(|text| reader.condition(&text, &value.span()));
        // A mistake is said once, where it is, and not again of each use of the name.
        self.conditions.push((name.get_ref().clone(), read.unwrap_or(Condition::Constant(true))));
    }

    fn ignore(&mut self, file: &Rc<SourceFile>, name: &Spanned<String>, value: &Toml<'_>) {
        let mut reader = RuleReader { reader: self, file, at: value.span() };
        let texts = reader.texts(value, "ignore");
        let columns = texts.into_iter().filter_map(|(text, at)| reader.column(&text, at)).collect();
        match table_name(name.get_ref()) {
            Some(table) => {
                let place = Place::File(Rc::clone(file), name.span());
                self.ignored.push(Ignored { table, columns, place });
            }
            None => {
                let message = format!("\"{}\" is not the name of a table", name.get_ref());
                let place = Place::File(Rc::clone(file), name.span());
                self.mistakes.error(place, message, "write \"public.properties\" = [\"view_count\"]");
            }
        }
    }

    /// Reads the value of a file's `rules`.
    pub fn read(&mut self, file: &Rc<SourceFile>, rules: &Toml<'_>) {
        let Some(array) = rules.get_ref().as_array() else {
            return self.wrong_type(file, rules, "rules", "[[rules]] tables");
        };
        for (index, rule) in array.iter().enumerate() {
            self.mistakes.within(named(index, rule));
            match rule.get_ref().as_table() {
                Some(table) => RuleReader { reader: self, file, at: rule.span() }.read(table),
                None => self.wrong_type(file, rule, "rule", "a [[rules]] table"),
            }
        }
        self.mistakes.within("");
    }
}

/// What a rule is called: it has a number and a table, and no name.
fn named(index: usize, rule: &Toml<'_>) -> String {
    let table = rule.get_ref().get("table").and_then(|table| match table.get_ref() {
        DeValue::Array(tables) => tables.first()?.get_ref().as_str(),
        other => other.as_str(),
    });
    let number = index + 1;
    table.map_or_else(|| format!("rule {number}"), |table| format!("rule {number}, {table}"))
}

/// The rules of a text that is known to be right, for tests of what rules do.
#[cfg(test)]
pub(crate) fn rules_of(text: &str) -> Rules {
    let (rules, mistakes) = read_all(text, &["lock:*"]);
    assert!(mistakes.is_harmless(), "{mistakes}");
    rules
}

#[cfg(test)]
pub(crate) fn read_text(text: &str, protect: &[&str]) -> Result<Rules, Mistakes> {
    let (rules, mistakes) = read_all(text, protect);
    if mistakes.is_empty() { Ok(rules) } else { Err(mistakes) }
}

#[cfg(test)]
fn read_all(text: &str, protect: &[&str]) -> (Rules, Mistakes) {
    let file = Rc::new(SourceFile { name: "rules.toml".to_owned(), text: text.to_owned() });
    let table = DeTable::parse(&file.text).expect("valid TOML");
    let protect: Vec<Vec<u8>> = protect.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
    let mut mistakes = Mistakes::default();
    let mut reader = RulesReader::new(&protect, &mut mistakes);
    reader.shared(&file, table.get_ref());
    reader.read(&file, table.get_ref().get("rules").expect("the text has rules"));
    let rules = reader.finish();
    (rules, mistakes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that are wrong, and every message about them.
    const MISTAKES: &[(&str, &[&str])] = &[
        ("table = 'a.b.c'\nkeys = ['x']", &["\"a.b.c\" is not the name of a table"]),
        ("table = 'a b'\nkeys = ['x']", &["\"a b\" is not the name of a table"]),
        ("keys = ['x']", &["rule has no table"]),
        ("table = 't'", &["rule has no keys"]),
        ("table = 't'\nkeys = []", &["rule has no keys"]),
        ("table = 't'\nkeys = 'x'", &["keys must be an array of strings"]),
        ("table = 't'\nkeys = [1]", &["each of keys must be a string"]),
        ("table = 't'\nkeys = ['']", &["key is empty"]),
        ("table = 't'\nkeys = ['x{']", &["brace is never closed"]),
        ("table = 't'\nkeys = ['x}']", &["brace was never opened"]),
        ("table = 't'\nkeys = ['x{a or b}']", &["text behind or is not in quotes"]),
        ("table = 't'\nkeys = ['x{a->b}']", &["-> is not understood"]),
        ("table = 't'\nkeys = ['x{lower(a)}']", &["{lower(a)} calls a function, and there are none here"]),
        ("table = 't'\nkeys = ['x:${a}']", &["\"${a}\" in key \"x:${a}\" is not how a column's value is written here"]),
        ("table = 't'\nkeys = ['x:%s']", &["\"%s\" in key \"x:%s\" is not how a column's value is written here"]),
        ("table = 't'\nkeys = ['x']\nwhen = \"lower(a) = 'b'\"", &["lower() is a function, and there are none here"]),
        (
            "table = 't'\nkeys = ['x']\nchanged = ['lower(a)']",
            &["\"lower(a)\" calls a function, and there are none here"],
        ),
        (
            "table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = 'Delete from u returning c' }",
            &["sql begins with DELETE, and a lookup only reads"],
        ),
        ("table = 5\nkeys = ['x']", &["table must be a string"]),
        ("table = [5]\nkeys = ['x']", &["each of table must be a string", "rule has no table"]),
        ("table = 't'\nkeys = ['x']\non = 'insert'", &["on must be an array of strings"]),
        ("table = 't'\nkeys = ['x']\non = ['truncate']", &["truncate always counts"]),
        ("table = 't'\nkeys = ['x']\nnamespace = ''", &["namespace must be plain text"]),
        (
            "table = 't'\nkeys = ['x']\nlookup = 1",
            &["lookup must be a table: lookup.NAME = { sql = \"…\", args = [\"column\"] }"],
        ),
        ("table = 't'\nkeys = ['x{o.c}']\nlookup.o = 'select 1'", &["lookup must be a table with sql and args"]),
        ("table = 't'\nkeys = ['x{o.c}']\nlookup.o = { args = [] }", &["lookup \"o\" has no sql"]),
        ("table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = ' ' }", &["sql is empty"]),
        (
            "table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = 'select 1', arg = [] }",
            &["unknown key \"arg\" in a lookup"],
        ),
        (
            "table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = 'select c from u', tables = [] }",
            &["lookup \"o\" depends on no table"],
        ),
        (
            "table = 't'\nkeys = ['x{o.c}']\nlookup.o = { sql = 'select c from u', tables = ['u', 'a.b.c', 'U'] }",
            &["\"a.b.c\" is not the name of a table", "table \"U\" stands here twice"],
        ),
        ("table = 't'\nkeys = ['x']\nwhen = 'a = null'", &["nothing is equal to null"]),
        (
            "table = 't'\nkeys = ['{id}']",
            &["key \"{id}\" has no literal text: its family would be every key of the cache"],
        ),
        ("table = 't'\nkeys = ['lock:{id}']", &["key \"lock:{id}\" is protected: it would never be deleted"]),
        ("table = 't'\nkeys = ['lock:a']", &["key \"lock:a\" is protected: it would never be deleted"]),
        ("table = 't'\nkeys = ['x', 'x']", &["key \"x\" stands here twice"]),
        ("table = 't'\nkeys = ['x{a|b}']", &["unknown filter \"b\""]),
        ("table = ['t', 'T']\nkeys = ['x']", &["table \"T\" stands here twice"]),
        ("table = []\nkeys = ['x']", &["rule has no table"]),
        ("table = 't'\nkeys = ['x']\nwhen = 'a ='", &["expected a column"]),
        ("table = 't'\nkeys = ['x']\nwhen = '@nobody'", &["unknown condition \"@nobody\""]),
        ("table = 't'\nkeys = ['x']\nwhen = 1", &["when must be a string"]),
        (
            "table = 't'\nkeys = ['x']\nchanged = ['a.', '']",
            &["\"a.\" is not the name of a column", "\"\" is not the name of a column"],
        ),
        ("table = 't'\nkeys = ['x']\nchanged = []", &["rule listens to no column"]),
        ("table = 't'\nkeys = ['x']\nignore = ['a.b']", &["\"a.b\" is a path, and ignore takes whole columns"]),
        ("table = 't'\nkeys = ['x{a}']\nignore = ['a']", &["column \"a\" is ignored and the rule reads it"]),
        ("table = 't'\nkeys = ['x']\nwhen = 'a'\nignore = ['a']", &["column \"a\" is ignored and the rule reads it"]),
        (
            "table = 't'\nkeys = ['x']\nchanged = ['a.b', 'v']\nignore = ['v']",
            &["column \"v\" is ignored and the rule reads it"],
        ),
        ("table = 't'\nkeys = ['x:{4}:{a}']", &["\"4\" is a constant, and a list needs two"]),
        ("table = 't'\nkeys = ['x']\ncompanions = ['*']", &["companion must be plain text"]),
        (
            "table = 't'\nkeys = ['lo{ck:,ve:}{id}']",
            &["key \"lo{ck:,ve:}{id}\" is protected: it would never be deleted"],
        ),
        ("table = 't'\nkeys = ['{,}{,}']", &["key is empty"]),
        ("table = 't'\nkeys = ['x{o}']\nlookup.o = { sql = 'select 1' }", &["lookup \"o\" lacks a column"]),
        ("table = 't'\non = ['updat']\nkeys = ['x']", &["unknown change \"updat\""]),
        ("table = 't'\non = []\nkeys = ['x']", &["rule listens to no change"]),
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

    #[test]
    fn mistakes_of_rules_point_at_what_is_wrong() {
        for (text, expected) in MISTAKES {
            let mistakes = read_text(&format!("[[rules]]\n{text}\n"), &["lock:*"])
                .err()
                .map(|m| m.to_string())
                .unwrap_or_default();
            let severity = |line: &&str| line.starts_with("error: ") || line.starts_with("warning: ");
            let found: Vec<&str> =
                mistakes.lines().filter(severity).filter_map(|line| Some(line.split_once(": ")?.1)).collect();
            assert_eq!(found, *expected, "{text}");
            // Each with line and column, the way out behind the marked bytes, and the rule.
            for mistake in mistakes.split_terminator("\n\n") {
                let lines: Vec<&str> = mistake.lines().collect();
                let [_, place, _, _, marked, within] = lines.as_slice() else { panic!("{text}: {mistake}") };
                let numbers = place.rsplitn(3, ':').take(2).filter(|number| number.parse::<u32>().is_ok_and(|n| n > 0));
                assert_eq!(numbers.count(), 2, "{mistake}");
                assert!(marked.rsplit_once("^ ").is_some_and(|(_, way_out)| way_out.len() > 5), "{mistake}");
                assert!(within.starts_with("  = in rule 1"), "{mistake}");
            }
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
    fn a_mistake_in_a_named_condition_is_said_once() {
        for wrong in ["'a =='", "5"] {
            let text = format!(
                "[conditions]\nb = {wrong}\nc = '@b and a'\n[[rules]]\ntable = 't'\nkeys = ['k']\nwhen = '@b or @c'\n"
            );
            let shown = read_text(&text, &[]).err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
            assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
        }
    }

    #[test]
    fn an_ignored_table_is_one_that_rules_name() {
        let rule = "[[rules]]\ntable = ['t', 'app.t']\nkeys = ['k{o.c}']\n\
                    lookup.o = { sql = 'select c from u', tables = ['u'] }\n";
        for (ignored, expected) in [
            ("'public.t'", ""),
            ("'app.t'", ""),
            ("u", ""),
            ("T", ""),
            ("'pubic.t'", "did you mean \"public.t\"? allowed here: public.t, app.t, public.u"),
            ("'v.w.x'", "is not the name of a table"),
            ("orders", "no rule names the table \"public.orders\"\n --> rules.toml:2:1\n"),
        ] {
            let text = format!("[ignore]\n{ignored} = ['v']\n{rule}");
            let shown = read_text(&text, &[]).err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
            assert!(shown.contains(expected) && shown.is_empty() == expected.is_empty(), "{ignored}: {shown}");
        }
    }

    #[test]
    fn a_condition_error_points_into_its_string() {
        let cases = [
            (
                "[[rules]]\ntable = 't'\nwhen = \"état = 'x' an b\"\nkeys = ['k']\n",
                "error: condition goes on where it should end\n --> rules.toml:3:20\n",
            ),
            (
                "[conditions]\na = \"x = 1\"\nb = \"@a and @c\"\n[[rules]]\ntable = 't'\nkeys = ['k']\n",
                "error: unknown condition \"@c\"\n --> rules.toml:3:13\n",
            ),
            (
                "[conditions]\nfree = \"x = 1\"\n[[rules]]\ntable = 't'\nkeys = ['k']\nwhen = 'not @fre'\n",
                "error: unknown condition \"@fre\"\n --> rules.toml:6:13\n  |\n6 | when = 'not @fre'\n  |             \
                 ^^^^ did you mean \"free\"? allowed here: free; name it in [conditions], above those that use it\n",
            ),
            (
                "[[rules]]\ntable = 't'\nkeys = ['k']\non = ['UPDATE']\n",
                "error: unknown change \"UPDATE\"\n --> rules.toml:4:7\n  |\n4 | on = ['UPDATE']\n  |       \
                 ^^^^^^^^ did you mean \"update\"? allowed here: insert, update, delete\n",
            ),
            (
                "[[rules]]\ntable = 't'\nwhen = \"a like '%x\\\\' or b == 1\"\nkeys = ['k']\n",
                "error: pattern ends with its escape\n --> rules.toml:3:16\n  |\n\
                 3 | when = \"a like '%x\\\\' or b == 1\"\n  |                ^^^^^^ write",
            ),
            (
                "[[rules]]\ntable = 't'\nwhen = '''\na = 1\n  and b == 2'''\nkeys = ['k']\n",
                "error: \"==\" means nothing in a condition\n --> rules.toml:5:9\n  |\n\
                 5 |   and b == 2'''\n  |         ^^ write =\n",
            ),
            (
                "[[rules]]\ntable = 't'\nkeys = [\"\"\"a:\\\n  \\\"{b|lowr}\\\"\"\"\"]\n",
                "error: unknown filter \"lowr\"\n --> rules.toml:4:5\n  |\n",
            ),
            (
                "conditions = 1\n[[rules]]\ntable = 't'\nkeys = ['k']\n",
                "error: conditions must be a table: [conditions]\n",
            ),
            (
                "[ignore]\n't u' = ['a']\n[[rules]]\ntable = 't'\nkeys = ['k']\n",
                "error: \"t u\" is not the name of a table\n --> rules.toml:2:1\n",
            ),
            (
                "[conditions]\n'a b' = 'x'\n[[rules]]\ntable = 't'\nkeys = ['k']\n",
                "error: condition \"a b\" is no plain name, or stands here twice\n --> rules.toml:2:1\n",
            ),
        ];
        for (text, expected) in cases {
            let shown = read_text(text, &[]).err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
            assert!(shown.starts_with(expected), "{shown}");
        }
    }
}
