//! When the cache is away, nothing is sent for a while. Pure: time comes as an argument.
//!
//! What is counted are losses, not commands: of what was under way together, the first failure counts. Behind a pause
//! one command is tried, and the others go without an answer until that one is settled.

use std::time::{Duration, Instant};

/// So long nothing is sent once the server says that it will not serve us: a wrong password, a quota.
pub const REFUSED: Duration = Duration::from_secs(60);

/// How many losses had been when a command was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

/// Counts losses in a row.
pub struct Breaker {
    after: u32,
    pause: Duration,
    losses: u64,
    in_a_row: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// Pauses for `pause` behind `after` losses in a row.
    pub fn new(after: u32, pause: Duration) -> Breaker {
        Breaker { after, pause, losses: 0, in_a_row: 0, until: None }
    }

    /// Whether a command may be sent now.
    pub fn admit(&mut self, now: Instant) -> Option<Ticket> {
        if let Some(until) = self.until {
            if now < until {
                return None;
            }
            // This one is tried; until it is settled nobody else is.
            self.until = Some(now + self.pause);
        }
        Some(Ticket(self.losses))
    }

    /// A command failed. Answers how long nothing is sent, if that begins now.
    pub fn lost(&mut self, ticket: Ticket, now: Instant, is_refused: bool) -> Option<Duration> {
        if ticket.0 != self.losses {
            return None;
        }
        self.losses += 1;
        self.in_a_row += 1;
        let pause = if is_refused { REFUSED.max(self.pause) } else { self.pause };
        let begins = self.in_a_row >= self.after || self.until.is_some() || is_refused;
        begins.then(|| {
            self.until = Some(now + pause);
            pause
        })
    }

    /// A command was answered. Whether that ends a pause.
    pub fn answered(&mut self, ticket: Ticket) -> bool {
        if ticket.0 != self.losses {
            return false;
        }
        self.in_a_row = 0;
        self.until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    #[test]
    fn three_losses_in_a_row_pause_and_one_try_ends_the_pause_or_begins_another() {
        let (mut breaker, start) = (Breaker::new(3, PAUSE), Instant::now());
        for expected in [None, None, Some(PAUSE)] {
            let ticket = breaker.admit(start).expect("nothing is paused");
            assert_eq!(breaker.lost(ticket, start, false), expected);
        }
        assert_eq!(breaker.admit(start + PAUSE / 2), None);
        let tried = breaker.admit(start + PAUSE).expect("one is tried");
        assert_eq!(breaker.admit(start + PAUSE), None, "only one is");
        assert_eq!(breaker.lost(tried, start + PAUSE, false), Some(PAUSE));
        let tried = breaker.admit(start + PAUSE * 2).expect("one is tried");
        assert!(breaker.answered(tried), "it resumes");
        let ticket = breaker.admit(start + PAUSE * 2).expect("the pause is over");
        assert!(!breaker.answered(ticket));
    }

    #[test]
    fn one_broken_connection_with_five_commands_is_one_loss() {
        let (mut breaker, now) = (Breaker::new(3, PAUSE), Instant::now());
        let five = [(); 5].map(|()| breaker.admit(now).expect("nothing is paused"));
        assert!(five.into_iter().all(|ticket| breaker.lost(ticket, now, false).is_none()));
        assert!(breaker.admit(now).is_some());
    }

    #[test]
    fn an_answer_between_two_losses_begins_the_count_anew() {
        let (mut breaker, now) = (Breaker::new(2, PAUSE), Instant::now());
        for _ in 0..3 {
            let ticket = breaker.admit(now).expect("nothing is paused");
            assert_eq!(breaker.lost(ticket, now, false), None);
            let ticket = breaker.admit(now).expect("nothing is paused");
            assert!(!breaker.answered(ticket));
        }
    }

    #[test]
    fn who_is_refused_waits_a_minute() {
        let (mut breaker, now) = (Breaker::new(3, PAUSE), Instant::now());
        let ticket = breaker.admit(now).expect("nothing is paused");
        assert_eq!(breaker.lost(ticket, now, true), Some(REFUSED));
        assert_eq!(breaker.admit(now + PAUSE), None);
    }
}
