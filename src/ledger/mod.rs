//! Ledgers: what is owed before a position may be given on, and who owes it.
//!
//! A change is owed twice, one after the other. The feed owes it until it was handed to the targets: it waits for the
//! gate, then for its lookups. Each target owes it until the cache answered. So the feed has a ledger, and each target
//! has one; a position goes from the one to the others, and each ledger gives it on in commit order.
//!
//! A position has four names on that way, and each is at most the one before it, as long as no target is left behind:
//!
//! | name | where | what is true up to it |
//! |---|---|---|
//! | answered | `Marking::answered` of a target | the cache answered every delete, its echoes included or released |
//! | marked | `Marking::marked` of a target | the mark in the cache says so |
//! | confirmed | [`Confirmed`] of the loop | every target that holds it marked it ([`hold`]): the source may report it |
//! | reported | the source | the server was told: it may forget the WAL before it |
//!
//! What is owed is a value, the [`Ticket`]. It is handed on with the keys that it stands for, and handed back when these
//! were answered. Nobody can hand a ticket back twice, since that takes the ticket; a ticket that is dropped instead
//! would hold the position for ever, so the ledger counts it, and the loop stops with an error that says so.

pub mod hold;
pub mod window;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use crate::error::{Error, Exit, Result};
use crate::ledger::window::{SpanId, Window};
use crate::lsn::Lsn;

/// What a ticket stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owed {
    /// A part of a span: the position waits for it.
    Part,
    /// An echo of a span: the position waits for it within a budget.
    Echo,
}

/// Something that is owed for a span. It is handed back once, to the ledger that gave it out.
#[derive(Debug)]
pub struct Ticket {
    span: SpanId,
    owed: Owed,
    /// Counts the tickets that nobody handed back; `None` for one that was.
    lost: Option<Rc<Cell<u64>>>,
}

impl Ticket {
    /// The span that the ticket is of.
    pub fn span(&self) -> SpanId {
        self.span
    }

    fn take(mut self) -> (SpanId, Owed) {
        self.lost = None;
        (self.span, self.owed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost.set(lost.get() + 1);
        }
    }
}

/// What is owed for positions, in commit order. `A` is a position that the source can confirm.
#[derive(Debug)]
pub struct Ledger<A> {
    window: Window<A>,
    lost: Rc<Cell<u64>>,
    /// When the oldest change of each span committed whose first deletes were answered, where somebody asks for that.
    proved: Option<Vec<Instant>>,
}

impl<A> Default for Ledger<A> {
    fn default() -> Self {
        Ledger { window: Window::default(), lost: Rc::default(), proved: None }
    }
}

impl<A: Copy + Ord> Ledger<A> {
    /// One that says of each span how old its oldest change was: see [`take_proved`](Ledger::take_proved).
    pub fn dating() -> Self {
        Ledger { proved: Some(Vec::new()), ..Ledger::default() }
    }

