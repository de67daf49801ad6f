//! Which targets hold the position back: looked at before each confirmation, and said when it changes.

use tokio::time::Instant;

use super::Pipeline;
use crate::cache::Cache;
use crate::control::Control;
use crate::ledger::hold::{HoldVerdict, ReleaseCause, given_on};
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::source::Source;
use crate::target::Target;

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Releases the targets that held the position for long enough, and those hold it again that are back.
    pub(super) fn judge_holds(&mut self, now: Instant) {
        let Some(end) = self.feed.server_end() else { return };
        let store = self.feed.store();
        let mut is_changed = false;
        for target in &mut self.targets {
            match target.judge_hold(self.feed.source(), end, store, now) {
                HoldVerdict::Stays => continue,
                HoldVerdict::Release(cause) => say_released(target, cause, target.held_back(end)),
                HoldVerdict::Hold => say_holds(target),
            }
            is_changed = true;
        }
        if is_changed {
            self.is_news = true;
            self.tell_holds();
        }
    }

    /// Says of each cache whether the position waits for it, so that whoever watches knows of all. A cache of several
    /// parts is waited for when each of them is.
    pub(super) fn tell_holds(&self) {
        for target in &self.targets {
            let name = target.label();
            let is_released = self.targets.iter().any(|part| part.label() == name && part.is_released());
            self.teller.tell(News::Released(name, is_released));
        }
    }

    /// Up to where the position may go by what the targets marked, or were handed.
    pub(super) fn given_on(&self) -> Option<S::Ack> {
        let source = self.feed.source();
        let current = |ack: Option<S::Ack>| ack.filter(|ack| source.is_current(*ack));
        let all = self.targets.iter().map(|target| {
            let (hold, marked, handed) = target.holds();
            (hold, current(marked), current(handed))
        });
        given_on(all)
    }
}

fn say_released<A, C, D>(target: &Target<A, C, D>, cause: ReleaseCause, held: u64)
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    let why = match cause {
        // As its owner wrote it.
        ReleaseCause::Never => return,
        ReleaseCause::Limit => "more than hold_wal_bytes_max",
        ReleaseCause::SlotRoom => "and half of what the server keeps for crieur is used",
    };
    let member = target.member();
    let hint = member.pick(
        "Nothing is lost. When the cache answers again, crieur deletes the keys that the cache missed, or sweeps this cache \
         alone. Mend what keeps the cache away.",
        "Nothing is lost. When the sink answers again, crieur purges the tags that the sink missed, or its coarse tags. \
         Mend what keeps the sink away.",
    );
    log!(
        Id::CacheReleased,
        hint,
        cache = %target.label(),
        held_bytes = held,
        "{} holds back {held} bytes of changes, {why}: the position goes on without it",
        member.noun()
    );
}

fn say_holds<A, C, D>(target: &Target<A, C, D>)
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    let noun = target.member().noun();
    log!(Id::CacheHolds, cache = %target.label(), "{noun} is up to date again: the position waits for it");
}
