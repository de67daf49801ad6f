//! Standard output and standard error of a command. Whoever stopped reading them changes nothing about the work.
//!
//! `eprint!` and `print!` panic where nothing can be written: a full disk under the log would end the daemon, and
//! `crieur explain | head` would abort.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use crate::cli::log::is_read_by_the_journal;

/// Writes to standard error. What cannot be written there cannot be told anywhere else either.
pub(crate) fn say(text: impl Display) {
    let text = text.to_string();
    let text = if is_read_by_the_journal() { prioritised(&text) } else { text };
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The same lines with the journal's priorities: an error, or a warning, lasts until the next one begins.
fn prioritised(text: &str) -> String {
    let mut priority = 6;
    let line = |line| {
        let line: &str = line;
        if line.starts_with("error") {
            priority = 3;
        } else if line.starts_with("warning") {
            priority = 4;
        }
        format!("<{priority}>{line}")
    };
    text.split_inclusive('\n').map(line).collect()
}

/// An error of a command that is none of ours, told: a file that it names, or else standard output. `None` where that only
/// says that the reader has gone, who has read what it wanted.
pub(crate) fn told(error: &anyhow::Error) -> Option<String> {
    if error.chain().len() > 1 {
        return Some(format!("{error:#}"));
    }
    let gone = error.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe);
    (!gone).then(|| format!("the output cannot be written: {error}"))
}

/// An output for work that must not stop half-way: when its reader has gone, the rest is written to nobody.
#[derive(Debug)]
pub(crate) struct LastingOut<W> {
    out: W,
    closed: bool,
}

impl LastingOut<std::io::Stdout> {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        LastingOut { out: std::io::stdout(), closed: false }
    }
}

impl<W: Write> LastingOut<W> {
    fn unless_closed<T>(&mut self, nobody: T, write: impl FnOnce(&mut W) -> std::io::Result<T>) -> std::io::Result<T> {
        if self.closed {
            return Ok(nobody);
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(nobody)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for LastingOut<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.unless_closed(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.unless_closed((), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails each write in its own way.
    struct Failing(ErrorKind, usize);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            self.1 += 1;
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_asked_once_and_a_full_disk_is_an_error() {
        let mut closed = LastingOut { out: Failing(ErrorKind::BrokenPipe, 0), closed: false };
        for _ in 0..3 {
            writeln!(closed, "a line").expect("nobody reads, and nobody minds");
        }
        closed.flush().expect("likewise");
        assert_eq!(closed.out.1, 1);
        let mut full = LastingOut { out: Failing(ErrorKind::StorageFull, 0), closed: false };
        assert!(writeln!(full, "a line").is_err() && full.flush().is_err());
    }

    #[test]
    fn each_line_of_a_mistake_has_its_priority() {
        let text = "warning: a\n --> b\nerror: c\n  = d\n";
        assert_eq!(prioritised(text), "<4>warning: a\n<4> --> b\n<3>error: c\n<3>  = d\n");
        assert_eq!(prioritised("checked\n"), "<6>checked\n");
    }

    #[test]
    fn only_a_closed_standard_output_is_nothing_to_tell() {
        let io = |kind: ErrorKind| anyhow::Error::from(std::io::Error::from(kind));
        assert_eq!(told(&io(ErrorKind::BrokenPipe)), None);
        let full = told(&io(ErrorKind::StorageFull)).expect("it is told");
        assert!(full.starts_with("the output cannot be written: "), "{full}");
        let named = told(&io(ErrorKind::BrokenPipe).context("recording \"x\" cannot be made")).expect("it is told");
        assert!(named.starts_with("recording \"x\" cannot be made: "), "{named}");
    }
}
