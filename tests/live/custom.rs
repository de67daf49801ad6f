//! `crieur.invalidate` and `crieur.invalidate_exact`: what a transaction names goes with it, and nothing else does.

use std::collections::BTreeSet;

use super::admin;
use super::daemon::Daemon;
use super::harness::postgres::{self, Version};
use super::harness::wait::{PATIENCE, settled};
use super::metrics::becomes;
use super::outbox_sql::INSTALL;
use super::scene::{Mode, Scene, set};

const NAMED: &[&str] = &["s:a:1", "s:a:2", "s:b*", "s:bc", "s:é", "t:1", "lock:s"];

const REFUSED: &str = "named keys that no cache's invalidate allows";

fn allowing(scene: &Scene, patterns: &str) -> String {
    scene.config().replacen("echo = []", &format!("echo = []\ninvalidate = {patterns}"), 1)
}

/// Runs SQL with all keys in place, and says which went.
async fn gone(scene: &Scene, daemon: &Daemon, sql: &str) -> BTreeSet<String> {
    let mut connection = scene.keys();
    for key in NAMED {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
    }
    scene.run(sql).await;
    // A position moves over messages with the next commit at the latest.
    scene.run("UPDATE leases SET property_id = property_id WHERE id = 0").await;
    scene.confirmed(daemon).await;
    let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("it answers");
    NAMED.iter().map(|key| key.to_string()).filter(|key| !left.contains(key)).collect()
}

/// Rows enough to be streamed before the commit.
const BULK: &str = "INSERT INTO visit_bookings SELECT id, id FROM generate_series(1, 60000) AS id;";

#[tokio::test]
async fn what_a_transaction_names_goes_when_it_commits_and_stays_when_it_rolls_back() {
    for mode in Mode::ALL {
        rolled_back_or_not(Scene::of(mode, postgres::Options::default(), &[]).await).await;
    }
}

