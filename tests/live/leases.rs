//! The lease protocols of docs/guide/readers.md, by the scripts of `lua/`, on every server and against the real daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redis::Connection;

use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually};
use super::scene::Scene;

/// Where a reader keeps its lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    InTheKey,
    BesideTheKey,
}

const PLACES: [Place; 2] = [Place::InTheKey, Place::BesideTheKey];

const TAKE: &str = include_str!("../../lua/take.lua");
const STORE_IN_KEY: &str = include_str!("../../lua/store-in-key.lua");
const STORE_BESIDE: &str = include_str!("../../lua/store-beside.lua");
const GIVE_BACK: &str = include_str!("../../lua/give-back.lua");
const LOCK_TAKE: &str = include_str!("../../lua/lock-take.lua");
const LOCK_RENEW: &str = include_str!("../../lua/lock-renew.lua");

fn evaluate<T: redis::FromRedisValue>(cache: &mut Connection, script: &str, keys: &[&str], arguments: &[&str]) -> T {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command.query(cache).unwrap_or_else(|error| panic!("{script}: {error}"))
}

impl Place {
    fn key(self, key: &str) -> String {
        match self {
            Place::InTheKey => key.to_owned(),
            Place::BesideTheKey => format!("lease:{{{key}}}"),
        }
    }

    fn value(self, value: &str) -> String {
        match self {
            Place::InTheKey => format!("V{value}"),
            Place::BesideTheKey => value.to_owned(),
        }
    }

    /// Whether `token` is now the lease of `key`: the command, which may be executed once only.
    ///
    /// Without GET, which Redis 6 does not know together with NX: nothing here asks whose lease stands instead.
    fn take(self, cache: &mut Connection, key: &str, token: &str, milliseconds: &str) -> bool {
        let mut command = redis::cmd("SET");
        command.arg(self.key(key)).arg(self.lease(token)).arg("NX").arg("PX").arg(milliseconds);
        command.query::<Option<String>>(cache).expect("it answers").is_some()
    }

    fn lease(self, token: &str) -> String {
        if self == Place::InTheKey { format!("L{token}") } else { token.to_owned() }
    }

    /// Whether the value was stored.
    fn store(self, cache: &mut Connection, key: &str, token: &str, value: &str) -> bool {
        let value = self.value(value);
        match self {
            Place::InTheKey => evaluate(cache, STORE_IN_KEY, &[key], &[&format!("L{token}"), &value, "600"]),
            Place::BesideTheKey => evaluate(cache, STORE_BESIDE, &[key, &self.key(key)], &[token, &value, "600"]),
        }
    }

    fn give_back(self, cache: &mut Connection, key: &str, token: &str) -> bool {
        evaluate(cache, GIVE_BACK, &[&self.key(key)], &[&self.lease(token)])
    }

    /// The value, if one is stored.
    fn get(self, cache: &mut Connection, key: &str) -> Option<String> {
        let found: Option<String> = redis::cmd("GET").arg(key).query(cache).expect("it answers");
        match self {
            Place::InTheKey => found.and_then(|found| found.strip_prefix('V').map(str::to_owned)),
            Place::BesideTheKey => found,
        }
    }

    fn config(self, scene: &Scene) -> String {
        match self {
            Place::InTheKey => scene.config(),
            Place::BesideTheKey => scene.config().replace("echo = []", "echo = []\nleases = \"companion\""),
        }
    }
}

fn exists(cache: &mut Connection, key: &str) -> bool {
    redis::cmd("EXISTS").arg(key).query(cache).expect("it answers")
}

fn unlink(cache: &mut Connection, keys: &[&str]) {
    let _: u64 = redis::cmd("UNLINK").arg(keys).query(cache).expect("it answers");
}

