//! No statement of the application fails, or waits for long, because of the triggers: whatever became of the outbox, of
//! the tables or of the session that writes. And what then cannot be said in full is said as a sweep.

use futures_util::StreamExt;
use tokio_postgres::{AsyncMessage, NoTls};

use super::harness::postgres::Version;
use super::harness::wait::PATIENCE;
use super::outbox_sql::{INSTALL, Outbox, ask, refused, run, session};

/// What the application does. It would fail if a trigger did.
const WRITES: &str = "
    INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'), (3, 'c'); UPDATE t SET city = 'd' WHERE id = 1;
    UPDATE t SET city = 'e'; DELETE FROM t WHERE id = 1; DELETE FROM t; TRUNCATE t";

/// Where a change of `t` was noted: rows of the outbox, of the collapsed tables, and whether all is to be swept.
async fn noted(outbox: &Outbox) -> String {
    let rows = "SELECT (SELECT count(*) FROM crieur.outbox) || ' ' || (SELECT count(*) FROM crieur.collapse) || ' '
                    || (SELECT is_called FROM crieur.missed)";
    let noted = ask(&outbox.admin, rows).await;
    run(
        &outbox.admin,
        "DELETE FROM crieur.outbox; DELETE FROM crieur.collapse; SELECT setval('crieur.missed', 1, false)",
    )
    .await;
    noted
}

/// What is done to the outbox, how it is undone, and where the changes are noted meanwhile.
const SPOILED: &[(&str, &str, &str)] = &[
    ("SELECT 1", "SELECT 1", "7 0 false"),
    ("ALTER TABLE crieur.outbox RENAME TO gone", "ALTER TABLE crieur.gone RENAME TO outbox", "0 1 false"),
    ("REVOKE ALL ON crieur.outbox FROM app", "GRANT ALL ON crieur.outbox TO app", "0 1 false"),
    (
        "REVOKE ALL ON crieur.outbox, crieur.collapse FROM app",
        "GRANT ALL ON crieur.outbox, crieur.collapse TO app",
        "0 0 true",
    ),
    ("DROP SEQUENCE crieur.overflowing", "CREATE SEQUENCE crieur.overflowing OWNED BY NONE", "0 1 false"),
    // Nobody can note anything: a warning is all.
    ("REVOKE USAGE ON SCHEMA crieur FROM app", "GRANT USAGE ON SCHEMA crieur TO app", "0 0 false"),
];

/// The same where only the daemon's look finds out.
const REFUSED: &[(&str, &str)] = &[
    ("REVOKE INSERT ON crieur.outbox FROM app", "GRANT INSERT ON crieur.outbox TO app"),
    ("ALTER TABLE crieur.outbox RENAME old TO older", "ALTER TABLE crieur.outbox RENAME older TO old"),
    ("ALTER TABLE crieur.outbox ADD more int NOT NULL", "ALTER TABLE crieur.outbox DROP more"),
    (
        "ALTER TABLE crieur.outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "ALTER TABLE crieur.outbox DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
    ),
];

#[tokio::test]
async fn no_writer_fails_whatever_became_of_the_outbox() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
        // A session that wrote before, and a new one.
        run(app, WRITES).await;
        noted(&outbox).await;
        for (spoil, mend, expected) in SPOILED {
            run(&outbox.admin, spoil).await;
            for writer in [app, &session(&outbox.server, "app").await] {
                run(writer, WRITES).await;
            }
            run(&outbox.admin, mend).await;
            if mend.contains("SEQUENCE") {
                run(&outbox.admin, "ALTER SEQUENCE crieur.overflowing OWNER TO app").await;
            }
            let expected = expected.replace('7', "14");
            assert_eq!(noted(&outbox).await, expected, "{spoil}");
        }
        for (spoil, mend) in REFUSED {
            run(&outbox.admin, spoil).await;
            assert_ne!(ask(app, "SELECT crieur.refuses()").await, "", "{spoil}");
            run(app, WRITES).await;
            run(&outbox.admin, mend).await;
            assert_eq!(ask(app, "SELECT crieur.refuses()").await, "", "{mend}");
            assert_eq!(noted(&outbox).await, "0 1 false", "{spoil}");
            run(app, WRITES).await;
            assert_eq!(noted(&outbox).await, "7 0 false", "{mend}");
        }
        let kept = "SELECT count(*)::text FROM crieur.outbox";
        assert_eq!(ask(app, kept).await, "0", "the look itself leaves nothing");
    }
}

