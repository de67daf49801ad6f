//! A report on a terminal: the word that says how a line counts has its colour. In a pipe, in a file, and with `NO_COLOR`,
//! every byte is as it was written.

use std::io::Write;

use crate::cli::output::LastingOut;
use crate::cli::terminal::Terminal;

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

/// What lines of reports begin with.
const WORDS: [(&str, u8); 9] = [
    ("WRONG ", RED),
    ("STALE ", RED),
    ("NO RULE ", RED),
    ("LATE ", YELLOW),
    ("DOUBT ", YELLOW),
    ("NEVER ", YELLOW),
    ("note ", YELLOW),
    ("ok ", GREEN),
    ("daemon: not ready", RED),
];

/// Lines on their way to the terminal.
#[derive(Debug)]
pub(crate) struct PaintedOut<W: Write> {
    out: W,
    terminal: Terminal,
    /// The line that is not whole yet.
    line: Vec<u8>,
}

impl PaintedOut<LastingOut<std::io::Stdout>> {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        PaintedOut { out: LastingOut::stdout(), terminal: Terminal::of_stdout(), line: Vec::new() }
    }
}

impl<W: Write> PaintedOut<W> {
    fn write_line(&mut self) -> std::io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let found = WORDS.iter().find(|(word, _)| line.starts_with(word.as_bytes()));
        let Some((word, colour)) = found.filter(|_| self.terminal.colours) else { return self.out.write_all(&line) };
        let painted = self.terminal.paint(*colour, word);
        self.out.write_all(painted.as_bytes())?;
        self.out.write_all(&line[word.len()..])
    }
}

impl<W: Write> Write for PaintedOut<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.terminal.colours {
            return self.out.write(bytes);
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.write_line()?;
            }
        }
        Ok(bytes.len())
    }

    /// A question stands on a line that has no end.
    fn flush(&mut self) -> std::io::Result<()> {
        self.write_line()?;
        self.out.flush()
    }
}

impl<W: Write> Drop for PaintedOut<W> {
    fn drop(&mut self) {
        let _ = self.flush(); // Whoever cares has flushed.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(colours: bool, parts: &[&str]) -> String {
        let mut paper = Vec::new();
        let mut out =
            PaintedOut { out: &mut paper, terminal: Terminal { colours, columns: Some(40) }, line: Vec::new() };
        parts.iter().for_each(|part| out.write_all(part.as_bytes()).expect("it takes all"));
        drop(out);
        String::from_utf8(paper).expect("text")
    }

    #[test]
    fn the_word_that_counts_has_its_colour_on_a_terminal_alone() {
        let parts = ["WRO", "NG a: WRONG b\n      mend: x\nok   c\n", "a question? "];
        let plain = "WRONG a: WRONG b\n      mend: x\nok   c\na question? ";
        assert_eq!(written(false, &parts), plain);
        let painted = "\x1b[31mWRONG \x1b[0ma: WRONG b\n      mend: x\n\x1b[32mok \x1b[0m  c\na question? ";
        assert_eq!(written(true, &parts), painted);
    }
}
