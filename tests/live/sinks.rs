//! Sinks: tags of committed rows reach a site, signed so that the package `standardwebhooks` accepts them, and the purge
//! APIs of three services (stand-ins by their documented contracts). They come behind the caches, and delay none.

use std::collections::BTreeSet;

use serde_json::json;

use super::admin;
use super::daemon::{self, Daemon};
use super::harness::process::{self, Signal};
use super::harness::proxy::{Direction, Proxy};
use super::harness::redis::{Redis, Server};
use super::harness::sink::{OWNER, SECRET, Sink, TOKEN};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, set};

/// The rules of the scene with tags for pages of properties.
pub(super) fn with(scene: &Scene, sections: &str) -> String {
    let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
    let tags = format!("{keys}\ntags = [\"property:{{id}}\", \"city:{{city}}\"]\ntags_all = \"properties\"");
    scene.config().replace(keys, &tags).replace("[cache]\n", &format!("{sections}[cache]\n"))
}

/// Without echoes, so that each purge is one request.
fn quiet(sink: &Sink, more: &str) -> String {
    sink.section(&format!("echo = []\n{more}"))
}

/// Waits until every one of these tags was purged.
async fn purged(sink: &Sink, daemon: &Daemon, tags: &[&str]) {
    settled(&format!("{tags:?} are purged"), PATIENCE, async || {
        let purged = sink.purged();
        if tags.iter().all(|tag| purged.iter().any(|one| one == tag)) {
            Ok(())
        } else {
            Err((sink.log(), daemon.log()))
        }
    })
    .await;
}

/// Waits until the purges of the start are over: what the sinks take from now on comes of changes. The cache had no mark, so
/// there is one more purge behind its sweep.
async fn started(scene: &Scene, sinks: &[&Sink], config: &str) -> Daemon {
    let daemon = scene.daemon_with(config).await;
    calm(scene, sinks, &daemon).await;
    daemon
}

async fn calm(scene: &Scene, sinks: &[&Sink], daemon: &Daemon) {
    for sink in sinks {
        purged(sink, daemon, &["properties"]).await;
    }
    scene.confirmed(daemon).await;
    // A position behind what the sinks owe.
    scene.run("INSERT INTO visit_bookings VALUES (1000, 1000)").await;
    scene.confirmed(daemon).await;
    sinks.iter().for_each(|sink| sink.forget());
}

#[tokio::test]
async fn a_change_reaches_the_site_signed_and_the_position_waits_for_it() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let mut daemon = started(&scene, &[&site], &with(&scene, &quiet(&site, ""))).await;
    let gone = scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    assert!(gone.contains("properties:detail:1"), "{gone:?}");
    // The position waited for the sink as well.
    let log = site.log();
    let last = log.last().expect("there are requests");
    assert_eq!(last.tags.iter().map(String::as_str).collect::<BTreeSet<_>>(), set_of(&["property:1", "city:Dakar"]));
    assert!(log.iter().all(|one| one.verified == Some(true) && one.status == 200), "{log:?}");
    assert!(log.iter().all(|one| one.path == "/api/revalidate" && one.id.starts_with("msg_")), "{log:?}");
    // The old row's pages and the new row's.
    scene.change(&daemon, "UPDATE properties SET city = 'Thiès' WHERE id = 2").await;
    purged(&site, &daemon, &["property:2", "city:Thiès"]).await;
    let ids: BTreeSet<String> = site.log().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), site.log().len(), "each message has a name of its own");
    let said = daemon.log();
    assert!(said.contains("id=gap.unproven") && said.contains("cache=webhook"), "{said}");
    assert!(!said.contains("MfKQ9r8"), "the secret is in the log: {said}");
    assert_eq!(daemon.stop(), Some(0));
}

fn set_of<'a>(tags: &[&'a str]) -> BTreeSet<&'a str> {
    tags.iter().copied().collect()
}

