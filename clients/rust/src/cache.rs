//! The read: who may answer it, who may store, and what is never shared. docs/guide/readers.md says why it is exact.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::codec::{Codec, Json};
use crate::event::{Event, Stats};
use crate::flight::{Entry, Flight, Flights};
use crate::inner::Core;
use crate::lease::{Found, Names, Protocol, Seen, Taken};
use crate::memory::Ticket;
use crate::options::{Builder, Options};
use crate::probe::{self, Probe};
use crate::store::{Reply, Store};

/// The first pause before another's lease is looked at again, and the longest.
const NAP: Duration = Duration::from_millis(20);
const NAP_MAX: Duration = Duration::from_millis(200);
/// Without the cache, so long a call waits for a fetch that runs, so that those who come meanwhile share the next.
const TURN: Duration = Duration::from_millis(200);
/// So often a call joins others before it fetches for itself.
const JOINS_MAX: u32 = 3;

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The cache.
    Hit,
    /// The memory of this process.
    Memory,
    /// The source, under a lease.
    Miss,
    /// The fetch of another call of this process.
    Joined,
    /// The source, without the cache.
    Bypass,
    /// A copy of this age, because the source failed.
    Grace(Duration),
}

/// A value, and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read<V> {
    /// The value, as every reader gets it: encoded and decoded.
    pub value: V,
    /// Where it came from.
    pub from: From,
}

/// A cache whose reads leave nothing stale. A clone is the same cache.
pub struct Cache<C = Json> {
    core: Arc<Core>,
    codec: Arc<C>,
}

impl<C> Clone for Cache<C> {
    fn clone(&self) -> Cache<C> {
        Cache { core: Arc::clone(&self.core), codec: Arc::clone(&self.codec) }
    }
}

impl Cache<Json> {
    /// A cache over this store.
    pub fn builder(store: impl Store) -> Builder<Json> {
        Builder::new(Some(Arc::new(store)))
    }

    /// No cache: every call reads its row.
    pub fn none() -> Builder<Json> {
        Builder::new(None)
    }
}

/// One call of a reader.
struct Call<V> {
    names: Names,
    options: Options<V>,
    /// `None`: nothing is stored.
    seconds: Option<u64>,
    /// When it came, on the clock of the cache.
    called: u64,
    start: Instant,
}

/// A read of this process that others may join. When it is dropped unfinished, nobody joins it and its lease goes back.
struct Running<'a> {
    core: &'a Arc<Core>,
    flights: fn(&Core) -> &Flights,
    names: &'a Names,
    flight: Arc<Flight>,
    lease: Option<Vec<u8>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.flight.settle(None);
        (self.flights)(self.core).leave(&self.names.key, &self.flight);
        // The caller is gone. Without a runtime the lease expires.
        if let (Some(lease), Ok(runtime)) = (self.lease.take(), tokio::runtime::Handle::try_current()) {
            let (core, names) = (Arc::clone(self.core), self.names.clone());
            runtime.spawn(async move { core.give_back(&names, &lease).await });
        }
    }
}

impl<C> Cache<C> {
    pub(crate) fn of(core: Core, codec: C) -> Cache<C> {
        Cache { core: Arc::new(core), codec: Arc::new(codec) }
    }

    /// The cached value, or that of `fetch`, which is then stored. The fetch runs at most once, and its error is
    /// neither stored nor shared.
    ///
    /// # Errors
    /// Those of `fetch`. A cache that is away costs time, no error.
    pub async fn get_or_set<V, E, F>(&self, key: &str, options: Options<V>, fetch: impl FnOnce() -> F) -> Result<V, E>
    where
        C: Codec<V>,
        F: Future<Output = Result<V, E>>,
    {
        Ok(self.read(key, options, fetch).await?.value)
    }

