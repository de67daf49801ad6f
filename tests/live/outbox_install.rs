//! `sql/install.sql` and `sql/uninstall.sql` as a product of their own: twice, over an older version, without a trace;
//! who may do what; and what happens when nobody reads the outbox.

use futures_util::StreamExt;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::harness::pgbouncer::{Pgbouncer, PoolMode};
use super::harness::postgres::{self, Postgres, Version};
use super::outbox_sql::{INSTALL, Outbox, ask, refused, run, session};

const UNINSTALL: &str = include_str!("../../sql/uninstall.sql");
const TRIGGERS: &str = include_str!("../../sql/triggers.sql");
const INVALIDATE: &str = include_str!("../../sql/invalidate.sql");

/// Everything in the catalogs that an installation could leave behind.
const CATALOGS: &str = "
    SELECT string_agg(o.name, E'\\n' ORDER BY o.name COLLATE \"C\") FROM (
        SELECT concat_ws(' ', 'class', oid, relname, relacl) FROM pg_class
        UNION ALL SELECT concat_ws(' ', 'function', oid, proname, proacl) FROM pg_proc
        UNION ALL SELECT concat_ws(' ', 'schema', oid, nspname, nspacl) FROM pg_namespace
        UNION ALL SELECT concat_ws(' ', 'type', oid, typname) FROM pg_type
        UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname) FROM pg_trigger
        UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname) FROM pg_constraint
        UNION ALL SELECT concat_ws(' ', 'event trigger', oid, evtname) FROM pg_event_trigger
        UNION ALL SELECT concat_ws(' ', 'default acl', oid) FROM pg_default_acl
        UNION ALL SELECT concat_ws(' ', 'depend', count(*)) FROM pg_depend
        UNION ALL SELECT concat_ws(' ', 'shdepend', count(*)) FROM pg_shdepend
    ) AS o (name)";

#[tokio::test]
async fn installed_twice_it_stays_as_it_was_and_removed_it_leaves_nothing() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, UNINSTALL).await;
        run(app, "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF t DEFAULT")
            .await;
        let before = ask(app, CATALOGS).await;
        run(app, INSTALL).await;
        run(app, "SELECT crieur.watch('t'), crieur.notify(true); INSERT INTO t VALUES (1)").await;
        run(&outbox.admin, "CREATE ROLE worker").await;
        run(app, "SELECT crieur.grant_worker('worker')").await;
        let installed = ask(app, CATALOGS).await;
        run(app, INSTALL).await;
        assert_eq!(ask(app, CATALOGS).await, installed);
        assert_eq!(outbox.written().await, "t I {{1}}");
        run(&outbox.admin, TRIGGERS).await;
        assert_ne!(ask(app, CATALOGS).await, installed);
        run(app, UNINSTALL).await;
        assert_eq!(ask(app, CATALOGS).await, before);
        run(app, "INSERT INTO t VALUES (2); TRUNCATE t").await;
        run(app, UNINSTALL).await;
    }
}

#[tokio::test]
async fn it_installs_works_and_goes_through_a_pooler() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let server = Postgres::start(postgres::Options::default());
        let pooler = Pgbouncer::start(mode, server.port());
        let (client, connection) = tokio_postgres::connect(&pooler.url(), NoTls).await.expect("it is up");
        tokio::spawn(connection);
        run(&client, "CREATE ROLE app; GRANT CREATE ON DATABASE postgres TO app; CREATE TABLE t (id int)").await;
        run(&client, "ALTER TABLE t OWNER TO app").await;
        let before = ask(&client, CATALOGS).await;
        // A pooler may give each transaction another session, so what belongs together is one.
        let as_app = |sql: &str| format!("BEGIN; SET LOCAL ROLE app; {sql}; COMMIT");
        for _ in 0..2 {
            run(&client, &as_app(INSTALL)).await;
            run(&client, &as_app("SELECT crieur.watch('t')")).await;
        }
        run(&client, "INSERT INTO t VALUES (1)").await;
        assert_eq!(
            ask(&client, "SELECT string_agg(concat_ws(' ', op, new), ', ') FROM crieur.outbox").await,
            "I {{1}}"
        );
        run(&client, &as_app(UNINSTALL)).await;
        assert_eq!(ask(&client, CATALOGS).await, before, "{mode:?}");
    }
}

