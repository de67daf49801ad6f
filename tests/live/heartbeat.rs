//! What the mark tells while PostgreSQL is idle and while the cache only changed a little: the heartbeat and the ring.

use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::process::Signal;
use super::harness::proxy::Proxy;
use super::harness::redis::{Data, Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{KEYS, Scene, config, swept};

const MARK: &str = "crieur:mark:crieur";
const BOOK: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";
const AGAIN: &str = "id=gap.replayed";
const SWEPT: &str = "id=sweep.ended";

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

/// Seconds of the mark.
pub fn marked_at(scene: &Scene) -> u64 {
    let mark: String = scene.cache.ask(&["GET", MARK]);
    serde_json::from_str::<crieur::mark::Mark>(&mark).expect("it is a mark").at
}

#[tokio::test]
async fn a_cache_that_forgets_while_postgresql_is_idle_is_noticed_with_the_heartbeat() {
    // PostgreSQL is silent for longer than a test is patient: only a heartbeat can notice anything.
    let conf = vec!["wal_sender_timeout = 10min".to_owned()];
    let mut scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let beating = scene.config().replace("[cache]\n", "[cache]\nheartbeat = \"200ms\"\n");
    let beating = beating.replace("[postgres]\n", "[postgres]\nliveness_timeout = \"10m\"\n");
    let mut daemon = scene.daemon_with(&beating).await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    // Stale keys that an old snapshot brings back.
    let () = scene.cache.ask(&["SAVE"]);
    scene.run(BOOK).await;
    scene.run("CHECKPOINT").await;
    scene.confirmed(&daemon).await;
    // From here on nobody writes.
    let at = marked_at(&scene);
    eventually("the mark's time moves", PATIENCE, async || marked_at(&scene) > at + 1).await;
    let forget: [&[&str]; 3] = [&["FLUSHALL"], &["DEL", MARK], &["SET", MARK, "{}"]];
    for command in forget {
        // It proves the cache again, though nothing was committed since.
        eventually("the mark is back", PATIENCE, async || {
            scene.cache.ask::<Option<String>>(&["GET", MARK]).is_some_and(|mark| mark.contains("nonce"))
        })
        .await;
        let before = count(&daemon, SWEPT);
        daemon.signal(Signal::Stop);
        let () = scene.cache.ask(command);
        scene.fill();
        daemon.signal(Signal::Cont);
        settled(&format!("{command:?} is noticed"), PATIENCE, async || {
            let seen = count(&daemon, SWEPT);
            if seen > before { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
        swept(&scene, &daemon).await;
    }
    scene.cache.kill();
    scene.cache.restart(Data::Kept);
    assert!(!scene.gone().contains("available_slots:1"), "the snapshot is not old");
    eventually("what the snapshot brought goes", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A replica that is promoted without the last deletes: they go again, and nothing else does.
#[tokio::test]
async fn a_cache_that_went_back_a_little_gets_the_last_deletes_again_and_no_sweep() {
    let scene = Scene::start().await;
    for on_gap in ["sweep", "warn"] {
        let proxy = Proxy::start(scene.cache.port());
        let through = config(&scene.postgres.url(), &format!("redis://127.0.0.1:{}", proxy.port()));
        let through = through.replace("[cache]\n", &format!("[cache]\non_gap = \"{on_gap}\"\n"));
        let mut daemon = scene.daemon_with(&through).await;
        daemon.allow_failing_cache();
        daemon.allow("id=gap.unswept");
        // The second daemon finds the mark of the first, behind the slot.
        scene.run(BOOK).await;
        scene.confirmed(&daemon).await;
        scene.fill();
        let replica = Redis::start(&Server::System, &[]);
        let () = replica.ask(&["REPLICAOF", "127.0.0.1", &scene.cache.port().to_string()]);
        eventually("the replica follows", PATIENCE, async || {
            let [ours, theirs] = [&scene.cache, &replica].map(|server| server.ask::<Option<String>>(&["GET", MARK]));
            ours.is_some() && ours == theirs && replica.ask::<bool>(&["EXISTS", KEYS[0]])
        })
        .await;
        let () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
        scene.run(BOOK).await;
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("available_slots:1") && replica.ask::<bool>(&["EXISTS", "available_slots:1"]));
        let sweeps = count(&daemon, SWEPT);

        proxy.lead_to(replica.port());
        daemon.wait_for_log(AGAIN);
        eventually("what it lacked goes", PATIENCE, async || !replica.ask::<bool>(&["EXISTS", "available_slots:1"]))
            .await;
        scene.run("INSERT INTO leases SELECT max(id) + 1, 1 FROM leases").await;
        scene.confirmed(&daemon).await;
        let kept = ["available_slots:2", "properties:detail:1", "session:1", "visits:1"];
        for key in kept {
            assert!(replica.ask::<bool>(&["EXISTS", key]), "{on_gap}: {key} went: {}", daemon.log());
        }
        assert_eq!(count(&daemon, SWEPT), sweeps, "{on_gap}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The process id of the cache and its replication id stay: whatever became of connections, nothing is missing there.
#[tokio::test]
async fn a_new_connection_to_the_same_cache_means_neither_a_sweep_nor_deletes_again() {
    let scene = Scene::start().await;
    let beating = scene.config().replace("[cache]\n", "[cache]\nheartbeat = \"1500ms\"\n");
    let mut daemon = scene.daemon_with(&beating).await;
    daemon.allow_failing_cache();
    let ours = || -> Option<String> {
        let list: String = scene.cache.ask(&["CLIENT", "LIST"]);
        let line = list.lines().find(|line| line.contains("name=crieur"))?;
        line.split(' ').next().map(str::to_owned)
    };
    // Between two deletes of the same key, which a reader filled in between.
    for _ in 0..5 {
        scene.confirmed(&daemon).await;
        let () = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(scene.change(&daemon, BOOK).await.contains("available_slots:1"));
    }
    // `timeout` of redis.conf, shorter than a heartbeat.
    let () = scene.cache.ask(&["CONFIG", "SET", "timeout", "1"]);
    scene.fill();
    let mut seen = std::collections::BTreeSet::new();
    eventually("the cache closed idle connections", PATIENCE, async || {
        seen.extend(ours());
        seen.len() >= 3
    })
    .await;
    assert!(scene.change(&daemon, BOOK).await.contains("available_slots:1"));
    let log = daemon.log();
    assert_eq!((log.matches(AGAIN).count(), log.matches(SWEPT).count()), (0, 1), "{log}");
    assert_eq!(daemon.stop(), Some(0));
}

/// A server, or a service between, that closes what is idle for less than a heartbeat: with a budget the pause behind a try
/// is a heartbeat, too.
#[tokio::test]
async fn with_a_budget_marks_go_on_where_connections_are_closed_when_they_are_idle() {
    let scene = Scene::with(postgres::Options::default(), &["timeout 1"]).await;
    let budget = "[cache]\nbudget = \"10M\"\nheartbeat = \"4s\"\n";
    let mut daemon = scene.daemon_with(&scene.config().replace("[cache]\n", budget)).await;
    daemon.allow_failing_cache();
    let mark = || scene.cache.ask::<Option<String>>(&["GET", MARK]);
    for _ in 0..3 {
        let before = mark();
        eventually("the next mark comes", PATIENCE, async || mark() != before).await;
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// The echoes of what was deleted again come in a minute. The mark says that nobody is silent, and up to where everything
/// was deleted.
#[tokio::test]
async fn marks_go_on_while_the_echoes_of_a_repair_wait() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.cache.port());
    let through = config(&scene.postgres.url(), &format!("redis://127.0.0.1:{}", proxy.port()));
    // A daemon without echoes marks the cache, which needs no sweep then.
    let mut first = scene.daemon_with(&through).await;
    assert_eq!(first.stop(), Some(0));
    let mut daemon = Daemon::start(&through.replace("echo = []", "echo = [\"1m\"]"), &[]);
    daemon.allow_failing_cache();
    let replica = Redis::start(&Server::System, &[]);
    let marked = |cache: &Redis| cache.ask::<Option<String>>(&["GET", MARK]);
    let deleted = |cache: &Redis| -> Option<crieur::lsn::Lsn> { crieur::mark::deleted(marked(cache)?.as_bytes()) };
    let told = async |cache: &Redis, what: &str| {
        let now = scene.ask("SELECT pg_current_wal_insert_lsn()::text").await.parse().expect("a position");
        eventually(what, PATIENCE, async || deleted(cache) >= Some(now)).await;
    };
    scene.run(BOOK).await;
    told(&scene.cache, "the first change").await;
    let () = replica.ask(&["REPLICAOF", "127.0.0.1", &scene.cache.port().to_string()]);
    eventually("the replica follows", PATIENCE, async || marked(&replica) == marked(&scene.cache)).await;
    let () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    scene.run(BOOK).await;
    told(&scene.cache, "the mark says that the change was deleted").await;
    proxy.lead_to(replica.port());
    daemon.wait_for_log(AGAIN);
    told(&replica, "a mark says that it was deleted here as well").await;
    scene.run(BOOK).await;
    told(&replica, "and the next change").await;
    assert_eq!(daemon.stop(), Some(0));
}
