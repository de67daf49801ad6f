//! Where a reload leaves the next verifier, and the present one finds it.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Holds the latest one that was not taken yet.
pub struct Newer<T>(Rc<Shelf<T>>);

struct Shelf<T> {
    latest: Cell<Option<T>>,
    came: Notify,
}

impl<T> Default for Newer<T> {
    fn default() -> Self {
        Newer(Rc::new(Shelf { latest: Cell::new(None), came: Notify::new() }))
    }
}

impl<T> Clone for Newer<T> {
    fn clone(&self) -> Self {
        Newer(Rc::clone(&self.0))
    }
}

impl<T> Newer<T> {
    /// Leaves one, in the place of another that nobody took.
    pub fn put(&self, one: T) {
        self.0.latest.set(Some(one));
        self.0.came.notify_one();
    }

    /// Waits for one. Cancel-safe: what was not given stays.
    pub async fn next(&self) -> T {
        loop {
            match self.0.latest.take() {
                Some(one) => return one,
                None => self.0.came.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_is_found_once_and_one_that_comes_later_is_waited_for() {
        let newer = Newer::default();
        [1, 2].into_iter().for_each(|one| newer.put(one));
        assert_eq!(newer.next().await, 2);
        let (found, ()) = tokio::join!(newer.next(), async { newer.clone().put(3) });
        assert_eq!(found, 3);
    }
}
