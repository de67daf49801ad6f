//! What rules say that cannot be meant: conditions that never hold, keys that another rule makes anyway. For `check`.
//!
//! Not used on the road of a change, and careful: what it does not understand it says nothing of.

use std::collections::BTreeSet;

use crate::change::Value;
use crate::rules::read::template::{self, Piece};
use crate::rules::ruleset::{KeyPart, On, Rule, Rules, Template};
use crate::rules::value::condition::{Comparison, Condition, Constant, Kind, Right};
use crate::rules::value::filter::Filter;
use crate::rules::value::number;
use crate::rules::value::path::Path;

/// Choices of values that are tried on one condition.
const CHOICES_MAX: usize = 20_000;

/// How a rule uses a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Use {
    /// As it is.
    Plainly,
    /// As a date, for its year or month.
    Dated,
    /// Compared with this text of a condition.
    ComparedWith(String),
}

/// One value of the changed row that a rule reads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Reads {
    /// Schema and name of the table.
    pub table: (String, String),
    /// The column, and the path inside of its JSON.
    pub path: Path,
    /// How it is used.
    pub how: Use,
    /// The rule's place.
    pub place: String,
}

/// A constant of a list, `{4,8}`, that a key is made with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    /// Schema and name of the table.
    pub table: (String, String),
    /// The constant.
    pub text: String,
    /// The key as written.
    pub key: String,
    /// The rule's place.
    pub place: String,
}

/// A rule of which something cannot be meant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lint {
    /// No row meets the condition of the rule at this place.
    NeverTrue(String),
    /// A key (its place and text) that another (likewise) covers in every change.
    Shadowed((String, String), (String, String)),
}

impl Rules {
    /// Everything that can be said without a server, each once.
    pub fn lints(&self) -> BTreeSet<Lint> {
        let never = self.rules.iter().filter(|rule| rule.when.as_ref().is_some_and(never_holds));
        let mut lints: BTreeSet<Lint> = never.map(|rule| Lint::NeverTrue(rule.place.clone())).collect();
        for (index, template) in self.templates.iter().enumerate() {
            let mut others = self.templates.iter().enumerate().filter(|(other, _)| *other != index);
            let shadow = others
                .find(|(other, by)| self.shadows(by, template) && (*other < index || !self.shadows(template, by)));
            if let Some((_, by)) = shadow {
                let named = |template: &Template| (self.rules[template.rule].place.clone(), template.source.clone());
                let (shadowed, by) = (named(template), named(by));
                if shadowed != by {
                    lints.insert(Lint::Shadowed(shadowed, by));
                }
            }
        }
        lints
    }

    /// Whether `by` makes each key that `template` makes, in each change that does.
    fn shadows(&self, by: &Template, template: &Template) -> bool {
        let (wide, narrow) = (&self.rules[by.rule], &self.rules[template.rule]);
        let hears = |on: On, other: On| {
            (on.insert || !other.insert) && (on.update || !other.update) && (on.delete || !other.delete)
        };
        let same_question = || match (by.lookup, template.lookup) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let (a, b) = (&self.lookups[a.0 as usize], &self.lookups[b.0 as usize]);
                (&a.sql, &a.columns) == (&b.sql, &b.columns) && self.arguments_of(by) == self.arguments_of(template)
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        !narrow.tables.is_empty()
            && narrow.tables.iter().all(|table| wide.tables.contains(table))
            && hears(wide.on, narrow.on)
            && (wide.when.is_none() || wide.when == narrow.when)
            && (wide.changed.is_none() || wide.changed == narrow.changed)
            && wide.ignore.iter().all(|column| narrow.ignore.contains(column))
            && (covers_all(by, template) || (by.parts == template.parts && same_question()))
    }

