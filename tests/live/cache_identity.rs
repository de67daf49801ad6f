//! Which server is behind the cache's address, as far as anybody says: nameless services, addresses that move, servers that
//! take turns, and what must be permitted before the daemon deletes anything.

use std::collections::BTreeMap;

use super::admin;
use super::daemon::{self, Daemon};
use super::harness::proxy::Proxy;
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::metrics::becomes;
use super::scene::{KEYS, Scene, config, set, swept};

const MARK: &str = "crieur:mark:crieur";
const BOOK: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";
const SWEPT: &str = "id=sweep.ended";
const AGAIN: &str = "id=gap.replayed";

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

fn mark(cache: &Redis) -> Option<String> {
    cache.ask(&["GET", MARK])
}

/// Another mark, so many times: work was done, or heartbeats went by.
async fn beats(cache: &Redis, daemon: &Daemon, times: usize) {
    let mut last = mark(cache);
    for _ in 0..times {
        last = settled("the mark moves", PATIENCE, async || {
            let now = mark(cache);
            if now == last { Err(daemon.log()) } else { Ok(now) }
        })
        .await;
    }
}

/// A user to whom INFO says nothing.
fn nameless(cache: &Redis) -> String {
    let () = cache.ask(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "-info"]);
    format!("redis://ann:pw@127.0.0.1:{}", cache.port())
}

fn with(scene: &Scene, url: &str, lines: &str) -> String {
    config(&scene.postgres.url(), url).replace("[cache]\n", &format!("[cache]\n{lines}\n"))
}

/// A replica of the cache that has all of it, and follows no more.
async fn promoted(scene: &Scene) -> Redis {
    let replica = Redis::start(&Server::System, &[]);
    let () = replica.ask(&["REPLICAOF", "127.0.0.1", &scene.cache.port().to_string()]);
    eventually("the replica follows", PATIENCE, async || {
        let ours = mark(&scene.cache);
        ours.is_some() && ours == mark(&replica) && replica.ask::<bool>(&["EXISTS", KEYS[0]])
    })
    .await;
    let () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    replica
}

