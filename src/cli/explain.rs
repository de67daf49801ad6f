//! `crieur explain`: which keys one change makes, and by which rule. No server, no clock.
//!
//! The row is turned into the bytes that the stream would carry and goes through the real plan: what differs from the
//! daemon's keys is what JSON does not tell, the types of columns and the spelling that PostgreSQL would give a value.
//! Nothing is spelled anew here: numbers and JSON texts stay as they were typed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::builder::ArgPredicate::IsPresent;
use serde_json::value::RawValue;
use tokio_postgres::types::Type;

use crate::change::{Column, Oid, Old, Relation, ReplicaIdentity, Row, Tuple, Value, push_column};
use crate::error::{Error, Exit, Result};
use crate::keys::{FamilyId, KeySet};
use crate::rules::plan::{HeldBack, Plan};
use crate::rules::read::name::table_name;
use crate::rules::{Invalidations, Rules};
use crate::shown::{quoted, shown};
use crate::tag::tag_of;
use crate::warm::entry;

/// What happened to the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Operation {
    /// A new row: give --new.
    Insert,
    /// A changed row: give --new, and --old as far as it is known.
    Update,
    /// A deleted row: give --old.
    Delete,
    /// An emptied table.
    Truncate,
}

/// The change to explain.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The table, as in a rule: schema.table.
    #[arg(
        long,
        value_name = "TABLE",
        required = false,
        required_unless_present_any = ["diff", "cost"],
        default_value_ifs([("diff", IsPresent, ""), ("cost", IsPresent, "")])
    )]
    pub table: String,
    /// What happened to the row.
    #[arg(long = "op", value_name = "OPERATION", required = false)]
    #[arg(required_unless_present_any = ["diff", "cost"])]
    #[arg(default_value_ifs([("diff", IsPresent, "truncate"), ("cost", IsPresent, "truncate")]))]
    pub operation: Operation,
    /// The row before, as a JSON object: column to value; a column that is left out is unknown. `-` reads stdin.
    ///
    /// Strings count as text, true and false as bool, numbers as numeric (with an exponent as float8), objects and arrays
    /// as they are typed, where jsonb has a blank behind each ":" and ",". For every other type give --types, and the value
    /// as PostgreSQL prints it: a timestamptz is "2024-01-02 03:04:05+00".
    #[arg(long, value_name = "JSON")]
    pub old: Option<String>,
    /// The row after, likewise.
    #[arg(long, value_name = "JSON")]
    pub new: Option<String>,
    /// Types of columns, as pg_type names them: timestamptz, int8, jsonb; anyenum for an enum.
    #[arg(long, value_name = "COLUMN=TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
}

impl Args {
    /// Puts what `input` holds in the place of a `-`. One of the two rows can come that way.
    pub fn fill_from(&mut self, input: &mut impl std::io::Read) -> Result<()> {
        let dashes = [&mut self.old, &mut self.new].into_iter().flatten().filter(|text| *text == "-");
        for (index, row) in dashes.enumerate() {
            if index > 0 {
                let error = Error::definite(Exit::Usage, "only one of --old and --new can be \"-\"");
                return Err(error.hint("Give the other one on the command line."));
            }
            row.clear();
            let refuse = |cause| Error::definite(Exit::NoInput, "cannot read the row from stdin").because(cause);
            input.read_to_string(row).map_err(|cause: std::io::Error| refuse(cause))?;
        }
        Ok(())
    }
}

/// A row as it was typed: the text of each value.
type Typed = BTreeMap<String, Box<RawValue>>;

/// `--types`, by column.
fn types(given: &[String]) -> Result<BTreeMap<&str, Type>> {
    let read = |text: &'_ String| {
        let (column, name) = text.rsplit_once('=')?;
        // Types that are built in have numbers below this one (`FirstGenbkiObjectId` in src/include/access/transam.h).
        let kind = (1..10_000).filter_map(Type::from_oid).find(|kind| kind.name() == name)?;
        Some((column.len(), kind))
    };
    let mut types = BTreeMap::new();
    for text in given {
        let Some((length, kind)) = read(text) else {
            let error = Error::definite(Exit::Usage, format!("--types: \"{text}\" gives no column a built-in type"));
            return Err(
                error.hint("Write COLUMN=TYPE with a name of pg_type, such as timestamptz; anyenum for an enum.")
            );
        };
        types.insert(&text[..length], kind);
    }
    Ok(types)
}

