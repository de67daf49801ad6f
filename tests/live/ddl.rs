//! DDL and what it means, in both modes: the table of docs/explain/ddl.md, line by line. Harmless statements come first in
//! each
//! group, so that what they leave is what the next one is compared with.

use std::collections::BTreeSet;

use crieur::seen;

use super::daemon::{self, Daemon};
use super::harness::postgres::{self, Version};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{KEYS, Mode, Scene, set};

const VERSIONS: [Version; 2] = [Version::System, Version::V18];

/// What tables a statement sweeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sweeps {
    Nothing,
    Properties,
    Bookings,
    Visits,
}
use Sweeps::{Bookings, Nothing, Properties, Visits};

impl Sweeps {
    fn keys(self) -> BTreeSet<String> {
        let prefixes: &[&str] = match self {
            Nothing => &[],
            Properties => &["properties:all_properties_public", "properties:city:", "properties:detail:"],
            Bookings => &["available_slots:"],
            Visits => &["visits:"],
        };
        let owned = |key: &&&str| prefixes.iter().any(|prefix| key.starts_with(prefix));
        KEYS.iter().filter(owned).map(|key| key.to_string()).collect()
    }
}

/// Before the daemon starts: types inside types, a table that nobody watches, a role.
const BEFORE: &str = "
CREATE TYPE kind AS ENUM ('a', 'b');
CREATE TYPE inner_part AS (kinds kind[], n int);
CREATE DOMAIN inner_domain AS inner_part CHECK (true);
CREATE TYPE outer_part AS (parts inner_domain[], note text);
CREATE TABLE unrelated (id int PRIMARY KEY, kind kind);
ALTER TABLE visit_bookings ADD COLUMN part outer_part, ADD COLUMN price numeric(10, 2) CHECK (price > 0);
ALTER TABLE properties ADD COLUMN shout text GENERATED ALWAYS AS (upper(title)) STORED;
CREATE TABLE staging (id int PRIMARY KEY);
CREATE TABLE splits (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE splits_1 PARTITION OF splits FOR VALUES FROM (0) TO (9);
CREATE ROLE reader;
CREATE SCHEMA elsewhere;
";

/// The statement, and what it sweeps.
const JUDGED: &[(&str, Sweeps)] = &[
    // Nothing that readers see.
    ("ALTER TABLE properties ADD CONSTRAINT c CHECK (id > 0) NOT VALID", Nothing),
    ("ALTER TABLE properties VALIDATE CONSTRAINT c", Nothing),
    ("ALTER TABLE properties DROP CONSTRAINT c", Nothing),
    ("ALTER TABLE properties ALTER owner_id SET STATISTICS 200", Nothing),
    ("ALTER TABLE properties ALTER owner_id SET DEFAULT 7", Nothing),
    ("ALTER TABLE properties ALTER owner_id SET NOT NULL", Nothing),
    ("ALTER TABLE properties ALTER owner_id DROP NOT NULL", Nothing),
    ("ALTER TABLE properties ALTER title SET STORAGE EXTERNAL", Nothing),
    ("ALTER TABLE properties SET (fillfactor = 70)", Nothing),
    ("ALTER TABLE properties OWNER TO reader", Nothing),
    ("ALTER TABLE properties OWNER TO postgres", Nothing),
    ("ALTER TABLE properties DISABLE TRIGGER USER", Nothing),
    ("ALTER TABLE properties ENABLE TRIGGER USER", Nothing),
    ("CREATE INDEX ON properties (owner_id)", Nothing),
    ("COMMENT ON TABLE properties IS 'x'", Nothing),
    ("BEGIN; ALTER TABLE properties ADD COLUMN x int; ALTER TABLE properties DROP COLUMN x; COMMIT", Nothing),
    (
        "BEGIN; ALTER TABLE properties RENAME title TO name; ALTER TABLE properties RENAME name TO title; COMMIT",
        Nothing,
    ),
    ("ALTER TABLE visit_bookings ALTER price TYPE numeric(12, 2)", Nothing),
    ("CREATE POLICY p ON properties USING (id > 1)", Nothing),
    ("VACUUM FULL properties", Nothing),
    ("ALTER TABLE visits_low SET (fillfactor = 70)", Nothing),
    ("ALTER TABLE unrelated ADD COLUMN x int DEFAULT 1", Nothing),
    ("DROP TABLE staging", Nothing),
    ("DROP TABLE splits", Nothing),
    ("CREATE TABLE visits_more PARTITION OF visits FOR VALUES FROM (200) TO (300)", Nothing),
    ("DROP TABLE visits_more", Nothing),
    // Types.
    ("ALTER TYPE kind ADD VALUE 'c' BEFORE 'a'", Nothing),
    ("ALTER DOMAIN inner_domain DROP CONSTRAINT inner_domain_check", Nothing),
    ("ALTER DOMAIN inner_domain SET DEFAULT NULL", Nothing),
    ("ALTER TYPE outer_part OWNER TO reader", Nothing),
    ("ALTER TYPE kind RENAME VALUE 'a' TO 'z'", Bookings),
    ("ALTER TYPE inner_part ADD ATTRIBUTE more int", Bookings),
    ("ALTER TYPE inner_part RENAME ATTRIBUTE more TO most", Bookings),
    ("ALTER TYPE inner_part DROP ATTRIBUTE most", Bookings),
    // Columns.
    ("ALTER TABLE properties ALTER shout DROP EXPRESSION", Properties),
    ("ALTER TABLE properties ADD COLUMN price int", Properties),
    ("ALTER TABLE properties ADD COLUMN fee int DEFAULT 5", Properties),
    ("ALTER TABLE properties ADD COLUMN drawn float DEFAULT random()", Properties),
    ("ALTER TABLE properties ALTER fee TYPE int USING fee * 2", Properties),
    ("ALTER TABLE properties ALTER fee TYPE text", Properties),
    ("ALTER TABLE properties ALTER title TYPE text COLLATE \"C\"", Properties),
    ("ALTER TABLE properties RENAME fee TO cost", Properties),
    ("ALTER TABLE properties DROP COLUMN cost", Properties),
    ("ALTER TABLE visits ADD COLUMN note text DEFAULT 'n'", Visits),
    // Names.
    ("ALTER TABLE visit_bookings RENAME TO booked", Bookings),
    ("ALTER TABLE booked RENAME TO visit_bookings", Bookings),
    ("ALTER TABLE visit_bookings SET SCHEMA elsewhere", Bookings),
    ("ALTER TABLE elsewhere.visit_bookings SET SCHEMA public", Bookings),
    // Rows that readers may see.
    ("ALTER TABLE properties ENABLE ROW LEVEL SECURITY", Properties),
    ("ALTER POLICY p ON properties RENAME TO q", Nothing),
    ("CREATE POLICY writers ON properties FOR INSERT WITH CHECK (true)", Nothing),
    ("ALTER POLICY q ON properties USING (id > 2)", Properties),
    ("CREATE POLICY r ON properties FOR SELECT TO reader USING (true)", Properties),
    ("DROP POLICY r ON properties", Properties),
    ("ALTER TABLE properties FORCE ROW LEVEL SECURITY", Properties),
    ("ALTER TABLE properties OWNER TO reader", Properties),
    ("ALTER TABLE properties DISABLE ROW LEVEL SECURITY", Properties),
    // Partitions.
    ("ALTER TABLE visits DETACH PARTITION visits_high", Visits),
    ("ALTER TABLE visits ATTACH PARTITION visits_high FOR VALUES FROM (100) TO (200)", Visits),
    ("ALTER TABLE visits ALTER note SET DEFAULT 'm'", Nothing),
    ("DROP TABLE visits_high", Visits),
    ("ALTER TABLE visits ALTER note SET DEFAULT 'l'", Nothing),
    // As a restore or a replication tool works.
    (
        "SET session_replication_role = replica; ALTER TABLE properties ADD COLUMN late int DEFAULT 1; RESET ALL",
        Properties,
    ),
];

/// Rows of a partition change while it is elsewhere, or has no WAL, and at the commit it looks as before.
const MOVED: &[&str] = &[
    "BEGIN; ALTER TABLE visits DETACH PARTITION visits_high; INSERT INTO visits_high VALUES (160);
     ALTER TABLE visits ATTACH PARTITION visits_high FOR VALUES FROM (100) TO (200); COMMIT",
    "BEGIN; ALTER TABLE visits_high SET UNLOGGED; INSERT INTO visits_high VALUES (170);
     ALTER TABLE visits_high SET LOGGED; COMMIT",
];

/// PostgreSQL 18 only.
const JUDGED_18: &[(&str, Sweeps)] = &[
    ("ALTER TABLE properties ADD COLUMN loud text GENERATED ALWAYS AS (upper(title)) VIRTUAL", Properties),
    ("ALTER TABLE properties ADD COLUMN calm text GENERATED ALWAYS AS (lower(title)) STORED", Properties),
    ("ALTER TABLE properties ALTER calm SET EXPRESSION AS (initcap(title))", Properties),
];

fn judged(version: Version) -> Vec<(&'static str, Sweeps)> {
    let newer: &[(&str, Sweeps)] = if version == Version::V18 { JUDGED_18 } else { &[] };
    JUDGED.iter().chain(newer).copied().collect()
}

/// What a statement sweeps where triggers write an outbox: they are missing on a new partition, and DISABLE silences them.
fn in_outbox(sql: &str, sweeps: Sweeps) -> Sweeps {
    match sql {
        _ if sql.contains("visits_more") => Visits,
        _ if sql.contains("TRIGGER USER") => Properties,
        // The mark would not tell of a label that is renamed later.
        _ if sql.contains("ADD VALUE") => Bookings,
        _ => sweeps,
    }
}

async fn scene(mode: Mode, version: Version) -> Scene {
    let scene = Scene::of(mode, postgres::Options { version, ..Default::default() }, &[]).await;
    scene.run(BEFORE).await;
    let out = daemon::run("setup", &scene.config(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    scene
}

#[tokio::test]
async fn announced_ddl_sweeps_the_table_whose_values_it_changed_and_no_other() {
    for version in VERSIONS {
        let scene = scene(Mode::Replication, version).await;
        let mut daemon = scene.daemon().await;
        // A virtual column that a table with identity FULL got: a look that falls on that moment mends it.
        daemon.allow("id=writes.mended");
        // So is a table between two of its names.
        daemon.allow("id=rules.table_missing");
        // A description of a table that is another one only because of its replica identity is no news.
        let one = set(&["available_slots:1"]);
        assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await, one);
        let identity = "ALTER TABLE visit_bookings REPLICA IDENTITY DEFAULT; DELETE FROM visit_bookings WHERE id = 1;
                        INSERT INTO visit_bookings VALUES (2, 1)";
        let gone = scene.change(&daemon, identity).await;
        assert_eq!(gone, Bookings.keys(), "the old row no longer tells property_id");
        scene.run("ALTER TABLE visit_bookings REPLICA IDENTITY FULL").await;
        let deleted = "DELETE FROM visit_bookings WHERE id = 2";
        assert_eq!(scene.change(&daemon, deleted).await, one, "{}", daemon.log());
        for sql in MOVED {
            assert_eq!(scene.change(&daemon, sql).await, Visits.keys(), "{version:?}: {sql}\n{}", daemon.log());
        }
        for (sql, sweeps) in judged(version) {
            assert_eq!(scene.change(&daemon, sql).await, sweeps.keys(), "{version:?}: {sql}\n{}", daemon.log());
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_look_at_watched_tables_tells_which_of_them_ddl_changed() {
    for version in VERSIONS {
        let scene = scene(Mode::Outbox, version).await;
        scene.run("SET jit = off").await;
        let asked = async |sql: &str, column: usize| {
            let look = format!("BEGIN; {sql}; COMMIT");
            let answers = scene.sql.simple_query(&look).await.expect("valid SQL");
            let row = answers.iter().find_map(|answer| match answer {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            row.and_then(|row| row.get(column)).expect("one row").to_owned()
        };
        let watched = async || seen::spelled(&asked(include_str!("../../sql/outbox/facts.sql"), 1).await);
        // What tells that another look is needed.
        let digest = async || asked(include_str!("../../sql/outbox/digest.sql"), 0).await;
        let (mut before, mut last) = (watched().await, digest().await);
        for (sql, sweeps) in judged(version) {
            scene.run(sql).await;
            let (now, next) = (watched().await, digest().await);
            assert!(now == before || next != last, "{version:?}: {sql}: unnoticed");
            let changed = seen::changed(&before, &now).expect("it tells of tables");
            for (table, its) in [("properties", Properties), ("visit_bookings", Bookings), ("visits", Visits)] {
                let differs = changed.contains(&seen::key("public", table));
                assert_eq!(differs, in_outbox(sql, sweeps) == its, "{version:?}: {sql}: {table}");
            }
            (before, last) = (now, next);
        }
        // Of the outbox itself, and of what could be noted nowhere.
        for sql in [
            "ALTER TABLE crieur.outbox ADD more int",
            "GRANT SELECT ON crieur.collapse TO reader",
            "GRANT USAGE ON SCHEMA crieur TO reader",
            "SELECT setval('crieur.missed', 7)",
        ] {
            scene.run(sql).await;
            let (now, next) = (watched().await, digest().await);
            assert!(now != before && next != last, "{version:?}: {sql}");
            (before, last) = (now, next);
        }
        scene.run("INSERT INTO visits VALUES (7)").await;
        scene.run("VACUUM visits").await;
        assert_eq!(digest().await, last, "rows are no news");
    }
}

/// Waits until the keys of these tables are gone, and no others.
async fn goes(scene: &Scene, daemon: &Daemon, sweeps: &[Sweeps]) {
    let keys: BTreeSet<String> = sweeps.iter().flat_map(|sweeps| sweeps.keys()).collect();
    settled("the keys go", PATIENCE, async || match scene.gone() {
        gone if gone == keys => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

#[tokio::test]
async fn an_altered_table_of_an_outbox_is_swept_whatever_on_gap_says_and_no_other() {
    let harmless = JUDGED.iter().filter(|(sql, sweeps)| in_outbox(sql, *sweeps) == Nothing);
    let harmless: Vec<&str> = harmless.map(|(sql, _)| *sql).filter(|sql| sql.starts_with("ALTER TABLE prop")).collect();
    for on_gap in ["sweep", "warn"] {
        let scene = scene(Mode::Outbox, Version::System).await;
        let config = scene.config().replacen("echo = []", &format!("echo = []\non_gap = \"{on_gap}\""), 1);
        let mut daemon = scene.daemon_with(&config).await;
        daemon.allow("the cache holds no mark");
        for sql in &harmless {
            scene.run(sql).await;
        }
        scene.run("ALTER TABLE visits ADD COLUMN note text DEFAULT 'n'").await;
        goes(&scene, &daemon, &[Visits]).await;
        daemon.wait_for_log("id=gap.other_tables");
        let watched = async || {
            let look = format!("BEGIN; {}; COMMIT", include_str!("../../sql/outbox/facts.sql"));
            let answers = scene.sql.simple_query(&look).await.expect("valid SQL");
            let row = answers.iter().find_map(|answer| match answer {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            seen::spelled(row.and_then(|row| row.get(1)).expect("one row"))
        };
        settled("the mark tells of the sweep", PATIENCE, async || {
            let text: String = redis::cmd("GET").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("a mark");
            let mark: crieur::mark::Mark = serde_json::from_str(&text).expect("plain data");
            if mark.publication == watched().await { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
        assert_eq!(daemon.stop(), Some(0));
        scene.fill();
        scene.run("ALTER TABLE visit_bookings ALTER price TYPE numeric(10, 2) USING price * 2").await;
        let mut daemon = Daemon::start(&config, &[]);
        goes(&scene, &daemon, &[Bookings]).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Of a virtual column a transition table holds NULL, so the triggers cannot tell its keys.
#[tokio::test]
async fn a_watched_column_that_becomes_virtual_is_told_and_swept() {
    for on_gap in ["sweep", "warn"] {
        let scene = scene(Mode::Outbox, Version::V18).await;
        let config = scene.config().replacen("echo = []", &format!("echo = []\non_gap = \"{on_gap}\""), 1);
        let mut daemon = scene.daemon_with(&config).await;
        daemon.allow("the cache holds no mark");
        daemon.allow("triggers do not tell all that the rules read of table \"public.properties\"");
        scene
            .run(
                "ALTER TABLE properties DROP COLUMN city;
                 ALTER TABLE properties ADD COLUMN city text GENERATED ALWAYS AS (title) VIRTUAL",
            )
            .await;
        daemon.wait_for_log("id=table.uncovered");
        goes(&scene, &daemon, &[Properties]).await;
        scene.fill();
        scene.run("UPDATE properties SET title = 'Mbour' WHERE id = 1").await;
        goes(&scene, &daemon, &[Properties]).await;
        let out = daemon::run("check", &config, &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!out.status.success() && said.contains("properties"), "{said}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// As versions before made them: for fewer commands, and silent in sessions that replicate or restore.
#[tokio::test]
async fn event_triggers_of_an_older_version_are_told_and_replaced() {
    let scene = Scene::start().await;
    let state = "SELECT string_agg(concat_ws(' ', evtname, evtevent, evtenabled, evttags), ', ' ORDER BY evtname)
                 FROM pg_event_trigger";
    let ready = scene.ask(state).await;
    scene
        .run(
            "DROP EVENT TRIGGER crieur_rewrite;
             DROP EVENT TRIGGER crieur_ddl;
             CREATE EVENT TRIGGER crieur_ddl ON ddl_command_end WHEN tag IN ('ALTER TABLE', 'ALTER TYPE')
                 EXECUTE FUNCTION crieur.announce_ddl();
             ALTER EVENT TRIGGER crieur_drop ENABLE",
        )
        .await;
    let told = |command| String::from_utf8_lossy(&daemon::run(command, &scene.config(), &[]).stdout).into_owned();
    assert!(told("check").contains("event triggers: of another version"), "{}", told("check"));
    told("setup");
    assert_eq!(scene.ask(state).await, ready);
    assert!(told("check").contains("event triggers: DDL is announced"), "{}", told("check"));
    assert_eq!(told("setup"), "nothing to do\n");
}

/// The trigger runs with the rights of whoever runs DDL, and one who may not read the catalogs breaks it. Ahead of that
/// stands DDL that was announced: the next description of the table is no news.
#[tokio::test]
async fn ddl_whose_trigger_fails_is_taken_for_a_change_of_everything() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("ddl.untold");
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let app = "CREATE ROLE app; ALTER TABLE visit_bookings OWNER TO app; GRANT CREATE ON SCHEMA public TO app";
    scene.run(app).await;
    scene.confirmed(&daemon).await;
    scene.run("REVOKE SELECT ON pg_catalog.pg_policy FROM PUBLIC").await;
    let untold = "SET ROLE app; ALTER TABLE visit_bookings ADD COLUMN b int DEFAULT 5; RESET ROLE;
                  INSERT INTO visit_bookings VALUES (2, 1)";
    let gone = scene.change(&daemon, untold).await;
    assert!(gone.contains("available_slots:2"), "{gone:?} {}", daemon.log());
    assert!(!gone.contains("session:1"), "{gone:?} {}", daemon.log());
    assert!(scene.postgres.log().contains("this ALTER TABLE"), "{}", scene.postgres.log());
    assert_eq!(daemon.stop(), Some(0));
}
