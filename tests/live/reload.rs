//! SIGHUP: other rules without a restart. A bad file changes nothing, a good one loses nothing.

use std::fs;
use std::process::Command;

use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene, set};

const BEGINS: &str = "id=reload.taken";
const SWEPT: &str = "the rules changed since the mark was written: sweeping the keys of rules that are new";

/// Waits until the keys of the rule that changed are gone, and no other.
async fn family_swept(scene: &Scene, daemon: &Daemon) {
    settled("the changed rule's keys went", PATIENCE, async || match scene.gone() {
        gone if gone == set(&["available_slots:1", "available_slots:2"]) => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

fn hang_up(daemon: &Daemon) {
    let killed = Command::new("kill").args(["-HUP", &daemon.pid().to_string()]).status().expect("kill is installed");
    assert!(killed.success());
}

fn write(daemon: &Daemon, config: &str) {
    fs::write(daemon.config_path(), config).expect("the directory is ours");
}

async fn confirmed_lsn(scene: &Scene) -> String {
    let lsn = "SELECT lpad(split_part(confirmed_flush_lsn::text, '/', 1), 8, '0') || \
               lpad(split_part(confirmed_flush_lsn::text, '/', 2), 8, '0') FROM pg_replication_slots";
    scene.ask(lsn).await
}

#[tokio::test]
async fn other_rules_count_from_the_confirmed_position_on() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]));
    let before = confirmed_lsn(&scene).await;

    // While a transaction is open, and large enough to be streamed under the old rules.
    let writer = scene.postgres.client().await;
    let bulk = "BEGIN; INSERT INTO visit_bookings SELECT id, id FROM generate_series(3, 60000) AS id; \
                INSERT INTO visit_bookings VALUES (2, 1)";
    writer.batch_execute(bulk).await.expect("valid SQL");
    scene.fill();
    write(&daemon, &scene.config().replace("available_slots:{property_id}", "available_slots:{id}"));
    hang_up(&daemon);
    daemon.wait_for_log(BEGINS);
    daemon.wait_for_log(SWEPT);
    family_swept(&scene, &daemon).await;
    daemon.wait_for_logs("id=stream.started", 2);
    scene.confirmed(&daemon).await;
    scene.fill();
    writer.batch_execute("COMMIT").await.expect("valid SQL");
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&["available_slots:2"]), "{}", daemon.log());
    assert!(confirmed_lsn(&scene).await >= before);

    // The same rules in other words, in another order, are the same rules.
    let same =
        format!("# said again\n{}", scene.config().replace("available_slots:{property_id}", "available_slots:{id}"));
    write(&daemon, &same);
    hang_up(&daemon);
    daemon.wait_for_log("id=reload.same");
    assert_eq!(daemon.log().matches(BEGINS).count(), 1);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_bad_file_leaves_the_rules_in_force_and_says_why() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=reload.refused");
    let bad = [
        (scene.config().replace("detail:{id}", "detail:{id"), "brace is never closed"),
        ("[[rules]".to_owned(), "not valid TOML"),
        (scene.config().replace("[[rules]]", "[[rulez]]"), "did you mean \"rules\"?"),
    ];
    for (index, (config, words)) in bad.iter().enumerate() {
        write(&daemon, config);
        hang_up(&daemon);
        daemon.wait_for_logs("id=reload.refused", index + 1);
        assert!(daemon.log().contains(words), "{words}: {}", daemon.log());
        let sql = format!("INSERT INTO visit_bookings VALUES ({index}, 1)");
        assert_eq!(scene.change(&daemon, &sql).await, set(&["available_slots:1"]), "{}", daemon.log());
    }
    fs::remove_file(daemon.config_path()).expect("it is there");
    hang_up(&daemon);
    daemon.wait_for_logs("id=reload.refused", 4);
    assert!(!daemon.log().contains(BEGINS), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Lookups and tables are those of the new rules, and what only a start reads is named.
#[tokio::test]
async fn lookups_and_watched_tables_follow_the_rules() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=reload.waits_for_restart");
    daemon.allow("id=table.unpublished");
    scene.run("CREATE TABLE later (id int PRIMARY KEY)").await;
    let lookup = "lookup.owner = { sql = \"SELECT $1::int - 29 AS owner_id\", args = [\"lease_id\"] }";
    let (first, rest) = super::scene::RULES.split_once("lookup.owner").expect("it looks up");
    let rest = rest.split_once('\n').expect("more rules follow").1;
    let later = "[[rules]]\ntable = \"public.later\"\nkeys = [\"visits:{id}\"]\n";
    let rules = format!("{first}{lookup}\n{rest}{later}");
    let config = scene
        .config()
        .replace(super::scene::RULES, &rules)
        .replace("[postgres]", "[limits]\nstop_timeout = \"9s\"\n[postgres]");
    write(&daemon, &config);
    hang_up(&daemon);
    daemon.wait_for_log("changed settings take effect at the next start only: limits.stop_timeout");
    daemon.wait_for_log("table \"public.later\" is not in publication");
    scene.run("ALTER PUBLICATION crieur ADD TABLE later").await;
    daemon.wait_for_log("id=gap.other_publication");
    scene.run("UPDATE leases SET property_id = property_id").await;
    scene.confirmed(&daemon).await;
    let gone =
        scene.change(&daemon, "INSERT INTO rental_payments VALUES (1, 71, 5); INSERT INTO later VALUES (1)").await;
    assert_eq!(gone, set(&["dashboard:42", "payments:lease:71", "visits:1"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_reload_while_the_cache_is_away_ends_and_a_stop_is_heard_meanwhile() {
    let scene = Scene::start().await;
    let config = scene.config().replace("[postgres]", "[limits]\nstop_timeout = \"500ms\"\n[postgres]");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    scene.fill();
    scene.cache.freeze();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    write(&daemon, &config.replace("available_slots:{property_id}", "available_slots:{id}"));
    hang_up(&daemon);
    daemon.wait_for_log(BEGINS);
    daemon.wait_for_logs("id=stream.started", 2);
    scene.cache.thaw();
    family_swept(&scene, &daemon).await;
    scene.confirmed(&daemon).await;
    scene.cache.freeze();
    scene.run("INSERT INTO visit_bookings VALUES (2, 2)").await;
    write(&daemon, &config);
    hang_up(&daemon);
    daemon.wait_for_logs(BEGINS, 2);
    assert_eq!(daemon.stop(), Some(0));
    scene.cache.thaw();
    let mut daemon = scene.daemon_with(&config).await;
    daemon.wait_for_log("id=sweep.ended");
    scene.run("UPDATE leases SET property_id = property_id").await;
    scene.confirmed(&daemon).await;
    assert_eq!(
        scene.change(&daemon, "DELETE FROM visit_bookings").await,
        set(&["available_slots:1", "available_slots:2"])
    );
    assert_eq!(daemon.stop(), Some(0));
}

/// Echoes that a position did not wait for are not in the slot any more: they go on under the new rules.
#[tokio::test]
async fn echoes_that_wait_outlive_a_reload() {
    let scene = Scene::start().await;
    let echo = "echo = [\"3s\"]\necho_wal_bytes_max = 0";
    let config = scene.config().replace("echo = []", echo);
    let mut daemon = scene.daemon_with(&config).await;
    let goes = async |key: &str| {
        settled("an echo comes", PATIENCE, async || {
            let there: bool = redis::cmd("EXISTS").arg(key).query(&mut scene.keys()).expect("it answers");
            if there { Err(key.to_owned()) } else { Ok(()) }
        })
        .await;
    };
    // That of the first sweep.
    goes("available_slots:2").await;
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    scene.confirmed(&daemon).await;
    write(&daemon, &config.replace("visits:{id}", "visits:{id}:x"));
    hang_up(&daemon);
    daemon.wait_for_log(BEGINS);
    daemon.wait_for_logs("id=stream.started", 2);
    let mut connection = scene.keys();
    let _: () = redis::cmd("SET").arg("available_slots:1").arg("late").query(&mut connection).expect("it is writable");
    goes("available_slots:1").await;
    let there: bool = redis::cmd("EXISTS").arg("available_slots:2").query(&mut connection).expect("it answers");
    assert!(there, "an echo and no sweep: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// A daemon that stands by reloads as well: it takes over with the new rules.
#[tokio::test]
async fn a_daemon_that_stands_by_takes_over_with_the_new_rules() {
    let scene = Scene::start().await;
    let mut first = scene.daemon().await;
    let mut second = Daemon::start(&scene.config(), &[]);
    second.wait_for_log("id=stream.standing_by");
    write(&second, &scene.config().replace("available_slots:{property_id}", "available_slots:{id}"));
    hang_up(&second);
    second.wait_for_log(BEGINS);
    second.wait_for_logs("id=stream.standing_by", 2);
    assert_eq!(scene.change(&first, "INSERT INTO visit_bookings VALUES (2, 1)").await, set(&["available_slots:1"]));
    assert_eq!(first.stop(), Some(0));
    second.wait_for_log(SWEPT);
    scene.run("UPDATE leases SET property_id = property_id").await;
    scene.confirmed(&second).await;
    assert_eq!(scene.change(&second, "INSERT INTO visit_bookings VALUES (1, 2)").await, set(&["available_slots:1"]));
    assert_eq!(second.stop(), Some(0));
}

/// The rule that makes the keys stays the same, so no sweep would hide a change that a reload lost.
#[tokio::test]
async fn no_change_is_lost_however_often_rules_are_reloaded() {
    for mode in Mode::ALL {
        reloaded_often(Scene::of(mode, postgres::Options::default(), &[]).await).await;
    }
}

async fn reloaded_often(scene: Scene) {
    let mut daemon = scene.daemon().await;
    let rules = [scene.config(), scene.config().replace("visits:{id}", "visits:{id}:x")];
    let mut connection = scene.keys();
    let keys: Vec<String> = (1..=200).map(|id| format!("available_slots:{id}")).collect();
    for (index, key) in keys.iter().enumerate() {
        let id = index + 1;
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, {id})")).await;
        if id % 20 == 0 {
            write(&daemon, &rules[id / 20 % 2]);
            hang_up(&daemon);
            // Two signals that nobody heard are one. What is in flight, and the new connection, come behind this line.
            daemon.wait_for_logs(BEGINS, id / 20);
        }
    }
    scene.run("UPDATE leases SET property_id = property_id").await;
    scene.confirmed(&daemon).await;
    let left: i64 = redis::cmd("EXISTS").arg(&keys).query(&mut connection).expect("it answers");
    assert_eq!(left, 0, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_changed_address_waits_for_a_restart_and_is_named_without_its_secret() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("id=reload.waits_for_restart");
    let config = scene.config();
    let moved = config.replace("postgres://postgres@", "postgres://other:hunter2@");
    for (index, (config, names)) in [
        (&moved, Some("take effect at the next start only: postgres.url")),
        (&format!("limits.stop_timeout = \"9s\"\n{config}"), Some("next start only: limits.stop_timeout")),
        (&config, None),
    ]
    .into_iter()
    .enumerate()
    {
        let before = daemon.log().len();
        write(&daemon, config);
        hang_up(&daemon);
        daemon.wait_for_logs("id=reload.same", index + 1);
        let said = daemon.log().split_off(before);
        match names {
            Some(names) => assert!(said.contains(names), "{said}"),
            None => assert!(!said.contains("next start"), "{said}"),
        }
    }
    assert!(!daemon.log().contains("hunter2"));
    assert_eq!(daemon.stop(), Some(0));
}

/// A password that is changed at the cache is changed in the file, and taken without a restart; nobody is shown it.
#[tokio::test]
async fn a_changed_password_of_a_cache_is_taken_and_never_shown() {
    let scene = Scene::start().await;
    for (user, password) in [("one", "hunter1"), ("two", "hunter2")] {
        let () = scene.cache.ask(&["ACL", "SETUSER", user, "on", &format!(">{password}"), "~*", "&*", "+@all"]);
    }
    let config =
        |login: &str| scene.config().replace(&scene.cache.url(), &scene.cache.url().replace("redis://", login));
    let mut daemon = scene.daemon_with(&config("redis://one:hunter1@")).await;
    daemon.allow_failing_cache();
    let users = || scene.cache.ask::<String>(&["CLIENT", "LIST"]);
    assert!(users().contains("user=one"), "{}", users());
    let () = scene.cache.ask(&["ACL", "SETUSER", "two", "resetpass", ">hunter3"]);
    // The other user, and then only a password.
    for (times, login) in [(1, "redis://two:hunter2@"), (2, "redis://two:hunter3@")] {
        write(&daemon, &config(login));
        hang_up(&daemon);
        daemon.wait_for_logs("id=reload.taken", times);
    }
    let deleted = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(deleted, set(&["available_slots:1"]), "{}", daemon.log());
    eventually("nobody is logged in as before", PATIENCE, async || {
        users().contains("user=two") && !users().contains("user=one")
    })
    .await;
    assert!(!daemon.log().contains("hunter"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// The daemon that reloads keeps the slot, or the outbox: one that stands by has the old rules until it is told, too.
#[tokio::test]
async fn nobody_with_the_old_rules_takes_over_while_the_active_one_reloads() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, postgres::Options::default(), &[]).await;
        let mut first = scene.daemon().await;
        let mut others: Vec<Daemon> = (0..3).map(|_| Daemon::start(&scene.config(), &[])).collect();
        others.iter_mut().for_each(|other| other.wait_for_log("id=stream.standing_by"));
        let rules = [scene.config(), scene.config().replace("visits:{id}", "visits:{id}:x")];
        for reload in 1..=3 {
            write(&first, &rules[reload % 2]);
            hang_up(&first);
            first.wait_for_logs(BEGINS, reload);
            first.wait_for_logs(mode.started(), reload + 1);
        }
        for other in &others {
            assert!(!other.log().contains(mode.started()), "{mode:?}: {}", other.log());
        }
        scene.run("UPDATE leases SET property_id = property_id").await;
        scene.confirmed(&first).await;
        let gone = scene.change(&first, "INSERT INTO visit_bookings VALUES (1, 2)").await;
        assert!(gone.contains("available_slots:2"), "{gone:?} {}", first.log());
        // When it ends, one of them goes on.
        assert_eq!(first.stop(), Some(0));
        settled("another one works", PATIENCE, async || {
            match others.iter().filter(|other| other.log().contains(mode.started())).count() {
                1 => Ok(()),
                count => Err(count),
            }
        })
        .await;
        for mut other in others {
            assert_eq!(other.stop(), Some(0));
        }
    }
}
