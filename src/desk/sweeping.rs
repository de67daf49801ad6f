//! An ordered sweep, told to whoever ordered it: how far it is, and what it did.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval};

use super::line::{gone, say};
use super::sources::Desk;
use super::words::{BUSY, DeskAnswer, UNTOLD};
use crate::cache::Swept;
use crate::error::Exit;
use crate::run::{SweepOrder, SweepTold};

/// Answers of the loop that wait: one for each part of each cache, and one besides.
const TOLD_MAX: usize = 1024;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

/// What is swept, as far as it was told.
#[derive(Debug, Default)]
struct Told {
    /// Parts of each cache that are not swept yet, and what the others did.
    left: BTreeMap<String, (usize, Swept)>,
}

impl Told {
    /// What the loop says, for whoever ordered it.
    fn hear(&mut self, told: SweepTold) -> Vec<DeskAnswer> {
        match told {
            SweepTold::Refused { why, hint } => vec![DeskAnswer::refused(&why, &hint, Exit::Usage)],
            SweepTold::Begins { patterns, caches } => {
                for (cache, parts) in caches {
                    self.left.entry(cache.to_string()).or_default().0 += parts;
                }
                vec![DeskAnswer::Sweeps { patterns, caches: self.left.keys().cloned().collect() }]
            }
            SweepTold::Ended { cache, swept } => {
                let Some((parts, sum)) = self.left.get_mut(&*cache) else { return Vec::new() };
                *parts = parts.saturating_sub(1);
                *sum = Swept { scanned: sum.scanned + swept.scanned, deleted: sum.deleted + swept.deleted };
                if *parts > 0 {
                    return Vec::new();
                }
                let Swept { scanned, deleted } = *sum;
                self.left.remove(&*cache);
                let swept = DeskAnswer::Swept { cache: cache.to_string(), scanned, deleted };
                if self.left.is_empty() { vec![swept, DeskAnswer::Done] } else { vec![swept] }
            }
        }
    }
}

/// Hands the order to the loop, and tells what becomes of it.
pub(super) async fn sweep(socket: &mut UnixStream, desk: &Desk, what: String, cache: Option<String>) -> io::Result<()> {
    let (answers, mut told) = mpsc::channel(TOLD_MAX);
    let refused = |(why, hint, exit): (&str, &str, Exit)| [DeskAnswer::refused(why, hint, exit)];
    match desk.orders.try_send(SweepOrder { what, cache, answers }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return say(socket, &refused(BUSY)).await,
        Err(TrySendError::Closed(_)) => return say(socket, &refused(UNTOLD)).await,
    }
    let (mut sum, mut tick) = (Told::default(), interval(PROGRESS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answers = tokio::select! {
            biased;
            heard = told.recv() => match heard {
                Some(heard) => sum.hear(heard),
                None => refused(UNTOLD).to_vec(),
            },
            () = gone(socket) => return Ok(()),
            _ = tick.tick() => {
                let progress = sum.left.keys().filter_map(|cache| {
                    let (percent, deleted) = desk.state.swept(cache)?;
                    Some(DeskAnswer::Progress { cache: cache.clone(), percent, deleted })
                });
                progress.collect()
            }
        };
        say(socket, &answers).await?;
        if matches!(answers.last(), Some(DeskAnswer::Done | DeskAnswer::Refused { .. })) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_swept_when_each_of_its_parts_is_and_all_is_done_behind_the_last() {
        let mut told = Told::default();
        let caches = BTreeMap::from([("main".into(), 2), ("eu".into(), 1)]);
        let begins = told.hear(SweepTold::Begins { patterns: vec!["a:*".to_owned()], caches });
        let caches = vec!["eu".to_owned(), "main".to_owned()];
        assert_eq!(begins, [DeskAnswer::Sweeps { patterns: vec!["a:*".to_owned()], caches }]);
        let mut ended = |cache: &str, deleted| {
            told.hear(SweepTold::Ended { cache: cache.into(), swept: Swept { scanned: 10, deleted } })
        };
        let swept = |cache: &str, scanned, deleted| DeskAnswer::Swept { cache: cache.to_owned(), scanned, deleted };
        assert_eq!(ended("main", 3), []);
        assert_eq!(ended("eu", 1), [swept("eu", 10, 1)]);
        assert_eq!(ended("other", 1), []);
        assert_eq!(ended("main", 4), [swept("main", 20, 7), DeskAnswer::Done]);
    }
}
