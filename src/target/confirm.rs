//! The mark: what was answered, said in the cache itself. The only place of a target where a position moves.
//!
//! Before a position is confirmed to the server, the cache's mark says it; the mark is written only over the one that
//! was written last. A cache that went back in time is so noticed even when no connection broke, at the latest with
//! the next heartbeat.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Target, Turn};
use crate::cache::{Cache, Swap};
use crate::config::{Metering, OnGap};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::keys::KeySet;
use crate::ledger::Positions;
use crate::ledger::hold::echo_budget;
use crate::lsn::Lsn;
use crate::mark::Mark;
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::outage::{Say, span};
use crate::random;
use crate::target::marking::{MarkOutcome, Writing};
use crate::target::proof::Held;
use crate::target::repairs::{UNPROVEN, When};

/// How often the mark and, behind it, the confirmed position move at most. A status costs the server a slot update;
/// PostgreSQL recycles WAL at checkpoints, so a twentieth of a second loses nothing, and a second little.
pub(super) fn confirm_interval(metering: Metering) -> Duration {
    match metering {
        Metering::None => Duration::from_millis(50),
        Metering::ByCommand => Duration::from_secs(1),
    }
}

/// What a mark says: the first of these positions that is one of the server that is connected, and no less than what the
/// comparison of the last mark proved. A position may say less, because the slot was made anew.
fn says<A: Copy>(stream: &impl Positions<A>, positions: [Option<A>; 2], proven: Lsn) -> Lsn {
    positions.into_iter().find_map(|ack| stream.place(ack)).map_or(proven, |lsn| lsn.max(proven))
}

