//! What breaks, and how it is mended. Each fault ends with servers that answer and a daemon that runs.
//!
//! A fault names the warnings that it causes; any other WARN or ERROR line fails the test. The daemon's end fails it
//! too, except where the fault is that end.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::postgres::Shutdown;
use crate::harness::proxy::Direction;
use crate::harness::redis::Data;
use crate::oracle::Oracle;
use crate::seed::Seed;
use crate::takeover;
use crate::verified::WAITS;
use crate::world::{MARK, World, is_outbox};

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    DaemonKilled,
    DaemonStopped,
    DaemonSuspended,
    DaemonOvertaken,
    PostgresRestarted,
    PostgresCrashed,
    BackendKilled,
    CrashWithAsyncCommits,
    CommitsInvisible,
    WalsenderTerminated,
    SessionsTerminated,
    PostgresFailedOver,
    PostgresRestored,
    TableAltered,
    SlotAdvanced,
    SlotDropped,
    PublicationAltered,
    CacheEmptied,
    CacheWentBack,
    CacheFlushed,
    MarkDeleted,
    ClientsKilled,
    CacheSuspended,
    CacheReadonly,
    CacheFull,
    CacheEvicts,
    CacheCannotSave,
    CacheFailedOver,
    CacheLoading,
    PasswordChanged,
    PostgresCut,
    PostgresStalled,
    CacheCut,
    CacheStalled,
    HalfReplies,
    BothCut,
}

/// What the daemon says while PostgreSQL does not answer.
pub const POSTGRES_AWAY: &[&str] = &[
    "id=stream.interrupted",
    "failed to take a snapshot",
    "failed to look up",
    // Its session was ended in mid-statement, or its answer came past the limit: its keys widen.
    "id=lookup.refused",
    "failed to find the tables of a relation",
    "failed to read the catalog",
    "failed to wait for the replicas",
    "failed to watch the server",
    "id=run.last_status",
    WAITS,
];

/// What it says while the cache refuses or does not answer.
pub const CACHE_AWAY: &[&str] = &[
    "failed to try the cache",
    "id=cache.renewal_failing",
    "failed to delete keys",
    "failed to sweep",
    "failed to read the mark",
    "failed to write the mark",
    // Faults that strike the same cache again and again.
    "id=repair.slowed",
    WAITS,
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.what())
    }
}

impl Fault {
    /// Every fault. The daemon repairs what each of them breaks, by itself.
    pub const ALL: &[Fault] = &[
        Fault::DaemonKilled,
        Fault::DaemonStopped,
        Fault::DaemonSuspended,
        Fault::DaemonOvertaken,
        Fault::PostgresRestarted,
        Fault::PostgresCrashed,
        Fault::BackendKilled,
        Fault::CrashWithAsyncCommits,
        Fault::CommitsInvisible,
        Fault::WalsenderTerminated,
        Fault::SessionsTerminated,
        Fault::PostgresFailedOver,
        Fault::PostgresRestored,
        Fault::TableAltered,
        Fault::SlotAdvanced,
        Fault::SlotDropped,
        Fault::PublicationAltered,
        Fault::CacheEmptied,
        Fault::CacheWentBack,
        Fault::CacheFlushed,
        Fault::MarkDeleted,
        Fault::ClientsKilled,
        Fault::CacheSuspended,
        Fault::CacheReadonly,
        Fault::CacheFull,
        Fault::CacheEvicts,
        Fault::CacheCannotSave,
        Fault::CacheFailedOver,
        Fault::CacheLoading,
        Fault::PasswordChanged,
        Fault::PostgresCut,
        Fault::PostgresStalled,
        Fault::CacheCut,
        Fault::CacheStalled,
        Fault::HalfReplies,
        Fault::BothCut,
    ];

    /// Those of `FAULTS` (names as in the code, comma separated); without it all.
    pub fn chosen() -> Vec<Fault> {
        let Ok(names) = std::env::var("FAULTS") else {
            let applies = |fault: &Fault| !(is_outbox() && fault.is_of_replication());
            return Fault::ALL.iter().copied().filter(applies).collect();
        };
        let named = |name: &str| {
            let found = Fault::ALL.iter().copied().find(|fault| format!("{fault:?}") == name);
            found.unwrap_or_else(|| panic!("FAULTS: there is no {name}"))
        };
        names.split(',').map(named).collect()
    }

    /// Slots, publications, walsenders.
    fn is_of_replication(self) -> bool {
        matches!(
            self,
            Fault::SlotAdvanced | Fault::SlotDropped | Fault::PublicationAltered | Fault::WalsenderTerminated
        )
    }

