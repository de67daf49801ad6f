//! A daemon beside a standby whose replay lags: readers read that standby, and fill the cache with what it shows.
//!
//! The stream brings a commit as soon as the primary has flushed it, as that of another standby or of the primary itself
//! may; the gate is what this standby has replayed. With the gate of a primary in its place, a value stays stale.

use crieur::error::{Error, Result};
use crieur::gate::Snapshot;
use crieur::lsn::Lsn;
use tokio::time::{Instant, sleep};

use super::parts::SimControl;
use super::scenario::{Kind, Plan};
use super::world::{Commit, Dice, World};

/// Runs in every test run; without the gate one of as many is stale.
const SEEDS: u64 = 70;

/// What the gate looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// What the standby has replayed.
    ForReplay,
    /// What the primary shows.
    ForPrimary,
}

impl World {
    /// When readers see a commit.
    pub fn shown_at(&self, commit: &Commit) -> Instant {
        if self.replica || self.region.is_some() { commit.replayed_at } else { commit.visible_at }
    }

    /// When deletes for it begin to count: those of other replicas come once more.
    pub fn first_shown_at(&self, commit: &Commit) -> Instant {
        if self.region.is_some() { commit.replayed_at } else { commit.visible_at }
    }

    /// The transaction below which everything has ended on the standby.
    fn below(&self) -> u32 {
        let now = Instant::now();
        let open = self.log.iter().filter(|commit| commit.replayed_at > now).map(|commit| commit.xid).min();
        open.unwrap_or(self.xids + 1)
    }

    /// What the standby shows.
    pub fn shown(&self) -> Snapshot {
        Snapshot::Replayed { below: self.below() }
    }
}

impl SimControl {
    /// As `control/standby.rs` asks: again and again, until all up to there was replayed.
    pub(super) async fn replayed(&self, upto: Lsn) -> Result<Snapshot> {
        loop {
            let wait = self.0.borrow_mut().pause(5);
            sleep(wait).await;
            if self.0.borrow_mut().fault(30) {
                return Err(Error::transient("simulated loss of the control session"));
            }
            let world = self.0.borrow();
            let now = Instant::now();
            if world.log.iter().filter(|commit| commit.end <= upto.0).all(|commit| commit.replayed_at <= now) {
                return Ok(world.shown());
            }
        }
    }

    pub(super) fn open_on_standby(&self) -> Snapshot {
        let world = self.0.borrow();
        Snapshot::open_on_standby(world.xids + 1, world.below())
    }
}

const KINDS: [Kind; 14] = [
    Kind::Replicas,
    Kind::GoesBack,
    Kind::GoesBackTwice,
    Kind::Emptied,
    Kind::NewSlot,
    Kind::Killed,
    Kind::Stopped,
    Kind::Takeover,
    Kind::ControlLost,
    Kind::Full,
    Kind::Streamed,
    Kind::Plain,
    Kind::Lookups,
    Kind::Left,
];

fn world_that(seed: u64, waits: Waits) -> World {
    let mut dice = Dice(seed);
    let plan = Plan::new(KINDS[seed as usize % KINDS.len()], &mut dice);
    let mut world = super::world_of(plan, dice, 1);
    (world.replica, world.region) = (false, Some(waits));
    world
}

#[test]
fn no_schedule_beside_a_standby_that_lags_leaves_a_stale_value() {
    super::run(SEEDS, |seed| world_that(seed, Waits::ForReplay), "beside_a_standby");
}

#[test]
fn with_the_gate_of_the_primary_readers_of_a_standby_that_lags_leave_a_stale_value() {
    super::finds("stale", SEEDS, |seed| world_that(seed, Waits::ForPrimary));
}