    /// Every value of the changed rows that rules read, with how; each once.
    pub fn reads(&self) -> BTreeSet<Reads> {
        let mut out = BTreeSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let mut values: Vec<(Path, Use)> = Vec::new();
            for template in self.templates.iter().filter(|template| template.rule == index) {
                values.extend(template.parts.iter().filter_map(value_of));
                values.extend(self.arguments_of(template).iter().map(|path| (path.clone(), Use::Plainly)));
            }
            rule.changed.iter().flatten().for_each(|path| values.push((path.clone(), Use::Plainly)));
            rule.when.iter().for_each(|when| compared(when, &mut values));
            for (path, how) in values {
                out.extend(self.of_each_table(rule, &path, &how));
            }
        }
        out
    }

    /// Every constant of the lists in keys, each once: one that is also a column may have been meant as that.
    pub fn constants(&self) -> BTreeSet<Listed> {
        let mut out = BTreeSet::new();
        for template in &self.templates {
            let rule = &self.rules[template.rule];
            for piece in template::pieces(&template.source).into_iter().flatten() {
                let Piece::Choice(constants) = piece else { continue };
                for (table, text) in
                    rule.tables.iter().flat_map(|table| constants.iter().map(move |text| (table, text)))
                {
                    let (schema, name) = self.name_of(*table);
                    let table = (schema.to_owned(), name.to_owned());
                    let (key, place) = (template.source.clone(), rule.place.clone());
                    out.insert(Listed { table, text: text.clone(), key, place });
                }
            }
        }
        out
    }

    /// The arguments of a lookup, in order, for each table whose rows ask it.
    pub fn asked_with(&self, lookup: crate::question::LookupId) -> impl Iterator<Item = Vec<((String, String), Path)>> {
        let askers = self.templates.iter().filter(move |template| template.lookup == Some(lookup));
        let tables: BTreeSet<_> = askers.flat_map(|template| &self.rules[template.rule].tables).collect();
        tables.into_iter().map(move |table| {
            let (schema, name) = self.name_of(*table);
            let paths = self.arguments.get(lookup.0 as usize).into_iter().flatten();
            paths.map(|path| ((schema.to_owned(), name.to_owned()), path.clone())).collect()
        })
    }

    pub(super) fn of_each_table(&self, rule: &Rule, path: &Path, how: &Use) -> Vec<Reads> {
        let read = |table: &crate::rules::ruleset::TableId| {
            let (schema, name) = self.name_of(*table);
            let table = (schema.to_owned(), name.to_owned());
            Reads { table, path: path.clone(), how: how.clone(), place: rule.place.clone() }
        };
        rule.tables.iter().map(read).collect()
    }
}

fn value_of(part: &KeyPart) -> Option<(Path, Use)> {
    let KeyPart::Column(column, reading) = part else { return None };
    let dated = reading.filters.first().is_some_and(|filter| matches!(filter, Filter::Year | Filter::Month));
    let path = Path { column: column.clone(), inside: reading.path.clone() };
    Some((path, if dated { Use::Dated } else { Use::Plainly }))
}

/// Every value of a condition; those beside a text, with it.
fn compared(condition: &Condition<Path>, out: &mut Vec<(Path, Use)>) {
    match condition {
        Condition::And(all) | Condition::Or(all) => all.iter().for_each(|each| compared(each, out)),
        Condition::Not(inner) => compared(inner, out),
        Condition::Compare(path, _, Right::Constant(Constant::Text(text))) => {
            out.push((path.clone(), Use::ComparedWith(String::from_utf8_lossy(text).into_owned())));
        }
        Condition::Compare(..)
        | Condition::Like(..)
        | Condition::IsNull(_)
        | Condition::Holds(_)
        | Condition::Constant(_) => condition.visit(&mut |path| out.push((path.clone(), Use::Plainly))),
    }
}

/// Whether a template is a text and a `*` under which every key of the other lies.
fn covers_all(by: &Template, template: &Template) -> bool {
    match (by.parts.as_slice(), template.parts.first()) {
        ([KeyPart::Literal(begins), KeyPart::Star], Some(KeyPart::Literal(literal))) => literal.starts_with(begins),
        _ => false,
    }
}

/// What one value of a condition is tried with.
struct Tried {
    path: Path,
    kind: Kind,
    /// `None` is NULL; no list at all: it could be anything.
    texts: Option<Vec<Option<Vec<u8>>>>,
}

/// Whether no values make the condition true. Each value is tried with every constant that it is compared with, with
/// NULL, and with something between and beside them.
fn never_holds(condition: &Condition<Path>) -> bool {
    let mut paths = BTreeSet::new();
    condition.visit(&mut |path| _ = paths.insert(path.clone()));
    let tried: Vec<Tried> = paths.into_iter().map(|path| tried(condition, path)).collect();
    let counts = tried.iter().map(|tried| tried.texts.as_ref().map_or(1, Vec::len));
    let choices = counts.fold(1_usize, |product, count| product.saturating_mul(count));
    choices <= CHOICES_MAX && (0..choices).all(|choice| !may_hold(condition, &tried, choice))
}

