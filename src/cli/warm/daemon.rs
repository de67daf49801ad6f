//! The daemon's share: pages are fetched beside the loop, two at a time, as the loop's deletes let them go.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fetcher::Fetcher;
use crate::cache::site::{SiteAnswer, parted};
use crate::config::Limits;
use crate::observe::{Id, log};
use crate::reminder::Reminder;
use crate::warm::{PageOutcome, WarmTally, Warming};

/// Between two looks at the counts.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Fetches pages for as long as the daemon runs.
pub struct Warmer {
    warming: Warming,
    fetcher: Fetcher,
    said: RefCell<Reminder<(Id, String), Instant>>,
}

impl Warmer {
    /// Within these limits.
    pub fn new(warming: Warming, limits: &Limits) -> Self {
        Warmer { warming, fetcher: Fetcher::new(limits.warm_rate, limits.warm_timeout), said: RefCell::default() }
    }

    /// Fetches what is to be fetched; `tell` hears what was counted.
    pub async fn always(self, tell: impl Fn(WarmTally)) -> Infallible {
        let (never, ..) = tokio::join!(self.work(0), self.work(1), self.told(tell));
        never
    }

    async fn work(&self, lane: usize) -> Infallible {
        loop {
            poll_fn(|cx| self.warming.poll_next(lane, cx)).await;
            if !self.fetcher.may_ask().await {
                continue;
            }
            let Some((url, template)) = self.warming.take() else { continue };
            let answer = self.fetcher.fetch(lane, &url).await;
            let outcome = self.judge(&url, &template, answer);
            self.warming.came(&url, outcome);
        }
    }

    /// What follows from an answer. Nothing of the row is said: its values stand in the path.
    fn judge(&self, url: &str, template: &str, answer: SiteAnswer) -> PageOutcome {
        let origin = parted(url).0;
        let (id, outcome, what) = match answer {
            SiteAnswer::Came => return PageOutcome::Fetched,
            SiteAnswer::Elsewhere(code) => (
                Id::WarmElsewhere,
                PageOutcome::Failed,
                format!("leads elsewhere (HTTP {code}), and crieur does not follow"),
            ),
            SiteAnswer::Refused(code) => {
                (Id::WarmFailed, PageOutcome::Failed, format!("answers with an error (HTTP {code})"))
            }
            SiteAnswer::Later(code, pause) => {
                let seconds = pause.as_secs();
                (Id::WarmFailed, PageOutcome::Later, format!("wants to be asked again in {seconds} s (HTTP {code})"))
            }
            SiteAnswer::Silent(error) => {
                (Id::WarmFailed, PageOutcome::Failed, format!("does not come: {}", error.chain()))
            }
        };
        let told = self.said.borrow_mut().counted(&(id, template.to_owned()), 1, Instant::now());
        if let Some(pages) = told {
            let hint = match id {
                Id::WarmElsewhere => "Write the address that answers itself into warm.",
                _ => "Open such a page. Its next visitor pays for the refill, and nothing else follows.",
            };
            log!(id, hint, pages, "a page of {origin} (warm = \"{template}\") {what}");
        }
        outcome
    }

    /// Tells the counts when they change.
    async fn told(&self, tell: impl Fn(WarmTally)) -> Infallible {
        let mut dropped = 0;
        loop {
            let tally = poll_fn(|cx| self.warming.poll_tally(cx)).await;
            tell(tally);
            let more = tally.dropped - dropped;
            dropped = tally.dropped;
            let told = if more == 0 {
                None
            } else {
                self.said.borrow_mut().counted(&(Id::WarmDropped, String::new()), more, Instant::now())
            };
            if let Some(pages) = told {
                let hint = "Nothing is stale: the next visitors of these pages pay for the refill. Raise limits.warm_rate if the site bears it.";
                log!(
                    Id::WarmDropped,
                    hint,
                    pages,
                    "{pages} pages are not fetched again: too many changed at once, their addresses cannot be told, or crieur let them go"
                );
            }
            sleep(TELL_EVERY).await;
        }
    }
}