#[tokio::test]
async fn a_truncated_table_and_a_killed_daemon_purge_the_coarse_tag() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let config = with(&scene, &quiet(&site, ""));
    let mut daemon = started(&scene, &[&site], &config).await;
    scene.change(&daemon, "TRUNCATE properties CASCADE").await;
    assert_eq!(site.purged(), ["properties"], "{}", daemon.log());
    daemon.kill();
    site.forget();
    let daemon = scene.daemon_with(&config).await;
    purged(&site, &daemon, &["properties"]).await;
    scene.confirmed(&daemon).await;
    assert_eq!(site.purged(), ["properties"], "once, because the cache has its mark: {}", daemon.log());
}

#[tokio::test]
async fn tags_wait_for_the_answers_of_the_caches_and_without_that_guard_they_do_not() {
    for is_guarded in [true, false] {
        let (scene, site, other) = (Scene::start().await, Sink::webhook(), Redis::start(&Server::System, &[]));
        let another = format!("[caches.other]\nurl = \"{}\"\necho = []\n", other.url());
        let config = with(&scene, &(quiet(&site, "after = [\"main\"]") + &another));
        let config = config.replace("[cache]\n", "[cache]\ntimeout = \"500ms\"\n");
        let env = if is_guarded { Vec::new() } else { vec![("CRIEUR_WITHOUT", "behind".to_owned())] };
        let mut daemon = scene.daemon_in(&config, &env).await;
        daemon.allow_failing_cache();
        calm(&scene, &[&site], &daemon).await;
        let _: () = other.ask(&["SET", "properties:detail:1", "old"]);
        scene.cache.freeze();
        scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
        eventually("the other cache deletes", PATIENCE, async || {
            !other.ask::<bool>(&["EXISTS", "properties:detail:1"])
        })
        .await;
        if is_guarded {
            daemon.wait_for_log("id=cache.failing");
            assert!(site.purged().is_empty(), "no page is made from a stale key: {}", daemon.log());
        } else {
            purged(&site, &daemon, &["property:1"]).await;
        }
        scene.cache.thaw();
        purged(&site, &daemon, &["property:1"]).await;
        scene.confirmed(&daemon).await;
    }
}

/// A partition that is truncated by itself comes as no change: what is swept for it waits as any other load does.
#[tokio::test]
async fn what_no_change_tells_of_waits_for_the_caches_too() {
    let (scene, site, other) = (Scene::start().await, Sink::webhook(), Redis::start(&Server::System, &[]));
    let another = format!("[caches.other]\nurl = \"{}\"\necho = []\n", other.url());
    let config = with(&scene, &(quiet(&site, "after = [\"main\"]") + &another));
    let config = config.replace("[cache]\n", "[cache]\ntimeout = \"500ms\"\n").replace(
        "keys = [\"visits:{id}\"]",
        "keys = [\"visits:{id}\"]\ntags = [\"visit:{id}\"]\ntags_all = \"visits\"",
    );
    scene.run("ALTER PUBLICATION crieur SET (publish_via_partition_root = true)").await;
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("id=publication.via_root");
    daemon.allow_failing_cache();
    calm(&scene, &[&site], &daemon).await;
    let _: () = other.ask(&["SET", "visits:1", "old"]);
    scene.cache.freeze();
    scene.run("TRUNCATE visits_low").await;
    eventually("the other cache is swept", PATIENCE, async || !other.ask::<bool>(&["EXISTS", "visits:1"])).await;
    daemon.wait_for_log("id=cache.failing");
    assert!(site.purged().is_empty(), "no page is made from a stale key: {}", daemon.log());
    scene.cache.thaw();
    purged(&site, &daemon, &["visits"]).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_is_left_behind_is_not_waited_for_and_its_return_purges_all_pages() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let sections = quiet(&site, "hold_wal_bytes_max = 0");
    let config = with(&scene, &sections).replace("[cache]\n", "[cache]\ntimeout = \"500ms\"\nhold_wal_bytes_max = 0\n");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    calm(&scene, &[&site], &daemon).await;
    scene.cache.freeze();
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    purged(&site, &daemon, &["property:1"]).await;
    let before = site.purged().iter().filter(|tag| *tag == "properties").count();
    scene.cache.thaw();
    settled("the pages are purged behind the cache", PATIENCE, async || {
        let after = site.purged().iter().filter(|tag| *tag == "properties").count();
        if after > before && !scene_has(&scene, "properties:detail:1") {
            Ok(())
        } else {
            Err((site.log(), daemon.log()))
        }
    })
    .await;
}