    /// The same, and where the value came from.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn read<V, E, F>(&self, key: &str, options: Options<V>, fetch: impl FnOnce() -> F) -> Result<Read<V>, E>
    where
        C: Codec<V>,
        F: Future<Output = Result<V, E>>,
    {
        let core = &self.core;
        let (start, called) = (Instant::now(), core.tick());
        let names = core.names(key, options.namespace.as_deref());
        let seconds = core.seconds(options.ttl.as_ref());
        let call = Call { names, options, seconds, called, start };
        if let Some(read) = self.remembered(&call) {
            return Ok(read);
        }
        let (mut nap, mut joins, mut deadline) = (NAP, 0, None);
        loop {
            let looked = Instant::now();
            let ticket = core.memory.as_ref().and_then(|tier| tier.ticket(&call.names.key));
            let Some(mut seen) = core.look(&call.names).await else { return self.row(&call, fetch).await };
            let until = *deadline.get_or_insert_with(|| Instant::now() + core.settings.wait);
            let entry = entry(core, &call, &seen);
            if let Some(Entry::Join(flight)) = &entry {
                joins += 1;
                let left = until.saturating_duration_since(Instant::now());
                let shared = timeout(left, flight.shared()).await;
                if let Ok(Some(text)) = &shared
                    && let Ok(value) = self.codec.decode(text)
                {
                    return Ok(done(core, &call, From::Joined, value));
                }
                if joins < JOINS_MAX && Instant::now() < until {
                    continue;
                }
                return self.row(&call, fetch).await;
            }
            if let Some(Entry::Enter(flight, _)) = entry {
                let (flights, names): (fn(&Core) -> &Flights, _) = (|core| &core.flights, &call.names);
                let mut running = Running { core, flights, names, flight, lease: None };
                match core.take(&call.names).await {
                    None => {
                        drop(running);
                        return self.row(&call, fetch).await;
                    }
                    Some(Taken::Ours(lease)) => {
                        running.flight.lease(&lease);
                        running.lease = Some(lease);
                        let left = core.budget().saturating_sub(looked.elapsed());
                        return self.fill(&call, running, left, fetch).await;
                    }
                    Some(Taken::Theirs(theirs)) => seen = theirs,
                }
            }
            if let Some(Found::Value(bytes)) = &seen.found {
                match self.codec.decode(bytes) {
                    Ok(value) => {
                        keep(ticket.as_ref(), call.seconds, bytes);
                        return Ok(done(core, &call, From::Hit, value));
                    }
                    Err(_) => core.teller.tell(&Event::Unencodable { key: &call.names.key }),
                }
            }
            // What is foreign stays so; another's lease does not.
            if seen.lease.is_none() || Instant::now() + nap > until {
                return self.row(&call, fetch).await;
            }
            sleep(crate::random::part(nap, 0.5)).await;
            nap = nap.mul_f64(1.6).min(NAP_MAX);
        }
    }

    /// What the memory of this process holds.
    fn remembered<V>(&self, call: &Call<V>) -> Option<Read<V>>
    where
        C: Codec<V>,
    {
        let tier = self.core.memory.as_ref()?;
        tier.follow(&self.core);
        let value = self.codec.decode(&tier.get(&call.names.key)?).ok()?;
        Some(done(&self.core, call, From::Memory, value))
    }

    /// The cache gives no help: the row, and nothing is stored. Nobody gets a row whose fetch began before the call.
    async fn row<V, E, F>(&self, call: &Call<V>, fetch: impl FnOnce() -> F) -> Result<Read<V>, E>
    where
        C: Codec<V>,
        F: Future<Output = Result<V, E>>,
    {
        let core = &self.core;
        let (mut joins, mut patience) = (0, core.settings.wait);
        let (flight, before) = loop {
            let may_join = |flight: &Flight| joins < JOINS_MAX && flight.is_new(call.called);
            match core.rows.join_or_enter(&call.names.key, core.settings.share, may_join) {
                Entry::Enter(flight, before) => break (flight, before),
                Entry::Join(flight) => {
                    if let Ok(Some(text)) = timeout(patience, flight.shared()).await
                        && let Ok(value) = self.codec.decode(&text)
                    {
                        return Ok(done(core, call, From::Bypass, value));
                    }
                    // Of those whose fetch failed or hangs, one fetches again, and the others wait for that one.
                    core.rows.leave(&call.names.key, &flight);
                    (joins, patience) = (joins + 1, core.settings.lease_lasts);
                }
            }
        };
        let (flights, names): (fn(&Core) -> &Flights, _) = (|core| &core.rows, &call.names);
        let running = Running { core, flights, names, flight, lease: None };
        if let Some(before) = before {
            // Calls of the same moment come before the fetch begins.
            let _ = timeout(TURN, before.shared()).await;
        }
        self.fill(call, running, Duration::ZERO, fetch).await
    }

