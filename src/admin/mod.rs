//! `/metrics`, `/healthz`, `/readyz` and the page at `/`: a few lines of HTTP/1.1 for whoever watches.
//!
//! It answers GET and HEAD, one request for each connection, and nothing else of HTTP; a library would bring more than
//! these lines. It cannot disturb the loop: it is a task of its own that only reads a snapshot under a lock held for
//! microseconds, and connections are bounded in number, in bytes and in time.

mod request;
mod show;
mod viewers;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::request::{PathAsked, Request};
use crate::admin::viewers::Viewers;
use crate::budget::Budget;
use crate::cache::health::Health;
use crate::error::{Error, Exit, Result};
use crate::kernel;
use crate::metrics::wrong::WrongNow;
use crate::metrics::{CacheState, Metrics, Outside};
use crate::observe::board::Board;
use crate::observe::news::News;
use crate::observe::recent::Recent;
use crate::observe::speaker::{CacheName, speaker};
use crate::observe::{Id, log};
use crate::page::snapshot::{DaemonShown, Places};
use crate::page::words::Language;
use crate::verify::tally::Verified;
use crate::warm::WarmTally;
use crate::words::Member;
use crate::{page, random};

pub use crate::admin::viewers::PageOptions;

/// Connections at once; the others wait in the listener's queue.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of a request's head.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// From the accepted connection to the last byte of the answer.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Before the next try when no connection can be accepted: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const UNKNOWN_HOST: &str = "this page is shown by an address, or by a name of admin.hosts\n";

/// What is shown, shared with the loop's news.
#[derive(Clone)]
pub struct AdminState {
    metrics: Arc<Mutex<Metrics>>,
    caches: Arc<Mutex<Vec<WatchedCache>>>,
    recent: Recent,
    /// When the process started, since 1970.
    started: Duration,
    places: Arc<Places>,
    viewers: Arc<Viewers>,
    /// What the verifier counted.
    verified: Arc<Mutex<Verified>>,
    /// What was counted of the pages that are fetched again.
    warmed: Arc<Mutex<WarmTally>>,
}

/// A cache that is watched.
#[derive(Clone, Debug)]
pub struct WatchedCache {
    /// What the configuration calls it.
    pub name: CacheName,
    /// A cache, or a sink.
    pub member: Member,
    /// The daemon is ready only with it.
    pub required: bool,
    /// Whether it answers.
    pub health: Arc<Health>,
    /// What may be billed there.
    pub budget: Option<Budget>,
    /// Where it is, without its password.
    pub place: String,
}

impl WatchedCache {
    /// What it is like now.
    pub fn state(&self) -> CacheState {
        let WatchedCache { name, member, required, health, budget, place } = self;
        let (away, outages) = (health.is_away(), health.outages());
        let returns = health.returns();
        let (billed, budget, sentinels) = (health.billed(), *budget, health.sentinels());
        CacheState {
            name: CacheName::clone(name),
            member: *member,
            place: place.clone(),
            required: *required,
            away,
            refuses: health.refuses(),
            away_since: health.away_since(),
            outages,
            returns,
            billed,
            budget,
            sentinels,
        }
    }
}

impl AdminState {
    /// Of a daemon that starts now, with these caches; its lines of the log are in `recent`, and single changes on the
    /// `board`.
    pub fn new(caches: Vec<WatchedCache>, places: Places, (recent, board): (Recent, Board), page: PageOptions) -> Self {
        AdminState {
            metrics: Arc::new(Mutex::new(Metrics::new(Instant::now()))),
            caches: Arc::new(Mutex::new(caches)),
            recent,
            started: since_1970(),
            places: Arc::new(places),
            viewers: Arc::new(Viewers::new(page, board)),
            verified: Arc::default(),
            warmed: Arc::default(),
        }
    }

    /// How the daemon stands now.
    pub fn snapshot(&self) -> DaemonShown {
        let (wrong, caches) = self.wrong();
        self.metrics().snapshot((wrong, &caches), &self.places, (Instant::now(), since_1970()))
    }

