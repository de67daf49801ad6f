//! Upstash over its REST interface, for where nothing but HTTPS is open.
//!
//! There is no connection to prove anything: each request may be answered by another server than the one before. So the
//! cache is nameless (`cache/identity.rs`): each mark carries, in its own transaction, what was deleted since the last one.
//! Reads may come from a replica that lags; they are asked behind a write of our own, whose sync token says how far the
//! replica must be. What is sent is sent once: where the answer to a mark is lost, the mark is looked at.

mod json;
mod pack;
mod service;
mod status;
mod telling;

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value};
use tokio::time::sleep;

use super::address::trust;
use super::continuity::Lineage;
use super::forms::RestAddress;
use super::health::Health;
use super::http::{Lane, Unanswered};
use super::identity::Info;
use super::inspect::{Inspect, Lifetimes, Walk};
use super::probe::{self, Examined};
use super::publish::{Publisher, Telling};
use super::speak::{self, Speaks, count};
use super::swap::{self, Swapping, mark_key};
use super::sweep::{Steps, SweepGround, SweepPlan};
use super::unlink::Packing;
use super::watch::KeyWatch;
use super::{Cache, Deleted, Rest, Swap, Swept, bill, long, reply, scan, sweep};
use crate::config::{self, Leases};
use crate::error::{Error, Exit, Result};
use crate::keys::KeySet;
use crate::mark::Published;
use json::CommandForm;
use pack::{Packed, batches};
use service::Service;

/// Messages to readers go in requests, each behind the answer to the one before: there is one way.
const WAY: u64 = 0;

/// How often the items of a request that were refused are sent again, alone, before the caller hears of it.
const ITEM_TRIES: u32 = 3;
/// Ahead of the first of these; each next pause is twice as long.
const ITEM_PAUSE: Duration = Duration::from_millis(100);

/// A service that takes commands over HTTP.
pub struct RestCache {
    service: Service,
    /// For messages: "the cache at eu1-x.upstash.io:443 (UPSTASH_REDIS_REST_URL)".
    server: String,
    protect: Vec<Vec<u8>>,
    leases: Leases,
    deletes: Lane,
    marks: Lane,
    sweeps: Lane,
    /// The service does not know SET with IFEQ: the mark is written by the script.
    by_script: Cell<bool>,
    steps: Steps,
    /// Where readers with a memory tier hear of deletes.
    publisher: Option<Publisher>,
    health: Arc<Health>,
}

impl RestCache {
    /// Checks the token; connects on the first call.
    ///
    /// # Errors
    ///
    /// Definite ones: a token is missing or cannot be one.
    pub fn new(address: RestAddress, config: &config::CacheConfig) -> Result<Self> {
        let place = if config.url.origin().is_empty() { "cache.url" } else { config.url.origin() };
        let missing = || {
            Error::definite(Exit::Config, "the address is that of a REST interface, and there is no token")
                .hint("Write its token (UPSTASH_REDIS_REST_TOKEN) into the key token beside it.")
        };
        let token = config.token.as_ref().ok_or_else(missing).map_err(|error| error.at(place))?;
        let server = format!("the cache at {} ({place}, over REST)", address.place);
        let trust = if address.tls { Some(trust(&config.tls)?) } else { None };
        let service = Service::new(address.place, trust, token.expose().trim(), config.timeout);
        Ok(RestCache {
            service: service.map_err(|error| error.at(place))?,
            server,
            protect: config.protect.clone(),
            leases: config.leases,
            deletes: Lane::default(),
            marks: Lane::default(),
            sweeps: Lane::default(),
            by_script: Cell::default(),
            steps: Steps::new(Packing::Billed),
            publisher: config.publish.as_ref().map(Publisher::new),
            health: Arc::default(),
        })
    }

