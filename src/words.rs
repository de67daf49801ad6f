//! How a source speaks of itself: a log of outbox mode speaks of the outbox, and of no replication slot. Plain values.

/// The words of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// The source itself.
    pub source: &'static str,
    /// What keeps its place on the server.
    pub slot: &'static str,
    /// What says which tables it tells of.
    pub watched: &'static str,
    /// Its connection ended.
    pub interrupted: &'static str,
    /// Looking at all of that, behind "failed to".
    pub watch: &'static str,
    /// What a table that it calls emptied may be.
    pub emptied: &'static str,
}

impl Words {
    /// Logical replication.
    pub const STREAM: Words = Words {
        source: "the stream",
        slot: "the replication slot",
        watched: "the publication",
        interrupted: "replication interrupted",
        watch: "watch the server (the slot's WAL, the publication)",
        emptied: "TRUNCATE",
    };

    /// Triggers and an outbox.
    pub const OUTBOX: Words = Words {
        source: "the outbox",
        slot: "the outbox",
        watched: "what the triggers capture",
        interrupted: "reading the outbox interrupted",
        watch: "watch the server (the triggers, the outbox)",
        emptied: "TRUNCATE, or a change that was not captured",
    };
}
