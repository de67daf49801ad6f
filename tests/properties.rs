//! Properties of the decoder over generated messages: an encoder of our own says what a message looks like.
//!
//! The encoder follows PostgreSQL's "Logical Replication Message Formats" and shares nothing with the decoder.

use proptest::prelude::*;

use crieur::change::{Oid, Old, ReplicaIdentity, Row, Tuple, Value};
use crieur::decode::{Assembler, Block, Frame, Message, decode};

/// A column of a row image: kind byte and text.
type Cell = (u8, Vec<u8>);

/// A message's parts behind its tag, and what the decoder must say of it.
#[derive(Clone, Debug)]
enum Sent {
    Begin(u64, i64, u32),
    Commit(u64, u64, i64),
    Origin(u64, String),
    Logical(bool, u64, String, Vec<u8>),
    Relation(u32, String, String, u8, Vec<(bool, String, u32)>),
    Type(u32, String, String),
    Insert(u32, Vec<Cell>),
    Update(u32, Option<(bool, Vec<Cell>)>, Vec<Cell>),
    Delete(u32, bool, Vec<Cell>),
    Truncate(u8, Vec<u32>),
    StreamStart(u32, bool),
    StreamStop,
    StreamCommit(u32, u64, u64, i64),
    StreamAbort(u32, u32, Option<(u64, i64)>),
    Prepared(u8, u64, u64, i64, i64, u32, String),
}

/// Appends big-endian numbers and strings.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn int8(self, value: u8) -> Self {
        self.raw(&[value])
    }
    fn int16(self, value: usize) -> Self {
        self.raw(&(value as u16).to_be_bytes())
    }
    fn int32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn int64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }
    fn string(self, text: &str) -> Self {
        self.raw(text.as_bytes()).int8(0)
    }
    fn xid(self, block: Block) -> Self {
        match block {
            Block::Outside => self,
            Block::Stream => self.int32(XID),
        }
    }
    fn tuple(self, cells: &[Cell]) -> Self {
        cells.iter().fold(self.int16(cells.len()), |out, (kind, text)| match kind {
            b't' => out.int8(b't').int32(text.len() as u32).raw(text),
            kind => out.int8(*kind),
        })
    }
}

const XID: u32 = 0xFEDC_BA98;

fn encode(sent: &Sent, block: Block) -> Vec<u8> {
    let tagged = |tag: u8| Bytes(vec![tag]);
    let bytes = match sent {
        Sent::Begin(lsn, time, xid) => tagged(b'B').int64(*lsn).int64(*time as u64).int32(*xid),
        Sent::Commit(lsn, end, time) => tagged(b'C').int8(0).int64(*lsn).int64(*end).int64(*time as u64),
        Sent::Origin(lsn, name) => tagged(b'O').int64(*lsn).string(name),
        Sent::Logical(transactional, lsn, prefix, content) => {
            let head = tagged(b'M').xid(block).int8(u8::from(*transactional)).int64(*lsn).string(prefix);
            head.int32(content.len() as u32).raw(content)
        }
        Sent::Relation(oid, schema, name, identity, columns) => {
            let head = tagged(b'R').xid(block).int32(*oid).string(schema).string(name).int8(*identity);
            columns.iter().fold(head.int16(columns.len()), |out, (key, name, kind)| {
                out.int8(u8::from(*key)).string(name).int32(*kind).int32(u32::MAX)
            })
        }
        Sent::Type(oid, schema, name) => tagged(b'Y').xid(block).int32(*oid).string(schema).string(name),
        Sent::Insert(oid, new) => tagged(b'I').xid(block).int32(*oid).int8(b'N').tuple(new),
        Sent::Update(oid, old, new) => {
            let head = tagged(b'U').xid(block).int32(*oid);
            let head = match old {
                Some((full, old)) => head.int8(if *full { b'O' } else { b'K' }).tuple(old),
                None => head,
            };
            head.int8(b'N').tuple(new)
        }
        Sent::Delete(oid, full, old) => {
            tagged(b'D').xid(block).int32(*oid).int8(if *full { b'O' } else { b'K' }).tuple(old)
        }
        Sent::Truncate(options, oids) => {
            let head = tagged(b'T').xid(block).int32(oids.len() as u32).int8(*options);
            oids.iter().fold(head, |out, oid| out.int32(*oid))
        }
        Sent::StreamStart(xid, first) => tagged(b'S').int32(*xid).int8(u8::from(*first)),
        Sent::StreamStop => tagged(b'E'),
        Sent::StreamCommit(xid, lsn, end, time) => {
            tagged(b'c').int32(*xid).int8(0).int64(*lsn).int64(*end).int64(*time as u64)
        }
        Sent::StreamAbort(xid, subxid, at) => {
            let head = tagged(b'A').int32(*xid).int32(*subxid);
            at.iter().fold(head, |out, (lsn, time)| out.int64(*lsn).int64(*time as u64))
        }
        Sent::Prepared(tag, lsn, end, prepared, time, xid, gid) => {
            let head = if *tag == b'b' { tagged(*tag) } else { tagged(*tag).int8(0) };
            let head = head.int64(*lsn).int64(*end);
            let head = if *tag == b'r' { head.int64(*prepared as u64) } else { head };
            head.int64(*time as u64).int32(*xid).string(gid)
        }
    };
    bytes.0
}

