//! The arithmetic of a ledger: which position may be given on. Pure.
//!
//! Spans stand in commit order. Each closes with the position of its last commit and counts the parts (exact keys, a
//! sweep, echoes) that are still out. A position is confirmable when its span and every span before it have nothing
//! out: received >= answered >= confirmed, and confirmed never goes back.

use std::collections::VecDeque;
use std::time::Instant;

/// Names a span of the window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpanId(u64);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Span<A> {
    /// `None` while no commit closed it: a piece of a transaction that is still being received.
    ack: Option<A>,
    /// Parts not yet answered.
    out: u32,
    /// Of these, echoes: they hold a position back by choice, up to a budget of WAL.
    echoes: u32,
    /// When its oldest change committed, by our clock; `None` where nobody said.
    since: Option<Instant>,
    /// Its first deletes were answered once.
    is_proved: bool,
    /// It is what a cache lacked, and no load.
    is_barrier: bool,
}

/// Spans in commit order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window<A> {
    spans: VecDeque<Span<A>>,
    /// Id of the first span in the deque.
    first: u64,
    confirmed: Option<A>,
    /// Nothing is confirmed before this span, not even what stands before it.
    barrier: Option<SpanId>,
    /// Spans before this one have no part out but echoes.
    answered: u64,
    /// The greatest position of a span that stood before that one.
    answered_to: Option<A>,
}

impl<A> Default for Window<A> {
    fn default() -> Self {
        Window { spans: VecDeque::new(), first: 0, confirmed: None, barrier: None, answered: 0, answered_to: None }
    }
}

/// Past so many spans new work joins the last one that is still out: a replica that is away, or a transaction that is
/// open for hours, holds every span back. In commit order that is only coarser.
const SPANS_MAX: usize = 10_000;

impl<A: Copy + Ord> Window<A> {
    /// Opens a span for what leaves now, with one part out, or joins the last one where there are many.
    pub fn open_or_join(&mut self, ack: Option<A>) -> SpanId {
        let many = self.spans.len() >= SPANS_MAX;
        let id = self.next_span().0.saturating_sub(1);
        match self.spans.back_mut() {
            Some(last) if many => {
                last.ack = last.ack.max(ack);
                last.out += 1;
                // Whoever waits for loads waits for this one, though it stands in a barrier's span.
                last.is_barrier = false;
                self.answered = self.answered.min(id);
                SpanId(id)
            }
            Some(_) | None => self.open(ack),
        }
    }

    /// Opens a span behind all others, with one part out.
    pub fn open(&mut self, ack: Option<A>) -> SpanId {
        self.spans.push_back(Span { ack, out: 1, echoes: 0, since: None, is_proved: false, is_barrier: false });
        SpanId(self.first + self.spans.len() as u64 - 1)
    }

    /// Opens a span that nothing is confirmed before, with one part out: the sweep of a gap. A position that is
    /// confirmed before it would prove a cache whose stale keys are still there. `withdrawn` is a position that
    /// [`confirm`](Window::confirm) returned and nobody has used; it comes again behind the barrier.
    pub fn open_barrier(&mut self, withdrawn: Option<A>) -> SpanId {
        if withdrawn.is_some() {
            self.confirmed = None;
        }
        let id = self.open(withdrawn);
        self.span(id).is_barrier = true;
        self.barrier = Some(id);
        id
    }

    /// Whether something must be answered before anything is confirmed: a gap, or what a cache may lack.
    pub fn is_barred(&self) -> bool {
        self.barrier.is_some()
    }

    /// Whether a first delete is out that must be answered before anything is confirmed: echoes of a repair aside.
    pub fn is_mending(&self) -> bool {
        let upto = self.barrier.map_or(0, |barrier| (barrier.0 + 1).saturating_sub(self.first) as usize);
        self.spans.iter().take(upto).any(|span| span.out > 0)
    }

    /// The first span that is not done: everything before it was answered, echoes included or released.
    pub fn first_open(&self) -> SpanId {
        SpanId(self.first)
    }

    fn span(&mut self, id: SpanId) -> &mut Span<A> {
        let index = id.0.checked_sub(self.first).expect("a span with parts out is never confirmed");
        self.spans.get_mut(index as usize).expect("span ids come from open()")
    }

