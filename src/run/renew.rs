//! Other rules while the daemon runs: the loop ends as for a stop and begins anew, from the confirmed position.
//!
//! Keys that wait know the rules that made them (a bound collapses them into a family, a lookup is a question of a rule),
//! and the server describes tables once for a connection. So little is carried over: connections, counters, and echoes,
//! for which a position need not have waited. What was not confirmed comes again and meets the new rules, and the mark,
//! which tells the old rules, brings a sweep of the keys of those that are new.

use std::rc::Rc;

use tokio::sync::mpsc::Receiver;

use super::{Phase, Pipeline};
use crate::cache::Cache;
use crate::control::Control;
use crate::ledger::Confirmed;
use crate::observe::{Id, log};
use crate::run::reload::Reload;
use crate::source::Source;

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

    pub(super) fn begin_reload(&mut self, reload: Reload<D>) {
        let source = self.feed.words().source;
        log!(Id::ReloadTaken, "other rules: {source} begins anew from the confirmed position");
        self.drain(Some(reload));
    }

    /// A loop that begins, on the same connections.
    pub(super) fn renewed(self, Reload { rules, control }: Reload<D>) -> Self {
        let (rules, control) = (Rc::new(rules), Rc::new(control));
        let targets = self.targets.into_iter().map(|target| target.renewed(&rules, &control)).collect();
        let (feed, confirmed) = (self.feed.renewed(&rules, &control), Confirmed::default());
        Pipeline { feed, targets, confirmed, phase: Phase::Running, is_ready: false, ..self }
    }
}
