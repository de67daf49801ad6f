//! Pages of the outbox: rows of transactions that became visible since the last look, whatever their numbers.
//!
//! It finds each row once per connection, however late its transaction commits, and knows nothing of leases, positions
//! or removal. What it keeps is the snapshot of the last complete look.

use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::change::Oid;
use crate::decode::outbox::{OutboxRow, Shape};
use crate::error::{Error, Exit, Result};
use crate::postgres::sqlstate::session_error;

const POLL: &str = include_str!("../../../sql/outbox/poll.sql");
const SHAPES: &str = include_str!("../../../sql/outbox/shapes.sql");

/// What role or database may have set otherwise must not count; see `DEFAULTS` in session.rs. Nothing is worth compiling:
/// the outbox has no statistics, and a long one makes a short look seem dear.
pub(super) const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE; \
    SET LOCAL jit TO off; SET LOCAL row_security TO off; SET LOCAL search_path TO ''";

/// A row without its images and its note, in bytes.
const ROW_BYTES: usize = 64;

/// The bytes of a value as the server sends them in binary.
#[derive(Clone, Copy)]
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// One query in a transaction of its own, in one flight. A pooler that gives each transaction another session keeps this
/// one until the last of the three is answered; nothing else may be asked on the connection meanwhile.
pub(crate) async fn query(client: &Client, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
    let answers = futures_util::future::join3(
        client.batch_execute(BEGIN_READ),
        client.query_typed(sql, params),
        client.batch_execute("COMMIT"),
    );
    let (began, rows, ended) = answers.await;
    let rows = began.and(rows).map_err(|error| session_error(&error))?;
    ended.map_err(|error| session_error(&error))?;
    Ok(rows)
}

/// Where a look begins: the snapshot of the last complete one, or everything.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Base {
    xmax: String,
    in_progress: Vec<String>,
}

impl Base {
    fn everything() -> Self {
        Base { xmax: "0".into(), in_progress: Vec::new() }
    }

    /// Parses the text of a `pg_snapshot`: `xmin:xmax:xip,xip`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (_xmin, xmax, list) = (parts.next()?, parts.next()?, parts.next()?);
        let in_progress = list.split(',').filter(|xid| !xid.is_empty()).map(str::to_owned).collect();
        Some(Base { xmax: xmax.into(), in_progress })
    }
}

/// How far a look in several pages has come.
#[derive(Clone, Debug)]
struct Bookmark {
    xid: String,
    id: i64,
    /// The snapshot of the first page: nothing newer belongs to this look.
    snapshot: String,
}

/// Rows that came together.
#[derive(Debug, Default)]
pub(super) struct Page {
    rows: Vec<Row>,
    /// The server's clock when they were read: microseconds since 2000.
    pub(super) at: i64,
    /// Nothing more was visible: the last transaction is whole.
    pub(super) is_last: bool,
}

/// What names a row for its removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RowName {
    pub(super) xid: u64,
    pub(super) id: i64,
}

/// Rows of one transaction with no other between them: they came in order, and a transaction is seen whole or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) xid: u64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) rows: usize,
}

/// The runs of rows that are in order.
pub(super) fn runs(rows: &[RowName]) -> impl Iterator<Item = Run> {
    rows.chunk_by(|row, next| row.xid == next.xid).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some(Run { xid: first.xid, first: first.id, last: last.id, rows: run.len() })
    })
}

impl Page {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The row with this index.
    pub(super) fn row(&self, index: usize) -> Option<Result<OutboxRow<'_>>> {
        self.rows.get(index).map(|row| outbox_row(row).map_err(unexpected))
    }

    /// The rows' names, each with its size in bytes.
    pub(super) fn names(&self) -> Result<Vec<(RowName, u64)>> {
        let named = |row: &Row| {
            let read = outbox_row(row)?;
            let images = read.old.map_or(0, <[u8]>::len) + read.new.map_or(0, <[u8]>::len);
            Ok((name(row)?, (ROW_BYTES + images + read.note.map_or(0, str::len)) as u64))
        };
        self.rows.iter().map(|row| named(row).map_err(unexpected)).collect()
    }

    /// Numbers of the shapes that the rows name.
    pub(super) fn shapes(&self) -> impl Iterator<Item = i32> {
        self.rows.iter().filter_map(|row| row.try_get::<_, Option<i32>>(5).ok().flatten())
    }
}

type Read<T> = std::result::Result<T, Box<dyn std::error::Error + Sync + Send>>;