    /// One more part of the span is out.
    pub fn add_part(&mut self, id: SpanId) {
        self.span(id).out += 1;
        self.answered = self.answered.min(id.0);
    }

    /// The span has a change that committed then, by our clock.
    pub fn date(&mut self, id: SpanId, born: Instant) {
        let span = self.span(id);
        span.since = span.since.map_or(Some(born), |since| Some(since.min(born)));
    }

    /// When the oldest change committed whose deletes are not answered; echoes do not count.
    pub fn oldest(&mut self) -> Option<Instant> {
        self.pass_answered().and_then(|span| span.since)
    }

    /// The greatest position up to which the first delete of everything was answered once, echoes aside. That something is
    /// deleted once more does not take it back.
    pub fn answered_to(&mut self) -> Option<A> {
        self.pass_answered();
        self.answered_to.max(self.confirmed)
    }

    /// Everything before this span was answered, echoes aside.
    pub fn first_unanswered(&mut self) -> SpanId {
        self.pass_answered();
        SpanId(self.answered)
    }

    /// Whether the loads from one span to before another were answered, echoes aside; and those of the span before, which
    /// the first one of them may have joined.
    pub fn has_answered(&self, from: SpanId, to: SpanId) -> bool {
        let of = |id: u64| (id.saturating_sub(self.first) as usize).min(self.spans.len());
        let (from, to) = (of(from.0.saturating_sub(1)), of(to.0));
        !self.spans.range(from.min(to)..to).any(|span| span.out > 0 && !span.is_barrier)
    }

    /// The span that is opened next.
    pub fn next_span(&self) -> SpanId {
        SpanId(self.first + self.spans.len() as u64)
    }

    /// The first span with a part out but echoes.
    fn pass_answered(&mut self) -> Option<&Span<A>> {
        self.answered = self.answered.max(self.first);
        while let Some(span) = self.spans.get((self.answered - self.first) as usize) {
            if span.out > 0 {
                break;
            }
            self.answered_to = self.answered_to.max(span.ack);
            self.answered += 1;
        }
        self.spans.get((self.answered - self.first) as usize)
    }

    /// One part of the span was answered. With the last one of them the first deletes of the span are proved: says when
    /// its oldest change committed, once.
    pub fn part_done(&mut self, id: SpanId) -> Option<Instant> {
        let span = self.span(id);
        span.out = span.out.checked_sub(1).expect("each part is done once");
        let since = span.since.filter(|_| span.out == 0 && !span.is_proved);
        span.is_proved |= since.is_some();
        since
    }

    /// One more echo of the span is out.
    pub fn add_echo(&mut self, id: SpanId) {
        self.span(id).echoes += 1;
    }

    /// One echo of the span was answered. A span that was released without its echoes may be gone.
    pub fn echo_done(&mut self, id: SpanId) {
        if id.0 >= self.first {
            let span = self.span(id);
            span.echoes = span.echoes.saturating_sub(1);
        }
    }

    /// Nothing older than `ack` is of interest: confirm it as soon as nothing before it is out.
    pub fn idle(&mut self, ack: A) {
        let many = self.spans.len() >= SPANS_MAX;
        match self.spans.back_mut() {
            Some(span) if many || (span.out == 0 && span.echoes == 0) => span.ack = span.ack.max(Some(ack)),
            // A span that waits for answers or echoes: the position queues behind it.
            _ => self.spans.push_back(Span {
                ack: Some(ack),
                out: 0,
                echoes: 0,
                since: None,
                is_proved: false,
                is_barrier: false,
            }),
        }
    }