#[tokio::test]
async fn no_writer_waits_for_long_for_whoever_holds_the_outbox() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
        for (lock, expected) in [
            ("LOCK TABLE crieur.outbox", "0 1 false"),
            ("LOCK TABLE crieur.outbox IN SHARE MODE", "0 1 false"),
            ("LOCK TABLE crieur.outbox, crieur.collapse", "0 0 true"),
        ] {
            run(&outbox.admin, &format!("BEGIN; {lock}")).await;
            let writer = session(&outbox.server, "app").await;
            // Its own limit is not that of the trigger, which would end a statement that waits for nothing of its own.
            run(&writer, "SET lock_timeout = '1ms'; SET statement_timeout = '20s'").await;
            run(&writer, WRITES).await;
            assert_eq!(ask(&writer, "SHOW lock_timeout").await, "1ms");
            run(&outbox.admin, "ROLLBACK").await;
            assert_eq!(noted(&outbox).await, expected, "{lock}");
        }
    }
}

#[tokio::test]
async fn a_statement_on_many_rows_waits_for_a_held_outbox_no_more_than_once() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        // Rows are told one by one: a statement may name the table above.
        let tables = "CREATE TABLE above (id int, city text); CREATE TABLE t () INHERITS (above);
            SELECT crieur.watch('t'); INSERT INTO t SELECT i, 'a' FROM generate_series(1, 200) AS i";
        run(&outbox.app, tables).await;
        noted(&outbox).await;
        let writer = session(&outbox.server, "app").await;
        // Each row would wait for 200 ms.
        run(&writer, "SET statement_timeout = '10s'").await;
        for told in ["SELECT 1", "SELECT crieur.refuses()"] {
            run(&outbox.admin, "BEGIN; LOCK TABLE crieur.outbox").await;
            run(&writer, told).await;
            run(&writer, "UPDATE above SET city = city || 'b'").await;
            run(&outbox.admin, "ROLLBACK").await;
            assert_eq!(noted(&outbox).await, "0 1 false", "{told}");
            assert_eq!(ask(&outbox.app, "SELECT crieur.refuses()").await, "");
            run(&writer, "UPDATE above SET city = city || 'b'").await;
            assert_eq!(noted(&outbox).await, "200 0 false", "{told}");
        }
    }
}

/// What the application does, and what it and whoever listens hear of a change that is not in the outbox.
const HEARD: &[(&str, &str)] = &[
    ("INSERT INTO t VALUES (1, 'a')", "woken"),
    ("UPDATE above SET city = 'b'", "woken"),
    ("ALTER TABLE crieur.outbox RENAME TO gone; INSERT INTO t VALUES (2, 'a')", "woken"),
    ("DELETE FROM above WHERE id = 2", "woken"),
    (
        "REVOKE ALL ON SCHEMA crieur FROM app; INSERT INTO t VALUES (3, 'a')",
        "crieur cannot note that public.t changed (42501): cached values of it may be stale",
    ),
    (
        "DELETE FROM above WHERE id = 3",
        "crieur cannot note that public.t changed (42501): cached values of it may be stale",
    ),
];

#[tokio::test]
async fn a_change_that_the_outbox_does_not_take_wakes_the_daemon_and_one_that_is_lost_warns_its_writer() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let url = format!("postgres://app@127.0.0.1:{}/app", outbox.server.port());
        let (writer, mut connection) = tokio_postgres::connect(&url, NoTls).await.expect("it is up");
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(|context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                let _ = match message {
                    AsyncMessage::Notification(_) => sender.send("woken".to_owned()),
                    AsyncMessage::Notice(said) => sender.send(said.message().to_owned()),
                    _ => Ok(()),
                };
            }
        });
        let tables = "CREATE TABLE above (id int, city text); CREATE TABLE t () INHERITS (above);
            SELECT crieur.watch('t'), crieur.notify(true), crieur.limits(bytes_max => 1); LISTEN crieur";
        run(&writer, tables).await;
        for (sql, expected) in HEARD {
            run(&writer, sql).await;
            let said = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap_or_else(|_| panic!("{sql}: nothing"));
            assert_eq!(said.as_deref(), Some(*expected), "{sql}");
        }
    }
}

