//! The loop's look at the server, over parts that do nothing else, with a clock of their own: what holds for hours.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crieur::cache::continuity::Lineage;
use crieur::cache::{Cache, Deleted, Swap, Swept};
use crieur::change::{Event, Oid};
use crieur::config::{Config, Metering, OnGap};
use crieur::control::{Catalogue, Gate, Lookups, Sighting};
use crieur::error::Result;
use crieur::gate::Snapshot;
use crieur::keys::KeySet;
use crieur::lsn::Lsn;
use crieur::observe::news::News;
use crieur::question::{Answer, Question};
use crieur::rules::Rules;
use crieur::run::{Pipeline, Reload, Settings};
use crieur::source::Source;
use crieur::start::{SlotOrigin, Start};
use crieur::target::{HOLDS_FOR_EVER, Policy, Replicas};
use crieur::warm::Warming;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// A server that writes nothing.
#[derive(Default)]
struct Quiet(Option<Start>);

impl Source for Quiet {
    type Ack = u64;

    async fn ready(&mut self) -> Result<()> {
        if self.0.is_some() {
            std::future::pending::<()>().await;
        }
        self.0 = Some(Start {
            system: "7".into(),
            timeline: 1,
            confirmed: Lsn(1),
            run: "r".into(),
            publication: "p".into(),
            slot: SlotOrigin::Found,
        });
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Event<'_, u64>>> {
        Ok(None)
    }

    fn acknowledge(&mut self, _upto: u64) {}

    fn status_due(&self) -> Option<Instant> {
        None
    }

    async fn status(&mut self) -> Result<()> {
        Ok(())
    }

    fn lateness(&self) -> Duration {
        Duration::ZERO
    }

    fn start(&self) -> Option<&Start> {
        self.0.as_ref()
    }

    fn lsn(&self, ack: u64) -> Lsn {
        Lsn(ack)
    }

    fn is_current(&self, _ack: u64) -> bool {
        true
    }

    fn received(&self) -> Lsn {
        Lsn(1)
    }

    fn disconnect(&mut self) {
        self.0 = None;
    }

    async fn close(&mut self) -> Result<()> {
        self.disconnect();
        Ok(())
    }
}

/// A cache that holds a mark and nothing else, and when it was swept.
#[derive(Clone, Default)]
struct Empty(Rc<Shelf>);

#[derive(Default)]
struct Shelf {
    mark: RefCell<Option<Vec<u8>>>,
    sweeps: RefCell<Vec<Instant>>,
}

impl Cache for Empty {
    async fn delete(&self, _keys: &[&KeySet]) -> Result<Deleted> {
        Ok(Deleted::default())
    }

    async fn sweep(&self, _patterns: &KeySet) -> Result<Swept> {
        self.0.sweeps.borrow_mut().push(Instant::now());
        Ok(Swept::default())
    }

    async fn try_out(&self, _name: &str, _families: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    async fn mark(&self, _name: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
        Ok((self.0.mark.borrow().clone(), Lineage::default()))
    }

    async fn swap_mark(&self, _name: &str, expected: &[Option<Vec<u8>>], mark: &[u8], _again: &KeySet) -> Result<Swap> {
        if !expected.contains(&self.0.mark.borrow()) {
            return Ok(Swap::Other);
        }
        *self.0.mark.borrow_mut() = Some(mark.to_vec());
        Ok(Swap::Written)
    }

    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
}

/// Sees what it is told to see.
struct Looks(Sighting);

impl Gate for Looks {
    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::Everything)
    }
}

impl Lookups for Looks {
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        Ok(questions.iter().map(|_| Answer::Rows(Vec::new())).collect())
    }
}

impl Catalogue for Looks {
    async fn tables_of(&self, _oid: Oid) -> Result<Option<Vec<(String, String)>>> {
        Ok(None)
    }

    async fn watch(&self) -> Result<Option<Sighting>> {
        Ok(Some(self.0.clone()))
    }
}

