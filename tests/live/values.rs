//! Values of every kind of type, as a real server sends them, in the keys that a script makes of them. The texts are
//! those that `node` printed of what the server's `to_json` wrote.

use std::collections::BTreeSet;

use super::daemon::{self, Daemon};
use super::harness::postgres;
use super::scene::{Mode, RULES, Scene};

/// Type, value, text in a key; domains and enums are made below.
const VALUES: &[(&str, &str, &str)] = &[
    ("numeric", "0.0000001", "1e-7"),
    ("numeric", "0.000001", "0.000001"),
    ("numeric", "1000000000000000000000", "1e+21"),
    ("numeric(12,2)", "250000", "250000"),
    ("numeric", "0.00", "0"),
    ("numeric", "NaN", "NaN"),
    ("numeric", "-Infinity", "-Infinity"),
    ("float8", "1e20", "100000000000000000000"),
    ("float8", "1e21", "1e+21"),
    ("float8", "1e-7", "1e-7"),
    ("float8", "-0", "0"),
    ("float8", "9007199254740993", "9007199254740992"),
    ("float4", "1234567.9", "1234567.9"),
    ("float4", "0.1", "0.1"),
    ("int8", "-42", "-42"),
    ("bool", "yes", "true"),
    ("timestamptz", "2024-01-02 03:04:05.120+05:30", "2024-01-01T21:34:05.12+00:00"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC", "0044-03-15T12:00:00+00:00 BC"),
    ("timestamp", "2024-01-02 03:04:05", "2024-01-02T03:04:05"),
    ("timestamp", "infinity", "infinity"),
    ("date", "2024-01-02", "2024-01-02"),
    ("interval", "1 day 2 hours", "1 day 02:00:00"),
    ("uuid", "AAAAAAAA-0000-0000-0000-000000000000", "aaaaaaaa-0000-0000-0000-000000000000"),
    ("bytea", "\\xDEadbe", "\\xdeadbe"),
    ("inet", "10.0.0.1/32", "10.0.0.1"),
    ("char(4)", "ab", "ab  "),
    ("varchar", " x ", " x "),
    ("money", "12.5", "$12.50"),
    // An array is PostgreSQL's own text, whatever a script would join it with.
    ("int[]", "{1,NULL}", "{1,NULL}"),
    ("text[]", "{a,\"b c\"}", "{a,\"b c\"}"),
    ("mood", "SAD *", "SAD *"),
    ("of_mood", "calm", "calm"),
    ("of_bool", "f", "false"),
    ("of_of_numeric", "1.50", "1.5"),
    ("of_time", "2024-01-02 03:04:05+00", "2024-01-02T03:04:05+00:00"),
    ("of_json", "{\"a\": 1}", "{\"a\": 1}"),
    ("pair", "(1,\"a b\")", "(1,\"a b\")"),
    // Composed and decomposed, and every kind of blank: byte for byte.
    ("text", "e\u{301}\u{e9}\u{a0}\t\r\n", "e\u{301}\u{e9}\u{a0}\t\r\n"),
    ("text", "", ""),
];

const TYPES: &str = "
CREATE TYPE mood AS ENUM ('calm', 'SAD *');
CREATE DOMAIN of_mood AS mood;
CREATE DOMAIN of_bool AS bool;
CREATE DOMAIN of_numeric AS numeric;
CREATE DOMAIN of_of_numeric AS of_numeric;
CREATE DOMAIN of_time AS timestamptz;
CREATE DOMAIN of_json AS jsonb;
CREATE TYPE pair AS (a int, b text);
";

async fn gone(scene: &Scene, daemon: &Daemon, keys: &BTreeSet<String>, sql: &str) -> BTreeSet<String> {
    let mut pipe = redis::pipe();
    keys.iter().for_each(|key| _ = pipe.set(key, "v").ignore());
    let () = pipe.query(&mut scene.keys()).expect("it is writable");
    scene.run(sql).await;
    scene.confirmed(daemon).await;
    let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut scene.keys()).expect("it answers");
    keys.difference(&left).cloned().collect()
}

#[tokio::test]
async fn values_of_every_type_are_written_as_a_script_writes_them() {
    for mode in Mode::ALL {
        check(mode).await;
    }
}

async fn check(mode: Mode) {
    let scene = Scene::of(mode, postgres::Options::default(), &[]).await;
    let columns: Vec<String> = VALUES.iter().enumerate().map(|(at, (ty, ..))| format!("c{at} {ty}")).collect();
    scene.run(&format!("{TYPES} CREATE TABLE v (id int PRIMARY KEY, {});", columns.join(", "))).await;
    scene.run("ALTER TABLE v REPLICA IDENTITY FULL").await;
    let keys: Vec<String> = (0..VALUES.len()).map(|at| format!("\"v:{at}:{{c{at}}}\"")).collect();
    let condition = "c32 = false and c33 < 2 and c34 > '2024-01-01' and c35.a = 1";
    let rules = format!("[[rules]]\ntable = \"v\"\nwhen = \"{condition}\"\nkeys = [{}]\n", keys.join(", "));
    let config = scene.config().replace(RULES, &rules);
    assert!(daemon::run("setup", &config, &[]).status.success());
    let mut daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;
    let mut keys: BTreeSet<String> =
        VALUES.iter().enumerate().map(|(at, (_, _, text))| format!("v:{at}:{text}")).collect();
    let expected = keys.clone();
    keys.insert("v:38:x".to_owned());
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let values: Vec<String> = VALUES.iter().map(|(_, value, _)| literal(value)).collect();
    let insert = format!("INSERT INTO v VALUES (1, {})", values.join(", "));
    for sql in [&insert, "DELETE FROM v"] {
        let gone = gone(&scene, &daemon, &keys, sql).await;
        assert_eq!(gone, expected, "{mode:?} {:?}\n{}", expected.difference(&gone), daemon.log());
    }
    // A domain's value that differs is another one: the condition reads it as its type.
    let other = insert.replace("'1.50'", "'2.50'");
    assert_eq!(gone(&scene, &daemon, &keys, &other).await, BTreeSet::new());
    assert_eq!(daemon.stop(), Some(0));
}
