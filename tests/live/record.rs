//! Makes the recordings of `tests/golden`: each workload on each server, through the real recorder; and what ends a
//! recording.
//!
//! The former runs only when asked (`make record`): its result is a file in the repository, not a verdict. A line
//! `-- wait` in a workload waits until everything before it has reached the recorder; `-- record` is where the recording
//! begins.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crieur::cli::record::{Milestone, record};
use crieur::config::Config;
use crieur::lsn::Lsn;
use tokio::sync::watch;

use super::harness::cluster::Cluster;
use super::harness::postgres::{self, Postgres, Version};
use super::harness::process::{Signal, send};
use super::harness::redis::{Redis, Server};
use super::harness::wait;
use super::scene::{Mode, Scene};

/// PREPARE TRANSACTION is off by default.
const CONF: &str = "max_prepared_transactions = 5";

fn file_name(version: Version) -> &'static str {
    match version {
        Version::System => "pg15.rec",
        Version::V17 => "pg17.rec",
        Version::V18 => "pg18.rec",
    }
}

/// A workload's folder and its statements, one by one.
fn workloads() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(folder).expect("it is part of the repository");
    let read = |path: PathBuf| {
        let sql = std::fs::read_to_string(path.join("workload.sql")).expect("every folder has a workload");
        (path, sql)
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let folders = folders.map(|entry| entry.expect("it can be listed").path());
    folders.filter(|path| path.to_string_lossy().ends_with(&only)).map(read).collect()
}

async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it accepts sessions");
    tokio::spawn(connection);
    client
}

/// Runs the statements one after another, each as its own query: some refuse to share one.
async fn run(client: &tokio_postgres::Client, url: &str, sql: &str, received: &watch::Receiver<Option<Lsn>>) {
    for statement in sql.split_inclusive(";\n") {
        if statement.lines().any(|line| line == "-- wait") {
            caught_up(url, received).await;
        }
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}\n{error:?}"));
    }
    caught_up(url, received).await;
}

/// Until everything written so far has reached the recorder. A commit of another session flushes what an open
/// transaction wrote, so that it can be decoded.
async fn caught_up(url: &str, received: &watch::Receiver<Option<Lsn>>) {
    let other = client(url).await;
    let row = other.query_one("SELECT pg_logical_emit_message(true, 'golden', '')::text", &[]).await;
    let end: Lsn = row.expect("it can write").get::<_, String>(0).parse().expect("a position");
    let mut received = received.clone();
    received.wait_for(|received| received.is_some_and(|lsn| lsn >= end)).await.expect("the recorder runs");
}