    fn what(self) -> &'static str {
        match self {
            Fault::DaemonKilled => "daemon killed",
            Fault::DaemonStopped => "daemon restarted",
            Fault::DaemonSuspended => "daemon suspended",
            Fault::DaemonOvertaken => "one of two daemons killed",
            Fault::PostgresRestarted => "PostgreSQL restarted fast",
            Fault::PostgresCrashed => "PostgreSQL restarted immediate",
            Fault::BackendKilled => "backend killed, crash restart",
            Fault::CrashWithAsyncCommits => "crash with synchronous_commit = off",
            Fault::CommitsInvisible => "commits sent long before visible",
            Fault::WalsenderTerminated => "walsender terminated",
            Fault::SessionsTerminated => "every session terminated",
            Fault::PostgresFailedOver => "standby promoted",
            Fault::PostgresRestored => "data directory restored",
            Fault::TableAltered => "ALTER TABLE that changes values",
            Fault::SlotAdvanced => "slot advanced by another",
            Fault::SlotDropped => "slot dropped",
            Fault::PublicationAltered => "publication altered",
            Fault::CacheEmptied => "cache restarted empty",
            Fault::CacheWentBack => "cache restarted from an old snapshot",
            Fault::CacheFlushed => "FLUSHALL",
            Fault::MarkDeleted => "mark deleted",
            Fault::ClientsKilled => "CLIENT KILL",
            Fault::CacheSuspended => "cache suspended",
            Fault::CacheReadonly => "cache READONLY",
            Fault::CacheFull => "cache OOM",
            Fault::CacheEvicts => "cache evicts",
            Fault::CacheCannotSave => "cache MISCONF",
            Fault::CacheFailedOver => "cache went back, connections stayed",
            Fault::CacheLoading => "cache went back, LOADING",
            Fault::PasswordChanged => "cache NOAUTH",
            Fault::PostgresCut => "link to PostgreSQL cut",
            Fault::PostgresStalled => "link to PostgreSQL stalled",
            Fault::CacheCut => "link to the cache cut",
            Fault::CacheStalled => "link to the cache stalled",
            Fault::HalfReplies => "half replies of the cache",
            Fault::BothCut => "both links cut",
        }
    }

    /// Warnings that are right.
    pub fn says(self) -> Vec<&'static str> {
        match self {
            Fault::DaemonKilled
            | Fault::DaemonStopped
            | Fault::DaemonOvertaken
            | Fault::CommitsInvisible
            | Fault::TableAltered
            | Fault::SlotAdvanced
            | Fault::CacheFlushed
            | Fault::MarkDeleted
            | Fault::CacheFailedOver => Vec::new(),
            // It wakes up past every limit.
            Fault::DaemonSuspended | Fault::BothCut => [POSTGRES_AWAY, CACHE_AWAY].concat(),
            Fault::PostgresRestarted
            | Fault::PostgresCrashed
            | Fault::CrashWithAsyncCommits
            | Fault::PostgresCut
            | Fault::PostgresStalled
            | Fault::SessionsTerminated
            | Fault::BackendKilled => POSTGRES_AWAY.to_vec(),
            Fault::WalsenderTerminated => vec!["id=stream.interrupted"],
            Fault::PostgresFailedOver | Fault::PostgresRestored | Fault::SlotDropped => {
                [POSTGRES_AWAY, &["id=slot.anew", "id=stream.other_server"]].concat()
            }
            Fault::PublicationAltered => vec!["id=table.unpublished"],
            Fault::CacheEmptied
            | Fault::CacheWentBack
            | Fault::ClientsKilled
            | Fault::CacheSuspended
            | Fault::CacheReadonly
            | Fault::CacheFull
            | Fault::CacheEvicts
            | Fault::CacheCannotSave
            | Fault::CacheLoading
            | Fault::PasswordChanged
            | Fault::CacheCut
            | Fault::CacheStalled
            | Fault::HalfReplies => CACHE_AWAY.to_vec(),
        }
    }

    /// Breaks, waits, mends.
    pub fn strike(self, world: &mut World, oracle: &Oracle, seed: &mut Seed) {
        match self {
            Fault::DaemonKilled | Fault::DaemonStopped | Fault::DaemonSuspended | Fault::DaemonOvertaken => {
                self.strike_daemon(world, seed)
            }
            Fault::PostgresRestarted
            | Fault::PostgresCrashed
            | Fault::BackendKilled
            | Fault::CrashWithAsyncCommits
            | Fault::CommitsInvisible
            | Fault::WalsenderTerminated
            | Fault::SessionsTerminated
            | Fault::PostgresFailedOver
            | Fault::PostgresRestored
            | Fault::TableAltered => self.strike_postgres(world, oracle, seed),
            Fault::SlotAdvanced | Fault::SlotDropped | Fault::PublicationAltered => self.strike_slot(world, seed),
            Fault::CacheEmptied
            | Fault::CacheWentBack
            | Fault::CacheFlushed
            | Fault::MarkDeleted
            | Fault::ClientsKilled
            | Fault::CacheSuspended
            | Fault::CacheReadonly
            | Fault::CacheFull
            | Fault::CacheEvicts
            | Fault::CacheCannotSave
            | Fault::CacheFailedOver
            | Fault::CacheLoading
            | Fault::PasswordChanged => self.strike_cache(world, seed),
            Fault::PostgresCut
            | Fault::PostgresStalled
            | Fault::CacheCut
            | Fault::CacheStalled
            | Fault::HalfReplies
            | Fault::BothCut => self.strike_network(world, seed),
        }
    }

    fn strike_daemon(self, world: &mut World, seed: &mut Seed) {
        match self {
            Fault::DaemonSuspended => return world.suspend_daemon(seed.millis(3_500, 6_000)),
            Fault::DaemonOvertaken => return takeover::kill_one_of_two(world, seed),
            Fault::DaemonStopped => world.stop_daemon(),
            _ => world.kill_daemon(),
        }
        sleep(seed.millis(0, 1_500));
        world.run_daemon();
    }

    fn strike_postgres(self, world: &mut World, oracle: &Oracle, seed: &mut Seed) {
        let server_process = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
            AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1";
        match self {
            Fault::PostgresRestarted => world.postgres.restart(Shutdown::Fast),
            Fault::PostgresCrashed => world.postgres.restart(Shutdown::Immediate),
            Fault::BackendKilled => {
                let victim = world.sql_at_last(server_process).pop().and_then(|pid| pid.parse().ok());
                crate::harness::process::send(
                    victim.expect("writers are there"),
                    crate::harness::process::Signal::Kill,
                );
                sleep(Duration::from_millis(200));
            }
            Fault::CrashWithAsyncCommits => {
                set(world, "synchronous_commit = off");
                sleep(seed.millis(500, 1_500));
                world.postgres.restart(Shutdown::Immediate);
                reset(world, "synchronous_commit");
            }
            Fault::CommitsInvisible => {
                // Nobody has this name: a commit is flushed and sent, and waits to become visible.
                set(world, "synchronous_standby_names = 'nobody'");
                sleep(seed.millis(200, 2_500));
                reset(world, "synchronous_standby_names");
            }
            Fault::PostgresFailedOver => takeover::fail_over(world, seed),
            Fault::PostgresRestored => takeover::restore(world, seed),
            Fault::TableAltered => drop(world.sql_at_last(&alter_table(seed))),
            Fault::WalsenderTerminated => {
                drop(world.sql_at_last("SELECT pg_terminate_backend(pid) FROM pg_stat_replication"))
            }
            _ => drop(world.sql_at_last(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
                 AND backend_type IN ('client backend', 'walsender')",
            )),
        }
        world.sql_at_last("SELECT 1");
        // What was committed asynchronously may be gone: it is no measure of staleness.
        oracle.forget();
    }

    fn strike_slot(self, world: &mut World, seed: &mut Seed) {
        match self {
            Fault::SlotAdvanced => {
                world.kill_daemon();
                sleep(seed.millis(200, 1_000));
                // Another fault may have dropped the slot, and the daemon ended before it made one anew.
                world.sql_at_last(
                    "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots
                     WHERE slot_name = 'crieur'",
                );
                world.run_daemon();
            }
            // Refused as long as it is active, and then tried again.
            Fault::SlotDropped => drop(world.sql_at_last(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'crieur' AND active;
                 SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'crieur'",
            )),
            _ => {
                world.sql_at_last("ALTER PUBLICATION crieur DROP TABLE torture.items");
                sleep(seed.millis(200, 1_500));
                world.sql_at_last("ALTER PUBLICATION crieur ADD TABLE torture.items");
            }
        }
    }

    fn strike_cache(self, world: &mut World, seed: &mut Seed) {
        let some_time = seed.millis(300, 2_500);
        match self {
            Fault::CacheEmptied => world.cache.restart(Data::Lost),
            Fault::CacheWentBack => {
                let _: () = world.redis(&["SAVE"]).expect("the directory is writable");
                sleep(some_time);
                world.cache.kill();
                world.cache.restart(Data::Kept);
            }
            Fault::CacheFlushed => command(world, &["FLUSHALL"]),
            Fault::MarkDeleted => command(world, &["DEL", MARK]),
            Fault::ClientsKilled => command(world, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]),
            Fault::CacheSuspended => {
                // Longer than the daemon's limit: what stands in its socket is executed before anything newer.
                world.cache.freeze();
                sleep(seed.millis(2_500, 4_000));
                world.cache.thaw();
            }
            Fault::CacheReadonly => {
                command(world, &["REPLICAOF", "127.0.0.1", "1"]);
                sleep(some_time);
                command(world, &["REPLICAOF", "NO", "ONE"]);
            }
            Fault::CacheFull => {
                command(world, &["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]);
                sleep(some_time);
                command(world, &["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::CacheEvicts => {
                command(world, &["CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", "1"]);
                sleep(some_time);
                command(world, &["CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction"]);
            }
            Fault::CacheCannotSave => {
                // A directory stands where the snapshot should go; writes are refused until a save succeeds.
                let blocked = world.cache.dir().join("dump.rdb");
                let _ = std::fs::remove_file(&blocked); // Perhaps there is none.
                std::fs::create_dir(&blocked).expect("the directory is writable");
                command(world, &["CONFIG", "SET", "save", "3600 1000000"]);
                command(world, &["BGSAVE"]);
                sleep(some_time);
                std::fs::remove_dir(&blocked).expect("it is empty");
                command(world, &["CONFIG", "SET", "save", ""]);
                command(world, &["SAVE"]);
            }
            Fault::CacheFailedOver => {
                command(world, &["SAVE"]);
                sleep(some_time);
                command(world, &["DEBUG", "RELOAD", "NOSAVE"]);
            }
            Fault::CacheLoading => {
                // Slow enough for many commands to be refused, which it looks for only every so many bytes.
                command(world, &["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
                command(world, &["CONFIG", "SET", "key-load-delay", "4000"]);
                command(world, &["SAVE"]);
                sleep(some_time);
                command(world, &["DEBUG", "RELOAD", "NOSAVE"]);
                command(world, &["CONFIG", "SET", "key-load-delay", "0"]);
                // As it is by default: another fault loads as well, and is not to be answered meanwhile.
                command(world, &["CONFIG", "SET", "loading-process-events-interval-bytes", "2097152"]);
            }
            _ => {
                command(world, &["CONFIG", "SET", "requirepass", "other"]);
                let with = format!("redis://:other@127.0.0.1:{}", world.cache.port());
                let mut cache = redis::Client::open(with).and_then(|client| client.get_connection());
                let cache = cache.as_mut().expect("the password is known here");
                let mut command = |line: &[&str]| {
                    let _: redis::Value = redis::Cmd::new().arg(line).query(cache).expect("it may do everything");
                };
                command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                sleep(some_time);
                command(&["CONFIG", "SET", "requirepass", ""]);
            }
        }
    }

    fn strike_network(self, world: &mut World, seed: &mut Seed) {
        let direction = seed.pick(&[Direction::Questions, Direction::Answers]);
        match self {
            Fault::PostgresCut => world.to_postgres.refuse(),
            Fault::CacheCut => world.to_cache.refuse(),
            Fault::BothCut => {
                world.to_postgres.refuse();
                world.to_cache.refuse();
            }
            Fault::PostgresStalled => world.to_postgres.stall(direction),
            Fault::CacheStalled => world.to_cache.stall(direction),
            _ => {
                for _ in 0..4 {
                    world.to_cache.cut_after(seed.below(60) as usize);
                    sleep(seed.millis(50, 400));
                    world.to_cache.heal();
                }
            }
        }
        match self {
            // Longer than the limits of the daemon, so that it must notice.
            Fault::PostgresStalled | Fault::CacheStalled => sleep(seed.millis(2_500, 4_500)),
            _ => sleep(seed.millis(0, 1_500)),
        }
        world.to_postgres.heal();
        world.to_cache.heal();
    }
}

/// Values change and no row does.
fn alter_table(seed: &mut Seed) -> String {
    let number = seed.below(1_000);
    match seed.below(2) {
        0 => format!("ALTER TABLE torture.items DROP COLUMN IF EXISTS extra, ADD COLUMN extra int DEFAULT {number}"),
        _ => format!("ALTER TABLE torture.payments ALTER amount TYPE bigint USING amount + {number}"),
    }
}

fn command(world: &World, line: &[&str]) {
    let _: redis::Value = world.redis(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
}

fn set(world: &World, setting: &str) {
    world.sql_at_last(&format!("ALTER SYSTEM SET {setting}"));
    world.sql_at_last("SELECT pg_reload_conf()");
}

fn reset(world: &World, name: &str) {
    world.sql_at_last(&format!("ALTER SYSTEM RESET {name}"));
    world.sql_at_last("SELECT pg_reload_conf()");
}
