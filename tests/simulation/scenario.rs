//! What happens in a seed: a quiet while in which the cache fills, one fault, and calm. One kind of fault per seed, so
//! that no sweep heals what another fault broke; only [`Kind::Chaos`] mixes them. The truth is in `world.rs`.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::outbox;
use super::world::{Dice, Shared, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Everything at once, again and again.
    Chaos,
    /// Another server answers, whose copy is a few deletes old.
    GoesBack,
    /// And then a third one.
    GoesBackTwice,
    /// The cache forgets everything, and then goes back to a copy of that time.
    Emptied,
    /// PostgreSQL forgets what was seen and not flushed.
    Restart,
    /// The slot is made anew while commits are invisible.
    NewSlot,
    /// Changes stay out of the stream for a while.
    Publication,
    /// Readers read a replica that lags.
    Replicas,
    Killed,
    Stopped,
    /// A second daemon stands by.
    Takeover,
    ControlLost,
    /// No mark can be written.
    Full,
    /// Long transactions that are sent while they are open, and many that abort.
    Streamed,
    /// Readers without leases, who promise to store before the last echo.
    Plain,
    /// Lookups fail or are refused for a while, and the cache goes back meanwhile.
    Lookups,
    /// PostgreSQL forgets what was seen, and later the cache goes back to a time when it was.
    RestartThenBack,
    /// A standby takes over that lacks the last commits.
    Failover,
    /// Changes stay out of the stream while the daemon is away, because PostgreSQL crashed, or while the cache goes back.
    AlteredAway,
    /// Sessions end.
    Cut,
    /// Transactions that have their number long before they commit.
    Late,
    /// The outbox is full: tables are to be swept.
    Overflow,
    /// The line to one of two daemons stands still, and its lease ends.
    Stalled,
    /// Somebody records, and nothing is removed.
    Recorded,
    /// Echoes that never come hold the position back, but not more than they may.
    Budget,
    /// The line to a cache that does not say who it is breaks all the time, and then another server answers.
    Flaky,
    /// Nobody reaches one of several caches for a while; then it has what it had, less, or nothing.
    Away,
    /// Each answer of one of several caches takes long for a while.
    Slow,
    /// Nobody reaches a cache for so long that the position goes on without it; then it has what it had, less, or nothing.
    Left,
    /// There is no connection to the cache: each request stands alone, may be done though nobody hears of it, and late.
    /// Then a server answers that lost the last transactions, with the mark or without.
    Requests,
    /// One of the caches is away, slow or full for a while, and meanwhile, or just behind, the stream ends, is another's, or
    /// begins elsewhere, and the cache goes back.
    Mixed,
}

/// Those of a stream; the outbox has its own list.
pub const KINDS: [Kind; 22] = [
    Kind::Chaos,
    Kind::GoesBack,
    Kind::GoesBackTwice,
    Kind::Emptied,
    Kind::Restart,
    Kind::NewSlot,
    Kind::Publication,
    Kind::Replicas,
    Kind::Killed,
    Kind::Stopped,
    Kind::Takeover,
    Kind::ControlLost,
    Kind::Full,
    Kind::Streamed,
    Kind::Plain,
    Kind::Lookups,
    Kind::RestartThenBack,
    Kind::Failover,
    Kind::AlteredAway,
    Kind::Budget,
    Kind::Flaky,
    Kind::Left,
];

/// Where there are several caches.
pub const OF_SEVERAL: [Kind; 2] = [Kind::Away, Kind::Slow];

impl Kind {
    /// Whether a cache is away or slow for a while.
    fn lasts(self) -> bool {
        matches!(self, Kind::Away | Kind::Slow | Kind::Left)
    }
}

/// How a life of the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Killed,
    Stopped,
}

