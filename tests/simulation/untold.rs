//! A table whose changes do not come any more: the sweeps that take their place reach every cache, each in its own time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crieur::run::Pipeline;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::memory::commit;
use super::parts::{SimCache, SimControl};
use super::source::SimSource;
use super::store::Held;
use super::world::Shared;

const KEY: &str = "thing:1";

/// Waits until something is so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

async fn leave_out(world: &Shared) {
    until("the first marks", || world.borrow().stores.iter().all(|store| store.cache.mark.is_some())).await;
    let victim = world.borrow().victim;
    let holds = |store: usize| world.borrow().stores[store].cache.keys.contains_key(KEY);
    {
        let mut world = world.borrow_mut();
        for store in &mut world.stores {
            store.cache.keys.insert(KEY.to_owned(), Held::Value(BTreeSet::new()));
        }
        world.stores[victim].away = true;
        world.unpublished = Some(vec![("public".to_owned(), "things".to_owned())]);
    }
    until("the cache that is there is swept", || !holds(1 - victim)).await;
    assert!(holds(victim), "nobody reaches it");
    world.borrow_mut().stores[victim].away = false;
    until("the other is swept when it is back", || !holds(victim)).await;
    // The sweeps owe nothing: changes that do come are confirmed as ever.
    world.borrow_mut().unpublished = Some(Vec::new());
    {
        let mut world = world.borrow_mut();
        world.xids += 1;
        world.log_commit(commit(0));
    }
    until("a change is confirmed", || world.borrow().owed().is_empty() && world.borrow().is_confirmed()).await;
}

#[test]
fn a_table_whose_changes_do_not_come_is_swept_in_every_cache() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let mut world = super::calm_world(2);
        world.unpublished = Some(Vec::new());
        let world = Rc::new(RefCell::new(world));
        let (settings, policy) = super::settings(&world);
        let caches = (0..2).map(|store| (SimCache::new(Rc::clone(&world), store), policy.clone())).collect();
        let source = SimSource::new(Rc::clone(&world), 1);
        let control = SimControl(Rc::clone(&world));
        let pipeline = Pipeline::new(source, caches, control, super::rules(), settings, |_| {});
        pipeline.run(leave_out(&world)).await.expect("nothing is definite");
        assert_eq!(world.borrow().failure, None);
    });
}
