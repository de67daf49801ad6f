//! The lines of single deletes at `debug`, in the shape that readers of logs of caches know: `[CACHE] DEL | key | 3ms`.

use std::collections::BTreeMap;

use crate::desk::words::{DeskAnswer, TailReader, ToldKey};
use crate::observe::board::{Board, ENTRIES_MAX};
use crate::shown::shown;

/// What was said so far.
#[derive(Debug, Default)]
pub struct DeletesSaid {
    reader: TailReader,
    /// Keys of changes that may yet be deleted somewhere.
    keys: BTreeMap<u64, Vec<ToldKey>>,
}

impl DeletesSaid {
    /// What was deleted since, each key in each cache: the cache, and the line.
    pub fn lines(&mut self, board: &Board) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for answer in self.reader.read(&board.behind(self.reader.turn())) {
            match answer {
                DeskAnswer::Change(change) => {
                    self.keys.insert(change.number, change.keys);
                    if self.keys.len() > ENTRIES_MAX {
                        self.keys.pop_first();
                    }
                }
                DeskAnswer::Gone { number, cache, after_ms } => {
                    for named in self.keys.get(&number).into_iter().flatten() {
                        let line = format!("[CACHE] DEL | {} | {after_ms}ms", shown(named.key.as_bytes()));
                        lines.push((cache.clone(), line));
                    }
                }
                DeskAnswer::LeftOut { .. }
                | DeskAnswer::Refused { .. }
                | DeskAnswer::Status { .. }
                | DeskAnswer::Begins { .. }
                | DeskAnswer::Sweeps { .. }
                | DeskAnswer::Progress { .. }
                | DeskAnswer::Swept { .. }
                | DeskAnswer::Done => {}
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::observe::news::News;
    use crate::observe::trail::{NamedKey, Traced};

    #[test]
    fn each_key_of_a_change_is_a_line_for_each_cache_that_has_deleted_it() {
        let (board, mut deletes) = (Board::default(), DeletesSaid::default());
        let named = |key: &str| NamedKey { rule: "crieur.toml:1".into(), key: key.to_owned(), is_pattern: false };
        let changed = Traced {
            number: 1,
            table: "public.properties".into(),
            operation: "update",
            keys: vec![named("properties:detail:123"), named("odd\nkey")],
            more: 0,
            left_out: 0,
            committed: SystemTime::UNIX_EPOCH,
        };
        board.news(&News::Changed(Arc::new(changed)), SystemTime::UNIX_EPOCH);
        assert_eq!(deletes.lines(&board), []);
        board.news(&News::Gone("main".into(), 1), SystemTime::UNIX_EPOCH + Duration::from_millis(3));
        let line = |text: &str| ("main".to_owned(), text.to_owned());
        assert_eq!(
            deletes.lines(&board),
            [line("[CACHE] DEL | properties:detail:123 | 3ms"), line("[CACHE] DEL | \"odd\\nkey\" | 3ms")]
        );
        assert_eq!(deletes.lines(&board), []);
    }
}
