//! What the daemon shows of itself: its state as the loop told it, and that state as Prometheus reads it (`text.rs`, with a
//! file for each group of series). Pure.
//!
//! It decides nothing and holds nothing back: the loop hands out numbers and never waits for whoever looks at them.

mod caches;
mod counted;
mod page;
pub mod process;
mod server;
mod snapshot;
mod text;
pub mod wrong;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::metrics::counted::Counted;
use crate::metrics::process::{ProcessState, Reloaded};
use crate::metrics::server::ServerView;
use crate::observe::news::{CacheTotals, News, Totals};
use crate::observe::speaker::CacheName;
use crate::words::Member;

/// Without a word of the loop for so long it hangs: while it streams it says a status every few seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// What the daemon is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// There was no stream yet.
    Starting,
    /// The stream runs.
    Streaming,
    /// The stream broke.
    Interrupted,
    /// Another daemon has the slot.
    Standby,
}

/// Every role, by its name in the metric.
const ROLES: [(&str, Role); 4] = [
    ("starting", Role::Starting),
    ("streaming", Role::Streaming),
    ("interrupted", Role::Interrupted),
    ("standby", Role::Standby),
];

/// What a cache is like, as an attempt found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheState {
    /// What the configuration calls it.
    pub name: CacheName,
    /// A cache, or a sink.
    pub member: Member,
    /// Where it is, without its password.
    pub place: String,
    /// The daemon is ready only with it.
    pub required: bool,
    /// The last attempt failed.
    pub away: bool,
    /// It failed because it was refused: somebody answers.
    pub refuses: bool,
    /// Since when it does not answer, or refuses.
    pub away_since: Option<Instant>,
    /// Times that it went away.
    pub outages: u64,
    /// Times that it answered again.
    pub returns: u64,
    /// Whether a majority of its Sentinels answers, where it has some.
    pub sentinels: Option<bool>,
    /// Commands that were billed.
    pub billed: u64,
    /// What may be billed.
    pub budget: Option<Budget>,
}

impl CacheState {
    /// How it fares, in words.
    pub fn fares(&self) -> &'static str {
        match (self.away, self.refuses) {
            (false, _) => "answers",
            (true, false) => "does not answer",
            (true, true) => "refuses what crieur asks",
        }
    }
}

/// What the page shows besides what the loop told.
#[derive(Debug)]
pub struct Outside<'a> {
    /// The caches, in the order of the configuration.
    pub caches: &'a [CacheState],
    /// What the kernel says of the process.
    pub process: ProcessState,
    /// Each id of a warning, and how often it was said.
    pub warnings: &'a [(&'static str, u64)],
}

/// What the loop told of one cache.
#[derive(Debug, Default)]
struct OfCache {
    totals: CacheTotals,
    gaps: BTreeMap<&'static str, u64>,
    /// The position goes on without it.
    released: bool,
}

/// What the loop told so far.
#[derive(Debug)]
pub struct Metrics {
    role: Role,
    /// Since when it does that, or tries to for the first time.
    role_since: Instant,
    /// There was no stream yet, and no other daemon that has the slot.
    starts: bool,
    /// Every required cache answered once.
    ready: bool,
    /// The server sends nothing, and its WAL goes on.
    held_back: bool,
    totals: Totals,
    lateness: Duration,
    caches: BTreeMap<CacheName, OfCache>,
    server: ServerView,
    counted: Counted,
    reloaded: Reloaded,
    /// Since when reloads are refused.
    reload_refused: Option<Instant>,
    /// When the log named last what somebody must mend on the server.
    noticed: Option<Instant>,
    told: Instant,
    /// Of the last confirmation, or of the last time that nothing was left to confirm; of the start before the first.
    confirmed: Instant,
    /// Since when the stream does not run, or is held back: what is committed since then is not known.
    blind_since: Option<Instant>,
}

impl Metrics {
    /// Of a daemon that starts now.
    pub fn new(now: Instant) -> Self {
        Metrics {
            role: Role::Starting,
            role_since: now,
            starts: true,
            ready: false,
            held_back: false,
            totals: Totals::default(),
            lateness: Duration::ZERO,
            caches: BTreeMap::new(),
            server: ServerView::default(),
            counted: Counted::default(),
            reloaded: Reloaded::at_start(),
            reload_refused: None,
            noticed: None,
            told: now,
            confirmed: now,
            blind_since: Some(now),
        }
    }