#[tokio::test]
async fn the_scripts_store_only_under_a_lease_that_is_still_there() {
    for server in Server::ALL {
        let redis = Redis::start(server, &[]);
        let cache = &mut redis.connection();
        for place in PLACES {
            let says = format!("{server:?} {place:?}");
            assert!(place.take(cache, "k", "1", "60000") && !place.take(cache, "k", "2", "60000"), "{says}");
            assert!(!place.store(cache, "k", "2", "theirs"), "{says}: another's lease");
            assert!(place.store(cache, "k", "1", "mine") && place.get(cache, "k").as_deref() == Some("mine"), "{says}");
            assert!(!place.store(cache, "k", "1", "again"), "{says}: a lease serves once");

            unlink(cache, &["k", &place.key("k")]);
            assert!(place.take(cache, "k", "3", "60000"), "{says}");
            unlink(cache, &["k", &place.key("k")]);
            assert!(!place.store(cache, "k", "3", "old") && !exists(cache, "k"), "{says}: deleted in between");
            assert!(place.take(cache, "k", "4", "60000") && !place.store(cache, "k", "3", "old"), "{says}: replaced");
            assert!(!place.give_back(cache, "k", "3") && place.give_back(cache, "k", "4"), "{says}");
            assert!(!exists(cache, &place.key("k")), "{says}: given back");

            assert!(place.take(cache, "k", "5", "1"), "{says}");
            eventually("the lease expires", PATIENCE, async || !exists(cache, &place.key("k"))).await;
            assert!(!place.store(cache, "k", "5", "late") && !exists(cache, "k"), "{says}: expired");
        }
        redis_7_tells_with_the_take_whose_lease_stands(server, cache);
    }
}

/// `SET … NX GET`: one command, where the server knows it.
fn redis_7_tells_with_the_take_whose_lease_stands(server: &Server, cache: &mut Connection) {
    let mut take = |token: &str| -> redis::RedisResult<Option<String>> {
        redis::cmd("SET").arg("n").arg(token).arg("NX").arg("GET").arg("PX").arg("10000").query(cache)
    };
    #[cfg(target_arch = "x86_64")]
    if *server == Server::Redis6 {
        return assert!(take("L1").is_err(), "the page says that {server:?} does not know it");
    }
    assert_eq!(take("L1").ok(), Some(None), "{server:?}");
    assert_eq!(take("L2").ok(), Some(Some("L1".to_owned())), "{server:?}");
}

/// Valkey 9 compares by itself: what stores and gives back without a script. Redis 7 does not know the words, and says so.
#[test]
fn a_conditional_set_stores_and_a_conditional_delete_gives_back_where_the_server_has_them() {
    let redis = Redis::start(&Server::Valkey9, &[]);
    let cache = &mut redis.connection();
    let mut say = |words: &str| -> redis::RedisResult<Option<String>> {
        redis::Cmd::new().arg(words.split(' ').collect::<Vec<_>>()).query(cache)
    };
    assert_eq!(say("SET k L1 NX GET PX 60000"), Ok(None));
    assert_eq!(say("SET k Vother IFEQ L2 EX 600"), Ok(None), "another's lease");
    assert_eq!(say("SET k Vmine IFEQ L1 EX 600"), Ok(Some("OK".to_owned())));
    assert_eq!(say("SET k Vmine IFEQ L1 EX 600"), Ok(None), "a lease serves once");
    assert_eq!(say("UNLINK k"), Ok(Some("1".to_owned())));
    assert_eq!(say("SET k Vold IFEQ L1 EX 600"), Ok(None), "deleted in between");
    assert_eq!(say("GET k"), Ok(None));
    assert_eq!(say("SET k L3 NX GET PX 60000"), Ok(None));
    assert_eq!(say("DELIFEQ k L1"), Ok(Some("0".to_owned())), "another's lease");
    assert_eq!(say("DELIFEQ k L3"), Ok(Some("1".to_owned())));
    let redis = Redis::start(&Server::System, &[]);
    let words = ["SET", "k", "V1", "IFEQ", "L1", "EX", "600"];
    let refused = redis::Cmd::new().arg(&words).query::<Option<String>>(&mut redis.connection());
    assert!(refused.is_err(), "the page says that this server does not know it");
}

