//! How often each warning and error was said, by its id: a fixed array of counters.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::ids::{LIST, Level};
use crate::observe::line::Line;

/// The counters, in the order of [`LIST`].
#[derive(Debug)]
pub struct Warned([AtomicU64; LIST.len()]);

impl Default for Warned {
    fn default() -> Self {
        Warned(std::array::from_fn(|_| AtomicU64::default()))
    }
}

impl Warned {
    /// A line was said.
    pub fn count(&self, line: Line) {
        if line.level != Level::Info
            && let Some(count) = self.0.get(line.id as usize)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The name of each id that is a warning or an error, and how often it was said.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = LIST.iter().zip(&self.0).filter(|(entry, _)| entry.level != Level::Info);
        counts.map(|(entry, count)| (entry.name, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Id;

    #[test]
    fn warnings_are_counted_by_id_and_other_lines_are_not() {
        let warned = Warned::default();
        warned.count(Line::from(Id::SlotBehind));
        warned.count(Id::CacheFailing.lasting());
        warned.count(Line::from(Id::CacheFailing));
        warned.count(Line::from(Id::Starts));
        let said: Vec<_> = warned.each().filter(|(_, count)| *count > 0).collect();
        assert_eq!(said.iter().map(|(_, count)| count).sum::<u64>(), 3);
        assert!(said.contains(&("cache.failing", 2)), "{said:?}");
        assert!(LIST.iter().enumerate().all(|(index, entry)| entry.id as usize == index));
    }
}