/// When things happen.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    /// The fault.
    pub at: Instant,
    /// The writers' last commit.
    pub written: Instant,
    /// Replies are lost between these two.
    pub troubles: std::ops::Range<Instant>,
    pub faults_end: Instant,
    /// How long one of several caches is away or slow.
    pub wrong: Duration,
    /// Whether the walsender sends keepalives. Without them only a commit brings a position.
    pub chatty: bool,
    /// Ends of lives of the first daemon, the last first.
    pub ends: Vec<(Instant, End)>,
    /// A second daemon stands by.
    pub two: bool,
    /// Gaps are only warned of, and nothing is lost.
    pub warns: bool,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    pub fn new(kind: Kind, dice: &mut Dice) -> Plan {
        let (now, chatty) = (Instant::now(), dice.one_in(2));
        if kind == Kind::Chaos {
            let faults_end = now + ms(dice.roll(600));
            return Plan {
                kind,
                at: now,
                written: now + ms(600),
                troubles: now..faults_end,
                faults_end,
                wrong: Duration::ZERO,
                chatty,
                ends: Vec::new(),
                two: false,
                warns: false,
            };
        }
        let at = now + ms(450 + dice.roll(300)) + Duration::from_micros(dice.roll(1_000));
        let wrong = match kind {
            Kind::Left | Kind::Mixed => ms(600 + dice.roll(1_500)),
            _ if kind.lasts() => ms(200 + dice.roll(1_200)),
            _ => Duration::ZERO,
        };
        let written = match kind {
            Kind::Away | Kind::Slow | Kind::Left | Kind::Mixed => at + wrong + ms(dice.roll(100)),
            Kind::Publication | Kind::AlteredAway => at + ms(400),
            Kind::RestartThenBack | Kind::Lookups => at + ms(150),
            // The last position may be the one that waits for its mark when the cache goes back.
            _ => at + ms(dice.roll(100)) - ms(20),
        };
        let troubled = if !kind.lasts() && dice.one_in(3) { ms(dice.roll(100)) } else { Duration::ZERO };
        let mut ends: Vec<(Instant, End)> = match kind {
            Kind::Killed => vec![(at + ms(dice.roll(150)), End::Killed), (at, End::Killed)],
            Kind::Stopped => vec![(at + ms(dice.roll(150)), End::Stopped), (at, End::Stopped)],
            Kind::Takeover => match dice.roll(3) {
                0 => vec![(at, End::Killed)],
                1 => vec![(at, End::Stopped)],
                _ => Vec::new(),
            },
            Kind::Mixed => (0..dice.roll(3))
                .map(|_| {
                    let end = if dice.one_in(4) { End::Stopped } else { End::Killed };
                    (at + ms(dice.roll(300 + wrong.as_millis() as u64)), end)
                })
                .collect(),
            // While the position goes on without the cache, or when the cache is back.
            Kind::Left if dice.one_in(2) => {
                let end = if dice.one_in(5) { End::Stopped } else { End::Killed };
                vec![(at + ms(dice.roll(300 + wrong.as_millis() as u64)), end)]
            }
            _ if dice.one_in(3) => vec![(at + ms(dice.roll(200)), End::Killed)],
            _ => Vec::new(),
        };
        ends.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let two = matches!(kind, Kind::Takeover | Kind::Stalled) || (kind == Kind::Mixed && dice.one_in(3));
        let faults_end = at + wrong + if kind == Kind::Mixed { ms(1_200) } else { ms(450) };
        let troubles = if kind == Kind::Requests { now..faults_end } else { at..at + troubled };
        Plan { kind, at, written, troubles, faults_end, wrong, chatty, ends, two, warns: false }
    }
}

impl Plan {
    /// The daemon lives on, and what is away is so for this long at least.
    pub fn lasts_longer(&mut self, wrong: Duration) {
        let more = wrong.saturating_sub(self.wrong);
        (self.wrong, self.written, self.faults_end) = (self.wrong + more, self.written + more, self.faults_end + more);
        // A start brings everything again that waits, for longer than the others may take.
        self.ends.clear();
    }
}

