//! Warming: pages whose keys existed when they were deleted are fetched again through the site, so that no visitor pays for
//! the refill. A hint and no promise: it holds no position, delays no delete, and is lost with the process.
//!
//! Which pages and when is decided in `book.rs`. A load carries its pages as *holds* ([`Pages`]) from the first delete to
//! the answer to the last echo; whoever fetches (`cli/warm/`) waits at [`Warming::poll_next`].

mod book;
pub mod entry;
pub mod pace;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use self::pace::AT_ONCE;
pub use book::{PageOutcome, TRIES_MAX, WarmBook, WarmTally};

/// The book, and who waits for it.
#[derive(Default)]
struct Shared {
    book: WarmBook,
    /// Nothing is noted where nothing is fetched.
    is_on: bool,
    /// Of each who fetches. One for each, since they poll at every turn of the daemon.
    waiting: [Option<Waker>; AT_ONCE],
    is_news: bool,
    watcher: Option<Waker>,
}

/// The pages of a daemon, shared between its targets and whoever fetches.
#[derive(Clone, Default)]
pub struct Warming(Rc<RefCell<Shared>>);

impl std::fmt::Debug for Warming {
    /// Counts only: addresses hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Warming({:?})", self.0.borrow().book.tally())
    }
}

impl Warming {
    /// One that notes pages, for somebody who fetches them.
    pub fn on() -> Self {
        let warming = Warming::default();
        warming.0.borrow_mut().is_on = true;
        warming
    }

    fn change<T>(&self, change: impl FnOnce(&mut WarmBook) -> T) -> T {
        let (changed, wakers) = {
            let mut shared = self.0.borrow_mut();
            let changed = change(&mut shared.book);
            shared.is_news = true;
            let mut wakers: Vec<Waker> = shared.watcher.take().into_iter().collect();
            if shared.book.has_next() {
                wakers.extend(shared.waiting.iter_mut().filter_map(Option::take));
            }
            (changed, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        changed
    }

    /// Pages that nobody could note.
    pub fn dropped(&self, pages: u64) {
        if pages > 0 && self.0.borrow().is_on {
            self.change(|book| book.dropped(pages));
        }
    }

    /// Other addresses are in force.
    pub fn forget(&self) {
        self.change(WarmBook::forget);
    }

    /// Waits until a page waits for nothing but its turn; `lane` is the number of who fetches it. Cancel-safe.
    pub fn poll_next(&self, lane: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.0.borrow_mut();
        if shared.book.has_next() {
            return Poll::Ready(());
        }
        shared.waiting[lane % AT_ONCE] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next page and the template of its address.
    pub fn take(&self) -> Option<(Rc<str>, Rc<str>)> {
        self.change(WarmBook::take)
    }

    /// The page came, or did not.
    pub fn came(&self, url: &str, outcome: PageOutcome) {
        self.change(|book| book.came(url, outcome));
    }

    /// Waits until a count may be another than when it was read last. Cancel-safe.
    pub fn poll_tally(&self, cx: &mut Context<'_>) -> Poll<WarmTally> {
        let mut shared = self.0.borrow_mut();
        if std::mem::take(&mut shared.is_news) {
            return Poll::Ready(shared.book.tally());
        }
        shared.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A page that somebody holds; given up unless it is [`answered`](PageHold::answered).
struct PageHold {
    warming: Warming,
    url: Option<Rc<str>>,
}

impl PageHold {
    fn answered(mut self) {
        if let Some(url) = self.url.take() {
            self.warming.change(|book| book.answered(&url));
        }
    }
}

impl Drop for PageHold {
    fn drop(&mut self) {
        if let Some(url) = self.url.take() {
            self.warming.change(|book| book.given_up(&url));
        }
    }
}

/// The pages that a load holds. A copy holds none.
#[derive(Default)]
pub struct Pages {
    holds: BTreeMap<Rc<str>, PageHold>,
    /// Of all addresses.
    bytes: usize,
}

/// What a hold takes besides its address, about.
const HOLD_BYTES: usize = 128;

impl Clone for Pages {
    fn clone(&self) -> Self {
        Pages::default()
    }
}

impl std::fmt::Debug for Pages {
    /// A count only: addresses hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({})", self.holds.len())
    }
}

impl Pages {
    /// Holds a page.
    pub fn hold(&mut self, warming: &Warming, url: &str, template: &Rc<str>) {
        if !warming.0.borrow().is_on || self.holds.contains_key(url) {
            return;
        }
        if let Some(url) = warming.change(|book| book.hold(url, template)) {
            let hold = PageHold { warming: warming.clone(), url: Some(Rc::clone(&url)) };
            self.add(url, hold);
        }
    }

    /// A key of the page was there when it was deleted.
    pub fn existed(&self, url: &str) {
        if let Some(hold) = self.holds.get(url) {
            hold.warming.change(|book| book.existed(url));
        }
    }

    /// Holds what another load held as well: of a page that both hold, one of the two answers is enough.
    pub fn merge(&mut self, other: Pages) {
        for (url, hold) in other.holds {
            match self.holds.contains_key(&url) {
                true => hold.answered(),
                false => self.add(url, hold),
            }
        }
    }

    /// The last answer came.
    pub fn answered(&mut self) {
        std::mem::take(self).holds.into_values().for_each(PageHold::answered);
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// Memory in use, in bytes, about.
    pub fn bytes_used(&self) -> usize {
        self.bytes
    }

    fn add(&mut self, url: Rc<str>, hold: PageHold) {
        self.bytes += url.len() + HOLD_BYTES;
        self.holds.insert(url, hold);
    }
}
