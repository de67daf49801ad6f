//! Other rules while the daemon runs: the loop ends as for a stop and begins anew, from the confirmed position.
//!
//! Keys that wait know the rules that made them (a bound collapses them into a family, a lookup is a question of a rule),
//! and the server describes tables once for a connection. So little is carried over: connections, counters, and echoes,
//! for which a position need not have waited. What was not confirmed comes again and meets the new rules, and the mark,
//! which tells the old rules, brings a sweep of the keys of those that are new.

use std::future::pending;
use std::rc::Rc;

use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::observe::{Id, log};
use crate::rules::Rules;
use crate::source::Source;

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

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Takes other rules from `reloads`.
    #[must_use]
    pub fn reloading(mut self, reloads: Receiver<Reload<D>>) -> Self {
        self.reloads = Some(reloads);
        self
    }

    /// What is in flight is finished first, within the limit of a stop.
    pub(super) fn begin_reload(&mut self, reload: Reload<D>) {
        let source = self.source.words().source;
        log!(Id::ReloadTaken, "other rules: {source} begins anew from the confirmed position");
        self.reload = Some(reload);
        self.stop_by = Some(Instant::now() + self.settings.stop_timeout);
        self.confirm_due = None;
    }

    /// A loop that begins, on the same connections.
    pub(super) fn renewed(self, Reload { rules, control }: Reload<D>) -> Self {
        let Pipeline { source, cache, settings, news, totals, reloads, watch, repairs, .. } = self;
        let echoes = self.echoes.carried(&self.rules, &rules);
        let mut renewed = Pipeline::assembled(source, cache, Rc::new(control), rules, settings, news);
        renewed.echoes = echoes;
        renewed.totals = totals;
        renewed.reloads = reloads;
        renewed.watch = watch;
        renewed.repairs = repairs.carried();
        renewed
    }
}
