//! Every seed of the fuzz targets as an ordinary test: what once broke a decoder is tried in each run.

use std::path::Path;

#[path = "fuzz/targets.rs"]
mod targets;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|seed| seed.unwrap().path()).collect();
    assert!(!seeds.is_empty(), "{} holds no seed", folder.display());
    for seed in seeds {
        run(&std::fs::read(&seed).unwrap_or_else(|error| panic!("{}: {error}", seed.display())));
    }
}

#[test]
fn no_seed_of_pgoutput_breaks_the_decoder() {
    replay("pgoutput", targets::pgoutput);
}

#[test]
fn no_seed_of_copy_data_breaks_the_frame_parser() {
    replay("copy_data", targets::copy_data);
}

#[test]
fn no_seed_of_frames_breaks_the_message_reader() {
    replay("frames", targets::frames);
}

#[test]
fn no_seed_of_a_configuration_breaks_its_reader() {
    replay("config", targets::config);
    replay("rules", targets::config);
}

#[test]
fn no_seed_of_a_recording_breaks_its_reader() {
    replay("recording", targets::recording);
}
