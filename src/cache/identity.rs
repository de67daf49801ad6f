//! Who the server behind a connection says that it is, and what that says of the one before. Pure.
//!
//! INFO tells the process (`run_id`) and the history of its data (`master_replid`): they change with a restart, a
//! failover, a promotion. One of the two is better than none. A service that tells neither (Upstash, a user without the
//! right to INFO) is *nameless*: its connections prove nothing, and everything but long keys goes over one of them.

use ::redis::Value;

use crate::cache::continuity::Lineage;

/// Which data is behind a connection: one process, and one history of replication. What is not told is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity([String; 2]);

impl Identity {
    /// The process, and the history of its data.
    pub(super) fn fields(&self) -> [&str; 2] {
        self.0.each_ref().map(String::as_str)
    }
}

/// What INFO says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info(String);

impl Info {
    /// From the replies of INFO; a refusal says nothing.
    pub fn read(replies: &[Value]) -> Self {
        let text = |value: &Value| match value {
            Value::BulkString(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text.clone()),
            _ => None, // Value is foreign and non-exhaustive.
        };
        Info(replies.iter().filter_map(text).collect::<Vec<_>>().join("\r\n"))
    }

    /// The value of a line `name:value`.
    pub fn field(&self, name: &str) -> Option<&str> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim_end).filter(|value| !value.is_empty())
    }

    /// Who it is, if it says anything of that.
    pub(super) fn identity(&self) -> Option<Identity> {
        let fields = ["run_id", "master_replid"].map(|name| self.field(name).unwrap_or_default().to_owned());
        fields.iter().any(|field| !field.is_empty()).then_some(Identity(fields))
    }

    /// A replica: what is deleted there comes back, and its primary keeps it.
    pub(super) fn is_replica(&self) -> bool {
        self.field("role") == Some("slave")
    }
}

/// What a new connection says of the servers behind the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Met {
    /// The first connection, the same server as before, or one that says as little as the one before.
    Same,
    /// Another server than before.
    Another,
}

/// The server that was met last; what one connection learns holds for all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Acquaintance {
    last: Option<Option<Identity>>,
    lineage: Lineage,
}

impl Acquaintance {
    /// A new connection was made.
    pub(super) fn meet(&mut self, identity: Option<&Identity>) -> Met {
        match (self.last.replace(identity.cloned()), identity) {
            (None, _) => Met::Same,
            (Some(before), now) if before.as_ref() == now => Met::Same,
            (Some(_), _) => {
                self.lineage.another += 1;
                Met::Another
            }
        }
    }

    /// The connection that goes to a nameless server was made anew: by itself that proves nothing.
    pub(super) fn connected_to_nameless(&mut self) {
        self.lineage.unknown += 1;
    }

    /// Whether the server that was met last does not say who it is.
    pub(super) fn is_nameless(&self) -> bool {
        matches!(self.last, Some(None))
    }

    /// How often connections led elsewhere.
    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::read(&[Value::BulkString(text.as_bytes().to_vec())])
    }

    #[test]
    fn one_of_two_names_is_better_than_none() {
        let fields = |text| info(text).identity().map(|identity| identity.fields().map(str::to_owned));
        let both = Some(["a".to_owned(), "b".to_owned()]);
        assert_eq!(fields("# Server\r\nrun_id:a\r\n# Replication\r\nmaster_replid:b\r\n"), both);
        assert_eq!(fields("run_id:a\r\n"), Some(["a".to_owned(), String::new()]));
        assert_eq!(fields("master_replid:b\r\n"), Some([String::new(), "b".to_owned()]));
        assert_eq!(fields("# Server\r\nredis_version:8.2.0\r\nrun_id:\r\n"), None);
        assert_eq!(fields(""), None);
        assert!(info("role:slave\r\n").is_replica());
        assert!(!info("role:master\r\n").is_replica() && !info("").is_replica());
    }

    #[test]
    fn only_a_server_that_says_who_it_is_can_be_another() {
        let (a, b) = (info("run_id:a\r\n").identity(), info("run_id:b\r\n").identity());
        let mut known = Acquaintance::default();
        let steps = [
            (&a, Met::Same),
            (&a, Met::Same),
            (&b, Met::Another),
            (&None, Met::Another),
            (&None, Met::Same),
            (&None, Met::Same),
            (&b, Met::Another),
            (&b, Met::Same),
        ];
        for (identity, met) in steps {
            assert_eq!(known.meet(identity.as_ref()), met, "{identity:?}");
        }
        known.connected_to_nameless();
        assert_eq!(known.lineage(), Lineage { another: 3, unknown: 1 });
        assert_eq!(Acquaintance::default().meet(None), Met::Same);
    }
}
