//! crieur keeps Redis-protocol caches coherent with PostgreSQL: a committed row deletes its cache keys.
//!
//! ```text
//! PostgreSQL ─> source ─event─> rules ─keys─> batch ──> gate ─> lookups ─┬─> target: inbox, flight, ring, echoes, mark
//!     ^         (decode)                             (visible?)  (once)  └─> target: …                             │
//!     │                                                                                                            │
//!     └── status <── confirmed: the least over the targets that hold it <── marked <── answered <──────────────────┘
//! ```
//!
//! Changes are frames of logical replication, or rows that triggers wrote into an outbox (`source/outbox/`), put into
//! the same messages. The *feed* (`feed/`) is the stream's side of that road. It hands each load to every *target*
//! (`target/`), which is all that belongs to one cache. What is owed between them is a *ticket* of a *ledger*
//! (`ledger/`). The *loop* (`run/`) ties them.
//!
//! # The road of one change, by files
//!
//! | step | file |
//! |---|---|
//! | bytes become an event | `source/replication/`, `decode/` |
//! | an event becomes keys of the open batch | `feed/intake.rs`, `rules/plan/`, `feed/batch.rs` |
//! | what a snapshot contains leaves | `feed/gating.rs`, `feed/mod.rs` (`cut`) |
//! | lookups are asked | `feed/resolve.rs` |
//! | a load reaches each target | `run/mod.rs` (`hand_over`), `target/mod.rs` (`take_in`) |
//! | keys are deleted, and echoed | `target/delete.rs`, `cache/unlink.rs`, `target/echo.rs` |
//! | the mark is written | `target/confirm.rs` |
//! | who holds the position, and who is left behind | `ledger/hold.rs`, `target/hold.rs`, `run/hold.rs` |
//! | the position is confirmed | `run/mod.rs` (`confirm`) |
//!
//! # Besides the road
//!
//! Behind each connection a target reads its mark; what that proves is one table (`target/proof.rs`), and a cache that
//! went back in time gets what it lacks from the ring of recent keys, or a sweep (`target/gap.rs`), ever more slowly when
//! one cause comes again (`target/repairs.rs`). The feed looks at the server every two seconds: the slot's WAL, the
//! publication, whether the server still takes the application's writes (`feed/sight.rs`, `control/mending.rs`), and
//! whether it holds the stream back (`feed/stall.rs`). DDL is judged when it commits, by what readers see of the table
//! (`feed/ddl.rs`). Whether to connect anew is decided in `feed/connect.rs` after an error, in `feed/sight.rs` after
//! a look, and in `run/mod.rs` when the control session ends. A cache that is away is tried again in `insist.rs`; its
//! connections are dropped in `cache/redis.rs`, and its mark is compared when it answers again (`target/gap.rs`). What
//! cannot be known is widened, never skipped.
//!
//! Whatever a person may look for in the log has an id, and one list says its level and what to do (`observe/ids.rs`).
//! What lasts is said again once a minute (`reminder.rs`). The metrics and the status line are made from news
//! (`observe/news.rs`).
//!
//! # Words of this project
//!
//! | word | meaning |
//! |---|---|
//! | family | all keys that one template makes, and the pattern that matches them |
//! | load | keys, patterns and lookups on their way |
//! | sink | what keeps pages and takes tags over HTTP: it is a target, and keeps no mark |
//! | tag | what a page or a CDN calls the things that it keeps; a coarse tag stands for all of a family |
//! | gate | the wait until a snapshot of ordinary readers contains a transaction |
//! | flight | one pipeline of UNLINKs that is out |
//! | echo | a repeated delete of the same keys, some time after the first |
//! | sweep | one SCAN over the cache that deletes what matches patterns |
//! | mark | a small key in the cache that says up to where its deletes reach |
//! | publish | to tell readers that keep values in their own memory which keys were deleted, over pub/sub |
//! | epoch | messages to such readers that count on from each other; another epoch means that some may be missing |
//! | ring | the keys that were deleted lately, for a cache that went back |
//! | gap | what a mark that was read does not prove: deletes may be missing |
//! | elders | transactions that were open when a gap was found |
//! | span | a piece of the stream for which something is owed |
//! | ticket | one part of a span: whoever holds it owes an answer |
//! | held, released | of a target: the position waits for its mark, or goes on without it |
//! | standby | a server of PostgreSQL that replays a primary's WAL; a stream may come from there |
//! | shard | a primary of a cluster with its slots; each is a target of its own |
//! | twins | two caches of the configuration that lead to one database; they are refused |
//! | nameless | of a cache: it does not say who it is, and is known by its mark alone |
//! | look | of a table: what readers see besides its rows (`notice.rs`); of a target: what it knows of its mark |
//!
//! Words and pure modules never see tokio, sockets, clocks or logs; a source sees no cache, a target sees no source, and
//! the loop knows only traits. `tests/tidy/` keeps these walls.

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
pub mod place;
pub mod question;
pub mod reminder;
pub mod secret;
pub mod seen;
pub mod shown;
pub mod start;
pub mod tag;
pub mod url;
pub mod warm;
pub mod words;

// Both servers: TLS, what answers at an address, and random names and pauses.
mod random;
pub mod stranger;
pub mod tls;

// PostgreSQL's client: knows no rule, key or cache.
pub mod postgres;

// Where changes come from.
pub mod decode;
pub mod source;

// What they mean.
pub mod rules;

// What a cached value should be: pure.
pub mod verify;

// The guarantee: pure.
pub mod backoff;
pub mod budget;
pub mod gate;
pub mod ledger;
mod load;
pub mod mark;

// Where keys go, and what the stream cannot tell.
pub mod cache;
pub mod catalog;
pub mod control;

// The loop that ties them: one feed, a list of targets.
pub mod feed;
mod insist;
mod kept;
mod outage;
pub mod run;
pub mod target;

// What flows by, beside the loop.
pub mod tap;

// What the daemon tells of itself: the list of ids of its log, its news, and who may read them late.
pub mod observe;

// The edges.
pub mod admin;
pub mod cli;
pub mod config;
pub mod desk;
mod kernel;
pub mod metrics;
pub mod page;
