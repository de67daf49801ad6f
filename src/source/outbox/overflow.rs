//! The outbox was full: tables of which only is known that they changed, and when they may be swept.
//!
//! While a collapse row is open, writers of its table write nothing. It is closed first, and swept when every transaction
//! has ended that may have relied on it: a writer has its number before it looks. A crash anywhere leaves rows that are
//! closing, and closing again returns them.

use tokio_postgres::Client;

use crate::error::{Error, Exit, Result};
use crate::postgres::sqlstate::session_error;
use crate::source::outbox::lease::{BEGIN_SURELY, BEGIN_WRITE, transact};
use crate::source::outbox::page::query;

/// Instead of a shape: every key that transactions may name (`crieur.announce_keys`).
pub(super) const NAMED: i32 = 0;

/// Rows that are closing.
#[derive(Debug)]
pub(super) struct Closing {
    /// Their numbers.
    pub(super) ids: Vec<i64>,
    /// The tables, by the shapes that the rows name.
    pub(super) shapes: Vec<i32>,
    /// A transaction of ours that began behind the closing: all with lower numbers must end.
    pub(super) xid: u64,
}

fn unexpected() -> Error {
    Error::definite(Exit::Protocol, "the server's answer about collapsed tables cannot be read")
}

/// Closes every row there is; `None` when there is none.
pub(super) async fn close(client: &Client) -> Result<Option<Closing>> {
    let any = query(client, "SELECT EXISTS (SELECT FROM crieur.collapse)", &[]).await?;
    let any: bool = any.first().ok_or_else(unexpected)?.try_get(0).map_err(|error| session_error(&error))?;
    if !any {
        return Ok(None);
    }
    let sql = "SELECT coalesce(array_agg(c.id)::text, '{}'), coalesce(array_agg(DISTINCT c.shape)::text, '{}') \
               FROM crieur.close_collapsed() AS c";
    let closed = transact(client, BEGIN_WRITE, sql).await?.ok_or_else(unexpected)?;
    let (ids, shapes) = (numbers(closed.get(0))?, numbers(closed.get(1))?);
    // Behind the commit: a number that is given out before this one may be of a writer that saw an open row.
    let xid = transact(client, BEGIN_WRITE, "SELECT pg_catalog.pg_current_xact_id()::text").await?;
    let xid = xid.and_then(|row| row.get(0)?.parse().ok()).ok_or_else(unexpected)?;
    Ok(Some(Closing { ids, shapes, xid }))
}

/// The numbers of an array's text.
fn numbers<T: std::str::FromStr>(array: Option<&str>) -> Result<Vec<T>> {
    let list = array.and_then(|text| text.strip_prefix('{')?.strip_suffix('}')).ok_or_else(unexpected)?;
    let numbers = list.split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().map_err(|_| unexpected())).collect()
}

/// Whether everything has ended that was in progress when the rows were closed.
pub(super) async fn is_over(client: &Client, closing: &Closing) -> Result<bool> {
    let sql = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text";
    let rows = query(client, sql, &[]).await?;
    let oldest: &str = rows.first().ok_or_else(unexpected)?.try_get(0).map_err(|error| session_error(&error))?;
    Ok(oldest.parse::<u64>().map_err(|_| unexpected())? >= closing.xid)
}

/// The tables are swept: the rows go.
pub(super) async fn forget(client: &Client, ids: &[i64]) -> Result<()> {
    let ids = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    transact(client, BEGIN_WRITE, &format!("DELETE FROM crieur.collapse WHERE id IN ({ids})")).await.map(drop)
}

/// Gives the disk back, where the outbox is empty and its file is large.
pub(super) async fn shrink(client: &Client) -> Result<()> {
    transact(client, BEGIN_SURELY, "SELECT crieur.shrink()").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_numbers_is_read() {
        assert_eq!(numbers::<i64>(Some("{1,-2}")).expect("an array"), [1, -2]);
        assert!(numbers::<i32>(Some("{}")).expect("an array").is_empty());
        assert!(numbers::<i32>(Some("{a}")).is_err() && numbers::<i32>(None).is_err());
    }
}
