//! The daemon's share: a few keys each minute, beside the loop and on connections of its own.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, timeout};

use crate::admin::WatchedCache;
use crate::cache::Cache as _;
use crate::cache::inspect::{Inspect, Walk};
use crate::cli::verify::ask::Asker;
use crate::cli::verify::eyes::{Eyes, ValueLook};
use crate::cli::verify::judge::{Suspect, judge};
use crate::cli::verify::newer::Newer;
use crate::cli::verify::position::committed;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::failpoints::oftener;
use crate::observe::{Id, log};
use crate::random;
use crate::shown::{quoted, shown};
use crate::verify::allowance::Allowance;
use crate::verify::tally::{StaleKey, Verified};

/// Between two rounds.
fn round() -> Duration {
    oftener(Duration::from_secs(5))
}

/// A round takes so long at most; what it did not finish, the next one does.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// Pages of keys that are looked through for some that suit, in one round.
const PAGES_MAX: usize = 20;

/// Suspects at once: what comes more is undecided.
const SUSPECTS_MAX: usize = 1_000;

/// A suspect that cannot be judged for so long is undecided: crieur is behind, which has its own alarm.
const UNDECIDED_AFTER: Duration = Duration::from_secs(600);

/// Lines about stale keys.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// One `[[verify]]` in one cache.
struct Sampled {
    of: (usize, usize),
    per_minute: u32,
    walk: Walk,
    /// Keys that may be looked at now.
    due: f64,
}

/// Looks at samples of cached values for as long as the daemon runs.
pub struct Sampler {
    eyes: Eyes,
    sampled: Vec<Sampled>,
    /// Of each cache.
    allowances: Vec<Allowance>,
    asker: Option<Asker>,
    suspects: Vec<Suspect>,
    tally: Verified,
    /// What stands in the way, as it was said, and whether it may go away by itself.
    obstacle: Option<(String, bool)>,
    /// When a stale key was named last, and how many were not named since.
    named: Option<Instant>,
    unnamed: u64,
}

impl Sampler {
    /// What the configuration wants to be verified. What that costs is on the bills of these caches.
    ///
    /// # Errors
    ///
    /// Addresses that cannot be used.
    pub fn of(config: &Config, watched: &[WatchedCache]) -> Result<Self> {
        let eyes = Eyes::of(config)?;
        let (mut sampled, mut allowances) = (Vec::new(), Vec::new());
        for (cache, looked) in eyes.caches.iter().enumerate() {
            if let Some(payer) = watched.iter().find(|watched| *watched.name == *looked.settings.name) {
                looked.cache.health().charge(&payer.health);
            }
            let is_billed = looked.settings.is_billed();
            allowances.push(Allowance::new(is_billed.then_some(looked.settings.verifier)));
            for (of, verification) in eyes.verifications.iter().enumerate() {
                let per_minute = verification.rate(is_billed);
                if per_minute > 0 {
                    sampled.push(Sampled { of: (cache, of), per_minute, walk: Walk::default(), due: 0.0 });
                }
            }
        }
        Ok(Sampler {
            eyes,
            sampled,
            allowances,
            asker: None,
            suspects: Vec::new(),
            tally: Verified::default(),
            obstacle: None,
            named: None,
            unnamed: 0,
        })
    }

    /// Takes the place of the one before a reload: counts go on, and a key that is stale stays so where it is still looked
    /// at. `postgres.url` is what it was, since only a start reads it.
    fn succeeds(mut self, before: Sampler) -> Self {
        let of = |(cache, of): (usize, usize)| {
            let (cache, of) = (&before.eyes.caches[cache].settings, &before.eyes.verifications[of]);
            let cache = self.eyes.caches.iter().position(|looked| looked.settings.name == cache.name)?;
            Some((cache, self.eyes.verifications.iter().position(|now| now.asks_what(of))?))
        };
        self.tally = before.tally;
        for mut suspect in before.suspects {
            match of(suspect.of) {
                Some(of) if suspect.is_stale() => {
                    suspect.of = of;
                    self.suspects.push(suspect);
                }
                Some(_) | None => self.tally.undecided += u64::from(!suspect.is_stale()),
            }
        }
        self.eyes.access = before.eyes.access;
        (self.named, self.unnamed) = (before.named, before.unnamed);
        self
    }