#[tokio::test]
async fn no_setting_of_a_writer_makes_a_trigger_fail() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
        for setting in [
            "SET plpgsql.extra_errors = 'all'",
            "SET plpgsql.variable_conflict = 'error'",
            "SET row_security = off",
            "SET default_transaction_isolation = 'serializable'",
            "SET search_path = pg_temp, public",
            "SET check_function_bodies = off; SET quote_all_identifiers = on; SET standard_conforming_strings = off",
            "SET default_tablespace = pg_global; SET enable_seqscan = off; SET jit = off; SET work_mem = '64kB'",
            "SET client_min_messages = error; SET transform_null_equals = on; SET array_nulls = off",
        ] {
            let writer = session(&outbox.server, "app").await;
            run(&writer, setting).await;
            run(&writer, WRITES).await;
            assert_eq!(noted(&outbox).await, "7 0 false", "{setting}");
        }
    }
}

#[tokio::test]
async fn serializable_writers_of_a_full_outbox_do_not_fail_each_other() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
        run(app, "SELECT crieur.watch('t'), crieur.watch('u'), crieur.limits(bytes_max => 1)").await;
        let writers = [session(&outbox.server, "app").await, session(&outbox.server, "app").await];
        for (writer, table) in writers.iter().zip(["t", "u"]) {
            run(writer, &format!("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO {table} VALUES (1)")).await;
        }
        for (writer, table) in writers.iter().zip(["t", "u"]) {
            run(writer, &format!("INSERT INTO {table} VALUES (2)")).await;
        }
        for writer in &writers {
            run(writer, "COMMIT").await;
        }
        let tables = "SELECT count(DISTINCT shape)::text FROM crieur.collapse";
        assert_eq!(ask(app, tables).await, "2");
    }
}

/// A foreign server that is this one, and tables with foreign partitions and children.
const FOREIGN: &str = "
    CREATE EXTENSION IF NOT EXISTS postgres_fdw;
    CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'app');
    CREATE USER MAPPING FOR app SERVER self OPTIONS (user 'app', password_required 'false');
    GRANT USAGE ON FOREIGN SERVER self TO app";

#[tokio::test]
async fn rows_of_foreign_partitions_and_children_break_no_writer_and_are_told() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.admin, &FOREIGN.replace("{port}", &outbox.server.port().to_string())).await;
        let app = &outbox.app;
        let tables = "CREATE TABLE far (id int, city text); CREATE TABLE far_child (id int, city text);
            CREATE TABLE t (id int, city text) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, 2);
            CREATE TABLE p (id int, city text);
            SELECT crieur.watch('t'), crieur.watch('p', '{id}', '{city}')";
        run(app, tables).await;
        let foreign = "
            CREATE FOREIGN TABLE t9 PARTITION OF t FOR VALUES IN (9) SERVER self OPTIONS (table_name 'far');
            CREATE FOREIGN TABLE child () INHERITS (p) SERVER self OPTIONS (table_name 'far_child')";
        run(app, foreign).await;
        run(app, "SELECT crieur.refresh()").await;
        assert_eq!(ask(app, "SELECT bool_or(stale)::text FROM crieur.watched").await, "false");
        outbox
            .check(&[
                ("INSERT INTO t VALUES (1, 'a'), (9, 'b')", "t I {{1,a}}; t I {{9,b}}"),
                ("INSERT INTO t9 VALUES (9, 'c')", "t I {{9,c}}"),
                ("UPDATE t SET city = 'd' WHERE id < 5", "t U {{1,a}}>{{1,d}}"),
                ("UPDATE t SET city = city WHERE id < 5", ""),
                ("UPDATE t1 SET id = 2", "t U {{1,d}}>{{2,d}}"),
                ("DELETE FROM t WHERE city IN ('b', 'd')", "t D {{2,d}}; t D {{9,b}}"),
                ("TRUNCATE t1", "t T"),
                ("INSERT INTO p VALUES (3, 'x'); INSERT INTO child VALUES (4, 'y')", "p I {{3}}; p I {{4}}"),
                ("UPDATE p SET city = 'z'", ""),
                ("UPDATE p SET id = id + 10", "p U {{3}}>{{13}}; p U {{4}}>{{14}}"),
                ("DELETE FROM p", "p D {{13}}; p D {{14}}"),
            ])
            .await;
        // Without them, statements tell again. A table that has some when it is first watched is none that is refused.
        run(app, "DROP FOREIGN TABLE t9; SELECT crieur.refresh()").await;
        outbox.check(&[("INSERT INTO t VALUES (1, 'a'), (2, 'b')", "t I {{1,a}} {{2,b}}")]).await;
        run(app, "SELECT crieur.unwatch('p'), crieur.watch('p')").await;
        outbox.check(&[("INSERT INTO child VALUES (5, 'y')", "p I {{5,y}}")]).await;
        assert_eq!(refused(app, "SELECT crieur.watch('child')").await, "public.child is not a table of rows that last");
    }
}

