//! Requests over HTTP/1.1: one connection for each purpose, one request at a time on it, no redirects.
//!
//! The invariant is that of `cache/redis.rs`: a connection is taken out of its lane for a request and put back when the
//! whole answer was read. Nothing is sent twice here but what never left: whether a request may be repeated after it was
//! sent is for the caller to say.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::io::HyperStream;
use crate::amount::shown;
use crate::cache::place::HostPort;
use crate::cache::{address, socket};
use crate::error::{Error, Exit, Result};
use crate::stranger::{self, Stranger};
use crate::tls::{self, Trust};

/// What an answer may weigh: a page of a scan with the longest keys there can be.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The slowest link that is not taken for a hung one: a request gets the timeout and a second for each of these.
const BYTES_PER_SECOND_MIN: usize = 1024 * 1024;
/// A connection that was idle for longer is not used again: the other end may be about to close it, and whether a request
/// that meets the end was executed is then anybody's guess.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// What was written last can be read behind this token.
const SYNC_TOKEN: &str = "upstash-sync-token";

/// Where the service is and what every request says.
pub(super) struct Client {
    place: HostPort,
    /// `None` without TLS.
    trust: Option<Arc<Trust>>,
    headers: HeaderMap,
    timeout: Duration,
    /// Of our own last write.
    sync: RefCell<Option<HeaderValue>>,
}

/// A connection that waits for the next request of one purpose.
#[derive(Default)]
pub(super) struct Lane(Cell<Option<Connection>>);

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer as a whole.
pub(super) struct HttpAnswer {
    pub(super) status: StatusCode,
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

impl Client {
    pub(super) fn new(place: HostPort, trust: Option<Arc<Trust>>, token: &str, timeout: Duration) -> Result<Self> {
        let unfit = |_| {
            Error::definite(Exit::Config, "the token holds characters that no token has")
                .hint("Copy UPSTASH_REDIS_REST_TOKEN as the service shows it, without quotes, spaces or line breaks.")
        };
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(unfit)?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        let host = HeaderValue::try_from(place.to_string()).map_err(|_| address::bad_url("names no host"))?;
        headers.insert(HOST, host);
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("upstash-encoding", HeaderValue::from_static("base64"));
        Ok(Client { place, trust, headers, timeout, sync: RefCell::default() })
    }

    /// Sends one request and reads the whole answer. `writes`: reads behind it must see what it did.
    pub(super) async fn post(
        &self,
        lane: &Lane,
        path: &str,
        body: Vec<u8>,
        writes: bool,
    ) -> std::result::Result<HttpAnswer, Unanswered> {
        let limit = self.timeout + Duration::from_secs((body.len() / BYTES_PER_SECOND_MIN) as u64);
        let (body, mut unsent) = (Bytes::from(body), None);
        for _ in 0..2 {
            let mut connection = self.connection(lane).await.map_err(Unanswered::Unsent)?;
            let sent = timeout(limit, self.exchange(&mut connection, self.request(path, body.clone()))).await;
            match sent {
                Ok(Ok((answer, sync))) => {
                    connection.since = Instant::now();
                    if !connection.sender.is_closed() {
                        lane.0.set(Some(connection));
                    }
                    if let Some(sync) = sync.filter(|_| writes) {
                        self.sync.replace(Some(sync));
                    }
                    return Ok(answer);
                }
                // It was closed while it was idle, before anything of the request had left.
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

    fn request(&self, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().expect("a path of plain characters");
        request.headers_mut().clone_from(&self.headers);
        if path == "/" || path == "/pipeline" || path == "/multi-exec" {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(sync) = self.sync.borrow().as_ref() {
            request.headers_mut().insert(SYNC_TOKEN, sync.clone());
        }
        request
    }

    /// The answer and its sync token; an error with whether the request never left.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<(HttpAnswer, Option<HeaderValue>), (Error, bool)> {
        let failed = |error: hyper::Error| {
            let never_left = error.is_canceled();
            (Error::transient("the connection to the cache failed").because(error), never_left)
        };
        connection.sender.ready().await.map_err(|error| (failed(error).0, true))?;
        let response = connection.sender.send_request(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|cause| (Error::transient("the answer of the cache broke off").because(cause), false))?;
        let sync = head.headers.get(SYNC_TOKEN).cloned();
        Ok((HttpAnswer { status: head.status, body: body.to_bytes() }, sync))
    }

    /// The one that waits in the lane while it is young, or a new one.
    async fn connection(&self, lane: &Lane) -> Result<Connection> {
        let waiting = lane.0.take().filter(|waiting| waiting.since.elapsed() < IDLE_MAX && !waiting.sender.is_closed());
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
        let socket = socket::tcp(host, *port).await.map_err(address::unconnected)?;
        let Some(trust) = &self.trust else { return handshake(socket).await };
        let bad_name = |cause| address::bad_url("names a host that no certificate can name").because(cause);
        let name = ServerName::try_from(host.clone()).map_err(bad_name)?;
        let connector = TlsConnector::from(trust.config().await?);
        match connector.connect(name, socket).await {
            Ok(stream) => handshake(stream).await,
            Err(cause) => Err(self.no_tls(cause, trust).await),
        }
    }

    /// The handshake of TLS failed: perhaps another server answers there.
    async fn no_tls(&self, cause: std::io::Error, trust: &Trust) -> Error {
        let HostPort { host, port } = &self.place;
        let stranger = stranger::ask(async || socket::tcp(host, *port).await).await;
        let (message, hint) = match stranger {
            Some(Stranger::Cache) => (
                "the server speaks the Redis protocol at this port, and transport is \"rest\"",
                "Write the address of the REST interface, which has port 443; or transport = \"tcp\".",
            ),
            Some(Stranger::Web) => (
                "a web server without TLS answers there",
                "Correct host and port of the address; something between may answer in the service's place.",
            ),
            Some(Stranger::Postgres) => {
                ("PostgreSQL answers there, not a cache", "Correct host and port of the address.")
            }
            Some(Stranger::Tls) | None => return tls::failed(cause, host, trust),
        };
        Error::transient(message).hint(hint)
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Connection> {
    let failed = |cause| Error::transient("the connection to the cache failed").because(cause);
    let (sender, connection) = http1::handshake(HyperStream::new(stream)).await.map_err(failed)?;
    // What ends the connection is told to whoever waits for an answer on it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, driver, since: Instant::now() })
}
