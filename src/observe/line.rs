//! One line of the log: what it is about, and how loud it is now. Pure.

use std::fmt;

use crate::observe::ids::{Id, Level};

/// An id and how loud its line is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// What the line is about.
    pub id: Id,
    /// How loud it is: never [`Level::Lasting`].
    pub level: Level,
}

impl From<Id> for Line {
    /// A line that is said at first.
    fn from(id: Id) -> Self {
        let level = match id.entry().level {
            Level::Lasting => Level::Warn,
            level => level,
        };
        Line { id, level }
    }
}

impl Id {
    /// The line of what has lasted for a minute.
    pub fn lasting(self) -> Line {
        match self.entry().level {
            Level::Lasting => Line { id: self, level: Level::Error },
            Level::Error | Level::Warn | Level::Info => self.into(),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().name)
    }
}
