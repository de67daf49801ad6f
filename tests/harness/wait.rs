//! Waiting for a condition, with a deadline and a failure that says what was seen last.
//!
//! A test never sleeps for a guessed time: it waits until something is so. The deadlines are generous because they are
//! only reached by a failure.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Long enough for anything that works, on a loaded machine with one core.
pub const PATIENCE: Duration = Duration::from_secs(30);

const STEP: Duration = Duration::from_millis(10);

/// Waits until `probe` gives a value, and returns it; a probe that is not there yet returns what it saw as `Err`.
///
/// # Panics
/// At the deadline, naming `what` and the last thing seen.
pub async fn settled<T, S: Debug>(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> Result<T, S>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) => assert!(started.elapsed() < timeout, "after {timeout:?} still not so: {what}; seen: {seen:?}"),
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until `probe` is true.
///
/// # Panics
/// At the deadline, naming `what`.
pub async fn eventually(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> bool) {
    settled(what, timeout, async || if probe().await { Ok(()) } else { Err("no") }).await;
}

/// The same, for code that runs outside a runtime: starting and stopping processes.
pub fn poll<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if started.elapsed() > timeout {
            return None;
        }
        std::thread::sleep(STEP);
    }
}
