//! Tests that need nothing but the toolchain.

mod commands;
mod corpus;
mod docs;
mod golden;
mod guarantee;
mod model;
mod properties;
mod recipes;
mod simulation;
mod systemd;
mod tidy;
mod watched;
