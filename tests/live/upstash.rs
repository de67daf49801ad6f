//! Upstash: the stand-in speaks as the real one does, and crieur works with it over REST and over TCP.

mod figures;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crieur::mark::Mark;
use serde_json::{Value, json};

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::{self, Postgres};
use super::harness::redis::{Redis, Server};
use super::harness::tls::Authority;
use super::harness::upstash::{self, TOKEN, Upstash};
use super::harness::wait::{PATIENCE, settled};
use super::publish::Listener;

/// Which way crieur speaks with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Rest,
    Tcp,
}

impl Way {
    const BOTH: [Way; 2] = [Way::Rest, Way::Tcp];

    /// The keys of `[cache]` that lead there.
    fn address(self, upstash: &Upstash) -> String {
        match self {
            Way::Rest => format!("url = '{}'\ntoken = '{TOKEN}'\ntransport = 'rest'", upstash.rest_url()),
            Way::Tcp => format!("url = '{}'\nmetered = 'yes'", upstash.tcp_url()),
        }
    }
}

/// A table whose rows' names are in keys.
struct Scene {
    postgres: Postgres,
    upstash: Upstash,
    sql: tokio_postgres::Client,
    way: Way,
}

impl Scene {
    async fn start(way: Way) -> Scene {
        Scene::before(way, Upstash::start()).await
    }

    async fn before(way: Way, upstash: Upstash) -> Scene {
        let postgres = Postgres::start(postgres::Options::default());
        let sql = postgres.client().await;
        sql.batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT id FROM generate_series(1, 99) id",
        )
        .await
        .expect("valid SQL");
        let scene = Scene { postgres, upstash, sql, way };
        let out = daemon::run("setup", &scene.config(""), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene
    }

    /// With further keys of `[cache]`.
    fn config(&self, cache: &str) -> String {
        format!(
            "[postgres]\nurl = '{}'\n[cache]\n{}\necho = []\n{cache}\n[[rules]]\ntable = 'public.t'\nkeys = ['k:{{id}}', 'all']\n",
            self.postgres.url(),
            self.way.address(&self.upstash)
        )
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.expect("valid SQL");
    }

    /// Stores through the stand-in's server itself, which is not billed.
    fn store(&self, keys: &[&str]) {
        for key in keys {
            let _: () = self.upstash.backend.ask(&["SET", key, "old"]);
        }
    }

    fn keys(&self) -> BTreeSet<String> {
        self.upstash
            .backend
            .ask::<Vec<String>>(&["KEYS", "*"])
            .into_iter()
            .filter(|key| !key.starts_with("crieur:"))
            .collect()
    }

    async fn left(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|key| (*key).to_owned()).collect();
        settled("the keys are deleted", PATIENCE, async || {
            let keys = self.keys();
            if keys == expected { Ok(()) } else { Err(keys) }
        })
        .await;
    }

    fn mark(&self) -> String {
        self.upstash.backend.ask::<Option<String>>(&["GET", "crieur:mark:crieur"]).unwrap_or_default()
    }

    /// The mark says that everything so far is deleted.
    async fn marked(&self) {
        let row = self.sql.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("a position");
        let wanted: crieur::lsn::Lsn = row.get::<_, String>(0).parse().expect("a position");
        settled("the mark says so", PATIENCE, async || {
            let mark = self.mark();
            let lsn = serde_json::from_str::<serde_json::Value>(&mark)
                .ok()
                .and_then(|mark| mark["lsn"].as_str()?.parse().ok());
            if lsn.is_some_and(|lsn: crieur::lsn::Lsn| lsn >= wanted) { Ok(()) } else { Err(mark) }
        })
        .await;
    }
}

#[test]
fn the_real_sdk_and_the_documented_forms_work_with_the_stand_in() {
    let backend = Redis::start(&Server::Valkey9, &[]);
    let (is_right, said) = upstash::sdk(&backend);
    assert!(is_right, "{said}");
}

