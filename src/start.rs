//! Where a stream starts: which server, which run of it, which slot, as the server says. Plain values.

use crate::lsn::Lsn;

/// Whether the slot of a stream is the one that was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlotOrigin {
    /// It was there; what was written since its position comes.
    #[default]
    Found,
    /// It was made for this stream; what was written before it never comes.
    Created,
    /// It was there, and positions past this one are given out by this stream: none was before.
    Counted(Lsn),
}

/// Where the stream starts, as the server says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The server's system identifier (`IDENTIFY_SYSTEM`) and the number of the database: a copy that took the name of its
    /// original has another one, and all else that the original said of itself. In outbox mode also what names the outbox.
    pub system: String,
    /// Its timeline.
    pub timeline: u32,
    /// The slot's confirmed position.
    pub confirmed: Lsn,
    /// Names this run of the server: it changes with each start of the postmaster and with each crash of a backend. A
    /// server that started again may have forgotten what was read and cached (`synchronous_commit = off`, a restored
    /// copy), and no WAL tells.
    pub run: String,
    /// Digest of what the publication holds: it changes whenever a table is added or dropped, even if it comes back.
    /// Changes of a table are not in the stream while it is not published, and no WAL tells.
    pub publication: String,
    /// Whether the slot was there.
    pub slot: SlotOrigin,
}

/// What the server keeps for us, and how much of that is used, in bytes: the WAL of the slot, or the rows of the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerStore {
    /// What is used.
    pub used: u64,
    /// What may be used before something is lost.
    pub total: u64,
}

impl ServerStore {
    /// Whether half of it is used.
    pub fn is_half_used(self) -> bool {
        self.used >= self.total / 2
    }
}