#[tokio::test]
async fn an_older_version_is_brought_up_to_date_in_place_and_a_later_one_is_left_alone() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        // An earlier version captured less, under triggers that a session may have fired before.
        run(app, "CREATE TABLE t (id int PRIMARY KEY); SELECT crieur.watch('t', '{id}'); INSERT INTO t VALUES (1)")
            .await;
        let function =
            "CREATE OR REPLACE FUNCTION crieur.capture_1() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                            'BEGIN INSERT INTO crieur.outbox (op, shape) VALUES (''S'', 1); RETURN NULL; END';
                        CREATE OR REPLACE FUNCTION crieur.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
                        UPDATE crieur.target SET made_of = crieur.made_of(target)";
        run(app, function).await;
        run(app, "INSERT INTO t VALUES (2); SELECT crieur.refresh(); INSERT INTO t VALUES (3)").await;
        let writer = session(&outbox.server, "app").await;
        run(&writer, "BEGIN; INSERT INTO t VALUES (4)").await;
        run(app, INSTALL).await;
        run(&writer, "INSERT INTO t VALUES (5); COMMIT").await;
        run(app, "INSERT INTO t VALUES (6)").await;
        assert_eq!(outbox.written().await, "t I {{1}}; t I {{5}}; t I {{6}}; t S; t S; t S");
        // Another script of the same version wrote other triggers.
        let other = "CREATE OR REPLACE FUNCTION crieur.query_none(op text) RETURNS text LANGUAGE sql AS $$
                         SELECT 'SELECT ''M''::\"char\" AS op, NULL::text[] AS old, NULL::text[] AS new' $$;
                     SELECT crieur.refresh(); TRUNCATE t";
        run(app, other).await;
        run(app, INSTALL).await;
        run(app, "TRUNCATE t").await;
        assert_eq!(outbox.written().await, "t M; t T");
        run(app, "CREATE OR REPLACE FUNCTION crieur.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 4'").await;
        assert_eq!(refused(app, INSTALL).await, "version 4 of crieur is installed, which is later than this script");
    }
}

#[tokio::test]
async fn writers_need_no_right_and_get_none() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.admin, "CREATE ROLE writer LOGIN; CREATE ROLE worker LOGIN").await;
        run(&outbox.app, TENANTS).await;
        let writer = session(&outbox.server, "writer").await;
        // Row-level security hides these rows from the triggers' owner. The writer has tables and functions of any name.
        run(&writer, "SET search_path = pg_temp, public, pg_catalog").await;
        run(&writer, "CREATE TEMP TABLE new_rows (id int); CREATE TEMP TABLE outbox (id int)").await;
        run(&writer, "CREATE FUNCTION pg_temp.int4out(int) RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$").await;
        run(&writer, "INSERT INTO t VALUES (1, 'writer'), (2, 'writer'); UPDATE t SET id = id + 10").await;
        assert_eq!(outbox.written().await, "t I {{1}} {{2}}; t U {{1}}>{{11}} {{2}}>{{12}}");
        run(&outbox.app, "UPDATE t SET id = id + 10").await;
        assert_eq!(outbox.written().await, "");
        let denied = "permission denied for schema crieur";
        for sql in ["SELECT crieur.watch('t')", "TABLE crieur.outbox", "SELECT crieur.refresh()"] {
            assert_eq!(refused(&writer, sql).await, denied, "{sql}");
        }
        run(&outbox.app, "GRANT USAGE ON SCHEMA crieur TO writer").await;
        for (sql, what) in [
            ("SELECT crieur.watch('t')", "function watch"),
            ("SELECT crieur.refresh()", "function refresh"),
            ("SELECT crieur.grant_worker('writer')", "function grant_worker"),
            ("DELETE FROM crieur.outbox", "table outbox"),
            ("SELECT nextval('crieur.closings')", "sequence closings"),
            (
                "CREATE TEMP TABLE mine (id int); CREATE TRIGGER mine AFTER INSERT ON mine EXECUTE FUNCTION crieur.capture_1()",
                "function crieur.capture_1",
            ),
        ] {
            assert_eq!(refused(&writer, sql).await, format!("permission denied for {what}"), "{sql}");
        }
        run(&outbox.app, "SELECT crieur.grant_worker('worker')").await;
        let worker = session(&outbox.server, "worker").await;
        for sql in [
            "SELECT * FROM crieur.watched; SELECT * FROM crieur.shape; SELECT nonce FROM crieur.setting",
            "DELETE FROM crieur.outbox; INSERT INTO crieur.progress (slot) VALUES ('a'); DELETE FROM crieur.progress",
            "SELECT crieur.refresh(), crieur.shrink(); SELECT * FROM crieur.close_collapsed(); DELETE FROM crieur.collapse",
        ] {
            run(&worker, sql).await;
        }
        assert_eq!(refused(&worker, "SELECT crieur.unwatch('t')").await, "permission denied for function unwatch");
    }
}

