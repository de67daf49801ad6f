//! `crieur teardown` on real servers: what setup made is gone, all at once or not at all, and writers notice nothing.

use super::daemon;
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Mode, Scene};

/// What there is of ours, in one text.
const OURS: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'crieur'),
    (SELECT count(*) FROM pg_publication WHERE pubname = 'crieur'),
    (SELECT count(*) FROM pg_namespace WHERE nspname = 'crieur'),
    (SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'crieur%'),
    (SELECT count(*) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgname LIKE 'crieur%' AND c.relnamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_class WHERE relname LIKE 'crieur\\_identity\\_%'))";

const NOTHING: &str = "0 0 0 0 0 0";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, standard output, standard error.
fn teardown(scene: &Scene, arguments: &[&str], config: &str) -> (Option<i32>, String, String) {
    let arguments = [&["teardown"], arguments].concat();
    let out = daemon::run_with(&arguments, config);
    assert!(!text(&out.stdout).contains(&scene.postgres.url()), "an address is shown");
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

async fn scene(mode: Mode) -> Scene {
    let scene = Scene::of(mode, Default::default(), &[]).await;
    // A table whose identity is an index of setup's, where there are identities.
    scene.run("CREATE TABLE towns (id int PRIMARY KEY, code int NOT NULL)").await;
    let out = daemon::run("setup", &config(&scene), &[]);
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    scene
}

fn config(scene: &Scene) -> String {
    format!("{}\n[[rules]]\ntable = \"public.towns\"\nkeys = [\"town:{{code}}\"]\n", scene.config())
}

#[tokio::test]
async fn what_setup_made_is_dropped_and_writers_and_a_later_setup_notice_nothing() {
    for mode in Mode::ALL {
        let scene = scene(mode).await;
        let (before, config) = (scene.ask(OURS).await, config(&scene));
        assert_ne!(before, NOTHING);
        // Printed, nothing is done; typed, the same is.
        let (code, script, said) = teardown(&scene, &["--print"], &config);
        assert_eq!((code, said.as_str(), scene.ask(OURS).await), (Some(0), "", before), "{script}");
        let (code, out, said) = teardown(&scene, &["--yes"], &config);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{out}");
        assert_eq!(scene.ask(OURS).await, NOTHING, "{mode:?}: {out}");
        for write in ["INSERT INTO towns VALUES (1, 2)", "UPDATE towns SET code = 3", "DELETE FROM towns"] {
            scene.run(write).await;
        }
        scene.run("UPDATE properties SET title = title || '+'; DELETE FROM properties").await;
        let (code, out, _) = teardown(&scene, &["--yes"], &config);
        assert!(code == Some(0) && out.ends_with("nothing to drop\n"), "{out}");
        assert!(daemon::run("setup", &config, &[]).status.success());
        // The script does the same as the command.
        let script: String =
            script.lines().filter(|line| !line.starts_with('\\')).map(|line| format!("{line}\n")).collect();
        scene.run(&script).await;
        assert_eq!(scene.ask(OURS).await, NOTHING, "{script}");
    }
}

#[tokio::test]
async fn while_a_daemon_works_it_refuses_and_says_which() {
    for mode in Mode::ALL {
        let scene = scene(mode).await;
        let config = config(&scene);
        let mut working = scene.daemon_with(&config).await;
        let before = scene.ask(OURS).await;
        let (code, out, _) = teardown(&scene, &["--yes"], &config);
        assert_eq!(code, Some(1), "{out}");
        let holder = match mode {
            Mode::Replication => "WRONG slot \"crieur\": it is active for PID ".to_owned(),
            Mode::Outbox => format!("WRONG outbox position \"crieur\": it is active for {}@", working.pid()),
        };
        for words in [holder.as_str(), "mend: systemctl stop crieur", "nothing was changed"] {
            assert!(out.contains(words), "{words}: {out}");
        }
        let (code, script, _) = teardown(&scene, &["--print"], &config);
        assert!(code == Some(1) && script.contains("-- WRONG "), "{script}");
        assert_eq!(scene.ask(OURS).await, before);
        assert_eq!(working.stop(), Some(0));
        settled("the daemon's place is free", PATIENCE, async || match teardown(&scene, &["--yes"], &config) {
            (Some(0), ..) => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(scene.ask(OURS).await, NOTHING);
    }
}

#[tokio::test]
async fn without_an_answer_or_the_rights_nothing_is_changed() {
    for mode in Mode::ALL {
        let scene = scene(mode).await;
        let (before, config) = (scene.ask(OURS).await, config(&scene));
        let (code, out, said) = teardown(&scene, &[], &config);
        assert_eq!(code, Some(64), "{out}{said}");
        assert!(said.contains("nobody is at a terminal") && said.contains("--yes"), "{said}");
        scene.run("CREATE ROLE weak LOGIN REPLICATION; GRANT USAGE ON SCHEMA crieur TO weak").await;
        if mode == Mode::Outbox {
            scene.run("GRANT SELECT ON crieur.progress TO weak").await;
        }
        let weak = config.replace("postgres://postgres@", "postgres://weak@");
        let (code, out, said) = teardown(&scene, &["--yes"], &weak);
        match mode {
            Mode::Replication => assert!(code == Some(1) && out.contains("it belongs to role"), "{out}{said}"),
            Mode::Outbox => assert!(code == Some(77) && said.contains("Nothing was changed"), "{out}{said}"),
        }
        assert_eq!(scene.ask(OURS).await, before);
        // A transaction that holds a table: all of it stays, the slot too.
        let mut other = scene.postgres.client().await;
        let held = other.transaction().await.expect("it begins");
        held.batch_execute("LOCK TABLE towns IN ACCESS SHARE MODE").await.expect("it is free");
        let (code, out, said) = teardown(&scene, &["--yes"], &config);
        assert!(code == Some(69) && said.contains("A long transaction holds a table"), "{code:?} {out}{said}");
        assert_eq!(scene.ask(OURS).await, before);
        held.rollback().await.expect("it ends");
    }
}
