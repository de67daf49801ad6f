//! What the log says in an hour of an outage: the real loop, the real lines, and a clock that jumps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crieur::observe::news::News;
use crieur::run::Pipeline;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::prelude::*;

use super::parts::{SimCache, SimControl};
use super::scenario::{Kind, Plan};
use super::source::SimSource;
use super::world::{Dice, Shared};
use super::{rules, settings, world_of};

/// Lines that an hour may take.
const LINES_MAX: usize = 80;

const HOUR: Duration = Duration::from_secs(3600);

/// A quiet time before the outage and behind it.
const CALM: Duration = Duration::from_secs(60);

/// What does not answer for an hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Away {
    Cache,
    Postgres,
    Both,
}

/// Each line at INFO and above: when it was said, its id, its sentence.
type Said = Arc<Mutex<Vec<(Instant, String, String)>>>;

struct Lines(Said);

#[derive(Default)]
struct Words {
    id: String,
    sentence: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "id" => self.id = format!("{value:?}"),
            "message" => self.sentence = format!("{value:?}"),
            _ => {}
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::INFO {
            let mut words = Words::default();
            event.record(&mut words);
            self.0.lock().expect("one thread").push((Instant::now(), words.id, words.sentence));
        }
    }
}

/// A commit every few seconds, all the time.
async fn write(world: Shared, until: Instant) {
    while Instant::now() < until {
        sleep(Duration::from_secs(7)).await;
        let mut world = world.borrow_mut();
        world.xids += 1;
        let xid = world.xids;
        let commit = world.commit(xid);
        world.log_commit(commit);
    }
}

/// The daemon's life with one such hour in it: what was said from the hour's beginning on.
async fn live(away: Away, hold: u64, said: Said) -> Vec<(String, String)> {
    let (mut dice, begins) = (Dice(1), Instant::now() + CALM);
    let ends = begins + HOUR;
    let plan = Plan {
        at: begins,
        written: ends,
        troubles: begins..begins,
        faults_end: ends,
        wrong: HOUR,
        chatty: true,
        two: false,
        warns: false,
        ends: Vec::new(),
        ..Plan::new(Kind::Away, &mut dice)
    };
    let mut world = world_of(plan, dice, 1);
    (world.hold, world.quiet) = (hold, true);
    let world = Rc::new(RefCell::new(world));
    tokio::task::spawn_local(write(Rc::clone(&world), ends + CALM / 2));
    let turn = |is: bool| {
        let mut world = world.borrow_mut();
        world.stores[0].away = is && away != Away::Postgres;
        world.deaf = is && away != Away::Cache;
        world.control_lost = world.deaf;
    };
    let (settings, policy) = settings(&world);
    let heartbeat = Duration::from_secs(2);
    let caches = vec![(SimCache::new(Rc::clone(&world), 0), crieur::target::Policy { heartbeat, ..policy })];
    let source = SimSource::new(Rc::clone(&world), 1);
    let pipeline = Pipeline::new(source, caches, SimControl(Rc::clone(&world)), rules(), settings, |_: News| {});
    let outage = async {
        sleep_until(begins).await;
        turn(true);
        sleep_until(ends).await;
        turn(false);
        sleep(CALM).await;
    };
    pipeline.run(outage).await.expect("no outage ends the daemon");
    assert!(world.borrow().owed().is_empty(), "{away:?}: what waited is deleted");
    let said = said.lock().expect("one thread");
    said.iter().filter(|(at, ..)| *at >= begins).map(|(_, id, line)| (id.clone(), line.clone())).collect()
}

#[test]
fn an_hour_of_an_outage_with_changes_that_come_is_at_most_eighty_lines() {
    // As long as there is one subscriber only, tracing asks the thread that reaches a line first whether anybody wants
    // that line ever, and the threads of other tests say no.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    for away in [Away::Cache, Away::Postgres, Away::Both] {
        // The position waits for the cache all the time, or goes on without it.
        for hold in [u64::MAX, 500] {
            let said = Said::default();
            let subscriber = tracing_subscriber::registry().with(Lines(Arc::clone(&said)));
            let lines = tracing::subscriber::with_default(subscriber, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                LocalSet::new().block_on(&runtime.expect("a runtime"), live(away, hold, said))
            });
            let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
            lines.iter().for_each(|(id, _)| *by_id.entry(id).or_default() += 1);
            println!("{away:?}, hold {hold}: {} lines: {by_id:?}", lines.len());
            let all = lines.iter().map(|(id, line)| format!("{id}: {line}")).collect::<Vec<_>>().join("\n");
            assert!((2..=LINES_MAX).contains(&lines.len()), "{away:?}, hold {hold}: {} lines\n{all}", lines.len());
            // Nothing is sent to a cache while nothing comes from PostgreSQL, so nobody meets one that is away as well.
            let (ended, other) = match away {
                Away::Cache => ("cache.works_again", "stream."),
                Away::Postgres | Away::Both => ("stream.resumed", "cache."),
            };
            let strange = by_id.keys().filter(|id| id.starts_with(other) && away != Away::Both).count();
            assert!(by_id.contains_key(ended) && strange == 0, "{away:?}: its end is said, and nothing else\n{all}");
        }
    }
}
