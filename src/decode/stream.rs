//! From messages to events: which transaction a change belongs to, and that no message comes out of place.
//!
//! Pure: no socket, no clock. It keeps nothing but the tables described so far and what is open; a new connection
//! starts with a new one. Whatever breaks the protocol is a definite error, and nothing past it is confirmed.

use std::collections::VecDeque;

use super::malformed::out_of_order;
use super::pgoutput::{Block, Message, decode};
use super::relations::Relations;
use crate::change::{Change, Event, MessagePlace, Oid, Old, Row, Tuple};
use crate::error::{Error, Exit, Result};
use crate::lsn::{Lsn, Xid};
use crate::notice;

/// What the messages so far left open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Nothing.
    #[default]
    Between,
    /// A committed transaction, up to its Commit.
    Committed { xid: Xid, final_lsn: Lsn },
    /// A block of a transaction in progress, up to its Stream Stop.
    Streamed { xid: Xid },
}

/// What one payload means: an [`Event`] that borrows nothing of the assembler, so that callers may loop over payloads
/// until one means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeStep<'a> {
    /// A table was described; [`Relations`] has it.
    Relation(Oid),
    /// A committed transaction's changes follow.
    Begin(Xid),
    /// A row changed in the transaction of the last `Begin`.
    Change(Change<'a>),
    /// A row changed in a transaction that is still open.
    Open(Xid, Change<'a>),
    /// A logical message with our prefix.
    Message(MessagePlace, &'a [u8]),
    /// An open transaction was aborted.
    Abort(Xid),
    /// The transaction committed; its commit record ends at the position.
    Commit(Xid, Lsn),
}

/// Turns payloads into events, in order.
#[derive(Debug, Default)]
pub struct Assembler {
    relations: Relations,
    state: State,
    commit_time: Option<i64>,
    truncated: VecDeque<Oid>,
}

impl Assembler {
    /// What the payload of one XLogData means; `None` for messages that concern nobody.
    ///
    /// A Truncate of several tables leaves more steps: take them with [`queued`](Assembler::queued) first.
    #[inline]
    pub fn step<'a>(&mut self, payload: &'a [u8]) -> Result<Option<DecodeStep<'a>>> {
        assert!(self.truncated.is_empty(), "queued steps must be taken before the next payload");
        let block = match self.state {
            State::Streamed { .. } => Block::Stream,
            State::Between | State::Committed { .. } => Block::Outside,
        };
        match decode(payload, block)? {
            Message::Change { change, .. } => {
                self.check(&change)?;
                self.change(change).map(Some)
            }
            Message::Relation { oid, schema, name, identity, columns, .. } => {
                self.relations.learn(oid, (&schema, &name), identity, columns);
                Ok(Some(DecodeStep::Relation(oid)))
            }
            Message::Truncate { relations, .. } => self.truncate(relations),
            Message::Logical { transactional, prefix, content, .. } if prefix == notice::PREFIX.as_bytes() => {
                self.message(transactional, content).map(Some)
            }
            Message::Type { oid, schema, name, .. } => {
                self.relations.learn_type(oid, &schema, &name);
                Ok(None)
            }
            Message::Origin { .. } | Message::Logical { .. } => Ok(None),
            message => self.boundary(&message),
        }
    }

    /// The next step of a Truncate of several tables.
    #[inline]
    pub fn queued(&mut self) -> Result<Option<DecodeStep<'static>>> {
        let next = self.truncated.pop_front();
        next.map(|relation| self.change(Change { relation, row: Row::Truncate })).transpose()
    }

    /// Whether [`queued`](Assembler::queued) has more.
    pub fn has_queued(&self) -> bool {
        !self.truncated.is_empty()
    }

    /// The event of a step that this assembler made, with the source's own acknowledgement of a position.
    #[inline]
    pub fn event<'a, A>(&'a self, step: DecodeStep<'a>, ack: impl FnOnce(Lsn) -> A) -> Event<'a, A> {
        match step {
            DecodeStep::Relation(oid) => {
                Event::Relation(self.relations.last(oid).expect("step() kept the table before it said so"))
            }
            DecodeStep::Begin(xid) => Event::Begin(xid),
            DecodeStep::Change(change) => Event::Change(change),
            DecodeStep::Open(xid, change) => Event::Open(xid, change),
            DecodeStep::Message(place, content) => Event::Message(place, content),
            DecodeStep::Abort(xid) => Event::Abort(xid),
            DecodeStep::Commit(xid, end_lsn) => Event::Commit(xid, ack(end_lsn)),
        }
    }

    /// When the current transaction, or else the last one, committed: microseconds since 2000-01-01 UTC.
    ///
    /// `None` before the first, and while a transaction in progress is streamed.
    pub fn commit_time(&self) -> Option<i64> {
        self.commit_time
    }

    /// Whether nothing is open: a keepalive's position lies past no change that is still to come.
    pub fn is_between(&self) -> bool {
        self.state == State::Between
    }

    /// Whether a block of a transaction in progress is open.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streamed { .. })
    }

    #[inline]
    fn change<'a>(&self, change: Change<'a>) -> Result<DecodeStep<'a>> {
        match self.state {
            State::Committed { .. } => Ok(DecodeStep::Change(change)),
            State::Streamed { xid } => Ok(DecodeStep::Open(xid, change)),
            State::Between => Err(out_of_order("replication stream: a change outside of any transaction")),
        }
    }

    fn message<'a>(&self, transactional: bool, content: &'a [u8]) -> Result<DecodeStep<'a>> {
        let place = match self.state {
            State::Committed { .. } => MessagePlace::Committed,
            State::Streamed { xid } => MessagePlace::Open(xid),
            State::Between if transactional => {
                return Err(out_of_order("replication stream: a transactional message outside of any transaction"));
            }
            State::Between => MessagePlace::Outside,
        };
        Ok(DecodeStep::Message(place, content))
    }

    /// The table must be known, and every image must have its columns: plans address columns by position.
    #[inline]
    fn check(&self, change: &Change<'_>) -> Result<()> {
        let oid = change.relation;
        let Some(columns) = self.relations.columns(oid) else {
            return Err(out_of_order(format!("replication stream: a change of table {}, never described", oid.0)));
        };
        let fits = |tuple: Tuple<'_>| tuple.columns() == columns;
        let old_fits = |old: Old<'_>| match old {
            Old::Absent => true,
            Old::Key(tuple) | Old::Full(tuple) => fits(tuple),
        };
        let fit = match change.row {
            Row::Insert { new } => fits(new),
            Row::Update { old, new } => old_fits(old) && fits(new),
            Row::Delete { old } => old_fits(old),
            Row::Truncate => true,
        };
        if fit {
            return Ok(());
        }
        Err(out_of_order(format!(
            "replication stream: a row of table {} has another number of columns than its description",
            oid.0
        )))
    }

    fn truncate(&mut self, relations: impl Iterator<Item = Oid> + Clone) -> Result<Option<DecodeStep<'static>>> {
        for relation in relations.clone() {
            let change = Change { relation, row: Row::Truncate };
            self.check(&change)?;
            // Before any is queued: an error leaves nothing behind that the next payload would trip over.
            self.change(change)?;
        }
        self.truncated.extend(relations);
        self.queued()
    }

    /// Messages that open or close a transaction or a block.
    #[inline]
    fn boundary(&mut self, message: &Message<'_>) -> Result<Option<DecodeStep<'static>>> {
        let state = self.state;
        let (next, event) = match (state, message) {
            (State::Between, &Message::Begin { final_lsn, xid, .. }) => {
                (State::Committed { xid, final_lsn }, Some(DecodeStep::Begin(xid)))
            }
            (State::Committed { xid, final_lsn }, &Message::Commit { commit_lsn, end_lsn, .. }) => {
                if commit_lsn != final_lsn {
                    return Err(out_of_order(format!(
                        "replication stream: transaction {xid} began for {final_lsn} and commits at {commit_lsn}"
                    )));
                }
                (State::Between, Some(DecodeStep::Commit(xid, end_lsn)))
            }
            (State::Between, &Message::StreamStart { xid, .. }) => (State::Streamed { xid }, None),
            (State::Streamed { .. }, Message::StreamStop) => (State::Between, None),
            // A transaction whose blocks held nothing of interest is unknown to whoever keeps keys by transaction.
            (State::Between, &Message::StreamCommit { xid, end_lsn, .. }) => {
                (State::Between, Some(DecodeStep::Commit(xid, end_lsn)))
            }
            // Keys of a rolled-back subtransaction stay with their transaction: deleting more than needed is safe.
            (State::Between, &Message::StreamAbort { xid, subxid, .. }) => {
                (State::Between, (xid == subxid).then_some(DecodeStep::Abort(xid)))
            }
            (
                _,
                Message::BeginPrepare(_)
                | Message::Prepare(_)
                | Message::StreamPrepare(_)
                | Message::CommitPrepared(_)
                | Message::RollbackPrepared { .. },
            ) => return Err(two_phase()),
            (state, message) => return Err(misplaced(state, message)),
        };
        self.state = next;
        self.commit_time = commit_time(message).or_else(|| self.commit_time.filter(|_| next == State::Between));
        Ok(event)
    }
}

