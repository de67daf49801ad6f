//! Keys so long that a server may refuse to read them: each goes on a connection of its own.

use std::cell::RefCell;

use tokio::time::Instant;

use crate::observe::{Id, log};
use crate::reminder::Reminder;

/// Connections that a long key may break before it is left out.
pub(super) const TRIES: usize = 3;

thread_local! {
    /// Of each cache, once a minute: rules may make many such keys.
    static SAID: RefCell<Reminder<String, Instant>> = RefCell::default();
}

/// The key counts as deleted: nobody can have stored it.
pub(super) fn leave_out(server: &str, bytes: usize) {
    let count = SAID.with_borrow_mut(|said| said.counted(server, 1, Instant::now()));
    let Some(keys) = count else { return };
    log!(
        Id::KeyTooLong,
        keys,
        "{server} does not read a key of {bytes} bytes: the key is left out, because no client can have stored it"
    );
}
