//! The tools for trust against real servers: `check` of rules, `coverage`, `run --dry-run`, `explain --diff`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::daemon::{self, STARTED};
use super::harness::process::{Process, Signal};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{KEYS, RULES, Scene, set};

fn crieur(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crieur")).args(args).env_clear().output().expect("cargo built the program")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn check_reads_rules_against_types_labels_and_rows() {
    let scene = Scene::start().await;
    scene
        .run(
            "CREATE TYPE state AS ENUM ('free', 'let'); CREATE DOMAIN place AS jsonb;
             ALTER TABLE properties ADD state state DEFAULT 'free', ADD location place;
             UPDATE properties SET location = '{\"city\": \"Dakar\", \"floor\": null}'",
        )
        .await;
    let rule = |more: &str| format!("[[rules]]\ntable = \"public.properties\"\n{more}\n");
    let cases = [
        ("keys = ['a:{location.city}:{location.floor}']", None),
        ("keys = ['a:{location.town}']", Some("none of 9 rows that were looked at has location.town")),
        ("keys = ['a:{title.x}']", Some("column \"title\" is text: what is no JSON in it widens")),
        ("keys = ['a:{owner_id.x}']", Some("\"owner_id\" is integer, which has no fields")),
        ("keys = ['a:{id|year}']", Some("\"id\" is integer, which has no year and month")),
        ("keys = ['a']\nwhen = \"state = 'sold'\"", Some("\"state\" is never 'sold', which is no label of state")),
        ("keys = ['a']\nwhen = \"state in ('free')\"", None),
        ("keys = ['a']\nwhen = \"id = 'one'\"", Some("\"id\" is integer and cannot be 'one'")),
        ("keys = ['a']\nwhen = \"title = 'a' and title = 'b'\"", Some("no row can meet its condition")),
        ("keys = ['detail:{id}', 'detail:*']", Some("key \"detail:{id}\" adds nothing")),
    ];
    for (more, expected) in cases {
        let config = scene.config().replace(RULES, &rule(more));
        let out = text(&daemon::run("check", &config, &[]).stdout);
        match expected {
            Some(words) => assert!(out.contains(words), "{more}: {out}"),
            None => assert!(out.contains("ok    rules: "), "{more}: {out}"),
        }
        assert!(!out.contains("Dakar"), "a row's value: {out}");
    }
}