fn scene_has(scene: &Scene, key: &str) -> bool {
    !scene.gone().contains(key)
}

#[tokio::test]
async fn a_sink_that_hangs_delays_neither_deletes_nor_other_sinks_and_repeats_under_one_id() {
    let (scene, site, cdn) = (Scene::start().await, Sink::webhook(), Sink::service("fastly", &[]));
    let sections = quiet(&site, "timeout = \"1s\"") + &quiet(&cdn, "");
    let mut daemon = started(&scene, &[&site, &cdn], &with(&scene, &sections)).await;
    daemon.allow("id=cache.failing");
    site.fault(json!({"do": "hang", "times": 0}));
    for id in 1..=3 {
        scene.fill();
        scene.run(&format!("UPDATE properties SET title = 'new' WHERE id = {id}")).await;
        let key = format!("properties:detail:{id}");
        if id <= 2 {
            eventually(&format!("{key} is deleted"), PATIENCE, async || !scene_has(&scene, &key)).await;
        }
        purged(&cdn, &daemon, &[&format!("property:{id}")]).await;
    }
    assert!(site.purged().is_empty());
    settled("it is tried again", PATIENCE, async || {
        let hung = site.log().into_iter().filter(|one| one.status == 0).count();
        if hung >= 2 { Ok(()) } else { Err(hung) }
    })
    .await;
    site.heal();
    purged(&site, &daemon, &["property:1", "property:2", "property:3"]).await;
    let of_first: BTreeSet<String> =
        site.log().into_iter().filter(|one| one.tags.contains(&"property:1".to_owned())).map(|one| one.id).collect();
    assert_eq!(of_first.len(), 1, "the message goes again under its name: {:?}", site.log());
    scene.confirmed(&daemon).await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_given_up_into_its_coarse_tag_and_nothing_waits() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let mut daemon = started(&scene, &[&site], &with(&scene, &quiet(&site, ""))).await;
    daemon.allow("id=sink.refused");
    site.fault(json!({"do": "status", "code": 422, "tag": "property:1", "times": 0}));
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    assert_eq!(site.purged(), ["properties"], "{}", daemon.log());
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 3").await;
    purged(&site, &daemon, &["property:3"]).await;
    scene.change(&daemon, "UPDATE properties SET title = 'newer' WHERE id = 1").await;
    let refused = site.log().into_iter().filter(|one| one.status == 422).count();
    assert_eq!((refused, daemon.log().matches("id=sink.refused").count()), (2, 1), "said once: {}", daemon.log());
    assert!(!daemon.log().contains("property:1"), "row values never reach the log");
}

