//! A sink: pages and CDNs, which are purged over HTTP by their tags. It is a member beside the caches, and holds no mark.
//!
//! No answer proves that every edge forgot a page, and nothing can be read back. So the mark is kept in memory: it says to
//! this process what was answered, and the next one begins with a purge of every family. A request is one attempt for one
//! batch of tags; one at a time leaves, at the pace that the plan allows. What is refused for good is given up into its
//! coarse tags: then those who keep these pages make too many of them anew, and none stays old. A coarse tag that is
//! refused as well is owed (`owed.rs`): nothing waits for it, and it goes again until it is taken.

mod answer;
mod inspect;
pub mod message;
mod owed;
mod pace;
mod pack;
mod request;
pub(super) mod time;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use hyper::header::HeaderMap;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use super::continuity::Lineage;
use super::health::Health;
use super::http::{Client, FarEnd, Lane, Unanswered};
use super::place::HostPort;
use super::{Cache, Deleted, Rest, Swap, Swept};
use crate::backoff::Backoff;
use crate::config::SinkConfig;
use crate::error::{Class, Error, Exit, Result};
use crate::failpoints::sooner;
use crate::keys::KeySet;
use crate::observe::{Id, log};
use crate::random;
use crate::reminder::Reminder;
use crate::tag::{CoarseTag, SinkKind};
use crate::tls::{Roots, TlsLevel, TlsNames, Trust};
use answer::{SinkRefusal, SinkVerdict, verdict};
use message::SinkMessage;
use owed::OwedTags;
use pace::{RequestPace, requests_max};
use pack::{TagBatch, coarse_batches, coarse_of, coarse_of_pattern, pack};

/// What an answer may weigh; of a longer one the status alone counts.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// How messages of TLS call the files.
const FILES: TlsNames = TlsNames { root: "tls_ca of the sink", certificate: "", key: "" };

/// Pages that are purged by their tags.
pub struct SinkCache {
    config: SinkConfig,
    client: Client,
    path: String,
    /// For messages: "the sink at api.example:443 (sinks.site.url in crieur.toml:9)".
    server: String,
    lane: Lane,
    /// Held while a request is out.
    pace: Mutex<RequestPace<Instant>>,
    coarse: RefCell<Vec<CoarseTag>>,
    owed: RefCell<OwedTags<Instant>>,
    /// Something is owed from now on.
    owes: Notify,
    /// What the last request came to.
    is_refused: Cell<bool>,
    /// What would be the mark.
    mark: RefCell<Option<Vec<u8>>>,
    said: RefCell<Reminder<Id, Instant>>,
    health: Arc<Health>,
}

/// What one request came to.
enum Came {
    Purged,
    Refused(Error, SinkRefusal),
}

/// Why a key needs no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// Its tags were purged.
    Purged,
    /// A coarse tag that stands for it was refused, and is owed.
    Owed,
}

/// The pause before what is owed goes again.
fn slow_pause(backoff: &mut Backoff) -> Duration {
    sooner(backoff.next_slow(random::fraction()))
}

fn seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