    /// The row and, where a lease is ours, a store if that lease still stands then. The call waits for the store only as
    /// long as it may, and a task brings the store to its end.
    async fn fill<V, E, F>(
        &self,
        call: &Call<V>,
        mut running: Running<'_>,
        left: Duration,
        fetch: impl FnOnce() -> F,
    ) -> Result<Read<V>, E>
    where
        C: Codec<V>,
        F: Future<Output = Result<V, E>>,
    {
        let core = &self.core;
        running.flight.begin(core.tick());
        let row = match fetch().await {
            Ok(row) => row,
            Err(error) => {
                let lease = running.lease.take();
                drop(running);
                if let Some(lease) = lease {
                    let (core, names) = (Arc::clone(core), call.names.clone());
                    let work = tokio::spawn(async move { core.give_back(&names, &lease).await });
                    let _ = timeout(left, work).await;
                }
                return self.graced(call).await.ok_or(error);
            }
        };
        let from = if running.lease.is_some() { From::Miss } else { From::Bypass };
        let is_wanted = call.options.store_if.as_ref().is_none_or(|holds| holds(&row));
        let (value, text) = self.shaped(&call.names.key, row);
        let read = done(core, call, from, value);
        running.flight.settle(text.clone());
        let Some(lease) = running.lease.take() else { return Ok(read) };
        let kept = text.filter(|_| is_wanted).zip(call.seconds);
        let (core, names, flight) = (Arc::clone(core), call.names.clone(), Arc::clone(&running.flight));
        let (grace, waits) = (call.options.grace, core.settings.wait_for_store);
        // The flight stays until the lease is gone, for those who see that lease.
        let work = tokio::spawn(async move {
            match kept {
                Some((text, seconds)) => core.keep(&names, &lease, &text, seconds, grace).await,
                None => core.give_back(&names, &lease).await,
            }
            core.flights.leave(&names.key, &flight);
        });
        if waits {
            let _ = timeout(left, work).await;
        }
        Ok(read)
    }

    /// A value as every reader gets it, and the bytes that others may have of it.
    fn shaped<V>(&self, key: &str, row: V) -> (V, Option<Arc<[u8]>>)
    where
        C: Codec<V>,
    {
        let made = self.codec.encode(&row).and_then(|bytes| Ok((self.codec.decode(&bytes)?, bytes)));
        match made {
            Ok((value, bytes)) => (value, Some(bytes.into())),
            Err(_) => {
                self.core.teller.tell(&Event::Unencodable { key });
                (row, None)
            }
        }
    }

    /// The source failed: a copy that was kept for this.
    async fn graced<V>(&self, call: &Call<V>) -> Option<Read<V>>
    where
        C: Codec<V>,
    {
        if call.options.grace.is_zero() {
            return None;
        }
        let (bytes, age) = self.core.copied(&call.names).await?;
        let value = self.codec.decode(&bytes).ok()?;
        Some(done(&self.core, call, From::Grace(age), value))
    }

    /// Deletes keys after one's own commit, to read one's own write sooner than the daemon. Whether the cache answered.
    pub async fn invalidate<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> bool {
        self.invalidate_in(None, keys).await
    }

