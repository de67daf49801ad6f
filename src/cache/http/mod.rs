//! Requests over HTTP/1.1: one connection for each purpose, one request at a time on it, no redirects.
//!
//! The invariant is that of `cache/redis.rs`: a connection is taken out of its lane for a request and put back when the
//! whole answer was read. Nothing is sent twice here but what never left, and a page that is asked for on a connection which
//! the site was just closing. Whether another request may be repeated after it was sent is for the caller to say, and so is
//! what an answer means.

mod io;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::amount::shown;
use crate::cache::place::HostPort;
use crate::cache::{address, socket};
use crate::error::{Error, Result};
use crate::stranger::{self, Stranger};
use crate::tls::{self, Trust};
use io::HyperStream;

/// The slowest link that is not taken for a hung one: a request gets the timeout and a second for each of these.
const BYTES_PER_SECOND_MIN: usize = 1024 * 1024;
/// A connection that was idle for longer is not used again: the other end may be about to close it, and whether a request
/// that meets the end was executed is then anybody's guess.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// The same of a sink or a site: servers of Node.js close a connection that was idle for five seconds.
const SITE_IDLE_MAX: Duration = Duration::from_secs(3);

/// Where the service is and what every request says.
pub(super) struct Client {
    place: HostPort,
    /// `None` without TLS.
    trust: Option<Arc<Trust>>,
    headers: HeaderMap,
    timeout: Duration,
    /// What an answer may weigh.
    answer_bytes_max: usize,
    far: FarEnd,
}

/// What is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FarEnd {
    /// A cache, whose answers are its replies.
    Cache,
    /// A sink, of whose answers the status counts; the rest may be missing.
    Sink,
    /// A site, of whose pages nothing is kept.
    Site,
}

impl FarEnd {
    fn name(self) -> &'static str {
        match self {
            FarEnd::Cache => "the cache",
            FarEnd::Sink => "the sink",
            FarEnd::Site => "the site",
        }
    }

    /// A connection that was idle for longer is not used again.
    fn idle_max(self) -> Duration {
        if self == FarEnd::Cache { IDLE_MAX } else { SITE_IDLE_MAX }
    }
}

/// A connection that waits for the next request of one purpose.
#[derive(Default)]
pub(super) struct Lane(Cell<Option<Connection>>);

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    since: Instant,
    /// An answer came on it.
    is_used: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer as a whole.
pub(super) struct HttpAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The request never left.
    Unsent(Error),
    /// Whether it was executed is not known.
    Lost(Error),
}

impl Unanswered {
    pub(super) fn into_error(self) -> Error {
        match self {
            Unanswered::Unsent(error) | Unanswered::Lost(error) => error,
        }
    }
}