    /// Takes everything that is answered off the front; returns the position to confirm when it moved.
    ///
    /// `held_back` says whether echoes may still hold back what was received past this position, the last that was
    /// returned; `None` before the first. Not past the end of a span: a span may be as long as its keys were invisible.
    pub fn confirm(&mut self, held_back: impl Fn(Option<A>) -> bool) -> Option<A> {
        let is_out = |span: &Span<A>, upto| span.out > 0 || (span.echoes > 0 && held_back(upto));
        if let Some(barrier) = self.barrier {
            // Those before it, too: an earlier barrier may be among them.
            let upto = (barrier.0 + 1).saturating_sub(self.first) as usize;
            if self.spans.iter().take(upto).any(|span| is_out(span, self.confirmed)) {
                return None;
            }
            self.barrier = None;
        }
        let before = self.confirmed;
        while let Some(span) = self.spans.front() {
            if is_out(span, self.confirmed) {
                break;
            }
            if let Some(ack) = span.ack {
                self.confirmed = self.confirmed.max(Some(ack));
            }
            self.spans.pop_front();
            self.first += 1;
        }
        if self.confirmed > before { self.confirmed } else { None }
    }

    /// The position up to which the first delete of everything was answered, echoes aside; `None` where nothing is known of
    /// that. Behind a barrier nothing is, before that is answered.
    pub fn deleted(&self) -> Option<A> {
        let answered = self.spans.iter().take_while(|span| span.out == 0);
        let upto = self.first + answered.clone().count() as u64;
        if self.barrier.is_some_and(|barrier| barrier.0 >= upto) {
            return None;
        }
        answered.filter_map(|span| span.ack).max().max(self.confirmed)
    }

