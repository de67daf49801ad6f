//! From a row of `crieur.outbox` to the messages that pgoutput would have sent: bytes in, bytes out. Pure.
//!
//! Everything behind it (assembler, rules, recordings) is the same in both modes. A row is never trusted to be well
//! formed, since the table's owner may write into it, and it is never dropped: one that cannot be understood becomes a
//! message of ours that nobody understands, and that sweeps every key of the rules (`notice.rs`).

use std::collections::HashMap;

use crate::change::Oid;
use crate::lsn::Lsn;
use crate::notice;

/// What a trigger captures of a table (`crieur.shape`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The table that the trigger is on.
    pub relation: Oid,
    /// Schema of the table that is watched: of a partition, its topmost table's.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Captured columns and their types.
    pub columns: Vec<(String, Oid)>,
}

/// Every shape that rows have named so far.
pub type Shapes = HashMap<i32, Shape>;

/// A row of the outbox: what one statement did to one table. Arrays are in PostgreSQL's binary form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OutboxRow<'a> {
    /// The transaction, all 64 bits.
    pub xid: u64,
    /// `I`, `U`, `D`: rows; `T`: emptied; `S`: its keys are to be swept; `M`: a notice.
    pub op: u8,
    /// What the images hold; a notice has none.
    pub shape: Option<i32>,
    /// Images before, `text[][]`.
    pub old: Option<&'a [u8]>,
    /// Images after, `text[][]`; with [`old`](OutboxRow::old), pair by pair.
    pub new: Option<&'a [u8]>,
    /// The notice, or why a table is swept.
    pub note: Option<&'a str>,
    /// When it was written: microseconds since 2000-01-01 UTC.
    pub at: i64,
}

/// What cannot be understood in a row: a clause for the log. Holds no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable(pub &'static str);

/// Messages, one behind the other in one buffer that is used again.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    taken: usize,
}

impl Messages {
    /// Takes the next message.
    pub fn pop(&mut self) -> Option<&[u8]> {
        let end = *self.ends.get(self.taken)?;
        let start = self.taken.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.taken += 1;
        Some(&self.bytes[start..end])
    }

    /// Whether every message was taken.
    pub fn is_empty(&self) -> bool {
        self.taken == self.ends.len()
    }

    /// Forgets messages that were taken.
    fn begin(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.ends.clear();
            self.taken = 0;
        }
    }

    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Drops what was pushed since there were `messages`.
    fn cut(&mut self, messages: usize) {
        self.ends.truncate(messages);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }
}

/// Writes messages; remembers what the connection was told of tables, and the transaction that is open.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The shape by which each table was described last.
    described: HashMap<Oid, i32>,
    /// The transaction that is open, the position of its first row and of its last one.
    open: Option<(u64, Lsn, Lsn)>,
    /// When its last row was written.
    at: i64,
}

impl Encoder {
    /// Writes what one row means; `position` is its own. Rows of a transaction come together.
    pub fn row(
        &mut self,
        row: &OutboxRow<'_>,
        position: Lsn,
        shapes: &Shapes,
        out: &mut Messages,
    ) -> Result<(), Unreadable> {
        out.begin();
        if self.open.is_none_or(|(xid, ..)| xid != row.xid) {
            self.end(out);
            self.open = Some((row.xid, position, position));
            out.push(|out| {
                out.push(b'B');
                out.extend(position.0.to_be_bytes());
                out.extend(row.at.to_be_bytes());
                out.extend((row.xid as u32).to_be_bytes());
            });
        }
        self.at = row.at;
        if let Some((_, _, last)) = &mut self.open {
            *last = position;
        }
        let before = out.ends.len();
        let written = self.change(row, shapes, out);
        if written.is_err() {
            out.cut(before);
            // Its description may be among what was cut.
            if let Some(shape) = row.shape.and_then(|id| shapes.get(&id)) {
                self.described.remove(&shape.relation);
            }
            message(b"not understood", out);
        }
        written
    }

    /// Ends the open transaction: no row of it is left.
    pub fn end(&mut self, out: &mut Messages) {
        out.begin();
        if let Some((_, first, last)) = self.open.take() {
            out.push(|out| {
                out.extend(b"C\0");
                out.extend(first.0.to_be_bytes());
                out.extend(last.0.to_be_bytes());
                out.extend(self.at.to_be_bytes());
            });
        }
    }

