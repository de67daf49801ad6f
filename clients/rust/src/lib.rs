//! Readers of a Redis-protocol cache that crieur keeps coherent with PostgreSQL: no value is left stale, however slow the
//! reader is. And locks over the same server.
//!
//! ```no_run
//! # async fn products(city: &str) -> Result<Vec<String>, std::io::Error> { Ok(vec![city.to_owned()]) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use crieur_cache::{Cache, Options, Redis};
//!
//! let cache = Cache::builder(Redis::open("redis://127.0.0.1:6379")?)
//!     .namespace("properties")
//!     .ttls([("list", Duration::from_secs(300)), ("detail", Duration::from_secs(3600))])
//!     .build()?;
//! let rows: Vec<String> = cache.get_or_set("city:Dakar", Options::ttl("list"), || products("Dakar")).await?;
//! # Ok(()) }
//! ```
//!
//! The protocol, and why it is exact: `docs/guide/readers.md` of the repository. The npm package of the same name keeps
//! the same protocol, with the same bytes at the same keys.
//!
//! | file | what it knows |
//! |---|---|
//! | `cache.rs` | one read, from the look to the store |
//! | `inner.rs` | what all reads of a cache share |
//! | `lease.rs` | the commands of the protocols, and what their answers mean |
//! | `flight.rs` | which running read a call may join |
//! | `breaker.rs` | when nothing is sent for a while |
//! | `memory.rs` | which values this process may answer by itself |
//! | `store.rs`, `server.rs` | the way to the server |
//! | `locks/` | locks |

/// The examples of the README are compiled, in both languages.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../README.fr.md")]
struct Readme;

mod breaker;
mod cache;
mod codec;
mod event;
mod flight;
mod inner;
mod lease;
mod locks;
mod memory;
mod options;
mod probe;
mod random;
mod server;
mod silence;
mod store;

pub use cache::{Cache, From, Read};
pub use codec::{Codec, CodecError, Json, Raw};
pub use event::{Event, Stats, console_log};
pub use lease::{Protocol, Take};
pub use locks::{Done, Lock, LockError, LockEvent, LockOptions, Locks, Lost};
pub use memory::Memory;
#[doc(hidden)] // For the simulation of crieur, which has a clock of its own.
pub use memory::Tier;
pub use options::{BuildError, Builder, Options, Ttl};
pub use probe::{Probe, Step};
pub use server::{Connection, Redis};
pub use silence::Mark;
pub use store::{Reply, Sending, Store, StoreError, StoreErrorKind};
