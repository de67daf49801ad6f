//! What only the outbox has: a lease instead of a slot, poolers, notifications, transactions that commit late.

use std::time::Duration;

use super::daemon::{self, Daemon};
use super::harness::postgres::{self, Shutdown};
use super::harness::proxy::Proxy;
use super::harness::redis::Data;
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene, set};

/// The keys of `UPDATE properties SET title = … WHERE id = 1`.
const ONE: &[&str] = &["properties:all_properties_public", "properties:city:Dakar", "properties:detail:1"];

/// Nothing in the log speaks of replication: there is none. The ids of its lines are the same in both modes.
fn speaks_of_no_stream(daemon: &Daemon) {
    let ids = ["publication.changed", "gap.other_publication"].map(|id| format!(" id={id}"));
    let log = ids.iter().fold(daemon.log(), |log, id| log.replace(id, ""));
    for word in ["the stream", "publication", "replication"] {
        let told = log.lines().filter(|line| !line.contains(" origin=")).find(|line| line.contains(word));
        assert_eq!(told, None, "{word}");
    }
}

const UNINSTALL: &str = include_str!("../../sql/uninstall.sql");

/// Waits until these keys are gone, and no other.
async fn goes(scene: &Scene, daemon: &Daemon, keys: &[&str]) {
    settled("the keys go", PATIENCE, async || match scene.gone() {
        gone if gone == set(keys) => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_stands_by_works_when_the_other_is_gone_and_sweeps_nothing() {
    let scene = Scene::outbox().await;
    let mut first = scene.daemon().await;
    let mut second = Daemon::start(&scene.config(), &[]);
    second.wait_for_log("id=stream.standing_by");
    scene.confirmed(&first).await;
    first.kill();
    scene.fill();
    scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
    goes(&scene, &second, ONE).await;
    assert!(!second.log().contains("sweeping"), "the mark proves that nothing is missing:\n{}", second.log());
    // One that stops gives the lease back: nobody waits for its end.
    let mut third = Daemon::start(&scene.config(), &[]);
    third.wait_for_log("id=stream.standing_by");
    scene.confirmed(&second).await;
    assert_eq!(second.stop(), Some(0));
    third.wait_for_log("id=outbox.started");
    assert_eq!(third.stop(), Some(0));
}

/// Each look takes longer than a lease lasts at first: they must not take it from each other for ever.
#[tokio::test]
async fn of_two_daemons_on_a_slow_line_one_gets_on() {
    let scene = Scene::outbox().await;
    let proxy = Proxy::start(scene.postgres.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let config = scene.mode.config(&super::scene::config(&url, &scene.cache.url()));
    let mut first = scene.daemon_with(&config).await;
    let mut second = Daemon::start(&config, &[]);
    second.wait_for_log("id=stream.standing_by");
    for daemon in [&mut first, &mut second] {
        daemon.allow("another daemon has taken over the outbox");
    }
    scene.confirmed(&first).await;
    // A page of 1.6 MB comes in some hundred pieces.
    proxy.delay(Duration::from_millis(30));
    scene
        .run("INSERT INTO properties SELECT i, repeat(md5(i::text), 10), '', 1 FROM generate_series(100, 5099) i")
        .await;
    scene.confirmed(&first).await;
    let log = first.log() + &second.log();
    assert!(log.contains("another daemon has taken over the outbox"), "{log}");
    assert!(scene.gone().contains("properties:all_properties_public"), "{log}");
    proxy.heal();
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
}

/// Pages of one transaction, and between their numbers those of another that commits later.
#[tokio::test]
async fn a_transaction_of_many_statements_is_removed_and_no_other_with_it() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let mut late = scene.postgres.client().await;
    let open = late.transaction().await.expect("it begins");
    let many = |from: u32, to: u32| {
        format!("DO $$ BEGIN FOR i IN {from}..{to} LOOP INSERT INTO visit_bookings VALUES (i, 1); END LOOP; END $$")
    };
    open.batch_execute(&many(10_001, 10_100)).await.expect("valid SQL");
    scene.run("BEGIN").await;
    scene.run(&many(1, 1_500)).await;
    // The last of its pages brings one more key.
    let last = "; INSERT INTO visit_bookings VALUES (20001, 2)";
    open.batch_execute(&(many(10_101, 12_600) + last)).await.expect("valid SQL");
    assert_eq!(scene.change(&daemon, &(many(1_501, 2_500) + "; COMMIT")).await, set(&["available_slots:1"]));
    scene.fill();
    open.commit().await.expect("it commits");
    goes(&scene, &daemon, &["available_slots:1", "available_slots:2"]).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_found_whatever_committed_before() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let mut late = scene.postgres.client().await;
    let open = late.transaction().await.expect("it begins");
    open.batch_execute("UPDATE properties SET title = 'b' WHERE id = 1").await.expect("valid SQL");
    for id in 1..20 {
        assert_eq!(
            scene.change(&daemon, &format!("INSERT INTO visits VALUES ({id}); DELETE FROM visits")).await,
            set(if id == 1 { &["visits:1"] } else { &[] }),
        );
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    scene.fill();
    open.commit().await.expect("it commits");
    goes(&scene, &daemon, ONE).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_server_that_crashes_or_ends_sessions_loses_nothing() {
    let mut scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to watch the server");
    daemon.allow("failed to take a snapshot");
    scene.confirmed(&daemon).await;
    scene.fill();
    scene.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crieur'").await;
    scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
    goes(&scene, &daemon, ONE).await;
    assert_eq!(daemon.log().matches("sweeping").count(), 1, "only that of the first start:\n{}", daemon.log());
    // A server that recovers may have forgotten what readers saw.
    scene.postgres.restart(Shutdown::Immediate);
    scene.sql = scene.postgres.client().await;
    daemon.wait_for_log("id=gap.restarted");
    super::scene::swept(&scene, &daemon).await;
    scene.fill();
    scene.run("UPDATE properties SET title = 'c' WHERE id = 1").await;
    goes(&scene, &daemon, ONE).await;
    speaks_of_no_stream(&daemon);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_went_back_gets_what_it_lacks() {
    let mut scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    scene.confirmed(&daemon).await;
    let _: () = redis::cmd("SAVE").query(&mut scene.cache.connection()).expect("the directory is writable");
    assert_eq!(scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await, set(ONE));
    scene.cache.kill();
    scene.cache.restart(Data::Kept);
    goes(&scene, &daemon, ONE).await;
    assert!(daemon.log().contains("id=gap.replayed"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// The procedure of docs/guide/modes.md, its last step word by word, under an application that names keys all the while.
#[tokio::test]
async fn a_change_of_mode_sweeps_in_both_directions_and_leaves_what_transactions_call() {
    let page = include_str!("../../docs/guide/modes.md");
    let step = |name: &str| {
        let step = page.split(&format!("-- {name}\n")).nth(1).and_then(|rest| rest.split("```").next());
        step.expect("a step of the page").lines().map(str::trim).filter(|line| !line.is_empty())
    };
    let mut scene = Scene::start().await;
    scene.run("CREATE ROLE caller; GRANT USAGE ON SCHEMA crieur TO caller").await;
    let config = |scene: &Scene| scene.config().replacen("echo = []", "echo = []\ninvalidate = [\"s:*\"]", 1);
    let mut daemon = scene.daemon_with(&config(&scene)).await;
    for mode in [Mode::Outbox, Mode::Replication, Mode::Outbox] {
        scene.mode = mode;
        // What the other mode must not miss comes first: `crieur setup` of the new one, then its start.
        let out = daemon::run("setup", &config(&scene), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene.run("UPDATE properties SET title = 'between' WHERE id = 2").await;
        assert_eq!(daemon.stop(), Some(0));
        scene.fill();
        scene.run("UPDATE properties SET title = 'away' WHERE id = 1").await;
        daemon = Daemon::start(&config(&scene), &[]);
        daemon.wait_for_log("id=gap.other_server");
        super::scene::swept(&scene, &daemon).await;
        scene.confirmed(&daemon).await;
        for sql in step(if mode == Mode::Outbox { "remove replication" } else { "remove the outbox" }) {
            scene.run(sql).await;
        }
        assert_eq!(scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await, set(ONE), "{mode:?}");
        let _: () = redis::cmd("SET").arg("s:1").arg("v").query(&mut scene.keys()).expect("it is writable");
        scene.run("SET ROLE caller; SELECT crieur.invalidate_exact('s:1'); RESET ROLE").await;
        settled("a named key goes", PATIENCE, async || {
            match redis::cmd("EXISTS").arg("s:1").query(&mut scene.keys()).expect("it answers") {
                0_i64 => Ok(()),
                _ => Err(daemon.log()),
            }
        })
        .await;
        if mode == Mode::Replication {
            assert_eq!(scene.ask("SELECT count(*)::text FROM crieur.outbox").await, "0", "nobody reads it");
            let out =
                daemon::run("check", &Mode::Outbox.config(&scene.config().replace("mode = \"outbox\"\n", "")), &[]);
            assert!(String::from_utf8_lossy(&out.stdout).contains("crieur.setting has no row"), "{out:?}");
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn triggers_that_are_missing_are_told_and_swept_and_those_that_do_not_fit_are_made_anew() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("triggers do not tell all that the rules read of table \"public.visit_bookings\"");
    scene.run("SELECT crieur.unwatch('visit_bookings')").await;
    daemon.wait_for_log("id=table.uncovered");
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1); UPDATE visit_bookings SET property_id = 2").await;
    let slots = || ["available_slots:1", "available_slots:2"].iter().all(|key| scene.gone().contains(*key));
    eventually("the sweep takes its place", PATIENCE, async || slots()).await;
    let out = daemon::run("setup", &scene.config(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("visit_bookings") && !text.contains("properties"), "only what is missing: {text}");
    daemon.wait_for_log("what the triggers capture changed: the outbox connects anew");
    // Each of these is seen within two seconds, mended, and swept for what came meanwhile.
    for sql in [
        "ALTER TABLE visit_bookings DISABLE TRIGGER crieur_update",
        "ALTER TABLE visit_bookings ALTER property_id TYPE bigint",
        "CREATE TABLE visits_more PARTITION OF visits FOR VALUES FROM (200) TO (300)",
    ] {
        let before = daemon.log().matches("changed since the mark was written").count();
        scene.run(sql).await;
        daemon.wait_for_logs("changed since the mark was written", before + 1);
        // What was mended before may be what was told: the triggers themselves changed with it.
        settled(&format!("{sql} is mended"), PATIENCE, async || {
            let stale = scene.ask("SELECT count(*)::text FROM crieur.watched WHERE stale").await;
            if stale == "0" { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
    }
    let booked = "INSERT INTO visit_bookings VALUES (2, 1); DELETE FROM visit_bookings WHERE id = 2";
    settled("the sweeps are over", PATIENCE, async || match scene.change(&daemon, booked).await {
        gone if gone == set(&["available_slots:1"]) => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
    speaks_of_no_stream(&daemon);
    assert_eq!(daemon.stop(), Some(0));
}

/// Its eras begin again, so positions of the one before may look like its own. Which of them count is simulated
/// (tests/simulation/outbox); here it is the scripts that do it.
#[tokio::test]
async fn an_outbox_that_is_made_anew_under_a_daemon_is_another_one() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    for pattern in
        ["id=stream.interrupted", "failed to watch the server", "id=table.uncovered", "crieur.outbox takes no rows"]
    {
        daemon.allow(pattern);
    }
    assert_eq!(scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await, set(ONE));
    scene.fill();
    // Rows that nobody has read go with it.
    scene.run(&format!("BEGIN; UPDATE properties SET title = 'c' WHERE id = 1; {UNINSTALL}; COMMIT")).await;
    let out = daemon::run("setup", &scene.config(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    daemon.wait_for_log("id=gap.other_server");
    super::scene::swept(&scene, &daemon).await;
    // One for each that `setup` watches may follow.
    settled("the sweeps are over", PATIENCE, async || {
        match scene.change(&daemon, "UPDATE properties SET title = title || 'd' WHERE id = 1").await {
            gone if gone == set(ONE) => Ok(()),
            gone => Err((gone, daemon.log())),
        }
    })
    .await;
    speaks_of_no_stream(&daemon);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_daemon_without_an_installed_outbox_says_what_to_run() {
    let scene = Scene::with(postgres::Options::default(), &[]).await;
    let mut daemon = Daemon::start(&Mode::Outbox.config(&scene.config()), &[]);
    daemon.allow("Run `crieur setup`");
    assert_eq!(daemon.exit(), Some(78), "{}", daemon.log());
}

#[tokio::test]
async fn an_outbox_that_was_full_ends_in_sweeps_and_misses_no_writer() {
    let scene = Scene::outbox().await;
    scene.run("SELECT crieur.limits(bytes_max => 1)").await;
    let mut daemon = scene.daemon().await;
    assert_eq!(daemon.stop(), Some(0));
    scene.run("UPDATE properties SET title = 'b' WHERE id = 1").await;
    let count = |table: &str| format!("SELECT count(*)::text FROM crieur.{table}");
    assert_eq!(scene.ask(&count("collapse")).await, "1");
    let rows = scene.ask(&count("outbox")).await;
    let mut late = scene.postgres.client().await;
    let open = late.transaction().await.expect("it begins");
    open.batch_execute("UPDATE properties SET city = 'Thiès' WHERE id = 2").await.expect("valid SQL");
    scene.run("UPDATE properties SET title = 'c' WHERE id < 2; INSERT INTO visits VALUES (1)").await;
    scene.run("UPDATE properties SET title = 'd' WHERE id < 2; DELETE FROM visits").await;
    assert_eq!(scene.ask(&count("outbox")).await, rows, "it grew although it was full");
    let mut daemon = Daemon::start(&scene.config(), &[]);
    // No cache may hold back half of a byte.
    daemon.allow("the position goes on without it");
    daemon.wait_for_log("id=outbox.started");
    settled("the rows are closing", PATIENCE, async || {
        match scene.ask("SELECT bool_and(closing)::text FROM crieur.collapse").await {
            closing if closing == "true" => Ok(()),
            other => Err((other, daemon.log())),
        }
    })
    .await;
    // What is visible does not wait for the open transaction.
    settled("the tables are swept", PATIENCE, async || {
        if scene.gone().contains("properties:city:Mbour") { Ok(()) } else { Err(daemon.log()) }
    })
    .await;
    scene.confirmed(&daemon).await;
    scene.fill();
    // Nobody sweeps for the transaction that relied on the collapse row before it has ended.
    assert_eq!(scene.ask(&count("collapse")).await, "2");
    open.commit().await.expect("it commits");
    let families = ["properties:all_properties_public", "properties:city:", "properties:detail:", "visits:"];
    let ours = |key: &&&str| families.iter().any(|family| key.starts_with(family));
    let ours: Vec<&str> = super::scene::KEYS.iter().filter(ours).copied().collect();
    goes(&scene, &daemon, &ours).await;
    settled("the rows are gone", PATIENCE, async || match scene.ask(&count("collapse")).await {
        none if none == "0" => Ok(()),
        some => Err((some, daemon.log())),
    })
    .await;
    assert!(!daemon.log().contains("sweeping every key"), "the mark proves the rest:\n{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Rows of another table come all the time, so that no look at the outbox finds it empty.
#[tokio::test]
async fn tables_that_are_to_be_swept_do_not_wait_for_an_idle_moment() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    assert_eq!(daemon.stop(), Some(0));
    // As a statement leaves it while the outbox is full.
    let row = "INSERT INTO crieur.collapse (shape, round)
               SELECT s.id, c.last_value FROM crieur.shape AS s, crieur.closings AS c WHERE s.name = 'properties'";
    scene.run(row).await;
    scene.run("CREATE TABLE halt (id int)").await;
    let writer = scene.postgres.client().await;
    let writes = tokio::spawn(async move {
        let each = "DO $$ BEGIN FOR id IN 1 .. 1000000 LOOP
            INSERT INTO visit_bookings VALUES (id, 1); COMMIT;
            EXIT WHEN EXISTS (SELECT FROM halt); PERFORM pg_sleep(0.003);
        END LOOP; END $$";
        writer.batch_execute(each).await.expect("valid SQL");
    });
    eventually("rows come", PATIENCE, async || scene.ask("SELECT count(*)::text FROM visit_bookings").await != "0")
        .await;
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.wait_for_log("id=outbox.started");
    settled("the table is swept", PATIENCE, async || match scene.gone() {
        gone if gone.contains("properties:city:Mbour") => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
    assert!(!writes.is_finished(), "rows come all the time");
    scene.run("INSERT INTO halt VALUES (1)").await;
    writes.await.expect("they end");
    assert!(!daemon.log().contains("sweeping every key"), "the mark proves the rest:\n{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_plain_role_that_was_granted_no_more_than_it_needs_does_the_work() {
    let scene = Scene::outbox().await;
    for sql in [
        "CREATE ROLE worker LOGIN; SELECT crieur.grant_worker('worker')",
        "GRANT SELECT ON leases, properties TO worker",
        "CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON properties, rental_payments, leases TO writer",
        "ALTER TABLE properties ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON properties TO writer USING (true)",
    ] {
        scene.run(sql).await;
    }
    let config = scene.config().replace("postgres://postgres@", "postgres://worker@");
    let out = daemon::run("check", &config, &[]);
    // What a policy may hide from a lookup is the only thing wrong.
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(said.matches("WRONG").count(), said.matches("WRONG lookup owner").count(), "{said}");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("lookup");
    for (sql, gone) in [
        ("SET ROLE writer; UPDATE properties SET title = 'b' WHERE id = 1; RESET ROLE", ONE),
        (
            "SET ROLE writer; INSERT INTO rental_payments VALUES (1, 71, 1); RESET ROLE",
            // The lookup may not see all of properties: any owner may be meant.
            &["dashboard:41", "dashboard:42", "payments:lease:71"],
        ),
    ] {
        assert_eq!(scene.change(&daemon, sql).await, set(gone), "{sql}\n{}", daemon.log());
    }
    scene.run("ALTER TABLE visit_bookings ALTER property_id TYPE bigint").await;
    settled("the triggers follow the table, by the rights of who installed them", PATIENCE, async || {
        match scene.ask("SELECT count(*)::text FROM crieur.watched WHERE stale").await {
            none if none == "0" => Ok(()),
            some => Err((some, daemon.log())),
        }
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_recording_beside_a_daemon_that_removes_at_once_misses_no_row() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let out = dir.path().join("out.rec");
    let mut record = std::process::Command::new(env!("CARGO_BIN_EXE_crieur"));
    record.args(["record", "--config"]).arg(daemon.config_path()).arg("--out").arg(&out);
    let mut recorder = record.stdout(std::process::Stdio::piped()).spawn().expect("cargo built the program");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(recorder.stdout.take().expect("it is piped")));
    assert!(lines.next().is_some_and(|line| line.is_ok_and(|line| line.starts_with("recording from"))));
    for id in 1..=50 {
        scene.run(&format!("INSERT INTO visits VALUES ({id})")).await;
    }
    super::harness::process::send(recorder.id(), super::harness::process::Signal::Term);
    assert!(recorder.wait().expect("it is our child").success());
    let replay = std::process::Command::new(env!("CARGO_BIN_EXE_crieur"))
        .args(["replay", "--config"])
        .arg(daemon.config_path())
        .arg(&out)
        .output()
        .expect("cargo built the program");
    let text = String::from_utf8_lossy(&replay.stdout);
    for id in 1..=50 {
        assert!(text.contains(&format!("key visits:{id}\n")), "{id}: {text}");
    }
    // And the daemon removes what it kept for the recorder.
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// Long enough for the daemon to keep a snapshot instead of each transaction: what was in progress in that snapshot is
/// not removed by it.
#[tokio::test]
async fn what_a_recorder_kept_goes_when_the_recorder_is_gone_and_an_open_transaction_is_not_lost() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let recorder = "INSERT INTO crieur.progress (slot, owner_until) \
                    VALUES ('record_1@host/1', clock_timestamp() + interval '19 s')";
    scene.run(recorder).await;
    let mut late = scene.postgres.client().await;
    let open = late.transaction().await.expect("it begins");
    open.batch_execute("UPDATE properties SET title = 'b' WHERE id = 1").await.expect("valid SQL");
    // Longer than two renewals of the lease, each of which finds the recorder.
    let began = std::time::Instant::now();
    let mut written = 0;
    while began.elapsed() < Duration::from_secs(2) {
        written += 2;
        scene.run("INSERT INTO visits VALUES (1); DELETE FROM visits").await;
    }
    let left = async || scene.ask("SELECT count(*)::text FROM crieur.outbox").await;
    assert_eq!(left().await, written.to_string(), "a recorder keeps all of them");
    scene.run("DELETE FROM crieur.progress WHERE slot LIKE 'record_%'").await;
    settled("they are removed", PATIENCE, async || match left().await {
        none if none == "0" => Ok(()),
        some => Err((some, daemon.log())),
    })
    .await;
    scene.fill();
    open.commit().await.expect("it commits");
    goes(&scene, &daemon, ONE).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A slot may have any name; only who has no lease and asks for rows to stay is a recorder.
#[tokio::test]
async fn a_slot_that_is_named_like_a_recording_keeps_no_row() {
    let scene = Scene::outbox().await;
    let mut daemon = scene.daemon().await;
    let check = || daemon::run("check", &scene.config(), &[]);
    let other = "INSERT INTO crieur.progress (slot, owner, owner_until) \
                 VALUES ('record_main', '1@host/1', clock_timestamp() + interval '19 s')";
    scene.run(other).await;
    scene.run("INSERT INTO visits VALUES (1)").await;
    settled("the row is removed while that lease lasts", PATIENCE, async || {
        scene.run(
            "UPDATE crieur.progress SET owner_until = clock_timestamp() + interval '19 s' WHERE slot = 'record_main'",
        )
        .await;
        match scene.ask("SELECT count(*)::text FROM crieur.outbox").await {
            none if none == "0" => Ok(()),
            some => Err((some, daemon.log())),
        }
    })
    .await;
    let out = check();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("1@host/1 reads it for slot \"record_main\""), "{said}");
    scene.run("UPDATE crieur.progress SET owner = NULL WHERE slot = 'record_main'").await;
    let out = check();
    assert!(out.status.success(), "a recorder is nothing to complain of: {}", String::from_utf8_lossy(&out.stdout));
    assert_eq!(daemon.stop(), Some(0));
}
