//! The real loop over a simulated source, caches, control session and clock. A seed makes the schedule and the faults.
//!
//! Safety, at every step: what is confirmed was answered, and positions never go back. Liveness: after the faults end,
//! everything is delivered and confirmed, and no value in a cache is another than the database's. Daemons are stopped
//! and killed at any time. With two and three caches of which one goes wrong, all of that holds for each of them, and the
//! others keep up with the stream. A failing schedule is one line that runs it again; `SEEDS=n` runs more, and with `SEED`
//! so many draws of it.

mod lines;
mod memory;
mod nameless;
mod outbox;
mod pages;
mod parts;
mod region;
mod scenario;
mod shards;
mod source;
mod store;
mod tier;
mod untold;
mod visits;
mod world;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crieur::config::{Config, Metering, OnGap};
use crieur::observe::news::News;
use crieur::rules::Rules;
use crieur::run::{Onward, Pipeline, Reload, Settings};
use crieur::source::Source;
use crieur::target::{HOLDS_FOR_EVER, Policy, Replicas};
use crieur::warm::Warming;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

use parts::{SimCache, SimControl};
use scenario::{End, KINDS, Kind, OF_SEVERAL, Plan};
use source::SimSource;
use store::Store;
use world::{Dice, Shared, World};

/// Runs in every test run; `SEED` runs one.
const SEEDS: u64 = 1_000;

/// The same with several caches.
const SEEDS_OF_SEVERAL: u64 = 460;

/// Of faults that meet.
const SEEDS_OF_MIXED: u64 = 80;

/// The same where gaps are only told.
const SEEDS_OF_WARNED: u64 = 30;

/// The same where no connection leads to the cache.
const SEEDS_OF_REQUESTS: u64 = 150;

const RULES: &str = r#"
[[rules]]
table = "public.things"
keys = ["thing:{id}", "owner:{o.n}"]
lookup.o = { sql = "SELECT n FROM owners WHERE id = $1", args = ["id"], tables = ["public.owners"] }

[[rules]]
table = "public.owners"
keys = ["owner:{n}"]

[[rules]]
table = "public.shelves"
keys = ["shelf:{id}:*"]
"#;

fn rules() -> Rules {
    rules_of(RULES)
}

fn rules_of(text: &str) -> Rules {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("crieur.toml");
    std::fs::write(&file, text).expect("written");
    let urls = [("DATABASE_URL", "postgres://sim@localhost/sim"), ("REDIS_URL", "redis://localhost")];
    let env = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&file, env.into_iter()).expect("valid").rules
}

fn world(seed: u64) -> World {
    let mut dice = Dice(seed);
    let kind = KINDS[(seed % KINDS.len() as u64) as usize];
    let plan = Plan::new(kind, &mut dice);
    world_of(plan, dice, 1)
}

/// Two caches, or three: one of them goes wrong.
fn world_of_several(seed: u64) -> World {
    let mut dice = Dice(seed);
    let kinds = KINDS.len() + OF_SEVERAL.len();
    let kind = *KINDS.iter().chain(&OF_SEVERAL).nth(seed as usize % kinds).expect("there are so many");
    let plan = Plan::new(kind, &mut dice);
    world_of(plan, dice, 2 + seed as usize / kinds % 2)
}

/// A cache to which nothing but requests leads.
fn world_of_requests(seed: u64) -> World {
    let mut dice = Dice(seed);
    let plan = Plan::new(Kind::Requests, &mut dice);
    let mut world = world_of(plan, dice, 1);
    world.stores.iter_mut().for_each(|store| (store.nameless, store.alone) = (true, true));
    world
}

/// So many caches, and nothing that goes wrong by itself. Nothing is echoed.
fn calm_world(caches: usize) -> World {
    let mut dice = Dice(0);
    let mut plan = Plan::new(Kind::Away, &mut dice);
    plan.troubles = plan.at..plan.at;
    World { echoes: false, ..world_of(plan, dice, caches) }
}

