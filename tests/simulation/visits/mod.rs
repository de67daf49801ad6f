//! The hit rate of the strategy's site: its pages and times to live, 1,000 visitors a day and a hundred times that, with
//! the real loop and the real rules over a simulated clock. Figures, printed:
//! `cargo test --features failpoints --test main visits -- --ignored --nocapture`.
//!
//! What is simulated: the servers, the visitors, the clock, and who fetches pages. What is real: the rules of the strategy,
//! the daemon's loop with its gate, deletes and echoes, its book of pages and their pace. Readers do what
//! `docs/guide/readers.md` says, with a lease or without.

mod server;
mod warmed;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crieur::config::{Metering, OnGap};
use crieur::run::{Pipeline, Settings};
use crieur::target::{Policy, Replicas};
use crieur::warm::Warming;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::server::{Commit, DayCache, Held, Session, Shared, Stream, WAY};
use super::world::Dice;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// The site: what the strategy leaves open is taken from an agency of this size.
const PROPERTIES: usize = 500;
const CITIES: usize = 14;
const LEASES: u64 = 300;
const OWNERS: u64 = 150;
/// Of a day, whatever the number of visitors: each property about once a week, each lease once a month.
const EDITS: usize = PROPERTIES / 7;
const PAYMENTS: usize = LEASES as usize / 30;
/// Of a hundred visitors: so many book a visit of the property, and so many are owners who look at their dashboard.
const BOOK: u64 = 3;
const OWN: u64 = 5;

/// The strategy: 200 to 300 ms for a query.
fn query(dice: &mut Dice) -> Duration {
    Duration::from_millis(200 + dice.roll(100))
}

fn owner_of(lease: u64) -> u64 {
    lease % OWNERS
}

fn city_of(property: usize) -> String {
    format!("city:{}", property % CITIES)
}

/// How readers keep values, and what crieur does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nobody deletes: values are wrong until their time ends.
    TtlAlone,
    Echoes,
    EchoesWarmed,
    Leases,
    LeasesWarmed,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::TtlAlone => "no deletes at all",
            Way::Echoes => "plain readers, echoes of 250 ms, 2 s, 30 s",
            Way::EchoesWarmed => "the same, with warming",
            Way::Leases => "leases, no echoes",
            Way::LeasesWarmed => "the same, with warming",
        }
    }

    fn takes_leases(self) -> bool {
        matches!(self, Way::Leases | Way::LeasesWarmed)
    }

    fn is_warmed(self) -> bool {
        matches!(self, Way::EchoesWarmed | Way::LeasesWarmed)
    }
}

/// Of one day.
#[derive(Default, Clone, Copy)]
struct Counts {
    reads: u64,
    hits: u64,
    /// Another one's query was waited for.
    waited: u64,
    queries: u64,
    /// A value that was not the database's any more.
    stale: u64,
    /// Pages that were fetched so that no visitor pays for them.
    warmed: u64,
}

struct Site {
    shared: Shared,
    way: Way,
    /// Every time to live, where it is not the strategy's.
    ttl: Option<Duration>,
    counts: Cell<Counts>,
    dice: RefCell<Dice>,
    /// How popular each property is, added up.
    weights: Vec<u64>,
    readers: Cell<u64>,
}

/// The lease of a reader that vanished ends by itself.
const LEASE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const WAITS: Duration = Duration::from_secs(1);

