//! The cache over RESP: which connection a call runs on, and what each call sends.
//!
//! Keys come from the rules, patterns are `sweep.rs`, retries with a pause are `insist.rs`. Only a connection that was
//! closed while it was idle, and a key that is too long for one command, are tried again here.
//! The invariant: a connection is taken out of its place for a call and put back after success, so that an error, and
//! a call dropped half way, leave none behind whose replies could be taken for those of the next call.

mod examine;
mod telling;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::forms::{CacheAddress, unready};
use super::health::Health;
use super::identity::{Acquaintance, Identity, Met};
use super::link::CacheLink;
use super::probe;
use super::publish::Publisher;
use super::renewal::Renewal;
use super::route::Route;
use super::sentinel::Sentinels;
use super::speak::{self, Speaks, count};
use super::statistics::CacheSaid;
use super::swap::{self, Swapping, mark_key};
use super::sweep::{Steps, SweepGround};
use super::unlink::Packing;
use super::{Cache, Deleted, Rest, Swap, Swept, long, reply, socket, sweep};
use crate::amount::shown;
use crate::cache::continuity::Lineage;
use crate::config::{self, Leases, Metering};
use crate::error::{Error, Result};
use crate::keys::KeySet;
use crate::mark::Published;

const ONE_PRIMARY: &str = "Write redis://, and the host and port of the one primary that holds all keys.";
const UPSTASH: &str = "Upstash: write rediss://default:<token>@<endpoint>:6379; the REST token is the password.";

const ONLY_HTTPS: &str = "The address follows from that of the REST interface: the same host, port 6379. Where only HTTPS is open, write \
    transport = \"rest\" for this cache.";

/// Where a connection waits that answered everything so far.
type Place = RefCell<Vec<CacheLink>>;

/// A sweep over the only connection, until it ends or is given up.
struct Sweeping<'a>(&'a Cell<bool>);

impl<'a> Sweeping<'a> {
    fn over(sweeping: &'a Cell<bool>, is_only: bool) -> Self {
        sweeping.set(is_only);
        Sweeping(sweeping)
    }
}

impl Drop for Sweeping<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A Redis or Valkey server.
pub struct RedisCache {
    route: Route,
    /// The address follows from that of a REST interface.
    is_derived: bool,
    protect: Vec<Vec<u8>>,
    leases: Leases,
    timeout: Duration,
    /// How old the connection for the mark becomes.
    age_max: Duration,
    metering: Metering,
    /// Where readers with a memory tier hear of deletes.
    publisher: Option<Publisher>,
    /// The connection for deletes, while it is idle.
    idle: Place,
    /// The connection for the mark, while it is idle.
    marking: Place,
    /// The one connection to a server that does not say who it is: the others are users of it. What one of them reads
    /// or writes is so behind what another was answered, on the same server.
    only: Place,
    /// Counts failures of any connection, and turns to another server.
    generation: Cell<u64>,
    known: RefCell<Acquaintance>,
    /// Turns of the way to the server that the connections follow.
    turns: Cell<u64>,
    /// A sweep runs over the only connection.
    sweeping: Cell<bool>,
    /// One ended on it, and no mark was written since: nothing but this connection proves it.
    swept: Cell<bool>,
    /// The mark is written by the script, though a plain command would be cheaper.
    by_script: Cell<bool>,
    renewal: Renewal,
    steps: Steps,
    health: Arc<Health>,
}

impl RedisCache {
    /// Checks URL and certificate authority; connects on the first call.
    pub fn new(config: &config::CacheConfig) -> Result<Self> {
        let place = if config.url.origin().is_empty() { "cache.url" } else { config.url.origin() };
        let health = Arc::<Health>::default();
        let route = match CacheAddress::of(config)? {
            CacheAddress::Single(address) => Route::fixed(address),
            CacheAddress::Sentinel(address) => {
                let health = Arc::clone(&health);
                Route::sentinels(Sentinels::new(address, config.heartbeat, config.timeout, health))
            }
            CacheAddress::Cluster(_) => {
                return Err(unready("names a cluster, not one server").hint(ONE_PRIMARY).at(place));
            }
            CacheAddress::Rest(_) => return Err(unready("leads to a REST interface").hint(UPSTASH).at(place)),
        };
        Ok(RedisCache::over(route, health, config))
    }

