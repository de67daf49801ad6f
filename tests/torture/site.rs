//! A site that keeps pages by their tags until these are purged over HTTP, and what may be wrong with it.
//!
//! The purges are crieur's own webhooks; their signature is judged in tests/live/sinks.rs. A site that remembers when a tag
//! was purged keeps no page whose making began before; any other keeps what it is given, as a CDN does. Whoever fetches a
//! page gets the one that is kept, or one that the makers make for that.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::harness::wait;
use crate::oracle::ITEMS;

/// The coarse tag of all pages.
pub const ALL: &str = "items";
const ONE: &str = "item:";
/// Where a page is, ahead of the number of its item.
pub const PAGE: &str = "/item/";

/// Whoever fetches a page that nobody makes is told so then.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the site answers a purge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Well,
    /// 503, and nothing is purged.
    Refuses,
    /// It purges, and ends the connection without an answer.
    Cuts,
}

/// What it keeps.
struct Kept {
    remembers: bool,
    mood: Mood,
    pages: HashMap<u64, String>,
    purged: HashMap<u64, Instant>,
    purges: u64,
    last: Instant,
    /// Pages that are to be made because somebody fetches them.
    wanted: VecDeque<u64>,
    /// How often each page was made.
    made: HashMap<u64, u64>,
    fetched: u64,
}

impl Kept {
    fn purge(&mut self, tags: &[String]) {
        self.last = Instant::now();
        self.purges += tags.len() as u64;
        for tag in tags {
            let items = match tag.strip_prefix(ONE).and_then(|id| id.parse().ok()) {
                Some(item) => item..item + 1,
                None if tag == ALL => 0..ITEMS,
                None => panic!("a page has no tag {tag}"),
            };
            for item in items {
                self.pages.remove(&item);
                self.purged.insert(item, self.last);
            }
        }
    }
}

/// A site, as its makers of pages and its purgers reach it.
#[derive(Clone)]
pub struct Site {
    port: u16,
    kept: Arc<Mutex<Kept>>,
}

impl Site {
    /// Listens at a free port as long as the process lives.
    pub fn start(remembers: bool) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (pages, purged, made) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (wanted, last) = (VecDeque::new(), Instant::now());
        let kept = Kept { remembers, mood: Mood::Well, pages, purged, purges: 0, last, wanted, made, fetched: 0 };
        let site = Site { port, kept: Arc::new(Mutex::new(kept)) };
        let serves = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = serves.clone();
                std::thread::spawn(move || site.serve(&stream));
            }
        });
        site
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder panics")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn mood(&self, mood: Mood) {
        self.kept().mood = mood;
    }

    /// Tags that were purged so far.
    pub fn purges(&self) -> u64 {
        self.kept().purges
    }

    /// Pages that were fetched so far, and came.
    pub fn fetched(&self) -> u64 {
        self.kept().fetched
    }

    /// A page that somebody fetches, and nobody makes yet.
    pub fn wanted(&self) -> Option<u64> {
        self.kept().wanted.pop_front()
    }

    /// The page, if it is kept.
    pub fn page(&self, item: u64) -> Option<String> {
        self.kept().pages.get(&item).cloned()
    }

    /// Every page.
    pub fn pages(&self) -> Vec<(u64, String)> {
        self.kept().pages.iter().map(|(item, page)| (*item, page.clone())).collect()
    }

    /// A page was made, from what was read since then.
    pub fn take(&self, item: u64, page: String, began: Instant) {
        let mut kept = self.kept();
        *kept.made.entry(item).or_default() += 1;
        let is_old = kept.remembers && kept.purged.get(&item).is_some_and(|purged| *purged >= began);
        if !is_old {
            kept.pages.insert(item, page);
        }
    }

    /// Waits until nobody has purged anything for so long.
    pub fn rests(&self, how_long: Duration) {
        let rests = wait::poll(Duration::from_secs(90), || (self.kept().last.elapsed() > how_long).then_some(()));
        assert!(rests.is_some(), "somebody purges all the time");
    }

    /// A webhook came.
    fn purge(&self, body: &[u8]) -> Mood {
        let body: serde_json::Value = serde_json::from_slice(body).expect("a webhook is JSON");
        let tags = body["data"]["tags"].as_array().expect("a list").iter();
        let tags: Vec<String> = tags.map(|tag| tag.as_str().expect("a text").to_owned()).collect();
        let mut kept = self.kept();
        if kept.mood != Mood::Refuses {
            kept.purge(&tags);
        }
        kept.mood
    }

    /// Somebody fetches a page: it is kept, or the makers make it now, as they do for a visitor.
    fn fetch(&self, item: u64) -> Mood {
        let made = |kept: &Kept| kept.made.get(&item).copied().unwrap_or(0);
        let before = {
            let mut kept = self.kept();
            if !kept.pages.contains_key(&item) && !kept.wanted.contains(&item) {
                kept.wanted.push_back(item);
            }
            made(&kept)
        };
        let came = wait::poll(PATIENCE, || {
            let kept = self.kept();
            (kept.pages.contains_key(&item) || made(&kept) > before).then_some(())
        });
        let mut kept = self.kept();
        kept.fetched += u64::from(came.is_some() && kept.mood == Mood::Well);
        if came.is_some() { kept.mood } else { Mood::Refuses }
    }

    /// One connection, until its end.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some((line, body)) = request(&mut reader) {
            let mood = match page_of(&line) {
                Some(item) => self.fetch(item),
                None => self.purge(&body),
            };
            let status = match mood {
                Mood::Well => "200 OK",
                Mood::Refuses => "503 Service Unavailable",
                Mood::Cuts => return,
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            if (&*stream).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The item of the page that a request is for, if it is for one.
fn page_of(line: &str) -> Option<u64> {
    line.strip_prefix("GET ")?.strip_prefix(PAGE)?.split(' ').next()?.parse().ok()
}

/// The first line and the body of the next request; `None` at the end of the connection.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), None);
    if reader.read_line(&mut first).ok()? == 0 {
        return None;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((first, body))
}
