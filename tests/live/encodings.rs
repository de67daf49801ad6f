//! Databases whose encoding is not UTF-8, and bytes in them that have no form in it: no row ends the work for the others.

use crieur::decode::encodings::Encoding;
use tokio_postgres::{Client, NoTls};

use super::daemon::{self, Daemon};
use super::harness::postgres::{Options, Postgres, Version};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, settled};
use super::scene::Mode;

const RULES: &str = r#"
[[rules]]
table = "public.items"
keys = ["item:{id}", "city:{city}"]
[[rules]]
table = "public.notes"
keys = ["note:{id}", "text:{text}"]
"#;

const NO_FORM: &str = "has a value with a byte that has no form in UTF-8";

/// Two servers, and a database with this encoding and with what `crieur setup` makes.
struct Place {
    mode: Mode,
    url: String,
    cache: Redis,
    sql: Client,
    _postgres: Postgres,
}

impl Place {
    async fn of(mode: Mode, encoding: &str) -> Place {
        let postgres = Postgres::start(Options::default());
        let create = format!("CREATE DATABASE app ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        postgres.client().await.batch_execute(&create).await.expect("valid SQL");
        let url = format!("{}/app", postgres.url().strip_suffix("/postgres").expect("it names the database"));
        let (sql, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it accepts sessions");
        tokio::spawn(connection);
        let place = Place { mode, url, cache: Redis::start(&Server::System, &[]), sql, _postgres: postgres };
        place.run("CREATE TABLE items (id int PRIMARY KEY, city text); CREATE TABLE notes (id int PRIMARY KEY, text text)")
            .await;
        place.run("ALTER TABLE items REPLICA IDENTITY FULL; ALTER TABLE notes REPLICA IDENTITY FULL").await;
        let out = daemon::run("setup", &place.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        place
    }

    fn config(&self) -> String {
        let (url, cache) = (&self.url, self.cache.url());
        self.mode.config(&format!(
            "[postgres]\nurl = \"{url}\"\n[cache]\nurl = \"{cache}\"\necho = []\ninvalidate = [\"named:*\"]\n{RULES}"
        ))
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn daemon(&self) -> Daemon {
        let mut daemon = Daemon::start(&self.config(), &[]);
        daemon.wait_for_log(self.mode.started());
        settled("the mark is written", PATIENCE, async || match self.has("crieur:mark:crieur") {
            true => Ok(()),
            false => Err(daemon.log()),
        })
        .await;
        daemon
    }

    fn set(&self, key: &str) {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut self.cache.connection()).expect("it is writable");
    }

    fn has(&self, key: &str) -> bool {
        redis::cmd("EXISTS").arg(key).query(&mut self.cache.connection()).expect("it answers")
    }

    async fn goes(&self, key: &str, daemon: &Daemon) {
        let what = format!("{key} goes");
        settled(&what, PATIENCE, async || if self.has(key) { Err(daemon.log()) } else { Ok(()) }).await;
    }
}

/// What crieur converts itself it converts as every server does, and what no server converts it does not.
#[tokio::test]
async fn each_encoding_of_one_byte_is_the_servers() {
    for version in Version::ALL {
        let postgres = Postgres::start(Options { version, ..Options::default() });
        let sql = postgres.client().await;
        let converted = "CREATE FUNCTION pg_temp.converted(bytes bytea, encoding text) RETURNS text LANGUAGE plpgsql AS $$
            BEGIN RETURN convert_from(bytes, encoding); EXCEPTION WHEN untranslatable_character THEN RETURN NULL; END $$";
        sql.batch_execute(converted).await.expect("valid SQL");
        let one = "SELECT string_agg(pg_temp.converted(set_byte('\\x00', 0, byte), $1), '' ORDER BY byte) \
                   FROM generate_series(128, 255) AS byte";
        for encoding in Encoding::all() {
            let (_, text) = encoding.sample();
            let row = sql.query_one(one, &[&encoding.name]).await.unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(row.get::<_, String>(0), text, "{} on {version:?}", encoding.name);
        }
    }
}

#[tokio::test]
async fn keys_are_the_servers_utf_8_whatever_the_database_holds() {
    let cases = [
        ("LATIN1", "Thiès"),
        ("WIN1252", "Saint-Louis – 5 € près"),
        ("KOI8R", "Москва"),
        ("ISO_8859_7", "Αθήνα"),
        ("EUC_JP", "東京 é"),
    ];
    for (encoding, city) in cases {
        let place = Place::of(Mode::Replication, encoding).await;
        let mut daemon = place.daemon().await;
        let (key, named) = (format!("city:{city}"), format!("named:{city}"));
        [&key, &named, "city:x"].into_iter().for_each(|key| place.set(key));
        place.run(&format!("INSERT INTO items VALUES (1, '{city}')")).await;
        place.goes(&key, &daemon).await;
        place.run(&format!("SELECT crieur.invalidate_exact('{named}')")).await;
        place.goes(&named, &daemon).await;
        // The old row's, too, and in a transaction that is streamed while it is open.
        place.set(&key);
        let update = "BEGIN; INSERT INTO items SELECT id, 'x' || id FROM generate_series(2, 30000) AS id; \
                      UPDATE items SET city = 'y' WHERE id = 1; COMMIT";
        place.run(update).await;
        place.goes(&key, &daemon).await;
        assert!(place.has("city:x"), "{encoding}: {}", daemon.log());
        assert_eq!(daemon.log().matches("id=stream.started").count(), 1, "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// 0x81 is no character of WIN1252, and the server takes it: whoever writes in WIN1252 may write it.
#[tokio::test]
async fn a_byte_without_a_form_in_utf_8_stops_nothing_and_its_table_is_named() {
    let place = Place::of(Mode::Replication, "WIN1252").await;
    let mut daemon = place.daemon().await;
    daemon.allow(NO_FORM);
    let keys = ["note:1", "item:1", "city:Thiès", "named:é"];
    keys.iter().for_each(|key| place.set(key));
    place.set("text:x");
    place.run("SET client_encoding = 'WIN1252'").await;
    place.run("INSERT INTO notes VALUES (1, E'\\x81'); INSERT INTO items VALUES (1, E'Thi\\xE8s')").await;
    for key in &keys[..3] {
        place.goes(key, &daemon).await;
    }
    daemon.wait_for_log("table \"public.notes\" has a value with a byte that has no form in UTF-8");
    // A key that cannot be named in UTF-8 refuses no writer: all that may be named go.
    place.run("SELECT crieur.invalidate_exact(E'named:\\x81')").await;
    place.goes("named:é", &daemon).await;
    assert!(place.has("text:x"), "nothing is swept: {}", daemon.log());
    // The old row holds it, and a column's name.
    place.set("note:1");
    place.run(r#"DO $$ BEGIN EXECUTE 'ALTER TABLE notes ADD COLUMN "' || E'\x81' || '" int'; END $$"#).await;
    place.run("DELETE FROM notes").await;
    place.goes("note:1", &daemon).await;
    assert_eq!(daemon.log().matches("id=stream.started").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// What only the server can convert: it cannot say where to go on, so the slot is made anew and nothing is lost.
#[tokio::test]
async fn a_character_without_a_form_in_utf_8_that_only_the_server_could_convert_sweeps() {
    let place = Place::of(Mode::Replication, "EUC_JP").await;
    let mut daemon = place.daemon().await;
    for allowed in ["SQLSTATE 22P05", "id=slot.anew"] {
        daemon.allow(allowed);
    }
    ["note:1", "item:1", "city:東京"].into_iter().for_each(|key| place.set(key));
    place.run("SET client_encoding = 'EUC_JP'").await;
    // Row 9 of JIS X 0208 holds nothing.
    place.run(r"INSERT INTO notes VALUES (1, E'\xA9\xA1'); INSERT INTO items VALUES (1, 'a')").await;
    daemon.wait_for_log("cannot be decoded from its position on: it is created anew");
    for key in ["note:1", "item:1", "city:東京"] {
        place.goes(key, &daemon).await;
    }
    daemon.wait_for_logs("id=stream.started", 2);
    place.set("item:2");
    place.run("INSERT INTO items VALUES (2, 'b')").await;
    place.goes("item:2", &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A page of the outbox that holds such a value fails as a whole: the row's table is swept, and all other rows are read.
#[tokio::test]
async fn a_byte_without_a_form_in_utf_8_in_the_outbox_sweeps_its_table() {
    for (encoding, odd) in [("WIN1252", r"\x81"), ("EUC_JP", r"\xA9\xA1")] {
        let place = Place::of(Mode::Outbox, encoding).await;
        let mut daemon = place.daemon().await;
        daemon.allow("table \"public.notes\" is swept");
        ["text:x", "note:7", "city:a", "city:40", "city:99", "named:a"].into_iter().for_each(|key| place.set(key));
        place.run(&format!("SET client_encoding = '{encoding}'")).await;
        // One statement a row of the outbox: the page that holds it has others before and behind.
        let rows = |from: u32, to: u32| (from..to).map(|id| format!("INSERT INTO items VALUES ({id}, '{id}');"));
        let before: String = rows(1, 50).collect();
        let behind: String = rows(50, 100).collect();
        place.run(&format!("BEGIN; {before} INSERT INTO notes VALUES (1, E'{odd}'); {behind} COMMIT")).await;
        for key in ["text:x", "note:7", "city:40", "city:99"] {
            place.goes(key, &daemon).await;
        }
        daemon.wait_for_log("its change was not captured: a value of it has no form in UTF-8");
        assert!(place.has("city:a"), "{encoding}: {}", daemon.log());
        place.run(&format!("SELECT crieur.invalidate_exact(E'named:{odd}')")).await;
        place.goes("named:a", &daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// A publication of all tables brings tables that no rule can name.
#[tokio::test]
async fn names_without_a_form_in_utf_8_are_strangers() {
    for encoding in ["SQL_ASCII", "WIN1252", "EUC_JP"] {
        let place = Place::of(Mode::Replication, encoding).await;
        let odd = if encoding == "EUC_JP" { r"\xA4\xA2" } else { r"\x81" };
        place.run("BEGIN; DROP PUBLICATION crieur; CREATE PUBLICATION crieur FOR ALL TABLES; COMMIT").await;
        let create =
            format!("EXECUTE 'CREATE TABLE \"t' || E'{odd}' || '\" (\"c' || E'{odd}' || '\" int PRIMARY KEY)'");
        place.run(&format!("DO $$ BEGIN {create}; END $$")).await;
        let mut daemon = place.daemon().await;
        daemon.allow("leaves out");
        ["item:1", "item:2"].into_iter().for_each(|key| place.set(key));
        let insert = format!("EXECUTE 'INSERT INTO \"t' || E'{odd}' || '\" VALUES (1)'");
        place.run(&format!("DO $$ BEGIN {insert}; END $$")).await;
        place.run("INSERT INTO items VALUES (1, 'a')").await;
        place.goes("item:1", &daemon).await;
        assert!(place.has("item:2"), "nothing is swept: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
