//! A cache that is away holds WAL back only so long: then the position goes on without it, and its own mark says what it
//! lacks when it returns.

use super::admin;
use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::redis::{Data, Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{KEYS, RULES, Scene};

const RELEASED: &str = "id=cache.released";
const AGAIN: &str = "id=cache.holds_again";
const SWEPT: &str = "id=sweep.ended";

/// A change of one key, and WAL that says nothing to anybody.
const CHANGE: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";
const WAL: &str = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 3)";

/// Both caches; each may hold 2 MiB back.
fn both(scene: &Scene, other: &Redis) -> String {
    let cache = |name: &str, url: &str| {
        let lines = "echo = []\ntimeout = \"2s\"\nhold_wal_bytes_max = \"2MiB\"";
        format!("[caches.{name}]\nurl = \"{url}\"\n{lines}\n")
    };
    let (url, dakar) = (scene.postgres.url(), cache("dakar", &scene.cache.url()));
    format!("[postgres]\nurl = \"{url}\"\n{dakar}{}{RULES}", cache("vercel", &other.url()))
}

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

fn fill(cache: &Redis) {
    KEYS.iter().for_each(|key| cache.ask::<()>(&["SET", key, "value"]));
}

fn left(cache: &Redis) -> usize {
    KEYS.iter().filter(|key| cache.ask::<bool>(&["EXISTS", key])).count()
}

/// A daemon with both caches, each swept once and full of keys.
async fn started(scene: &Scene, other: &Redis, config: &str) -> Daemon {
    let mut daemon = Daemon::start(config, &[]);
    daemon.allow_failing_cache();
    daemon.allow(RELEASED);
    daemon.wait_for_log(scene.mode.started());
    for cache in [&scene.cache, other] {
        eventually("its mark is there", PATIENCE, async || cache.ask(&["EXISTS", "crieur:mark:crieur"])).await;
    }
    scene.confirmed(&daemon).await;
    [&scene.cache, other].into_iter().for_each(fill);
    daemon
}

/// Changes and WAL until the cache is released.
async fn until_released(scene: &Scene, daemon: &Daemon) {
    settled("the cache is released", PATIENCE, async || {
        scene.run(CHANGE).await;
        scene.run(WAL).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if daemon.log().contains(RELEASED) { Ok(()) } else { Err(daemon.log()) }
    })
    .await;
}

