//! The commands of the three protocols, and what their answers mean. Pure: docs/guide/readers.md as code.

use crate::store::Reply;

/// `lua/` at the top of the repository is the source; a build of the package has a copy.
pub const TAKE: &str = include_str!("../lua/take.lua");
/// Stores if the lease in the key is still there.
pub const STORE_IN_KEY: &str = include_str!("../lua/store-in-key.lua");
/// Stores if the lease beside the key is still there.
pub const STORE_BESIDE: &str = include_str!("../lua/store-beside.lua");
/// Gives a lease back, or releases a lock.
pub const GIVE_BACK: &str = include_str!("../lua/give-back.lua");

/// How readers of a key leave nothing stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// The lease stands in the key itself, values have a `V` before them. Exact.
    #[default]
    Key,
    /// The lease stands at `lease:{K}`, values are bare. Exact with `cache.leases = "companion"` of the daemon.
    Companion,
    /// No lease. Exact only for a reader that is quicker than the daemon's last echo.
    Plain,
}

/// How a lease is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Take {
    /// By one command that is sent at most once.
    #[default]
    Once,
    /// By a script that makes another lease each time it runs, for ways that duplicate commands by themselves, and for
    /// Redis 6.
    Script,
}

/// The keys of one read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// What the rules of the daemon make.
    pub key: String,
    /// Where its lease stands.
    pub lease: String,
    /// A copy for when the source fails.
    pub grace: String,
}

/// The key of the cache: the namespace, a colon, the key.
pub fn full_key(namespace: Option<&str>, key: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}:{key}"),
        Some(_) | None => key.to_owned(),
    }
}

/// What stands in the cache.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub found: Option<Found>,
    /// A lease that stands; empty bytes where it is somebody's and nobody knows whose.
    pub lease: Option<Vec<u8>>,
}

/// What stands at the key and is no lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A value, without what tells it from a lease.
    Value(Vec<u8>),
    /// Of somebody who does not keep the protocol.
    Foreign,
}

/// What became of a take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    Ours(Vec<u8>),
    Theirs(Seen),
}

/// A command that is complete.
pub type Command = Vec<Vec<u8>>;

fn command<const N: usize>(words: [&[u8]; N]) -> Command {
    words.into_iter().map(<[u8]>::to_vec).collect()
}

impl Protocol {
    /// The keys of a read of this key.
    pub(crate) fn names(self, key: String) -> Names {
        let beside = |what: &str| format!("{what}:{{{key}}}");
        let lease = if self == Protocol::Companion { beside("lease") } else { key.clone() };
        Names { lease, grace: beside("grace"), key }
    }

    /// The keys that one look reads.
    pub(crate) fn looked_at(self, names: &Names) -> Vec<&str> {
        match self {
            Protocol::Companion => vec![&names.key, &names.lease],
            Protocol::Key | Protocol::Plain => vec![&names.key],
        }
    }

    /// What the answers of a look mean, in the order of [`Protocol::looked_at`].
    pub(crate) fn seen(self, mut answers: impl Iterator<Item = Reply>) -> Seen {
        let held = answers.next().unwrap_or(Reply::Nil);
        let lease = match answers.next() {
            Some(Reply::Bytes(lease)) => Some(lease),
            Some(_) | None => None,
        };
        match (self, held) {
            (_, Reply::Nil) => Seen { found: None, lease },
            (Protocol::Key, Reply::Bytes(bytes)) => in_key(bytes),
            (Protocol::Companion | Protocol::Plain, Reply::Bytes(bytes)) => {
                Seen { found: Some(Found::Value(bytes)), lease }
            }
            (_, Reply::Int(_) | Reply::Many(_)) => Seen { found: Some(Found::Foreign), lease },
        }
    }

    /// The take of the lease `own`; `None` where none is needed.
    pub(crate) fn take(self, take: Take, names: &Names, own: &str, milliseconds: &str) -> Option<Command> {
        let (place, own, life) = (names.lease.as_bytes(), own.as_bytes(), milliseconds.as_bytes());
        Some(match (self, take) {
            (Protocol::Plain, _) => return None,
            (_, Take::Script) => command([b"EVAL", TAKE.as_bytes(), b"1", place, own, life]),
            (Protocol::Key, Take::Once) => command([b"SET", place, own, b"NX", b"GET", b"PX", life]),
            (Protocol::Companion, Take::Once) => command([b"SET", place, own, b"NX", b"PX", life]),
        })
    }

    /// What the answer to a take means.
    pub(crate) fn taken(self, take: Take, own: &str, answer: Reply) -> Taken {
        let ours = || Taken::Ours(own.as_bytes().to_vec());
        match (take, self, answer) {
            (Take::Script, _, Reply::Bytes(lease)) if is_made_of(&lease, own) => Taken::Ours(lease),
            (Take::Script, Protocol::Companion, Reply::Bytes(lease)) => {
                Taken::Theirs(Seen { found: None, lease: Some(lease) })
            }
            (Take::Once, Protocol::Key, Reply::Nil) => ours(),
            (Take::Once, Protocol::Key, Reply::Bytes(found)) if found == own.as_bytes() => ours(),
            (_, Protocol::Key, Reply::Bytes(found)) => Taken::Theirs(in_key(found)),
            (Take::Once, Protocol::Companion, answer) if answer.is("OK") => ours(),
            (_, _, _) => Taken::Theirs(Seen { found: None, lease: Some(Vec::new()) }),
        }
    }

