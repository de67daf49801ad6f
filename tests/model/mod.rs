//! Every interleaving of a small world: what the guarantee needs, shown by what happens without it.
//!
//! The table below is data: a configuration names readers, writers, faults and the guards that are missing, and says
//! whether the search must find a stale value or none. A trace that is found is printed, shortest first.

mod cases;
mod daemon;
mod held;
mod search;
mod two;
mod world;

use std::fmt::{Display, Formatter};
use std::time::Instant;

use search::{Seen, System, search};
use world::{Copied, Set, State, Tx};

/// How readers fill the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// GET, SELECT, SET.
    Plain,
    /// SET NX of a token at the key, SELECT, compare-and-set.
    LeaseInKey,
    /// The token is at `lease:{K}`.
    Companion,
}

/// Commands of readers that are executed again, late: the client sent them twice, or something between did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// The take of a lease whose text is the same each time.
    Take,
    /// The take by the script, which makes another lease each time it runs.
    TakeAnew,
    Store,
    /// Readers give leases back, too, and that twice.
    GiveBack,
}

/// What a transaction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// Changes the key's row and commits.
    Commits,
    /// The same with `synchronous_commit = off`.
    Asynchronous,
    /// Changes it and rolls back.
    Aborts,
    /// Changes a row that no rule names.
    Elsewhere,
}

/// What keeps the guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Keys wait for a snapshot that contains their transaction.
    Gate,
    /// The gate waits for the readers' replica.
    Replica,
    /// Deletes come again for plain readers.
    Echo,
    /// The mark is compared.
    Mark,
    /// The mark names the server's run.
    Run,
    /// What the ring covers is deleted again, not only taken as covered.
    Ring,
    /// A sweep waits for transactions that are older than the slot.
    WaitForOld,
    /// A new connection says whether it leads to another cache.
    Identity,
    /// The mark's script asks the cache who it is.
    ServerInMark,
    /// A heartbeat brings the first mark behind a gap.
    Beat,
    /// A sweep visits every companion lease before it visits keys.
    LeasesFirst,
    /// A mark carries what was deleted since the last one, where the cache does not say who it is.
    Carried,
}

/// What goes wrong, once for each time that it is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An older copy of the cache takes over; connections break.
    Failover,
    /// The same behind a proxy: no connection of the daemon breaks.
    FailoverUnseen,
    /// The cache forgets everything.
    CacheEmptied,
    /// The answer to a mark is lost.
    ReplyLost,
    DaemonCrash,
    PostgresCrash,
    SlotLost,
}

impl Fault {
    pub const ALL: [Fault; 7] = [
        Fault::Failover,
        Fault::FailoverUnseen,
        Fault::CacheEmptied,
        Fault::ReplyLost,
        Fault::DaemonCrash,
        Fault::PostgresCrash,
        Fault::SlotLost,
    ];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    Safe,
    /// A stale value stays.
    Fails,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Config {
    pub name: &'static str,
    pub protocol: Protocol,
    pub writers: &'static [Writer],
    pub readers: usize,
    /// How often each reader may fill.
    pub rounds: u8,
    /// What is executed a second time, at any time later.
    pub repeats: &'static [Repeat],
    /// Leases may expire at any time.
    pub expiry: bool,
    /// Readers read a replica.
    pub replica: bool,
    /// Keys are also deleted ahead of the gate.
    pub early: bool,
    /// What the ring covers needs no sweep.
    pub ring: bool,
    /// The cache does not say which server it is.
    pub nameless: bool,
    pub without: &'static [Guard],
    pub faults: &'static [Fault],
    pub expected: Expected,
}

impl Config {
    pub fn lacks(&self, guard: Guard) -> bool {
        self.without.contains(&guard)
    }

    /// The mark's script asks the server who it is.
    pub fn asks_who(&self) -> bool {
        !self.nameless && !self.lacks(Guard::ServerInMark)
    }