const TENANTS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, tenant text);
    ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON t USING (tenant = current_user);
    SELECT crieur.watch('t', '{id}');
    GRANT SELECT, INSERT, UPDATE ON t TO writer";

/// Two tables, and an outbox that one row fills.
const FULL: &str = "
    CREATE TABLE t (id int PRIMARY KEY);
    CREATE TABLE u (id int PRIMARY KEY);
    SELECT crieur.watch('t'), crieur.watch('u'), crieur.limits(bytes_max => 1)";

/// What waits to be swept, and what is in the outbox besides.
async fn waiting(client: &Client) -> String {
    let sql = "SELECT concat_ws(' ', (SELECT string_agg(s.name || CASE WHEN c.closing THEN ' closing' ELSE '' END, ' ' ORDER BY c.closing DESC, s.name)
                   FROM crieur.collapse AS c JOIN crieur.shape AS s ON s.id = c.shape), 'beside ' || count(*))
               FROM crieur.outbox";
    ask(client, sql).await
}

const CLOSE: &str = "SELECT string_agg(shape::text, ' ' ORDER BY shape) FROM crieur.close_collapsed()";

#[tokio::test]
async fn a_full_outbox_grows_by_one_row_for_each_table_until_that_is_closed() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, FULL).await;
        let steps = [
            ("INSERT INTO t SELECT WHERE false", "beside 0"),
            ("INSERT INTO t VALUES (1)", "t beside 0"),
            ("INSERT INTO t SELECT generate_series(2, 100)", "t beside 0"),
            ("UPDATE t SET id = -id", "t beside 0"),
            ("BEGIN; INSERT INTO u VALUES (1); ROLLBACK", "t beside 0"),
            ("INSERT INTO u VALUES (1); INSERT INTO u VALUES (2)", "t u beside 0"),
            ("TRUNCATE t, u", "t u beside 0"),
        ];
        for (sql, expected) in steps {
            run(app, sql).await;
            assert_eq!(waiting(app).await, expected, "{sql}");
        }
        assert_eq!(ask(app, CLOSE).await, "1 2");
        let one_by_one = "DO $$ BEGIN FOR i IN 1..99 LOOP INSERT INTO t VALUES (i); END LOOP; END $$";
        run(app, one_by_one).await;
        // Not on closing rows does a writer rely.
        assert_eq!(waiting(app).await, "t closing u closing t beside 0");
        // As after a crash: what is closing already is given again.
        assert_eq!(ask(app, CLOSE).await, "1 1 2");
        // With room again, statements say what they changed.
        run(app, "SELECT crieur.limits(bytes_max => 1000000); INSERT INTO u VALUES (3); INSERT INTO u VALUES (4)")
            .await;
        assert_eq!(outbox.written().await, "u I {{3}}; u I {{4}}");
    }
}

#[tokio::test]
async fn rows_one_by_one_and_large_rows_find_out_that_the_outbox_is_full() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, "CREATE TABLE t (id int, note text); SELECT crieur.watch('t'), crieur.limits(bytes_max => 100000)")
            .await;
        // One of 256 looks, so 20,000 that do not are no accident.
        let one_by_one = "DO $$ BEGIN FOR i IN 1..20000 LOOP
                              INSERT INTO t VALUES (i); EXIT WHEN EXISTS (SELECT FROM crieur.collapse);
                          END LOOP; END $$";
        run(app, one_by_one).await;
        assert!(waiting(app).await.starts_with("t beside "));
        let size = "SELECT (pg_total_relation_size('crieur.outbox') > 100000)::text";
        assert_eq!(ask(app, size).await, "true");
        run(app, "DELETE FROM crieur.outbox; DELETE FROM crieur.collapse; TRUNCATE crieur.outbox").await;
        run(app, "INSERT INTO t VALUES (0)").await;
        let large = "INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 5000) AS i";
        run(app, large).await;
        assert_eq!(waiting(app).await, "beside 2");
        // Each of these looks.
        run(app, large).await;
        assert_eq!(waiting(app).await, "t beside 2");
    }
}

