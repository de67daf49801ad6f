//! What one change costs from its bytes to its keys, with three plain rules and with forty: `cargo bench`.
//!
//! The rows are those of the shared benchmark's W2: updates of a price, the whole old row beside the new one, 1000 of
//! them in a transaction. Nothing is read or sent, so that the figure is the rules' own; the whole road is measured by
//! that benchmark (docs/contribute/benchmarks.md).

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use crieur::change::Row;
use crieur::config::Config;
use crieur::decode::{Assembler, DecodeStep, decode};
use crieur::decode::{Block, Message};
use crieur::rules::{Invalidations, Plan, Rules};

const ROWS: usize = 20_000;
/// As `limits.batch_keys_max`.
const BATCH_KEYS: usize = 10_000;
const ROUNDS: usize = 60;

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b't');
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Row `number` of `properties` as tuple data.
fn tuple(out: &mut Vec<u8>, number: usize, price: usize) {
    out.extend(7_u16.to_be_bytes());
    let uuid = |number: usize| format!("{number:08x}-{number:04x}-4000-8000-{number:012x}");
    text(out, &uuid(number * 7919));
    text(out, &uuid(number % 5000));
    text(out, &format!("Apartment number {number} with a view"));
    text(out, &format!("city-{}", number % 50));
    text(out, &format!("{price}.00"));
    text(out, ["active", "draft", "rented"][number % 3]);
    text(out, &format!("{number:032x}").repeat(16));
}

/// The payloads of updates.
fn updates() -> Vec<Vec<u8>> {
    let update = |count: usize| {
        let number = count * 7919 % 100_000;
        let mut out = b"U\0\0\0\x01O".to_vec();
        tuple(&mut out, number, 50_000 + number % 1000);
        out.push(b'N');
        tuple(&mut out, number, 50_001 + number % 1000);
        out
    };
    (0..ROWS).map(update).collect()
}

fn relation() -> Vec<u8> {
    let mut out = b"R\0\0\0\x01public\0properties\0f".to_vec();
    let columns = [
        ("id", 2950_u32),
        ("owner_id", 2950),
        ("title", 25),
        ("city", 25),
        ("price", 1700),
        ("status", 25),
        ("description", 25),
    ];
    out.extend((columns.len() as u16).to_be_bytes());
    for (name, oid) in columns {
        out.push(1);
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(oid.to_be_bytes());
        out.extend((-1_i32).to_be_bytes());
    }
    out
}

fn rules(file: &str) -> Rules {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(file);
    let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
    let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&path, urls.into_iter()).unwrap_or_else(|mistakes| panic!("{mistakes}")).rules
}

fn plan(rules: &Rules) -> Plan {
    let relation = relation();
    let mut assembler = Assembler::default();
    let step = assembler.step(&relation).expect("a relation message").expect("it means something");
    let DecodeStep::Relation(_) = step else { panic!("no relation") };
    let crieur::change::Event::Relation(relation) = assembler.event(step, |_| ()) else { panic!("no relation") };
    rules.plan(relation, ("public", "properties"))
}

fn row(payload: &[u8]) -> Row<'_> {
    match decode(payload, Block::Outside) {
        Ok(Message::Change { change, .. }) => change.row,
        other => panic!("no change: {other:?}"),
    }
}

/// Nanoseconds for one change: the best of some rounds. And the keys that 1000 changes leave.
fn measure(payloads: &[Vec<u8>], mut take: impl FnMut(&Row<'_>, u32)) -> f64 {
    let round = |take: &mut dyn FnMut(&Row<'_>, u32)| {
        let began = Instant::now();
        for (count, payload) in payloads.iter().enumerate() {
            take(&row(payload), count as u32 / 1000);
        }
        began.elapsed().as_nanos() as f64 / payloads.len() as f64
    };
    (0..ROUNDS).map(|_| round(&mut take)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let payloads = updates();
    let decoding = measure(&payloads, |row, _| _ = black_box(row));
    println!("decoding alone: {decoding:.0} ns for each change");
    for file in ["three.toml", "forty.toml"] {
        let rules = rules(file);
        let plan = plan(&rules);
        let (mut load, mut left, mut changes) = (Invalidations::default(), 0, 0);
        let nanoseconds = measure(&payloads, |row, tx| {
            plan.apply(row, tx, &mut load);
            changes += 1;
            if load.len() >= BATCH_KEYS || tx as usize == ROWS / 1000 - 1 && changes % ROWS == 0 {
                left += load.len();
                load = Invalidations::default();
            }
        });
        let keys = left as f64 * 1000.0 / changes as f64;
        println!("{file}: {nanoseconds:.0} ns for each change, {keys:.0} distinct keys for 1000 changes");
    }
}
