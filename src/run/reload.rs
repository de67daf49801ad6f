//! Rules to go on with, and where they come from.

use std::future::pending;

use tokio::sync::mpsc::Receiver;

use crate::rules::Rules;

/// Rules to go on with.
#[derive(Debug)]
pub struct Reload<D> {
    /// The rules.
    pub rules: Rules,
    /// A session that asks their lookups and watches their tables.
    pub control: D,
}

/// The next one; never where nobody sends any.
pub(super) async fn next<D>(reloads: &mut Option<Receiver<Reload<D>>>) -> Reload<D> {
    let Some(receiver) = reloads else { return pending().await };
    match receiver.recv().await {
        Some(reload) => reload,
        None => {
            *reloads = None;
            pending().await
        }
    }
}
