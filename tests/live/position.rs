//! The confirmed position: it waits for the cache, it arrives before the end, and it is never guessed.

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres;
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{RULES, Scene, set};

const POSITION: &str = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";

#[tokio::test]
async fn the_position_waits_for_a_frozen_cache_and_the_session_lives_on() {
    let conf = vec!["wal_sender_timeout = 3s".to_owned()];
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    let sender = scene.ask("SELECT active_pid::text FROM pg_replication_slots").await;
    scene.cache.freeze();
    daemon.allow("failed to delete keys");
    daemon.allow("failed to write the mark");
    daemon.allow("failed to read the mark");
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let before = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;

    // Its statuses are what keeps the session alive: more than twice the server's patience of them.
    let since = scene.ask("SELECT clock_timestamp()::text").await;
    let replied = format!("SELECT (reply_time > '{since}'::timestamptz + '8 s')::text FROM pg_stat_replication");
    settled("the daemon sends statuses for 8 s", PATIENCE, async || {
        let answer = scene.ask(&replied).await;
        if answer == "true" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(scene.ask("SELECT active_pid::text FROM pg_replication_slots").await, sender, "{}", daemon.log());
    let moved = format!("SELECT (confirmed_flush_lsn >= '{before}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&moved).await, "false", "a position was confirmed whose keys nobody answered");

    scene.cache.thaw();
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:1", "available_slots:2"]));
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_stop_delivers_and_confirms_what_is_in_flight() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    eventually("the key went", PATIENCE, async || !scene.gone().is_empty()).await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    let behind =
        format!("SELECT greatest(0, '{committed}'::pg_lsn - confirmed_flush_lsn)::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&behind).await, "0");
    assert_eq!(scene.gone(), set(&["available_slots:1"]));
    // The session has ended in good order: the slot is free for the next daemon.
    eventually("the slot is free", PATIENCE, async || {
        scene.ask("SELECT active::text FROM pg_replication_slots").await == "false"
    })
    .await;
}

#[tokio::test]
async fn an_echo_holds_the_position_back_until_it_was_answered() {
    let scene = Scene::start().await;
    let config = scene.config().replace("echo = []", "echo = [\"1h\"]");
    let mut daemon = scene.daemon_with(&config.replace("1h", "250ms")).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));

    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_for_log(STARTED);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    eventually("the key went", PATIENCE, async || !scene.gone().is_empty()).await;
    assert_eq!(daemon.stop(), Some(0));
    let ahead = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&ahead).await, "false", "the echo never went: {}", scene.ask(POSITION).await);

    // The next daemon gets the change again, and with it its first delete and its echo.
    scene.fill();
    let mut next = Daemon::start(&config.replace("1h", "250ms"), &[]);
    scene.confirmed(&next).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]));
    assert_eq!(next.stop(), Some(0));
}

#[tokio::test]
async fn a_missing_publication_stops_the_first_start_with_the_way_out() {
    let scene = Scene::start().await;
    scene.run("DROP PUBLICATION crieur").await;
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("publication \"crieur\" does not exist");
    assert_eq!(daemon.exit(), Some(78));
    let log = daemon.log();
    assert!(log.contains("hint=\"Run `crieur setup`"), "{log}");
}

#[test]
fn a_mistake_in_the_configuration_is_shown_with_its_place() {
    let wrong = format!("[postgres]\nurl = \"postgres://x\"\nslott = \"a\"\n[cache]\nurl = \"redis://x\"\n{RULES}");
    let out = daemon::run("run", &wrong, &[]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{said}");
    assert!(said.contains("crieur.toml:3:1") && said.contains("slot"), "{said}");
}

#[tokio::test]
async fn a_stop_while_the_cache_is_away_ends_in_time_and_loses_nothing() {
    let scene = Scene::start().await;
    let config = scene.config() + "[limits]\nstop_timeout = \"100ms\"\n";
    let mut daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;
    scene.cache.freeze();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let received = format!("SELECT (write_lsn >= '{committed}')::text FROM pg_stat_replication");
    eventually("the change is received", PATIENCE, async || scene.ask(&received).await == "true").await;
    daemon.allow("failed to");
    assert_eq!(daemon.stop(), Some(0));
    let confirmed = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&confirmed).await, "false");

    scene.cache.thaw();
    scene.fill();
    let mut next = Daemon::start(&scene.config(), &[]);
    scene.confirmed(&next).await;
    assert_eq!(scene.gone(), set(&["available_slots:1"]));
    assert_eq!(next.stop(), Some(0));
}

