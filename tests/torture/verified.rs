//! The verifier beside the torture: the daemon compares samples of the cache with the database by the oracle's own SQL,
//! all the time and through the same faults. Whatever it accuses fails the run: the log may hold no `verify.stale`.
//! With a guard switched off it must find what is stale.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::wait;
use crate::oracle::{FAMILIES, Family, Reader};
use crate::world::World;

/// What a stale key is said with.
pub const STALE: &str = "id=verify.stale";

/// What is said while one of the servers does not answer the verifier.
pub const WAITS: &str = "id=verify.waits";

/// Keys of each family in a minute: each key is looked at every few seconds.
const PER_MINUTE: u32 = 3_000;

/// Rounds of the verifier in five seconds: a daemon that lives for some seconds has some, too.
pub const OFTENER: u32 = 5;

/// Three rounds of the verifier and the echoes between them, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Keys that are verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    All,
    /// Those whose readers have a lease: without echoes, those of others may be stale.
    Leased,
}

/// `[[verify]]` of these families, and where the counts can be read.
pub fn config(judged: Judged) -> String {
    let is_judged = |family: &&Family| judged == Judged::All || family.reader != Reader::Plain;
    let families = FAMILIES.iter().filter(is_judged).map(|Family { prefix, sql, reader, .. }| {
        let sql = match reader {
            Reader::LeaseInKey => format!("SELECT 'V' || ({sql})"),
            Reader::Plain | Reader::Companion => (*sql).to_owned(),
        };
        format!(
            "[[verify]]\nkeys = \"{prefix}{{member}}\"\nsql = '''{sql}'''\ncompare = \"text\"\nper_minute = {PER_MINUTE}\n"
        )
    });
    let listen = "[admin]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    std::iter::once(listen).chain(families).collect()
}

/// What the verifier counted, in this daemon and in those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub checked: u64,
    pub undecided: u64,
    pub stale: u64,
    /// Stale now.
    pub keys: u64,
}

/// What a daemon with this log counts at present; `None` before it listens.
fn counts(log: &str) -> Option<Counts> {
    let (_, behind) = log.split_once("id=metrics.served")?;
    let (_, behind) = behind.split_once("address=")?;
    let mut socket = TcpStream::connect(behind.split_whitespace().next()?).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
    let mut page = String::new();
    socket.read_to_string(&mut page).ok()?;
    let series: BTreeMap<&str, &str> = page.lines().filter_map(|line| line.split_once(' ')).collect();
    let count = |name: &str| series.get(format!("crieur_verify_{name}").as_str())?.parse().ok();
    let (checked, undecided) = (count("checked_total")?, count("undecided_total")?);
    Some(Counts { checked, undecided, stale: count("stale_total")?, keys: count("stale_keys")? })
}

/// The sum over several daemons.
#[derive(Debug, Default)]
pub struct Sum {
    before: Counts,
    last: Counts,
}

impl Sum {
    /// Of the daemon with this log. What one counted that was killed since is not known.
    pub fn read(&mut self, log: &str) {
        let Some(now) = counts(log) else { return };
        if now.checked < self.last.checked {
            self.before = self.all();
        }
        self.last = now;
    }

    /// Up to the last time.
    pub fn all(&self) -> Counts {
        let Sum { before, last } = self;
        Counts {
            checked: before.checked + last.checked,
            undecided: before.undecided + last.undecided,
            stale: before.stale + last.stale,
            keys: last.keys,
        }
    }
}

impl World {
    /// So many keys were found stale by the comparison, and nothing changes any more: the verifier finds them.
    pub fn verifier_finds(&mut self, stale: usize) {
        let found = |world: &mut World| counts(&world.daemon().log()).unwrap_or_default();
        // It draws its samples: the last one of many keys comes late, so of many keys ten are enough. The last one of a few
        // came after 178 seconds at times.
        let all = wait::poll(4 * PATIENCE, || (found(self).keys >= stale.min(10) as u64).then_some(()));
        let Counts { checked, stale: ever, keys, .. } = found(self);
        println!("the verifier found {keys} of {stale} stale keys; {ever} ever, in {checked} looks");
        assert!(all.is_some() && self.daemon().log().contains(STALE), "{}", self.daemon().log());
    }
}
