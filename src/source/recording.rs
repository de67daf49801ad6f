//! A recorded replication stream: the file format, its writer and reader, and a source and control that replay it.
//!
//! ```text
//!  crieur recording 1 {"server_version":"18.1", ...}\n
//!  kind (1 byte) | length (4 bytes, big endian) | CRC-32 of kind, length and body (4 bytes) | body
//!  ...
//! ```
//!
//! Kinds: `f` a CopyData payload as it came, `p` a partition root, `l` a lookup with its answer (both JSON). A file is
//! wholly checked when it is opened; whatever is wrong with it names the byte. It holds row values: treat it as data.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::{Event, Oid};
use crate::control::{Catalogue, Gate, Lookups, Named};
use crate::decode::{Assembler, Frame};
use crate::error::{Error, Exit, Result};
use crate::gate::Snapshot;
use crate::lsn::Lsn;
use crate::question::{Answer, AnswerRow, Question};
use crate::rules::Lookup;
use crate::source::Source;
use crate::start::Start;

const MAGIC: &[u8] = b"crieur recording 1 ";
/// A header is a few hundred bytes; a longer first line is another kind of file.
const HEADER_BYTES_MAX: usize = 64 << 10;
const ENTRY_HEAD_BYTES: usize = 9;

/// Where a recording came from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `server_version` of the server.
    pub server_version: String,
    /// `proto_version` that was asked for.
    pub protocol_version: u32,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_identifier: String,
}

/// A table and the topmost table that it is a partition of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionRoot {
    /// The table (`pg_class.oid`).
    pub oid: u32,
    /// Schema and name of the root; `None` when the catalog no longer knew it.
    pub root: Option<(String, String)>,
    /// The tables that it inherits from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherits: Vec<(String, String)>,
}

/// The parameters of a lookup, as PostgreSQL text; `None` is NULL.
pub type LookupArgs = Vec<Option<Vec<u8>>>;

/// A lookup and what the server answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupAnswer {
    /// The SQL as the rules have it.
    pub sql: String,
    /// `$1`, `$2`, …
    pub args: LookupArgs,
    /// The rows, or the server's message.
    pub rows: std::result::Result<Vec<AnswerRow>, String>,
}

/// One entry of a recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordedEntry {
    /// A CopyData payload.
    Frame(Vec<u8>),
    /// A partition's root.
    PartitionRoot(PartitionRoot),
    /// An answered lookup.
    Lookup(LookupAnswer),
}

/// Writes a recording, entry by entry.
#[derive(Debug)]
pub struct RecordingWriter<W: Write> {
    out: W,
}

impl<W: Write> RecordingWriter<W> {
    /// Writes the header.
    pub fn new(mut out: W, header: &Header) -> Result<Self> {
        let header = serde_json::to_vec(header).map_err(cannot_write)?;
        out.write_all(&[MAGIC, &header, b"\n"].concat()).map_err(cannot_write)?;
        Ok(RecordingWriter { out })
    }

    /// Appends a CopyData payload.
    pub fn frame(&mut self, payload: &[u8]) -> Result<()> {
        self.entry(b'f', payload)
    }

    /// Appends a partition's root.
    pub fn partition_root(&mut self, root: &PartitionRoot) -> Result<()> {
        self.entry(b'p', &serde_json::to_vec(root).map_err(cannot_write)?)
    }

    /// Appends an answered lookup.
    pub fn lookup(&mut self, lookup: &LookupAnswer) -> Result<()> {
        self.entry(b'l', &serde_json::to_vec(lookup).map_err(cannot_write)?)
    }

    /// Flushes, and hands the output back.
    pub fn finish(mut self) -> Result<W> {
        self.out.flush().map_err(cannot_write)?;
        Ok(self.out)
    }

    fn entry(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len()).map_err(cannot_write)?.to_be_bytes();
        let mut head = [kind; ENTRY_HEAD_BYTES];
        head[1..5].copy_from_slice(&length);
        head[5..].copy_from_slice(&checksum(&[&[kind], &length, body]).to_be_bytes());
        self.out.write_all(&head).and_then(|()| self.out.write_all(body)).map_err(cannot_write)
    }
}

fn cannot_write(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::definite(Exit::CantCreate, "the recording cannot be written").because(cause)
}

