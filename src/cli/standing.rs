//! The line of `systemctl status`: what is wrong now and for how long, before what was done.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::admin::AdminState;
use crate::cli::process::notify;
use crate::cli::reload::Reloading;
use crate::metrics::CacheState;
use crate::metrics::wrong::WrongNow;
use crate::observe::news::{News, Totals};
use crate::outage::span;

/// How often the line is renewed when nothing but numbers changes.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked at: an outage shows after this long.
const LOOK: Duration = Duration::from_secs(1);

/// What the line is made of, besides what is wrong. Pure.
#[derive(Debug, Default)]
struct Standing {
    /// The stream runs.
    streams: bool,
    /// The session that has the slot.
    waits_for: Option<u32>,
    sweeping_since: Option<Instant>,
    totals: Totals,
    late: Duration,
}

impl Standing {
    fn news(&mut self, news: &News, now: Instant) {
        match news {
            News::Streaming => (self.streams, self.waits_for) = (true, None),
            News::Interrupted => (self.streams, self.waits_for) = (false, None),
            News::StandingBy(pid) => (self.streams, self.waits_for) = (false, Some(*pid)),
            News::SweepBegan => self.sweeping_since = Some(now),
            News::SweepEnded(_) => self.sweeping_since = None,
            News::Totals(totals, late) => (self.totals, self.late) = (*totals, *late),
            News::Ready
            | News::Gap(_)
            | News::HeldBack(_)
            | News::Noticed
            | News::Deleted(_)
            | News::Marked(_)
            | News::Changed(_)
            | News::Gone(..)
            | News::CacheTotals(..)
            | News::Server(_)
            | News::Rules(_)
            | News::Tally(_)
            | News::Released(..)
            | News::Said(_) => {}
        }
    }

    /// The line: what is wrong, and then what was done and how old a change may become by the budgets of the caches.
    fn line(&self, wrong: &[WrongNow], caches: &[CacheState], now: Instant) -> String {
        let said = |WrongNow { what, since }: &WrongNow| match since {
            Some(since) => format!("{what}, for {}", span(now.saturating_duration_since(*since))),
            None => what.clone(),
        };
        let mut parts: Vec<String> = wrong.iter().map(said).collect();
        match self.waits_for {
            Some(pid) => parts.push(format!("standing by: the slot is active for PID {pid}")),
            None if self.streams && parts.is_empty() => parts.push("streaming".to_owned()),
            None => {}
        }
        if let Some(since) = self.sweeping_since {
            parts.push(format!("sweeping for {}", span(now.duration_since(since))));
        }
        let Totals { keys, existed, widened, sweeps, .. } = self.totals;
        if keys + sweeps > 0 {
            parts.push(format!("{keys} keys sent, {existed} existed, {widened} widened, {sweeps} sweeps"));
        }
        // Of a stream that does not run, or a cache that does not answer, it would be the age of another time.
        if wrong.is_empty() && self.streams && keys > 0 {
            parts.push(format!("last change {} s late", self.late.as_secs()));
        }
        let bound = |state: &CacheState| {
            let bound = state.budget?.bound_shown();
            Some(format!("the budget of the cache {} lets a change wait for {bound} at most", state.name))
        };
        parts.extend(caches.iter().filter(|_| self.streams).filter_map(bound));
        parts.join("; ")
    }
}

/// Tells systemd, from the loop's news and from time to time: while nothing happens nobody brings news.
#[derive(Clone)]
pub(super) struct Status(Rc<RefCell<Told>>);

struct Told {
    standing: Standing,
    state: AdminState,
    /// READY=1 was said.
    is_up: bool,
    at: Option<Instant>,
    line: String,
    wrong: Vec<String>,
}

impl Status {
    /// Of a daemon that starts now.
    pub(super) fn new(state: AdminState) -> Self {
        let (standing, line) = (Standing::default(), String::new());
        Status(Rc::new(RefCell::new(Told { standing, state, is_up: false, at: None, line, wrong: Vec::new() })))
    }

    /// Takes what the loop says, behind the state that it shows.
    pub(super) fn news(&self, news: &News) {
        let now = Instant::now();
        self.0.borrow_mut().standing.news(news, now);
        match news {
            // Up, though another one works: a unit of Type=notify must not wait for it.
            News::Ready | News::StandingBy(_) => {
                self.0.borrow_mut().is_up = true;
                self.tell(&[NotifyState::Ready]);
            }
            News::Streaming
            | News::Interrupted
            | News::Gap(_)
            | News::HeldBack(_)
            | News::Noticed
            | News::Deleted(_)
            | News::Marked(_)
            | News::Changed(_)
            | News::Gone(..)
            | News::Released(..)
            | News::SweepBegan
            | News::SweepEnded(_)
            | News::Said(_)
            | News::CacheTotals(..)
            | News::Server(_)
            | News::Rules(_)
            | News::Tally(_)
            | News::Totals(..) => {}
        }
    }

    /// Takes what a SIGHUP came to, behind the state that it shows. A unit of Type=notify-reload waits for the second word.
    pub(super) fn reloading(&self, reloading: Reloading) {
        // While it starts, READY=1 would say that it has started.
        if !self.0.borrow().is_up {
            return;
        }
        match (reloading, NotifyState::monotonic_usec_now()) {
            (Reloading::Began, Ok(now)) => notify(&[NotifyState::Reloading, now]),
            // Without the time a notify-reload would fail, so to systemd this is no reload.
            (Reloading::Began, Err(_)) => {}
            (Reloading::Refused | Reloading::Done, _) => self.tell(&[NotifyState::Ready]),
        }
    }

