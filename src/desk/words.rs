//! What is asked and answered at the control socket: one line of JSON asks, and each line behind it is an answer. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::Exit;
use crate::observe::board::{ENTRIES_MAX, Posted};

/// Bytes of a question.
pub const QUESTION_BYTES_MAX: usize = 8 * 1024;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum DeskQuestion {
    /// How the daemon is: one answer.
    Status,
    /// Changes as they come: answers until one of the two ends.
    Tail,
    /// Delete every key that matches: answers until that is done.
    Sweep {
        /// A key, a Redis glob, or a template of the rules.
        what: String,
        /// The cache; without it every one.
        #[serde(default)]
        cache: Option<String>,
    },
}

/// A key that a rule named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ToldKey {
    /// Where the rule stands.
    pub rule: String,
    /// The key, or the pattern.
    pub key: String,
    /// Whether it is a pattern.
    pub is_pattern: bool,
}

/// One row change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ToldChange {
    /// Counts from 1 since the daemon started.
    pub number: u64,
    /// When it committed, in milliseconds since 1970.
    pub committed_ms: u64,
    /// Schema and name of the table.
    pub table: String,
    /// `insert`, `update`, `delete`, `truncate`.
    pub operation: String,
    /// The first of its keys.
    pub keys: Vec<ToldKey>,
    /// Keys besides.
    pub more: usize,
}

/// One answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub enum DeskAnswer {
    /// The question is not answered.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        hint: String,
        /// How a command ends with it.
        exit: u8,
    },
    /// How the daemon is.
    Status {
        /// What it shows of itself.
        status: serde_json::Value,
    },
    /// What follows is told from now on.
    Begins {
        /// The names that there are: of the caches and sinks of the daemon.
        #[serde(default)]
        caches: Vec<String>,
        /// The tables of its rules, with their schemas; none while the daemon has told of none.
        #[serde(default)]
        tables: Vec<String>,
    },
    /// A row changed.
    Change(ToldChange),
    /// The keys of a change are deleted.
    Gone {
        /// Of the change.
        number: u64,
        /// In the cache of this name.
        cache: String,
        /// So long after the commit, in milliseconds.
        after_ms: u64,
    },
    /// A sweep is owed from now on, whatever becomes of this connection.
    Sweeps {
        /// What is swept.
        patterns: Vec<String>,
        /// In which caches.
        caches: Vec<String>,
    },
    /// How far the sweep of a cache is, about.
    Progress {
        /// The cache.
        cache: String,
        /// Parts of a hundred that were seen.
        percent: u64,
        /// Keys deleted so far.
        deleted: u64,
    },
    /// A cache is swept.
    Swept {
        /// The cache.
        cache: String,
        /// Keys that the scan returned.
        scanned: u64,
        /// Keys deleted, by this sweep and by others that ran with it.
        deleted: u64,
    },
    /// All is done.
    Done,
    /// Changes that are not told: there were very many, or they were read too slowly.
    LeftOut {
        /// How many.
        changes: u64,
    },
}

impl DeskAnswer {
    /// A question that is not answered.
    pub fn refused(why: &str, hint: &str, exit: Exit) -> DeskAnswer {
        DeskAnswer::Refused { why: why.to_owned(), hint: hint.to_owned(), exit: exit as u8 }
    }
}

/// What is said to somebody else.
pub const NOT_ALLOWED: (&str, &str, Exit) = (
    "this user may not ask the daemon",
    "Run the command as root, as the daemon's user, or as a member of the daemon's group.",
    Exit::NoPermission,
);

/// What is said when there are too many.
pub const BUSY: (&str, &str, Exit) =
    ("too many commands ask the daemon at once", "End some of them, and try again.", Exit::Unavailable);

/// What is said when the loop no longer tells what becomes of a sweep.
pub const UNTOLD: (&str, &str, Exit) = (
    "the daemon stops, began anew with other rules, or met another cache before the sweep was done",
    "Run the command again when `crieur status` says that the daemon works.",
    Exit::Unavailable,
);

/// How far a reader of the board is.
#[derive(Clone, Debug, Default)]
pub struct TailReader {
    /// The turn behind which it reads.
    turn: u64,
    /// The last change that was told.
    number: u64,
    /// The last change that is not to be told: it came before the reader.
    before: u64,
    /// In how many caches each change was told to be gone.
    gone: BTreeMap<u64, usize>,
}

impl TailReader {
    /// A reader that begins behind what is there now.
    pub fn begin(turn: u64, there: &[Posted]) -> TailReader {
        let before = there.iter().map(|posted| posted.changed.number).max().unwrap_or(0);
        TailReader { turn, number: before, before, gone: BTreeMap::new() }
    }

