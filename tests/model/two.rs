//! Every interleaving of one daemon with two caches, of which any may be away, be left behind and come back.
//!
//! Real code in here: `ledger::hold` says who is released, who holds again and how far the position goes; `mark::gap`,
//! `target::proof::meaning` and `target::proof::proven` judge the mark of a cache that is met again. One key, whose value
//! is how many commits were made. What the larger world beside this one shows of one cache is taken for granted: keys leave
//! when their commit is visible, and no reader stores late. So a commit, a read with its store, and a delete with its answer
//! are one step each.

use std::fmt;

use crieur::cache::continuity::Continuity;
use crieur::ledger::hold::{HOLDS_FOR_EVER, Hold, HoldStanding, HoldVerdict, given_on, verdict};
use crieur::lsn::Lsn;
use crieur::target::proof::{Fit, Meaning, Slot, meaning, proven};

use super::daemon::{Start, gap};
use super::search::{System, search};
use super::world::Mark;
use super::{Case, Expected, STATES_MAX, check};

const CACHES: [usize; 2] = [0, 1];

/// What a cache may hold back, in commits: with two it is released.
const LIMIT: u64 = 1;

/// What keeps the guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Guard {
    /// A cache whose mark is behind the start of the stream is swept.
    Return,
    /// What is too much to be remembered by key is owed as a sweep.
    Owed,
    /// The position waits for those that hold it.
    Holding,
    /// A mark says no more than what this very cache has answered.
    OwnAnswers,
    /// Nor does it say the start of a stream that memory alone leads up to.
    Proven,
}

/// What happens, once for each time that it is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The daemon does not reach a cache for a while; readers do.
    Cut,
    /// What waits for a cache becomes too much for the memory.
    TooMuch,
    /// kill -9 of the daemon.
    Crash,
    /// The connection to PostgreSQL ends, and the stream starts at the slot's position.
    Reconnect,
}

const FAULTS: [Fault; 4] = [Fault::Cut, Fault::TooMuch, Fault::Crash, Fault::Reconnect];

/// What is looked for, to see that the search comes there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    /// One cache is left behind while the other holds, and the position is past the mark of the one.
    LeftBehind,
    /// The same process has a cache hold again that it had released.
    HoldsAgain,
    /// A cache that was left behind is swept by another process.
    SweptAtReturn,
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Two {
    name: &'static str,
    commits: u8,
    /// `hold_wal_bytes_max` of each.
    limits: [u64; 2],
    without: &'static [Guard],
    faults: &'static [Fault],
    goal: Option<Goal>,
    expected: Expected,
}

/// A cache, and how often its readers may still fill it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Cache {
    value: Option<u8>,
    mark: u8,
    is_cut: bool,
    reads: u8,
}

/// What the daemon has of a cache.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Target {
    is_released: bool,
    was_released: bool,
    /// Its mark was looked at since the stream started.
    is_compared: bool,
    /// Up to where its mark reaches, as far as this process knows.
    marked: Option<u8>,
    /// Up to where the cache has answered deletes of what was handed over to this process.
    answered: u8,
    /// What the last comparison proves: the least that the next mark says.
    proven: u8,
    /// Nobody knows the keys any more.
    owes_sweep: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Daemon {
    /// Where its stream started.
    start: u8,
    /// Up to where everything was handed to both.
    handed: u8,
    targets: [Target; 2],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    commits: u8,
    /// The slot's `confirmed_flush_lsn`.
    slot: u8,
    caches: [Cache; 2],
    daemon: Option<Daemon>,
    faults: [u8; FAULTS.len()],
    swept_at_return: bool,
}

/// A line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Commit,
    Fill(usize),
    Cut(usize),
    Mend(usize),
    TooMuch(usize),
    Crash,
    Begin,
    Reconnect,
    Receive,
    Compare(usize),
    Delete(usize),
    Sweep(usize),
    WriteMark(usize),
    Release(usize),
    HoldAgain(usize),
    Confirm,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Commit => write!(f, "the row changes, and everybody sees it"),
            Step::Fill(cache) => write!(f, "a reader of cache {cache} misses, selects and stores"),
            Step::Cut(cache) => write!(f, "FAULT: the daemon does not reach cache {cache}"),
            Step::Mend(cache) => write!(f, "the daemon reaches cache {cache} again"),
            Step::TooMuch(cache) => write!(f, "FAULT: what waits for cache {cache} is too much for the memory"),
            Step::Crash => write!(f, "FAULT: kill -9 of the daemon"),
            Step::Begin => write!(f, "the daemon starts at the slot's position"),
            Step::Reconnect => write!(f, "FAULT: the stream ends, and starts at the slot's position"),
            Step::Receive => write!(f, "the daemon receives a commit and hands it to both"),
            Step::Compare(cache) => write!(f, "the daemon reads the mark of cache {cache} and compares it"),
            Step::Delete(cache) => write!(f, "cache {cache} deletes the key"),
            Step::Sweep(cache) => write!(f, "cache {cache} is swept"),
            Step::WriteMark(cache) => write!(f, "the daemon writes the mark of cache {cache}"),
            Step::Release(cache) => write!(f, "the position goes on without cache {cache}"),
            Step::HoldAgain(cache) => write!(f, "the position waits for cache {cache} again"),
            Step::Confirm => write!(f, "the daemon confirms the position to PostgreSQL"),
        }
    }
}

