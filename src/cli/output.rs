//! Standard output and standard error of a command. Whoever stopped reading them changes nothing about the work.
//!
//! `eprint!` and `print!` panic where nothing can be written: a full disk under the log would end the daemon, and
//! `crieur explain | head` would abort.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use crate::error::{Error, Exit};

/// Writes to standard error. What cannot be written there cannot be told anywhere else either.
pub(crate) fn say(text: impl Display) {
    let _ = std::io::stderr().write_all(text.to_string().as_bytes());
}

/// The error of a text that standard output does not take.
pub(crate) fn cannot_write(cause: std::io::Error) -> Error {
    Error::definite(Exit::CantCreate, "the output cannot be written").because(cause)
}

/// Whether the error only says that the reader of standard output has gone: it has read what it wanted.
pub(crate) fn is_enough(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    error.exit() == Exit::CantCreate && cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
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
    fn only_a_closed_standard_output_is_enough() {
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_enough(&cannot_write(broken())));
        assert!(!is_enough(&cannot_write(ErrorKind::StorageFull.into())));
        assert!(!is_enough(&Error::transient("the connection ended").because(broken())));
    }
}
