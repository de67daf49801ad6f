//! `crieur sweep`: what a person orders goes, under the mark, and nothing else does.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::daemon::{Daemon, run_with};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene};

/// A configuration with a control socket in a folder of its own.
fn with_socket(config: &str) -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let path = folder.path().join("control.sock");
    let text = format!("control.socket = \"{}\"\n{config}", path.display());
    (folder, path, text)
}

/// Exit code and output.
fn told(out: &Output) -> (Option<i32>, String) {
    let text = [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (out.status.code(), text.concat())
}

fn sweep(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    told(&run_with(&[&["sweep"], arguments].concat(), config))
}

fn gone(scene: &Scene) -> Vec<String> {
    scene.gone().into_iter().collect()
}

#[tokio::test]
async fn what_a_person_orders_goes_and_nothing_besides() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let (_folder, _socket, config) = with_socket(&scene.config());
        let mut daemon = scene.daemon_with(&config).await;
        let (code, said) = sweep(&config, &["properties:detail:{id}", "--yes"]);
        assert_eq!(code, Some(0), "{said} {}", daemon.log());
        assert!(said.contains("cache main: 3 keys deleted"), "{said}");
        assert_eq!(gone(&scene), ["properties:detail:1", "properties:detail:10", "properties:detail:2"]);
        assert!(daemon.log().contains("somebody orders a sweep") && daemon.log().contains("cause=\"crieur sweep\""));
        let (code, said) = sweep(&config, &["available_slots:1", "--yes", "--cache", "main"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            gone(&scene).contains(&"available_slots:1".to_owned()) && gone(&scene).len() == 4,
            "{:?}",
            gone(&scene)
        );
        let before = gone(&scene);
        for (arguments, words) in [
            (&["session:*", "--yes"][..], "cache.invalidate"),
            (&["*", "--yes"], "no rule"),
            (&["properties:*", "--yes"], "no rule"),
            (&["lock:*", "--yes"], "protect of every cache keeps"),
            (&["visits:*", "--yes", "--cache", "dakar"], "The caches are: main."),
            (&["visits:*"], "Add --yes"),
        ] {
            let (code, said) = sweep(&config, arguments);
            assert_eq!(code, Some(64), "{arguments:?} {said}");
            assert!(said.contains(words) && said.contains("hint: "), "{arguments:?}: {said}");
        }
        assert_eq!(gone(&scene), before, "a refusal deletes nothing");
        let (code, said) = sweep(&config, &["visits:{id}", "--dry-run"]);
        assert!(code == Some(0) && said.contains("cache main: 2 keys match \"visits:*\""), "{code:?} {said}");
        assert!(!said.contains("commands"), "nothing is billed here: {said}");
        let metered = config.replace("[cache]\n", "[cache]\nmetered = \"yes\"\n");
        let (code, said) = sweep(&metered, &["visits:{id}", "--dry-run"]);
        assert!(code == Some(0) && said.contains("the sweep would cost about"), "{code:?} {said}");
        assert_eq!(gone(&scene), before, "a dry run deletes nothing");
        assert_eq!(daemon.stop(), Some(0));
        let (code, said) = sweep(&config, &["visits:*", "--yes"]);
        assert!(code == Some(69) && said.contains("hint: Start the daemon"), "{code:?} {said}");
    }
}

/// A cache that is away when the order comes holds its mark until it is swept; the other is swept at once.
#[tokio::test]
async fn an_ordered_sweep_of_a_cache_that_is_away_waits_for_it_and_so_does_its_mark() {
    let scene = Scene::start().await;
    let other = Redis::start(&Server::System, &[]);
    let config = scene.config().replace("[cache]\n", "[caches.main]\n");
    let config = format!("{config}\n[caches.eu]\nurl = \"{}\"\necho = []\nrequired = false\n", other.url());
    let (_folder, socket, config) = with_socket(&config);
    let mut daemon: Daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    eventually("both marks are there", PATIENCE, async || other.ask(&["EXISTS", "crieur:mark:crieur"])).await;
    other.ask::<()>(&["SET", "visits:1", "old"]);
    other.freeze();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
    command.args(["sweep", "visits:{id}", "--yes", "--socket"]).arg(&socket).env_clear().stdin(Stdio::null());
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cargo built the program");
    eventually("the other one is swept", PATIENCE, async || gone(&scene) == ["visits:1", "visits:150"]).await;
    other.thaw();
    let (code, said) = told(&waiting.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(0), "{said} {}", daemon.log());
    assert!(said.contains("cache eu: 1 keys deleted") && said.contains("cache main: 2 keys deleted"), "{said}");
    assert!(!other.ask::<bool>(&["EXISTS", "visits:1"]));
}

/// The daemon dies between the order and its end: the mark says nothing that the sweep did not do, so whoever ordered it is
/// told, and orders it again.
#[tokio::test]
async fn an_order_that_the_daemon_does_not_live_to_finish_ends_with_an_error() {
    let scene = Scene::start().await;
    let (_folder, socket, config) = with_socket(&scene.config());
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    scene.cache.freeze();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
    command.args(["sweep", "visits:{id}", "--yes", "--socket"]).arg(&socket).env_clear().stdin(Stdio::null());
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cargo built the program");
    daemon.wait_for_log("somebody orders a sweep");
    daemon.kill();
    let (code, said) = told(&waiting.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("the daemon ended before the sweep was done"), "{said}");
    scene.cache.thaw();
    settled("nothing is deleted", PATIENCE, async || if gone(&scene).is_empty() { Ok(()) } else { Err(gone(&scene)) })
        .await;
}
