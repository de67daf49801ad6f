//! What the daemon shows of itself: its state as the loop told it, and that state as Prometheus reads it. Pure.
//!
//! It decides nothing and holds nothing back: the loop hands out numbers and never waits for whoever looks at them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::observe::news::{News, Totals};

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

/// What the cache is like, as an attempt found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheState {
    /// The last attempt failed.
    pub away: bool,
    /// Times that it went away.
    pub outages: u64,
}

/// What the loop told so far.
#[derive(Debug)]
pub struct Metrics {
    role: Role,
    /// The cache answered once.
    ready: bool,
    /// The server sends nothing, and its WAL goes on.
    held_back: bool,
    totals: Totals,
    lateness: Duration,
    gaps: BTreeMap<&'static str, u64>,
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
            gaps: BTreeMap::new(),
            told: now,
            confirmed: now,
            blind_since: Some(now),
        }
    }

    /// Takes what the loop says.
    pub fn news(&mut self, news: &News, now: Instant) {
        self.told = now;
        match news {
            News::Streaming => self.role = Role::Streaming,
            News::Interrupted => self.role = Role::Interrupted,
            News::StandingBy(_) => self.role = Role::Standby,
            News::Ready => self.ready = true,
            News::Gap(kind) => *self.gaps.entry(*kind).or_default() += 1,
            News::Totals(totals, lateness) => {
                if totals.confirmations != self.totals.confirmations || totals.settled {
                    self.confirmed = now;
                }
                (self.totals, self.lateness) = (*totals, *lateness);
            }
            News::HeldBack(held_back) => self.held_back = *held_back,
            News::SweepBegan
            | News::SweepEnded(_)
            | News::Noticed
            | News::Deleted(_)
            | News::Marked(_)
            | News::Said(_) => {}
        }
        self.blind_since = if self.sees() { None } else { self.blind_since.or(Some(now)) };
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
    pub fn unready(&self, cache: CacheState) -> Option<&'static str> {
        match self.role {
            Role::Starting => Some("nothing is read from PostgreSQL yet"),
            Role::Interrupted => Some("reading from PostgreSQL is interrupted"),
            Role::Standby => Some("standing by: another daemon has the slot"),
            Role::Streaming if self.held_back => Some("the server holds the stream back"),
            Role::Streaming if cache.away => Some("the cache does not answer"),
            Role::Streaming if !self.ready => Some("the cache has not answered yet"),
            Role::Streaming if self.totals.repairs_slow => Some("the cache is another one again and again"),
            Role::Streaming => None,
        }
    }

    /// Whether the process does what it should, and what that is: it deletes keys, or stands by. A rolling update starts
    /// the next daemon, waits until it is ready, and only then ends the one that has the slot.
    pub fn standing(&self, cache: CacheState) -> std::result::Result<&'static str, &'static str> {
        match (self.role, self.unready(cache)) {
            (Role::Standby, Some(reason)) => Ok(reason),
            (_, Some(reason)) => Err(reason),
            (_, None) => Ok("ready"),
        }
    }

    /// In Prometheus' text format, version 0.0.4.
    pub fn text(&self, cache: CacheState, now: Instant) -> String {
        let mut page = Page(String::with_capacity(4096));
        let totals = &self.totals;
        page.build();
        page.role(self.role);
        page.gauge(
            "ready",
            "1 while this daemon deletes keys at once; 0 while it stands by or /readyz says 503.",
            u64::from(self.unready(cache).is_none()),
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
        page.counter("keys_sent_total", "Keys sent to the cache, echoes included, leases not.", totals.keys);
        page.counter("keys_existed_total", "Keys sent that existed in the cache.", totals.existed);
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
        page.counter("sweeps_total", "Sweeps finished.", totals.sweeps);
        page.counter("keys_swept_total", "Keys deleted by sweeps.", totals.swept);
        page.counter(
            "repairs_delayed_total",
            "Repairs of the cache that waited because one cause came again and again: an alarm.",
            totals.repairs_delayed,
        );
        page.counter("cache_turns_total", "Connections that led to another cache server.", totals.cache_turns);
        page.gauge("echoes_waiting", "Keys and patterns that wait for their echo.", totals.echoes_waiting);
        page.gauge("memory_bytes", "Bytes of all keys in memory.", totals.memory_bytes);
        page.gauge("cache_up", "1 unless the last attempt at the cache failed.", u64::from(!cache.away));
        page.counter("cache_outages_total", "Times that the cache stopped answering.", cache.outages);
        page.gaps(&self.gaps);
        page.0
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

    fn gaps(&mut self, gaps: &BTreeMap<&'static str, u64>) {
        self.head("gaps_total", "Times that the cache may have missed invalidations, by kind.", "counter");
        for (kind, count) in gaps {
            let _ = writeln!(self.0, "crieur_gaps_total{{kind=\"{kind}\"}} {count}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_who_may_be_asked_and_why_not() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let slow = |repairs_slow| News::Totals(Totals { repairs_slow, ..Totals::default() }, Duration::ZERO);
        let (here, away) = (CacheState::default(), CacheState { away: true, outages: 1 });
        let steps = [
            (News::Interrupted, here, Some("reading from PostgreSQL is interrupted")),
            (News::StandingBy(7), here, Some("standing by: another daemon has the slot")),
            (News::Streaming, here, Some("the cache has not answered yet")),
            (News::Ready, here, None),
            (News::HeldBack(true), here, Some("the server holds the stream back")),
            (News::HeldBack(false), here, None),
            (News::Ready, away, Some("the cache does not answer")),
            (slow(true), here, Some("the cache is another one again and again")),
            (slow(false), here, None),
            (News::Interrupted, here, Some("reading from PostgreSQL is interrupted")),
            (News::Streaming, here, None),
        ];
        assert_eq!(metrics.unready(here), Some("nothing is read from PostgreSQL yet"));
        for (news, cache, reason) in steps {
            metrics.news(&news, start);
            assert_eq!(metrics.unready(cache), reason, "{news:?} {cache:?}");
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
            let text = metrics.text(CacheState::default(), now);
            let value = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).expect("it is on the page");
                line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
            };
            (value("crieur_oldest_undeleted_seconds "), value("crieur_since_confirmed_seconds "))
        };
        let totals = |oldest, settled| News::Totals(Totals { oldest, settled, ..Totals::default() }, Duration::ZERO);
        assert_eq!(ages(&metrics, at(5)).0, 5, "there is no stream yet");
        metrics.news(&News::Streaming, at(5));
        for second in (10..40_000).step_by(10) {
            metrics.news(&totals(None, true), at(second));
            assert_eq!(ages(&metrics, at(second + 9)), (0, 9));
        }
        // A change that committed three seconds before it was told, and that nobody answers for.
        metrics.news(&totals(Some(at(39_997)), false), at(40_000));
        metrics.news(&totals(Some(at(39_997)), false), at(40_010));
        assert_eq!(ages(&metrics, at(40_020)), (23, 30));
        // The stream breaks: what commits meanwhile is not known.
        metrics.news(&totals(None, true), at(40_030));
        metrics.news(&News::Interrupted, at(40_040));
        metrics.news(&News::Interrupted, at(40_050));
        assert_eq!(ages(&metrics, at(40_060)).0, 20);
        metrics.news(&News::Streaming, at(40_060));
        metrics.news(&News::HeldBack(true), at(40_070));
        assert_eq!(ages(&metrics, at(40_080)).0, 10);
        metrics.news(&News::HeldBack(false), at(40_080));
        assert_eq!(ages(&metrics, at(40_090)).0, 0);
        metrics.news(&News::StandingBy(7), at(40_090));
        assert_eq!(ages(&metrics, at(50_000)).0, 0);
    }

    #[test]
    fn a_silent_loop_is_dead_only_while_it_streams() {
        let start = Instant::now();
        let later = start + SILENCE + Duration::from_secs(1);
        let mut metrics = Metrics::new(start);
        for (news, dead) in [(News::StandingBy(0), false), (News::Interrupted, false), (News::Streaming, true)] {
            metrics.news(&news, start);
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
            metrics.news(&News::Totals(totals, Duration::from_millis(1500)), at(seconds));
        }
        metrics.news(&News::Gap("missing"), at(20));
        metrics.news(&News::Gap("missing"), at(20));
        let text = metrics.text(CacheState::default(), at(30));
        for line in [
            "crieur_since_confirmed_seconds 20.000",
            "crieur_lateness_seconds 1.500",
            "crieur_gaps_total{kind=\"missing\"} 2",
            "# TYPE crieur_keys_sent_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
