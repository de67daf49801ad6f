//! The world around the daemon: database, walsender, replica, cache, readers. One key; its value is the set of
//! transactions that are visible, so a cached value is stale exactly when it is another set.
//!
//! Every step is atomic and is one command or one moment of a real server. Time does not exist: whatever may wait may
//! wait for ever. The one bound there is belongs to plain readers, see [`State::held_by`].

use super::daemon::Daemon;
use super::{Config, Fault, Guard, Protocol, Repeat, Step, Writer};

/// Transactions at most; one bit each in a [`Set`].
pub const TXS: usize = 3;
/// Readers at most.
pub const READERS: usize = 2;

/// A set of transactions, or of readers.
pub type Set = u8;

/// The life of a transaction (`CommitTransaction` in `src/backend/access/transam/xact.c`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Tx {
    /// Not begun: no number yet.
    Waiting,
    /// Has its number.
    Running,
    /// Its commit record is in the WAL; nobody sees it.
    Logged,
    /// `ProcArrayEndTransaction` is done: every new snapshot contains it.
    Visible,
    /// Aborted, or forgotten by a crash.
    Gone,
}

/// What the mark says; the texts of the real one are made where it is judged. No two have one nonce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    pub lsn: u64,
    pub run: u8,
    pub nonce: u8,
}

impl Mark {
    pub const FIRST: Mark = Mark { lsn: 0, run: 0, nonce: 0 };
}

/// A swap of the mark on its way: it goes only over one of these, and only in this cache.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Swapping {
    pub expected: Vec<Option<Mark>>,
    pub mark: Mark,
    pub server: u8,
    /// The key goes once more, in the same step.
    pub carries: bool,
}

/// A second copy of a reader's command, still on its way: a client sent it again, or something between did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Copied {
    Take(u8),
    Store(Set, u8),
    GiveBack(u8),
}

/// What a script adds to the lease that it makes, so that a second run makes another.
const ANEW: u8 = 128;

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    Written,
    /// Another mark is there.
    Other,
    /// Another cache is there.
    Unproven,
}

/// What is at the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    Empty,
    /// The lease in the key itself.
    Lease(u8),
    Value(Set),
}

/// A cache. A command is atomic, and a replica has a prefix of the commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cache {
    pub key: Key,
    /// The companion `lease:{K}`.
    pub lease: Option<u8>,
    pub mark: Option<Mark>,
    /// Names the process: `run_id` and `master_replid` of INFO.
    pub server: u8,
}

impl Cache {
    pub const NEW: Cache = Cache { key: Key::Empty, lease: None, mark: None, server: 0 };

    /// The script (`SWAP` in `src/cache/redis.rs`): one step, whoever sent it.
    pub fn swap(&mut self, swapping: &Swapping, config: &Config) -> Swap {
        if swapping.server != self.server && config.asks_who() {
            return Swap::Unproven;
        }
        if !swapping.expected.contains(&self.mark) {
            return Swap::Other;
        }
        if swapping.carries && !config.lacks(Guard::Carried) {
            self.unlink();
        }
        self.mark = Some(swapping.mark);
        Swap::Written
    }

    /// Takes a lease, if nothing stands at its place: SET with NX, or the script.
    fn take(&mut self, protocol: Protocol, token: u8) -> bool {
        match protocol {
            Protocol::LeaseInKey if self.key == Key::Empty => self.key = Key::Lease(token),
            Protocol::Companion if self.lease.is_none() => self.lease = Some(token),
            Protocol::Plain | Protocol::LeaseInKey | Protocol::Companion => return false,
        }
        true
    }

    /// SET, or compare-and-set under a lease.
    fn store(&mut self, protocol: Protocol, value: Set, token: u8) {
        let stands = match protocol {
            Protocol::Plain => true,
            Protocol::LeaseInKey => self.key == Key::Lease(token),
            Protocol::Companion => self.lease == Some(token),
        };
        if stands {
            self.key = Key::Value(value);
            if protocol == Protocol::Companion {
                self.lease = None;
            }
        }
    }