/// A recording, checked and in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recording {
    /// Where it came from.
    pub header: Header,
    /// What came, in order.
    pub entries: Vec<RecordedEntry>,
}

impl Recording {
    /// Reads and checks a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of_file(path, Self::read)
    }

    /// The same, but a file may end inside of an entry, as when the disk was full: then what stands before that entry, and
    /// the byte at which it begins.
    pub fn open_cut(path: &Path) -> Result<(Self, Option<usize>)> {
        Self::of_file(path, Self::read_cut)
    }

    fn of_file<T>(path: &Path, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let bytes = std::fs::read(path).map_err(|cause| {
            Error::definite(Exit::NoInput, format!("recording \"{}\" cannot be read", path.display())).because(cause)
        })?;
        read(&bytes).map_err(|error| error.while_doing(&format!("read \"{}\"", path.display())))
    }

    /// Checks a file's bytes.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        match Self::read_cut(bytes)? {
            (recording, None) => Ok(recording),
            (_, Some(at)) => Err(damaged(at, "the file ends inside of an entry")),
        }
    }

    fn read_cut(bytes: &[u8]) -> Result<(Self, Option<usize>)> {
        let Some(start) = bytes.strip_prefix(MAGIC) else {
            return Err(damaged(0, "this is no recording of format version 1"));
        };
        let line = start.iter().take(HEADER_BYTES_MAX).position(|&byte| byte == b'\n');
        let Some(line) = line else { return Err(damaged(MAGIC.len(), "the header has no end")) };
        let header = serde_json::from_slice(&start[..line])
            .map_err(|cause| damaged(MAGIC.len(), "the header is not understood").because(cause))?;
        let mut at = MAGIC.len() + line + 1;
        let mut entries = Vec::new();
        while at < bytes.len() {
            let Some((entry, length)) = entry(&bytes[at..], at)? else {
                return Ok((Recording { header, entries }, Some(at)));
            };
            entries.push(entry);
            at += length;
        }
        Ok((Recording { header, entries }, None))
    }
}

/// The entry at the start of `bytes` (`at` bytes into the file) and how long it is; `None` when the file ends inside of it.
fn entry(bytes: &[u8], at: usize) -> Result<Option<(RecordedEntry, usize)>> {
    let Some((head, rest)) = bytes.split_first_chunk::<ENTRY_HEAD_BYTES>() else { return Ok(None) };
    let [kind, a, b, c, d, sum @ ..] = *head;
    let length = [a, b, c, d];
    let Some(body) = rest.get(..u32::from_be_bytes(length) as usize) else { return Ok(None) };
    if checksum(&[&[kind], &length, body]) != u32::from_be_bytes(sum) {
        return Err(damaged(at, "an entry's checksum does not fit"));
    }
    let not_understood = |cause| damaged(at, "an entry is not understood").because(cause);
    let entry = match kind {
        b'f' => RecordedEntry::Frame(body.to_vec()),
        b'p' => RecordedEntry::PartitionRoot(serde_json::from_slice(body).map_err(not_understood)?),
        b'l' => RecordedEntry::Lookup(serde_json::from_slice(body).map_err(not_understood)?),
        _ => return Err(damaged(at, "unknown kind of entry")),
    };
    Ok(Some((entry, ENTRY_HEAD_BYTES + body.len())))
}

fn damaged(at: usize, what: &str) -> Error {
    Error::definite(Exit::Data, format!("recording, byte {at}: {what}"))
        .hint("The file is damaged, or it is no recording: make it anew with `crieur record`.")
}

/// CRC-32 (IEEE 802.3) of the parts as if they were one.
fn checksum(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut value, mut bit) = (index as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let step = |sum: u32, &byte: &u8| sum >> 8 ^ TABLE[usize::from(sum as u8 ^ byte)];
    !parts.iter().copied().flatten().fold(!0, step)
}

/// A confirmable position of a recording; confirming it has no effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordedAck(Lsn);

impl RecordedAck {
    /// The position, for output.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// Replays the frames of a recording.
#[derive(Debug)]
pub struct RecordedSource {
    frames: Vec<Vec<u8>>,
    taken: usize,
    assembler: Assembler,
    lateness: Duration,
    received: Lsn,
}

impl RecordedSource {
    /// From the start of the recording.
    pub fn new(recording: &Recording) -> Self {
        let frame = |entry: &RecordedEntry| match entry {
            RecordedEntry::Frame(payload) => Some(payload.clone()),
            RecordedEntry::PartitionRoot(_) | RecordedEntry::Lookup(_) => None,
        };
        RecordedSource {
            frames: recording.entries.iter().filter_map(frame).collect(),
            taken: 0,
            assembler: Assembler::default(),
            lateness: Duration::ZERO,
            received: Lsn(0),
        }
    }

