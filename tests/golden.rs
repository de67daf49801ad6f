//! Streams of real servers, replayed: every recording of a workload deletes the same keys, whichever version made it.
//!
//! `tests/golden/NAME/` holds the workload, its rules, the recordings of each server and the one text that all of them
//! must replay to. `make record` makes the recordings anew, `UPDATE=1 cargo test --test main golden` the text.

use std::path::{Path, PathBuf};

use crieur::cli::replay::{self, Settled};
use crieur::config::Config;
use crieur::source::recording::Recording;

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

/// What `crieur replay` prints of a recording.
fn replayed(path: &Path, config: &Config) -> String {
    let recording = Recording::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut text = String::new();
    let memory = config.limits.memory_bytes_max.try_into().unwrap();
    let replay = replay::transactions(&recording, &config.rules, memory, async |settled: Settled| {
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
        let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
        let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(&workload.join("rules.toml"), urls.into_iter());
        let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let recordings = recordings(&workload);
        assert!(!recordings.is_empty(), "{}: no recording; run `make record`", workload.display());
        if update {
            std::fs::write(workload.join("expect.txt"), replayed(&recordings[0], &config)).unwrap();
        }
        let expected = std::fs::read_to_string(workload.join("expect.txt")).unwrap_or_default();
        for path in recordings {
            let found = replayed(&path, &config);
            wrong.extend(difference(&expected, &found).map(|difference| format!("{}: {difference}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