impl Target {
    fn new(start: u8) -> Target {
        Target {
            is_released: false,
            was_released: false,
            is_compared: false,
            marked: None,
            answered: start,
            proven: 0,
            owes_sweep: false,
        }
    }

    fn hold(&self) -> Hold {
        if self.is_released { Hold::Released } else { Hold::Holds }
    }

    /// The real table's word. Time does not exist: what waits may be late at any moment.
    fn verdict(&self, daemon: &Daemon, limit: u64, end: u8) -> HoldVerdict {
        let waits = self.answered < daemon.handed || self.owes_sweep;
        let standing = HoldStanding {
            marked: self.marked.map(|marked| Lsn(marked.into())),
            start: Lsn(daemon.start.into()),
            owes: waits || self.marked < Some(daemon.handed),
            is_behind: waits,
            is_late: true,
            is_proven: self.is_compared && !self.owes_sweep,
        };
        verdict(self.hold(), limit, &standing, Lsn(end.into()), None)
    }
}

impl Daemon {
    fn started(slot: u8) -> Daemon {
        Daemon { start: slot, handed: slot, targets: CACHES.map(|_| Target::new(slot)) }
    }

    /// Where the position may go: the real rule, or what was handed over.
    fn given_on(&self, two: &Two) -> Option<u8> {
        if two.lacks(Guard::Holding) {
            return Some(self.handed);
        }
        given_on(self.targets.iter().map(|target| (target.hold(), target.marked, Some(self.handed))))
    }
}

impl State {
    fn take(&mut self, fault: Fault) -> bool {
        let left = &mut self.faults[fault as usize];
        let is_there = *left > 0;
        *left -= u8::from(is_there);
        is_there
    }

    /// What anybody but the daemon does.
    fn outside(&mut self, step: Step, two: &Two) -> Option<()> {
        match step {
            Step::Commit if self.commits < two.commits => self.commits += 1,
            Step::Fill(cache) => {
                let cache = &mut self.caches[cache];
                cache.reads = cache.reads.checked_sub(1).filter(|_| cache.value.is_none())?;
                cache.value = Some(self.commits);
            }
            Step::Cut(cache) if !self.caches[cache].is_cut && self.take(Fault::Cut) => self.caches[cache].is_cut = true,
            Step::Mend(cache) if self.caches[cache].is_cut => self.caches[cache].is_cut = false,
            Step::Crash if self.daemon.is_some() && self.take(Fault::Crash) => self.daemon = None,
            Step::Begin if self.daemon.is_none() => self.daemon = Some(Daemon::started(self.slot)),
            _ => return None,
        }
        Some(())
    }

    /// What the daemon does without a word to a cache.
    fn inside(&mut self, step: Step, two: &Two) -> Option<()> {
        let slot = self.slot;
        let reconnects = step == Step::Reconnect && self.take(Fault::Reconnect);
        let is_too_much = matches!(step, Step::TooMuch(_)) && self.take(Fault::TooMuch);
        let daemon = self.daemon.as_mut()?;
        let word =
            |daemon: &Daemon, cache: usize| daemon.targets[cache].verdict(daemon, two.limits[cache], self.commits);
        match step {
            Step::Receive if daemon.handed < self.commits => daemon.handed += 1,
            // What was handed over stays in memory, and what comes again is handed over again.
            Step::Reconnect if reconnects => {
                daemon.start = slot;
                daemon.targets.iter_mut().for_each(|target| target.is_compared = false);
            }
            Step::TooMuch(cache) if is_too_much && daemon.targets[cache].answered < daemon.handed => {
                daemon.targets[cache].answered = daemon.handed;
                daemon.targets[cache].owes_sweep |= !two.lacks(Guard::Owed);
            }
            Step::Release(cache) if matches!(word(daemon, cache), HoldVerdict::Release(_)) => {
                (daemon.targets[cache].is_released, daemon.targets[cache].was_released) = (true, true);
            }
            Step::HoldAgain(cache) if word(daemon, cache) == HoldVerdict::Hold => {
                daemon.targets[cache].is_released = false
            }
            Step::Confirm => self.slot = daemon.given_on(two).filter(|upto| *upto > slot)?,
            _ => return None,
        }
        Some(())
    }

