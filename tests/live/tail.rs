//! The control socket, and `crieur tail` at it: who may ask, what is told, and how both ends end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::daemon::{Daemon, run_with};
use super::harness::process::{Process, Signal};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, Scene};

/// A configuration with a control socket in a folder of its own.
fn with_socket(config: &str) -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let path = folder.path().join("control.sock");
    let text = format!("control.socket = \"{}\"\n{config}", path.display());
    (folder, path, text)
}

/// A `crieur tail` that runs, and what it wrote.
struct Tail {
    process: Process,
    out: PathBuf,
    folder: tempfile::TempDir,
}

impl Tail {
    fn start(socket: &Path, arguments: &[&str]) -> Tail {
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let (out, err) = (folder.path().join("out"), folder.path().join("err"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
        command.arg("tail").arg("--socket").arg(socket).args(arguments).env_clear().stdin(Stdio::null());
        command.stdout(File::create(&out).expect("ours")).stderr(File::create(&err).expect("ours"));
        Tail { process: Process::start(&mut command, folder.path()), out, folder }
    }

    fn said(&self) -> String {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        read(&self.out) + &read(&self.folder.path().join("err"))
    }

    async fn says(&self, words: &[&str]) -> String {
        settled(&format!("tail says {words:?}"), PATIENCE, async || {
            let said = self.said();
            let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or(said)
        })
        .await
    }
}

#[tokio::test]
async fn tail_shows_each_change_with_its_age_keys_and_cache_and_ends_with_the_daemon() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let (_folder, socket, config) = with_socket(&scene.config());
        let mut daemon = scene.daemon_with(&config).await;
        let mode_bits = fs::metadata(&socket).expect("the socket is there").permissions().mode();
        assert_eq!(mode_bits & 0o777, 0o660);
        let plain = Tail::start(&socket, &[]);
        let json = Tail::start(&socket, &["--json", "--table", "properties", "--key", "properties:detail:*"]);
        plain.says(&["following the changes"]).await;
        daemon.wait_for_logs("id=control.asked", 2);
        for (arguments, words) in [
            (["--cache", "nope"], ["there is no cache \"nope\"", "The caches are: main."]),
            (["--table", "nope"], ["no rule has the table \"nope\"", "public.properties"]),
        ] {
            let mut refused = Tail::start(&socket, &arguments);
            assert_eq!(refused.process.wait(PATIENCE).and_then(|end| end.code()), Some(64), "{}", refused.said());
            assert!(words.iter().all(|word| refused.said().contains(word)), "{}", refused.said());
        }
        scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
        scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
        let line = plain.says(&["public.properties", "update", "properties:detail:1", "main", "crieur.toml:"]).await;
        assert!(line.contains("ms main "), "{line}");
        plain.says(&["public.visit_bookings", "insert", "available_slots:1"]).await;
        let line = json.says(&["properties:detail:1"]).await;
        let told: serde_json::Value = serde_json::from_str(&line).expect("one object a line");
        assert_eq!((&told["table"], &told["operation"]), (&"public.properties".into(), &"update".into()));
        assert_eq!((&told["cache"], &told["waits"]), (&"main".into(), &false.into()), "{line}");
        assert!(!json.said().contains("visit_bookings"), "it is filtered: {}", json.said());
        let mut interrupted = Tail::start(&socket, &[]);
        interrupted.says(&["following"]).await;
        interrupted.process.signal(Signal::Int);
        assert_eq!(interrupted.process.wait(PATIENCE).and_then(|end| end.code()), Some(0));
        let mut tails = [plain, json];
        assert_eq!(daemon.stop(), Some(0));
        for tail in &mut tails {
            assert_eq!(tail.process.wait(PATIENCE).and_then(|end| end.code()), Some(0), "{}", tail.said());
            assert!(tail.said().contains("the daemon ended"), "{}", tail.said());
        }
        assert!(!socket.exists(), "the socket goes with its daemon");
    }
}

#[tokio::test]
async fn a_change_that_no_cache_has_deleted_is_shown_as_one_that_waits() {
    let scene = Scene::start().await;
    let (_folder, socket, config) = with_socket(&scene.config());
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache();
    let tail = Tail::start(&socket, &[]);
    tail.says(&["following"]).await;
    scene.cache.freeze();
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    tail.says(&["waits", "available_slots:1"]).await;
    scene.cache.thaw();
    tail.says(&["main", "available_slots:1"]).await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let scene = Scene::start().await;
    let (folder, socket, config) = with_socket(&scene.config());
    let mut daemon = scene.daemon_with(&config).await;
    let second = config.replace("[postgres]\n", "[postgres]\nslot = \"other\"\n");
    let refused = |config: &str| {
        let mut other = Daemon::start(config, &[]);
        other.allow("id=run.failed");
        (other.exit(), other.log())
    };
    let (code, log) = refused(&second);
    assert_eq!(code, Some(71), "{log}");
    assert!(log.contains("another process answers there"), "{log}");
    assert!(UnixStream::connect(&socket).is_ok(), "the first one still answers");
    daemon.kill();
    assert!(socket.exists() && UnixStream::connect(&socket).is_err(), "a killed daemon leaves its socket");
    let out = run_with(&["tail"], &config);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains("has ended") && said.contains("hint: "), "{said}");
    let again = scene.daemon_with(&config).await;
    assert!(UnixStream::connect(&socket).is_ok(), "{}", again.log());
    drop(again);
    fs::remove_file(&socket).expect("a killed daemon leaves its socket");
    fs::write(&socket, "a file of somebody").expect("the folder is ours");
    let (code, log) = refused(&config);
    assert!(code == Some(71) && log.contains("a file that is no socket"), "{code:?} {log}");
    assert_eq!(fs::read_to_string(&socket).expect("it stays"), "a file of somebody");
    drop(folder);
}

