//! What is wrong now: one list for the page, for `crieur status` and for the line of `systemctl status`, and what of it
//! keeps the daemon from being ready. Pure.

use std::time::{Duration, Instant};

use super::{CacheState, Metrics, Role};

/// What the watch finds wrong is said each minute; past this it is over.
const NOTICE: Duration = Duration::from_secs(70);

/// Nothing is wrong with that, and nothing is deleted by this daemon.
pub const STANDS_BY: &str = "standing by: another daemon has the slot";

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrongNow {
    /// What it is.
    pub what: String,
    /// Since when, where that is known.
    pub since: Option<Instant>,
}

/// What is wrong with a cache or a sink; the gravest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Trouble {
    /// The last attempt failed.
    Away,
    /// The daemon is not ready, because this one has not answered.
    Unknown,
    /// Its repairs wait for each other.
    Slow,
    /// The position went on without it.
    LeftBehind,
    /// None of its Sentinels answers, so a failover there is not heard of.
    Unguided,
}

impl CacheState {
    /// Of how many there are decides whether it needs a name: of a single one that would be noise.
    fn named(&self, members: &[CacheState]) -> String {
        let noun = self.member.noun();
        if members.len() > 1 { format!("{noun} {}", self.name) } else { noun.to_owned() }
    }

    fn in_trouble(&self, trouble: Trouble, members: &[CacheState]) -> WrongNow {
        let what = match trouble {
            Trouble::Away => self.fares(),
            Trouble::Unknown => "has not answered yet",
            Trouble::Slow => "is another one again and again",
            Trouble::LeftBehind => "was left behind and comes back",
            Trouble::Unguided => "has no Sentinel that answers: keys are deleted, and a failover is not heard of",
        };
        let since = self.away_since.filter(|_| trouble == Trouble::Away);
        WrongNow { what: format!("{} {what}", self.named(members)), since }
    }
}

impl Metrics {
    fn trouble(&self, state: &CacheState) -> Option<Trouble> {
        let told = self.caches.get(&state.name);
        let is_known = told.is_some_and(|told| told.totals.is_known);
        let troubles = [
            (Trouble::Away, state.away),
            (Trouble::Unknown, state.required && !self.ready && !is_known),
            (Trouble::Slow, told.is_some_and(|told| told.totals.repairs_slow)),
            (Trouble::LeftBehind, told.is_some_and(|told| told.released)),
            (Trouble::Unguided, state.sentinels == Some(false)),
        ];
        troubles.into_iter().find_map(|(trouble, is_it)| is_it.then_some(trouble))
    }

    /// What is wrong now, the gravest first: also what does not keep the daemon from being ready, such as a sink, or a
    /// cache that is not required.
    pub fn wrong(&self, members: &[CacheState], now: Instant) -> Vec<WrongNow> {
        let said = |what: &str, since| WrongNow { what: what.to_owned(), since };
        let of_stream = match self.role {
            // There was no stream that could have been interrupted.
            Role::Interrupted if self.starts => {
                Some(said("nothing is read from PostgreSQL yet", Some(self.role_since)))
            }
            Role::Starting | Role::Interrupted => self.unstreamed().map(|what| said(what, Some(self.role_since))),
            Role::Streaming => self.unstreamed().map(|what| said(what, self.blind_since)),
            Role::Standby => None,
        };
        let (needed, others): (Vec<&CacheState>, Vec<_>) = members.iter().partition(|state| state.required);
        let of_members = needed.into_iter().chain(others).filter_map(|state| {
            let trouble = self.trouble(state).filter(|of| *of != Trouble::Unknown || self.role == Role::Streaming)?;
            let since = (trouble == Trouble::Unknown).then_some(self.role_since);
            let wrong = state.in_trouble(trouble, members);
            Some(WrongNow { since: wrong.since.or(since), ..wrong })
        });
        let noticed = self.noticed.filter(|told| now.saturating_duration_since(*told) < NOTICE);
        let noticed = noticed.map(|told| said("the log names what is wrong on the server", Some(told)));
        let refused = "the configuration file is wrong and was not taken";
        let refused = self.reload_refused.map(|since| said(refused, Some(since)));
        of_stream.into_iter().chain(of_members).chain(noticed).chain(refused).collect()
    }

