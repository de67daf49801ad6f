//! What a cache does to itself: it forgets, refuses, hangs, is replaced. Afterwards nothing stale is in it, and nothing
//! was confirmed before its key was answered.

use super::admin;
use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::metrics::value;
use super::scene::{Scene, config, set};

/// Waits until the log says `text` behind its first `from` bytes.
async fn says(daemon: &Daemon, from: usize, text: &str) {
    settled(&format!("the log says {text:?}"), PATIENCE, async || match daemon.log()[from..].to_owned() {
        log if log.contains(text) => Ok(()),
        log => Err(log),
    })
    .await;
}

/// A change that makes `available_slots:1` stale.
struct Booking {
    /// Where the log ended before.
    log: usize,
    /// A position behind the commit.
    committed: String,
}

impl Booking {
    async fn make(scene: &Scene, daemon: &Daemon) -> Booking {
        let log = daemon.log().len();
        scene.run("INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings").await;
        Booking { log, committed: scene.ask("SELECT pg_current_wal_lsn()::text").await }
    }

    /// The daemon says why the cache did not take the key, and has confirmed nothing.
    async fn refused(&self, scene: &Scene, daemon: &Daemon, why: &str) {
        says(daemon, self.log, why).await;
        let early = format!("SELECT (confirmed_flush_lsn >= '{}')::text FROM pg_replication_slots", self.committed);
        assert_eq!(scene.ask(&early).await, "false", "{why}: a position was confirmed whose keys nobody answered");
    }
}

#[tokio::test]
async fn an_idle_connection_that_the_cache_closed_is_replaced_without_a_word() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    for round in 0..5 {
        scene.confirmed(&daemon).await;
        // As `timeout` in redis.conf does; nothing is allowed in the log.
        let killed: u64 = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(killed > 0, "it had no connection");
        let booked = format!("INSERT INTO visit_bookings VALUES ({round}, 1)");
        assert_eq!(scene.change(&daemon, &booked).await, set(&["available_slots:1"]));
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn connections_that_the_cache_kills_in_mid_stream_lose_no_key() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    let mut pipeline = redis::pipe();
    for id in 1..=400 {
        pipeline.cmd("SET").arg(format!("available_slots:{id}")).arg("value").ignore();
    }
    let () = pipeline.query(&mut scene.keys()).expect("it is writable");
    let mut killed: u64 = 0;
    for id in 1..=400 {
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, {id})")).await;
        if id % 10 == 0 {
            killed += scene.cache.ask::<u64>(KILL);
            scene.confirmed(&daemon).await;
        }
    }
    assert!(killed > 20, "only {killed} were killed");
    let left: Vec<String> = scene.cache.ask(&["KEYS", "available_slots:*"]);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(daemon.stop(), Some(0));
}

/// A key that the server does not even read must not keep the others waiting for ever.
#[tokio::test]
async fn a_key_that_is_too_long_for_the_cache_is_left_out_and_the_others_go() {
    let mut scene = Scene::start().await;
    let long = "repeat('x', 3 * 1024 * 1024)";
    let key = format!("properties:city:{}", "x".repeat(3 * 1024 * 1024));
    for server in Server::ALL {
        scene.cache = Redis::start(server, &[]);
        let mut daemon = scene.daemon().await;
        let () = scene.cache.ask(&["SET", &key, "v"]);
        let went = scene.change(&daemon, &format!("UPDATE properties SET city = {long} WHERE id = 1")).await;
        assert!(went.contains("properties:detail:1"), "{server:?}");
        assert_eq!(scene.cache.ask::<u64>(&["EXISTS", &key]), 0, "{server:?}: it can have this key");

        // From here on no client can read or write it.
        let () = scene.cache.ask(&["SET", &key, "v"]);
        let () = scene.cache.ask(&["CONFIG", "SET", "proto-max-bulk-len", "1048576"]);
        daemon.allow("does not read a key of 3145744 bytes");
        let went = scene.change(&daemon, "UPDATE properties SET city = 'Dakar' WHERE id = 1").await;
        assert!(went.contains("properties:detail:1") && went.contains("properties:city:Dakar"), "{server:?}");
        scene.fill();
        scene.run("TRUNCATE properties CASCADE").await;
        scene.confirmed(&daemon).await;
        assert!(scene.gone().contains("properties:detail:2"), "{server:?}: {}", daemon.log());
        let log = daemon.log();
        assert_eq!(log.matches("does not read a key").count(), 1, "once a minute is enough: {log}");
        scene.run("INSERT INTO properties SELECT id, 'Dakar', 'old', 40 + id FROM generate_series(1, 9) AS id").await;
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0), "{server:?}");
    }
}