    /// What is wrong now, and in what state each cache and sink is.
    pub fn wrong(&self) -> (Vec<WrongNow>, Vec<CacheState>) {
        let (caches, verified, now) = (self.states(), self.counted_by_verifier(), Instant::now());
        let mut wrong = self.metrics().wrong(&caches, now);
        if verified.stale_now > 0 {
            let what = "cached keys are stale, as the verifier found".to_owned();
            wrong.push(WrongNow { what, since: now.checked_sub(verified.stale_age) });
        }
        (wrong, caches)
    }

    fn counted_by_verifier(&self) -> Verified {
        self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Of these caches from now on.
    pub fn watch(&self, caches: Vec<WatchedCache>) {
        *self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = caches;
    }

    fn states(&self) -> Vec<CacheState> {
        let caches = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        caches.iter().map(WatchedCache::state).collect()
    }

    /// Takes what the verifier counted.
    pub fn verified(&self, tally: Verified) {
        *self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tally;
    }

    /// Takes what was counted of pages.
    pub fn warmed(&self, tally: WarmTally) {
        *self.warmed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tally;
    }

    /// How far the sweep of a cache is: about so many parts of a hundred, and keys deleted.
    pub fn swept(&self, cache: &str) -> Option<(u64, u64)> {
        let caches = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        caches.iter().find(|watched| &*watched.name == cache).map(|watched| watched.health.progress().seen())
    }

    /// What the caches are called, and the tables of the rules in force; no table before the loop told of its rules.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let caches = self.states().iter().map(|state| state.name.to_string()).collect();
        (caches, self.metrics().tables())
    }

    /// Takes what the loop says.
    pub fn news(&self, news: &News) {
        let (mut metrics, now) = (self.metrics(), Instant::now());
        metrics.news(news, speaker().as_ref(), now);
        let counts = matches!(news, News::Rules(_) | News::Tally(_)).then(|| metrics.of_tables());
        drop(metrics);
        counts.into_iter().for_each(|tables| self.viewers.counted(tables, now));
    }

    /// The configuration was read again.
    pub fn reloaded(&self, succeeded: bool) {
        self.metrics().reloaded(succeeded, (Instant::now(), since_1970()));
    }

    /// The page of `/metrics`. What the kernel says is read first: the loop tells its news under the same lock.
    fn exposition(&self) -> String {
        let (caches, process) = (self.states(), kernel::process(self.started));
        let warnings: Vec<_> = self.recent.warned().each().collect();
        let verified = self.counted_by_verifier();
        let warmed = *self.warmed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let outside = Outside { caches: &caches, process, warnings: &warnings };
        self.metrics().text(&outside, Instant::now()) + &verified.series() + &warmed.series()
    }

    /// What it shows, for a command: `ready` and `alive` with their reasons.
    pub fn status(&self) -> serde_json::Value {
        // First: it takes the lock that is held below.
        let shown = self.view().json();
        let (now, caches, metrics) = (Instant::now(), self.states(), self.metrics());
        let (ready, why) = match metrics.standing(&caches) {
            Ok(what) => (true, what),
            Err(reason) => (false, reason),
        };
        let each: Vec<String> = metrics.of_each(&caches, now).lines().map(str::to_owned).collect();
        let standing = why.trim_end();
        serde_json::json!({
            "ready": ready, "standing": standing, "dead": metrics.dead(now), "caches": each, "shown": shown
        })
    }

    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn answer(&self, request: &Request) -> Answer {
        match request {
            Request::Bad => Answer::text("400 Bad Request", "not a request of HTTP/1\n"),
            Request::OtherMethod => Answer::text("405 Method Not Allowed", "only GET and HEAD\n"),
            Request::Get(asked) => match asked.path.as_str() {
                "/metrics" => Answer::of("text/plain; version=0.0.4; charset=utf-8", self.exposition()),
                "/healthz" | "/readyz" => self.verdict(&asked.path),
                path if path == "/" || path.starts_with("/runbook/") => self.page(asked),
                _ => Answer::text("404 Not Found", "there is /, /metrics, /healthz and /readyz\n"),
            },
        }
    }

