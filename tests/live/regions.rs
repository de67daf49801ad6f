//! A daemon beside a standby: what its readers store, with a replay that is late, goes back, and changes its primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::{Options, Postgres, Shutdown, Version};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{self, TABLES};

/// Those whose standbys decode.
const VERSIONS: [Version; 2] = [Version::V17, Version::V18];

/// What each test changes, and its reader stores.
pub const KEY: &str = "properties:detail:1";

const LATE: &str = "recovery_min_apply_delay = '2s'";

/// A primary, its standby, and a cache whose readers read there.
pub struct Region {
    primary: Postgres,
    standby: Postgres,
    cache: Redis,
    /// Of the primary.
    sql: Client,
}

fn config(postgres: &Postgres, cache: &Redis) -> String {
    let text = scene::config(&postgres.url(), &cache.url()).replace("echo = []", "echo = [\"250ms\"]");
    text.replacen("[postgres]\n", "[postgres]\nstandby = true\n", 1)
}

pub async fn ask(client: &Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// Lets the primary say which transactions are open, as long as something waits for that.
async fn with_word_of<T>(primary: &Client, work: impl Future<Output = T>) -> T {
    let word = async {
        loop {
            primary.batch_execute("SELECT pg_log_standby_snapshot()").await.expect("the primary says it");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = word => unreachable!("it says it for ever"),
    }
}

impl Region {
    async fn start(version: Version, conf: &[&str]) -> Region {
        let mut primary = Postgres::start(Options { version, ..Options::default() });
        let sql = primary.client().await;
        let tables = format!("{TABLES}; SELECT pg_create_physical_replication_slot('standby', true)");
        sql.batch_execute(&tables).await.expect("valid SQL");
        drop(sql);
        let standby = primary.standby(&[&["hot_standby_feedback = on"], conf].concat());
        let cache = Redis::start(&Server::System, &[]);
        let sql = primary.client().await;
        Region { primary, standby, cache, sql }
    }

    /// With both parts of the setup, and a daemon that has swept once.
    pub async fn with_daemon(version: Version, conf: &[&str]) -> (Region, Daemon) {
        let region = Region::start(version, conf).await;
        region.first_part();
        region.second_part().await;
        let daemon = region.daemon(&[]).await;
        (region, daemon)
    }

    fn first_part(&self) -> String {
        let out = daemon::run("setup", &config(&self.primary, &self.cache), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The publication comes with the replay.
    async fn second_part(&self) -> String {
        let text = config(&self.standby, &self.cache);
        let run = || {
            let text = text.clone();
            tokio::task::spawn_blocking(move || daemon::run("setup", &text, &[]))
        };
        with_word_of(
            &self.sql,
            settled("the slot is made", PATIENCE, async || {
                let out = run().await.expect("it does not panic");
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                if out.status.success() { Ok(said) } else { Err(said) }
            }),
        )
        .await
    }

    async fn daemon(&self, env: &[(&str, &str)]) -> Daemon {
        let mut daemon = Daemon::start(&config(&self.standby, &self.cache), env);
        daemon.wait_for_log(STARTED);
        eventually("the mark is there", PATIENCE, async || self.cache.ask(&["EXISTS", "crieur:mark:crieur"])).await;
        daemon
    }

    pub async fn there(&self) -> Client {
        self.standby.client().await
    }

    /// Changes the row of [`KEY`], and waits until all deletes of that are confirmed to the standby, echoes too.
    async fn change(&self, title: &str, daemon: &Daemon) {
        self.write(title).await;
        self.confirmed(daemon).await;
    }

    pub async fn write(&self, title: &str) {
        self.sql
            .batch_execute(&format!("UPDATE properties SET title = '{title}' WHERE id = 1"))
            .await
            .expect("valid SQL");
    }

    async fn confirmed(&self, daemon: &Daemon) {
        let now = ask(&self.sql, "SELECT pg_current_wal_flush_lsn()::text").await;
        let slot = format!(
            "SELECT (confirmed_flush_lsn >= '{now}')::text || ' ' || confirmed_flush_lsn FROM pg_replication_slots \
             WHERE slot_name = 'crieur'"
        );
        let there = self.there().await;
        settled(&format!("{now} is confirmed"), PATIENCE, async || {
            let seen = there.query_opt(&slot, &[]).await.expect("the standby answers");
            let seen: Option<String> = seen.and_then(|row| row.get(0));
            if seen.as_ref().is_some_and(|seen| seen.starts_with("true")) { Ok(()) } else { Err((seen, daemon.log())) }
        })
        .await;
    }

    /// What a reader is served: from the cache, else from this database, and then it is stored.
    pub async fn read(&self, there: &Client) -> String {
        if let Some(stored) = self.cache.ask::<Option<String>>(&["GET", KEY]) {
            return stored;
        }
        let title = ask(there, "SELECT title FROM properties WHERE id = 1").await;
        let () = self.cache.ask(&["SET", KEY, &title]);
        title
    }

    fn stored(&self) -> Option<String> {
        self.cache.ask(&["GET", KEY])
    }

    /// Changes, with a reader that never rests; says which of them it serves at the end although they are old.
    async fn stale_behind_changes(&self, daemon: &Daemon, confirmed: impl AsyncFn()) -> Vec<(String, String)> {
        let there = self.there().await;
        let stop = Arc::new(AtomicBool::new(false));
        let reading = async {
            while !stop.load(Ordering::Relaxed) {
                self.read(&there).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let changing = async {
            let mut stale = Vec::new();
            for round in 0..3 {
                let title = format!("round {round}");
                self.write(&title).await;
                confirmed().await;
                let looker = self.there().await;
                eventually("the standby shows it", PATIENCE, async || {
                    ask(&looker, "SELECT title FROM properties WHERE id = 1").await == title
                })
                .await;
                if let Some(stored) = self.stored().filter(|stored| *stored != title) {
                    stale.push((title, stored));
                }
            }
            stop.store(true, Ordering::Relaxed);
            stale
        };
        let (stale, ()) = tokio::join!(changing, reading);
        assert!(!daemon.log().contains("panic"), "{}", daemon.log());
        stale
    }
}

#[tokio::test]
async fn a_reader_of_a_late_standby_never_keeps_what_the_region_s_daemon_deleted() {
    for version in VERSIONS {
        let region = Region::start(version, &[LATE]).await;
        let said = region.first_part();
        assert!(said.contains("CREATE PUBLICATION") && said.contains("left to the standby"), "{said}");
        assert!(said.contains("run crieur setup with the standby's address"), "{said}");
        assert_eq!(
            ask(&region.sql, "SELECT count(*)::text FROM pg_replication_slots WHERE plugin = 'pgoutput'").await,
            "0"
        );
        let said = region.second_part().await;
        assert!(said.contains("pg_create_logical_replication_slot('crieur', 'pgoutput')"), "{said}");
        assert!(said.contains("pg_log_standby_snapshot()"), "{said}");
        let out = daemon::run("check", &config(&region.standby, &region.cache), &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.contains("changes are read here"), "{said}");
        let mut daemon = region.daemon(&[]).await;
        let stale = region.stale_behind_changes(&daemon, async || region.confirmed(&daemon).await).await;
        assert!(stale.is_empty(), "{version:?}: {stale:?}: {}", daemon.log());
        // A writer that waits for the readers of this region.
        region.write("last").await;
        let lsn = ask(&region.sql, "SELECT pg_current_wal_flush_lsn()::text").await;
        let out = daemon::run_with(&["status", "--wait", &lsn], &config(&region.standby, &region.cache));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let there = region.there().await;
        assert_eq!(region.read(&there).await, "last", "{}", daemon.log());
        let out = daemon::run_with(&["status", "--wait", "now"], &config(&region.standby, &region.cache));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The same reader, without what the test above proves: a daemon of the primary deletes before the standby has replayed.
#[tokio::test]
async fn a_daemon_of_the_primary_leaves_old_values_to_readers_of_a_late_standby() {
    let region = Region::start(Version::V17, &[LATE]).await;
    let text = config(&region.primary, &region.cache).replace("standby = true\n", "");
    assert!(daemon::run("setup", &text, &[]).status.success());
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log(STARTED);
    let confirmed = async || {
        let now = ask(&region.sql, "SELECT pg_current_wal_flush_lsn()::text").await;
        let slot = format!(
            "SELECT (confirmed_flush_lsn >= '{now}')::text FROM pg_replication_slots WHERE slot_name = 'crieur'"
        );
        eventually("it is confirmed", PATIENCE, async || ask(&region.sql, &slot).await == "true").await;
    };
    let stale = region.stale_behind_changes(&daemon, confirmed).await;
    assert!(!stale.is_empty(), "the reader stores what the standby still shows: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_standby_is_refused_without_the_option_which_is_named() {
    let region = Region::start(Version::V17, &[]).await;
    region.first_part();
    let text = config(&region.standby, &region.cache).replace("standby = true\n", "");
    let mut daemon = Daemon::start(&text, &[]);
    daemon.allow("id=stream.interrupted");
    daemon.allow("id=session.failing");
    daemon.wait_for_log("the server is in recovery");
    daemon.wait_for_log("standby = true");
    assert_eq!(daemon.stop(), Some(0));
    let out = daemon::run("check", &text, &[]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!out.status.success() && said.contains("this is a standby") && said.contains("standby = true"), "{said}");
    let out = daemon::run(
        "check",
        &config(&region.standby, &region.cache).replacen("[postgres]\n", "[postgres]\nmode = \"outbox\"\n", 1),
        &[],
    );
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(78) && said.contains("an outbox is emptied by writes"), "{said}");
}

#[tokio::test]
async fn an_older_standby_is_refused_with_its_version() {
    let region = Region::start(Version::System, &[]).await;
    let version = ask(&region.sql, "SELECT current_setting('server_version_num')").await;
    if version.as_str() >= "160000" {
        return; // The system's own is new enough: the other tests run on such.
    }
    region.first_part();
    let mut daemon = Daemon::start(&config(&region.standby, &region.cache), &[]);
    daemon.allow("only 16 and later decode on a standby");
    assert_eq!(daemon.exit(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("only 16 and later decode on a standby"), "{}", daemon.log());
}

/// Behind a crash a standby is open for readers ahead of what it had replayed: here for as long as the test likes.
async fn stored_behind_a_crash(env: &[(&str, &str)]) -> (Option<String>, String) {
    let (mut region, mut daemon) = Region::with_daemon(Version::V17, &[]).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");
    daemon.allow("id=session.failing");
    daemon.kill();
    let text = config(&region.standby, &region.cache).replace("echo = [\"250ms\"]", "echo = []");
    let mut daemon = Daemon::start(&text, env);
    daemon.wait_for_log(STARTED);
    ["id=stream.interrupted", "failed to", "id=session.failing", "id=standby.behind"]
        .into_iter()
        .for_each(|id| daemon.allow(id));
    // What was replayed until here is on disk, and nothing behind it is.
    region.change("before", &daemon).await;
    region.sql.batch_execute("CHECKPOINT").await.expect("a superuser may");
    region.confirmed(&daemon).await;
    region.there().await.batch_execute("CHECKPOINT").await.expect("a restartpoint");
    region.change("after", &daemon).await;
    // The slot's position goes to disk when the server says which transactions run.
    let there = region.there().await;
    let lsn = ask(&region.sql, "SELECT pg_current_wal_flush_lsn()::text").await;
    with_word_of(
        &region.sql,
        settled("the slot is on disk", PATIENCE, async || {
            region.sql.batch_execute("UPDATE leases SET property_id = property_id").await.expect("valid SQL");
            region.confirmed(&daemon).await;
            let restart = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'crieur'";
            let is_past =
                format!("SELECT (restart_lsn > '{lsn}')::text FROM pg_replication_slots WHERE slot_name = 'crieur'");
            if ask(&there, &is_past).await == "true" { Ok(()) } else { Err(ask(&there, restart).await) }
        }),
    )
    .await;
    drop(there);
    region.standby.stop(Shutdown::Immediate);
    region.standby.configure("recovery_min_apply_delay = '1h'");
    region.standby.start_again();
    let there = region.there().await;
    assert_eq!(
        ask(&there, "SELECT title FROM properties WHERE id = 1").await,
        "before",
        "it went back: {}",
        region.standby.log()
    );
    if env.is_empty() {
        // It says what it waits for only after a minute; until then it makes no mark and sweeps nothing.
        assert_eq!(daemon.log().matches(STARTED).count(), 1, "{}", daemon.log());
    } else {
        daemon.wait_for_logs(STARTED, 2);
        daemon.wait_for_log("id=sweep.ended");
    }
    let read = region.read(&there).await;
    assert_eq!(read, "before", "a reader stores what it sees");
    region.standby.configure("recovery_min_apply_delay = '0'");
    there.batch_execute("SELECT pg_reload_conf()").await.expect("a superuser may");
    eventually("it is replayed again", PATIENCE, async || {
        ask(&there, "SELECT title FROM properties WHERE id = 1").await == "after"
    })
    .await;
    daemon.wait_for_logs(STARTED, 2);
    daemon.wait_for_log("id=sweep.ended");
    region.sql.batch_execute("UPDATE leases SET property_id = property_id").await.expect("valid SQL");
    region.confirmed(&daemon).await;
    let stored = region.stored();
    let log = daemon.log();
    assert_eq!(daemon.stop(), Some(0));
    (stored, log)
}

#[tokio::test]
async fn what_is_stored_while_a_standby_replays_again_is_swept() {
    let (stored, log) = stored_behind_a_crash(&[]).await;
    assert!(stored.is_none_or(|stored| stored == "after"), "{log}");
}

#[tokio::test]
async fn without_the_wait_for_the_replay_an_old_value_stays() {
    let (stored, log) = stored_behind_a_crash(&[("CRIEUR_WITHOUT", "replay")]).await;
    assert_eq!(stored.as_deref(), Some("before"), "the guard is what keeps it right: {log}");
}

#[tokio::test]
async fn a_slot_that_is_lost_to_a_conflict_is_made_anew_and_all_is_swept() {
    for version in VERSIONS {
        let (region, mut daemon) = Region::with_daemon(version, &[]).await;
        ["id=stream.interrupted", "id=slot.anew", "id=slot.waits", "failed to", "id=session.failing"]
            .into_iter()
            .for_each(|id| daemon.allow(id));
        region.change("one", &daemon).await;
        region.standby.configure("hot_standby_feedback = off");
        let there = region.there().await;
        there.batch_execute("SELECT pg_reload_conf()").await.expect("a superuser may");
        let () = region.cache.ask(&["SET", KEY, "old"]);
        with_word_of(
            &region.sql,
            settled("rows that the slot needs are removed", PATIENCE, async || {
                let catalog = "CREATE TABLE gone (id int); DROP TABLE gone";
                region.sql.batch_execute(catalog).await.expect("valid SQL");
                region.sql.batch_execute("VACUUM pg_class").await.expect("a superuser may");
                let log = daemon.log();
                if log.contains("id=slot.anew") && log.matches(STARTED).count() == 2 { Ok(()) } else { Err(log) }
            }),
        )
        .await;
        // A sweep for DDL may come first.
        daemon.wait_for_logs("cause=\"the cache may have missed changes\" scanned=", 2);
        assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
        let () = region.cache.ask(&["SET", KEY, "one"]);
        region.change("two", &daemon).await;
        assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_primary_that_writes_too_little_wal_is_named_and_all_is_swept_when_it_writes_enough() {
    let (mut region, mut daemon) = Region::with_daemon(Version::V18, &[]).await;
    ["id=stream.interrupted", "id=slot.anew", "id=slot.waits", "failed to", "id=session.failing"]
        .into_iter()
        .for_each(|id| daemon.allow(id));
    region.change("one", &daemon).await;
    let () = region.cache.ask(&["SET", KEY, "old"]);
    for (level, word) in
        [("replica", "Set wal_level = logical on the standby and on its primary"), ("logical", STARTED)]
    {
        region.primary.stop(Shutdown::Fast);
        region.primary.configure(&format!("wal_level = {level}"));
        region.primary.start_again();
        region.sql = region.primary.client().await;
        region.write(level).await;
        let times = if word == STARTED { 2 } else { 1 };
        with_word_of(
            &region.sql,
            settled(word, PATIENCE, async || {
                let log = daemon.log();
                if log.matches(word).count() >= times { Ok(()) } else { Err(log) }
            }),
        )
        .await;
    }
    daemon.wait_for_logs("id=sweep.ended", 2);
    region.confirmed(&daemon).await;
    assert_eq!(region.stored(), None, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_standby_that_is_promoted_goes_on_as_a_primary() {
    for version in VERSIONS {
        let (mut region, mut daemon) = Region::with_daemon(version, &[]).await;
        ["id=standby.is_primary", "id=stream.interrupted", "failed to", "id=session.failing"]
            .into_iter()
            .for_each(|id| daemon.allow(id));
        region.change("one", &daemon).await;
        let there = region.there().await;
        let () = region.cache.ask(&["SET", KEY, "old"]);
        region.primary.stop(Shutdown::Immediate);
        there.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
        region.sql = there;
        daemon.wait_for_log("id=standby.promoted");
        daemon.wait_for_log("id=standby.is_primary");
        daemon.wait_for_log("id=gap.other_server");
        daemon.wait_for_logs("id=sweep.ended", 2);
        region.confirmed(&daemon).await;
        assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
        for title in ["two", "three"] {
            let () = region.cache.ask(&["SET", KEY, "old"]);
            region.change(title, &daemon).await;
            assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// A standby of a standby: its upstream becomes the primary, on another timeline, and the stream goes on over that.
#[tokio::test]
async fn a_standby_of_a_standby_follows_the_new_primary() {
    for version in VERSIONS {
        let mut above = Region::start(version, &[]).await;
        above.first_part();
        let publication = "SELECT count(*)::text FROM pg_publication";
        let middle = above.there().await;
        eventually("the publication is replayed", PATIENCE, async || ask(&middle, publication).await == "1").await;
        let slot = "SELECT pg_create_physical_replication_slot('standby', true)";
        middle.batch_execute(slot).await.expect("a standby has slots of its own");
        drop(middle);
        let below = above.standby.standby(&[]);
        let mut region = Region {
            primary: above.standby,
            standby: below,
            cache: Redis::start(&Server::System, &[]),
            sql: above.sql,
        };
        region.second_part().await;
        let mut daemon = region.daemon(&[]).await;
        ["id=stream.interrupted", "failed to", "id=session.failing"].into_iter().for_each(|id| daemon.allow(id));
        region.change("one", &daemon).await;
        let () = region.cache.ask(&["SET", KEY, "old"]);
        above.primary.stop(Shutdown::Immediate);
        region.sql = region.primary.client().await;
        region.sql.batch_execute("SELECT pg_promote()").await.expect("it is a standby");
        for title in ["two", "three"] {
            region.change(title, &daemon).await;
            assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
            let () = region.cache.ask(&["SET", KEY, title]);
        }
        assert_eq!(daemon.stop(), Some(0));
        // And at the next start, whose mark is of the timeline before.
        let () = region.cache.ask(&["SET", KEY, "old"]);
        let mut daemon = region.daemon(&[]).await;
        region.change("four", &daemon).await;
        assert_eq!(region.stored(), None, "{version:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_publication_that_is_changed_on_the_primary_is_seen_beside_the_standby() {
    let (region, mut daemon) = Region::with_daemon(Version::V18, &[]).await;
    ["id=table.unpublished", "id=publication.missing"].into_iter().for_each(|id| daemon.allow(id));
    region.change("one", &daemon).await;
    // DDL that changes values is announced in the stream, from the primary's event triggers.
    let () = region.cache.ask(&["SET", KEY, "old"]);
    region
        .sql
        .batch_execute("ALTER TABLE properties ADD COLUMN floor int NOT NULL DEFAULT 3")
        .await
        .expect("valid SQL");
    region.confirmed(&daemon).await;
    assert_eq!(region.stored(), None, "{}", daemon.log());
    let () = region.cache.ask(&["SET", KEY, "old"]);
    region.sql.batch_execute("ALTER PUBLICATION crieur DROP TABLE properties").await.expect("valid SQL");
    daemon.wait_for_log("id=table.unpublished");
    region.write("unpublished").await;
    eventually("sweeps take the place of changes", PATIENCE, async || region.stored().is_none()).await;
    daemon.wait_for_logs(STARTED, 2);
    region.sql.batch_execute("ALTER PUBLICATION crieur ADD TABLE properties").await.expect("valid SQL");
    daemon.wait_for_logs("id=publication.changed", 2);
    daemon.wait_for_logs(STARTED, 3);
    region.confirmed(&daemon).await;
    let () = region.cache.ask(&["SET", KEY, "old"]);
    region.change("published", &daemon).await;
    assert_eq!(region.stored(), None, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
    let out = daemon::run_with(&["teardown", "--yes"], &config(&region.standby, &region.cache));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.contains("stays there: this is a standby"), "{said}");
    let there = region.there().await;
    assert_eq!(ask(&there, "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'crieur'").await, "0");
    let out = daemon::run_with(&["teardown", "--yes"], &config(&region.primary, &region.cache));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(ask(&region.sql, "SELECT count(*)::text FROM pg_publication").await, "0");
}
