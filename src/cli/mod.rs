//! The commands: argv to effect, one file each.

pub mod catalog;
pub mod check;
pub mod identity;
pub mod quote;
pub mod setup;
