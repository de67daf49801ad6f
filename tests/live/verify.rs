//! The verifier: it finds a key that was made stale on purpose, accuses none whose delete is on the way, and says what
//! keeps it from looking.

use std::process::Command;

use super::daemon::{self, Daemon, STARTED, run_with};
use super::harness::postgres::{self, Postgres};
use super::harness::upstash::{TOKEN, Upstash};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene};

pub(super) const VERIFY: &str = r#"
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
pub(super) fn fill(scene: &Scene) {
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
    let page = super::page::ask(admin, "/", super::page::HOST);
    let all = ["cached keys are stale, as the verifier found for ", "<code>properties:detail:3</code> · main"];
    assert!(all.iter().all(|part| page.contains(part)) && !page.contains("at once"), "{page}");
    scene.run("UPDATE properties SET title = 'newer' WHERE id = 3").await;
    eventually("it is gone", PATIENCE, async || series("crieur_verify_stale_keys").await == 0.0).await;
    assert!(
        super::page::ask(admin, "/", super::page::HOST)
            .contains("<code>properties:detail:3</code> · main, stale no more")
    );
    assert!(daemon.log().contains("id=verify.mended"), "{}", daemon.log());
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

/// The value of a series without labels.
fn series(admin: std::net::SocketAddr, name: &str) -> f64 {
    let page = super::admin::get(admin, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(-1.0)
}

#[tokio::test]
async fn a_reload_takes_another_verify_and_what_was_found_stays_found() {
    let scene = Scene::start().await;
    let admin = super::admin::address();
    let (first, others) = VERIFY.split_at(VERIFY.rfind("\n[[verify]]\nkeys = \"payments").expect("it is there"));
    let of = |verify: &str| format!("{}\n[admin]\nlisten = \"{admin}\"\n{verify}", scene.config());
    let mut daemon = scene.daemon_in(&of(first), &[("CRIEUR_OFTENER", "5".to_owned())]).await;
    daemon.allow("id=verify.stale");
    fill(&scene);
    scene.cache.ask::<()>(&["SET", "properties:detail:3", r#"{"id":3,"city":"Dakar","title":"wrong"}"#]);
    scene.cache.ask::<()>(&["SET", "payments:lease:71", "7"]);
    let found = async |what: &str, stale: f64| {
        settled(what, PATIENCE, async || match series(admin, "crieur_verify_stale_keys") {
            now if now == stale => Ok(()),
            now => Err((now, daemon.log())),
        })
        .await;
    };
    found("the one that is looked at is found", 1.0).await;
    let checked = series(admin, "crieur_verify_checked_total");
    std::fs::write(daemon.config_path(), of(&format!("{first}{others}"))).expect("the directory is ours");
    let hung_up = Command::new("kill").args(["-HUP", &daemon.pid().to_string()]).status().expect("kill is installed");
    assert!(hung_up.success());
    found("the other one is found as well", 2.0).await;
    assert!(series(admin, "crieur_verify_checked_total") > checked);
    assert_eq!(series(admin, "crieur_verify_stale_total"), 2.0, "none is counted twice");
    let log = daemon.log();
    assert!(log.contains("id=reload.same") && log.contains("[[verify]] is another, and is in force"), "{log}");
    assert!(!log.contains("id=reload.waits_for_restart"), "{log}");
    std::fs::write(daemon.config_path(), of("")).expect("the directory is ours");
    let _ = Command::new("kill").args(["-HUP", &daemon.pid().to_string()]).status().expect("kill is installed");
    found("nothing is looked at any more", 0.0).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// What the verifier sends is on the bill that the budget goes by, as the service counts, and no more of it than was
/// stated.
#[tokio::test]
async fn where_commands_are_billed_the_verifier_is_in_the_budget() {
    let (postgres, upstash) = (Postgres::start(postgres::Options::default()), Upstash::start());
    let sql = postgres.client().await;
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT id, 'x' FROM generate_series(1, 99) id";
    sql.batch_execute(table).await.expect("valid SQL");
    for address in [
        format!("url = '{}'\ntoken = '{TOKEN}'\ntransport = 'rest'", upstash.rest_url()),
        format!("url = '{}'\nmetered = 'yes'", upstash.tcp_url()),
    ] {
        let admin = super::admin::address();
        let of = |budget: &str, per_minute: u32| {
            format!(
                "[postgres]\nurl = '{}'\n[cache]\n{address}\necho = []\nbudget = '{budget}'\nheartbeat = '5s'\n\
                 [admin]\nlisten = '{admin}'\n[[rules]]\ntable = 'public.t'\nkeys = ['k:{{id}}']\n[[verify]]\n\
                 keys = 'k:{{id}}'\nsql = 'SELECT name FROM t WHERE id = $1'\ncompare = 'text'\nper_minute = {per_minute}\n",
                postgres.url()
            )
        };
        assert!(daemon::run("setup", &of("50M", 240), &[]).status.success());
        let small = daemon::run("check", &of("2M", 240), &[]);
        let said = String::from_utf8_lossy(&small.stderr).into_owned() + &String::from_utf8_lossy(&small.stdout);
        assert_eq!(small.status.code(), Some(78), "{said}");
        assert!(
            said.contains("what [[verify]] looks at, up to 20736000") && said.contains("a smaller per_minute"),
            "{said}"
        );
        let said = daemon::run("check", &of("50M", 240), &[]).stdout;
        assert!(
            String::from_utf8_lossy(&said).contains("what [[verify]] looks at, up to 20736000"),
            "{}",
            String::from_utf8_lossy(&said)
        );
        let before = upstash.stats();
        let mut daemon = Daemon::start(&of("50M", 240), &[("CRIEUR_OFTENER", "5")]);
        daemon.wait_for_log(STARTED);
        eventually("the mark is there", PATIENCE, async || upstash.backend.ask(&["EXISTS", "crieur:mark:crieur"]))
            .await;
        let began = std::time::Instant::now();
        (1..=99).for_each(|id| upstash.backend.ask::<()>(&["SET", &format!("k:{id}"), "x"]));
        eventually("40 values are checked", PATIENCE, async || series(admin, "crieur_verify_checked_total") >= 40.0)
            .await;
        let count = |of: &serde_json::Value, command: &str| of["commands"][command].as_u64().unwrap_or_default();
        let looks = |of: &serde_json::Value| count(of, "GET") + count(of, "SCAN");
        let (spent, seconds) = (looks(&upstash.stats()) - looks(&before), began.elapsed().as_secs_f64());
        // Eight a second, what one round may be ahead, and the sweep and marks of the start.
        assert!((40.0..=seconds * 8.0 + 60.0).contains(&(spent as f64)), "{spent} commands in {seconds} s");
        let name = "crieur_cache_commands_billed_total{cache=\"main\"}";
        settled("the bill is that of the service", PATIENCE, async || {
            let (told, billed) =
                (series(admin, name), upstash.billed() - before["billed"].as_u64().unwrap_or_default());
            if told == billed as f64 { Ok(()) } else { Err((told, billed, daemon.log())) }
        })
        .await;
        assert_eq!(series(admin, "crieur_verify_stale_total"), 0.0);
        assert_eq!(daemon.stop(), Some(0));
    }
}
