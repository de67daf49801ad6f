//! A connection for deletes to one node: commands out, and each reply read by itself.
//!
//! The invariant: each reply is handed over when it was read, and never twice. Wherever the connection breaks, whoever
//! sent knows which commands were answered. It speaks only what deletes need: replies of one line.

use std::time::Duration;

use ::redis::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, timeout};

use crate::cache::address::Address;
use crate::cache::identity::{Identity, Info};
use crate::cache::reply;
use crate::cache::socket::{HeardBytes, Stream};
use crate::error::{Error, Result};

/// A longer line is no reply of a cache.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Appends one command.
pub(super) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes lines from what was received.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where what was not taken yet begins.
    from: usize,
    /// Nothing more comes: the other end closed.
    is_closed: bool,
}

impl Lines {
    /// The next whole line.
    fn take(&mut self) -> Option<&[u8]> {
        let rest = &self.bytes[self.from..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let start = self.from;
        self.from += length + 2;
        Some(&self.bytes[start..start + length])
    }

    /// So many bytes and the end of their line.
    fn take_text(&mut self, length: usize) -> Option<Vec<u8>> {
        let text = self.bytes.get(self.from..self.from + length + 2)?[..length].to_vec();
        self.from += length + 2;
        Some(text)
    }

    /// Forgets what was taken.
    fn shrink(&mut self) {
        self.bytes.drain(..self.from);
        self.from = 0;
    }
}

/// One connection, logged in.
pub(super) struct DeletePipe {
    read: ReadHalf<Stream>,
    write: WriteHalf<Stream>,
    heard: HeardBytes,
    lines: Lines,
    timeout: Duration,
    /// When it was made, counted in failures of any connection to this node.
    pub(super) generation: u64,
    pub(super) born: Instant,
    /// What the node said of itself.
    pub(super) info: Info,
}

impl DeletePipe {
    /// Connects and logs in.
    pub(super) async fn open(address: &Address, limit: Duration) -> Result<Self> {
        let silent = || Error::transient("the cache did not answer in time");
        let (stream, heard) = timeout(limit, address.open()).await.map_err(|_| silent())??;
        let (read, write) = split(stream);
        let (lines, born) = (Lines::default(), Instant::now());
        let mut pipe =
            DeletePipe { read, write, heard, lines, timeout: limit, generation: 0, born, info: Info::default() };
        pipe.log_in(address).await?;
        Ok(pipe)
    }

    /// Whether the other end closed it.
    pub(super) fn was_closed(&self) -> bool {
        self.lines.is_closed
    }

    /// Who is on the other end.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.info.identity()
    }

    async fn log_in(&mut self, address: &Address) -> Result<()> {
        let mut out = Vec::new();
        if let Some(password) = &address.password {
            let user = address.user.as_deref().map(str::as_bytes);
            let words: Vec<&[u8]> = [&b"AUTH"[..]].into_iter().chain(user).chain([password.as_bytes()]).collect();
            command(&mut out, &words);
        }
        command(&mut out, &[b"CLIENT", b"SETNAME", b"crieur"]);
        command(&mut out, &[b"INFO", b"server"]);
        command(&mut out, &[b"INFO", b"replication"]);
        self.put(&out).await?;
        if address.password.is_some() {
            let line = self.line().await?;
            self.refused("the log-in", &line)?;
        }
        self.line().await?; // The name is for CLIENT LIST.
        let mut told = Vec::new();
        for _ in 0..2 {
            told.push(Value::BulkString(self.text().await?));
        }
        self.info = Info::read(&told);
        Ok(())
    }

    fn refused(&self, what: &str, line: &[u8]) -> Result<()> {
        let Some(error) = line.strip_prefix(b"-") else { return Ok(()) };
        let text = String::from_utf8_lossy(error);
        let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
        Err(reply::classify(what, code, detail))
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = timeout(self.timeout, async {
            self.write.write_all(bytes).await?;
            self.write.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(Error::transient("the connection to the cache failed").because(cause)),
            Err(_) => Err(Error::transient("the cache did not answer in time")),
        }
    }

    /// The next line.
    async fn line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(line) = self.lines.take() {
                return Ok(line.to_vec());
            }
            more(&mut self.read, &mut self.lines, &self.heard, self.timeout).await?;
        }
    }

    /// A text of several lines.
    async fn text(&mut self) -> Result<Vec<u8>> {
        let line = self.line().await?;
        self.refused("INFO", &line)?;
        let length = line.strip_prefix(b"$").and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        let length = length.filter(|length| *length <= LINE_BYTES_MAX).ok_or_else(|| reply::unexpected("INFO"))?;
        loop {
            if let Some(text) = self.lines.take_text(length) {
                return Ok(text);
            }
            more(&mut self.read, &mut self.lines, &self.heard, self.timeout).await?;
        }
    }

    /// Sends commands, already packed, of which `count` are answered with a line each, and hands each line over.
    pub(super) async fn exchange(
        &mut self,
        packed: &[u8],
        count: usize,
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<()> {
        let DeletePipe { read, write, heard, lines, timeout: limit, .. } = self;
        let writing = async {
            // What could not be written was not answered: the reading says how the connection ended.
            let _ = write.write_all(packed).await;
            let _ = write.flush().await;
        };
        let reading = async {
            let mut answered = 0;
            while answered < count {
                match lines.take() {
                    Some(line) => {
                        each(answered, line);
                        answered += 1;
                    }
                    None => more(read, lines, heard, *limit).await?,
                }
            }
            Ok(())
        };
        tokio::pin!(writing, reading);
        let mut written = false;
        loop {
            tokio::select! {
                ended = &mut reading => return ended,
                () = &mut writing, if !written => written = true,
            }
        }
    }
}

/// Receives more.
async fn more(read: &mut ReadHalf<Stream>, lines: &mut Lines, heard: &HeardBytes, limit: Duration) -> Result<()> {
    lines.shrink();
    if lines.bytes.len() > 4 * LINE_BYTES_MAX {
        return Err(reply::unexpected("UNLINK"));
    }
    match timeout(limit, read.read_buf(&mut lines.bytes)).await {
        Err(_) => Err(Error::transient("the cache did not answer in time")),
        Ok(Err(cause)) => {
            lines.is_closed = true;
            Err(Error::transient("the connection to the cache failed").because(cause))
        }
        Ok(Ok(0)) => {
            lines.is_closed = true;
            Err(match heard.last_words() {
                Some((code, detail)) => reply::last_words(&code, &detail),
                None => Error::transient("the cache closed the connection"),
            })
        }
        Ok(Ok(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_and_once() {
        let mut lines = Lines { bytes: b":1\r\n-ERR x\r\n$4\r\na\r\nb\r\n+O".to_vec(), ..Lines::default() };
        assert_eq!(lines.take(), Some(&b":1"[..]));
        assert_eq!(lines.take(), Some(&b"-ERR x"[..]));
        assert_eq!(lines.take(), Some(&b"$4"[..]));
        assert_eq!(lines.take_text(4), Some(b"a\r\nb".to_vec()));
        assert_eq!(lines.take(), None);
        lines.shrink();
        lines.bytes.extend_from_slice(b"K\r\n");
        assert_eq!(lines.take(), Some(&b"+OK"[..]));
        assert_eq!(lines.take(), None);
    }

    #[test]
    fn a_command_is_packed_as_the_protocol_says() {
        let mut out = Vec::new();
        command(&mut out, &[b"UNLINK", b"a\r\nb"]);
        assert_eq!(out, b"*2\r\n$6\r\nUNLINK\r\n$4\r\na\r\nb\r\n");
    }
}
