//! Several caches: each gets its own keys, none is two, one that is away and not required is not waited for, and a reload
//! brings and takes caches.

use std::collections::BTreeSet;

use super::admin::{self, ready};
use super::daemon::{self, Daemon, STARTED};
use super::harness::process::{self, Signal};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{KEYS, Scene, set};

/// The configuration of the scene with a second cache, and `more` of its keys.
fn with(scene: &Scene, name: &str, cache: &Redis, more: &str) -> String {
    let section = format!("[caches.{name}]\nurl = \"{}\"\necho = []\n{more}\n[cache]\n", cache.url());
    scene.config().replace("[cache]\n", &section)
}

fn fill(cache: &Redis) {
    for key in KEYS {
        let _: () = cache.ask(&["SET", key, "value"]);
    }
}

/// Those of [`KEYS`] that are gone.
fn gone(cache: &Redis) -> BTreeSet<String> {
    let found: BTreeSet<String> = cache.ask(&["KEYS", "*"]);
    KEYS.iter().map(|key| key.to_string()).filter(|key| !found.contains(key)).collect()
}

async fn settles(what: &str, cache: &Redis, daemon: &Daemon, expected: &[&str]) {
    settled(what, PATIENCE, async || match gone(cache) {
        gone if gone == set(expected) => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

/// Writes another configuration, and says so.
fn reload(daemon: &Daemon, config: &str) {
    std::fs::write(daemon.config_path(), config).expect("the directory is ours");
    process::send(daemon.pid(), Signal::Hup);
}

async fn marked(cache: &Redis, daemon: &Daemon) {
    settled("the mark is written", PATIENCE, async || match cache.ask::<bool>(&["EXISTS", "crieur:mark:crieur"]) {
        true => Ok(()),
        false => Err(daemon.log()),
    })
    .await;
}

#[tokio::test]
async fn each_cache_loses_the_keys_of_the_rules_that_are_for_it() {
    let servers: &[Server] = Server::ALL;
    for server in servers {
        let scene = Scene::start().await;
        let dakar = Redis::start(server, &[]);
        let own = "keys = [\"visits:{id}\"]\ncaches = [\"dakar\"]";
        let config = with(&scene, "dakar", &dakar, "").replace("keys = [\"visits:{id}\"]", own);
        let mut daemon = scene.daemon_with(&config).await;
        marked(&dakar, &daemon).await;
        scene.confirmed(&daemon).await;
        scene.fill();
        fill(&dakar);
        scene.run("INSERT INTO visits VALUES (1)").await;
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "{server:?} {}", daemon.log());
        assert_eq!(gone(&dakar), set(&["available_slots:1", "visits:1"]), "{server:?} {}", daemon.log());
        let log = daemon.log();
        for words in
            ["cache=dakar", "cache=main", "id=run.caches", "2 caches: main (cache.url", "dakar (caches.dakar.url"]
        {
            assert!(log.contains(words), "{words} in {log}");
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn the_environment_alone_makes_two_caches() {
    let scene = Scene::start().await;
    let dakar = Redis::start(&Server::Valkey9, &[]);
    let line = format!("[cache]\nurl = \"{}\"\necho = []\n", scene.cache.url());
    let config = scene.config().replace(&line, "");
    let env = [
        ("REDIS_URL", scene.cache.url()),
        ("CRIEUR__CACHES__DAKAR__URL", dakar.url()),
        ("CRIEUR__CACHE__ECHO", String::new()),
        ("CRIEUR__CACHES__DAKAR__ECHO", String::new()),
    ];
    let mut daemon = scene.daemon_in(&config, &env).await;
    daemon.wait_for_log("2 caches: main (REDIS_URL), dakar (CRIEUR__CACHES__DAKAR__URL)");
    marked(&dakar, &daemon).await;
    fill(&dakar);
    let in_main = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!((in_main, gone(&dakar)), (set(&["available_slots:1"]), set(&["available_slots:1"])), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn two_caches_on_one_database_are_refused_by_name() {
    // The second server does not say who it is: a note tells.
    for conf in [&[][..], &["rename-command INFO \"\""]] {
        let scene = Scene::with(super::harness::postgres::Options::default(), conf).await;
        let second = |path: &str| {
            let section =
                format!("[caches.dakar]\nurl = \"redis://localhost:{}{path}\"\necho = []\n", scene.cache.port());
            scene.config().replace("[cache]\n", &format!("{section}[cache]\n"))
        };
        let (twin, other_number) = (second(""), second("/1"));
        let out = daemon::run("check", &twin, &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!out.status.success() && said.contains("one database of one server"), "{conf:?} {said}");
        assert!(said.contains("main") && said.contains("dakar"), "{conf:?} {said}");
        let mut daemon = Daemon::start(&twin, &[]);
        daemon.allow("id=run.failed");
        assert_eq!(daemon.exit(), Some(crieur::error::Exit::Config as i32), "{conf:?} {}", daemon.log());
        assert!(daemon.log().contains("are one database of one server"), "{conf:?} {}", daemon.log());
        let out = daemon::run("check", &other_number, &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!said.contains("one database of one server"), "{conf:?} {said}");
    }
}

#[tokio::test]
async fn an_optional_cache_that_was_never_there_is_not_waited_for_and_joins_when_it_comes() {
    let scene = Scene::start().await;
    let mut dakar = Redis::start(&Server::System, &[]);
    fill(&dakar);
    let _: () = dakar.ask(&["SAVE"]);
    dakar.kill();
    let address = admin::address();
    let config = |required| {
        let more = format!("required = {required}");
        format!("[admin]\nlisten = \"{address}\"\n{}", with(&scene, "dakar", &dakar, &more))
    };
    let mut waiting = Daemon::start(&config(true), &[]);
    waiting.allow_failing_cache();
    waiting.wait_for_log(STARTED);
    ready(address, "the cache dakar does not answer").await;
    assert_eq!(waiting.stop(), Some(0));
    let mut daemon = Daemon::start(&config(false), &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log(STARTED);
    ready(address, "200 OK").await;
    ready(address, "cache dakar does not answer, is not required").await;
    // Its mark is written behind the sweep of the first start.
    marked(&scene.cache, &daemon).await;
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    settles("main goes on", &scene.cache, &daemon, &["available_slots:1"]).await;
    dakar.restart(super::harness::redis::Data::Kept);
    marked(&dakar, &daemon).await;
    assert!(gone(&dakar).contains("available_slots:1"), "{:?} {}", gone(&dakar), daemon.log());
    ready(address, "cache dakar answers").await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_reload_brings_and_takes_a_cache_and_keeps_the_others() {
    let scene = Scene::start().await;
    let dakar = Redis::start(&Server::Valkey9, &[]);
    let mut daemon = scene.daemon().await;
    let sweeps = |daemon: &Daemon| daemon.log().matches("id=sweep.ended").count();
    let before = sweeps(&daemon);
    fill(&dakar);
    reload(&daemon, &with(&scene, "dakar", &dakar, ""));
    marked(&dakar, &daemon).await;
    assert!(gone(&dakar).contains("visits:1"), "a cache that is new is swept: {}", daemon.log());
    assert!(daemon.log().contains("caches=\"main, dakar\""), "{}", daemon.log());
    fill(&dakar);
    let in_main = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!((in_main, gone(&dakar)), (set(&["available_slots:1"]), set(&["available_slots:1"])), "{}", daemon.log());
    assert_eq!(sweeps(&daemon), before + 1, "main keeps its mark: {}", daemon.log());
    // The same database twice is refused, and the caches in force stay.
    daemon.allow("id=reload.refused");
    reload(&daemon, &with(&scene, "dakar", &scene.cache, ""));
    daemon.wait_for_log("id=reload.refused");
    assert!(daemon.log().contains("are one database of one server"), "{}", daemon.log());
    // It goes, and nobody waits for it.
    reload(&daemon, &scene.config());
    daemon.wait_for_log("caches=\"main\"");
    dakar.freeze();
    let in_main = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (2, 2)").await;
    assert_eq!(in_main, set(&["available_slots:2"]), "{}", daemon.log());
    dakar.thaw();
    assert!(!gone(&dakar).contains("available_slots:2"));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_rule_that_names_another_cache_is_swept_where_it_is_new() {
    let scene = Scene::start().await;
    let dakar = Redis::start(&Server::Valkey9, &[]);
    let config = |caches: &str| {
        let own = format!("keys = [\"visits:{{id}}\"]\ncaches = [\"{caches}\"]");
        with(&scene, "dakar", &dakar, "").replace("keys = [\"visits:{id}\"]", &own)
    };
    let mut daemon = scene.daemon_with(&config("main")).await;
    marked(&dakar, &daemon).await;
    scene.confirmed(&daemon).await;
    scene.fill();
    fill(&dakar);
    reload(&daemon, &config("dakar"));
    daemon.wait_for_log("id=reload.taken");
    settles("the rule's keys went where the rule is new", &dakar, &daemon, &["visits:1", "visits:150"]).await;
    assert_eq!(scene.gone(), set(&[]), "{}", daemon.log());
    daemon.allow("id=reload.refused");
    reload(&daemon, &config("dakkar"));
    daemon.wait_for_log("id=reload.refused");
    for words in ["there is no cache \"dakkar\"", "did you mean \"dakar\"", "crieur.toml:"] {
        assert!(daemon.log().contains(words), "{words} in {}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}