/// Nothing stands in for a coarse tag: one that is refused for good holds nothing, and is owed until it is taken.
#[tokio::test]
async fn a_site_that_refuses_every_tag_holds_nothing_and_gets_its_coarse_tag_when_it_takes_it() {
    let (scene, site, cdn) = (Scene::start().await, Sink::webhook(), Sink::service("fastly", &[]));
    let admin = admin::address();
    let config = format!("[admin]\nlisten = \"{admin}\"\n{}", with(&scene, &(quiet(&site, "") + &quiet(&cdn, ""))));
    site.fault(json!({"do": "status", "code": 400, "times": 0}));
    let mut daemon = scene.daemon_in(&config, &[("CRIEUR_SOONER", "100".to_owned())]).await;
    daemon.allow("id=sink.refused_coarse");
    daemon.wait_for_log("id=sink.refused_coarse");
    let gone = scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    assert!(gone.contains("properties:detail:1") && site.purged().is_empty(), "{gone:?}");
    purged(&cdn, &daemon, &["property:1"]).await;
    admin::ready(admin, "sink webhook refuses what crieur asks, lacks the tags that it refused").await;
    admin::shows(admin, "crieur_cache_up{cache=\"webhook\"} 0").await;
    assert!(admin::get(admin, "/readyz").contains("200 OK"));
    // Nothing changes, and no other purge is due: the tag goes again by itself.
    site.heal();
    purged(&site, &daemon, &["properties"]).await;
    daemon.wait_for_log("has taken every coarse tag that it had refused");
    admin::ready(admin, "sink webhook answers").await;
    // Where a coarse tag alone is owed, exact tags that are taken do not wait for it; one and the same tag is said again.
    for (code, tags) in [(413, vec![Some("property:1"), Some("properties")]), (405, vec![None])] {
        for tag in &tags {
            site.fault(json!({"do": "status", "code": code, "tag": tag, "times": 0}));
        }
        scene.change(&daemon, "UPDATE properties SET title = 'newer' WHERE id = 1").await;
        daemon.wait_for_log(&format!("(HTTP {code}), coarse tags as well"));
        if code == 413 {
            scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 3").await;
            purged(&site, &daemon, &["property:3"]).await;
        }
        site.forget();
        site.heal();
        purged(&site, &daemon, &["properties"]).await;
    }
    daemon.wait_for_logs("has taken every coarse tag that it had refused", 3);
    let log = daemon.log();
    assert_eq!(log.matches("id=sink.refused_coarse").count(), 3, "each time once: {log}");
    assert!(!log.contains("id=cache.failing") && !log.contains("id=cache.released"), "{log}");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_wrong_token_stops_no_cache_and_ends_with_the_right_one() {
    let (scene, zone) = (Scene::start().await, Sink::service("cloudflare", &[]));
    let wrong = quiet(&zone, "rate = \"50/s\"\nhold_wal_bytes_max = 0").replace(TOKEN, "wrong-hunter2");
    let config = with(&scene, &wrong);
    let env = [("CRIEUR_SOONER", "100".to_owned())];
    let mut daemon = scene.daemon_in(&config, &env).await;
    daemon.allow("id=cache.failing");
    daemon.wait_for_log("refuses crieur (HTTP 401)");
    let gone = scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    assert!(gone.contains("properties:detail:1"), "{gone:?}");
    assert!(zone.purged().is_empty());
    let log = daemon.log();
    assert!(log.contains("Cache Purge") && !log.contains("hunter2"), "{log}");
    std::fs::write(daemon.config_path(), config.replace("wrong-hunter2", TOKEN)).expect("the directory is ours");
    process::send(daemon.pid(), Signal::Hup);
    purged(&zone, &daemon, &["properties"]).await;
}

/// A sink is no cache: what the log says of it speaks of a site and of tags, and so does a reload.
#[tokio::test]
async fn a_site_that_is_down_and_a_reload_that_corrects_its_address_are_told_in_words_of_sinks() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let right = with(&scene, &quiet(&site, "hold_wal_bytes_max = 0"));
    let port = process::free_port();
    let mut daemon =
        scene.daemon_with(&right.replace(&format!("127.0.0.1:{}/", site.port()), &format!("127.0.0.1:{port}/"))).await;
    daemon.allow("id=cache.failing");
    daemon.wait_for_log("failed to purge coarse tags, and crieur tries again");
    daemon.wait_for_log("start the site, or correct host and port in url of the sink");
    std::fs::write(daemon.config_path(), &right).expect("the directory is ours");
    process::send(daemon.pid(), Signal::Hup);
    purged(&site, &daemon, &["properties"]).await;
    let log = daemon.log();
    let taken = log.lines().find(|line| line.contains("id=reload.taken")).unwrap_or_default();
    assert!(taken.contains("the caches or the sinks changed") && taken.contains("sinks=\"webhook\""), "{log}");
    let of_sink = log.lines().filter(|line| line.contains(" cache=webhook "));
    assert!(of_sink.clone().count() >= 5 && !of_sink.clone().any(|line| line.contains("the cache")), "{log}");
    assert!(log.contains("sinks.webhook.rate = 10/s") && log.contains("sinks.webhook.after = main"), "{log}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (scene, site, elsewhere) = (Scene::start().await, Sink::webhook(), Sink::webhook());
    let mut daemon = started(&scene, &[&site], &with(&scene, &quiet(&site, ""))).await;
    daemon.allow("id=cache.failing");
    let location = format!("http://127.0.0.1:{}/api/revalidate", elsewhere.port());
    site.fault(json!({"do": "status", "code": 308, "location": location, "times": 1}));
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    daemon.wait_for_log("leads elsewhere (HTTP 308)");
    assert!(elsewhere.log().is_empty(), "{:?}", elsewhere.log());
}

#[tokio::test]
async fn a_service_that_wants_a_pause_gets_it() {
    let (scene, project) = (Scene::start().await, Sink::service("vercel", &[]));
    let mut daemon = started(&scene, &[&project], &with(&scene, &quiet(&project, ""))).await;
    daemon.allow("id=cache.failing");
    project.fault(json!({"do": "status", "code": 429, "retry_after": 2, "times": 1}));
    project.fault(json!({"do": "status", "code": 500, "times": 1}));
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    purged(&project, &daemon, &["property:1"]).await;
    let at = |status: u64| {
        let log = project.log();
        let of = log.iter().filter(|one| one.status == status);
        of.map(|one| one.at).max().expect("there is one")
    };
    assert!(at(500) >= at(429) + 2_000, "{:?}", project.log());
    assert!(at(200) > at(500));
}

#[tokio::test]
async fn each_service_gets_as_many_tags_as_it_takes_and_none_of_its_limits_is_met() {
    let scene = Scene::start().await;
    scene.run("INSERT INTO properties SELECT id, 'C' || id, 'old', 1 FROM generate_series(1000, 1999) AS id").await;
    let vercel = Sink::service("vercel", &[]);
    let fastly = Sink::service("fastly", &[]);
    // 600 a minute, and no more than 10 at once.
    let cloudflare = Sink::service("cloudflare", &["--bucket", "10", "--per-minute", "600"]);
    let sections =
        quiet(&vercel, "rate = \"100/s\"") + &quiet(&fastly, "soft = true") + &quiet(&cloudflare, "rate = \"10/s\"");
    let sinks = [&vercel, &fastly, &cloudflare];
    let mut daemon = started(&scene, &sinks, &with(&scene, &sections)).await;
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id >= 1000").await;
    for (sink, most) in [(&vercel, 16), (&fastly, 256), (&cloudflare, 100)] {
        let log = sink.log();
        assert!(log.iter().all(|one| one.status == 200 && one.tags.len() <= most), "{log:?}");
        assert!(log.iter().any(|one| one.tags.len() == most), "the requests are full: {log:?}");
        let purged: BTreeSet<String> = sink.purged().into_iter().collect();
        assert!((1000..2000).all(|id| purged.contains(&format!("property:{id}"))), "{}", daemon.log());
    }
    assert!(fastly.log().iter().all(|one| one.soft) && vercel.log().iter().all(|one| !one.soft));
    assert!(vercel.log()[0].path.ends_with(&format!("?projectIdOrName={OWNER}")), "{:?}", vercel.log()[0]);
    assert!(!daemon.log().contains(TOKEN) && !daemon.log().contains(SECRET), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_value_that_the_service_cannot_take_becomes_the_coarse_tag_and_many_tags_at_a_slow_pace_as_well() {
    let (scene, zone) = (Scene::start().await, Sink::service("cloudflare", &[]));
    let mut daemon = started(&scene, &[&zone], &with(&scene, &quiet(&zone, "rate = \"600/min\""))).await;
    daemon.allow("id=sink.tag_unfit");
    scene.change(&daemon, "UPDATE properties SET city = 'Saint Louis' WHERE id = 1").await;
    purged(&zone, &daemon, &["property:1", "city:Dakar"]).await;
    assert_eq!(zone.purged().iter().filter(|tag| *tag == "properties").count(), 1, "{:?}", zone.log());
    let log = daemon.log();
    assert!(log.contains("which holds a space") && !log.contains("Saint"), "{log}");
    // 60,000 tags would take a minute: there is one coarse tag for all of them.
    scene.run("INSERT INTO properties SELECT id, 'x', 'new', 1 FROM generate_series(10000, 80000) AS id").await;
    scene.confirmed(&daemon).await;
    let purged = zone.purged();
    assert_eq!(purged.iter().filter(|tag| *tag == "properties").count(), 2, "{}", purged.len());
    assert!(purged.iter().any(|tag| tag == "city:x") && !purged.iter().any(|tag| tag == "property:10000"));
}

#[tokio::test]
async fn echoes_purge_again_and_the_position_waits_for_them() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let config = with(&scene, &site.section("echo = [\"300ms\", \"900ms\"]"));
    let daemon = scene.daemon_with(&config).await;
    purged(&site, &daemon, &["properties"]).await;
    scene.confirmed(&daemon).await;
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    let times = site.purged().into_iter().filter(|tag| tag == "property:1").count();
    assert_eq!(times, 3, "{:?}", site.log());
    assert_eq!(scene.gone().intersection(&set(&["session:1"])).count(), 0);
}

#[tokio::test]
async fn lookups_and_conditions_serve_tags_as_they_serve_keys_and_so_does_an_outbox() {
    for scene in [Scene::start().await, Scene::outbox().await] {
        let site = Sink::webhook();
        let rules = "\n[[rules]]\ntable = \"public.rental_payments\"\nwhen = \"amount > 10\"\n\
                     tags = [\"owner:{owner.owner_id}\", \"paid\"]\ntags_all = \"payments\"\n\
                     lookup.owner = { sql = \"SELECT p.owner_id FROM leases l JOIN properties p ON p.id = l.property_id \
                     WHERE l.id = $1\", args = [\"lease_id\"] }\n";
        let config = with(&scene, &quiet(&site, "")) + rules;
        // The outbox takes no column that no rule reads.
        assert!(daemon::run("setup", &config, &[]).status.success());
        let daemon = scene.daemon_with(&config).await;
        purged(&site, &daemon, &["properties", "payments"]).await;
        scene.confirmed(&daemon).await;
        scene.run("INSERT INTO rental_payments VALUES (1, 72, 5)").await;
        scene.run("INSERT INTO rental_payments VALUES (2, 73, 50)").await;
        purged(&site, &daemon, &["owner:43", "paid"]).await;
        assert!(!site.purged().iter().any(|tag| tag == "owner:42"), "{:?}", site.log());
    }
}

#[tokio::test]
async fn commands_name_the_sink_and_purge_nothing_but_an_ordered_sweep() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let config = with(&scene, &quiet(&site, ""));
    let text = |out: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    let checked = daemon::run("check", &config, &[]);
    assert!(checked.status.success() && text(&checked).contains("sink webhook"), "{}", text(&checked));
    let tried = site.log();
    assert!(tried.len() == 1 && tried[0].tags.is_empty() && tried[0].verified == Some(true), "{tried:?}");
    let wrong = daemon::run("check", &config.replace(SECRET, "whsec_bm90IHRoZSBzZWNyZXQgb2YgdGhpcyBzaXRl"), &[]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
    assert!(text(&wrong).contains("refuses crieur (HTTP 401)") && text(&wrong).contains("whsec_…"), "{}", text(&wrong));
    let new = r#"{"id":"7","city":"Dakar"}"#;
    let explained =
        daemon::run_with(&["explain", "--table", "public.properties", "--op", "insert", "--new", new], &config);
    for words in [
        "tag       property:7\n",
        "tag       city:Dakar\n",
        "key       properties:detail:7\n",
        "all of them: properties",
    ] {
        assert!(text(&explained).contains(words), "{words} in {}", text(&explained));
    }
}

/// Pages of a site that reads its data cache: made anew when they were purged, from the key if there is one.
struct Pages<'a> {
    scene: &'a Scene,
    site: &'a Sink,
    page: Option<String>,
    /// Requests of crieur that were heeded.
    heeded: usize,
}

impl Pages<'_> {
    /// What a visitor of the first property sees.
    async fn visit(&mut self) -> String {
        let taken = self.site.log();
        let news = taken[self.heeded..].iter().filter(|one| one.status == 200).flat_map(|one| &one.tags);
        if news.clone().any(|tag| tag == "property:1" || tag == "properties") {
            self.page = None;
        }
        self.heeded = taken.len();
        if let Some(page) = &self.page {
            return page.clone();
        }
        let cached: Option<String> = self.scene.cache.ask(&["GET", "properties:detail:1"]);
        let page = match cached {
            Some(value) => value,
            None => {
                let value = self.scene.ask("SELECT title FROM properties WHERE id = 1").await;
                let _: () = self.scene.cache.ask(&["SET", "properties:detail:1", &value]);
                value
            }
        };
        self.page.insert(page).clone()
    }
}

