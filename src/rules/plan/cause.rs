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
}

impl Cause {
    const ALL: [(Cause, &str); 10] = [
        (Cause::Missed, "the cache may have missed changes"),
        (Cause::Untold, "changes do not all come"),
        (Cause::Emptied, "TRUNCATE"),
        (Cause::Ddl, "DDL"),
        (Cause::Unknown, "a table that the catalog no longer knows, perhaps a partition"),
        (Cause::Unreadable, "a message that was not understood"),
        (Cause::Asked, "crieur.invalidate"),
        (Cause::Widened, "a value was not in the stream"),
        (Cause::Refused, "the server refused a lookup"),
        (Cause::Collapsed, "too many keys or patterns to hold them singly"),
    ];

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of causes; what is merged has those of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Causes(u16);

impl Causes {
    /// Adds one.
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
        let word = |(cause, word)| if cause == Cause::Emptied { emptied } else { word };
        let said: Vec<&str> = Cause::ALL.into_iter().filter(|(cause, _)| self.has(*cause)).map(word).collect();
        said.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_add_up_and_each_has_its_own_word() {
        let mut all = Causes::default();
        assert_eq!(all.words("TRUNCATE"), "");
        for (cause, word) in Cause::ALL {
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
}
