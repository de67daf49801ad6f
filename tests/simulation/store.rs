//! The simulated caches: what each of them holds, what it lacks, what its marks said, and how one goes wrong while the
//! others do not. A promise is one of each cache.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crieur::failpoints::{Guard, without};
use crieur::keys::KeySet;
use crieur::lsn::Lsn;
use crieur::mark::Mark;
use crieur::target::HOLDS_FOR_EVER;
use tokio::time::{Instant, sleep};

use super::outbox::tables::Tables;
use super::scenario::{Kind, Plan};
use super::world::{Commit, Shared, World};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    Lease(u64),
    /// The transactions that the SELECT saw.
    Value(BTreeSet<u32>),
}

/// What one copy of a cache holds.
#[derive(Clone, Default)]
pub struct Copy {
    pub keys: BTreeMap<String, Held>,
    pub mark: Option<Vec<u8>>,
    /// Marks written before this copy was made.
    pub marks: u64,
}

/// One cache.
#[derive(Default)]
pub struct Store {
    pub cache: Copy,
    pub copy: Option<Copy>,
    /// Which server is behind the cache's address.
    pub server: u64,
    /// It does not say which server that is.
    pub nameless: bool,
    /// There is no connection to it: whoever is there answers each request, also one that was asked long before.
    pub alone: bool,
    /// An answer of the cache takes long to arrive.
    pub late: bool,
    /// It refuses the mark.
    pub full: bool,
    /// Nobody reaches it.
    pub away: bool,
    /// Each of its answers takes up to so many milliseconds.
    pub slow_ms: u64,
    /// Keys of each transaction that were not deleted yet in this cache at a moment when it was visible.
    pub owed: BTreeMap<u32, BTreeSet<String>>,
    /// How far marks of each run of the server reached, or would have where the cache was full.
    pub said: BTreeMap<String, u64>,
    /// It keeps pages, and takes their tags: a sink.
    pub is_sink: bool,
    /// The position goes on without it.
    pub released: bool,
    /// It did a moment ago, and what was confirmed then may arrive now.
    pub excused_until: Option<Instant>,
}

impl Store {
    /// Whether every key that is owed must go. Where a sink begins without a purge, what it lacks is looked for among its
    /// pages instead.
    pub fn owes_all(&self) -> bool {
        !(self.is_sink && without(Guard::Start))
    }

