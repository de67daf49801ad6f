//! About rules: what they need, what their keys may look like, what cannot be meant, and what the mark says of them.

mod audience;
mod counted;
pub mod cover;
pub mod digest;
pub mod equated;
pub mod lint;
pub mod needs;
pub mod warm;
mod written;