    /// The page, or what the log means by one of its ids.
    fn page(&self, asked: &PathAsked) -> Answer {
        if !asked.is_by_a_known_name(&self.viewers.options.hosts) {
            return Answer::text("403 Forbidden", UNKNOWN_HOST);
        }
        let (language, nonce) = (asked.language(), random::text());
        let html = match asked.path.strip_prefix("/runbook/") {
            Some(id) => page::runbook(id, language, &nonce),
            None => Some(page::page(&self.view(), language, &nonce)),
        };
        match html {
            Some(html) => Answer { nonce: Some(nonce), ..Answer::of("text/html; charset=utf-8", html) },
            None => Answer::text("404 Not Found", "the log has no such id\n"),
        }
    }

    fn verdict(&self, path: &str) -> Answer {
        let now = Instant::now();
        let (caches, metrics) = (self.states(), self.metrics());
        let each = metrics.of_each(&caches, now);
        let verdict = |is_well: bool, what: &str| {
            let status = if is_well { "200 OK" } else { "503 Service Unavailable" };
            Answer::text(status, format!("{what}\n{each}"))
        };
        match (path, metrics.dead(now), metrics.standing(&caches)) {
            ("/healthz", dead, _) => verdict(dead.is_none(), dead.unwrap_or("alive")),
            (_, _, Ok(what)) => verdict(true, &what),
            (_, _, Err(reason)) => verdict(false, &reason),
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
    /// What allows the page its own style and script, and no others.
    nonce: Option<String>,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into(), nonce: None }
    }

    fn of(kind: &'static str, body: String) -> Self {
        Answer { status: "200 OK", kind, body, nonce: None }
    }

    fn bytes(&self, head_only: bool) -> String {
        let Answer { status, kind, body, nonce } = self;
        let policy = nonce.as_ref().map_or_else(String::new, |nonce| {
            format!(
                "Content-Security-Policy: default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
                 connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
                 Referrer-Policy: no-referrer\r\n"
            )
        });
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}{policy}X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        );
        if head_only { head } else { head + body }
    }
}

impl AdminState {
    /// Shows what changes to one more viewer, or says that there are too many.
    async fn show(&self, mut socket: TcpStream, language: Language) {
        // A viewer that goes is none of our business.
        match self.viewers.place() {
            Some(_place) => drop(self.follow(socket, language).await),
            None => {
                let answer = Answer::text("503 Service Unavailable", "too many pages are open\n").bytes(false);
                let _ = timeout(TIME_MAX, socket.write_all(answer.as_bytes())).await;
            }
        }
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
                    let viewer = timeout(TIME_MAX, converse(socket, &watch)).await;
                    drop(permit);
                    if let Ok(Ok(Some((socket, language)))) = viewer {
                        watch.show(socket, language).await;
                    }
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers; gives back whoever wants to see what changes.
async fn converse(mut socket: TcpStream, watch: &AdminState) -> std::io::Result<Option<(TcpStream, Language)>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX {
            let answer = Answer::text("431 Request Header Fields Too Large", "the request is too long\n");
            socket.write_all(answer.bytes(false).as_bytes()).await?;
            return Ok(None);
        }
        let mut part = [0; 1024];
        match socket.read(&mut part).await? {
            0 => return Ok(None),
            read => head.extend_from_slice(&part[..read]),
        }
    }
    let request = Request::parse(&head);
    let answer = match &request {
        Request::Get(asked) if asked.path == "/events" && head.starts_with(b"GET ") => {
            if asked.is_by_a_known_name(&watch.viewers.options.hosts) {
                return Ok(Some((socket, asked.language())));
            }
            Answer::text("403 Forbidden", UNKNOWN_HOST)
        }
        _ => watch.answer(&request),
    };
    socket.write_all(answer.bytes(head.starts_with(b"HEAD ")).as_bytes()).await?;
    socket.shutdown().await?;
    Ok(None)
}
