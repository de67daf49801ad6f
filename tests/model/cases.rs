//! The configurations of the model, as data.

use super::Config;
use super::Expected::{Fails, Safe};
use super::Fault::*;
use super::Guard::*;
use super::Protocol::{Companion, LeaseInKey, Plain};
use super::Repeat::{GiveBack, Store, Take, TakeAnew};
use super::Writer::{Aborts, Asynchronous, Commits, Elsewhere};

/// One reader that fills once, one commit, every guard, no fault.
const BASE: Config = Config {
    name: "",
    protocol: Plain,
    writers: &[Commits],
    readers: 1,
    rounds: 1,
    repeats: &[],
    expiry: false,
    replica: false,
    early: false,
    ring: false,
    nameless: false,
    without: &[],
    faults: &[],
    expected: Safe,
};

/// Readers with one kind of lease.
const LEASE: Config = Config { protocol: LeaseInKey, ..BASE };
const COMPANION: Config = Config { protocol: Companion, ..BASE };

/// What a naive invalidator loses, and what the order of ours keeps, without any fault.
pub fn orders() -> Vec<Config> {
    let naive = Config { without: &[Gate, Echo, Mark], expected: Fails, ..BASE };
    let two = Config { writers: &[Commits, Commits], early: true, ..BASE };
    vec![
        Config { name: "naive, plain", ..naive },
        Config { name: "naive, lease in the key", protocol: LeaseInKey, ..naive },
        Config { name: "naive, companion lease", protocol: Companion, ..naive },
        Config { name: "ours, plain", rounds: 2, ..two },
        Config { name: "ours, two plain readers", readers: 2, early: true, ..BASE },
        Config { name: "ours, lease in the key", protocol: LeaseInKey, expiry: true, rounds: 2, ..two },
        Config { name: "ours, two with a lease in the key", readers: 2, early: true, expiry: true, ..LEASE },
        Config { name: "ours, companion lease", protocol: Companion, expiry: true, ..two },
        Config { name: "ours, two with a companion lease", readers: 2, early: true, expiry: true, ..COMPANION },
        Config { name: "ours, rollback and other tables", writers: &[Commits, Aborts, Elsewhere], ..BASE },
    ]
}

/// A lease whose text is fixed is taken again behind the delete that should have ended it: the reader's own store then
/// finds it.
pub fn holes() -> Vec<Config> {
    let again = Config { repeats: &[Take], expected: Fails, ..LEASE };
    vec![
        Config { name: "a fixed lease is taken again, in the key", ..again },
        Config { name: "a fixed lease is taken again, companion", protocol: Companion, ..again },
        Config { name: "everything runs again with a fixed lease", repeats: &[Take, Store, GiveBack], ..again },
    ]
}

/// At most once, or by the script: stores and leases that go back may run again as they like.
pub fn closed() -> Vec<Config> {
    let once = Config { repeats: &[Store, GiveBack], expiry: true, early: true, ..LEASE };
    let anew = Config { repeats: &[TakeAnew, Store, GiveBack], ..once };
    let two = Config { readers: 2, early: false, ..once };
    vec![
        Config { name: "at most once, lease in the key", rounds: 2, ..once },
        Config { name: "at most once, companion lease", protocol: Companion, rounds: 2, ..once },
        Config { name: "at most once, two with a lease in the key", ..two },
        Config { name: "at most once, two with a companion lease", protocol: Companion, ..two },
        Config { name: "by script, lease in the key", rounds: 2, ..anew },
        Config { name: "by script, companion lease", protocol: Companion, rounds: 2, ..anew },
        Config { name: "by script, two with a lease in the key", readers: 2, early: false, ..anew },
        Config { name: "by script, two with a companion lease", protocol: Companion, readers: 2, early: false, ..anew },
        Config { name: "by script, two changes", writers: &[Commits, Commits], early: false, ..anew },
    ]
}

