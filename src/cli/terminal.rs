//! A terminal, where there is one: whether it shows colours, and how wide it is.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};

/// How a command may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terminal {
    /// It shows colours, and `NO_COLOR` is not set.
    pub colours: bool,
    /// Columns of a terminal; `None` where lines may be as long as they are: a pipe, a file.
    pub columns: Option<usize>,
}

impl Terminal {
    /// Of standard output.
    pub fn of_stdout() -> Terminal {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Terminal::default();
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_some_and(|term| term == "dumb");
        let colours = set("NO_COLOR").is_none() && !is_dumb;
        let told = set("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok());
        Terminal { colours, columns: told.or_else(|| columns(&out)) }
    }

    /// Whether little more than a name fits on a line.
    pub fn is_narrow(&self) -> bool {
        self.columns.is_some_and(|columns| columns < 60)
    }

    /// The text in this colour of the terminal's own (`31` red, `32` green, `33` yellow, `2` faint).
    pub fn paint(&self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The text, cut so that it fits beside `used` other columns.
    pub fn fit(&self, text: &str, used: usize) -> String {
        let Some(columns) = self.columns else { return text.to_owned() };
        let most = columns.saturating_sub(used);
        if text.chars().count() <= most {
            return text.to_owned();
        }
        text.chars().take(most.saturating_sub(1)).chain((most > 0).then_some('…')).collect()
    }
}

/// As the terminal says; `None` where it says nothing.
#[allow(unsafe_code)]
fn columns(terminal: &impl AsFd) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open while `terminal` lives, and the pointer is to the structure that TIOCGWINSZ fills. No
    // crate in the tree exposes this call.
    let answer = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (answer == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_on_a_narrow_terminal_and_never_in_a_pipe() {
        let narrow = Terminal { colours: true, columns: Some(30) };
        assert_eq!(narrow.fit("a:very:long:key:indeed", 15), "a:very:long:ke…");
        assert_eq!(narrow.fit("short", 25), "short");
        assert_eq!((narrow.fit("short", 29).as_str(), narrow.fit("short", 50).as_str()), ("…", ""));
        assert!(narrow.is_narrow() && !Terminal::default().is_narrow());
        assert_eq!(Terminal::default().fit(&"x".repeat(500), 15).len(), 500);
        assert_eq!(
            (narrow.paint(31, "x").as_str(), Terminal::default().paint(31, "x").as_str()),
            ("\x1b[31mx\x1b[0m", "x")
        );
    }
}
