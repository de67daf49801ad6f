//! Tests against real servers; `tests/setup.sh` installs them.

mod admin;
mod auth;
mod bulk;
mod cache;
mod cache_faults;
mod cache_replaced;
mod changes;
mod daemon;
mod decoder;
mod delivery;
mod failover;
mod faults;
mod harness;
mod leases;
mod position;
mod publication;
mod readers;
mod record;
mod restart;
mod rules;
mod scene;
mod servers;
mod slots;
mod standby;
mod streams;
