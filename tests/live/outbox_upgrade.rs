//! `sql/install.sql` over an outbox of version 2: whatever of that version is still at work behind the upgrade, no
//! statement of the application fails because of it.

use super::harness::postgres::Version;
use super::outbox_sql::{INSTALL, Outbox, ask, run, session};

/// As of commit 8f8a4d9.
const VERSION_2: &str = include_str!("outbox_version_2.sql");

const WRITES: &str = "
    INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'), (3, 'c'); UPDATE t SET city = 'd' WHERE id = 1;
    UPDATE t SET city = 'e'; DELETE FROM t WHERE id = 1; DELETE FROM t; TRUNCATE t";

/// An outbox of version 2 that watches a table.
async fn version_2(version: Version) -> Outbox {
    let outbox = Outbox::start(version).await;
    let app = &outbox.app;
    run(app, "DROP SCHEMA crieur CASCADE").await;
    run(app, VERSION_2).await;
    run(app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
    run(app, WRITES).await;
    outbox
}

/// Whether the trigger function is that of version 2.
async fn is_old(outbox: &Outbox) -> bool {
    let sql = "SELECT (prosrc NOT LIKE '%crieur.looked%')::text FROM pg_proc WHERE proname = 'capture_1'";
    ask(&outbox.app, sql).await == "true"
}

/// What is done to the outbox, and how it is undone.
const SPOILED: &[(&str, &str)] = &[
    ("SELECT 1", "SELECT 1"),
    ("BEGIN; LOCK TABLE crieur.outbox", "ROLLBACK"),
    ("ALTER TABLE crieur.outbox RENAME TO gone", "ALTER TABLE crieur.gone RENAME TO outbox"),
    ("ALTER TABLE crieur.outbox ADD more int NOT NULL", "ALTER TABLE crieur.outbox DROP more"),
    ("REVOKE ALL ON crieur.outbox FROM app", "GRANT ALL ON crieur.outbox TO app"),
    ("DROP TABLE crieur.outbox", "SELECT 1"),
];

#[tokio::test]
async fn triggers_of_version_2_that_outlive_the_upgrade_break_no_writer() {
    for version in Version::ALL {
        let outbox = version_2(version).await;
        let app = &outbox.app;
        // Somebody works on what is watched just now: nothing can be made anew.
        run(&outbox.admin, "BEGIN; LOCK TABLE crieur.target IN ROW EXCLUSIVE MODE").await;
        run(app, INSTALL).await;
        run(&outbox.admin, "ROLLBACK").await;
        for (spoil, mend) in SPOILED {
            run(app, "DELETE FROM crieur.outbox").await;
            run(&outbox.admin, spoil).await;
            // As the daemon does every two seconds.
            run(app, "SET statement_timeout = '10s'; SELECT crieur.refuses()").await;
            for writer in [app, &session(&outbox.server, "app").await] {
                run(writer, WRITES).await;
            }
            assert!(is_old(&outbox).await, "{spoil}");
            run(&outbox.admin, mend).await;
        }
    }
}

#[tokio::test]
async fn whoever_holds_a_table_keeps_no_function_of_version_2_at_work() {
    for version in Version::ALL {
        let outbox = version_2(version).await;
        let app = &outbox.app;
        // A table that needs other triggers than it has, and is not free.
        run(app, "CREATE TABLE above (id int, city text); ALTER TABLE t INHERIT above").await;
        let holder = session(&outbox.server, "app").await;
        run(&holder, "BEGIN; SELECT FROM t").await;
        run(app, INSTALL).await;
        assert!(!is_old(&outbox).await);
        assert_eq!(ask(app, "SELECT stale::text FROM crieur.watched").await, "true");
        run(&outbox.admin, "ALTER TABLE crieur.outbox RENAME TO gone").await;
        run(app, WRITES.trim_end_matches("; TRUNCATE t")).await;
        run(&outbox.admin, "ALTER TABLE crieur.gone RENAME TO outbox").await;
        run(&holder, "COMMIT").await;
        run(app, "SELECT crieur.refresh()").await;
        assert_eq!(ask(app, "SELECT stale::text FROM crieur.watched").await, "false");
    }
}

#[tokio::test]
async fn rows_of_an_outbox_of_version_2_are_no_longer_compressed_once_nobody_writes() {
    for version in Version::ALL {
        let outbox = version_2(version).await;
        let app = &outbox.app;
        run(app, INSTALL).await;
        run(app, "SET statement_timeout = '10s'; DELETE FROM crieur.outbox; DELETE FROM crieur.collapse").await;
        let storage = "SELECT string_agg(attstorage::text, '') FROM pg_attribute
                       WHERE attrelid = 'crieur.outbox'::regclass AND attname IN ('old', 'new')";
        let writer = session(&outbox.server, "app").await;
        run(&writer, "BEGIN; INSERT INTO t VALUES (1, 'a')").await;
        run(app, "SELECT crieur.shrink()").await;
        assert_eq!(ask(app, storage).await, "xx", "it does not wait for a writer");
        run(&writer, "COMMIT").await;
        run(app, "SELECT crieur.shrink()").await;
        assert_eq!(ask(app, storage).await, "ee");
        assert_eq!(outbox.written().await, "t I {{1,a}}");
    }
}
