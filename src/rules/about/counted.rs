//! How much passed through the rules, for whoever watches: the counters of `tally.rs`, and what they are of.

use std::rc::Rc;

use crate::question::LookupId;
use crate::rules::ruleset::Rules;
use crate::rules::tally::{Labels, Tallied, Tally};

impl Rules {
    /// The counters of these rules; those of a clone are the same.
    pub(in crate::rules) fn tally(&self) -> &Rc<Tally> {
        let Rules { tables, rules, lookups, .. } = self;
        self.tally.get_or_init(|| Rc::new(Tally::of(tables.len(), rules.len(), lookups.len())))
    }

    /// A lookup was asked so many questions, and the server refused so many.
    pub fn count_questions(&self, lookup: LookupId, questions: u64, refused: u64) {
        self.tally().asked(lookup, questions, refused);
    }

    /// Whether something was counted since [`take_tally`](Rules::take_tally).
    pub fn has_tally(&self) -> bool {
        self.tally().is_news()
    }

    /// What was counted since the last time.
    pub fn take_tally(&self) -> Tallied {
        self.tally().take()
    }

    /// What the counters are of.
    pub fn labels(&self) -> Labels {
        Labels {
            digest: self.digest().to_owned(),
            tables: self.tables.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect(),
            rules: self.rules.iter().map(|rule| rule.place.clone()).collect(),
            tables_of: self.rules.iter().map(|rule| rule.tables.iter().map(|table| table.0).collect()).collect(),
            lookups: self.lookups.iter().map(|lookup| lookup.name.clone()).collect(),
        }
    }
}
