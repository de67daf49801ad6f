//! A database that is a copy of itself: everything that it says of itself but its number is the original's.

use tokio_postgres::{Client, NoTls};

use super::daemon::{self, Daemon};
use super::harness::postgres::{Options, Postgres};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, settled};
use super::scene::Mode;

const ANOTHER: &str = "id=gap.other_database";
const SWEEPING: &str = "sweeping every key that the rules own";

/// Two servers, and a database "app" with what `crieur setup` makes.
struct Place {
    mode: Mode,
    postgres: Postgres,
    cache: Redis,
    /// In database "postgres".
    sql: Client,
}

impl Place {
    async fn of(mode: Mode) -> Place {
        let postgres = Postgres::start(Options::default());
        let sql = postgres.client().await;
        let place = Place { mode, cache: Redis::start(&Server::System, &[]), postgres, sql };
        place.run("CREATE DATABASE app").await;
        let table = "CREATE TABLE items (id int PRIMARY KEY, city text); INSERT INTO items VALUES (1, 'golden')";
        place.in_app(table).await;
        place.set_up();
        place
    }

    fn config(&self) -> String {
        let (port, cache) = (self.postgres.port(), self.cache.url());
        self.mode.config(&format!(
            "[postgres]\nurl = \"postgres://postgres@127.0.0.1:{port}/app\"\n[cache]\nurl = \"{cache}\"\necho = []\n\
             heartbeat = \"200ms\"\n[[rules]]\ntable = \"public.items\"\nkeys = [\"item:{{id}}\"]\n"
        ))
    }

