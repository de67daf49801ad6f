//! What others set: on the daemon's role, on its database, on the publication, under the mark's own name, in the cache's
//! configuration. Keys go all the same.

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::Postgres;
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Scene, config, swept};

const MARK: &str = "crieur:mark:crieur";

/// Waits until these keys are gone.
async fn go(cache: &Redis, keys: &[&[u8]], daemon: &Daemon) {
    settled("the keys go", PATIENCE, async || {
        let left = keys.iter().filter(|key| cache.ask(&[&b"EXISTS"[..], key])).count();
        if left == 0 { Ok(()) } else { Err((left, daemon.log())) }
    })
    .await;
}

#[tokio::test]
async fn the_gate_waits_for_nobody_when_the_role_is_serializable_deferrable_and_its_idle_sessions_end() {
    let scene = Scene::start().await;
    for setting in ["isolation = serializable", "deferrable = on"] {
        scene.run(&format!("ALTER ROLE postgres SET default_transaction_{setting}")).await;
    }
    scene.run("ALTER ROLE postgres SET idle_session_timeout = '500ms'").await;
    let mut daemon = scene.daemon().await;
    // A safe snapshot must wait for this one (`GetSafeSnapshot` in src/backend/storage/lmgr/predicate.c). It has no
    // patience at all: were the daemon's snapshots or its idle session affected, the keys would stay or a warning come.
    scene.run("SET idle_session_timeout = 0; BEGIN ISOLATION LEVEL SERIALIZABLE; DELETE FROM visits").await;
    let writer = scene.postgres.client().await;
    let payment = "SET idle_session_timeout = 0; INSERT INTO rental_payments VALUES (1, 71, 5)";
    writer.batch_execute(payment).await.expect("valid SQL");
    go(&scene.cache, &[b"dashboard:41", b"payments:lease:71"], &daemon).await;
    scene.run("COMMIT").await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_database_without_an_encoding_gives_the_bytes_that_it_holds() {
    let postgres = Postgres::start(Default::default());
    let cache = Redis::start(&Server::System, &[]);
    let create = "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0";
    postgres.client().await.batch_execute(create).await.expect("valid SQL");
    let url = format!("{}/bytes", postgres.url().strip_suffix("/postgres").expect("it names the database"));
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it accepts sessions");
    tokio::spawn(connection);
    let tables = "SET client_encoding = 'SQL_ASCII'; CREATE TABLE t (id int PRIMARY KEY, city text NOT NULL); \
                  ALTER TABLE t REPLICA IDENTITY FULL; CREATE TABLE mayor (city text, name text); \
                  INSERT INTO mayor VALUES (E'Thi\\xE8s', E'\\xC0\\xFF')";
    sql.batch_execute(tables).await.expect("valid SQL");
    let lookup = "lookup.of = { sql = \"SELECT name FROM mayor WHERE city = $1\", args = [\"city\"] }";
    let rules =
        format!("[[rules]]\ntable = \"public.t\"\nkeys = [\"city:{{city}}\", \"mayor:{{of.name}}\"]\n{lookup}\n");
    let text = format!("[postgres]\nurl = \"{url}\"\n[cache]\nurl = \"{}\"\necho = []\n{rules}", cache.url());
    let out = daemon::run("setup", &text, &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log(STARTED);
    settled("the first sweep is done", PATIENCE, async || match cache.ask(&[&b"EXISTS"[..], MARK.as_bytes()]) {
        true => Ok(()),
        false => Err(daemon.log()),
    })
    .await;
    let keys: [&[u8]; 2] = [b"city:Thi\xE8s", b"mayor:\xC0\xFF"];
    keys.iter().for_each(|key| cache.ask(&[&b"SET"[..], key, b"value"]));
    sql.batch_execute("INSERT INTO t VALUES (1, E'Thi\\xE8s')").await.expect("valid SQL");
    go(&cache, &keys, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_mark_of_another_type_is_a_missing_one() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("the cache answered EVAL with WRONGTYPE");
    scene.confirmed(&daemon).await;
    let () = scene.cache.ask(&[&b"DEL"[..], MARK.as_bytes()]);
    let () = scene.cache.ask(&[&b"LPUSH"[..], MARK.as_bytes(), b"x"]);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    swept(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_row_filter_is_as_good_as_no_publication() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("table \"public.visit_bookings\" is not in publication \"crieur\"");
    scene.run("ALTER PUBLICATION crieur DROP TABLE visit_bookings").await;
    scene.run("ALTER PUBLICATION crieur ADD TABLE visit_bookings WHERE (property_id > 1)").await;
    daemon.wait_for_log("table \"public.visit_bookings\" is not in publication \"crieur\"");
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    go(&scene.cache, &[b"available_slots:1"], &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// As behind a proxy that leads to a promoted replica without closing a connection: the same mark, another history.
#[tokio::test]
async fn a_server_that_became_another_behind_an_open_connection_is_looked_at_anew() {
    for server in Server::ALL {
        let postgres = Postgres::start(Default::default());
        let cache = Redis::start(server, server.with_debug().as_slice());
        drop(postgres.client().await.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await);
        let rules = "[[rules]]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\n";
        let text = config(&postgres.url(), &cache.url());
        let text = format!("{}{rules}", &text[..text.find("\n[[rules]]").expect("the scene has rules")]);
        assert!(daemon::run("setup", &text, &[]).status.success());
        let mut daemon = Daemon::start(&text, &[]);
        daemon.wait_for_log(STARTED);
        let connections = || {
            let list: String = cache.ask(&[&b"CLIENT"[..], b"LIST"]);
            let ours =
                list.lines().filter(|line| line.contains("name=crieur")).filter_map(|line| line.split(' ').next());
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        settled("the mark is written", PATIENCE, async || match cache.ask(&[&b"EXISTS"[..], MARK.as_bytes()]) {
            true => Ok(()),
            false => Err(daemon.log()),
        })
        .await;
        let before = connections();
        let () = cache.ask(&[&b"DEBUG"[..], b"CHANGE-REPL-ID"]);
        settled("it connects anew", PATIENCE, async || {
            let now = connections();
            let anew = !now.is_empty() && now.iter().all(|id| !before.contains(id));
            if anew { Ok(()) } else { Err((before.clone(), now, daemon.log())) }
        })
        .await;
        assert_eq!(daemon.stop(), Some(0));
    }
}
