//! What `check` says of lookups: whether the daemon's form of the SQL is taken, and whether `tables` names all it reads.

use super::daemon;
use super::harness::postgres::{Options, Version};
use super::scene::{Mode, RULES, Scene};

const TABLES: &str = "
CREATE SCHEMA app;
CREATE TABLE app.visit (id int, day date, owner_id int) PARTITION BY RANGE (id);
CREATE TABLE app.visit_low PARTITION OF app.visit FOR VALUES FROM (0) TO (100) PARTITION BY LIST (id);
CREATE TABLE app.visit_one PARTITION OF app.visit_low FOR VALUES IN (1);
CREATE TABLE app.visit_high PARTITION OF app.visit FOR VALUES FROM (100) TO (200);
CREATE VIEW app.owner AS SELECT l.id, p.owner_id FROM leases l JOIN properties p ON p.id = l.property_id;
";

/// The line on the only lookup, as `check` says it, and what mends it.
fn said(scene: &Scene, sql: &str, args: &str, tables: Option<&str>) -> String {
    let tables = tables.map_or(String::new(), |tables| format!(", tables = [{tables}]"));
    let rules = format!(
        "[[rules]]\ntable = \"visit_bookings\"\nkeys = [\"k:{{o.owner_id}}\"]\n\
         lookup.o = {{ sql = \"{sql}\", args = [{args}]{tables} }}\n"
    );
    let out = daemon::run("check", &scene.config().replace(RULES, &rules), &[]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines = text.lines().skip_while(|line| !line.contains(" lookup o ("));
    let line = lines.next().unwrap_or_else(|| panic!("nothing on the lookup: {text}\n{out:?}"));
    let mend = lines.next().filter(|line| line.trim_start().starts_with("mend: ")).unwrap_or_default();
    let (_, seen) = line.split_once("): ").expect("a place stands before what was seen");
    format!("{} {seen}|{}", &line[..5], mend.trim_start())
}

const COMPLETE: &str = "ok    runs, and returns every column that the rules read|";

/// What is said when a table is not named.
fn unnamed(table: &str) -> String {
    format!(
        "WRONG its SQL reads table \"{table}\", which its tables do not name: a change there leaves old answers\
         |mend: add \"{table}\" to its tables"
    )
}

#[tokio::test]
async fn every_table_that_a_lookup_reads_must_be_named() {
    for version in [Version::System, Version::V18] {
        let scene = Scene::with(Options { version, ..Options::default() }, &[]).await;
        scene.run(TABLES).await;
        let join = "SELECT p.owner_id FROM leases l JOIN properties p ON p.id = l.property_id WHERE l.id = $1";
        let both = "'leases', 'public.properties'";
        let cte = "WITH o AS MATERIALIZED (SELECT * FROM properties) SELECT owner_id FROM o WHERE id = $1";
        let within = "SELECT owner_id FROM properties p WHERE id = (SELECT property_id FROM leases WHERE id = $1)";
        let exists = "SELECT p.owner_id FROM properties p WHERE p.id = $1 AND NOT EXISTS (SELECT FROM leases l WHERE l.property_id = p.id)";
        let union = "SELECT owner_id FROM properties WHERE id = $1 UNION ALL SELECT id FROM leases WHERE id = $1";
        let (view, visit) =
            ("SELECT owner_id FROM app.owner WHERE id = $1", "SELECT owner_id FROM app.visit WHERE id = $1");
        let id = "'property_id'";
        for (sql, args, tables, missing) in [
            (join, id, both, None),
            (join, id, "'leases'", Some("public.properties")),
            (join, id, "'properties'", Some("public.leases")),
            (join, id, "'leases', 'app.properties'", Some("public.properties")),
            (view, id, both, None),
            (view, id, "'app.owner', 'leases'", Some("public.properties")),
            (visit, id, "'app.visit'", None),
            (visit, id, "'properties'", Some("app.visit")),
            (visit, id, "'app.visit_low', 'app.visit_one', 'app.visit_high'", Some("app.visit")),
            ("SELECT owner_id FROM app.visit_one WHERE id = $1", id, "'app.visit'", None),
            (cte, id, "'properties'", None),
            (cte, id, "'leases'", Some("public.properties")),
            (within, id, both, None),
            (within, id, "'properties'", Some("public.leases")),
            (exists, id, both, None),
            (exists, id, "'properties'", Some("public.leases")),
            (union, id, both, None),
            (union, id, "'properties'", Some("public.leases")),
            ("SELECT owner_id FROM properties", "", "'properties'", None),
            ("SELECT owner_id FROM properties", "", "'leases'", Some("public.properties")),
            ("SELECT $1::int AS owner_id", id, "'leases'", None),
        ] {
            let expected = missing.map_or(COMPLETE.to_owned(), unnamed);
            assert_eq!(said(&scene, sql, args, Some(tables)), expected, "{version:?}: {sql} {tables}");
        }
        // Without `tables` nothing is kept, so nothing need be named.
        assert_eq!(said(&scene, join, id, None), COMPLETE);
    }
}

#[tokio::test]
async fn a_lookup_is_tried_as_the_daemon_asks_it() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let asked = "WRONG the server refuses it as crieur asks it, SELECT … FROM (its SQL) AS q: ";
        let mend = "|mend: give each column that the rules read a name of its own, and write nothing behind the end of its SQL";
        for (sql, seen, mend) in [
            ("SELECT owner_id FROM properties WHERE id = $1 -- why", COMPLETE, ""),
            ("SELECT owner_id FROM properties WHERE id = $1 ; ", COMPLETE, ""),
            (
                "SELECT owner_id FROM properties WHERE id = $1; -- why",
                &format!("{asked}syntax error at or near \";\" (42601)"),
                mend,
            ),
            (
                "SELECT p.owner_id, q.owner_id FROM properties p JOIN properties q ON q.id = p.id WHERE p.id = $1",
                &format!("{asked}column reference \"owner_id\" is ambiguous (42702)"),
                mend,
            ),
            // Two of a name that nobody reads do no harm.
            (
                "SELECT p.owner_id, p.id, q.id FROM properties p JOIN properties q USING (city) WHERE p.id = $1",
                COMPLETE,
                "",
            ),
            (
                "SELECT owner_id FROM nowhere WHERE id = $1",
                "WRONG the server refuses its SQL: relation \"nowhere\" does not exist (42P01)",
                "|mend: correct its SQL in the rules file",
            ),
        ] {
            let sql = sql.replace('"', "\\\"");
            assert_eq!(said(&scene, &sql, "'property_id'", None), format!("{seen}{mend}"), "{mode:?}: {sql}");
        }
    }
}
