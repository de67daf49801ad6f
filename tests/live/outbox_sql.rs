//! What the triggers of `sql/install.sql` write of each kind of statement, on every server version, as a role without
//! any privilege but to own its database. The daemon is not here: `sql/` is a product of its own.

use crieur::change::{Change, Row, Value};
use crieur::decode::{Block, Message, decode};
use tokio_postgres::{Client, NoTls};

use super::harness::postgres::{self, Postgres, Version};

pub const INSTALL: &str = include_str!("../../sql/install.sql");

/// The rows of the outbox: table, kind, images as old>new, note.
const WRITTEN: &str = "
    SELECT coalesce(string_agg(concat_ws(' ', s.name, o.op, i.images, o.note), '; ' ORDER BY s.name, o.op, i.images), '')
    FROM crieur.outbox AS o
    LEFT JOIN crieur.shape AS s ON s.id = o.shape
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws('>', o.old[n:n]::text, o.new[n:n]::text), ' '
            ORDER BY o.old[n:n]::text COLLATE \"C\", o.new[n:n]::text COLLATE \"C\") AS images
        FROM generate_subscripts(coalesce(o.new, o.old), 1) AS n
    ) AS i";

/// A server, a superuser's session, and one of the role `app`, who owns the database `app`.
pub struct Outbox {
    pub server: Postgres,
    pub admin: Client,
    pub app: Client,
}

impl Outbox {
    /// With `sql/install.sql` run by `app`.
    pub async fn start(version: Version) -> Outbox {
        let conf = vec!["max_prepared_transactions = 10".to_owned()];
        let server = Postgres::start(postgres::Options { version, conf, ..Default::default() });
        let admin = server.client().await;
        for sql in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
            admin.batch_execute(sql).await.expect("a superuser may");
        }
        let admin = session(&server, "postgres").await;
        let app = session(&server, "app").await;
        run(&app, INSTALL).await;
        Outbox { server, admin, app }
    }

    /// What statements wrote since the last time.
    pub async fn written(&self) -> String {
        let written = ask(&self.app, WRITTEN).await;
        run(&self.app, "DELETE FROM crieur.outbox").await;
        written
    }

    /// Runs each case, one after the other, and compares what it wrote.
    pub async fn check(&self, cases: &[(&str, &str)]) {
        for (sql, written) in cases {
            run(&self.app, sql).await;
            assert_eq!(self.written().await, *written, "{sql}");
        }
    }
}

/// A session of a role in the database `app`.
pub async fn session(server: &Postgres, role: &str) -> Client {
    let url = format!("postgres://{role}@127.0.0.1:{}/app", server.port());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the server accepts sessions");
    tokio::spawn(connection);
    client
}

pub async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// One text.
pub async fn ask(client: &Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// Why the server refuses a statement.
pub async fn refused(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default()
}

const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, city text, note text, views int DEFAULT 0);
    CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
    SELECT crieur.watch('public.parents', columns => '{id,city}', ignore => '{views}');
    SELECT crieur.watch('public.children', '{parent}');";

#[tokio::test]
async fn every_kind_of_statement_writes_its_distinct_images_once() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, TABLES).await;
        outbox.check(STATEMENTS).await;
        let sink = outbox.app.copy_in::<_, bytes::Bytes>("COPY children FROM STDIN").await.expect("it may");
        let mut sink = Box::pin(sink);
        let lines = bytes::Bytes::from_static(b"91\t\\N\n92\t\\N\n");
        futures_util::SinkExt::send(&mut sink, lines).await.expect("it takes them");
        sink.as_mut().finish().await.expect("they are right");
        assert_eq!(outbox.written().await, "children I {{NULL}}");
        assert!(outbox.admin.batch_execute("SET session_replication_role = replica").await.is_ok());
        run(&outbox.admin, "DELETE FROM children WHERE id = 91").await;
        assert_eq!(outbox.written().await, "children D {{NULL}}");
    }
}

