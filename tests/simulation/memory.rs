//! One of two caches is away, or so slow as to be of no use, while many keys change: what waits for it is one set that
//! collapses to families within the bound, and the other cache gets its keys as before.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crieur::observe::news::{News, Totals};
use crieur::run::{Pipeline, Settings};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::parts::{SimCache, SimControl};
use super::source::SimSource;
use super::store::Store;
use super::world::{Commit, OWNERS, Shared};

const MEMORY_BYTES_MAX: usize = 256 << 10;

/// Commits while that lasts, and rows of each: as keys, several times the bound.
const COMMITS: u64 = 400;
const ROWS: u64 = 100;

/// A transaction that everybody sees at once, of rows that no other one has.
pub fn commit(number: u64) -> Commit {
    let now = Instant::now();
    let rows: Vec<u64> = (0..ROWS).map(|row| number * ROWS + row).collect();
    let things = rows.iter().map(|row| format!("thing:{row}"));
    let keys = things.chain(rows.iter().map(|row| format!("owner:{}", row % OWNERS))).collect();
    Commit {
        id: number as u32 + 1,
        xid: number as u32 + 3,
        end: 10 * (number + 1),
        rows,
        shelf: None,
        moved: None,
        visible_at: now,
        flushed_at: now,
        replayed_at: now,
        published: true,
        streamed: false,
        keys,
    }
}

/// Writes while something is wrong with the victim, sees that the other one keeps up, and waits until the victim has
/// everything.
async fn write(world: &Shared, wrong: impl FnOnce(&mut Store)) {
    sleep(Duration::from_millis(300)).await;
    let victim = world.borrow().victim;
    wrong(&mut world.borrow_mut().stores[victim]);
    for number in 0..COMMITS {
        {
            let mut world = world.borrow_mut();
            world.xids += 1;
            world.log_commit(commit(number));
            world.keep_up();
            assert_eq!(world.failure, None);
        }
        sleep(Duration::from_millis(25)).await;
    }
    assert!(!world.borrow().owed().is_empty(), "nothing was wrong with it");
    let healed = |store: &mut Store| (store.away, store.slow_ms) = (false, 0);
    healed(&mut world.borrow_mut().stores[victim]);
    for _ in 0..1_000 {
        sleep(Duration::from_millis(20)).await;
        if world.borrow().owed().is_empty() && world.borrow().is_confirmed() {
            return;
        }
    }
    panic!("it is back, and lacks {} transactions", world.borrow().owed().len());
}

#[test]
fn what_waits_for_a_cache_that_is_away_collapses_within_the_bound_and_stops_nobody() {
    waits(|store| store.away = true);
}

/// A flight that is out cannot collapse.
#[test]
fn what_is_on_its_way_to_a_cache_that_is_slow_stops_nobody() {
    waits(|store| store.slow_ms = 4_000);
}

fn waits(wrong: impl FnOnce(&mut Store)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let world = Rc::new(RefCell::new(super::calm_world(2)));
        let (settings, policy) = super::settings(&world);
        let settings = Settings { batch_keys_max: 1_000, memory_bytes_max: MEMORY_BYTES_MAX, ..settings };
        let caches = (0..2).map(|store| (SimCache::new(Rc::clone(&world), store), policy.clone())).collect();
        let most = Rc::new(Cell::new(0));
        let seen = Rc::clone(&most);
        let listener = move |news| {
            if let News::Totals(Totals { memory_bytes, .. }, _) = news {
                seen.set(memory_bytes.max(seen.get()));
            }
        };
        let source = SimSource::new(Rc::clone(&world), 1);
        let control = SimControl(Rc::clone(&world));
        let pipeline = Pipeline::new(source, caches, control, super::rules(), settings, listener);
        let totals = pipeline.run(write(&world, wrong)).await.expect("nothing is definite");
        assert!(totals.collapsed > 0, "all keys waited as they were");
        assert!(totals.keys < 2 * COMMITS * ROWS, "each cache got each key by itself");
        let most = most.get();
        // An inbox may have an eighth of its cache's share; the rest is on its way, waits for the gate, or can come again.
        let share = MEMORY_BYTES_MAX as u64 / 2;
        assert!(most > share / 8, "the bound was never near: {most}");
        assert!(most <= share / 2, "{most} bytes of keys");
        assert_eq!((world.borrow().stale(), &world.borrow().failure), (Vec::new(), &None));
    });
}