impl SinkCache {
    /// Checks address and token; connects with the first request.
    ///
    /// # Errors
    ///
    /// Definite ones: an address, a token or a file that cannot be used.
    pub fn new(config: &SinkConfig) -> Result<Self> {
        let origin = if config.url.origin().is_empty() {
            format!("{}.url", config.section)
        } else {
            config.url.origin().to_owned()
        };
        let bad = |what: &str| {
            Error::definite(Exit::Config, format!("{}.url {what}", config.section))
                .hint("Write https://host/path, or http:// for a server on this machine.")
        };
        let uri: Uri = config.url.expose().trim().parse().map_err(|_| bad("cannot be read"))?;
        let host = uri.host().ok_or_else(|| bad("names no host"))?;
        let is_tls = uri.scheme_str() != Some("http");
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let place = HostPort { host, port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }) };
        let trust = if is_tls {
            let roots = config.authority.clone().map_or(Roots::System, Roots::File);
            let trust = Trust::new(TlsLevel::ChainAndName, roots, None, FILES);
            trust.read()?;
            Some(Arc::new(trust))
        } else {
            None
        };
        let server = format!("the sink at {place} ({origin})");
        let far = (FarEnd::Sink, ANSWER_BYTES_MAX);
        Ok(SinkCache {
            path: request::path(config, uri.path_and_query().map_or("/", |path| path.as_str())),
            client: Client::new(place, trust, request::headers(config)?, config.timeout, far)?,
            server,
            lane: Lane::default(),
            pace: Mutex::new(RequestPace::new(config.rate)),
            coarse: RefCell::default(),
            owed: RefCell::default(),
            owes: Notify::new(),
            is_refused: Cell::default(),
            mark: RefCell::default(),
            said: RefCell::default(),
            health: Arc::default(),
            config: config.clone(),
        })
    }

    /// Whether the sink answers.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a request with no tags: whoever answers says whether crieur may purge, and has nothing to purge.
    ///
    /// # Errors
    ///
    /// Nobody answers, or crieur is refused.
    pub async fn try_without_tags(&self) -> Result<()> {
        match self.request(&[], &mut Rest::default()).await {
            Ok(Came::Purged | Came::Refused(_, SinkRefusal::Batch)) => Ok(()),
            Ok(Came::Refused(error, SinkRefusal::Place | SinkRefusal::All)) | Err(error) => Err(error.at(&self.server)),
        }
    }

    /// Sends one request, when its turn has come, and reads its answer.
    async fn request(&self, tags: &[Vec<u8>], rest: &mut Rest) -> Result<Came> {
        let mut pace = self.pace.lock().await;
        while let Some(due) = pace.due(Instant::now()) {
            sleep_until(due).await;
        }
        let (headers, body) = match self.config.kind {
            SinkKind::Webhook => {
                let again = rest.unanswered.take().filter(|message| message.is_of(tags));
                let message = again.unwrap_or_else(|| SinkMessage::new(tags, &random::text(), seconds()));
                let sent = (message.headers(&self.config.secrets, seconds()), message.body().to_vec());
                rest.unanswered = Some(message);
                sent
            }
            kind => (HeaderMap::new(), request::body(kind, tags)),
        };
        self.is_refused.set(false);
        let answer = self.client.post(&self.lane, &self.path, &headers, body).await;
        pace.answered(Instant::now());
        let answer = answer.map_err(Unanswered::into_error)?;
        match verdict(self.config.kind, answer.status, &answer.headers, &answer.body, seconds()) {
            SinkVerdict::Done => {
                rest.unanswered = None;
                Ok(Came::Purged)
            }
            SinkVerdict::Refused(error, refusal) => {
                rest.unanswered = None;
                self.is_refused.set(true);
                Ok(Came::Refused(error, refusal))
            }
            SinkVerdict::Later(error, pause) => {
                if let Some(pause) = pause {
                    pace.pause_until(Instant::now() + Duration::from_secs(pause));
                }
                Err(error)
            }
        }
    }

    /// Sends all batches, and marks in `done` which keys need no more: those of an exact batch that was taken, and those of
    /// which every coarse tag, as `coarse` tells them, was purged or is owed. The error is that of what must go again.
    async fn send(
        &self,
        batches: Vec<TagBatch>,
        coarse: impl Fn(usize) -> BTreeSet<Vec<u8>>,
        done: &mut [Option<Done>],
        rest: &mut Rest,
    ) -> Result<()> {
        let (mut purged, mut owed) = (BTreeSet::new(), BTreeSet::new());
        let sent = self.send_each(batches.into(), &coarse, done, (&mut purged, &mut owed), rest).await;
        for (place, done) in done.iter_mut().enumerate().filter(|(_, done)| done.is_none()) {
            let tags = coarse(place);
            if !tags.is_empty() && tags.iter().all(|tag| purged.contains(tag) || owed.contains(tag)) {
                *done = Some(if tags.is_subset(&purged) { Done::Purged } else { Done::Owed });
            }
        }
        sent
    }

    /// What is refused for good goes in smaller parts: a batch of exact tags as their coarse tags, and one of coarse tags as
    /// each of them alone, since one that is refused does not keep the others. A coarse tag that is refused alone is owed.
    async fn send_each(
        &self,
        mut batches: VecDeque<TagBatch>,
        coarse: impl Fn(usize) -> BTreeSet<Vec<u8>>,
        done: &mut [Option<Done>],
        (purged, owed): (&mut BTreeSet<Vec<u8>>, &mut BTreeSet<Vec<u8>>),
        rest: &mut Rest,
    ) -> Result<()> {
        let (mut refused, mut given_up) = (None, None);
        let sent = loop {
            let Some(batch) = batches.pop_front() else { break Ok(()) };
            let (error, refusal) = match self.request(&batch.tags, rest).await {
                Ok(Came::Purged) => {
                    batch.exact.iter().for_each(|place| done[*place] = Some(Done::Purged));
                    if batch.is_coarse {
                        self.repaid(self.owed.borrow_mut().purged(&batch.tags));
                        purged.extend(batch.tags);
                    }
                    if batch.given_up > 0 {
                        self.say_given_up(batch.given_up);
                    }
                    continue;
                }
                Ok(Came::Refused(error, refusal)) => (error, refusal),
                Err(error) => break Err(error),
            };
            let smaller = batch.instead(self.config.kind.tags_max(), &coarse);
            match refusal {
                // Whoever refuses crieur refuses the others, too.
                SinkRefusal::All if batch.is_coarse || smaller.is_empty() => break Err(error),
                // Where the place takes no tags at all, each of them alone would be refused as well.
                _ if batch.is_coarse && (refusal == SinkRefusal::Place || smaller.is_empty()) => {
                    owed.extend(batch.tags);
                    given_up = Some(error);
                }
                SinkRefusal::Batch | SinkRefusal::Place if smaller.is_empty() => refused = Some(error),
                SinkRefusal::All | SinkRefusal::Batch | SinkRefusal::Place => {
                    smaller.into_iter().rev().for_each(|batch| batches.push_front(batch))
                }
            }
        };
        given_up.into_iter().for_each(|error| self.owe(owed, &error));
        sent.and(refused.map_or(Ok(()), Err))
    }

    /// These coarse tags were refused for good: nothing waits for them, and each is said once until it is purged.
    fn owe(&self, tags: &BTreeSet<Vec<u8>>, error: &Error) {
        let new = self.owed.borrow_mut().give_up(tags, Instant::now(), slow_pause(&mut Backoff::default()));
        self.owes.notify_one();
        if new > 0 {
            let hint = error.hint.as_deref();
            log!(
                Id::SinkGivenUp,
                hint,
                tags = new,
                "{}: {error}, coarse tags as well: {new} of them are given up, and nothing waits for them; their pages stay as \
                 they are until the sink takes these tags, which go again after minutes",
                self.server
            );
        }
    }

    /// Whether all that was owed is purged: that is said.
    fn repaid(&self, is_over: bool) {
        if is_over {
            log!(Id::CacheWorks, "{} has taken every coarse tag that it had refused", self.server);
        }
    }

    /// Sends what is owed once more.
    async fn repay(&self, backoff: &mut Backoff) {
        let tags = self.owed.borrow_mut().tried(Instant::now(), slow_pause(backoff));
        let batches = coarse_batches(self.config.kind.tags_max(), tags);
        let sent = self.send(batches, |_| BTreeSet::new(), &mut [], &mut Rest::default()).await;
        // What is due meanwhile says it where the sink does not answer at all.
        if let Err(error) = self.noted(sent) {
            tracing::debug!("{}; failed to purge coarse tags that are owed", error.chain());
        }
    }

    fn say_given_up(&self, tags: usize) {
        if self.said.borrow_mut().is_due(&Id::SinkRefused, Instant::now()) {
            let hint =
                "Look at the log of the site or the service for its cause. Pages of the whole family are made anew.";
            log!(
                Id::SinkRefused,
                hint,
                tags,
                "{} refuses {tags} tags for good: their coarse tags are purged instead",
                self.server
            );
        }
    }

    fn say_unfit(&self, (tags, why): (u64, &'static str)) {
        let told = self.said.borrow_mut().counted(&Id::TagUnfit, tags, Instant::now());
        if let Some(tags) = told.filter(|tags| *tags > 0) {
            let hint = self.config.kind.form();
            log!(
                Id::TagUnfit,
                hint,
                tags,
                "{} cannot take a tag, which {why}: its coarse tag is purged instead",
                self.server
            );
        }
    }

    /// A sink that took tags is one that can: what it refuses now may pass.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        let owes = !self.owed.borrow().is_empty();
        self.health.note(result.is_ok() && !owes);
        self.health.note_refused(self.is_refused.get() || owes);
        let judged = |error: Error| if self.health.has_deleted() { error.having_worked() } else { error };
        result.map_err(|error| judged(error).at(&self.server))
    }

    async fn purge(&self, keys: &KeySet, rest: &mut Rest) -> Result<()> {
        let families = self.coarse.borrow().clone();
        let packed = pack(self.config.kind, &families, keys.iter(), requests_max(self.config.rate));
        if packed.unfit.0 > 0 {
            self.say_unfit(packed.unfit);
        }
        let all: Vec<&[u8]> = keys.iter().map(|key| key.bytes).collect();
        let mut done = vec![None; keys.len()];
        let coarse = |place: usize| coarse_of(&families, all.get(place).copied().unwrap_or_default());
        let sent = self.send(packed.batches, coarse, &mut done, rest).await;
        let (mut left, mut count) = (KeySet::default(), 0);
        for (key, done) in keys.iter().zip(&done) {
            match done {
                Some(Done::Purged) => count += 1,
                Some(Done::Owed) => {}
                None => _ = left.add(&key),
            }
        }
        rest.done.sent += count;
        if count > 0 {
            self.health.note_deleted();
        }
        rest.keys = Some(left);
        sent
    }
}