const STATEMENTS: &[(&str, &str)] = &[
    ("INSERT INTO parents VALUES (1, 'Dakar')", "parents I {{1,Dakar}}"),
    ("INSERT INTO parents VALUES (2, 'Dakar'), (3, NULL)", "parents I {{2,Dakar}} {{3,NULL}}"),
    ("INSERT INTO children VALUES (11, 1), (12, 1), (21, 2), (22, NULL)", "children I {{1}} {{2}} {{NULL}}"),
    ("INSERT INTO parents SELECT * FROM parents WHERE false", ""),
    ("UPDATE parents SET city = 'Thiès' WHERE id = 1", "parents U {{1,Dakar}}>{{1,Thiès}}"),
    ("UPDATE parents SET city = NULL WHERE id < 3", "parents U {{1,Thiès}}>{{1,NULL}} {{2,Dakar}}>{{2,NULL}}"),
    ("UPDATE parents SET city = 'Dakar' WHERE id > 9", ""),
    // What stays as it is was not changed, of one row or of many.
    ("UPDATE parents SET city = NULL WHERE id = 3", ""),
    ("UPDATE parents SET city = NULL", ""),
    ("UPDATE parents SET views = views + 1 WHERE id = 1", ""),
    ("UPDATE parents SET views = views + 1", ""),
    ("UPDATE parents SET views = 9, city = 'Mbour' WHERE id = 3", "parents U {{3,NULL}}>{{3,Mbour}}"),
    // A column that no key holds counts as long as it is not ignored.
    ("UPDATE parents SET note = 'a' WHERE id = 3", "parents U {{3,Mbour}}>{{3,Mbour}}"),
    ("UPDATE parents SET city = 'Mbour', note = 'a'", "parents U {{1,NULL}}>{{1,Mbour}} {{2,NULL}}>{{2,Mbour}}"),
    // Images are distinct, and so are the pairs of them.
    ("UPDATE children SET parent = 3 WHERE id IN (11, 12)", "children U {{1}}>{{3}}"),
    ("UPDATE children SET parent = 1", "children U {{2}}>{{1}} {{3}}>{{1}} {{NULL}}>{{1}}"),
    (
        "INSERT INTO parents VALUES (3, 'Kaolack'), (4, 'Kaolack') ON CONFLICT (id) DO UPDATE SET city = excluded.city",
        "parents I {{4,Kaolack}}; parents U {{3,Mbour}}>{{3,Kaolack}}",
    ),
    ("INSERT INTO parents VALUES (4) ON CONFLICT DO NOTHING", ""),
    (
        "MERGE INTO parents AS p USING (VALUES (3), (4), (5)) AS v (id) ON v.id = p.id
         WHEN MATCHED AND v.id = 3 THEN DELETE WHEN MATCHED THEN UPDATE SET city = 'Louga'
         WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'Podor')",
        "parents D {{3,Kaolack}}; parents I {{5,Podor}}; parents U {{4,Kaolack}}>{{4,Louga}}",
    ),
    (
        "WITH gone AS (DELETE FROM parents WHERE id = 5 RETURNING city) INSERT INTO parents SELECT 6, city FROM gone",
        "parents D {{5,Podor}}; parents I {{6,Podor}}",
    ),
    ("UPDATE parents SET id = 60 WHERE id = 6", "parents U {{6,Podor}}>{{60,Podor}}"),
    ("UPDATE parents SET id = 10 WHERE id = 1", "children U {{1}}>{{10}}; parents U {{1,Mbour}}>{{10,Mbour}}"),
    ("DELETE FROM parents WHERE id IN (2, 10)", "children D {{10}}; parents D {{10,Mbour}} {{2,Mbour}}"),
    (
        "BEGIN; INSERT INTO parents VALUES (7, 'a'); DELETE FROM parents WHERE id = 7; COMMIT",
        "parents D {{7,a}}; parents I {{7,a}}",
    ),
    ("BEGIN; INSERT INTO parents VALUES (7, 'a'); ROLLBACK", ""),
    (
        "BEGIN; SAVEPOINT s; INSERT INTO parents VALUES (7, 'a'); ROLLBACK TO s; INSERT INTO parents VALUES (8, 'b');
         SAVEPOINT t; INSERT INTO children VALUES (31, 8); RELEASE t; COMMIT",
        "children I {{8}}; parents I {{8,b}}",
    ),
    ("BEGIN; INSERT INTO parents VALUES (9, 'c'); PREPARE TRANSACTION 'p'", ""),
    ("COMMIT PREPARED 'p'", "parents I {{9,c}}"),
    ("BEGIN; INSERT INTO parents VALUES (7, 'd'); PREPARE TRANSACTION 'p'", ""),
    ("ROLLBACK PREPARED 'p'", ""),
    ("TRUNCATE children", "children T"),
    ("BEGIN; TRUNCATE parents CASCADE; COMMIT", "children T; parents T"),
    ("DELETE FROM parents", ""),
];

