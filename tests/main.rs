//! Tests that need nothing but the toolchain.

mod corpus;
mod guarantee;
mod properties;
mod simulation;
mod systemd;
