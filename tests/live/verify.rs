//! The verifier: it finds a key that was made stale on purpose, accuses none whose delete is on the way, and says what
//! keeps it from looking.

use super::daemon::{Daemon, run_with};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene};

const VERIFY: &str = r#"
[[verify]]
keys = "properties:detail:{id}"
sql = "SELECT id, city, title FROM properties WHERE id = $1"
per_minute = 6000

[[verify]]
keys = "payments:lease:{lease}"
sql = "SELECT coalesce(sum(amount), 0) FROM rental_payments WHERE lease_id = $1"
compare = "text"

[[verify]]
keys = "properties:city:{city}"
sql = "SELECT max(id) AS version FROM properties WHERE city = $1"
compare = "path:version"
"#;

/// Exit code and output of `crieur verify` with these arguments.
fn verify(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let out = run_with(&[&["verify"], arguments].concat(), config);
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (out.status.code(), text.concat())
}

fn true_value(id: u32) -> String {
    format!(r#"{{"id":{id},"city":"Dakar","title":"old"}}"#)
}

/// What the cache holds when nothing is stale.
fn fill(scene: &Scene) {
    for other in ["properties:detail:10", "payments:lease:72", "properties:city:Mbour", "properties:city:Thiès"] {
        scene.cache.ask::<()>(&["DEL", other]);
    }
    for id in 1..=9 {
        scene.cache.ask::<()>(&["SET", &format!("properties:detail:{id}"), &true_value(id)]);
    }
    scene.cache.ask::<()>(&["SET", "payments:lease:71", "0"]);
    scene.cache.ask::<()>(&["SET", "properties:city:Dakar", r#"{"version":9,"at":1}"#]);
    for other in ["lock:properties:detail:1", "properties:detail:1:meta", "lease:{properties:detail:1}"] {
        scene.cache.ask::<()>(&["SET", other, "no value"]);
    }
    scene.cache.ask::<()>(&["SADD", "properties:detail:77", "a set"]);
    scene.cache.ask::<()>(&["SET", "properties:detail:none", "its id is no number"]);
}

async fn marked(scene: &Scene) {
    eventually("the mark is there", PATIENCE, async || scene.cache.ask(&["EXISTS", "crieur:mark:crieur"])).await;
}

#[tokio::test]
async fn a_key_made_stale_on_purpose_is_found_once_over_everything_and_true_ones_are_not() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let config = format!("{}{VERIFY}", scene.config());
        let daemon = scene.daemon().await;
        fill(&scene);
        marked(&scene).await;
        let (code, said) = verify(&config, &[]);
        assert_eq!(code, Some(0), "{mode:?}: {said} {}", daemon.log());
        assert!(said.contains("properties:detail:{id}: 10 checked, 0 stale, 0 late, 1 undecided"), "{said}");
        assert!(said.contains("payments:lease:{lease}: 1 checked, 0 stale"), "{said}");
        scene.cache.ask::<()>(&["SET", "properties:detail:3", r#"{"id":3,"city":"Thiès","title":"old"}"#]);
        scene.cache.ask::<()>(&["SET", "payments:lease:71", "7"]);
        scene.cache.ask::<()>(&["SET", "properties:city:Dakar", r#"{"version":8,"at":1}"#]);
        let (code, said) = verify(&config, &["--json"]);
        assert_eq!(code, Some(1), "{mode:?}: {said}");
        let read: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
        let stale = read["stale"].as_array().expect("a list").iter();
        let mut stale: Vec<&str> = stale.filter_map(|found| found["key"].as_str()).collect();
        stale.sort_unstable();
        assert_eq!(stale, ["payments:lease:71", "properties:city:Dakar", "properties:detail:3"], "{mode:?}: {said}");
        assert_eq!(read["late"].as_array().map(Vec::len), Some(0), "{said}");
        let left: String = scene.cache.ask(&["GET", "payments:lease:71"]);
        assert_eq!(left, "7", "a verifier deletes nothing");
    }
}

#[tokio::test]
async fn where_nobody_deletes_what_differs_is_late_and_not_accused() {
    let scene = Scene::start().await;
    let config = format!("{}{VERIFY}", scene.config());
    let mut daemon = scene.daemon().await;
    fill(&scene);
    marked(&scene).await;
    assert_eq!(daemon.stop(), Some(0));
    scene.run("UPDATE properties SET title = 'new' WHERE id = 4").await;
    let (code, said) = verify(&config, &["--timeout", "3s"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("LATE  \"properties:detail:4\"") && !said.contains("STALE"), "{said}");
}

#[tokio::test]
async fn the_daemon_samples_finds_a_stale_key_and_sees_when_it_is_none_any_more() {
    let scene = Scene::start().await;
    let admin = super::admin::address();
    let config = format!("{}\n[admin]\nlisten = \"{admin}\"\n{VERIFY}", scene.config());
    let mut daemon: Daemon = scene.daemon_with(&config).await;
    daemon.allow("id=verify.stale");
    fill(&scene);
    let series = async |name: &str| -> f64 {
        let text = super::admin::get(admin, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(-1.0)
    };
    eventually("values are checked", PATIENCE, async || series("crieur_verify_checked_total").await > 9.0).await;
    // Changes whose deletes come, and readers that fill behind them.
    for round in 0..20 {
        scene.run(&format!("UPDATE properties SET title = 'n{round}' WHERE id = 5")).await;
    }
    scene.run("UPDATE properties SET title = 'old' WHERE id = 5").await;
    scene.cache.ask::<()>(&["SET", "properties:detail:3", r#"{"id":3,"city":"Dakar","title":"wrong"}"#]);
    settled("it is found", 2 * PATIENCE, async || match series("crieur_verify_stale_total").await {
        1.0 => Ok(()),
        other => Err((other, daemon.log())),
    })
    .await;
    let log = daemon.log();
    assert!(log.contains("id=verify.stale") && log.contains("properties:detail:3") && !log.contains("wrong"), "{log}");
    assert_eq!(series("crieur_verify_stale_keys").await, 1.0);
    assert!(series("crieur_verify_undecided_total").await > 0.0, "a key whose id is no number");
    assert!(series("crieur_verify_stale_age_seconds").await > 0.0);
    scene.run("UPDATE properties SET title = 'newer' WHERE id = 3").await;
    eventually("it is gone", PATIENCE, async || series("crieur_verify_stale_keys").await == 0.0).await;
    assert!(daemon.log().contains("id=verify.mended"), "{}", daemon.log());
}

/// Readers as bad as they can be: each stores what it read before the change, behind its first delete. The echo takes that
/// away, and meanwhile the daemon looks at every key, again and again.
#[tokio::test]
async fn under_changes_and_late_readers_nothing_is_accused_and_a_stale_key_is_found_all_the_same() {
    let scene = Scene::start().await;
    let admin = super::admin::address();
    let text = format!("{}\n[admin]\nlisten = \"{admin}\"\n{VERIFY}", scene.config());
    let mut daemon = scene.daemon_with(&text.replace("echo = []", "echo = [\"250ms\"]")).await;
    fill(&scene);
    let series = |name: &str| -> f64 {
        let page = super::admin::get(admin, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(-1.0)
    };
    let begun = std::time::Instant::now();
    let mut changes = 0;
    while series("crieur_verify_checked_total") < 40.0 {
        assert!(
            begun.elapsed() < 4 * PATIENCE,
            "only {} checks: {}",
            series("crieur_verify_checked_total"),
            daemon.log()
        );
        for id in 1..=9 {
            let row = format!(
                "SELECT json_build_object('id', id, 'city', city, 'title', title)::text FROM properties WHERE id = {id}"
            );
            let before = scene.ask(&row).await;
            scene.run(&format!("UPDATE properties SET title = 'n{changes}' WHERE id = {id}")).await;
            scene.cache.ask::<()>(&["SET", &format!("properties:detail:{id}"), &before]);
            changes += 1;
        }
    }
    assert!(changes > 100, "{changes} changes");
    daemon.allow("id=verify.stale");
    scene.cache.ask::<()>(&["SET", "payments:lease:71", "7"]);
    settled("the stale key is found, and no other", 2 * PATIENCE, async || match series("crieur_verify_stale_total") {
        1.0 => Ok(()),
        other => Err((other, daemon.log())),
    })
    .await;
    assert_eq!(daemon.log().matches("id=verify.stale").count(), 1, "{}", daemon.log());
    assert!(daemon.log().contains("payments:lease:71"), "{}", daemon.log());
}

#[tokio::test]
async fn sql_that_the_server_refuses_is_said_with_its_place_and_by_check() {
    let scene = Scene::start().await;
    let with =
        |sql: &str| format!("{}\n[[verify]]\nkeys = \"properties:detail:{{id}}\"\nsql = \"{sql}\"\n", scene.config());
    scene.cache.ask::<()>(&["SET", "properties:detail:1", "{}"]);
    for (sql, code, words) in [
        ("SELECT nothing FROM properties WHERE id = $1", 78, "column \"nothing\" does not exist"),
        ("SELECT id FROM gone WHERE id = $1", 78, "relation \"gone\" does not exist"),
        ("SELECT id FROM properties WHERE id > 0 OR id = $1", 78, "several rows for one key"),
        ("SELECT id FROM properties", 78, "sql takes 0 parameters and keys has 1 values"),
        ("SELECT id FROM properties WHERE id = $1 OR id = $2", 78, "sql takes 2 parameters and keys has 1 values"),
        ("DELETE FROM properties WHERE id = $1", 78, "sql begins with DELETE"),
        ("WITH gone AS (DELETE FROM properties WHERE id = $1 RETURNING id) SELECT id FROM gone", 78, "refuses the sql"),
    ] {
        let (exit, said) = verify(&with(sql), &[]);
        assert_eq!(exit, Some(code), "{sql}: {said}");
        assert!(said.contains(words), "{sql}: {said}");
    }
    assert_eq!(scene.ask("SELECT count(*)::text FROM properties").await, "9");
    let out = run_with(&["check"], &with("SELECT nothing FROM properties WHERE id = $1"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("WRONG verify properties:detail:{id} at "), "{text}");
    let (exit, said) = verify(&scene.config(), &[]);
    assert_eq!(exit, Some(78), "{said}");
    assert!(said.contains("has no [[verify]]"), "{said}");
    scene.cache.freeze();
    let short = format!("{}\n", with("SELECT id FROM properties WHERE id = $1"))
        .replace("[cache]\n", "[cache]\ntimeout = \"1s\"\n");
    let (exit, said) = verify(&short, &[]);
    scene.cache.thaw();
    assert_eq!(exit, Some(69), "{said}");
}
