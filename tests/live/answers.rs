//! Answers of lookups that are kept: asked once, asked again behind each change of what they were read from, and right
//! for every transaction.

use super::daemon::Daemon;
use super::harness::postgres::Options;
use super::scene::{Mode, RULES, Scene, set};

/// What the lookup of a payment looks like in the server's log.
const ASKED: &str = "SELECT p.owner_id FROM leases l";

/// The rules, with an owner's dashboard that says what it depends on.
fn rules() -> String {
    let tables = "args = [\"lease_id\"], tables = [\"leases\", \"public.properties\"]";
    let kept = RULES.replace("args = [\"lease_id\"]", tables);
    assert_ne!(kept, RULES);
    format!("[ignore]\n\"public.properties\" = [\"title\"]\n{kept}")
}

async fn scene(mode: Mode) -> (Scene, String) {
    let conf = vec!["log_statement = 'all'".to_owned()];
    let scene = Scene::of(mode, Options { conf, ..Options::default() }, &[]).await;
    let config = scene.config().replace(RULES, &rules());
    let out = super::daemon::run("setup", &config, &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (scene, config)
}

/// How often the lookup ran.
fn asked(scene: &Scene) -> usize {
    scene.postgres.log().lines().filter(|line| line.contains("LOG:  execute ") && line.contains(ASKED)).count()
}

/// The payment in its place, or behind the change.
fn change_with(change: &str, payment: &str) -> String {
    if change.contains("PAYMENT") { change.replace("PAYMENT", payment) } else { format!("{change}; {payment}") }
}

fn payment(id: u32, lease: u32) -> String {
    format!("INSERT INTO rental_payments VALUES ({id}, {lease}, 1)")
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_again_behind_each_change_of_its_tables() {
    let (scene, config) = scene(Mode::Replication).await;
    let mut daemon = scene.daemon_with(&config).await;
    let leases = "SELECT 'yes' FROM pg_publication_tables WHERE tablename = 'leases'";
    assert_eq!(scene.sql.query(leases, &[]).await.expect("it answers").len(), 1, "setup publishes it");
    let of = |owner: u32| set(&[&format!("dashboard:{owner}"), "payments:lease:71"]);
    let mut number = 100;
    let mut pay = async |scene: &Scene, before: &str, owner: u32| {
        number += 1;
        let sql = change_with(before, &payment(number, 71));
        let gone = scene.change(&daemon, &sql).await;
        let gone = gone.into_iter().filter(|key| key.starts_with("dashboard") || key.starts_with("payments"));
        assert_eq!(gone.collect::<std::collections::BTreeSet<_>>(), of(owner), "{sql}\n{}", daemon.log());
        asked(scene)
    };
    let first = pay(&scene, "SELECT 1", 41).await;
    assert!(first > 0);
    for same in [
        "SELECT 1",
        // A column that the table ignores, and tables that the lookup does not read.
        "UPDATE properties SET title = 'viewed' WHERE id = 1",
        "INSERT INTO visits VALUES (7)",
        // What was rolled back never was.
        "BEGIN; UPDATE leases SET property_id = 2; ROLLBACK",
    ] {
        assert_eq!(pay(&scene, same, 41).await, first, "{same}");
    }
    let mut before = first;
    for (change, owner) in [
        // In a transaction of its own, and in that of the payment.
        ("UPDATE properties SET owner_id = 42 WHERE id = 1", 42),
        ("BEGIN; UPDATE leases SET property_id = 3 WHERE id = 72; PAYMENT; COMMIT", 42),
        ("BEGIN; PAYMENT; UPDATE properties SET owner_id = 41 WHERE id = 1; COMMIT", 41),
        ("TRUNCATE leases; INSERT INTO leases VALUES (71, 2)", 42),
        ("DELETE FROM leases; INSERT INTO leases VALUES (71, 1)", 41),
    ] {
        let now = pay(&scene, change, owner).await;
        assert!(now > before, "{change}");
        before = now;
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_column_of_another_type_is_written_as_that_type_from_then_on() {
    for mode in Mode::ALL {
        for triggers in [true, false] {
            is_written_as_its_type(mode, triggers).await;
        }
    }
}

/// With and without event triggers that tell of the change.
async fn is_written_as_its_type(mode: Mode, triggers: bool) {
    let (scene, config) = scene(mode).await;
    if !triggers {
        for name in ["crieur_ddl", "crieur_drop", "crieur_rewrite"] {
            scene.run(&format!("DROP EVENT TRIGGER IF EXISTS {name}")).await;
        }
    }
    scene.run("ALTER TABLE properties ALTER owner_id TYPE numeric(12, 2)").await;
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("a column that a lookup reads is of another type than it was");
    pays_exactly(&scene, &daemon, 1_000).await;
    scene.change(&daemon, "ALTER TABLE properties ALTER owner_id TYPE text USING owner_id::int").await;
    pays_exactly(&scene, &daemon, 2_000).await;
    scene.change(&daemon, "ALTER TABLE properties ALTER owner_id TYPE numeric(12, 2) USING owner_id::numeric").await;
    pays_exactly(&scene, &daemon, 3_000).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A payment of lease 71 deletes the owner's dashboard: at first with all else, where the change of the table brings a
/// sweep, and then by its name.
async fn pays_exactly(scene: &Scene, daemon: &Daemon, first: u32) {
    for id in first..first + 200 {
        let gone = scene.change(daemon, &payment(id, 71)).await;
        assert!(gone.contains("dashboard:41"), "{gone:?}\n{}", daemon.log());
        if gone == set(&["dashboard:41", "payments:lease:71"]) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("sweeps without end:\n{}", daemon.log());
}

/// Transactions come in the order of their numbers there, so one may come before a change that it saw.
#[tokio::test]
async fn in_outbox_mode_each_batch_asks() {
    let (scene, config) = scene(Mode::Outbox).await;
    let mut daemon = scene.daemon_with(&config).await;
    let of_71 = set(&["dashboard:41", "payments:lease:71"]);
    assert_eq!(scene.change(&daemon, &payment(101, 71)).await, of_71);
    let first = asked(&scene);
    assert_eq!(scene.change(&daemon, &payment(102, 71)).await, of_71);
    assert!(asked(&scene) > first && first > 0);
    assert_eq!(daemon.stop(), Some(0));
}

/// No row changes where a table becomes a partition, or ceases to be one.
#[tokio::test]
async fn partitions_come_to_a_looked_up_table_and_go_with_their_rows() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let partitions = "CREATE TABLE owners (id int PRIMARY KEY, owner_id int) PARTITION BY RANGE (id); \
            CREATE TABLE owners_low PARTITION OF owners FOR VALUES FROM (0) TO (50); \
            CREATE TABLE owners_high (LIKE owners INCLUDING ALL); INSERT INTO owners_high VALUES (71, 41)";
        scene.run(partitions).await;
        let sql = "sql = \"SELECT owner_id FROM owners WHERE id = $1\", args = [\"lease_id\"], tables = [\"owners\"]";
        let (start, end) = (RULES.find("sql = ").expect("a lookup"), RULES.find(" }").expect("its end"));
        let config = scene.config().replace(RULES, &format!("{}{sql}{}", &RULES[..start], &RULES[end..]));
        let out = super::daemon::run("setup", &config, &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut daemon = scene.daemon_with(&config).await;
        let attach = "ALTER TABLE owners ATTACH PARTITION owners_high FOR VALUES FROM (50) TO (100)";
        for (number, (change, owner)) in [
            ("SELECT 1", None),
            (attach, Some(41)),
            ("UPDATE owners SET owner_id = 42 WHERE id = 71", Some(42)),
            ("ALTER TABLE owners DETACH PARTITION owners_high", None),
            (&format!("UPDATE owners_high SET owner_id = 41; {attach}"), Some(41)),
            ("DROP TABLE owners_high", None),
        ]
        .into_iter()
        .enumerate()
        {
            // What DDL itself deletes is gone before the payment.
            scene.change(&daemon, change).await;
            let gone = scene.change(&daemon, &payment(101 + number as u32, 71)).await;
            let mut expected = set(&["payments:lease:71"]);
            expected.extend(owner.map(|owner: u32| format!("dashboard:{owner}")));
            assert_eq!(gone, expected, "{mode:?} {change}\n{}", daemon.log());
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}
