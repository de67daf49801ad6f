//! What is printed: marks and columns, in color on a terminal and in plain ASCII elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use crate::watch::Keys;

/// Whether something was as promised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Kept,
    Broken,
}

/// Where it is printed.
#[derive(Clone, Copy)]
pub struct Report {
    terminal: bool,
}

impl Report {
    pub fn new() -> Report {
        Report { terminal: std::io::stdout().is_terminal() }
    }

    /// A heading.
    pub fn step(self, text: &str) {
        match self.terminal {
            true => println!("\n\x1b[1m{text}\x1b[0m"),
            false => println!("\n{text}"),
        }
    }

    /// Lines that belong to what is above them.
    pub fn lines(self, text: &str) {
        text.lines().for_each(|line| println!("    {line}"));
    }

    /// One promise.
    pub fn promise(self, mark: Mark, text: &str) {
        let sign = match (mark, self.terminal) {
            (Mark::Kept, true) => "\x1b[32m✓\x1b[0m",
            (Mark::Broken, true) => "\x1b[31m✗\x1b[0m",
            (Mark::Kept, false) => "ok",
            (Mark::Broken, false) => "FAILED",
        };
        println!("{sign} {text}");
    }

    /// The keys of a promise, one in a line, because it is them that one wants to compare.
    pub fn went(self, keys: &Keys, after: &str) {
        let mut label = format!("gone {after}");
        if keys.is_empty() {
            println!("    {label}: nothing");
        }
        for key in keys {
            println!("    {label:<28} {key}");
            label.clear();
        }
    }

    /// What did not go: the locks, which an application must never lose, those `near`, and the number of the others.
    pub fn stayed(self, keys: &Keys, near: &Keys) {
        let shown: Vec<&String> = keys.iter().filter(|key| near.contains(*key) || key.starts_with("lock:")).collect();
        let mut label = "stayed";
        for key in &shown {
            println!("    {label:<28} {key}");
            label = "";
        }
        println!("    {label:<28} and {} more", keys.len() - shown.len());
    }
}

/// Milliseconds with one decimal.
pub fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