/// Does what the plan says; a moment is left to the dice wherever the order of two steps may matter.
pub async fn happen(world: Shared) {
    let plan = world.borrow().plan.clone();
    let victim = world.borrow().victim;
    // A copy that lacks few deletes often holds the very mark that was written last.
    let age = {
        let mut world = world.borrow_mut();
        let most_ms = if world.dice.one_in(2) { 40 } else { 200 };
        world.pause(most_ms)
    };
    match plan.kind {
        Kind::Chaos => {
            let most_ms = 10 + world.borrow_mut().dice.roll(200);
            super::world::chaos(world, most_ms).await;
        }
        Kind::GoesBack | Kind::Flaky | Kind::Requests => go_back(&world, victim, plan.at - age, age).await,
        Kind::GoesBackTwice => {
            go_back(&world, victim, plan.at - age, age).await;
            let (wait, age) = pauses(&world, 30, 30);
            let second = world.borrow_mut().a_store();
            go_back(&world, second, Instant::now() + wait, age).await;
        }
        Kind::Emptied => emptied(&world, plan.at).await,
        Kind::Publication => for_a_while(&world, plan.at, 200, |world, is| world.publish(!is)).await,
        Kind::Full => for_a_while(&world, plan.at, 300, |world, is| world.stores[victim].full = is).await,
        Kind::Restart => once(&world, plan.at, |world| world.borrow_mut().crash()).await,
        Kind::NewSlot => {
            once(&world, plan.at - ms(140), |world| world.borrow_mut().cut_outbox()).await;
            once(&world, plan.at, |world| world.borrow_mut().lose_slot()).await;
            cut_ahead_of_the_look(&world, victim).await;
        }
        Kind::ControlLost => once(&world, plan.at, |world| world.borrow_mut().control_lost = true).await,
        Kind::Streamed | Kind::Cut | Kind::Late => once(&world, plan.at, |world| world.borrow_mut().cut()).await,
        Kind::Failover => {
            // The standby often does not know of the last connection: an era comes again.
            once(&world, plan.at - ms(140), |world| world.borrow_mut().cut_outbox()).await;
            once(&world, plan.at, |world| world.borrow_mut().fail_over()).await;
        }
        Kind::RestartThenBack => {
            sleep_until(plan.at - age / 2).await;
            let copy = world.borrow().stores[victim].cache.clone();
            once(&world, plan.at, |world| world.borrow_mut().crash()).await;
            let wait = world.borrow_mut().pause(300);
            sleep(ms(100) + wait).await;
            world.borrow_mut().become_copy(victim, copy);
        }
        Kind::AlteredAway => altered_away(&world, plan.at, age).await,
        Kind::Lookups => {
            once(&world, plan.at, |world| world.borrow_mut().unanswered = true).await;
            let wait = world.borrow_mut().pause(50);
            go_back(&world, victim, Instant::now() + wait, age / 2).await;
            let wait = world.borrow_mut().pause(50);
            sleep(wait).await;
            world.borrow_mut().unanswered = false;
        }
        Kind::Takeover if plan.ends.is_empty() => once(&world, plan.at, |world| world.borrow_mut().cut()).await,
        Kind::Overflow => for_a_while(&world, plan.at - age, 3_000, |world, is| world.tables().full = is).await,
        Kind::Stalled => outbox::stall(world, plan.at).await,
        Kind::Recorded => for_a_while(&world, plan.at - age, 400, |world, is| world.tables().recording = is).await,
        Kind::Mixed => mixed(&world, &plan).await,
        Kind::Away | Kind::Left => away(&world, plan.at, plan.wrong).await,
        Kind::Slow => {
            sleep_until(plan.at).await;
            let slow_ms = 50 + world.borrow_mut().dice.roll(400);
            world.borrow_mut().stores[victim].slow_ms = slow_ms;
            sleep(plan.wrong).await;
            world.borrow_mut().stores[victim].slow_ms = 0;
        }
        Kind::Replicas | Kind::Killed | Kind::Stopped | Kind::Takeover | Kind::Plain | Kind::Budget => {}
    }
}

fn pauses(world: &Shared, first_ms: u64, second_ms: u64) -> (Duration, Duration) {
    let mut world = world.borrow_mut();
    (world.pause(first_ms), world.pause(second_ms))
}