    /// Takes what the loop says, for the part of the cache `speaker` if it is one.
    pub fn news(&mut self, news: &News, speaker: Option<&CacheName>, now: Instant) {
        self.told = now;
        let role_before = self.role;
        if let Some(name) = speaker {
            self.of_cache(name).news(news);
        }
        match news {
            News::Streaming => {
                self.role = Role::Streaming;
                self.server.streams();
            }
            News::Interrupted => {
                self.role = Role::Interrupted;
                self.server.lost();
            }
            News::StandingBy(_) => {
                self.role = Role::Standby;
                self.server.lost();
            }
            News::Server(seen) => self.server.saw(*seen, now),
            News::Rules(labels) => self.counted.rules(labels),
            News::Tally(tallied) => self.counted.add(tallied),
            News::Ready => self.ready = true,
            News::CacheTotals(name, totals) => self.of_cache(name).totals = **totals,
            News::Totals(totals, lateness) => {
                if totals.confirmations != self.totals.confirmations || totals.settled {
                    self.confirmed = now;
                }
                (self.totals, self.lateness) = (*totals, *lateness);
            }
            News::HeldBack(held_back) => self.held_back = *held_back,
            News::Released(cache, released) => self.of_cache(cache).released = *released,
            News::Noticed => self.noticed = Some(now),
            News::SweepBegan
            | News::SweepEnded(_)
            | News::Gap(_)
            | News::Deleted(_)
            | News::Marked(_)
            | News::Changed(_)
            | News::Gone(..)
            | News::Said(_) => {}
        }
        let has_begun = matches!(self.role, Role::Streaming | Role::Standby);
        if self.role != role_before && (has_begun || !self.starts) {
            self.role_since = now;
        }
        self.starts &= !has_begun;
        self.blind_since = if self.sees() { None } else { self.blind_since.or(Some(now)) };
    }

    /// The configuration was read again: now, which is so long after 1970.
    pub fn reloaded(&mut self, succeeded: bool, (now, at): (Instant, Duration)) {
        self.reload_refused = if succeeded { None } else { self.reload_refused.or(Some(now)) };
        let last_success = if succeeded { Some(at) } else { self.reloaded.last_success };
        self.reloaded = Reloaded { succeeded, last_success };
    }

    /// The tables of the rules in force, with their schemas.
    pub fn tables(&self) -> Vec<String> {
        self.counted.tables().map(|(table, ..)| table.to_owned()).collect()
    }

    /// Changes of each table of the rules so far, and keys that they named.
    pub fn of_tables(&self) -> Vec<(u64, u64)> {
        self.counted.tables().map(|(_, changes, keys)| (changes.iter().sum(), keys)).collect()
    }

    fn of_cache(&mut self, name: &CacheName) -> &mut OfCache {
        self.caches.entry(CacheName::clone(name)).or_default()
    }

    /// How long ago the oldest change committed that is not deleted yet, as far as this daemon is to delete it.
    fn oldest(&self, now: Instant) -> Duration {
        let ages = self.totals.oldest.into_iter().chain(self.blind_since);
        ages.min().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether changes that commit now are seen.
    fn sees(&self) -> bool {
        match self.role {
            Role::Starting | Role::Interrupted => false,
            Role::Streaming => !self.held_back,
            Role::Standby => true, // Another one deletes them.
        }
    }

    /// Why the daemon is not alive.
    pub fn dead(&self, now: Instant) -> Option<&'static str> {
        let hangs = self.role == Role::Streaming && now.duration_since(self.told) > SILENCE;
        hangs.then_some("the loop has been silent for a minute")
    }

