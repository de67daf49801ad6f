//! Fuzzes `targets::recording`.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code)] // The other targets use the rest.
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::recording(input));
