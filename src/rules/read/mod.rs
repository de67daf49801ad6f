//! Text to rules: what the file says becomes checked values, and every mistake has a place.

pub mod foreign;
mod keyspec;
pub mod name;
pub mod parse;
pub mod reader;
mod rule;
pub mod sql;
pub mod syntax;
mod tagspec;
pub mod template;
pub mod warmspec;
mod written;