fn may_hold(condition: &Condition<Path>, tried: &[Tried], mut choice: usize) -> bool {
    let mut values = Vec::with_capacity(tried.len());
    for Tried { path, kind, texts } in tried {
        let value = match texts {
            None => Value::Unknown,
            Some(texts) => {
                let text = &texts[choice % texts.len()];
                choice /= texts.len();
                text.as_deref().map_or(Value::Null, Value::Text)
            }
        };
        values.push((path, value, *kind));
    }
    let read = |path: &Path| {
        let found = values.iter().find(|(known, _, _)| *known == path);
        found.map_or((Value::Unknown, Kind::Other), |(_, value, kind)| (*value, *kind))
    };
    condition.possible(&read).may_hold()
}

fn tried(condition: &Condition<Path>, path: Path) -> Tried {
    let (mut texts, mut numbers, mut booleans, mut open) = (Vec::new(), Vec::new(), false, false);
    constants(condition, &path, &mut |comparison, constant| match (comparison, constant) {
        (Some(Comparison::Equal | Comparison::Unequal), Some(Constant::Text(text))) => texts.push(text.clone()),
        (Some(_), Some(Constant::Number(text))) => numbers.push(text.clone()),
        (_, Some(Constant::Boolean(_))) => booleans = true,
        (None, None) => {}
        (Some(_) | None, _) => open = true,
    });
    let (kind, mut texts) = match (texts.is_empty(), numbers.is_empty(), booleans) {
        (true, true, _) => (Kind::Boolean, vec![b"t".to_vec(), b"f".to_vec()]),
        (false, true, false) => {
            texts.push(texts.concat());
            texts.push([texts.concat(), b"?".to_vec()].concat());
            (Kind::Text, texts)
        }
        (true, false, false) => (Kind::Number, around(numbers)),
        (..) => {
            open = true;
            (Kind::Other, Vec::new())
        }
    };
    texts.sort_unstable();
    texts.dedup();
    let texts = texts.into_iter().map(Some).chain([None]).collect();
    Tried { path, kind, texts: (!open).then_some(texts) }
}

/// The numbers, one between each two neighbors, one below and one above.
fn around(mut numbers: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    numbers.sort_by(|a, b| number::compare(a, b).unwrap_or(std::cmp::Ordering::Equal));
    let values: Vec<f64> = numbers.iter().filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok()).collect();
    let between = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    let ends = values.first().map(|least| least - 1.0).into_iter().chain(values.last().map(|most| most + 1.0));
    let others: Vec<Vec<u8>> = between.chain(ends).map(|number| number.to_string().into_bytes()).collect();
    numbers.extend(others);
    numbers
}