fn world_of(plan: Plan, mut dice: Dice, caches: usize) -> World {
    let (replica, echoes) = match plan.kind {
        Kind::Chaos => (dice.one_in(4), dice.one_in(2)),
        kind => (kind == Kind::Replicas, kind == Kind::Plain),
    };
    // A sweep that no mark followed yet is of the server that had it, and only a name tells it from a copy.
    let settles = matches!(plan.kind, Kind::GoesBack | Kind::Killed | Kind::Stopped | Kind::Plain | Kind::Lookups);
    let victim = if caches > 1 { dice.roll(caches as u64) as usize } else { 0 };
    let all_troubled = caches == 1 || dice.one_in(2);
    let store = |index| {
        let is_flaky = plan.kind == Kind::Flaky && index == victim;
        Store { nameless: (settles && dice.one_in(3)) || is_flaky, ..Store::default() }
    };
    let stores = (0..caches).map(store).collect();
    let budget = if plan.kind == Kind::Budget { 30 + dice.roll(200) } else { 0 };
    let hold = match plan.kind {
        Kind::Left if dice.one_in(6) => 0,
        Kind::Left => 60 + dice.roll(300),
        Kind::Mixed if dice.one_in(2) => 60 + dice.roll(300),
        // Echoes may hold back half of that, and readers without leases rely on each of them.
        Kind::Chaos if !echoes && dice.one_in(2) => 60 + dice.roll(300),
        _ => HOLDS_FOR_EVER,
    };
    World {
        plan,
        replica,
        echoes,
        dice,
        log: Vec::new(),
        outbox: None,
        ids: 0,
        xids: 2,
        confirmed: 0,
        budget,
        hold,
        run: 0,
        timeline: 1,
        publication: 0,
        published: true,
        unpublished: None,
        stream: 0,
        cut_at: None,
        slot_lost: false,
        owner: None,
        stores,
        site: None,
        channel: None,
        region: None,
        victim,
        all_troubled,
        began: Instant::now(),
        control_lost: false,
        unanswered: false,
        deaf: false,
        quiet: false,
        over: false,
        failure: None,
    }
}

fn settings(world: &Shared) -> (Settings, Policy) {
    let mut world = world.borrow_mut();
    let (keys_min, keys_max) = match world.plan.kind {
        Kind::Late => (1, 1),
        // What is late then waits for another cache, and for no room.
        Kind::Away | Kind::Slow | Kind::Left | Kind::Mixed if world.site.is_none() => (20, 20),
        // Each key comes with a tag.
        Kind::Away | Kind::Slow | Kind::Left | Kind::Mixed => (40, 20),
        _ => (1, 20),
    };
    let waits = world.outbox.is_some() && world.dice.one_in(2);
    let (echo, echo_wal_bytes_max) = match (world.echoes, world.budget) {
        (true, _) => (vec![Duration::from_millis(20), Duration::from_millis(90)], u64::MAX),
        // What is answered waits, and may wait for another outbox.
        (false, 0) if waits => (vec![Duration::from_millis(300)], u64::MAX),
        (false, 0) => (Vec::new(), u64::MAX),
        // Later than any seed lasts: whatever is confirmed was released.
        (false, budget) => (vec![Duration::from_secs(3600)], budget),
    };
    let settings = Settings {
        slot: "sim".into(),
        publication: "crieur".to_owned(),
        replicas: if world.replica { Replicas::Some } else { Replicas::None },
        batch_keys_max: keys_min + world.dice.roll(keys_max) as usize,
        memory_bytes_max: 1 << 20,
        stop_timeout: Duration::from_millis(50 + world.dice.roll(2_000)),
        warming: Warming::default(),
    };
    let policy = Policy {
        name: "main".to_owned(),
        protect: Vec::new(),
        echo,
        echo_wal_bytes_max,
        on_gap: if world.plan.warns { OnGap::Warn } else { OnGap::Sweep },
        heartbeat: Duration::from_millis(200),
        metering: Metering::None,
        budget: None,
        required: true,
        hold_wal_bytes_max: world.hold,
        sink: None,
    };
    (settings, policy)
}

