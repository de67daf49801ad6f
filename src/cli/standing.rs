//! The line of `systemctl status`: what is wrong now and for how long, before what was done.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::admin::WatchedCache;
use crate::cli::process::notify;
use crate::cli::reload::Reloading;
use crate::metrics::CacheState;
use crate::observe::news::{News, Totals};
use crate::outage::span;

/// How often the line is renewed when nothing but numbers changes.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked at: an outage shows after this long.
const LOOK: Duration = Duration::from_secs(1);

/// What the watch finds wrong is said each minute; past this it is over.
const NOTICE: Duration = Duration::from_secs(70);

/// What the daemon is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Starting,
    Streaming,
    Interrupted,
    StandingBy(u32),
}

/// What the line is made of. Pure.
#[derive(Debug)]
struct Standing {
    doing: Doing,
    since: Instant,
    /// The cache answered once.
    ready: bool,
    /// The caches that do not answer, each with its words.
    away: Vec<(String, Instant)>,
    /// How old a change may become, by the budgets of the caches, in words.
    bounds: Vec<String>,
    sweeping_since: Option<Instant>,
    held_since: Option<Instant>,
    noticed: Option<Instant>,
    /// The last reload was refused.
    refused_since: Option<Instant>,
    totals: Totals,
    late: Duration,
}

impl Standing {
    fn new(now: Instant) -> Self {
        Standing {
            doing: Doing::Starting,
            since: now,
            ready: false,
            away: Vec::new(),
            bounds: Vec::new(),
            sweeping_since: None,
            held_since: None,
            noticed: None,
            refused_since: None,
            totals: Totals::default(),
            late: Duration::ZERO,
        }
    }

