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
    (
        "UPDATE parents SET id = 10 WHERE id = 1",
        "children U {{1}}>{{10}}; parents U {{1,Mbour}}>{{10,Mbour}}",
    ),
    ("DELETE FROM parents WHERE id IN (2, 10)", "children D {{10}}; parents D {{10,Mbour}} {{2,Mbour}}"),
    ("BEGIN; INSERT INTO parents VALUES (7, 'a'); DELETE FROM parents WHERE id = 7; COMMIT", "parents D {{7,a}}; parents I {{7,a}}"),
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
        for sql in [
            "CREATE PUBLICATION types FOR TABLE types",
            "SELECT pg_create_logical_replication_slot('types', 'pgoutput')",
        ] {
            run(&outbox.admin, sql).await;
        }
        // Another writer's settings must not show.
        let settings = "SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = iso_8601;
                        SET extra_float_digits = -5; SET bytea_output = escape";
        run(&outbox.app, settings).await;
        run(&outbox.app, VALUES).await;
        run(&outbox.app, "RESET ALL").await;
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
                    SET extra_float_digits = 1; SET bytea_output = hex; SET search_path = ''";
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
        an int[], ao bytea[], ap tsquery, aq tsvector, ar regclass, "at" bits, old int, new text, kind text, place int
    );
    ALTER TABLE types DROP COLUMN gone;
    SELECT crieur.watch('types')"#;

const VALUES: &str = r#"
    INSERT INTO types VALUES (
        1, E'a,"b{}\\ \n', true, 'x', 'v ', 1.50, 0.1, 1e100/3, '2024-02-01', '1:2:3.4', '1:2:3+05', '2024-02-01 3:4',
        '2024-07-01 3:4:5.6+02', '1 year 2 mons -3 days 4:05', '\x00ff41', 'it''s "ok"', '{sad,NULL}', 'ab',
        ROW('2024-01-01Z', true, 'q'), ARRAY[ROW('2024-01-01Z', false, NULL)::pair], '{1,2}', 'sad',
        ROW('2024-01-01Z', true, 'z'), '{"a" : 1}', '{"a" : 1}', '<a>b</a>', '(1.1,2)', '((0,0),(1,0.1))', '10.0.0.1',
        '10.0.0.0/8', '08:00:2b:01:02:03', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', B'101', '[1,5)',
        '[2024-01-01Z,2024-01-02Z)', '{[2024-01-01Z,2024-01-02Z)}', 12, 'name', 'c', 12.5, '{a,"b c",NULL}',
        '{{1,2},{3,4}}', ARRAY['\x01'::bytea], 'a & b', 'a:1 b:2', 'pg_class', B'110', 3, '', 'NULL', 4
    );
    INSERT INTO types (kind) VALUES (NULL)"#;