/// A cluster node that is given as a single server: keys of a batch live in other slots.
#[tokio::test]
async fn a_cluster_node_stops_the_daemon_with_a_hint() {
    let mut scene = Scene::start().await;
    scene.cache = Redis::start(&Server::System, &["cluster-enabled yes"]);
    let slots: Vec<String> = (0..16384).map(|slot: u32| slot.to_string()).collect();
    let words: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    let () = scene.cache.ask(&words);
    eventually("the cluster is whole", PATIENCE, async || {
        scene.cache.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("the cache is a node of a cluster");
    scene.run("INSERT INTO visit_bookings SELECT i, i FROM generate_series(1, 9) AS i").await;
    assert_eq!(daemon.exit(), Some(69), "{}", daemon.log());
    assert!(daemon.log().contains("redis+cluster://"), "{}", daemon.log());
}

/// What makes a cache refuse, what the daemon says then, and what mends it.
type Refusal<'a> = (&'a [&'a [&'a str]], &'a str, &'a [&'a [&'a str]]);

const KILL: &[&str] = &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

#[tokio::test]
async fn a_cache_that_changes_its_password_or_cannot_save_gets_the_keys_when_it_can() {
    let scene = Scene::with(postgres::Options::default(), &["save 3600 1000000"]).await;
    let grant = ["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"];
    let () = scene.cache.ask(&grant);
    let url = format!("redis://ann:pw@127.0.0.1:{}", scene.cache.port());
    let mut daemon = scene.daemon_with(&config(&scene.postgres.url(), &url)).await;
    daemon.allow_failing_cache();
    let refusals: [Refusal; 2] = [
        (&[&["ACL", "SETUSER", "ann", "resetpass", ">new"], KILL], "WRONGPASS", &[&["ACL", "SETUSER", "ann", ">pw"]]),
        (&[&["BGSAVE"]], "MISCONF", &[&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]]),
    ];
    // A directory in the place of the snapshot: no user may replace it with a file, root neither.
    std::fs::create_dir_all(scene.cache.dir().join("dump.rdb/x")).expect("the directory is ours");
    for (refuse, says_so, mend) in refusals {
        scene.fill();
        scene.confirmed(&daemon).await;
        for words in refuse {
            let _: redis::Value = scene.cache.ask(words);
        }
        if says_so == "MISCONF" {
            eventually("the snapshot fails", PATIENCE, async || {
                scene.cache.ask::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
            })
            .await;
        }
        Booking::make(&scene, &daemon).await.refused(&scene, &daemon, says_so).await;
        for words in mend {
            let _: redis::Value = scene.cache.ask(words);
        }
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "{says_so}: {}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// The mark is written inside of a script, where each version of each server words a missing right in its own way.
#[tokio::test]
async fn a_right_that_is_missing_inside_of_a_script_is_said_to_be_one() {
    for server in Server::ALL {
        let mut scene = Scene::start().await;
        scene.cache = Redis::start(server, &[]);
        let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
        let url = format!("redis://ann:pw@127.0.0.1:{}", scene.cache.port());
        let mut daemon = scene.daemon_with(&config(&scene.postgres.url(), &url)).await;
        scene.confirmed(&daemon).await;
        daemon.allow("failed to write the mark");
        let before = daemon.log().len();
        let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "-set"]);
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        says(&daemon, before, "failed to write the mark").await;
        let log = daemon.log()[before..].to_owned();
        let line = log.lines().find(|line| line.contains("failed to write the mark")).expect("it was just seen");
        assert!(line.contains("ACL SETUSER") && !line.contains("maxmemory"), "{server:?}: {line}");
        assert!(line.contains(&format!("127.0.0.1:{}", scene.cache.port())), "it names the cache: {line}");
        let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "+set"]);
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_cache_that_wants_a_password_from_now_on_keeps_its_connections_and_refuses_new_ones() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    Booking::make(&scene, &daemon).await; // So that there is a connection for deletes.
    scene.confirmed(&daemon).await;
    let mut connection = scene.keys();
    let mut set_password = |password: &str| {
        let () =
            redis::cmd("CONFIG").arg(&["SET", "requirepass", password]).query(&mut connection).expect("it answers");
    };
    set_password("new");
    let booking = Booking::make(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    assert!(!daemon.log()[booking.log..].contains("WARN"), "the connection was logged in: {}", daemon.log());

    let mut killer = redis::Client::open(format!("redis://:new@127.0.0.1:{}", scene.cache.port()))
        .and_then(|client| client.get_connection())
        .expect("the new password is right");
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut killer).expect("it answers");
    for line in list.lines().filter(|line| line.contains("name=crieur ")) {
        let id = line.split(' ').find_map(|field| field.strip_prefix("id=")).expect("each client has one");
        let _: u64 = redis::cmd("CLIENT").arg(&["KILL", "ID", id]).query(&mut killer).expect("it answers");
    }
    Booking::make(&scene, &daemon).await.refused(&scene, &daemon, "NOAUTH").await;
    set_password("");
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("available_slots:1"));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_hangs_longer_than_the_timeout_gets_the_same_keys_again() {
    let scene = Scene::start().await;
    let hasty = scene.config().replace("echo = []", "echo = []\ntimeout = \"500ms\"");
    let mut daemon = scene.daemon_with(&hasty).await;
    daemon.allow_failing_cache();
    for _ in 0..2 {
        scene.fill();
        scene.confirmed(&daemon).await;
        scene.cache.freeze();
        Booking::make(&scene, &daemon).await.refused(&scene, &daemon, "the cache did not answer in time").await;
        scene.cache.thaw();
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "{}", daemon.log());
    }
    // Where nothing changes, the mark is what fails first.
    scene.cache.freeze();
    daemon.wait_for_log("failed to read the mark");
    scene.cache.thaw();
    daemon.wait_for_logs("INFO the cache main works again id=cache.works_again", 3);
    scene.confirmed(&daemon).await;
    // Deletes, the look at the mark and the mark failed: each outage began once and ended once.
    let count = |text: &str| daemon.log().matches(text).count();
    assert_eq!((count("id=cache.works_again"), count("id=mark.")), (3, 0), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn the_first_mark_is_written_where_the_cache_closes_connections_before_the_echo() {
    let scene = Scene::with(postgres::Options::default(), &["timeout 1"]).await;
    let page = admin::address();
    let patient = scene.config().replace("echo = []", "echo = [\"3s\"]");
    let patient = format!("[admin]\nlisten = \"{page}\"\n{patient}");
    // The mark comes behind the echo of the first sweep; a second sweep would come before it again and again.
    let mut daemon = scene.daemon_with(&patient).await;
    assert_eq!(daemon.log().matches("the cache holds no mark").count(), 1, "{}", daemon.log());
    let waiting = "crieur_echoes_waiting{cache=\"main\"}";
    settled("an echo waits", PATIENCE, async || {
        Booking::make(&scene, &daemon).await;
        if value(page, waiting) > Some(0.0) { Ok(()) } else { Err(daemon.log()) }
    })
    .await;
    admin::shows(page, &format!("{waiting} 0")).await;
    assert_eq!(daemon.stop(), Some(0));
}
