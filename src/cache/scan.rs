//! SCAN: one page of keys, and all pages in turn for a command that only looks.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Pipeline, Value};

use super::inspect::{Lifetimes, Walk};
use super::reply;
use super::speak::{Speaks, count};
use crate::error::Result;

/// Buckets that one SCAN of a look visits: well below a millisecond of the server's one thread.
const SCAN_COUNT: u32 = 500;

/// The next cursor, and keys.
pub(super) type KeyPage = (Vec<u8>, Vec<Vec<u8>>);

/// Asks for a page. An error is that of the connection.
pub(super) async fn ask(link: &mut impl Speaks, cursor: &[u8], matching: &[u8], buckets: u32) -> Result<Value> {
    let mut command = Cmd::new();
    // The pattern last: over REST only the last argument may be other bytes than text.
    command.arg("SCAN").arg(cursor).arg("COUNT").arg(buckets).arg("MATCH").arg(matching);
    link.ask(command).await
}

/// Reads the answer.
pub(super) fn read(answer: Value) -> Result<KeyPage> {
    match answer {
        Value::Array(parts) => scanned(parts).ok_or_else(|| reply::unexpected("SCAN")),
        Value::ServerError(error) => Err(reply::refused("SCAN", &error)),
        _ => Err(reply::unexpected("SCAN")), // Value is foreign and non-exhaustive.
    }
}

/// Gives every key to `each`, until that breaks; whether these were all. The server rests between two pages for as long as
/// it worked.
pub(super) async fn all(
    link: &mut impl Speaks,
    matching: &[u8],
    each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<bool> {
    let mut cursor = b"0".to_vec();
    loop {
        let asked = Instant::now();
        let answer = ask(link, &cursor, matching, SCAN_COUNT).await?;
        let took = asked.elapsed();
        let keys;
        (cursor, keys) = read(answer)?;
        if keys.iter().any(|key| each(key).is_break()) {
            return Ok(false);
        }
        if cursor == b"0" {
            return Ok(true);
        }
        tokio::time::sleep(took.max(Duration::from_millis(1))).await;
    }
}

/// The next page of a walk.
pub(super) async fn some(link: &mut impl Speaks, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (cursor, keys) = read(ask(link, &walk.cursor, matching, SCAN_COUNT).await?)?;
    walk.cursor = cursor;
    Ok(keys)
}

/// Tells `look` how long the keys that it wants still live. A key that moves to another node of a cluster meanwhile is seen
/// there, or expires as it would have.
pub(super) async fn lifetimes(link: &mut impl Speaks, look: &mut dyn Lifetimes) -> Result<()> {
    let mut cursor = b"0".to_vec();
    loop {
        let asked = Instant::now();
        let keys;
        (cursor, keys) = read(ask(link, &cursor, b"*", SCAN_COUNT).await?)?;
        let keys: Vec<Vec<u8>> = keys.into_iter().filter(|key| look.wants(key)).collect();
        let mut pipeline = Pipeline::with_capacity(keys.len());
        keys.iter().for_each(|key| _ = pipeline.add_command(::redis::cmd("PTTL").arg(key).to_owned()));
        let bytes = keys.iter().map(Vec::len).sum();
        let replies = if keys.is_empty() { Vec::new() } else { link.exchange(&pipeline, bytes).await? };
        for (key, reply) in keys.iter().zip(replies) {
            match reply {
                Value::Int(-1) => look.lives(key, None),
                // Below zero is one that expired meanwhile.
                Value::Int(millis) => {
                    u64::try_from(millis).into_iter().for_each(|millis| look.lives(key, Some(millis)))
                }
                Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK") => {}
                Value::ServerError(error) => return Err(reply::refused("PTTL", &error)),
                _ => return Err(reply::unexpected("PTTL")), // Value is foreign and non-exhaustive.
            }
        }
        if cursor == b"0" {
            return Ok(());
        }
        tokio::time::sleep(asked.elapsed().max(Duration::from_millis(1))).await;
    }
}

/// Keys in the database.
pub(super) async fn size(link: &mut impl Speaks) -> Result<u64> {
    count("DBSIZE", &link.ask(::redis::cmd("DBSIZE")).await?)
}

/// The next cursor and the keys; `None` when the reply has another shape.
fn scanned(parts: Vec<Value>) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let [cursor, keys] = <[Value; 2]>::try_from(parts).ok()?;
    let (Value::BulkString(cursor), Value::Array(keys)) = (cursor, keys) else { return None };
    if cursor.is_empty() || !cursor.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bytes = |key| if let Value::BulkString(key) = key { Some(key) } else { None };
    Some((cursor, keys.into_iter().map(bytes).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_another_shape_is_no_page_of_a_scan() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let page = vec![text("17"), Value::Array(vec![text("a")])];
        assert_eq!(scanned(page), Some((b"17".to_vec(), vec![b"a".to_vec()])));
        let wrong = [
            vec![],
            vec![text("0")],
            vec![Value::Int(0), Value::Array(vec![])],
            vec![text(""), Value::Array(vec![])],
            vec![text("0"), Value::Nil],
            vec![text("0"), Value::Array(vec![Value::Nil])],
            vec![text("0"), Value::Array(vec![]), Value::Nil],
        ];
        for parts in wrong {
            assert_eq!(scanned(parts.clone()), None, "{parts:?}");
        }
    }
}
