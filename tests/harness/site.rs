//! A site whose pages are made from a cache, as real ones are: cache-aside, by a plain reader. It says who asked for which
//! page, and how many at once; and it can be held half way, between what it read and what it stores.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// An answer.
#[derive(Clone, Debug)]
pub struct SitePage {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl SitePage {
    pub fn ok(body: &str) -> SitePage {
        SitePage { status: 200, headers: Vec::new(), body: body.to_owned() }
    }

    pub fn status(status: u16, headers: &[(&str, &str)]) -> SitePage {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        SitePage { status, headers, body: String::new() }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Visit {
    pub method: String,
    pub path: String,
    pub agent: String,
}

#[derive(Default)]
struct SiteState {
    visits: Vec<Visit>,
    answered: usize,
    now: usize,
    peak: usize,
    is_held: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<SiteState>,
    turned: Condvar,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, SiteState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where a page may be held: between its reading and its storing.
pub struct Pause(Arc<Shared>);

impl Pause {
    /// Waits while the site is held.
    pub fn here(&self) {
        let mut state = self.0.state();
        while state.is_held {
            state = self.0.turned.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// A running site; what it has begun it ends.
pub struct Site {
    port: u16,
    shared: Arc<Shared>,
}

impl Site {
    /// One whose pages this makes, of their paths.
    pub fn start(page: impl Fn(&str, &Pause) -> SitePage + Send + Sync + 'static) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (shared, page) = (Arc::<Shared>::default(), Arc::new(page));
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, page) = (Arc::clone(&serving), Arc::clone(&page));
                std::thread::spawn(move || serve(&stream, &shared, &*page));
            }
        });
        Site { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:port` and this.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Every request so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.shared.state().visits.clone()
    }

    /// Their paths.
    pub fn paths(&self) -> Vec<String> {
        self.visits().into_iter().map(|visit| visit.path).collect()
    }

    /// How many were answered.
    pub fn answered(&self) -> usize {
        self.shared.state().answered
    }

    /// The most that were being answered at once.
    pub fn peak(&self) -> usize {
        self.shared.state().peak
    }

    /// Holds pages at their pause.
    pub fn hold(&self) {
        self.shared.state().is_held = true;
    }

    /// Lets them go.
    pub fn let_go(&self) {
        self.shared.state().is_held = false;
        self.shared.turned.notify_all();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn serve(mut stream: &TcpStream, shared: &Arc<Shared>, page: &(impl Fn(&str, &Pause) -> SitePage + ?Sized)) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(Ok(first)) = lines.next() else { return };
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut agent = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else { return };
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("user-agent")
            {
                agent = value.trim().to_owned();
            }
        }
        {
            let mut state = shared.state();
            state.visits.push(Visit { method, path: path.clone(), agent });
            state.now += 1;
            state.peak = state.peak.max(state.now);
        }
        let SitePage { status, headers, body } = page(&path, &Pause(Arc::clone(shared)));
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
        {
            let mut state = shared.state();
            state.now -= 1;
            state.answered += 1;
        }
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
