//! The search: breadth first over every interleaving, so that the trace of a failure is a shortest one.
//!
//! It knows states, steps and a verdict, nothing of caches. Every state that was ever reached is kept and compared whole:
//! no two states are taken for one because their hashes agree.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A system that can be searched.
pub trait System {
    /// Everything that decides what can happen next.
    type State: Clone + Eq + Hash;
    /// One atomic step of one actor.
    type Step: Copy;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// Calls `found` with every step that is possible now, and where it leads.
    fn each(&self, state: &Self::State, found: &mut dyn FnMut(Self::Step, Self::State));

    /// What is wrong with a state; `at_rest` when nobody can move.
    fn wrong(&self, state: &Self::State, at_rest: bool) -> Option<String>;
}

/// What a search saw.
pub struct Seen<S> {
    pub states: usize,
    pub transitions: usize,
    /// What is wrong at the end of these steps.
    pub failure: Option<(String, Vec<S>)>,
}

/// Searches until something is wrong or every state was seen.
pub fn search<M: System>(model: &M, states_max: usize) -> Seen<M::Step> {
    let hasher = FixedState::default();
    let mut states = vec![model.start()];
    let mut came: Vec<Option<(u32, M::Step)>> = vec![None];
    let mut table = HashTable::new();
    table.insert_unique(hasher.hash_one(&states[0]), 0u32, |_| unreachable!("an empty table does not grow"));
    let (mut transitions, mut at) = (0, 0);
    while at < states.len() {
        assert!(states.len() < states_max, "more than {states_max} states: choose a smaller configuration");
        let state = states[at].clone();
        let mut next = Vec::new();
        model.each(&state, &mut |step, state| next.push((step, state)));
        if let Some(wrong) = model.wrong(&state, next.is_empty()) {
            return Seen { states: states.len(), transitions, failure: Some((wrong, trace(&came, at))) };
        }
        transitions += next.len();
        for (step, state) in next {
            let hash = hasher.hash_one(&state);
            if table.find(hash, |index| states[*index as usize] == state).is_none() {
                let index = u32::try_from(states.len()).expect("states_max is far below");
                table.insert_unique(hash, index, |index| hasher.hash_one(&states[*index as usize]));
                states.push(state);
                came.push(Some((at as u32, step)));
            }
        }
        at += 1;
    }
    Seen { states: states.len(), transitions, failure: None }
}

/// The steps that led to a state.
fn trace<S: Copy>(came: &[Option<(u32, S)>], mut at: usize) -> Vec<S> {
    let mut steps = Vec::new();
    while let Some((before, step)) = came[at] {
        steps.push(step);
        at = before as usize;
    }
    steps.reverse();
    steps
}