#[tokio::test]
async fn a_child_is_heard_of_for_each_watched_table_that_it_is_of_whichever_a_statement_names() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let tables = "CREATE TABLE other (id int); CREATE TABLE base (id int, city text);
            CREATE TABLE derived (more text) INHERITS (base);
            CREATE TABLE twice (last text) INHERITS (derived, other);
            SELECT crieur.watch('base', '{id}'), crieur.watch('derived', '{id,more}', '{city}'), crieur.watch('twice', '{last}')";
        run(&outbox.app, tables).await;
        assert_eq!(ask(&outbox.app, "SELECT bool_or(stale)::text FROM crieur.watched").await, "false");
        outbox
            .check(&[
                ("INSERT INTO base VALUES (1, 'a')", "base I {{1}}"),
                ("INSERT INTO derived VALUES (2, 'b', 'm')", "base I {{2}}; derived I {{2,m}}"),
                ("INSERT INTO twice VALUES (3, 'c', 'n', 'l')", "base I {{3}}; derived I {{3,n}}; twice I {{l}}"),
                // Of a statement on a parent, each row of a child is told by itself.
                (
                    "UPDATE base SET id = id + 10",
                    "base U {{1}}>{{11}} {{2}}>{{12}} {{3}}>{{13}}; base U {{3}}>{{13}}; derived U {{2,m}}>{{12,m}}; \
                 derived U {{3,n}}>{{13,n}}; twice U {{l}}>{{l}}",
                ),
                ("UPDATE ONLY base SET id = 1", "base U {{11}}>{{1}}"),
                // The table that nobody watches.
                ("UPDATE other SET id = 4", "base U {{13}}>{{4}}; derived U {{13,n}}>{{4,n}}; twice U {{l}}>{{l}}"),
                ("UPDATE base SET city = 'd' WHERE id = 12", "base U {{12}}>{{12}}"),
                ("DELETE FROM base WHERE id = 12", "base D {{12}}; derived D {{12,m}}"),
                ("SELECT crieur.unwatch('derived'); DELETE FROM twice", "base D {{4}}; twice D {{l}}"),
            ])
            .await;
        let refreshed = "SELECT crieur.refresh(), (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'crieur%')::text";
        run(&outbox.app, refreshed).await;
    }
}

/// DDL by which foreign rows come to `t` and `p`, and an INSERT of one.
const COME: &[(&str, &str)] = &[
    ("CREATE FOREIGN TABLE t9 PARTITION OF t FOR VALUES IN (9) SERVER self OPTIONS (table_name 'far')", "t VALUES (9, 'a')"),
    (
        "CREATE FOREIGN TABLE t9 (id int, city text) SERVER self OPTIONS (table_name 'far');
         ALTER TABLE t ATTACH PARTITION t9 FOR VALUES IN (9)",
        "t VALUES (9, 'a'), (1, 'b')",
    ),
    (
        "IMPORT FOREIGN SCHEMA public LIMIT TO (far) FROM SERVER self INTO apart; ALTER FOREIGN TABLE apart.far RENAME TO t9;
         ALTER TABLE t ATTACH PARTITION apart.t9 FOR VALUES IN (9)",
        "t VALUES (9, 'a')",
    ),
    (
        "CREATE TABLE deep PARTITION OF t FOR VALUES IN (8, 9) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE t9 PARTITION OF deep FOR VALUES IN (9) SERVER self OPTIONS (table_name 'far')",
        "deep VALUES (9, 'a')",
    ),
];

/// Back to tables without foreign rows.
const GONE: &str = "DROP TABLE IF EXISTS deep; DROP FOREIGN TABLE IF EXISTS t9, apart.t9, child";

const CHILDREN: &[&str] = &[
    "CREATE FOREIGN TABLE child () INHERITS (p) SERVER self OPTIONS (table_name 'far')",
    "CREATE FOREIGN TABLE child (id int, city text) SERVER self OPTIONS (table_name 'far'); ALTER FOREIGN TABLE child INHERIT p",
];

async fn with_foreign_server(version: Version, tables: &str) -> Outbox {
    let outbox = Outbox::start(version).await;
    run(&outbox.admin, &FOREIGN.replace("{port}", &outbox.server.port().to_string())).await;
    run(&outbox.app, tables).await;
    outbox
}

