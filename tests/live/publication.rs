//! What can become of the publication while the daemon runs, and of the server's settings: seen, told, and made right.

use crieur::lsn::Lsn;

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres::{self, Version};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, set, swept};

fn lsn(text: &str) -> Option<Lsn> {
    text.parse().ok()
}

/// Waits until the mark says the present publication and a position past the slot's: every sweep before it is done.
async fn proved(scene: &Scene, daemon: &Daemon) {
    let run = include_str!("../../sql/run.sql").replace(":'publication'", "'crieur'");
    // A mark is written when there is something new to confirm.
    scene.run("UPDATE leases SET property_id = property_id").await;
    settled("the mark proves the cache", PATIENCE, async || {
        let row = scene.sql.query_one(&run, &[]).await.expect("it answers");
        let slot = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'crieur'";
        let confirmed = scene.ask(slot).await;
        let mark: Option<String> =
            redis::cmd("GET").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("it answers");
        let mark = mark.and_then(|text| serde_json::from_str::<crieur::mark::Mark>(&text).ok());
        match mark {
            Some(mark) if mark.publication == row.get::<_, String>(1) && lsn(&mark.lsn) >= lsn(&confirmed) => Ok(()),
            mark => Err((mark, confirmed, daemon.log())),
        }
    })
    .await;
}

