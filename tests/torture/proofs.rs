//! That the torture test can fail: with a guard switched off, the same load and comparison find stale keys.
//!
//! Each guard has the fault that it is there for; the control run with every guard on finds nothing.

use std::sync::Arc;

use crieur::failpoints::Guard;
use crieur_cache::Take;

use crate::faults::Fault;
use crate::load::Mix;
use crate::oracle::Oracle;
use crate::report::Round;
use crate::seed::Seed;
use crate::world::{World, is_outbox};
use crate::{alone, round};

/// Rounds until a stale key must have been found.
const ROUNDS: u64 = 30;

struct Proof {
    guard: Guard,
    /// Off as well, because it would repair the same. With these off and the guard on, nothing is stale.
    besides: &'static [Guard],
    /// Keys that count.
    judged: fn(&str) -> bool,
    /// What strikes, one after the other.
    faults: &'static [Fault],
}

const PROOFS: &[Proof] = &[
    Proof { guard: Guard::Ring, besides: &[], judged: |_| true, faults: &[Fault::CacheFailedOver] },
    Proof { guard: Guard::Gate, besides: &[], judged: |_| true, faults: &[Fault::CommitsInvisible; 4] },
    Proof { guard: Guard::Echo, besides: &[], judged: |_| true, faults: &[Fault::ClientsKilled] },
    Proof { guard: Guard::Mark, besides: &[], judged: |_| true, faults: &[Fault::CacheWentBack] },
    // Behind the mark that is refused too, the ring deletes again what nobody saw refused, or a sweep does, or an echo.
    // Without echoes only keys with a lease are proof.
    Proof {
        guard: Guard::Replies,
        besides: &[Guard::Ring, Guard::Mark, Guard::Echo],
        judged: is_leased,
        faults: &[Fault::CacheReadonly; 2],
    },
];

/// Rounds of any kind, until there are stale keys. Says which, and how many rounds it took.
pub fn until_stale(
    world: &mut World,
    what: &str,
    rounds: u64,
    mut round: impl FnMut(&mut World) -> Round,
) -> (Vec<String>, u64) {
    for number in 1..=rounds {
        let Round { stale, compared, .. } = round(world);
        if !stale.is_empty() {
            println!("{what}: round {number}, {} stale of {compared} keys", stale.len());
            return (stale.into_iter().map(|(key, ..)| key).collect(), number);
        }
    }
    panic!("{what}: {rounds} rounds, and no stale key:\n{}", world.daemon().log());
}

/// Load with these faults, until there are stale keys.
pub fn find_stale_keys(
    world: &mut World,
    oracle: &Arc<Oracle>,
    what: &str,
    faults: &[Fault],
    seed: &mut Seed,
) -> Vec<String> {
    let what = format!("{what}, {faults:?}");
    until_stale(world, &what, ROUNDS, |world| round(world, oracle, faults, Mix::SingleRows, seed)).0
}

/// Whether its readers have a lease.
pub fn is_leased(key: &str) -> bool {
    key.starts_with("l:") || key.starts_with("c:")
}

impl Proof {
    /// Load with the faults that the guard is there for.
    fn round(&self, world: &mut World, oracle: &Arc<Oracle>, seed: &mut Seed) -> Round {
        let mut round = round(world, oracle, self.faults, Mix::SingleRows, seed);
        round.stale.retain(|(key, ..)| (self.judged)(key));
        round
    }
}

fn without(world: &mut World, guards: &[Guard]) {
    let off: Vec<String> = guards.iter().map(|guard| format!("{guard:?}")).collect();
    world.set("CRIEUR_WITHOUT", off.join(","));
    world.run_ready_daemon();
}

fn prove(guard: Guard) {
    let _alone = alone();
    let proof = PROOFS.iter().find(|proof| proof.guard == guard).expect("each guard has its proof");
    let (mut world, oracle, mut seed) = (World::start(), Arc::new(Oracle::default()), Seed(Seed::of_the_run()));
    println!("SEED={}", seed.0);
    without(&mut world, &[&[guard], proof.besides].concat());
    if guard == Guard::Gate && is_outbox() {
        // A row was seen by a snapshot before its keys are known: without a gate nothing is lost.
        let Round { stale, .. } = proof.round(&mut world, &oracle, &mut seed);
        assert!(stale.is_empty(), "{stale:#?}");
        return world.stop_daemon();
    }
    let what = format!("without {guard:?}, {:?}", proof.faults);
    let (stale, rounds) = until_stale(&mut world, &what, ROUNDS, |world| proof.round(world, &oracle, &mut seed));
    // A daemon without a mark that counts can accuse nothing.
    if ![guard].iter().chain(proof.besides).any(|off| *off == Guard::Mark) {
        world.verifier_finds(stale.len());
    }
    world.stop_daemon();
    if proof.besides.is_empty() {
        return;
    }
    // What that one left is its own. With the guard on, and the others still off, as many rounds leave nothing.
    world.empty_cache();
    without(&mut world, proof.besides);
    for _ in 0..rounds.max(2) {
        let Round { stale, compared, .. } = proof.round(&mut world, &oracle, &mut seed);
        assert!(stale.is_empty() && compared > 20, "with {guard:?}: {compared} compared: {stale:#?}");
    }
    println!("with {guard:?}: none in {} rounds", rounds.max(2));
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

/// The hole that two ways close: a lease whose text is fixed, over a client that sends the take again.
#[test]
fn with_a_fixed_lease_over_a_client_that_sends_again_stale_keys_are_found() {
    let _alone = alone();
    let (mut world, oracle, mut seed) = (World::start(), Arc::new(Oracle::default()), Seed(Seed::of_the_run()));
    println!("SEED={}", seed.0);
    world.take = Take::Once;
    world.allow_accusations();
    world.run_ready_daemon();
    let stale = find_stale_keys(&mut world, &oracle, "with a fixed lease that is taken again", &[], &mut seed);
    assert!(stale.iter().all(|key| is_leased(key)), "{stale:?}");
    world.verifier_finds(stale.len());
    // What that one left is its own. The same readers with the script leave nothing.
    world.empty_cache();
    world.take = Take::Script;
    for _ in 0..3 {
        let Round { stale, compared, .. } = round(&mut world, &oracle, &[], Mix::SingleRows, &mut seed);
        assert!(stale.is_empty() && compared > 20, "{compared} compared: {stale:#?}");
    }
    world.stop_daemon();
}