    /// Behind which turn it reads next.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// What these entries tell it: those of the board behind its turn.
    pub fn read(&mut self, posts: &[Posted]) -> Vec<DeskAnswer> {
        let mut answers = Vec::new();
        for posted in posts {
            let changed = &posted.changed;
            if changed.number <= self.before {
                continue;
            }
            let is_new = changed.number > self.number;
            if is_new {
                // Numbers have no gaps: what is missing has left the board, or the server's other changes were too many.
                let missed = changed.number - self.number - 1;
                let changes = missed + changed.left_out;
                if changes > 0 {
                    answers.push(DeskAnswer::LeftOut { changes });
                }
                answers.push(DeskAnswer::Change(told(posted)));
                self.number = changed.number;
            }
            let gone = self.gone.entry(changed.number).or_default();
            answers.extend(posted.gone.iter().skip(*gone).map(|(cache, after)| DeskAnswer::Gone {
                number: changed.number,
                cache: cache.to_string(),
                after_ms: after.as_millis().try_into().unwrap_or(u64::MAX),
            }));
            *gone = posted.gone.len();
        }
        // The board has no older ones.
        self.gone = self.gone.split_off(&self.number.saturating_sub(ENTRIES_MAX as u64));
        self.turn = posts.iter().map(|posted| posted.turn).max().unwrap_or(0).max(self.turn);
        answers
    }
}

fn told(posted: &Posted) -> ToldChange {
    let changed = &posted.changed;
    let keys = changed.keys.iter().map(|named| ToldKey {
        rule: named.rule.to_string(),
        key: named.key.clone(),
        is_pattern: named.is_pattern,
    });
    ToldChange {
        number: changed.number,
        committed_ms: since_1970(changed.committed),
        table: changed.table.to_string(),
        operation: changed.operation.to_owned(),
        keys: keys.collect(),
        more: changed.more,
    }
}

/// In milliseconds.
fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::observe::board::Board;
    use crate::observe::news::News;
    use crate::observe::trail::Traced;

    fn post(board: &Board, number: u64, left_out: u64) {
        let changed = Traced {
            number,
            table: "public.t".into(),
            operation: "update",
            keys: Vec::new(),
            more: 0,
            left_out,
            committed: SystemTime::UNIX_EPOCH,
        };
        board.news(&News::Changed(Arc::new(changed)), SystemTime::UNIX_EPOCH);
    }

    fn shown(answers: &[DeskAnswer]) -> Vec<String> {
        let one = |answer: &DeskAnswer| match answer {
            DeskAnswer::Change(change) => format!("{}", change.number),
            DeskAnswer::Gone { number, cache, after_ms } => format!("{number} {cache} {after_ms}"),
            DeskAnswer::LeftOut { changes } => format!("-{changes}"),
            other => format!("{other:?}"),
        };
        answers.iter().map(one).collect()
    }

    #[test]
    fn a_reader_hears_each_change_and_each_delete_once_and_how_many_it_missed() {
        let board = Board::default();
        post(&board, 1, 0);
        let mut reader = TailReader::begin(board.turn(), &board.behind(0));
        let mut read = || shown(&reader.read(&board.behind(reader.turn())));
        assert_eq!(read(), [""; 0]);
        post(&board, 2, 0);
        assert_eq!(read(), ["2"]);
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        board.news(&News::Gone("main".into(), 2), at(3));
        board.news(&News::Gone("dakar".into(), 2), at(9));
        assert_eq!(read(), ["2 main 3", "2 dakar 9"], "the first change came before the reader");
        post(&board, 3, 40);
        board.news(&News::Gone("main".into(), 3), at(5));
        assert_eq!(read(), ["-40", "3", "3 main 5"]);
        board.news(&News::Gone("dakar".into(), 3), at(6));
        assert_eq!(read(), ["3 dakar 6"]);
        let missed = 100;
        (4..4 + missed + ENTRIES_MAX as u64).for_each(|number| post(&board, number, 0));
        let told = read();
        assert_eq!((told[0].as_str(), told[1].as_str(), told.len()), ("-100", "104", 1 + ENTRIES_MAX));
    }

    #[test]
    fn a_question_is_one_of_ours_and_nothing_else() {
        let read = |text: &str| serde_json::from_str::<DeskQuestion>(text).ok();
        assert_eq!(read(r#"{"ask":"tail"}"#), Some(DeskQuestion::Tail));
        for other in [r#"{"ask":"drop"}"#, r#""tail""#, "{}", "GET / HTTP/1.1", r#"{"ask":"tail"} x"#] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
