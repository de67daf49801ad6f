//! What the metrics say of a real daemon: each series moves with what it is about.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crieur::budget::{Budget, MarkCost};

use super::admin::{address, get, ready, shows};
use super::daemon::Daemon;
use super::harness::postgres::{self, Shutdown};
use super::harness::process::Signal;
use super::harness::redis::{Data, Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, RULES, Scene};

/// Longer than the cache is asked apart.
const TWO_LOOKS: Duration = Duration::from_secs(90);

/// A value of the page, with its labels as they stand there.
pub fn value(address: SocketAddr, series: &str) -> Option<f64> {
    let page = get(address, "/metrics");
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until a value is such.
pub async fn becomes(address: SocketAddr, series: &str, is_it: impl Fn(f64) -> bool) -> f64 {
    becomes_within(PATIENCE, address, series, is_it).await
}

async fn becomes_within(patience: Duration, address: SocketAddr, series: &str, is_it: impl Fn(f64) -> bool) -> f64 {
    settled(&format!("{series} moved"), patience, async || match value(address, series) {
        Some(value) if is_it(value) => Ok(value),
        other => Err((other, get(address, "/metrics"))),
    })
    .await
}

fn config(scene: &Scene, address: SocketAddr) -> String {
    format!("[admin]\nlisten = \"{address}\"\n{}", scene.config())
}

#[tokio::test]
async fn changes_are_counted_by_table_keys_by_rule_and_questions_by_lookup() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let address = address();
    // A second cache asks no lookup again.
    let both = format!("{}\n[caches.b]\nurl = \"{}\"\necho = []\n", config(&scene, address), other.url());
    let mut daemon = scene.daemon_with(&both).await;
    daemon.allow("id=lookup.refused");
    let properties =
        |operation| format!("crieur_changes_total{{table=\"public.properties\",operation=\"{operation}\"}}");
    shows(address, &format!("{} 0", properties("insert"))).await;
    scene.run("INSERT INTO properties VALUES (100, 'Dakar'), (101, 'Dakar'); UPDATE properties SET title = 'x' WHERE id = 100").await;
    scene.run("DELETE FROM properties WHERE id = 101; INSERT INTO visits VALUES (1)").await;
    shows(address, &format!("{} 2", properties("insert"))).await;
    shows(address, &format!("{} 1", properties("update"))).await;
    shows(address, &format!("{} 1", properties("delete"))).await;
    // A row of a partition is one of its table.
    shows(address, "crieur_changes_total{table=\"public.visits\",operation=\"insert\"} 1").await;
    let swept = value(address, "crieur_keys_swept_total{cache=\"main\"}").expect("it is there");
    scene.fill();
    scene.run("TRUNCATE visit_bookings").await;
    shows(address, "crieur_changes_total{table=\"public.visit_bookings\",operation=\"truncate\"} 1").await;
    becomes(address, "crieur_keys_swept_total{cache=\"main\"}", |keys| keys >= swept + 2.0).await;
    shows(address, "crieur_sweep_causes_total{cache=\"main\",cause=\"truncate\"} 1").await;
    shows(address, "crieur_sweep_causes_total{cache=\"main\",cause=\"missed\"} 1").await;

    // Three rows of three keys each; the update has the same keys, and no other.
    let page = get(address, "/metrics");
    let rules: Vec<&str> = page.lines().filter(|line| line.starts_with("crieur_rule_keys_total{rule=")).collect();
    assert_eq!(rules.len(), RULES.matches("[[rules]]").count(), "{rules:?}");
    assert!(rules[0].ends_with(" 12") && rules[3].ends_with(" 1"), "{rules:?}");

    let lookup = page.lines().find_map(|line| line.strip_prefix("crieur_lookups_total")?.strip_suffix(" 0"));
    let lookup = lookup.unwrap_or_else(|| panic!("no lookup is on the page:\n{page}")).to_owned();
    scene.fill();
    other.ask::<()>(&["SET", "dashboard:41", "old"]);
    scene.run("INSERT INTO rental_payments VALUES (1, 71, 5)").await;
    eventually("both caches lose what the lookup names", PATIENCE, async || {
        scene.gone().contains("dashboard:41") && !other.ask::<bool>(&["EXISTS", "dashboard:41"])
    })
    .await;
    shows(address, &format!("crieur_lookups_total{lookup} 1")).await;
    shows(address, &format!("crieur_lookups_refused_total{lookup} 0")).await;
    scene.run("ALTER TABLE leases RENAME TO contracts; INSERT INTO rental_payments VALUES (2, 71, 5)").await;
    shows(address, &format!("crieur_lookups_refused_total{lookup} 1")).await;
    becomes(address, "crieur_warnings_total{id=\"lookup.refused\"}", |count| count >= 1.0).await;
    assert_eq!(value(address, &format!("crieur_lookups_total{lookup}")), Some(2.0), "one of each row, for two caches");

    // Nobody knows the city of a row without the column.
    assert_eq!(value(address, "crieur_keys_widened_total"), Some(0.0));
    scene.run("ALTER TABLE properties RENAME city TO town; UPDATE properties SET title = 'y' WHERE id = 100").await;
    becomes(address, "crieur_keys_widened_total", |keys| keys >= 1.0).await;
    shows(address, &format!("crieur_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))).await;

    // What is proved was dated: each load once, in seconds.
    let count = becomes(address, "crieur_commit_to_deleted_seconds_count{cache=\"main\"}", |count| count >= 4.0).await;
    let all = value(address, "crieur_commit_to_deleted_seconds_bucket{cache=\"main\",le=\"+Inf\"}");
    assert!(all >= Some(count), "{all:?} {count}");
    let sum = value(address, "crieur_commit_to_deleted_seconds_sum{cache=\"main\"}").expect("it is there");
    assert!(sum > 0.0 && sum < 30.0 * count, "{sum}");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn the_slot_is_measured_and_how_long_it_lasts() {
    let conf = vec!["max_slot_wal_keep_size = '256MB'".to_owned()];
    let mut scene = Scene::with(postgres::Options { conf, ..postgres::Options::default() }, &[]).await;
    let address = address();
    let mut daemon = scene.daemon_with(&config(&scene, address)).await;
    daemon.allow_failing_cache();
    daemon.allow("id=stream.interrupted");
    daemon.allow("id=session.failing");
    shows(address, "crieur_postgres_up 1").await;
    let safe = becomes(address, "crieur_slot_safe_bytes", |bytes| bytes > 0.0).await;
    let held = becomes(address, "crieur_slot_held_bytes", |bytes| bytes >= 0.0).await;
    let (lsn, age) = ("crieur_mark_lsn_bytes{cache=\"main\"}", "crieur_mark_age_seconds{cache=\"main\"}");
    let marked = becomes(address, lsn, |bytes| bytes > 0.0).await;
    scene.cache.kill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    // A mark is written at least every two seconds where the cache is there.
    becomes(address, age, |seconds| seconds > 3.0).await;
    becomes(address, "crieur_cache_oldest_undeleted_seconds{cache=\"main\"}", |seconds| seconds > 1.0).await;
    let logical = "SELECT pg_logical_emit_message(false, 'load', repeat('x', 4000000))";
    for _ in 0..4 {
        scene.run(logical).await;
    }
    becomes(address, "crieur_slot_held_bytes", |bytes| bytes > held + 10_000_000.0).await;
    becomes(address, "crieur_slot_safe_bytes", |bytes| bytes < safe).await;
    becomes(address, "crieur_slot_behind_bytes", |bytes| bytes > 10_000_000.0).await;
    becomes(address, "crieur_slot_seconds_to_loss", |seconds| seconds > 0.0 && seconds < 3600.0).await;
    scene.cache.restart(Data::Lost);
    ready(address, "200 OK").await;
    shows(address, "crieur_cache_reconnects_total{cache=\"main\"} 1").await;
    becomes(address, lsn, |bytes| bytes > marked + 10_000_000.0).await;
    becomes(address, age, |seconds| seconds < 3.0).await;
    shows(address, "crieur_cache_oldest_undeleted_seconds{cache=\"main\"} 0.000").await;

    scene.postgres.stop(Shutdown::Fast);
    shows(address, "crieur_postgres_up 0").await;
    assert_eq!(value(address, "crieur_slot_held_bytes"), None, "nobody knows that now");
    scene.postgres.start_again();
    shows(address, "crieur_postgres_up 1").await;
    shows(address, "crieur_postgres_reconnects_total 1").await;
    becomes(address, "crieur_slot_held_bytes", |bytes| bytes >= 0.0).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn the_outbox_is_measured() {
    let mut scene = Scene::outbox().await;
    let address = address();
    let mut daemon = scene.daemon_with(&config(&scene, address)).await;
    daemon.allow_failing_cache();
    assert_eq!(scene.mode, Mode::Outbox);
    let most = becomes(address, "crieur_outbox_max_bytes", |bytes| bytes > 0.0).await;
    let before = becomes(address, "crieur_outbox_bytes", |bytes| bytes < most).await;
    scene.cache.kill();
    for id in 0..200 {
        scene.run(&format!("INSERT INTO visit_bookings SELECT i, i FROM generate_series({id}000, {id}999) AS i")).await;
    }
    becomes(address, "crieur_outbox_rows", |rows| rows >= 200.0).await;
    becomes(address, "crieur_outbox_bytes", |bytes| bytes > before).await;
    assert_eq!(value(address, "crieur_slot_held_bytes"), None);
    scene.cache.restart(Data::Lost);
    ready(address, "200 OK").await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn the_last_reload_and_the_rules_in_force_are_shown() {
    let scene = Scene::start().await;
    let address = address();
    let before = config(&scene, address);
    let mut daemon = scene.daemon_with(&before).await;
    daemon.allow("id=reload.refused");
    let digest = || {
        let page = get(address, "/metrics");
        page.lines()
            .find(|line| line.starts_with("crieur_rules_info{digest=\""))
            .map(str::to_owned)
            .expect("it is there")
    };
    let (rules, when) = (digest(), "crieur_config_last_reload_success_timestamp_seconds");
    let started = value(address, "process_start_time_seconds").expect("it is there");
    assert_eq!(value(address, when), Some(started));
    let reload = |text: &str| {
        fs::write(daemon.config_path(), text).expect("the directory is ours");
        daemon.signal(Signal::Hup);
    };
    reload("[cache\n");
    shows(address, "crieur_config_last_reload_successful 0").await;
    shows(address, "crieur_warnings_total{id=\"reload.refused\"} 1").await;
    assert_eq!((value(address, when), digest()), (Some(started), rules.clone()));
    reload(&before.replace("available_slots:{property_id}", "available_slots:{id}"));
    shows(address, "crieur_config_last_reload_successful 1").await;
    becomes(address, when, |time| time > started).await;
    settled("other rules are in force", PATIENCE, async || if digest() == rules { Err(rules.clone()) } else { Ok(()) })
        .await;
    shows(address, "crieur_postgres_reconnects_total 1").await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn the_hit_rate_is_the_servers_own() {
    let scene = Scene::with(postgres::Options::default(), &["maxmemory 64mb"]).await;
    let address = address();
    let mut daemon = scene.daemon_with(&config(&scene, address)).await;
    let of = |name: &str| format!("crieur_cache_{name}{{cache=\"main\"}}");
    shows(address, &format!("{} 67108864", of("memory_max_bytes"))).await;
    becomes(address, &of("memory_bytes"), |bytes| bytes > 100_000.0).await;
    assert_eq!(value(address, &of("evicted_keys_total")), Some(0.0));
    let mut keys = scene.keys();
    let mut read = |key: &str, times: u32| {
        for _ in 0..times {
            let _: Option<String> = redis::cmd("GET").arg(key).query(&mut keys).expect("it answers");
        }
    };
    read("session:1", 700);
    read("nothing", 300);
    // Marks, which crieur reads itself.
    for id in 1..40 {
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, {id})")).await;
        scene.confirmed(&daemon).await;
    }
    let _: () = redis::cmd("SET").arg(&["short", "x", "PX", "1"]).query(&mut scene.keys()).expect("it is writable");
    eventually("it expires", PATIENCE, async || !scene.cache.ask::<bool>(&["EXISTS", "short"])).await;
    // Only keys with a time to live make room: the mark has none.
    for setting in [["maxmemory-policy", "volatile-ttl"], ["maxmemory", "16mb"]] {
        let () = scene.cache.ask(&["CONFIG", "SET", setting[0], setting[1]]);
    }
    let large = "x".repeat(1_000_000);
    for number in 0..24 {
        let () = scene.cache.ask(&["SET", &format!("large:{number}"), &large, "EX", "600"]);
    }
    becomes_within(TWO_LOOKS, address, &of("misses_total"), |misses| misses >= 300.0).await;
    let ratio = becomes(address, &of("recent_hit_ratio"), |ratio| ratio > 0.0).await;
    // This test asks for a few keys more until one expires; with the marks that crieur reads it would be 0.71 or more.
    assert!((0.69..0.705).contains(&ratio), "what crieur reads itself is left out: {ratio}");
    let ratio = becomes(address, &of("hit_ratio"), |ratio| ratio > 0.0).await;
    assert!((0.6..0.8).contains(&ratio), "{ratio}");
    assert!(value(address, &of("hits_total")) >= Some(700.0));
    becomes_within(TWO_LOOKS, address, &of("expired_keys_total"), |expired| expired >= 1.0).await;
    becomes_within(TWO_LOOKS, address, &of("evicted_keys_total"), |evicted| evicted >= 8.0).await;
    shows(address, &format!("{} 16777216", of("memory_max_bytes"))).await;
    let cpu = value(address, "process_cpu_seconds_total").expect("the kernel says it");
    assert!(cpu > 0.0 && value(address, "process_resident_memory_bytes") > Some(1e6));
    assert!(value(address, "process_open_fds") > Some(3.0) && value(address, "process_max_fds") > Some(3.0));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_user_who_may_not_ask_info_sees_no_hit_rate_and_loses_nothing_else() {
    let postgres_and_cache = Scene::with(postgres::Options::default(), &["user shy on nopass ~* &* +@all -info"]).await;
    let scene = &postgres_and_cache;
    let address = address();
    let text = config(scene, address).replace("redis://", "redis://shy:x@");
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log("id=metrics.served");
    ready(address, "200 OK").await;
    scene.fill();
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert!(gone.contains("available_slots:1"), "{gone:?}");
    assert_eq!(value(address, "crieur_cache_hits_total{cache=\"main\"}"), None);
    assert_eq!(daemon.stop(), Some(0));
}

/// Each part of a cache is asked, and the page shows their sum.
#[tokio::test]
async fn a_cluster_shows_the_sum_of_its_shards() {
    let scene = super::cluster::ClusterScene::start(Server::System, &[]).await;
    let address = address();
    let mut daemon = Daemon::start(&format!("[admin]\nlisten = \"{address}\"\n{}", scene.config()), &[]);
    daemon.wait_for_log("id=metrics.served");
    ready(address, "200 OK").await;
    let misses = |index: usize| -> f64 {
        let info = scene.cluster.info(index, "stats");
        let line = info.lines().find_map(|line| line.strip_prefix("keyspace_misses:")).map(str::trim);
        line.and_then(|value| value.parse().ok()).expect("INFO says it")
    };
    let primaries: Vec<usize> = (0..super::harness::cluster::PRIMARIES).collect();
    for (number, _) in primaries.iter().enumerate() {
        for key in 0..40 {
            scene.cluster.holds(&format!("none:{number}:{key}"), &primaries);
        }
    }
    let sum: f64 = primaries.iter().map(|index| misses(*index)).sum();
    let shown =
        becomes_within(TWO_LOOKS, address, "crieur_cache_misses_total{cache=\"main\"}", |shown| shown >= sum).await;
    assert!(shown <= primaries.iter().map(|index| misses(*index)).sum(), "{shown} {sum}");
    assert!(value(address, "crieur_cache_memory_bytes{cache=\"main\"}") > Some(1e6));
    assert_eq!(daemon.stop(), Some(0));
}

/// Nothing is asked where each command costs money.
#[tokio::test]
async fn a_cache_that_bills_is_not_asked() {
    let scene = Scene::start().await;
    let cache = Redis::start(&Server::System, &[]);
    let address = address();
    let text = config(&scene, address)
        .replace(&scene.cache.url(), &cache.url())
        .replace("[cache]\n", "[cache]\nmetered = \"yes\"\nbudget = \"10M\"\nheartbeat = \"2s\"\n");
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log("id=metrics.served");
    ready(address, "200 OK").await;
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    becomes(address, "crieur_cache_commands_billed_total{cache=\"main\"}", |billed| billed > 0.0).await;
    let asked: String = cache.ask(&["INFO", "commandstats"]);
    let info = asked.lines().find(|line| line.starts_with("cmdstat_info:")).unwrap_or_default().to_owned();
    scene.confirmed(&daemon).await;
    assert_eq!(value(address, "crieur_cache_hits_total{cache=\"main\"}"), None, "{info}");
    // What the budget buys, and what another one buys.
    let bound = |commands| {
        let budget = Budget::new(commands, Duration::from_secs(2), MarkCost::TCP).expect("large enough");
        format!("crieur_cache_age_bound_seconds{{cache=\"main\"}} {:.3}", budget.bound().as_secs_f64())
    };
    shows(address, &bound(10_000_000)).await;
    fs::write(daemon.config_path(), text.replace("\"10M\"", "\"20M\"")).expect("the directory is ours");
    daemon.signal(Signal::Hup);
    shows(address, &bound(20_000_000)).await;
    assert_eq!(daemon.stop(), Some(0));
}
