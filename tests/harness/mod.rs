//! Real servers for tests: PostgreSQL and Redis-protocol caches.
//!
//! Everything listens on loopback at a free port, lives in its own temporary directory and ends with the value that
//! stands for it. Nothing here knows rules or keys. A server that is not installed fails the test with the command
//! that installs it: a test that skips itself would say "passed" about something that nobody ran.

#![allow(dead_code)] // The demo and the live tests each use their own part.

pub mod clock;
pub mod cluster;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod pty;
pub mod python;
pub mod redis;
pub mod sentinel;
pub mod sink;
pub mod site;
pub mod standin;
pub mod tls;
pub mod upstash;
pub mod varnish;
pub mod wait;