    /// The server at this address.
    pub(super) fn at(address: Address, config: &config::CacheConfig) -> Self {
        RedisCache::over(Route::fixed(address), Arc::default(), config)
    }

    fn over(route: Route, health: Arc<Health>, config: &config::CacheConfig) -> Self {
        RedisCache {
            route,
            turns: Cell::default(),
            is_derived: config.token.is_some(),
            protect: config.protect.clone(),
            leases: config.leases,
            timeout: config.timeout,
            age_max: config.connection_age_max,
            metering: config.metering,
            publisher: config.publish.as_ref().map(Publisher::new),
            idle: Place::default(),
            marking: Place::default(),
            only: Place::default(),
            generation: Cell::default(),
            known: RefCell::default(),
            sweeping: Cell::default(),
            swept: Cell::default(),
            by_script: Cell::default(),
            renewal: Renewal::of(config),
            steps: Steps::new(Packing::of(config.metering)),
            health,
        }
    }

    /// Whether the cache answers.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// For messages: where it is, and where that was written.
    pub fn server(&self) -> &str {
        &self.route.server
    }

    /// A connection that nothing else uses, logged in, to whatever answers there.
    pub(super) async fn log_in(&self) -> Result<CacheLink> {
        let link = self.route.connect(async |address| self.open(address).await).await;
        link.map_err(|error| error.at(&self.route.server))
    }

    /// The address was made from that of a REST interface, which may be all that can be reached.
    fn unreached(&self, error: Error) -> Error {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        // A host that has no address has none for REST either.
        let is_nowhere = cause.is_some_and(socket::is_unresolved);
        if self.is_derived && error.is_transient() && !is_nowhere { error.hint(ONLY_HTTPS) } else { error }
    }

    /// The same, to one address.
    async fn open(&self, address: &Address) -> Result<CacheLink> {
        let (stream, heard) = match timeout(self.timeout, address.open()).await {
            Ok(opened) => opened.map_err(|error| self.unreached(error))?,
            Err(_) => {
                let silent = || self.unreached(Error::transient(format!("no answer within {}", shown(self.timeout))));
                return Err(address.stranger().await.unwrap_or_else(silent));
            }
        };
        let mut link = CacheLink::over(stream, heard, self.timeout, self.generation.get()).await?;
        if self.metering == Metering::ByCommand {
            link.is_billed_to(&self.health);
        }
        match link.log_in(address).await {
            Ok(()) => Ok(link),
            Err(error) => Err(link.why(error, address).await),
        }
    }

    /// Where the way leads to another server than before, none of the connections is used again.
    fn follow(&self) {
        let turns = self.route.turns();
        if self.turns.replace(turns) != turns {
            self.broken();
        }
    }