fn unexpected(cause: Box<dyn std::error::Error + Sync + Send>) -> Error {
    Error::definite(Exit::Protocol, "a row of the outbox cannot be read").because(cause)
}

fn name(row: &Row) -> Read<RowName> {
    let xid: &str = row.try_get(2)?;
    Ok(RowName { xid: xid.parse()?, id: row.try_get(3)? })
}

fn outbox_row(row: &Row) -> Read<OutboxRow<'_>> {
    let array = |column| row.try_get::<_, Option<Raw<'_>>>(column).map(|raw| raw.map(|Raw(bytes)| bytes));
    let op: &str = row.try_get(4)?;
    Ok(OutboxRow {
        xid: name(row)?.xid,
        op: op.bytes().next().unwrap_or(b' '),
        shape: row.try_get(5)?,
        old: array(6)?,
        new: array(7)?,
        note: row.try_get(8)?,
        at: time(row, 9)?,
    })
}

/// `timestamptz_send`: microseconds since 2000-01-01 UTC.
fn time(row: &Row, column: usize) -> Read<i64> {
    let Raw(bytes) = row.try_get(column)?;
    Ok(i64::from_be_bytes(bytes.try_into()?))
}

/// Rows in a page at most.
const ROWS_MAX: usize = 1_000;

/// Why a row is read as one that only names its table.
pub(super) const UNREADABLE: &str = "a value of it has no form in UTF-8";

/// How much of the outbox is asked for at once. One value without a form in UTF-8 fails the whole page, at every try: so the
/// pages become smaller until the row is alone, and what it changed is unknown then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    Rows(usize),
    /// One row, without what cannot be read in it.
    Unread,
}

impl Extent {
    fn smaller(self) -> Option<Self> {
        match self {
            Extent::Rows(1) => Some(Extent::Unread),
            Extent::Rows(rows) => Some(Extent::Rows((rows / 10).max(1))),
            Extent::Unread => None,
        }
    }

    fn larger(self) -> Self {
        match self {
            Extent::Rows(rows) => Extent::Rows((rows * 2).min(ROWS_MAX)),
            Extent::Unread => Extent::Rows(1),
        }
    }

    fn statement(self) -> String {
        let limited = |rows: usize| POLL.replace(&ROWS_MAX.to_string(), &rows.to_string());
        match self {
            Extent::Rows(rows) => limited(rows),
            Extent::Unread => limited(1).replacen(
                "p.op::text, p.shape, p.old, p.new, p.note,",
                &format!(
                    "CASE p.op WHEN 'M' THEN 'M' ELSE 'S' END, p.shape, NULL::text[], NULL::text[], \
                     CASE p.op WHEN 'M' THEN '{{\"kind\": \"invalidate_all\"}}' ELSE '{UNREADABLE}' END,"
                ),
                1,
            ),
        }
    }
}

/// Whether a text in the answer has no form in UTF-8, or is none of its own encoding.
fn is_of_encoding(error: &Error) -> bool {
    matches!(error.sqlstate.as_deref(), Some("22P05" | "22021"))
}

/// Looks for new rows.
#[derive(Debug)]
pub(super) struct Poll {
    base: Base,
    bookmark: Option<Bookmark>,
    extent: Extent,
}

impl Poll {
    /// Begins with everything that is there.
    pub(super) fn new() -> Self {
        Poll { base: Base::everything(), bookmark: None, extent: Extent::Rows(ROWS_MAX) }
    }

