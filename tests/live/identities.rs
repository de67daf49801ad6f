//! The application's writes never fail because of a replica identity: what `setup` refuses, what `check` says of what
//! stands, what the running daemon says and mends.

use tokio_postgres::Client;

use super::daemon::{self, Daemon};
use super::harness::postgres::{self, Postgres, Version};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene;

/// Servers with tables and rules of the test's own.
struct Ground {
    postgres: Postgres,
    cache: Redis,
    sql: Client,
    rules: String,
}

impl Ground {
    async fn with(version: Version, tables: &str, rules: &str) -> Ground {
        let postgres = Postgres::start(postgres::Options { version, ..Default::default() });
        let sql = postgres.client().await;
        sql.batch_execute(tables).await.expect("valid SQL");
        Ground { postgres, cache: Redis::start(&Server::System, &[]), sql, rules: rules.to_owned() }
    }

    fn config(&self) -> String {
        scene::config(&self.postgres.url(), &self.cache.url()).replace(scene::RULES, &self.rules)
    }

    /// Exit code and everything that was said.
    fn crieur(&self, command: &str) -> (Option<i32>, String) {
        said(&daemon::run(command, &self.config(), &[]))
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// What the server refuses the statement for; nothing of it stays.
    async fn refused(&self, sql: &str) -> Option<String> {
        let ran = self.sql.batch_execute(&format!("BEGIN; {sql}")).await;
        self.sql.batch_execute("ROLLBACK").await.expect("a transaction is open");
        ran.err().map(|error| format!("{error:?}"))
    }
}

fn said(out: &std::process::Output) -> (Option<i32>, String) {
    let text = [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    (out.status.code(), text)
}

const RULES: &str = "[[rules]]\ntable = \"items\"\nkeys = [\"item:{id}\", \"city:{city}\"]\n";
const WRITES: &str = "UPDATE items SET title = 'x'; DELETE FROM items";

/// What a publication of somebody else can ask of the identity, and whether the city's old value can be had beside it.
const OTHERS: &[(&str, &str, bool)] = &[
    ("FOR TABLE items (id, title)", "city text", false),
    ("FOR TABLE items (id, city, title)", "city text", false),
    ("FOR TABLE items (id, city, title)", "city varchar(20) NOT NULL", true),
    ("FOR TABLE items (id, title)", "city varchar(20) NOT NULL", false),
    ("FOR TABLE items WHERE (id > 5)", "city text", true),
    ("FOR TABLE items WHERE (id > 5)", "city varchar(20) NOT NULL", true),
    ("FOR TABLES IN SCHEMA public", "city text", true),
    ("FOR ALL TABLES", "city text", true),
    ("FOR TABLE items (id, title) WITH (publish = 'insert, truncate')", "city text", true),
];

#[tokio::test]
async fn setup_leaves_the_application_its_writes_whatever_else_publishes_the_table() {
    for version in Version::ALL {
        let ground = Ground::with(version, "CREATE SCHEMA crieur", RULES).await;
        // The conditions are the same in all versions; the text of each publication is read once on every one of them.
        let others = if version == Version::V17 { &OTHERS[..5] } else { OTHERS };
        for (publication, city, carried) in others {
            ground
                .run(&format!(
                    "DROP PUBLICATION IF EXISTS crieur, warehouse; DROP TABLE IF EXISTS items;
                     CREATE TABLE items (id int PRIMARY KEY, {city}, title text);
                     INSERT INTO items SELECT g, 'c', 't' FROM generate_series(1, 9) AS g;
                     CREATE PUBLICATION warehouse {publication}"
                ))
                .await;
            let (exit, said) = ground.crieur("setup");
            assert_eq!(
                (exit, ground.refused(WRITES).await),
                (Some(0), None),
                "{version:?} {publication} {city}: {said}"
            );
            let (exit, checked) = ground.crieur("check");
            assert_eq!(exit, Some(0), "{version:?} {publication}: {checked}");
            let widens = checked.contains("does not carry the old \"city\"");
            assert_eq!(widens, !carried, "{version:?} {publication} {city}: {checked}");
            assert_eq!(said.contains("column list of publication \"warehouse\""), !carried, "{said}");
        }
    }
}

#[tokio::test]
async fn check_says_what_makes_the_server_refuse_writes_and_its_statement_mends_it() {
    for version in Version::ALL {
        let tables = "CREATE TABLE items (id int PRIMARY KEY, city text, title text);
                      CREATE TABLE logs (city text, title text)";
        let rules = format!("{RULES}[[rules]]\ntable = \"logs\"\nkeys = [\"log:{{city}}\"]\n");
        let ground = Ground::with(version, tables, &rules).await;
        assert_eq!(ground.crieur("setup").0, Some(0));
        let mut migrations = vec![
            ("items", "CREATE PUBLICATION warehouse FOR TABLE items (id, title)"),
            ("logs", "CREATE PUBLICATION archive FOR TABLE logs (title)"),
            ("logs", "ALTER TABLE logs REPLICA IDENTITY DEFAULT"),
            (
                "items",
                "CREATE UNIQUE INDEX i ON items (id); ALTER TABLE items REPLICA IDENTITY USING INDEX i; DROP INDEX i",
            ),
        ];
        if version == Version::V18 {
            migrations.push(("items", "DROP PUBLICATION warehouse; ALTER TABLE items REPLICA IDENTITY FULL; ALTER TABLE items ADD slug text GENERATED ALWAYS AS (title || '!') STORED"));
            migrations.push(("items", "ALTER TABLE items ADD shout text GENERATED ALWAYS AS (upper(title)) VIRTUAL"));
        }
        for (table, migration) in migrations {
            ground.run(migration).await;
            let writes = format!("UPDATE {table} SET title = 'x'; DELETE FROM {table}");
            assert!(ground.refused(&writes).await.is_some(), "{version:?}: {migration}");
            let (exit, text) = ground.crieur("check");
            let wrong = format!("WRONG table public.{table}: the server refuses its updates and deletes");
            assert!(exit == Some(1) && text.contains(&wrong), "{version:?} {migration}: {text}");
            let after = text.split(&wrong).nth(1).expect("it is there");
            let steps = after.lines().skip(1).map_while(|line| line.strip_prefix("      mend: "));
            for step in steps {
                ground.run(step).await;
            }
            assert_eq!(ground.refused(&writes).await, None, "{version:?} {migration}: {text}");
            assert!(!ground.crieur("check").1.contains("refuses"), "{version:?} {migration}");
        }
    }
}

/// A daemon at work, with what `setup` makes.
/// Statements that wait for a relation which somebody reads; `except` are relations that are locked meanwhile.
const WAITING: &str = "SELECT (SELECT count(*) FROM pg_locks WHERE relation = 'logs_2'::regclass AND NOT granted) || ' '
    || (SELECT count(*) FROM pg_locks WHERE relation IN ('logs_1'::regclass, 'logs_3'::regclass) AND mode = 'AccessExclusiveLock')";

const PARTITIONS: &str = "
    CREATE TABLE logs (m int NOT NULL, city text, title text) PARTITION BY LIST (m);
    CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1); CREATE TABLE logs_2 PARTITION OF logs FOR VALUES IN (2);
    CREATE TABLE logs_3 PARTITION OF logs FOR VALUES IN (3)";

#[tokio::test]
async fn setup_holds_no_partition_while_it_waits_for_another() {
    let rules = "[[rules]]\ntable = \"logs\"\nkeys = [\"log:{city}\"]\n";
    let ground = Ground::with(Version::System, PARTITIONS, rules).await;
    let reader = ground.postgres.client().await;
    reader.batch_execute("BEGIN; SELECT FROM logs_2").await.expect("it may read");
    let config = ground.config();
    let setup = tokio::task::spawn_blocking(move || said(&daemon::run("setup", &config, &[])));
    let seen = settled("setup waits", PATIENCE, async || {
        let row = ground.sql.query_one(WAITING, &[]).await.expect("it answers");
        let seen: String = row.get(0);
        if seen.starts_with("1 ") { Ok(seen) } else { Err(seen) }
    });
    assert_eq!(seen.await, "1 0");
    reader.batch_execute("COMMIT").await.expect("it may");
    let (exit, text) = setup.await.expect("it ran");
    assert_eq!(exit, Some(0), "{text}");
}

async fn at_work(ground: &Ground, config: &str) -> Daemon {
    let (exit, said) = ground.crieur("setup");
    assert_eq!(exit, Some(0), "{said}");
    let daemon = Daemon::start(config, &[]);
    let mut keys = ground.cache.connection();
    eventually("the mark is written", PATIENCE, async || {
        redis::cmd("EXISTS").arg("crieur:mark:crieur").query(&mut keys).expect("it answers")
    })
    .await;
    daemon
}

#[tokio::test]
async fn the_running_daemon_gives_the_application_its_writes_back() {
    for version in Version::ALL {
        let tables = "CREATE TABLE items (id int PRIMARY KEY, city varchar(20) NOT NULL, title text);
                      CREATE TABLE logs (m int NOT NULL, city text, title text) PARTITION BY LIST (m);
                      CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
                      INSERT INTO items VALUES (1, 'a', 't'); INSERT INTO logs VALUES (1, 'a', 't')";
        let rules = format!("{RULES}[[rules]]\ntable = \"logs\"\nkeys = [\"log:{{city}}\"]\n");
        let ground = Ground::with(version, tables, &rules).await;
        let mut daemon = at_work(&ground, &ground.config()).await;
        daemon.allow("That is mended: ALTER");
        let mut migrations = vec![
            "CREATE TABLE logs_2 PARTITION OF logs FOR VALUES IN (2); INSERT INTO logs VALUES (2, 'a', 't')",
            "DROP INDEX crieur_identity_items",
            "ALTER TABLE logs_1 REPLICA IDENTITY DEFAULT",
            // FULL since its index went.
            "CREATE PUBLICATION warehouse FOR TABLE items (id, title)",
        ];
        if version == Version::V18 {
            migrations.push("ALTER TABLE logs ADD slug text GENERATED ALWAYS AS (title || '!') STORED");
        }
        let writes = "UPDATE logs SET title = 'x'; UPDATE items SET title = 'x'; DELETE FROM items; DELETE FROM logs";
        for (done, migration) in migrations.into_iter().enumerate() {
            ground.run(migration).await;
            daemon.wait_for_logs("id=writes.mended", done + 1);
            assert_eq!(ground.refused(writes).await, None, "{version:?} {migration}: {}", daemon.log());
        }
        // The old value of a new partition's row is known.
        let mut keys = ground.cache.connection();
        let _: () = redis::cmd("SET").arg("log:b").arg("v").query(&mut keys).expect("it is writable");
        ground.run("INSERT INTO logs VALUES (2, 'b', 't'); UPDATE logs SET city = 'c' WHERE city = 'b'").await;
        eventually("the key went", PATIENCE, async || {
            !redis::cmd("EXISTS").arg("log:b").query::<bool>(&mut keys).expect("it answers")
        })
        .await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_daemon_that_may_not_alter_the_table_says_what_mends_it() {
    let tables =
        "CREATE ROLE reader LOGIN REPLICATION; CREATE TABLE items (id int PRIMARY KEY, city varchar(20) NOT NULL,
                  title text)";
    let ground = Ground::with(Version::System, tables, RULES).await;
    let config = ground.config().replace("postgres://postgres@", "postgres://reader@");
    let mut daemon = at_work(&ground, &config).await;
    daemon.allow("the server refuses updates and deletes of table \"public.items\"");
    ground.run("DROP INDEX crieur_identity_items").await;
    daemon.wait_for_log(
        "ERROR the server refuses updates and deletes of table \"public.items\": it has no replica identity",
    );
    daemon.wait_for_log("ALTER TABLE \\\"public\\\".\\\"items\\\" REPLICA IDENTITY FULL;");
    assert!(!daemon.log().contains("That is mended"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_name_of_the_rules_that_is_not_there_is_said_once() {
    let rules = format!("{RULES}[[rules]]\ntable = \"itms\"\nkeys = [\"i:{{id}}\"]\n").replace("{city}", "{ctiy}");
    let ground = Ground::with(Version::System, "CREATE TABLE items (id int PRIMARY KEY, city text)", &rules).await;
    ground.run("CREATE PUBLICATION crieur FOR TABLE items").await;
    let mut daemon = Daemon::start(&ground.config(), &[]);
    daemon.allow("does not exist: it is created anew");
    daemon.allow("table \"public.itms\", which rules name, does not exist");
    daemon.allow("table \"public.items\" has no column \"ctiy\", which rules read");
    daemon.wait_for_log("table \"public.itms\", which rules name, does not exist: no change comes from it");
    daemon.wait_for_log("table \"public.items\" has no column \"ctiy\", which rules read: keys with it");
    assert_eq!(daemon.stop(), Some(0));
}

/// Nothing is half done: what `setup` cannot finish it does not begin, and its script says so, too.
#[tokio::test]
async fn setup_begins_nothing_that_it_cannot_finish() {
    let tables = "CREATE TABLE items (id int PRIMARY KEY, city text); CREATE ROLE app LOGIN;
                  GRANT ALL ON SCHEMA public TO app; GRANT CREATE ON DATABASE postgres TO app;
                  SET ROLE app; CREATE TABLE theirs (id int PRIMARY KEY, city text); RESET ROLE";
    let conf = vec!["max_replication_slots = 1".to_owned()];
    let postgres = Postgres::start(postgres::Options { conf, ..Default::default() });
    let sql = postgres.client().await;
    sql.batch_execute(tables).await.expect("valid SQL");
    let mut ground = Ground { postgres, cache: Redis::start(&Server::System, &[]), sql, rules: RULES.to_owned() };
    let untouched =
        "SELECT concat_ws(' ', (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots),
        (SELECT string_agg(relreplident::text, '' ORDER BY oid) FROM pg_class WHERE relname IN ('items', 'theirs')),
        to_regnamespace('crieur'))";
    let theirs = RULES.replace("items", "theirs");
    for (rules, role, words) in [
        (RULES.replace("{city}", "{ctiy}"), "postgres", "has no column \"ctiy\""),
        (RULES.replace("items", "itms"), "postgres", "does not exist"),
        (theirs.clone(), "app", "\"app\" may not replicate"),
        (RULES.to_owned(), "app", "belongs to \"postgres\": only that role may publish it"),
    ] {
        ground.rules = rules;
        let config = ground.config().replace("postgres://postgres@", &format!("postgres://{role}@"));
        for args in [&["setup"][..], &["setup", "--print"]] {
            let (exit, text) = said(&daemon::run_with(args, &config));
            assert!(exit == Some(1) && text.contains(words), "{words}: {text}");
        }
        let row = ground.sql.query_one(untouched, &[]).await.expect("it answers");
        assert_eq!(row.get::<_, String>(0), "0 0 dd", "{words}");
    }
    // An owner who may not replicate leaves the slot to crieur.
    ground.rules = theirs;
    let config = ground.config().replace("postgres://postgres@", "postgres://app@");
    let (exit, text) = said(&daemon::run_with(&["setup", "--without-slot"], &config));
    assert!(exit == Some(0) && text.contains("left to crieur"), "{text}");
    // The daemon's role makes it, with setup as here, or at its start.
    ground.run("CREATE ROLE reader LOGIN REPLICATION").await;
    let config = ground.config().replace("postgres://postgres@", "postgres://reader@");
    for command in ["setup", "check"] {
        let (exit, text) = said(&daemon::run(command, &config, &[]));
        assert_eq!(exit, Some(0), "{command}: {text}");
    }
    // The only slot is taken.
    ground.run("SELECT pg_drop_replication_slot('crieur')").await;
    ground.run("SELECT pg_create_physical_replication_slot('other'); DROP PUBLICATION crieur").await;
    let (exit, text) = ground.crieur("setup");
    assert!(exit == Some(1) && text.contains("max_replication_slots: 1 of 1 in use, none is free"), "{text}");
    let row = ground.sql.query_one("SELECT count(*) FROM pg_publication", &[]).await.expect("it answers");
    assert_eq!(row.get::<_, i64>(0), 0, "{text}");
}