    /// Does `step`, and gives it up when the way leads to another server meanwhile: what the old one answers is worth
    /// nothing, and it may never answer.
    async fn while_it_leads_there<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        self.follow();
        let result = tokio::select! {
            biased;
            result = step => result,
            () = self.route.turned(self.turns.get()) => {
                let turned = Error::transient("another server became the primary meanwhile; its commands go again there");
                Err(turned.at(&self.route.server))
            }
        };
        self.follow();
        result
    }

    /// A connection of its own, to a primary. What it learns of the server holds for all the others: they are not used
    /// again when it is another one than before.
    async fn connect(&self) -> Result<CacheLink> {
        let mut link = self.log_in().await?;
        if link.info.is_replica() {
            return Err(reply::replica().at(&self.route.server));
        }
        self.follow();
        let met = self.known.borrow_mut().meet(link.identity.as_ref());
        if met == Met::Another {
            self.broken();
        }
        link.generation = self.generation.get();
        Ok(link)
    }

    /// A connection of somebody else's was made, and says who answers there: how it is counted.
    pub(super) fn met(&self, identity: &Identity) -> u64 {
        let met = self.known.borrow_mut().meet(Some(identity));
        if met == Met::Another {
            self.broken();
        }
        self.generation.get()
    }

    /// The server was reached at another address so far: whoever answers here is compared with what was known of it.
    pub(super) fn succeeds(&self, before: &RedisCache) {
        let known = before.known.borrow().clone();
        if *self.known.borrow() != known {
            *self.known.borrow_mut() = known;
            self.broken();
        }
    }

    /// Counts failures of any connection, and turns to another server.
    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// A connection for deletes, the mark or a sweep: a new one, or the only one.
    pub(super) async fn link(&self) -> Result<CacheLink> {
        if let Some(only) = self.only_link() {
            return Ok(only);
        }
        let link = self.connect().await?;
        if link.identity.is_some() {
            return Ok(link);
        }
        // Another call may have been faster.
        Ok(self.only_link().unwrap_or_else(|| self.made_only(link)))
    }

    fn only_link(&self) -> Option<CacheLink> {
        self.only.borrow().last().map(CacheLink::shared)
    }

    fn made_only(&self, link: CacheLink) -> CacheLink {
        self.known.borrow_mut().connected_to_nameless();
        self.only.borrow_mut().push(link.shared());
        link
    }

    /// The connection that the mark was read on while it is young, then a new one to the same server. `None` where
    /// nobody can tell that it is the same: the mark is to be read there first. So a server that lives on under an
    /// address that leads to another one is left in time.
    async fn young(&self, mut link: CacheLink) -> Option<CacheLink> {
        let is_only = link.identity.is_none();
        if link.born.elapsed() < self.age_max || (is_only && (self.sweeping.get() || self.swept.get())) {
            return Some(link);
        }
        let mut fresh = match self.connect().await {
            Ok(fresh) => {
                self.renewal.worked();
                fresh
            }
            Err(error) => {
                self.renewal.failed(&error);
                link.born = Instant::now();
                return Some(link);
            }
        };
        if fresh.identity.is_some() && fresh.generation == link.generation {
            return Some(fresh);
        }
        if fresh.identity.is_none() {
            self.broken();
            fresh.generation = self.generation.get();
            fresh = self.made_only(fresh);
        }
        self.marking.borrow_mut().push(fresh);
        None
    }

    /// Runs `step` on a connection of `place` or a new one, which is there again after success.
    ///
    /// A server closes connections that were idle for its `timeout`. The first call after that finds out, and nothing
    /// was lost: it goes on a new connection at once.
    async fn on_link<T>(&self, place: &Place, step: impl AsyncFn(&mut CacheLink) -> Result<T>) -> Result<T> {
        let idle = place.borrow_mut().pop();
        if let Some(mut link) = idle {
            match step(link.again()).await {
                Err(_) if link.was_closed() => self.broken(),
                result => return self.ended(place, link, result),
            }
        }
        let mut link = self.link().await.inspect_err(|_| self.broken())?;
        let result = step(&mut link).await;
        self.ended(place, link, result)
    }

    fn ended<T>(&self, place: &Place, link: CacheLink, result: Result<T>) -> Result<T> {
        match result {
            Ok(_) if link.generation == self.generation.get() => place.borrow_mut().push(link),
            Ok(_) => {}
            Err(_) if link.was_answered() => {} // Refused: a demoted primary, say. A new connection may lead elsewhere.
            Err(_) => self.broken(),
        }
        result
    }

    /// One connection broke, or led to another server: none of the others is used again.
    pub(super) fn broken(&self) {
        self.generation.set(self.generation.get() + 1);
        // What was swept over the connection before, a new one does not prove.
        self.swept.set(false);
        for place in [&self.idle, &self.marking, &self.only] {
            place.borrow_mut().clear();
        }
    }

    /// The sweep on a connection of its own, which ends with it, or over the only one.
    async fn sweep_on_link(&self, plan: &sweep::SweepPlan<'_>) -> Result<Swept> {
        let mut link = self.link().await?;
        let is_only = link.identity.is_none();
        if self.metering == Metering::ByCommand {
            speak::write_something(&mut link).await?;
        }
        let sweeping = Sweeping::over(&self.sweeping, is_only);
        let finish = async |link: &mut CacheLink, keys: &[&[u8]]| {
            let (deleted, long) = link.unlink(keys.iter().copied(), self.leases).await?;
            Ok(deleted.existed + self.unlink_long(&long).await?.existed)
        };
        let swept =
            sweep::run(&SweepGround { steps: &self.steps, progress: self.health.progress(), finish }, &mut link, plan)
                .await;
        drop(sweeping);
        match &swept {
            // Another call met a failure, and connected anew since: perhaps to another server, which was not swept.
            Ok(_) if is_only && link.generation != self.generation.get() => {
                Err(Error::transient("the only connection was replaced during the sweep; the sweep runs again"))
            }
            Ok(_) => {
                self.swept.set(is_only);
                swept
            }
            Err(_) => {
                if is_only && !link.was_answered() {
                    self.broken();
                }
                swept
            }
        }
    }

    /// Deletes keys so long that the server may refuse to read them, each alone: whatever they do to their connection,
    /// the others are through.
    async fn unlink_long(&self, keys: &[&[u8]]) -> Result<Deleted> {
        let mut done = Deleted::default();
        for key in keys {
            let mut unlinked = None;
            // A service that bills has a limit of its own: no client can have stored such a key.
            let tries = if self.metering == Metering::ByCommand { 0 } else { long::TRIES };
            for _ in 0..tries {
                // A connection that was made and logged in proves that nothing but the key is wrong.
                unlinked = self.connect().await?.unlink_alone(key, self.leases).await?;
                if unlinked.is_some() {
                    break;
                }
            }
            if unlinked.is_none() {
                long::leave_out(&self.route.server, key.len());
            }
            let unlinked = unlinked.unwrap_or(Deleted { sent: 1, existed: 0 });
            done = Deleted { sent: done.sent + unlinked.sent, existed: done.existed + unlinked.existed };
        }
        Ok(done)
    }

    /// A cache that deleted keys is one that can: what it refuses now may pass, as in a failover to another kind of server.
    fn judged(&self, error: Error) -> Error {
        let error = if self.health.has_deleted() { error.having_worked() } else { error };
        error.at(&self.route.server)
    }

    /// Notes whether the cache answered, for whoever watches.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.health.note(result.is_ok());
        result.map_err(|error| self.judged(error))
    }
}