/// A client that sends the take again by itself: its first copy is executed late, behind the delete of a newer change.
#[test]
fn a_take_that_is_executed_again_behind_a_delete_serves_no_store_when_the_script_made_it() {
    for server in Server::ALL {
        let redis = Redis::start(server, &[]);
        let cache = &mut redis.connection();
        for place in PLACES {
            let says = format!("{server:?} {place:?}");
            let key = place.key("k");
            // The plain take brings the reader's own lease back: the page says why it may run only once.
            assert!(place.take(cache, "k", "1", "60000"), "{says}");
            unlink(cache, &["k", &key]);
            assert!(
                place.take(cache, "k", "1", "60000") && place.store(cache, "k", "1", "old"),
                "{says}: no such hole"
            );
            unlink(cache, &["k", &key]);

            let own = if place == Place::InTheKey { "L2" } else { "2" };
            let mut take = |own: &str| evaluate::<String>(cache, TAKE, &[&key], &[own, "60000"]);
            let lease = take(own);
            assert!(lease.starts_with(&format!("{own}:")), "{says}: {lease}");
            assert_eq!(take(own), lease, "{says}: it is still there, and the reader's own");
            assert_eq!(take("L3"), lease, "{says}: another reader sees whose it is");
            unlink(cache, &["k", &key]);
            let late: String = evaluate(cache, TAKE, &[&key], &[own, "60000"]);
            assert_ne!(late, lease, "{says}");
            let token = |lease: &str| lease.trim_start_matches('L').to_owned();
            assert!(
                !place.store(cache, "k", &token(&lease), "old") && place.get(cache, "k").is_none_or(|v| v != "old")
            );
            assert!(!place.give_back(cache, "k", &token(&lease)), "{says}");
            assert!(place.store(cache, "k", &token(&late), "new"), "{says}: the lease that is there serves");
            unlink(cache, &["k", &key]);
        }
    }
}

/// A store or a give-back that runs again, late, finds another lease or none, whatever happened meanwhile.
#[test]
fn a_store_or_a_give_back_that_is_executed_again_changes_nothing() {
    for server in Server::ALL {
        let redis = Redis::start(server, &[]);
        let cache = &mut redis.connection();
        for place in PLACES {
            let says = format!("{server:?} {place:?}");
            assert!(place.take(cache, "k", "1", "60000") && place.store(cache, "k", "1", "first"), "{says}");
            assert!(!place.store(cache, "k", "1", "first"), "{says}: behind the value that it stored itself");
            unlink(cache, &["k", &place.key("k")]);
            assert!(!place.store(cache, "k", "1", "first") && !exists(cache, "k"), "{says}: behind a delete");
            assert!(place.take(cache, "k", "2", "60000"), "{says}");
            assert!(!place.store(cache, "k", "1", "first") && !place.give_back(cache, "k", "1"), "{says}");
            assert!(place.give_back(cache, "k", "2") && !place.give_back(cache, "k", "2"), "{says}");
            assert!(place.take(cache, "k", "3", "60000") && !place.give_back(cache, "k", "2"), "{says}");
            assert!(place.store(cache, "k", "3", "last") && !place.give_back(cache, "k", "3"), "{says}");
            assert_eq!(place.get(cache, "k").as_deref(), Some("last"), "{says}");
            unlink(cache, &["k", &place.key("k")]);
        }
    }
}

#[test]
fn a_lock_has_one_holder_and_a_fence_that_grows_over_holders_and_over_a_flush() {
    for server in Server::ALL {
        let redis = Redis::start(server, &[]);
        let cache = &mut redis.connection();
        type Taken = (u64, u64);
        let take = |cache: &mut Connection, token: &str| -> Taken {
            evaluate(cache, LOCK_TAKE, &["lock:k"], &[token, "60000"])
        };
        let (first, fence) = take(cache, "a");
        assert_eq!((first, fence.to_string().len()), (1, 16), "{server:?}: microseconds since 1970");
        let (other, left) = take(cache, "b");
        assert!(other == 0 && (1..=60_000).contains(&left), "{server:?}: {other} {left}");
        assert_eq!(take(cache, "a").0, 1, "{server:?}: a token knows itself again");
        let renew = |cache: &mut Connection, token: &str, ms: &str| -> u64 {
            evaluate(cache, LOCK_RENEW, &["lock:k"], &[token, ms])
        };
        assert_eq!((renew(cache, "b", "90000"), renew(cache, "a", "90000")), (0, 1), "{server:?}");
        assert!(take(cache, "b").1 > 60_000, "{server:?}: the renewal counts");
        let release =
            |cache: &mut Connection, token: &str| -> u64 { evaluate(cache, GIVE_BACK, &["lock:k"], &[token]) };
        assert_eq!((release(cache, "b"), release(cache, "a"), release(cache, "a")), (0, 1, 0), "{server:?}");
        let (second, later) = take(cache, "b");
        assert!(second == 1 && later > fence, "{server:?}: {later} behind {fence}");
        let () = redis::cmd("FLUSHALL").query(cache).expect("it answers");
        let (third, last) = take(cache, "c");
        assert!(third == 1 && last > later, "{server:?}: {last} behind {later}");
        assert_eq!((renew(cache, "b", "1000"), release(cache, "b")), (0, 0), "{server:?}: it has lost the lock");
    }
}

