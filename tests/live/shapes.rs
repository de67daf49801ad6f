//! Tables that look otherwise than when the rules were written: columns that go and come, another primary key, generated
//! columns, the same name in another schema or among the partitions of another table.

use std::collections::BTreeSet;

use super::daemon::Daemon;
use super::harness::postgres::{Options, Version};
use super::scene::{self, RULES, Scene, set};

const TABLES: &str = "
CREATE TABLE shop (id int PRIMARY KEY, city text, price numeric, twice numeric GENERATED ALWAYS AS (price * 2) STORED);
CREATE TABLE plain (id int PRIMARY KEY, code int NOT NULL UNIQUE, city text);
CREATE SCHEMA other;
CREATE TABLE other.shop (id int PRIMARY KEY, city text);
CREATE TABLE tree (id int, kind text NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE other.tree PARTITION OF tree FOR VALUES IN ('a');
CREATE TABLE other.plain PARTITION OF tree FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE other.leaf PARTITION OF other.plain FOR VALUES FROM (0) TO (100);
ALTER TABLE shop REPLICA IDENTITY FULL;
ALTER TABLE other.shop REPLICA IDENTITY FULL;
";

const OUR_RULES: &str = r#"
[[rules]]
table = "public.shop"
keys = ["shop:{id}", "city:{city}"]
[[rules]]
table = "public.shop"
changed = ["price"]
keys = ["price:{id}"]
[[rules]]
table = "public.shop"
ignore = ["city", "town"]
keys = ["seen:{id}"]
[[rules]]
table = "public.plain"
keys = ["plain:{id}", "code:{code}"]
[[rules]]
table = "public.tree"
keys = ["tree:{kind}:{id}"]
"#;

const KEYS: &[&str] = &[
    "shop:1",
    "shop:2",
    "city:Dakar",
    "city:Thiès",
    "price:1",
    "price:2",
    "seen:1",
    "seen:2",
    "plain:1",
    "plain:2",
    "code:1",
    "code:2",
    "tree:a:1",
    "tree:a:2",
    "tree:b:1",
    "tree:b:2",
    "twice:1",
    "twice:10",
];

async fn gone(scene: &Scene, daemon: &Daemon, sql: &str) -> BTreeSet<String> {
    let mut pipe = redis::pipe();
    KEYS.iter().for_each(|key| _ = pipe.set(key, "v").ignore());
    let () = pipe.query(&mut scene.keys()).expect("it is writable");
    scene.run(sql).await;
    scene.confirmed(daemon).await;
    let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut scene.keys()).expect("it answers");
    set(KEYS).difference(&left).cloned().collect()
}

async fn start(version: Version, rules: &str) -> (Scene, Daemon) {
    let scene = Scene::with(Options { version, ..Options::default() }, &[]).await;
    scene.run(TABLES).await;
    let config = scene::config(&scene.postgres.url(), &scene.cache.url()).replace(RULES, rules);
    scene.run("DROP PUBLICATION crieur; CREATE PUBLICATION crieur FOR ALL TABLES").await;
    let daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;
    (scene, daemon)
}

async fn check(scene: &Scene, daemon: &Daemon, cases: &[(&str, &[&str])]) {
    for (sql, expected) in cases {
        assert_eq!(gone(scene, daemon, sql).await, set(expected), "{sql}\n{}", daemon.log());
    }
}

const SHOP: &[&str] = &["shop:1", "shop:2", "city:Dakar", "city:Thiès", "price:1", "price:2", "seen:1", "seen:2"];
const PLAIN: &[&str] = &["plain:1", "plain:2", "code:1", "code:2"];
const TREE: &[&str] = &["tree:a:1", "tree:a:2", "tree:b:1", "tree:b:2"];

#[tokio::test]
async fn a_table_of_the_same_name_elsewhere_is_another_one() {
    let (scene, mut daemon) = start(Version::System, OUR_RULES).await;
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO other.shop VALUES (1, 'Dakar')", &[]),
        ("UPDATE other.shop SET city = 'Thiès'", &[]),
        ("TRUNCATE other.shop", &[]),
        ("ALTER TABLE other.shop ADD x int DEFAULT 1", &[]),
        // Partitions in another schema, one of them named as another table of the rules: they are their root.
        ("INSERT INTO tree VALUES (1, 'a')", &["tree:a:1"]),
        ("INSERT INTO tree VALUES (2, 'b')", &["tree:b:2"]),
        ("UPDATE tree SET kind = 'b', id = 1 WHERE id = 1", &["tree:a:1", "tree:b:1"]),
        ("TRUNCATE other.leaf", TREE),
        ("INSERT INTO plain VALUES (1, 2, 'Dakar')", &["plain:1", "code:2"]),
        ("ALTER TABLE other.shop SET SCHEMA public", &[]),
        ("SELECT 1", &[]),
    ];
    let (moving, rest) = cases.split_at(cases.len() - 2);
    check(&scene, &daemon, moving).await;
    assert!(scene.sql.batch_execute(rest[0].0).await.is_err(), "there is one of this name");
    check(&scene, &daemon, &rest[1..]).await;
    // The table of the rules leaves its schema, and another one takes its name.
    let moved = "ALTER TABLE shop RENAME TO shop_old; ALTER INDEX shop_pkey RENAME TO old; ALTER TABLE other.shop SET SCHEMA public";
    check(
        &scene,
        &daemon,
        &[(moved, SHOP), ("INSERT INTO shop VALUES (2, 'Dakar')", &["shop:2", "city:Dakar", "price:2", "seen:2"])],
    )
    .await;
    check(&scene, &daemon, &[("INSERT INTO shop VALUES (1, 'Thiès')", &["shop:1", "city:Thiès", "price:1", "seen:1"])])
        .await;
    assert_eq!(daemon.stop(), Some(0));
}

