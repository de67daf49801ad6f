//! A byte stream to a server: socket, TLS negotiation as `sslmode` says, and the order in which hosts are tried.
//!
//! Both kinds of session, replication and ordinary, are built on it, so that they cannot differ in what they prove.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::amount::shown;
use crate::error::{Class, Error, Exit, Result};
use crate::postgres::dsn::{Dsn, Host, HostPlace, SslMode};
use crate::postgres::socket::{ReceiveWindow, Socket, UNCONNECTED};
use crate::postgres::sqlstate::CANNOT_CONNECT_NOW;
use crate::postgres::tls::end_point;
use crate::stranger::{self, Stranger};
use crate::tls;

/// The `SSLRequest` message (PostgreSQL documentation, "SSL Session Encryption").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// `AuthenticationCleartextPassword`, whole.
const CLEARTEXT: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];

/// One way to open a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attempt {
    Plain,
    Tls,
    /// TLS where the server has it.
    Offered,
}

/// A byte stream to a server.
#[derive(Debug)]
pub enum Link {
    /// Without TLS. A request for a clear-text password ends a TCP connection before anybody can answer it.
    Plain {
        /// The socket.
        socket: Socket,
        /// How many bytes of [`CLEARTEXT`] the server has sent, while it can still become one.
        cleartext: Option<usize>,
    },
    /// Under TLS.
    Tls(Box<TlsStream<Socket>>),
}

fn attempts(mode: SslMode, place: &HostPlace) -> &'static [Attempt] {
    match (place, mode) {
        // As in libpq: a unix socket never uses TLS.
        (HostPlace::Unix(_), _) | (_, SslMode::Disable) => &[Attempt::Plain],
        (_, SslMode::Allow) => &[Attempt::Plain, Attempt::Tls],
        (_, SslMode::Prefer) => &[Attempt::Offered, Attempt::Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Attempt::Tls],
    }
}

/// Tries the hosts in order until `login` succeeds on one; `limit` is for each.
///
/// A wrong password ends the tries at once: repeated ones get an address banned on hosted servers.
pub async fn each_host<T>(
    dsn: &Dsn,
    limit: Duration,
    window: ReceiveWindow,
    login: impl AsyncFn(Link) -> Result<T>,
) -> Result<T> {
    let mut told = Error::definite(Exit::Config, "the connection string names no host");
    for host in &dsn.hosts {
        let tried = each_kind(dsn, host, limit, window, &login).await;
        let error = match tried.map_err(|error| error.at(&dsn.server(host))) {
            Err(error) if is_refused_login(&error) => return Err(error),
            Err(error) => error,
            session => return session,
        };
        if despair(&error) <= despair(&told) {
            told = error;
        }
    }
    Err(told)
}