/// Tells how `path` is compared, and with what: no constant where it is another value or a pattern; neither for
/// `is null` and a boolean alone.
fn constants<'c>(
    condition: &'c Condition<Path>,
    path: &Path,
    tell: &mut impl FnMut(Option<Comparison>, Option<&'c Constant>),
) {
    match condition {
        Condition::And(all) | Condition::Or(all) => all.iter().for_each(|each| constants(each, path, tell)),
        Condition::Not(inner) => constants(inner, path, tell),
        Condition::Compare(left, comparison, Right::Constant(constant)) if left == path => {
            tell(Some(*comparison), Some(constant));
        }
        Condition::Compare(left, comparison, Right::Value(right)) if left == path || right == path => {
            tell(Some(*comparison), None);
        }
        Condition::Like(value, _) if value == path => tell(Some(Comparison::Equal), None),
        Condition::Compare(..)
        | Condition::Like(..)
        | Condition::IsNull(_)
        | Condition::Holds(_)
        | Condition::Constant(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn conditions_that_no_row_meets_are_found_and_others_are_not() {
        let rule = |when: &str| rules_of(&format!("[[rules]]\ntable = 't'\nkeys = ['k']\nwhen = \"{when}\"\n"));
        for (when, never) in [
            ("false", true),
            ("a = 'x' and a = 'y'", true),
            ("a = 'x' and not a = 'x'", true),
            ("a = 'x' and a is null", true),
            ("a in ('x', 'y') and a in ('z')", true),
            ("n > 3 and n < 2", true),
            ("n = 1 and n != 1.0", true),
            ("b and not b", true),
            ("a = 'x' and (b = 'y' and b = 'z' or a = 'w')", true),
            ("a = 'x' and a != 'y'", false),
            ("a != 'x' and a != 'y'", false),
            ("a = 'x' or a = 'y'", false),
            ("n > 2 and n < 3", false),
            ("n >= 3 and n <= 3", false),
            ("n > 3", false),
            ("a is null and b is null", false),
            ("a like 'x%' and a = 'y'", false),
            ("a = b and a = 'x'", false),
            ("j.a = 'x' and j.b = 'y'", false),
            ("b", false),
            ("true", false),
        ] {
            assert_eq!(rule(when).lints().len(), usize::from(never), "{when}");
        }
    }

    #[test]
    fn keys_that_another_rule_makes_anyway_are_found() {
        let o = "lookup.o = { sql = 'select c, $1', args = ['x'] }";
        let cases = [
            (vec!["keys = ['a:{x}']", "keys = ['a:{x}']"], vec!["rules.toml:4 a:{x} by rules.toml:1 a:{x}"]),
            (
                vec!["keys = ['a:{x}']\nwhen = 'b'", "keys = ['a:{x}']"],
                vec!["rules.toml:1 a:{x} by rules.toml:5 a:{x}"],
            ),
            (vec!["keys = ['a:*']", "keys = ['a:{x}', 'b']"], vec!["rules.toml:4 a:{x} by rules.toml:1 a:*"]),
            (vec!["keys = ['a:{x}']\non = ['insert']", "keys = ['a:{x}']\non = ['update']"], vec![]),
            (vec!["keys = ['a:{x}']\nignore = ['v']", "keys = ['a:{x}']\nchanged = ['w']"], vec![]),
            (vec!["keys = ['a:{x}']", "keys = ['a:{y}', 'a:{x}:b']"], vec![]),
        ];
        for (rules, expected) in cases {
            let text: String = rules.iter().map(|more| format!("[[rules]]\ntable = 't'\n{more}\n")).collect();
            let found: Vec<String> = rules_of(&text).lints().into_iter().map(|lint| shown(&lint)).collect();
            assert_eq!(found, expected, "{text}");
        }
        let looked = format!("[[rules]]\ntable = 't'\nkeys = ['a:{{o.c}}']\n{o}\n");
        assert_eq!(rules_of(&looked.repeat(2)).lints().len(), 1);
        assert_eq!(rules_of(&format!("{looked}{}", looked.replace("$1", "$1 + 0"))).lints().len(), 0);
    }

    fn shown(lint: &Lint) -> String {
        match lint {
            Lint::NeverTrue(place) => format!("{place} never"),
            Lint::Shadowed((place, key), (other, by)) => format!("{place} {key} by {other} {by}"),
        }
    }

    #[test]
    fn constants_of_lists_are_listed_for_each_table() {
        let rules =
            rules_of("[[rules]]\ntable = ['t', 'u']\nkeys = ['a:{4,id}:{city}', 'b:{x}']\ncompanions = [':m']\n");
        let found: Vec<String> = rules
            .constants()
            .into_iter()
            .map(|listed| format!("{} {} {} {}", listed.table.1, listed.text, listed.key, listed.place))
            .collect();
        let said = |table: &str, text: &str| format!("{table} {text} a:{{4,id}}:{{city}} rules.toml:1");
        assert_eq!(found, [said("t", "4"), said("t", "id"), said("u", "4"), said("u", "id")]);
    }

    #[test]
    fn what_rules_read_is_listed_with_how() {
        let rules = rules_of(
            "[[rules]]\ntable = 't'\nwhen = \"s in ('x') and n > 1\"\nkeys = ['a:{j.p|lower}:{d|year}']\nchanged = ['c']\n",
        );
        let found: Vec<String> = rules
            .reads()
            .into_iter()
            .map(|reads| format!("{}{}={:?}", reads.path.column, reads.path.inside.concat(), reads.how))
            .collect();
        assert_eq!(found, ["c=Plainly", "d=Dated", "jp=Plainly", "n=Plainly", "s=ComparedWith(\"x\")"]);
    }
}
