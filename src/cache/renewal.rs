//! That the cache takes no new connection while the present one works: said, and nothing is given up for it.

use std::cell::RefCell;

use tokio::time::Instant;

use crate::config::{CacheConfig, in_section};
use crate::error::Error;
use crate::observe::{Id, log};
use crate::outage::{Outage, Say};

/// Of one cache.
#[derive(Debug)]
pub(super) struct Renewal {
    /// Whose keys a hint names.
    section: String,
    outage: RefCell<Outage>,
}

impl Renewal {
    pub(super) fn of(config: &CacheConfig) -> Self {
        Renewal { section: config.section.clone(), outage: RefCell::default() }
    }

    /// A new connection was refused.
    pub(super) fn failed(&self, error: &Error) {
        let cause = in_section(&self.section, error.chain());
        let hint = error.hint.clone().map(|hint| in_section(&self.section, hint));
        match self.outage.borrow_mut().failed(&cause, Instant::now()) {
            Say::First | Say::Still(_) => {
                log!(Id::RenewalFailing, hint, "{cause}; the present connection is used as long as it works");
            }
            Say::Nothing => {}
        }
    }

    /// One was made.
    pub(super) fn worked(&self) {
        let _ = self.outage.borrow_mut().over(Instant::now()); // Nothing was missing meanwhile: it is no news.
    }
}
