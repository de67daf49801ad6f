//! The pgoutput plugin's messages, protocol versions 1 to 4.
//!
//! Layouts: PostgreSQL's "Logical Replication Message Formats" and `src/backend/replication/logical/proto.c`. The
//! decoder keeps no state: whether messages carry a transaction number is the caller's to know, see [`Block`].

use std::borrow::Cow;

use super::malformed::DecodeError;
use super::reader::ByteReader;
use crate::change::{Change, Column, Oid, Old, ReplicaIdentity, Row, Tuple};
use crate::lsn::{Lsn, Xid};

/// Where a message stands: between Stream Start and Stream Stop most messages carry a transaction number in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    /// Anywhere else.
    Outside,
    /// Between Stream Start and Stream Stop.
    Stream,
}

/// A prepared transaction's step. All times are microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepared<'a> {
    /// Start of the step's own WAL record: prepare or commit. For a rollback the end of the prepare.
    pub lsn: Lsn,
    /// End of the step's own WAL record.
    pub end_lsn: Lsn,
    /// When it happened.
    pub time: i64,
    /// The transaction.
    pub xid: Xid,
    /// Its global identifier, as the client wrote it.
    pub gid: &'a [u8],
}

/// One message. `xid` is there in a stream block only, and may name a subtransaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// `B`: a committed transaction follows.
    Begin {
        /// Its commit record's position, the same as in the Commit that ends it.
        final_lsn: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
        /// The transaction.
        xid: Xid,
    },
    /// `M`: `pg_logical_emit_message`.
    Logical {
        /// In a stream block.
        xid: Option<Xid>,
        /// Whether it belongs to the transaction, or was sent at once.
        transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// Whose it is.
        prefix: &'a [u8],
        /// What it says.
        content: &'a [u8],
    },
    /// `C`: the end of what `Begin` began.
    Commit {
        /// Start of the commit record.
        commit_lsn: Lsn,
        /// End of the commit record: confirming it confirms the transaction.
        end_lsn: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// `O`: the transaction was replicated here from elsewhere.
    Origin {
        /// The commit's position there.
        lsn: Lsn,
        /// The origin's name.
        name: &'a [u8],
    },
    /// `R`: a table's description.
    Relation {
        /// In a stream block.
        xid: Option<Xid>,
        /// The table's identifier in changes.
        oid: Oid,
        /// Its schema.
        schema: Cow<'a, str>,
        /// Its name.
        name: Cow<'a, str>,
        /// How old rows are identified.
        identity: ReplicaIdentity,
        /// The published columns.
        columns: Columns<'a>,
    },
    /// `Y`: a type that is not built in.
    Type {
        /// In a stream block.
        xid: Option<Xid>,
        /// The type.
        oid: Oid,
        /// Its schema.
        schema: Cow<'a, str>,
        /// Its name.
        name: Cow<'a, str>,
    },
    /// `I`, `U`, `D`: one row.
    Change {
        /// In a stream block.
        xid: Option<Xid>,
        /// The row.
        change: Change<'a>,
    },
    /// `T`: tables were emptied together.
    Truncate {
        /// In a stream block.
        xid: Option<Xid>,
        /// `CASCADE` was written; the tables it reached are in the list.
        cascade: bool,
        /// `RESTART IDENTITY` was written.
        restart_identity: bool,
        /// The tables.
        relations: Oids<'a>,
    },
    /// `S`: changes of a transaction that is still open.
    StreamStart {
        /// The top-level transaction.
        xid: Xid,
        /// Whether it is the transaction's first block.
        first: bool,
    },
    /// `E`: the block is over.
    StreamStop,
    /// `c`: a streamed transaction committed.
    StreamCommit {
        /// The top-level transaction.
        xid: Xid,
        /// Start of the commit record.
        commit_lsn: Lsn,
        /// End of the commit record.
        end_lsn: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// `A`: a streamed transaction or one of its subtransactions was rolled back.
    StreamAbort {
        /// The top-level transaction.
        xid: Xid,
        /// What was rolled back; the same as `xid` when it is everything.
        subxid: Xid,
        /// Position and time of the abort, with `streaming 'parallel'` (protocol 4).
        at: Option<(Lsn, i64)>,
    },
    /// `b`: a prepared transaction's changes follow.
    BeginPrepare(Prepared<'a>),
    /// `P`: the end of what `BeginPrepare` began.
    Prepare(Prepared<'a>),
    /// `K`: a prepared transaction committed.
    CommitPrepared(Prepared<'a>),
    /// `r`: a prepared transaction was rolled back.
    RollbackPrepared {
        /// The rollback.
        prepared: Prepared<'a>,
        /// When it had been prepared.
        prepare_time: i64,
    },
    /// `p`: a streamed transaction was prepared.
    StreamPrepare(Prepared<'a>),
}

/// Decodes one message of the plugin, all of `payload`.
#[inline]
pub fn decode(payload: &[u8], block: Block) -> Result<Message<'_>, DecodeError> {
    let mut reader = ByteReader::new(payload)?;
    let message = message(&mut reader, block)?;
    reader.end()?;
    Ok(message)
}

#[inline]
fn message<'a>(reader: &mut ByteReader<'a>, block: Block) -> Result<Message<'a>, DecodeError> {
    match reader.tag() {
        b'I' | b'U' | b'D' => Ok(Message::Change { xid: xid(reader, block)?, change: change(reader)? }),
        b'B' => Ok(Message::Begin { final_lsn: reader.lsn()?, commit_time: reader.time()?, xid: reader.xid()? }),
        b'C' => {
            reader.flags(0)?;
            let (commit_lsn, end_lsn) = (reader.lsn()?, reader.lsn()?);
            Ok(Message::Commit { commit_lsn, end_lsn, commit_time: reader.time()? })
        }
        b'R' => relation(reader, block),
        b'T' => truncate(reader, block),
        b'M' => logical(reader, block),
        b'O' => Ok(Message::Origin { lsn: reader.lsn()?, name: reader.string()? }),
        b'Y' => Ok(Message::Type {
            xid: xid(reader, block)?,
            oid: reader.oid()?,
            schema: schema(reader)?,
            name: reader.name()?,
        }),
        b'S' | b'E' | b'c' | b'A' => streamed(reader),
        b'b' | b'P' | b'K' | b'r' | b'p' => two_phase(reader),
        _ => Err(DecodeError { at: 0, what: "unknown message", tag: reader.tag() }),
    }
}

#[inline]
fn xid(reader: &mut ByteReader<'_>, block: Block) -> Result<Option<Xid>, DecodeError> {
    match block {
        Block::Outside => Ok(None),
        Block::Stream => reader.xid().map(Some),
    }
}

/// A namespace is sent empty for `pg_catalog` (`logicalrep_write_namespace`).
fn schema<'a>(reader: &mut ByteReader<'a>) -> Result<Cow<'a, str>, DecodeError> {
    reader.name().map(|name| if name.is_empty() { Cow::Borrowed("pg_catalog") } else { name })
}

