//! A future that is kept over turns of a loop until it ends: whatever else happens meanwhile, it is polled again.

use std::future::{pending, poll_fn};
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, sleep_until};

/// Waits until then, for ever where there is no such moment.
pub async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// One such future, or none. Waiting for none lasts for ever.
pub struct Kept<T>(Option<LocalBoxFuture<'static, T>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(None)
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_out() { "Kept(out)" } else { "Kept(none)" })
    }
}

impl<T> Kept<T> {
    /// Keeps `future` from now on, instead of the one before.
    pub fn start(&mut self, future: impl Future<Output = T> + 'static) {
        self.0 = Some(Box::pin(future));
    }

    /// Whether there is one.
    pub fn is_out(&self) -> bool {
        self.0.is_some()
    }

    /// Drops it; says whether there was one.
    pub fn forget(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Polls it, if there is one.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }

    /// Waits for it. Cancel-safe: a wait that is given up leaves the future where it is.
    pub async fn ended(&mut self) -> T {
        poll_fn(|cx| self.poll(cx)).await
    }
}