/// How this life ends, and when; `None` when it lasts.
fn end(world: &mut World, daemon: u32) -> Option<(Instant, End)> {
    if world.plan.kind != Kind::Chaos {
        return if daemon == 1 { world.plan.ends.pop() } else { None };
    }
    let at = Instant::now() + world.pause(if world.outbox.is_some() { 1_500 } else { 150 });
    let end = [Some(End::Killed), Some(End::Stopped), None][world.dice.roll(3) as usize];
    end.filter(|_| at < world.plan.faults_end).map(|end| (at, end))
}

/// One life of the daemon: killed at any await, stopped, or until everything is done.
async fn live<S>(source: S, world: &Shared, daemon: u32, written: &Cell<bool>) -> Result<(), String>
where
    S: Source,
    S::Ack: 'static,
{
    let (control, count) = (SimControl(Rc::clone(world)), world.borrow().stores.len());
    let (settings, policy) = settings(world);
    let policy = |store: usize| world.borrow().policy_of(store, Policy { name: store.to_string(), ..policy.clone() });
    let caches = (0..count).map(|store| (SimCache::new(Rc::clone(world), store), policy(store))).collect();
    world.borrow_mut().began = Instant::now();
    let hears = Rc::clone(world);
    // The loop tells while it borrows nothing of the world.
    let listener = move |news: News| {
        if let News::Released(store, is) = news {
            hears.borrow_mut().released(store.parse().expect("a number"), is);
        }
    };
    let known = || if world.borrow().site.is_some() { pages::rules() } else { rules() };
    let pipeline = Pipeline::new(source, caches, control, known(), settings, listener);
    let (order, heard) = tokio::sync::mpsc::channel(4);
    let reloads = {
        let mut world = world.borrow_mut();
        world.plan.kind == Kind::Mixed && !world.plan.warns && world.dice.one_in(3)
    };
    let pipeline = if reloads { pipeline.reloading(heard) } else { pipeline };
    let reloading = async {
        while reloads && Instant::now() < world.borrow().plan.faults_end {
            let wait = {
                let mut world = world.borrow_mut();
                let most_ms = 2 * world.plan.wrong.as_millis() as u64;
                world.pause(most_ms)
            };
            sleep(wait).await;
            if Instant::now() > world.borrow().plan.at
                && order.send(reload(world, count, &policy, known())).await.is_err()
            {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let end = end(&mut world.borrow_mut(), daemon);
    let stop = async {
        match end {
            Some((at, End::Stopped)) => sleep_until(at).await,
            Some((_, End::Killed)) | None => settled(world, written).await,
        }
    };
    let killed = async {
        match end {
            Some((at, End::Killed)) => sleep_until(at).await,
            Some((_, End::Stopped)) | None => sleep(Duration::from_secs(600)).await,
        }
    };
    tokio::select! {
        biased;
        () = killed => Ok(()),
        () = reloading => Ok(()),
        result = pipeline.run(stop) => result.map(|_| ()).map_err(|error| format!("stopped: {error}")),
    }
}

/// The rules are taken anew, or the caches as well, of which one may be another object.
fn reload(
    world: &Shared,
    count: usize,
    policy: &impl Fn(usize) -> Policy,
    rules: Rules,
) -> Reload<SimCache, SimControl> {
    let (which, changed) = {
        let mut world = world.borrow_mut();
        (world.dice.roll(3), world.dice.roll(count as u64) as usize)
    };
    let onward = |store: usize| {
        let is_new = which == 2 && store == changed;
        Onward { policy: policy(store), cache: is_new.then(|| SimCache::new(Rc::clone(world), store)) }
    };
    let caches = (which > 0).then(|| (0..count).map(onward).collect());
    Reload { rules, control: SimControl(Rc::clone(world)), caches, taken: None }
}

/// Faults and writers have ended, everything is confirmed and a mark says so, and a while has passed.
async fn settled(world: &Shared, written: &Cell<bool>) {
    let (mut rest, rests_for) = (Instant::now(), world.borrow().rests_for());
    for _ in 0..3_000 {
        sleep(Duration::from_millis(20)).await;
        let mut world = world.borrow_mut();
        let over = written.get() && Instant::now() > world.plan.faults_end;
        world.quiet |= over;
        let done = world.owed().is_empty() && world.is_confirmed() && world.is_proven();
        if !over || !done {
            rest = Instant::now();
        }
        if world.failure.is_some() || rest.elapsed() > rests_for {
            return;
        }
    }
}

async fn lives(world: &Shared, daemon: u32, written: &Cell<bool>) -> Result<(), String> {
    sleep(Duration::from_millis(100 * u64::from(daemon - 1))).await;
    while !world.borrow().quiet {
        let is_outbox = world.borrow().outbox.is_some();
        if is_outbox {
            live(outbox::source(world, daemon), world, daemon, written).await?;
        } else {
            live(SimSource::new(Rc::clone(world), daemon), world, daemon, written).await?;
        }
        if let Some(failure) = &world.borrow().failure {
            return Err(failure.clone());
        }
    }
    Ok(())
}

async fn one_seed(seed: u64, world: fn(u64) -> World) -> Result<(), String> {
    let world = Rc::new(RefCell::new(world(seed)));
    let written = Rc::new(Cell::new(false));
    let mut others = vec![tokio::task::spawn_local(scenario::happen(Rc::clone(&world)))];
    others.push(tokio::task::spawn_local(store::watch(Rc::clone(&world))));
    let caches = world.borrow().stores.len();
    for (store, reader) in (0..caches).flat_map(|store| (1..=4).map(move |reader| (store, reader))) {
        let (reads, is_sink) = (Rc::clone(&world), world.borrow().stores[store].is_sink);
        others.push(match is_sink {
            true => tokio::task::spawn_local(pages::make(reads, store)),
            false => tokio::task::spawn_local(world::read(reads, store, reader)),
        });
    }
    if world.borrow().channel.is_some() {
        others.extend(tier::listeners(&world));
    }
    let (writer, done) = (Rc::clone(&world), Rc::clone(&written));
    others.push(tokio::task::spawn_local(async move {
        let is_outbox = writer.borrow().outbox.is_some();
        if is_outbox {
            outbox::write(writer).await
        } else {
            world::write(writer).await
        }
        done.set(true);
    }));
    let kind = world.borrow().plan.kind;
    let is_two = world.borrow().plan.two;
    if is_two {
        let (first, second) = tokio::join!(lives(&world, 1, &written), lives(&world, 2, &written));
        first.and(second)
    } else {
        lives(&world, 1, &written).await
    }
    .map_err(|failure| format!("{kind:?}: {failure}"))?;
    world.borrow_mut().over = true;
    for other in others {
        other.await.map_err(|panicked| format!("{kind:?}: {panicked}"))?;
    }
    let world = world.borrow();
    match (world.stale(), world.owed()) {
        (stale, _) if !stale.is_empty() => Err(format!("{kind:?}: stale for ever: {stale:?}")),
        _ if !world.stale_pages().is_empty() => Err(format!("{kind:?}: stale pages: {:?}", world.stale_pages())),
        (_, owed) if !owed.is_empty() => Err(format!("{kind:?}: never deleted: {owed:?}")),
        _ if !world.is_confirmed() => Err(format!("{kind:?}: stuck at {} of {}", world.confirmed, world.end())),
        _ if !world.is_proven() => Err(format!("{kind:?}: no mark in the cache says what was done")),
        _ => Ok(()),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("SEED and SEEDS are numbers"))
}

#[test]
fn no_schedule_confirms_too_early_or_leaves_a_stale_value() {
    run(SEEDS, world, "simulation");
}

#[test]
fn no_schedule_of_several_caches_breaks_a_promise_in_any_of_them() {
    run(SEEDS_OF_SEVERAL, world_of_several, "of_several_caches");
}

/// One to three caches, and faults that meet.
fn world_mixed(seed: u64) -> World {
    let mut dice = Dice(seed);
    let plan = Plan::new(Kind::Mixed, &mut dice);
    world_of(plan, dice, 1 + seed as usize % 3)
}

/// No cache loses anything, and nothing stays out of the stream: only memory owes. Gaps are only told. A configuration that
/// says so never leaves a cache behind; here it does, so that there is much in memory.
fn world_warned(seed: u64) -> World {
    let mut dice = Dice(seed);
    let mut plan = Plan::new(Kind::Mixed, &mut dice);
    (plan.warns, plan.two) = (true, false);
    plan.ends.clear();
    World { hold: 60 + dice.roll(300), ..world_of(plan, dice, 1 + seed as usize % 3) }
}

#[test]
fn no_schedule_of_mixed_faults_breaks_a_promise() {
    run(SEEDS_OF_MIXED, world_mixed, "mixed_faults");
}

#[test]
fn no_schedule_where_gaps_are_only_told_marks_what_memory_owes() {
    run(SEEDS_OF_WARNED, world_warned, "only_told");
}

#[test]
fn no_schedule_of_requests_without_a_connection_breaks_a_promise() {
    run(SEEDS_OF_REQUESTS, world_of_requests, "without_a_connection");
}

/// A search in a process of its own, with a guard switched off: it finds a stale value.
#[cfg(feature = "failpoints")]
fn finds_without(guard: crieur::failpoints::Guard, search: &str) {
    let told = fails_without(guard, search, None);
    assert!(told.contains(" is stale") || told.contains("stale for ever: ["), "{told}");
}

/// What such a search says, which must fail; of so many seeds, or of its own.
#[cfg(feature = "failpoints")]
fn fails_without(guard: crieur::failpoints::Guard, search: &str, seeds: Option<u64>) -> String {
    let name = format!("simulation::{search}");
    let mut search = std::process::Command::new(std::env::current_exe().expect("the tests have a file"));
    search.args([name.as_str(), "--exact"]).env("CRIEUR_WITHOUT", format!("{guard:?}"));
    search.env_remove("SEED").env_remove("SEEDS").envs(seeds.map(|seeds| ("SEEDS", seeds.to_string())));
    let out = search.output().expect("the search runs");
    let told = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!out.status.success(), "{told}");
    told
}

#[cfg(feature = "failpoints")]
#[test]
fn without_what_marks_carry_requests_leave_a_stale_value() {
    let search = "no_schedule_of_requests_without_a_connection_breaks_a_promise";
    finds_without(crieur::failpoints::Guard::Carried, search);
}

/// Runs so many seeds of a world.
fn run(seeds: u64, world: fn(u64) -> World, name: &str) {
    schedules(seeds, async |seed| one_seed(seed, world).await, name);
}

/// Runs so many seeds, or what the environment says. Jitter and nonces are drawn from the seed too, so a schedule comes
/// again; `DRAW` draws others.
fn schedules(seeds: u64, play: impl AsyncFn(u64) -> Result<(), String>, name: &str) {
    let (draw, count) = (number("DRAW").unwrap_or(0), number("SEEDS"));
    let schedules: Vec<(u64, u64)> = match number("SEED") {
        Some(seed) => (draw..draw + count.unwrap_or(1)).map(|draw| (seed, draw)).collect(),
        None => (0..count.unwrap_or(seeds)).map(|seed| (seed, draw)).collect(),
    };
    for (seed, draw) in schedules {
        if let Err(failure) = played(seed, draw, &play) {
            panic!("{failure}\nagain: SEED={seed} DRAW={draw} cargo test --features failpoints --test main {name}");
        }
    }
}

fn played(seed: u64, draw: u64, play: impl AsyncFn(u64) -> Result<(), String>) -> Result<(), String> {
    #[cfg(feature = "failpoints")]
    crieur::failpoints::draw_from(seed ^ draw.rotate_right(16));
    #[cfg(not(feature = "failpoints"))]
    let _ = draw;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), play(seed))
}

/// Some of so many seeds of a world in which a guard is off fails, and so.
fn finds(failure: &str, seeds: u64, world: fn(u64) -> World) {
    let found =
        (0..seeds).find_map(|seed| Some((seed, played(seed, 0, async |seed| one_seed(seed, world).await).err()?)));
    let (seed, told) = found.unwrap_or_else(|| panic!("{seeds} seeds, and never: {failure}"));
    println!("seed {seed}: {told}");
    assert!(told.contains(failure), "seed {seed}: {told}");
}
