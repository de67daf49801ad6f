//! The pure parts that keep the guarantee, each beside a naive model: batch, ledger, echoes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crieur::feed::batch::{Batch, Cut};
use crieur::gate::Snapshot;
use crieur::keys::FamilyId;
use crieur::ledger::{Ledger, Ticket};
use crieur::lsn::Xid;
use crieur::rules::Invalidations;
use crieur::target::echo::{Delivery, Echoes, Stage};
use proptest::prelude::*;

/// One step of a random life of the batch.
#[derive(Clone, Debug)]
enum Step {
    /// A transaction commits with these keys: one that was streamed, or, where one arrives, that one with these as its
    /// last. With none it may be an empty one.
    Commit(Vec<u8>),
    /// The transaction that arrives names these; it begins with them where none does.
    Change(Vec<u8>),
    /// What the transaction that arrives named so far may leave.
    Piece,
    /// The stream breaks inside of the transaction that arrives, which comes again.
    Interrupt,
    /// A keepalive between transactions.
    Idle,
    /// A snapshot that contains the transactions for which the mask, taken in turn, says so.
    Cut(Vec<bool>),
    /// The cache answers the flight with this index, modulo the flights that are out.
    Answer(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0u8..6, 0..4).prop_map(Step::Commit),
        3 => prop::collection::vec(0u8..6, 0..3).prop_map(Step::Change),
        1 => Just(Step::Piece),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Idle),
        3 => prop::collection::vec(any::<bool>(), 1..5).prop_map(Step::Cut),
        3 => any::<usize>().prop_map(Step::Answer),
    ]
}

fn load(keys: &[u8]) -> Invalidations {
    let mut load = Invalidations::default();
    for key in keys {
        load.keys.insert(&[*key], FamilyId(u32::from(*key)), 0);
    }
    load
}

/// The snapshot that contains exactly `visible` of the transactions 1..=last.
fn snapshot(last: u32, visible: &BTreeSet<u32>) -> Snapshot {
    Snapshot::Taken { xmax: last + 1, in_progress: (1..=last).filter(|xid| !visible.contains(xid)).collect() }
}

/// What must hold, kept the slow and obvious way: every transaction and key by itself.
#[derive(Default)]
struct Model {
    /// Keys of committed transactions that did not leave behind a snapshot that contains them.
    owed: BTreeMap<u32, BTreeSet<u8>>,
    /// Transactions and keys that left and were not answered: by flight.
    flying: BTreeMap<usize, BTreeSet<u32>>,
    visible: BTreeSet<u32>,
    last: u32,
    flights: usize,
    /// The last transaction arrives, and its commit does not stand in the stream yet.
    arrives: bool,
    /// The stream broke in the last transaction, which comes again.
    comes_again: bool,
}

impl Model {
    /// Everything up to this position is answered.
    fn answered(&self) -> u64 {
        let out = self.owed.keys().chain(self.flying.values().flatten()).min();
        out.map_or(u64::MAX, |xid| u64::from(*xid) * 100 - 1)
    }

    /// The next transaction of the stream.
    fn begin(&mut self) {
        self.last += u32::from(!std::mem::take(&mut self.comes_again));
        self.arrives = true;
    }

    /// The transaction of now named these; a key that left with an earlier piece of it is owed anew.
    fn named(&mut self, keys: &[u8]) {
        self.owed.entry(self.last).or_default().extend(keys);
    }

    fn is_between(&self) -> bool {
        !self.arrives && !self.comes_again
    }

    fn cut(&mut self, cut: Option<&Cut>) {
        let left: BTreeSet<u8> = cut.iter().flat_map(|cut| cut.load.keys.iter()).map(|key| key.bytes[0]).collect();
        let leaving: BTreeSet<u32> = self.owed.keys().filter(|xid| self.visible.contains(xid)).copied().collect();
        for xid in &leaving {
            let missing: Vec<_> = self.owed[xid].difference(&left).collect();
            assert!(missing.is_empty(), "transaction {xid} is visible and its keys {missing:?} stayed");
            self.owed.remove(xid);
        }
        assert_eq!(cut.is_none(), leaving.is_empty(), "something leaves exactly when something is visible");
        self.flying.insert(self.flights, leaving);
        self.flights += 1;
    }
}