    /// Begins behind everything that is visible now.
    pub(super) async fn from_now(client: &Client) -> Result<Self> {
        let rows = query(client, "SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?;
        let text: &str = rows.first().map_or(Ok(""), |row| row.try_get(0)).map_err(|error| session_error(&error))?;
        Ok(Poll { base: Base::parse(text).ok_or_else(no_snapshot)?, ..Poll::new() })
    }

    /// The snapshot of the last complete look, as PostgreSQL writes it: everything visible in it was given.
    pub(super) fn snapshot(&self) -> String {
        let Base { xmax, in_progress } = &self.base;
        format!("{}:{xmax}:{}", in_progress.first().unwrap_or(xmax), in_progress.join(","))
    }

    /// The next page; empty when nothing new is visible.
    pub(super) async fn page(&mut self, client: &Client) -> Result<Page> {
        let Base { xmax, in_progress } = &self.base;
        let mark = self.bookmark.as_ref();
        let (xid, id) = (mark.map_or("0", |mark| &mark.xid), mark.map_or(0, |mark| mark.id));
        let first = mark.map(|mark| &mark.snapshot);
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (xmax, Type::TEXT),
            (in_progress, Type::TEXT_ARRAY),
            (&xid, Type::TEXT),
            (&id, Type::INT8),
            (&first, Type::TEXT),
        ];
        let mut rows = loop {
            match (query(client, &self.extent.statement(), &params).await, self.extent.smaller()) {
                (Err(error), Some(smaller)) if is_of_encoding(&error) => self.extent = smaller,
                (rows, _) => break rows?,
            }
        };
        self.extent = self.extent.larger();
        let head = rows.first().ok_or_else(no_snapshot)?;
        let snapshot: String = head.try_get(0).map_err(|error| session_error(&error))?;
        let at = time(head, 1).map_err(unexpected)?;
        let is_last: Option<bool> = head.try_get(10).map_err(|error| session_error(&error))?;
        let is_last = is_last.unwrap_or(true);
        if head.try_get::<_, Option<&str>>(2).map_err(|error| session_error(&error))?.is_none() {
            rows.clear();
        }
        let snapshot = self.bookmark.take().map_or(snapshot, |mark| mark.snapshot);
        match rows.last().filter(|_| !is_last) {
            Some(last) => {
                let RowName { xid, id } = name(last).map_err(unexpected)?;
                self.bookmark = Some(Bookmark { xid: xid.to_string(), id, snapshot });
            }
            None => self.base = Base::parse(&snapshot).ok_or_else(no_snapshot)?,
        }
        Ok(Page { rows, at, is_last })
    }
}

fn no_snapshot() -> Error {
    Error::definite(Exit::Protocol, "the server's answer about the outbox holds no snapshot")
}

/// Asks for shapes by their numbers; those that do not exist are not in the answer.
pub(super) async fn shapes(client: &Client, ids: &[i32]) -> Result<Vec<(i32, Shape)>> {
    let rows = query(client, SHAPES, &[(&ids, Type::INT4_ARRAY)]).await?;
    let shape = |row: &Row| -> std::result::Result<(i32, Shape), tokio_postgres::Error> {
        let (names, types): (Vec<String>, Vec<u32>) = (row.try_get(4)?, row.try_get(5)?);
        let columns = names.into_iter().zip(types.into_iter().map(Oid)).collect();
        let (schema, name) = (row.try_get(2)?, row.try_get(3)?);
        Ok((row.try_get(0)?, Shape { relation: Oid(row.try_get(1)?), schema, name, columns }))
    };
    rows.iter().map(shape).collect::<std::result::Result<_, _>>().map_err(|error| session_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_one_transaction_is_one_run() {
        let name = |(xid, id)| RowName { xid, id };
        let rows: Vec<RowName> = (33..1_033).map(|id| (7, id)).chain([(8, 1), (9, 2), (9, 900)]).map(name).collect();
        let expected = [(7, 33, 1_032, 1_000), (8, 1, 1, 1), (9, 2, 900, 2)];
        assert!(runs(&rows).map(|run| (run.xid, run.first, run.last, run.rows)).eq(expected));
        assert_eq!(runs(&[]).count(), 0);
    }

    #[test]
    fn a_page_that_cannot_be_read_becomes_smaller_until_its_row_is_alone() {
        let mut extents = vec![Extent::Rows(ROWS_MAX)];
        while let Some(smaller) = extents[extents.len() - 1].smaller() {
            extents.push(smaller);
        }
        assert_eq!(
            extents,
            [1_000, 100, 10, 1].map(Extent::Rows).into_iter().chain([Extent::Unread]).collect::<Vec<_>>()
        );
        assert_eq!((0..20).fold(Extent::Unread, |extent, _| extent.larger()), Extent::Rows(ROWS_MAX));
        assert_eq!(Extent::Rows(ROWS_MAX).statement(), POLL);
        let alone = Extent::Unread.statement();
        assert!(alone.contains("LIMIT 1\n") && !alone.contains("1000") && !alone.contains("p.old"), "{alone}");
    }

    #[test]
    fn a_snapshot_is_where_the_next_look_begins() {
        let base = Base::parse("10:20:10,14").expect("a snapshot");
        assert_eq!(base.xmax, "20");
        assert_eq!(base.in_progress, ["10", "14"]);
        for text in ["10:20:10,14", "7:7:"] {
            let poll = Poll { base: Base::parse(text).expect("a snapshot"), ..Poll::new() };
            assert_eq!(poll.snapshot(), text);
        }
        assert!(Base::parse("7:7:").is_some_and(|base| base.in_progress.is_empty()));
        assert!(Base::parse("").is_none() && Base::parse("1:2").is_none());
    }
}