/// The race that plain readers lose without an echo: SELECT, commit, delete, SET.
#[tokio::test]
async fn a_reader_that_paused_over_a_change_stores_nothing_and_needs_no_echo() {
    let scene = Scene::start().await;
    let key = "properties:detail:1";
    for place in PLACES {
        let mut daemon = scene.daemon_with(&place.config(&scene)).await;
        let cache = &mut scene.keys();
        scene.run(&format!("UPDATE properties SET title = 'old {place:?}' WHERE id = 1")).await;
        scene.confirmed(&daemon).await;
        assert!(!exists(cache, key), "{place:?}");

        assert!(place.take(cache, key, "1", "600000"), "{place:?}");
        let old = scene.ask("SELECT title FROM properties WHERE id = 1").await;
        scene.run(&format!("UPDATE properties SET title = 'new {place:?}' WHERE id = 1")).await;
        scene.confirmed(&daemon).await;
        assert!(!place.store(cache, key, "1", &old), "{place:?}: an old value was stored");
        assert!(!exists(cache, key) && !exists(cache, &place.key(key)), "{place:?}");

        // Another reader begins after the change; the first, later still, does not overwrite it.
        assert!(place.take(cache, key, "2", "600000"), "{place:?}");
        let new = scene.ask("SELECT title FROM properties WHERE id = 1").await;
        assert!(place.store(cache, key, "2", &new) && !place.store(cache, key, "1", &old), "{place:?}");
        assert_eq!(place.get(cache, key), Some(new), "{place:?}");
        // The companion of a key that has its value goes with it as well: a lease that was taken too late to be of use.
        assert!(place == Place::InTheKey || place.take(cache, key, "3", "600000"));
        scene.run("UPDATE properties SET title = 'last' WHERE id = 1").await;
        scene.confirmed(&daemon).await;
        assert!(!exists(cache, key) && !exists(cache, &place.key(key)), "{place:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_sweep_finds_leases_of_keys_that_nobody_stored_yet() {
    let scene = Scene::start().await;
    let protected = "protect = [\"lock:*\", \"visits:9*\"]\nleases = \"companion\"";
    let mut daemon = scene.daemon_with(&scene.config().replace("echo = []", &format!("echo = []\n{protected}"))).await;
    let cache = &mut scene.keys();
    let (gone, stays) = (
        ["visits:1", "lease:{visits:1}", "lease:{visits:2}", "lease:{visits:}x}", "visits:3"],
        [
            "visits:9",
            "lease:{visits:9}",
            "lease:{visits:98}",
            "lease:{visits:1",
            "lease:{visit:1}",
            "lease:{lock:visits:1}",
        ],
    );
    for key in gone.iter().chain(&stays) {
        let () = redis::cmd("SET").arg(key).arg("1").query(cache).expect("it is writable");
    }
    scene.run("TRUNCATE visits").await;
    scene.confirmed(&daemon).await;
    let left = |keys: &[&'static str], cache: &mut Connection| -> Vec<&str> {
        keys.iter().copied().filter(|key| exists(cache, key)).collect()
    };
    assert_eq!(left(&gone, cache), [""; 0]);
    assert_eq!(left(&stays, cache), stays);

    // So many keys that they take several commands, half of them not stored.
    let mut pipeline = redis::pipe();
    for id in 1..=1000 {
        pipeline.cmd("SET").arg(format!("lease:{{available_slots:{id}}}")).arg("1").ignore();
        if id % 2 == 0 {
            pipeline.cmd("SET").arg(format!("available_slots:{id}")).arg("1").ignore();
        }
    }
    let () = pipeline.query(cache).expect("it is writable");
    scene.run("INSERT INTO visit_bookings SELECT i, i FROM generate_series(1, 1000) AS i").await;
    scene.confirmed(&daemon).await;
    let found: Vec<String> = redis::cmd("KEYS").arg("*available_slots:*").query(cache).expect("it answers");
    assert!(found.is_empty(), "{} of 1500", found.len());
    assert_eq!(daemon.stop(), Some(0));
}

/// A store turns a lease into a key in one step: whoever scanned for keys first, or for both at once, could miss both.
#[tokio::test]
async fn a_sweep_looks_for_leases_before_it_looks_for_keys() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon_with(&Place::BesideTheKey.config(&scene)).await;
    let cache = &mut scene.keys();
    for (name, value) in [("slowlog-max-len", "10000"), ("slowlog-log-slower-than", "0")] {
        let () = redis::cmd("CONFIG").arg(&["SET", name, value]).query(cache).expect("it answers");
    }
    scene.run("TRUNCATE visits").await;
    scene.confirmed(&daemon).await;
    type Entry = (u64, u64, u64, Vec<String>, String, String);
    let mut log: Vec<Entry> = redis::cmd("SLOWLOG").arg("GET").arg("10000").query(cache).expect("it answers");
    log.reverse(); // The newest is the first.
    let matched = |command: &[String]| {
        let at = command.iter().position(|word| word == "MATCH")?;
        command.get(at + 1).cloned()
    };
    let scans: Vec<String> = log.iter().filter(|entry| entry.3[0] == "SCAN").filter_map(|e| matched(&e.3)).collect();
    assert_eq!(scans, ["lease:{visits:*", "visits:*"]);
    assert_eq!(daemon.stop(), Some(0));
}

const PROPERTIES: i32 = 5;

/// Reads as docs/guide/readers.md says, with a pause in the worst place; says whether the store succeeded, if there was one.
async fn read(place: Place, cache: &mut Connection, sql: &tokio_postgres::Client, id: i32, token: u64) -> Option<bool> {
    let key = format!("properties:detail:{id}");
    let pause = Duration::from_millis(token % 4);
    let token = token.to_string();
    if place.get(cache, &key).is_some() || !place.take(cache, &key, &token, "10000") {
        return None;
    }
    let row = sql.query_one("SELECT title FROM properties WHERE id = $1", &[&id]).await.expect("valid SQL");
    tokio::time::sleep(pause).await;
    Some(place.store(cache, &key, &token, row.get(0)))
}

#[tokio::test]
async fn readers_with_leases_keep_nothing_old_without_any_echo() {
    let scene = Scene::start().await;
    for place in PLACES {
        let mut daemon = scene.daemon_with(&place.config(&scene)).await;
        unlink(&mut scene.keys(), &["properties:detail:1", "properties:detail:2"]);
        let done = Arc::new(AtomicBool::new(false));
        let counts: [Arc<AtomicUsize>; 2] = Default::default();
        let mut readers = Vec::new();
        for reader in 0..3 {
            let (mut cache, sql) = (scene.cache.connection(), scene.postgres.client().await);
            let (done, counts) = (Arc::clone(&done), counts.clone());
            readers.push(tokio::spawn(async move {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    let id = round as i32 % PROPERTIES + 1;
                    if let Some(stored) = read(place, &mut cache, &sql, id, reader * 1_000_000_000 + round).await {
                        counts[usize::from(stored)].fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::task::yield_now().await;
                }
            }));
        }
        let enough = || counts.iter().all(|count| count.load(Ordering::Relaxed) > 20);
        let mut write = 0;
        while write < 400 || !enough() {
            write += 1;
            assert!(write < 50_000, "{place:?}: the readers never race: {counts:?}");
            let id = write * 3 % PROPERTIES + 1;
            scene.run(&format!("UPDATE properties SET title = '{place:?} {write}' WHERE id = {id}")).await;
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.expect("a reader does not panic");
        }
        scene.confirmed(&daemon).await;
        let cache = &mut scene.keys();
        for id in 1..=PROPERTIES {
            let title = scene.ask(&format!("SELECT title FROM properties WHERE id = {id}")).await;
            let cached = place.get(cache, &format!("properties:detail:{id}"));
            assert!(cached.as_ref().is_none_or(|cached| *cached == title), "{place:?} {id}: {cached:?}, not {title:?}");
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}