    /// When the transaction committed that was read last, in microseconds of the server's clock.
    pub fn committed_at(&self) -> Option<i64> {
        self.assembler.commit_time()
    }

    /// Whether every frame was taken.
    pub fn finished(&self) -> bool {
        self.taken == self.frames.len() && !self.assembler.has_queued()
    }
}

impl Source for RecordedSource {
    type Ack = RecordedAck;

    /// At the end of the recording it answers an error of [`Exit::Ok`], which no other source makes.
    async fn ready(&mut self) -> Result<()> {
        if self.finished() { Err(Error::definite(Exit::Ok, "the recording is over")) } else { Ok(()) }
    }

    fn take(&mut self) -> Result<Option<Event<'_, RecordedAck>>> {
        if let Some(step) = self.assembler.queued()? {
            return Ok(Some(self.assembler.event(step, RecordedAck)));
        }
        while let Some(frame) = self.frames.get(self.taken) {
            self.taken += 1;
            let meaning = match Frame::parse(frame)? {
                Frame::XLogData { end, payload, sent_at, .. } => {
                    self.received = self.received.max(end);
                    let step = self.assembler.step(payload)?;
                    let since = self.assembler.commit_time().map(|time| sent_at.saturating_sub(time));
                    self.lateness = Duration::from_micros(since.unwrap_or(0).try_into().unwrap_or(0));
                    step
                }
                Frame::Keepalive { end, .. } => {
                    self.received = self.received.max(end);
                    None
                }
            };
            if let Some(step) = meaning {
                return Ok(Some(self.assembler.event(step, RecordedAck)));
            }
        }
        Ok(None)
    }

    fn acknowledge(&mut self, _upto: RecordedAck) {}

    fn status_due(&self) -> Option<tokio::time::Instant> {
        None
    }

    async fn status(&mut self) -> Result<()> {
        Ok(())
    }

    fn lateness(&self) -> Duration {
        self.lateness
    }

    fn start(&self) -> Option<&Start> {
        None
    }

    fn lsn(&self, ack: RecordedAck) -> Lsn {
        ack.0
    }

    fn is_current(&self, _ack: Self::Ack) -> bool {
        true
    }

    fn received(&self) -> Lsn {
        self.received
    }

    fn disconnect(&mut self) {}

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Answers from a recording: everything is visible, and only what was asked then can be asked now.
///
/// Answers to the same question come in the order in which they were given, and the last one stays: data changed in
/// between, and who asks once for each commit as the recorder did hears what it heard.
#[derive(Debug)]
pub struct RecordedControl {
    tables: HashMap<Oid, Option<Vec<(String, String)>>>,
    answers: RefCell<HashMap<(String, LookupArgs), VecDeque<Answer>>>,
    lookups: Vec<Lookup>,
}

impl RecordedControl {
    /// `lookups` are the rules', in the order of `LookupId`; answers are found by their SQL.
    pub fn new(recording: &Recording, lookups: &[Lookup]) -> Self {
        let mut tables = HashMap::new();
        let mut answers: HashMap<_, VecDeque<Answer>> = HashMap::new();
        for entry in &recording.entries {
            match entry {
                RecordedEntry::Frame(_) => {}
                RecordedEntry::PartitionRoot(PartitionRoot { oid, root, inherits }) => {
                    let all = root.clone().map(|root| [&[root][..], inherits].concat());
                    tables.insert(Oid(*oid), all);
                }
                RecordedEntry::Lookup(LookupAnswer { sql, args, rows }) => {
                    let answer = rows.clone().map_or_else(Answer::Refused, Answer::Rows);
                    answers.entry((sql.clone(), args.clone())).or_default().push_back(answer);
                }
            }
        }
        RecordedControl { tables, answers: RefCell::new(answers), lookups: lookups.to_vec() }
    }

