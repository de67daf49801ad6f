//! Sweeps that a person orders: which patterns that are, who sweeps them, and who hears of it.
//!
//! An ordered sweep is owed like any other: the position and the mark of each cache wait for it. Whoever ordered it may go
//! meanwhile.

use std::collections::BTreeMap;

use tokio::sync::mpsc::Sender;

use crate::cache::Swept;
use crate::observe::speaker::CacheName;

/// An ordered sweep.
#[derive(Debug)]
pub struct SweepOrder {
    /// A key, a Redis glob, or a template of the rules.
    pub what: String,
    /// The cache in which it is swept; `None`: every one.
    pub cache: Option<String>,
    /// To whoever ordered it; dropped when nothing more will be told.
    pub answers: Sender<SweepTold>,
}

/// What becomes of an ordered sweep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SweepTold {
    /// Nothing is swept.
    Refused {
        /// Why.
        why: String,
        /// The way out.
        hint: String,
    },
    /// It is owed from now on.
    Begins {
        /// What is swept.
        patterns: Vec<String>,
        /// The caches, each with the number of its parts.
        caches: BTreeMap<CacheName, usize>,
    },
    /// A part of this cache is swept.
    Ended {
        /// The cache.
        cache: CacheName,
        /// What that did.
        swept: Swept,
    },
}
