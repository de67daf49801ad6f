//! Progress of long work on a terminal; silent in a journal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::observe::news::{News, Totals};

/// A stream that is later than this is worth a progress line.
const LATE: Duration = Duration::from_secs(1);

/// How often the line is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// One line on standard error that is drawn over and over.
#[derive(Debug)]
pub struct ProgressLine {
    shown: bool,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Default for ProgressLine {
    fn default() -> Self {
        ProgressLine { shown: false, drawn: None, terminal: std::io::stderr().is_terminal() }
    }
}

impl ProgressLine {
    /// Draws what the news say, when it is time to.
    pub fn news(&mut self, news: &News) {
        if !self.terminal {
            return;
        }
        match news {
            News::Totals(totals, late) if *late >= LATE => self.draw(&backlog(totals, *late)),
            News::SweepBegan => self.draw("sweeping"),
            News::CacheTotals(..) | News::Server(_) | News::Rules(_) | News::Tally(_) => {}
            News::Totals(..) | News::SweepEnded(_) | News::Ready | News::StandingBy(_) => self.clear(),
            News::Streaming
            | News::Interrupted
            | News::HeldBack(_)
            | News::Gap(_)
            | News::Noticed
            | News::Deleted(_)
            | News::Marked(_)
            | News::Changed(_)
            | News::Gone(..)
            | News::Released(..)
            | News::Said(_) => {}
        }
    }

    fn draw(&mut self, line: &str) {
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            self.drawn = Some(Instant::now());
            self.shown = true;
            self.write(&format!("\r\x1b[K{line}"));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut terminal = std::io::stderr();
        // A terminal that went away takes its progress with it.
        let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
    }
}

fn backlog(totals: &Totals, late: Duration) -> String {
    format!("catching up: {} s behind, {} keys deleted", late.as_secs(), totals.keys)
}