/// Each guard alone is missing.
pub fn guards() -> Vec<Config> {
    let cut = Config { faults: &[Failover, DaemonCrash], ..LEASE };
    let replica = Config { replica: true, ..LEASE };
    vec![
        Config { name: "no gate, plain", without: &[Gate], expected: Fails, ..BASE },
        Config { name: "no gate, lease in the key", without: &[Gate], expected: Fails, ..LEASE },
        Config { name: "no gate, companion lease", without: &[Gate], expected: Fails, ..COMPANION },
        Config { name: "no echo, plain", without: &[Echo], expected: Fails, ..BASE },
        Config { name: "no mark", without: &[Mark], expected: Fails, ..cut },
        Config { name: "no replica gate, lease", without: &[Replica], expected: Fails, ..replica },
        Config { name: "no replica gate, plain", protocol: Plain, without: &[Replica], expected: Fails, ..replica },
        Config { name: "ours, replica, lease", writers: &[Commits, Commits], ..replica },
        Config { name: "ours, replica, plain", protocol: Plain, ..replica },
    ]
}

/// A cache that forgets or goes back.
///
/// A copy that has the mark may lack the deletes that came after it. Where a failover breaks connections, the new one leads
/// to another server, and what came after the mark is deleted again. Behind a proxy that keeps them the mark's script
/// finds out: it asks the server who it is.
pub fn caches() -> Vec<Config> {
    let unseen = Config { faults: &[FailoverUnseen], ..LEASE };
    let seen = Config { faults: &[Failover], ..LEASE };
    let hard = Config { faults: &[Failover, DaemonCrash], ..LEASE };
    let ring = Config { ring: true, ..seen };
    let twice = Config { faults: &[Failover, Failover], ..ring };
    vec![
        Config { name: "no identity", without: &[Identity], expected: Fails, ..seen },
        Config { name: "failover, lease in the key", ..seen },
        Config { name: "failover, expiring leases", rounds: 2, expiry: true, ..seen },
        Config { name: "failover, companion lease", protocol: Companion, ..seen },
        Config { name: "failover, plain", protocol: Plain, ..seen },
        Config { name: "failover and a lost reply", faults: &[Failover, ReplyLost], ..ring },
        Config { name: "failover and kill -9", rounds: 2, ..hard },
        Config { name: "failover and kill -9, companion", protocol: Companion, ..hard },
        Config { name: "failover and kill -9, plain", protocol: Plain, ..hard },
        Config { name: "failover and kill -9, ring", ring: true, ..hard },
        Config { name: "failover and crash", writers: &[Asynchronous], faults: &[Failover, PostgresCrash], ..ring },
        Config {
            name: "failover and slot lost, no heartbeat behind a gap",
            without: &[Beat],
            faults: &[Failover, SlotLost],
            expected: Fails,
            ..ring
        },
        Config { name: "failover and slot lost", faults: &[Failover, SlotLost], ..ring },
        Config { name: "emptied", faults: &[CacheEmptied], ..ring },
        Config { name: "emptied and failover", faults: &[CacheEmptied, Failover], ..ring },
        Config { name: "failover twice", ring: false, ..twice },
        Config {
            name: "sweep visits keys before leases",
            without: &[LeasesFirst],
            expected: Fails,
            protocol: Companion,
            ..seen
        },
        Config { name: "ring claims and does nothing", without: &[Ring], expected: Fails, ..ring },
        Config { name: "ring", writers: &[Commits, Commits], ..ring },
        Config { name: "ring, two failovers", ..twice },
        Config { name: "ring, plain", protocol: Plain, ..ring },
        Config { name: "ring, companion lease", protocol: Companion, ..ring },
        Config { name: "failover unseen, nobody asks", without: &[ServerInMark], expected: Fails, ..unseen },
        Config {
            name: "failover unseen, nobody asks, ring",
            ring: true,
            without: &[ServerInMark],
            expected: Fails,
            ..unseen
        },
        Config { name: "failover unseen, lease in the key", ..unseen },
        Config { name: "failover unseen, companion lease", protocol: Companion, ..unseen },
        Config { name: "failover unseen, lease, ring", ring: true, ..unseen },
        Config { name: "failover unseen, plain", protocol: Plain, ..unseen },
        Config {
            name: "failover unseen and kill -9, ring",
            ring: true,
            faults: &[FailoverUnseen, DaemonCrash],
            ..unseen
        },
        Config { name: "failover unseen and a lost reply", ring: true, faults: &[FailoverUnseen, ReplyLost], ..unseen },
        Config { name: "failover unseen twice", ring: true, faults: &[FailoverUnseen, FailoverUnseen], ..unseen },
        Config { name: "emptied, then failover unseen", faults: &[CacheEmptied, FailoverUnseen], ..unseen },
    ]
}

