//! Kept answers of lookups whose tables, views and functions are others now: no change of a row tells of that.

use std::collections::BTreeSet;

use super::daemon::{self, Daemon};
use super::harness::postgres::{Options, Version};
use super::lookups::gone;
use super::scene::{Mode, RULES, Scene, set};

/// A payment says whose keys go; each lookup answers 41 or 42 in its own way.
const KEPT: &str = r#"
[[rules]]
table = "public.rental_payments"
keys = ["join:{join.owner_id}", "swap:{swap.owner_id}", "call:{call.owner_id}", "path:{path.owner_id}"]
lookup.join = { sql = "SELECT p.owner_id FROM leases l JOIN properties p ON p.id = l.property_id WHERE l.id = $1", args = ["lease_id"], tables = ["leases", "properties"] }
lookup.swap = { sql = "SELECT owner_id FROM app.owners WHERE id = $1", args = ["lease_id"], tables = ["app.owners"] }
lookup.call = { sql = "SELECT app.owner_of($1) AS owner_id", args = ["lease_id"], tables = ["app.owners"] }
lookup.path = { sql = "SELECT owner_id FROM owners WHERE id = $1", args = ["lease_id"], tables = ["owners"] }
"#;

const TABLES: &str = "
CREATE SCHEMA app;
CREATE TABLE app.owners (id int PRIMARY KEY, owner_id int);
INSERT INTO app.owners VALUES (71, 41);
CREATE TABLE owners (id int PRIMARY KEY, owner_id int);
INSERT INTO owners VALUES (71, 41);
CREATE FUNCTION app.inner_owner(int) RETURNS int LANGUAGE plpgsql STABLE AS
    'BEGIN RETURN (SELECT owner_id FROM app.owners WHERE id = $1); END';