    /// A command to a cache that is reached, and its answer.
    fn command(&mut self, step: Step, two: &Two) -> Option<()> {
        let (Step::Compare(at) | Step::Delete(at) | Step::Sweep(at) | Step::WriteMark(at)) = step else { return None };
        let (daemon, cache) = (self.daemon.as_mut()?, &mut self.caches[at]);
        let (start, handed, target) = (daemon.start, daemon.handed, &mut daemon.targets[at]);
        if cache.is_cut {
            return None;
        }
        match step {
            Step::Compare(_) if !target.is_compared => {
                let is_first = target.marked.is_none();
                let found = Mark { lsn: cache.mark.into(), run: 0, nonce: 0 };
                let gap = gap(Some(found), Start::of_run(0, start.into()));
                let is_left_behind = is_first && gap.is_some();
                let gap = gap.filter(|_| !two.lacks(Guard::Return));
                let fit = if is_first { Fit::First } else { Fit::Ours };
                let slot = if is_first || handed < start { Slot::MovedOn } else { Slot::Continued };
                let meaning = meaning(fit, Continuity::Same, slot, gap.clone());
                if let Some(upto) = proven(matches!(meaning, Meaning::Sweep(_)), slot, gap.as_ref(), Lsn(start.into()))
                {
                    target.proven = if two.lacks(Guard::Proven) { start } else { upto.0 as u8 };
                }
                match meaning {
                    Meaning::Holds | Meaning::Covered => {}
                    Meaning::Sweep(_) => target.owes_sweep = true,
                    other => panic!("{other:?} of a cache that stays the same"),
                }
                (target.is_compared, target.marked) = (true, Some(cache.mark));
                self.swept_at_return |= is_left_behind && target.owes_sweep;
            }
            Step::Delete(_) if target.answered < handed => (cache.value, target.answered) = (None, handed),
            Step::Sweep(_) if target.is_compared && target.owes_sweep => {
                (cache.value, target.answered, target.owes_sweep) = (None, handed, false);
            }
            Step::WriteMark(_) if target.is_compared && !target.owes_sweep => {
                let answered = if two.lacks(Guard::OwnAnswers) { handed } else { target.answered };
                let upto = answered.max(target.proven);
                cache.mark = Some(upto).filter(|upto| *upto > cache.mark)?;
                target.marked = Some(cache.mark);
            }
            _ => return None,
        }
        Some(())
    }

    fn is_at(&self, goal: Goal) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        CACHES.into_iter().any(|one| {
            let (target, other) = (&daemon.targets[one], &daemon.targets[1 - one]);
            match goal {
                Goal::LeftBehind => {
                    target.is_released && !other.is_released && target.marked.is_some_and(|marked| marked < self.slot)
                }
                Goal::HoldsAgain => target.was_released && !target.is_released,
                Goal::SweptAtReturn => self.swept_at_return,
            }
        })
    }
}

impl Two {
    fn lacks(&self, guard: Guard) -> bool {
        self.without.contains(&guard)
    }
}