    /// Until it is time to look again; for ever where there is nothing to look at.
    async fn pause(&self) {
        if self.sampled.is_empty() {
            return std::future::pending().await;
        }
        sleep(round()).await;
    }

    /// Looks, for ever, at what the latest configuration wants; `tell` hears what was counted.
    pub async fn always(mut self, newer: Newer<Sampler>, tell: impl Fn(Verified)) -> Infallible {
        tell(self.tally.clone());
        loop {
            tokio::select! {
                biased;
                newer = newer.next() => {
                    self = newer.succeeds(self);
                    self.count();
                    tell(self.tally.clone());
                    continue;
                }
                () = self.pause() => {}
            }
            let done = timeout(ROUND_MAX, self.round()).await;
            match done.unwrap_or_else(|_| Err(Error::transient("a round of the verifier took longer than a minute"))) {
                Ok(()) => {
                    if self.obstacle.take().is_some() {
                        log!(Id::VerifyResumed, "cached values are verified again");
                    }
                }
                Err(error) => self.interrupted(&error),
            }
            self.count();
            tell(self.tally.clone());
        }
    }

    /// What was asked before means nothing on another connection: only what was found stale is kept.
    fn interrupted(&mut self, error: &Error) {
        self.asker = None;
        let before = self.suspects.len();
        self.suspects.retain(Suspect::is_stale);
        self.tally.undecided += (before - self.suspects.len()) as u64;
        let (said, passes) = (error.chain(), error.is_transient());
        // Of an outage the first cause is said: each attempt may fail in another way.
        if self.obstacle.as_ref().is_none_or(|(before, passed)| *before != said && !(passes && *passed)) {
            let hint = error.hint.as_deref();
            log!(Id::VerifyWaits, hint, "cached values are not verified: {said}");
            self.obstacle = Some((said, passes));
        }
    }

    async fn round(&mut self) -> Result<()> {
        if self.asker.is_none() {
            self.asker = Some(self.eyes.open().await?);
        }
        let Some(asker) = &self.asker else { return Ok(()) };
        self.allowances.iter_mut().for_each(|allowance| allowance.passes(round()));
        for sampled in &mut self.sampled {
            sampled.due = (sampled.due + f64::from(sampled.per_minute) * round().as_secs_f64() / 60.0)
                .min(f64::from(sampled.per_minute));
            let (cache, allowance) = (&self.eyes.caches[sampled.of.0].cache, &mut self.allowances[sampled.of.0]);
            if !allowance.allows() {
                continue;
            }
            let keys = sample(&self.eyes, sampled).await;
            allowance.read(cache.billed());
            let keys = keys?;
            let looks = self.eyes.look(asker, sampled.of, &keys).await;
            allowance.read(cache.billed());
            let looks = looks?;
            let mut next = None;
            for (key, look) in keys.into_iter().zip(looks) {
                self.tally.checked += u64::from(look != ValueLook::Absent);
                match look {
                    ValueLook::Absent | ValueLook::Same => {}
                    ValueLook::Unclear => self.tally.undecided += 1,
                    ValueLook::Contradicted(_)
                        if self.suspects.iter().any(|known| (known.of, &known.key) == (sampled.of, &key)) => {}
                    ValueLook::Contradicted(_) if self.suspects.len() >= SUSPECTS_MAX => self.tally.undecided += 1,
                    ValueLook::Contradicted(value) => {
                        let committed = match &next {
                            Some(committed) => Rc::clone(committed),
                            None => Rc::new(committed(&asker.session, &self.eyes.access).await?),
                        };
                        next = Some(Rc::clone(&committed));
                        self.suspects.push(Suspect::new(sampled.of, key, value, committed));
                    }
                }
            }
        }
        let judged = judge(&self.eyes, asker, &mut self.suspects, &|cache| self.allowances[cache].allows()).await;
        for (allowance, looked) in self.allowances.iter_mut().zip(&self.eyes.caches) {
            allowance.read(looked.cache.billed());
        }
        let judged = judged?;
        for suspect in judged.mended {
            let cache = &self.eyes.caches[suspect.of.0].settings.name;
            log!(Id::VerifyMended, cache, "{} is stale no more", quoted(&suspect.key));
            let key = Some(shown(&suspect.key));
            if let Some(last) = self.tally.last_stale.as_mut().filter(|last| last.cache == *cache && last.key == key) {
                last.is_mended = true;
            }
        }
        for suspect in judged.stale {
            self.tally.stale += 1;
            self.tally.last_stale = Some(StaleKey {
                at: SystemTime::now(),
                cache: self.eyes.caches[suspect.of.0].settings.name.clone(),
                key: Some(shown(&suspect.key)),
                place: self.eyes.verifications[suspect.of.1].place.to_string(),
                known_for: suspect.since.elapsed(),
                is_mended: false,
            });
            self.name(&suspect);
            self.suspects.push(suspect);
        }
        let before = self.suspects.len();
        self.suspects.retain(|suspect| suspect.is_stale() || suspect.since.elapsed() < UNDECIDED_AFTER);
        self.tally.undecided += (before - self.suspects.len()) as u64;
        Ok(())
    }

