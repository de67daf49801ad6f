//! Tests against real servers; `tests/setup.sh` installs them.

mod auth;
mod bulk;
mod cache;
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
