//! Tests against real servers; `tests/setup.sh` installs them.

mod auth;
mod cache;
mod daemon;
mod delivery;
mod faults;
mod harness;
mod position;
mod scene;
mod servers;
mod streams;
