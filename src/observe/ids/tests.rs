//! That the list is whole, and says everything in sentences.

use std::collections::BTreeSet;

use super::*;
use crate::observe::line::Line;

#[test]
fn each_id_is_in_its_place_has_a_name_of_its_own_and_says_everything_in_sentences() {
    let names: BTreeSet<&str> = LIST.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), LIST.len());
    for (index, entry) in LIST.iter().enumerate() {
        assert_eq!(entry.id as usize, index, "{}", entry.name);
        let words = entry.name.split('.').collect::<Vec<_>>();
        let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert!(words.len() == 2 && words.iter().all(is_word), "{}", entry.name);
        for text in [entry.means, entry.stale, entry.ends] {
            assert!(text.ends_with('.') && text.starts_with(|c: char| !c.is_whitespace()), "{}: {text}", entry.name);
        }
        assert!(!entry.act.is_empty(), "{}", entry.name);
        // Whoever is woken must have something to do.
        assert!(entry.level != Level::Error || entry.act != "Nothing.", "{}", entry.name);
    }
}

#[test]
fn only_what_lasts_becomes_louder() {
    for entry in LIST {
        let (first, later) = (Line::from(entry.id).level, entry.id.lasting().level);
        let expected = match entry.level {
            Level::Lasting => (Level::Warn, Level::Error),
            level => (level, level),
        };
        assert_eq!((first, later), expected, "{}", entry.name);
    }
}