#[tokio::test]
async fn values_are_written_byte_for_byte_as_the_stream_would_send_them() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, TYPES).await;
        run(&outbox.app, "CREATE TABLE here (rel regclass); SELECT crieur.watch('here')").await;
        for sql in [
            "CREATE PUBLICATION types FOR TABLE types",
            "SELECT pg_create_logical_replication_slot('types', 'pgoutput')",
        ] {
            run(&outbox.admin, sql).await;
        }
        // Another writer's settings must not show.
        let settings = "SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = iso_8601;
                        SET extra_float_digits = -5; SET bytea_output = escape; SET quote_all_identifiers = on;
                        CREATE TEMP TABLE types (id int); SET search_path = ''";
        run(&outbox.app, settings).await;
        run(&outbox.app, VALUES).await;
        run(&outbox.app, "RESET ALL").await;
        // A database with a path of its own: the daemon sees it, and the triggers follow.
        let named = async |expected: &str| {
            run(
                &outbox.app,
                "SET search_path = ''; INSERT INTO public.here VALUES ('public.types'); RESET search_path",
            )
            .await;
            let last = "SELECT new[1][1] FROM crieur.outbox WHERE shape = (SELECT max(id) FROM crieur.shape)
                        ORDER BY xid DESC LIMIT 1";
            assert_eq!(ask(&outbox.app, last).await, expected);
        };
        named("types").await;
        run(&outbox.admin, "ALTER DATABASE app SET search_path = pg_catalog").await;
        assert_eq!(ask(&outbox.app, "SELECT bool_and(stale)::text FROM crieur.watched").await, "true");
        run(&outbox.app, "SELECT crieur.refresh()").await;
        named("public.types").await;
        run(&outbox.admin, "ALTER ROLE app SET search_path = public").await;
        run(&outbox.app, "SELECT crieur.refresh()").await;
        named("types").await;
        run(&outbox.app, "DELETE FROM crieur.outbox WHERE shape = (SELECT max(id) FROM crieur.shape)").await;
        let sql = "SELECT ARRAY(SELECT unnest(o.new)) FROM crieur.outbox AS o WHERE o.op = 'I' ORDER BY o.xid, o.id";
        let images: Vec<Vec<Option<String>>> =
            outbox.app.query(sql, &[]).await.expect("it is ours").iter().map(|row| row.get(0)).collect();
        let sent = sent(&outbox.admin).await;
        assert_eq!(sent.len(), 2);
        for (row, (ours, theirs)) in images.iter().zip(&sent).enumerate() {
            for (column, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_eq!(ours, theirs, "column {column} of row {row}");
            }
            assert_eq!(ours.len(), theirs.len());
        }
        assert_eq!(images.len(), 2);
    }
}

/// What pgoutput sends of the rows that were inserted, with the settings of our own replication session.
async fn sent(admin: &Client) -> Vec<Vec<Option<String>>> {
    let settings = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = postgres;
                    SET extra_float_digits = 1; SET bytea_output = hex";
    run(admin, settings).await;
    let sql = "SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes('types', NULL, NULL, \
               'proto_version', '1', 'publication_names', 'types')";
    let rows = admin.query(sql, &[]).await.expect("the slot is there");
    let payloads: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    let inserted = payloads.iter().filter_map(|payload| match decode(payload, Block::Outside) {
        Ok(Message::Change { change: Change { row: Row::Insert { new }, .. }, .. }) => Some(new),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    });
    let text = |value| match value {
        Value::Null | Value::Unknown => None,
        Value::Text(text) => Some(String::from_utf8(text.to_vec()).expect("the database is UTF-8")),
    };
    inserted.map(|tuple| tuple.values().map(text).collect()).collect()
}

