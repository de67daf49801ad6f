//! The scene of most tests: Dousell Immo's tables and rules, a cache full of keys, and what `crieur setup` makes.
//!
//! Keys are compared as whole sets behind a fence: with `cache.echo = []` the confirmed position passes a commit only
//! when every key up to it was answered. So what is still there then, stays.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::{self, Postgres};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, settled};

/// As in `systemd/dousell.rules.toml`, with a partitioned table besides.
pub const RULES: &str = r#"
[[rules]]
table = "public.properties"
namespace = "properties"
keys = ["all_properties_public", "detail:{id}", "city:{city}"]

[[rules]]
table = "public.rental_payments"
keys = ["payments:lease:{lease_id}", "dashboard:{owner.owner_id}"]
lookup.owner = { sql = "SELECT p.owner_id FROM leases l JOIN properties p ON p.id = l.property_id WHERE l.id = $1", args = ["lease_id"] }

[[rules]]
table = "public.visit_bookings"
keys = ["available_slots:{property_id}"]

[[rules]]
table = "public.visits"
keys = ["visits:{id}"]
"#;

/// And their tables, with some rows.
pub const TABLES: &str = "
CREATE TABLE properties (id int PRIMARY KEY, city text, title text, owner_id int);
ALTER TABLE properties REPLICA IDENTITY FULL;
CREATE TABLE leases (id int PRIMARY KEY, property_id int);
CREATE TABLE rental_payments (id int PRIMARY KEY, lease_id int NOT NULL, amount int);
ALTER TABLE rental_payments REPLICA IDENTITY FULL;
CREATE TABLE visit_bookings (id int PRIMARY KEY, property_id int NOT NULL);
ALTER TABLE visit_bookings REPLICA IDENTITY FULL;
CREATE TABLE visits (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE visits_low PARTITION OF visits FOR VALUES FROM (0) TO (100);
CREATE TABLE visits_high PARTITION OF visits FOR VALUES FROM (100) TO (200);
INSERT INTO properties SELECT id, 'Dakar', 'old', 40 + id FROM generate_series(1, 9) AS id;
INSERT INTO leases SELECT 70 + id, id FROM generate_series(1, 9) AS id;
";

/// What the cache holds before each change.
pub const KEYS: &[&str] = &[
    "available_slots:1",
    "available_slots:2",
    "dashboard:41",
    "dashboard:42",
    "lock:lease:71",
    "lock:properties:detail:1",
    "payments:lease:71",
    "payments:lease:72",
    "properties:all_properties_public",
    "properties:city:Dakar",
    "properties:city:Mbour",
    "properties:city:Thiès",
    "properties:detail:1",
    "properties:detail:10",
    "properties:detail:2",
    "properties:other",
    "session:1",
    "visits:1",
    "visits:150",
];

/// How the daemon reads changes: one expectation for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Replication,
    Outbox,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Replication, Mode::Outbox];

    /// The first word of a daemon that is at work.
    pub fn started(self) -> &'static str {
        match self {
            Mode::Replication => STARTED,
            Mode::Outbox => "id=outbox.started",
        }
    }

    /// The configuration in this mode.
    pub fn config(self, replication: &str) -> String {
        match self {
            Mode::Replication => replication.to_owned(),
            Mode::Outbox => replication.replacen("[postgres]\n", "[postgres]\nmode = \"outbox\"\n", 1),
        }
    }
}

/// Servers with tables, rules, and what `crieur setup` makes.
pub struct Scene {
    pub mode: Mode,
    pub postgres: Postgres,
    pub cache: Redis,
    pub sql: Client,
    /// Of the cache.
    pub database: u8,
}

impl Scene {
    pub async fn start() -> Scene {
        Scene::with(postgres::Options::default(), &[]).await
    }

    /// With further settings of the two servers.
    pub async fn with(options: postgres::Options, redis_conf: &[&str]) -> Scene {
        Scene::of(Mode::Replication, options, redis_conf).await
    }

    /// In outbox mode.
    pub async fn outbox() -> Scene {
        Scene::of(Mode::Outbox, postgres::Options::default(), &[]).await
    }