    fn change<'a>(&mut self, row: &OutboxRow<'a>, shapes: &Shapes, out: &mut Messages) -> Result<(), Unreadable> {
        if row.op == b'M' {
            message(row.note.ok_or(Unreadable("a notice says nothing"))?.as_bytes(), out);
            return Ok(());
        }
        let id = row.shape.ok_or(Unreadable("a row names no shape"))?;
        let shape = shapes.get(&id).ok_or(Unreadable("a row names a shape that does not exist"))?;
        self.describe(id, shape, out)?;
        let images = |array: Option<&'a [u8]>| Images::new(array.ok_or(Unreadable("an image is missing"))?, shape);
        match row.op {
            b'T' | b'S' => {
                out.push(|out| {
                    out.extend(b"T\0\0\0\x01\0");
                    out.extend(shape.relation.0.to_be_bytes());
                });
                Ok(())
            }
            b'I' => images(row.new)?.each(|new| changed(b'I', shape, &[(b'N', new)], out)),
            b'D' => images(row.old)?.each(|old| changed(b'D', shape, &[(b'K', old)], out)),
            b'U' => {
                let (mut old, mut new) = (images(row.old)?, images(row.new)?);
                if old.count != new.count {
                    return Err(Unreadable("an update has not as many old rows as new ones"));
                }
                for _ in 0..new.count {
                    changed(b'U', shape, &[(b'K', old.next()?), (b'N', new.next()?)], out);
                }
                old.end().and(new.end())
            }
            _ => Err(Unreadable("a row is of an unknown kind")),
        }
    }

    /// Describes a table unless the last description was by the same shape.
    ///
    /// Behind the captured columns stands one more, without a name, which no table can have: what was not captured.
    /// The replica identity does not carry it, so nobody can take an update for one that changed ignored columns only:
    /// the trigger has judged that, and wrote no row.
    fn describe(&mut self, id: i32, shape: &Shape, out: &mut Messages) -> Result<(), Unreadable> {
        if self.described.get(&shape.relation) == Some(&id) {
            return Ok(());
        }
        let count = u16::try_from(shape.columns.len() + 1).map_err(|_| Unreadable("a shape has too many columns"))?;
        let names = || [&shape.schema, &shape.name].into_iter().chain(shape.columns.iter().map(|(name, _)| name));
        if names().any(|name| name.contains('\0')) {
            return Err(Unreadable("a name holds a zero byte"));
        }
        out.push(|out| {
            out.push(b'R');
            out.extend(shape.relation.0.to_be_bytes());
            for name in [&shape.schema, &shape.name] {
                out.extend(name.as_bytes());
                out.push(0);
            }
            out.push(b'i');
            out.extend(count.to_be_bytes());
            let mut column = |flags: u8, name: &str, kind: Oid| {
                out.push(flags);
                out.extend(name.as_bytes());
                out.push(0);
                out.extend(kind.0.to_be_bytes());
                out.extend([0xFF; 4]);
            };
            shape.columns.iter().for_each(|(name, kind)| column(1, name, *kind));
            column(0, "", TEXT);
        });
        self.described.insert(shape.relation, id);
        Ok(())
    }
}

/// `text` (`pg_type.dat`).
const TEXT: Oid = Oid(25);

/// A logical message of ours.
fn message(content: &[u8], out: &mut Messages) {
    out.push(|out| {
        out.extend(b"M\x01");
        out.extend([0; 8]);
        out.extend(notice::PREFIX.as_bytes());
        out.push(0);
        out.extend((content.len() as u32).to_be_bytes());
        out.extend(content);
    });
}