    /// Names a stale key: one a minute.
    fn name(&mut self, suspect: &Suspect) {
        if self.named.is_some_and(|named| named.elapsed() < LINE_EVERY) {
            self.unnamed += 1;
            return;
        }
        self.named = Some(Instant::now());
        let more = match std::mem::take(&mut self.unnamed) {
            0 => String::new(),
            more => format!("; {more} more keys were found stale since the last line"),
        };
        let (cache, of) = (&self.eyes.caches[suspect.of.0].settings.name, &self.eyes.verifications[suspect.of.1]);
        log!(
            Id::VerifyStale,
            cache,
            hint = "Run `crieur explain`: it shows which keys a change of the row deletes. `crieur verify` looks at all keys.",
            "{} of [[verify]] at {} is stale: the database has said otherwise for {} s, and all deletes of that time are done{more}",
            quoted(&suspect.key),
            of.place,
            suspect.since.elapsed().as_secs()
        );
    }

    fn count(&mut self) {
        let stale = || self.suspects.iter().filter(|suspect| suspect.is_stale());
        self.tally.stale_now = stale().count() as u64;
        self.tally.stale_age = stale().map(|suspect| suspect.since.elapsed()).max().unwrap_or_default();
    }
}

/// The next few keys, drawn from the page where the walk is: none twice before the walk has come around, and a large cache
/// is crossed in more than one turn.
async fn sample(eyes: &Eyes, sampled: &mut Sampled) -> Result<Vec<Vec<u8>>> {
    let (looked, of) = (&eyes.caches[sampled.of.0], &eyes.verifications[sampled.of.1]);
    let mut drawn: Vec<Vec<u8>> = Vec::new();
    for _ in 0..PAGES_MAX {
        let wanted = sampled.due.floor() as usize;
        if drawn.len() >= wanted {
            break;
        }
        let mut page = looked.cache.some_keys(&mut sampled.walk, &of.keys.glob()).await?;
        page.retain(|key| looked.is_value(of, key) && !drawn.contains(key));
        while drawn.len() < wanted && !page.is_empty() {
            let index = (random::fraction() * page.len() as f64) as usize;
            drawn.push(page.swap_remove(index.min(page.len() - 1)));
        }
        if sampled.walk.is_around() {
            break;
        }
    }
    sampled.due -= drawn.len() as f64;
    Ok(drawn)
}
