//! The control session: an ordinary connection to the server where readers read, for what the stream cannot tell.
//!
//! It takes the gate's snapshots, answers lookups behind the gate, and knows which partition belongs to which table.
//! This file is the traits that the loop knows and their words; `session.rs` and `pooled.rs` are the real ones.

pub(crate) mod definitions;
pub(crate) mod lookups;
mod mending;
pub mod pooled;
pub mod replicas;
pub mod session;
mod standby;

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::change::Oid;
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::notice::Touched;
use crate::question::{Answer, LookupId, Question};
use crate::start::{ServerStore, Start};

/// Asks a primary what is visible.
const CURRENT: &str = "SELECT pg_catalog.pg_current_snapshot()::text";

/// The answer to [`CURRENT`].
fn parsed(text: &str) -> Result<Snapshot> {
    Snapshot::parse(text).map_err(|cause| Error::definite(Exit::Protocol, "read a snapshot").because(cause))
}

/// Tables by schema and name.
pub type Named = Vec<(String, String)>;

/// How everything is defined that kept answers of lookups were read from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Definitions {
    /// Another one where a table, a view or a function is another now.
    pub digest: String,
    /// Lookups whose answers may not be kept: the stream does not bring the changes of all that they read.
    pub unkept: BTreeSet<LookupId>,
}

/// Which transactions readers can see.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub trait Gate {
    /// A snapshot taken after this call began. Connects first where there is no connection.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// What a batch of changes waits for: a snapshot that contains their transactions, unless the source has them from one.
    /// The source has delivered changes up to `upto`.
    async fn gate(&self, _upto: Lsn) -> Result<Snapshot> {
        self.snapshot().await
    }

    /// The same for changes whose lookups may have known answers, with the definitions as they were behind the snapshot.
    async fn gate_and_definitions(&self, upto: Lsn) -> Result<(Snapshot, Definitions)> {
        Ok((self.gate(upto).await?, Definitions::default()))
    }

    /// A snapshot that lists every transaction in progress. That of [`snapshot`](Gate::snapshot) ends at the youngest
    /// transaction that has ended, and those younger than it are in progress without being listed.
    async fn elders(&self) -> Result<Snapshot> {
        self.snapshot().await
    }

    /// Waits until every read replica has replayed what the source has delivered by now.
    async fn replicas_replayed(&self) -> Result<()> {
        Ok(())
    }

    /// Waits until a connection of this session ends by itself. A server that shuts down ends its sessions first and
    /// then waits for its walsenders, for as long as a client confirms less than they sent (walsender.c, `WalSndDone`).
    async fn lost(&self) {
        std::future::pending().await
    }

    /// The stream starts here: from now on only the same server and timeline may answer. An old session ends: it may be of
    /// an earlier run.
    fn follow(&self, _start: &Start) {}
}

/// Answers to the lookups of the rules.
#[allow(async_fn_in_trait)] // As above.
pub trait Lookups {
    /// Answers all questions in one round trip, in order.
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>>;

    /// A table was altered: what is known of the types in a statement may be old.
    fn altered(&self) {}
}

/// How tables are defined, and what may go wrong with them.
#[allow(async_fn_in_trait)] // As above.
pub trait Catalogue {
    /// Schemas and names of the tables that the rows of `oid` belong to: the topmost partitioned table above it, or itself,
    /// and then those that it inherits from. `None` when the catalog no longer knows it.
    async fn tables_of(&self, oid: Oid) -> Result<Option<Named>>;

    /// What readers see of the tables of the rules; `None` where nobody knows.
    async fn catalog(&self) -> Result<Option<CatalogView>> {
        Ok(None)
    }

    /// What may go wrong while the stream runs; `None` where there is nothing to watch.
    async fn watch(&self) -> Result<Option<Sighting>> {
        Ok(None)
    }
}

/// An ordinary session, from the loop's point of view: all three.
pub trait Control: Gate + Lookups + Catalogue {}

impl<T: Gate + Lookups + Catalogue> Control for T {}

/// The tables of the rules and all that carries their rows, as readers saw them in one snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogView {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The tables, each with its look.
    pub tables: Vec<Touched>,
}