    fn set_up(&self) {
        let out = daemon::run("setup", &self.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// In a session of its own, which is over behind it: a database that is copied may have none.
    async fn in_app(&self, sql: &str) {
        let url = format!("postgres://postgres@127.0.0.1:{}/app", self.postgres.port());
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the server accepts sessions");
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        let _ = connection.await.expect("it ends by itself");
        settled("the session is over", PATIENCE, async || {
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND application_name = ''";
            match self.sql.query_one(sessions, &[]).await.expect("it answers").get::<_, i64>(0) {
                0 => Ok(()),
                some => Err(some),
            }
        })
        .await;
    }

    fn set(&self) {
        let mut keys = self.cache.connection();
        let _: () = redis::cmd("SET").arg("item:1").arg("v").query(&mut keys).expect("it is writable");
    }

    fn has(&self) -> bool {
        redis::cmd("EXISTS").arg("item:1").query(&mut self.cache.connection()).expect("it answers")
    }

    async fn gone(&self, daemon: &Daemon) {
        settled("the key went", PATIENCE, async || if self.has() { Err(daemon.log()) } else { Ok(()) }).await;
    }

    /// A daemon that has deleted the key of a change.
    async fn worked(&self, sql: &str) -> Daemon {
        let mut daemon = Daemon::start(&self.config(), &[]);
        daemon.wait_for_log(self.mode.started());
        // A sweep of the start goes over it, or it goes with the change.
        self.set();
        self.in_app(sql).await;
        self.gone(&daemon).await;
        self.marked(&daemon).await;
        daemon
    }

    /// The mark that is there is of this daemon's stream.
    async fn marked(&self, daemon: &Daemon) {
        let mark = || -> Option<String> {
            redis::cmd("GET").arg("crieur:mark:crieur").query(&mut self.cache.connection()).expect("it answers")
        };
        let before = mark();
        settled("a mark is written", PATIENCE, async || {
            let now = mark();
            if now.is_some() && now != before { Ok(()) } else { Err((now, daemon.log())) }
        })
        .await;
    }

    /// The next start notices that the database is another one, and the one behind it has nothing to notice.
    async fn swept_once(&self) {
        self.set();
        let mut daemon = Daemon::start(&self.config(), &[]);
        daemon.wait_for_log(ANOTHER);
        self.gone(&daemon).await;
        self.marked(&daemon).await;
        assert_eq!(daemon.log().matches(SWEEPING).count(), 1, "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
        self.set();
        let mut daemon = Daemon::start(&self.config(), &[]);
        daemon.wait_for_log(self.mode.started());
        self.marked(&daemon).await;
        assert!(self.has() && !daemon.log().contains(SWEEPING), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

const CHANGE: &str = "UPDATE items SET city = 'golden' WHERE id = 1";
const LATER: &str = "UPDATE items SET city = 'later' WHERE id = 1";

/// The copy is made from one that was made while no daemon ran: its outbox says less than the mark.
#[tokio::test]
async fn an_outbox_in_a_copy_of_its_database_is_another_one() {
    // The second copy has the number of the original, too: then the positions tell.
    for number in ["", " OID = {oid}"] {
        let place = Place::of(Mode::Outbox).await;
        assert_eq!(place.worked(CHANGE).await.stop(), Some(0));
        place.run("CREATE DATABASE golden TEMPLATE app").await;
        assert_eq!(place.worked(LATER).await.stop(), Some(0));
        let oid = "SELECT oid::text FROM pg_database WHERE datname = 'app'";
        let oid: String = place.sql.query_one(oid, &[]).await.expect("it is there").get(0);
        place.run("DROP DATABASE app").await;
        place.run(&format!("CREATE DATABASE app TEMPLATE golden{}", number.replace("{oid}", &oid))).await;
        place.swept_once().await;
    }
}

/// A copy has no slot: it gets one, and its positions look like those of the original.
#[tokio::test]
async fn a_slot_in_a_copy_of_its_database_is_another_one() {
    let place = Place::of(Mode::Replication).await;
    assert_eq!(place.worked(CHANGE).await.stop(), Some(0));
    place.run("CREATE DATABASE golden TEMPLATE app").await;
    assert_eq!(place.worked(LATER).await.stop(), Some(0));
    place.run("SELECT pg_drop_replication_slot('crieur')").await;
    place.run("ALTER DATABASE app RENAME TO before").await;
    place.run("ALTER DATABASE golden RENAME TO app").await;
    place.set_up();
    place.swept_once().await;
}

/// An older crieur did not name the database: its mark proves nothing, once.
#[tokio::test]
async fn an_upgrade_sweeps_once() {
    for mode in Mode::ALL {
        let place = Place::of(mode).await;
        assert_eq!(place.worked(CHANGE).await.stop(), Some(0));
        let mut keys = place.cache.connection();
        let mark: String = redis::cmd("GET").arg("crieur:mark:crieur").query(&mut keys).expect("it is there");
        let mut mark: crieur::mark::Mark = serde_json::from_str(&mark).expect("a mark");
        let mut parts: Vec<&str> = mark.system.split('/').collect();
        parts.remove(1);
        mark.system = parts.join("/");
        let old = serde_json::to_string(&mark).expect("plain data");
        let _: () = redis::cmd("SET").arg("crieur:mark:crieur").arg(old).query(&mut keys).expect("it is writable");
        place.swept_once().await;
    }
}

/// Each takes the other's mark for a cache that is another one. They say what is wrong, and their sweeps become seldom.
#[tokio::test]
async fn two_databases_that_share_a_cache_and_a_slots_name_say_so_at_a_slow_pace() {
    for mode in Mode::ALL {
        let (one, other) = (Place::of(mode).await, Place::of(mode).await);
        let shared = other.config().replace(&other.cache.url(), &one.cache.url());
        let mut daemons = [Daemon::start(&one.config(), &[]), Daemon::start(&shared, &[])];
        const SLOW: &str = "id=repair.slowed";
        for daemon in &mut daemons {
            daemon.allow(SLOW);
            daemon.allow("id=gap.intruder");
        }
        settled("it is said, and one waits", PATIENCE, async || {
            let logs = daemons.each_ref().map(Daemon::log);
            let way_out = "no other daemon may use this postgres.slot on the same cache";
            if logs.iter().any(|log| log.contains(SLOW) && log.contains(way_out)) { Ok(()) } else { Err(logs) }
        })
        .await;
        for mut daemon in daemons {
            let sweeps = daemon.log().matches(SWEEPING).count();
            assert!(sweeps <= 8, "{mode:?}: {sweeps} sweeps: {}", daemon.log());
            assert_eq!(daemon.stop(), Some(0));
        }
    }
}
