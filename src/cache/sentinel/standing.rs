//! What is known of the primary from the words of its Sentinels, and whether a mark may be written to it. Pure: time comes
//! as an argument.
//!
//! The invariant: what was named last by a majority stays named until a majority names another. Silence changes nothing:
//! a failover needs a majority of Sentinels, so without one there is no evidence of any, and nobody to make one.

use std::time::Duration;

use tokio::time::Instant;

use super::verdict::SentinelVerdict;
use crate::cache::place::HostPort;

/// What is known.
#[derive(Debug, Default)]
pub struct Standing {
    named: Option<HostPort>,
    epoch: u64,
    /// How often another primary than before was named.
    turns: u64,
    /// The last verdict, and when it was asked for.
    last: Option<(SentinelVerdict, Instant)>,
}

/// Whether the primary that was named last may be given a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permit {
    /// A majority named it within a heartbeat, or there is no majority to say anything.
    Given,
    /// The word of a majority is too old, or the Sentinels do not agree at present: they are to be asked first.
    Ask,
}

/// What a verdict changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PrimaryTurn {
    /// Nothing.
    None,
    /// The first primary that was named.
    First,
    /// Another than this one is named.
    Another(HostPort),
}

impl Standing {
    /// Takes what was asked for at `asked`.
    pub fn take(&mut self, verdict: SentinelVerdict, asked: Instant) -> PrimaryTurn {
        if self.last.as_ref().is_some_and(|(_, last)| *last > asked) {
            return PrimaryTurn::None; // An answer that was overtaken.
        }
        self.last = Some((verdict.clone(), asked));
        let SentinelVerdict::Named { place, epoch } = verdict else { return PrimaryTurn::None };
        self.epoch = epoch;
        if self.named.as_ref() == Some(&place) {
            return PrimaryTurn::None;
        }
        match self.named.replace(place) {
            None => PrimaryTurn::First,
            Some(before) => {
                self.turns += 1;
                PrimaryTurn::Another(before)
            }
        }
    }

    /// The primary that a majority named last.
    pub fn named(&self) -> Option<&HostPort> {
        self.named.as_ref()
    }

    /// The configuration epoch of that word.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the Sentinels did not agree when they were asked last.
    pub fn is_divided(&self) -> bool {
        matches!(self.last, Some((SentinelVerdict::Divided, _)))
    }

    /// How often another primary than before was named.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Whether the primary that was named last may be given a mark. A word lasts for a heartbeat.
    pub fn permit(&self, now: Instant, heartbeat: Duration) -> Permit {
        match &self.last {
            Some((SentinelVerdict::Named { .. } | SentinelVerdict::Silent, asked))
                if now.duration_since(*asked) <= heartbeat =>
            {
                Permit::Given
            }
            Some(_) | None => Permit::Ask,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 1 }
    }

    fn named(host: &str) -> SentinelVerdict {
        SentinelVerdict::Named { place: place(host), epoch: 1 }
    }

    #[test]
    fn only_the_word_of_a_majority_turns_to_another_primary() {
        let start = Instant::now();
        let mut standing = Standing::default();
        for (at, verdict, turn, holds) in [
            (0, SentinelVerdict::Silent, PrimaryTurn::None, None),
            (1, SentinelVerdict::Divided, PrimaryTurn::None, None),
            (2, named("a"), PrimaryTurn::First, Some("a")),
            (3, SentinelVerdict::Silent, PrimaryTurn::None, Some("a")),
            (4, named("a"), PrimaryTurn::None, Some("a")),
            (5, named("b"), PrimaryTurn::Another(place("a")), Some("b")),
            (4, named("a"), PrimaryTurn::None, Some("b")),
            (6, SentinelVerdict::Divided, PrimaryTurn::None, Some("b")),
            (7, named("a"), PrimaryTurn::Another(place("b")), Some("a")),
        ] {
            assert_eq!(standing.take(verdict.clone(), start + Duration::from_secs(at)), turn, "{at} {verdict:?}");
            assert_eq!(standing.named(), holds.map(place).as_ref(), "{at} {verdict:?}");
        }
        assert_eq!(standing.turns(), 2);
    }

    #[test]
    fn a_mark_needs_a_young_word_or_none_at_all() {
        let start = Instant::now();
        let (second, heartbeat) = (Duration::from_secs(1), Duration::from_secs(2));
        let permits = |verdicts: &[SentinelVerdict], ages: [u32; 2]| {
            let mut standing = Standing::default();
            verdicts.iter().for_each(|verdict| _ = standing.take(verdict.clone(), start));
            ages.map(|age| standing.permit(start + second * age, heartbeat))
        };
        use Permit::{Ask, Given};
        assert_eq!(permits(&[], [0, 3]), [Ask, Ask]);
        assert_eq!(permits(&[named("a")], [2, 3]), [Given, Ask]);
        assert_eq!(permits(&[named("a"), SentinelVerdict::Silent], [2, 3]), [Given, Ask]);
        assert_eq!(permits(&[named("a"), SentinelVerdict::Divided], [0, 3]), [Ask, Ask]);
    }
}
