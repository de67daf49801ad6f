//! That the torture test can fail: with a guard switched off, the same load and comparison find stale keys.
//!
//! Each guard has the fault that it is there for; the control run with every guard on finds nothing.

use std::sync::Arc;

use crieur::failpoints::Guard;

use crate::faults::Fault;
use crate::load::Mix;
use crate::oracle::Oracle;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::World;
use crate::{alone, round};

/// Rounds until a stale key must have been found.
const ROUNDS: u64 = 6;

struct Proof {
    guard: Guard,
    /// What strikes, one after the other.
    faults: &'static [Fault],
    mix: Mix,
    /// Echoes would repair what the gate alone prevents.
    echoes: bool,
}

const PROOFS: &[Proof] = &[
    Proof { guard: Guard::Ring, faults: &[Fault::CacheFailedOver], mix: Mix::SingleRows, echoes: true },
    Proof { guard: Guard::Gate, faults: &[Fault::CommitsInvisible; 4], mix: Mix::SingleRows, echoes: true },
    Proof { guard: Guard::Echo, faults: &[Fault::ClientsKilled], mix: Mix::SingleRows, echoes: true },
    Proof { guard: Guard::Mark, faults: &[Fault::CacheWentBack], mix: Mix::SingleRows, echoes: true },
    Proof { guard: Guard::Replies, faults: &[Fault::CacheReadonly], mix: Mix::SingleRows, echoes: false },
];

fn world(proof: &Proof) -> World {
    if proof.echoes { World::start() } else { World::start().without_echoes() }
}

fn prove(guard: Guard) {
    let _alone = alone();
    let proof = PROOFS.iter().find(|proof| proof.guard == guard).expect("each guard has its proof");
    let (mut world, oracle, mut seed) = (world(proof), Arc::new(Oracle::default()), Seed(Seed::of_the_run()));
    println!("SEED={}", seed.0);
    world.set("CRIEUR_WITHOUT", format!("{guard:?}"));
    world.run_ready_daemon();
    let mut found: Option<Round> = None;
    for _ in 0..ROUNDS {
        let round = round(&mut world, &oracle, proof.faults, proof.mix, &mut seed);
        if !round.stale.is_empty() {
            found = Some(round);
            break;
        }
    }
    let round = found.unwrap_or_else(|| panic!("{:?} without {guard:?}, and no stale key", proof.faults));
    println!("without {guard:?}, {:?}: {} stale of {} keys", proof.faults, round.stale.len(), round.compared);
    world.stop_daemon();
}

#[test]
fn without_the_gate_stale_keys_are_found() {
    prove(Guard::Gate);
}

#[test]
fn without_echoes_stale_keys_are_found() {
    prove(Guard::Echo);
}

#[test]
fn without_the_mark_stale_keys_are_found() {
    prove(Guard::Mark);
}

#[test]
fn without_a_look_at_replies_stale_keys_are_found() {
    prove(Guard::Replies);
}

#[test]
fn without_the_ring_stale_keys_are_found() {
    prove(Guard::Ring);
}
