//! From a committed row to deleted keys, and from answered keys to the confirmed position.

use std::collections::BTreeSet;

use super::daemon::{Daemon, STARTED};
use super::harness::postgres::{self, Version};
use super::harness::redis::Data;
use super::scene::{KEYS, Mode, Scene, set};

/// What is not of `properties`' families.
fn is_property(key: &str) -> bool {
    ["properties:all_properties_public", "properties:city:", "properties:detail:"].iter().any(|f| key.starts_with(f))
}

fn keys_that(keep: impl Fn(&str) -> bool) -> BTreeSet<String> {
    KEYS.iter().filter(|key| keep(key)).map(|key| key.to_string()).collect()
}

#[tokio::test]
async fn every_row_of_the_invalidation_table_deletes_exactly_its_keys() {
    let (all, dakar) = ("properties:all_properties_public", "properties:city:Dakar");
    let (thies, mbour) = ("properties:city:Thiès", "properties:city:Mbour");
    let (one, ten) = ("properties:detail:1", "properties:detail:10");
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO properties VALUES (10, 'Mbour', 'new', 1)", &[all, mbour, ten]),
        ("UPDATE properties SET title = 'changed' WHERE id = 1", &[all, dakar, one]),
        ("UPDATE properties SET city = 'Thiès' WHERE id = 1", &[all, dakar, thies, one]),
        ("UPDATE properties SET id = 11, city = NULL WHERE id = 10", &[all, mbour, ten]),
        ("DELETE FROM properties WHERE id = 11", &[all]),
        ("DELETE FROM properties WHERE id = 9", &[all, dakar]),
        ("INSERT INTO rental_payments VALUES (1, 71, 100)", &["payments:lease:71", "dashboard:41"]),
        (
            "UPDATE rental_payments SET lease_id = 72",
            &["payments:lease:71", "dashboard:41", "payments:lease:72", "dashboard:42"],
        ),
        ("INSERT INTO rental_payments VALUES (2, 999, 100)", &[]),
        ("INSERT INTO visit_bookings VALUES (1, 1)", &["available_slots:1"]),
        ("UPDATE visit_bookings SET property_id = 2", &["available_slots:1", "available_slots:2"]),
        ("DELETE FROM visit_bookings", &["available_slots:2"]),
        ("UPDATE leases SET property_id = 1 WHERE id = 71", &[]),
        ("BEGIN; UPDATE properties SET title = 'x'; INSERT INTO visit_bookings VALUES (1, 1); ROLLBACK", &[]),
        (
            "BEGIN; SAVEPOINT a; DELETE FROM properties WHERE id = 1; ROLLBACK TO a;
             INSERT INTO visit_bookings VALUES (3, 1); COMMIT",
            &["available_slots:1"],
        ),
        (
            "BEGIN; INSERT INTO leases VALUES (1, 2); INSERT INTO rental_payments VALUES (3, 1, 1); COMMIT",
            &["dashboard:42"],
        ),
        ("INSERT INTO visits VALUES (1)", &["visits:1"]),
        ("INSERT INTO visits VALUES (150)", &["visits:150"]),
        ("TRUNCATE visits_high", &["visits:1", "visits:150"]),
    ];
    for (version, mode) in Version::ALL.into_iter().flat_map(|version| Mode::ALL.map(|mode| (version, mode))) {
        let scene = Scene::of(mode, postgres::Options { version, ..Default::default() }, &[]).await;
        let mut daemon = scene.daemon().await;
        for (sql, gone) in cases {
            let found = scene.change(&daemon, sql).await;
            assert_eq!(found, set(gone), "{version:?}, {mode:?}: {sql}\n{}", daemon.log());
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_truncate_deletes_every_key_of_the_families_and_no_other() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    assert_eq!(scene.change(&daemon, "TRUNCATE properties").await, keys_that(is_property));
    let payments = keys_that(|key| key.starts_with("payments:") || key.starts_with("dashboard:"));
    assert_eq!(scene.change(&daemon, "TRUNCATE rental_payments").await, payments);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn what_is_committed_while_the_daemon_is_dead_is_delivered_by_the_next() {
    let scene = Scene::start().await;
    let mut killed = scene.daemon().await;
    scene.confirmed(&killed).await;
    killed.kill();
    scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
    let mut next = Daemon::start(&scene.config(), &[]);
    next.wait_for_log(STARTED);
    scene.confirmed(&next).await;
    assert_eq!(
        scene.gone(),
        set(&["properties:all_properties_public", "properties:city:Dakar", "properties:detail:1"])
    );
    assert!(!next.log().contains("sweeping"), "the mark proves that nothing is missing:\n{}", next.log());
    assert_eq!(next.stop(), Some(0));
}

#[tokio::test]
async fn changes_while_the_cache_is_dead_are_delivered_when_it_is_back() {
    let mut scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let _: () = redis::cmd("SAVE").query(&mut scene.cache.connection()).expect("the directory is writable");
    scene.cache.kill();
    daemon.allow("failed to delete keys");
    daemon.allow("failed to read the mark");
    daemon.allow("failed to write the mark");
    scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
    // A heartbeat may have met the dead cache first; no flight begins while the mark is read.
    daemon.wait_for_log("failed to ");
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    scene.cache.restart(Data::Kept);
    scene.confirmed(&daemon).await;
    let expected =
        ["properties:all_properties_public", "properties:city:Dakar", "properties:detail:1", "available_slots:1"];
    assert_eq!(scene.gone(), set(&expected));
    assert_eq!(daemon.stop(), Some(0));
}
