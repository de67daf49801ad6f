//! What the reading of rules gathers: the rules so far, the mistakes, and the names that rules may use.

use std::rc::Rc;

use toml::Spanned;
use toml::de::DeValue;

use crate::mistake::{Mistakes, Place, SourceFile};
use crate::rules::ruleset::{RuleTable, Rules, TableId};
use crate::rules::value::condition::Condition;
use crate::rules::value::path::Path;
use crate::tag::SinkKind;

pub(super) type Toml<'i> = Spanned<DeValue<'i>>;

/// Collects the rules of one or more files.
#[derive(Debug)]
pub struct RulesReader<'m> {
    pub(super) rules: Rules,
    pub(super) mistakes: &'m mut Mistakes,
    /// `[conditions]`, in order.
    pub(super) conditions: Vec<(String, Condition<Path>)>,
    /// `[ignore]`, in order.
    pub(super) ignored: Vec<Ignored>,
    /// Who there is to take keys and tags; `None` where nobody knows.
    pub(super) names: Option<NamesOfTargets>,
}

/// Who takes keys, and who takes tags.
#[derive(Debug, Default)]
pub struct NamesOfTargets {
    /// Names of the caches.
    pub caches: Vec<String>,
    /// Names of the sinks, each with what it is.
    pub sinks: Vec<(String, SinkKind)>,
}

/// One line of `[ignore]`.
#[derive(Debug)]
pub(super) struct Ignored {
    pub(super) table: (String, String),
    pub(super) columns: Vec<String>,
    pub(super) place: Place,
}

impl RulesReader<'_> {
    /// The table of this name, new or known.
    pub(super) fn table(&mut self, schema: String, name: String) -> TableId {
        let tables = &mut self.rules.tables;
        let known = tables.iter().position(|table| (&table.schema, &table.name) == (&schema, &name));
        TableId(known.unwrap_or_else(|| {
            let of_it = self.ignored.iter().filter(|Ignored { table: (s, n), .. }| (s, n) == (&schema, &name));
            let ignore = of_it.flat_map(|ignored| ignored.columns.iter().cloned()).collect();
            tables.push(RuleTable { schema, name, ignore });
            tables.len() - 1
        }))
    }

    pub(super) fn wrong_type(&mut self, file: &Rc<SourceFile>, value: &Toml<'_>, what: &str, wanted: &str) {
        let place = Place::File(Rc::clone(file), value.span());
        self.mistakes.error(place, format!("{what} must be {wanted}"), format!("this is {}", article(value)));
    }
}

fn article(value: &Toml<'_>) -> String {
    let name = value.get_ref().type_str();
    let vowel = name.starts_with(['a', 'i']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}
