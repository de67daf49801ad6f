//! Values to text: how one value is read, compared, and written in a key.

pub mod condition;
pub mod filter;
mod json;
pub mod like;
pub(super) mod number;
pub mod page;
pub mod path;
pub mod reading;
