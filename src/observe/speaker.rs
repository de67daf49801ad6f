//! Which cache the daemon is busy with: lines of the log and news that a cache's part says carry its name.
//!
//! The loop is one task on one thread, so the name is that of the part which runs now. It decides nothing.

use std::cell::RefCell;
use std::sync::Arc;

/// The name of a cache.
pub type CacheName = Arc<str>;

thread_local! {
    static SPEAKER: RefCell<Option<CacheName>> = const { RefCell::new(None) };
}

/// The part of a cache speaks as long as this lives.
#[derive(Debug)]
pub struct Speaking {
    before: Option<CacheName>,
}

/// The part of the cache of this name speaks.
#[must_use]
pub fn speaks(name: &CacheName) -> Speaking {
    Speaking { before: SPEAKER.replace(Some(Arc::clone(name))) }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        SPEAKER.set(self.before.take());
    }
}

/// The cache whose part speaks now.
pub fn speaker() -> Option<CacheName> {
    SPEAKER.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spoke_before_speaks_on() {
        let [main, dakar] = ["main", "dakar"].map(CacheName::from);
        assert_eq!(speaker(), None);
        let outer = speaks(&main);
        {
            let _inner = speaks(&dakar);
            assert_eq!(speaker().as_deref(), Some("dakar"));
        }
        assert_eq!(speaker().as_deref(), Some("main"));
        drop(outer);
        assert_eq!(speaker(), None);
    }
}
