//! The workloads of `tests/golden` in outbox mode, on each server: recorded, replayed, and compared with the same text.
//!
//! Triggers know every old value, so where the stream had to widen a key to its pattern the outbox may have the key
//! itself. What must not be: a key that the text names and nobody deletes, or one that the text does not cover.

use std::collections::BTreeSet;
use std::path::Path;

use crieur::cli::record::{Milestone, record};
use crieur::cli::replay;
use crieur::config::Config;
use crieur::glob;
use crieur::source::recording::Recording;
use crieur::tap::Settled;
use tokio::sync::watch;

use super::daemon;
use super::harness::postgres::{self, Postgres, Version};
use super::harness::wait::PATIENCE;

/// Two more looks: what was committed before is in the recording.
async fn caught_up(looks: &watch::Receiver<u64>) {
    let (mut looks, now) = (looks.clone(), *looks.borrow());
    looks.wait_for(|looks| *looks >= now + 2).await.expect("the recorder runs");
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it accepts sessions");
    tokio::spawn(connection);
    client
}

/// What a replay of the workload's recording prints.
async fn replayed(server: &Postgres, folder: &Path) -> String {
    let name = folder.file_name().expect("it has a name").to_string_lossy().replace('-', "_");
    let sql = std::fs::read_to_string(folder.join("workload.sql")).expect("every folder has a workload");
    let (setup, workload) = sql.split_once("-- record\n").expect("every workload says where the recording begins");
    server.client().await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("the name is plain");
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", server.port());
    let session = connect(&url).await;
    session.batch_execute(setup).await.unwrap_or_else(|error| panic!("{setup}\n{error:?}"));
    let env =
        [("DATABASE_URL", url.as_str()), ("REDIS_URL", "redis://localhost"), ("CRIEUR__POSTGRES__MODE", "outbox")];
    let rules = std::fs::read_to_string(folder.join("rules.toml")).expect("every folder has rules");
    let out = daemon::run("setup", &rules, &env);
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(&folder.join("rules.toml"), env.into_iter());
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let (told, looks) = watch::channel(0);
    let stop = async {
        caught_up(&looks).await;
        for statement in workload.split_inclusive(";\n") {
            if statement.lines().any(|line| line == "-- wait") {
                caught_up(&looks).await;
            }
            session.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}\n{error:?}"));
        }
    };
    let mut bytes = Vec::new();
    let recorded = record(&config, &mut bytes, stop, |news| match news {
        Milestone::Ready(_) | Milestone::Settled(_) => told.send_modify(|looks| *looks += 1),
    });
    let recorded = tokio::time::timeout(PATIENCE, recorded).await.expect("it ends in time");
    let recorded = recorded.unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
    assert_eq!(recorded.unanswered, 0, "{name}");
    let recording = Recording::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut text = String::new();
    let replay = replay::transactions(&recording, &config.rules, 64 << 20, async |settled: Settled| {
        text += &settled.to_string();
        Ok(())
    });
    replay.await.unwrap_or_else(|error| panic!("{name}: {error}"));
    text
}

/// Keys and patterns of a printed replay.
fn sets(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let keys = text.lines().filter_map(|line| line.trim().strip_prefix("key "));
    let keys = keys.map(|key| key.strip_prefix("of a lookup ").unwrap_or(key)).collect();
    (keys, text.lines().filter_map(|line| line.trim().strip_prefix("pattern ")).collect())
}

fn covers(patterns: &BTreeSet<&str>, key: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), key.as_bytes()))
}

#[tokio::test]
async fn every_workload_deletes_what_it_should_from_the_outbox_too() {
    let workloads = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    let workloads =
        workloads.expect("it is part of the repository").map(|entry| entry.expect("it can be listed").path());
    let (workloads, mut wrong) = (workloads.collect::<Vec<_>>(), Vec::new());
    for version in Version::ALL {
        let conf = vec!["max_prepared_transactions = 5".to_owned()];
        let server = Postgres::start(postgres::Options { version, conf, ..Default::default() });
        for folder in &workloads {
            let expected = std::fs::read_to_string(folder.join("expect.txt")).expect("every folder has it");
            let found = replayed(&server, folder).await;
            let (keys, patterns) = sets(&expected);
            let (found_keys, found_patterns) = sets(&found);
            // A stream that came before its transaction's end may have held more than what was committed.
            let happened = |key: &&&str| !key.contains("rolled back");
            let lost =
                keys.iter().filter(happened).filter(|key| !found_keys.contains(*key) && !covers(&found_patterns, key));
            let more = found_keys.iter().filter(|key| !keys.contains(*key) && !covers(&patterns, key));
            let wider = found_patterns.iter().filter(|pattern| !patterns.contains(*pattern));
            let mut say = |what: &str, items: Vec<&&str>| {
                if !items.is_empty() {
                    wrong.push(format!("{version:?}, {}: {what} {items:?}", folder.display()));
                }
            };
            say("not deleted", lost.collect());
            say("deleted for nothing", more.collect());
            say("widened for nothing", wider.collect());
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