    /// Whether the cache answers.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        &self.server
    }

    fn link<'a>(&'a self, lane: &'a Lane) -> RestLink<'a> {
        RestLink { cache: self, lane, info: Info::default() }
    }

    /// A cache that deleted keys is one that can: what it refuses now may pass.
    fn judged(&self, error: Error) -> Error {
        let error = if self.health.has_deleted() { error.having_worked() } else { error };
        error.at(&self.server)
    }

    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.health.note(result.is_ok());
        result.map_err(|error| self.judged(error))
    }

    /// Keys that nobody can have stored count as deleted.
    fn leave_out(&self, keys: &[&[u8]]) -> Deleted {
        for key in keys {
            long::leave_out(&self.server, key.len());
        }
        Deleted { sent: keys.len() as u64, existed: 0 }
    }

    async fn sweep_all(&self, patterns: &KeySet) -> Result<Swept> {
        let plan = SweepPlan::new(patterns, &self.protect, self.leases);
        let mut link = self.link(&self.sweeps);
        speak::write_something(&mut link).await?;
        let finish = async |link: &mut RestLink<'_>, keys: &[&[u8]]| {
            let (deleted, long) = link.unlink(keys.iter().copied(), self.leases).await?;
            Ok(deleted.existed + self.leave_out(&long).existed)
        };
        sweep::run(&SweepGround { steps: &self.steps, progress: self.health.progress(), finish }, &mut link, &plan)
            .await
    }

    /// The mark as the primary has it: a script may write, so no replica runs it.
    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut link = self.link(&self.marks);
        let found = speak::mark("EVAL", link.ask(speak::read_at_primary(&mark_key(name))).await?);
        // A mark of ours is text. What is none could not be sent as what is to be replaced.
        let is_text = |found: &Option<Vec<u8>>| found.as_ref().is_none_or(|mark| std::str::from_utf8(mark).is_ok());
        match found {
            Ok(found) if is_text(&found) => Ok(found),
            Err(Some(error)) => Err(error),
            Ok(_) | Err(None) => {
                let mut command = Cmd::new();
                command.arg("UNLINK").arg(mark_key(name));
                count("UNLINK", &link.ask(command).await?).map(|_| None)
            }
        }
    }

    /// Sends the swap once; a lost answer is no error yet.
    async fn swap(&self, pipeline: &Pipeline) -> Result<std::result::Result<Value, Error>> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let inner = match commands.as_slice() {
            // What stands between MULTI and EXEC is the body of a transaction.
            [_, inner @ .., _] if commands.len() > 2 => inner,
            all => all,
        };
        let forms: Option<Vec<CommandForm>> = inner.iter().map(|command| json::form(command)).collect();
        let Some(forms) = forms else { return Err(reply::unexpected("the mark")) };
        let arrays: Vec<&[u8]> = forms
            .iter()
            .filter_map(|form| if let CommandForm::Array(array) = form { Some(array.as_slice()) } else { None })
            .collect();
        if arrays.len() != forms.len() {
            return Err(reply::unexpected("bytes that JSON cannot carry"));
        }
        let (path, body, several) = match arrays.as_slice() {
            [one] => ("/", one.to_vec(), None),
            all => ("/multi-exec", json::array(all.iter().copied()), Some(all.len())),
        };
        let answer = match self.service.post(&self.marks, path, body, true).await {
            Ok(answer) => answer,
            Err(Unanswered::Unsent(error)) => return Err(error),
            Err(Unanswered::Lost(error)) => {
                self.health.bill(inner.iter().map(|command| bill::of(command, None)).sum());
                return Ok(Err(error));
            }
        };
        match status::replies(&answer, several) {
            Ok(replies) => {
                self.health
                    .bill(inner.iter().zip(&replies).map(|(command, reply)| bill::of(command, Some(reply))).sum());
                Ok(Ok(swap::outcome(vec![Value::Array(replies)])))
            }
            // Something that is no answer may stand in front of one.
            Err(error) if answer.status.is_success() => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }
}

impl RestCache {
    /// Swaps the mark, and looks what became of it where the answer was lost.
    async fn swap_mark_once(&self, asked: &Swapping<'_>) -> Result<Swap> {
        let Swapping { name, mark, again, .. } = *asked;
        let is_text = again.iter().all(|key| std::str::from_utf8(key.bytes).is_ok());
        let plain = if self.by_script.get() || !is_text { None } else { asked.plain() };
        let is_plain = plain.is_some();
        let script = || if is_text { asked.script(None) } else { asked.script_of_bytes() };
        let swapped = self.swap(&plain.unwrap_or_else(script)).await;
        match swapped.map_err(|error| self.judged(error))? {
            Ok(Value::Int(1) | Value::Okay) => Ok(Swap::Written),
            // The same request may have come twice, through a proxy that sends again: the first wrote it.
            Ok(Value::Int(0) | Value::Nil) => Ok(match self.read(name).await {
                Ok(Some(found)) if found == mark => Swap::Written,
                Ok(_) | Err(_) => Swap::Other,
            }),
            Ok(Value::ServerError(error)) if error.code() == "OOM" => Ok(Swap::Full),
            Ok(Value::ServerError(error)) => {
                // A service that does not know IFEQ: the script does the same, once the mark was read again.
                if is_plain
                    && error.code() == "ERR"
                    && reply::mends("ERR", error.details().unwrap_or_default()) == reply::Mends::Itself
                {
                    self.by_script.set(true);
                    return Ok(Swap::Unproven);
                }
                let refused = self.judged(reply::refused("the mark", &error));
                if refused.is_transient() { Ok(Swap::Refused(refused)) } else { Err(refused) }
            }
            Ok(_) => Err(self.judged(reply::unexpected("the mark"))), // Value is foreign and non-exhaustive.
            Err(_) => Ok(match self.read(name).await {
                Ok(Some(found)) if found == mark => Swap::Written,
                // It may still be on its way.
                Ok(_) | Err(_) => Swap::Lost,
            }),
        }
    }
}