    /// The store under a lease; without one where none is needed.
    pub(crate) fn store(self, names: &Names, lease: &[u8], text: &[u8], seconds: &str) -> Command {
        let (key, seconds) = (names.key.as_bytes(), seconds.as_bytes());
        match self {
            Protocol::Key => {
                let value = [b"V", text].concat();
                command([b"EVAL", STORE_IN_KEY.as_bytes(), b"1", key, lease, &value, seconds])
            }
            Protocol::Companion => {
                let place = names.lease.as_bytes();
                command([b"EVAL", STORE_BESIDE.as_bytes(), b"2", key, place, lease, text, seconds])
            }
            Protocol::Plain => command([b"SET", key, text, b"EX", seconds]),
        }
    }

    /// So many bytes stand at the key then.
    pub(crate) fn bytes(self, text: &[u8]) -> usize {
        text.len() + usize::from(self == Protocol::Key)
    }
}

/// The give-back of a lease; nothing where none was needed.
pub fn give_back(names: &Names, lease: &[u8]) -> Command {
    command([b"EVAL", GIVE_BACK.as_bytes(), b"1", names.lease.as_bytes(), lease])
}

/// Sorts what stands at a key with the lease in it.
fn in_key(bytes: Vec<u8>) -> Seen {
    match bytes.first() {
        Some(b'V') => Seen { found: Some(Found::Value(bytes[1..].to_vec())), lease: None },
        Some(b'L') => Seen { found: None, lease: Some(bytes) },
        Some(_) | None => Seen { found: Some(Found::Foreign), lease: None },
    }
}

/// Whether the script made this lease of our text.
fn is_made_of(lease: &[u8], own: &str) -> bool {
    lease.strip_prefix(own.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &str) -> Reply {
        Reply::Bytes(bytes.as_bytes().to_vec())
    }

    fn lease(bytes: &str) -> Seen {
        Seen { found: None, lease: Some(bytes.as_bytes().to_vec()) }
    }

    fn value(bytes: &str) -> Seen {
        Seen { found: Some(Found::Value(bytes.as_bytes().to_vec())), lease: None }
    }

    #[test]
    fn what_stands_at_a_key_is_a_value_a_lease_or_foreign() {
        let foreign = Seen { found: Some(Found::Foreign), lease: None };
        let cases = [
            (Protocol::Key, Reply::Nil, Seen::default()),
            (Protocol::Key, text("V1"), value("1")),
            (Protocol::Key, text("V"), value("")),
            (Protocol::Key, text("L1"), lease("L1")),
            (Protocol::Key, text("1"), foreign.clone()),
            (Protocol::Key, text(""), foreign.clone()),
            (Protocol::Plain, text("L1"), value("L1")),
            (Protocol::Companion, text("V1"), value("V1")),
            (Protocol::Plain, Reply::Int(1), foreign),
        ];
        for (protocol, answer, expected) in cases {
            assert_eq!(protocol.seen([answer.clone()].into_iter()), expected, "{protocol:?} {answer:?}");
        }
        let both = [Reply::Nil, text("L1")];
        assert_eq!(Protocol::Companion.seen(both.into_iter()), lease("L1"));
    }

    #[test]
    fn the_answer_to_a_take_says_whose_the_lease_is() {
        let ours = |bytes: &str| Taken::Ours(bytes.as_bytes().to_vec());
        let cases = [
            (Protocol::Key, Take::Once, Reply::Nil, ours("La")),
            (Protocol::Key, Take::Once, text("La"), ours("La")),
            (Protocol::Key, Take::Once, text("Lb"), Taken::Theirs(lease("Lb"))),
            (Protocol::Key, Take::Once, text("V1"), Taken::Theirs(value("1"))),
            (Protocol::Key, Take::Script, text("La:1:2"), ours("La:1:2")),
            (Protocol::Key, Take::Script, text("La2:1:2"), Taken::Theirs(lease("La2:1:2"))),
            (Protocol::Key, Take::Script, text("V1"), Taken::Theirs(value("1"))),
            (Protocol::Key, Take::Script, Reply::Nil, Taken::Theirs(lease(""))),
            (Protocol::Companion, Take::Once, text("OK"), ours("La")),
            (Protocol::Companion, Take::Once, Reply::Nil, Taken::Theirs(lease(""))),
            (Protocol::Companion, Take::Script, text("La:1:2"), ours("La:1:2")),
            (Protocol::Companion, Take::Script, text("Lb:1:2"), Taken::Theirs(lease("Lb:1:2"))),
        ];
        for (protocol, take, answer, expected) in cases {
            assert_eq!(protocol.taken(take, "La", answer.clone()), expected, "{protocol:?} {take:?} {answer:?}");
        }
    }

    #[test]
    fn an_empty_namespace_is_none() {
        let keys = [None, Some(""), Some("a")].map(|namespace| full_key(namespace, "k"));
        assert_eq!(keys, ["k", "k", "a:k"]);
    }
}
