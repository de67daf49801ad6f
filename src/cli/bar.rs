//! One line on the terminal of a command whose work lasts longer than a second; nothing in a pipe or a file.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Work that lasts no longer shows nothing.
const QUIET: Duration = Duration::from_secs(1);
/// How often the line is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// The line, which ends with this value.
#[derive(Debug)]
pub struct Bar {
    is_terminal: bool,
    next: Instant,
    is_shown: bool,
}

impl Default for Bar {
    fn default() -> Self {
        Bar { is_terminal: std::io::stderr().is_terminal(), next: Instant::now() + QUIET, is_shown: false }
    }
}

/// How far the work is, in ten signs.
pub fn blocks(percent: u64) -> String {
    let full = usize::try_from(percent / 10).unwrap_or(10).min(10);
    format!("[{}{}]", "#".repeat(full), " ".repeat(10 - full))
}

impl Bar {
    /// Draws the line, when it is time to.
    pub fn draw(&mut self, line: &str) {
        if self.is_terminal && Instant::now() >= self.next {
            self.next = Instant::now() + REDRAW;
            self.is_shown = true;
            write(&format!("\r\x1b[K{line}"));
        }
    }

    /// Takes the line away: what is printed next stands in its place.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            write("\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn write(text: &str) {
    let mut terminal = std::io::stderr();
    // A terminal that went away takes its progress with it.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}