/// Where a key comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Image {
    Old,
    New,
    Both,
}

/// Says which keys the change makes, one paragraph for each.
pub fn explain(rules: &Rules, args: &Args) -> Result<String> {
    let usage = |message: &str, hint: &str| Error::definite(Exit::Usage, message).hint(hint);
    let Some((schema, table)) = table_name(&args.table) else {
        return Err(usage("the table's name cannot be read", "Write --table schema.table."));
    };
    if !rules.concerns(&schema, &table) {
        let known: Vec<String> =
            rules.tables().iter().map(|table| format!("{}.{}", table.schema, table.table)).collect();
        let hint = format!("The rules name: {}.", known.join(", "));
        return Err(usage(&format!("no rule names the table \"{schema}.{table}\""), &hint));
    }
    let old = args.old.as_deref().map(|text| object(text, "--old")).transpose()?;
    let new = args.new.as_deref().map(|text| object(text, "--new")).transpose()?;
    let types = types(&args.types)?;
    let sketch = Sketch::new(rules, (&schema, &table), &types, old, new);
    let has = |name: &str| sketch.relation.columns.iter().any(|column| column.name == name);
    if let Some(unknown) = types.keys().find(|name| !has(name)) {
        let hint = "Name a column that the rules read or that --old or --new holds.";
        return Err(usage(&format!("--types: there is no column \"{unknown}\""), hint));
    }
    let asked = match (args.operation, &sketch.old, &sketch.new) {
        (Operation::Insert, _, None) => {
            return Err(usage("an insert needs the new row", "Give --new '{\"column\": …}'."));
        }
        (Operation::Update, _, None) => {
            return Err(usage("an update needs the new row", "Give --new '{\"column\": …}'."));
        }
        (Operation::Delete, None, _) => {
            return Err(usage("a delete needs the old row", "Give --old '{\"column\": …}'."));
        }
        (Operation::Insert | Operation::Update | Operation::Delete | Operation::Truncate, _, _) => {
            sketch.apply(rules, args.operation)
        }
    };
    let mut text = report(rules, &asked, &sketch.images(rules, args.operation));
    for (rule, held) in sketch.plan(rules).held(&sketch.row(args.operation)) {
        let why = match held {
            HeldBack::Deaf => "it does not listen to this change".to_owned(),
            HeldBack::Ignored => "only ignored columns changed".to_owned(),
            HeldBack::Unchanged => "none of the columns in \"changed\" changed".to_owned(),
            HeldBack::Unmet => format!("no row meets its condition \"{}\"", rules.condition_of(rule).unwrap_or("?")),
        };
        let _ = writeln!(text, "held back  the rule at {}: {why}", rules.place_of(rule).unwrap_or("?"));
    }
    Ok(text)
}

/// A JSON object of columns. The text holds row values, so no message repeats it.
fn object(text: &str, flag: &str) -> Result<Typed> {
    match serde_json::from_str::<Typed>(text) {
        Ok(object) => Ok(object),
        Err(error) if error.is_data() => {
            Err(Error::definite(Exit::Usage, format!("{flag} is not a JSON object"))
                .hint("Write {\"column\": value, …}."))
        }
        Err(error) => {
            let message = format!("{flag} is not JSON (line {}, column {})", error.line(), error.column());
            Err(Error::definite(Exit::Usage, message).hint("Write {\"column\": value, …} in single quotes."))
        }
    }
}

/// The change as the stream would carry it.
struct Sketch {
    relation: Relation,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
    table: (String, String),
}