/// The deletes of the cache stand still on their way while visitors come. Behind the last echo no page may be old.
#[tokio::test]
async fn no_page_is_made_from_a_stale_key_and_without_the_guard_one_stays_stale() {
    for is_guarded in [true, false] {
        let (scene, site, other) = (Scene::start().await, Sink::webhook(), Redis::start(&Server::System, &[]));
        let proxy = Proxy::start(scene.cache.port());
        let another = format!("[caches.other]\nurl = \"{}\"\necho = []\n", other.url());
        let config = with(&scene, &(site.section("after = [\"main\"]\necho = [\"200ms\", \"500ms\"]") + &another));
        let through = format!("redis://127.0.0.1:{}", proxy.port());
        let config = config.replace(&scene.cache.url(), &through).replace("[cache]\n", "[cache]\ntimeout = \"1h\"\n");
        let env = if is_guarded { Vec::new() } else { vec![("CRIEUR_WITHOUT", "behind".to_owned())] };
        let daemon = scene.daemon_in(&config, &env).await;
        calm(&scene, &[&site], &daemon).await;
        let mut pages = Pages { scene: &scene, site: &site, page: None, heeded: 0 };
        let _: () = scene.cache.ask(&["SET", "properties:detail:1", "old"]);
        assert_eq!(pages.visit().await, "old");
        proxy.stall(Direction::Questions);
        scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
        // The other cache has its delete, so the load was handed over; without the guard the page is purged three times.
        let _: () = other.ask(&["SET", "properties:detail:2", "old"]);
        scene.run("UPDATE properties SET title = 'new' WHERE id = 2").await;
        eventually("the other cache deletes", PATIENCE, async || {
            pages.visit().await;
            !other.ask::<bool>(&["EXISTS", "properties:detail:2"])
        })
        .await;
        if !is_guarded {
            let purges = || site.purged().iter().filter(|tag| *tag == "property:1").count();
            eventually("the page is purged, and its echoes", PATIENCE, async || {
                pages.visit().await;
                purges() >= 3
            })
            .await;
            assert_eq!(pages.visit().await, "old", "it was made from the stale key");
        }
        proxy.heal();
        scene.confirmed(&daemon).await;
        let shown = pages.visit().await;
        assert_eq!(shown, if is_guarded { "new" } else { "old" }, "{:?}\n{}", site.log(), daemon.log());
    }
}

/// What is owed is known to the process alone: the next one purges every coarse tag.
#[tokio::test]
async fn a_daemon_that_is_killed_while_it_owes_a_coarse_tag_leaves_no_page_stale() {
    let (scene, site) = (Scene::start().await, Sink::webhook());
    let config = with(&scene, &quiet(&site, ""));
    let mut daemon = started(&scene, &[&site], &config).await;
    site.fault(json!({"do": "status", "code": 400, "times": 0}));
    daemon.allow("id=sink.refused_coarse");
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 1").await;
    daemon.wait_for_log("id=sink.refused_coarse");
    scene.confirmed(&daemon).await;
    daemon.kill();
    assert!(site.purged().is_empty(), "{:?}", site.log());
    site.heal();
    let mut next = Daemon::start(&config, &[]);
    purged(&site, &next, &["properties"]).await;
    scene.confirmed(&next).await;
    assert_eq!(next.stop(), Some(0));
}
