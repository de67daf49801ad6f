//! Changes of values without a change of rows: DDL, announced by the event triggers or seen in a table's next
//! description, and what moves whole sets of rows at once: TRUNCATE and partitions.

use std::collections::BTreeSet;

use super::daemon::{self, Daemon};
use super::harness::postgres::Postgres;
use super::harness::postgres::{self, Version};
use super::scene::{self, KEYS, Scene, set};

const SLOTS: &[&str] = &["available_slots:1", "available_slots:2"];
const VISITS: &[&str] = &["visits:1", "visits:150"];

/// Forgets the event triggers, as where nobody may make them.
const WITHOUT_TRIGGERS: &str =
    "DROP EVENT TRIGGER crieur_ddl; DROP EVENT TRIGGER crieur_drop; DROP EVENT TRIGGER crieur_rewrite";

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
        ];
        check(&scene, &daemon, &announced).await;
        // The publication loses an entry with the table: sooner or later that sweeps the rest.
        let gone = scene.change(&daemon, "DROP TABLE visit_bookings").await;
        assert!(gone.is_superset(&set(SLOTS)), "{gone:?}\n{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn without_the_triggers_a_changed_description_sweeps_and_the_same_one_does_not() {
    let scene = Scene::start().await;
    scene.run(WITHOUT_TRIGGERS).await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
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
        daemon.allow("id=stream.interrupted");
        let sql = format!("{ddl}; {}", book(id as u32));
        assert_eq!(scene.change(&daemon, &sql).await, gone, "{ddl}\n{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn truncates_moves_and_partitions_delete_exactly_what_they_touch() {
    let scene = with(Version::System, &[]).await;
    scene.run("ALTER TABLE visit_bookings ADD FOREIGN KEY (property_id) REFERENCES properties").await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let cases = [
        ("BEGIN; TRUNCATE visit_bookings; INSERT INTO visit_bookings VALUES (1, 1); COMMIT", set(SLOTS)),
        ("BEGIN; TRUNCATE visit_bookings; ROLLBACK", set(&[])),
        ("INSERT INTO visits VALUES (1)", set(&["visits:1"])),
        ("UPDATE visits SET id = 150 WHERE id = 1", set(VISITS)),
        ("TRUNCATE visits", set(VISITS)),
        ("ALTER TABLE visits DETACH PARTITION visits_high", set(VISITS)),
        ("INSERT INTO visits_high VALUES (150)", set(&[])),
        ("TRUNCATE visits_low", set(VISITS)),
        ("ALTER TABLE visits ATTACH PARTITION visits_high FOR VALUES FROM (100) TO (200)", set(VISITS)),
        ("DELETE FROM visits", set(&["visits:150"])),
        ("BEGIN; SAVEPOINT a; DELETE FROM visit_bookings; RELEASE a; COMMIT", set(&["available_slots:1"])),
        ("TRUNCATE properties CASCADE", &properties() | &set(SLOTS)),
    ];
    check(&scene, &daemon, &cases).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn altered_tables_in_streamed_prepared_and_aborted_transactions_count_when_they_commit() {
    let scene = with(Version::System, &["logical_decoding_work_mem = 64kB", "max_prepared_transactions = 5"]).await;
    let mut daemon = scene.daemon().await;
    let alter = |column: &str| format!("ALTER TABLE visit_bookings ADD COLUMN {column} int DEFAULT 1");
    let rows = |first: u32| {
        let last = first + 5000;
        format!("INSERT INTO visit_bookings (id, property_id) SELECT i, i FROM generate_series({first}, {last}) i")
    };
    let cases = [
        (format!("BEGIN; {}; {}; ROLLBACK", alter("a"), rows(100)), set(&[])),
        ("INSERT INTO visit_bookings VALUES (1, 1)".to_owned(), set(&["available_slots:1"])),
        (format!("BEGIN; {}; {}; {}; COMMIT", rows(100), alter("a"), rows(6000)), set(SLOTS)),
        ("INSERT INTO visit_bookings VALUES (2, 2)".to_owned(), set(&["available_slots:2"])),
        (format!("BEGIN; {}; PREPARE TRANSACTION 'a'", alter("b")), set(&[])),
        ("ROLLBACK PREPARED 'a'".to_owned(), set(&[])),
        (format!("BEGIN; {}; {}; PREPARE TRANSACTION 'a'", alter("b"), rows(20_000)), set(&[])),
        ("COMMIT PREPARED 'a'".to_owned(), set(SLOTS)),
    ];
    for (sql, gone) in cases {
        assert_eq!(scene.change(&daemon, &sql).await, gone, "{sql}\n{}", daemon.log());
    }
    // What was streamed of a subtransaction before its end may be deleted too, and nothing else.
    let (alter, first, second) = (alter("c"), rows(30_000), rows(40_000));
    let partly = format!(
        "BEGIN; {first}; SAVEPOINT a; {alter}; {second}; ROLLBACK TO a; {second}; INSERT INTO visits VALUES (1); COMMIT"
    );
    let gone = scene.change(&daemon, &partly).await;
    assert!(gone.contains("visits:1") && gone.is_subset(&(&set(&["visits:1"]) | &set(SLOTS))), "{gone:?}");
    let after = "INSERT INTO visit_bookings (id, property_id) VALUES (3, 2)";
    let gone = scene.change(&daemon, after).await;
    assert!(gone.contains("available_slots:2") && gone.is_subset(&set(SLOTS)), "{gone:?}");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn an_unchanged_long_value_that_no_old_row_carries_widens() {
    let scene = Scene::start().await;
    scene.run("ALTER TABLE properties ALTER city SET STORAGE EXTERNAL, REPLICA IDENTITY DEFAULT").await;
    scene.run("UPDATE properties SET city = repeat('long ', 2000) WHERE id = 1").await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let cities = families(&["properties:city:"]);
    let expected = &cities | &set(&["properties:all_properties_public", "properties:detail:1"]);
    check(&scene, &daemon, &[("UPDATE properties SET title = 'b' WHERE id = 1", expected)]).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_message_that_is_not_understood_sweeps_everything_and_is_said_once() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=message.not_understood");
    let everything = families(&["properties:", "payments:", "dashboard:", "available_slots:", "visits:"]);
    let everything = &everything - &set(&["properties:other"]);
    let cases = [
        ("SELECT pg_logical_emit_message(true, 'another', 'x')", set(&[])),
        ("SELECT pg_logical_emit_message(true, 'crieur', '{\"kind\": \"ddl\", \"tables\": []}')", set(&[])),
        ("SELECT pg_logical_emit_message(true, 'crieur', 'x')", everything.clone()),
        ("BEGIN; SELECT pg_logical_emit_message(true, 'crieur', 'x'); ROLLBACK", set(&[])),
        // Sent at once, whatever becomes of the transaction; the commit behind it flushes it.
        (
            "BEGIN; SELECT pg_logical_emit_message(false, 'crieur', '{\"kind\": \"later\"}'); ROLLBACK;
             INSERT INTO leases VALUES (1, 1)",
            everything,
        ),
    ];
    check(&scene, &daemon, &cases).await;
    assert_eq!(
        daemon
            .log()
            .lines()
            .filter(|line| line.contains(" WARN ") && line.contains("id=message.not_understood"))
            .count(),
        1
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_partition_of_all_tables_that_was_detached_sweeps_the_table_it_fed() {
    let scene = Scene::start().await;
    scene.run(WITHOUT_TRIGGERS).await;
    scene.run("DROP PUBLICATION crieur; CREATE PUBLICATION crieur FOR ALL TABLES").await;
    let mut daemon = scene.daemon().await;
    let cases = [
        ("INSERT INTO visits VALUES (101)", set(&[])),
        // In a transaction of its own: the catalog is asked when the next description comes, and must show it by then.
        ("ALTER TABLE visits DETACH PARTITION visits_high", set(&[])),
        ("INSERT INTO visits_high VALUES (102)", set(VISITS)),
        // The catalog is ahead of the stream: it goes on as if it were still a partition.
        ("INSERT INTO visits_high VALUES (150)", set(&["visits:150"])),
    ];
    check(&scene, &daemon, &cases).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn setup_says_when_it_may_not_make_the_triggers_and_they_never_break_ddl() {
    let server = Postgres::start(postgres::Options::default());
    let admin = server.client().await;
    for sql in ["CREATE ROLE app LOGIN REPLICATION", "CREATE DATABASE app OWNER app"] {
        admin.batch_execute(sql).await.expect("a superuser may");
    }
    let url = |role: &str| format!("postgres://{role}@127.0.0.1:{}/app", server.port());
    let connect = async |role: &str| {
        let (client, connection) = tokio_postgres::connect(&url(role), tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        client
    };
    let app = connect("app").await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("it owns the database");
    let rules = "[[rules]]\ntable = \"t\"\nkeys = [\"t:{id}\"]\n";
    let config = |role| scene::config(&url(role), "redis://localhost").replace(scene::RULES, rules);
    for (role, words) in
        [("app", "NOT DONE: only a superuser"), ("postgres", "CREATE EVENT TRIGGER"), ("app", "nothing to do")]
    {
        let out = daemon::run("setup", &config(role), &[]);
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains(words), "{role}: {text}{}", String::from_utf8_lossy(&out.stderr));
    }
    connect("postgres").await.batch_execute("REVOKE ALL ON SCHEMA crieur FROM PUBLIC").await.expect("a superuser may");
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC;
                  ALTER FUNCTION crieur.announce_ddl() OWNER TO app";
    connect("postgres").await.batch_execute(revoke).await.expect("a superuser may");
    app.batch_execute("ALTER TABLE t ADD COLUMN x int DEFAULT 1").await.expect("the triggers break nothing");
    let row = app.query_one("SELECT count(x) FROM t", &[]).await.expect("the column is there");
    assert_eq!(row.get::<_, i64>(0), 0);
    assert!(server.log().contains("crieur was not told of this ALTER TABLE"), "{}", server.log());
}