    /// A line for each cache: what a person wants to know of it.
    pub fn of_each(&self, caches: &[CacheState], now: Instant) -> String {
        let mut text = String::new();
        for state in caches {
            let answers = state.fares();
            let needed = if state.required || state.member == Member::Sink { "" } else { ", is not required" };
            let marked = self.caches.get(&state.name).and_then(|cache| cache.totals.marked);
            let marked = match (state.member, marked.map(|(lsn, at)| (lsn, now.duration_since(at).as_secs()))) {
                (Member::Cache, Some((lsn, ago))) => format!(", has a mark of {lsn} written {ago} s ago"),
                (Member::Cache, None) => ", has no mark of this daemon yet".to_owned(),
                (Member::Sink, _) if state.refuses => ", lacks the tags that it refused".to_owned(),
                (Member::Sink, Some((lsn, ago))) => format!(", had taken every tag up to {lsn} {ago} s ago"),
                (Member::Sink, None) => ", has not taken every tag of this start yet".to_owned(),
            };
            let silent = if state.sentinels == Some(false) { ", its Sentinels do not answer" } else { "" };
            let billed = match state.budget {
                Some(budget) => format!(
                    ", {} commands billed of {} a month: a change is deleted at most {} late",
                    state.billed,
                    budget.commands(),
                    budget.bound_shown()
                ),
                None if state.billed > 0 => format!(", {} commands billed", state.billed),
                None => String::new(),
            };
            let what = state.member.pick("cache", "sink");
            let _ = writeln!(text, "{what} {} {answers}{needed}{silent}{marked}{billed}", state.name); // A String takes it all.
        }
        text
    }
}

impl OfCache {
    /// Takes what the cache's part says.
    fn news(&mut self, news: &News) {
        if let News::Gap(kind) = news {
            *self.gaps.entry(kind).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    pub(super) fn text(metrics: &Metrics, caches: &[CacheState], now: Instant) -> String {
        metrics.text(&Outside { caches, process: ProcessState::default(), warnings: &[] }, now)
    }

    pub(super) fn state(name: &str, away: bool) -> CacheState {
        CacheState {
            name: name.into(),
            member: Member::Cache,
            required: true,
            away,
            refuses: false,
            place: String::new(),
            away_since: None,
            outages: u64::from(away),
            returns: 0,
            billed: 0,
            budget: None,
            sentinels: None,
        }
    }

    #[test]
    fn only_a_cache_that_is_required_keeps_the_daemon_from_being_ready() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        metrics.news(&News::Streaming, None, start);
        let optional = |away| CacheState { required: false, ..state("dakar", away) };
        let known = CacheTotals { is_known: true, ..CacheTotals::default() };
        let both = |main, dakar| [state("main", main), optional(dakar)];
        assert_eq!(metrics.unready(&both(false, true)).as_deref(), Some("the cache main has not answered yet"));
        metrics.news(&News::CacheTotals("main".into(), Box::new(known)), None, start);
        metrics.news(&News::Ready, None, start);
        assert_eq!(metrics.unready(&both(false, true)), None);
        assert_eq!(metrics.unready(&both(true, false)).as_deref(), Some("the cache main does not answer"));
        let lines = metrics.of_each(&both(false, true), start);
        assert!(lines.contains("cache dakar does not answer, is not required"), "{lines}");
        let site = CacheState { member: Member::Sink, required: false, ..state("site", false) };
        let said = "sink site answers, has not taken every tag of this start yet\n";
        assert_eq!(metrics.of_each(std::slice::from_ref(&site), start), said);
        let refuses = CacheState { away: true, refuses: true, ..site };
        let said = "sink site refuses what crieur asks, lacks the tags that it refused\n";
        assert_eq!(metrics.of_each(&[refuses], start), said);
    }

    #[test]
    fn the_page_says_who_may_be_asked_and_why_not() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let slow = |repairs_slow| {
            News::CacheTotals(
                "main".into(),
                Box::new(CacheTotals { repairs_slow, is_known: true, ..CacheTotals::default() }),
            )
        };
        let (here, away) = ([state("main", false)], [state("main", true)]);
        let steps = [
            (News::Interrupted, &here, Some("reading from PostgreSQL is interrupted")),
            (News::StandingBy(7), &here, Some("standing by: another daemon has the slot")),
            (News::Streaming, &here, Some("the cache has not answered yet")),
            (News::Ready, &here, None),
            (News::HeldBack(true), &here, Some("the server holds the stream back")),
            (News::HeldBack(false), &here, None),
            (News::Ready, &away, Some("the cache does not answer")),
            (slow(true), &here, Some("the cache is another one again and again")),
            (slow(false), &here, None),
            (News::Interrupted, &here, Some("reading from PostgreSQL is interrupted")),
            (News::Streaming, &here, None),
        ];
        assert_eq!(metrics.unready(&here).as_deref(), Some("nothing is read from PostgreSQL yet"));
        for (news, cache, reason) in steps {
            metrics.news(&news, None, start);
            assert_eq!(metrics.unready(cache).as_deref(), reason, "{news:?} {cache:?}");
            let stands_by = matches!(news, News::StandingBy(_));
            assert_eq!(metrics.standing(cache).is_ok(), reason.is_none() || stands_by, "{news:?} {cache:?}");
            let ready = format!("\ncrieur_ready {}\n", u8::from(reason.is_none()));
            assert!(text(&metrics, cache, start).contains(&ready), "{news:?}");
        }
    }

