//! Answers of lookups, kept from batch to batch until the stream brings a change of what they were read from. Pure.
//!
//! Only lookups that name their tables are kept. Invariant: an answer is never older than the transaction that it is
//! used for. A change makes the answers that depend on it old when its transaction is visible and leaves the batch, not
//! when it arrives: a question that is asked in between may still be answered without it, and that answer goes then.
//! One that is on its way at that moment is used for its own batch, and not kept. Whatever is behind the change in
//! commit order leaves the batch with it or later, and asks anew.
//!
//! The stream does not tell how tables, views and functions are defined. So known answers are used only behind a gate
//! that looked at the definitions ([`Answers::defined`]); where these are others than before, all answers go.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::control::Definitions;
use crate::gate::Snapshot;
use crate::keys::KeySet;
use crate::question::{Answer, AnswerRow, LookupId, Question};
use crate::reminder::Reminder;
use crate::rules::Rules;

/// What an entry takes besides its texts: the table's slot, the vectors, and what the allocator adds.
const ENTRY_BYTES: usize = 200;

/// A count of what was forgotten since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Moment(u64);

/// What is known of one lookup.
#[derive(Debug, Default)]
struct Known {
    answers: HashMap<Vec<Option<Vec<u8>>>, Answer>,
    bytes: usize,
    /// When it was last emptied.
    emptied: Moment,
}

/// Transactions that were open when the stream connected. Their changes may not be in the stream, because a table was not
/// published when they made them; an answer from before their end is one that no event makes old.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Past {
    /// They have ended.
    #[default]
    Over,
    /// Nobody has said yet which were.
    Unseen,
    /// These were.
    Open(Snapshot),
}

/// The answers that are known.
#[derive(Debug, Default)]
pub struct Answers {
    lookups: HashMap<LookupId, Known>,
    bytes_max: usize,
    now: Moment,
    /// When all of them were dropped.
    cleared: Moment,
    /// What all of them were read from.
    definitions: Option<Definitions>,
    /// The definitions were looked at behind the transactions that leave now.
    sure: bool,
    past: Past,
    /// What was said of those that are refused.
    pub(crate) refused: Reminder<(LookupId, String), Instant>,
}

impl Answers {
    /// Keeps as many as fit; none with zero.
    pub fn new(bytes_max: usize) -> Self {
        Answers { bytes_max, ..Answers::default() }
    }

    /// Whether any may be kept at all.
    pub fn keeps(&self) -> bool {
        self.bytes_max > 0
    }

    /// The stream connected anew: changes may have been missed.
    pub fn connected(&mut self) {
        self.clear();
        self.past = Past::Unseen;
    }

    /// What was open when the stream connected, or a moment later: a snapshot that lists every such transaction
    /// ([`Gate::elders`](crate::control::Gate::elders)).
    pub fn elders(&mut self, snapshot: Snapshot) {
        self.past = Past::Open(snapshot);
    }

    /// A snapshot of the gate: none is kept until all that was open when the stream connected has ended.
    pub fn saw(&mut self, snapshot: &Snapshot) {
        if let Past::Open(elders) = &self.past
            && elders.ended_by(snapshot)
        {
            // An answer that is on its way may be from before the end.
            (self.now.0, self.cleared.0, self.past) = (self.now.0 + 1, self.now.0 + 1, Past::Over);
        }
    }

    /// The gate is asked anew: without a look at the definitions nothing is known of what leaves behind it.
    pub fn unsure(&mut self) {
        self.sure = false;
    }

    /// The definitions behind the transactions that leave next.
    pub fn defined(&mut self, definitions: Definitions) {
        if self.definitions.as_ref() != Some(&definitions) {
            self.clear();
            self.definitions = Some(definitions);
        }
        self.sure = true;
    }

    /// What is known of a question.
    pub fn known(&self, question: &Question) -> Option<&Answer> {
        if !self.sure {
            return None;
        }
        self.lookups.get(&question.lookup)?.answers.get(&question.args)
    }

    /// To be taken before questions are asked, and given back with their answers.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Keeps what was answered to questions that were asked at `asked`, unless a change came in between.
    pub fn keep(&mut self, rules: &Rules, asked: Moment, questions: &[Question], answers: &[Answer]) {
        for (question, answer) in questions.iter().zip(answers) {
            let emptied = self.lookups.get(&question.lookup).map(|known| known.emptied);
            let brought = |definitions: &Definitions| !definitions.unkept.contains(&question.lookup);
            if let Answer::Rows(rows) = answer
                && self.past == Past::Over
                && self.definitions.as_ref().is_some_and(brought)
                && Some(asked) >= emptied.max(Some(self.cleared))
                && rules.keeps(question.lookup)
            {
                let rows = rows.iter().map(text_bytes).sum::<usize>();
                self.insert(question, answer, ENTRY_BYTES + text_bytes(&question.args) + rows);
            }
        }
    }

