//! Deliberate mistakes, as people make them, on real servers: what is said, letter by letter, and how the program ends.
//!
//! The rows are in `rows.rs`; what each is answered with is in `said.txt`, to be read as a new user would: which thing,
//! what is wrong with it, what do I type? `UPDATE=1 cargo test --test live mistakes` writes it anew. After every row both
//! servers are as they were: a mistake costs nothing and leaves nothing half done.

mod rows;
mod stage;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rows::{Row, rows};
use stage::Stage;

/// Rows that are tried at the same time: most of their time is a process that starts, or a server that is waited for.
const AT_ONCE: usize = 6;

/// At least so many.
const ROWS_MIN: usize = 80;

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/mistakes/said.txt")
}

#[tokio::test]
async fn every_mistake_is_said_with_its_thing_its_fault_and_its_way_out() {
    let rows = rows();
    assert!(rows.len() >= ROWS_MIN, "{} rows", rows.len());
    let stage = Stage::set().await;
    let before = stage.state().await;
    let only = std::env::var("ROW").unwrap_or_default();
    let said: Mutex<Vec<Option<String>>> = Mutex::new(vec![None; rows.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((index, row)) = take(&rows, &next) {
                    if row.name.contains(&only) {
                        let text = stage.try_row(row);
                        said.lock().expect("no holder panics")[index] = Some(text);
                    }
                }
            });
        }
    });
    let after = stage.state().await;
    assert_eq!(after, before, "a mistake left something on a server");
    let said: Vec<String> = said.into_inner().expect("no holder panics").into_iter().flatten().collect();
    let secrets: Vec<&String> = said.iter().filter(|text| text.contains("hunter2")).collect();
    assert!(secrets.is_empty(), "a secret is shown: {secrets:#?}");
    if !only.is_empty() {
        return println!("{}", said.join("\n"));
    }
    compare(&said.join("\n"));
}

fn take<'r>(rows: &'r [Row], next: &AtomicUsize) -> Option<(usize, &'r Row)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    rows.get(index).map(|row| (index, row))
}

fn compare(said: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(golden(), said).expect("the repository is writable");
    }
    let expected = fs::read_to_string(golden()).unwrap_or_default();
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.split("\n\n").collect(), said.split("\n\n").collect());
    let other: Vec<&&str> = found.iter().filter(|text| !expected.contains(text)).collect();
    let gone: Vec<&&str> = expected.iter().filter(|text| !found.contains(text)).collect();
    let show = |texts: &[&&str]| texts.iter().map(|text| (**text).to_owned()).collect::<Vec<_>>().join("\n\n");
    assert!(
        other.is_empty() && gone.is_empty(),
        "said now:\n{}\n\nexpected by said.txt:\n{}\n\nUPDATE=1 writes it anew; read what changed",
        show(&other),
        show(&gone)
    );
}
