//! The process and what surrounds it: its standard error, its signals, its end.

use std::fs;
use std::process::{Command, Stdio};

use super::harness::process::{Process, Signal};
use super::harness::wait::{PATIENCE, settled};
use super::scene::Scene;

/// A daemon whose standard error is `stderr`, so that nothing of its log can be read.
struct Mute {
    process: Process,
    dir: tempfile::TempDir,
}

impl Mute {
    fn start(config: &str, stderr: Stdio) -> Mute {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        fs::write(dir.path().join("crieur.toml"), config).expect("the directory is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
        command.args(["run", "--config"]).arg(dir.path().join("crieur.toml")).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Mute { process: Process::start(&mut command, dir.path()), dir }
    }

    /// A change of the row deletes its keys.
    async fn works(&mut self, scene: &Scene, what: &str) {
        scene.fill();
        scene.run("UPDATE properties SET title = title || '+' WHERE id = 1").await;
        settled(what, PATIENCE, async || match (self.process.ended(), scene.gone()) {
            (None, gone) if gone.contains("properties:detail:1") => Ok(()),
            (ended, gone) => Err((ended, gone)),
        })
        .await;
    }
}

#[tokio::test]
async fn a_daemon_whose_log_cannot_be_written_goes_on() {
    let scene = Scene::start().await;
    // A key twice is worth a warning at the start.
    let warned = scene.config().replace("\"detail:{id}\"", "\"detail:{id}\", \"detail:{id}\"");
    assert_ne!(warned, scene.config());
    let full = || Stdio::from(fs::File::create("/dev/full").expect("Linux has it"));
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("there are descriptors");
        drop(reader);
        Stdio::from(writer)
    };
    for (name, stderr) in [("a full disk", full()), ("a reader that has gone", closed())] {
        let mut daemon = Mute::start(&warned, stderr);
        daemon.works(&scene, name).await;
        fs::write(daemon.dir.path().join("crieur.toml"), "[[rules]").expect("the directory is ours");
        let killed = Command::new("kill").args(["-HUP", &daemon.process.pid().to_string()]).status();
        assert!(killed.expect("kill is installed").success());
        // Rules in force stay, and the signal is long handled when a change that came behind it is.
        daemon.works(&scene, name).await;
        daemon.process.signal(Signal::Term);
        let ended = daemon.process.wait(PATIENCE).and_then(|status| status.code());
        assert_eq!(ended, Some(0), "{name}");
    }
}

#[tokio::test]
async fn a_command_whose_reader_has_gone_does_its_work_and_keeps_its_exit_code() {
    let scene = Scene::start().await;
    scene.run("SELECT pg_drop_replication_slot('crieur')").await;
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let path = dir.path().join("crieur.toml");
    fs::write(&path, scene.config()).expect("the directory is ours");
    let unread = |command: &str, more: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("there are descriptors");
        drop(reader);
        let mut crieur = Command::new(env!("CARGO_BIN_EXE_crieur"));
        crieur.arg(command).arg("--config").arg(&path).args(more).env_clear();
        let output = crieur.stdout(writer).stderr(Stdio::piped()).output().expect("cargo built the program");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let change = ["--table", "public.properties", "--op", "delete", "--old", "{\"id\": 1}"];
    assert_eq!(unread("explain", &change), (Some(0), String::new()));
    assert_eq!(unread("check", &[]), (Some(1), String::new()), "there is no slot");
    assert_eq!(unread("setup", &[]), (Some(0), String::new()));
    assert_eq!(scene.ask("SELECT count(*)::text FROM pg_replication_slots").await, "1", "setup went to its end");
    assert_eq!(unread("check", &[]), (Some(0), String::new()));
    let full = fs::File::create("/dev/full").expect("Linux has it");
    let mut crieur = Command::new(env!("CARGO_BIN_EXE_crieur"));
    crieur.arg("explain").arg("--config").arg(&path).args(change).env_clear();
    let output = crieur.stdout(full).stderr(Stdio::piped()).output().expect("cargo built the program");
    assert_eq!(output.status.code(), Some(73), "a full disk is told: {output:?}");
}

#[tokio::test]
async fn a_recording_that_fills_the_disk_names_its_path_and_is_replayed_up_to_its_last_whole_entry() {
    let scene = Scene::start().await;
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("crieur.toml"), scene.config()).expect("the directory is ours");
    // A limit of 64 KiB for files stands for the disk; the signal that goes with it is ignored.
    let line = "trap '' XFSZ; ulimit -f 64; exec \"$0\" record --config \"$1\" --out \"$2\"";
    let mut command = Command::new("bash");
    command.args(["-c", line, env!("CARGO_BIN_EXE_crieur"), &path("crieur.toml"), &path("rec")]).env_clear();
    let file = |name: &str| fs::File::create(path(name)).expect("the directory is ours");
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log"));
    let mut recorder = Process::start(&mut command, dir.path());
    let said = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    settled("it records", PATIENCE, async || match said("out") {
        out if out.contains("recording from") => Ok(()),
        out => Err((out, said("log"))),
    })
    .await;
    for _ in 0..20 {
        scene
            .run("DELETE FROM visit_bookings; INSERT INTO visit_bookings SELECT id, id FROM generate_series(1, 100) id")
            .await;
    }
    let code = recorder.wait(PATIENCE).and_then(|status| status.code());
    assert_eq!(code, Some(73), "{}", said("log"));
    assert!(
        said("log").contains(&path("rec")) && said("log").contains("hint: `crieur replay` reads"),
        "{}",
        said("log")
    );
    let mut replay = Command::new(env!("CARGO_BIN_EXE_crieur"));
    let output = replay.args(["replay", "--config", &path("crieur.toml"), &path("rec")]).env_clear().output();
    let output = output.expect("cargo built the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // The limit may fall between two entries by chance; the recording is whole then.
    let is_full = fs::metadata(path("rec")).is_ok_and(|about| about.len() == 64 * 1024);
    let said = text(&output.stderr);
    assert!(said.contains("ends inside of the entry") || (is_full && said.is_empty()), "{said}");
    assert!(text(&output.stdout).contains("key available_slots:100"), "{}", text(&output.stdout));
}
