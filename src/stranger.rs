//! What answers at an address where the server does not that should: an address is easily that of another one.
//!
//! Asked only after a failure that says nothing by itself, with three short questions, none of which holds a secret.

use std::io;
use std::time::Duration;

use futures_util::future::join3;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Whoever answers does so at once; whoever does not is not waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// Who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stranger {
    /// A server that speaks the Redis protocol, without TLS.
    Cache,
    /// PostgreSQL, or a pooler of it.
    Postgres,
    /// Something that begins with TLS.
    Tls,
    /// A web server.
    Web,
}

/// What a cache answers with a line, whoever asks.
const PING: &[u8] = b"PING\r\n";

/// What PostgreSQL answers with one letter (`SSLRequest`).
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The smallest ClientHello of TLS 1.2 (RFC 5246, section 7.4.1.2): one cipher suite, no extension, no randomness. A
/// server answers it with its hello or with an alert.
fn hello() -> Vec<u8> {
    let (head, tail) = (b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x03", b"\0\0\x02\xc0\x2f\x01\0");
    [head.as_slice(), &[0; 32], tail].concat()
}

/// Who speaks with these first bytes, unasked or to a question that was not theirs.
pub fn of(first: &[u8]) -> Option<Stranger> {
    match first {
        [0x15 | 0x16, 3, ..] => Some(Stranger::Tls),
        [b'H', b'T', b'T', b'P', b'/', ..] => Some(Stranger::Web),
        [b'+' | b'-', b'A'..=b'Z', ..] => Some(Stranger::Cache),
        _ => None,
    }
}

/// Who answers where `connect` leads to.
pub async fn ask<S>(connect: impl AsyncFn() -> io::Result<S>) -> Option<Stranger>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = async |question: &[u8]| -> Vec<u8> {
        let asked = async {
            let mut stream = connect().await?;
            stream.write_all(question).await?;
            let mut answer = [0; 8];
            let length = stream.read(&mut answer).await?;
            io::Result::Ok(answer[..length].to_vec())
        };
        // Whoever refuses, closes or keeps silent has said nothing of who it is.
        timeout(LIMIT, asked).await.ok().and_then(io::Result::ok).unwrap_or_default()
    };
    let hello = hello();
    let (to_ping, to_request, to_hello) = join3(first(PING), first(SSL_REQUEST), first(&hello)).await;
    if let [b'S' | b'N'] = to_request.as_slice() {
        return Some(Stranger::Postgres);
    }
    [to_ping, to_hello, to_request].iter().find_map(|answer| of(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_who_speaks() {
        for (first, expected) in [
            (&b"\x15\x03\x03\0\x02\x02\x28"[..], Some(Stranger::Tls)),
            (b"\x16\x03\x03\0\x31", Some(Stranger::Tls)),
            (b"HTTP/1.1 400 Bad Request", Some(Stranger::Web)),
            (b"+PONG\r\n", Some(Stranger::Cache)),
            (b"-NOAUTH Authentication required.\r\n", Some(Stranger::Cache)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", None),
            (b"", None),
        ] {
            assert_eq!(of(first), expected, "{}", first.escape_ascii());
        }
    }
}