impl Sketch {
    /// Columns are those of the rules and of the rows. What --old holds counts as the replica identity.
    fn new(
        rules: &Rules,
        (schema, table): (&str, &str),
        types: &BTreeMap<&str, Type>,
        old: Option<Typed>,
        new: Option<Typed>,
    ) -> Self {
        let needs =
            rules.tables().into_iter().filter(|needs| (needs.schema.as_str(), needs.table.as_str()) == (schema, table));
        let mut names: Vec<String> = needs.flat_map(|needs| needs.columns.into_keys()).collect();
        names.extend(old.iter().chain(&new).flat_map(|row| row.keys().cloned()));
        names.sort();
        names.dedup();
        let in_identity = |name: &str| old.as_ref().is_some_and(|old| old.contains_key(name));
        let column = |name: &String| {
            let known = types.get(name.as_str()).map(|kind| Oid(kind.oid()));
            let type_oid = known.unwrap_or_else(|| type_of(name, &old, &new));
            Column { name: name.clone(), type_oid, in_identity: in_identity(name) }
        };
        let columns: Vec<Column> = names.iter().map(column).collect();
        let body = |row: &Typed| columns.iter().fold(Vec::new(), |body, column| encoded(body, column, row));
        let (old, new) = (old.as_ref().map(body), new.as_ref().map(body));
        let (schema, name) = (schema.to_owned(), table.to_owned());
        let table = (schema.clone(), name.clone());
        Sketch {
            relation: Relation { oid: Oid(1), schema, name, identity: ReplicaIdentity::Index, columns },
            old,
            new,
            table,
        }
    }

    fn tuple<'a>(&self, body: &'a Option<Vec<u8>>) -> Tuple<'a> {
        match body {
            Some(body) => Tuple::checked(self.relation.columns.len() as u16, body),
            None => Tuple::checked(0, &[]),
        }
    }

    fn row(&self, operation: Operation) -> Row<'_> {
        let old = if self.old.is_some() { Old::Key(self.tuple(&self.old)) } else { Old::Absent };
        match operation {
            Operation::Insert => Row::Insert { new: self.tuple(&self.new) },
            Operation::Update => Row::Update { old, new: self.tuple(&self.new) },
            Operation::Delete => Row::Delete { old },
            Operation::Truncate => Row::Truncate,
        }
    }

    fn plan(&self, rules: &Rules) -> Plan {
        rules.plan(&self.relation, (&self.table.0, &self.table.1))
    }

    fn apply(&self, rules: &Rules, operation: Operation) -> Invalidations {
        let mut out = Invalidations::default();
        self.plan(rules).apply(&self.row(operation), 0, &mut out);
        out
    }

    /// What an update makes of the old and of the new row alone: an image that does not change renders once.
    fn images(&self, rules: &Rules, operation: Operation) -> Option<Sides> {
        let alone = |body| {
            let image = self.tuple(body);
            let mut out = Invalidations::default();
            self.plan(rules).updated(image, 0, &mut out);
            out
        };
        (operation == Operation::Update).then(|| Sides { old: alone(&self.old), new: alone(&self.new) })
    }
}

/// Which of the sets.
type SetOf = fn(&Invalidations) -> &KeySet;

/// What each image of an update makes alone.
struct Sides {
    old: Invalidations,
    new: Invalidations,
}

impl Sides {
    fn of(&self, key: &[u8], set: SetOf) -> Image {
        match (set(&self.old).contains(key), set(&self.new).contains(key)) {
            (true, true) => Image::Both,
            (true, false) => Image::Old,
            (false, _) => Image::New,
        }
    }
}

/// What JSON tells of a column's type.
fn type_of(name: &str, old: &Option<Typed>, new: &Option<Typed>) -> Oid {
    let values = new.iter().chain(old).filter_map(|row| row.get(name)).map(|value| value.get());
    let known = values.into_iter().find(|value| *value != "null");
    Oid(match known.map(|value| (value, value.as_bytes()[0])) {
        Some((_, b't' | b'f')) => Type::BOOL.oid(),
        Some((number, b'-' | b'0'..=b'9')) if number.contains(['e', 'E']) => Type::FLOAT8.oid(),
        Some((_, b'-' | b'0'..=b'9')) => Type::NUMERIC.oid(),
        Some(_) | None => Type::TEXT.oid(),
    })
}

