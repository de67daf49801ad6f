//! `/metrics`, `/healthz` and `/readyz`: a few lines of HTTP/1.1 for whoever watches.
//!
//! It answers GET and HEAD, one request for each connection, and nothing else of HTTP; a library would bring more than
//! these lines. It cannot disturb the loop: it is a task of its own that only reads a snapshot under a lock held for
//! microseconds, and connections are bounded in number, in bytes and in time.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::budget::Budget;
use crate::cache::health::Health;
use crate::error::{Error, Exit, Result};
use crate::kernel;
use crate::metrics::{CacheState, Metrics, Outside};
use crate::observe::news::News;
use crate::observe::recent::Recent;
use crate::observe::speaker::{CacheName, speaker};
use crate::observe::{Id, log};

/// Connections at once; the others wait in the listener's queue.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of a request's head.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// From the accepted connection to the last byte of the answer.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Before the next try when no connection can be accepted: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What is shown, shared with the loop's news.
#[derive(Clone)]
pub struct AdminState {
    metrics: Arc<Mutex<Metrics>>,
    caches: Arc<Mutex<Vec<WatchedCache>>>,
    recent: Recent,
    /// When the process started, since 1970.
    started: Duration,
}

/// A cache that is watched.
#[derive(Clone, Debug)]
pub struct WatchedCache {
    /// What the configuration calls it.
    pub name: CacheName,
    /// The daemon is ready only with it.
    pub required: bool,
    /// Whether it answers.
    pub health: Arc<Health>,
    /// What may be billed there.
    pub budget: Option<Budget>,
}

impl WatchedCache {
    /// What it is like now.
    pub fn state(&self) -> CacheState {
        let WatchedCache { name, required, health, budget } = self;
        let (away, outages) = (health.is_away(), health.outages());
        let returns = health.returns();
        let (billed, budget, sentinels) = (health.billed(), *budget, health.sentinels());
        CacheState {
            name: CacheName::clone(name),
            required: *required,
            away,
            outages,
            returns,
            billed,
            budget,
            sentinels,
        }
    }
}

impl AdminState {
    /// Of a daemon that starts now, with these caches; its lines of the log are in `recent`.
    pub fn new(caches: Vec<WatchedCache>, recent: Recent) -> Self {
        let metrics = Arc::new(Mutex::new(Metrics::new(Instant::now())));
        AdminState { metrics, caches: Arc::new(Mutex::new(caches)), recent, started: since_1970() }
    }

    /// Of these caches from now on.
    pub fn watch(&self, caches: Vec<WatchedCache>) {
        *self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = caches;
    }

    fn states(&self) -> Vec<CacheState> {
        let caches = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        caches.iter().map(WatchedCache::state).collect()
    }

    /// Takes what the loop says.
    pub fn news(&self, news: &News) {
        self.metrics().news(news, speaker().as_ref(), Instant::now());
    }

    /// The configuration was read again.
    pub fn reloaded(&self, succeeded: bool) {
        self.metrics().reloaded(succeeded, since_1970());
    }

