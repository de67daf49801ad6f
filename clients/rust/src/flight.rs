//! Reads that run, and who may join them.
//!
//! A running read may be shared with a call only if its fetch has not begun when the call comes, or if the call's own
//! answer from the cache shows the lease of that read. Anything else would answer a call with a row from before it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

/// What a read has for others.
#[derive(Clone, Debug)]
enum Outcome {
    Running,
    Text(Arc<[u8]>),
    /// The fetch failed, or the value has no text.
    Nothing,
}

/// A read that others may join.
#[derive(Debug)]
pub struct Flight {
    /// When its fetch began, on the clock of the cache; 0 before.
    begun: AtomicU64,
    lease: OnceLock<Vec<u8>>,
    outcome: watch::Sender<Outcome>,
}

impl Flight {
    fn new() -> Flight {
        Flight { begun: AtomicU64::new(0), lease: OnceLock::new(), outcome: watch::Sender::new(Outcome::Running) }
    }

    /// The fetch begins now.
    pub fn begin(&self, now: u64) {
        self.begun.store(now, Ordering::SeqCst);
    }

    /// The lease is taken.
    pub fn lease(&self, lease: &[u8]) {
        let _ = self.lease.set(lease.to_vec()); // A flight takes one lease.
    }

    /// Whether its fetch begins behind a call that came at `called`.
    pub fn is_new(&self, called: u64) -> bool {
        let begun = self.begun.load(Ordering::SeqCst);
        begun == 0 || begun > called
    }

    /// Whether a call that came at `called` and saw the lease `seen` in the cache may have its row.
    pub fn may_join(&self, called: u64, seen: Option<&[u8]>) -> bool {
        self.is_new(called) || seen.is_some_and(|seen| self.lease.get().is_some_and(|lease| lease == seen))
    }

    /// There is a row, or none for others.
    pub fn settle(&self, text: Option<Arc<[u8]>>) {
        self.outcome.send_if_modified(|outcome| {
            let is_running = matches!(outcome, Outcome::Running);
            if is_running {
                *outcome = text.map_or(Outcome::Nothing, Outcome::Text);
            }
            is_running
        });
    }

    /// The row, when it is there.
    pub async fn shared(&self) -> Option<Arc<[u8]>> {
        let mut seen = self.outcome.subscribe();
        match seen.wait_for(|outcome| !matches!(outcome, Outcome::Running)).await {
            Ok(outcome) => match &*outcome {
                Outcome::Text(text) => Some(Arc::clone(text)),
                Outcome::Running | Outcome::Nothing => None,
            },
            Err(_) => None,
        }
    }
}

/// What a call does about a key.
pub enum Entry {
    /// It waits for this one.
    Join(Arc<Flight>),
    /// It reads; the one before may still run.
    Enter(Arc<Flight>, Option<Arc<Flight>>),
}

/// The latest read of each key.
#[derive(Default, Debug)]
pub struct Flights(Mutex<HashMap<String, Arc<Flight>>>);

impl Flights {
    /// The running read of this key that `may_join` allows, or a new one: of calls at the same moment, on whatever
    /// threads, one enters. Nobody sees the new one where reads are not shared.
    pub fn join_or_enter(&self, key: &str, is_shared: bool, may_join: impl Fn(&Flight) -> bool) -> Entry {
        let mut flights = self.lock();
        let before = flights.get(key).cloned();
        match before {
            Some(flight) if may_join(&flight) => Entry::Join(flight),
            before => {
                let flight = Arc::new(Flight::new());
                if is_shared {
                    flights.insert(key.to_owned(), Arc::clone(&flight));
                }
                Entry::Enter(flight, before)
            }
        }
    }

    /// The latest one that still runs.
    pub fn latest(&self, key: &str) -> Option<Arc<Flight>> {
        self.lock().get(key).cloned()
    }

    /// Nobody joins this one from now on.
    pub fn leave(&self, key: &str, flight: &Arc<Flight>) {
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|latest| Arc::ptr_eq(latest, flight)) {
            flights.remove(key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_enough_may_be_joined() {
        // begun, lease of the flight, called, lease that the call saw
        type Case = (u64, Option<&'static str>, u64, Option<&'static str>, bool);
        let cases: [Case; 8] = [
            (0, None, 5, None, true),
            (6, Some("a"), 5, None, true),
            (4, Some("a"), 5, None, false),
            (4, Some("a"), 5, Some("a"), true),
            (4, Some("a"), 5, Some("b"), false),
            (4, None, 5, Some("a"), false),
            (5, Some("a"), 5, None, false),
            (4, None, 5, None, false),
        ];
        for (begun, lease, called, seen, expected) in cases {
            let flight = Flight::new();
            flight.begin(begun);
            if let Some(lease) = lease {
                flight.lease(lease.as_bytes());
            }
            let says = format!("begun {begun} under {lease:?}, called {called}, saw {seen:?}");
            assert_eq!(flight.may_join(called, seen.map(str::as_bytes)), expected, "{says}");
        }
    }

    #[tokio::test]
    async fn a_flight_is_settled_once_and_leaves_only_itself() {
        let flights = Flights::default();
        let enter = |is_shared| match flights.join_or_enter("k", is_shared, |_| false) {
            Entry::Enter(flight, _) => flight,
            Entry::Join(_) => panic!("none may be joined"),
        };
        let first = enter(true);
        first.settle(Some(Arc::from(&b"1"[..])));
        first.settle(None);
        assert_eq!(first.shared().await.as_deref(), Some(&b"1"[..]));
        let second = enter(true);
        assert!(
            matches!(flights.join_or_enter("k", true, |_| true), Entry::Join(latest) if Arc::ptr_eq(&latest, &second))
        );
        flights.leave("k", &first);
        assert!(flights.latest("k").is_some_and(|latest| Arc::ptr_eq(&latest, &second)));
        flights.leave("k", &second);
        assert!(flights.latest("k").is_none());
        enter(false);
        assert!(flights.latest("k").is_none());
    }
}