CREATE FUNCTION app.owner_of(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN app.inner_owner($1); END';
";

/// Each change, and the lookups that answer 42 behind it. No announcement of DDL is needed for any of them.
const CHANGES: &[(&str, &[&str])] = &[
    ("SELECT 1", &[]),
    ("ALTER TABLE leases RENAME TO leases_v2; CREATE VIEW leases AS SELECT * FROM leases_v2", &[]),
    // The view's table is one that the rules do not name.
    ("UPDATE leases_v2 SET property_id = 2 WHERE id = 71", &["join"]),
    ("UPDATE leases_v2 SET property_id = 1 WHERE id = 71", &[]),
    ("CREATE OR REPLACE VIEW leases AS SELECT id, 2 AS property_id FROM leases_v2", &["join"]),
    (
        "DROP VIEW leases; CREATE TABLE leases (id int PRIMARY KEY, property_id int); INSERT INTO leases VALUES (71, 1)",
        &[],
    ),
    // It is not published, or in outbox mode not watched.
    ("UPDATE leases SET property_id = 2", &["join"]),
    ("UPDATE leases SET property_id = 1", &[]),
    (
        "ALTER TABLE properties RENAME id TO other; ALTER TABLE properties RENAME owner_id TO id; \
      ALTER TABLE properties RENAME other TO owner_id; INSERT INTO properties VALUES (42, 'Dakar', 't', 1)",
        &["join"],
    ),
    (
        "CREATE SCHEMA next; CREATE TABLE next.owners (LIKE app.owners); INSERT INTO next.owners VALUES (71, 42); \
      ALTER SCHEMA app RENAME TO old; ALTER SCHEMA next RENAME TO app; \
      ALTER FUNCTION old.owner_of SET SCHEMA app; ALTER FUNCTION old.inner_owner SET SCHEMA app",
        &["join", "swap", "call"],
    ),
    ("CREATE OR REPLACE FUNCTION app.owner_of(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 41'", &["join", "swap"]),
    (
        "CREATE OR REPLACE FUNCTION app.owner_of(int) RETURNS int LANGUAGE plpgsql STABLE AS \
      'BEGIN RETURN app.inner_owner($1); END'",
        &["join", "swap", "call"],
    ),
    (
        "CREATE OR REPLACE FUNCTION app.inner_owner(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 41; END'",
        &["join", "swap"],
    ),
    (
        "CREATE SCHEMA postgres; CREATE TABLE postgres.owners (id int, owner_id int); INSERT INTO postgres.owners VALUES (71, 42)",
        &["join", "swap", "path"],
    ),
    ("DROP TABLE postgres.owners", &["join", "swap"]),
    (
        "BEGIN; DROP TABLE owners; CREATE TABLE owners (id int, owner_id int); INSERT INTO owners VALUES (71, 42); COMMIT",
        &["join", "swap", "path"],
    ),
];

#[tokio::test]
async fn answers_go_with_what_they_were_read_from() {
    for (mode, version) in
        [(Mode::Replication, Version::System), (Mode::Replication, Version::V18), (Mode::Outbox, Version::System)]
    {
        answers_go(mode, version).await;
    }
}

async fn answers_go(mode: Mode, version: Version) {
    let scene = Scene::of(mode, Options { version, ..Options::default() }, &[]).await;
    scene.run(TABLES).await;
    let config = scene.config().replace(RULES, KEPT);
    let out = daemon::run("setup", &config, &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // Not everybody may make them.
    scene.run("DROP EVENT TRIGGER IF EXISTS crieur_ddl; DROP EVENT TRIGGER IF EXISTS crieur_drop").await;
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("id=lookup.not_kept");
    daemon.allow("id=table.unpublished");
    // A look may meet the moment between a DROP and its CREATE.
    daemon.allow("id=rules.table_missing");
    daemon.allow("a column that a lookup reads is of another type than it was");
    for (number, (change, moved)) in CHANGES.iter().enumerate() {
        scene.run(change).await;
        pays(&scene, &daemon, number, moved).await;
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// Two payments: of the second the answers may be known.
async fn pays(scene: &Scene, daemon: &Daemon, number: usize, moved: &[&str]) {
    let lookups = ["join", "swap", "call", "path"];
    let keys: Vec<String> = lookups.iter().flat_map(|name| [41, 42].map(|owner| format!("{name}:{owner}"))).collect();
    let keys: BTreeSet<String> = set(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    for second in 0..2 {
        let payment = format!("INSERT INTO rental_payments VALUES ({}, 71, 1)", 100 + 2 * number + second);
        let gone = gone(scene, daemon, &keys, &payment).await;
        for name in lookups {
            let owner = if moved.contains(&name) { 42 } else { 41 };
            // What is not published is swept besides.
            assert!(gone.contains(&format!("{name}:{owner}")), "{}: {gone:?}\n{}", CHANGES[number].0, daemon.log());
        }
    }
}

/// Where nothing was redefined each lookup is asked once, whatever else happens to its tables.
#[tokio::test]
async fn nothing_else_than_a_definition_makes_answers_go() {
    let conf = vec!["log_statement = 'all'".to_owned()];
    let scene = Scene::of(Mode::Replication, Options { conf, ..Options::default() }, &[]).await;
    scene.run(TABLES).await;
    let config = scene.config().replace(RULES, KEPT);
    assert!(daemon::run("setup", &config, &[]).status.success());
    let mut daemon = scene.daemon_with(&config).await;
    pays(&scene, &daemon, 0, &[]).await;
    let asked = || {
        let log = scene.postgres.log();
        log.lines().filter(|line| line.contains("LOG:  execute ") && line.contains("app.owner_of(")).count()
    };
    let first = asked();
    assert!(first > 0, "{}", scene.postgres.log());
    for (number, other) in [
        "ANALYZE",
        "VACUUM FULL rental_payments",
        "CREATE INDEX ON app.owners (owner_id)",
        "CREATE TABLE strangers (id int PRIMARY KEY); CREATE FUNCTION strange() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TEMP TABLE owners (id int)",
    ]
    .into_iter()
    .enumerate()
    {
        scene.run(other).await;
        pays(&scene, &daemon, number + 1, &[]).await;
        assert_eq!(asked(), first, "{other}");
    }
    assert_eq!(daemon.stop(), Some(0));
}
