//! A cache that does not say who it is, and whose every connection is a new one, while more keys are deleted than a mark can
//! carry: the first replays go at once, a later one waits for its turn, and then it goes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::continuity::Lineage;
use crieur::cache::{Cache, Deleted, Swap, Swept};
use crieur::config::Config;
use crieur::error::Result;
use crieur::keys::KeySet;
use crieur::run::{Pipeline, Settings};
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::memory::commit;
use super::parts::SimControl;
use super::source::SimSource;
use super::world::{Commit, Shared};

/// As keys, more than a mark carries.
const ROWS: u64 = 60_000;
/// The delete, and the replays that go at once: behind each of them the connection is a new one.
const DELETES: u32 = 4;
const KEY: &str = "thing:7";

/// A cache without a name, of which one key is looked at.
#[derive(Default)]
struct Held {
    key: Cell<bool>,
    mark: RefCell<Option<Vec<u8>>>,
    /// New connections.
    unknown: Cell<u64>,
    /// Deletes of many keys so far.
    deletes: Cell<u32>,
}

impl Held {
    fn delete(&self, keys: &KeySet) {
        let is_named = keys.iter().any(|key| key.bytes == KEY.as_bytes());
        self.key.set(self.key.get() && !is_named);
    }
}

struct Nameless(Rc<Held>);

impl Cache for Nameless {
    async fn delete(&self, keys: &[&KeySet]) -> Result<Deleted> {
        sleep(Duration::from_millis(1)).await;
        keys.iter().for_each(|keys| self.0.delete(keys));
        if keys.iter().map(|keys| keys.len()).sum::<usize>() as u64 >= ROWS {
            self.0.deletes.set(self.0.deletes.get() + 1);
            if self.0.deletes.get() <= DELETES {
                self.0.unknown.set(self.0.unknown.get() + 1);
            }
        }
        Ok(Deleted::default())
    }

    async fn sweep(&self, _patterns: &KeySet) -> Result<Swept> {
        sleep(Duration::from_millis(1)).await;
        self.0.key.set(false);
        Ok(Swept::default())
    }

    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        let lineage = self.lineage();
        sleep(Duration::from_millis(1)).await;
        Ok((self.0.mark.borrow().clone(), lineage))
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], again: &KeySet) -> Result<Swap> {
        sleep(Duration::from_millis(1)).await;
        if !expected.contains(&self.0.mark.borrow()) {
            return Ok(Swap::Other);
        }
        self.0.delete(again);
        self.0.mark.replace(Some(mark.to_vec()));
        Ok(Swap::Written)
    }

    fn is_nameless(&self) -> bool {
        true
    }

    fn lineage(&self) -> Lineage {
        Lineage { another: 0, unknown: self.0.unknown.get() }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

async fn lose(world: &Shared, held: &Held) {
    until("the first mark", || held.mark.borrow().is_some()).await;
    {
        let mut world = world.borrow_mut();
        world.xids += 1;
        // The world counts no keys of it: the cache of this test is none of its own.
        world.log_commit(Commit { rows: (0..ROWS).collect(), keys: BTreeSet::new(), ..commit(0) });
    }
    until("the delete, and the replays that go at once", || held.deletes.get() == DELETES).await;
    // What the cache had of the last replay is gone: it came from a copy that was made before.
    held.key.set(true);
    until("the replay that waited", || !held.key.get()).await;
    assert_eq!(held.deletes.get(), DELETES + 1);
    until("the position", || world.borrow().is_confirmed()).await;
}

#[test]
fn a_replay_that_was_put_off_deletes_what_the_cache_may_lack() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let world = Rc::new(RefCell::new(super::calm_world(1)));
        let (settings, policy) = super::settings(&world);
        let settings = Settings { batch_keys_max: 2 * ROWS as usize, memory_bytes_max: 256 << 20, ..settings };
        let text = "[[rules]]\ntable = \"public.things\"\nkeys = [\"thing:{id}\"]\n";
        let urls = [("DATABASE_URL", "postgres://sim@localhost/sim"), ("REDIS_URL", "redis://localhost")];
        let env = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let rules = Config::of_text("crieur.toml", text, env.into_iter()).expect("valid").rules;
        let held = Rc::<Held>::default();
        let source = SimSource::new(Rc::clone(&world), 1);
        let control = SimControl(Rc::clone(&world));
        let pipeline =
            Pipeline::new(source, vec![(Nameless(Rc::clone(&held)), policy)], control, rules, settings, |_| {});
        pipeline.run(lose(&world, &held)).await.expect("nothing is definite");
    });
}