fn cells(tuple: Tuple<'_>) -> Vec<Cell> {
    let cell = |value| match value {
        Value::Null => (b'n', Vec::new()),
        Value::Unknown => (b'u', Vec::new()),
        Value::Text(text) => (b't', text.to_vec()),
    };
    tuple.values().map(cell).collect()
}

fn old_cells(old: Old<'_>) -> Option<(bool, Vec<Cell>)> {
    match old {
        Old::Absent => None,
        Old::Key(tuple) => Some((false, cells(tuple))),
        Old::Full(tuple) => Some((true, cells(tuple))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the encoder only sends UTF-8 here")
}

/// The same message as the decoder understood it.
fn received(message: &Message<'_>) -> Sent {
    let prepared = |tag, p: &crieur::decode::pgoutput::Prepared<'_>, prepare_time| {
        Sent::Prepared(tag, p.lsn.0, p.end_lsn.0, prepare_time, p.time, p.xid.0, text(p.gid))
    };
    match message {
        Message::Begin { final_lsn, commit_time, xid } => Sent::Begin(final_lsn.0, *commit_time, xid.0),
        Message::Commit { commit_lsn, end_lsn, commit_time } => Sent::Commit(commit_lsn.0, end_lsn.0, *commit_time),
        Message::Origin { lsn, name } => Sent::Origin(lsn.0, text(name)),
        Message::Logical { transactional, lsn, prefix, content, .. } => {
            Sent::Logical(*transactional, lsn.0, text(prefix), content.to_vec())
        }
        Message::Relation { oid, schema, name, identity, columns, .. } => {
            let identity = match identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            };
            let columns = columns.clone().map(|c| (c.in_identity, c.name, c.type_oid.0)).collect();
            Sent::Relation(oid.0, schema.clone().into_owned(), name.clone().into_owned(), identity, columns)
        }
        Message::Type { oid, schema, name, .. } => {
            Sent::Type(oid.0, schema.clone().into_owned(), name.clone().into_owned())
        }
        Message::Change { change, .. } => match change.row {
            Row::Insert { new } => Sent::Insert(change.relation.0, cells(new)),
            Row::Update { old, new } => Sent::Update(change.relation.0, old_cells(old), cells(new)),
            Row::Delete { old } => {
                let (full, old) = old_cells(old).expect("a deleted row has an image");
                Sent::Delete(change.relation.0, full, old)
            }
            Row::Truncate => unreachable!("a truncate is its own message"),
        },
        Message::Truncate { cascade, restart_identity, relations, .. } => {
            let options = u8::from(*cascade) | u8::from(*restart_identity) << 1;
            Sent::Truncate(options, relations.clone().map(|Oid(oid)| oid).collect())
        }
        Message::StreamStart { xid, first } => Sent::StreamStart(xid.0, *first),
        Message::StreamStop => Sent::StreamStop,
        Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
            Sent::StreamCommit(xid.0, commit_lsn.0, end_lsn.0, *commit_time)
        }
        Message::StreamAbort { xid, subxid, at } => {
            Sent::StreamAbort(xid.0, subxid.0, at.map(|(lsn, time)| (lsn.0, time)))
        }
        Message::BeginPrepare(p) => prepared(b'b', p, 0),
        Message::Prepare(p) => prepared(b'P', p, 0),
        Message::CommitPrepared(p) => prepared(b'K', p, 0),
        Message::RollbackPrepared { prepared: p, prepare_time } => prepared(b'r', p, *prepare_time),
        Message::StreamPrepare(p) => prepared(b'p', p, 0),
    }
}