/// When the transaction that a message opens or closes committed.
fn commit_time(message: &Message<'_>) -> Option<i64> {
    match message {
        Message::Begin { commit_time, .. }
        | Message::Commit { commit_time, .. }
        | Message::StreamCommit { commit_time, .. } => Some(*commit_time),
        Message::Logical { .. }
        | Message::Origin { .. }
        | Message::Relation { .. }
        | Message::Type { .. }
        | Message::Change { .. }
        | Message::Truncate { .. }
        | Message::StreamStart { .. }
        | Message::StreamStop
        | Message::StreamAbort { .. }
        | Message::BeginPrepare(_)
        | Message::Prepare(_)
        | Message::CommitPrepared(_)
        | Message::RollbackPrepared { .. }
        | Message::StreamPrepare(_) => None,
    }
}

/// Only a slot that was made with `two_phase` sends these messages, whatever the client asks for
/// (`CreateDecodingContext` in `src/backend/replication/logical/logical.c`). Its COMMIT PREPARED comes without the
/// changes, which were sent at PREPARE: after a restart nobody would know the keys.
#[cold]
pub(crate) fn two_phase() -> Error {
    Error::definite(Exit::Unavailable, "the replication slot was made with two_phase, which loses keys at a restart")
        .hint("Drop the slot with SELECT pg_drop_replication_slot('…') and run `crieur setup`; the next start sweeps.")
}