#[tokio::test]
async fn no_writer_relies_on_a_row_that_was_swept_before_it_wrote() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, FULL).await;
        run(app, "INSERT INTO t VALUES (0)").await;
        for (id, isolation) in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].into_iter().enumerate() {
            let writer = session(&outbox.server, "app").await;
            run(&writer, &format!("BEGIN ISOLATION LEVEL {isolation}; SELECT FROM t")).await;
            run(app, "SELECT crieur.close_collapsed(); DELETE FROM crieur.collapse; DELETE FROM crieur.outbox").await;
            run(&writer, &format!("INSERT INTO t VALUES (1 + {id}); COMMIT")).await;
            let told = waiting(app).await;
            assert!(told != "beside 0", "{isolation}: {told}");
            run(app, "INSERT INTO crieur.collapse (shape, round) SELECT 1, last_value FROM crieur.closings").await;
        }
        // A writer that relied on a row before it was closed is one of those that the daemon waits for before it sweeps.
        let writer = session(&outbox.server, "app").await;
        run(app, "DELETE FROM crieur.outbox; DELETE FROM crieur.collapse").await;
        run(app, "INSERT INTO crieur.collapse (shape, round) SELECT 1, last_value FROM crieur.closings").await;
        run(&writer, "BEGIN; INSERT INTO t VALUES (10)").await;
        let xid = ask(&writer, "SELECT pg_current_xact_id()::text").await;
        run(app, "SELECT crieur.close_collapsed()").await;
        assert_eq!(
            ask(app, "SELECT string_agg(x::text, ' ') FROM pg_snapshot_xip(pg_current_snapshot()) AS x").await,
            xid
        );
        run(&writer, "COMMIT").await;
        assert_eq!(waiting(app).await, "t closing beside 0");
    }
}

#[tokio::test]
async fn writers_do_not_wait_for_each_other_and_a_held_outbox_is_not_shrunk() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        run(app, FULL).await;
        run(app, "SELECT crieur.limits(bytes_max => 1000000000); SET lock_timeout = '5s'").await;
        let writer = session(&outbox.server, "app").await;
        run(&writer, "BEGIN; INSERT INTO t VALUES (1)").await;
        run(app, "INSERT INTO t VALUES (2)").await;
        assert_eq!(outbox.written().await, "t I {{2}}");
        assert_eq!(ask(app, "SELECT crieur.shrink()::text").await, "false");
        run(app, "INSERT INTO crieur.outbox (op, note) SELECT 'M', repeat(md5(i::text), 50) FROM generate_series(1, 20000) AS i").await;
        assert_eq!(ask(app, "SELECT crieur.shrink()::text").await, "false");
        run(app, "DELETE FROM crieur.outbox").await;
        // What is open must not be lost, and what has just been committed neither.
        assert_eq!(ask(app, "SELECT crieur.shrink()::text").await, "false");
        run(&writer, "COMMIT").await;
        assert_eq!(ask(app, "SELECT crieur.shrink()::text").await, "false");
        assert_eq!(outbox.written().await, "t I {{1}}");
        assert_eq!(ask(app, "SELECT crieur.shrink()::text").await, "true");
        assert_eq!(ask(app, "SELECT (pg_total_relation_size('crieur.outbox') < 100000)::text").await, "true");
        run(app, "SELECT crieur.limits(bytes_max => 1)").await;
        run(&writer, "BEGIN; INSERT INTO t VALUES (3); INSERT INTO t SELECT generate_series(10, 50)").await;
        run(app, "INSERT INTO t VALUES (4)").await;
        run(&writer, "ROLLBACK").await;
        assert_ne!(waiting(app).await, "beside 0");
    }
}

#[tokio::test]
async fn a_commit_wakes_once_without_a_payload_and_only_where_that_is_asked_for() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let app = &outbox.app;
        let url = format!("postgres://app@127.0.0.1:{}/app", outbox.server.port());
        let (listener, mut connection) = tokio_postgres::connect(&url, NoTls).await.expect("it is up");
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(|context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(told) = message {
                    let _ = sender.send((told.channel().to_owned(), told.payload().to_owned()));
                }
            }
        });
        run(&listener, "LISTEN crieur").await;
        run(app, "CREATE TABLE t (id int PRIMARY KEY); SELECT crieur.watch('t')").await;
        run(app, "INSERT INTO t VALUES (1)").await;
        run(app, INVALIDATE).await;
        run(app, "SELECT crieur.invalidate('a')").await;
        run(app, "SELECT crieur.notify(true)").await;
        run(app, "SELECT crieur.invalidate('a')").await;
        run(app, "BEGIN; INSERT INTO t VALUES (2); DELETE FROM t; INSERT INTO t VALUES (3); COMMIT").await;
        run(app, "NOTIFY crieur, 'the end'").await;
        for payload in ["", "", "the end"] {
            assert_eq!(heard.recv().await.expect("it listens"), ("crieur".to_owned(), payload.to_owned()));
        }
        run(app, "BEGIN; INSERT INTO t VALUES (4)").await;
        let why = "cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY";
        assert_eq!(refused(app, "PREPARE TRANSACTION 'p'").await, why);
    }
}