impl Site {
    fn roll(&self, sides: u64) -> u64 {
        self.dice.borrow_mut().roll(sides)
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    /// The second of them is half as popular as the first, the third a third.
    fn property(&self) -> usize {
        let at = self.roll(self.weights[PROPERTIES - 1]);
        self.weights.partition_point(|upto| *upto <= at)
    }

    fn look(&self, key: &str) -> Option<Result<u64, u64>> {
        match self.shared.servers.borrow_mut().get(key)? {
            Held::Value(version) => Some(Ok(*version)),
            Held::Lease(reader) => Some(Err(*reader)),
        }
    }

    fn put(&self, key: &str, held: Held, ttl: Duration) {
        self.shared.servers.borrow_mut().keys.insert(key.to_owned(), (held, Some(Instant::now() + ttl)));
    }

    fn served(&self, key: &str, version: u64) {
        let is_stale = version < self.shared.servers.borrow().version(key);
        self.count(|counts| counts.stale += u64::from(is_stale));
    }

    /// SELECT: the row is seen half way.
    async fn select(&self, key: &str) -> u64 {
        self.count(|counts| counts.queries += 1);
        let takes = query(&mut self.dice.borrow_mut());
        sleep(takes / 2).await;
        let version = self.shared.servers.borrow().version(key);
        sleep(takes / 2).await;
        version
    }

    /// A visitor's page.
    async fn read(&self, key: &str, ttl: Duration) {
        self.count(|counts| counts.reads += 1);
        sleep(WAY).await;
        if let Some(Ok(version)) = self.look(key) {
            self.count(|counts| counts.hits += 1);
            return self.served(key, version);
        }
        self.fill(key, ttl).await;
    }

    /// What a reader does that found no value.
    async fn fill(&self, key: &str, ttl: Duration) {
        let ttl = self.ttl.unwrap_or(ttl);
        if !self.way.takes_leases() {
            let version = self.select(key).await;
            sleep(WAY).await;
            return self.put(key, Held::Value(version), ttl);
        }
        let (own, until) = (self.readers.get() + 1, Instant::now() + WAITS);
        self.readers.set(own);
        while let Some(there) = self.look(key) {
            if let Ok(version) = there {
                self.count(|counts| counts.waited += 1);
                return self.served(key, version);
            }
            if Instant::now() > until {
                self.select(key).await;
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
        self.put(key, Held::Lease(own), LEASE);
        sleep(WAY).await;
        let version = self.select(key).await;
        sleep(WAY).await;
        if self.look(key) == Some(Err(own)) {
            self.put(key, Held::Value(version), ttl);
        }
    }

    /// Between two pages.
    async fn thinks(&self) {
        let wait = Duration::from_millis(5_000 + self.roll(25_000));
        sleep(wait).await;
    }

    /// The pages of one visitor; the times to live are the strategy's.
    async fn visit(self: Rc<Self>) {
        if self.roll(100) < OWN {
            let lease = self.roll(LEASES);
            self.read(&format!("dashboard:{}", owner_of(lease)), 30 * MINUTE).await;
            self.thinks().await;
            return self.read(&format!("payments:lease:{lease}"), 30 * MINUTE).await;
        }
        self.read("properties:all_properties_public", 5 * MINUTE).await;
        self.thinks().await;
        let mut property = self.property();
        self.read(&format!("properties:{}", city_of(property)), 10 * MINUTE).await;
        for _ in 0..3 {
            self.thinks().await;
            self.read(&format!("properties:detail:{property}"), 60 * MINUTE).await;
            property = self.property();
        }
        self.read(&format!("available_slots:{property}"), 2 * MINUTE).await;
        if self.roll(100) < BOOK {
            let commit = Commit { table: 2, values: vec![property.to_string()] };
            self.shared.commit(commit, &[format!("available_slots:{property}")]);
        }
    }

    fn edit(&self) {
        let property = self.roll(PROPERTIES as u64) as usize;
        let city = city_of(property);
        let keys = ["all_properties_public".to_owned(), format!("detail:{property}"), city.clone()];
        let city = city.strip_prefix("city:").expect("it is a city's").to_owned();
        let commit = Commit { table: 0, values: vec![property.to_string(), city] };
        self.shared.commit(commit, &keys.map(|key| format!("properties:{key}")));
    }

    fn pay(&self) {
        let lease = self.roll(LEASES);
        let keys = [format!("payments:lease:{lease}"), format!("dashboard:{}", owner_of(lease))];
        self.shared.commit(Commit { table: 1, values: vec![lease.to_string()] }, &keys);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Visit,
    Edit,
    Payment,
}

/// What happens on one day, spread evenly and at random.
async fn day(site: Rc<Site>, visitors: usize) {
    let began = Instant::now();
    let all = [(Happens::Visit, visitors), (Happens::Edit, EDITS), (Happens::Payment, PAYMENTS)];
    let mut plan: Vec<(Duration, Happens)> = Vec::new();
    for (what, count) in all {
        plan.extend((0..count).map(|_| (Duration::from_millis(site.roll(DAY.as_millis() as u64)), what)));
    }
    plan.sort();
    for (at, what) in plan {
        sleep_until(began + at).await;
        match what {
            Happens::Visit => drop(tokio::task::spawn_local(Rc::clone(&site).visit())),
            Happens::Edit => site.edit(),
            Happens::Payment => site.pay(),
        }
    }
    sleep_until(began + DAY).await;
}

fn policy(way: Way) -> Policy {
    let plain = [250, 2_000, 30_000].map(Duration::from_millis);
    Policy {
        name: "main".to_owned(),
        protect: Vec::new(),
        echo: if way.takes_leases() { Vec::new() } else { plain.to_vec() },
        echo_wal_bytes_max: u64::MAX,
        on_gap: OnGap::Sweep,
        heartbeat: Duration::from_secs(2),
        metering: Metering::None,
        budget: None,
        required: true,
        hold_wal_bytes_max: u64::MAX,
        sink: None,
    }
}

/// The second of two days: the first one fills the cache.
async fn two_days(way: Way, ttl: Option<Duration>, visitors: usize) -> Counts {
    let weights = (1..=PROPERTIES as u64).scan(0, |sum, rank| {
        *sum += 1_000_000 / rank;
        Some(*sum)
    });
    let site = Rc::new(Site {
        shared: Shared::default(),
        way,
        ttl,
        counts: Cell::default(),
        dice: RefCell::new(Dice(1)),
        weights: weights.collect(),
        readers: Cell::new(0),
    });
    let days = async {
        sleep(MINUTE).await;
        day(Rc::clone(&site), visitors).await;
        site.counts.take();
        day(Rc::clone(&site), visitors).await;
    };
    if way == Way::TtlAlone {
        days.await;
        return site.counts.get();
    }
    let warming = if way.is_warmed() { Warming::on() } else { Warming::default() };
    tokio::task::spawn_local(warmed::fetch(Rc::clone(&site), warming.clone()));
    let settings = Settings {
        slot: "visits".into(),
        publication: "crieur".to_owned(),
        replicas: Replicas::None,
        batch_keys_max: 1_000,
        memory_bytes_max: 64 << 20,
        stop_timeout: Duration::from_secs(1),
        warming,
    };
    let session = Session { shared: site.shared.clone(), owner_of };
    let caches = vec![(DayCache(site.shared.clone()), policy(way))];
    let pipeline = Pipeline::new(Stream::new(&site.shared), caches, session, warmed::rules(), settings, |_| {});
    let totals = pipeline.run(days).await.expect("nothing fails here");
    assert!(totals.keys as usize > 2 * 3 * EDITS, "the loop deleted what the edits name: {}", totals.keys);
    site.counts.get()
}

fn counts(way: Way, ttl: Option<Duration>, visitors: usize) -> Counts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), two_days(way, ttl, visitors))
}

fn show(way: &str, counts: Counts) {
    let Counts { reads, hits, waited, queries, stale, warmed } = counts;
    let rate = 100.0 * hits as f64 / reads as f64;
    println!(
        "  {way}: {rate:.2} % of {reads} reads; {waited} waited; {queries} queries; {warmed} pages warmed; {stale} old \
         values served"
    );
}

#[test]
#[ignore = "figures, not a verdict"]
fn the_hit_rate_of_the_strategys_day() {
    for (ttl, name) in [(None, "the strategy's times to live"), (Some(DAY), "every time to live is a day")] {
        for visitors in [1_000, 100_000] {
            println!("{visitors} visitors a day, {name}:");
            for way in [Way::TtlAlone, Way::Echoes, Way::EchoesWarmed, Way::Leases, Way::LeasesWarmed] {
                show(way.name(), counts(way, ttl, visitors));
            }
        }
    }
}