impl System for Two {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        // Both hold a value; the second is filled once more.
        let cache = Cache { value: Some(0), mark: 0, is_cut: false, reads: 1 };
        let mut daemon = Daemon::started(0);
        daemon.targets.iter_mut().for_each(|target| (target.is_compared, target.marked) = (true, Some(0)));
        State {
            commits: 0,
            slot: 0,
            caches: [Cache { reads: 0, ..cache.clone() }, cache],
            daemon: Some(daemon),
            faults: FAULTS.map(|fault| self.faults.iter().filter(|wanted| **wanted == fault).count() as u8),
            swept_at_return: false,
        }
    }

    fn each(&self, state: &State, found: &mut dyn FnMut(Step, State)) {
        type Of = fn(usize) -> Step;
        const ONE: [Step; 6] = [Step::Commit, Step::Crash, Step::Begin, Step::Reconnect, Step::Receive, Step::Confirm];
        const OF: [Of; 10] = [
            Step::Fill,
            Step::Cut,
            Step::Mend,
            Step::TooMuch,
            Step::Compare,
            Step::Delete,
            Step::Sweep,
            Step::WriteMark,
            Step::Release,
            Step::HoldAgain,
        ];
        let of_each = OF.into_iter().flat_map(|of| CACHES.map(of));
        for step in ONE.into_iter().chain(of_each) {
            let mut next = state.clone();
            let way = match step {
                Step::Commit | Step::Fill(_) | Step::Cut(_) | Step::Mend(_) | Step::Crash | Step::Begin => {
                    State::outside
                }
                Step::Compare(_) | Step::Delete(_) | Step::Sweep(_) | Step::WriteMark(_) => State::command,
                Step::TooMuch(_) | Step::Reconnect | Step::Receive => State::inside,
                Step::Release(_) | Step::HoldAgain(_) | Step::Confirm => State::inside,
            };
            if way(&mut next, step, self).is_some() {
                found(step, next);
            }
        }
    }

    fn wrong(&self, state: &State, at_rest: bool) -> Option<String> {
        if let Some(goal) = self.goal.filter(|goal| state.is_at(*goal)) {
            return Some(format!("it comes to {goal:?}, and nothing is stale there"));
        }
        let daemon = state.daemon.as_ref().filter(|_| at_rest)?;
        let truth = state.commits;
        for (index, cache) in state.caches.iter().enumerate() {
            if let Some(value) = cache.value.filter(|value| *value != truth) {
                return Some(format!("cache {index} says {value}, the database {truth}: stale for ever"));
            }
            if cache.mark != truth {
                return Some(format!("nobody moves, and the mark of cache {index} is at {} of {truth}", cache.mark));
            }
            if daemon.targets[index].is_released {
                return Some(format!("nobody moves, and the position never waits for cache {index} again"));
            }
        }
        (state.slot != truth).then(|| format!("nobody moves, and only {} of {truth} is confirmed", state.slot))
    }
}

impl Case for Two {
    fn name(&self) -> &str {
        self.name
    }

    fn expected(&self) -> Expected {
        self.expected
    }
}

/// One cache may be left behind, the other always holds.
const OURS: Two = Two {
    name: "two caches, ours",
    commits: 2,
    limits: [HOLDS_FOR_EVER, LIMIT],
    without: &[],
    faults: &[Fault::Cut, Fault::Crash],
    goal: None,
    expected: Expected::Safe,
};

#[test]
fn of_two_caches_one_is_left_behind_and_returns_and_neither_keeps_a_stale_value() {
    let fails = Two { expected: Expected::Fails, ..OURS };
    let too_much = Two { faults: &[Fault::Cut, Fault::TooMuch], ..OURS };
    let anew = Two { faults: &[Fault::Cut, Fault::Reconnect, Fault::Crash], ..OURS };
    let fails_anew = Two { expected: Expected::Fails, ..anew };
    let for_ever = Two { limits: [HOLDS_FOR_EVER; 2], ..OURS };
    check(&[
        OURS,
        Two { name: "two caches, killed twice", faults: &[Fault::Crash, Fault::Crash], ..OURS },
        Two { name: "two caches, both are left behind", limits: [LIMIT; 2], faults: &[Fault::Crash], ..OURS },
        Two { name: "two caches, the stream starts anew", faults: &[Fault::Cut, Fault::Reconnect], ..OURS },
        Two { name: "two caches, the stream starts anew, killed", ..anew },
        Two { name: "two caches, the start of a stream is taken for proven", without: &[Guard::Proven], ..fails_anew },
        Two { name: "two caches, too much to be remembered", ..too_much },
        Two { name: "two caches, no sweep at a return", without: &[Guard::Return], ..fails },
        Two { name: "two caches, nothing is owed", without: &[Guard::Owed], expected: Expected::Fails, ..too_much },
        Two { name: "two caches, marks ahead of answers", without: &[Guard::OwnAnswers], ..fails },
        // Who is never left behind has no return; but then everything hangs on the position.
        Two { name: "two that hold for ever, no sweep at a return", without: &[Guard::Return], ..for_ever },
        Two {
            name: "two that hold for ever, the position goes past them",
            without: &[Guard::Holding, Guard::Return],
            expected: Expected::Fails,
            ..for_ever
        },
        // The mark is a second line: it finds what the position passed over.
        Two { name: "two that hold for ever, marks find what is passed", without: &[Guard::Holding], ..for_ever },
    ]);
}

/// The tables above would say as much of a world in which nobody is ever released.
#[test]
fn the_search_of_two_caches_comes_to_releases_and_returns() {
    for goal in [Goal::LeftBehind, Goal::HoldsAgain, Goal::SweptAtReturn] {
        let seen = search(&Two { goal: Some(goal), ..OURS }, STATES_MAX);
        let (_, trace) = seen.failure.unwrap_or_else(|| panic!("it never comes to {goal:?}"));
        assert!(trace.iter().any(|step| matches!(step, Step::Release(_))), "{goal:?}: {trace:?}");
    }
}