/// A way to the service for one call.
struct RestLink<'a> {
    cache: &'a RestCache,
    lane: &'a Lane,
    info: Info,
}

impl RestLink<'_> {
    /// The replies to the commands `chosen` of `forms`, each with its place.
    async fn send(&self, forms: &[CommandForm], chosen: &[usize], writes: bool) -> Result<Vec<(usize, Value)>> {
        let mut out = Vec::with_capacity(chosen.len());
        for batch in batches(forms, chosen) {
            let answer = self.cache.service.post(self.lane, &batch.path, batch.body, writes).await;
            let answer = answer.map_err(Unanswered::into_error)?;
            let several = batch.several.then_some(batch.at.len());
            out.extend(batch.at.into_iter().zip(status::replies(&answer, several)?));
        }
        Ok(out)
    }

    /// Sends UNLINKs until each was answered with a count; those that were refused go again, and no others.
    async fn flush(
        &self,
        packed: &mut Packed,
        (watch, asked): (&KeyWatch, &mut Vec<&[u8]>),
        told: Option<(&Telling<'_>, &mut Vec<&[u8]>)>,
    ) -> Result<u64> {
        let alone: HashMap<usize, &[u8]> = packed.take_alone().into_iter().zip(asked.drain(..)).collect();
        let (mut forms, keys) = packed.take();
        let unlinks = forms.len();
        let mut left: Vec<usize> = (0..unlinks).collect();
        let (mut existed, mut pause) = (0, ITEM_PAUSE);
        for tries in 1.. {
            // Behind whatever goes again stands a message of its own.
            if let Some((telling, named)) = &told
                && !left.is_empty()
            {
                forms.truncate(unlinks);
                let message = json::form(&telling.message(WAY, named));
                forms.push(message.ok_or_else(|| reply::unexpected("a message"))?);
                left.push(unlinks);
            }
            self.cache.health.bill(left.len() as u64);
            let mut refused = Vec::new();
            for (index, value) in self.send(&forms, &left, true).await? {
                if let (Some((telling, _)), true) = (&told, index == unlinks) {
                    telling.answered(&value);
                    continue;
                }
                match count("UNLINK", &value) {
                    Ok(count) => {
                        existed += count;
                        alone.get(&index).into_iter().for_each(|key| watch.answered(key, count));
                    }
                    Err(error) if tries >= ITEM_TRIES || status::is_lasting(&error) => return Err(error),
                    Err(_) => refused.push(index),
                }
            }
            if refused.is_empty() {
                break;
            }
            left = refused;
            sleep(pause).await;
            pause *= 2;
        }
        told.into_iter().for_each(|(_, named)| named.clear());
        Ok(existed.min(keys))
    }

    /// UNLINKs the keys, and tells each request's keys behind it where somebody is told.
    async fn unlink_and_tell<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        leases: Leases,
        watch: &KeyWatch,
        telling: Option<&Telling<'_>>,
    ) -> Result<(Deleted, Vec<&'a [u8]>)> {
        let (mut done, mut long, mut named, mut asked) = (Deleted::default(), Vec::new(), Vec::new(), Vec::new());
        let mut packed = Packed::new(leases);
        for key in keys {
            if pack::is_too_long(key.len()) {
                long.push(key);
                continue;
            }
            done.sent += 1;
            if packed.is_full() {
                let told = telling.map(|telling| (telling, &mut named));
                done.existed += self.flush(&mut packed, (watch, &mut asked), told).await?;
            }
            if watch.asks(key) {
                packed.push_alone(key);
                asked.push(key);
            } else {
                packed.push(key);
            }
            if telling.is_some() {
                named.push(key);
            }
        }
        let told = telling.map(|telling| (telling, &mut named));
        done.existed += self.flush(&mut packed, (watch, &mut asked), told).await?;
        Ok((done, long))
    }
}

