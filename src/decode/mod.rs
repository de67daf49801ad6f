//! From bytes to events, borrowed, bounded and total: no byte sequence panics, and nothing is guessed.
//!
//! ```text
//!  CopyData ──frame──> payload ──pgoutput──> message ──stream──> event
//!                                                        │
//!                                                    relations
//! ```
//!
//! Whatever cannot be understood is a definite error: nothing past it is confirmed, so WAL waits in the slot.

pub mod encodings;
pub mod frame;
mod malformed;
pub mod outbox;
pub mod pgoutput;
mod reader;
pub mod relations;
pub mod stream;
pub mod transcode;

pub use frame::Frame;
pub use malformed::DecodeError;
pub use pgoutput::{Block, Message, decode};
pub use relations::Relations;
pub use stream::{Assembler, DecodeStep};
