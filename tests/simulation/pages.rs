//! Pages behind a sink: made from what a cache holds, or from the database where it holds nothing, and kept by their tags
//! until these are purged. The daemon, its caches and the sink go wrong as in the other schedules.
//!
//! Safety, at the end: after the last echo no page is another than the database's. Half of the sites remember when a tag
//! was purged, and keep no page whose making began before: with readers that have a lease nothing needs an echo there, so
//! the order of the purges alone keeps them right. The others keep whatever was made, as a CDN does. With each guard
//! switched off a page stays stale.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crieur::error::{Error, Result};
use crieur::glob;
use crieur::keys::KeySet;
use crieur::rules::Rules;
use crieur::tag::{TAG, tag_of};
use crieur::target::{HOLDS_FOR_EVER, Policy, SinkPolicy};
use tokio::time::{Instant, sleep};

use super::parts::SimCache;
use super::scenario::{KINDS, Kind, Plan};
use super::store::{Held, Store};
use super::world::{Dice, OWNERS, ROWS, SHELVES, Shared, World};

/// Runs in every test run.
const SEEDS: u64 = 48;

/// Within as many a guard that is off shows.
const SEARCHED: u64 = 1_000;

/// The last echo of the caches, and that of a sink behind it, as `crieur check` wants them.
const ECHO_OF_CACHES: Duration = Duration::from_millis(90);
const ECHO_OF_SINK: Duration = Duration::from_millis(5_090);

/// The making of a page ends within that, so long before the last echo.
const MAKING_MS: u64 = 3_000;

/// Behind the last purge its echo comes within that.
const ECHOED_WITHIN: Duration = Duration::from_secs(8);

/// Tags in one request.
const TAGS_MAX: usize = 4;

const RULES: &str = r#"
[sinks.pages]
kind = "webhook"
url = "http://127.0.0.1:9/purge"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

[[rules]]
table = "public.things"
keys = ["thing:{id}", "owner:{o.n}"]
tags = ["thing:{id}", "owner:{o.n}"]
tags_all = "things"
lookup.o = { sql = "SELECT n FROM owners WHERE id = $1", args = ["id"], tables = ["public.owners"] }

[[rules]]
table = "public.owners"
keys = ["owner:{n}"]
tags = ["owner:{n}"]
tags_all = "owners"

[[rules]]
table = "public.shelves"
keys = ["shelf:{id}:*"]
tags = ["shelf:{id}:a"]
tags_all = "shelves"
"#;

pub fn rules() -> Rules {
    super::rules_of(RULES)
}

/// What a site does with what it is told. The pages themselves are the values of its [`Store`].
pub struct Site {
    /// It keeps no page whose making began before the last purge of its tag.
    remembers: bool,
    /// The delays of the sink's echoes.
    echo: Vec<Duration>,
    purged: BTreeMap<String, Instant>,
}

/// Every page, by its tag.
pub fn pages() -> impl Iterator<Item = String> {
    let things = (0..ROWS).map(|row| format!("thing:{row}"));
    let owners = (0..OWNERS).map(|owner| format!("owner:{owner}"));
    things.chain(owners).chain((0..SHELVES).map(|shelf| format!("shelf:{shelf}:a")))
}

impl World {
    /// The settings of the sink, if this store is one.
    pub fn policy_of(&self, store: usize, policy: Policy) -> Policy {
        let Some(site) = self.site.as_ref().filter(|_| self.stores[store].is_sink) else { return policy };
        let after = (0..store).map(|cache| cache.to_string()).collect();
        Policy { sink: Some(SinkPolicy { after }), echo: site.echo.clone(), echo_wal_bytes_max: u64::MAX, ..policy }
    }

    /// How long nothing happens behind the end before it is one.
    pub fn rests_for(&self) -> Duration {
        if self.site.is_some() { ECHOED_WITHIN } else { Duration::from_millis(1_200) }
    }

    /// What a site keeps that is another page than the database's.
    pub fn stale_pages(&self) -> Vec<(usize, String)> {
        self.stale_where(|store| store.is_sink)
    }

    /// The pages whose tags are purged are gone.
    fn purge(&mut self, store: usize, is_purged: impl Fn(&str) -> bool) {
        self.delete(store, &is_purged);
        let now = Instant::now();
        if let Some(site) = &mut self.site {
            site.purged.extend(pages().filter(|page| is_purged(page)).map(|page| (page, now)));
        }
    }

    fn takes_page(&self, page: &str, began: Instant) -> bool {
        let purged = self.site.as_ref().filter(|site| site.remembers).and_then(|site| site.purged.get(page));
        purged.is_none_or(|purged| *purged < began)
    }
}

impl SimCache {
    /// A request for each few tags; it may be lost before it is done, and so may its answer.
    pub(super) async fn purge_tags(&self, keys: &[&KeySet]) -> Result<()> {
        let tags: Vec<Vec<u8>> = keys.iter().flat_map(|set| set.iter()).map(|key| key.bytes.to_vec()).collect();
        for tags in tags.chunks(TAGS_MAX) {
            let tags: Vec<&[u8]> = tags.iter().filter_map(|key| tag_of(key)).collect();
            self.request(|page| tags.contains(&page.as_bytes())).await?;
        }
        Ok(())
    }

