//! Messages of transactions that come to nothing, or to everything: said, and never with what they name.

use tokio::time::Instant;

use crate::observe::{Id, log};
use crate::reminder::Reminder;

/// When each was said. Anybody can cause them, at any rate.
#[derive(Debug, Default)]
pub(super) struct Refusals(Reminder<Id, Instant>);

impl Refusals {
    /// DDL was not announced.
    pub(super) fn untold(&mut self) {
        if self.0.is_due(&Id::DdlUntold, Instant::now()) {
            log!(
                Id::DdlUntold,
                hint = "Look for \"crieur does not know\" in the log of PostgreSQL: it says why crieur's event trigger failed.",
                "the event trigger could not say what DDL changed: every key of the rules is swept, as for each such statement"
            );
        }
    }

    /// A transaction named keys that it may not; they stay.
    pub(super) fn not_allowed(&mut self, count: u64) {
        if let Some(count) = self.0.counted(&Id::NotAllowed, count, Instant::now()) {
            log!(
                Id::NotAllowed,
                hint = "Allow them where the cache is configured, with invalidate = [\"properties:search:*\"], or correct the call.",
                count,
                "crieur.invalidate named keys that no cache's invalidate allows: they stay"
            );
        }
    }
}

/// Asked for once.
pub(super) fn misunderstood() {
    log!(
        Id::MessageNotUnderstood,
        hint = "Find who calls pg_logical_emit_message with the prefix \"crieur\": crieur's own triggers and functions alone should.",
        "a logical message was not understood: every key of the rules is swept, as for each such message"
    );
}