/// The transaction that arrives names these keys, if any.
fn name(batch: &mut Batch<u64>, model: &mut Model, keys: &[u8]) {
    if keys.is_empty() {
        return;
    }
    batch.named(|tx, load| {
        keys.iter().for_each(|key| _ = load.keys.insert(&[*key], FamilyId(u32::from(*key)), tx));
    });
    model.named(keys);
}

fn live(steps: &[Step]) {
    let (mut batch, mut ledger, mut model) = (Batch::default(), Ledger::default(), Model::default());
    let mut flights: Vec<(usize, Vec<Ticket>)> = Vec::new();
    let (mut position, mut confirmed) = (0u64, 0u64);
    let answer =
        |flights: &mut Vec<(usize, Vec<Ticket>)>, index: usize, ledger: &mut Ledger<u64>, model: &mut Model| {
            let (flight, tickets) = flights.swap_remove(index);
            tickets.into_iter().for_each(|ticket| ledger.done(ticket));
            model.flying.remove(&flight);
        };
    let fly = |batch: &mut Batch<u64>, ledger: &mut Ledger<u64>, model: &mut Model| {
        let cut = batch.cut(&snapshot(model.last, &model.visible), ledger);
        model.cut(cut.as_ref());
        cut.map(|cut| (model.flights - 1, cut.tickets))
    };
    for step in steps {
        match step {
            Step::Commit(keys) if model.arrives => {
                name(&mut batch, &mut model, keys);
                position = u64::from(model.last) * 100;
                batch.commit(Xid(model.last), position, &mut ledger);
                model.arrives = false;
            }
            Step::Commit(keys) => {
                model.begin();
                position = u64::from(model.last) * 100;
                batch.commit_streamed(Xid(model.last), load(keys), position, &mut ledger);
                if !keys.is_empty() {
                    model.named(keys);
                }
                model.arrives = false;
            }
            Step::Change(keys) => {
                if !model.arrives {
                    model.begin();
                    batch.begin(Xid(model.last));
                }
                name(&mut batch, &mut model, keys);
            }
            Step::Piece => batch.close_piece(),
            Step::Interrupt => {
                batch.interrupted();
                model.comes_again |= std::mem::take(&mut model.arrives);
            }
            Step::Idle if !model.is_between() => {}
            Step::Idle => {
                position += 1;
                batch.idle(position, &mut ledger);
            }
            Step::Cut(mask) => {
                let xids = (1..=model.last).zip(mask.iter().cycle());
                model.visible.extend(xids.filter(|(_, seen)| **seen).map(|(xid, _)| xid));
                flights.extend(fly(&mut batch, &mut ledger, &mut model));
            }
            Step::Answer(index) if !flights.is_empty() => {
                let index = index % flights.len();
                answer(&mut flights, index, &mut ledger, &mut model);
            }
            Step::Answer(_) => {}
        }
        if let Some(ack) = ledger.settled(|_| true).expect("nothing is lost") {
            assert!(ack > confirmed, "positions never go back");
            confirmed = ack;
        }
        assert!(confirmed <= model.answered(), "confirmed {confirmed}, answered {}", model.answered());
    }
    if model.arrives {
        position = u64::from(model.last) * 100;
        batch.commit(Xid(model.last), position, &mut ledger);
    }
    // Liveness: once everything is visible and answered, everything is confirmed.
    model.visible.extend(1..=model.last);
    flights.extend(fly(&mut batch, &mut ledger, &mut model));
    while !flights.is_empty() {
        answer(&mut flights, 0, &mut ledger, &mut model);
    }
    confirmed = ledger.settled(|_| true).expect("nothing is lost").unwrap_or(confirmed);
    assert_eq!(confirmed, position);
    assert!(ledger.is_empty() && batch.is_empty());
}