    /// A request with the coarse tags of these patterns.
    pub(super) async fn purge_families(&self, patterns: &KeySet) -> Result<()> {
        let matches = |page: &str| {
            let tag = [&[TAG], page.as_bytes()].concat();
            patterns.iter().any(|pattern| glob::matches(pattern.bytes, &tag))
        };
        self.request(matches).await
    }

    async fn request(&self, is_purged: impl Fn(&str) -> bool) -> Result<()> {
        let lost = || Error::transient("simulated loss of a request");
        self.wait(5).await;
        if self.ask(|_| ()).await.is_none() || self.fault(15) {
            return Err(lost());
        }
        self.world.borrow_mut().purge(self.store, is_purged);
        self.wait(5).await;
        if self.fault(15) { Err(lost()) } else { Ok(()) }
    }
}

/// Makes pages that the site does not keep, several at once.
pub async fn make(world: Shared, site: usize) {
    loop {
        let wait = world.borrow_mut().pause(12);
        sleep(wait).await;
        if world.borrow().quiet {
            return;
        }
        let (page, cache, began) = {
            let mut world = world.borrow_mut();
            let page = world.wanted();
            if world.stores[site].cache.keys.contains_key(&page) {
                continue;
            }
            (page, world.a_store(), Instant::now())
        };
        tokio::task::spawn_local(make_one(Rc::clone(&world), site, cache, (page, began)));
    }
}

/// Makes a page of what a cache holds, and gives it to the site.
async fn make_one(world: Shared, site: usize, cache: usize, (page, began): (String, Instant)) {
    let wait = world.borrow_mut().pause(3);
    sleep(wait).await;
    let held = world.borrow().stores[cache].cache.keys.get(&page).cloned();
    let value = match held {
        Some(Held::Value(value)) => value,
        Some(Held::Lease(_)) | None => world.borrow().value(&page),
    };
    let wait = {
        let mut world = world.borrow_mut();
        let most_ms = if world.dice.one_in(4) { MAKING_MS } else { 20 };
        world.pause(most_ms)
    };
    sleep(wait).await;
    let mut world = world.borrow_mut();
    if world.takes_page(&page, began) {
        world.stores[site].cache.keys.insert(page, Held::Value(value));
    }
}

/// Where a cache, or the sink, is away for long; and what happens elsewhere.
const OF_PAGES: [Kind; 3] = [Kind::Away, Kind::Slow, Kind::Left];

/// One cache or two, and a sink behind them.
fn world(seed: u64) -> World {
    let mut dice = Dice(seed);
    let kinds = KINDS.iter().chain(&OF_PAGES).filter(|kind| **kind != Kind::Budget);
    let kinds: Vec<Kind> = kinds.copied().collect();
    let kind = kinds[seed as usize % kinds.len()];
    let mut plan = Plan::new(kind, &mut dice);
    if matches!(kind, Kind::Away | Kind::Slow) {
        // At times longer than the echoes of the sink.
        let longer = if kind == Kind::Away && dice.one_in(2) { 4 + dice.roll(6) } else { 0 };
        plan.lasts_longer(Duration::from_secs(longer));
    }
    let caches = 1 + seed as usize / kinds.len() % 2;
    let mut world = super::world_of(plan, dice, caches);
    let remembers = world.dice.one_in(2);
    let is_exact = remembers && world.dice.one_in(2);
    // Where the position goes on without a cache, the echoes of what it missed come with its repair.
    world.echoes = !is_exact && world.hold == HOLDS_FOR_EVER && (kind == Kind::Plain || world.dice.one_in(2));
    let echo = if is_exact { Vec::new() } else { vec![ECHO_OF_CACHES, ECHO_OF_SINK] };
    world.site = Some(Site { remembers, echo, purged: BTreeMap::new() });
    if matches!(kind, Kind::Away | Kind::Slow | Kind::Left) && world.dice.one_in(2) {
        world.victim = world.stores.len();
    }
    world.stores.push(Store { is_sink: true, ..Store::default() });
    world
}

/// The same with a site that remembers nothing, and a sink without echoes.
fn world_without_echoes(seed: u64) -> World {
    let mut world = world(seed);
    world.site = Some(Site { remembers: false, echo: Vec::new(), purged: BTreeMap::new() });
    world
}

#[test]
fn no_schedule_leaves_a_stale_page_behind_the_last_echo() {
    super::run(SEEDS, world, "stale_page");
}

#[test]
fn without_the_echoes_of_the_sink_a_page_stays_stale() {
    super::finds("stale pages: [", SEARCHED, world_without_echoes);
}

#[cfg(feature = "failpoints")]
fn finds_without(guard: crieur::failpoints::Guard) {
    let told =
        super::fails_without(guard, "pages::no_schedule_leaves_a_stale_page_behind_the_last_echo", Some(SEARCHED));
    assert!(told.contains("stale pages: ["), "{told}");
}

#[cfg(feature = "failpoints")]
#[test]
fn ahead_of_the_answers_of_the_caches_a_purge_leaves_a_stale_page() {
    finds_without(crieur::failpoints::Guard::Behind);
}

#[cfg(feature = "failpoints")]
#[test]
fn without_the_purge_of_the_start_a_page_stays_stale() {
    finds_without(crieur::failpoints::Guard::Start);
}

#[cfg(feature = "failpoints")]
#[test]
fn without_a_purge_behind_the_repair_of_a_cache_a_page_stays_stale() {
    finds_without(crieur::failpoints::Guard::Doubt);
}
