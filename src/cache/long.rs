//! Keys so long that a server may refuse to read them: each goes on a connection of its own.

use crate::observe::{Id, log};

/// Connections that a long key may break before it is left out.
pub(super) const TRIES: usize = 3;

/// The key counts as deleted: nobody can have stored it.
pub(super) fn leave_out(server: &str, bytes: usize) {
    log!(
        Id::KeyTooLong,
        hint = "With proto-max-bulk-len or client-query-buffer-limit below this no client can have stored it.",
        "{server} does not read a key of {bytes} bytes: the key is left out"
    );
}
