//! What crieur's own logical messages say: the words that the event triggers of `sql/triggers.sql` and the intake share.
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
}

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
        let unknown: [&[u8]; 7] = [
            b"",
            b"\xFF",
            b"{}",
            br#"{"kind":"invalidate","pattern":"a:*"}"#,
            br#"{"kind":"ddl"}"#,
            br#"{"kind":"ddl","tables":[{"oid":-1,"schema":"public","name":"t"}]}"#,
            br#"{"kind":"ddl","tables":[]} x"#,
        ];
        for content in unknown {
            assert_eq!(Notice::parse(content), None, "{}", content.escape_ascii());
        }
    }
}
