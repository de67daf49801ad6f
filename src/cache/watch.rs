//! Keys of which it is asked whether they existed, each by itself. An UNLINK of several keys answers with one count for all
//! of them, so these go one in a command. Pure.

use std::cell::RefCell;

use crate::keys::{FamilyId, KeySet};

/// What is asked, and what was answered.
#[derive(Clone, Debug, Default)]
pub struct KeyWatch {
    asked: KeySet,
    existed: RefCell<KeySet>,
}

impl KeyWatch {
    /// Of these keys.
    pub fn of(asked: KeySet) -> Self {
        KeyWatch { asked, existed: RefCell::default() }
    }

    /// Whether it is asked of this key.
    pub fn asks(&self, key: &[u8]) -> bool {
        !self.asked.is_empty() && self.asked.contains(key)
    }

    /// The key was deleted, and so many of it and its lease existed.
    pub fn answered(&self, key: &[u8], count: u64) {
        if count > 0 && self.asks(key) {
            self.existed.borrow_mut().insert(key, FamilyId(0), 0);
        }
    }

    /// Those that existed.
    pub fn existed(self) -> KeySet {
        self.existed.into_inner()
    }
}