/// An Insert, Update or Delete. Elements are copied as they are: an array's length and NULL (-1) against TupleData's
/// `t`, length and `n`.
fn changed(tag: u8, shape: &Shape, images: &[(u8, Image<'_>)], out: &mut Messages) {
    out.push(|out| {
        out.push(tag);
        out.extend(shape.relation.0.to_be_bytes());
        for (kind, image) in images {
            out.push(*kind);
            out.extend((shape.columns.len() as u16 + 1).to_be_bytes());
            image.tuple(out);
            out.push(b'n');
        }
    });
}

/// One row image: elements of an array that were walked once.
#[derive(Clone, Copy)]
struct Image<'a>(&'a [u8]);

impl Image<'_> {
    fn tuple(self, out: &mut Vec<u8>) {
        let mut rest = self.0;
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            rest = behind;
            match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => out.push(b'n'),
                Ok(count) => {
                    let (text, behind) = rest.split_at(count.min(rest.len()));
                    out.push(b't');
                    out.extend(length);
                    out.extend(text);
                    rest = behind;
                }
            }
        }
    }
}

/// The images of a two-dimensional array of texts: `array_send` (src/backend/utils/adt/arrayfuncs.c).
struct Images<'a> {
    rest: &'a [u8],
    columns: usize,
    count: usize,
}

impl<'a> Images<'a> {
    fn new(array: &'a [u8], shape: &Shape) -> Result<Self, Unreadable> {
        const SHORT: Unreadable = Unreadable("an array ends early");
        let mut rest = array;
        let mut number = || {
            let (number, behind) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            rest = behind;
            Ok(u32::from_be_bytes(*number))
        };
        let (dimensions, _has_nulls, _element) = (number()?, number()?, number()?);
        let columns = shape.columns.len();
        let count = match dimensions {
            2 => {
                let (rows, _, found, _) = (number()?, number()?, number()?, number()?);
                if found as usize != columns.max(1) {
                    return Err(Unreadable("an image has not the columns of its shape"));
                }
                rows as usize
            }
            _ => return Err(Unreadable("an array has not two dimensions")),
        };
        Ok(Images { rest, columns, count })
    }