#[tokio::test]
async fn coverage_shows_what_no_rule_deletes_and_what_no_key_was_made_for() {
    let scene = Scene::start().await;
    scene.fill();
    let mut connection = scene.keys();
    let moved = ["properties:all_properties_public_v4", "properties:v4:detail:1", "dashboard:41_v4", "search:\n\u{7}"];
    let many = (0..3000).map(|number| format!("bulk:{number}:x"));
    for key in moved.iter().map(|key| key.to_string()).chain(many) {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
    }
    let _: () = redis::cmd("DEL").arg("properties:all_properties_public").query(&mut connection).expect("it answers");
    let before: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("it answers");
    let out = daemon::run("coverage", &scene.config(), &[]);
    let report = text(&out.stdout);
    for line in [
        "NO RULE bulk:{number}:x: 3000 keys, for example \"bulk:",
        "NO RULE properties:all_properties_public_v4: 1 key, for example \"properties:all_properties_public_v4\"\n        \
         without its version \"all_properties_public\" at ",
        "NO RULE properties:v4:detail:{number}: 1 key, for example \"properties:v4:detail:1\"\n        \
         without its version \"detail:{id}\" at ",
        "NO RULE properties:other: 1 key",
        "NO RULE search:{text}: 1 key, for example \"search:\\n\\x07\"",
        "NO RULE session:{number}: 1 key",
        "DOUBT   dashboard:{number}_v4: 1 key, for example \"dashboard:41_v4\"",
        "NEVER   \"all_properties_public\" at ",
        "3022 keys: 14 covered, 3005 without a rule, 1 in doubt, 2 protected",
    ] {
        assert!(report.contains(line), "{line}\nin\n{report}");
    }
    assert_eq!(out.status.code(), Some(1), "{report}");
    assert!(!report.contains("lock:"), "{report}");
    let after: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("it answers");
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_dry_run_prints_what_goes_and_moves_nothing() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    let marked = || -> String {
        redis::cmd("GET").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("the mark is a text")
    };
    let slots =
        "SELECT string_agg(slot_name || confirmed_flush_lsn, ' ') FROM pg_replication_slots WHERE NOT temporary";
    let (mark, position) = (marked(), scene.ask(slots).await);
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("crieur.toml"), scene.config()).expect("the directory is ours");
    let file = |name: &str| fs::File::create(path(name)).expect("the directory is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
    command.args(["run", "--dry-run", "--config"]).arg(path("crieur.toml")).env_clear();
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log"));
    let mut dry = Process::start(&mut command, dir.path());
    let said = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    settled("it streams", PATIENCE, async || if said("log").contains(STARTED) { Ok(()) } else { Err(said("log")) })
        .await;
    scene.fill();
    scene.run("BEGIN; UPDATE properties SET city = 'Mbour' WHERE id = 1; INSERT INTO rental_payments VALUES (1, 71, 5); COMMIT").await;
    let expected = "transaction 1\n  key payments:lease:71\n  key properties:all_properties_public\n  key properties:city:Dakar\n  \
                    key properties:city:Mbour\n  key properties:detail:1\n  lookup owner (71): 1 rows\n  \
                    key of a lookup dashboard:41\n";
    settled(
        "it prints",
        PATIENCE,
        async || if said("out") == expected { Ok(()) } else { Err((said("out"), said("log"))) },
    )
    .await;
    dry.signal(Signal::Term);
    assert!(dry.wait(PATIENCE).is_some_and(|status| status.success()), "{}", said("log"));
    assert_eq!((marked(), scene.ask(slots).await), (mark, position));
    assert_eq!(scene.gone(), set(&[]));
    assert_eq!(scene.ask("SELECT count(*)::text FROM pg_replication_slots").await, "1");

    // Nothing is lost: the daemon deletes it all.
    let mut daemon = daemon::Daemon::start(&scene.config(), &[]);
    scene.confirmed(&daemon).await;
    let gone = ["payments:lease:71", "dashboard:41", "properties:city:Dakar", "properties:detail:1"];
    assert!(set(&gone).is_subset(&scene.gone()), "{:?} of {}", scene.gone(), KEYS.len());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn explain_shows_what_a_change_of_rules_adds_and_removes() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dousell");
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let rules = fs::read_to_string(golden.join("rules.toml")).expect("it is in the repository");
    let (old, new) = (dir.path().join("old.toml"), dir.path().join("new.toml"));
    fs::write(&old, &rules).expect("the directory is ours");
    fs::write(&new, rules.replace("detail:{id}", "detail:{id}:v2")).expect("the directory is ours");
    let recording = golden.join("pg17.rec");
    let [old, new, recording] = [&old, &new, &recording].map(|path| path.to_str().expect("plain names"));
    let out = crieur(&["explain", "--diff", old, new, "--recording", recording]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(shown.contains("  - key properties:detail:1    by \"detail:{id}\" at "), "{shown}");
    assert!(shown.contains("  + key properties:detail:1:v2    by \"detail:{id}:v2\" at "), "{shown}");
    fs::write(new, "[[rules]]\ntable = 't'\n").expect("the directory is ours");
    let out = crieur(&["explain", "--diff", old, new, "--recording", recording]);
    assert_eq!(out.status.code(), Some(78));
    assert!(text(&out.stderr).contains("rule has no keys"), "{}", text(&out.stderr));
    assert_eq!(crieur(&["explain", "--config", old]).status.code(), Some(64));
    assert_eq!(crieur(&["explain", "--diff", old, new]).status.code(), Some(64));
}
