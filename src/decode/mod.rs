//! From bytes to messages, borrowed, bounded and total: no byte sequence panics.

pub mod frame;
pub mod pgoutput;
pub mod relations;