    /// The same in another namespace than that of the cache.
    pub async fn invalidate_in<K: AsRef<str>>(
        &self,
        namespace: Option<&str>,
        keys: impl IntoIterator<Item = K>,
    ) -> bool {
        let names: Vec<Names> = keys.into_iter().map(|key| self.core.names(key.as_ref(), namespace)).collect();
        if names.is_empty() {
            return true;
        }
        let is_beside = self.core.settings.protocol == Protocol::Companion;
        let leases = names.iter().filter(|_| is_beside).map(|names| &names.lease);
        let words = names.iter().map(|names| &names.key).chain(leases).map(|key| key.as_bytes().to_vec());
        let command = std::iter::once(b"UNLINK".to_vec()).chain(words).collect();
        let answer = self.core.ask(&command).await;
        if let Some(tier) = &self.core.memory {
            tier.forget(names.iter().map(|names| names.key.as_str()));
        }
        let keys: Vec<String> = names.into_iter().map(|names| names.key).collect();
        self.core.teller.tell(&Event::Invalidate { keys: &keys, removed: answer.as_ref().and_then(Reply::int) });
        answer.is_some()
    }

    /// Counts since the cache was made.
    pub fn stats(&self) -> Stats {
        self.core.teller.stats()
    }

    /// The counts as a Prometheus text.
    pub fn metrics(&self) -> String {
        self.stats().metrics()
    }

    /// Tries each step of the protocol on keys of its own, within 6 s, and leaves no key.
    pub async fn test(&self) -> Probe {
        probe::probe(&self.core).await
    }
}

/// What this call does where the cache holds no value: it joins a running read whose row it may have, or reads where no
/// lease stands. `None`: there is something to look at.
fn entry<V>(core: &Core, call: &Call<V>, seen: &Seen) -> Option<Entry> {
    if seen.found.is_some() {
        return None;
    }
    let may_join = |flight: &Flight| flight.may_join(call.called, seen.lease.as_deref());
    if seen.lease.is_some() {
        return core.flights.latest(&call.names.key).filter(|flight| may_join(flight)).map(Entry::Join);
    }
    Some(core.flights.join_or_enter(&call.names.key, core.settings.share, may_join))
}

/// What is read from the cache may be at the end of its TTL, and stays in memory for so long behind it at most.
const KEPT_SECONDS_MAX: u64 = 60;

/// Keeps what the cache answered in the memory of this process.
fn keep(ticket: Option<&Ticket<'_>>, seconds: Option<u64>, bytes: &[u8]) {
    if let (Some(ticket), Some(seconds)) = (ticket, seconds) {
        ticket.keep(bytes, Duration::from_secs(seconds.min(KEPT_SECONDS_MAX)));
    }
}

fn done<V>(core: &Core, call: &Call<V>, from: From, value: V) -> Read<V> {
    let (key, took) = (call.names.key.as_str(), call.start.elapsed());
    core.teller.tell(&match from {
        From::Hit => Event::Hit { key, took },
        From::Memory => Event::Memory { key, took },
        From::Miss => Event::Miss { key, took },
        From::Joined => Event::Joined { key, took },
        From::Bypass => Event::Bypass { key, took },
        From::Grace(age) => Event::Grace { key, took, age },
    });
    Read { value, from }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// Without the cache: of those whose fetch failed or hangs, one fetches again, and the others wait for that one.
    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_fails_or_hangs_is_followed_by_one() {
        for hangs in [false, true] {
            let cache = Cache::none().build().unwrap();
            let runs = AtomicUsize::new(0);
            let fetch = async || {
                let number = runs.fetch_add(1, Ordering::SeqCst) + 1;
                if number == 1 && hangs {
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_millis(5)).await;
                if number == 1 { Err("down") } else { Ok(number) }
            };
            let limit = Duration::from_secs(1_000);
            let all = join_all((0..50).map(|_| timeout(limit, cache.get_or_set("k", Options::new(), fetch)))).await;
            let rows = all.iter().filter(|row| matches!(row, Ok(Ok(2)))).count();
            assert_eq!((rows, runs.into_inner()), (49, 2), "hangs: {hangs}");
        }
    }
}
