//! A byte stream to the cache, and what was heard on it: a server that refuses a connection says why and closes it, and
//! what it said must not be lost behind our own broken pipe.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::select_ok;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::client::TlsStream;

/// Bytes at the end of what was received that are kept: a line in which a server says why it goes.
const TAIL: usize = 512;

/// A connected socket. A dead peer is noticed within a minute on an idle connection; on a busy one the response timeout is
/// faster.
#[derive(Debug)]
pub(super) enum CacheSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to whichever address of the host answers first.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let connect = |address: SocketAddr| Box::pin(TcpStream::connect(address));
    let addresses = lookup_host((host, port)).await.map_err(|cause| io::Error::other(Unresolved(cause)))?;
    let attempts: Vec<_> = addresses.map(connect).collect();
    if attempts.is_empty() {
        let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(io::Error::other(Unresolved(none)));
    }
    let (stream, _) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// The resolver's error: its kind says nothing of its own.
#[derive(Debug)]
struct Unresolved(io::Error);

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unresolved {}

/// Whether the host has no address, as far as the resolver knows.
pub(super) fn is_unresolved(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Unresolved>())
}

pub(super) async fn unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server closed it.
    Closed,
    /// It failed, most likely because the server reset it.
    Failed(io::Error),
}

#[derive(Debug, Default)]
struct Received {
    /// The first bytes: who speaks.
    first: Vec<u8>,
    /// The last bytes: what was said before the end.
    tail: Vec<u8>,
    end: Option<End>,
}

/// What was heard on one stream; a handle that outlives it.
#[derive(Clone, Debug, Default)]
pub(super) struct HeardBytes(Arc<Mutex<Received>>);

impl HeardBytes {
    fn note(&self, note: impl FnOnce(&mut Received)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The first bytes; empty when the server said nothing at all.
    pub(super) fn first(&self) -> Vec<u8> {
        let mut first = Vec::new();
        self.note(|received| first.clone_from(&received.first));
        first
    }

    /// The line of error behind which the server ended the stream: its code and its text.
    pub(super) fn last_words(&self) -> Option<(String, String)> {
        let mut words = None;
        self.note(|received| {
            if received.end.is_some() {
                words = last_error(&received.tail);
            }
        });
        words
    }

    /// How the stream ended, to whoever asks first.
    pub(super) fn take_end(&self) -> Option<End> {
        let mut end = None;
        self.note(|received| end = received.end.take());
        end
    }
}

/// The last line of what was received, when it is whole and an error.
fn last_error(tail: &[u8]) -> Option<(String, String)> {
    let lines = tail.strip_suffix(b"\r\n")?;
    let last = lines.rsplit(|byte| *byte == b'\n').next()?.strip_prefix(b"-")?;
    let text = String::from_utf8_lossy(last);
    let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
    Some((code.to_owned(), detail.to_owned()))
}

/// A socket of which everything is heard.
///
/// A write to a server that is gone seems to work: what the server said last is still to be read, and the read after it
/// says how the stream ended. A caller who stopped at the broken pipe would never come to either.
#[derive(Debug)]
pub(super) struct Stream {
    socket: CacheSocket,
    heard: HeardBytes,
    gone: bool,
}

impl Stream {
    pub(super) fn new(socket: CacheSocket) -> (Self, HeardBytes) {
        let heard = HeardBytes::default();
        (Stream { socket, heard: heard.clone(), gone: false }, heard)
    }

    fn written<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(error) if is_end(&error) => {
                self.gone = true;
                Ok(instead)
            }
            result => result,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.socket {
            CacheSocket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            CacheSocket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            CacheSocket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let read = ready!(polled);
        let new = &buf.filled()[before..];
        this.heard.note(|received| match &read {
            Ok(()) if new.is_empty() => received.end = Some(End::Closed),
            Ok(()) => {
                let missing = 8_usize.saturating_sub(received.first.len()).min(new.len());
                received.first.extend_from_slice(&new[..missing]);
                received.tail.extend_from_slice(&new[new.len().saturating_sub(TAIL)..]);
                let extra = received.tail.len().saturating_sub(TAIL);
                received.tail.drain(..extra);
            }
            Err(_) => {}
        });
        let Err(error) = read else { return Poll::Ready(Ok(())) };
        // The cause is kept whole; who waits for an answer needs its kind.
        let told = io::Error::new(error.kind(), error.to_string());
        this.heard.note(|received| received.end = Some(End::Failed(error)));
        Poll::Ready(Err(told))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gone {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(match &mut this.socket {
            CacheSocket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            CacheSocket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            CacheSocket::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        });
        Poll::Ready(this.written(written, bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gone {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(match &mut this.socket {
            CacheSocket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            CacheSocket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            CacheSocket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        });
        Poll::Ready(this.written(flushed, ()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            CacheSocket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            CacheSocket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            CacheSocket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn last_words_are_a_whole_line_of_error_at_the_end() {
        for (tail, expected) in [
            (&b"-ERR max number of clients reached\r\n"[..], Some(("ERR", "max number of clients reached"))),
            (
                b":1\r\n-ERR Protocol error: invalid bulk length\r\n",
                Some(("ERR", "Protocol error: invalid bulk length")),
            ),
            (b"-DENIED\r\n", Some(("DENIED", ""))),
            (b"-ERR half", None),
            (b"-ERR first\r\n+OK\r\n", None),
            (b"", None),
        ] {
            let found = last_error(tail);
            let found = found.as_ref().map(|(code, detail)| (code.as_str(), detail.as_str()));
            assert_eq!(found, expected, "{}", tail.escape_ascii());
        }
    }

    /// The words are there and the connection is gone before anything was sent: the first write fails, or the second.
    #[tokio::test]
    async fn a_write_to_a_server_that_has_gone_does_not_hide_what_it_said() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket of ours");
        io::Write::write_all(&mut &theirs, b"-ERR max number of clients reached\r\n").expect("there is room");
        drop(theirs);
        let socket = CacheSocket::Unix(UnixStream::from_std(ours).expect("a socket"));
        let (mut stream, heard) = Stream::new(socket);
        for _ in 0..3 {
            stream.write_all(b"PING\r\n").await.expect("the read says that it is gone");
        }
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await; // Closed or reset: both are its end.
        assert_eq!(heard.last_words(), Some(("ERR".to_owned(), "max number of clients reached".to_owned())));
        assert!(heard.take_end().is_some());
    }
}
