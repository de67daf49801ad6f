//! TOPOLOGY=two: two caches, of which one goes wrong while the other works: stopped, empty, back with its data or with
//! those of some time ago, with the daemon killed meanwhile. Each has readers of its own, and each is compared.
//!
//! The position waits for the first cache and never for the second: what the second lacks after a crash of the daemon,
//! nothing but its own mark can tell.

use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crieur::failpoints::Guard;

use crate::faults::CACHE_AWAY;
use crate::harness::redis::{Data, Redis};
use crate::load::{Load, Mix};
use crate::oracle::Oracle;
use crate::proofs::until_stale;
use crate::readers::Address;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::World;
use crate::{beside_others, conclude, seconds_of};

/// Which of the caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    First,
    Second,
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// It answers nothing, and then goes on.
    Stopped,
    /// It is gone, and comes back empty.
    Emptied,
    /// It is gone, and comes back with what it held at its end.
    Restarted,
    /// It is gone, and comes back with what it held some time before.
    Restored,
}

const WRONG: [Wrong; 4] = [Wrong::Stopped, Wrong::Emptied, Wrong::Restarted, Wrong::Restored];

/// One stretch of load: what goes wrong in which cache, and what becomes of the daemon meanwhile.
#[derive(Clone, Copy, Debug)]
struct Plan {
    which: Which,
    wrong: Wrong,
    /// The daemon dies while the cache is away.
    kills: bool,
    /// The stream begins anew then: past the mark of a cache that was left behind.
    cuts: bool,
    /// The daemon dies a moment after the cache is back.
    kills_behind: bool,
}

fn cache(world: &mut World, which: Which) -> &mut Redis {
    match which {
        Which::First => &mut world.cache,
        Which::Second => world.second.as_mut().expect("there are two"),
    }
}

impl Plan {
    fn at_random(which: Which, seed: &mut Seed) -> Plan {
        let (kills, cuts, kills_behind) = (seed.chance(40), seed.chance(50), seed.chance(40));
        Plan { which, wrong: seed.pick(&WRONG), kills, cuts, kills_behind }
    }

    fn begin(self, world: &mut World, seed: &mut Seed) {
        let cache = cache(world, self.which);
        match self.wrong {
            Wrong::Stopped => return cache.freeze(),
            Wrong::Emptied => {}
            // It ends behind its last write, and without an answer.
            Wrong::Restarted => {
                let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN").arg("SAVE").query(&mut cache.connection());
            }
            Wrong::Restored => {
                let () = cache.ask(&["SAVE"]);
                sleep(seed.millis(300, 1_500));
            }
        }
        cache.kill();
    }

    fn mend(self, world: &mut World) {
        let cache = cache(world, self.which);
        match self.wrong {
            Wrong::Stopped => cache.thaw(),
            Wrong::Emptied => cache.restart(Data::Lost),
            Wrong::Restarted | Wrong::Restored => cache.restart(Data::Kept),
        }
    }

    /// Load at both caches; one goes wrong, and returns. What is stale in the first and in the second.
    fn round(self, world: &mut World, seed: &mut Seed) -> [Round; 2] {
        let first = Arc::clone(&world.caching);
        let second: Address = Arc::new(Mutex::new(cache(world, Which::Second).url()));
        let oracle = Arc::new(Oracle::default());
        let load = Load::start(world, &oracle, Mix::SingleRows, seed.fork());
        world.caching = Arc::clone(&second);
        let readers = Load::readers(world, &oracle, seed.fork());
        sleep(seed.millis(500, 1_000));
        self.begin(world, seed);
        // Past the limit of the daemon for an answer, so that it asks again.
        sleep(seed.millis(1_200, 2_500));
        if self.kills {
            world.kill_daemon();
            sleep(seed.millis(0, 300));
            world.run_daemon();
            sleep(seed.millis(0, 1_000));
        }
        if self.cuts {
            drop(world.sql_at_last("SELECT pg_terminate_backend(pid) FROM pg_stat_replication"));
            sleep(seed.millis(0, 500));
        }
        self.mend(world);
        if self.kills_behind {
            sleep(seed.millis(0, 60));
            world.kill_daemon();
            world.run_daemon();
        }
        sleep(seed.millis(200, 1_000));
        world.caching = Arc::clone(&first);
        conclude(world, vec![load, readers], [first, second])
    }
}

fn world(without: &str) -> World {
    let mut world = World::start().beside_another();
    world.set("CRIEUR_WITHOUT", without.to_owned());
    world.allow(CACHE_AWAY);
    world.allow(&["id=cache.", "id=mark.", "id=stream."]);
    world.run_ready_daemon();
    world
}

/// `TORTURE_SECONDS` counts with `TOPOLOGY=two`; otherwise each of the caches goes wrong once.
#[test]
fn of_two_caches_one_goes_wrong_and_nothing_in_either_is_stale() {
    let _others = beside_others();
    let seconds = seconds_of("two");
    let (number, started) = (Seed::of_the_run(), Instant::now());
    println!("SEED={number} TOPOLOGY=two TORTURE_SECONDS={seconds}");
    let mut seed = Seed(number);
    let mut world = world("");
    let mut which = [Which::First, Which::Second].into_iter().cycle();
    let mut count = 0;
    while count < 2 || started.elapsed() < Duration::from_secs(seconds) {
        let plan = Plan::at_random(which.next().expect("it never ends"), &mut seed);
        let rounds = plan.round(&mut world, &mut seed);
        let log = world.daemon().log();
        for (round, which) in rounds.iter().zip([Which::First, Which::Second]) {
            let (stale, compared) = (round.stale.len(), round.compared);
            println!("{plan:?}, {which:?}: {stale} stale of {compared} keys, {} commits", round.commits);
            assert!(round.stale.is_empty(), "SEED={number}: {plan:?}, stale in {which:?}: {:#?}\n{log}", round.stale);
            assert!(compared > 20, "SEED={number}: {plan:?}: nearly nothing was compared in {which:?}\n{log}");
        }
        count += 1;
    }
    world.stop_daemon();
}

/// With the mark of a cache that was left behind taken for a new one, the cache keeps what it missed.
#[test]
fn without_a_look_at_the_mark_of_a_cache_that_was_left_behind_stale_keys_are_found() {
    let _others = beside_others();
    let mut seed = Seed(Seed::of_the_run());
    println!("SEED={}", seed.0);
    let mut world = world(&format!("{:?}", Guard::Return));
    let plan = Plan { which: Which::Second, wrong: Wrong::Stopped, kills: true, cuts: false, kills_behind: false };
    until_stale(&mut world, "without a look at old marks", 6, |world| {
        let [first, second] = plan.round(world, &mut seed);
        assert!(first.stale.is_empty(), "the first was never left behind: {:#?}", first.stale);
        second
    });
    world.stop_daemon();
}
