//! What the daemon shows of itself: its state as the loop told it, and that state as Prometheus reads it. Pure.
//!
//! It decides nothing and holds nothing back: the loop hands out numbers and never waits for whoever looks at them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::lsn::Lsn;
use crate::observe::news::{CacheTotals, News, Totals};
use crate::observe::speaker::CacheName;

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
    /// The daemon is ready only with it.
    pub required: bool,
    /// The last attempt failed.
    pub away: bool,
    /// Times that it went away.
    pub outages: u64,
    /// Whether a majority of its Sentinels answers, where it has some.
    pub sentinels: Option<bool>,
    /// Commands that were billed.
    pub billed: u64,
    /// What may be billed.
    pub budget: Option<Budget>,
}

/// What the loop told of one cache.
#[derive(Debug, Default)]
struct OfCache {
    totals: CacheTotals,
    gaps: BTreeMap<&'static str, u64>,
    /// The position goes on without it.
    released: bool,
    /// The mark written last, and when.
    marked: Option<(Lsn, Instant)>,
}

/// What the loop told so far.
#[derive(Debug)]
pub struct Metrics {
    role: Role,
    /// Every required cache answered once.
    ready: bool,
    /// The server sends nothing, and its WAL goes on.
    held_back: bool,
    totals: Totals,
    lateness: Duration,
    caches: BTreeMap<CacheName, OfCache>,
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
            ready: false,
            held_back: false,
            totals: Totals::default(),
            lateness: Duration::ZERO,
            caches: BTreeMap::new(),
            told: now,
            confirmed: now,
            blind_since: Some(now),
        }
    }

    /// Takes what the loop says, for the part of the cache `speaker` if it is one.
    pub fn news(&mut self, news: &News, speaker: Option<&CacheName>, now: Instant) {
        self.told = now;
        if let Some(name) = speaker {
            self.of_cache(name).news(news, now);
        }
        match news {
            News::Streaming => self.role = Role::Streaming,
            News::Interrupted => self.role = Role::Interrupted,
            News::StandingBy(_) => self.role = Role::Standby,
            News::Ready => self.ready = true,
            News::CacheTotals(name, totals) => self.of_cache(name).totals = *totals,
            News::Totals(totals, lateness) => {
                if totals.confirmations != self.totals.confirmations || totals.settled {
                    self.confirmed = now;
                }
                (self.totals, self.lateness) = (*totals, *lateness);
            }
            News::HeldBack(held_back) => self.held_back = *held_back,
            News::Released(cache, released) => self.of_cache(cache).released = *released,
            News::SweepBegan
            | News::SweepEnded(_)
            | News::Noticed
            | News::Gap(_)
            | News::Deleted(_)
            | News::Marked(_)
            | News::Changed(_)
            | News::Gone(..)
            | News::Said(_) => {}
        }
        self.blind_since = if self.sees() { None } else { self.blind_since.or(Some(now)) };
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

    /// Why keys are not deleted at once by this daemon.
    pub fn unready(&self, caches: &[CacheState]) -> Option<String> {
        // Of a single cache it would be noise.
        let named = |name: &str| if caches.len() > 1 { format!("the cache {name}") } else { "the cache".to_owned() };
        let totals = |state: &CacheState| self.caches.get(&state.name).map(|cache| cache.totals).unwrap_or_default();
        let first = |is_it: &dyn Fn(&CacheState) -> bool| {
            caches.iter().find(|state| state.required && is_it(state)).map(|state| named(&state.name))
        };
        match self.role {
            Role::Starting => Some("nothing is read from PostgreSQL yet".to_owned()),
            Role::Interrupted => Some("reading from PostgreSQL is interrupted".to_owned()),
            Role::Standby => Some("standing by: another daemon has the slot".to_owned()),
            Role::Streaming if self.held_back => Some("the server holds the stream back".to_owned()),
            Role::Streaming => {
                let away = first(&|state| state.away).map(|cache| format!("{cache} does not answer"));
                let unknown = || {
                    let unknown = first(&|state| !totals(state).is_known).filter(|_| !self.ready);
                    unknown.map(|cache| format!("{cache} has not answered yet"))
                };
                let slow = || {
                    let slow = first(&|state| totals(state).repairs_slow);
                    slow.map(|cache| format!("{cache} is another one again and again"))
                };
                away.or_else(unknown).or_else(slow)
            }
        }
    }

    /// Whether the process does what it should, and what that is: it deletes keys, or stands by. A rolling update starts
    /// the next daemon, waits until it is ready, and only then ends the one that has the slot.
    pub fn standing(&self, caches: &[CacheState]) -> std::result::Result<String, String> {
        match (self.role, self.unready(caches)) {
            (Role::Standby, Some(reason)) => Ok(reason),
            (_, Some(reason)) => Err(reason),
            (_, None) => Ok("ready".to_owned()),
        }
    }

    /// A line for each cache: what a person wants to know of it.
    pub fn of_each(&self, caches: &[CacheState], now: Instant) -> String {
        let mut text = String::new();
        for state in caches {
            let answers = if state.away { "does not answer" } else { "answers" };
            let needed = if state.required { "" } else { ", is not required" };
            let marked = match self.caches.get(&state.name).and_then(|cache| cache.marked) {
                Some((lsn, at)) => {
                    format!(", has a mark of {lsn} written {} s ago", now.duration_since(at).as_secs())
                }
                None => ", has no mark of this daemon yet".to_owned(),
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
            let _ = writeln!(text, "cache {} {answers}{needed}{silent}{marked}{billed}", state.name); // A String takes it all.
        }
        text
    }

    /// In Prometheus' text format, version 0.0.4.
    pub fn text(&self, caches: &[CacheState], now: Instant) -> String {
        let mut page = Page(String::with_capacity(4096));
        let totals = &self.totals;
        page.build();
        page.role(self.role);
        page.gauge(
            "ready",
            "1 while this daemon deletes keys at once; 0 while it stands by or /readyz says 503.",
            u64::from(self.unready(caches).is_none()),
        );
        page.gauge(
            "confirmed_lsn_bytes",
            "Position confirmed last, comparable with pg_current_wal_lsn() - '0/0'; in outbox mode a count of its own.",
            totals.confirmed.0,
        );
        page.seconds(
            "since_confirmed_seconds",
            "Time since everything that came was confirmed, or a position was; echoes hold it back.",
            now.duration_since(self.confirmed),
        );
        page.seconds(
            "lateness_seconds",
            "Server time of sending less time of commit; 0 when everything was sent.",
            self.lateness,
        );
        page.seconds(
            "oldest_undeleted_seconds",
            "Age of the oldest change that is not deleted yet, 0 when there is none; counts from the break while the stream is interrupted or held back. The alarm: it is silent on a quiet night.",
            self.oldest(now),
        );
        page.counter("keys_widened_total", "Keys that became a pattern because a value was unknown.", totals.widened);
        page.counter("lookups_refused_total", "Lookups that failed; their keys were swept.", totals.refused);
        page.counter(
            "keys_not_allowed_total",
            "Keys of crieur.invalidate that cache.invalidate does not allow.",
            totals.not_allowed,
        );
        page.counter(
            "families_collapsed_total",
            "Families (all keys of one template) that a memory bound collapsed into their pattern.",
            totals.collapsed,
        );
        page.gauge("memory_bytes", "Bytes of all keys in memory.", totals.memory_bytes);
        self.each_cache(&mut page, caches, now);
        page.0
    }

    /// The series of the caches, each with the label `cache`.
    fn each_cache(&self, page: &mut Page, caches: &[CacheState], now: Instant) {
        let nothing = OfCache::default();
        let all: Vec<(&CacheState, &OfCache)> =
            caches.iter().map(|state| (state, self.caches.get(&state.name).unwrap_or(&nothing))).collect();
        let mut series =
            |name: &str, kind: &str, help: &str, value: &dyn Fn(&CacheState, &OfCache) -> Option<String>| {
                page.head(name, help, kind);
                let values = all.iter().filter_map(|(state, cache)| Some((&state.name, value(state, cache)?)));
                values.for_each(|(cache, value)| page.labelled(name, cache, &value));
            };
        type Counted = fn(&CacheTotals) -> u64;
        let counters: [(&str, &str, Counted); 6] = [
            ("keys_sent_total", "Keys sent to the cache, echoes included, leases not.", |totals| totals.keys),
            ("keys_existed_total", "Keys sent that existed in the cache.", |totals| totals.existed),
            ("sweeps_total", "Sweeps finished.", |totals| totals.sweeps),
            ("keys_swept_total", "Keys deleted by sweeps.", |totals| totals.swept),
            (
                "repairs_delayed_total",
                "Repairs of the cache that waited because one cause came again and again: an alarm.",
                |totals| totals.repairs_delayed,
            ),
            ("cache_turns_total", "Connections that led to another cache server.", |totals| totals.turns),
        ];
        for (name, help, count) in counters {
            series(name, "counter", help, &|_, cache| Some(count(&cache.totals).to_string()));
        }
        series("echoes_waiting", "gauge", "Keys and patterns that wait for their echo.", &|_, cache| {
            Some(cache.totals.echoes_waiting.to_string())
        });
        series("cache_up", "gauge", "1 unless the last attempt at the cache failed.", &|state, _| {
            Some(u8::from(!state.away).to_string())
        });
        let help = "1 while a majority of the Sentinels answers; nothing where there are none.";
        series("cache_sentinels_up", "gauge", help, &|state, _| state.sentinels.map(|up| u64::from(up).to_string()));
        series("cache_outages_total", "counter", "Times that the cache stopped answering.", &|state, _| {
            Some(state.outages.to_string())
        });
        series(
            "cache_released",
            "gauge",
            "1 while the position goes on without the cache, which held back more than it may.",
            &|_, cache| Some(u8::from(cache.released).to_string()),
        );
        series(
            "cache_oldest_undeleted_seconds",
            "gauge",
            "Age of the oldest change that came and is not deleted in the cache yet, 0 when there is none.",
            &|_, cache| {
                let age = cache.totals.oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                Some(format!("{:.3}", age.as_secs_f64()))
            },
        );
        series(
            "mark_lsn_bytes",
            "gauge",
            "Position of the mark that this daemon wrote last into the cache; nothing before the first.",
            &|_, cache| cache.marked.map(|(lsn, _)| lsn.0.to_string()),
        );
        series("mark_age_seconds", "gauge", "Time since this daemon wrote that mark.", &|_, cache| {
            cache.marked.map(|(_, at)| format!("{:.3}", now.saturating_duration_since(at).as_secs_f64()))
        });
        page.gaps(&all);
        page.billed(caches);
    }
}

impl OfCache {
    /// Takes what the cache's part says.
    fn news(&mut self, news: &News, now: Instant) {
        match news {
            News::Gap(kind) => *self.gaps.entry(*kind).or_default() += 1,
            News::Marked(lsn) => self.marked = Some((*lsn, now)),
            _ => {}
        }
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.0, "# HELP crieur_{name} {help}\n# TYPE crieur_{name} {kind}\n"); // A String takes it all.
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "crieur_{name} {value}");
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "crieur_{name} {:.3}", value.as_secs_f64());
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.0, "crieur_{name} {value}");
    }

    fn build(&mut self) {
        self.head("build_info", "The version of this daemon.", "gauge");
        let _ = writeln!(self.0, "crieur_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    }

    fn role(&mut self, role: Role) {
        self.head("role", "1 for what this daemon does, 0 for all else.", "gauge");
        for (name, other) in ROLES {
            let _ = writeln!(self.0, "crieur_role{{role=\"{name}\"}} {}", u64::from(role == other));
        }
    }

    /// What is billed, for caches that bill.
    fn billed(&mut self, caches: &[CacheState]) {
        let (name, help) = ("cache_commands_billed_total", "Commands sent that are billed, where commands are billed.");
        self.head(name, help, "counter");
        for state in caches.iter().filter(|state| state.billed > 0 || state.budget.is_some()) {
            self.labelled(name, &state.name, &state.billed.to_string());
        }
        let (name, help) =
            ("cache_age_bound_seconds", "How long a change may wait, by the cache's budget, while the cache answers.");
        self.head(name, help, "gauge");
        for state in caches {
            if let Some(budget) = state.budget {
                self.labelled(name, &state.name, &format!("{:.3}", budget.bound().as_secs_f64()));
            }
        }
    }

    /// A value of one cache. A name has no character that would have to be escaped.
    fn labelled(&mut self, name: &str, cache: &str, value: &str) {
        let _ = writeln!(self.0, "crieur_{name}{{cache=\"{cache}\"}} {value}");
    }

    fn gaps(&mut self, caches: &[(&CacheState, &OfCache)]) {
        self.head("gaps_total", "Times that the cache may have missed invalidations, by kind.", "counter");
        for (state, cache) in caches {
            for (kind, count) in &cache.gaps {
                let name = &state.name;
                let _ = writeln!(self.0, "crieur_gaps_total{{cache=\"{name}\",kind=\"{kind}\"}} {count}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, away: bool) -> CacheState {
        CacheState {
            name: name.into(),
            required: true,
            away,
            outages: u64::from(away),
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
        metrics.news(&News::CacheTotals("main".into(), known), None, start);
        metrics.news(&News::Ready, None, start);
        assert_eq!(metrics.unready(&both(false, true)), None);
        assert_eq!(metrics.unready(&both(true, false)).as_deref(), Some("the cache main does not answer"));
        let lines = metrics.of_each(&both(false, true), start);
        assert!(lines.contains("cache dakar does not answer, is not required"), "{lines}");
    }

    #[test]
    fn the_page_says_who_may_be_asked_and_why_not() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let slow = |repairs_slow| {
            News::CacheTotals("main".into(), CacheTotals { repairs_slow, is_known: true, ..CacheTotals::default() })
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
            assert!(metrics.text(cache, start).contains(&ready), "{news:?}");
        }
    }

    #[test]
    fn the_oldest_change_ages_and_nothing_does_on_a_quiet_night() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut metrics = Metrics::new(start);
        let ages = |metrics: &Metrics, now| {
            let text = metrics.text(&[], now);
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
        metrics.news(&News::Marked(Lsn(7)), Some(&dakar), at(25));
        let keys = CacheTotals { keys: 3, ..CacheTotals::default() };
        metrics.news(&News::CacheTotals(dakar, keys), None, at(25));
        let text = metrics.text(&[state("main", true), state("dakar", false)], at(30));
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