    /// The page of `/metrics`. What the kernel says is read first: the loop tells its news under the same lock.
    fn page(&self) -> String {
        let (caches, process) = (self.states(), kernel::process(self.started));
        let warnings: Vec<_> = self.recent.warned().each().collect();
        self.metrics().text(&Outside { caches: &caches, process, warnings: &warnings }, Instant::now())
    }

    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn answer(&self, request: &Request) -> Answer {
        if *request == Request::Get("/metrics".to_owned()) {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            return Answer { status: "200 OK", kind, body: self.page() };
        }
        let now = Instant::now();
        let (caches, metrics) = (self.states(), self.metrics());
        let each = metrics.of_each(&caches, now);
        let verdict = |is_well: bool, what: &str| {
            let status = if is_well { "200 OK" } else { "503 Service Unavailable" };
            Answer::text(status, format!("{what}\n{each}"))
        };
        match request {
            Request::Bad => Answer::text("400 Bad Request", "not a request of HTTP/1\n"),
            Request::OtherMethod => Answer::text("405 Method Not Allowed", "only GET and HEAD\n"),
            Request::Get(path) => match path.as_str() {
                "/healthz" => {
                    let dead = metrics.dead(now);
                    verdict(dead.is_none(), dead.unwrap_or("alive"))
                }
                "/readyz" => match metrics.standing(&caches) {
                    Ok(what) => verdict(true, &what),
                    Err(reason) => verdict(false, &reason),
                },
                _ => Answer::text("404 Not Found", "there is /metrics, /healthz and /readyz\n"),
            },
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// What was asked.
#[derive(PartialEq, Eq, Debug)]
enum Request {
    /// GET or HEAD of this path, without its query.
    Get(String),
    OtherMethod,
    Bad,
}

impl Request {
    /// From the first line of a request's head.
    fn parse(head: &[u8]) -> Self {
        let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
        let Ok(line) = std::str::from_utf8(line) else { return Request::Bad };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [method, path, version] if version.starts_with("HTTP/1.") && path.starts_with('/') => match method {
                "GET" | "HEAD" => Request::Get(path.split('?').next().unwrap_or_default().to_owned()),
                _ => Request::OtherMethod,
            },
            _ => Request::Bad,
        }
    }
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }

    fn bytes(&self, head_only: bool) -> String {
        let Answer { status, kind, body } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        );
        if head_only { head } else { head + body }
    }
}

/// Listens, and answers from then on in a task of its own.
pub async fn serve(address: SocketAddr, watch: AdminState) -> Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|cause| {
        // A port that is taken, and an address that the machine does not have yet, may come right by themselves.
        let (exit, hint) = match cause.kind() {
            ErrorKind::PermissionDenied => (Exit::NoPermission, "Choose a port above 1023: change admin.listen."),
            _ => (Exit::Os, "Another process listens there, or it is no address of this machine: change admin.listen."),
        };
        Error::definite(exit, format!("cannot listen on {address}")).because(cause).hint(hint)
    })?;
    log!(Id::MetricsServed, address = %listener.local_addr().unwrap_or(address), "metrics are served");
    tokio::spawn(accept(listener, watch));
    Ok(())
}

async fn accept(listener: TcpListener, watch: AdminState) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        match listener.accept().await {
            Ok((socket, _)) => {
                let watch = watch.clone();
                tokio::spawn(async move {
                    // Whoever asks and does not listen is none of our business.
                    let _ = timeout(TIME_MAX, converse(socket, &watch)).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(mut socket: TcpStream, watch: &AdminState) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX {
            let answer = Answer::text("431 Request Header Fields Too Large", "the request is too long\n");
            return socket.write_all(answer.bytes(false).as_bytes()).await;
        }
        let mut part = [0; 1024];
        match socket.read(&mut part).await? {
            0 => return Ok(()),
            read => head.extend_from_slice(&part[..read]),
        }
    }
    let answer = watch.answer(&Request::parse(&head)).bytes(head.starts_with(b"HEAD "));
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_http_1_is_answered() {
        let get = |path: &str| Request::Get(path.to_owned());
        let cases = [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", get("/metrics")),
            ("HEAD /readyz?x=1 HTTP/1.0\r\n\r\n", get("/readyz")),
            ("POST /metrics HTTP/1.1\r\n\r\n", Request::OtherMethod),
            ("GET http://a/metrics HTTP/1.1\r\n\r\n", Request::Bad),
            ("GET /metrics HTTP/2\r\n\r\n", Request::Bad),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Request::Bad),
            ("*1\r\n$4\r\nPING\r\n", Request::Bad),
            ("", Request::Bad),
        ];
        for (head, request) in cases {
            assert_eq!(Request::parse(head.as_bytes()), request, "{head:?}");
        }
    }
}