    /// Looks and tells for ever.
    pub(super) async fn now_and_then(&self) -> std::convert::Infallible {
        loop {
            self.tell(&[]);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// With `more`, or when something went wrong or right, at once; when only numbers changed, now and then.
    fn tell(&self, more: &[NotifyState<'_>]) {
        let (mut told, now) = (self.0.borrow_mut(), Instant::now());
        let (wrong, caches) = told.state.wrong();
        let line = told.standing.line(&wrong, &caches, now);
        let wrong: Vec<String> = wrong.into_iter().map(|of| of.what).collect();
        let due = told.at.is_none_or(|at| now.duration_since(at) >= INTERVAL);
        if more.is_empty() && wrong == told.wrong && (line == told.line || !due) {
            return;
        }
        notify(&[more, &[NotifyState::Status(&line)]].concat());
        (told.at, told.line, told.wrong) = (Some(now), line, wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::words::Member;

    #[test]
    fn a_refused_reload_is_wrong_until_one_is_taken() {
        let start = Instant::now();
        let (mut metrics, mut standing) = (Metrics::new(start), Standing::default());
        for news in [News::Streaming, News::Ready] {
            metrics.news(&news, None, start);
            standing.news(&news, start);
        }
        let mut line = |taken: Option<bool>, seconds| {
            let at = Duration::from_secs(seconds);
            taken.into_iter().for_each(|taken| metrics.reloaded(taken, (start + at, at)));
            standing.line(&metrics.wrong(&[], start + at), &[], start + at)
        };
        let wrong = "the configuration file is wrong and was not taken";
        assert_eq!(line(None, 1), "streaming");
        assert_eq!(line(Some(false), 2), format!("{wrong}, for 0 s"));
        assert_eq!(line(None, 9), format!("{wrong}, for 7 s"));
        assert_eq!(line(Some(false), 10), format!("{wrong}, for 8 s"));
        assert_eq!(line(Some(true), 11), "streaming");
    }

    #[test]
    fn what_is_wrong_now_stands_before_what_was_done() {
        let start = Instant::now();
        let (mut metrics, mut standing) = (Metrics::new(start), Standing::default());
        let mut away_since = None;
        let totals = Totals { keys: 7, existed: 3, sweeps: 1, ..Totals::default() };
        let (here, away) = (false, true);
        let steps = [
            (0, None, here, "nothing is read from PostgreSQL yet, for 0 s"),
            (20, Some(News::Interrupted), here, "nothing is read from PostgreSQL yet, for 20 s"),
            (30, Some(News::Streaming), here, "the cache has not answered yet, for 0 s"),
            (31, None, away, "the cache does not answer, for 0 s"),
            (40, Some(News::Ready), here, "streaming"),
            (41, Some(News::SweepBegan), here, "streaming; sweeping for 0 s"),
            (44, None, here, "streaming; sweeping for 3 s"),
            (45, Some(News::SweepEnded(crate::cache::Swept::default())), here, "streaming"),
            (
                46,
                Some(News::Totals(totals, Duration::from_secs(2))),
                here,
                "streaming; 7 keys sent, 3 existed, 0 widened, 1 sweeps; last change 2 s late",
            ),
            (50, None, away, "the cache does not answer, for 0 s; 7 keys sent, 3 existed, 0 widened, 1 sweeps"),
            (179, None, away, "the cache does not answer, for 2 min; 7 keys sent, 3 existed, 0 widened, 1 sweeps"),
            (
                180,
                Some(News::Interrupted),
                away,
                "reading from PostgreSQL is interrupted, for 0 s; the cache does not answer, for 2 min; \
                 7 keys sent, 3 existed, 0 widened, 1 sweeps",
            ),
            (
                190,
                Some(News::StandingBy(5)),
                here,
                "standing by: the slot is active for PID 5; 7 keys sent, 3 existed, 0 widened, 1 sweeps",
            ),
            (
                200,
                Some(News::Noticed),
                here,
                "the log names what is wrong on the server, for 0 s; standing by: the slot is active for PID 5; \
                 7 keys sent, 3 existed, 0 widened, 1 sweeps",
            ),
            (270, None, here, "standing by: the slot is active for PID 5; 7 keys sent, 3 existed, 0 widened, 1 sweeps"),
        ];
        for (seconds, news, cache, expected) in steps {
            let now = start + Duration::from_secs(seconds);
            news.iter().for_each(|news| {
                metrics.news(news, None, now);
                standing.news(news, now);
            });
            away_since = away_since.filter(|_| cache).or(cache.then_some(now));
            let state = CacheState {
                name: "main".into(),
                member: Member::Cache,
                required: true,
                away: cache,
                refuses: false,
                place: String::new(),
                away_since,
                outages: 0,
                returns: 0,
                billed: 0,
                budget: None,
                sentinels: None,
            };
            let line = standing.line(&metrics.wrong(std::slice::from_ref(&state), now), &[state], now);
            assert_eq!(line, expected, "{seconds} {news:?}");
        }
    }
}