fn rules(key: &str) -> Rules {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("crieur.toml");
    std::fs::write(&file, format!("[[rules]]\ntable = \"public.t\"\nkeys = [\"{key}\"]\n")).expect("written");
    let urls = [("DATABASE_URL", "postgres://sim@localhost/sim"), ("REDIS_URL", "redis://localhost")];
    let env = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&file, env.into_iter()).expect("valid").rules
}

fn settings() -> Settings {
    Settings {
        slot: "crieur".into(),
        publication: "crieur".into(),
        replicas: Replicas::None,
        batch_keys_max: 100,
        memory_bytes_max: 1 << 20,
        stop_timeout: Duration::from_secs(1),
        warming: Warming::default(),
    }
}

fn caches<C>(caches: impl IntoIterator<Item = C>) -> Vec<(C, Policy)> {
    let policy = Policy {
        name: "main".to_owned(),
        protect: Vec::new(),
        echo: Vec::new(),
        echo_wal_bytes_max: u64::MAX,
        on_gap: OnGap::Sweep,
        heartbeat: Duration::from_secs(10),
        metering: Metering::None,
        budget: None,
        required: true,
        hold_wal_bytes_max: HOLDS_FOR_EVER,
        sink: None,
    };
    caches.into_iter().map(|cache| (cache, policy.clone())).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Nothing comes for eight hours: an alarm on the age of the oldest change, or of the last confirmation, stays silent.
#[test]
fn a_quiet_night_makes_nothing_old() {
    run(async {
        let healthy = Sighting { system: "7".into(), timeline: 1, publication: "p".into(), ..Sighting::default() };
        let told = Rc::new(RefCell::new(Vec::new()));
        let hears = Rc::clone(&told);
        let news = Box::new(move |news| {
            if let News::Totals(totals, _) = news {
                hears.borrow_mut().push((Instant::now(), totals));
            }
        });
        let pipeline = Pipeline::new(
            Quiet::default(),
            caches([Empty::default()]),
            Looks(healthy),
            rules("t:{id}"),
            settings(),
            news,
        );
        pipeline.run(sleep(Duration::from_secs(8 * 3600))).await.expect("nothing stops it");
        let told = told.borrow();
        // The sweep of the first start is over when the first mark is written.
        let first = told.iter().position(|(_, totals)| totals.settled).expect("it settles");
        assert!(told[first..].iter().all(|(_, totals)| totals.settled && totals.oldest.is_none()), "{told:?}");
        let pauses = told[first..].windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(pauses.max().is_some_and(|longest| longest <= Duration::from_secs(11)), "a heartbeat is told");
        assert!(told.len() > 2_000);
    });
}

/// A table whose changes do not come is swept every ten seconds in each cache, also behind a reload: however long the
/// daemon was up.
#[test]
fn other_rules_do_not_stop_the_sweeps_of_a_table_that_is_not_published() {
    run(async {
        let missing = Sighting {
            system: "7".into(),
            timeline: 1,
            publication: "p".into(),
            unpublished: vec![("public".into(), "t".into())],
            ..Sighting::default()
        };
        let both = [Empty::default(), Empty::default()];
        let (sender, reloads) = mpsc::channel(1);
        let control = Looks(missing.clone());
        let pipeline =
            Pipeline::new(Quiet::default(), caches(both.clone()), control, rules("t:{id}"), settings(), |_| {});
        let pipeline = pipeline.reloading(reloads);
        let stop = async {
            sleep(Duration::from_secs(3600)).await;
            let reload = Reload { rules: rules("u:{id}"), control: Looks(missing), caches: None, taken: None };
            assert!(sender.send(reload).await.is_ok(), "the loop listens");
            let reloaded = Instant::now();
            sleep(Duration::from_secs(65)).await;
            for cache in &both {
                let since = cache.0.sweeps.borrow().iter().filter(|at| **at > reloaded).count();
                // One is that of the new rules.
                assert!((6..=8).contains(&since), "{since} sweeps in 65 seconds behind a reload");
            }
        };
        pipeline.run(stop).await.expect("nothing stops it");
    });
}