async fn rolled_back_or_not(scene: Scene) {
    let page = admin::address();
    let config = format!("[admin]\nlisten = \"{page}\"\n{}", allowing(&scene, "[\"s:*\", \"lock:*\"]"));
    let mut daemon = scene.daemon_with(&config).await;
    let none = set(&[]);
    let cases: &[(String, BTreeSet<String>)] = &[
        ("SELECT crieur.invalidate('s:a:*')".into(), set(&["s:a:1", "s:a:2"])),
        ("SELECT crieur.invalidate_exact('s:a:1', 's:b*', NULL)".into(), set(&["s:a:1", "s:b*"])),
        (r"SELECT crieur.invalidate('s:b\*', NULL)".into(), set(&["s:b*"])),
        ("SELECT crieur.invalidate('s:b*', 's:é')".into(), set(&["s:b*", "s:bc", "s:é"])),
        ("SELECT crieur.invalidate_exact('lock:s'), crieur.invalidate('lock:*')".into(), none.clone()),
        ("BEGIN; SELECT crieur.invalidate('s:*'); ROLLBACK".into(), none.clone()),
        (
            "BEGIN; SELECT crieur.invalidate_exact('s:a:1'); SAVEPOINT a; SELECT crieur.invalidate('s:*'); \
             ROLLBACK TO a; COMMIT"
                .into(),
            set(&["s:a:1"]),
        ),
        (format!("BEGIN; {BULK} SELECT crieur.invalidate('s:a:*'); ROLLBACK"), none.clone()),
        (format!("BEGIN; {BULK} SELECT crieur.invalidate_exact('s:a:1'); COMMIT"), set(&["s:a:1"])),
        (
            "SELECT crieur.invalidate(VARIADIC array_agg('s:z' || n || '*')) FROM generate_series(1, 3000) AS n".into(),
            // Too many to compare each key of the cache with: they became their family.
            set(&["s:a:1", "s:a:2", "s:b*", "s:bc", "s:é"]),
        ),
        (
            "SELECT crieur.invalidate_exact(VARIADIC array_agg(repeat('x', 100) || n)) FROM generate_series(1, 20000) n".into(),
            set(&["s:a:1", "s:a:2", "s:b*", "s:bc", "s:é"]),
        ),
        ("SELECT crieur.invalidate(VARIADIC ARRAY[]::text[]), crieur.invalidate(NULL)".into(), none.clone()),
    ];
    for (sql, expected) in cases {
        assert_eq!(gone(&scene, &daemon, sql).await, *expected, "{sql}\n{}", daemon.log());
    }
    becomes(page, "crieur_families_collapsed_total", |families| families >= 1.0).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn what_the_configuration_does_not_allow_stays_and_is_not_shown() {
    let scene = Scene::start().await;
    let page = admin::address();
    let mut daemon = scene.daemon_with(&format!("[admin]\nlisten = \"{page}\"\n{}", scene.config())).await;
    daemon.allow(REFUSED);
    admin::shows(page, "crieur_keys_not_allowed_total 0").await;
    assert_eq!(gone(&scene, &daemon, "SELECT crieur.invalidate_exact('s:a:1', 't:1')").await, set(&[]));
    daemon.wait_for_log(REFUSED);
    admin::shows(page, "crieur_keys_not_allowed_total 2").await;
    assert!(daemon.log().contains("count=2") && !daemon.log().contains("s:a:1"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));

    let mut daemon = scene.daemon_with(&allowing(&scene, "[\"s:a:*\"]")).await;
    daemon.allow(REFUSED);
    // What may be named counts as rules do.
    daemon.wait_for_log("id=gap.other_rules");
    daemon.wait_for_log("id=sweep.ended");
    let sql = "SELECT crieur.invalidate('s:*', 't:*', '*'), crieur.invalidate_exact('s:a:2')";
    assert_eq!(gone(&scene, &daemon, sql).await, set(&["s:a:2"]), "{}", daemon.log());
    // Other rules: keys that may be named are swept with all others, like those of a missing mark.
    let deleted: i64 = redis::cmd("DEL").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("it answers");
    assert_eq!(deleted, 1);
    settled("they are swept", PATIENCE, async || {
        let left: i64 = redis::cmd("EXISTS").arg("s:a:1").query(&mut scene.keys()).expect("it answers");
        let others: i64 = redis::cmd("EXISTS").arg("s:bc").query(&mut scene.keys()).expect("it answers");
        if (left, others) == (0, 1) { Ok(()) } else { Err((left, others, daemon.log())) }
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn anybody_who_may_use_the_schema_may_call_and_nobody_gets_rights_by_it() {
    for version in Version::ALL {
        let scene = Scene::with(postgres::Options { version, ..Default::default() }, &[]).await;
        let mut daemon = scene.daemon_with(&allowing(&scene, "[\"s:*\"]")).await;
        scene.run("CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA crieur TO app").await;
        scene.run(INSTALL).await;
        // A function of the caller's own in its path must not run with the owner's rights.
        let trap = "CREATE SCHEMA trap AUTHORIZATION app; SET ROLE app; \
                    CREATE FUNCTION trap.octet_length(text) RETURNS int LANGUAGE plpgsql AS \
                    $$ BEGIN RAISE 'trapped as %', current_user; END $$; \
                    SET search_path = trap, pg_catalog";
        let sql = format!("{trap}; SELECT crieur.invalidate_exact('s:a:1'); RESET ROLE; RESET search_path");
        assert_eq!(gone(&scene, &daemon, &sql).await, set(&["s:a:1"]), "{}", daemon.log());
        let row = scene.ask("SELECT op::text || note FROM crieur.outbox").await;
        assert_eq!(row, r#"M{"keys": ["s:a:1"], "kind": "invalidate_exact"}"#);
        scene.run("SET ROLE app").await;
        let refused = scene.sql.batch_execute("SELECT crieur.announce_keys('{\"kind\": \"ddl\"}')").await;
        assert!(refused.is_err_and(|error| error.code().is_some_and(|code| code.code() == "42501")));
        scene.run("RESET ROLE").await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_full_outbox_gives_up_all_that_may_be_named_and_misses_no_late_transaction() {
    let scene = Scene::outbox().await;
    scene.run("SELECT crieur.limits(bytes_max => 1)").await;
    let config = allowing(&scene, "[\"s:*\"]");
    let mut daemon = scene.daemon_with(&config).await;
    assert_eq!(daemon.stop(), Some(0));
    let rows = "SELECT (SELECT count(*) FROM crieur.outbox) || ' ' || count(*) || coalesce(min(' ' || shape), '') FROM crieur.collapse";
    let before = scene.ask(rows).await;
    let before = before.split(' ').next().expect("a number");
    for _ in 0..3 {
        scene.run("SELECT crieur.invalidate_exact('s:a:1'), crieur.invalidate('s:b*')").await;
        assert_eq!(scene.ask(rows).await, format!("{before} 1 0"), "one row for all of them");
    }
    let mut late = scene.postgres.client().await;
    let open = late.transaction().await.expect("it begins");
    open.batch_execute("SELECT crieur.invalidate_exact('s:a:2')").await.expect("valid SQL");
    let mut daemon = Daemon::start(&config, &[]);
    settled("the row is closing", PATIENCE, async || {
        match scene.ask("SELECT bool_and(closing)::text FROM crieur.collapse").await {
            closing if closing == "true" => Ok(()),
            other => Err((other, daemon.log())),
        }
    })
    .await;
    for key in NAMED {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut scene.keys()).expect("it is writable");
    }
    // The transaction that relied on the row has not ended.
    assert_eq!(scene.ask(rows).await, format!("{before} 1 0"));
    open.commit().await.expect("it commits");
    settled("what may be named goes, and nothing else", PATIENCE, async || {
        let mut connection = scene.keys();
        let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("it answers");
        let left: Vec<&str> = NAMED.iter().copied().filter(|key| left.contains(*key)).collect();
        let rows = scene.ask("SELECT count(*)::text FROM crieur.collapse").await;
        if left == ["t:1", "lock:s"] && rows == "0" { Ok(()) } else { Err((format!("{left:?} {rows}"), daemon.log())) }
    })
    .await;
    assert!(!daemon.log().contains("sweeping every key"), "the mark proves the rest:\n{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn keys_of_a_database_in_another_encoding_are_the_applications() {
    let scene = Scene::start().await;
    scene.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let url = scene.postgres.url();
    let url = format!("{}/latin", url.strip_suffix("/postgres").expect("it names the database"));
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it accepts sessions");
    tokio::spawn(connection);
    sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("valid SQL");
    let cache = scene.cache.url();
    let text = format!(
        "[postgres]\nurl = \"{url}\"\nslot = \"latin\"\n[cache]\nurl = \"{cache}\"\necho = []\ninvalidate = [\"s:*\"]\n\
         [[rules]]\ntable = \"public.t\"\nkeys = [\"u:{{id}}\"]\n"
    );
    assert!(super::daemon::run("setup", &text, &[]).status.success());
    let mut daemon = Daemon::start(&text, &[]);
    let exists = |key: &str| -> i64 { redis::cmd("EXISTS").arg(key).query(&mut scene.keys()).expect("it answers") };
    settled("the mark is written", PATIENCE, async || match exists("crieur:mark:latin") {
        1 => Ok(()),
        _ => Err(daemon.log()),
    })
    .await;
    for key in ["s:é", "s:e"] {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut scene.keys()).expect("it is writable");
    }
    sql.batch_execute("SELECT crieur.invalidate_exact('s:é')").await.expect("valid SQL");
    settled("it goes", PATIENCE, async || match exists("s:é") {
        0 => Ok(()),
        _ => Err(daemon.log()),
    })
    .await;
    assert_eq!(exists("s:e"), 1);
    assert_eq!(daemon.stop(), Some(0));
}

/// The recipe of docs/guide/named-keys.md, word by word.
#[tokio::test]
async fn the_recipe_of_keys_that_only_the_application_knows_works() {
    let page = include_str!("../../docs/guide/named-keys.md");
    let recipe =
        page.split("test=live/custom.rs\nBEGIN;").nth(1).and_then(|rest| rest.split("```").next()).expect("the recipe");
    let scene = Scene::start().await;
    scene.run("ALTER TABLE properties ADD price numeric").await;
    let mut daemon = scene.daemon_with(&allowing(&scene, "[\"properties:search:*\", \"stats:*\"]")).await;
    let mut connection = scene.keys();
    for key in ["properties:search:a", "stats:dakar", "stats:all", "stats:other"] {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
    }
    scene.run(&format!("BEGIN;{recipe}")).await;
    scene.confirmed(&daemon).await;
    let left: BTreeSet<String> = redis::cmd("KEYS").arg("*s:*").query(&mut connection).expect("it answers");
    let left: Vec<&str> =
        left.iter().map(String::as_str).filter(|key| !key.contains("detail") && !key.contains("city")).collect();
    assert!(
        left.contains(&"stats:other")
            && !left.iter().any(|key| ["properties:search:a", "stats:dakar", "stats:all"].contains(key)),
        "{left:?}"
    );
    assert_eq!(daemon.stop(), Some(0));
}
