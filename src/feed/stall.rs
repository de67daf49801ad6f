//! A stream that is held back: the server's WAL goes on, and nothing of it comes. Pure.
//!
//! A walsender that waits (for a standby that `synchronized_standby_slots` names, `WalSndWaitForWal` in walsender.c)
//! answers as one that has nothing to send. What it has sent, beside where the server's WAL stood, tells them apart: one
//! that has nothing to send says soon that it has sent everything.

use std::time::Duration;

use crate::lsn::Lsn;

/// The server says within milliseconds that it has sent everything, and at once when it is asked. One that reads its way
/// through WAL of other databases gets on meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// One look at both ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Where the server's WAL stands; `None` where that is not known.
    pub flushed: Option<Lsn>,
    /// Up to where it was received.
    pub received: Lsn,
    /// The loop reads whatever comes, and no change came since the look before.
    pub waits: bool,
}

/// What was seen so far. Times count from one moment that stays the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stall {
    /// Since when nothing comes, what was received then, and where the server's WAL stood.
    since: Option<(Duration, Lsn, Lsn)>,
    held: bool,
}

/// What a look comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StallTurn {
    /// Nothing is missing.
    Flows,
    /// What was flushed at the last look has not come: the server should say how far it has sent.
    Waits,
    /// It has not come for so long.
    Held(Duration),
    /// It had not come for long, and goes on.
    Ended,
}

impl Stall {
    /// Whether the stream is held back.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Judges one look.
    pub fn look(&mut self, now: Duration, ends: Ends) -> StallTurn {
        let lacks = |upto: Lsn| ends.waits && ends.received < upto;
        self.since = match (self.since, ends.flushed) {
            (Some(since), _) if since.1 == ends.received && lacks(since.2) => Some(since),
            (_, Some(flushed)) if lacks(flushed) => Some((now, ends.received, flushed)),
            (_, _) => None,
        };
        let waits = self.since.map(|(since, ..)| now.saturating_sub(since));
        match waits {
            Some(waits) if waits >= PATIENCE => {
                self.held = true;
                StallTurn::Held(waits)
            }
            // It came a bit further: held back all the same, while that was not all.
            Some(_) if self.held => StallTurn::Held(Duration::ZERO),
            Some(waits) if waits > Duration::ZERO => StallTurn::Waits,
            Some(_) => StallTurn::Flows,
            None if std::mem::take(&mut self.held) => StallTurn::Ended,
            None => StallTurn::Flows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(looks: &[(u64, u64, u64, bool)]) -> Vec<StallTurn> {
        let mut stall = Stall::default();
        let look = |(at, flushed, received, waits): &(u64, u64, u64, bool)| {
            let ends = Ends { flushed: Some(Lsn(*flushed)), received: Lsn(*received), waits: *waits };
            stall.look(Duration::from_secs(*at), ends)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn only_a_stream_that_lacks_what_was_flushed_long_ago_is_held_back() {
        use StallTurn::{Ended, Flows, Held, Waits};
        let held = |seconds| Held(Duration::from_secs(seconds));
        // Quiet, busy, and one that lags by a little at each look.
        assert_eq!(turns(&[(0, 5, 5, true), (2, 5, 5, true), (60, 5, 5, true)]), [Flows; 3]);
        assert_eq!(turns(&[(0, 9, 5, true), (2, 19, 9, true), (4, 29, 19, true), (20, 39, 29, true)]), [Flows; 4]);
        // A batch is full: nobody reads. A long transaction comes: its changes lie before what was received.
        assert_eq!(turns(&[(0, 9, 5, false), (20, 19, 5, false), (40, 19, 5, false)]), [Flows; 3]);
        let looks = [
            (0, 9, 5, true),
            (2, 9, 5, true),
            (10, 12, 5, true),
            (12, 14, 5, true),
            (14, 14, 14, true),
            (16, 14, 14, true),
        ];
        assert_eq!(turns(&looks), [Flows, Waits, held(10), held(12), Ended, Flows]);
        // Once held back, a part that comes is not the end.
        let looks = [(0, 9, 5, true), (10, 12, 5, true), (12, 12, 7, true), (14, 12, 12, true)];
        assert_eq!(turns(&looks), [Flows, held(10), held(0), Ended]);
    }
}
