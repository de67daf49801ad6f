//! Tests that need nothing but the toolchain.

mod corpus;
mod properties;
