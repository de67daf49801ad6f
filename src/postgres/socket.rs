//! A connected socket, TCP or unix, and the options that decide whether a dead peer is noticed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use crate::error::{Error, Result};
use crate::postgres::dsn::{Dsn, Host, HostPlace};

/// The receive window of the replication session, in bytes; Linux doubles it for its own bookkeeping. Small on purpose:
/// see [`lazy`](crate::source::replication::lazy).
const RECEIVE_WINDOW: u32 = 64 * 1024;

/// Unacknowledged data may linger this long before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The error of a host that nobody answers at.
pub const UNCONNECTED: &str = "cannot connect";

/// A name without an address.
fn unresolved(cause: io::Error) -> Error {
    let hint = "Correct the host's name in the connection string, or the resolver of this machine.";
    Error::transient(UNCONNECTED).hint(hint).because(cause)
}

/// The same with its cause, and what to do where the cause tells.
fn unconnected(cause: io::Error) -> Error {
    let error = Error::transient(UNCONNECTED);
    let error = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            error.hint("Nobody listens there: start the server, or correct host and port in the connection string.")
        }
        io::ErrorKind::NotFound => {
            error.hint("Correct the host, or the folder of the socket, in the connection string.")
        }
        _ => error,
    };
    error.because(cause)
}

/// How much the kernel may receive ahead of us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveWindow {
    /// A small, fixed window, so that a backlog can fill it.
    Small,
    /// What the kernel thinks best.
    Default,
}

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// Connects to a host, trying each of its addresses in order.
    pub async fn connect(dsn: &Dsn, host: &Host, window: ReceiveWindow) -> Result<Self> {
        let fail = unconnected;
        match &host.place {
            HostPlace::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", host.port));
                UnixStream::connect(path).await.map(Socket::Unix).map_err(fail)
            }
            HostPlace::Tcp { addr: Some(addr), .. } => {
                tcp(dsn, SocketAddr::new(*addr, host.port), window).await.map_err(fail)
            }
            HostPlace::Tcp { name, addr: None } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in lookup_host((name.as_str(), host.port)).await.map_err(unresolved)? {
                    match tcp(dsn, address, window).await {
                        Ok(socket) => return Ok(socket),
                        Err(error) => last = error,
                    }
                }
                Err(fail(last))
            }
        }
    }

    /// Whether the peer can only be on this machine.
    pub fn is_unix(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Waits until something can be read, by the low-water mark.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.readable().await,
            Socket::Unix(stream) => stream.readable().await,
        }
    }

    /// Asks the kernel to wake us only when `bytes` can be read, or the window is full (`SO_RCVLOWAT`, socket(7); the
    /// kernel lowers the value to half of the receive buffer). Linux ignores it on unix sockets, which need it least.
    #[allow(unsafe_code)]
    pub fn set_receive_low_water(&self, bytes: i32) {
        let Socket::Tcp(stream) = self else { return };
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open while `stream` lives, and the pointer is to an int of the size given. A
        // refusal changes nothing but speed.
        unsafe {
            let value: *const libc::c_int = &bytes;
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value.cast(), size);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

async fn tcp(dsn: &Dsn, address: SocketAddr, window: ReceiveWindow) -> io::Result<Socket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if window == ReceiveWindow::Small {
        // Before the connection: the window's scale is agreed in the handshake.
        socket.set_recv_buffer_size(RECEIVE_WINDOW)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let options = SockRef::from(&stream);
    if dsn.config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(dsn.config.get_keepalives_idle().min(USER_TIMEOUT));
        keepalive = keepalive.with_interval(dsn.config.get_keepalives_interval().unwrap_or(Duration::from_secs(5)));
        keepalive = keepalive.with_retries(dsn.config.get_keepalives_retries().unwrap_or(3));
        options.set_tcp_keepalive(&keepalive)?;
    }
    options.set_tcp_user_timeout(Some(dsn.tcp_user_timeout.unwrap_or(USER_TIMEOUT)))?;
    Ok(Socket::Tcp(stream))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