#[cold]
fn misplaced(state: State, message: &Message<'_>) -> Error {
    let name = match message {
        Message::Begin { .. } => "Begin",
        Message::Commit { .. } => "Commit",
        Message::StreamStart { .. } => "Stream Start",
        Message::StreamStop => "Stream Stop",
        Message::StreamCommit { .. } => "Stream Commit",
        Message::StreamAbort { .. } => "Stream Abort",
        Message::BeginPrepare(_) => "Begin Prepare",
        Message::Prepare(_) => "Prepare",
        Message::CommitPrepared(_) => "Commit Prepared",
        Message::RollbackPrepared { .. } => "Rollback Prepared",
        Message::StreamPrepare(_) => "Stream Prepare",
        Message::Logical { .. } => "Message",
        Message::Origin { .. } => "Origin",
        Message::Relation { .. } => "Relation",
        Message::Type { .. } => "Type",
        Message::Change { .. } => "Insert, Update or Delete",
        Message::Truncate { .. } => "Truncate",
    };
    let place = match state {
        State::Between => "outside of any transaction".to_owned(),
        State::Committed { xid, .. } => format!("inside of transaction {xid}"),
        State::Streamed { xid } => format!("inside of a stream block of transaction {xid}"),
    };
    out_of_order(format!("replication stream: {name} {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(final_lsn: u64, xid: u32) -> Vec<u8> {
        [&b"B"[..], &final_lsn.to_be_bytes(), &[0; 8], &xid.to_be_bytes()].concat()
    }

    fn commit(lsn: u64) -> Vec<u8> {
        [&b"C\0"[..], &lsn.to_be_bytes(), &(lsn + 8).to_be_bytes(), &[0; 8]].concat()
    }

    /// `xid` is the prefix of messages in a stream block: empty or four bytes.
    fn relation(xid: &[u8], oid: u32) -> Vec<u8> {
        [b"R", xid, &oid.to_be_bytes(), b"public\0t\0d\0\x01\x01id\0", &23_u32.to_be_bytes(), &[255; 4]].concat()
    }

    fn insert(xid: &[u8], oid: u32, columns: u8) -> Vec<u8> {
        [b"I", xid, &oid.to_be_bytes(), b"N\0", &[columns], &b"nnnn"[..usize::from(columns)]].concat()
    }

    fn truncate(oids: &[u32]) -> Vec<u8> {
        let oids_bytes: Vec<u8> = oids.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        [&b"T"[..], &(oids.len() as u32).to_be_bytes(), b"\0", &oids_bytes].concat()
    }

    fn stream_start(xid: u32) -> Vec<u8> {
        [&b"S"[..], &xid.to_be_bytes(), &[1]].concat()
    }

    fn stream_abort(xid: u32, subxid: u32) -> Vec<u8> {
        [&b"A"[..], &xid.to_be_bytes(), &subxid.to_be_bytes()].concat()
    }

    fn stream_commit(xid: u32) -> Vec<u8> {
        [&b"c"[..], &xid.to_be_bytes(), &[0], &[0; 7], &[16], &[0; 7], &[24], &[0; 8]].concat()
    }

    /// `pg_logical_emit_message(transactional, prefix, 'x')`.
    fn message(xid: &[u8], transactional: u8, prefix: &str) -> Vec<u8> {
        [b"M", xid, &[transactional], &[0; 8], prefix.as_bytes(), b"\0\0\0\0\x01x"].concat()
    }

    /// `b`, `P`, `K`, `p` of transaction 7.
    fn prepared(tag: u8) -> Vec<u8> {
        let flags: &[u8] = if tag == b'b' { b"" } else { b"\0" };
        [&[tag], flags, &[0; 24], &7_u32.to_be_bytes(), b"gid\0"].concat()
    }

    fn told(step: DecodeStep<'_>) -> String {
        match step {
            DecodeStep::Relation(oid) => format!("relation {}", oid.0),
            DecodeStep::Begin(xid) => format!("begin {xid}"),
            DecodeStep::Change(change) => format!("change of {}", change.relation.0),
            DecodeStep::Open(xid, change) => format!("open {xid} change of {}", change.relation.0),
            DecodeStep::Message(place, content) => format!("message {place:?} of {} bytes", content.len()),
            DecodeStep::Abort(xid) => format!("abort {xid}"),
            DecodeStep::Commit(xid, lsn) => format!("commit {xid} {}", lsn.0),
        }
    }

    /// The steps, or the first error's message.
    fn steps(messages: &[Vec<u8>]) -> Result<String> {
        let mut assembler = Assembler::default();
        let mut steps = Vec::new();
        for message in messages {
            let mut step = assembler.step(message)?;
            while let Some(taken) = step {
                steps.push(told(taken));
                step = assembler.queued()?;
            }
        }
        Ok(steps.join(", "))
    }

    #[test]
    fn messages_in_order_become_steps() {
        let xid = &7_u32.to_be_bytes();
        let (stop, table) = (|| b"E".to_vec(), || relation(b"", 1));
        let cases: [(&[Vec<u8>], &str); 6] = [
            (&[begin(16, 7), table(), insert(b"", 1, 1), commit(16)], "begin 7, relation 1, change of 1, commit 7 24"),
            (
                &[begin(16, 7), table(), relation(b"", 2), truncate(&[1, 2, 1]), insert(b"", 2, 1), commit(16)],
                "begin 7, relation 1, relation 2, change of 1, change of 2, change of 1, change of 2, commit 7 24",
            ),
            (
                &[
                    stream_start(7),
                    relation(xid, 1),
                    insert(xid, 1, 1),
                    stop(),
                    begin(8, 6),
                    insert(b"", 1, 1),
                    commit(8),
                    stream_start(7),
                    stop(),
                    stream_commit(7),
                ],
                "relation 1, open 7 change of 1, begin 6, change of 1, commit 6 16, commit 7 24",
            ),
            (&[stream_start(7), stop(), stream_abort(7, 8), stream_abort(7, 7)], "abort 7"),
            (
                &[
                    begin(16, 7),
                    message(b"", 1, "crieur"),
                    message(b"", 1, "other"),
                    commit(16),
                    message(b"", 0, "crieur"),
                ],
                "begin 7, message Committed of 1 bytes, commit 7 24, message Outside of 1 bytes",
            ),
            // The number in front is the subtransaction's, the block's is the one that commits.
            (&[stream_start(7), message(&8_u32.to_be_bytes(), 1, "crieur"), stop()], "message Open(Xid(7)) of 1 bytes"),
        ];
        for (messages, expected) in cases {
            assert_eq!(steps(messages).unwrap(), expected);
        }
    }

    #[test]
    fn messages_out_of_order_are_definite_errors() {
        let xid = &7_u32.to_be_bytes();
        let (stop, table) = (|| b"E".to_vec(), || relation(b"", 1));
        let cases: [(&[Vec<u8>], &str); 16] = [
            (&[begin(16, 7), begin(24, 8)], "Begin inside of transaction 7"),
            (&[commit(16)], "Commit outside of any transaction"),
            (&[begin(16, 7), commit(17)], "transaction 7 began for 0/10 and commits at 0/11"),
            (&[table(), insert(b"", 1, 1)], "a change outside of any transaction"),
            (&[table(), truncate(&[1])], "a change outside of any transaction"),
            (&[begin(16, 7), insert(b"", 1, 1)], "a change of table 1, never described"),
            (&[begin(16, 7), table(), truncate(&[1, 2])], "a change of table 2, never described"),
            (&[begin(16, 7), table(), insert(b"", 1, 2)], "another number of columns"),
            (&[message(b"", 1, "crieur")], "a transactional message outside of any transaction"),
            (&[stop()], "Stream Stop outside of any transaction"),
            (&[begin(16, 7), stop()], "Stream Stop inside of transaction 7"),
            (&[begin(16, 7), stream_start(8)], "Stream Start inside of transaction 7"),
            (&[begin(16, 7), stream_commit(7)], "Stream Commit inside of transaction 7"),
            (&[stream_start(7), stream_start(7)], "Stream Start inside of a stream block of transaction 7"),
            (&[stream_start(7), stream_abort(7, 7)], "Stream Abort inside of a stream block of transaction 7"),
            (&[stream_start(7), relation(xid, 1), insert(xid, 2, 1)], "a change of table 2, never described"),
        ];
        for (messages, expected) in cases {
            let error = steps(messages).expect_err(expected);
            assert!(error.message.contains(expected), "expected {expected:?}, got {:?}", error.message);
            assert_eq!(error.exit(), Exit::Data);
        }
    }

    #[test]
    fn every_message_of_a_two_phase_slot_stops_with_the_way_out() {
        for tag in [b'b', b'P', b'K', b'p'] {
            let error = steps(&[prepared(tag)]).expect_err("two-phase");
            assert_eq!(error.exit(), Exit::Unavailable, "{}", error.message);
            assert!(error.hint.is_some_and(|hint| hint.contains("crieur setup")));
        }
    }
}