#[tokio::test]
async fn a_publication_that_was_dropped_is_waited_for_and_everything_swept_when_it_is_back() {
    for version in Version::ALL {
        let scene = Scene::with(postgres::Options { version, ..Default::default() }, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow("publication \"crieur\" does not exist");
        daemon.allow("SQLSTATE 42704");
        daemon.allow("id=table.unpublished");
        daemon.allow("id=slot.anew");
        scene.confirmed(&daemon).await;
        scene.run("DROP PUBLICATION crieur").await;
        // WAL that no stream can decode before version 18.
        scene.run("UPDATE properties SET title = 'unseen'").await;
        daemon.wait_for_log("publication \"crieur\" does not exist");
        scene.fill();
        scene.run("UPDATE properties SET title = 'unseen too'").await;
        let out = daemon::run("setup", &scene.config(), &[]);
        assert!(out.status.success(), "{out:?}");
        if version != Version::V18 {
            daemon.wait_for_log("id=slot.created");
        }
        swept(&scene, &daemon).await;
        proved(&scene, &daemon).await;
        let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
        assert_eq!(gone, set(&["available_slots:1"]), "{version:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_table_that_leaves_the_publication_is_kept_right_by_sweeps_until_it_is_back() {
    for version in Version::ALL {
        let scene = Scene::with(postgres::Options { version, ..Default::default() }, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow("table \"public.visit_bookings\" is not in publication \"crieur\"");
        scene.confirmed(&daemon).await;
        scene.run("ALTER PUBLICATION crieur DROP TABLE visit_bookings").await;
        daemon.wait_for_log("ALTER PUBLICATION \\\"crieur\\\" ADD TABLE \\\"public\\\".\\\"visit_bookings\\\";");
        daemon.wait_for_log("id=gap.other_publication");
        proved(&scene, &daemon).await;
        scene.fill();
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        // No change came: its family goes, and nothing else.
        settled("the family went", PATIENCE, async || match scene.gone() {
            gone if gone == set(&["available_slots:1", "available_slots:2"]) => Ok(()),
            gone => Err((gone, daemon.log())),
        })
        .await;
        scene.run("ALTER PUBLICATION crieur ADD TABLE visit_bookings").await;
        daemon.wait_for_logs("id=gap.other_publication", 2);
        swept(&scene, &daemon).await;
        proved(&scene, &daemon).await;
        let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (2, 1)").await;
        assert_eq!(gone, set(&["available_slots:1"]), "{version:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_publication_that_leaves_kinds_of_changes_out_is_told() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("leaves out truncate");
    scene.run("ALTER PUBLICATION crieur SET (publish = 'insert, update, delete')").await;
    daemon.wait_for_log("leaves out truncate");
    scene.fill();
    scene.run("TRUNCATE visit_bookings").await;
    eventually("its family went", PATIENCE, async || scene.gone().contains("available_slots:1")).await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_list_of_standbys_that_counts_crieur_stops_it_while_it_runs() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    daemon.allow("synchronous_standby_names counts crieur as a standby");
    scene.confirmed(&daemon).await;
    let superuser = scene.postgres.client().await;
    superuser.batch_execute("SET synchronous_commit = local").await.expect("valid SQL");
    superuser.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("valid SQL");
    superuser.batch_execute("SELECT pg_reload_conf()").await.expect("valid SQL");
    assert_eq!(daemon.exit(), Some(78));
}

#[tokio::test]
async fn a_slot_that_falls_behind_is_told_before_it_is_lost() {
    let conf = ["min_wal_size = 32MB", "max_wal_size = 32MB", "max_slot_wal_keep_size = 1GB"];
    let conf = conf.iter().map(|line| line.to_string()).collect();
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow("failed to");
    daemon.allow("replication slot holds back");
    scene.confirmed(&daemon).await;
    scene.cache.freeze();
    for id in 0..5 {
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({id}, {id})")).await;
        scene.run("SELECT pg_switch_wal()").await;
    }
    scene.run("CHECKPOINT").await;
    daemon.wait_for_log("it is behind by more than max_wal_size; it is lost ");
    scene.cache.thaw();
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.log().matches(STARTED).count(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// What is published as a whole is altered as a whole: tables of a schema, and all of them.
#[tokio::test]
async fn publications_of_schemas_and_of_all_tables_are_watched_too() {
    let scene = Scene::start().await;
    const CHANGED: &str = "id=gap.other_publication";
    scene.run("BEGIN; DROP PUBLICATION crieur; CREATE PUBLICATION crieur FOR TABLES IN SCHEMA public; COMMIT").await;
    let mut daemon = scene.daemon().await;
    daemon.allow("is not in publication \"crieur\"");
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    scene.run("ALTER PUBLICATION crieur DROP TABLES IN SCHEMA public").await;
    daemon.wait_for_log("table \"public.visit_bookings\" is not in publication");
    daemon.wait_for_log(CHANGED);
    scene.fill();
    scene.run("INSERT INTO visit_bookings VALUES (2, 1)").await;
    swept(&scene, &daemon).await;
    scene.run("ALTER PUBLICATION crieur ADD TABLES IN SCHEMA public").await;
    daemon.wait_for_logs(CHANGED, 2);
    proved(&scene, &daemon).await;
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (3, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));

    // Another publication of the same name, while nobody looks.
    scene.run("BEGIN; DROP PUBLICATION crieur; CREATE PUBLICATION crieur FOR ALL TABLES; COMMIT").await;
    scene.fill();
    let mut daemon = Daemon::start(&scene.config(), &[]);
    daemon.allow("leaves out update, delete");
    daemon.wait_for_log(CHANGED);
    proved(&scene, &daemon).await;
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (4, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    scene.run("ALTER PUBLICATION crieur SET (publish = 'insert, truncate')").await;
    daemon.wait_for_log("leaves out update, delete");
    scene.fill();
    scene.run("DELETE FROM visit_bookings").await;
    swept(&scene, &daemon).await;
    scene.run("ALTER PUBLICATION crieur SET (publish = 'insert, update, delete, truncate')").await;
    daemon.wait_for_logs(CHANGED, 2);
    proved(&scene, &daemon).await;
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (5, 1)").await;
    assert_eq!(gone, set(&["available_slots:1"]), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_partition_that_comes_and_goes_is_no_reason_for_an_alarm() {
    let scene = Scene::start().await;
    let out = daemon::run("setup", &scene.config(), &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let variables = [("slot", "crieur"), ("publication", "crieur"), ("tables", r#"[["public","visits",["id"]]]"#)];
    let watch = crieur::postgres::quote::fill(include_str!("../../sql/watch.sql"), &variables);
    // As in the daemon's session.
    scene.run("SET jit = off").await;
    let ddl = scene.postgres.client().await;
    let altered = async {
        for _ in 0..20 {
            ddl.batch_execute("ALTER TABLE visits DETACH PARTITION visits_high").await.expect("it detaches");
            let attach = "ALTER TABLE visits ATTACH PARTITION visits_high FOR VALUES FROM (100) TO (200)";
            ddl.batch_execute(attach).await.expect("it attaches");
        }
    };
    let watched = async {
        loop {
            let seen: serde_json::Value = serde_json::from_str(&scene.ask(&watch).await).expect("it is JSON");
            assert_eq!(seen["unpublished"], serde_json::json!([]));
        }
    };
    tokio::select! {
        () = altered => {}
        () = watched => {}
    }
}

/// Whoever switches it on takes TRUNCATE of a partition out of the stream.
#[tokio::test]
async fn a_truncated_partition_is_swept_where_the_publication_speaks_of_its_root_only() {
    for version in Version::ALL {
        let scene = Scene::with(postgres::Options { version, ..Default::default() }, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow("id=publication.via_root");
        scene.confirmed(&daemon).await;
        scene.run("ALTER PUBLICATION crieur SET (publish_via_partition_root = true)").await;
        daemon.wait_for_log("id=publication.via_root");
        swept(&scene, &daemon).await;
        proved(&scene, &daemon).await;
        scene.fill();
        scene.run("TRUNCATE visits_low").await;
        let family = set(&["visits:1", "visits:150"]);
        eventually("the family went", PATIENCE, async || scene.gone() == family).await;
        let gone = scene.change(&daemon, "INSERT INTO visits VALUES (150)").await;
        assert_eq!(gone, set(&["visits:150"]), "{version:?}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
