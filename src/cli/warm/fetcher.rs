//! Asks for pages, two at a time and within the limit; whoever chooses them runs a loop for each of the two
//! ([`AT_ONCE`](crate::warm::pace::AT_ONCE)).

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::site::{SiteAnswer, Sites};
use crate::warm::pace::{PagePace, PageTurn};

/// The sites, and when the next page may be asked for.
pub(super) struct Fetcher {
    sites: Sites,
    pace: RefCell<PagePace<Instant>>,
    /// A request was answered.
    freed: Notify,
}

impl Fetcher {
    /// At most so many pages a minute, of which one that takes longer is given up.
    pub(super) fn new(per_minute: u64, timeout: Duration) -> Self {
        let pace = RefCell::new(PagePace::new(per_minute));
        Fetcher { sites: Sites::new(timeout), pace, freed: Notify::new() }
    }

    /// Whether a request is out.
    pub(super) fn is_out(&self) -> bool {
        self.pace.borrow().is_out()
    }

    /// Whether a page may be asked for at once; if not, it returns when that may have changed.
    pub(super) async fn may_ask(&self) -> bool {
        let turn = self.pace.borrow_mut().turn(Instant::now());
        match turn {
            PageTurn::Now => return true,
            PageTurn::At(then) => sleep_until(then).await,
            PageTurn::Behind => self.answered().await,
        }
        false
    }

    /// Waits until a request was answered.
    pub(super) async fn answered(&self) {
        self.freed.notified().await;
    }

    /// Asks for a page, over the connection with this number. A site that wants to be asked later is: so is every page.
    pub(super) async fn fetch(&self, lane: usize, url: &str) -> SiteAnswer {
        self.pace.borrow_mut().leaves();
        let answer = self.sites.fetch(lane, url).await;
        let mut pace = self.pace.borrow_mut();
        pace.answered(Instant::now());
        if let SiteAnswer::Later(_, pause) = &answer {
            pace.pause_until(Instant::now() + *pause);
        }
        // Whoever waits looks when the caller has judged the answer.
        self.freed.notify_waiters();
        answer
    }
}