/// Tries the kinds of connection to one host; the last error says what it comes to.
async fn each_kind<T>(
    dsn: &Dsn,
    host: &Host,
    limit: Duration,
    window: ReceiveWindow,
    login: &impl AsyncFn(Link) -> Result<T>,
) -> Result<T> {
    let mut last = Error::definite(Exit::Software, "there is no way to connect");
    for attempt in attempts(dsn.tls.mode, &host.place) {
        let tried = timeout(limit, async { login(open(dsn, host, *attempt, window).await?).await }).await;
        let late = |_| Err(Error::transient(format!("no answer within {}", shown(limit))));
        last = match tried.unwrap_or_else(late) {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        // It says nothing of who is there, and not being there is not its cause.
        let is_mute = last.sqlstate.is_none() && last.hint.is_none() && last.message != UNCONNECTED;
        if is_mute && let Some(error) = stranger(dsn, host).await {
            return Err(error);
        }
        let is_of_this_kind = last.sqlstate.is_none() || is_refused_kind(&last);
        if !is_of_this_kind {
            break;
        }
    }
    Err(last)
}

/// Who answers at the host, if that is not PostgreSQL.
async fn stranger(dsn: &Dsn, host: &Host) -> Option<Error> {
    if let HostPlace::Unix(_) = host.place {
        return None;
    }
    let connect = async || Socket::connect(dsn, host, ReceiveWindow::Default).await.map_err(io::Error::other);
    unlike(stranger::ask(connect).await?)
}

/// What it means that this one answers.
fn unlike(stranger: Stranger) -> Option<Error> {
    let (who, hint) = match stranger {
        Stranger::Postgres => return None,
        Stranger::Cache => (
            "a server of the Redis protocol answers",
            "Name host and port of PostgreSQL (5432 unless told otherwise); postgres.url and cache.url may be exchanged.",
        ),
        Stranger::Tls => (
            "something that begins with TLS answers",
            "Name PostgreSQL's own port (5432 unless told otherwise), not that of a cache or of a web server.",
        ),
        Stranger::Web => (
            "a web server answers",
            "Name host and port of PostgreSQL (5432 unless told otherwise), not those of an interface of HTTP.",
        ),
    };
    Some(Error::transient(format!("{who} there, not PostgreSQL")).hint(hint))
}

/// 28000: pg_hba.conf may refuse this kind of connection and take the other.
fn is_refused_kind(error: &Error) -> bool {
    error.sqlstate.as_deref() == Some("28000")
}

fn is_refused_login(error: &Error) -> bool {
    error.class == Class::TransientSlow && !is_refused_kind(error)
}

/// How little an error lets hope. The host with the most hope decides for all: one that restarts is back in a second,
/// whatever the others have to say, and the daemon must neither stop nor pause for minutes because of them. One that is
/// wrong for good is said as soon as no other gives hope.
fn despair(error: &Error) -> u8 {
    match error.class {
        // A server that goes down waits for the stream, so this must not be lost behind another host's refusal.
        Class::Transient if error.sqlstate.as_deref() == Some(CANNOT_CONNECT_NOW) => 0,
        Class::Transient => 1,
        Class::TransientSlow => 2,
        Class::Definite(_) => 3,
    }
}

async fn open(dsn: &Dsn, host: &Host, attempt: Attempt, window: ReceiveWindow) -> Result<Link> {
    let mut socket = Socket::connect(dsn, host, window).await?;
    let plain = |socket: Socket| {
        let cleartext = (!socket.is_unix()).then_some(0);
        Ok(Link::Plain { socket, cleartext })
    };
    if attempt == Attempt::Plain {
        return plain(socket);
    }
    let fail = |cause: io::Error| Error::transient("ask for TLS").because(cause);
    socket.write_all(&SSL_REQUEST).await.map_err(fail)?;
    // One byte and no more: whatever a stranger put behind it must not count as said under TLS (CVE-2021-23222).
    let mut answer = [0];
    socket.read_exact(&mut answer).await.map_err(fail)?;
    match (answer[0], attempt) {
        (b'S', _) => {}
        (b'N', Attempt::Offered) => return plain(socket),
        (b'N', _) => {
            return Err(Error::definite(Exit::Unavailable, "the server does not offer TLS")
                .hint("Switch ssl on at the server, or say sslmode=disable in the connection string."));
        }
        // Whoever it is, `each_kind` asks.
        _ => return Err(Error::transient("what answers there is not PostgreSQL")),
    }
    let name = match &host.place {
        HostPlace::Tcp { name, .. } => name.clone(),
        HostPlace::Unix(_) => "localhost".to_owned(),
    };
    let bad_name = |cause| {
        let error = Error::definite(Exit::Config, format!("host \"{name}\" is no name that a certificate can hold"));
        error.hint("Name the server by its name in the domain name system, or by its address.").because(cause)
    };
    let server = ServerName::try_from(name.clone()).map_err(bad_name)?;
    let connector = tokio_rustls::TlsConnector::from(dsn.tls.trust.config().await?);
    let failed = |cause| tls::failed(cause, &name, &dsn.tls.trust);
    let stream = connector.connect(server, socket).await.map_err(failed)?;
    Ok(Link::Tls(Box::new(stream)))
}

impl Link {
    /// The data of `tls-server-end-point` channel binding; `None` without TLS or without a hash for the certificate.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        match self {
            Link::Plain { .. } => None,
            Link::Tls(stream) => end_point(stream.get_ref().1.peer_certificates()?.first()?),
        }
    }

    /// Whether TLS protects it.
    pub fn is_tls(&self) -> bool {
        matches!(self, Link::Tls(_))
    }

    /// The socket under it.
    pub fn socket(&self) -> &Socket {
        match self {
            Link::Plain { socket, .. } => socket,
            Link::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Counts how much of a request for a clear-text password the first bytes of a session are.
fn watch(cleartext: &mut Option<usize>, read: &[u8]) -> io::Result<()> {
    for byte in read {
        match *cleartext {
            Some(seen) if CLEARTEXT[seen] == *byte => *cleartext = Some(seen + 1),
            _ => *cleartext = None,
        }
        match *cleartext {
            Some(seen) if seen == CLEARTEXT.len() => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the server asks for a clear-text password without TLS: say sslmode=require or stronger",
                ));
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain { socket, cleartext } => {
                let before = buf.filled().len();
                let polled = Pin::new(socket).poll_read(cx, buf);
                if cleartext.is_some() && matches!(polled, Poll::Ready(Ok(()))) {
                    watch(cleartext, &buf.filled()[before..])?;
                }
                polled
            }
            Link::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Link::Plain { socket, .. } => Pin::new(socket).poll_write(cx, bytes),
            Link::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain { socket, .. } => Pin::new(socket).poll_flush(cx),
            Link::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain { socket, .. } => Pin::new(socket).poll_shutdown(cx),
            Link::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// One exchange with a server that must answer in time.
pub(crate) async fn answered<T>(limit: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, step).await {
        Ok(result) => result,
        Err(_) => Err(Error::transient(format!("the server gave no answer within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::sqlstate::server_error;

    /// What is told when the hosts answer with these codes; one without a code is not there.
    async fn told(codes: &[&str]) -> Option<String> {
        let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let port = listening.local_addr().expect("a bound socket has an address").port();
        let host = |code: &&str| format!("127.0.0.1:{}", if code.is_empty() { 1 } else { port });
        let hosts: Vec<String> = codes.iter().map(host).collect();
        let url = format!("postgres://u@{}/d?sslmode=disable", hosts.join(","));
        let dsn = Dsn::parse(&url).expect("a valid URL");
        let said = std::cell::RefCell::new(codes.iter().filter(|code| !code.is_empty()));
        let login = async |_| -> Result<()> {
            let code = said.borrow_mut().next().expect("a host with a code");
            Err(server_error(code, "no"))
        };
        let error = each_host(&dsn, Duration::from_secs(5), ReceiveWindow::Default, login).await;
        error.expect_err("no host lets us in").sqlstate
    }

    #[tokio::test]
    async fn the_host_that_gives_the_most_hope_is_told_in_any_order() {
        for (codes, expected) in [
            (["57P03", ""], Some("57P03")),
            (["57P03", "28000"], Some("57P03")),
            (["57P03", "3D000"], Some("57P03")),
            (["", "28000"], None),
            (["", "3D000"], None),
            (["28000", "3D000"], Some("28000")),
            (["3D000", "3D000"], Some("3D000")),
        ] {
            for codes in [codes, [codes[1], codes[0]]] {
                assert_eq!(told(&codes).await.as_deref(), expected, "{codes:?}");
            }
        }
        assert_eq!(told(&["53300", "53400"]).await.as_deref(), Some("53400"), "of equals the last");
        assert_eq!(told(&["", "28P01", "57P03"]).await.as_deref(), Some("28P01"), "it ends the tries");
    }

    #[test]
    fn a_clear_text_request_is_seen_in_any_pieces_and_nothing_else_is() {
        for step in 1..=CLEARTEXT.len() {
            let mut seen = Some(0);
            assert!(CLEARTEXT.chunks(step).any(|piece| watch(&mut seen, piece).is_err()), "pieces of {step}");
        }
        let mut seen = Some(0);
        assert!(watch(&mut seen, b"R\0\0\0\x0c\0\0\0\x05salt").is_ok() && seen.is_none());
    }
}
