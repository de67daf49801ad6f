//! The real loop over a simulated source, cache, control session and clock. A seed makes the schedule and the faults.
//!
//! Safety, at every step: what is confirmed was answered, and positions never go back. Liveness: after the faults end,
//! everything is delivered and confirmed, and no value in the cache is another than the database's. Daemons are stopped
//! and killed at any time. A failing seed is one line: `SEED=n cargo test --test main simulation`; `SEEDS=n` runs more.

mod parts;
mod source;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crieur::config::{Config, OnGap};
use crieur::pipeline::{Pipeline, Replicas, Settings};
use crieur::rules::Rules;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use parts::{SimCache, SimControl};
use source::SimSource;
use world::{Copy, Dice, Shared, World};

/// Runs in every test run; `SEED` runs one.
const SEEDS: u64 = 1_000;

const COMMITS: u32 = 60;

const RULES: &str = r#"
[[rules]]
table = "public.things"
keys = ["thing:{id}", "owner:{o.n}"]
lookup.o = { sql = "SELECT n FROM owners WHERE id = $1", args = ["id"] }

[[rules]]
table = "public.shelves"
keys = ["shelf:{id}:*"]
"#;

fn rules() -> Rules {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("crieur.toml");
    std::fs::write(&file, RULES).expect("written");
    let urls = [("DATABASE_URL", "postgres://sim@localhost/sim"), ("REDIS_URL", "redis://localhost")];
    let env = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&file, env.into_iter()).expect("valid").rules
}

fn world(seed: u64) -> World {
    let mut dice = Dice(seed);
    World {
        faults_end: Instant::now() + Duration::from_millis(dice.roll(600)),
        replica: dice.one_in(4),
        echoes: dice.one_in(2),
        dice,
        log: Vec::new(),
        xids: 2,
        owed: BTreeMap::new(),
        confirmed: 0,
        run: 0,
        publication: 0,
        published: true,
        stream: 0,
        slot_lost: false,
        cache: Copy::default(),
        copy: None,
        server: 0,
        control_lost: false,
        quiet: false,
        failure: None,
    }
}

fn settings(world: &Shared) -> Settings {
    let mut world = world.borrow_mut();
    let echo = if world.echoes { vec![Duration::from_millis(20), Duration::from_millis(90)] } else { Vec::new() };
    Settings {
        slot: "sim".into(),
        echo,
        echo_wal_bytes_max: u64::MAX,
        publication: "crieur".to_owned(),
        on_gap: OnGap::Sweep,
        replicas: if world.replica { Replicas::Some } else { Replicas::None },
        heartbeat: Duration::from_millis(200),
        batch_keys_max: 1 + world.dice.roll(20) as usize,
        memory_bytes_max: 1 << 20,
        stop_timeout: Duration::from_millis(50 + world.dice.roll(2_000)),
    }
}

/// One life of the daemon: killed at any await, stopped, or until everything is done.
async fn live(world: &Shared, written: &Rc<RefCell<bool>>) -> Result<(), String> {
    let source = SimSource::new(Rc::clone(world));
    let (cache, control) = (SimCache::new(Rc::clone(world)), SimControl(Rc::clone(world)));
    let pipeline = Pipeline::new(source, cache, control, rules(), settings(world), Box::new(|_| {}));
    let (limit, end) = {
        let mut world = world.borrow_mut();
        (world.pause(150), world.dice.roll(3))
    };
    let limited = world.borrow().faults_end > Instant::now() + limit && end < 2;
    let stop = async {
        if limited && end == 1 {
            return sleep(limit).await;
        }
        settled(world, written).await;
    };
    let kill = if limited && end == 0 { limit } else { Duration::from_secs(600) };
    match timeout(kill, pipeline.run(stop)).await {
        Ok(Err(error)) => Err(format!("stopped: {error}")),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Faults and writers have ended, everything is confirmed, readers have stored what they held, and a while has passed.
async fn settled(world: &Shared, written: &Rc<RefCell<bool>>) {
    let mut rest = 0;
    for _ in 0..3_000 {
        sleep(Duration::from_millis(20)).await;
        let mut world = world.borrow_mut();
        let over = *written.borrow() && Instant::now() > world.faults_end;
        world.quiet |= over;
        rest = if over && world.owed.is_empty() && world.confirmed >= world.end() { rest + 1 } else { 0 };
        if world.failure.is_some() || rest > 50 {
            return;
        }
    }
}

async fn one_seed(seed: u64) -> Result<(), String> {
    let world = Rc::new(RefCell::new(world(seed)));
    let written = Rc::new(RefCell::new(false));
    let most_ms = 10 + world.borrow_mut().dice.roll(200);
    tokio::task::spawn_local(world::chaos(Rc::clone(&world), most_ms));
    for reader in 1..=3 {
        tokio::task::spawn_local(world::read(Rc::clone(&world), reader));
    }
    let (writer, done) = (Rc::clone(&world), Rc::clone(&written));
    tokio::task::spawn_local(async move {
        world::write(writer, COMMITS).await;
        *done.borrow_mut() = true;
    });
    loop {
        live(&world, &written).await?;
        let world = world.borrow();
        if let Some(failure) = &world.failure {
            return Err(failure.clone());
        }
        if !world.quiet {
            continue;
        }
        return match (world.stale(), &world.owed) {
            (stale, _) if !stale.is_empty() => Err(format!("stale for ever: {stale:?}")),
            (_, owed) if !owed.is_empty() => Err(format!("never deleted: {owed:?}")),
            _ if world.confirmed < world.end() => Err(format!("stuck at {} of {}", world.confirmed, world.end())),
            _ => Ok(()),
        };
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("SEED and SEEDS are numbers"))
}

#[test]
fn no_schedule_confirms_too_early_or_leaves_a_stale_value() {
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let result = LocalSet::new().block_on(&runtime.expect("a runtime"), one_seed(seed));
        if let Err(failure) = result {
            panic!("{failure}\nagain: SEED={seed} cargo test --test main simulation");
        }
    }
}