/// DDL sweeps the table's families when it commits, and once more with the first change that is described anew.
#[tokio::test]
async fn columns_that_go_and_come_while_it_runs_widen_and_are_exact_again() {
    let (scene, mut daemon) = start(Version::System, OUR_RULES).await;
    let one = &["shop:1", "price:1", "seen:1", "city:Dakar"];
    let widened = &["shop:1", "price:1", "seen:1", "city:Dakar", "city:Thiès"];
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO shop VALUES (1, 'Dakar', 5)", one),
        ("UPDATE shop SET city = 'Thiès'", &["shop:1", "city:Dakar", "city:Thiès"]),
        ("ALTER TABLE shop RENAME city TO town; UPDATE shop SET town = 'x'", SHOP),
        // `town` is ignored where it stands in `ignore`, and nobody knows the city.
        ("UPDATE shop SET town = 'Dakar'", &["shop:1", "city:Dakar", "city:Thiès"]),
        ("DELETE FROM shop", widened),
        ("ALTER TABLE shop RENAME town TO city; INSERT INTO shop VALUES (1, 'Dakar', 5)", SHOP),
        ("UPDATE shop SET price = 6", one),
        ("ALTER TABLE shop DROP twice, DROP price; UPDATE shop SET id = 1", SHOP),
        // Without its column `changed` holds nobody back.
        ("UPDATE shop SET city = 'Dakar'", &["shop:1", "city:Dakar", "price:1"]),
        ("ALTER TABLE shop ADD price int DEFAULT 1; UPDATE shop SET id = 1", SHOP),
        ("UPDATE shop SET city = 'Dakar', price = 1", &["shop:1", "city:Dakar"]),
    ];
    check(&scene, &daemon, cases).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn another_primary_key_is_another_replica_identity() {
    let (scene, mut daemon) = start(Version::System, OUR_RULES).await;
    let other_key = "ALTER TABLE plain DROP CONSTRAINT plain_pkey; ALTER TABLE plain ADD PRIMARY KEY (code)";
    let by_index = "CREATE UNIQUE INDEX by_both ON plain (id, code); ALTER TABLE plain ALTER id SET NOT NULL;
                    ALTER TABLE plain REPLICA IDENTITY USING INDEX by_both";
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO plain VALUES (1, 1, 'Dakar')", &["plain:1", "code:1"]),
        // The key tells the old id; nobody tells the old code.
        ("UPDATE plain SET id = 2", &["plain:1", "plain:2", "code:1", "code:2"]),
        // No value changed. Now the key tells the code, and nobody the id.
        (other_key, &[]),
        ("UPDATE plain SET city = 'x'", &["plain:1", "plain:2", "code:1"]),
        ("UPDATE plain SET code = 2", PLAIN),
        ("UPDATE plain SET city = 'Thiès'", &["plain:1", "plain:2", "code:2"]),
        (by_index, &[]),
        ("UPDATE plain SET city = 'x'", &["plain:2", "code:2"]),
        ("UPDATE plain SET city = 'Mbour'", &["plain:2", "code:2"]),
        ("UPDATE plain SET id = 1", &["plain:1", "plain:2", "code:2"]),
        ("DELETE FROM plain", &["plain:1", "code:2"]),
    ];
    check(&scene, &daemon, cases).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_generated_column_that_is_not_published_widens_and_a_published_one_is_exact() {
    let rules = "[[rules]]\ntable = \"shop\"\nkeys = [\"twice:{twice}\"]\n";
    for version in [Version::System, Version::V18] {
        let (scene, mut daemon) = start(version, rules).await;
        // Its identity is FULL: the newer server would refuse its updates, and crieur lets the column be sent at once.
        let before: &[&str] = if version == Version::V18 { &["twice:10"] } else { &["twice:1", "twice:10"] };
        if version == Version::V18 {
            daemon.allow("That is mended: ALTER PUBLICATION \"crieur\" SET (publish_generated_columns = stored);");
            daemon.wait_for_log("That is mended");
            scene.confirmed(&daemon).await;
        }
        check(&scene, &daemon, &[("INSERT INTO shop VALUES (1, 'a', 5)", before)]).await;
        if version == Version::V18 {
            check(&scene, &daemon, &[("ALTER TABLE shop ADD x int; DELETE FROM shop", &["twice:1", "twice:10"])]).await;
            check(&scene, &daemon, &[("INSERT INTO shop VALUES (1, 'a', 5)", &["twice:10"])]).await;
            check(&scene, &daemon, &[("UPDATE shop SET price = 0.5", &["twice:10", "twice:1"])]).await;
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}
