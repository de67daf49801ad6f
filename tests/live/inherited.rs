//! Tables that inherit from others, without being partitions: their rows are rows of the table that the rules name.

use super::daemon;
use super::scene::{self, Mode, Scene, set};

const RULES: &str = r#"
[[rules]]
table = "places"
keys = ["visits:{id}"]

[[rules]]
table = "houses"
keys = ["dashboard:{id}", "payments:lease:{rooms}"]

[[rules]]
table = "visit_bookings"
keys = ["available_slots:{property_id}"]
"#;

/// A tree of three levels, with a table of two parents in it.
const TABLES: &str = "
    CREATE TABLE places (id int NOT NULL, city text);
    CREATE TABLE named (title text);
    CREATE TABLE houses (rooms int) INHERITS (places);
    CREATE TABLE castles (towers int) INHERITS (houses, named);
    ALTER TABLE castles REPLICA IDENTITY FULL;
    INSERT INTO places VALUES (1, 'a'); INSERT INTO houses VALUES (41, 'a', 71);
    INSERT INTO castles VALUES (42, 'a', 72, 'k', 3)";

async fn scene(mode: Mode) -> (Scene, String) {
    let scene = Scene::of(mode, super::harness::postgres::Options::default(), &[]).await;
    scene.run(TABLES).await;
    let config = scene.config().replace(scene::RULES, RULES);
    for command in ["setup", "check"] {
        let out = daemon::run(command, &config, &[]);
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{mode:?} {command}: {text}{}", String::from_utf8_lossy(&out.stderr));
        assert!(!text.contains("WRONG"), "{text}");
    }
    (scene, config)
}

#[tokio::test]
async fn rows_of_a_table_are_rows_of_those_that_it_inherits_from() {
    for mode in Mode::ALL {
        let (scene, config) = scene(mode).await;
        let mut daemon = scene.daemon_with(&config).await;
        for (sql, keys) in [
            ("UPDATE places SET city = 'b' WHERE id = 1", &["visits:1"][..]),
            // Of the parent's keys only those of the row: there is no visits:42.
            ("UPDATE places SET city = 'b' WHERE id = 42", &["dashboard:42", "payments:lease:72"]),
            ("UPDATE castles SET id = 1", &["dashboard:42", "payments:lease:72", "visits:1"]),
            ("UPDATE houses SET rooms = 71 WHERE id = 1", &["payments:lease:71", "payments:lease:72", "visits:1"]),
            ("UPDATE named SET title = 'l'", &["payments:lease:71", "visits:1"]),
            ("INSERT INTO houses VALUES (150, 'c', 0)", &["visits:150"]),
            ("DELETE FROM ONLY places", &["visits:1"]),
            ("DELETE FROM places WHERE id = 41", &["dashboard:41", "payments:lease:71"]),
        ] {
            let gone = scene.change(&daemon, sql).await;
            assert_eq!(gone, set(keys), "{mode:?}: {sql}\n{}", daemon.log());
        }
        let all = ["dashboard:41", "dashboard:42", "payments:lease:71", "payments:lease:72", "visits:1", "visits:150"];
        assert_eq!(scene.change(&daemon, "TRUNCATE castles").await, set(&all), "{mode:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}