async fn goes(cache: &Redis, key: &str, daemon: &Daemon) {
    settled(&format!("{key} goes"), PATIENCE, async || match cache.ask::<bool>(&["EXISTS", key]) {
        false => Ok(()),
        true => Err(daemon.log()),
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_does_not_say_who_it_is_is_swept_once_whatever_becomes_of_its_connections() {
    // One that closes idle connections between two beats, and one that does not.
    for conf in [&["timeout 1"][..], &["rename-command INFO \"\""][..]] {
        let scene = Scene::with(Default::default(), conf).await;
        let url = if conf[0].starts_with("rename") { scene.cache.url() } else { nameless(&scene.cache) };
        let mut daemon = scene.daemon_with(&with(&scene, &url, "heartbeat = \"1200ms\"")).await;
        daemon.allow_failing_cache();
        let sweeps = count(&daemon, SWEPT);
        beats(&scene.cache, &daemon, 2).await;
        for _ in 0..5 {
            let () = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            assert_eq!(scene.change(&daemon, BOOK).await, set(&["available_slots:1"]), "{}", daemon.log());
        }
        assert_eq!(count(&daemon, SWEPT), sweeps, "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn what_a_nameless_cache_lost_in_a_failover_is_deleted_again_and_nothing_else() {
    let scene = Scene::start().await;
    let proxy = Proxy::start(scene.cache.port());
    nameless(&scene.cache);
    let url = format!("redis://ann:pw@127.0.0.1:{}", proxy.port());
    let mut daemon = scene.daemon_with(&with(&scene, &url, "heartbeat = \"10s\"")).await;
    daemon.allow_failing_cache();
    scene.run(BOOK).await;
    scene.confirmed(&daemon).await;
    scene.fill();
    let replica = promoted(&scene).await;
    nameless(&replica);
    scene.run(BOOK).await;
    scene.confirmed(&daemon).await;
    let sweeps = count(&daemon, SWEPT);
    proxy.lead_to(replica.port());
    scene.run("INSERT INTO leases SELECT max(id) + 1, 1 FROM leases").await;
    daemon.wait_for_log(AGAIN);
    goes(&replica, "available_slots:1", &daemon).await;
    scene.confirmed(&daemon).await;
    for key in ["available_slots:2", "visits:1", "session:1"] {
        assert!(replica.ask::<bool>(&["EXISTS", key]), "{key} went: {}", daemon.log());
    }
    assert_eq!(count(&daemon, SWEPT), sweeps, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// The old primary lives on, with a connection to it. What finds the new one is a delete, a sweep, or nothing but time.
#[tokio::test]
async fn an_address_that_moves_takes_every_connection_along() {
    for (finds, after) in [("a delete", Some(BOOK)), ("a sweep", Some("TRUNCATE visits")), ("time", None)] {
        let scene = Scene::start().await;
        let proxy = Proxy::start(scene.cache.port());
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let age = if after.is_some() { "1h" } else { "500ms" };
        let lines = format!("heartbeat = \"200ms\"\nconnection_age_max = \"{age}\"");
        let mut daemon = scene.daemon_with(&with(&scene, &url, &lines)).await;
        // Deletes have no connection of their own yet when only the mark was read.
        daemon.stop();
        let replica = promoted(&scene).await;
        daemon = scene.daemon_with(&with(&scene, &url, &lines)).await;
        if after.is_none() {
            scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
            scene.confirmed(&daemon).await;
            assert!(scene.gone().contains("properties:detail:1"));
        } else {
            // Deleted on the old primary only, by the process before.
            daemon.stop();
            scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
            daemon = scene.daemon_with(&with(&scene, &url, &lines)).await;
            scene.confirmed(&daemon).await;
            daemon.stop();
            daemon = scene.daemon_with(&with(&scene, &url, &lines)).await;
        }
        assert!(replica.ask::<bool>(&["EXISTS", "properties:detail:1"]), "{finds}: the replica still follows");
        proxy.move_to(replica.port());
        if let Some(sql) = after {
            scene.run(sql).await;
        }
        goes(&replica, "properties:detail:1", &daemon).await;
        beats(&replica, &daemon, 1).await;
        assert_eq!(daemon.stop(), Some(0), "{finds}");
    }
}

/// Two caches that know nothing of each other behind one address, in turn.
#[tokio::test]
async fn repairs_that_each_bring_the_next_one_slow_down_and_are_said() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let proxy = Proxy::start(scene.cache.port());
    proxy.take_turns(&[scene.cache.port(), other.port()]);
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let page = admin::address();
    let admin = format!("[admin]\nlisten = \"{page}\"\n");
    let mut daemon = Daemon::start(&(admin + &with(&scene, &url, "heartbeat = \"50ms\"")), &[]);
    daemon.allow("id=repair.slowed");
    daemon.wait_for_log("id=repair.slowed");
    let early = count(&daemon, SWEPT);
    assert!(early <= 8, "{}", daemon.log());
    daemon.wait_for_logs(SWEPT, early + 2);
    assert!(count(&daemon, "id=repair.slowed") <= 2, "said once a minute: {}", daemon.log());
    admin::ready(page, "the cache is another one again and again").await;
    for series in ["crieur_repairs_delayed_total{cache=\"main\"}", "crieur_cache_turns_total{cache=\"main\"}"] {
        becomes(page, series, |times| times >= 1.0).await;
    }
    // The address is mended.
    proxy.take_turns(&[]);
    admin::ready(page, "200 OK").await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A service over all pods: a primary and its replica.
#[tokio::test]
async fn a_replica_behind_the_address_is_refused_and_the_primary_works() {
    let scene = Scene::start().await;
    let replica = Redis::start(&Server::System, &[]);
    let () = replica.ask(&["REPLICAOF", "127.0.0.1", &scene.cache.port().to_string()]);
    let proxy = Proxy::start(scene.cache.port());
    proxy.take_turns(&[replica.port(), scene.cache.port()]);
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let lines = "heartbeat = \"100ms\"\nconnection_age_max = \"200ms\"";
    let mut daemon = scene.daemon_with(&with(&scene, &url, lines)).await;
    daemon.allow("a replica");
    daemon.wait_for_log("the cache says that it is a replica (READONLY)");
    for _ in 0..5 {
        assert_eq!(scene.change(&daemon, BOOK).await, set(&["available_slots:1"]), "{}", daemon.log());
    }
    assert_eq!(count(&daemon, SWEPT), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn what_stops_the_daemon_is_wrong_in_check_and_stops_it_before_anything_is_deleted() {
    let mut scene = Scene::start().await;
    let off = |command: &str| format!("rename-command {command} \"\"");
    let all = ["EVAL", "UNLINK", "SCAN", "GET", "SET", "INFO"].map(|command| (command, off(command)));
    let cluster = ("CLUSTER", "cluster-enabled yes".to_owned());
    let sentinel = ("SENTINEL", "sentinel monitor m 127.0.0.1 1 1".to_owned());
    for (command, line) in all.into_iter().chain([cluster, sentinel]) {
        scene.cache = Redis::start(&Server::System, &[&line]);
        let works = command == "INFO";
        if command == "CLUSTER" {
            let () = scene.cache.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
            eventually("the cluster is whole", PATIENCE, async || {
                scene.cache.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            })
            .await;
        }
        let holds_keys = !["SET", "SENTINEL"].contains(&command);
        if holds_keys {
            scene.fill();
        }
        let out = daemon::run("check", &scene.config(), &[]);
        let report = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(i32::from(!works)), "{command}: {report}");
        assert_eq!(report.contains("WRONG cache, "), !works, "{command}: {report}");
        let mut daemon = Daemon::start(&scene.config(), &[]);
        if works {
            swept(&scene, &daemon).await;
            assert_eq!(daemon.stop(), Some(0));
            continue;
        }
        daemon.allow("try the cache: ");
        assert_eq!(daemon.exit(), Some(69), "{command}: {}", daemon.log());
        assert_eq!(count(&daemon, SWEPT), 0, "{command}: {}", daemon.log());
        if holds_keys {
            assert_eq!(scene.gone(), set(&[]), "{command}");
        }
    }
}

/// Rights that are missing, each alone, on every server; then the line that `check` prints, as it is printed.
#[tokio::test]
async fn the_line_that_check_prints_is_enough_for_the_daemon() {
    for server in Server::ALL {
        let mut scene = Scene::start().await;
        scene.cache = Redis::start(server, &[]);
        let url = format!("redis://ann:pw@127.0.0.1:{}", scene.cache.port());
        let config = with(&scene, &url, "leases = \"companion\"");
        let check = || {
            let out = daemon::run("check", &config, &[]);
            (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let reset = ["ACL", "SETUSER", "ann", "reset", "on", ">pw", "~*", "+@all"];
        for (lacks, subject) in [
            ("-set", "write the mark"),
            ("-get", "read the mark"),
            ("-eval", "write the mark"),
            ("-scan", "sweep"),
            ("-unlink", "delete keys of family "),
        ] {
            let () = scene.cache.ask(&reset);
            let () = scene.cache.ask(&["ACL", "SETUSER", "ann", lacks]);
            let (code, report) = check();
            let wrong = format!("WRONG cache, {subject}");
            assert!(code == Some(1) && report.contains(&wrong), "{server:?} {lacks}: {report}");
        }
        let () = scene.cache.ask(&["ACL", "SETUSER", "ann", "reset", "on", ">pw", "~crieur:*", "-@all", "+unlink"]);
        let (_, report) = check();
        let line = report.lines().find_map(|line| line.trim().strip_prefix("mend: ACL ")).expect("it prints the line");
        assert!(line.starts_with("SETUSER ann "), "{line}");
        let words: Vec<&str> = ["ACL"].into_iter().chain(line.split(' ')).collect();
        let () = scene.cache.ask(&words);
        let (code, report) = check();
        assert_eq!(code, Some(0), "{server:?}: {report}");
        let mut daemon = scene.daemon_with(&config).await;
        assert_eq!(scene.change(&daemon, BOOK).await, set(&["available_slots:1"]));
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// A page of a scan that does not fit ends the connection, and would each time.
#[tokio::test]
async fn a_sweep_takes_smaller_steps_where_the_cache_has_a_small_output_buffer() {
    let scene = Scene::with(Default::default(), &["client-output-buffer-limit normal 16kb 0 0"]).await;
    let mut pipeline = redis::pipe();
    for key in 0..3000 {
        pipeline.cmd("SET").arg(format!("visits:{key}:{}", "x".repeat(200))).arg("v").ignore();
    }
    let () = pipeline.query(&mut scene.keys()).expect("it is writable");
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("failed to sweep");
    daemon.wait_for_log(SWEPT);
    scene.confirmed(&daemon).await;
    assert_eq!(scene.cache.ask::<u64>(&["DBSIZE"]), 1, "only the mark is left: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Commands that the server ran, by name.
fn commands(cache: &Redis) -> BTreeMap<String, u64> {
    let stats: String = cache.ask(&["INFO", "commandstats"]);
    let counted = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    counted.collect()
}

#[tokio::test]
async fn where_commands_are_billed_a_change_costs_two_deletes_and_one_mark() {
    let mut scene = Scene::start().await;
    for server in [Server::Valkey9, Server::System] {
        scene.cache = Redis::start(&server, &[]);
        let url = nameless(&scene.cache);
        let mut daemon = scene.daemon_with(&with(&scene, &url, "metered = \"yes\"")).await;
        // Where SET knows no IFEQ the script does the same.
        scene.change(&daemon, BOOK).await;
        scene.fill();
        let before = commands(&scene.cache);
        scene.run(BOOK).await;
        scene.confirmed(&daemon).await;
        let after = commands(&scene.cache);
        let sent = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        // This cache does not say who it is: its mark carries the key once more.
        assert_eq!(sent("unlink"), 2, "{server:?}: {after:?} {}", daemon.log());
        assert!((1..=2).contains(&sent("set")), "{server:?}: {after:?} {}", daemon.log());
        // With a key a script is cheaper than a transaction; a mark alone is one plain command where SET knows IFEQ.
        let least = if server == Server::Valkey9 { 1 } else { sent("set") };
        assert!((least..=sent("set")).contains(&sent("eval")), "{server:?}: {after:?} {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// One field of what the cache says of itself.
fn told(cache: &Redis, name: &str) -> String {
    let info: String = cache.ask(&["INFO", "replication"]);
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().to_owned()
}

/// An old primary that went on as a writable replica of the new one knows the history of its data by its second name.
#[tokio::test]
async fn a_history_that_is_the_one_before_proves_no_mark() {
    let scene = Scene::with(Default::default(), &["replica-read-only no"]).await;
    let follows = async |server: &Redis, other: &Redis| {
        let () = server.ask(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
        eventually("it follows", PATIENCE, async || told(server, "master_link_status") == "up").await;
    };
    // A history gets its name with the first replica.
    let replica = Redis::start(&Server::System, &[]);
    follows(&replica, &scene.cache).await;
    let lines = "heartbeat = \"10m\"\nconnection_age_max = \"1h\"";
    let mut daemon = scene.daemon_with(&with(&scene, &scene.cache.url(), lines)).await;
    daemon.allow("a replica");
    scene.confirmed(&daemon).await;
    let (history, marked) = (told(&scene.cache, "master_replid"), mark(&scene.cache));
    let offset = "master_repl_offset";
    eventually("the replica has all", PATIENCE, async || told(&replica, offset) == told(&scene.cache, offset)).await;
    let () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    follows(&scene.cache, &replica).await;
    assert_eq!(told(&scene.cache, "master_replid2"), history, "it went on where it was");
    assert_ne!(told(&scene.cache, "master_replid"), history);
    scene.run(BOOK).await;
    daemon.wait_for_log("the cache says that it is a replica (READONLY)");
    assert_eq!(mark(&scene.cache), marked, "{}", daemon.log());
    let () = scene.cache.ask(&["REPLICAOF", "NO", "ONE"]);
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}
