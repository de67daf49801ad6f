//! Streams of real servers, replayed: every recording of a workload deletes the same keys, whichever version made it.
//!
//! `tests/golden/NAME/` holds the workload, its rules, the recordings of each server and the one text that all of them
//! must replay to. `make record` makes the recordings anew, `UPDATE=1 cargo test --test main golden` the text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crieur::cli::replay;
use crieur::config::Config;
use crieur::decode::Frame;
use crieur::source::recording::{RecordedEntry, Recording};
use crieur::tap::Settled;

/// A bound that no workload reaches.
const ROOMY: usize = 64 << 20;

/// Where the workloads are.
fn workloads() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn recordings(workload: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(workload).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "rec")).collect();
    found.sort();
    found
}

/// Rules of a workload; the addresses of servers play no part.
fn config(workload: &Path) -> Config {
    let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
    let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(&workload.join("rules.toml"), urls.into_iter());
    config.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// What `crieur replay` prints of a recording.
fn replayed(path: &Path, config: &Config, bytes_max: usize) -> String {
    let recording = Recording::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut text = String::new();
    let replay = replay::transactions(&recording, &config.rules, bytes_max, async |settled: Settled| {
        text += &settled.to_string();
        Ok(())
    });
    runtime.block_on(replay).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}

/// The first line that differs, with its number: a whole dump of a thousand keys helps nobody.
fn difference(expected: &str, found: &str) -> Option<String> {
    let (mut left, mut right) = (expected.lines(), found.lines());
    (1..)
        .map_while(|line| match (left.next(), right.next()) {
            (None, None) => None,
            (left, right) => Some((line, left, right)),
        })
        .find(|(_, left, right)| left != right)
        .map(|(line, left, right)| format!("line {line}: expected {left:?}, replayed {right:?}"))
}

#[test]
fn every_recording_of_a_workload_deletes_what_the_workload_should() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for workload in workloads() {
        let config = config(&workload);
        let recordings = recordings(&workload);
        assert_eq!(recordings.len(), 3, "{}: one for each server; run `make record`", workload.display());
        if update {
            std::fs::write(workload.join("expect.txt"), replayed(&recordings[0], &config, ROOMY)).unwrap();
        }
        let expected = std::fs::read_to_string(workload.join("expect.txt")).unwrap_or_default();
        for path in recordings {
            let found = replayed(&path, &config, ROOMY);
            wrong.extend(difference(&expected, &found).map(|difference| format!("{}: {difference}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_transaction_past_the_bound_comes_in_pieces_and_loses_no_key() {
    let workload = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sizes");
    let (path, config) = (workload.join("pg18.rec"), config(&workload));
    let keys =
        |text: &str| text.lines().filter(|line| line.contains("key ")).map(str::to_owned).collect::<BTreeSet<_>>();
    let (whole, pieces) = (replayed(&path, &config, ROOMY), replayed(&path, &config, 4096));
    assert!(pieces.lines().count() > whole.lines().count(), "it came in one piece");
    assert_eq!(keys(&pieces), keys(&whole));
}

#[test]
fn the_recordings_of_each_server_hold_every_message_that_our_stream_can_hold() {
    for server in ["pg15.rec", "pg17.rec", "pg18.rec"] {
        let mut tags = BTreeSet::new();
        for workload in workloads() {
            let recording = Recording::open(&workload.join(server)).unwrap_or_else(|error| panic!("{error}"));
            for entry in &recording.entries {
                if let RecordedEntry::Frame(frame) = entry
                    && let Frame::XLogData { payload, .. } = Frame::parse(frame).unwrap()
                {
                    tags.insert(char::from(payload[0]));
                }
            }
        }
        let found: String = tags.into_iter().collect();
        assert_eq!(found, "ABCDEIMORSTUYc", "{server}: see decode/pgoutput.rs for the letters");
    }
}
