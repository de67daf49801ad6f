//! Tests against real servers; `tests/setup.sh` installs them.

mod auth;
mod cache;
mod changes;
mod daemon;
mod decoder;
mod delivery;
mod faults;
mod harness;
mod position;
mod readers;
mod record;
mod scene;
mod servers;
mod streams;
