//! What crieur's own logical messages say: the words that `sql/triggers.sql`, `sql/invalidate.sql` and the intake
//! share.
//!
//! A message is `pg_logical_emit_message(true, 'crieur', '{"kind": …}')`. It is never trusted to be well formed, since
//! any session may send one, and it is never ignored: what cannot be understood, a kind of a later version included, is
//! an error, and whoever asked must then take it as concerning everything.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::change::Oid;

/// The prefix of our messages; all others concern somebody else.
pub const PREFIX: &str = "crieur";

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DdlNotice {
    /// DDL touched these tables: their values may be others without a row change.
    Ddl {
        /// The altered tables, and the topmost tables that they are partitions of.
        tables: Vec<Touched>,
        /// The snapshot in which they were looked at.
        #[serde(default)]
        snapshot: Option<String>,
    },
    /// These tables were dropped. Whether one was a partition, and of what, the server no longer knows.
    Dropped {
        /// The tables.
        tables: Vec<Touched>,
    },
    /// DDL whose trigger failed: any table may be another one.
    DdlUntold {},
    /// Keys under these Redis globs go with the transaction (`sql/invalidate.sql`).
    Invalidate {
        /// The globs.
        patterns: Vec<String>,
    },
    /// These keys go.
    InvalidateExact {
        /// The keys, byte for byte.
        keys: Vec<String>,
    },
    /// Every key that transactions may name goes: there were too many to list.
    InvalidateAll {},
}

/// Longer messages are not read: a list takes many times its length in memory. `sql/invalidate.sql` sends less.
const CONTENT_BYTES_MAX: usize = 2 << 20;

/// A table as it is called behind the DDL, or was called before it was dropped.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Touched {
    oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What readers see of it; `None` where nobody says, or every value may be another one.
    #[serde(default)]
    pub look: Option<Look>,
}

/// What readers see of a table besides its rows: while this is the same, DDL has changed no value.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Look {
    /// Hash of names, columns, types, generated columns, policies: `sql/catalog.sql` has the list.
    pub shape: String,
    /// Hashes of the labels of its enum types. A new one changes no value.
    pub labels: BTreeSet<String>,
    /// Whether other tables may hold its rows: partitions, tables that inherit.
    pub splits: bool,
    /// These tables.
    pub parts: BTreeSet<u32>,
}

impl Look {
    /// Whether values that readers saw under this look may be others under a later one.
    pub fn differs(&self, later: &Look) -> bool {
        self.shape != later.shape || self.parts != later.parts || !self.labels.is_subset(&later.labels)
    }
}

impl Touched {
    /// The table's identifier, as relation messages announce it.
    pub fn oid(&self) -> Oid {
        Oid(self.oid)
    }
}

impl DdlNotice {
    /// Reads the content of a message; `None` when it cannot be understood.
    pub fn parse(content: &[u8]) -> Option<DdlNotice> {
        if content.len() > CONTENT_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(content).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_differs_by_all_but_new_labels() {
        let look = |shape: &str, labels: &[&str], parts: &[u32]| Look {
            shape: shape.to_owned(),
            labels: labels.iter().map(|label| label.to_string()).collect(),
            splits: false,
            parts: parts.iter().copied().collect(),
        };
        let before = look("a", &["x", "y"], &[1]);
        for (later, differs) in [
            (look("a", &["y", "x"], &[1]), false),
            (look("a", &["x", "y", "z"], &[1]), false),
            (look("a", &["x", "z"], &[1]), true),
            (look("b", &["x", "y"], &[1]), true),
            (look("a", &["x", "y"], &[1, 2]), true),
            (look("a", &["x", "y"], &[]), true),
        ] {
            assert_eq!(before.differs(&later), differs, "{later:?}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_known_message_is_not_understood() {
        let known = br#"{"kind":"ddl","tables":[{"oid":16384,"schema":"public","name":"t","later":1}],"later":1}"#;
        let Some(DdlNotice::Ddl { tables, snapshot: None }) = DdlNotice::parse(known) else {
            panic!("a known message")
        };
        assert_eq!((tables[0].oid(), tables[0].schema.as_str(), tables[0].name.as_str()), (Oid(16384), "public", "t"));
        assert_eq!(DdlNotice::parse(br#"{"kind":"invalidate_all"}"#), Some(DdlNotice::InvalidateAll {}));
        assert_eq!(DdlNotice::parse(br#"{"kind": "ddl_untold"}"#), Some(DdlNotice::DdlUntold {}));
        let keys = vec!["a*".to_owned()];
        assert_eq!(
            DdlNotice::parse(br#"{"kind":"invalidate_exact","keys":["a*"]}"#),
            Some(DdlNotice::InvalidateExact { keys })
        );
        let long = format!("{}{{\"kind\":\"invalidate_all\"}}", " ".repeat(CONTENT_BYTES_MAX));
        assert_eq!(DdlNotice::parse(long.as_bytes()), None);
        let unknown: [&[u8]; 9] = [
            b"",
            b"\xFF",
            b"{}",
            br#"{"kind":"invalidate","pattern":"a:*"}"#,
            br#"{"kind":"ddl"}"#,
            br#"{"kind":"invalidate_exact","keys":"a"}"#,
            br#"{"kind":"invalidate","patterns":[null]}"#,
            br#"{"kind":"ddl","tables":[{"oid":-1,"schema":"public","name":"t"}]}"#,
            br#"{"kind":"ddl","tables":[]} x"#,
        ];
        for content in unknown {
            assert_eq!(DdlNotice::parse(content), None, "{}", content.escape_ascii());
        }
    }
}