fn a_name() -> impl Strategy<Value = String> {
    "[^\u{0}]{1,6}"
}

fn a_row() -> impl Strategy<Value = Vec<Cell>> {
    let cell = (prop::sample::select(vec![b't', b'n', b'u']), prop::collection::vec(any::<u8>(), 0..20));
    let cell = cell.prop_map(|(kind, text)| if kind == b't' { (kind, text) } else { (kind, Vec::new()) });
    prop::collection::vec(cell, 0..6)
}

fn a_message() -> impl Strategy<Value = Sent> {
    let column = (any::<bool>(), a_name(), any::<u32>());
    let columns = prop::collection::vec(column, 0..5);
    let identity = prop::sample::select(vec![b'd', b'n', b'f', b'i']);
    let step = prop::sample::select(vec![b'b', b'P', b'K', b'r', b'p']);
    let old = prop::option::of((any::<bool>(), a_row()));
    let content = prop::collection::vec(any::<u8>(), 0..20);
    let prepared = (step, any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<u32>(), a_name());
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(a, b, c)| Sent::Begin(a, b, c)),
        any::<(u64, u64, i64)>().prop_map(|(a, b, c)| Sent::Commit(a, b, c)),
        (any::<u64>(), a_name()).prop_map(|(a, b)| Sent::Origin(a, b)),
        (any::<bool>(), any::<u64>(), a_name(), content).prop_map(|(a, b, c, d)| Sent::Logical(a, b, c, d)),
        (any::<u32>(), a_name(), a_name(), identity, columns).prop_map(|(a, b, c, d, e)| Sent::Relation(a, b, c, d, e)),
        (any::<u32>(), a_name(), a_name()).prop_map(|(a, b, c)| Sent::Type(a, b, c)),
        (any::<u32>(), a_row()).prop_map(|(a, b)| Sent::Insert(a, b)),
        (any::<u32>(), old, a_row()).prop_map(|(a, b, c)| Sent::Update(a, b, c)),
        (any::<u32>(), any::<bool>(), a_row()).prop_map(|(a, b, c)| Sent::Delete(a, b, c)),
        (0..4u8, prop::collection::vec(any::<u32>(), 0..5)).prop_map(|(a, b)| Sent::Truncate(a, b)),
        any::<(u32, bool)>().prop_map(|(a, b)| Sent::StreamStart(a, b)),
        Just(Sent::StreamStop),
        any::<(u32, u64, u64, i64)>().prop_map(|(a, b, c, d)| Sent::StreamCommit(a, b, c, d)),
        any::<(u32, u32, Option<(u64, i64)>)>().prop_map(|(a, b, c)| Sent::StreamAbort(a, b, c)),
        prepared.prop_map(|(tag, a, b, prepared, c, d, e)| {
            Sent::Prepared(tag, a, b, if tag == b'r' { prepared } else { 0 }, c, d, e)
        }),
    ]
}

fn a_block() -> impl Strategy<Value = Block> {
    prop::sample::select(vec![Block::Outside, Block::Stream])
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(sent in a_message(), block in a_block()) {
        let bytes = encode(&sent, block);
        let message = decode(&bytes, block).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(format!("{:?}", received(&message)), format!("{sent:?}"));
    }

    #[test]
    fn every_prefix_and_every_longer_message_is_an_error(sent in a_message(), block in a_block(), more in any::<u8>()) {
        let bytes = encode(&sent, block);
        // Protocol 4 lengthens Stream Abort, so that the shorter form is a message of protocols 2 and 3.
        let short_abort = |length: usize| matches!(sent, Sent::StreamAbort(..)) && length == 9;
        for length in (0..bytes.len()).filter(|&length| !short_abort(length)) {
            prop_assert!(decode(&bytes[..length], block).is_err(), "prefix of {length} bytes");
        }
        prop_assert!(decode(&[&bytes[..], &[more]].concat(), block).is_err());
    }

    #[test]
    fn changed_bytes_never_panic(
        sent in a_message(), block in a_block(), changes in prop::collection::vec(any::<(usize, u8)>(), 1..4)
    ) {
        let mut bytes = encode(&sent, block);
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if let Ok(message) = decode(&bytes, block) {
            let _ = format!("{message:?}");
        }
        let _ = Assembler::default().step(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), block in a_block()) {
        let _ = (Frame::parse(&bytes), decode(&bytes, block));
    }
}