proptest! {
    // A failing case becomes a test of its own below, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn every_key_leaves_behind_its_gate_and_nothing_is_confirmed_before_its_answer(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        live(&steps);
    }

    #[test]
    fn an_echo_comes_after_every_delay_and_never_early(
        times in prop::collection::vec(0u64..5_000, 1..30), delays in prop::collection::btree_set(1u64..3_000, 1..4)
    ) {
        let delays: Vec<Duration> = delays.into_iter().map(Duration::from_millis).collect();
        echoes(times, &delays);
    }
}

#[test]
fn transactions_that_share_a_span_hold_one_part_of_it_together() {
    let only = |visible: usize| Step::Cut((1..=4).map(|xid| xid == visible).collect());
    let commits = (0..4).map(|key| Step::Commit(vec![key]));
    let steps: Vec<Step> = commits.chain([only(1), only(3), Step::Answer(0), Step::Answer(0), only(2)]).collect();
    live(&steps);
}

#[test]
fn a_transaction_that_comes_again_is_confirmed_behind_all_that_it_named() {
    let (all, none) = (|| Step::Cut(vec![true]), || Step::Cut(vec![false]));
    let piece = |key| [Step::Change(vec![key]), Step::Piece];
    live(&[piece(0).to_vec(), vec![all(), Step::Interrupt, Step::Commit(vec![0]), Step::Answer(0)]].concat());
    live(&[piece(0).to_vec(), vec![none()], piece(1).to_vec(), vec![all(), Step::Commit(vec![])]].concat());
    live(
        &[
            vec![Step::Change(vec![0]), Step::Interrupt, none(), Step::Change(vec![0]), all()],
            vec![Step::Commit(vec![1])],
        ]
        .concat(),
    );
}

/// Answers deliveries at `times` (milliseconds) and lets the echoes run dry.
fn echoes(mut times: Vec<u64>, delays: &[Duration]) {
    times.sort_unstable();
    let mut echoes = Echoes::<Duration>::new(delays);
    let mut ledger = Ledger::<u64>::default();
    let mut seen: BTreeMap<u8, Vec<Duration>> = BTreeMap::new();
    let mut now = Duration::ZERO;
    for (index, time) in times.iter().enumerate() {
        let time = Duration::from_millis(*time);
        while let Some(due) = echoes.due().filter(|due| *due <= time) {
            now = now.max(due);
            run_due(&mut echoes, now, &mut seen, &mut ledger);
        }
        let tickets = vec![ledger.open(Some(index as u64))];
        deliver(Delivery { load: load(&[index as u8]), tickets, stage: Stage::Fresh }, time, &mut echoes, &mut ledger);
        now = time;
    }
    while let Some(due) = echoes.due() {
        run_due(&mut echoes, due, &mut seen, &mut ledger);
    }
    assert_eq!(ledger.settled(|_| true).expect("nothing is lost"), Some(times.len() as u64 - 1));
    for (index, time) in times.iter().enumerate() {
        let echoed = &seen[&(index as u8)];
        assert_eq!(echoed.len(), delays.len());
        for (echo, delay) in echoed.iter().zip(delays) {
            assert!(*echo >= Duration::from_millis(*time) + *delay, "an echo came early");
        }
    }
}

/// A delivery was answered: its next echo waits, or nothing is owed for it any more.
fn deliver(delivery: Delivery, now: Duration, echoes: &mut Echoes<Duration>, ledger: &mut Ledger<u64>) {
    match echoes.next(delivery.stage) {
        Some(stage) => {
            let tickets = delivery.tickets.into_iter().map(|ticket| ledger.echoing(ticket)).collect();
            echoes.add(stage, now, delivery.load, tickets);
        }
        None => delivery.tickets.into_iter().for_each(|ticket| ledger.done(ticket)),
    }
}

fn run_due(
    echoes: &mut Echoes<Duration>,
    now: Duration,
    seen: &mut BTreeMap<u8, Vec<Duration>>,
    ledger: &mut Ledger<u64>,
) {
    while let Some(delivery) = echoes.take_due(now) {
        for key in delivery.load.keys.iter() {
            seen.entry(key.bytes[0]).or_default().push(now);
        }
        deliver(delivery, now, echoes, ledger);
    }
}