    /// Readers with leases need no echo.
    pub fn echoes(&self) -> bool {
        self.protocol == Protocol::Plain && !self.lacks(Guard::Echo)
    }
}

/// A line of a trace.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Write(usize, Tx),
    Flush,
    Replay,
    Lease(usize),
    Read(usize),
    Store(usize),
    GiveBack(usize),
    Late(Copied),
    Expire,
    Lag,
    Fault(Fault),
    SlotWentBack,
    NewSlot,
    StartDaemon,
    StrayMark,
    Connect,
    Receive,
    DeleteEarly,
    Snapshot,
    Deliver,
    Again,
    Echo,
    ReadMark,
    WriteMark,
    ReplyLost,
    CommandLost,
    Status,
    SweepLease,
    SweepKey,
    SweepEnds,
    Heartbeat,
    EldersEnded,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Step::Write(tx, to) => {
                let what = match to {
                    Tx::Waiting => "waits",
                    Tx::Running => "changes the row",
                    Tx::Logged => "commits: its record is in the WAL, nobody sees it",
                    Tx::Visible => "becomes visible",
                    Tx::Gone => "rolls back",
                };
                return write!(f, "T{tx} {what}");
            }
            Step::Lease(reader) => return write!(f, "reader {reader} takes a lease"),
            Step::Read(reader) => return write!(f, "reader {reader} selects"),
            Step::Store(reader) => return write!(f, "reader {reader} stores what it selected"),
            Step::GiveBack(reader) => return write!(f, "reader {reader} gives its lease back"),
            Step::Late(Copied::Take(_)) => "AGAIN, late: a lease is taken that was taken before",
            Step::Late(Copied::Store(..)) => "AGAIN, late: a store",
            Step::Late(Copied::GiveBack(_)) => "AGAIN, late: a lease is given back",
            Step::Fault(fault) => return write!(f, "FAULT: {}", fault_text(*fault)),
            Step::Flush => "the WAL is flushed",
            Step::Replay => "the read replica replays one commit",
            Step::Expire => "the lease expires",
            Step::Lag => "the cache's copy stops following",
            Step::SlotWentBack => "FAULT: PostgreSQL crashes, recovers, and the slot's position is an older one",
            Step::NewSlot => "the daemon creates the slot anew",
            Step::StrayMark => "the mark of the dead daemon arrives",
            Step::StartDaemon => "the daemon starts",
            Step::Connect => "the daemon connects: the server says its run and the slot's position",
            Step::Receive => "the daemon receives a commit",
            Step::DeleteEarly => "the daemon deletes the key ahead of the gate",
            Step::Snapshot => "the daemon takes a snapshot",
            Step::Deliver => "the daemon deletes the key; every reply is read",
            Step::Again => "the daemon deletes again what the cache may lack",
            Step::Echo => "the daemon deletes the key again: an echo",
            Step::ReadMark => "the daemon reads the mark and compares it",
            Step::WriteMark => "the daemon swaps the mark",
            Step::ReplyLost => "FAULT: the mark is written and the answer lost",
            Step::CommandLost => "FAULT: the mark is lost on its way",
            Step::EldersEnded => "the daemon sees that what was open at the gap has ended",
            Step::Status => "the daemon confirms the position to PostgreSQL",
            Step::SweepLease => "the sweep visits the lease",
            Step::SweepKey => "the sweep visits the key",
            Step::SweepEnds => "the sweep ends",
            Step::Heartbeat => "the idle daemon tries to write its mark and finds another",
        };
        f.write_str(text)
    }
}

fn fault_text(fault: Fault) -> &'static str {
    match fault {
        Fault::Failover => "the cache fails over to the copy, connections break",
        Fault::FailoverUnseen => "the cache fails over to the copy behind a proxy, no connection breaks",
        Fault::CacheEmptied => "the cache forgets everything",
        Fault::ReplyLost => "an answer is lost",
        Fault::DaemonCrash => "kill -9 of the daemon",
        Fault::PostgresCrash => "PostgreSQL crashes and recovers",
        Fault::SlotLost => "the slot is lost",
    }
}

