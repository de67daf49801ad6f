//! Tests against real servers; `tests/setup.sh` installs them.

mod auth;
mod cache;
mod daemon;
mod decoder;
mod delivery;
mod failover;
mod faults;
mod harness;
mod position;
mod publication;
mod readers;
mod record;
mod restart;
mod scene;
mod servers;
mod slots;
mod standby;
mod streams;