    /// Whether a position may be given on that it has not marked.
    pub fn is_excused(&self) -> bool {
        self.released || self.excused_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The source tells what may be confirmed some time after the loop told the source.
const EXCUSED_FOR: Duration = Duration::from_secs(2);

/// Within this the keys of a change are deleted in every cache that nothing is wrong with.
const DELETED_WITHIN: Duration = Duration::from_millis(300);

/// Within this a stream that was cut has brought again what was not confirmed.
const RESUMED_WITHIN: Duration = Duration::from_millis(300);

/// Within this its mark says so.
const MARKED_WITHIN: Duration = Duration::from_millis(500);

impl World {
    /// One of the caches.
    pub fn a_store(&mut self) -> usize {
        match self.stores.iter().filter(|store| !store.is_sink).count() {
            1 => 0,
            several => self.dice.roll(several as u64) as usize,
        }
    }

    /// The daemon offered a mark, and may give on what it says.
    pub fn said(&mut self, store: usize, text: &[u8]) {
        let mark: Mark = serde_json::from_slice(text).expect("the daemon writes marks");
        let upto = mark.lsn.parse::<Lsn>().expect("a position").0;
        let said = self.stores[store].said.entry(mark.run).or_default();
        *said = upto.max(*said);
    }

    /// The position goes on without this cache, or waits for it again.
    pub fn released(&mut self, store: usize, is: bool) {
        let store = &mut self.stores[store];
        if store.released && !is {
            store.excused_until = Some(Instant::now() + EXCUSED_FOR);
        }
        store.released = is;
    }

    /// While a cache was away the position went on without it.
    pub fn goes_on_without(&mut self, wrong: Duration) {
        let lasted = Instant::now().saturating_duration_since(self.began);
        // Commits come every 10 ms, and take 10 bytes; half a second passes before anybody is behind.
        let most = self.hold.saturating_add(1_600);
        let held = self.end().saturating_sub(self.confirmed);
        if self.plan.kind == Kind::Left && self.outbox.is_none() && lasted > wrong && held > most {
            self.failure = Some(format!("{held} bytes wait for a cache that may hold {}", self.hold));
        }
    }

    /// Each of two daemons says of itself which cache is released, so nobody knows who is excused.
    pub fn releases_are_of_two(&self) -> bool {
        self.plan.kind == Kind::Mixed && self.plan.two && self.hold != HOLDS_FOR_EVER
    }

    /// A position of this run of the server was given on: the marks of all caches said it before, but of those that hold
    /// nothing any more.
    pub fn given_on(&mut self, run: u64, upto: u64) {
        if self.releases_are_of_two() {
            return;
        }
        let said = |store: &Store| store.said.get(&run.to_string()).copied().unwrap_or(0);
        let short = self.stores.iter().enumerate().find(|(_, store)| said(store) < upto && !store.is_excused());
        if let Some((index, store)) = short {
            self.failure = Some(format!("confirmed {upto}, and the mark of cache {index} says {}", said(store)));
        }
    }

    /// Transactions whose changes a cache with this position in its mark must have.
    fn covers(&self, upto: u64) -> impl Fn(&Commit) -> bool + use<> {
        let covered = self.outbox.as_ref().map(|outbox| outbox.covered(upto));
        move |commit| match &covered {
            Some(covered) => covered.contains(&commit.id),
            None => commit.end <= upto,
        }
    }

    /// A mark was written: every value in its cache must have all up to it, and nothing that never happened.
    pub fn marked(&mut self, store: usize, text: &[u8]) {
        self.said(store, text);
        // What a site made from a cache that went back is purged behind that one's repair.
        if self.stores[store].is_sink {
            return;
        }
        let mark: Mark = serde_json::from_slice(text).expect("the daemon writes marks");
        let known = mark.run == self.run.to_string() && mark.publication == self.publication.to_string();
        if !known || !self.published || self.slot_lost {
            return; // The daemon cannot know it yet, and says so in the mark.
        }
        let upto = mark.lsn.parse::<Lsn>().expect("a position").0;
        let covered = self.outbox.as_ref().map(|outbox| outbox.covered(upto));
        let owed = covered.iter().flatten().find_map(|id| self.stores[store].owed.get(id));
        if let Some(keys) = owed {
            self.failure = Some(format!("the mark of cache {store} says {upto} with {keys:?} undeleted"));
        }
        let is_covered = self.covers(upto);
        for (key, held) in &self.stores[store].cache.keys {
            let Held::Value(seen) = held else { continue };
            let lacks = self.log.iter().any(|c| is_covered(c) && !seen.contains(&c.id) && c.keys.contains(key));
            let invented = seen.iter().any(|id| self.happened(*id).is_none());
            if lacks || invented {
                let what = format!("the mark of cache {store} says {upto}, {key} is stale (invented: {invented})");
                self.failure = Some(what);
            }
        }
    }

    /// A mark is written, and what it carries is deleted, if one of those that may be there is there.
    pub fn swap(&mut self, store: usize, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> bool {
        let cache = &mut self.stores[store].cache;
        if !expected.contains(&cache.mark) {
            return false;
        }
        cache.mark = Some(mark.to_vec());
        cache.marks += 1;
        for key in again.iter() {
            self.delete(store, |held| held.as_bytes() == key.bytes);
        }
        self.marked(store, mark);
        true
    }

    /// The keys for which `deleted` says so are gone.
    pub fn delete(&mut self, store: usize, deleted: impl Fn(&str) -> bool) {
        let now = Instant::now();
        self.stores[store].cache.keys.retain(|key, _| !deleted(key));
        self.channel.iter_mut().for_each(|channel| channel.note(&deleted));
        let mut owed = std::mem::take(&mut self.stores[store].owed);
        for (id, keys) in &mut owed {
            if self.happened(*id).is_some_and(|commit| self.first_shown_at(commit) <= now) {
                keys.retain(|key| !deleted(key));
            }
        }
        owed.retain(|_, keys| !keys.is_empty());
        self.stores[store].owed = owed;
    }

    /// Keys that are still to be deleted, by their caches.
    pub fn owed(&self) -> Vec<(usize, u32, BTreeSet<String>)> {
        let stores = self.stores.iter().enumerate().filter(|(_, store)| store.owes_all());
        stores.flat_map(|(index, store)| store.owed.iter().map(move |(id, keys)| (index, *id, keys.clone()))).collect()
    }

    /// What any cache holds that is another value than the database's.
    pub fn stale(&self) -> Vec<(usize, String)> {
        self.stale_where(|store| !store.is_sink)
    }

    pub fn stale_where(&self, is_asked: impl Fn(&Store) -> bool) -> Vec<(usize, String)> {
        let wrong = |(key, held): &(&String, &Held)| matches!(held, Held::Value(value) if *value != self.value(key));
        let of = |(index, store): (usize, &Store)| {
            store.cache.keys.iter().filter(wrong).map(|(key, _)| (index, key.clone())).collect::<Vec<_>>()
        };
        self.stores.iter().enumerate().filter(|(_, store)| is_asked(store)).flat_map(of).collect()
    }

    /// Whether the mark in each cache is one that a daemon that starts now would trust.
    pub fn is_proven(&self) -> bool {
        let confirmed = self.outbox.as_ref().map_or(self.confirmed, Tables::confirmed);
        self.stores.iter().filter(|store| !store.is_sink).all(|store| {
            let mark = store.cache.mark.as_ref().and_then(|text| serde_json::from_slice::<Mark>(text).ok());
            mark.is_some_and(|mark| {
                mark.run == self.run.to_string()
                    && mark.publication == self.publication.to_string()
                    && mark.lsn.parse::<Lsn>().is_ok_and(|lsn| lsn.0 >= confirmed)
            })
        })
    }

    /// The cache goes back; behind the same connections only where a mark can tell (the model has the other rows).
    pub fn go_back(&mut self, store: usize) {
        match self.stores[store].copy.take() {
            None => self.stores[store].copy = Some(self.stores[store].cache.clone()),
            Some(copy) => {
                let marks = self.stores[store].cache.marks;
                let silent = copy.marks + 8 < marks && self.dice.one_in(2);
                self.stores[store].cache = Copy { marks, ..copy };
                self.stores[store].server += u64::from(!silent);
            }
        }
    }

    /// Another server answers, with this copy.
    pub fn become_copy(&mut self, store: usize, copy: Copy) {
        let store = &mut self.stores[store];
        store.cache = Copy { marks: store.cache.marks, ..copy };
        store.server += 1;
    }

    /// The cache forgets everything, and may be another server then.
    pub fn lose_all(&mut self, store: usize) {
        let another = self.dice.roll(2);
        let store = &mut self.stores[store];
        store.cache = Copy { marks: store.cache.marks, ..Copy::default() };
        store.server += another;
    }

    /// What nothing is wrong with goes on while one cache is away or slow: keys are deleted, and marks move.
    pub fn keep_up(&mut self) {
        let now = Instant::now();
        let began = self.cut_at.map_or(self.began, |at| self.began.max(at + RESUMED_WITHIN));
        let settled_by = |commit: &Commit| commit.visible_at.max(commit.flushed_at).max(began);
        let (mut late, mut ready) = (None, began);
        let are_well = |(index, store): &(usize, &Store)| *index != self.victim && !store.is_sink;
        for (index, store) in self.stores.iter().enumerate().filter(are_well) {
            let is_said = self.covers(store.said.get(&self.run.to_string()).copied().unwrap_or(0));
            for commit in &self.log {
                // In commit order: a position waits for all before it.
                ready = settled_by(commit).max(ready);
                let owed = store.owed.get(&commit.id).filter(|_| settled_by(commit) + DELETED_WITHIN < now);
                if let Some(keys) = owed {
                    late = Some(format!("cache {index} waits for {}: {keys:?} of {} stay", self.victim, commit.end));
                }
                if ready + MARKED_WITHIN < now && !is_said(commit) {
                    late = Some(format!("cache {index} waits for {}: no mark says {}", self.victim, commit.end));
                }
            }
        }
        self.failure = self.failure.take().or(late);
    }
}

/// Looks whether the others keep up as long as one of several caches is away or slow.
pub async fn watch(world: Shared) {
    let wrong = {
        let world = world.borrow();
        let Plan { kind, at, wrong, .. } = &world.plan;
        // Sweeps that are echoed take longer than these bounds, whatever the others do.
        // So does a start behind a sink whose echoes hold the position: everything comes again.
        let starts = world.site.is_some() && !world.plan.ends.is_empty();
        if world.stores.len() == 1
            || world.echoes
            || starts
            || world.outbox.is_some()
            || !matches!(kind, Kind::Away | Kind::Slow | Kind::Left)
        {
            return;
        }
        *at..*at + *wrong
    };
    tokio::time::sleep_until(wrong.start).await;
    while Instant::now() < wrong.end {
        sleep(Duration::from_millis(10)).await;
        world.borrow_mut().keep_up();
    }
}