/// Appends a column.
fn encoded(mut body: Vec<u8>, column: &Column, row: &Typed) -> Vec<u8> {
    let is_json = [Type::JSON, Type::JSONB].iter().any(|json| json.oid() == column.type_oid.0);
    let mut value = |text: &str| push_column(&mut body, Value::Text(text.as_bytes()));
    match row.get(&column.name).map(|value| value.get()) {
        None => push_column(&mut body, Value::Unknown),
        Some("null") => push_column(&mut body, Value::Null),
        Some("true") if !is_json => value("t"),
        Some("false") if !is_json => value("f"),
        Some(typed) if typed.starts_with('"') && !is_json => {
            value(&serde_json::from_str::<String>(typed).expect("it was read as a JSON string"))
        }
        Some(typed) => value(typed),
    }
    body
}

fn report(rules: &Rules, asked: &Invalidations, sides: &Option<Sides>) -> String {
    let mut text = String::new();
    let kinds: [([&str; 2], &KeySet, SetOf); 2] = [
        (["key    ", "tag    "], &asked.keys, |out| &out.keys),
        (["pattern", "tags   "], &asked.patterns, |out| &out.patterns),
    ];
    for ([of_keys, of_tags], set, of) in kinds {
        for key in set.iter() {
            let side = sides.as_ref().map(|sides| sides.of(key.bytes, of));
            let (kind, name) = tag_of(key.bytes).map_or((of_keys, key.bytes), |tag| (of_tags, tag));
            line(&mut text, rules, kind, &shown(name), key.family, side);
        }
    }
    let questions = rules.questions(&asked.lookups);
    for entry in asked.lookups.iter() {
        let side = sides.as_ref().map(|sides| sides.of(entry.bytes, |out| &out.lookups));
        line(&mut text, rules, "lookup ", &shown(rules.family(entry.family)), entry.family, side);
        let mut alone = KeySet::default();
        alone.insert(entry.bytes, entry.family, 0);
        for question in questions.iter().filter(|question| rules.questions(&alone).contains(question)) {
            let sql = rules.lookups().get(question.lookup.0 as usize).map_or("", |lookup| &lookup.sql);
            let _ = writeln!(text, "          asks {sql}"); // Writing to a String cannot fail.
            for (index, arg) in question.args.iter().enumerate() {
                let arg = arg.as_deref().map_or("NULL".to_owned(), quoted);
                let _ = writeln!(text, "          with ${} = {arg}", index + 1);
            }
            let _ = writeln!(text, "          one key for each row of the answer, which only the server knows");
        }
    }
    for page in asked.warms.iter() {
        let Some((key, url)) = entry::parts(page.bytes) else { continue };
        let (url, key) = (shown(url), shown(key));
        let _ = writeln!(text, "page      {url}\n          fetched again if {key} existed, behind its last delete");
    }
    if asked.unwarmed > 0 {
        let why = "its address cannot be told from this row, or a value leads elsewhere";
        let _ = writeln!(text, "{} without a page: {why}", asked.unwarmed);
    }
    if asked.protected > 0 {
        let _ = writeln!(text, "{} more: a protected pattern covers them, they stay", asked.protected);
    }
    if text.is_empty() { "nothing: no rule makes a key of this change\n".to_owned() } else { text }
}