    /// The next image; every extent is checked here. An array has no dimension of nothing: without columns there is one
    /// element, which means nothing.
    fn next(&mut self) -> Result<Image<'a>, Unreadable> {
        let start = self.rest;
        for _ in 0..self.columns.max(1) {
            let (length, behind) = self.rest.split_first_chunk::<4>().ok_or(Unreadable("an image ends early"))?;
            let count = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            self.rest = behind.get(count..).ok_or(Unreadable("a value reaches past its array"))?;
        }
        Ok(Image(if self.columns == 0 { &[] } else { &start[..start.len() - self.rest.len()] }))
    }

    fn each(mut self, mut write: impl FnMut(Image<'a>)) -> Result<(), Unreadable> {
        for _ in 0..self.count {
            write(self.next()?);
        }
        self.end()
    }

    fn end(&self) -> Result<(), Unreadable> {
        if self.rest.is_empty() { Ok(()) } else { Err(Unreadable("bytes follow the end of an array")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Assembler;
    use proptest::prelude::*;

    /// A `text[][]` as the server sends it; `None` is NULL.
    fn array(rows: &[&[Option<&str>]]) -> Vec<u8> {
        let columns = rows.first().map_or(0, |row| row.len());
        let head = [2, 1, 25, rows.len() as u32, 1, columns as u32, 1].map(u32::to_be_bytes).concat();
        let element = |value: &Option<&str>| match value {
            Some(text) => [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat(),
            None => (-1_i32).to_be_bytes().to_vec(),
        };
        rows.iter().flat_map(|row| row.iter()).fold(head, |array, value| [array, element(value)].concat())
    }

    fn shapes() -> Shapes {
        let shape = |relation: u32, columns: &[&str]| Shape {
            relation: Oid(relation),
            schema: "public".into(),
            name: "t".into(),
            columns: columns.iter().map(|name| ((*name).to_owned(), Oid(25))).collect(),
        };
        [(1, shape(7, &["id", "city"])), (2, shape(7, &["id"])), (3, shape(8, &[]))].into()
    }

    const ROW: OutboxRow<'_> =
        OutboxRow { xid: 1 << 32 | 5, op: b'I', shape: Some(1), old: None, new: None, note: None, at: 0 };

    /// The tags of the messages, all of which the assembler understands.
    fn tags(rows: &[OutboxRow<'_>]) -> String {
        let (mut encoder, mut messages, mut assembler) = <(Encoder, Messages, Assembler)>::default();
        for (index, row) in rows.iter().enumerate() {
            // What is not understood is a message as well.
            let _ = encoder.row(row, Lsn(index as u64 + 1), &shapes(), &mut messages);
        }
        encoder.end(&mut messages);
        let mut tags = String::new();
        while let Some(message) = messages.pop() {
            tags.push(char::from(message[0]));
            let understood = assembler.step(message).map(drop);
            assert!(understood.is_ok(), "{tags}: {understood:?}");
            while assembler.queued().is_ok_and(|step| step.is_some()) {}
        }
        assert!(assembler.is_between(), "{tags}: a transaction stays open");
        tags
    }

    #[test]
    fn each_kind_of_row_becomes_the_messages_of_the_stream() {
        let one = array(&[&[Some("1"), None]]);
        let two = array(&[&[Some("1"), Some("é")], &[Some("2"), Some("")]]);
        let nothing = array(&[&[None], &[None]]);
        let cases: &[(&[OutboxRow<'_>], &str)] = &[
            (&[OutboxRow { new: Some(&one), ..ROW }], "BRIC"),
            (&[OutboxRow { op: b'D', old: Some(&two), ..ROW }], "BRDDC"),
            (&[OutboxRow { op: b'U', old: Some(&two), new: Some(&two), ..ROW }], "BRUUC"),
            (&[OutboxRow { op: b'T', ..ROW }, OutboxRow { op: b'S', ..ROW }], "BRTTC"),
            (&[OutboxRow { op: b'M', shape: None, note: Some("{}"), ..ROW }], "BMC"),
            // Another transaction, another shape of the same table, a shape without columns.
            (&[OutboxRow { op: b'T', ..ROW }, OutboxRow { op: b'T', xid: 6, ..ROW }], "BRTCBTC"),
            (&[OutboxRow { op: b'T', ..ROW }, OutboxRow { op: b'T', shape: Some(2), ..ROW }], "BRTRTC"),
            (&[OutboxRow { shape: Some(3), new: Some(&nothing), ..ROW }], "BRIIC"),
        ];
        for (rows, expected) in cases {
            assert_eq!(&tags(rows), expected);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_a_message_that_sweeps_everything() {
        let (one, two) = (array(&[&[Some("1"), None]]), array(&[&[Some("1"), None], &[Some("2"), None]]));
        let long = [&one[..], b"x"].concat();
        let mut many = one.clone();
        many[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        let flat = array(&[&[Some("1")]]);
        let bad: &[OutboxRow<'_>] = &[
            OutboxRow { op: b'?', ..ROW },
            ROW,
            OutboxRow { shape: None, new: Some(&one), ..ROW },
            OutboxRow { shape: Some(9), new: Some(&one), ..ROW },
            OutboxRow { new: Some(b""), ..ROW },
            OutboxRow { new: Some(&one[..one.len() - 1]), ..ROW },
            OutboxRow { new: Some(&long), ..ROW },
            OutboxRow { new: Some(&many), ..ROW },
            OutboxRow { new: Some(&flat), ..ROW },
            OutboxRow { new: Some(&[0; 12]), ..ROW },
            OutboxRow { op: b'U', old: Some(&two), new: Some(&one), ..ROW },
            OutboxRow { op: b'M', shape: None, ..ROW },
        ];
        for row in bad {
            assert_eq!(tags(std::slice::from_ref(row)), "BMC", "op {}", row.op);
        }
        let good = OutboxRow { new: Some(&one), ..ROW };
        // What was cut off with the bad row is said again.
        assert_eq!(tags(&[good, bad[5], good]), "BRIMRIC");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_transaction_ends(
            old in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..60, op in 0usize..8, shape in 0i32..5,
        ) {
            let mut new = array(&[&[Some("1"), None], &[Some("long enough"), Some("2")]]);
            new.truncate(cut);
            let op = b"IUDTSM?I"[op];
            let row = OutboxRow { op, shape: Some(shape), old: Some(&old), new: Some(&new), note: Some("x"), ..ROW };
            tags(&[row, row]);
        }
    }
}