impl Cache for RedisCache {
    async fn whereabouts(&self) -> Result<Option<String>> {
        let link = self.log_in().await?;
        let place = |identity: &Identity| format!("{}#{}", identity.fields().join("/"), link.database);
        Ok(link.identity.as_ref().map(place))
    }

    async fn leave_note(&self, note: &str) -> Result<()> {
        speak::leave_note(&mut self.log_in().await?, note).await
    }

    async fn find_note(&self) -> Result<Option<Vec<u8>>> {
        speak::find_note(&mut self.log_in().await?).await
    }

    async fn statistics(&self) -> Result<Option<CacheSaid>> {
        self.said().await
    }

    fn name(&self) -> &str {
        &self.route.server
    }

    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        self.delete_rest(keys, &mut Rest::default()).await
    }

    async fn delete_rest(&self, keys: &[&KeySet], rest: &mut Rest) -> Result<Deleted> {
        if keys.iter().all(|set| set.is_empty()) {
            return Ok(Deleted::default());
        }
        let deleted = self.unlink_all(keys, &rest.watch);
        self.noted(self.while_it_leads_there(deleted).await)
    }

    async fn sweep(&self, patterns: &KeySet) -> Result<Swept> {
        if patterns.is_empty() {
            return Ok(Swept::default());
        }
        let plan = sweep::SweepPlan::new(patterns, &self.protect, self.leases);
        self.noted(self.while_it_leads_there(self.sweep_and_tell(&plan)).await)
    }

    async fn try_out(&self, name: &str, families: &[Vec<u8>]) -> Result<()> {
        let tried = async |link: &mut CacheLink| {
            let tried = probe::each(link, &mark_key(name), families, self.leases).await?;
            tried.into_iter().try_for_each(probe::Tried::into_result)
        };
        self.noted(self.while_it_leads_there(self.on_link(&self.marking, tried)).await)
    }

    async fn mark(&self, name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        let read = async |link: &mut CacheLink| {
            // Before the question: what turns out meanwhile is looked at again.
            let lineage = self.lineage();
            // Where replicas answer reads, a script is what only the primary runs.
            let is_primary_asked = self.metering == Metering::ByCommand && link.identity.is_none();
            let command = if is_primary_asked { speak::read_at_primary } else { speak::read };
            match speak::mark("GET", link.ask(command(&mark_key(name))).await?) {
                Ok(found) => {
                    self.health.note_reads(found.is_some().into(), 1);
                    Ok((found, lineage))
                }
                Err(Some(error)) => Err(error),
                Err(None) => {
                    let mut command = Cmd::new();
                    command.arg("UNLINK").arg(mark_key(name));
                    count("UNLINK", &link.ask(command).await?).map(|_| (None, lineage))
                }
            }
        };
        self.noted(self.while_it_leads_there(self.on_link(&self.marking, read)).await)
    }

    async fn swap_mark(&self, name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        // Nothing was sent: the mark that was written last is still there.
        if let Err(error) = self.route.permits_mark().await {
            return Ok(Swap::Refused(error));
        }
        let packing = Packing::of(self.metering);
        let asked = Swapping { name, expected, mark, again, leases: self.leases, packing };
        let make = |identity: Option<&Identity>| {
            let is_cheap = self.metering == Metering::ByCommand && identity.is_none() && !self.by_script.get();
            let plain = if is_cheap { asked.cheap() } else { None };
            let is_plain = plain.is_some();
            (plain.unwrap_or_else(|| asked.script(identity)), is_plain)
        };
        let swapped = self.while_it_leads_there(self.swap_and_tell(&make, asked.bytes(), again)).await;
        // The script reads the mark that is there.
        if matches!(swapped, Ok(Swap::Written | Swap::Other)) {
            self.health.note_reads(expected.iter().any(Option::is_some).into(), 1);
        }
        swapped
    }

    fn published(&self) -> Option<Published> {
        self.publisher.as_ref().and_then(Publisher::published)
    }

    async fn turned(&self, since: Lineage) {
        while self.lineage() == since {
            self.route.watch(self.route.turns()).await;
        }
    }

    fn billed(&self) -> u64 {
        self.health.billed()
    }

    fn is_away(&self) -> bool {
        self.health.is_away()
    }

    fn is_nameless(&self) -> bool {
        self.known.borrow().is_nameless()
    }

    fn lineage(&self) -> Lineage {
        let known = self.known.borrow().lineage();
        Lineage { another: known.another + self.route.turns(), ..known }
    }
}

