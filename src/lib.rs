//! crieur keeps a Redis-protocol cache coherent with PostgreSQL: a committed row deletes its cache keys.
//!
//! ```text
//!  PostgreSQL ──frames──> source ──event──> rules ──keys──> batcher ──> gate ──batch──> cache (UNLINK, pipelined)
//!      ^                 (decode)                                  (visible?)             │ every reply checked
//!      │                                                                                  v
//!      └── standby status <─────── ack window <─────── echoes answered <─────── echoes (delayed second deletes)
//! ```
//!
//! Changes are frames of logical replication, or rows that triggers wrote into an outbox (`source/outbox/`), put into
//! the same messages.
//!
//! Besides the road, the daemon watches. The mark, a small key in the cache, says up to where its deletes reach; what a mark
//! that was read proves is one table (`proof.rs`), and a cache that went back in time gets what it lacks from the ring of
//! recent keys, or a sweep (`pipeline/gap.rs`), ever more slowly when one cause comes again (`pipeline/repairs.rs`).
//! The server is looked at every two seconds: the slot's WAL, the publication, whether the server still takes the
//! application's writes (`pipeline/watching.rs`, `control/mending.rs`), and whether it holds the stream back (`pipeline/stall.rs`).
//! DDL is judged when it commits, by what readers see of the table (`pipeline/ddl.rs`). Read replicas hold the position
//! until they show what was deleted (`pipeline/lagging.rs`). Answers of lookups are kept until the stream brings a change of
//! what they were read from, or their definitions change (`pipeline/answers.rs`). What cannot be known is widened, never
//! skipped.
//!
//! The modules stand in the order of that road. Words and pure modules never see tokio, sockets, clocks or logs; a
//! source never sees a cache; the loop knows only traits. `tests/tidy.rs` keeps these walls.

// Words: plain values.
pub mod amount;
pub mod change;
pub mod error;
pub mod failpoints;
pub mod glob;
pub mod keys;
pub mod lsn;
pub mod mistake;
pub mod notice;
pub mod question;
pub mod reminder;
pub mod secret;
pub mod seen;
pub mod shown;
pub mod start;
pub mod url;

// Both servers: TLS, and what answers at an address.
pub mod stranger;
pub mod tls;

// PostgreSQL's client: knows no rule, key or cache.
pub mod postgres;

// Where changes come from.
pub mod decode;
pub mod source;

// What they mean.
pub mod rules;

// The guarantee: pure.
pub mod ack;
pub mod backoff;
pub mod batcher;
pub mod echo;
pub mod gate;
pub mod mark;
pub mod pace;
pub mod proof;
pub mod ring;

// Where keys go, and what the stream cannot tell.
pub mod cache;
pub mod catalog;
pub mod control;

// The loop that ties them.
pub mod pipeline;

// What flows by, beside the loop.
pub mod tap;

// The edges.
pub mod admin;
pub mod cli;
pub mod config;
pub mod metrics;
pub mod observe;
