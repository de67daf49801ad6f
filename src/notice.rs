//! What crieur's own logical messages say: the words that `sql/triggers.sql`, `sql/invalidate.sql` and the intake
//! share.
//!
//! A message is `pg_logical_emit_message(true, 'crieur', '{"kind": …}')`. It is never trusted to be well formed, since
//! any session may send one, and it is never ignored: what cannot be understood, a kind of a later version included, is
//! an error, and whoever asked must then take it as concerning everything.

use serde::Deserialize;

use crate::change::Oid;

/// The prefix of our messages; all others concern somebody else.
pub const PREFIX: &str = "crieur";

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// DDL touched these tables: their values may be others without a row change.
    Ddl {
        /// The altered tables, and the topmost tables that they are partitions of.
        tables: Vec<Touched>,
    },
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
}

impl Touched {
    /// The table's identifier, as relation messages announce it.
    pub fn oid(&self) -> Oid {
        Oid(self.oid)
    }
}

impl Notice {
    /// Reads the content of a message; `None` when it cannot be understood.
    pub fn parse(content: &[u8]) -> Option<Notice> {
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
    fn what_is_not_exactly_a_known_message_is_not_understood() {
        let known = br#"{"kind":"ddl","tables":[{"oid":16384,"schema":"public","name":"t","later":1}],"later":1}"#;
        let Some(Notice::Ddl { tables }) = Notice::parse(known) else { panic!("a known message") };
        assert_eq!((tables[0].oid(), tables[0].schema.as_str(), tables[0].name.as_str()), (Oid(16384), "public", "t"));
        assert_eq!(Notice::parse(br#"{"kind":"invalidate_all"}"#), Some(Notice::InvalidateAll {}));
        let keys = vec!["a*".to_owned()];
        assert_eq!(
            Notice::parse(br#"{"kind":"invalidate_exact","keys":["a*"]}"#),
            Some(Notice::InvalidateExact { keys })
        );
        let long = format!("{}{{\"kind\":\"invalidate_all\"}}", " ".repeat(CONTENT_BYTES_MAX));
        assert_eq!(Notice::parse(long.as_bytes()), None);
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
            assert_eq!(Notice::parse(content), None, "{}", content.escape_ascii());
        }
    }
}