/// The pause behind a mark that the cache refused, which it may do for hours: each try takes a new connection.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Moves the position over everything that was answered: the mark says it, and then it may be confirmed.
    pub(super) fn confirm(&mut self, turn: &Turn<'_, impl Positions<A>>) -> Result<()> {
        if self.marking.confirm_due.is_some_and(|due| due <= turn.now) {
            self.marking.confirm_due = None;
        }
        if self.look.is_reading() {
            return Ok(()); // Whether something must be deleted again first is not known yet.
        }
        let (stream, now) = (turn.stream, turn.now);
        let policy = &self.settings.policy;
        let budget = echo_budget(policy.echo_wal_bytes_max, policy.hold_wal_bytes_max, turn.store);
        let confirmed = self.confirmed_to_server(stream);
        let received = stream.received();
        let held_back = |upto: Option<A>| {
            let upto = stream.place(upto).max(confirmed);
            upto.is_none_or(|upto| received.0.saturating_sub(upto.0) <= budget)
        };
        if let Some(ack) = stream.current(self.ledger.settled(held_back)?) {
            self.marking.answered = Some(ack);
        }
        if self.marking.is_writing() || self.marking.confirm_due.is_some() || !self.look.is_connected() {
            return Ok(());
        }
        let beat = self.marking.beat_due.is_none_or(|due| due <= now) && self.may_beat(turn);
        if self.marking.answered.is_some() || beat || self.tells_a_writer(turn) {
            self.write_mark(turn);
        }
        Ok(())
    }

    /// Whether a heartbeat may be written: what the cache holds is known, and it lacks nothing. Behind a gap that is so
    /// when everything was answered; on a server that writes nothing no position would ever bring the first mark.
    pub(super) fn may_beat(&self, turn: &Turn<'_, impl Positions<A>>) -> bool {
        let is_free = !self.marking.is_writing() && !self.look.is_reading() && turn.beats;
        let is_proven = match self.look.held() {
            Held::Nothing => false,
            // Behind a repair no position is given on before its echoes were answered; a mark that says the one of before
            // tells readers that nobody is silent, and writers what was deleted.
            Held::Trusted(_) => !self.ledger.is_mending(),
            Held::Gap { .. } => self.ledger.is_empty() && self.gaps.is_over(),
        };
        is_free && is_proven && self.look.is_connected()
    }

    /// Up to where the first delete of everything was answered.
    fn deleted_upto(&self, stream: &impl Positions<A>) -> Option<Lsn> {
        stream.place(self.ledger.deleted())
    }

    /// Whether a mark would tell a writer that the first delete of its change was answered: it may wait for that. Where
    /// commands are billed the next mark tells it.
    fn tells_a_writer(&self, turn: &Turn<'_, impl Positions<A>>) -> bool {
        let is_cheap = self.settings.policy.metering == Metering::None;
        is_cheap && self.may_beat(turn) && self.deleted_upto(turn.stream) > self.marking.told_deleted
    }

    /// What the server that is connected now has heard of; `None` while there is none and was none.
    fn confirmed_to_server(&self, stream: &impl Positions<A>) -> Option<Lsn> {
        let start = self.look.start().map(|start| start.confirmed);
        stream.place(self.marking.marked).max(start)
    }

    /// One try: whatever fails, the cache is asked what it holds.
    fn write_mark(&mut self, turn: &Turn<'_, impl Positions<A>>) {
        let (stream, now) = (turn.stream, turn.now);
        let Some(start) = self.look.start().cloned() else { return };
        let riders = self.take_riders(now);
        let ack = self.marking.answered.take();
        let lsn = says(stream, [ack, self.marking.marked], self.look.proven(self.ledger.is_empty()));
        let deleted = self.deleted_upto(stream).max(Some(lsn)).unwrap_or(lsn);
        let since = self.ledger.oldest();
        let late = since.map_or(Duration::ZERO, |since| now.into_std().saturating_duration_since(since));
        let mark = Mark {
            system: start.system.clone(),
            timeline: start.timeline,
            slot: self.settings.slot.clone(),
            lsn: lsn.to_string(),
            deleted: deleted.to_string(),
            late_ms: late.as_millis().try_into().unwrap_or(u64::MAX),
            at: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            nonce: random::text(),
            rules: self.around.rules.digest().to_owned(),
            run: start.run.clone(),
            publication: start.publication.clone(),
            published: self.cache.published(),
        };
        let text = serde_json::to_vec(&mark).expect("a mark is plain data");
        let expected = self.look.held().expected();
        let first = self.ledger.first_open();
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        let mut again = if without(Guard::Carried) { KeySet::default() } else { self.unmarked.send() };
        riders.iter().for_each(|rider| again.merge(rider.load.keys.clone()));
        let company = self.settings.company;
        self.marking.told_deleted = Some(deleted);
        self.marking.writing = Some(Writing { ack, lsn, mark, text: text.clone(), first, riders });
        self.marking.out.start(async move {
            match cache.swap_mark(&slot, &expected, &text, &again).await {
                Ok(swap) => Ok(MarkOutcome::Tried(swap)),
                Err(error) => match company.judge(error) {
                    error if error.is_transient() => Ok(MarkOutcome::Unknown(error)),
                    error => Err(error.while_doing("write the mark")),
                },
            }
        });
        // Where each command counts, the position moves with the heartbeat.
        let pause = match self.settings.policy.budget {
            Some(_) if !turn.draining => self.settings.policy.heartbeat,
            Some(_) | None => confirm_interval(self.settings.policy.metering),
        };
        self.marking.confirm_due = Some(now + pause);
        self.marking.beat_due = Some(now + self.settings.policy.heartbeat);
    }

    /// The mark was written, or not: only when it is there the position behind it may be confirmed.
    pub(super) fn written(&mut self, written: MarkOutcome, stream: &impl Positions<A>) {
        let Some(mut writing) = self.marking.writing.take() else { return };
        let riders = std::mem::take(&mut writing.riders);
        self.carried(matches!(written, MarkOutcome::Tried(Swap::Written)), riders);
        // What is read meanwhile may be from before it.
        if self.look.is_reading() {
            self.read_mark();
        }
        match written {
            MarkOutcome::Tried(Swap::Written) => self.is_there(writing, stream),
            // Without a mark the next start sweeps; until then the position may move.
            MarkOutcome::Tried(Swap::Full) if self.settings.policy.on_gap == OnGap::Sweep => {
                self.complain_of_room("the next start sweeps");
                self.acknowledge(writing.ack, stream);
            }
            MarkOutcome::Tried(Swap::Full) => {
                self.complain_of_room("nothing is confirmed");
                self.marking.comes_again(writing.ack);
            }
            MarkOutcome::Tried(Swap::Other) if without(Guard::Mark) => {
                self.look.forget();
                self.acknowledge(writing.ack, stream);
            }
            // A server closes idle connections; the next beat must not find the same again.
            MarkOutcome::Tried(Swap::Lost) => {
                self.may_be_there(&writing);
                self.marking.comes_again(writing.ack);
                self.marking.beat_due = None;
                self.comes_soon();
                self.read_mark();
            }
            MarkOutcome::Tried(Swap::Refused(error)) => {
                self.complain_about_mark(error.hint_else("The log of the cache may tell why it refuses the mark."));
                self.marking.comes_again(writing.ack);
                self.marking.confirm_due = Some(Instant::now() + REFUSED_PAUSE);
            }
            MarkOutcome::Tried(Swap::Other | Swap::Unproven) => {
                self.marking.comes_again(writing.ack);
                let what = "the mark cannot be written where it was read";
                self.comes_soon();
                let when = self.repairs.when(UNPROVEN, what);
                if when != When::Now {
                    self.marking.confirm_due = Some(Instant::now() + when.pause());
                }
                self.read_mark();
            }
            MarkOutcome::Unknown(error) => {
                // Whether the cache answers at all the next look at the mark tells, and says.
                if std::mem::replace(&mut self.marking.lost_one, true) {
                    self.complain_about_mark(error);
                }
                self.marking.comes_again(writing.ack);
                self.may_be_there(&writing);
                self.comes_soon();
                self.read_mark();
            }
        }
    }

    /// The cache has the mark: it is ours, and what it says may be confirmed.
    fn is_there(&mut self, writing: Writing<A>, stream: &impl Positions<A>) {
        reached(Step::MarkWritten);
        self.ring.marked(&writing.mark.nonce, writing.first);
        self.repairs.proved();
        (self.marking.lost_one, self.marking.came_soon) = (false, false);
        if let Some(lasted) = self.marking.outage.over(Instant::now()) {
            let (server, who) = (self.cache.name(), self.around.part.name());
            log!(Id::MarkWorks, server, after = span(lasted), "{who} takes the mark again");
        }
        self.look.trust(Some(writing.text));
        self.acknowledge(writing.ack, stream);
        self.done.marked = Some((writing.lsn, Instant::now()));
        self.around.teller.tell(News::Marked(writing.lsn));
    }

    /// Nothing was written. With a budget the pause behind a mark is a heartbeat, and a connection that the server closes
    /// earlier than that would be closed at each try: the next one comes soon. Only the next, since each may be billed.
    fn comes_soon(&mut self) {
        if !std::mem::replace(&mut self.marking.came_soon, true) {
            self.marking.confirm_due = Some(Instant::now() + confirm_interval(self.settings.policy.metering));
            self.marking.beat_due = None;
        }
    }

    /// The answer was lost. Should the mark be there, it covers what it says: the cache wrote it behind those deletes.
    fn may_be_there(&mut self, writing: &Writing<A>) {
        self.ring.marked(&writing.mark.nonce, writing.first);
        self.look.lost(writing.text.clone());
    }

    /// The position may be confirmed to the server, as far as this target goes.
    fn acknowledge(&mut self, ack: Option<A>, stream: &impl Positions<A>) {
        if let Some(ack) = stream.current(ack) {
            self.marking.marked = Some(ack);
        }
    }

    /// The cache does not take the mark. While the cache fails whatever it is asked, the line that says so is enough.
    fn complain_about_mark(&mut self, error: Error) {
        if !self.around.part.is_failing() {
            let error = error.at(self.cache.name());
            let line = format!("{}; failed to write the mark, and crieur tries again", error.chain());
            self.complain(Id::MarkFailing, &line, error.hint.as_deref());
        }
    }

    /// The cache takes deletes, and has no room for the mark.
    fn complain_of_room(&mut self, then: &str) {
        let who = self.cache.name();
        let line = format!("{who} is full and evicts nothing (OOM); failed to write the mark: {then}");
        let hint = "Raise maxmemory of the cache, or give it a maxmemory-policy that evicts keys.";
        self.complain(Id::MarkFull, &line, Some(hint));
    }

    /// Once for each cause, and each minute.
    fn complain(&mut self, id: Id, line: &str, hint: Option<&str>) {
        match self.marking.outage.failed(line, Instant::now()) {
            Say::First => log!(id, hint, "{line}"),
            // What lasts does not mend itself.
            Say::Still(_) => log!(id.lasting(), hint, "{line}"),
            Say::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server of now is the second one; a position is the server's number and its LSN.
    struct Second;

    impl Positions<(u8, u64)> for Second {
        fn lsn(&self, ack: (u8, u64)) -> Lsn {
            Lsn(ack.1)
        }

        fn is_current(&self, ack: (u8, u64)) -> bool {
            ack.0 == 2
        }

        fn received(&self) -> Lsn {
            Lsn(0)
        }
    }

    #[test]
    fn a_mark_never_says_a_position_of_another_server() {
        let (old, new) = (Some((1, 900)), |lsn| Some((2, lsn)));
        for (positions, expected) in [
            ([new(70), new(60)], 70),
            ([None, new(60)], 60),
            ([None, None], 50),
            ([new(40), None], 50),
            ([old, new(60)], 60),
            ([old, None], 50),
            ([None, old], 50),
        ] {
            assert_eq!(says(&Second, positions, Lsn(50)), Lsn(expected), "{positions:?}");
        }
        assert_eq!((Second.place(old), Second.place(new(70)), Second.current(old)), (None, Some(Lsn(70)), None));
    }
}