    #[test]
    fn the_oldest_change_ages_and_nothing_does_on_a_quiet_night() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut metrics = Metrics::new(start);
        let ages = |metrics: &Metrics, now| {
            let text = text(metrics, &[], now);
            let value = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).expect("it is on the page");
                line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
            };
            (value("crieur_oldest_undeleted_seconds "), value("crieur_since_confirmed_seconds "))
        };
        let totals = |oldest, settled| News::Totals(Totals { oldest, settled, ..Totals::default() }, Duration::ZERO);
        assert_eq!(ages(&metrics, at(5)).0, 5, "there is no stream yet");
        metrics.news(&News::Streaming, None, at(5));
        for second in (10..40_000).step_by(10) {
            metrics.news(&totals(None, true), None, at(second));
            assert_eq!(ages(&metrics, at(second + 9)), (0, 9));
        }
        // A change that committed three seconds before it was told, and that nobody answers for.
        metrics.news(&totals(Some(at(39_997)), false), None, at(40_000));
        metrics.news(&totals(Some(at(39_997)), false), None, at(40_010));
        assert_eq!(ages(&metrics, at(40_020)), (23, 30));
        // The stream breaks: what commits meanwhile is not known.
        metrics.news(&totals(None, true), None, at(40_030));
        metrics.news(&News::Interrupted, None, at(40_040));
        metrics.news(&News::Interrupted, None, at(40_050));
        assert_eq!(ages(&metrics, at(40_060)).0, 20);
        metrics.news(&News::Streaming, None, at(40_060));
        metrics.news(&News::HeldBack(true), None, at(40_070));
        assert_eq!(ages(&metrics, at(40_080)).0, 10);
        metrics.news(&News::HeldBack(false), None, at(40_080));
        assert_eq!(ages(&metrics, at(40_090)).0, 0);
        metrics.news(&News::StandingBy(7), None, at(40_090));
        assert_eq!(ages(&metrics, at(50_000)).0, 0);
    }

    #[test]
    fn a_silent_loop_is_dead_only_while_it_streams() {
        let start = Instant::now();
        let later = start + SILENCE + Duration::from_secs(1);
        let mut metrics = Metrics::new(start);
        for (news, dead) in [(News::StandingBy(0), false), (News::Interrupted, false), (News::Streaming, true)] {
            metrics.news(&news, None, start);
            assert_eq!((metrics.dead(start), metrics.dead(later).is_some()), (None, dead), "{news:?}");
        }
    }

    #[test]
    fn the_age_of_the_position_counts_from_its_last_confirmation() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut metrics = Metrics::new(start);
        let totals = Totals { confirmations: 1, ..Totals::default() };
        for seconds in [10, 20] {
            metrics.news(&News::Totals(totals, Duration::from_millis(1500)), None, at(seconds));
        }
        let dakar = CacheName::from("dakar");
        metrics.news(&News::Gap("missing"), Some(&dakar), at(20));
        metrics.news(&News::Gap("missing"), Some(&dakar), at(20));
        let keys = CacheTotals { keys: 3, marked: Some((Lsn(7), at(25))), ..CacheTotals::default() };
        metrics.news(&News::CacheTotals(dakar, Box::new(keys)), None, at(25));
        let text = text(&metrics, &[state("main", true), state("dakar", false)], at(30));
        for line in [
            "crieur_since_confirmed_seconds 20.000",
            "crieur_lateness_seconds 1.500",
            "crieur_gaps_total{cache=\"dakar\",kind=\"missing\"} 2",
            "crieur_keys_sent_total{cache=\"dakar\"} 3",
            "crieur_keys_sent_total{cache=\"main\"} 0",
            "crieur_cache_up{cache=\"main\"} 0",
            "crieur_cache_up{cache=\"dakar\"} 1",
            "crieur_mark_lsn_bytes{cache=\"dakar\"} 7",
            "crieur_mark_age_seconds{cache=\"dakar\"} 5.000",
            "# TYPE crieur_keys_sent_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