impl CatalogView {
    /// Reads the answer to `sql/catalog.sql`.
    pub fn parse(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Written {
            snapshot: String,
            tables: Vec<Touched>,
        }
        let Written { snapshot, tables } = serde_json::from_str(text).ok()?;
        Some(CatalogView { snapshot: Snapshot::parse(&snapshot).ok()?, tables })
    }
}

/// What became of the WAL that a slot needs (`wal_status` of `pg_replication_slots`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Past `max_wal_size`, and kept for the slot.
    Extended,
    /// The next checkpoint may remove it.
    Unreserved,
    /// Removed.
    Lost,
}

/// The WAL behind a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct SlotWal {
    /// What became of it.
    pub status: WalStatus,
    /// Bytes that may be written until it can be lost; `None` without a limit.
    pub safe_bytes: Option<i64>,
    /// Bytes that the slot holds back.
    pub held_bytes: i64,
}

/// What was seen of the server while the stream runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sighting {
    /// As in [`Start::system`]; empty where the server does not say.
    #[serde(skip)]
    pub system: String,
    /// As in [`Start::timeline`].
    #[serde(skip)]
    pub timeline: u32,
    /// As in [`Start::publication`].
    #[serde(skip)]
    pub publication: String,
    /// Kinds of changes that the publication leaves out: `insert`, `update`, `delete`, `truncate`.
    pub withheld: Vec<String>,
    /// Tables of the rules whose changes do not come, by schema and name.
    pub unpublished: Named,
    /// Tables of the rules whose triggers are missing, or do not tell all that the rules read, by schema and name.
    pub uncovered: Named,
    /// Tables of the rules that do not exist, and columns of them.
    pub missing: Vec<(String, String, Option<String>)>,
    /// Partitioned tables of which TRUNCATE of one partition does not come, and what tells that one was.
    pub rooted: Vec<((String, String), String)>,
    /// Tables some of whose relations the server may refuse updates of.
    pub suspects: Named,
    /// Another text when the reasons for that changed.
    pub suspicion: Option<String>,
    /// Relations that the server refuses updates and deletes of, and those that were mended.
    #[serde(skip)]
    pub refused: Vec<Refused>,
    /// The standby that this session was opened on is none any more.
    #[serde(skip)]
    pub promoted: bool,
    /// Why triggers cannot write to the outbox, which concerns the tables in `unheard`.
    #[serde(skip)]
    pub refuses: Option<String>,
    /// Tables of the rules whose changes are not written, by schema and name.
    #[serde(skip)]
    pub unheard: Named,
    /// `synchronous_standby_names`.
    pub standby_names: String,
    /// Our name in that list.
    pub application_name: String,
    /// Up to where the server's WAL is flushed, as PostgreSQL writes it; empty where that is not known.
    pub flushed: String,
    /// `synchronized_standby_slots`; empty before version 17.
    pub standby_slots: String,
    /// Whether the slot waits for those.
    pub failover: bool,
    /// The slot's WAL; `None` while there is no such slot.
    pub wal: Option<SlotWal>,
    /// What the outbox takes on disk, and may take, in bytes.
    pub outbox: Option<(u64, u64)>,
    /// Rows of the outbox, as its statistics say.
    pub outbox_rows: Option<u64>,
}

/// A row of the outbox takes so many times its bytes on disk, with its index and what is not vacuumed.
const ON_DISK: u64 = 4;

impl Sighting {
    /// What the server keeps for us, where that has a bound, in bytes that positions count.
    pub fn store(&self) -> Option<ServerStore> {
        if let Some((used, total)) = self.outbox {
            return Some(ServerStore { used: used / ON_DISK, total: total / ON_DISK });
        }
        let wal = self.wal?;
        let (used, safe) = (u64::try_from(wal.held_bytes).unwrap_or(0), u64::try_from(wal.safe_bytes?).unwrap_or(0));
        Some(ServerStore { used, total: used + safe })
    }
}

/// A relation that the server refuses updates and deletes of, because of what it is published with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Refused {
    /// Schema and name.
    pub table: (String, String),
    /// A fragment.
    pub because: String,
    /// What mends it: statements, or words.
    pub mend: String,
    /// The statements were run, and the server takes updates again.
    pub is_mended: bool,
}