async fn record_one(server: &Postgres, version: Version, folder: &Path, sql: &str) {
    let name = folder.file_name().expect("it has a name").to_string_lossy().replace('-', "_");
    server.client().await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("the name is plain");
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", server.port());
    let env = [("DATABASE_URL", url.as_str()), ("REDIS_URL", "redis://localhost")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(&folder.join("rules.toml"), env.into_iter());
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let (setup, workload) = sql.split_once("-- record\n").expect("every workload says where the recording begins");
    let (told, received) = watch::channel(None);
    let session = client(&url).await;
    session.batch_execute(setup).await.unwrap_or_else(|error| panic!("{setup}\n{error:?}"));
    let mut started = received.clone();
    let stop = async {
        started.wait_for(Option::is_some).await.expect("the recorder runs");
        run(&session, &url, workload, &received).await;
    };
    let mut bytes = Vec::new();
    let recorded = record(&config, &mut bytes, stop, |news| match news {
        Milestone::Ready(lsn) | Milestone::Settled(lsn) => drop(told.send_replace(Some(lsn))),
    });
    let recorded = tokio::time::timeout(wait::PATIENCE, recorded).await.expect("it ends in time");
    let recorded = recorded.unwrap_or_else(|error| panic!("{name} {version:?}: {}", error.chain()));
    assert_eq!(recorded.unanswered, 0, "{name} {version:?}");
    std::fs::write(folder.join(file_name(version)), &bytes).expect("the repository is writable");
    println!("{name} {version:?}: {recorded:?}, {} bytes", bytes.len());
}

#[tokio::test]
#[ignore = "writes into the repository: make record"]
async fn record_every_workload_on_every_server() {
    for version in Version::ALL {
        let server = Postgres::start(postgres::Options { version, conf: vec![CONF.to_owned()], ..Default::default() });
        for (folder, sql) in workloads() {
            record_one(&server, version, &folder, &sql).await;
        }
    }
}

/// The command, its arguments, and the configuration last.
fn crieur(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
    command.args(arguments).arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_recording_holds_what_committed_before_the_signal_and_leaves_nothing_behind() {
    let (server, cache) = (Postgres::start(postgres::Options::default()), Redis::start(&Server::System, &[]));
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let (config, out) = (dir.path().join("crieur.toml"), dir.path().join("out.rec"));
    let rules = "[[rules]]\ntable = \"public.t\"\nkeys = [\"t:{id}\", \"page:{id}:*\"]\n";
    let urls = format!("[postgres]\nurl = \"{}\"\n[cache]\nurl = \"{}\"\n", server.url(), cache.url());
    std::fs::write(&config, urls + rules).expect("the directory is ours");
    let out_name = out.to_str().expect("a plain path");
    let client = server.client().await;
    client.batch_execute("CREATE TABLE t (id int); CREATE PUBLICATION crieur FOR TABLE t").await.expect("valid SQL");

    let mut recorder = crieur(&["record", "--out", out_name], &config).spawn().expect("it was built");
    let mut lines = BufReader::new(recorder.stdout.take().expect("it is piped")).lines();
    let first = lines.next().expect("it says when it is ready").expect("it is text");
    assert!(first.starts_with("recording from "), "{first}");
    client.batch_execute("INSERT INTO t VALUES (1), (2)").await.expect("it can write");
    let slots = "SELECT count(*) FILTER (WHERE temporary), count(*) FROM pg_replication_slots";
    let row = client.query_one(slots, &[]).await.expect("it answers");
    assert_eq!((1, 1), (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    send(recorder.id(), Signal::Term);
    assert!(recorder.wait().expect("it is our child").success());
    wait::eventually("the slot is gone", wait::PATIENCE, async || {
        client.query_one(slots, &[]).await.expect("it answers").get::<_, i64>(1) == 0
    })
    .await;
    let mode = std::fs::metadata(&out).expect("it was written").permissions().mode();
    assert_eq!(0o600, mode & 0o777, "row values are the owner's");

    let mut cache = cache.connection();
    let set: redis::RedisResult<()> = redis::pipe().set("t:1", "").set("t:3", "").set("page:2:a", "").query(&mut cache);
    set.expect("it is writable");
    let dry = crieur(&["replay", out_name], &config).output().expect("it was built");
    let expected = "transaction 1\n  key t:1\n  key t:2\n  pattern page:1:*\n  pattern page:2:*\n";
    assert!(text(&dry).starts_with(expected), "{}", text(&dry));
    assert_eq!(3, redis::cmd("DBSIZE").query::<u64>(&mut cache).expect("it answers"), "nothing is deleted unasked");
    let wet = crieur(&["replay", "--execute", out_name], &config).output().expect("it was built");
    assert!(text(&wet).ends_with("1 transactions, 2 keys sent, 2 existed and are deleted\n"), "{}", text(&wet));
    assert_eq!(vec!["t:3"], redis::cmd("KEYS").arg("*").query::<Vec<String>>(&mut cache).expect("it answers"));

    let again = crieur(&["record", "--for", "100ms", "--out", out_name], &config).output().expect("it was built");
    assert_eq!(Some(73), again.status.code(), "a recording is never written over: {}", text(&again));
    let timed = dir.path().join("timed.rec");
    // From the command's start: a busy machine needs some of that to begin.
    let timed = ["record", "--for", "3s", "--out", timed.to_str().expect("a plain path")];
    let timed = crieur(&timed, &config).output().expect("it was built");
    assert!(
        timed.status.success() && text(&timed).contains(" frames, 0 lookups answered, 0 not\n"),
        "{}",
        text(&timed)
    );
    let bytes = std::fs::read(&out).expect("it is there");
    std::fs::write(&out, &bytes[..bytes.len() - 1]).expect("it is ours");
    let cut_off = crieur(&["replay", out_name], &config).output().expect("it was built");
    // Whoever wrote it was cut off, by a full disk say: what is whole is read, and where that ends is said.
    assert!(
        cut_off.status.success() && text(&cut_off).contains("ends inside of the entry at byte "),
        "{}",
        text(&cut_off)
    );

    drop((client, server));
    let away = dir.path().join("away.rec");
    let failed = ["record", "--out", away.to_str().expect("a plain path")];
    let failed = crieur(&failed, &config).output().expect("it was built");
    assert!(
        !failed.status.success() && !away.exists(),
        "nothing stands in the way of the next attempt: {}",
        text(&failed)
    );
}

/// A server that keeps the line open and says nothing any more ends a recording, as it ends the daemon's stream.
#[tokio::test]
async fn a_server_that_says_nothing_any_more_ends_a_recording() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let (file, out) = (dir.path().join("crieur.toml"), dir.path().join("out.rec"));
        let config = scene.config().replace("[postgres]\n", "[postgres]\nliveness_timeout = \"3s\"\n");
        std::fs::write(&file, config).expect("the directory is ours");
        let mut record = Command::new(env!("CARGO_BIN_EXE_crieur"));
        record.args(["record", "--config"]).arg(&file).arg("--out").arg(&out);
        record.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut recorder = record.spawn().expect("cargo built the program");
        let mut lines = BufReader::new(recorder.stdout.take().expect("it is piped")).lines();
        assert!(lines.next().is_some_and(|line| line.is_ok_and(|line| line.starts_with("recording from"))));
        // Quiet is no reason to end.
        let old = "SELECT bool_or(clock_timestamp() - backend_start > '6 s')::text FROM pg_stat_activity \
                   WHERE application_name = 'crieur'";
        wait::eventually("it is quiet for long", wait::PATIENCE, async || scene.ask(old).await != "false").await;
        assert!(recorder.try_wait().expect("it is our child").is_none(), "{mode:?}");
        let backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'crieur'";
        let backends = scene.sql.query(backend, &[]).await.expect("it answers");
        let backends: Vec<u32> = backends.iter().map(|row| row.get::<_, i32>(0) as u32).collect();
        assert!(!backends.is_empty());
        backends.iter().for_each(|pid| send(*pid, Signal::Stop));
        let out = tokio::task::spawn_blocking(|| recorder.wait_with_output()).await.expect("it does not panic");
        backends.iter().for_each(|pid| send(*pid, Signal::Cont));
        let out = out.expect("it is our child");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(69), "{mode:?}: {said}");
        assert!(said.contains("the link is dead") || said.contains("gave no answer within 3s"), "{mode:?}: {said}");
    }
}

/// What is replayed goes where the daemon would delete it: in every shard, in the caches that a rule is for, and never
/// what the cache protects.
#[tokio::test]
async fn a_replay_deletes_what_the_daemon_would_in_each_cache() {
    let (server, dakar) = (Postgres::start(postgres::Options::default()), Redis::start(&Server::System, &[]));
    let cluster = Cluster::start(Server::System, &[]);
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let (config, out) = (dir.path().join("crieur.toml"), dir.path().join("out.rec"));
    let text_of = format!(
        "[postgres]\nurl = \"{}\"\n[caches.dakar]\nurl = \"{}\"\nprotect = [\"t:2\"]\n[caches.cluster]\nurl = \"{}\"\n\
         [[rules]]\ntable = \"public.t\"\nkeys = [\"t:{{id}}\", \"page:{{id}}:*\"]\n\
         [[rules]]\ntable = \"public.t\"\nkeys = [\"own:{{id}}\"]\ncaches = [\"cluster\"]\n",
        server.url(),
        dakar.url(),
        cluster.url()
    );
    std::fs::write(&config, text_of).expect("the directory is ours");
    let out_name = out.to_str().expect("a plain path");
    let client = server.client().await;
    client.batch_execute("CREATE TABLE t (id int); CREATE PUBLICATION crieur FOR TABLE t").await.expect("valid SQL");
    let mut recorder = crieur(&["record", "--out", out_name], &config).spawn().expect("it was built");
    let mut lines = BufReader::new(recorder.stdout.take().expect("it is piped")).lines();
    lines.next().expect("it says when it is ready").expect("it is text");
    client.batch_execute("INSERT INTO t VALUES (1), (2)").await.expect("it can write");
    send(recorder.id(), Signal::Term);
    assert!(recorder.wait().expect("it is our child").success());

    let pages: Vec<String> = (0..60).map(|page| format!("page:1:{page}")).collect();
    let named = ["t:1", "t:2", "own:1", "own:2", "t:3"].map(String::from);
    for key in named.iter().chain(&pages) {
        let () = dakar.ask(&["SET", key.as_str(), ""]);
        cluster.set(key, "");
    }
    let wet = crieur(&["replay", "--execute", out_name], &config).output().expect("it was built");
    assert!(wet.status.success(), "{}", text(&wet));
    let mut left: Vec<String> = dakar.ask(&["KEYS", "*"]);
    left.sort();
    assert_eq!(left, ["own:1", "own:2", "t:2", "t:3"], "{}", text(&wet));
    let left: Vec<&String> = named.iter().chain(&pages).filter(|key| cluster.holds(key, &[0, 1, 2])).collect();
    assert_eq!(left, ["t:3"], "{}", text(&wet));
    assert!(text(&wet).contains("1 transactions, "), "{}", text(&wet));
}
