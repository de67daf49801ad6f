//! `make scenarios`: one fault each, beside the same with a naive delete: no gate, no echoes, no mark.
//!
//! It prints and writes nothing. The naive daemon is not judged; ours must leave no stale key.

use std::sync::Arc;

use crate::faults::Fault;
use crate::load::Mix;
use crate::oracle::{Oracle, Seen};
use crate::report::{Round, Staleness, hit_rate};
use crate::seed::Seed;
use crate::world::World;
use crate::{alone, round};

const NAIVE: &str = "gate,echo,mark";

#[test]
#[ignore = "make scenarios"]
fn every_scenario_beside_an_ungated_delete() {
    let _alone = alone();
    let number = Seed::of_the_run();
    println!("SEED={number}; staleness in all hits that can be judged, of which a fresh one counts as 0");
    println!("{:<38} | {:^58} | {:^58}", "", "crieur", "naive delete");
    let head = "stale keys        p50         p99           max   hit rate";
    println!("{:<38} | {head} | {head}", "scenario");
    let mut stale = Vec::new();
    for fault in std::iter::once(None).chain(Fault::chosen().into_iter().map(Some)) {
        let (ours, seen) = scenario(fault, "", number);
        let (naive, naive_seen) = scenario(fault, NAIVE, number);
        let name = fault.map_or("no fault".to_owned(), |fault| fault.to_string());
        println!("{name:<38} | {} | {}", line(&ours, &seen), line(&naive, &naive_seen));
        stale.extend(ours.stale.into_iter().map(|stale| (name.clone(), stale)));
    }
    assert!(stale.is_empty(), "SEED={number}: {stale:#?}");
}

fn scenario(fault: Option<Fault>, without: &str, number: u64) -> (Round, Seen) {
    let (mut world, oracle, mut seed) = (World::start(), Arc::new(Oracle::default()), Seed(number));
    world.set("CRIEUR_WITHOUT", without.to_owned());
    world.run_ready_daemon();
    world.settle();
    let faults: Vec<Fault> = fault.into_iter().collect();
    let round = round(&mut world, &oracle, &faults, Mix::Everything, &mut seed);
    world.stop_daemon();
    let seen = oracle.seen().clone();
    (round, seen)
}

fn line(round: &Round, seen: &Seen) -> String {
    let staleness = Staleness::of(seen);
    let stale = format!("{}/{}", round.stale.len(), round.compared);
    let Staleness { p50_of_all, p99_of_all, max, .. } = staleness;
    format!("{stale:>10} {p50_of_all:>10} {p99_of_all:>11} {max:>13} {:>10}", hit_rate(seen))
}