    /// Why nothing comes from the server.
    fn unstreamed(&self) -> Option<&'static str> {
        match self.role {
            Role::Starting => Some("nothing is read from PostgreSQL yet"),
            Role::Interrupted => Some("reading from PostgreSQL is interrupted"),
            Role::Standby => Some(STANDS_BY),
            Role::Streaming if self.held_back => Some("the server holds the stream back"),
            Role::Streaming => None,
        }
    }

    /// Why keys are not deleted at once by this daemon in every cache that is required.
    pub fn unready(&self, caches: &[CacheState]) -> Option<String> {
        let required = caches.iter().filter(|state| state.required);
        let troubles = required.filter_map(|state| self.trouble(state).map(|trouble| (trouble, state)));
        let gravest = || {
            let (trouble, state) = troubles.filter(|(of, _)| *of < Trouble::LeftBehind).min_by_key(|(of, _)| *of)?;
            Some(state.in_trouble(trouble, caches).what)
        };
        self.unstreamed().map(str::to_owned).or_else(gravest)
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::state;
    use super::*;
    use crate::observe::news::{CacheTotals, News};
    use crate::words::Member;

    #[test]
    fn a_cache_that_is_not_required_and_a_sink_are_wrong_too_and_the_daemon_is_ready() {
        let start = Instant::now();
        let mut metrics = Metrics::new(start);
        let known = CacheTotals { is_known: true, ..CacheTotals::default() };
        for news in [News::Streaming, News::CacheTotals("main".into(), Box::new(known)), News::Ready] {
            metrics.news(&news, None, start);
        }
        let since = Some(start + Duration::from_secs(3));
        let other = |name, member, away, refuses| CacheState {
            member,
            required: false,
            refuses,
            away_since: since.filter(|_| away),
            ..state(name, away)
        };
        let mut said = |main, dakar, site: (bool, bool), news: Option<News>| {
            news.iter().for_each(|news| metrics.news(news, None, start));
            let (dakar, site) = (other("dakar", Member::Cache, dakar, false), ("site", Member::Sink, site.0, site.1));
            let members = [dakar, state("main", main), other(site.0, site.1, site.2, site.3)];
            let wrong = metrics.wrong(&members, start);
            (metrics.unready(&members), wrong.into_iter().map(|of| (of.what, of.since)).collect::<Vec<_>>())
        };
        let is = |what: &str, since| (what.to_owned(), since);
        assert_eq!(said(false, false, (false, false), None), (None, vec![]));
        let dakar = is("the cache dakar does not answer", since);
        assert_eq!(said(false, true, (false, false), None), (None, vec![dakar.clone()]));
        let site = is("the sink site refuses what crieur asks", since);
        assert_eq!(said(false, true, (true, true), None), (None, vec![dakar.clone(), site]));
        let site = is("the sink site does not answer", since);
        let (why, main) = ("the cache main does not answer", is("the cache main does not answer", None));
        assert_eq!(said(true, true, (true, false), None), (Some(why.to_owned()), vec![main, dakar, site]));
        let guided = CacheState { sentinels: Some(false), ..state("main", false) };
        let unguided =
            is("the cache has no Sentinel that answers: keys are deleted, and a failover is not heard of", None);
        let behind = is("the cache dakar was left behind and comes back", None);
        let released = News::Released("dakar".into(), true);
        assert_eq!(said(false, false, (false, true), Some(released)), (None, vec![behind]));
        let alone = [guided];
        let wrong: Vec<_> = metrics.wrong(&alone, start).into_iter().map(|of| (of.what, of.since)).collect();
        assert_eq!((metrics.unready(&alone), wrong), (None, vec![unguided]), "deletes go on");
    }
}
