//! Figures of the documentation about several caches, about large ones, and about one that is away: printed, no verdict,
//! save by `bounds`.
//!
//! The machine may be busy, so what is compared is measured in turn, in rounds, and the figure is the ratio within a round:
//! its median, its least and its most. `CRIEUR` is the program that is measured, if it is not the one that cargo built for
//! the tests; `ROUNDS` says how many rounds there are.
//! `CRIEUR=target/release/crieur cargo test --features failpoints --test live figures:: -- --ignored --nocapture
//! --test-threads=1`

mod bounds;
mod company;
mod memory;
mod paced;
mod regions;
mod shards;
mod sinks;
mod sweeps;
mod varnish;
mod wal;

use std::fmt;
use std::path::PathBuf;

/// The program that is measured.
fn program() -> PathBuf {
    std::env::var_os("CRIEUR").map_or_else(|| env!("CARGO_BIN_EXE_crieur").into(), PathBuf::from)
}

const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU that a process has used (proc(5), `utime` and `stime`).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in parentheses").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}

/// How many rounds are wanted.
fn rounds(default: usize) -> usize {
    std::env::var("ROUNDS").map_or(default, |text| text.parse().expect("ROUNDS is a number"))
}

/// What was measured in each round.
#[derive(Default, Clone)]
struct Spread(Vec<f64>);

impl Spread {
    fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The median, the least and the most.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        write!(f, "{:.2} ({least:.2} to {most:.2})", sorted[sorted.len() / 2])
    }
}

/// The value that so much of all is below.
fn at(share: f64, mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[((all.len() - 1) as f64 * share) as usize]
}