    pub async fn of(mode: Mode, options: postgres::Options, redis_conf: &[&str]) -> Scene {
        let postgres = Postgres::start(options);
        let cache = Redis::start(&Server::System, redis_conf);
        let sql = postgres.client().await;
        sql.batch_execute(TABLES).await.expect("valid SQL");
        let scene = Scene { mode, postgres, cache, sql, database: 0 };
        let out = daemon::run("setup", &scene.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene
    }

    /// Without echoes, so that the position moves as soon as keys were answered.
    pub fn config(&self) -> String {
        self.mode.config(&config(&self.postgres.url(), &self.cache.url()))
    }

    /// A daemon that streams and has swept once, with all of [`KEYS`] in the cache after that.
    pub async fn daemon(&self) -> Daemon {
        self.daemon_with(&self.config()).await
    }

    pub async fn daemon_with(&self, config: &str) -> Daemon {
        self.daemon_in(config, &[]).await
    }

    /// In an environment of its own.
    pub async fn daemon_in(&self, config: &str, env: &[(&'static str, String)]) -> Daemon {
        let is_first = !self.marked();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut daemon = Daemon::start(config, &env);
        daemon.wait_for_log(self.mode.started());
        // The mark is written behind the sweep of the first start.
        settled("the mark is written", PATIENCE, async || match self.marked() {
            true => Ok(()),
            false => Err(daemon.log()),
        })
        .await;
        if is_first {
            // DDL and rows of the preparations come and delete, too.
            self.confirmed(&daemon).await;
        }
        self.fill();
        daemon
    }

    /// To the keys.
    pub fn keys(&self) -> redis::Connection {
        let mut connection = self.cache.connection();
        let _: () = redis::cmd("SELECT").arg(self.database).query(&mut connection).expect("there are 16");
        connection
    }

    fn marked(&self) -> bool {
        redis::cmd("EXISTS").arg("crieur:mark:crieur").query(&mut self.keys()).expect("it answers")
    }

    pub fn fill(&self) {
        let mut connection = self.keys();
        for key in KEYS {
            let _: () = redis::cmd("SET").arg(key).arg("value").query(&mut connection).expect("it is writable");
        }
    }

    /// Those of [`KEYS`] that are gone, and what came to them.
    pub fn gone(&self) -> BTreeSet<String> {
        let mut connection = self.keys();
        let found: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("it answers");
        KEYS.iter().map(|key| key.to_string()).filter(|key| !found.contains(key)).collect()
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// One text.
    pub async fn ask(&self, sql: &str) -> String {
        let row = self.sql.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Waits until everything that is committed by now is confirmed.
    pub async fn confirmed(&self, daemon: &Daemon) {
        if self.mode == Mode::Outbox {
            return self.removed(daemon).await;
        }
        let now = self.ask("SELECT pg_current_wal_lsn()::text").await;
        let slot = format!(
            "SELECT (confirmed_flush_lsn >= '{now}')::text || ' ' || confirmed_flush_lsn FROM pg_replication_slots \
             WHERE slot_name = 'crieur'"
        );
        settled(&format!("{now} is confirmed"), PATIENCE, async || {
            let seen = self.ask(&slot).await;
            if seen.starts_with("true") { Ok(()) } else { Err((seen, daemon.log())) }
        })
        .await;
    }

    /// The same in outbox mode: every row that is committed by now is gone.
    async fn removed(&self, daemon: &Daemon) {
        let now = self
            .ask("SELECT coalesce(string_agg(format('(%L::xid8, %s)', xid, id), ', '), '(''0''::xid8, 0)') FROM crieur.outbox")
            .await;
        let left = format!("SELECT count(*)::text FROM crieur.outbox WHERE (xid, id) IN ({now})");
        settled("every row is removed", PATIENCE, async || match self.ask(&left).await {
            none if none == "0" => Ok(()),
            some => Err((some, daemon.log())),
        })
        .await;
    }

    /// Makes a change, and says which of [`KEYS`] went.
    pub async fn change(&self, daemon: &Daemon, sql: &str) -> BTreeSet<String> {
        self.fill();
        self.run(sql).await;
        self.confirmed(daemon).await;
        self.gone()
    }
}

/// Waits until everything that the rules own is gone and all other keys are there.
pub async fn swept(scene: &Scene, daemon: &Daemon) {
    let others = ["lock:lease:71", "lock:properties:detail:1", "properties:other", "session:1"];
    let ours = KEYS.iter().map(|key| key.to_string()).filter(|key| !others.contains(&key.as_str())).collect();
    settled("the rules' keys went, all others stay", PATIENCE, async || match scene.gone() {
        gone if gone == ours => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

/// A configuration with the rules of the scene.
pub fn config(postgres: &str, cache: &str) -> String {
    format!("[postgres]\nurl = \"{postgres}\"\n[cache]\nurl = \"{cache}\"\necho = []\n{RULES}")
}

/// Keys by name.
pub fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| key.to_string()).collect()
}
