//! Tests that need nothing but the toolchain.

mod guarantee;
mod corpus;
mod properties;
mod systemd;