    fn news(&mut self, news: &News, now: Instant) {
        let doing = match news {
            News::Streaming => Doing::Streaming,
            // Still starting: there was no stream that could have been interrupted.
            News::Interrupted if self.doing == Doing::Starting => Doing::Starting,
            News::Interrupted => Doing::Interrupted,
            News::StandingBy(pid) => Doing::StandingBy(*pid),
            News::Ready
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
            | News::Totals(..) => self.doing,
        };
        if doing != self.doing {
            (self.doing, self.since) = (doing, now);
        }
        match news {
            News::Ready => self.ready = true,
            News::Noticed => self.noticed = Some(now),
            News::HeldBack(held) => self.held_since = held.then_some(now),
            News::SweepBegan => self.sweeping_since = Some(now),
            News::SweepEnded(_) => self.sweeping_since = None,
            News::Totals(totals, late) => (self.totals, self.late) = (*totals, *late),
            News::Streaming
            | News::Interrupted
            | News::StandingBy(_)
            | News::Gap(_)
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

    /// What a SIGHUP came to.
    fn reloading(&mut self, reloading: Reloading, now: Instant) {
        match reloading {
            Reloading::Began => {}
            Reloading::Refused => self.refused_since = self.refused_since.or(Some(now)),
            Reloading::Done => self.refused_since = None,
        }
    }

    /// Which caches do not answer, as the last attempts found.
    fn caches(&mut self, caches: &[CacheState], now: Instant) {
        let words = |state: &CacheState| {
            let named = if caches.len() > 1 { format!("the cache {}", state.name) } else { "the cache".to_owned() };
            format!("{named} does not answer")
        };
        let away: Vec<String> = caches.iter().filter(|state| state.away).map(words).collect();
        let since = |what: &String| self.away.iter().find(|(known, _)| known == what).map_or(now, |(_, since)| *since);
        self.away = away.into_iter().map(|what| (what.clone(), since(&what))).collect();
        let bound = |state: &CacheState| {
            let bound = state.budget?.bound_shown();
            Some(format!("the budget of the cache {} lets a change wait for {bound} at most", state.name))
        };
        self.bounds = caches.iter().filter_map(bound).collect();
    }

    /// What is wrong, and since when; the gravest first.
    fn wrong(&self, now: Instant) -> Vec<(String, Instant)> {
        let mut wrong = Vec::new();
        let said = |what: &str, since| (what.to_owned(), since);
        match self.doing {
            Doing::Starting => wrong.push(said("nothing is read from PostgreSQL yet", self.since)),
            Doing::Interrupted => wrong.push(said("reading from PostgreSQL is interrupted", self.since)),
            Doing::Streaming if !self.ready && self.away.is_empty() => {
                wrong.push(said("the cache has not answered yet", self.since));
            }
            Doing::Streaming | Doing::StandingBy(_) => {}
        }
        let held = self.held_since.filter(|_| self.doing == Doing::Streaming);
        wrong.extend(held.map(|since| said("the server holds the stream back", since)));
        wrong.extend(self.away.iter().cloned());
        let noticed = self.noticed.filter(|told| now.duration_since(*told) < NOTICE);
        wrong.extend(noticed.map(|told| said("the log names what is wrong on the server", told)));
        wrong.extend(self.refused_since.map(|since| said("the configuration file is wrong and was not taken", since)));
        wrong
    }

    /// The line, and what is wrong in it.
    fn line(&self, now: Instant) -> (String, Vec<String>) {
        let wrong = self.wrong(now);
        let mut parts: Vec<String> =
            wrong.iter().map(|(what, since)| format!("{what}, for {}", span(now.duration_since(*since)))).collect();
        match self.doing {
            Doing::StandingBy(pid) => parts.push(format!("standing by: the slot is active for PID {pid}")),
            Doing::Streaming if parts.is_empty() => parts.push("streaming".to_owned()),
            Doing::Streaming | Doing::Starting | Doing::Interrupted => {}
        }
        if let Some(since) = self.sweeping_since {
            parts.push(format!("sweeping for {}", span(now.duration_since(since))));
        }
        let Totals { keys, existed, widened, sweeps, .. } = self.totals;
        if keys + sweeps > 0 {
            parts.push(format!("{keys} keys sent, {existed} existed, {widened} widened, {sweeps} sweeps"));
        }
        // Of a stream that does not run, or a cache that does not answer, it would be the age of another time.
        if wrong.is_empty() && self.doing == Doing::Streaming && keys > 0 {
            parts.push(format!("last change {} s late", self.late.as_secs()));
        }
        if self.doing == Doing::Streaming {
            parts.extend(self.bounds.iter().cloned());
        }
        (parts.join("; "), wrong.into_iter().map(|(what, _)| what).collect())
    }
}

/// Tells systemd, from the loop's news and from time to time: while nothing happens nobody brings news.
#[derive(Clone)]
pub(super) struct Status(Rc<RefCell<Told>>);

struct Told {
    standing: Standing,
    caches: Vec<WatchedCache>,
    /// READY=1 was said.
    is_up: bool,
    at: Option<Instant>,
    line: String,
    wrong: Vec<String>,
}

impl Status {
    /// Of a daemon that starts now, with these caches.
    pub(super) fn new(caches: Vec<WatchedCache>) -> Self {
        let standing = Standing::new(Instant::now());
        Status(Rc::new(RefCell::new(Told {
            standing,
            caches,
            is_up: false,
            at: None,
            line: String::new(),
            wrong: Vec::new(),
        })))
    }

    /// Of these caches from now on.
    pub(super) fn watch(&self, caches: Vec<WatchedCache>) {
        self.0.borrow_mut().caches = caches;
    }

    /// Takes what the loop says.
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

    /// Takes what a SIGHUP came to. A unit of Type=notify-reload waits for the second word.
    pub(super) fn reloading(&self, reloading: Reloading) {
        self.0.borrow_mut().standing.reloading(reloading, Instant::now());
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
        let caches: Vec<CacheState> = told.caches.iter().map(WatchedCache::state).collect();
        told.standing.caches(&caches, now);
        let (line, wrong) = told.standing.line(now);
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

    #[test]
    fn a_refused_reload_is_wrong_until_one_is_taken() {
        let start = Instant::now();
        let mut standing = Standing::new(start);
        standing.news(&News::Streaming, start);
        standing.news(&News::Ready, start);
        let mut line = |reloading, seconds| {
            let now = start + Duration::from_secs(seconds);
            standing.reloading(reloading, now);
            standing.line(now).0
        };
        let wrong = "the configuration file is wrong and was not taken";
        assert_eq!(line(Reloading::Began, 1), "streaming");
        assert_eq!(line(Reloading::Refused, 2), format!("{wrong}, for 0 s"));
        assert_eq!(line(Reloading::Began, 9), format!("{wrong}, for 7 s"));
        assert_eq!(line(Reloading::Refused, 10), format!("{wrong}, for 8 s"));
        assert_eq!(line(Reloading::Done, 11), "streaming");
    }

    #[test]
    fn what_is_wrong_now_stands_before_what_was_done() {
        let start = Instant::now();
        let mut standing = Standing::new(start);
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
            if let Some(news) = &news {
                standing.news(news, now);
            }
            let state = CacheState {
                name: "main".into(),
                required: true,
                away: cache,
                place: String::new(),
                away_since: None,
                outages: 0,
                returns: 0,
                billed: 0,
                budget: None,
                sentinels: None,
            };
            standing.caches(&[state], now);
            assert_eq!(standing.line(now).0, expected, "{seconds} {news:?}");
        }
    }
}
