//! Rules and caches to go on with, and where they come from.

use std::future::pending;

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use crate::rules::Rules;
use crate::target::Policy;

/// A cache to go on with.
#[derive(Debug)]
pub struct Onward<C> {
    /// What the configuration says of it.
    pub policy: Policy,
    /// Another cache than before under this name; `None` is the one that is there.
    pub cache: Option<C>,
}

/// Rules to go on with.
#[derive(Debug)]
pub struct Reload<C, D> {
    /// The rules.
    pub rules: Rules,
    /// A session that asks their lookups and watches their tables.
    pub control: D,
    /// The caches, where they are others than before.
    pub caches: Option<Vec<Onward<C>>>,
    /// Hears when the loop goes on with them; closed where the loop ends before.
    pub taken: Option<oneshot::Sender<()>>,
}

/// The next one; never where nobody sends any.
pub(super) async fn next<T>(from: &mut Option<Receiver<T>>) -> T {
    let Some(receiver) = from else { return pending().await };
    match receiver.recv().await {
        Some(next) => next,
        None => {
            *from = None;
            pending().await
        }
    }
}