    /// Whether nothing is out.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_change_is_that_of_the_first_span_with_a_part_out_echoes_aside() {
        let start = Instant::now();
        let at = |seconds| start + std::time::Duration::from_secs(seconds);
        let mut window = Window::default();
        assert_eq!(window.oldest(), None);
        let spans: Vec<SpanId> = (1..=3).map(|number| window.open(Some(number))).collect();
        spans.iter().zip(1..).for_each(|(span, second)| window.date(*span, at(second)));
        window.date(spans[0], at(9));
        assert_eq!(window.oldest(), Some(at(1)));
        window.add_echo(spans[0]);
        window.part_done(spans[0]);
        assert_eq!(window.oldest(), Some(at(2)), "its echo waits");
        assert_eq!(window.part_done(spans[2]), Some(at(3)), "it is proved, whatever stands before it");
        assert_eq!((window.oldest(), window.answered_to()), (Some(at(2)), Some(1)));
        window.part_done(spans[1]);
        assert_eq!(window.oldest(), None);
        window.add_part(spans[0]);
        assert_eq!(window.oldest(), Some(at(1)), "it goes again");
        assert_eq!(window.answered_to(), Some(3), "the first delete was answered");
        assert_eq!(window.part_done(spans[0]), None, "it was proved before");
        window.echo_done(spans[0]);
        assert_eq!((window.confirm(|_| true), window.oldest()), (Some(3), None));
    }

    #[test]
    fn whoever_waits_for_what_was_opened_waits_for_its_parts_and_not_for_its_echoes() {
        let mut window = Window::default();
        assert_eq!(window.first_unanswered(), window.next_span());
        let spans: Vec<SpanId> = (1..=2).map(|number| window.open(Some(number))).collect();
        let token = window.next_span();
        window.add_echo(spans[0]);
        window.part_done(spans[0]);
        assert!(window.first_unanswered() < token);
        window.part_done(spans[1]);
        assert_eq!(window.first_unanswered(), token, "its echo is out");
        window.add_part(spans[1]);
        assert!(window.first_unanswered() < token, "it goes again");
        assert!(!window.has_answered(spans[1], token) && window.has_answered(spans[0], spans[1]));
        assert!(!window.has_answered(token, token), "it may have joined the one before");
        window.part_done(spans[1]);
        let barrier = window.open_barrier(None);
        let load = window.open(Some(3));
        window.part_done(load);
        assert!(
            window.has_answered(token, window.next_span()),
            "a load does not wait for what the cache lacked before"
        );
        assert_eq!(window.first_unanswered(), barrier);
        window.echo_done(spans[0]);
        window.part_done(barrier);
        assert_eq!(window.confirm(|_| true), Some(3));
        assert!(window.has_answered(spans[0], load), "what is gone was answered");
    }

    #[test]
    fn behind_many_spans_others_join_the_last_and_are_confirmed_with_all_its_parts() {
        let mut window = Window::default();
        let first = window.open(Some(0));
        let commit = |window: &mut Window<usize>, number: usize| {
            let span = window.open_or_join(Some(2 * number));
            window.idle(2 * number + 1);
            span
        };
        let spans: Vec<SpanId> = (1..=SPANS_MAX).map(|number| commit(&mut window, number)).collect();
        assert_eq!(window.spans.len(), SPANS_MAX);
        window.part_done(first);
        assert_eq!(window.confirm(|_| true), Some(0));
        let (last, others) = spans.split_last().expect("there are many");
        others.iter().for_each(|span| assert_eq!(window.part_done(*span), None, "nobody dated it"));
        let before = window.confirm(|_| true).expect("those that have a span of their own are done");
        assert!(before < 2 * SPANS_MAX, "one of the many parts of the last is out");
        window.part_done(*last);
        assert_eq!(window.confirm(|_| true), Some(2 * SPANS_MAX + 1));
    }

    #[test]
    fn nothing_is_confirmed_before_the_barrier_and_a_withdrawn_position_comes_again() {
        let mut window = Window::default();
        window.idle(5);
        assert_eq!(window.confirm(|_| true), Some(5));
        window.idle(7);
        let sweep = window.open_barrier(Some(5));
        assert_eq!(window.confirm(|_| true), None);
        window.add_echo(sweep);
        window.part_done(sweep);
        assert_eq!(window.confirm(|_| true), None, "its echo is out");
        window.echo_done(sweep);
        assert_eq!(window.confirm(|_| true), Some(7));

        let sweep = window.open_barrier(Some(7));
        window.part_done(sweep);
        assert_eq!(window.confirm(|_| true), Some(7), "nobody had used it");
    }

    #[test]
    fn what_is_deleted_does_not_wait_for_echoes_but_for_barriers_and_for_what_stands_before() {
        let mut window = Window::default();
        window.idle(5);
        assert_eq!(window.deleted(), Some(5));
        let spans = [7, 9].map(|ack| window.open(Some(ack)));
        window.part_done(spans[1]);
        assert_eq!(window.deleted(), Some(5));
        window.add_echo(spans[0]);
        window.part_done(spans[0]);
        assert_eq!((window.confirm(|_| true), window.deleted()), (Some(5), Some(9)));
        let sweep = window.open_barrier(None);
        assert_eq!(window.deleted(), None);
        window.add_echo(sweep);
        window.part_done(sweep);
        assert_eq!(window.deleted(), Some(9));
    }

    #[test]
    fn a_second_barrier_does_not_open_the_first() {
        let mut window = Window::default();
        window.idle(5);
        let first = window.open_barrier(None);
        let second = window.open_barrier(None);
        window.part_done(second);
        assert_eq!(window.confirm(|_| true), None);
        window.part_done(first);
        assert_eq!(window.confirm(|_| true), Some(5));
    }

    /// Keys of `window` that are answered, each with an echo out.
    fn echoing(window: &mut Window<u64>, acks: &[Option<u64>]) {
        for ack in acks {
            let span = window.open(*ack);
            window.add_echo(span);
            window.part_done(span);
        }
    }

    #[test]
    fn past_the_budget_the_oldest_echoes_are_released_and_no_more_of_them_than_needed() {
        let mut window = Window::default();
        window.idle(10);
        echoing(&mut window, &[Some(20), None, Some(90), Some(95)]);
        let within = |received: u64| move |upto: Option<u64>| received - upto.unwrap_or(0) <= 50;
        assert_eq!(window.confirm(within(60)), Some(10));
        assert_eq!(window.confirm(within(61)), Some(20), "50 bytes past 20 are within the budget");
        assert_eq!(window.confirm(within(70)), None);
        // Its end is near, and what it holds back is much; the piece before it has no end at all.
        assert_eq!(window.confirm(within(100)), Some(90));
        assert_eq!(window.confirm(within(140)), None);
        assert_eq!(window.confirm(within(141)), Some(95));
    }

    #[test]
    fn the_echo_of_a_sweep_is_released_too() {
        let mut window = Window::default();
        let sweep = window.open_barrier(None);
        window.idle(5);
        window.add_echo(sweep);
        window.part_done(sweep);
        assert_eq!(window.confirm(|_| true), None);
        assert_eq!(window.confirm(|upto| upto.is_some()), Some(5));
    }
}