const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
    CREATE DOMAIN six AS char(6);
    CREATE DOMAIN bits AS bit(3);
    CREATE DOMAIN list AS int[];
    CREATE DOMAIN feeling AS mood;
    CREATE TYPE pair AS (at timestamptz, yes bool, six six);
    CREATE DOMAIN couple AS pair;
    CREATE TABLE types (
        "Odd ""na'me" int, "{x} %s $1 $text$" text, gone int, a bool, b char(4), c varchar(10), d numeric, e float4, f float8,
        g date, h time, i timetz, j timestamp, k timestamptz, l interval, m bytea, n mood, o mood[], p six, q pair, r pair[],
        s list, t feeling, u couple, v json, w jsonb, x xml, y point, z polygon, aa inet, ab cidr, ac macaddr, ad uuid,
        ae bit(3), af int4range, ag tstzrange, ah tstzmultirange, ai oid, aj name, ak "char", al money, am text[],
        an int[], ao bytea[], ap tsquery,
        aq tsvector, ar regclass, as1 regclass, as2 regtype[], as3 regprocedure, as4 money[],
        "at" bits, old int, new text, kind text, place int
    );
    ALTER TABLE types DROP COLUMN gone;
    SELECT crieur.watch('types')"#;

const VALUES: &str = r#"
    INSERT INTO public.types VALUES (
        1, E'a,"b{}\\ \n', true, 'x', 'v ', 1.50, 0.1, 1e100/3, '2024-02-01', '1:2:3.4', '1:2:3+05', '2024-02-01 3:4',
        '2024-07-01 3:4:5.6+02', '1 year 2 mons -3 days 4:05', '\x00ff41', 'it''s "ok"', '{sad,NULL}', 'ab',
        ROW('2024-01-01Z', true, 'q'), ARRAY[ROW('2024-01-01Z', false, NULL)::public.pair], '{1,2}', 'sad',
        ROW('2024-01-01Z', true, 'z'), '{"a" : 1}', '{"a" : 1}', '<a>b</a>', '(1.1,2)', '((0,0),(1,0.1))', '10.0.0.1',
        '10.0.0.0/8', '08:00:2b:01:02:03', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', B'101', '[1,5)',
        '[2024-01-01Z,2024-01-02Z)', '{[2024-01-01Z,2024-01-02Z)}', 12, 'name', 'c', 12.5, '{a,"b c",NULL}',
        '{{1,2},{3,4}}', ARRAY['\x01'::bytea], 'a & b', 'a:1 b:2',
        'pg_class', 'public.types', '{public.mood,int}', 'int4pl(int,int)', '{1.5}', B'110', 3, '', 'NULL', 4
    );
    INSERT INTO public.types (kind) VALUES (NULL)"#;

const PARTITIONS: &str = "
    CREATE TABLE visits (id int PRIMARY KEY, city text) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF visits FOR VALUES FROM (0) TO (100);
    CREATE TABLE high (city text, gone int, id int NOT NULL) PARTITION BY RANGE (id);
    ALTER TABLE high DROP COLUMN gone;
    CREATE TABLE higher PARTITION OF high FOR VALUES FROM (100) TO (300);
    ALTER TABLE visits ATTACH PARTITION high FOR VALUES FROM (100) TO (300);
    CREATE TABLE base (id int);
    CREATE TABLE derived (more text) INHERITS (base);
    SELECT crieur.watch('visits'), crieur.watch('base')";

#[tokio::test]
async fn partitions_speak_for_their_table_whichever_of_them_a_statement_names() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, PARTITIONS).await;
        let cases = [
            ("INSERT INTO visits VALUES (1, 'a'), (150, 'b')", "visits I {{1,a}} {{150,b}}"),
            ("INSERT INTO high (id, city) VALUES (151, 'c')", "visits I {{151,c}}"),
            ("UPDATE higher SET city = 'd' WHERE id = 150", "visits U {{150,b}}>{{150,d}}"),
            ("UPDATE visits SET id = id + 100 WHERE id < 151", "visits U {{1,a}}>{{101,a}} {{150,d}}>{{250,d}}"),
            ("DELETE FROM visits WHERE id = 101", "visits D {{101,a}}"),
            ("DELETE FROM high", "visits D {{151,c}} {{250,d}}"),
            ("TRUNCATE low", "visits T"),
            ("TRUNCATE visits", "visits T; visits T; visits T; visits T"),
            ("CREATE TABLE top PARTITION OF visits FOR VALUES FROM (300) TO (400)", ""),
            ("INSERT INTO visits VALUES (301, 'e')", "visits I {{301,e}}"),
            ("INSERT INTO top VALUES (302, 'f')", ""),
            ("SELECT crieur.refresh()", ""),
            ("INSERT INTO top VALUES (303, 'g')", "visits I {{303,g}}"),
            ("INSERT INTO derived VALUES (1, 'x')", "base I {{1}}"),
            ("UPDATE base SET id = 2", "base U {{1}}>{{2}}"),
            // A trigger that keeps a row from where it was to move: one old row has no new one.
            (
                "INSERT INTO visits VALUES (1, 'a'), (2, 'b'); DELETE FROM crieur.outbox;
                 CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER no BEFORE INSERT ON top FOR EACH ROW EXECUTE FUNCTION no();
                 UPDATE visits SET id = CASE id WHEN 1 THEN 304 ELSE 3 END WHERE id < 3",
                "visits S",
            ),
            ("UPDATE visits SET id = 305 WHERE id = 3", "visits S"),
        ];
        outbox.check(&cases).await;
    }
}