/// A cache that does not say which server it is: a new connection proves nothing, and what came after the mark is deleted
/// again all the same.
///
/// What such a cache loses without breaking a connection the next mark brings along; but not what was swept: a mark finds
/// its own predecessor then. docs/explain says so.
pub fn nameless() -> Vec<Config> {
    let cut = Config { nameless: true, ring: true, faults: &[Failover], ..LEASE };
    let unseen = Config { faults: &[FailoverUnseen], ..cut };
    let swept = Config { faults: &[SlotLost, Failover], ..cut };
    vec![
        Config { name: "nameless, nothing is carried", without: &[Carried], expected: Fails, ..cut },
        Config { name: "nameless, lease in the key", writers: &[Commits, Commits], ..cut },
        Config { name: "nameless, companion lease", protocol: Companion, ..cut },
        Config { name: "nameless, plain", protocol: Plain, ..cut },
        Config { name: "nameless and a lost reply", faults: &[Failover, ReplyLost], ..cut },
        Config { name: "nameless and kill -9", faults: &[Failover, DaemonCrash], ..cut },
        Config { name: "nameless, emptied", faults: &[CacheEmptied], ..cut },
        Config { name: "nameless, failover unseen", ..unseen },
        Config { name: "nameless, failover unseen, companion lease", protocol: Companion, ..unseen },
        Config { name: "nameless, failover unseen, plain", protocol: Plain, ..unseen },
        Config {
            name: "nameless, failover unseen, nothing is carried",
            without: &[Carried],
            expected: Fails,
            ..unseen
        },
        Config { name: "nameless, failover behind a sweep: a limit", expected: Fails, ..swept },
    ]
}

/// A server that forgets, a slot that is lost, a daemon that dies.
pub fn servers() -> Vec<Config> {
    let crash = Config { writers: &[Asynchronous], faults: &[PostgresCrash], ..LEASE };
    let slot = Config { faults: &[SlotLost], ..LEASE };
    let kill = Config { writers: &[Commits, Commits], faults: &[DaemonCrash], ..LEASE };
    vec![
        Config { name: "crash, run unknown", without: &[Run], expected: Fails, ..crash },
        Config { name: "ours, crash, lease in the key", writers: &[Asynchronous, Commits], ..crash },
        Config { name: "ours, crash, plain", protocol: Plain, ..crash },
        Config { name: "ours, crash, companion lease", protocol: Companion, ..crash },
        Config { name: "ours, crash and kill -9", faults: &[PostgresCrash, DaemonCrash], ..crash },
        Config { name: "slot lost, sweep at once", without: &[WaitForOld], expected: Fails, ..slot },
        Config { name: "ours, slot lost, lease in the key", rounds: 2, writers: &[Commits, Commits], ..slot },
        Config { name: "ours, slot lost, plain", protocol: Plain, writers: &[Commits, Commits], ..slot },
        Config { name: "ours, kill -9, lease in the key", ..kill },
        Config { name: "ours, kill -9, plain", protocol: Plain, ..kill },
    ]
}