const SPLIT: &str = "
    CREATE SCHEMA apart; CREATE TABLE far (id int, city text); CREATE TABLE p (id int, city text);
    CREATE TABLE t (id int, city text) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, 2);
    SELECT crieur.watch('t'), crieur.watch('p')";

#[tokio::test]
async fn foreign_rows_are_taken_in_the_transaction_that_they_come_with_where_event_triggers_are_allowed() {
    for version in Version::ALL {
        let outbox = with_foreign_server(version, SPLIT).await;
        // The same script, run once by whoever may make event triggers.
        run(&outbox.admin, "ALTER ROLE app SUPERUSER").await;
        run(&outbox.app, INSTALL).await;
        run(&outbox.admin, "ALTER ROLE app NOSUPERUSER").await;
        for (ddl, insert) in COME {
            run(&outbox.app, &format!("BEGIN; {ddl}; INSERT INTO {insert}; COMMIT")).await;
            assert_eq!(ask(&outbox.app, "SELECT bool_or(stale)::text FROM crieur.watched").await, "false", "{ddl}");
            run(&outbox.app, "UPDATE t SET city = 'c'; DELETE FROM t").await;
            assert!(outbox.written().await.contains("t D {{9,c}}"), "{ddl}");
            run(&outbox.app, GONE).await;
            run(&outbox.app, "SELECT crieur.refresh()").await;
        }
        for ddl in CHILDREN {
            run(&outbox.app, &format!("BEGIN; {ddl}; INSERT INTO child VALUES (9, 'd'); UPDATE p SET id = 8; COMMIT"))
                .await;
            assert_eq!(outbox.written().await, "p I {{9,d}}; p U {{9,d}}>{{8,d}}", "{ddl}");
            run(&outbox.app, "DELETE FROM p").await;
            run(&outbox.app, GONE).await;
            run(&outbox.app, "SELECT crieur.refresh(); DELETE FROM crieur.outbox").await;
        }
        run(&outbox.app, "DROP SCHEMA crieur CASCADE").await;
        assert_eq!(ask(&outbox.admin, "SELECT count(*)::text FROM pg_event_trigger").await, "0");
    }
}

#[tokio::test]
async fn ddl_that_brings_foreign_rows_never_fails_because_of_the_triggers() {
    for version in Version::ALL {
        let outbox = with_foreign_server(version, SPLIT).await;
        let refusal = "cannot collect transition tuples from child foreign tables";
        let refreshed = async || {
            run(&outbox.app, "SELECT crieur.refresh()").await;
            run(&outbox.app, "INSERT INTO t VALUES (9, 'a')").await;
            run(&outbox.app, GONE).await;
            run(&outbox.app, "SELECT crieur.refresh()").await;
        };
        // Without the right to make event triggers, writes fail until somebody refreshes.
        run(&outbox.app, COME[0].0).await;
        assert_eq!(refused(&outbox.app, "INSERT INTO t VALUES (9, 'a')").await, refusal);
        refreshed().await;
        run(&outbox.admin, "ALTER ROLE app SUPERUSER").await;
        run(&outbox.app, INSTALL).await;
        run(&outbox.admin, "ALTER ROLE app NOSUPERUSER").await;
        // A partition that is not free.
        let writer = session(&outbox.server, "app").await;
        run(&writer, "BEGIN; INSERT INTO t1 VALUES (1, 'a')").await;
        run(&outbox.app, COME[1].0).await;
        run(&writer, "COMMIT").await;
        assert_eq!(refused(&outbox.app, "INSERT INTO t VALUES (9, 'a')").await, refusal);
        refreshed().await;
        // Somebody else's foreign table: the row triggers of the others let its rows pass, and that it has none is told.
        run(&outbox.admin, &COME[0].0.replace("t9", "public.t9")).await;
        run(&outbox.app, "INSERT INTO t VALUES (9, 'a')").await;
        assert_eq!(ask(&outbox.app, "SELECT uncovered::text FROM crieur.watched WHERE name = 't'").await, "{t9}");
        run(&outbox.admin, GONE).await;
        run(&outbox.app, "SELECT crieur.refresh()").await;
        // Whatever became of the functions.
        run(&outbox.app, "ALTER FUNCTION crieur.placed RENAME TO misplaced").await;
        run(&outbox.app, COME[0].0).await;
        run(&outbox.app, "ALTER TABLE t1 ADD CHECK (id > 0)").await;
    }
}