#[tokio::test]
async fn a_table_that_changed_breaks_no_writer_and_loses_no_change() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let cases = [
            (
                "CREATE TABLE t (id int PRIMARY KEY, city text, size int, views int);
                 SELECT crieur.watch('t', '{id,city,size}', '{views}'); INSERT INTO t VALUES (1, 'a', 1, 1)",
                "t I {{1,a,1}}",
            ),
            ("UPDATE t SET views = 2", ""),
            // Nobody said of a later column that it may be ignored, nor of one beside it.
            ("ALTER TABLE t ADD COLUMN later int; UPDATE t SET later = 1", "t U {{1,a,1}}>{{1,a,1}}"),
            ("UPDATE t SET views = 3", "t U {{1,a,1}}>{{1,a,1}}"),
            ("SELECT crieur.refresh(); UPDATE t SET views = 4", ""),
            ("UPDATE t SET later = 2", "t U {{1,a,1}}>{{1,a,1}}"),
            ("ALTER TABLE t ALTER size TYPE bigint", ""),
            ("UPDATE t SET size = 2", "t S function pg_catalog.int4out(bigint) does not exist"),
            ("UPDATE t SET size = 2", "t S function pg_catalog.int4out(bigint) does not exist"),
            ("SELECT crieur.refresh(); UPDATE t SET size = 3", "t U {{1,a,2}}>{{1,a,3}}"),
            ("ALTER TABLE t RENAME TO u; UPDATE u SET size = 4", "t U {{1,a,3}}>{{1,a,4}}"),
            ("SELECT crieur.refresh(); UPDATE u SET size = 5", "u U {{1,a,4}}>{{1,a,5}}"),
            ("CREATE TEMP TABLE u (id int); INSERT INTO u VALUES (1); DROP TABLE u", ""),
            ("ALTER TABLE u DROP COLUMN later; UPDATE u SET size = 6", "u S column r.later does not exist"),
            ("SELECT crieur.refresh(); UPDATE u SET views = 7", ""),
            ("ALTER TABLE u DISABLE TRIGGER USER; UPDATE u SET size = 8", ""),
            ("SELECT crieur.refresh(); UPDATE u SET size = 9", "u U {{1,a,8}}>{{1,a,9}}"),
            ("ALTER TABLE u RENAME city TO town; UPDATE u SET size = 9", "u S column r.city does not exist"),
            ("INSERT INTO u VALUES (2, 'b', 1, 1)", "u S column r.city does not exist"),
            ("SELECT crieur.watch('u', '{town}'); DELETE FROM u", "u D {{a}} {{b}}"),
            ("INSERT INTO u VALUES (1, 'c', 1, 1), (2, 'c', 1, 1)", "u I {{c}}"),
            ("SELECT crieur.watch('u', '{}'); DELETE FROM u", "u D {{NULL}}"),
            ("SELECT crieur.unwatch('u'); INSERT INTO u VALUES (1)", ""),
            ("SELECT crieur.unwatch('u')", ""),
            ("SELECT crieur.watch('u'); DROP TABLE u; SELECT crieur.refresh()", ""),
        ];
        outbox.check(&cases).await;
        assert_eq!(ask(&outbox.app, "SELECT count(*)::text FROM crieur.target").await, "0");
        // A value whose output fails: it is an invalid one of its enum.
        let enums = "CREATE TYPE mood AS ENUM ('a', 'b', 'c'); CREATE TABLE m (id int, mood mood);
                     SELECT crieur.watch('m'); INSERT INTO m VALUES (1, 'a'), (2, 'a'), (3, 'b')";
        outbox.check(&[(enums, "m I {{1,a}} {{2,a}} {{3,b}}")]).await;
        run(&outbox.admin, "DELETE FROM pg_enum WHERE enumlabel = 'a'").await;
        let cases = [
            ("UPDATE m SET mood = 'c' WHERE id = 1", "m S 22P03"),
            ("UPDATE m SET mood = 'c' WHERE id = 3", "m U {{3,b}}>{{3,c}}"),
            ("UPDATE m SET mood = 'b'", "m S 22P03"),
            ("DELETE FROM m WHERE id = 2", "m D {{2,b}}"),
        ];
        outbox.check(&cases).await;
    }
}

