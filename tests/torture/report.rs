//! Figures of a run, for people: hit rate, staleness, stale keys, faults by kind.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::Fault;
use crate::oracle::Seen;

/// One stretch of load with faults, and the comparison at its end.
#[derive(Debug, Default)]
pub struct Round {
    /// Key, cached value, true value.
    pub stale: Vec<(String, String, String)>,
    pub compared: usize,
    pub commits: u64,
    /// How long the daemon took until everything was confirmed.
    pub settled: Duration,
}

/// All rounds of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub rounds: u64,
    pub compared: usize,
    pub commits: u64,
    pub settled_max: Duration,
    pub faults: BTreeMap<Fault, u64>,
}

impl Report {
    pub fn add(&mut self, faults: &[Fault], round: &Round) {
        self.rounds += 1;
        self.compared += round.compared;
        self.commits += round.commits;
        self.settled_max = self.settled_max.max(round.settled);
        faults.iter().for_each(|fault| *self.faults.entry(*fault).or_default() += 1);
    }

    pub fn print(&self, seen: &Seen, seconds: u64) {
        let staleness = Staleness::of(seen);
        println!("rounds                {:>10}   in {seconds} s, all of them without a stale key", self.rounds);
        println!("keys compared         {:>10}", self.compared);
        println!("transactions          {:>10}", self.commits);
        println!("hits, misses          {:>10}   {}, hit rate {}", seen.hits, seen.misses, hit_rate(seen));
        println!("hits judged           {:>10}   of these stale: {}", seen.judged, seen.stale.len());
        println!("staleness of those    p50 {}, p99 {}, max {}", staleness.p50, staleness.p99, staleness.max);
        println!("longest catching up   {:>10}", milliseconds(self.settled_max));
        println!("readers that overran  {:>10}", seen.overran);
        self.faults.iter().for_each(|(fault, times)| println!("{times:>10} x {fault}"));
    }
}

/// In milliseconds.
#[derive(Debug)]
pub struct Staleness {
    /// Of the stale hits.
    pub p50: String,
    /// Of the stale hits.
    pub p99: String,
    pub max: String,
    /// Of all judged hits: a fresh one counts as 0.
    pub p50_of_all: String,
    /// The same.
    pub p99_of_all: String,
}

impl Staleness {
    pub fn of(seen: &Seen) -> Staleness {
        let mut stale = seen.stale.clone();
        stale.sort_unstable();
        let at = |part: f64| match stale.len() {
            0 => Duration::ZERO,
            count => stale[(((count - 1) as f64) * part) as usize],
        };
        let fresh = seen.judged - stale.len() as u64;
        let of_all = |part: f64| {
            let rank = (seen.judged as f64 * part) as u64;
            let found = rank.checked_sub(fresh).and_then(|index| stale.get(index as usize)).copied();
            milliseconds(found.unwrap_or_default())
        };
        Staleness {
            p50: milliseconds(at(0.5)),
            p99: milliseconds(at(0.99)),
            max: milliseconds(at(1.0)),
            p50_of_all: of_all(0.5),
            p99_of_all: of_all(0.99),
        }
    }
}

pub fn hit_rate(seen: &Seen) -> String {
    let all = seen.hits + seen.misses;
    format!("{:.1} %", seen.hits as f64 * 100.0 / all.max(1) as f64)
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_hit_counts_as_no_staleness() {
        let seen = Seen { judged: 200, stale: vec![Duration::from_millis(5); 2], ..Seen::default() };
        assert_eq!(Staleness::of(&seen).p99_of_all, "5.0 ms");
        let seen = Seen { judged: 201, stale: vec![Duration::from_millis(5)], ..Seen::default() };
        let staleness = Staleness::of(&seen);
        assert_eq!((staleness.p99_of_all.as_str(), staleness.max.as_str()), ("0.0 ms", "5.0 ms"));
    }
}
