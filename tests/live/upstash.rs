//! Upstash: the stand-in speaks as the real one does, and crieur works with it over REST and over TCP.

use std::collections::BTreeSet;

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::{self, Postgres};
use super::harness::redis::{Redis, Server};
use super::harness::tls::Authority;
use super::harness::upstash::{self, TOKEN, Upstash};
use super::harness::wait::{PATIENCE, settled};

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
    assert!(said.contains("cache") && !out.status.success(), "the system trusts no such authority: {said}");
}
