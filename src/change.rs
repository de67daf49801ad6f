//! One row change, borrowed from the read buffer: the words that a source and the rules share.
//!
//! Nothing here owns row data, performs I/O or fails: a [`Tuple`] exists only after the decoder walked it once and
//! proved its extents.

use crate::lsn::Xid;

/// A table's object identifier (`Oid`), as relation messages announce it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Oid(pub u32);

/// One column of one row image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// Not in the stream: an unchanged TOASTed value, or a column outside of the replica identity.
    Unknown,
    /// PostgreSQL's text output, byte for byte.
    Text(&'a [u8]),
}

/// A row image as `TupleData` bytes (Int16 column count, then a kind byte and its payload for each column).
///
/// Only [`decode`](crate::decode) makes one, after checking that every length lies inside of the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    body: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// `body` must hold exactly `columns` well-formed columns; the decoder checked it.
    #[inline]
    pub(crate) fn checked(columns: u16, body: &'a [u8]) -> Self {
        Tuple { columns, body }
    }

    /// How many columns the image has.
    #[inline]
    pub fn columns(self) -> usize {
        usize::from(self.columns)
    }

    /// The columns in order, `Unknown` where the stream says "unchanged".
    #[inline]
    pub fn values(self) -> Values<'a> {
        Values { left: self.columns, body: self.body }
    }
}

/// Appends a column to the body of a [`Tuple`], as a walsender writes it (`logicalrep_write_tuple` in
/// src/backend/replication/logical/proto.c).
pub(crate) fn push_column(body: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => body.push(b'n'),
        Value::Unknown => body.push(b'u'),
        Value::Text(text) => {
            body.push(b't');
            body.extend((text.len() as u32).to_be_bytes());
            body.extend(text);
        }
    }
}

impl std::fmt::Debug for Tuple<'_> {
    /// Shows no value: row data must not reach a log by way of a debug format.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tuple({} columns)", self.columns)
    }
}

/// Iterator over the columns of a [`Tuple`].
#[derive(Clone)]
pub struct Values<'a> {
    left: u16,
    body: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (kind, rest) = self.body.split_first()?;
        match kind {
            b't' => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.body = rest;
                Some(Value::Text(text))
            }
            b'n' => {
                self.body = rest;
                Some(Value::Null)
            }
            _ => {
                self.body = rest;
                Some(Value::Unknown)
            }
        }
    }
}

/// What the stream carries of the row as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Old<'a> {
    /// Nothing: the columns of the replica identity did not change (update), or there was no row (insert).
    Absent,
    /// Only the columns of the replica identity are real; every other column is *unknown*, whatever it holds.
    Key(Tuple<'a>),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

/// What happened to the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row<'a> {
    /// A new row.
    Insert {
        /// The row as inserted.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The row before, as far as it is known.
        old: Old<'a>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// A deleted row; `old` is never `Absent`.
    Delete {
        /// The row before, as far as it is known.
        old: Old<'a>,
    },
    /// The table was emptied.
    Truncate,
}

/// One change of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// The table, as announced by an earlier relation event.
    pub relation: Oid,
    /// What happened.
    pub row: Row<'a>,
}

/// How a table identifies old rows in the stream (`pg_class.relreplident`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing; updates and deletes are refused by the server while the table is published.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: a unique index.
    Index,
}

/// A column as a relation message describes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The type (`pg_type.oid`).
    pub type_oid: Oid,
    /// Whether the replica identity carries it.
    pub in_identity: bool,
}

/// A table as the stream last described it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Relation {
    /// The table's identifier in change messages.
    pub oid: Oid,
    /// The schema.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// How old rows are identified.
    pub identity: ReplicaIdentity,
    /// The published columns, in the order of every tuple.
    pub columns: Vec<Column>,
}

/// Which transaction a logical message belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessagePlace {
    /// The committed one of the last `Begin`.
    Committed,
    /// One that is still open (top-level xid); it may yet abort.
    Open(Xid),
    /// None: it was sent at once, whatever became of the transaction that sent it.
    Outside,
}

/// What a source hands to the loop, in stream order. `A` is the source's own acknowledgement: nobody else can make one.
#[derive(Debug)]
pub enum Event<'a, A> {
    /// A committed transaction's changes follow.
    Begin(Xid),
    /// A table was described, for the first time or anew.
    Relation(&'a Relation),
    /// A row changed in the transaction of the last `Begin`.
    Change(Change<'a>),
    /// A row changed in a transaction (top-level xid) that is still open; it may yet abort.
    Open(Xid, Change<'a>),
    /// A logical message (`pg_logical_emit_message`) with crieur's prefix: its content, see [`notice`](crate::notice).
    Message(MessagePlace, &'a [u8]),
    /// An open transaction was aborted: nothing of it happened.
    Abort(Xid),
    /// The transaction committed; `A` confirms everything up to and including it.
    Commit(Xid, A),
    /// A message that concerns nobody.
    Skipped,
    /// Nothing of interest lies before `A`; outside of any transaction of the stream.
    Idle(A),
}