/// Something is so from then on, and ends by itself.
async fn for_a_while(world: &Shared, at: Instant, most_ms: u64, set: impl Fn(&mut World, bool)) {
    sleep_until(at).await;
    set(&mut world.borrow_mut(), true);
    let wait = world.borrow_mut().pause(most_ms);
    sleep(wait).await;
    set(&mut world.borrow_mut(), false);
}

async fn once(world: &Shared, at: Instant, fault: impl Fn(&Shared)) {
    sleep_until(at).await;
    fault(world);
}

/// The cache is slow, and the first stream of a new slot ends before anybody looked at the mark.
async fn cut_ahead_of_the_look(world: &Shared, victim: usize) {
    if world.borrow_mut().dice.one_in(2) {
        return;
    }
    world.borrow_mut().stores[victim].slow_ms = 400;
    let wait = world.borrow_mut().pause(150);
    sleep(wait).await;
    world.borrow_mut().cut();
    let wait = world.borrow_mut().pause(100);
    sleep(wait).await;
    world.borrow_mut().stores[victim].slow_ms = 0;
}

/// Nobody reaches a cache; where it was restarted meanwhile, it has less than before.
async fn away(world: &Shared, at: Instant, wrong: Duration) {
    let victim = world.borrow().victim;
    let age = world.borrow_mut().pause(200);
    sleep_until(at - age).await;
    let copy = world.borrow().stores[victim].cache.clone();
    sleep_until(at).await;
    world.borrow_mut().stores[victim].away = true;
    let back = Instant::now() + wrong;
    let cut = {
        let mut world = world.borrow_mut();
        let cuts = world.plan.kind == Kind::Left && world.dice.one_in(2);
        cuts.then(|| world.pause(wrong.as_millis() as u64))
    };
    if let Some(wait) = cut {
        // The next stream begins past what the mark of this cache says, and memory alone leads up to there.
        sleep(wait).await;
        world.borrow_mut().cut();
    }
    sleep_until(back).await;
    let mut world = world.borrow_mut();
    world.goes_on_without(wrong);
    world.stores[victim].away = false;
    match world.dice.roll(3) {
        0 => {}
        // Nobody can say what a sink holds: one that went back looks like any other.
        1 if world.stores[victim].is_sink => {}
        1 => world.become_copy(victim, copy),
        _ => world.lose_all(victim),
    }
}

/// The slot is somebody else's for a while: as a server sees it that does not know yet that a connection is gone. The cache
/// may go back meanwhile, to a copy of just before.
async fn occupied(world: &Shared, goes_back: bool) {
    let victim = world.borrow().victim;
    let copy = world.borrow().stores[victim].cache.clone();
    let wait = world.borrow_mut().pause(60);
    sleep(wait).await;
    {
        let mut world = world.borrow_mut();
        world.cut();
        world.owner = Some(SOMEBODY);
    }
    let (first, second) = pauses(world, 400, 300);
    sleep(first).await;
    if goes_back {
        world.borrow_mut().become_copy(victim, copy);
    }
    sleep(second).await;
    let mut world = world.borrow_mut();
    world.owner = world.owner.filter(|owner| *owner != SOMEBODY);
}

/// No daemon of the seed.
const SOMEBODY: u32 = 99;

