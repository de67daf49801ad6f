//! Why the keys of whole templates go: carried beside them, so that the log can say what a sweep is for. Pure.

/// What made a change, or the want of one, ask for whole templates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A table was emptied. In outbox mode also a change that a trigger could not capture, which arrives as the same.
    Emptied,
    /// A table was altered or dropped.
    Ddl,
    /// Rows of a table that the catalog no longer knows: it may have been a partition of any table.
    Unknown,
    /// A logical message, or a row of the outbox, that was not understood.
    Unreadable,
    /// The application asked for it.
    Asked,
    /// A value that a key needs was not in the stream.
    Widened,
    /// The server refused a lookup.
    Refused,
    /// Single keys would have taken too much memory, or too many patterns.
    Collapsed,
    /// The cache may have missed changes: a gap, or what is deleted again behind its mark.
    Missed,
    /// Changes of the table do not come, or not all of them.
    Untold,
    /// A person ordered it.
    Ordered,
}

impl Cause {
    const ALL: [(Cause, &str, &str); 11] = [
        (Cause::Missed, "missed", "the cache may have missed changes"),
        (Cause::Untold, "untold", "changes do not all come"),
        (Cause::Emptied, "truncate", "TRUNCATE"),
        (Cause::Ddl, "ddl", "DDL"),
        (Cause::Unknown, "unknown_table", "a table that the catalog no longer knows, perhaps a partition"),
        (Cause::Unreadable, "unreadable", "a message that was not understood"),
        (Cause::Asked, "asked", "crieur.invalidate"),
        (Cause::Ordered, "ordered", "crieur sweep"),
        (Cause::Widened, "widened", "a value was not in the stream"),
        (Cause::Refused, "lookup_refused", "the server refused a lookup"),
        (Cause::Collapsed, "collapsed", "too many keys or patterns to hold them singly"),
    ];

    #[inline]
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of causes; what is merged has those of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Causes(u16);

impl Causes {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, cause: Cause) {
        self.0 |= cause.bit();
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: Causes) {
        self.0 |= other.0;
    }

    /// Whether `cause` is among them.
    pub fn has(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// For the log, the gravest first. `emptied` is what the source calls [`Cause::Emptied`]: what triggers cannot capture
    /// arrives as an emptied table too.
    pub fn words(self, emptied: &str) -> String {
        let word = |(cause, _, word)| if cause == Cause::Emptied { emptied } else { word };
        let said: Vec<&str> = Cause::ALL.into_iter().filter(|(cause, _, _)| self.has(*cause)).map(word).collect();
        said.join("; ")
    }
}

/// How many sweeps there were for each cause. One that has several counts for each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CauseCounts([u64; Cause::ALL.len() + 2]);

impl CauseCounts {
    /// Beside the causes: patterns that a rule or a transaction names itself, and the echo of a sweep.
    const OTHERS: [&str; 2] = ["pattern", "echo"];

    /// A sweep for these causes.
    pub fn add(&mut self, causes: Causes) {
        if causes == Causes::default() {
            self.0[Cause::ALL.len()] += 1;
        }
        for (count, (cause, _, _)) in self.0.iter_mut().zip(Cause::ALL) {
            *count += u64::from(causes.has(cause));
        }
    }

    /// A sweep that only did once more what another had done.
    pub fn add_echo(&mut self) {
        self.0[Cause::ALL.len() + 1] += 1;
    }

    /// Of two parts of one cache together.
    #[must_use]
    pub fn and(self, other: CauseCounts) -> CauseCounts {
        CauseCounts(std::array::from_fn(|index| self.0[index] + other.0[index]))
    }

    /// Each cause by its short name, with its sweeps.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Cause::ALL.map(|(_, label, _)| label).into_iter().chain(CauseCounts::OTHERS).zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_add_up_and_each_has_its_own_word() {
        let mut all = Causes::default();
        assert_eq!(all.words("TRUNCATE"), "");
        for (cause, _, word) in Cause::ALL {
            assert!(!all.has(cause), "{cause:?} shares its bit");
            let mut one = Causes::default();
            one.add(cause);
            assert_eq!(one.words("TRUNCATE"), word);
            all.merge(one);
        }
        assert_eq!(all.words("TRUNCATE").split("; ").count(), Cause::ALL.len());
        assert_ne!(
            all.words("TRUNCATE, or another change"),
            all.words("TRUNCATE"),
            "a trigger's sweep is not always a TRUNCATE"
        );
    }

    #[test]
    fn a_sweep_counts_for_each_of_its_causes() {
        let mut counts = CauseCounts::default();
        let mut both = Causes::default();
        both.add(Cause::Missed);
        both.add(Cause::Collapsed);
        counts.add(both);
        counts.add(Causes::default());
        counts.add_echo();
        let counted: Vec<_> = counts.and(counts).each().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("missed", 2), ("collapsed", 2), ("pattern", 2), ("echo", 2)]);
        assert_eq!(counts.each().count(), Cause::ALL.len() + 2);
    }
}