/// Sweep, deletes, marks, a restart without a sweep: over each way.
#[tokio::test]
async fn changes_are_deleted_and_a_restart_proves_what_was() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        scene.store(&["k:1", "k:2", "all", "other"]);
        let config = scene.config("heartbeat = '1s'");
        let mut daemon = Daemon::start(&config, &[]);
        daemon.allow("id=gap.missing");
        daemon.wait_for_log(STARTED);
        scene.left(&["other"]).await;
        scene.marked().await;
        scene.store(&["k:1", "k:2", "all"]);
        scene.run("UPDATE t SET name = 'x' WHERE id = 1").await;
        scene.left(&["k:2", "other"]).await;
        scene.marked().await;
        assert_eq!(daemon.stop(), Some(0));
        let (before, log) = (scene.mark(), daemon.log());
        let mut daemon = Daemon::start(&config, &[]);
        daemon.wait_for_log(STARTED);
        scene.store(&["k:3"]);
        scene.run("UPDATE t SET name = 'x' WHERE id = 3").await;
        scene.left(&["k:2", "other"]).await;
        assert!(!daemon.log().contains("id=gap"), "{way:?}: {before}\n{log}\n{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// HTTPS with an authority of one's own.
#[tokio::test]
async fn https_is_proved_by_the_authority_that_is_named() {
    let authority = Authority::new();
    let pair = authority.issue("localhost");
    let scene = Scene::before(Way::Rest, Upstash::start_at("localhost", Some(&pair), &[])).await;
    let config = scene.config(&format!("heartbeat = '1s'\ntls_ca = '{}'", authority.certificate().display()));
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow("id=gap.missing");
    daemon.wait_for_log(STARTED);
    scene.marked().await;
    assert_eq!(daemon.stop(), Some(0));
    let out = daemon::run("check", &scene.config(""), &[]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(!out.status.success(), "the system trusts no such authority: {said}");
    let words = "the server's certificate was issued by an authority that is not trusted here";
    assert!(said.contains(words) && said.contains("cache.tls_ca"), "{said}");
}

impl Scene {
    /// A daemon that has swept and marked, with further keys of `[cache]`.
    async fn settled(&self, cache: &str, env: &[(&str, &str)]) -> Daemon {
        let mut daemon = Daemon::start(&self.config(cache), env);
        daemon.allow("id=gap.missing");
        daemon.wait_for_log(STARTED);
        self.marked().await;
        daemon
    }

    async fn change(&self, id: u32) {
        self.run(&format!("UPDATE t SET name = 'x' WHERE id = {id}")).await;
    }

    /// Requests and their answers so far, over both ways.
    fn asked(&self) -> u64 {
        let requests = &self.upstash.stats()["requests"];
        ["rest", "tcp"].iter().map(|way| requests[*way].as_u64().expect("a count")).sum()
    }
}

/// Of a pipeline in which one item was refused, that item goes again and nothing else.
#[tokio::test]
async fn a_refused_item_goes_again_alone() {
    let scene = Scene::start(Way::Rest).await;
    scene.run("INSERT INTO t SELECT id FROM generate_series(100, 21000) id").await;
    let config = format!("{}[limits]\nbatch_keys_max = 50000\n", scene.config("heartbeat = '1s'"));
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow("id=gap.missing");
    daemon.wait_for_log(STARTED);
    scene.marked().await;
    scene.store(&["k:1", "k:20999", "k:21000", "all"]);
    scene
        .upstash
        .fault(json!({"match": {"path": "/pipeline"}, "do": "error", "index": 1, "error": "ERR busy for a moment"}));
    scene.run("UPDATE t SET name = 'x'").await;
    scene.left(&[]).await;
    let requests = scene.upstash.requests();
    let names = |request: &Value| -> Vec<String> {
        let commands = request["commands"].as_array().expect("a list");
        commands.iter().map(|command| command[0].as_str().expect("a name").to_owned()).collect()
    };
    let refused = requests.iter().position(|request| request["fault"] == "error").expect("one was refused");
    assert_eq!(names(&requests[refused]), ["UNLINK", "UNLINK"]);
    let unlinks = requests[refused + 1..].iter().filter(|request| request["commands"][0][0] == "UNLINK");
    let again: Vec<&Value> = unlinks.collect();
    assert_eq!(again[0]["commands"][0][1], requests[refused]["commands"][1][1], "the second command, and no other");
    assert_eq!(names(again[0]).len(), 1);
    assert_eq!(daemon.stop(), Some(0));
}

/// Whatever comes instead of an answer: the keys go again, and the mark that was written is known for ours.
#[tokio::test]
async fn what_is_no_answer_costs_a_second_try_and_nothing_else() {
    let scene = Scene::start(Way::Rest).await;
    let mut daemon = scene.settled("heartbeat = '500ms'\ntimeout = '1s'", &[]).await;
    daemon.allow_failing_cache();
    let faults = [
        json!({"do": "cut", "when": "before"}),
        json!({"do": "cut", "when": "after"}),
        json!({"do": "status", "code": 500}),
        json!({"do": "status", "code": 503}),
        json!({"do": "html"}),
        json!({"do": "truncate"}),
        json!({"do": "redirect", "location": "http://127.0.0.1:1/"}),
        json!({"do": "delay", "ms": 3000, "when": "after"}),
    ];
    for command in ["UNLINK", "SET"] {
        for (index, fault) in faults.iter().enumerate() {
            let id = u32::try_from(index + 1).expect("few");
            let mut rule = fault.clone();
            rule["match"] = json!({"command": command});
            scene.store(&[&format!("k:{id}"), "all"]);
            scene.upstash.fault(rule);
            scene.change(id).await;
            scene.left(&[]).await;
            scene.marked().await;
            settled("the fault came", PATIENCE, async || {
                let fired = scene.upstash.stats()["fired"].as_u64();
                let wanted = index as u64 + 1 + if command == "SET" { faults.len() as u64 } else { 0 };
                if fired == Some(wanted) { Ok(()) } else { Err(fired) }
            })
            .await;
        }
    }
    scene.marked().await;
    let log = daemon.log();
    assert_eq!(log.matches("id=gap").count(), 1, "the first, and none behind a lost answer: {log}");
    assert!(log.contains("a web page came instead of an answer") && !log.contains("Please log in"), "{log}");
    assert_eq!(daemon.stop(), Some(0));
}

/// A token that is refused and a plan that is used up: asked seldom, not ready, and well again by itself.
#[tokio::test]
async fn a_refused_token_and_a_used_up_plan_are_asked_seldom_and_mend_by_themselves() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        let mut daemon = scene.settled("heartbeat = '500ms'\ntimeout = '1s'", &[("CRIEUR_SOONER", "60")]).await;
        daemon.allow_failing_cache();
        scene.store(&["k:1", "all"]);
        scene.upstash.control("POST", "/quota", &json!({"limit": 0}));
        scene.change(1).await;
        daemon.wait_for_log("the plan of this cache is used up");
        let log = daemon.log();
        assert!(log.contains("Raise the plan") && !log.contains("See https"), "{log}");
        scene.upstash.control("POST", "/quota", &json!({}));
        scene.left(&[]).await;
        scene.marked().await;
        if way == Way::Rest {
            scene.store(&["k:2", "all"]);
            scene.upstash.control("POST", "/token", &json!({"token": "another"}));
            scene.change(2).await;
            daemon.wait_for_log("the service refuses the token (HTTP 401)");
            scene.upstash.control("POST", "/token", &json!({"token": TOKEN}));
            scene.left(&[]).await;
        }
        let log = daemon.log();
        assert!(log.contains("works again") && !log.contains(TOKEN) && !log.contains("k:2"), "{log}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Unscaled, the second try is a minute away.
#[tokio::test]
async fn a_used_up_plan_is_not_hammered() {
    let scene = Scene::start(Way::Rest).await;
    let mut daemon = scene.settled("heartbeat = '10m'", &[]).await;
    daemon.allow_failing_cache();
    scene.store(&["k:1", "all"]);
    scene.upstash.control("POST", "/quota", &json!({"limit": 0}));
    let before = scene.asked();
    scene.change(1).await;
    daemon.wait_for_log("the plan of this cache is used up");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert!(scene.asked() <= before + 2, "{:?}", scene.upstash.requests());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    daemon.kill();
}

/// Reads come from a replica that is a minute behind: no gap is seen where none is, and no key is missed.
#[tokio::test]
async fn a_lagging_replica_makes_no_gap_and_hides_no_key() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        scene.upstash.control("POST", "/lag", &json!({"ms": 60_000}));
        let mut other = redis::Client::open(scene.upstash.tcp_url())
            .and_then(|client| client.get_connection())
            .expect("it listens");
        let _: () = redis::cmd("SET").arg("k:7").arg("old").query(&mut other).expect("it is writable");
        assert_eq!(scene.keys(), BTreeSet::from(["k:7".to_owned()]));
        let mut daemon = scene.settled("heartbeat = '500ms'", &[]).await;
        scene.left(&[]).await;
        for id in 1..4 {
            let _: () = redis::cmd("SET").arg(format!("k:{id}")).arg("old").query(&mut other).expect("it is writable");
            scene.change(id).await;
            scene.left(&[]).await;
        }
        scene.marked().await;
        assert_eq!(daemon.stop(), Some(0));
        // The next process has written nothing yet: a replica would show it the mark of a minute ago, which is none.
        let mut next = Daemon::start(&scene.config("heartbeat = '500ms'"), &[]);
        next.wait_for_log(STARTED);
        scene.change(9).await;
        scene.marked().await;
        assert!(!next.log().contains("id=gap"), "{way:?}: {}", next.log());
        assert_eq!(next.stop(), Some(0));
    }
}

/// A leader that changed lost the last transactions, our deletes among them. The next mark finds it.
#[tokio::test]
async fn what_a_new_leader_lost_is_deleted_again() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        let mut daemon = scene.settled("heartbeat = '500ms'", &[]).await;
        daemon.allow("id=gap");
        for round in 1..6 {
            scene.store(&["k:1", "k:2", "all"]);
            scene.change(1).await;
            scene.left(&["k:2"]).await;
            // The delete, and perhaps the mark behind it.
            scene.upstash.control("POST", "/lose", &json!({"transactions": round}));
            scene.left(&["k:2"]).await;
            scene.marked().await;
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Keys that are no text are swept and deleted as they are, over JSON too.
#[tokio::test]
async fn a_key_that_is_no_text_is_deleted_as_it_is() {
    let scene = Scene::start(Way::Rest).await;
    let raw: [&[u8]; 3] = [b"k:\xff", b"k:\xff\x00\r\n", "k:\u{fffd}".as_bytes()];
    let other: &[u8] = b"other:\xff";
    for key in raw.into_iter().chain([other]) {
        let _: () = scene.upstash.backend.ask(&[&b"SET"[..], key, b"old"]);
    }
    let mut daemon = scene.settled("heartbeat = '500ms'", &[]).await;
    settled("the keys are swept", PATIENCE, async || {
        let keys: Vec<Vec<u8>> = scene.upstash.backend.ask(&["KEYS", "*:*"]);
        let left: Vec<&Vec<u8>> = keys.iter().filter(|key| !key.starts_with(b"crieur:")).collect();
        if left == [other] { Ok(()) } else { Err(keys) }
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A budget: the first change goes at once, under load no change waits longer than the bound that was said.
#[tokio::test]
async fn a_budget_bounds_commands_and_the_age_of_a_change() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        // A bound of about three seconds.
        let mut daemon = scene.settled("budget = '2M'\nheartbeat = '5s'", &[]).await;
        let log = daemon.log();
        let bound = log.split("at most ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        let bound = Duration::from_secs(bound.unwrap_or_else(|| panic!("no bound is said: {log}")));
        assert!((1..=4).contains(&bound.as_secs()), "{bound:?}");
        settled("some time without changes", PATIENCE, async || {
            let stats = scene.upstash.stats();
            if stats["commands"]["SET"].as_u64() >= Some(3) { Ok(()) } else { Err(stats) }
        })
        .await;
        let (before, began) = (scene.upstash.billed(), Instant::now());
        let (mut greatest, mut least) = (Duration::ZERO, Duration::MAX);
        let mut open: Vec<(String, Instant)> = Vec::new();
        let mut id = 0;
        while began.elapsed() < Duration::from_secs(12) || !open.is_empty() {
            if began.elapsed() < Duration::from_secs(12) {
                id = id % 99 + 1;
                let key = format!("k:{id}");
                if open.iter().all(|(waiting, _)| *waiting != key) {
                    scene.store(&[&key]);
                    scene.change(id).await;
                    open.push((key, Instant::now()));
                }
            }
            let keys = scene.keys();
            open.retain(|(key, committed)| {
                let gone = !keys.contains(key);
                if gone {
                    (greatest, least) = (greatest.max(committed.elapsed()), least.min(committed.elapsed()));
                }
                !gone
            });
            assert!(began.elapsed() < Duration::from_secs(60), "{open:?}");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let (billed, lasted) = (scene.upstash.billed() - before, began.elapsed());
        println!(
            "{way:?}: {billed} commands in {lasted:?}, greatest age {greatest:?}, least {least:?}, bound {bound:?}"
        );
        assert!(greatest <= bound + Duration::from_secs(1), "{greatest:?}");
        assert!(least < Duration::from_secs(1), "the first at once: {least:?}");
        let flushes = lasted.as_secs_f64() / (bound.as_secs_f64() - 1.0).max(0.5) / 0.7;
        assert!((billed as f64) < flushes + 4.0 * (lasted.as_secs_f64() / 5.0 + 1.0) + 2.0, "{billed}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// What a person has to mend is said with the cache, the cause and the way out.
#[tokio::test]
async fn what_is_wrong_with_an_upstash_cache_is_said_in_words() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        let said = |config: &str| {
            let out = daemon::run("check", config, &[]);
            let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            assert!(!out.status.success() && !said.contains("wrong-token"), "{said}");
            said
        };
        let wrong = said(&scene.config("").replace(TOKEN, "wrong-token"));
        let words = if way == Way::Rest { "the service refuses the token (HTTP 401)" } else { "WRONGPASS" };
        assert!(wrong.contains(words), "{wrong}");
        let small = said(&scene.config("budget = '20k'\nheartbeat = '10s'"));
        assert!(
            small.contains(
                "cache.budget: 20000 commands a month are too few: with a heartbeat of 10s the marks alone may cost"
            ),
            "{small}"
        );
        assert!(small.contains("allow at least") && small.contains("heartbeat = "), "{small}");
        if way == Way::Rest {
            scene.upstash.fault(json!({"do": "html", "times": 0}));
            assert!(said(&scene.config("")).contains("a web page came instead of an answer"));
            let without = said(&scene.config("").replace(&format!("token = '{TOKEN}'"), ""));
            assert!(without.contains("token") && without.contains("UPSTASH_REDIS_REST_TOKEN"), "{without}");
            scene.upstash.control("POST", "/unfault", &json!({}));
        }
        let out = daemon::run("check", &scene.config("budget = '1M'\nheartbeat = '1m'"), &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{way:?} {said}");
        let late = if way == Way::Rest { "3 s late" } else { "4 s late" };
        let bound = format!("cache, budget: 1000000 commands a month: a change is deleted at most {late}");
        assert!(said.contains(&bound), "{way:?} {said}");
    }
}

/// Faults at random for a while: a leader that forgets, replicas that lag, connections that end, answers that are none.
/// Whatever is in the cache afterwards is what the table says.
#[tokio::test]
async fn after_faults_at_random_nothing_is_stale() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        let mut daemon = scene.settled("heartbeat = '300ms'\ntimeout = '1s'", &[("CRIEUR_SOONER", "60")]).await;
        daemon.allow_failing_cache();
        ["id=gap", "id=mark", "id=cache", "id=repair"].into_iter().for_each(|id| daemon.allow(id));
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").subsec_nanos();
        println!("{way:?}: seed {seed}");
        let mut state = u64::from(seed) | 1;
        let mut roll = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            for _ in 0..5 {
                let id = roll(20) + 1;
                let name: String = scene
                    .sql
                    .query_one("SELECT coalesce(name, '') FROM t WHERE id = $1", &[&i32::try_from(id).expect("small")])
                    .await
                    .expect("a row")
                    .get(0);
                let _: () = scene.upstash.backend.ask(&["SET", &format!("k:{id}"), &format!("v{name}")]);
                let other = roll(20) + 1;
                scene.run(&format!("UPDATE t SET name = '{}' WHERE id = {other}", roll(1_000_000))).await;
            }
            let command = ["UNLINK", "SET", "EVAL"][roll(3) as usize];
            match roll(6) {
                0 => drop(scene.upstash.control("POST", "/lose", &json!({"transactions": roll(4) + 1}))),
                1 => drop(scene.upstash.control("POST", "/lag", &json!({"ms": roll(2) * 500}))),
                2 => drop(scene.upstash.fault(json!({"match": {"command": command}, "do": "cut", "when": "before"}))),
                3 => drop(scene.upstash.fault(json!({"match": {"command": command}, "do": "cut", "when": "after"}))),
                4 => drop(scene.upstash.fault(json!({"match": {"command": command}, "do": "truncate"}))),
                _ => drop(scene.upstash.control("POST", "/drop", &json!({}))),
            }
        }
        scene.upstash.control("POST", "/unfault", &json!({}));
        scene.upstash.control("POST", "/lag", &json!({"ms": 0}));
        settled("nothing is stale", PATIENCE, async || {
            let rows = scene.sql.query("SELECT id, coalesce(name, '') FROM t WHERE id <= 20", &[]).await.expect("rows");
            let mut stale = Vec::new();
            for row in rows {
                let (key, value) = (format!("k:{}", row.get::<_, i32>(0)), format!("v{}", row.get::<_, String>(1)));
                let cached: Option<String> = scene.upstash.backend.ask(&["GET", &key]);
                stale.extend(cached.filter(|cached| *cached != value).map(|cached| (key, cached, value)));
            }
            if stale.is_empty() { Ok(()) } else { Err(stale) }
        })
        .await;
        scene.marked().await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn readers_with_a_memory_tier_hear_of_each_delete_over_both_ways() {
    for way in Way::BOTH {
        let scene = Scene::start(way).await;
        let mut listener = Listener::of(&scene.upstash.backend).await;
        let mut daemon = Daemon::start(&scene.config("publish = 'crieur:keys'\nheartbeat = '1s'"), &[]);
        daemon.allow("id=gap.missing");
        let mut heard = listener.until("the end of the sweep", |said| !said.flush).await;
        assert!(heard[0].flush, "{way:?}: {heard:?}");
        scene.store(&["k:1"]);
        scene.change(1).await;
        heard.extend(listener.until("a key that was there", |said| said.keys.contains(&"k:1".to_owned())).await);
        scene.change(2).await;
        heard.extend(listener.until("a key that was not", |said| said.keys.contains(&"k:2".to_owned())).await);
        scene.marked().await;
        let mark: Mark = serde_json::from_str(&scene.mark()).expect("a mark");
        let marked = mark.published.expect("the mark names a message");
        heard.extend(listener.until("what comes behind that mark", |said| said.n > marked.n).await);
        let numbers: Vec<u64> = heard.iter().map(|said| said.n).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{way:?}");
        assert!(heard.iter().all(|said| said.epoch == marked.epoch), "{way:?}: {heard:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}