    /// Past the bound all go: which of them are asked again soon is not known.
    fn insert(&mut self, question: &Question, answer: &Answer, bytes: usize) {
        if self.bytes_used() + bytes > self.bytes_max {
            self.lookups.values_mut().for_each(|known| known.empty(known.emptied));
        }
        if bytes <= self.bytes_max {
            let known = self.lookups.entry(question.lookup).or_default();
            if known.answers.insert(question.args.clone(), answer.clone()).is_none() {
                known.bytes += bytes;
            }
        }
    }

    /// Drops the answers of the lookups that `forgets` names.
    pub fn forget(&mut self, forgets: &KeySet) {
        self.now.0 += 1;
        for number in forgets.iter().filter_map(|key| Some(u32::from_be_bytes(key.bytes.try_into().ok()?))) {
            self.lookups.entry(LookupId(number)).or_default().empty(self.now);
        }
    }

    /// Drops all of them: changes may have been missed, or these are another server's.
    pub fn clear(&mut self) {
        self.now.0 += 1;
        self.cleared = self.now;
        self.sure = false;
        self.lookups.clear();
    }

    /// Memory in use, in bytes.
    fn bytes_used(&self) -> usize {
        self.lookups.values().map(|known| known.bytes).sum()
    }
}

impl Known {
    fn empty(&mut self, now: Moment) {
        *self = Known { emptied: now, ..Known::default() };
    }
}