/// A set of transactions as a trace shows it.
pub fn transactions(set: Set) -> String {
    let names = (0..8).filter(|tx| set & world::bit(*tx) != 0).map(|tx| format!("T{tx}"));
    format!("{{{}}}", names.collect::<Vec<_>>().join(" "))
}

impl System for Config {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State::new(self)
    }

    fn each(&self, state: &State, found: &mut dyn FnMut(Step, State)) {
        state.each(self, found);
        state.each_of_daemon(self, found);
    }

    fn wrong(&self, state: &State, at_rest: bool) -> Option<String> {
        state.wrong(self, at_rest)
    }
}

/// A bound that only a mistake in a configuration reaches.
const STATES_MAX: usize = 2_000_000;

/// A row of a table.
trait Case: System {
    fn name(&self) -> &str;
    fn expected(&self) -> Expected;
}

impl Case for Config {
    fn name(&self) -> &str {
        self.name
    }

    fn expected(&self) -> Expected {
        self.expected
    }
}

fn report<S: Display>(name: &str, seen: &Seen<S>, seconds: f64) {
    let verdict = if seen.failure.is_some() { "FAILS" } else { "safe" };
    let (states, transitions) = (seen.states, seen.transitions);
    println!("{verdict:5} {states:8} states {transitions:9} transitions {seconds:5.2} s  {name}");
    if let Some((wrong, trace)) = &seen.failure {
        for (number, step) in trace.iter().enumerate() {
            println!("      {:3}. {step}", number + 1);
        }
        println!("           {wrong}");
    }
}

/// `MODEL` runs only the configurations whose name contains it.
fn check<C: Case<Step: Display>>(cases: &[C]) {
    let only = std::env::var("MODEL").ok();
    let (mut states, mut transitions, mut surprises) = (0, 0, Vec::new());
    let wanted = |case: &&C| only.as_ref().is_none_or(|only| case.name().contains(only.as_str()));
    for case in cases.iter().filter(wanted) {
        let began = Instant::now();
        let seen = search(case, STATES_MAX);
        report(case.name(), &seen, began.elapsed().as_secs_f64());
        states += seen.states;
        transitions += seen.transitions;
        let found = match &seen.failure {
            Some((wrong, _)) if !wrong.contains("stale") => {
                surprises.push(format!("{}: {wrong}", case.name()));
                Expected::Fails
            }
            Some(_) => Expected::Fails,
            None => Expected::Safe,
        };
        if found != case.expected() {
            surprises.push(format!("{}: expected {:?}, found {found:?}", case.name(), case.expected()));
        }
    }
    println!("{states} states, {transitions} transitions together");
    assert!(surprises.is_empty(), "again with --nocapture and MODEL=name\n{}", surprises.join("\n"));
}

#[test]
fn the_naive_order_fails_for_every_reader_and_ours_does_not() {
    check(&cases::orders());
}

#[test]
fn every_guard_is_needed() {
    check(&cases::guards());
}

#[test]
fn no_cache_that_went_back_keeps_a_stale_value() {
    check(&cases::caches());
}

#[test]
fn a_cache_without_a_name_keeps_a_stale_value_only_where_no_connection_breaks() {
    check(&cases::nameless());
}

#[test]
fn no_server_that_forgot_leaves_a_stale_value() {
    check(&cases::servers());
}

#[test]
fn a_take_that_runs_again_is_a_hole_and_two_ways_close_it() {
    let (holes, closed) = (cases::holes(), cases::closed());
    check(&holes);
    check(&closed);
    for hole in &holes {
        let (_, trace) = search(hole, STATES_MAX).failure.expect("it was found just now");
        let place = |wanted: fn(&Step) -> bool| trace.iter().position(wanted);
        let deleted = place(|step| matches!(step, Step::Deliver));
        let again = place(|step| matches!(step, Step::Late(Copied::Take(_))));
        // A store that runs again is no better than the first, once its lease is back.
        let stored = trace.iter().rposition(|step| matches!(step, Step::Store(_) | Step::Late(Copied::Store(..))));
        assert!(deleted.is_some() && deleted < again && again < stored, "{}: {trace:?}", hole.name);
    }
}
