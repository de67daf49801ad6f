//! The verifier's words: which cached keys are looked at, what the database is asked, and when two values are the same.
//!
//! Pure. Who asks is `cli/verify/`; the guarantee knows nothing of it.

pub mod compare;
pub mod tally;
pub mod template;

use crate::verify::compare::Compare;
use crate::verify::template::KeyTemplate;

/// Keys that are looked at in a minute where nothing else is written, and commands cost nothing.
pub const PER_MINUTE: u32 = 60;

/// Keys that may be looked at in a minute.
pub const PER_MINUTE_MAX: u32 = 60_000;

/// One `[[verify]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verification {
    /// `keys`
    pub keys: KeyTemplate,
    /// `sql`
    pub sql: String,
    /// `compare`, default `json`.
    pub compare: Compare,
    /// `per_minute`, where it is written.
    pub per_minute: Option<u32>,
    /// Where it is written: `crieur.toml:12`.
    pub place: String,
}

impl Verification {
    /// How many keys of a cache the daemon looks at in a minute: none by itself where each command is billed.
    pub fn rate(&self, is_billed: bool) -> u32 {
        self.per_minute.unwrap_or(if is_billed { 0 } else { PER_MINUTE })
    }
}
