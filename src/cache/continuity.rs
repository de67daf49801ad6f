//! Whether the cache is the one that it was at the last look. Pure.
//!
//! What answers at a cache's address may become another cache at any time: a replica that was promoted, a restored copy,
//! an empty one. A connection that stays open leads to the same one. Behind a new connection the server's own word
//! decides where it has one, and nothing does where it has none; a transport without connections knows no more than
//! that after each request.

/// What is known of the cache, compared with the look before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Continuity {
    /// It is the same one, with the same history.
    #[default]
    Same,
    /// It does not say: no evidence.
    Unknown,
    /// Some command since then was answered by another one.
    Another,
}

/// Counts of what happened to the cache behind the address, to be compared with earlier ones: whoever loses a look loses
/// nothing of what it said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lineage {
    /// How often another cache than before answered.
    pub another: u64,
    /// How often one answered that does not say whether it is another.
    pub unknown: u64,
}

impl Lineage {
    /// What happened since `before`.
    pub fn since(self, before: Lineage) -> Continuity {
        if self.another != before.another {
            Continuity::Another
        } else if self.unknown != before.unknown {
            Continuity::Unknown
        } else {
            Continuity::Same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cache_weighs_more_than_one_that_does_not_say() {
        let before = Lineage { another: 1, unknown: 1 };
        let since = |another, unknown| Lineage { another, unknown }.since(before);
        let all = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(another, unknown)| since(another, unknown));
        assert_eq!(all, [Continuity::Same, Continuity::Unknown, Continuity::Another, Continuity::Another]);
    }
}