/// What a socket answers to these bytes.
fn answer(socket: &Path, question: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    // A daemon that has read enough may close before the last byte.
    let _ = stream.write_all(question);
    let mut said = String::new();
    let _ = BufReader::new(stream).read_line(&mut said);
    said
}

#[tokio::test]
async fn whoever_asks_nonsense_too_much_or_never_reads_disturbs_nobody() {
    let scene = Scene::start().await;
    let (_folder, socket, config) = with_socket(&scene.config());
    let mut daemon = scene.daemon_with(&config).await;
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"{\"ask\":\"drop\"}\n", b"\xff\xfe\n", &[b'x'; 64 * 1024]] {
        assert!(answer(&socket, nonsense).contains("not understood"), "{nonsense:?}");
    }
    // Eight that ask nothing hold all places for as long as a question may take.
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    eventually("the ninth is told so", PATIENCE, async || {
        answer(&socket, b"{\"ask\":\"status\"}\n").contains("too many")
    })
    .await;
    eventually("the silent ones are left", PATIENCE, async || {
        answer(&socket, b"{\"ask\":\"status\"}\n").contains("\"ready\":true")
    })
    .await;
    drop(silent);
    // One that follows and never reads is left, and every change is deleted meanwhile.
    let mut deaf = UnixStream::connect(&socket).expect("it listens");
    deaf.write_all(b"{\"ask\":\"tail\"}\n").expect("it takes a line");
    daemon.wait_for_log("id=control.asked");
    for _ in 0..20 {
        scene.run("INSERT INTO visits SELECT id FROM generate_series(1, 99) AS id ON CONFLICT DO NOTHING").await;
        scene.run("UPDATE properties SET title = title || 'x', city = repeat('y', 200) || id").await;
    }
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains("properties:detail:1"));
    deaf.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has timeouts");
    let mut first = [0; 16];
    deaf.read_exact(&mut first).expect("what was written at first is there");
    assert_eq!(&first, b"{\"tell\":\"begins\"");
}

#[tokio::test]
async fn status_shows_the_daemon_beside_the_marks_where_its_socket_is() {
    let scene = Scene::start().await;
    let (_folder, _socket, config) = with_socket(&scene.config());
    let mut daemon = scene.daemon_with(&config).await;
    let status = |arguments: &[&str]| {
        let out = run_with(&[&["status"], arguments].concat(), &config);
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (code, said) = status(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("cache main: lsn ") && said.contains("daemon: ready: "), "{said}");
    let (code, said) = status(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&said).expect("one object");
    assert_eq!((code, &told["daemon"]["ready"], &told["caches"][0]["cache"]), (Some(0), &true.into(), &"main".into()));
    assert_eq!(told["daemon"]["shown"]["caches"][0]["name"], "main", "what the page shows: {said}");
    scene.change(&daemon, "UPDATE properties SET title = 'new' WHERE id = 2").await;
    let lines = settled("status shows what the page shows", PATIENCE, async || {
        let (_, said) = status(&[]);
        let all = [
            "daemon: nothing is wrong\n",
            "daemon: oldest change not deleted yet ",
            "; commit to delete ",
            "daemon: slot crieur at ",
            "daemon: table public.properties: ",
            " keys/s",
            " UTC public.properties update ",
            " properties:detail:2 ",
            ": main ",
        ];
        if all.iter().all(|part| said.contains(part)) { Ok(said) } else { Err(said) }
    })
    .await;
    assert!(lines.lines().count() < 20, "a person reads it at night: {lines}");
    let (_, said) = status(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&said).expect("one object");
    let shown = &told["daemon"]["shown"];
    let change = &shown["changes"][0];
    assert_eq!((&change["table"], &change["operation"]), (&"public.properties".into(), &"update".into()), "{said}");
    assert!(change["deleted_after_seconds"]["main"].as_f64().is_some_and(|after| after < 30.0), "{said}");
    assert!(shown["commit_to_delete_median_seconds"].is_f64() && shown["warnings"].is_array(), "{said}");
    // A moment behind the start there is no rate yet.
    settled("a rate of each table is told", PATIENCE, async || {
        let told: serde_json::Value = serde_json::from_str(&status(&["--json"]).1).expect("one object");
        let rate = told["daemon"]["shown"]["tables"][0]["keys_per_second"].clone();
        if rate.is_f64() { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
    let (code, said) = status(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&said).expect("one object");
    assert_eq!((code, &told["daemon"]), (Some(0), &serde_json::Value::Null), "the marks are there: {said}");
}

#[tokio::test]
async fn the_log_shows_each_delete_at_debug_and_none_at_info() {
    let scene = Scene::start().await;
    for (level, shown) in [("debug", true), ("info", false)] {
        let mut daemon = scene.daemon_in(&scene.config(), &[("CRIEUR_LOG", level.to_owned())]).await;
        scene.run("UPDATE properties SET title = title || '!' WHERE id = 2").await;
        if shown {
            daemon.wait_for_log("[CACHE] DEL | properties:detail:2 | ");
        }
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
        assert_eq!(daemon.log().contains("[CACHE] DEL | "), shown, "{level}");
    }
}