impl Cache for SinkCache {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.delete_rest(keys, &mut Rest::default()).await
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        let left = rest.keys.take().unwrap_or_else(|| {
            let mut all = KeySet::default();
            keys.iter().flat_map(|set| set.iter()).for_each(|key| _ = all.add(&key));
            all
        });
        let purged = self.purge(&left, rest).await;
        self.noted(purged)?;
        Ok(rest.done)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        self.sweep_rest(patterns, &mut Rest::default()).await
    }

    async fn sweep_rest(&self, patterns: &KeySet, rest: &mut Rest) -> Result<Swept> {
        let families = self.coarse.borrow().clone();
        // What went already needs not go again; patterns that wait are few.
        let left = rest.keys.take().unwrap_or_else(|| patterns.clone());
        let all: Vec<BTreeSet<Vec<u8>>> = left.iter().map(|key| coarse_of_pattern(&families, key.bytes)).collect();
        let batches = coarse_batches(self.config.kind.tags_max(), all.iter().flatten().cloned().collect());
        // A pattern that no family of this sink meets needs nothing.
        let mut done: Vec<_> = all.iter().map(|tags| tags.is_empty().then_some(Done::Purged)).collect();
        let sent = self.send(batches, |place| all[place].clone(), &mut done, rest).await;
        let purged: BTreeSet<&Vec<u8>> =
            all.iter().zip(&done).filter(|(_, done)| **done == Some(Done::Purged)).flat_map(|(tags, _)| tags).collect();
        let mut waits = KeySet::default();
        left.iter().zip(&done).filter(|(_, done)| done.is_none()).for_each(|(key, _)| _ = waits.add(&key));
        rest.keys = Some(waits);
        self.noted(sent)?;
        if !purged.is_empty() {
            self.health.note_deleted();
        }
        let tags = purged.len() as u64;
        Ok(Swept { scanned: tags, deleted: tags })
    }

    fn learn(&self, tags: Vec<CoarseTag>) {
        self.repaid(self.owed.borrow_mut().keep(|owed| tags.iter().any(|coarse| coarse.tag == owed)));
        self.coarse.replace(tags);
    }

    fn is_sink(&self) -> bool {
        true
    }

    /// Nothing can be tried without purging something.
    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        Ok((self.mark.borrow().clone(), Lineage::default()))
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], _again: &KeySet) -> Result<Swap> {
        let mut held = self.mark.borrow_mut();
        if !expected.contains(&held) {
            return Ok(Swap::Other);
        }
        *held = Some(mark.to_vec());
        Ok(Swap::Written)
    }

    fn is_away(&self) -> bool {
        self.health.is_away()
    }

    /// No database: two sinks may lead to one place, and purge it twice.
    async fn whereabouts(&self) -> Result<Option<String>> {
        Ok(Some(self.config.section.clone()))
    }

    async fn leave_note(&self, _note: &str) -> Result<()> {
        Err(Error::transient("a sink keeps no notes").class(Class::TransientSlow))
    }

    fn name(&self) -> &str {
        &self.server
    }

    /// Nothing tells of another sink. What is owed goes again meanwhile.
    async fn turned(&self, _since: Lineage) {
        let mut backoff = Backoff::default();
        loop {
            let due = self.owed.borrow().due();
            match due {
                Some(due) => {
                    sleep_until(due).await;
                    self.repay(&mut backoff).await;
                }
                None => {
                    backoff.reset();
                    self.owes.notified().await;
                }
            }
        }
    }

    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
}
