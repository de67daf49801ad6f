//! From a change to keys: compiled once per relation into a plan. No I/O; cannot fail at run time.
//!
//! Whatever a change does not tell is widened, never skipped: an unknown value in a key becomes `*` with everything
//! around it escaped; the family of a template covers each of its keys.
//!
//! In the order in which they are best read:
//!
//! 1. [`ruleset`]: rules as values.
//! 2. [`value`]: values to text. How one value of a row is read, compared and written.
//! 3. [`read`]: text to rules. The file becomes checked values; every mistake has a place.
//! 4. [`plan`]: a change to keys. The rules of one table against its columns; the hot path.
//! 5. [`invalidations`]: what comes out of it.
//! 6. [`tally`]: how much of it there was.
//! 7. [`about`]: about rules. What they need of tables, which keys they can make, what cannot be meant, what the mark says.

pub mod about;
pub mod invalidations;
pub mod plan;
pub mod read;
pub mod ruleset;
pub mod tally;
pub mod value;

#[cfg(test)]
mod cases;

pub use invalidations::Invalidations;
pub use plan::Plan;
pub use ruleset::{AnswerColumn, Lookup, On, Rules, TableId};