fn text_bytes(row: &AnswerRow) -> usize {
    row.iter().map(|text| size_of_val(text) + text.as_ref().map_or(0, Vec::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;
    use crate::rules::read::parse::rules_of;

    /// Answers behind a gate that looked.
    fn answers_of(bytes_max: usize) -> Answers {
        let mut answers = Answers::new(bytes_max);
        answers.defined(Definitions::default());
        answers
    }

    const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['a:{a.x}', 'b:{b.x}', 'c:{c.x}']\n\
        lookup.a = { sql = 'select x from u where $1', args = ['i'], tables = ['u'] }\n\
        lookup.b = { sql = 'select x from v where $1', args = ['i'], tables = ['v'] }\n\
        lookup.c = { sql = 'select x from w where $1', args = ['i'] }\n";

    fn question(lookup: u32, arg: &str) -> Question {
        Question { lookup: LookupId(lookup), args: vec![Some(arg.as_bytes().to_vec())] }
    }

    fn rows(text: &str) -> Answer {
        Answer::Rows(vec![vec![Some(text.as_bytes().to_vec())]])
    }

    fn forgets(lookup: u32) -> KeySet {
        let mut set = KeySet::default();
        set.insert_constant(&lookup.to_be_bytes(), FamilyId(lookup), 0);
        set
    }

    fn keep(answers: &mut Answers, asked: Moment, lookup: u32, arg: &str) {
        answers.keep(&rules_of(RULES), asked, &[question(lookup, arg)], &[rows(arg)]);
    }

    #[test]
    fn a_change_drops_the_answers_of_its_lookups_and_those_that_were_on_their_way() {
        let mut answers = answers_of(1 << 20);
        let asked = answers.now();
        keep(&mut answers, asked, 0, "1");
        keep(&mut answers, asked, 1, "1");
        assert_eq!(answers.known(&question(0, "1")), Some(&rows("1")));
        assert_eq!(answers.known(&question(0, "2")), None);
        answers.forget(&forgets(0));
        assert_eq!(answers.known(&question(0, "1")), None);
        assert_eq!(answers.known(&question(1, "1")), Some(&rows("1")), "it depends on another table");
        keep(&mut answers, asked, 0, "1");
        keep(&mut answers, asked, 1, "2");
        assert_eq!(answers.known(&question(0, "1")), None, "asked before the change left");
        assert!(answers.known(&question(1, "2")).is_some());
        let asked = answers.now();
        keep(&mut answers, asked, 0, "1");
        assert!(answers.known(&question(0, "1")).is_some());
        answers.clear();
        answers.defined(Definitions::default());
        keep(&mut answers, asked, 1, "1");
        assert_eq!((answers.known(&question(1, "1")), answers.bytes_used()), (None, 0));
    }

    #[test]
    fn answers_stand_for_the_definitions_that_they_were_read_from() {
        let mut answers = Answers::new(1 << 20);
        let defined = |digest: &str, unkept: &[u32]| Definitions {
            digest: digest.to_owned(),
            unkept: unkept.iter().copied().map(LookupId).collect(),
        };
        let asked = answers.now();
        keep(&mut answers, asked, 0, "1");
        assert_eq!(answers.bytes_used(), 0, "nobody knows what it was read from");
        answers.defined(defined("a", &[1]));
        let asked = answers.now();
        keep(&mut answers, asked, 0, "1");
        keep(&mut answers, asked, 1, "1");
        assert!(answers.known(&question(0, "1")).is_some());
        assert_eq!(answers.known(&question(1, "1")), None, "the stream does not bring all that it reads");
        answers.unsure();
        assert_eq!(answers.known(&question(0, "1")), None, "nobody looked behind this gate");
        answers.defined(defined("a", &[1]));
        assert!(answers.known(&question(0, "1")).is_some());
        let asked = answers.now();
        answers.defined(defined("b", &[]));
        keep(&mut answers, asked, 0, "1");
        assert_eq!(answers.known(&question(0, "1")), None, "asked before the look");
        let asked = answers.now();
        keep(&mut answers, asked, 1, "1");
        assert!(answers.known(&question(1, "1")).is_some());
    }

    #[test]
    fn what_is_refused_or_names_no_table_is_not_kept() {
        let mut answers = answers_of(1 << 20);
        let asked = answers.now();
        keep(&mut answers, asked, 2, "1");
        answers.keep(&rules_of(RULES), asked, &[question(0, "1")], &[Answer::Refused("no".into())]);
        assert_eq!((answers.known(&question(2, "1")), answers.known(&question(0, "1"))), (None, None));
    }

    #[test]
    fn they_take_no_more_than_their_bound() {
        let mut answers = answers_of(2_000);
        let asked = answers.now();
        for number in 0..1_000 {
            let arg = number.to_string();
            keep(&mut answers, asked, number % 2, &arg);
            assert!(answers.known(&question(number % 2, &arg)).is_some());
            assert!(answers.bytes_used() <= 2_000);
        }
        keep(&mut answers, asked, 0, &"x".repeat(2_000));
        assert!(answers.bytes_used() <= 2_000, "one that is larger than all may be");
        let mut none = answers_of(0);
        let asked = none.now();
        keep(&mut none, asked, 0, "1");
        assert_eq!(none.known(&question(0, "1")), None);
    }

    #[test]
    fn none_is_kept_while_a_transaction_from_before_the_connection_is_open() {
        let snapshot = |xmax, open: &[u32]| Snapshot::Taken { xmax, in_progress: open.to_vec() };
        let mut answers = answers_of(1 << 20);
        keep_now(&mut answers, "0");
        answers.connected();
        answers.defined(Definitions::default());
        assert_eq!(answers.known(&question(0, "0")), None, "changes may have been missed");
        answers.saw(&snapshot(9, &[]));
        keep_now(&mut answers, "1");
        assert_eq!(answers.known(&question(0, "1")), None, "the gate's snapshot lists not all that are open");
        answers.elders(snapshot(9, &[5, 7]));
        for (seen, is_kept) in [
            (snapshot(9, &[5, 7]), false),
            (snapshot(10, &[7]), false),
            // One that began later may be open: its changes are in the stream.
            (snapshot(12, &[11]), true),
            (snapshot(20, &[11, 19]), true),
        ] {
            answers.saw(&seen);
            keep_now(&mut answers, "1");
            assert_eq!(answers.known(&question(0, "1")).is_some(), is_kept, "{seen:?}");
        }
        answers.connected();
        answers.defined(Definitions::default());
        answers.elders(snapshot(30, &[]));
        answers.saw(&snapshot(30, &[]));
        keep_now(&mut answers, "1");
        assert!(answers.known(&question(0, "1")).is_some(), "nothing was open");
    }

    #[test]
    fn an_answer_that_was_asked_before_the_end_of_such_a_transaction_is_not_kept() {
        let mut answers = answers_of(1 << 20);
        answers.connected();
        answers.defined(Definitions::default());
        answers.elders(Snapshot::Taken { xmax: 9, in_progress: vec![5] });
        let asked = answers.now();
        answers.saw(&Snapshot::Taken { xmax: 9, in_progress: vec![] });
        keep(&mut answers, asked, 0, "1");
        assert_eq!(answers.known(&question(0, "1")), None);
    }

    fn keep_now(answers: &mut Answers, arg: &str) {
        let asked = answers.now();
        keep(answers, asked, 0, arg);
    }
}
