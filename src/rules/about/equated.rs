//! Columns that conditions compare with `=` or `!=` to a constant: what `check` holds against the CHECK constraints.

use std::collections::BTreeSet;

use crate::rules::about::lint::{Reads, Use};
use crate::rules::ruleset::Rules;
use crate::rules::value::condition::{Comparison, Condition, Constant, Right};
use crate::rules::value::path::Path;

/// How a constant is compared with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sense {
    /// `=`, or one of a list.
    Is,
    /// `!=`
    IsNot,
}

/// A column that is compared with a constant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Equated {
    /// Schema and name of the table.
    pub table: (String, String),
    /// The column.
    pub column: String,
    /// The constant, as text.
    pub text: String,
    /// It is a number, which compares by its value.
    pub number: bool,
    /// How it is compared.
    pub sense: Sense,
    /// The rule's place.
    pub place: String,
}

impl Rules {
    /// Every column that a condition compares so, each once. What lies inside of JSON is no column.
    pub fn equated(&self) -> BTreeSet<Equated> {
        let mut out = BTreeSet::new();
        for rule in &self.rules {
            let mut found = Vec::new();
            rule.when.iter().for_each(|when| collect(when, &mut found));
            for Found { path, text, number, sense } in found {
                out.extend(self.of_each_table(rule, path, &Use::Plainly).into_iter().map(|reads| {
                    let Reads { table, path, place, .. } = reads;
                    Equated { table, column: path.column, text: text.clone(), number, sense, place }
                }));
            }
        }
        out
    }
}

/// One comparison of a condition.
struct Found<'c> {
    path: &'c Path,
    text: String,
    number: bool,
    sense: Sense,
}

fn collect<'c>(condition: &'c Condition<Path>, out: &mut Vec<Found<'c>>) {
    match condition {
        Condition::And(all) | Condition::Or(all) => all.iter().for_each(|each| collect(each, out)),
        Condition::Not(inner) => {
            let mut within = Vec::new();
            collect(inner, &mut within);
            out.extend(within.into_iter().map(|found| Found { sense: turned(found.sense), ..found }));
        }
        Condition::Compare(path, comparison, Right::Constant(constant)) if path.inside.is_empty() => {
            let sense = match comparison {
                Comparison::Equal => Sense::Is,
                Comparison::Unequal => Sense::IsNot,
                Comparison::Less | Comparison::AtMost | Comparison::Greater | Comparison::AtLeast => return,
            };
            let text = match constant {
                Constant::Text(text) | Constant::Number(text) => String::from_utf8_lossy(text).into_owned(),
                Constant::Boolean(truth) => truth.to_string(),
            };
            let number = matches!(constant, Constant::Number(_));
            out.push(Found { path, text, number, sense });
        }
        Condition::Compare(..)
        | Condition::Like(..)
        | Condition::IsNull(_)
        | Condition::Holds(_)
        | Condition::Constant(_) => {}
    }
}

fn turned(sense: Sense) -> Sense {
    match sense {
        Sense::Is => Sense::IsNot,
        Sense::IsNot => Sense::Is,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn equal_and_unequal_constants_of_columns_are_collected_and_nothing_else() {
        for (when, expected) in [
            ("a = 'x'", vec![("a", "x", Sense::Is)]),
            ("n in (1, 2)", vec![("n", "1", Sense::Is), ("n", "2", Sense::Is)]),
            ("not (a = 'x' or b != 'y')", vec![("a", "x", Sense::IsNot), ("b", "y", Sense::Is)]),
            ("a not in ('x')", vec![("a", "x", Sense::IsNot)]),
            ("j.a = 'x' or n > 3 or a like 'x%' or a = b or a is null", vec![]),
        ] {
            let rules = rules_of(&format!("[[rules]]\ntable = 't'\nkeys = ['k']\nwhen = \"{when}\"\n"));
            let found = rules.equated();
            let found: Vec<_> = found.iter().map(|e| (e.column.as_str(), e.text.as_str(), e.sense)).collect();
            assert_eq!(found, expected, "{when}");
        }
    }
}