/// Reads a body and drops it; whether that was all of it, or the rest is too long.
async fn drained(mut body: Incoming, bytes_max: usize) -> hyper::Result<bool> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len());
        if bytes > bytes_max {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Client {
    /// `headers` are those of every request, besides the host.
    pub(super) fn new(
        place: HostPort,
        trust: Option<Arc<Trust>>,
        mut headers: HeaderMap,
        timeout: Duration,
        (far, answer_bytes_max): (FarEnd, usize),
    ) -> Result<Self> {
        // Some sites are found by their name alone.
        let is_usual = far != FarEnd::Cache && place.port == if trust.is_some() { 443 } else { 80 };
        let host = if is_usual && !place.host.contains(':') { place.host.clone() } else { place.to_string() };
        let host = HeaderValue::try_from(host).map_err(|_| address::bad_url("names no host"))?;
        headers.insert(HOST, host);
        Ok(Client { place, trust, headers, timeout, answer_bytes_max, far })
    }

    /// Sends one request with these headers besides, and reads the whole answer.
    pub(super) async fn post(
        &self,
        lane: &Lane,
        path: &str,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> std::result::Result<HttpAnswer, Unanswered> {
        self.send(lane, (Method::POST, path), headers, body).await
    }

    /// Asks for what is there.
    pub(super) async fn get(&self, lane: &Lane, path: &str) -> std::result::Result<HttpAnswer, Unanswered> {
        self.send(lane, (Method::GET, path), &HeaderMap::new(), Vec::new()).await
    }

    async fn send(
        &self,
        lane: &Lane,
        asked: (Method, &str),
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> std::result::Result<HttpAnswer, Unanswered> {
        let limit = self.timeout + Duration::from_secs((body.len() / BYTES_PER_SECOND_MIN) as u64);
        let (body, mut unsent) = (Bytes::from(body), None);
        for _ in 0..2 {
            let mut connection = self.connection(lane).await.map_err(Unanswered::Unsent)?;
            let request = self.request(&asked, headers, body.clone());
            let sent = timeout(limit, self.exchange(&mut connection, request)).await;
            match sent {
                Ok(Ok((answer, is_whole))) => {
                    (connection.since, connection.is_used) = (Instant::now(), true);
                    if is_whole && !connection.sender.is_closed() {
                        lane.0.set(Some(connection));
                    }
                    return Ok(answer);
                }
                // It was closed while it was idle, before anything of the request had left or, of a site, been answered.
                Ok(Err((error, true))) => unsent = Some(error),
                Ok(Err((error, false))) => return Err(Unanswered::Lost(error)),
                Err(_) => return Err(Unanswered::Lost(self.silent())),
            }
        }
        Err(Unanswered::Unsent(unsent.unwrap_or_else(|| self.silent())))
    }

    fn silent(&self) -> Error {
        Error::transient(format!("no answer within {}", shown(self.timeout)))
    }

    fn request(&self, (method, path): &(Method, &str), headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        request.method_mut().clone_from(method);
        *request.uri_mut() = path.parse().expect("a path of plain characters");
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().extend(headers.clone());
        request
    }

    /// The answer, and whether it is whole; an error with whether the request never left, or goes again all the same.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<(HttpAnswer, bool), (Error, bool)> {
        let far = self.far.name();
        let is_page_again = self.far == FarEnd::Site && connection.is_used;
        let failed = |error: hyper::Error| {
            let goes_again = error.is_canceled() || is_page_again;
            (Error::transient(format!("the connection to {far} failed")).because(error), goes_again)
        };
        connection.sender.ready().await.map_err(|error| (failed(error).0, true))?;
        let response = connection.sender.send_request(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let broke_off = |what: &str, cause| (Error::transient(format!("{what} broke off")).because(cause), false);
        let limited = |body| Limited::new(body, self.answer_bytes_max).collect();
        let (body, is_whole) = match self.far {
            FarEnd::Site => {
                let drained = drained(body, self.answer_bytes_max).await;
                (Bytes::new(), drained.map_err(|cause| broke_off("the page", cause.into()))?)
            }
            FarEnd::Sink => limited(body).await.map_or((Bytes::new(), false), |body| (body.to_bytes(), true)),
            FarEnd::Cache => {
                let whole = limited(body).await.map_err(|cause| broke_off("the answer of the cache", cause))?;
                (whole.to_bytes(), true)
            }
        };
        Ok((HttpAnswer { status: head.status, headers: head.headers, body }, is_whole))
    }

    /// The one that waits in the lane while it is young, or a new one.
    async fn connection(&self, lane: &Lane) -> Result<Connection> {
        let waiting = lane
            .0
            .take()
            .filter(|waiting| waiting.since.elapsed() < self.far.idle_max() && !waiting.sender.is_closed());
        match waiting {
            Some(waiting) => Ok(waiting),
            None => match timeout(self.timeout, self.open()).await {
                Ok(opened) => opened,
                Err(_) => Err(self.silent()),
            },
        }
    }

    async fn open(&self) -> Result<Connection> {
        let HostPort { host, port } = &self.place;
        let socket = socket::tcp(host, *port).await.map_err(|cause| self.unconnected(cause))?;
        let Some(trust) = &self.trust else { return self.handshake(socket).await };
        let bad_name = |cause| address::bad_url("names a host that no certificate can name").because(cause);
        let name = ServerName::try_from(host.clone()).map_err(bad_name)?;
        let connector = TlsConnector::from(trust.config().await?);
        match connector.connect(name, socket).await {
            Ok(stream) => self.handshake(stream).await,
            Err(cause) => Err(self.no_tls(cause, trust).await),
        }
    }

    fn unconnected(&self, cause: std::io::Error) -> Error {
        match (self.far, cause.kind()) {
            (FarEnd::Sink, std::io::ErrorKind::ConnectionRefused) => Error::transient("cannot connect")
                .hint("Nobody listens there: start the site, or correct host and port in url of the sink.")
                .because(cause),
            _ => address::unconnected(cause),
        }
    }

    /// The handshake of TLS failed: perhaps another server answers there.
    async fn no_tls(&self, cause: std::io::Error, trust: &Trust) -> Error {
        let HostPort { host, port } = &self.place;
        let stranger = stranger::ask(async || socket::tcp(host, *port).await).await;
        let (message, hint) = match stranger {
            Some(Stranger::Cache) if self.far != FarEnd::Cache => (
                "a server of the Redis protocol answers there, not a web server",
                "Correct host and port of the address.",
            ),
            Some(Stranger::Cache) => (
                "the server speaks the Redis protocol at this port, and transport is \"rest\"",
                "Write the address of the REST interface, which has port 443; or transport = \"tcp\".",
            ),
            Some(Stranger::Web) => (
                "a web server without TLS answers there",
                "Correct host and port of the address; something between may answer in the service's place.",
            ),
            Some(Stranger::Postgres) if self.far != FarEnd::Cache => {
                ("PostgreSQL answers there, not a web server", "Correct host and port of the address.")
            }
            Some(Stranger::Postgres) => {
                ("PostgreSQL answers there, not a cache", "Correct host and port of the address.")
            }
            Some(Stranger::Tls) | None => return tls::failed(cause, host, trust),
        };
        Error::transient(message).hint(hint)
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Connection> {
        let far = self.far.name();
        let failed = |cause| Error::transient(format!("the connection to {far} failed")).because(cause);
        let (sender, connection) = http1::handshake(HyperStream::new(stream)).await.map_err(failed)?;
        // What ends the connection is told to whoever waits for an answer on it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, driver, since: Instant::now(), is_used: false })
    }
}