    fn answer(&self, question: &Question) -> Answer {
        let lookup = self.lookups.get(question.lookup.0 as usize);
        let mut answers = self.answers.borrow_mut();
        let given = lookup.and_then(|lookup| answers.get_mut(&(lookup.sql.clone(), question.args.clone())));
        let next = given.and_then(|given| if given.len() > 1 { given.pop_front() } else { given.front().cloned() });
        next.unwrap_or_else(|| Answer::Refused("not in the recording".to_owned()))
    }
}

impl Gate for RecordedControl {
    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::Everything)
    }
}

impl Lookups for RecordedControl {
    async fn ask(&self, questions: &[Question]) -> Result<Vec<Answer>> {
        Ok(questions.iter().map(|question| self.answer(question)).collect())
    }
}

impl Catalogue for RecordedControl {
    async fn tables_of(&self, oid: Oid) -> Result<Option<Named>> {
        Ok(self.tables.get(&oid).cloned().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Recording, Vec<u8>) {
        let header = Header { server_version: "18.1".into(), protocol_version: 2, ..Header::default() };
        let root = PartitionRoot { oid: 7, root: Some(("public".into(), "parent".into())), inherits: Vec::new() };
        let rows = Ok(vec![vec![Some(b"\xFF".to_vec()), None]]);
        let lookup = LookupAnswer { sql: "SELECT $1".into(), args: vec![None, Some(vec![0])], rows };
        let mut writer = RecordingWriter::new(Vec::new(), &header).unwrap();
        writer.frame(b"k").unwrap();
        writer.partition_root(&root).unwrap();
        writer.lookup(&lookup).unwrap();
        let entries = vec![
            RecordedEntry::Frame(b"k".to_vec()),
            RecordedEntry::PartitionRoot(root),
            RecordedEntry::Lookup(lookup),
        ];
        (Recording { header, entries }, writer.finish().unwrap())
    }

    #[test]
    fn reads_what_it_wrote() {
        let (recording, bytes) = sample();
        assert_eq!(Recording::read(&bytes).unwrap(), recording);
    }

    #[tokio::test]
    async fn answers_come_in_their_order_and_the_last_one_stays() {
        let answer = |text: &str| LookupAnswer { sql: "SELECT".into(), args: vec![], rows: Err(text.into()) };
        let entries = ["a", "b"].map(|text| RecordedEntry::Lookup(answer(text))).to_vec();
        let lookup = Lookup { name: "rule".into(), sql: "SELECT".into(), columns: vec![], args: 0 };
        let control = RecordedControl::new(&Recording { header: Header::default(), entries }, &[lookup]);
        let question = [Question { lookup: crate::question::LookupId(0), args: vec![] }];
        for text in ["a", "b", "b"] {
            assert_eq!(control.ask(&question).await.unwrap(), [Answer::Refused(text.into())]);
        }
    }

    #[test]
    fn every_damaged_byte_after_the_header_is_noticed_and_its_entry_named() {
        let (_, bytes) = sample();
        let first = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for at in first..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let message = Recording::read(&damaged).unwrap_err().message;
            let named: usize = message.split(&[' ', ':'][..]).find_map(|word| word.parse().ok()).unwrap();
            assert!((first..=at).contains(&named), "byte {at}: {message}");
        }
        for bytes in [&b""[..], b"PGDMP", MAGIC, b"crieur recording 2 {}\n", b"crieur recording 1 {}\n"] {
            assert_eq!(Recording::read(bytes).unwrap_err().exit(), Exit::Data);
        }
    }

    #[test]
    fn a_file_that_was_cut_holds_what_stands_before_the_cut() {
        let (recording, bytes) = sample();
        let first = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for end in first..=bytes.len() {
            let (read, cut) = Recording::read_cut(&bytes[..end]).unwrap();
            assert_eq!(read.entries, recording.entries[..read.entries.len()], "{end}");
            // Nothing that is whole is left out.
            let rest = cut.unwrap_or(end);
            assert!(cut.is_some() == (rest < end) && entry(&bytes[rest..end], rest).unwrap().is_none(), "{end}");
            assert_eq!(Recording::read(&bytes[..end]).is_ok(), cut.is_none(), "{end}");
        }
        assert!(Recording::read_cut(&bytes[..first - 1]).is_err(), "without its header it is nothing");
    }

    #[test]
    fn the_checksum_is_the_one_of_zip_and_ethernet() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xCBF4_3926);
    }
}
