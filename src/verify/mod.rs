//! The verifier's words: which cached keys are looked at, what the database is asked, and when two values are the same.
//!
//! Pure. Who asks is `cli/verify/`; the guarantee knows nothing of it.

pub mod allowance;
pub mod compare;
pub mod tally;
pub mod template;

use crate::verify::compare::Compare;
use crate::verify::template::KeyTemplate;

/// Keys that are looked at in a minute where nothing else is written, and commands cost nothing.
pub const PER_MINUTE: u32 = 60;

/// Commands that are spent for each key, where commands are billed: for its value, and for a part of the walk to it.
const COMMANDS_EACH: u32 = 2;

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
    /// Whether this asks the same of the same keys.
    pub fn asks_what(&self, other: &Verification) -> bool {
        (&self.keys, &self.sql, &self.compare) == (&other.keys, &other.sql, &other.compare)
    }

    /// How many keys of a cache the daemon looks at in a minute: none by itself where each command is billed.
    pub fn rate(&self, is_billed: bool) -> u32 {
        self.per_minute.unwrap_or(if is_billed { 0 } else { PER_MINUTE })
    }
}

/// Commands that all of them may spend in a minute, in a cache where each is billed.
pub fn commands_a_minute(of: &[Verification]) -> u32 {
    of.iter().map(|of| of.rate(true).saturating_mul(COMMANDS_EACH)).fold(0, u32::saturating_add)
}