/// Faults that meet: something is wrong with a cache, and meanwhile the stream ends in one way or another.
async fn mixed(world: &Shared, plan: &Plan) {
    let victim = world.borrow().victim;
    let age = world.borrow_mut().pause(200);
    sleep_until(plan.at - age).await;
    let copy = world.borrow().stores[victim].cache.clone();
    sleep_until(plan.at).await;
    let back = Instant::now() + plan.wrong;
    let count = {
        let mut world = world.borrow_mut();
        let slow_ms = 50 + world.dice.roll(400);
        match world.dice.roll(4) {
            0 => world.stores[victim].away = true,
            1 => world.stores[victim].slow_ms = slow_ms,
            2 => world.stores[victim].full = true,
            _ => {}
        }
        1 + world.dice.roll(3)
    };
    for _ in 0..count {
        let wait = world.borrow_mut().pause(plan.wrong.as_millis() as u64 / 2);
        sleep(wait).await;
        // Where gaps are only told nothing may be lost.
        let event = world.borrow_mut().dice.roll(if plan.warns { 4 } else { 12 });
        meets(world, event).await;
    }
    sleep_until(back).await;
    let mut world = world.borrow_mut();
    let store = &mut world.stores[victim];
    (store.away, store.full, store.slow_ms) = (false, false, 0);
    match world.dice.roll(6) {
        _ if plan.warns => {}
        0 => world.become_copy(victim, copy),
        1 => world.lose_all(victim),
        _ => {}
    }
}

/// One of the faults that meet another; the first four lose nothing.
async fn meets(world: &Shared, event: u64) {
    match event {
        0 | 1 => world.borrow_mut().cut(),
        2 => occupied(world, false).await,
        // Altered, and nothing stays out of the stream.
        3 => world.borrow_mut().publish(true),
        4 => occupied(world, true).await,
        5 => world.borrow_mut().lose_slot(),
        6 => world.borrow_mut().crash(),
        7 => {
            world.borrow_mut().publish(false);
            let wait = world.borrow_mut().pause(100);
            sleep(wait).await;
            world.borrow_mut().publish(true);
        }
        8 => {
            let victim = world.borrow().victim;
            let copy = world.borrow().stores[victim].cache.clone();
            let wait = world.borrow_mut().pause(100);
            sleep(wait).await;
            world.borrow_mut().become_copy(victim, copy);
        }
        // Somebody moves the slot on.
        9 => {
            world.borrow_mut().new_slot();
            world.borrow_mut().cut();
        }
        10 => world.borrow_mut().control_lost = true,
        _ => world.borrow_mut().fail_over(),
    }
}

/// Another server answers; its copy was made `age` before.
async fn go_back(world: &Shared, store: usize, copied: Instant, age: Duration) {
    sleep_until(copied).await;
    let copy = world.borrow().stores[store].cache.clone();
    sleep(age).await;
    // What was answered by then may be on its way still.
    if world.borrow_mut().dice.one_in(2) {
        late_answer(world, store).await;
    }
    world.borrow_mut().become_copy(store, copy);
}

async fn late_answer(world: &Shared, store: usize) {
    for _ in 0..100 {
        if world.borrow().stores[store].late {
            return;
        }
        sleep(ms(1)).await;
    }
}

/// A table is not published for a moment, and the daemon sees only the end of it.
async fn altered_away(world: &Shared, at: Instant, age: Duration) {
    let victim = world.borrow().victim;
    sleep_until(at - age).await;
    let copy = world.borrow().stores[victim].cache.clone();
    sleep_until(at).await;
    let crashes = world.borrow_mut().dice.one_in(2);
    if crashes {
        world.borrow_mut().crash();
    }
    world.borrow_mut().publish(false);
    let (first, second) = pauses(world, 40, 8);
    sleep(first).await;
    if !crashes {
        world.borrow_mut().become_copy(victim, copy);
    }
    sleep(second).await;
    world.borrow_mut().publish(true);
}

/// An empty cache; half of the time it then goes back to a copy that has no mark either, while the first sweep runs, or
/// behind it when no mark could be written.
async fn emptied(world: &Shared, at: Instant) {
    sleep_until(at).await;
    let victim = world.borrow().victim;
    let (again, full) = {
        let mut world = world.borrow_mut();
        world.lose_all(victim);
        let full = world.dice.one_in(3);
        world.stores[victim].full = full;
        (full || world.dice.one_in(2), full)
    };
    if again {
        let most_ms = if full { 150 } else { 30 };
        let (wait, age) = pauses(world, most_ms, 20);
        go_back(world, victim, at + wait, age).await;
    }
    let wait = world.borrow_mut().pause(60);
    sleep(wait).await;
    world.borrow_mut().stores[victim].full = false;
}