#[tokio::test]
async fn the_position_goes_on_without_a_stopped_cache_which_lacks_nothing_when_it_returns() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let page = admin::address();
    let config = format!("[admin]\nlisten = \"{page}\"\n{}", both(&scene, &other));
    let mut daemon = started(&scene, &other, &config).await;
    let sweeps = count(&daemon, SWEPT);
    let released = |cache: &str, is: u8| format!("crieur_cache_released{{cache=\"{cache}\"}} {is}");
    admin::shows(page, &released("vercel", 0)).await;
    other.freeze();
    until_released(&scene, &daemon).await;
    admin::shows(page, &released("vercel", 1)).await;
    admin::shows(page, &released("dakar", 0)).await;
    for _ in 0..3 {
        scene.run(CHANGE).await;
        scene.run(WAL).await;
        scene.confirmed(&daemon).await;
    }
    other.thaw();
    daemon.wait_for_log(AGAIN);
    admin::shows(page, &released("vercel", 0)).await;
    eventually("its key goes", PATIENCE, async || !other.ask::<bool>(&["EXISTS", "available_slots:1"])).await;
    // What it lacked was in memory: nothing else goes.
    assert_eq!((left(&other), left(&scene.cache)), (KEYS.len() - 1, KEYS.len() - 1), "{}", daemon.log());
    assert_eq!((count(&daemon, SWEPT), count(&daemon, RELEASED)), (sweeps, 1), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn after_kill_9_only_the_cache_that_was_left_behind_is_swept() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let mut daemon = started(&scene, &other, &both(&scene, &other)).await;
    other.freeze();
    until_released(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    daemon.kill();
    other.thaw();
    let mut daemon = Daemon::start(&both(&scene, &other), &[]);
    daemon.wait_for_log("id=gap.behind");
    daemon.wait_for_log(SWEPT);
    scene.run(CHANGE).await;
    scene.confirmed(&daemon).await;
    assert_eq!(left(&scene.cache), KEYS.len() - 1, "nothing is swept where nothing was missed: {}", daemon.log());
    // Keys that no rule owns stay.
    assert_eq!(left(&other), 4, "{}", daemon.log());
    assert_eq!((count(&daemon, SWEPT), count(&daemon, "id=gap.")), (1, 1), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_alone_is_left_behind_as_well_and_swept_only_when_it_lost_something() {
    for data in [None, Some(Data::Kept), Some(Data::Lost)] {
        let mut scene = Scene::start().await;
        let limit = "[cache]\ntimeout = \"2s\"\nhold_wal_bytes_max = \"2MiB\"\n";
        let mut daemon = scene.daemon_with(&scene.config().replace("[cache]\n", limit)).await;
        daemon.allow_failing_cache();
        daemon.allow(RELEASED);
        let sweeps = count(&daemon, SWEPT);
        scene.cache.freeze();
        until_released(&scene, &daemon).await;
        scene.confirmed(&daemon).await;
        match data {
            None => scene.cache.thaw(),
            Some(Data::Kept) => {
                scene.cache.thaw();
                scene.cache.restart(Data::Kept);
            }
            Some(data) => scene.cache.restart(data),
        }
        daemon.wait_for_log(AGAIN);
        eventually("the key goes", PATIENCE, async || !scene.cache.ask::<bool>(&["EXISTS", "available_slots:1"])).await;
        let swept = count(&daemon, SWEPT) - sweeps;
        assert_eq!(swept, usize::from(data == Some(Data::Lost)), "{data:?}: {}", daemon.log());
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// What was changed is in memory alone while the cache refuses the sweep, and the stream begins behind it.
#[tokio::test]
async fn the_mark_of_a_cache_that_was_left_behind_says_no_more_than_the_cache_has_deleted() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let () = other.ask(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
    let as_ann = format!("redis://ann:pw@127.0.0.1:{}", other.port());
    let config = both(&scene, &other).replace(&other.url(), &as_ann).replace("echo", "heartbeat = \"1s\"\necho");
    let config = format!("{config}\n[[rules]]\ntable = \"public.visits\"\nkeys = [\"visit:{{id}}:*\"]\n");
    let mut daemon = started(&scene, &other, &config).await;
    let () = other.ask(&["SET", "visit:7:rooms", "old"]);
    let () = other.ask(&["ACL", "SETUSER", "ann", "-scan"]);
    scene.run("INSERT INTO visits VALUES (7)").await;
    until_released(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    daemon.allow("id=stream.interrupted");
    scene.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
    daemon.wait_for_logs(scene.mode.started(), 2);
    let mark = || other.ask::<String>(&["GET", "crieur:mark:crieur"]);
    let before = mark();
    settled(
        "a mark is written on the new stream",
        PATIENCE,
        async || if mark() == before { Err(daemon.log()) } else { Ok(()) },
    )
    .await;
    let mark: crieur::mark::Mark = serde_json::from_str(&mark()).expect("the daemon writes marks");
    let behind = format!("SELECT ('{}'::pg_lsn < confirmed_flush_lsn)::text FROM pg_replication_slots", mark.lsn);
    assert_eq!(scene.ask(&behind).await, "true", "{mark:?}: {}", daemon.log());
    // So the next process knows that the cache lacks something.
    daemon.kill();
    let () = other.ask(&["ACL", "SETUSER", "ann", "+scan"]);
    assert!(other.ask::<bool>(&["EXISTS", "visit:7:rooms"]), "nothing was deleted: {}", daemon.log());
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_for_log("id=gap.behind");
    eventually("its key goes", PATIENCE, async || !other.ask::<bool>(&["EXISTS", "visit:7:rooms"])).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// The slot may keep 64 MB, and the cache would let it keep a gigabyte.
#[tokio::test]
async fn no_slot_is_lost_while_a_cache_is_away() {
    let options =
        postgres::Options { conf: vec!["max_slot_wal_keep_size = 64MB".to_owned()], ..postgres::Options::default() };
    let scene = Scene::with(options, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    daemon.allow(RELEASED);
    daemon.allow("id=slot.");
    scene.cache.freeze();
    // 300 MB, and a checkpoint behind each few, which removes what nothing holds.
    for round in 0..50 {
        scene.run(CHANGE).await;
        scene.run(WAL).await;
        scene.run(WAL).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        if round % 5 == 4 {
            scene.run("CHECKPOINT").await;
        }
    }
    let status = scene.ask("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'crieur'").await;
    assert!(status == "reserved" || status == "extended", "{status}: {}", daemon.log());
    assert_eq!(count(&daemon, RELEASED), 1, "{}", daemon.log());
    scene.cache.thaw();
    daemon.wait_for_log(AGAIN);
    eventually("the key goes", PATIENCE, async || !scene.cache.ask::<bool>(&["EXISTS", "available_slots:1"])).await;
    assert_eq!(daemon.stop(), Some(0));
}