/// A command that swaps the mark, for the server that says it is this one, and whether the command is a plain one.
type MakeSwap<'a> = &'a dyn Fn(Option<&Identity>) -> (Pipeline, bool);

impl RedisCache {
    /// Something on the connection for the mark.
    pub(super) async fn on_marking<T>(&self, step: impl AsyncFn(&mut CacheLink) -> Result<T>) -> Result<T> {
        self.on_link(&self.marking, step).await
    }

    /// Only where the mark was read: on another connection may be another server, whose mark nobody has looked at. A
    /// refusal is no outage: a full cache deletes keys and takes no mark.
    pub(super) async fn swap(&self, make: MakeSwap<'_>, bytes: usize) -> Result<Swap> {
        let read_on = self.marking.borrow_mut().pop();
        let Some(link) = read_on else { return Ok(Swap::Unproven) };
        let Some(mut link) = self.young(link).await else { return Ok(Swap::Unproven) };
        let (pipeline, is_plain) = make(link.identity.as_ref());
        let swept = self.swept.get();
        let swap = match link.again().exchange(&pipeline, bytes).await.map(swap::outcome) {
            Ok(Value::Int(1) | Value::Okay) => Ok(Swap::Written),
            Ok(Value::Int(0) | Value::Nil) => Ok(Swap::Other),
            Ok(Value::Int(-1)) => {
                self.broken();
                return Ok(Swap::Unproven);
            }
            Ok(Value::ServerError(error)) if error.code() == "OOM" => Ok(Swap::Full),
            // A node of a cluster whose slot left it: who has it now is to be looked at.
            Ok(Value::ServerError(error)) if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN") => {
                return Ok(Swap::Unproven);
            }
            // Not on this connection again: a new one may lead to the primary that took over.
            Ok(Value::ServerError(error)) => {
                // A server that does not know IFEQ: the script does the same, once the mark was read again.
                if is_plain && error.code() == "ERR" {
                    self.by_script.set(true);
                    return Ok(Swap::Unproven);
                }
                let refused = self.judged(reply::refused("EVAL", &error));
                return if refused.is_transient() { Ok(Swap::Refused(refused)) } else { Err(refused) };
            }
            Ok(_) => Err(reply::unexpected("EVAL")), // Value is foreign and non-exhaustive.
            Err(_) if link.was_closed() => {
                self.broken();
                return Ok(Swap::Lost);
            }
            Err(error) => Err(error),
        };
        // A sweep that ended meanwhile is behind this mark.
        if let Ok(Swap::Written) = swap
            && swept
        {
            self.swept.set(false);
        }
        self.ended(&self.marking, link, swap)
    }
}