impl Speaks for RestLink<'_> {
    async fn exchange(&mut self, pipeline: &Pipeline, _bytes: usize) -> Result<Vec<Value>> {
        let forms: Option<Vec<CommandForm>> = pipeline.cmd_iter().map(json::form).collect();
        let forms = forms.ok_or_else(|| reply::unexpected("bytes that JSON cannot carry"))?;
        let all: Vec<usize> = (0..forms.len()).collect();
        let writes = pipeline.cmd_iter().any(speak::may_write);
        let replies: Vec<Value> = self.send(&forms, &all, writes).await?.into_iter().map(|(_, value)| value).collect();
        let billed = pipeline.cmd_iter().zip(&replies).map(|(command, reply)| bill::of(command, Some(reply)));
        self.cache.health.bill(billed.sum());
        Ok(replies)
    }

    async fn unlink<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        leases: Leases,
    ) -> Result<(Deleted, Vec<&'a [u8]>)> {
        self.unlink_and_tell(keys, leases, &KeyWatch::default(), None).await
    }

    fn info(&self) -> &Info {
        &self.info
    }
}

impl Cache for RestCache {
    async fn leave_note(&self, note: &str) -> Result<()> {
        speak::leave_note(&mut self.link(&self.marks), note).await
    }

    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        speak::find_note(&mut self.link(&self.marks)).await
    }

    fn name(&self) -> &str {
        &self.server
    }

    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.delete_rest(keys, &mut Rest::default()).await
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        if keys.iter().all(|set| set.is_empty()) {
            return Ok(Deleted::default());
        }
        let (done, long) = self.noted(self.unlink_all(keys, &rest.watch).await)?;
        if done.sent > 0 {
            self.health.note_deleted();
        }
        let alone = self.leave_out(&long);
        Ok(Deleted { sent: done.sent + alone.sent, existed: done.existed })
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        self.noted(self.sweep_and_tell(patterns).await)
    }

    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        let tried = async {
            let tried = probe::each(&mut self.link(&self.marks), &mark_key(name), families, self.leases).await?;
            tried.into_iter().try_for_each(probe::Tried::into_result)
        };
        self.noted(tried.await)
    }

    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        self.noted(self.read(name).await).map(|found| (found, self.lineage()))
    }

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        let asked = Swapping { name, expected, mark, again, leases: self.leases, packing: Packing::Billed };
        self.swap_and_tell(&asked).await
    }

    fn published(&self) -> Option<Published> {
        self.publisher.as_ref().and_then(Publisher::published)
    }

    fn billed(&self) -> u64 {
        self.health.billed()
    }

    fn is_away(&self) -> bool {
        self.health.is_away()
    }

    fn is_nameless(&self) -> bool {
        true
    }

    /// Requests tell nothing of who answers: what a leader that changed has lost is in the next mark's transaction, or
    /// the mark is gone with it.
    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
}

impl Inspect for RestCache {
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined> {
        let mut link = self.link(&self.marks);
        let mut asked = Pipeline::new();
        asked.cmd("INFO").arg("server").cmd("INFO").arg("memory");
        let replies = link.exchange(&asked, 0).await.map_err(|error| error.at(&self.server))?;
        let read = |index: usize| Info::read(replies.get(index..=index).unwrap_or_default());
        let tried = probe::each(&mut link, &mark_key(name), families, self.leases).await;
        let mut tried = tried.map_err(|error| error.at(&self.server))?;
        if let Some(publisher) = &self.publisher {
            let told = probe::telling(&mut link, publisher.channel()).await;
            tried.push(told.map_err(|error| error.at(&self.server))?);
        }
        Ok(Examined { info: read(0), memory: read(1), tried, user: "default".to_owned(), sentinels: None })
    }

    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        let scanned = scan::all(&mut self.link(&self.sweeps), matching, each).await;
        scanned.map_err(|error| error.while_doing("scan").at(&self.server))
    }

    async fn some_keys(&self, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>> {
        let scanned = scan::some(&mut self.link(&self.sweeps), walk, matching).await;
        scanned.map_err(|error| error.while_doing("scan").at(&self.server))
    }

    async fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let values = speak::values(&mut self.link(&self.sweeps), keys).await;
        values.map_err(|error| error.while_doing("read values").at(&self.server))
    }

    async fn lifetimes(&self, look: &mut dyn Lifetimes) -> Result<()> {
        let looked = scan::lifetimes(&mut self.link(&self.sweeps), look).await;
        looked.map_err(|error| error.while_doing("look at lifetimes").at(&self.server))
    }

    async fn size(&self) -> Result<u64> {
        scan::size(&mut self.link(&self.sweeps)).await.map_err(|error| error.at(&self.server))
    }
}