    /// Removes the lease, if it is this one.
    fn give_back(&mut self, token: u8) {
        if self.key == Key::Lease(token) {
            self.key = Key::Empty;
        }
        if self.lease == Some(token) {
            self.lease = None;
        }
    }

    /// UNLINK of the key and its companion, one command.
    pub fn unlink(&mut self) {
        (self.key, self.lease) = (Key::Empty, None);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reading {
    Idle,
    /// Has a lease with this token.
    Leased(u8),
    /// Has selected this value, under this lease if it takes any.
    Holding(Set, u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reader {
    pub at: Reading,
    /// How often it may still begin.
    pub rounds: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub tx: [Tx; TXS],
    /// Commit records in order; the position behind the record with index i is i + 1.
    pub wal: Vec<u8>,
    pub flushed: u64,
    /// Names the server's run.
    pub run: u8,
    /// What the read replica has replayed.
    pub replayed: u64,
    /// The slot's `confirmed_flush_lsn`, while there is a slot.
    pub slot: Option<u64>,
    pub cache: Cache,
    /// Another copy of the cache, which no longer follows: a replica that lags, or a file on disk.
    pub copy: Option<Cache>,
    pub readers: [Reader; READERS],
    /// Transactions whose keys were deleted at a moment when they were visible.
    pub served: Set,
    pub daemon: Option<Daemon>,
    /// A mark that a dead daemon sent, still on its way.
    pub stray: Option<Swapping>,
    /// Copies of readers' commands on their way, in order; each will arrive.
    pub copies: Vec<Copied>,
    /// Marks that were made.
    pub nonces: u8,
    /// Whether the slot was made anew since the last connection.
    pub created: bool,
    pub faults: [u8; Fault::ALL.len()],
}

pub fn bit(index: usize) -> Set {
    1 << index
}

impl State {
    pub fn new(config: &Config) -> State {
        let reader =
            |index| Reader { at: Reading::Idle, rounds: if index < config.readers { config.rounds } else { 0 } };
        State {
            tx: [Tx::Waiting; TXS],
            wal: Vec::new(),
            flushed: 0,
            run: 0,
            replayed: 0,
            slot: Some(0),
            cache: Cache { mark: Some(Mark::FIRST), ..Cache::NEW },
            copy: None,
            readers: [reader(0), reader(1)],
            served: 0,
            daemon: Some(Daemon::running()),
            stray: None,
            copies: Vec::new(),
            nonces: 0,
            created: false,
            faults: Fault::ALL.map(|fault| config.faults.iter().filter(|wanted| **wanted == fault).count() as u8),
        }
    }

    /// The value that a SELECT on the primary returns.
    pub fn truth(&self, config: &Config) -> Set {
        let seen = |index: &usize| self.tx[*index] == Tx::Visible && config.writers[*index] != Writer::Elsewhere;
        (0..config.writers.len()).filter(seen).map(bit).sum()
    }

    /// What readers' server returns: the primary, or a replica that has replayed a part of the WAL.
    fn select(&self, config: &Config) -> Set {
        if !config.replica {
            return self.truth(config);
        }
        let replayed = self.wal.iter().take(self.replayed as usize).map(|tx| usize::from(*tx));
        replayed.filter(|tx| config.writers[*tx] != Writer::Elsewhere).map(bit).sum()
    }

    /// Readers that hold a value now. Plain readers promise to store it before the last echo, which so waits for them.
    pub fn held_by(&self) -> Set {
        let holds = |index: &usize| matches!(self.readers[*index].at, Reading::Holding(..));
        (0..READERS).filter(holds).map(bit).sum()
    }

    pub fn fault(&self, fault: Fault) -> Option<State> {
        let index = Fault::ALL.iter().position(|known| *known == fault).expect("every fault is listed");
        let left = self.faults[index].checked_sub(1)?;
        let mut next = self.clone();
        next.faults[index] = left;
        Some(next)
    }

    /// One step of a transaction. They begin in the order of their numbers: others are the same run with other names.
    pub fn write(&self, config: &Config, tx: usize, to: Tx) -> Option<State> {
        let writer = config.writers[tx];
        let possible = match (self.tx[tx], to) {
            (Tx::Waiting, Tx::Running) => tx == 0 || self.tx[tx - 1] > Tx::Waiting,
            (Tx::Running, Tx::Logged) => writer != Writer::Aborts,
            (Tx::Running, Tx::Gone) => writer == Writer::Aborts,
            (Tx::Logged, Tx::Visible) => true,
            _ => false,
        };
        let mut next = possible.then(|| self.clone())?;
        next.tx[tx] = to;
        if to == Tx::Logged {
            next.wal.push(tx as u8);
            if writer != Writer::Asynchronous {
                next.flushed = next.wal.len() as u64;
            }
        }
        Some(next)
    }

    /// The WAL writer flushes what `synchronous_commit = off` left.
    pub fn flush(&self) -> Option<State> {
        let end = self.wal.len() as u64;
        (self.flushed < end).then(|| State { flushed: end, ..self.clone() })
    }

    /// The read replica replays one record.
    pub fn replay(&self, config: &Config) -> Option<State> {
        let more = config.replica && self.replayed < self.flushed;
        more.then(|| State { replayed: self.replayed + 1, ..self.clone() })
    }

    /// The take of a lease.
    pub fn lease(&self, config: &Config, reader: usize) -> Option<State> {
        let Reader { at: Reading::Idle, rounds: rounds @ 1.. } = self.readers[reader] else { return None };
        let token = (reader as u8) * 8 + rounds;
        let mut next = self.clone();
        if !next.cache.take(config.protocol, token) {
            return None;
        }
        next.copy(config, Repeat::Take, Copied::Take(token));
        next.copy(config, Repeat::TakeAnew, Copied::Take(token | ANEW));
        next.readers[reader] = Reader { at: Reading::Leased(token), rounds: rounds - 1 };
        Some(next)
    }

    /// Leaves a copy of a command on its way, where the configuration repeats such commands. One that arrives at once
    /// does nothing, so that this is no other world than one in which only some are repeated.
    fn copy(&mut self, config: &Config, repeat: Repeat, copied: Copied) {
        if config.repeats.contains(&repeat) {
            let place = self.copies.partition_point(|other| *other < copied);
            self.copies.insert(place, copied);
        }
    }

    /// A copy arrives; nobody waits for its answer.
    fn copy_arrives(&self, config: &Config, place: usize) -> State {
        let mut next = self.clone();
        match next.copies.remove(place) {
            Copied::Take(token) => _ = next.cache.take(config.protocol, token),
            Copied::Store(value, token) => next.cache.store(config.protocol, value, token),
            Copied::GiveBack(token) => next.cache.give_back(token),
        }
        next
    }

    /// The fetch failed: the lease goes back.
    pub fn give_back(&self, config: &Config, reader: usize) -> Option<State> {
        let Reading::Leased(token) = self.readers[reader].at else { return None };
        let mut next = config.repeats.contains(&Repeat::GiveBack).then(|| self.clone())?;
        next.cache.give_back(token);
        next.copy(config, Repeat::GiveBack, Copied::GiveBack(token));
        next.readers[reader].at = Reading::Idle;
        Some(next)
    }

    /// SELECT. A plain reader may have missed at any time before: the key was never there at the beginning.
    pub fn read(&self, config: &Config, reader: usize) -> Option<State> {
        let (token, rounds) = match self.readers[reader] {
            Reader { at: Reading::Idle, rounds: rounds @ 1.. } if config.protocol == Protocol::Plain => (0, rounds - 1),
            Reader { at: Reading::Leased(token), rounds } => (token, rounds),
            Reader { .. } => return None,
        };
        let mut next = self.clone();
        next.readers[reader] = Reader { at: Reading::Holding(self.select(config), token), rounds };
        Some(next)
    }

    /// The store of what was selected.
    pub fn store(&self, config: &Config, reader: usize) -> Option<State> {
        let Reading::Holding(value, token) = self.readers[reader].at else { return None };
        let mut next = self.clone();
        next.readers[reader].at = Reading::Idle;
        next.cache.store(config.protocol, value, token);
        next.copy(config, Repeat::Store, Copied::Store(value, token));
        if let Some(daemon) = &mut next.daemon {
            daemon.nobody_waits_for(reader);
        }
        Some(next)
    }

    /// A lease's time is over.
    pub fn expire(&self) -> Option<State> {
        let mut next = self.clone();
        match (self.cache.key, self.cache.lease) {
            (Key::Lease(_), _) => next.cache.key = Key::Empty,
            (_, Some(_)) => next.cache.lease = None,
            _ => return None,
        }
        Some(next)
    }

    /// The copy stops following, for a fault that is still to come.
    pub fn lag(&self) -> Option<State> {
        let wanted = [Fault::FailoverUnseen, Fault::Failover].iter().any(|fault| self.fault(*fault).is_some());
        let copy = || Cache { server: self.cache.server + 1, ..self.cache };
        (wanted && self.copy.is_none()).then(|| State { copy: Some(copy()), ..self.clone() })
    }

    /// The copy takes over; the daemon's connection breaks, or does not: there is a proxy.
    pub fn fail_over(&self, fault: Fault) -> Option<State> {
        let mut next = self.fault(fault)?;
        next.cache = next.copy.take()?;
        if let (Fault::Failover, Some(daemon)) = (fault, &mut next.daemon) {
            daemon.cache_broke();
        }
        Some(next)
    }

    /// FLUSHALL, or a restart without a file.
    pub fn empty(&self) -> Option<State> {
        let mut next = self.fault(Fault::CacheEmptied)?;
        next.cache = Cache { server: self.cache.server, ..Cache::NEW };
        Some(next)
    }

    /// A crash and recovery: what was not flushed is gone, what was logged is visible. The slot's position may go back
    /// to what the last checkpoint saved.
    pub fn crash_postgres(&self, slot_goes_back: bool) -> Option<State> {
        if slot_goes_back && self.slot.is_none_or(|confirmed| confirmed == 0) {
            return None;
        }
        let mut next = self.fault(Fault::PostgresCrash)?;
        for tx in 0..TXS {
            let place = self.wal.iter().position(|logged| usize::from(*logged) == tx);
            next.tx[tx] = match (place, self.tx[tx]) {
                (Some(place), _) if (place as u64) < self.flushed => Tx::Visible,
                (_, Tx::Waiting) => Tx::Waiting,
                (_, _) => Tx::Gone,
            };
        }
        next.wal.truncate(self.flushed as usize);
        next.run += 1;
        if slot_goes_back {
            next.slot = Some(0);
        }
        if let Some(daemon) = &mut next.daemon {
            daemon.disconnected();
        }
        Some(next)
    }

    /// Somebody drops the slot, or its WAL is gone.
    pub fn lose_slot(&self) -> Option<State> {
        let mut next = self.fault(Fault::SlotLost)?;
        next.slot = None;
        if let Some(daemon) = &mut next.daemon {
            daemon.disconnected();
        }
        Some(next)
    }

    /// A new slot. Its consistent point comes when every transaction that ran has written its end
    /// (`SnapBuildFindSnapshot` in `src/backend/replication/logical/snapbuild.c`): of these nothing is streamed.
    pub fn new_slot(&self) -> Option<State> {
        if self.slot.is_some() || self.daemon.is_none() || self.tx.contains(&Tx::Running) {
            return None;
        }
        let end = self.wal.len() as u64;
        Some(State { slot: Some(end), flushed: end, created: true, ..self.clone() })
    }

    pub fn kill_daemon(&self) -> Option<State> {
        let daemon = self.daemon.as_ref()?;
        let mut next = self.fault(Fault::DaemonCrash)?;
        next.stray = daemon.mark_on_its_way();
        next.daemon = None;
        Some(next)
    }

    /// The stray mark arrives, perhaps after another daemon took over.
    pub fn stray_arrives(&self, config: &Config) -> Option<State> {
        let mut next = self.clone();
        let stray = next.stray.take()?;
        next.cache.swap(&stray, config);
        Some(next)
    }

    pub fn start_daemon(&self) -> Option<State> {
        let mut next = self.daemon.is_none().then(|| self.clone())?;
        next.daemon = Some(Daemon::started(self.cache.server));
        Some(next)
    }

    /// Every step of everybody but the daemon.
    pub fn each(&self, config: &Config, found: &mut dyn FnMut(Step, State)) {
        let mut try_step = |step, next: Option<State>| {
            if let Some(next) = next {
                found(step, next);
            }
        };
        for tx in 0..config.writers.len() {
            for to in [Tx::Running, Tx::Logged, Tx::Visible, Tx::Gone] {
                try_step(Step::Write(tx, to), self.write(config, tx, to));
            }
        }
        for reader in 0..config.readers {
            try_step(Step::Lease(reader), self.lease(config, reader));
            try_step(Step::Read(reader), self.read(config, reader));
            try_step(Step::Store(reader), self.store(config, reader));
            try_step(Step::GiveBack(reader), self.give_back(config, reader));
        }
        for (place, copied) in self.copies.iter().enumerate() {
            try_step(Step::Late(*copied), Some(self.copy_arrives(config, place)));
        }
        try_step(Step::Flush, self.flush());
        try_step(Step::Replay, self.replay(config));
        if config.expiry {
            try_step(Step::Expire, self.expire());
        }
        try_step(Step::Lag, self.lag());
        for fault in [Fault::Failover, Fault::FailoverUnseen] {
            try_step(Step::Fault(fault), self.fail_over(fault));
        }
        try_step(Step::Fault(Fault::CacheEmptied), self.empty());
        try_step(Step::Fault(Fault::PostgresCrash), self.crash_postgres(false));
        try_step(Step::SlotWentBack, self.crash_postgres(true));
        try_step(Step::Fault(Fault::SlotLost), self.lose_slot());
        try_step(Step::Fault(Fault::DaemonCrash), self.kill_daemon());
        try_step(Step::StrayMark, self.stray_arrives(config));
        try_step(Step::NewSlot, self.new_slot());
        try_step(Step::StartDaemon, self.start_daemon());
    }

    /// What must hold always, and what must hold when nobody can move.
    pub fn wrong(&self, config: &Config, at_rest: bool) -> Option<String> {
        let confirmed = self.slot.unwrap_or(0) as usize;
        let unserved = self.wal.iter().take(confirmed).map(|tx| usize::from(*tx)).find(|tx| {
            let counts = config.writers[*tx] != Writer::Elsewhere && !config.faults.contains(&Fault::SlotLost);
            counts && self.served & bit(*tx) == 0
        });
        if let (Some(tx), false) = (unserved, config.lacks(Guard::Gate) || config.lacks(Guard::Replica)) {
            return Some(format!("T{tx} is confirmed and its key was not deleted after it was visible"));
        }
        match self.cache.key {
            _ if !at_rest => None,
            Key::Value(value) if value != self.truth(config) => {
                let truth = super::transactions(self.truth(config));
                Some(format!("the cache says {}, the database {truth}: stale for ever", super::transactions(value)))
            }
            Key::Empty | Key::Lease(_) | Key::Value(_) if self.slot != Some(self.wal.len() as u64) => {
                Some(format!("nobody moves, and only {:?} of {} is confirmed", self.slot, self.wal.len()))
            }
            Key::Empty | Key::Lease(_) | Key::Value(_) => None,
        }
    }
}