fn line(text: &mut String, rules: &Rules, kind: &str, key: &str, family: FamilyId, side: Option<Image>) {
    let (place, template) = rules.origin(family).unwrap_or(("?", "?"));
    let side = match side {
        Some(Image::Old) => ", old row",
        Some(Image::New) => ", new row",
        Some(Image::Both) => ", both rows",
        None => "",
    };
    let meets = rules.condition_behind(family).map(|said| format!(", where \"{said}\"")).unwrap_or_default();
    let of = |caches: &[String]| format!(", in {} alone", caches.join(", "));
    let coarse = rules.coarse_of(family);
    let named = if coarse.is_some() { rules.sinks_of(family) } else { rules.caches_of(family) };
    let named = named.map(of).unwrap_or_default();
    let coarse = coarse.map(|tag| format!(", all of them: {}", shown(tag))).unwrap_or_default();
    let _ = writeln!(text, "{kind}   {key}\n          by \"{template}\" at {place}{side}{meets}{named}{coarse}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    fn run(operation: Operation, old: Option<&str>, new: Option<&str>) -> String {
        let rules = rules_of(include_str!("../../systemd/dousell.rules.toml"));
        let table = "public.properties".to_owned();
        let args =
            Args { table, operation, old: old.map(str::to_owned), new: new.map(str::to_owned), types: Vec::new() };
        explain(&rules, &args).unwrap_or_else(|error| format!("{error}\n"))
    }

    #[test]
    fn a_city_move_names_both_cities_and_their_images() {
        let text = run(Operation::Update, Some(r#"{"id":"7","city":"Dakar"}"#), Some(r#"{"id":"7","city":"Thiès"}"#));
        let by = |template: &str, side: &str| format!("          by \"{template}\" at rules.toml:11, {side}\n");
        let expected = format!(
            "key       properties:all_properties_public\n{}key       properties:detail:7\n{}key       \
             properties:city:Thiès\n{}key       properties:city:Dakar\n{}",
            by("all_properties_public", "both rows"),
            by("detail:{id}", "both rows"),
            by("city:{city}", "new row"),
            by("city:{city}", "old row"),
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_dash_is_replaced_by_what_stdin_holds_and_only_once() {
        let table = "properties".to_owned();
        let (old, new) = (Some("-".to_owned()), None);
        let mut args = Args { table, operation: Operation::Delete, old, new, types: Vec::new() };
        args.fill_from(&mut "{}".as_bytes()).expect("one dash");
        assert_eq!(args.old.as_deref(), Some("{}"));
        (args.old, args.new) = (Some("-".to_owned()), Some("-".to_owned()));
        assert!(args.fill_from(&mut "{}".as_bytes()).is_err());
    }

    #[test]
    fn a_column_that_is_left_out_is_unknown() {
        let text = run(Operation::Delete, Some(r#"{"id":"7"}"#), None);
        assert!(
            text.contains("pattern   properties:city:*\n") && text.contains("key       properties:detail:7\n"),
            "{text}"
        );
    }

    /// The keys of an insert, by a rule with these.
    fn keys(keys: &str, row: &str, types: &[&str]) -> String {
        let rules = rules_of(&format!("[[rules]]\ntable = 't'\nkeys = [{keys}]\n"));
        let types = types.iter().map(|text| text.to_string()).collect();
        let new = Some(row.to_owned());
        let args = Args { table: "t".to_owned(), operation: Operation::Insert, old: None, new, types };
        let text = explain(&rules, &args).unwrap_or_else(|error| format!("key       {error}"));
        text.lines().filter_map(|line| line.strip_prefix("key       ")).collect::<Vec<_>>().join(" & ")
    }

    #[test]
    fn a_page_whose_address_cannot_be_told_is_said() {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['k:{id}']\nwarm = 'https://site.example/{slug}'\n");
        let said = |row: &str| {
            let (table, new) = ("t".to_owned(), Some(row.to_owned()));
            let args = Args { table, operation: Operation::Insert, old: None, new, types: Vec::new() };
            explain(&rules, &args).unwrap_or_else(|error| error.to_string())
        };
        assert!(said(r#"{"id": 7, "slug": "villa"}"#).contains("page      https://site.example/villa\n"));
        let text = said(r#"{"id": 7}"#);
        assert!(text.contains("\n1 without a page: its address cannot be told"), "{text}");
    }

    #[test]
    fn values_stay_as_they_were_typed() {
        for (template, value, key) in [
            ("'k:{n}'", "0.12345678901234567890123", "k:0.12345678901234567890123"),
            ("'k:{n}', 'p:{n|pg}'", "250000.00", "k:250000 & p:250000.00"),
            ("'k:{n|pg}'", "123456789012345678901234567890", "k:123456789012345678901234567890"),
            ("'k:{n}'", "1e5", "k:100000"),
            ("'k:{n}'", "-1.5E-7", "k:-1.5e-7"),
            ("'k:{n|md5}'", r#"{"x": 1}"#, "k:27958648a9e57fcd66ae5e31ff3359e9"),
            ("'k:{n.x}', 'l:{n.y}'", r#"{"x":1.50, "y":[1,  2]}"#, "k:1.5 & l:[1,  2]"),
            ("'k:{n}'", r#""a\u0041 ""#, "\"k:aA \""),
            ("'k:{n}', 'p:{n|pg}'", "true", "k:true & p:t"),
        ] {
            assert_eq!(keys(template, &format!("{{\"n\": {value}}}"), &[]), key, "{value}");
        }
    }

    #[test]
    fn a_type_that_is_given_counts() {
        let at = r#"{"n": "2024-01-02 03:04:05.1+00"}"#;
        assert_eq!(keys("'k:{n}'", at, &[]), "k:2024-01-02 03:04:05.1+00");
        let both = ["m=int8", "n=timestamptz"];
        assert_eq!(
            keys("'k:{n}', 'l:{m}'", &at.replace('}', ", \"m\": 7}"), &both),
            "k:2024-01-02T03:04:05.1+00:00 & l:7"
        );
        assert_eq!(keys("'k:{n}'", at, &both), "--types: there is no column \"m\"");
        assert_eq!(keys("'k:{n}'", r#"{"n": "x"}"#, &["n=jsonb"]), "\"k:\\\"x\\\"\"");
        assert_eq!(keys("'k:{n}'", r#"{"n": "1e+20"}"#, &["n=float8"]), "k:100000000000000000000");
        // Only the server knows whether another type takes these for the same.
        let rule = "'k'] \nwhen = \"n = 'Calm'\"\nchanged = ['n'";
        assert_eq!(keys(rule, r#"{"n": "calm"}"#, &[]), "");
        assert_eq!(keys(rule, r#"{"n": "calm"}"#, &["n=anyenum"]), "k");
        for wrong in ["n", "n=", "n=timestamp with time zone", "n=mood"] {
            let said = format!("--types: \"{wrong}\" gives no column a built-in type");
            assert_eq!(keys("'k'", "{}", &[wrong]), said);
        }
    }

    #[test]
    fn a_rule_that_is_held_back_says_why() {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nwhen = \"city = 'a'\"\nkeys = ['w']\n[[rules]]\ntable = 't'\non = ['insert']\nkeys = \
             ['o']\n[[rules]]\ntable = 't'\nignore = ['n']\nkeys = ['i']\n[[rules]]\ntable = 't'\nchanged = \
             ['city']\nkeys = ['c']\n",
        );
        let row = |n: u8| Some(format!("{{\"city\": \"b\", \"n\": {n}}}"));
        let args =
            Args { table: "t".to_owned(), operation: Operation::Update, old: row(1), new: row(2), types: Vec::new() };
        let text = explain(&rules, &args).expect("the table has rules");
        let expected = "nothing: no rule makes a key of this change\n\
                        held back  the rule at rules.toml:1: no row meets its condition \"city = 'a'\"\n\
                        held back  the rule at rules.toml:5: it does not listen to this change\n\
                        held back  the rule at rules.toml:9: only ignored columns changed\n\
                        held back  the rule at rules.toml:13: none of the columns in \"changed\" changed\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_key_shows_the_condition_that_its_row_meets() {
        let rules = rules_of("[[rules]]\ntable = 't'\nwhen = \"city = 'a'\"\nkeys = ['w']\n");
        let (old, new) = (None, Some(r#"{"city": "a"}"#.to_owned()));
        let args = Args { table: "t".to_owned(), operation: Operation::Insert, old, new, types: Vec::new() };
        let text = explain(&rules, &args).expect("the table has rules");
        assert_eq!(text, "key       w\n          by \"w\" at rules.toml:1, where \"city = 'a'\"\n");
    }

    #[test]
    fn a_lookup_shows_its_question() {
        let rules = rules_of(include_str!("../../systemd/dousell.rules.toml"));
        let new = Some(r#"{"lease_id":"L1"}"#.to_owned());
        let args = Args {
            table: "rental_payments".to_owned(),
            operation: Operation::Insert,
            old: None,
            new,
            types: Vec::new(),
        };
        let text = explain(&rules, &args).expect("the table has rules");
        assert!(text.contains("lookup    dashboard:*") && text.contains("with $1 = \"L1\""), "{text}");
        assert!(text.contains("key       payments:lease:L1\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_explained_says_why_and_repeats_no_value() {
        assert_eq!(run(Operation::Insert, None, None), "an insert needs the new row\n");
        assert_eq!(run(Operation::Insert, None, Some("[\"secret\"]")), "--new is not a JSON object\n");
        assert_eq!(run(Operation::Insert, None, Some("{\"secret")), "--new is not JSON (line 1, column 8)\n");
    }
}