    /// When the oldest change committed of each span whose first deletes were all answered since this was last asked.
    pub fn take_proved(&mut self) -> Vec<Instant> {
        self.proved.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn part_done(&mut self, span: SpanId) {
        let since = self.window.part_done(span);
        self.proved.iter_mut().for_each(|proved| proved.extend(since));
    }

    fn ticket(&self, span: SpanId, owed: Owed) -> Ticket {
        Ticket { span, owed, lost: Some(Rc::clone(&self.lost)) }
    }

    fn redeem(&self, ticket: Ticket) -> (SpanId, Owed) {
        let ours = ticket.lost.as_ref().is_some_and(|lost| Rc::ptr_eq(lost, &self.lost));
        assert!(ours, "a ticket is handed back to the ledger that gave it out");
        ticket.take()
    }

    /// Opens a span behind all others, with one part out.
    pub fn open(&mut self, ack: Option<A>) -> Ticket {
        let span = self.window.open(ack);
        self.ticket(span, Owed::Part)
    }

    /// The same, or joins the last span where there are very many.
    pub fn open_or_join(&mut self, ack: Option<A>) -> Ticket {
        let span = self.window.open_or_join(ack);
        self.ticket(span, Owed::Part)
    }

    /// Opens a span that nothing is given on before; `withdrawn` was given on and used by nobody, and comes again.
    pub fn open_barrier(&mut self, withdrawn: Option<A>) -> Ticket {
        let span = self.window.open_barrier(withdrawn);
        self.ticket(span, Owed::Part)
    }

    /// One more part of the same span is owed.
    pub fn split(&mut self, ticket: &Ticket) -> Ticket {
        self.window.add_part(ticket.span);
        self.ticket(ticket.span, Owed::Part)
    }

    /// Adds a ticket to those that wait together: one part of a span stands for all of it. Past very many spans each load
    /// joins the last one, so without this what waits for a cache that is away would grow by a ticket with each load.
    pub fn gather(&mut self, waiting: &mut Vec<Ticket>, ticket: Ticket) {
        match waiting.last().is_some_and(|last| (last.span, last.owed) == (ticket.span, ticket.owed)) {
            true => self.done(ticket),
            false => waiting.push(ticket),
        }
    }

    /// What the ticket stands for was answered.
    pub fn done(&mut self, ticket: Ticket) {
        match self.redeem(ticket) {
            (span, Owed::Part) => self.part_done(span),
            (span, Owed::Echo) => self.window.echo_done(span),
        }
    }

    /// What the ticket stands for was answered, and its echo is owed from now on.
    pub fn echoing(&mut self, ticket: Ticket) -> Ticket {
        match self.redeem(ticket) {
            (span, Owed::Part) => {
                self.window.add_echo(span);
                self.part_done(span);
                self.ticket(span, Owed::Echo)
            }
            // The next echo of the same keys.
            (span, Owed::Echo) => self.ticket(span, Owed::Echo),
        }
    }

    /// The span of the ticket has a change that committed then, by our clock.
    pub fn date(&mut self, ticket: &Ticket, born: Instant) {
        self.window.date(ticket.span, born);
    }

    /// When the oldest change committed that is owed; echoes do not count.
    pub fn oldest(&mut self) -> Option<Instant> {
        self.window.oldest()
    }

    /// Nothing older than `ack` is of interest: it is given on together with what stands before it.
    pub fn idle(&mut self, ack: A) {
        self.window.idle(ack);
    }

    /// The position up to which nothing is owed, when it moved: see [`Window::confirm`].
    ///
    /// # Errors
    ///
    /// A ticket was lost: no position would ever be given on again.
    pub fn settled(&mut self, held_back: impl Fn(Option<A>) -> bool) -> Result<Option<A>> {
        match self.lost.get() {
            0 => Ok(self.window.confirm(held_back)),
            lost => {
                let what = format!("{lost} parts of a position were lost inside of crieur: it would never move again");
                Err(Error::definite(Exit::Software, what)
                    .hint("Please report this. The next start goes on from the confirmed position; nothing is lost."))
            }
        }
    }

    /// Whether something must be answered before any position is given on: a gap, or what a cache may lack.
    pub fn is_barred(&self) -> bool {
        self.window.is_barred()
    }

    /// Whether a delete is out that must be answered before any position is given on, echoes aside.
    pub fn is_mending(&self) -> bool {
        self.window.is_mending()
    }

    /// The position up to which the first delete of everything was answered: see [`Window::deleted`].
    pub fn deleted(&self) -> Option<A> {
        self.window.deleted()
    }

    /// The position up to which the first delete of everything was answered once: see [`Window::answered_to`].
    pub fn answered_to(&mut self) -> Option<A> {
        self.window.answered_to()
    }

    /// Everything before this span was answered, echoes aside: see [`Window::first_unanswered`].
    pub fn first_unanswered(&mut self) -> SpanId {
        self.window.first_unanswered()
    }

    /// Whether the loads from one span to before another were answered, echoes aside.
    pub fn has_answered(&self, from: SpanId, to: SpanId) -> bool {
        self.window.has_answered(from, to)
    }

    /// The span that is opened next.
    pub fn next_span(&self) -> SpanId {
        self.window.next_span()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// The first span for which something is owed.
    pub fn first_open(&self) -> SpanId {
        self.window.first_open()
    }
}

/// What the source says of positions, to those who see no source.
pub trait Positions<A> {
    /// The position as PostgreSQL writes it.
    fn lsn(&self, ack: A) -> Lsn;

    /// Whether the position is one of the server that is connected now, or was last.
    fn is_current(&self, ack: A) -> bool;

    /// The position, where it is one of that server: one of another says nothing here.
    fn current(&self, ack: Option<A>) -> Option<A>
    where
        A: Copy,
    {
        ack.filter(|ack| self.is_current(*ack))
    }

    /// The same, as PostgreSQL writes it.
    fn place(&self, ack: Option<A>) -> Option<Lsn>
    where
        A: Copy,
    {
        self.current(ack).map(|ack| self.lsn(ack))
    }

    /// Up to where WAL was received.
    fn received(&self) -> Lsn;
}

/// The position that the source may report: the least over all targets.
#[derive(Debug)]
pub struct Confirmed<A>(Option<A>);

impl<A> Default for Confirmed<A> {
    fn default() -> Self {
        Confirmed(None)
    }
}

impl<A: Copy + Ord> Confirmed<A> {
    /// How far the position may go by now ([`hold::given_on`]), when that is more than before.
    pub fn upto(&mut self, least: Option<A>) -> Option<A> {
        let least = least?;
        if self.0 >= Some(least) {
            return None;
        }
        self.0 = Some(least);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_that_is_dropped_stops_the_ledger_and_does_not_hang_it() {
        let mut ledger = Ledger::default();
        let ticket = ledger.open(Some(1));
        let other = ledger.split(&ticket);
        ledger.done(other);
        assert_eq!(ledger.settled(|_| true).expect("nothing is lost"), None);
        drop(ticket);
        let error = ledger.settled(|_| true).expect_err("a part is lost");
        assert_eq!(error.exit(), Exit::Software);
    }

    #[test]
    fn a_part_becomes_an_echo_and_is_owed_until_its_last_echo() {
        let mut ledger = Ledger::default();
        let ticket = ledger.open(Some(1));
        let echo = ledger.echoing(ticket);
        let echo = ledger.echoing(echo);
        assert_eq!(ledger.settled(|_| true).expect("nothing is lost"), None, "its echo is held back");
        ledger.done(echo);
        assert_eq!(ledger.settled(|_| true).expect("nothing is lost"), Some(1));
        assert!(ledger.is_empty());
    }

    #[test]
    fn tickets_that_wait_together_are_no_more_than_the_spans() {
        let (mut ledger, mut waiting) = (Ledger::default(), Vec::new());
        let loads = 30_000;
        for load in 1..=loads {
            let ticket = ledger.open_or_join(Some(load));
            ledger.gather(&mut waiting, ticket);
        }
        assert_eq!(waiting.len(), 10_000);
        let last = waiting.pop().expect("there are many");
        waiting.into_iter().for_each(|ticket| ledger.done(ticket));
        assert!(ledger.settled(|_| true).expect("nothing is lost") < Some(loads), "the last stands for many");
        ledger.done(last);
        assert_eq!(ledger.settled(|_| true).expect("nothing is lost"), Some(loads));
    }

    #[test]
    fn a_part_and_an_echo_of_one_span_are_both_owed() {
        let (mut ledger, mut waiting) = (Ledger::default(), Vec::new());
        let part = ledger.open(Some(1));
        let echo = ledger.split(&part);
        let echo = ledger.echoing(echo);
        ledger.gather(&mut waiting, part);
        ledger.gather(&mut waiting, echo);
        assert_eq!(waiting.len(), 2);
        waiting.into_iter().for_each(|ticket| ledger.done(ticket));
        assert!(ledger.settled(|_| true).expect("nothing is lost").is_some());
    }

    #[test]
    fn the_confirmed_position_never_goes_back() {
        let mut confirmed = Confirmed::default();
        for (least, expected) in
            [(None, None), (Some(3), Some(3)), (Some(3), None), (Some(2), None), (Some(7), Some(7)), (None, None)]
        {
            assert_eq!(confirmed.upto(least), expected, "{least:?}");
        }
    }

    /// So many spans that others join the last one; only echoes wait.
    fn echoing(ledger: &mut Ledger<u64>) -> Vec<Ticket> {
        let mut echo = |ack| {
            let ticket = ledger.open_or_join(Some(ack));
            ledger.date(&ticket, Instant::now());
            ledger.echoing(ticket)
        };
        (1..=10_000).map(&mut echo).collect()
    }

    #[test]
    fn a_load_that_joins_an_answered_span_is_not_answered() {
        let mut ledger = Ledger::dating();
        let _echoes = echoing(&mut ledger);
        assert_eq!(ledger.oldest(), None, "only echoes wait");
        let token = ledger.next_span();
        let joined = ledger.open_or_join(Some(10_001));
        ledger.date(&joined, Instant::now());
        let (first, oldest) = (ledger.first_unanswered(), ledger.oldest());
        assert!(
            first < token && oldest.is_some(),
            "answered up to {first:?} of {:?}, oldest {oldest:?}",
            joined.span()
        );
    }

    #[test]
    fn a_load_that_joins_a_barrier_is_waited_for() {
        let mut ledger = Ledger::dating();
        let _echoes = echoing(&mut ledger);
        let barrier = ledger.open_barrier(None);
        let _echo = ledger.echoing(barrier);
        let from = ledger.next_span();
        let _joined = ledger.open_or_join(Some(10_001));
        assert!(!ledger.has_answered(from, ledger.next_span()), "a load is out");
    }
}