#[tokio::test]
async fn a_statement_takes_no_transaction_id_of_its_own() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, "CREATE TABLE t (id int, city text); SELECT crieur.watch('t')").await;
        let statements = "INSERT INTO t VALUES (1); UPDATE t SET city = 'a'; DELETE FROM t;
                          INSERT INTO t VALUES (2), (3); UPDATE t SET city = 'b'; DELETE FROM t; TRUNCATE t;";
        run(&outbox.app, &format!("BEGIN; {}; COMMIT; INSERT INTO t VALUES (4)", statements.repeat(20))).await;
        let taken = "SELECT ((max(xid::text::bigint) - min(xid::text::bigint)) < 50)::text || ' ' || count(*) FROM crieur.outbox";
        assert_eq!(ask(&outbox.app, taken).await, "true 141");
    }
}

/// Drivers ask it for the number of the row that was just inserted.
#[tokio::test]
async fn lastval_stays_the_writers_own_and_rows_of_a_transaction_keep_their_order() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        run(&outbox.app, "CREATE TABLE t (id serial, city text); SELECT crieur.watch('t')").await;
        let inserts = "INSERT INTO t (city) VALUES ('a'); ";
        run(&outbox.app, &format!("BEGIN; {}; COMMIT", inserts.repeat(50))).await;
        assert_eq!(ask(&outbox.app, "SELECT lastval()::text || ' ' || currval('t_id_seq')").await, "50 50");
        let order = "SELECT string_agg(new[1][1], ' ' ORDER BY xid, id) FROM crieur.outbox";
        let all: Vec<String> = (1..=50).map(|id| id.to_string()).collect();
        assert_eq!(ask(&outbox.app, order).await, all.join(" "));
        run(&outbox.app, "SELECT crieur.limits(bytes_max => 1); INSERT INTO t (city) VALUES ('b')").await;
        assert_eq!(ask(&outbox.app, "SELECT count(*)::text FROM crieur.collapse").await, "1", "it is full");
        assert_eq!(ask(&outbox.app, "SELECT (lastval() = currval('t_id_seq'))::text").await, "true");
    }
}

#[tokio::test]
async fn a_bulk_statement_says_what_few_images_say_or_sweeps() {
    for version in Version::ALL {
        let outbox = Outbox::start(version).await;
        let cases = [
            (
                "CREATE TABLE t (id int PRIMARY KEY, city text, note text); SELECT crieur.watch('t', '{city}');
                 SELECT crieur.limits(rows_max => 1000, row_bytes_max => 50000)",
                "",
            ),
            ("INSERT INTO t SELECT i, i % 2 FROM generate_series(1, 5000) AS i", "t I {{0}} {{1}}"),
            ("UPDATE t SET city = city || 'a'", "t U {{0}}>{{0a}} {{1}}>{{1a}}"),
            ("UPDATE t SET city = 'b' WHERE id = 1 OR city = '-'", "t U {{1a}}>{{b}}"),
            ("UPDATE t SET city = CASE id WHEN 4500 THEN 'c' ELSE city END", "t U {{0a}}>{{c}}"),
            ("UPDATE t SET city = id", "t S"),
            ("UPDATE t SET city = id", ""),
            ("UPDATE t SET city = 'd' WHERE id <= 1001", "t S"),
            ("UPDATE t SET city = 'd'", "t S"),
            ("DELETE FROM t", "t D {{d}}"),
            ("INSERT INTO t VALUES (1, repeat('x', 60000), 'a')", "t S"),
            ("UPDATE t SET note = repeat('y', 60000)", "t S"),
            ("UPDATE t SET city = 'e'", "t S"),
            ("UPDATE t SET note = 'f'", "t U {{e}}>{{e}}"),
        ];
        outbox.check(&cases).await;
    }
}
