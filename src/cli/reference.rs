//! `crieur reference`: the lists that the documentation is made from, as Markdown. Hidden from `--help`: it is for whoever
//! writes the documentation.

use crate::observe::ids::{Entry, LIST};

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum List {
    /// The ids that lines of the log carry.
    Ids,
}

/// A list as a table in Markdown.
pub fn text(list: List) -> String {
    match list {
        List::Ids => ids(),
    }
}

fn ids() -> String {
    let mut text = "| id | level | meaning | is anything stale? | what to do | ends by itself |\n".to_owned();
    text.push_str("|---|---|---|---|---|---|\n");
    for Entry { name, level, means, stale, act, ends, .. } in LIST {
        text.push_str(&format!("| `{name}` | {} | {means} | {stale} | {act} | {ends} |\n", level.shown()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_one_row_of_six_cells() {
        let text = text(List::Ids);
        assert_eq!(text.lines().count(), LIST.len() + 2);
        assert!(text.lines().all(|line| line.matches('|').count() == 7), "{text}");
        assert!(text.contains("\n| `slot.anew` | WARN | "), "{text}");
    }
}