#[inline]
fn change<'a>(reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
    let relation = reader.oid()?;
    let row = match (reader.tag(), reader.u8()?) {
        (b'I', b'N') => Row::Insert { new: reader.tuple()? },
        (b'D', b'K') => Row::Delete { old: Old::Key(reader.tuple()?) },
        (b'D', b'O') => Row::Delete { old: Old::Full(reader.tuple()?) },
        (b'U', b'N') => Row::Update { old: Old::Absent, new: reader.tuple()? },
        (b'U', b'K') => Row::Update { old: Old::Key(reader.tuple()?), new: new_image(reader)? },
        (b'U', b'O') => Row::Update { old: Old::Full(reader.tuple()?), new: new_image(reader)? },
        _ => return Err(reader.error_before(1, "unexpected kind of row image")),
    };
    Ok(Change { relation, row })
}

#[inline]
fn new_image<'a>(reader: &mut ByteReader<'a>) -> Result<Tuple<'a>, DecodeError> {
    match reader.u8()? {
        b'N' => reader.tuple(),
        _ => Err(reader.error_before(1, "an update has no new row")),
    }
}

fn relation<'a>(reader: &mut ByteReader<'a>, block: Block) -> Result<Message<'a>, DecodeError> {
    let xid = xid(reader, block)?;
    let oid = reader.oid()?;
    let (schema, name) = (schema(reader)?, reader.name()?);
    let identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(reader.error_before(1, "unknown replica identity")),
    };
    let count = reader.u16()?;
    let body = reader.rest();
    for _ in 0..count {
        reader.flags(IN_IDENTITY)?;
        reader.name()?;
        reader.bytes(8)?;
    }
    let columns = Columns { body: &body[..body.len() - reader.rest().len()] };
    Ok(Message::Relation { xid, oid, schema, name, identity, columns })
}

