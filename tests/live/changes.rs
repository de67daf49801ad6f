//! Changes of values without a change of rows: DDL, announced by the event triggers or seen in a table's next
//! description, and what moves whole sets of rows at once: TRUNCATE and partitions.

use std::collections::BTreeSet;

use super::daemon::Daemon;
use super::harness::postgres::{self, Version};
use super::scene::{KEYS, Scene, set};

const SLOTS: &[&str] = &["available_slots:1", "available_slots:2"];
const VISITS: &[&str] = &["visits:1", "visits:150"];

/// Forgets the event triggers, as where nobody may make them.
const WITHOUT_TRIGGERS: &str = "DROP EVENT TRIGGER crieur_ddl; DROP EVENT TRIGGER crieur_drop";

async fn with(version: Version, conf: &[&str]) -> Scene {
    let conf = conf.iter().map(|line| line.to_string()).collect();
    Scene::with(postgres::Options { version, conf, ..Default::default() }, &[]).await
}

fn families(prefixes: &[&str]) -> BTreeSet<String> {
    let owned = |key: &&&str| prefixes.iter().any(|prefix| key.starts_with(prefix));
    KEYS.iter().filter(owned).map(|key| key.to_string()).collect()
}

/// The keys of `properties` that are in the cache.
fn properties() -> BTreeSet<String> {
    families(&["properties:all_properties_public", "properties:city:", "properties:detail:"])
}

/// Makes each change, one after the other, and compares what went.
async fn check(scene: &Scene, daemon: &Daemon, cases: &[(&str, BTreeSet<String>)]) {
    for (sql, gone) in cases {
        assert_eq!(scene.change(daemon, sql).await, *gone, "{sql}\n{}", daemon.log());
    }
}

#[tokio::test]
async fn ddl_that_changes_values_sweeps_the_families_of_its_table_and_no_other() {
    for version in Version::ALL {
        let scene = with(version, &[]).await;
        let mut daemon = scene.daemon().await;
        let nothing = BTreeSet::new;
        let announced = [
            ("ALTER TABLE properties ADD COLUMN price int DEFAULT 5", properties()),
            ("ALTER TABLE properties ALTER price TYPE text USING 'about ' || price", properties()),
            ("ALTER TABLE properties RENAME price TO cost", properties()),
            ("ALTER TABLE properties DROP COLUMN cost, ADD COLUMN cost int DEFAULT 7", properties()),
            ("ALTER TABLE properties ADD COLUMN twice int GENERATED ALWAYS AS (owner_id * 2) STORED", properties()),
            ("ALTER TABLE properties ALTER twice DROP EXPRESSION", properties()),
            ("BEGIN; ALTER TABLE properties ADD COLUMN x int DEFAULT 1; ROLLBACK", nothing()),
            (
                "BEGIN; SAVEPOINT a; ALTER TABLE properties ADD COLUMN x int DEFAULT 1; ROLLBACK TO a;
                 INSERT INTO visit_bookings VALUES (1, 1); COMMIT",
                set(&["available_slots:1"]),
            ),
            (
                "BEGIN; SAVEPOINT a; ALTER TABLE visit_bookings ADD COLUMN x int DEFAULT 1; RELEASE a; COMMIT",
                set(SLOTS),
            ),
            ("ALTER TABLE visits ADD COLUMN note text DEFAULT 'n'", set(VISITS)),
            ("CREATE TABLE bystander (id int)", nothing()),
            ("ALTER TABLE bystander ADD COLUMN x int DEFAULT 1", nothing()),
            ("CREATE TEMP TABLE visits (id int); ALTER TABLE visits ADD y int; DROP TABLE visits", nothing()),
            ("CREATE TYPE kind AS ENUM ('a', 'b'); ALTER TABLE visit_bookings ADD k kind DEFAULT 'a'", set(SLOTS)),
            ("ALTER TYPE kind RENAME VALUE 'a' TO 'c'", set(SLOTS)),
            ("ALTER TABLE visits DETACH PARTITION visits_high", set(VISITS)),
            ("ALTER TABLE visits ATTACH PARTITION visits_high FOR VALUES FROM (100) TO (200)", set(VISITS)),
            ("DROP TABLE visits_high", set(VISITS)),
            ("DROP TYPE kind CASCADE", set(SLOTS)),
            ("DROP TABLE visit_bookings", families(&["available_slots:", "visits:"])),
        ];
        check(&scene, &daemon, &announced).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_the_triggers_a_changed_description_sweeps_and_the_same_one_does_not() {
    let scene = Scene::start().await;
    scene.run(WITHOUT_TRIGGERS).await;
    let mut daemon = scene.daemon().await;
    let book = |id: u32| format!("INSERT INTO visit_bookings (id, property_id) VALUES ({id}, 1)");
    let one = || set(&["available_slots:1"]);
    for (id, (ddl, gone)) in [
        ("SELECT 1", one()),
        ("ALTER TABLE visit_bookings ADD COLUMN a text DEFAULT 'a'", set(SLOTS)),
        // The server describes the table again, with nothing new in it.
        ("ALTER TABLE visit_bookings ALTER a SET STATISTICS 5", one()),
        ("ALTER TABLE visit_bookings RENAME a TO b", set(SLOTS)),
        ("ALTER TABLE visit_bookings ALTER b TYPE varchar", set(SLOTS)),
        ("ALTER TABLE visit_bookings DROP COLUMN b", set(SLOTS)),
        ("ALTER TABLE visit_bookings REPLICA IDENTITY DEFAULT", set(SLOTS)),
        // What the server says of a table to a new connection is compared with what it said to the last one.
        ("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots", one()),
        (
            "ALTER TABLE visit_bookings ADD COLUMN c int DEFAULT 1;
             SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots",
            set(SLOTS),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        daemon.allow("replication interrupted");
        let sql = format!("{ddl}; {}", book(id as u32));
        assert_eq!(scene.change(&daemon, &sql).await, gone, "{ddl}\n{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}
