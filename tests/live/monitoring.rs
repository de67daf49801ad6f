//! Alerts and dashboard, by the programs that will read them: promtool, and a Prometheus that reads a running daemon.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::admin::{address, get, ready};
use super::harness::postgres;
use super::harness::prometheus::{Prometheus, promtool};
use super::harness::wait::{PATIENCE, settled};
use super::scene::Scene;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

#[test]
fn the_alerts_are_silent_on_a_quiet_night_and_each_fault_fires_its_own() {
    let (is_well, said) = promtool(&["check", "rules", "docs/operate/monitoring/alerts.yml"], &root(), "");
    assert!(is_well, "{said}");
    let (is_well, said) = promtool(&["test", "rules", "alerts.yml"], &root().join("tests/monitoring"), "");
    assert!(is_well, "{said}");
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file of the repository");
    let (alerts, tests) = (read("docs/operate/monitoring/alerts.yml"), read("tests/monitoring/alerts.yml"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10, "{names:?}");
    let untested: Vec<_> = names.iter().filter(|name| !tests.contains(&format!("alertname=\"{name}\""))).collect();
    assert!(untested.is_empty(), "no fault fires {untested:?}");
}

#[test]
fn a_test_of_the_alerts_can_fail() {
    let dir = tempfile::tempdir().expect("the temporary folder is writable");
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file of the repository");
    let alerts =
        read("docs/operate/monitoring/alerts.yml").replace("unless on (job, instance) (crieur_cache_up == 0)", "");
    std::fs::write(dir.path().join("alerts.yml"), alerts).expect("the folder is ours");
    let tests = read("tests/monitoring/alerts.yml").replace("../../docs/operate/monitoring/", "");
    std::fs::write(dir.path().join("tests.yml"), tests).expect("the folder is ours");
    let (is_well, said) = promtool(&["test", "rules", "tests.yml"], dir.path(), "");
    assert!(!is_well && said.contains("CrieurChangesWaiting"), "{said}");
}

/// Every expression of the dashboard, with its panel's title and description.
fn expressions() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(root().join("docs/operate/monitoring/dashboard.json")).expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |panel: &Value| -> Vec<_> {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default().into_iter();
        targets.map(|target| (text(&panel["title"]), text(&panel["description"]), text(&target["expr"]))).collect()
    };
    panels.flat_map(of).collect()
}

/// A real Prometheus answers every expression of the dashboard; what has no value in this scene is of a
/// panel that says when it is empty.
#[tokio::test]
async fn every_expression_is_answered_by_a_prometheus_that_reads_a_running_daemon() {
    let conf = vec!["max_slot_wal_keep_size = '256MB'".to_owned()];
    let scene = Scene::with(postgres::Options { conf, ..postgres::Options::default() }, &["maxmemory 64mb"]).await;
    let address = address();
    let mut daemon = scene.daemon_with(&format!("[admin]\nlisten = \"{address}\"\n{}", scene.config())).await;
    ready(address, "200 OK").await;
    let (is_well, said) =
        promtool(&["check", "metrics"], &root(), get(address, "/metrics").split_once("\r\n\r\n").expect("a body").1);
    assert!(is_well && said.is_empty(), "promtool check metrics: {said}");
    let prometheus = Prometheus::start(&address.to_string());
    let expressions = expressions();
    assert!(expressions.len() >= 30, "{}", expressions.len());
    let mut keys = scene.keys();
    let mut number = 0;
    let patience = PATIENCE * 4; // The cache is asked twice a minute.
    settled("every expression has a value", patience, async || {
        number += 1;
        let change = format!(
            "INSERT INTO visit_bookings VALUES ({number}, 1); INSERT INTO rental_payments VALUES ({number}, 71, 5)"
        );
        scene.run(&change).await;
        for key in ["session:1", "nothing"] {
            let _: Option<String> = redis::cmd("GET").arg(key).query(&mut keys).expect("it answers");
        }
        let mut lacking = Vec::new();
        for (title, description, expression) in &expressions {
            match prometheus.query(expression) {
                Ok(found) if found.is_empty() && !description.contains("Empty ") => lacking.push((title, expression)),
                Ok(_) => {}
                Err(error) if error.contains("bad_data") => panic!("{expression}: {error}"),
                Err(_) => return Err(format!("{expression} is not answered yet")),
            }
        }
        if lacking.is_empty() { Ok(()) } else { Err(format!("{lacking:?}")) }
    })
    .await;
    // What is empty here is so because of the scene, and not because of a name that nobody has.
    let page = get(address, "/metrics");
    for (title, _, expression) in &expressions {
        let words = expression.split(|character: char| !character.is_alphanumeric() && character != '_');
        for name in words.filter(|word| word.starts_with("crieur_") || word.starts_with("process_")) {
            let plain = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(page.contains(&format!("# TYPE {plain} ")), "{title}: {name} is no metric");
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}