fn truncate<'a>(reader: &mut ByteReader<'a>, block: Block) -> Result<Message<'a>, DecodeError> {
    let xid = xid(reader, block)?;
    let count = reader.u32()?;
    let options = reader.flags(CASCADE | RESTART_IDENTITY)?;
    // Saturating on a 32-bit target only makes a length that cannot be there.
    let body = reader.bytes((count as usize).saturating_mul(4))?;
    Ok(Message::Truncate {
        xid,
        cascade: options & CASCADE != 0,
        restart_identity: options & RESTART_IDENTITY != 0,
        relations: Oids { body },
    })
}

fn logical<'a>(reader: &mut ByteReader<'a>, block: Block) -> Result<Message<'a>, DecodeError> {
    let xid = xid(reader, block)?;
    let transactional = reader.zero_or_one()?;
    let (lsn, prefix) = (reader.lsn()?, reader.string()?);
    let length = reader.u32()?;
    Ok(Message::Logical { xid, transactional, lsn, prefix, content: reader.bytes(length as usize)? })
}

fn streamed<'a>(reader: &mut ByteReader<'a>) -> Result<Message<'a>, DecodeError> {
    match reader.tag() {
        b'S' => Ok(Message::StreamStart { xid: reader.xid()?, first: reader.zero_or_one()? }),
        b'E' => Ok(Message::StreamStop),
        b'c' => {
            let xid = reader.xid()?;
            reader.flags(0)?;
            let (commit_lsn, end_lsn) = (reader.lsn()?, reader.lsn()?);
            Ok(Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time: reader.time()? })
        }
        _ => {
            let (xid, subxid) = (reader.xid()?, reader.xid()?);
            let at = if reader.rest().is_empty() { None } else { Some((reader.lsn()?, reader.time()?)) };
            Ok(Message::StreamAbort { xid, subxid, at })
        }
    }
}

fn two_phase<'a>(reader: &mut ByteReader<'a>) -> Result<Message<'a>, DecodeError> {
    let tag = reader.tag();
    if tag != b'b' {
        reader.flags(0)?;
    }
    let (lsn, end_lsn, mut time) = (reader.lsn()?, reader.lsn()?, reader.time()?);
    let prepare_time = time;
    if tag == b'r' {
        time = reader.time()?;
    }
    let prepared = Prepared { lsn, end_lsn, time, xid: reader.xid()?, gid: reader.string()? };
    Ok(match tag {
        b'b' => Message::BeginPrepare(prepared),
        b'P' => Message::Prepare(prepared),
        b'K' => Message::CommitPrepared(prepared),
        b'r' => Message::RollbackPrepared { prepared, prepare_time },
        _ => Message::StreamPrepare(prepared),
    })
}

const CASCADE: u8 = 1;
const RESTART_IDENTITY: u8 = 2;
const IN_IDENTITY: u8 = 1;

/// The tables of a Truncate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Oids<'a> {
    body: &'a [u8],
}

impl Iterator for Oids<'_> {
    type Item = Oid;

    fn next(&mut self) -> Option<Oid> {
        let (oid, rest) = self.body.split_first_chunk::<4>()?;
        self.body = rest;
        Some(Oid(u32::from_be_bytes(*oid)))
    }
}

/// The columns of a Relation message, which was walked once: each is flags, name, NUL, type and type modifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Columns<'a> {
    body: &'a [u8],
}

impl Iterator for Columns<'_> {
    type Item = Column;

    fn next(&mut self) -> Option<Column> {
        let (&flags, rest) = self.body.split_first()?;
        let nul = rest.iter().position(|&byte| byte == 0)?;
        let name = super::reader::name(&rest[..nul]).into_owned();
        let (kind, rest) = rest[nul + 1..].split_first_chunk::<4>()?;
        self.body = rest.get(4..)?;
        Some(Column { name, type_oid: Oid(u32::from_be_bytes(*kind)), in_identity: flags & IN_IDENTITY != 0 })
    }
}
