//! Makes the recordings of `tests/golden`: each workload on each server, through the real recorder.
//!
//! It runs only when asked (`make record`): its result is a file in the repository, not a verdict. A line `-- wait`
//! in a workload waits until everything before it has reached the recorder; `-- record` is where the recording begins.

use std::path::{Path, PathBuf};

use crieur::cli::record::{News, record};
use crieur::config::Config;
use crieur::lsn::Lsn;
use tokio::sync::watch;

use super::harness::postgres::{self, Postgres, Version};
use super::harness::wait;

/// Small transactions are streamed, and PREPARE TRANSACTION is allowed.
const CONF: [&str; 2] = ["logical_decoding_work_mem = '64kB'", "max_prepared_transactions = 5"];

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
        News::Ready(lsn) | News::Settled(lsn) => drop(told.send_replace(Some(lsn))),
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
        let conf = CONF.map(str::to_owned).to_vec();
        let server = Postgres::start(postgres::Options { version, conf, ..Default::default() });
        for (folder, sql) in workloads() {
            record_one(&server, version, &folder, &sql).await;
        }
    }
}
