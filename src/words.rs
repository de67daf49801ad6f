//! How a source speaks of itself, and how a target is spoken of: a log of outbox mode speaks of the outbox and of no
//! replication slot, and what concerns a sink speaks of tags and of no keys. Plain values.

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

/// What a target is to a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Member {
    /// It holds keys, which are deleted.
    Cache,
    /// It takes tags, which are purged.
    Sink,
}

impl Member {
    /// The target itself.
    pub fn noun(self) -> &'static str {
        self.pick("the cache", "the sink")
    }

    /// What is done to exact keys or tags, behind "failed to".
    pub fn delete(self) -> &'static str {
        self.pick("delete keys", "purge tags")
    }

    /// What is done where nobody can name each, behind "failed to".
    pub fn sweep(self) -> &'static str {
        self.pick("sweep", "purge coarse tags")
    }

    /// The same as a thing that begins and ends.
    pub fn a_sweep(self) -> &'static str {
        self.pick("sweep", "purge of coarse tags")
    }

    /// One of the two texts.
    pub fn pick(self, of_cache: &'static str, of_sink: &'static str) -> &'static str {
        match self {
            Member::Cache => of_cache,
            Member::Sink => of_sink,
        }
    }

    /// A text that speaks of a cache, in its words.
    pub fn in_words(self, text: &str) -> String {
        text.replace("the mark in the cache", self.pick("the mark in the cache", "the mark of the sink"))
            .replace("the cache", self.noun())
    }
}