#[tokio::test]
async fn check_is_content_after_setup_and_names_what_is_spoiled() {
    let scene = Scene::start().await;
    let out = daemon::run("check", &scene.config(), &[]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let spoils = [
        ("ALTER TABLE properties REPLICA IDENTITY NOTHING", "public.properties"),
        ("ALTER PUBLICATION crieur DROP TABLE visit_bookings", "public.visit_bookings"),
        ("SELECT pg_drop_replication_slot('crieur')", "slot"),
    ];
    for (spoil, names) in spoils {
        scene.run(spoil).await;
        let out = daemon::run("check", &scene.config(), &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(1), "{spoil}: {said}");
        let wrong = said.lines().any(|line| line.starts_with("WRONG") && line.contains(names));
        assert!(wrong && said.contains("mend: "), "{spoil}: {said}");
        assert!(daemon::run("setup", &scene.config(), &[]).status.success(), "{spoil}");
        assert_eq!(daemon::run("check", &scene.config(), &[]).status.code(), Some(0), "{spoil}: setup mends it");
    }
}

#[tokio::test]
async fn an_echo_survives_a_kill() {
    let scene = Scene::start().await;
    let with = |echo: &str, rest: &str| scene.config().replace("echo = []", &format!("echo = [\"{echo}\"]\n{rest}"));
    // The sweep of the first start has echoes of its own.
    let mut daemon = scene.daemon_with(&with("100ms", "")).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));

    let mut daemon = Daemon::start(&with("1h", ""), &[]);
    daemon.wait_for_log(STARTED);
    scene.fill();
    let key = "available_slots:1".to_owned();
    let goes = async || eventually("the key goes", PATIENCE, async || scene.gone().contains(&key)).await;
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let confirmed = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
    goes().await;
    // A later delete, its mark and its status go by, and the position stays.
    scene.run("INSERT INTO visits VALUES (1)").await;
    eventually("the next key goes", PATIENCE, async || scene.gone().contains("visits:1")).await;
    daemon.kill();
    assert_eq!(scene.ask(&confirmed).await, "false", "the echo never went: {}", daemon.log());

    // A late reader stores the old value twice: before the first delete, and before the echo.
    scene.fill();
    let mut daemon = Daemon::start(&with("2s", ""), &[]);
    goes().await;
    scene.fill();
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains(&key), "the echo did not come again: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_budget_of_wal_releases_the_position_that_an_echo_holds_back() {
    let scene = Scene::start().await;
    let with = |echo: &str, rest: &str| scene.config().replace("echo = []", &format!("echo = [\"{echo}\"]\n{rest}"));
    // The sweep of the first start has echoes of its own.
    let mut daemon = scene.daemon_with(&with("100ms", "")).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    // Not a word of it is for crieur.
    let ballast = "SELECT count(pg_logical_emit_message(false, 'ballast', repeat('x', 100000)))::text \
                   FROM generate_series(1, 30)";
    // Ends of transactions come by: only they, and keepalives, are positions.
    let moves = async |committed: &str, daemon: &Daemon| {
        settled("the position moves on", PATIENCE, async || {
            scene.ask("SELECT pg_logical_emit_message(true, 'ballast', 'x')::text").await;
            let confirmed = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
            if scene.ask(&confirmed).await == "true" { Ok(()) } else { Err((scene.ask(POSITION).await, daemon.log())) }
        })
        .await;
    };

    let mut daemon = Daemon::start(&with("1h", "echo_wal_bytes_max = \"1MiB\"\n"), &[]);
    daemon.wait_for_log(STARTED);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    eventually("the key goes", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
    let confirmed = format!("SELECT (confirmed_flush_lsn >= '{committed}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&confirmed).await, "false", "{}", daemon.log());
    scene.ask(ballast).await;
    moves(&committed, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));

    // Received at once, the row and the ballast wait behind the same gate.
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    let committed = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    scene.ask(ballast).await;
    scene.ask("SELECT pg_logical_emit_message(true, 'ballast', 'x')::text").await;
    let mut daemon = Daemon::start(&with("1h", "echo_wal_bytes_max = \"1MiB\"\n"), &[]);
    moves(&committed, &daemon).await;
    assert!(scene.gone().contains("available_slots:2"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}
